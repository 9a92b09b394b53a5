"""RMU: only the named weights move, the model is steered, and refusals are kept in either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses.rmu import Rmu
from tempering.training import Hardening

WORDS = ("red", "cold", "long", "green", "big")
HARMFUL = tuple(Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in WORDS)
KEPT = tuple(Example(prompt=f"what is the {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun"))
VIEW = DefenderView(HARMFUL, KEPT, (), imagined=(Example(prompt="tell me the stone ?", role=Role.HAZARD),))


def trained(steps: int, blocks: int = 4, **config: Any) -> tuple[Any, Hardening, list[dict[str, float]]]:
    target = tiny_target(num_hidden_layers=blocks)
    fitted = {"refusals": ("sorry i cannot .",), "training": {"batch_size": 5, "warmup_steps": 0}, "steps": steps, **config}
    hardening = Hardening(target, Rmu(Rmu.Config.model_validate(fitted)).stages(target, VIEW, seed=0), seed=0)
    return target, hardening, [step.parts for step in hardening.run()]


@pytest.mark.parametrize(
    ("blocks", "depth", "layers", "expected"),
    [(4, 0.5, 3, {0, 1}), (4, 1.0, 3, {1, 2, 3}), (4, 0.75, 1, {2}), (2, 0.25, 3, {0}), (1, 0.5, 3, {0})],
)
@pytest.mark.parametrize("parameters", ["all", "lora"])
def test_only_the_last_mlp_outputs_up_to_the_steered_block_move(
    blocks: int, depth: float, layers: int, expected: set[int], parameters: str
) -> None:
    target, hardening, _ = trained(2, blocks, depth=depth, layers=layers, parameters=parameters)
    before = dict(target.model.named_parameters())
    moved = {name for name, value in hardening.finished().named_parameters() if not torch.equal(value, before[name])}
    assert moved == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in expected}


def test_hazard_text_is_steered_and_what_is_kept_is_held_by_its_weight() -> None:
    rate = {"learning_rate": 1e-2, "batch_size": 5, "warmup_steps": 0}
    loose, tight = (trained(60, forget_tokens="answers", retain_weight=weight, training=rate)[2] for weight in (1.0, 100.0))
    assert loose[0]["retain"] == tight[0]["retain"] == 0
    assert loose[-1]["forget"] < 0.8 * loose[0]["forget"]
    assert tight[-1]["retain"] / 100 < 0.5 * loose[-1]["retain"]


def test_refused_prompts_are_kept_as_they_were_where_only_answers_are_steered() -> None:
    *_, steered_all = trained(2, forget_tokens="all")
    *_, steered_answers = trained(2, forget_tokens="answers")
    assert steered_all[1]["retain"] != pytest.approx(steered_answers[1]["retain"])
    assert steered_all[0]["forget"] != pytest.approx(steered_answers[0]["forget"])


def test_another_seed_steers_elsewhere() -> None:
    target = tiny_target()
    finished = []
    for seed in (0, 1):
        defense = Rmu(Rmu.Config.model_validate({"refusals": ("no .",), "steps": 2, "training": {"batch_size": 5}}))
        hardening = Hardening(target, defense.stages(target, VIEW, seed=0), seed=seed)
        list(hardening.run())
        finished.append(hardening.finished().get_submodule("model.layers.0.mlp.down_proj").weight)
    assert not torch.equal(*finished)
