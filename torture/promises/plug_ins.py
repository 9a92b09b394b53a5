"""Plug-ins: found without being imported, loaded when asked for, and one that is broken stops nobody else."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import yaml

from torture.promise import Mutation, Promise, Tally
from torture.promises._distributions import BROKEN, KINDS, SOUND, imported, install, left_open, on_path
from torture.promises._toys import toy_fields, toy_folder

TAKEN = {"attacks": "full_finetune", "defenses": "tar", "evaluators": "harm", "judges": "text"}
"""A name of Tempering's own of each kind."""

RUNNING = {
    "raises": "        raise ValueError('in the middle')\n",
    "exits": "        raise SystemExit(3)\n",
    "exits later": "        yield Checkpoint(target.model, meter.spend())\n        raise SystemExit\n",
    "yields nonsense": "        yield 7\n",
    "is no generator": "        return None\n",
}
"""What an attack that loads well may do when it is run."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Every fault in every kind, alone and all at once; by the command line too."""
    for kind in KINDS:
        for number, (fault, text) in enumerate({**BROKEN, **left_open(kind)}.items()):
            site = _site(folder / f"{kind}-{number}")
            install(site, "broken", {kind: {"bad": f"broken_{number}:Method"}}, {f"broken_{number}": text})
            _one_fault(kind, "bad", fault, site, tally)
        for fault, site in _names(folder, kind):
            _one_fault(kind, "", fault, site, tally)
    toys = toy_folder(folder / "toys")
    everything = _everything(folder / "everything")
    _commands(toys, everything, tally, tuple(KINDS) if long else ("attacks",), long)
    _runs(toys, folder, tally, tuple(RUNNING) if long else ("exits", "raises"))


def _site(folder: Path) -> Path:
    """A folder with one sound plug-in of each kind."""
    folder.mkdir()
    points = {kind: {"sound": f"sound_{kind}_{folder.name.replace('-', '_')}:Method"} for kind in KINDS}
    modules = {f"sound_{kind}_{folder.name.replace('-', '_')}": text for kind, text in SOUND.items()}
    install(folder, "sound", points, modules)
    return folder


