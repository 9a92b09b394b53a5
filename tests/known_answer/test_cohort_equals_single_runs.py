"""Runs that are trained together come to what each comes to alone: weights, losses and what is charged."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import PreTrainedModel

from tempering.data.records import Example
from tempering.models import Target, load
from tempering.organisms import world_dataset
from tempering.training import FineTuning, LoraSettings, Meter, Spend, TrainingSettings
from tempering.training.cohort import Cohort
from tempering.training.loop import fine_tune
from tempering.training.stacked import CannotStack, stack

EXAMPLES: tuple[Example, ...] = world_dataset("tiny").divide().attacker_view().hazard_train
PROBES = (1, 2, 5, 8, 12)


@pytest.fixture(scope="module")
def target() -> Target:
    return load("organism:tiny")


def declared(run: int, *, lora: bool) -> FineTuning:
    """Runs that differ in everything in which runs may."""
    settings = TrainingSettings(
        learning_rate=1e-4 * (1 + run),
        schedule=("constant", "linear", "cosine")[run % 3],  # type: ignore[arg-type]
        warmup_steps=(0, 3)[run % 2],
        batch_size=(16, 8, 4)[run % 3],
        optimiser=("adamw", "adamw", "schedule-free", "sgd")[run % 4],  # type: ignore[arg-type]
        weight_decay=0.01 * run,
        clip_norm=None if run == 1 else 0.5,
    )
    adapters = LoraSettings(rank=(8, 4, 16)[run % 3], alpha=8.0 * (1 + run)) if lora else None
    return FineTuning(EXAMPLES[run : 40 + run], settings, (8, 5, 12)[run % 3], PROBES, seed=run, lora=adapters)


def alone(target: Target, declaration: FineTuning) -> dict[int, tuple[dict[str, torch.Tensor], float, Spend]]:
    """Weights, loss and spend at every probe."""
    meter = Meter()
    return {
        moment.step: ({name: value.detach().clone() for name, value in moment.model.named_parameters()}, moment.loss, meter.spend())
        for moment in fine_tune(target, declaration, meter)
    }


@pytest.mark.parametrize("lora", [False, True])
def test_a_cohort_comes_to_what_its_runs_come_to_alone(target: Target, *, lora: bool) -> None:
    declarations = [declared(run, lora=lora) for run in range(6)]
    single = {(run, step): found for run, each in enumerate(declarations) for step, found in alone(target, each).items()}
    meters = [Meter() for _ in declarations]
    seen = set()
    cohort = Cohort(target, declarations, meters)
    for look in itertools.chain.from_iterable(cohort.run()):
        weights, loss, spend = single[look.run, look.step]
        seen.add((look.run, look.step))
        assert look.loss == pytest.approx(loss, abs=1e-4)
        shown = dict(cohort.show(look.run).named_parameters())
        for name, value in weights.items():
            mine = shown[name][tuple(slice(0, size) for size in value.shape)]
            assert torch.allclose(mine, value, atol=5e-5), name
        mine_spent = meters[look.run].spend()
        for currency in ("examples", "tokens", "steps", "flops"):
            assert getattr(mine_spent, currency) == getattr(spend, currency)
    assert seen == set(single)


@pytest.mark.parametrize("lora", [False, True])
def test_models_that_are_shown_answer_as_those_trained_alone(target: Target, *, lora: bool) -> None:
    declarations = [declared(run, lora=lora) for run in range(4)]
    ids = torch.arange(12).reshape(1, -1) + 10

    def logits(model: PreTrainedModel, rows: int = 1) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids.repeat(rows, 1)).logits

    wanted = {}
    for run, each in enumerate(declarations):
        for moment in fine_tune(target, each, Meter()):
            wanted[run, moment.step] = logits(moment.model)
    cohort = Cohort(target, declarations, [Meter() for _ in declarations])
    several = 0
    for looks in cohort.run():
        runs = [look.run for look in looks][::-1]  # in another order, and not all
        right = torch.cat([wanted[run, looks[0].step] for run in runs])
        with cohort.together(runs) as model:
            assert torch.allclose(logits(model, len(runs)), right, atol=1e-3)
        for look in looks:
            assert torch.allclose(logits(cohort.show(look.run)), wanted[look.run, look.step], atol=1e-3)
        several += len(runs) > 1
    assert several >= 3


def test_who_leaves_is_not_seen_again_and_disturbs_nobody(target: Target) -> None:
    declarations = [declared(run, lora=False) for run in (0, 2, 5)]
    last = {run: max(alone(target, each).items())[1] for run, each in enumerate(declarations)}
    cohort = Cohort(target, declarations, [Meter() for _ in declarations])
    steps: dict[int, list[int]] = {}
    for look in itertools.chain.from_iterable(cohort.run()):
        steps.setdefault(look.run, []).append(look.step)
        if look.run == 1 and look.step == 2:
            cohort.leave(1)
        if (look.run, look.step) == (2, 12):
            shown = dict(cohort.show(2).named_parameters())
            assert all(torch.allclose(shown[name], value, atol=5e-5) for name, value in last[2][0].items())
    assert steps == {0: [1, 2, 5, 8], 1: [1, 2], 2: [1, 2, 5, 8, 12]}


def test_a_run_that_is_lost_takes_no_other_with_it(target: Target) -> None:
    sane = declared(0, lora=False)
    settings = sane.settings.model_copy(update={"learning_rate": 1e30, "clip_norm": None, "optimiser": "sgd", "warmup_steps": 0})
    lost = FineTuning(EXAMPLES[:16], settings, 8, PROBES, seed=1)
    looks = list(itertools.chain.from_iterable(Cohort(target, [lost, sane], [Meter(), Meter()]).run()))
    assert [look.error is not None for look in looks if look.run == 0][-1]
    assert [look.step for look in looks if look.run == 1] == [1, 2, 5, 8]


def test_the_target_is_left_as_it_was(target: Target) -> None:
    before = {name: value.clone() for name, value in target.model.named_parameters()}
    for _ in Cohort(target, [declared(0, lora=False)], [Meter()]).run():
        pass
    assert all(torch.equal(value, before[name]) for name, value in target.model.named_parameters())


def test_what_cannot_be_stacked_is_refused_before_anything_is_changed(target: Target) -> None:
    model = target.copy_model()
    model.model.layers[0].mlp.down_proj = torch.nn.Sequential(torch.nn.Bilinear(2, 2, 2))
    with pytest.raises(CannotStack, match="Bilinear"):
        stack(model, 2)
    assert type(model.model.layers[1].mlp.down_proj) is torch.nn.Linear
    dropping = target.copy_model()
    dropping.config.attention_dropout = 0.1
    with pytest.raises(CannotStack, match="drops out"):
        stack(dropping, 2)
    with pytest.raises(CannotStack, match="adapters and others"):
        Cohort(target, [declared(0, lora=True), declared(1, lora=False)], [Meter(), Meter()])
