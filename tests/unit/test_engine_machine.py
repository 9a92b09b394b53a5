"""What the machine is to blame for ends a run, and is no outcome of what was computed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from support.toy_study import toy_models, toy_study
from tempering.engine import worker as working
from tempering.engine.machine import refuse_trouble, trouble
from tempering.engine.plan import make_plan
from tempering.engine.worker import Worker
from tempering.errors import StoreProblem, UnusableModel


def wrapped(number: int) -> UnusableModel:
    """An error of ours that hides the system's."""
    try:
        try:
            raise OSError(number, "as the system has it")
        except OSError:
            raise UnusableModel("cannot read the model") from None
    except UnusableModel as error:
        return error


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_trouble_is_found_behind_other_errors(number: int) -> None:
    assert trouble(OSError(number, "")) == trouble(wrapped(number)) != ""
    with pytest.raises(StoreProblem, match=r"^cannot count: .*; see to the disk, then give the command again$"):
        refuse_trouble(wrapped(number), "count")


@pytest.mark.parametrize("error", [wrapped(errno.ENOENT), wrapped(errno.EACCES), ValueError("28"), UnusableModel("it is broken")])
def test_other_errors_are_let_be(error: Exception) -> None:
    assert trouble(error) == ""
    refuse_trouble(error, "count")


def test_trouble_of_the_libraries_in_rust_is_known_by_their_words() -> None:
    assert trouble(Exception("while writing: No space left on device (os error 28)"))


@pytest.mark.parametrize(("number", "ends"), [(errno.ESTALE, True), (errno.ENOENT, False)])
def test_an_attack_that_the_disk_fails_has_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, ends: bool) -> None:
    toy_models(tmp_path)
    plan = make_plan(toy_study(tmp_path, {}, {}, seeds=1))
    unit = next(unit for unit in plan.units if unit.work.kind == "attack")

    def failing(*_: object) -> None:
        raise wrapped(number)

    monkeypatch.setattr(working, "_drive", failing)
    if ends:
        with pytest.raises(StoreProblem, match="Stale file handle"):
            Worker(tmp_path / "models").run(unit)
    else:
        assert Worker(tmp_path / "models").run(unit).status == "failed"
