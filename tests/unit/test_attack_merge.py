from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from support.planted_refusal import Planted, planted_refusal
from support.tiny_models import tiny_model
from tempering.attacks import AttackEnded, Checkpoint
from tempering.attacks.merge import Merge, windows
from tempering.data.records import AttackerView
from tempering.errors import UnusableData, UnusableModel
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter, Spend


@pytest.fixture(scope="module")
def planted() -> Planted:
    """A model that refuses, whose base is the same model with a head that does not."""
    guarded, base = planted_refusal(noise=True), planted_refusal(noise=True, refuses=False)
    return replace(guarded, target=replace(guarded.target, public_base=base.target))


def run(target: Target, view: AttackerView, budget: Budget | None = None, seed: int = 0, **config: Any) -> Iterator[Checkpoint]:
    yield from Merge(Merge.Config(**config)).run(target, view, Meter(), budget=budget or Budget(), seed=seed)


def methods(made: list[Checkpoint]) -> list[tuple[str, Any]]:
    return [(checkpoint.details["method"], checkpoint.details.get("t")) for checkpoint in made]


def test_the_grid_rises_and_the_best_of_the_others_follow(planted: Planted) -> None:
    before = weight_digest(planted.target.model)
    made = list(run(planted.target, planted.view))
    assert methods(made) == [*(("interpolate", t) for t in (0.25, 0.5, 0.75, 1.0, 1.25)), ("subtract", None), ("transplant", None)]
    assert weight_digest(planted.target.model) == before
    refusals = [checkpoint.details["refusals"] for checkpoint in made]
    assert refusals[0] > 0 == refusals[3]  # the base refuses nothing
    assert made[5].details["refusals"] == made[6].details["refusals"] == 0
    assert (made[5].details["tried"], made[6].details["tried"]) == (9, len(windows(4)) + 1)
    spends = [checkpoint.spend.as_row() for checkpoint in made]
    for earlier, later in pairwise(spends):
        assert all(later[name] >= earlier[name] for name in ("examples", "tokens", "flops", "trials", "queries"))
    assert spends[-1]["trials"] == 5 + 9 + len(windows(4)) + 1
    assert spends[-1]["queries"] == spends[-1]["trials"] * made[0].details["asked"]
    assert spends[-1]["steps"] == 0


def test_the_safeguard_is_found_where_it_was_planted(planted: Planted) -> None:
    (subtracted,) = run(planted.target, planted.view, method="subtract")
    assert subtracted.details["part"] in ("ends", "rank")  # the refusal is one row of the head, and so of rank one
    (transplanted,) = run(planted.target, planted.view, method="transplant")
    assert transplanted.details["blocks"] == []
    assert transplanted.details["ends"] is True


def test_each_checkpoint_is_what_its_details_say(planted: Planted) -> None:
    base = planted.target.public_base
    assert base is not None
    for checkpoint in run(planted.target, planted.view):
        if checkpoint.details.get("t") == 1.0:
            assert weight_digest(checkpoint.model) == weight_digest(base.model)
        if checkpoint.details["method"] == "transplant":
            head = checkpoint.model.get_output_embeddings()
            assert head is not None
            assert torch.equal(head.weight, base.model.get_output_embeddings().weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(trials=1), [("interpolate", 1.0)]),
        (Budget(trials=3), [("interpolate", 1.0), ("subtract", None), ("transplant", None)]),
        (Budget(queries=5), [("interpolate", 0.75), ("interpolate", 1.0), ("subtract", None), ("transplant", None)]),
    ],
)
def test_it_keeps_within_what_may_be_tried_and_asked(planted: Planted, budget: Budget, expected: list[tuple[str, Any]]) -> None:
    made = list(run(planted.target, planted.view, budget))
    assert methods(made) == expected
    assert made[-1].spend.trials <= (budget.trials or math.inf)
    assert made[-1].spend.queries <= (budget.queries or math.inf)


def test_it_keeps_within_the_examples(planted: Planted) -> None:
    *_, last = run(planted.target, planted.view, Budget(examples=8, trials=3))
    assert last.spend.examples == 8
    assert last.details["asked"] == 4


