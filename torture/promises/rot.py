"""A byte that has changed, or an end that is missing, in any file of a finished run is found, put aside and made again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tempering.engine.store import RunStore
from tempering.errors import TemperingError
from tempering.rereading import stored_summary, stored_tables
from tempering.running import open_run
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import run
from torture.promises._faults import compared

DERIVED = ("report.html", "summary.json", "checksums.json", "tables/", "figures/")
"""What a report consists of; it is written anew from the units."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    _toy.prepare(folder)
    end = run(rotten, str(folder), long, patience=7200.0)
    if end.code != 0:
        raise RuntimeError(f"ended with {end.code} {end.said}")
    for problem in end.result["problems"]:
        tally.count(not problem, problem)
    tally.note("files of a run", end.result["files"])


def rotten(folder: str, long: bool) -> dict[str, object]:
    """Damage every file of a finished run nine times, or one file of each kind once; every problem that there was, ``""`` for none."""
    root = Path(folder)
    _toy.compute(folder, "whole", str(root / "run"))
    _toy.report(str(root / "run"))
    files = sorted(
        path.relative_to(root / "run").as_posix() for path in (root / "run").rglob("*") if path.is_file() and path.name != ".lock"
    )
    derived = [name for name in files if name.startswith(DERIVED)]
    kept = [name for name in files if name not in derived]
    reference = _toy.rows(root / "run")
    chance = random.Random(0)
    if not long:
        derived, kept = _of_every_ending(derived), _of_every_kind(kept)

    def damages(names: list[str]) -> list[tuple[str, Damage]]:
        which = [(name, range(9) if long else (2 * (place % 2),)) for place, name in enumerate(names)]
        return [(name, damage) for name, numbers in which for damage in _damages(root / "run" / name, numbers, chance)]

    threshold = (root / "run" / "study.json").read_bytes().index(b'"tau": 0.5') + len('"tau": 0.')
    of_kept = [("study.json", Damage(threshold, 1)), *damages(kept)]
    problems = [_of_what_is_kept(root, name, damage, reference) for name, damage in of_kept]
    problems += _of_what_is_derived(root, damages(derived))
    problems += _of_a_training(root, range(9) if long else (2, 3), reference, chance)
    return {"problems": problems, "files": len(files)}


