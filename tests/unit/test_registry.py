"""The registry: a file in the folder, an entry point, or path.py:Class, and what is said when none fits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from tempering import consent, registry
from tempering.attacks import Attack
from tempering.errors import InvalidStudy, UnknownName
from tempering.plugins import Installed

METHOD = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import Annotated
from pydantic import Field
from tempering.attacks import Attack
from tempering.settings import Settings
from tempering.threat_model import Need


@dataclass
class Note:
    text: str


class Config(Settings):
    strength: Annotated[float, Field(gt=0)] = 1.0


class Gentle(Attack):
    """Attack that does little.

    More words.
    """

    Config = Config
    source = "nowhere"
    family = "other"
    needs = frozenset({Need.WEIGHTS, Need.BENIGN_PROMPTS})

    def run(self, target, view, meter, *, budget, seed):
        yield from ()

    def estimate(self, target, view, *, budget):
        raise NotImplementedError
'''


@pytest.fixture(autouse=True)
def _allowed() -> Iterator[None]:
    with consent.code_allowed(True):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that stands in for the attacks' folder, so that files can be added to it."""
    package = ModuleType("tempering.attacks")
    package.__path__ = [str(tmp_path)]
    package.Attack = Attack
    monkeypatch.setitem(sys.modules, "tempering.attacks", package)
    monkeypatch.setattr(registry, "_files", lambda kind: frozenset(path.stem for path in tmp_path.glob("[!_]*.py")))
    monkeypatch.setattr(registry, "_installed", lambda kind: Installed())
    registry._class_of.cache_clear()
    yield tmp_path
    registry._class_of.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("tempering.attacks.", "tempering_user_"))]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_file_in_the_folder_is_a_method(folder: Path) -> None:
    (folder / "gentle.py").write_text(METHOD)
    (folder / "_helper.py").write_text("raise RuntimeError")
    assert registry.names("attacks") == ["gentle"]
    assert registry.create("attacks", "gentle", {"strength": 2}).config.strength == 2
    assert registry.card("attacks", "gentle").as_row() == {
        "name": "gentle",
        "summary": "Attack that does little",
        "source": "nowhere",
        "needs": ["benign prompts", "weights"],
    }


def test_an_unknown_name_gets_the_nearest(folder: Path) -> None:
    (folder / "gentle.py").write_text(METHOD)
    with pytest.raises(UnknownName, match="no attack named 'gentel'; did you mean 'gentle'"):
        registry.get("attacks", "gentel")
    with pytest.raises(UnknownName, match="no attack named 'xyz'; known: gentle"):
        registry.get("attacks", "xyz")


def test_an_unknown_name_among_none(folder: Path) -> None:
    with pytest.raises(UnknownName, match="no attack named 'xyz'; none is installed"):
        registry.get("attacks", "xyz")


def test_a_wrong_setting_names_the_method_and_the_setting(folder: Path) -> None:
    (folder / "gentle.py").write_text(METHOD)
    with pytest.raises(InvalidStudy, match=r"attack 'gentle', setting 'strenght': .*known: strength"):
        registry.create("attacks", "gentle", {"strenght": 2})
    with pytest.raises(InvalidStudy, match=r"attack 'gentle', setting 'strength': .*greater than 0"):
        registry.create("attacks", "gentle", {"strength": 0})


def test_a_broken_file_is_told(folder: Path) -> None:
    (folder / "broken.py").write_text("import nothing_of_the_kind")
    with pytest.raises(InvalidStudy, match="the file of the attack 'broken' cannot be imported: No module named 'nothing_of_the_kind'"):
        registry.get("attacks", "broken")


@pytest.mark.parametrize(("text", "count"), [(METHOD + "\n\nclass Second(Gentle):\n    pass\n", 2), ("x = 1\n", 0)])
def test_a_file_holds_exactly_one_method(folder: Path, text: str, count: int) -> None:
    (folder / "many.py").write_text(text)
    with pytest.raises(InvalidStudy, match=f"'many' must define exactly one public class with a Config, and defines {count}"):
        registry.get("attacks", "many")


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(METHOD)
    method = registry.create("attacks", f"{path}:Gentle", {"strength": 3})
    assert method.config.strength == 3
    assert registry.get("attacks", f"{path}:Gentle") is type(method)


def test_what_a_file_of_the_users_own_says_of_a_setting_is_cut_to_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "wilhelmina")
    path = tmp_path / "mine.py"
    checked = """    @field_validator("strength")
    @classmethod
    def checked(cls, value):
        raise ValueError("not here:\\n" + os.environ["USER"] + " " + 900 * "x")
"""
    field = "    strength: Annotated[float, Field(gt=0)] = 1.0\n"
    refusing = METHOD.replace("import Field", "import Field, field_validator").replace(field, field + checked)
    refusing = refusing.replace("from dataclasses", "import os\nfrom dataclasses")
    path.write_text(refusing)
    with pytest.raises(InvalidStudy, match="setting 'strength': Value error, not here: ") as caught:
        registry.create("attacks", f"{path}:Gentle", {"strength": 3})
    assert "wilhelmina" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_two_users_files_of_one_name_are_two(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(METHOD.replace("nowhere", name))
    assert [registry.get("attacks", f"{tmp_path / name / 'mine.py'}:Gentle").source for name in ("first", "second")] == ["first", "second"]


def test_what_is_wrong_with_a_users_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    with pytest.raises(InvalidStudy, match=r"no file .*mine\.py for the attack"):
        registry.get("attacks", f"{path}:Gentle")
    path.write_text(METHOD)
    with pytest.raises(UnknownName, match=r"no attack class in .*mine\.py named 'Gentel'; did you mean 'Gentle'"):
        registry.get("attacks", f"{path}:Gentel")
    with pytest.raises(UnknownName, match=r"no attack class .* named 'Note'"):
        registry.get("attacks", f"{path}:Note")
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    with pytest.raises(InvalidStudy, match=r"broken\.py cannot be loaded for its attack: SyntaxError: invalid syntax"):
        registry.get("attacks", f"{broken}:Gentle")
    assert not [name for name in sys.modules if name.startswith("tempering_user_broken")]


def test_an_installed_package_adds_a_method(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_plugin_of_tempering.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        name: EntryPoint(name, f"a_plugin_of_tempering:{value}", "tempering.attacks")
        for name, value in (("soft", "Gentle"), ("lost", "Absent"))
    }
    monkeypatch.setattr(registry, "_files", lambda kind: frozenset())
    monkeypatch.setattr(registry, "_installed", lambda kind: Installed(points))
    assert registry.names("attacks") == ["lost", "soft"]
    assert registry.create("attacks", "soft").config.strength == 1
    with pytest.raises(InvalidStudy, match="the installed attack 'lost' of an unnamed package cannot be loaded: AttributeError"):
        registry.get("attacks", "lost")


@pytest.mark.parametrize("kind", sorted(registry.KINDS))
def test_listing_names_imports_none_of_them(kind: str) -> None:
    before = set(sys.modules)
    registry.names(kind)
    assert not {name for name in set(sys.modules) - before if name.startswith(f"tempering.{kind}.")}
