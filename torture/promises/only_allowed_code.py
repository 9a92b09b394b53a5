"""Files of Python that somebody names: run where the user says so on this very command, and nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from torture.promise import Mutation, Promise, Tally
from torture.promises._distributions import MARK, SOUND
from torture.promises._toys import nothing_allowed, temper, toy_fields, toy_folder


@dataclass(frozen=True)
class _Case:
    """A command that names a file.

    Attributes:
        words: the command.
        out: what it may not have made where it was refused.
        allowed: whether it is run once more with the flag, to see that the file is the one that would have been run.
    """

    words: tuple[object, ...]
    out: Path | None = None
    allowed: bool = False


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Every command that takes a name, with a file in every place where one can stand."""
    toys = toy_folder(folder / "toys")
    files = {kind: _file(folder, kind, text) for kind, text in SOUND.items()}
    with nothing_allowed():
        for number, case in enumerate(_cases(toys, folder / "out", {kind: f"{path}:Method" for kind, path in files.items()})):
            _refused(number, case, folder, tally)
            if case.allowed or (long and case.words[0] in ("validate", "plan", "run")):
                _allowed(number, case, folder, tally)
        _resumed(toys, folder, f"{files['attacks']}:Method", tally)
        _model_code(toys, folder, tally)


def _file(folder: Path, kind: str, text: str) -> Path:
    path = folder / f"of_a_stranger_{kind}.py"
    path.write_text(MARK + text, encoding="utf-8")
    return path


def _cases(toys: Path, out: Path, named: dict[str, str]) -> Iterator[_Case]:
    model = [toys / "guarded", "--data", toys / "data.jsonl", "--device", "cpu"]
    attack, defense, evaluator = named["attacks"], named["defenses"], named["evaluators"]
    yield _Case(("audit", *model, "--attacks", attack, "--out", out), out)
    yield _Case(("audit", *model, "--attacks", f"full_finetune,{attack}", "--out", out, "--json"), out)
    yield _Case(("compare", *model, "--defenses", defense, "--attacks", "full_finetune", "--out", out), out)
    yield _Case(("compare", *model, "--defenses", "refusal_sft", "--attacks", attack, "--out", out), out)
    yield _Case(("harden", *model, "--defense", defense, "--out", out), out)
    chain = {"name": "chain", "config": {"steps": ["full_finetune", attack]}}
    inner = {"name": "tar", "config": {"adversaries": [{"name": attack}], "refusals": ["no, i can not say that."]}}
    probes = {"prompts": 4, "max_new_tokens": 3, "evaluators": ["harm", "utility", evaluator]}
    changes: tuple[dict[str, Any], ...] = (
        {"attacks": [attack]},
        {"attacks": [{"name": attack, "label": "harmless"}]},
        {"attacks": [["full_finetune", attack]]},
        {"attacks": [chain]},
        {"defenses": [defense], "trainability": None},
        {"defenses": [{"name": "chain", "config": {"steps": ["refusal_sft", defense]}}], "trainability": None},
        {"defenses": [inner], "trainability": None},
        {"probes": probes},
    )
    for number, change in enumerate(changes):
        study = toys / f"study-{number}.yaml"
        study.write_text(yaml.safe_dump(toy_fields(toys, **change)), encoding="utf-8")
        yield _Case(("validate", study), allowed=number in (0, 4, 7))
        yield _Case(("plan", study))
        yield _Case(("run", study, "--out", out), out)


def _refused(number: int, case: _Case, folder: Path, tally: Tally) -> None:
    result = temper(*case.words)
    words = " ".join(Path(str(word)).name for word in case.words)
    ran = _ran(folder)
    tally.count(not ran, f"case {number}, temper {words}: {ran} was run without --allow-code")
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    said = result.exit_code == 2 and len(lines) == 1 and "--allow-code" in lines[0]
    tally.count(said, f"case {number}, temper {words}: ended with {result.exit_code}, saying {result.stderr[-200:]!r}")
    if case.out is not None:
        tally.count(not case.out.exists(), f"case {number}, temper {words}: left {case.out.name} behind")
        shutil.rmtree(case.out, ignore_errors=True)


