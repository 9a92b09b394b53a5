"""Methods that other packages bring: found by name, imported when asked for, and every fault of one is a line."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempering import plugins
from tempering.attacks import Attack
from tempering.errors import InvalidStudy, UnknownName
from tempering.settings import Settings

SOUND = """
from tempering.attacks import Attack
from tempering.settings import Settings
from tempering.training import Spend

class Method(Attack):
    \"\"\"Do nothing.\"\"\"

    class Config(Settings):
        pass

    source, needs, family = "none", frozenset(), "input"

    def run(self, target, view, meter, *, budget, seed):
        yield from ()

    def estimate(self, target, view, *, budget):
        return Spend()
"""
OWN = frozenset({"merge"})


def point(name: str, value: str, holder: str | None = "somebody") -> EntryPoint:
    made = EntryPoint(name, value, "tempering.attacks")
    vars(made).update(dist=None if holder is None else SimpleNamespace(name=holder))
    return made


def found(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> plugins.Installed:
    monkeypatch.setattr(plugins, "entry_points", lambda group: list(points) if group == "tempering.attacks" else [])
    return plugins.installed("attacks", "attack", OWN)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a module where it can be imported, and gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(text: str) -> str:
        name = f"a_method_of_{tmp_path.name.replace('-', '_')}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def test_finding_imports_nothing(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    name = module("raise RuntimeError('imported')")
    seen = found(monkeypatch, point("mine", f"{name}:Method"))
    assert (list(seen.points), seen.problems) == (["mine"], {})
    assert name not in sys.modules


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a\x1b[2J", "a,b", "a:b", "ä", "a" * 61, "a+b"])
def test_a_name_that_no_command_line_can_hold_is_a_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen = found(monkeypatch, point(name, "nowhere:Method"), point("mine", "nowhere:Method"))
    assert list(seen.points) == ["mine"]
    assert seen.problems[name].startswith(f"the attack {name!r} of somebody has no usable name")
    assert "\x1b" not in seen.problems[name]


def test_nobody_takes_the_name_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = found(monkeypatch, point("merge", "nowhere:Method"), point("mine", "nowhere:Method"))
    assert list(seen.points) == ["mine"]
    assert "of somebody has the name of one of Tempering's own, and is left out" in seen.problems["merge"]


def test_of_two_that_bring_one_name_neither_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = found(monkeypatch, point("mine", "one:Method", "one"), point("mine", "two:Method", "two"), point("other", "two:Other", None))
    assert list(seen.points) == ["other"]
    assert seen.problems["mine"] == "the attack 'mine' is brought by one and two, and neither is taken; uninstall one of them"


def test_a_sound_one_is_imported_when_asked_for(module: Any) -> None:
    method = plugins.loaded("attacks", "attack", point("mine", f"{module(SOUND)}:Method"))
    assert issubclass(method, Attack)
    assert method(method.Config()).source == "none"


FAULTS = {
    "raises": ("raise ValueError('no GPU')", r"cannot be loaded: ValueError: no GPU; mend it, or take it away"),
    "exits": ("raise SystemExit(3)", r"cannot be loaded: SystemExit: 3"),
    "says nothing": ("raise KeyError", r"cannot be loaded: KeyError: nothing more was said"),
    "no such class": ("", r"cannot be loaded: AttributeError"),
    "not a class": ("Method = 7", r"does not derive from tempering.attacks.Attack"),
    "another class": ("class Method: pass", r"does not derive from tempering.attacks.Attack"),
    "no settings": (SOUND.replace("class Config(Settings)", "class Other(Settings)"), r"has no Config with its settings"),
    "settings of another kind": (SOUND.replace("Config(Settings)", "Config"), r"has no Config with its settings"),
    "an open method": (SOUND.replace("def estimate", "def guess"), r"does not say its 'estimate'"),
    "no source": (SOUND.replace('source, needs, family = "none", ', "needs, family = "), r"does not say its 'source'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_is_one_line_that_names_it(module: Any, fault: str) -> None:
    text, expected = FAULTS[fault]
    with pytest.raises(InvalidStudy, match=rf"^the installed attack 'mine' of somebody {expected}") as caught:
        plugins.loaded("attacks", "attack", point("mine", f"{module(text)}:Method"))
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InvalidStudy, match="of an unnamed package cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'"):
        plugins.loaded("attacks", "attack", point("mine", "nowhere_at_all:Method", None))


def test_what_others_code_prints_is_not_among_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert plugins.ended_in_one_line(lambda: print("hello") or 7, "it cannot be made") == 7
    assert capsys.readouterr() == ("", "hello\n")


def test_what_is_spared_is_raised_as_it_is() -> None:
    def fail() -> None:
        raise UnknownName("attack", "x", ())

    with pytest.raises(UnknownName):
        plugins.ended_in_one_line(fail, "it cannot be made", spare=(UnknownName,))
    with pytest.raises(InvalidStudy, match=r"^it cannot be made: UnknownName"):
        plugins.ended_in_one_line(fail, "it cannot be made")


def test_an_interrupt_is_no_fault_of_theirs() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugins.ended_in_one_line(interrupted, "it cannot be made")


def test_every_kind_has_its_contract() -> None:
    class Nothing:
        Config = Settings

    for kind, noun in (("attacks", "attack"), ("defenses", "defense"), ("evaluators", "evaluator")):
        assert plugins.breach(Nothing, kind, noun) == f"does not derive from tempering.{kind}.{noun.capitalize()}"
