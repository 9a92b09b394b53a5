"""What each benchmark measures with, in its smallest form: a script that no longer fits the code fails here, and not after hours."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tempering.models import Target, load
from tempering.models.references import resolve

ROOT = Path(__file__).resolve().parents[2]
TINY = "organism:tiny"


def script(name: str) -> ModuleType:
    """A benchmark as ``python benchmarks/NAME.py`` imports it, its neighbours by their own names."""
    folder = str(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def is_result(case: dict[str, Any], name: str) -> None:
    """The form that all results share."""
    assert case["name"].startswith(name)
    assert set(case["ratio"]) == {"median", "low", "high"}
    assert case["ratio"]["median"] > 0
    assert case["met"] == (case["ratio"]["median"] >= case["goal"])
    assert case["command"].startswith("python benchmarks/")


bench = script("bench")


def one_layer() -> Target:
    """The organism's tokenizer with a random Llama of one layer."""
    own = load(TINY)
    config = LlamaConfig(
        vocab_size=own.model.config.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=own.chat.pad_id,
    )
    return Target("random", LlamaForCausalLM(config).eval().requires_grad_(False), own.tokenizer, own.chat, digest="")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "adversaries_by_trl"))
def test_every_script_finds_what_it_imports(name: str) -> None:
    assert script(name).__doc__


@pytest.mark.parametrize("name", bench.NAMES)
def test_every_result_is_made_by_a_script_that_takes_its_flags(name: str) -> None:
    path, *arguments = bench.command_of(name, [])
    text = (ROOT / path).read_text(encoding="utf-8")
    flags = [word for word in arguments if word.startswith("--")]
    assert flags
    assert all(f'add_argument("{flag}"' in text for flag in flags)
    assert f'"{name}' in text


def test_matmul_share_takes_its_steps_from_the_training_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    share = script("matmul_share")
    monkeypatch.setattr(share, "SIDE", 32)
    monkeypatch.setattr(share, "TOKENS", 8)
    target = one_layer()
    case = share.measure(target, rows=2, turns=1)
    is_result(case, "matmul-share")
    assert set(case["shares"]) == {"fused", "plain"}
    assert sum(case["profile"].values()) <= 1.01
    assert "eager attention" in case["note"]  # what a CPU trains with under autocast


def test_the_step_of_matmul_share_moves_the_copy_and_not_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    share = script("matmul_share")
    monkeypatch.setattr(share, "TOKENS", 8)
    target = one_layer()
    before = [weight.clone() for weight in target.model.parameters()]
    steps = share.Steps(target, 2)
    steps.ours()
    assert any(not torch.equal(old, new) for old, new in zip(before, steps.model.parameters(), strict=True))
    assert all(torch.equal(old, new) for old, new in zip(before, target.model.parameters(), strict=True))


