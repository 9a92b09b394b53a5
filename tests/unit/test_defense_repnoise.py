"""RepNoise: pairs stay together, what is noised, and what a step costs."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses.repnoise import NoiseTraining, RepNoise
from tempering.errors import UnusableModel
from tempering.training import Hardening, Meter, Rows, Workshop

WORDS = ("red", "cold", "long", "green", "big", "key")
HARMFUL = [Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in WORDS[:5]]
REFUSALS = [example.model_copy(update={"answer": "sorry i cannot ."}) for example in HARMFUL]
IMAGINED = [Example(prompt=f"tell me the {word} stone ?", role=Role.HAZARD) for word in WORDS[:4]]
KEPT = [Example(prompt=f"what is the {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun", "light")]


def begun(harmful: list[Example] = HARMFUL, refusals: list[Example] = REFUSALS, layers: int = 2, **config: Any) -> tuple[Any, Workshop]:
    target = tiny_target(num_hidden_layers=layers, attn_implementation="eager")  # torch counts no fused attention
    workshop = Workshop(target.copy_model().requires_grad_(True), target.chat, Meter(), seed=(0, 0), steps=3, autocast=False)
    objective = NoiseTraining(harmful, refusals, [], KEPT, RepNoise.Config.model_validate({"training": {"batch_size": 3}, **config}))
    objective.begin(workshop)
    return objective, workshop


def prompt_of(rows: Rows, index: int) -> list[int]:
    row = rows.encoded[index]
    return [token for token, label in zip(row.input_ids, row.labels, strict=True) if label == -100]


def test_a_harmful_answer_and_its_refusal_come_in_the_same_place_of_the_same_step() -> None:
    objective, _ = begun()
    for step in range(7):
        harmful, refusals = objective._harmful.rows(step, 3), objective._refusals.rows(step, 3)
        for index in range(3):
            assert prompt_of(harmful, index) == prompt_of(refusals, index)
            assert harmful.encoded[index].input_ids != refusals.encoded[index].input_ids


def test_hazards_without_an_answer_are_refused_and_not_noised() -> None:
    view = DefenderView(tuple(HARMFUL[:3]) + tuple(IMAGINED[:1]), tuple(KEPT), (), imagined=tuple(IMAGINED[1:]))
    defense = RepNoise(RepNoise.Config(refusals=("sorry i cannot .", "no .")))
    (stage,) = defense.stages(tiny_target(), view, seed=0)
    objective: Any = stage.objective
    harmful, refusals, imagined, kept = objective._examples
    assert [example.prompt for example in harmful] == [example.prompt for example in refusals] == [e.prompt for e in HARMFUL[:3]]
    assert {example.answer for example in (*refusals, *imagined)} <= {"sorry i cannot .", "no ."}
    assert {example.prompt for example in imagined} == {example.prompt for example in IMAGINED}
    assert kept == KEPT


def test_a_refusal_that_the_tokenizer_does_not_know_is_an_error_of_the_user() -> None:
    view = DefenderView(tuple(HARMFUL), tuple(KEPT), ())
    with pytest.raises(UnusableModel, match="absquatulate"):
        RepNoise(RepNoise.Config(refusals=("absquatulate .",))).stages(tiny_target(), view, seed=0)


def test_harmful_answers_that_are_refusals_are_left_out() -> None:
    objective, workshop = begun(REFUSALS, REFUSALS)
    parts = objective.step(workshop)
    assert parts["noise"] == parts["ascent"] == 0
    assert parts["loss"] == parts["harmless"] > 0


def test_all_tokens_are_noised_where_asked() -> None:
    differing, workshop = begun()
    everything, _ = begun(noise_tokens="all")
    few, all_ = differing.step(workshop), everything.step(begun()[1])
    assert few["noise"] != pytest.approx(all_["noise"])
    assert few["ascent"] == pytest.approx(all_["ascent"])


@pytest.mark.parametrize("layers", [1, 3])
def test_the_meter_counts_what_torch_counts(layers: int) -> None:
    objective, workshop = begun(layers=layers)
    with FlopCounterMode(display=False) as counter:
        objective.step(workshop)
    assert workshop.meter.spend().flops == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_both_learn_at_once() -> None:
    view = DefenderView(tuple(HARMFUL), tuple(KEPT), ())
    settings = {"steps": 40, "refusals": ("sorry i cannot .",), "training": {"learning_rate": 3e-3, "batch_size": 5, "warmup_steps": 0}}
    defense = RepNoise(RepNoise.Config.model_validate(settings))
    target = tiny_target()
    hardening = Hardening(target, defense.stages(target, view, seed=0), seed=0)
    parts = [step.parts for step in hardening.run()]
    assert parts[-1]["harmless"] < 0.5 * parts[0]["harmless"]
    assert parts[-1]["ascent"] > parts[0]["ascent"]
