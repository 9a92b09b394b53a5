"""A run directory that an older or a newer version has written is refused with the way to go on, and left as it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tempering.engine import recorded, store
from tempering.engine.files import sealed
from tempering.engine.plan import make_plan
from tempering.engine.run import drive
from tempering.engine.store import RunStore
from torture.promise import Mutation, Promise, Tally
from torture.promises import _toy
from torture.promises._children import run

SCHEMAS = (recorded.MANIFEST_SCHEMA - 1, recorded.MANIFEST_SCHEMA + 1, 99)


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    _toy.prepare(folder)
    if (end := run(_toy.compute, str(folder), "small", str(folder / "undisturbed"))).code != 0:
        raise RuntimeError(f"the undisturbed run ended with {end.code} {end.said}")
    reference = _toy.rows(folder / "undisturbed")
    for schema in SCHEMAS:
        for plan in (True, False):
            directory = folder / f"schema {schema} {plan}"
            run(written_in, str(folder), str(directory), schema, plan)
            before = _files(directory)
            for body, arguments in ((_toy.compute, (str(folder), "small", str(directory))), (_toy.report, (str(directory),))):
                end = run(body, *arguments)
                named = f"schema {schema}" in end.said and "temper run" in end.said
                what = f"schema {schema}, {'all of it' if plan else 'its units'}, {body.__name__}"
                tally.count(end.refused and named, f"{what}: ended with {end.code} {end.said}")
            kept = {name: content for name, content in _files(directory).items() if plan or name.startswith("units/")}
            changed = [name for name, content in kept.items() if before.get(name) != content]
            tally.count(not changed and len(kept) > 10, f"schema {schema}: {changed[:1]} has been changed")
        anew = folder / f"schema {schema} anew"
        end = run(as_told, str(folder / f"schema {schema} True"), str(anew))
        problem = f"ended with {end.code} {end.said}" if end.code else _toy.different(_toy.rows(anew), reference)
        tally.count(not problem, f"schema {schema}, computed anew as the line says: {problem}")
    _of_before(folder, reference, tally)


def written_in(folder: str, directory: str, schema: int, plan: bool) -> None:
    """Compute a study as a version of another schema would have; with its plan in it, or only its units."""
    store.MANIFEST_SCHEMA = schema  # type: ignore[attr-defined]
    if plan:
        recorded.MANIFEST_SCHEMA = schema
    else:
        store.checked_schema = lambda content, directory: content  # type: ignore[attr-defined]
    _toy.compute(folder, "small", directory)


def as_told(old: str, new: str) -> None:
    """What the line says to do: compute the study that lies there into another directory."""
    from tempering.study_file import load_study

    torch.set_num_threads(1)
    drive(make_plan(load_study(Path(old) / "study.json")), RunStore(new), workers=0)


def without_schema(directory: str) -> None:
    """Make a plan as they were when they neither had a schema nor held the study."""
    path = Path(directory) / "plan.json"
    content = {name: value for name, value in json.loads(path.read_bytes()).items() if name not in ("schema", "study", "seal")}
    path.write_bytes(sealed(content))


def _of_before(folder: Path, reference: dict[str, str], tally: Tally) -> None:
    """A directory of schema 1 from before plans said so is read, and goes on."""
    directory = folder / "undisturbed"
    run(without_schema, str(directory))
    problem = _toy.different(_toy.rows(directory), reference)
    tally.count(not problem, f"a plan without a schema: {problem}")
    end = run(_toy.compute, str(folder), "small", str(directory))
    tally.count(end.code == 0 and not _toy.different(_toy.rows(directory), reference), f"a plan without a schema, resumed: {end.said}")


def _files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


PROMISE = Promise(
    name="other-schema",
    group="Nothing lost",
    sentence=(
        "A run directory of an older or a newer schema is refused in one line with the command that computes it anew, and left as it is; "
        "those of this schema from before plans named it are read."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/recorded.py",
            """    if schema == MANIFEST_SCHEMA:
""",
            """    if schema:
""",
            "the schema is not looked at",
        ),
    ),
)
