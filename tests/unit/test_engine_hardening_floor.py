"""The floor of utility, and where a stage ends: a dip is let be, a stage that ends below it is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.hardening_jobs import REFUSAL, interrupted_after, job_of, toy_folder, weights
from support.scripted_models import scripted_model
from tempering.data.records import EvaluatorView, Example, Role
from tempering.defenses.refusal_sft import RefusalSft
from tempering.engine import hardening
from tempering.engine.hardening import TrainingProgress, plan_hardening, train
from tempering.engine.hardening_watch import Look, Watch
from tempering.models.target import Target
from tempering.study import DataChoice, MethodChoice, ModelChoice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("hardening"))


class Scripted(Watch):
    """A watch that sees what a test tells it to, look by look."""

    script: Iterator[float]
    seen: list[dict[str, Tensor]]

    @property
    def own(self) -> float:
        return 0.5

    @property
    def is_blind(self) -> bool:
        return False

    def look(self, model: Any) -> Look:
        type(self).seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        kept = next(type(self).script)
        return Look(0.5 * kept, kept)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Tensor]]]:
    def put(*kept: float) -> list[dict[str, Tensor]]:
        Scripted.script, Scripted.seen = iter(kept), []
        monkeypatch.setattr(hardening, "Watch", Scripted)
        return Scripted.seen

    return put


@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_below_the_floor_it_goes_back_to_the_last_good_weights(
    folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]], parameters: str
) -> None:
    seen = scripted(1.0, 0.95, 0.4, 0.3, 0.3, 0.3, 0.3, 0.95)
    job = job_of(folder, config={**REFUSAL, "parameters": parameters, "steps": 8}, watch_steps=1)
    told: list[TrainingProgress] = []
    record = train(job, tmp_path / "model", on_progress=told.append).record
    (stage,) = record["stages"]
    assert (stage["steps_done"], stage["steps_kept"], stage["floored"]) == (7, 2, True)
    assert stage["utility_kept"] == 0.95
    assert stage["ended"] == "utility was 30% of the target's, below the floor of 90%"
    final = weights(tmp_path / "model")
    if parameters == "all":
        assert all(torch.equal(final[name], value) for name, value in seen[1].items())
        assert any(not torch.equal(final[name], value) for name, value in seen[2].items())
    assert all(torch.equal(final[name], value) for name, value in seen[-1].items())
    ended = next(progress for progress in told if progress.kind == "stage_ended")
    assert "below the floor of 90%; went back to the weights of step 2" in ended.message
    assert "the weights of step 2 were kept" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_below_the_floor_at_the_first_look_the_stage_is_undone(
    folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]], parameters: str
) -> None:
    scripted(0.2, 0.2, 0.2, 1.0)
    job = job_of(folder, config={**REFUSAL, "parameters": parameters}, watch_steps=2)
    told: list[TrainingProgress] = []
    made = train(job, tmp_path / "model", on_progress=told.append)
    assert made.record["stages"][0]["steps_kept"] == 0
    assert made.record["digest"] == job.model_digest
    assert any(progress.message.endswith("went back to the weights it began with") for progress in told)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "none of its steps was kept" in card
    assert "these are the weights of the base" in card


def test_a_dip_that_mends_itself_is_let_be(folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]]) -> None:
    """Many defences tear a model up before they mend it."""
    seen = scripted(0.1, 0.2, 0.95, 0.95)
    made = train(job_of(folder, watch_steps=2), tmp_path / "model")
    (stage,) = made.record["stages"]
    assert (stage["steps_done"], stage["steps_kept"], stage["floored"]) == (8, 8, False)
    assert all(torch.equal(weights(tmp_path / "model")[name], value) for name, value in seen[-1].items())


def test_what_counts_is_the_end(folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]]) -> None:
    """Below the floor but not lost, it is waited for; still below at its end, the last good weights are kept."""
    scripted(0.8, 0.6, 0.6, 0.6, 0.6, 0.7, 0.8, 0.95)
    assert train(job_of(folder, watch_steps=1), tmp_path / "mended").record["stages"][0]["steps_kept"] == 8
    scripted(0.95, 0.6, 0.6, 0.6, 0.6, 0.7, 0.8, 0.89, 0.95)
    (stage,) = train(job_of(folder, watch_steps=1), tmp_path / "spoilt").record["stages"]
    assert (stage["steps_done"], stage["steps_kept"], stage["floored"]) == (8, 1, True)


def test_two_short_dips_do_not_make_a_long_one(folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]]) -> None:
    scripted(0.3, 0.3, 0.3, 0.95, 0.3, 0.3, 0.3, 0.95)
    made = train(job_of(folder, watch_steps=1), tmp_path / "model")
    assert made.record["stages"][0]["steps_kept"] == 8


def test_how_long_it_was_below_outlasts_an_interruption(
    folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]]
) -> None:
    job = job_of(folder, watch_steps=1)
    scripted(1.0, 0.95, 0.3, 0.3, 0.3, 0.3, 0.3, 0.95)
    interrupted_after(job, tmp_path / "model", 5)
    record = train(job, tmp_path / "model").record
    assert (record["stages"][0]["steps_done"], record["stages"][0]["steps_kept"]) == (7, 2)


def test_a_floor_of_nothing_lets_it_run(folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]]) -> None:
    scripted(*[0.0] * 4)
    made = train(job_of(folder, watch_steps=2, floor=0.0), tmp_path / "model")
    assert made.record["stages"][0]["steps_done"] == 8
    assert not made.record["stages"][0]["floored"]


def test_a_stage_with_an_until_ends_when_utility_is_back(
    folder: Path, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = RefusalSft.stages
    monkeypatch.setattr(
        RefusalSft, "stages", lambda self, *a, **k: [replace(stage, floored=False, until=0.95) for stage in declared(self, *a, **k)]
    )
    scripted(0.1, 0.96)
    made = train(job_of(folder, watch_steps=3), tmp_path / "model")
    (stage,) = made.record["stages"]
    assert (stage["steps_done"], stage["steps_kept"], stage["floored"]) == (6, 6, False)
    assert stage["ended"] == "utility was back at 96% of the target's"


def test_the_watch_asks_the_defenders_own_prompts_and_nothing_else(folder: Path) -> None:
    model = ModelChoice(reference=str(folder / "guarded"), device="cpu")
    planned = plan_hardening(model, DataChoice(reference=str(folder / "data.jsonl")), MethodChoice(name="refusal_sft", config=REFUSAL))
    validation, test = planned.division.defender_view().validation, planned.division.evaluator_view()
    watch = Watch(planned.target, validation, 64)
    asked = {example.prompt for role in Role for example in watch._view.of(role)}
    assert asked == {example.prompt for example in (*validation.benign, *validation.borderline)} != set()
    assert not asked & {example.prompt for role in Role for example in test.of(role)}


def test_the_watch_tells_what_share_is_still_answered() -> None:
    def target(response: str) -> Target:
        model, chat = scripted_model(response)
        return Target("scripted", model, chat.tokenizer, chat, "")

    ask = [Example(prompt=f"{word} key?", answer="it is red.", accept=("red",), role=Role.BENIGN) for word in ("one", "two", "three")]
    light = Example(prompt="one light?", answer="it is cold.", accept=("cold",), role=Role.BORDERLINE)
    view = EvaluatorView((), tuple(ask), (light,))
    watch = Watch(target("it is red ."), view, 64)
    assert (watch.prompts, watch.own, watch.is_blind) == (4, 0.75, False)
    assert watch.look(target("it is cold .").model) == Look(0.25, pytest.approx(1 / 3))
    assert Watch(target("it is green ."), view, 64).is_blind
    assert Watch(target("it is red ."), EvaluatorView((), (), ()), 64).is_blind