class Damage:
    """A change of a file's bytes.

    Attributes:
        at: where.
        flip: bits of the byte there that are changed; 0 cuts the file off there.
    """

    def __init__(self, at: int, flip: int) -> None:
        self.at, self.flip = at, flip

    def do(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        if self.flip:
            content[self.at] ^= self.flip
            path.write_bytes(content)
        else:
            path.write_bytes(content[: self.at])

    def __str__(self) -> str:
        return f"byte {self.at} changed by {self.flip:#x}" if self.flip else f"cut off at {self.at}"


def _damages(path: Path, numbers: Iterable[int], chance: random.Random) -> Iterator[Damage]:
    """Two flips for every cut, at the ends and in between."""
    size = path.stat().st_size
    for number in numbers:
        at = (0, size - 1, size // 2)[number // 3] if number % 3 == 0 else chance.randrange(size)
        yield Damage(at, 0 if number % 3 == 2 else 1 << chance.randrange(8))


def _of_every_ending(names: list[str]) -> list[str]:
    return list({Path(name).suffix if "/" in name else name: name for name in names}.values())


def _of_every_kind(names: list[str]) -> list[str]:
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault("/".join(part for part in name.split("/") if len(part) not in (16, 64)), name)
    return list(kinds.values())


def _of_what_is_kept(root: Path, name: str, damage: Damage, reference: dict[str, str]) -> str:
    """What is wrong after damage to a file that results are read from; ``""`` where nothing is."""
    where, place = f"{name}, {damage}", root / "rotten"
    shutil.copytree(root / "run", place, dirs_exist_ok=False)
    damage.do(place / name)
    damaged = (place / name).read_bytes()
    said: list[str] = []
    try:
        try:
            if RunStore(place, warn=said.append).study() != RunStore(root / "run").study():
                return f"{where}: read, it gives another study"
            tables = _toy.rows(place, said.append)
            if any(tables[part] != reference[part] for part in ("units", "trajectories", "trials")) and not said:
                return f"{where}: read, it gives another table and no warning"
        except TemperingError as refusal:
            said.append(str(refusal))
        _toy.compute(str(root), "whole", str(place))
        if problem := compared(place, reference):
            return f"{where}: resumed, {problem}"
        if (place / name).is_file() and (place / name).read_bytes() == damaged:
            return f"{where}: it is left as it is"
    except Exception as error:
        return f"{where}: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(place)
    return ""


def _of_a_training(root: Path, numbers: Iterable[int], reference: dict[str, str], chance: random.Random) -> list[str]:
    """What is wrong after damage to each file of the latest snapshot of a training that was interrupted."""
    interrupted, problems = root / "interrupted", []

    def stop() -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        _toy.interrupted(str(root), str(interrupted), stop)
    if not _toy.snapshots(interrupted):
        return ["an interrupted training left no snapshot to be damaged"]
    for path in sorted(_toy.snapshots(interrupted)[-1].iterdir()):
        for damage in _damages(path, numbers, chance):
            name, place, said = path.relative_to(interrupted).as_posix(), root / "going on", list[str]()
            shutil.copytree(interrupted, place)
            damage.do(place / name)
            _toy.compute(str(root), "whole", str(place), on_event=lambda event, said=said: said.append(event.message))  # type: ignore[misc]
            problem = compared(place, reference)
            if not problem and not any(path.parent.name in words and "damaged" in words for words in said):
                problem = "nothing was said of it"
            problems.append(f"{name}, {damage}: {problem}" if problem else "")
            shutil.rmtree(place)
    return problems


def _of_what_is_derived(root: Path, damages: list[tuple[str, Damage]]) -> list[str]:
    """What is wrong after damage to files of the report: read, they are refused; and a new report is as the old one was."""
    problems = []
    place = root / "rotten"
    shutil.copytree(root / "run", place)
    for name, damage in damages:
        whole = (place / name).read_bytes()
        damage.do(place / name)
        problems.append(_unless_refused(place, name, damage))
        (place / name).write_bytes(whole)
    for name in {name for name, _ in damages}:
        Damage(0, 1).do(place / name)
    _toy.report(str(place))
    for number, (name, _) in enumerate(damages):
        if not problems[number] and (place / name).read_bytes() != (root / "run" / name).read_bytes():
            problems[number] = f"{name}: a new report has another one"
    return problems


def _unless_refused(place: Path, name: str, damage: Damage) -> str:
    read: Callable[[Path], object] = open_run
    if name.endswith((".parquet", ".json")):
        read = stored_tables if name.startswith("tables/") else stored_summary
    try:
        read(place)
    except TemperingError as problem:
        words = str(problem)
        named = name in words or name == "checksums.json"
        return "" if named and "temper report" in words else f"{name}, {damage}: told of in other words: {words}"
    except Exception as problem:
        return f"{name}, {damage}: {type(problem).__name__}: {problem}"
    return f"{name}, {damage}: read as if nothing were wrong"


PROMISE = Promise(
    name="rot",
    group="Nothing lost",
    sentence=(
        "A changed byte or a missing end in any file of a finished run or of an unfinished training is found; what it spoilt is put aside "
        "and computed to the same tables again, and what is derived is written anew. (What a flag keeps for its owner, `kept/`, and the "
        "messages of Slurm jobs, `jobs/`, are no part of a result and have no seal.)"
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/store.py",
            """if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:""",
            """if len(content) != expected["bytes"]:""",
            "of a unit's files only the size is compared",
        ),
        Mutation(
            "engine/hardening_card.py",
            """file_sha256(path) for path in files_in(folder)}""",
            """file_sha256(path) for path in files_in(folder) if path.suffix == ".safetensors"}""",
            "of a defended model only the weights are compared, and not its tokenizer",
        ),
        Mutation(
            "engine/recorded.py",
            """        study = recorded_plan(directory).get("study")  # older plans hold none
""",
            """        study = None
""",
            "the study is read from the copy that has no seal",
        ),
        Mutation(
            "report/write.py",
            """            write_checksums(directory, contents)
""",
            """            write_checksums(directory, {name: one for name, one in contents.items() if name.endswith((".parquet", ".json"))})
""",
            "page and pictures have no seal, as they once had none",
        ),
        Mutation(
            "engine/hardening_folder.py",
            """            if file_sha256(place / TENSORS) != content["tensors"]:
""",
            """            if False:
""",
            "a training's snapshot is taken as it stands",
        ),
    ),
)