def test_the_estimate_is_what_a_run_spends(planted: Planted) -> None:
    budget = Budget(trials=12)
    *_, last = run(planted.target, planted.view, budget)
    expected: Spend = Merge(Merge.Config()).estimate(planted.target, planted.view, budget=budget)
    assert (expected.trials, expected.queries, expected.examples) == (last.spend.trials, last.spend.queries, last.spend.examples)
    assert 0.5 * expected.flops < last.spend.flops < 1.5 * expected.flops


def test_without_prompts_it_only_interpolates(planted: Planted) -> None:
    nothing = AttackerView((), (), (), ())
    made = list(run(planted.target, nothing))
    assert methods(made) == [("interpolate", t) for t in (0.25, 0.5, 0.75, 1.0, 1.25)]
    assert made[-1].spend.queries == made[-1].spend.examples == 0
    model = planted.target.model
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    assert made[-1].spend.flops == 4 * 3 * numbers  # a difference, a product and a sum; t = 1 is only copied
    with pytest.raises(UnusableData, match="merge by subtract has no harmful prompts to choose by"):
        list(run(planted.target, nothing, method="subtract"))


def test_without_harmless_prompts_it_chooses_by_refusals_alone(planted: Planted) -> None:
    made = list(run(planted.target, planted.view.limited_to(frozenset({Need.HARMFUL_PROMPTS}))))
    assert methods(made)[-2:] == [("subtract", None), ("transplant", None)]
    assert {checkpoint.details["divergence"] for checkpoint in made} == {0.0}


def test_a_base_that_is_the_target_leaves_nothing_to_do(planted: Planted) -> None:
    with pytest.raises(AttackEnded, match="the model is its public base") as ended:
        list(run(replace(planted.target, public_base=planted.target), planted.view))
    assert ended.value.outcome == "no_direction"


def test_a_base_is_needed_and_of_the_same_architecture(planted: Planted) -> None:
    with pytest.raises(UnusableModel, match="no public base of planted is known"):
        list(run(replace(planted.target, public_base=None), planted.view))
    other = replace(planted.target, model=tiny_model("gpt_neox")[0])
    with pytest.raises(UnusableModel, match="gpt_neox, not llama"):
        list(run(replace(planted.target, public_base=other), planted.view))


def test_numbers_that_are_none_end_it_or_are_passed_over(planted: Planted) -> None:
    base = planted.target.public_base
    assert base is not None
    spoilt = base.copy_model()
    with torch.no_grad():
        spoilt.model.layers[3].mlp.down_proj.weight.fill_(math.nan)
    made = list(run(replace(planted.target, public_base=replace(base, model=spoilt)), planted.view))
    assert [name for name, _ in methods(made)] == ["subtract", "transplant"]  # no interpolation is without a NaN
    assert all(torch.isfinite(weight).all() for weight in made[-1].model.parameters())
    with pytest.raises(AttackEnded) as ended:
        list(run(replace(planted.target, model=spoilt, public_base=base), planted.view))
    assert ended.value.outcome == "failed"


def test_a_tied_target_reaches_a_base_that_is_not() -> None:
    made = [planted_refusal(refuses=refuses) for refuses in (True, False)]
    tied, tokenizer = tiny_model("llama", 3, hidden_size=32, num_hidden_layers=4, tie_word_embeddings=True)
    target = replace(made[0].target, model=tied, tokenizer=tokenizer, public_base=made[1].target)
    (checkpoint,) = run(target, made[0].view, method="interpolate", interpolations=(1.0,))
    assert weight_digest(checkpoint.model) == weight_digest(made[1].target.model)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight  # type: ignore[union-attr]


@pytest.mark.parametrize("layers", [1, 2, 4, 24, 80])
def test_windows_lie_in_the_model_and_begin_in_the_later_middle(layers: int) -> None:
    found = windows(layers)
    assert len(found) == len(set(found)) <= 20
    assert range(layers) in found
    assert all(0 <= window.start < window.stop <= layers for window in found)
    middle = (found[0].start + found[0].stop) / 2
    assert abs(middle - 0.65 * layers) <= 0.15 * layers + 0.5
    assert any(window.stop == layers and len(window) < layers for window in found) or layers == 1
