"""NPO: what it unlearns and what it keeps, and which passes it makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses.npo import Npo
from tempering.training import Hardening

WORDS = ("red", "cold", "long", "green", "big")
HARMFUL = tuple(Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in WORDS)
KEPT = tuple(Example(prompt=f"what is the {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun"))
UNANSWERED = (Example(prompt="tell me the stone ?", role=Role.HAZARD),)
VIEW = DefenderView(HARMFUL, KEPT, (), imagined=UNANSWERED)
FITTED: dict[str, Any] = {"refusals": ("sorry i cannot .",), "training": {"learning_rate": 1e-2, "batch_size": 5, "warmup_steps": 0}}


def trained(steps: int, **config: Any) -> tuple[Hardening, list[dict[str, float]]]:
    target = tiny_target()
    defense = Npo(Npo.Config.model_validate({**FITTED, "steps": steps, **config}))
    hardening = Hardening(target, defense.stages(target, VIEW, seed=0), seed=0)
    return hardening, [step.parts for step in hardening.run()]


def test_hazards_without_an_answer_are_refused_and_not_unlearnt() -> None:
    (stage,) = Npo(Npo.Config.model_validate(FITTED)).stages(tiny_target(), VIEW, seed=0)
    objective: Any = stage.objective
    harmful, kept, refusals = objective._examples
    assert tuple(harmful) == HARMFUL
    assert tuple(kept) == KEPT
    assert [example.prompt for example in refusals] == [example.prompt for example in (*HARMFUL, *UNANSWERED)]
    assert {example.answer for example in refusals} == {"sorry i cannot ."}


def test_it_unlearns_while_it_keeps() -> None:
    _, parts = trained(40)
    assert parts[-1]["forget"] < 0.5 * parts[0]["forget"]
    assert parts[-1]["retain"] < 0.5 * parts[0]["retain"]
    assert parts[-1]["refusal"] < 0.5 * parts[0]["refusal"]


def test_the_divergence_is_nothing_at_first_and_costs_a_pass_of_the_copy() -> None:
    plain, without = trained(2)
    compared, parts = trained(2, divergence_weight=1.0)
    assert parts[0]["retain"] == pytest.approx(without[0]["retain"], rel=1e-5)
    assert parts[1]["retain"] > 0
    assert compared.meter.spend().flops > plain.meter.spend().flops
    assert not all(
        torch.equal(one, other) for one, other in zip(plain.finished().parameters(), compared.finished().parameters(), strict=True)
    )