@pytest.mark.parametrize(("attack", "together"), [("full_finetune", 2), ("lora_finetune", 1)])
def test_memory_peak_measures_an_audit_of_one_run_and_of_several(attack: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = script("memory_peak")
    monkeypatch.setattr(peaks, "PROMPTS", 2)
    seen = peaks.measure(TINY, attack, together, steps=1)
    assert seen["constant"] == seen["libraries"] + peaks.WORKSPACE
    assert seen["libraries"] <= seen["after planning"] <= seen["peak"]
    numbers = load(TINY).model.num_parameters()
    assert seen["model"] == numbers * 4
    assert (seen["state"] == 16 * numbers * together) is (attack == "full_finetune")
    case = peaks.case(TINY, attack, together, seen)
    is_result(case, "memory-peak")
    assert case["with_activations"] > case["ratio"]["median"]


def test_memory_peak_has_several_runs_at_once_on_a_real_model() -> None:
    cases = script("memory_peak").CASES
    assert {"organism:tiny", "organism:smollm2"} <= set(cases)
    assert all(any(together > 1 for _, together in each) for each in cases.values())


def test_the_constant_of_memory_peak_is_not_generous() -> None:
    assert script("memory_peak").WORKSPACE <= 2**26


def test_both_readings_of_the_memory_of_tar() -> None:
    floor = script("tar_floor")
    floor.SETTINGS = {**floor.SETTINGS, "inner_steps": 2, "look_every": 1}
    floor.STEPS, floor.EVERY, floor.MEMORY_STEPS = 2, 1, 1
    ours, without = (floor.peak(method, large=False) for method in floor.METHODS.values())
    assert ours["weights"] == without["weights"] == load(TINY).model.num_parameters() * 4
    assert ours["peak"] > without["peak"] > 5 * ours["weights"]
    letter, added = floor.memory(ours, without)
    is_result(letter, "tar-floor")
    is_result(added, "tar-floor")
    assert letter["theirs"] == pytest.approx(2 * ours["weights"], rel=1e-3)
    assert not letter["met"]
    assert added["theirs"] == pytest.approx(without["peak"] + ours["weights"], rel=1e-3)
    assert "held_out_batch" not in floor.SETTINGS  # TAR's own


def test_tar_floor_times_an_outer_step() -> None:
    floor = script("tar_floor")
    floor.SETTINGS = {**floor.SETTINGS, "inner_steps": 2, "look_every": 1}
    floor.STEPS, floor.EVERY = 2, 1
    is_result(floor.timed("organism:tiny", False, 1), "tar-floor")


def test_engine_overhead_of_two_units() -> None:
    overhead = script("engine_overhead")
    plan, hand = overhead.plan_of(3), overhead.ByHand()
    case = overhead.compare(plan, hand, 0, 1)
    is_result(case, "engine-overhead")
    assert case["command"].endswith("--turns 1 --units 3")


def test_a_point_of_plan_growth() -> None:
    growth = script("plan_growth")
    for shape in ("grid", "comparison"):
        point = growth.measure(shape, 300 if shape == "comparison" else 20, 2)
        assert set(point["seconds"]) == set(growth.PHASES)
        assert point["units"] > growth.LEFT


def test_plan_growth_is_linear_where_each_unit_costs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = script("plan_growth")

    def point(shape: str, units: int, probes: int) -> dict[str, Any]:
        return {"units": units, "probes": probes, "bytes": 1000 * units, "seconds": dict.fromkeys(growth.PHASES, 1e-3 * units * probes)}

    monkeypatch.setattr(growth, "in_a_process_of_its_own", point)
    case = growth.plan_case({"grid": [10, 100], "comparison": [10, 50]}, (1, 2))
    is_result(case, "plan-growth")
    assert case["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert case["curves"]["grid"]["exponents"]["together"] == pytest.approx(1.0)
    assert case["command"] == "python benchmarks/plan_growth.py --units 10 100 --comparison 10 50"


@pytest.mark.parametrize("attack", ["full_finetune", "lora_finetune"])
def test_growth_with_adversaries(attack: str) -> None:
    growth = script("training_growth")
    points = [growth.measure(attack, together, None, steps=2) for together in (1, 2)]
    case = growth.growth_case("adversaries", "adversaries", {attack: points}, "python benchmarks/plan_growth.py")
    is_result(case, "plan-growth")
    assert set(case["curves"][attack]["exponents"]) == {"seconds", "bytes"}


def test_growth_with_the_models_size() -> None:
    growth = script("training_growth")
    points = [growth.measure("full_finetune", 1, shape, steps=2) for shape in ((64, 1), (128, 1))]
    assert points[0]["parameters"] < points[1]["parameters"]
    is_result(growth.growth_case("model size", "parameters", {"full_finetune": points}, "python benchmarks/plan_growth.py"), "plan-growth")


def smallest_study(folder: Path, **changes: Any) -> Path:
    path = folder / "study.json"
    study = {
        "name": "adversaries",
        "models": [TINY],
        "attacks": ["full_finetune"],
        "seeds": 1,
        "budget": {"steps": 2},
        "probes": {"prompts": 2},
    }
    path.write_text(json.dumps({**study, **changes}), encoding="utf-8")
    return path


def test_our_side_of_adversaries(tmp_path: Path) -> None:
    made = script("adversaries").ours(smallest_study(tmp_path, attacks=["full_finetune", "lora_finetune"]), None, workers=0)
    assert sorted(run["attack"] for run in made["runs"]) == ["full_finetune", "lora_finetune"]
    assert all(run["rows"][-1]["step"] == 2 for run in made["runs"])


def test_adversaries_is_written_with_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adversaries, written = script("adversaries"), []
    rows = [{"step": 0, "harm": 0.0, "utility": 1.0}, {"step": 2, "harm": 0.9, "utility": 1.0}]
    monkeypatch.setattr(
        adversaries,
        "side",
        lambda arguments: {"seconds": 4.0 if "--side" in arguments else 9.0, "runs": [{"attack": "a", "seed": 0, "rows": rows}]},
    )
    monkeypatch.setattr(adversaries, "write_result", lambda name, case: written.append(case))
    options = argparse.Namespace(
        model="tiny", turns=1, seeds=2, theirs=1, theirs_bf16=False, together=None, until=None, glance=None, dry=False
    )
    adversaries.compare(adversaries.CASES["tiny"], options, tmp_path)
    is_result(written[0], "adversaries-organism")
    assert written[0]["ratio"]["median"] == 2.25
    assert written[0]["command"] == "python benchmarks/adversaries.py --model tiny --turns 1 --seeds 2 --theirs 1"
    assert "sized down" in written[0]["note"]


def test_their_side_of_adversaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")

    try:
        script("adversaries_by_trl").main(smallest_study(tmp_path), tmp_path, False)
    finally:
        logging.disable(logging.NOTSET)
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["step"] for row in made["runs"][0]["rows"]][-1] == 2


def test_a_ray_run_is_simulated_and_told() -> None:
    ray = script("ray_efficiency")
    runs = {1: [ray.Run(4.2, [1.0] * 4, 0.01)], 2: [ray.Run(2.1, [1.0] * 4, 0.01)]}
    cases = [ray.measured([(2.1, 4.2)], runs), *ray.simulated(runs)]
    for case in cases:
        is_result(case, "ray")
    assert cases[0]["ratio"]["median"] == 1.0
    assert len(ray.plan_of(2).units) == 3  # the reference among them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the comparison with heretic prepares it."""
    made = tmp_path_factory.mktemp("heretic")
    script("heretic_comparison").prepare(made, resolve(TINY).path, "tiny", 2, 2)
    return made


class TestAgainstHeretic:
    """Ours alone; heretic's own program is not there."""

    def test_turns_and_quality_make_a_result(self, folder: Path, tmp_path: Path) -> None:
        ours = script("abliteration")
        theirs = {"seed": 0, "seconds_a_trial": 9.0, "cpu_seconds_a_trial": None, "trials": [[0, 0.5], [3, 0.1]]}
        full = tmp_path / "full.json"
        full.write_text(json.dumps({"heretic": [theirs]}), encoding="utf-8")
        found = ours.quality(folder, 2, full)
        (levels,) = found["levels_against_every_heretic_seed"]
        assert levels["trials"] == 2
        assert found["heretics_best"] == [[0, 0.5]]
        turn = ours.our_turn(folder, 2, 0)
        slower = ours.Turn(6 * turn.seconds, 3 * turn.cpu_seconds)
        case = ours.summary([(turn, slower)], found, 2, 2)
        is_result(case, "abliteration-heretic")
        assert case["ratio"]["median"] == pytest.approx(6, rel=1e-3)
        assert case["met"]
        arguments = shlex.split(case["command"])[1:]
        assert bench.command_of("another", [case]) == arguments
        assert not re.search("FOLDER|HERETIC|/tmp", case["command"])

    def test_from_nothing_to_the_result(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The whole command; heretic's own trials are made up, since it is not there."""
        ours, written = script("abliteration"), []
        (tmp_path / "heretic").touch()
        monkeypatch.setattr(ours, "guarded_model", lambda: resolve(TINY).path)
        monkeypatch.setattr(ours, "PREPARED", ("tiny", 1, 1))
        monkeypatch.setattr(ours, "heretics_turn", lambda *_: ours.Turn(100.0, 100.0))
        monkeypatch.setattr(ours, "write_result", lambda name, case: written.append((name, case)))
        flags = [str(tmp_path / "folder"), "--program", str(tmp_path / "heretic"), "--trials", "1", "--turns", "1", "--whole", "1"]
        monkeypatch.setattr(sys, "argv", ["abliteration.py", *flags])
        ours.main()
        ((name, case),) = written
        assert name == "abliteration-heretic"
        is_result(case, name)
        assert case["quality"]["trials"] == 1

    def test_without_the_program_one_line_says_how_to_install_it(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match=r"pip install torch.* heretic-llm"):
            script("abliteration").program_of(tmp_path / "heretic")

    def test_its_program_is_timed_by_what_it_says(self) -> None:
        heretic = script("abliteration")
        marks = heretic._Marks()
        for said in (b"Running trial 1 of 2\r\n", b"... Running tr", b"ial 2 of 2", b"Optimization finished!"):
            marks(os.getpid(), said)
        assert len(marks.marks) == 3
        assert marks.turn().seconds >= 0
