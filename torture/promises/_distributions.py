"""Distributions with entry points, written as pip would install them, sound ones and broken ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tempering.registry import KINDS

__all__ = ["BROKEN", "KINDS", "SOUND", "imported", "install", "left_open", "on_path"]

MARK = "from pathlib import Path; Path(__file__).with_suffix('.imported').touch()\n"
"""First line of every module: whoever imports it leaves a trace."""

SOUND = {
    "attacks": '''
from tempering.attacks import Attack, Checkpoint
from tempering.settings import Settings
from tempering.threat_model import Need
from tempering.training import Spend

class Method(Attack):
    """Leave the model as it is."""
    class Config(Settings):
        pass
    source = "a plug-in"
    needs = frozenset({Need.WEIGHTS})
    family = "fine-tuning"
    def run(self, target, view, meter, *, budget, seed):
        yield Checkpoint(target.model, meter.spend())
    def estimate(self, target, view, *, budget):
        return Spend()
''',
    "defenses": '''
from tempering.defenses._contract import Defense, Material
from tempering.settings import Settings

class Method(Defense):
    """Train nothing."""
    class Config(Settings):
        pass
    source = "a plug-in"
    claim = "none"
    needs = frozenset({Material.HAZARD_PROMPTS})
    withholds = "refusal"
    def stages(self, target, view, *, seed):
        return []
''',
    "evaluators": '''
from tempering.evaluators import Evaluator
from tempering.settings import Settings

class Method(Evaluator):
    """Measure one."""
    class Config(Settings):
        pass
    source = "a plug-in"
    measures = ("one",)
    def evaluate(self, subject):
        return {"one": 1.0}
''',
    "judges": '''
from tempering.judges import Judge, Opinion, Verdict
from tempering.settings import Settings

class Method(Judge):
    """Hold everything for useful."""
    class Config(Settings):
        pass
    source = "a plug-in"
    licence = "none"
    def identity(self):
        return {}
    def opinions(self, asked):
        for number, _ in enumerate(asked):
            yield number, Opinion.of(Verdict.USEFUL)
''',
}
"""A module with a sound method of each kind."""

BROKEN: dict[str, str] = {
    "import error": "import no_such_module_anywhere\n",
    "syntax error": "def f(:\n",
    "exits with 0": "import sys; sys.exit(0)\n",
    "exits with a word": "raise SystemExit('good bye')\n",
    "divides by zero": "1 / 0\n",
    "recurses": "def f():\n    f()\nf()\n",
    "says nothing": "raise ValueError\n",
    "many lines": "raise ValueError('one\\ntwo\\n\\nthree')\n",
    "asserts": "assert False, 'never'\n",
    "no class": "x = 1\n",
    "a function": "def Method(config): pass\n",
    "a number": "Method = 3\n",
    "no contract": "class Method:\n    class Config: pass\n",
    "prints, and is no class": "print('{\"hello\": 1}')\nMethod = None\n",
    "another kind": "from tempering.settings import Settings\nclass Method(Settings):\n    Config = Settings\n",
}
"""Modules that cannot be used, whatever the kind."""


def left_open(kind: str) -> dict[str, str]:
    """Modules whose class derives from the contract of a kind and does not keep it."""
    sound = SOUND[kind]
    last = {
        "attacks": "    def estimate",
        "defenses": "    def stages",
        "evaluators": "    def evaluate",
        "judges": "    def opinions",
    }[kind]
    return {
        "abstract": sound[: sound.index(last)],
        "no source": sound.replace('    source = "a plug-in"\n', ""),
        "no settings": sound.replace("    class Config(Settings):\n        pass\n", ""),
        "settings of another kind": sound.replace("class Config(Settings)", "class Config(dict)"),
    }


def install(site: Path, distribution: str, points: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> None:
    """Lay a distribution into a folder that is, or will be, on the path.

    Args:
        site: the folder.
        distribution: its name.
        points: by kind, what each entry point's name leads to.
        modules: by name, the source of each module.
    """
    for name, text in modules.items():
        (site / f"{name}.py").write_text(MARK + text, encoding="utf-8")
    folder = site / f"{distribution.replace('-', '_')}-1.0.dist-info"  # as pip writes it; of two with one beginning Python would see one
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    groups = [f"[tempering.{kind}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items()) for kind, named in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")


def imported(site: Path) -> list[str]:
    """The modules of a folder that somebody has imported."""
    return sorted(path.stem for path in site.glob("*.imported"))


@contextmanager
def on_path(site: Path) -> Iterator[None]:
    """Have what is installed in a folder found in this process, and nothing left of it afterwards."""
    sys.path.insert(0, str(site))
    _look_again()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        for name in [name for name, module in sys.modules.items() if str(site) in str(getattr(module, "__file__", ""))]:
            del sys.modules[name]
        _look_again()


def _look_again() -> None:
    from tempering import registry

    importlib.invalidate_caches()
    registry._installed.cache_clear()
    registry._class_of.cache_clear()