def _allowed(number: int, case: _Case, folder: Path, tally: Tally) -> None:
    from tempering import registry

    registry._class_of.cache_clear()
    result = temper(*case.words, "--allow-code")
    tally.count(bool(_ran(folder)), f"case {number}: --allow-code did not run the file: {result.stderr[-200:]!r}")
    if case.out is not None:
        shutil.rmtree(case.out, ignore_errors=True)


def _ran(folder: Path) -> list[str]:
    """The files that were run since the last look."""
    found = sorted(folder.glob("*.imported"))
    for path in found:
        path.unlink()
    return [path.stem for path in found]


def _resumed(toys: Path, folder: Path, attack: str, tally: Tally) -> None:
    """A run directory that was made with the flag: resuming asks anew, reading does not run the file."""
    study = toys / "resumed.yaml"
    study.write_text(yaml.safe_dump(toy_fields(toys, attacks=[attack, "full_finetune"], seeds=[0, 1])), encoding="utf-8")
    run = folder / "run"
    made = temper("run", study, "--out", run, "--workers", "0", "--allow-code")
    tally.count(made.exit_code == 0 and bool(_ran(folder)), f"a run with --allow-code: {made.stderr[-200:]!r}")
    unit = next(path for path in sorted((run / "units").iterdir()))
    shutil.rmtree(unit)
    _refused(-1, _Case(("resume", run)), folder, tally)
    tally.count(not unit.exists(), "temper resume without --allow-code went on")
    for words in (("report", run), ("card", run), ("export", run, "--out", folder / "export")):
        result = temper(*words)
        ran = _ran(folder)
        said = f"temper {words[0]}: ended with {result.exit_code}, ran {ran}: {result.stderr[-200:]!r}"
        tally.count(result.exit_code == 0 and not ran, said)
    resumed = temper("resume", run, "--workers", "0", "--allow-code")
    tally.count(resumed.exit_code == 0 and unit.exists(), f"temper resume --allow-code: {resumed.stderr[-200:]!r}")


def _model_code(toys: Path, folder: Path, tally: Tally) -> None:
    """A study that trusts the code of a model on its own account."""
    stranger = folder / "stranger"
    shutil.copytree(toys / "guarded", stranger)
    (stranger / "modeling_stranger.py").write_text(MARK + "class Model: pass\n", encoding="utf-8")
    config = json.loads((stranger / "config.json").read_text(encoding="utf-8"))
    classes = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "modeling_stranger.Model")
    config |= {"model_type": "stranger", "auto_map": classes}
    (stranger / "config.json").write_text(json.dumps(config), encoding="utf-8")
    study = folder / "trusting.yaml"
    models = [{"reference": str(stranger), "trust_remote_code": True, "device": "cpu"}]
    study.write_text(yaml.safe_dump(toy_fields(toys, models=models)), encoding="utf-8")
    for words in (("validate", study), ("plan", study), ("run", study, "--out", folder / "out")):
        _refused(-2, _Case(words), folder, tally)
        tally.count(not (stranger / "modeling_stranger.imported").exists(), f"temper {words[0]}: the code of the model was run")


PROMISE = Promise(
    name="only-allowed-code",
    group="Nothing let in",
    sentence="A file of Python that a study, a flag or a run directory names is run where --allow-code says so on that very command, "
    "and nowhere else.",
    attempt=attempt,
    mutations=(
        Mutation(
            "registry.py",
            """        consent.require(f"the {KINDS[kind]} {name!r}")\n""",
            "        pass\n",
            "naming a file is enough to run it",
        ),
        Mutation("consent.py", "    if not _given:", "    if _given < 0:", "nobody is ever asked"),
        Mutation("consent.py", "        _given -= allowed", "        pass", "what was allowed once stays allowed"),
        Mutation(
            "registry.py",
            """        consent.require(f"the {KINDS[kind]} {name!r}, whose settings name {file!r},")\n""",
            "        pass\n",
            "settings may name a file unasked",
        ),
        Mutation(
            "running.py",
            "            if model.trust_remote_code:",
            "            if False:",
            "a study file decides by itself that a model's code is run",
        ),
    ),
)
