"""Which executor is chosen, what is said of a choice that cannot be, and how a Ray node is divided."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.command_line import error_line, temper
from support.engine_samples import work
from support.toy_study import ATTACK
from tempering import api
from tempering.engine import executors
from tempering.engine.executor import lost
from tempering.engine.executors import ExecutorChoice, SlurmSettings, make_executor
from tempering.engine.local import LocalExecutor
from tempering.engine.ray_executor import Node
from tempering.engine.ray_worker import PREFIX, hold, sweep
from tempering.engine.shipping import pinned
from tempering.engine.units import Unit
from tempering.errors import InvalidStudy, TemperingError
from tempering.study import ModelChoice, Study

GIB = 2**30


def test_slurm_settings_are_read_from_one_flag() -> None:
    read = SlurmSettings.parse("partition=gpu, gpus=1,cpus=8,memory=32,time=600,units=4,account=lab")
    assert read == SlurmSettings(partition="gpu", gpus=1, cpus=8, memory=32, time=600, units=4, account="lab")


BAD = [
    (["--executor", "rya"], "no executor named 'rya'; write --executor local, ray or slurm"),
    (["--address", "auto"], "--address auto says nothing to the executor local; add --executor ray"),
    (["--executor", "ray", "--slurm", "cpus=2"], "--slurm cpus=2 says nothing to the executor ray; add --executor slurm"),
    (["--executor", "ray", "--address", "ray://here:10001"], "leads through a Ray client; start the run on a node of the cluster"),
    (["--executor", "ray", "--workers", "0"], "--workers 0 computes in this process, and the executor ray does not"),
    (["--executor", "slurm", "--slurm", "core=2"], "--slurm: cannot read 'core=2'; write name=value, with a name out of partition"),
    (["--executor", "slurm", "--slurm", "cpus=2,cpus=3"], "gives 'cpus' twice"),
    (["--executor", "slurm", "--slurm", "cpus=0"], "--slurm 'cpus=0' is not usable: cpus: Input should be greater than 0"),
]


@pytest.mark.parametrize(("flags", "expected"), BAD)
def test_a_choice_that_cannot_be_gets_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = temper("audit", "--attacks", ATTACK, *flags, "--out", "out")
    assert expected in error_line(result)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "audit", "compare", "resume"])
def test_every_command_that_computes_takes_an_executor(command: str) -> None:
    text = temper(command, "--help").stdout
    assert all(flag in text for flag in ("--executor", "--address", "--slurm"))


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executor: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(TemperingError) as caught:
        make_executor(ExecutorChoice.of(executor), None)
    assert str(caught.value) == (
        f"the executor {executor} needs the package {package}, which is not installed; pip install 'tempering[{executor}]'"
    )


def test_a_cluster_that_is_not_there_is_told_in_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(TemperingError, match="cannot join the Ray cluster at nowhere-at-all: "):
        make_executor(ExecutorChoice.of("ray", "nowhere-at-all"), None)


def test_the_choice_is_in_no_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not {"executor", "address", "slurm"} & Study.model_fields.keys()
    given: dict[str, object] = {}
    monkeypatch.setattr("tempering.engine.run.execute", lambda plan, directory, **options: given.update(options))
    monkeypatch.setattr("tempering.running.plan_study", lambda study, divided=False: SimpleNamespace(targets=()))
    unfollowed = SimpleNamespace(on_event=None, results=lambda summary: None)
    monkeypatch.setattr("tempering.running.Following", lambda *_: nullcontext(unfollowed))
    monkeypatch.setattr("tempering.running.followed_run", lambda plan, directory: None)
    monkeypatch.setattr("tempering.running.make_report", lambda directory: SimpleNamespace(summary={}))
    api.audit("organism:tiny", attacks="prefilling", executor=api.executor_choice("slurm", slurm="cpus=3"), out=tmp_path)
    assert given["executor"] == ExecutorChoice(name="slurm", slurm=SlurmSettings(cpus=3))


def test_this_machine_is_the_default() -> None:
    assert isinstance(make_executor(executors.LOCAL, 0), LocalExecutor)
    with pytest.raises(InvalidStudy, match="the executor slurm does not"):
        make_executor(ExecutorChoice.of("slurm"), 0)


@pytest.mark.parametrize(
    ("node", "threads", "gibibytes", "on_gpu", "expected"),
    [
        (Node("n", 8, 0, 64 * GIB), 1, 2, False, 8),  # one a core
        (Node("n", 8, 0, 64 * GIB), 3, 2, False, 2),  # of three threads each
        (Node("n", 8, 0, 64 * GIB), 1, 20, False, 3),  # as many as fit
        (Node("n", 8, 0, 4 * GIB), 1, 20, False, 1),  # one is always tried
        (Node("n", 2, 0, 64 * GIB), 4, 2, False, 1),  # on fewer cores than threads too
        (Node("n", 8, 0, 0), 1, 2, False, 8),  # memory unknown
        (Node("n", 8, 2, 64 * GIB), 1, 2, True, 2),  # one an accelerator
        (Node("n", 8, 0, 64 * GIB), 1, 2, True, 0),
    ],
)
def test_a_node_has_room_by_cores_memory_and_accelerators(node: Node, threads: int, gibibytes: int, on_gpu: bool, expected: int) -> None:
    assert node.room(threads, gibibytes * GIB, on_gpu) == expected


def test_a_unit_that_is_sent_away_keeps_its_hash_and_the_type_of_its_device() -> None:
    choice = ModelChoice(reference="some/model", device=None)
    unit = Unit(work(model=choice, reference=ModelChoice(reference="other", device="cuda:3"), device="cuda"), 7)
    sent = pinned(unit)
    assert sent.hash == unit.hash
    assert (sent.work.model.device, sent.work.reference and sent.work.reference.device, sent.work.base) == ("cuda", "cuda", None)


def test_a_unit_that_nobody_lived_to_report_says_how_often_it_was_tried() -> None:
    assert lost("was lost", ": fire").error == "the worker was lost, 2 times: fire"


def test_what_killed_runs_left_on_a_node_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    for name in (f"{PREFIX}living", f"{PREFIX}dead", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".in-use").touch()
    held = hold(tmp_path / f"{PREFIX}living")
    assert held
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", f"{PREFIX}living"]


def test_models_side_by_side_are_not_divided() -> None:
    with pytest.raises(InvalidStudy, match="--together asks for models side by side, and --devices divides one; leave one of them out"):
        ExecutorChoice.of("local", together=4, devices=2)
    assert ExecutorChoice.of("local", together=1, devices=2).devices == 2