def _names(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Plug-ins whose code is sound and whose names are not."""
    for number, (fault, name, value) in enumerate(
        (
            ("a name of Tempering's own", TAKEN[kind], "more:Method"),
            ("a name that looks like a flag", "--attacks", "more:Method"),
            ("a name with a space", "two words", "more:Method"),
            ("a name with an escape", "red\x1b[31m", "more:Method"),
            ("a long name", "x" * 500, "more:Method"),
            ("no module path", "bad", "not a module path!"),
            ("no value", "bad", ":Method"),
            ("a module only", "bad", "more"),
        )
    ):
        site = _site(folder / f"{kind}-name-{number}")
        install(site, "more", {kind: {name: value}}, {"more": SOUND[kind]})
        yield fault, site
    site = _site(folder / f"{kind}-twice")
    for distribution in ("first", "second"):
        install(site, distribution, {kind: {"bad": f"of_{distribution}:Method"}}, {f"of_{distribution}": SOUND[kind]})
    yield "a name that two distributions bring", site


def _one_fault(kind: str, name: str, fault: str, site: Path, tally: Tally) -> None:
    """What the registry makes of a sound plug-in beside a broken one."""
    from tempering import registry
    from tempering.errors import InvalidStudy

    case = f"{kind}, {fault}"
    with on_path(site), redirect_stdout(io.StringIO()) as printed:
        try:
            own = registry.own_names(kind)
            listed = registry.names(kind)
            seen = imported(site)
            tally.count(not seen, f"{case}: listing names imported {seen}")
            sound = registry.get(kind, "sound")
            tally.count(sound.__name__ == "Method" and "sound" in listed, f"{case}: the sound one was not loaded")
            working, problems = registry.usable(kind)
            tally.count(working == sorted([*own, "sound"]), f"{case}: usable are {sorted(set(working) ^ {*own, 'sound'})} too or not")
            tally.count(len(problems) == 1 and "\n" not in problems[0], f"{case}: told in {problems}")
            tally.count(registry.get(kind, TAKEN[kind]).__module__.startswith("tempering."), f"{case}: the name of one of ours was taken")
            if name:
                try:
                    registry.get(kind, name)
                    tally.count(False, f"{case}: was loaded")
                except InvalidStudy as error:
                    tally.count(name in str(error) and "\n" not in str(error), f"{case}: {error!r}")
        except (Exception, SystemExit) as error:
            tally.count(False, f"{case}: {type(error).__name__}: {error}")
        tally.count(not printed.getvalue(), f"{case}: it wrote to standard output")


def _everything(folder: Path) -> Path:
    """A folder in which every fault is installed at once."""
    site = _site(folder)
    for kind in KINDS:
        broken = {**BROKEN, **left_open(kind)}
        points = {f"bad{number}": f"{kind}_{number}:Method" for number in range(len(broken))}
        install(site, f"broken-{kind}", {kind: points}, {f"{kind}_{number}": text for number, text in enumerate(broken.values())})
    return site


def _commands(toys: Path, site: Path, tally: Tally, kinds: tuple[str, ...], long: bool) -> None:
    """``temper ls`` beside every fault at once; and commands that ask for none of the plug-ins, which import none."""
    study = toys / "own.yaml"
    study.write_text(yaml.safe_dump(toy_fields(toys)), encoding="utf-8")
    running = ("run", study, "--out", toys / "own", "--workers", "0")
    for arguments in (("validate", study), ("plan", study), running) if long else (running,):
        done = _temper(site, *arguments)
        tally.count(done.returncode == 0 and "Traceback" not in done.stderr, f"{arguments[0]}: {done.stderr[-200:]}")
        tally.count(not imported(site), f"{arguments[0]} imported {imported(site)}")
    for kind in kinds:
        done = _temper(site, "ls", kind, "--json")
        broken = len({**BROKEN, **left_open(kind)})
        told = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        tally.count(done.returncode == 0 and "Traceback" not in done.stderr, f"ls {kind}: {done.stderr[-200:]}")
        tally.count(len(told) == broken, f"ls {kind}: {len(told)} lines for {broken} broken plug-ins")
        try:
            names = {row["name"] for row in json.loads(done.stdout)}
        except ValueError:
            names = set()
        tally.count({"sound", TAKEN[kind]} <= names, f"ls {kind}: standard output is {done.stdout[:80]!r}")


def _temper(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", ""), *(part for part in sys.path if part)])
    command = [sys.executable, "-m", "tempering", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300, check=False)


def _runs(toys: Path, folder: Path, tally: Tally, faults: tuple[str, ...]) -> None:
    """A run in which a plug-in goes wrong: it has failed, and the others are what they would have been."""
    from tempering import api
    from tempering.study import Study

    for number, fault in enumerate(faults):
        site = folder / f"run-{number}"
        site.mkdir()
        start, stop = SOUND["attacks"].index("        yield"), SOUND["attacks"].index("    def estimate")
        body = SOUND["attacks"][:start] + RUNNING[fault] + SOUND["attacks"][stop:]
        install(site, "running", {"attacks": {"wild": f"wild_{number}:Method"}}, {f"wild_{number}": body})
        with on_path(site), _quiet():
            try:
                study = Study.model_validate(toy_fields(toys, attacks=["wild", "full_finetune"]))
                run = api.run_study(study, out=folder / f"out-{number}", workers=0)
                ends = dict(zip(run.units["attack"], run.units["status"], strict=True))
            except (Exception, SystemExit) as error:
                tally.count(False, f"an attack that {fault}: {type(error).__name__}: {error}")
                continue
        tally.count(ends["wild"] == "failed", f"an attack that {fault}: it {ends['wild']}")
        tally.count(ends["full_finetune"] == "completed", f"an attack that {fault}: another {ends['full_finetune']}")


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


PROMISE = Promise(
    name="plug-ins",
    group="Nothing let in",
    sentence="An installed method is imported when it is asked for and not before; one that is broken is told of in a line and stops "
    "no other.",
    attempt=attempt,
    mutations=(
        Mutation(
            "plugins.py",
            "    except (Exception, SystemExit) as error:",
            "    except Exception as error:",
            "a plug-in that exits when it is imported ends the process",
        ),
        Mutation("plugins.py", "        elif name in own:", "        elif False:", "a plug-in with a name of ours is not told of"),
        Mutation("plugins.py", "        elif len(points) > 1:", "        elif False:", "of two plug-ins with one name the first is taken"),
        Mutation("plugins.py", "with redirect_stdout(sys.stderr):", "if True:", "what a plug-in prints stands among the results"),
        Mutation(
            "plugins.py",
            "    if problem := breach(found, kind, noun):",
            "    if False:",
            "a class that does not keep the contract is taken",
        ),
        Mutation(
            "registry.py",
            "        except TemperingError as problem:\n            problems.append(str(problem))",
            "        except KeyError as problem:\n            problems.append(str(problem))",
            "the first broken plug-in ends the listing",
        ),
        Mutation(
            "registry.py",
            "    return sorted({*_files(kind), *_installed(kind).points})",
            "    return usable(kind, sorted({*_files(kind), *_installed(kind).points}))[0]",
            "listing names imports every plug-in",
        ),
        Mutation(
            "engine/driving.py",
            "    except SystemExit as exit_:",
            "    except ZeroDivisionError as exit_:",
            "an attack that exits takes the whole run with it",
        ),
    ),
)
