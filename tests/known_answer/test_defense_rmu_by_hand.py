"""RMU's losses against loops over the hidden states that transformers itself reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.defenses.rmu import Misdirection, Rmu, misdirection, unit_vector
from tempering.training import Meter, Rows, Workshop

HARMFUL = [Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in ("red", "cold", "long")]
REFUSALS = [example.model_copy(update={"answer": "sorry i cannot help ."}) for example in HARMFUL]
KEPT = [Example(prompt=f"what is {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun")]


def test_the_distance_is_that_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    states, towards, here = generator.normal(size=(2, 3, 4)), generator.normal(size=4), np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    expected = np.mean([((states[row, place] - towards) ** 2).sum() for row, place in np.argwhere(here)])
    value = misdirection(torch.from_numpy(states), torch.from_numpy(towards), torch.from_numpy(here))
    assert float(value) == pytest.approx(float(expected), rel=1e-12)


def test_its_gradient_is_a_finite_difference() -> None:
    states = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    here = torch.tensor([[True, True, False], [False, True, False]])
    assert torch.autograd.gradcheck(lambda values: misdirection(values, torch.ones(4, dtype=torch.float64), here), (states,))


def test_the_direction_is_of_length_one_in_the_positive_corner_and_by_the_seed() -> None:
    drawn, again, other = (unit_vector(200, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert float(drawn.norm()) == pytest.approx(1, rel=1e-6)
    assert bool((drawn >= 0).all())
    # entries uniform in [0, 1): the mean over the root of the mean square is (1/2) / sqrt(1/3)
    assert float(drawn.mean() / drawn.square().mean().sqrt()) == pytest.approx(0.866, abs=0.03)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)


def hidden_states(model: Any, rows: Rows, block: int) -> tuple[np.ndarray, np.ndarray]:
    batch = rows.batch()
    with torch.no_grad():
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    return output.hidden_states[block + 1].numpy(), batch.attention_mask.numpy().astype(bool)


@pytest.mark.parametrize("tokens", ["all", "answers"])
def test_a_step_is_the_equation(tokens: str) -> None:
    target = tiny_target(num_hidden_layers=4)
    model = target.copy_model().requires_grad_(True)
    workshop = Workshop(model, target.chat, Meter(), seed=(5, 0), steps=3, autocast=False)
    config = {"retain_weight": 3, "refusal_weight": 0.5, "steering": 2.5, "forget_tokens": tokens, "training": {"batch_size": 2}}
    objective = Misdirection(HARMFUL, KEPT, REFUSALS, Rmu.Config.model_validate(config))
    objective.begin(workshop)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    parts = objective.step(workshop)
    harmful, kept, refusals = (workshop.pool(examples, purpose).rows(0, 2) for purpose, examples in enumerate((HARMFUL, KEPT, REFUSALS)))

    def chosen(rows: Rows, present: np.ndarray) -> np.ndarray:
        return present if tokens == "all" else rows.batch().labels.numpy() != -100

    before, present = hidden_states(target.model, harmful, 1)
    length = 2.5 * np.linalg.norm(before, axis=-1)[chosen(harmful, present)].mean()
    towards = objective._towards.numpy()
    assert np.linalg.norm(towards) == pytest.approx(length, rel=1e-5)
    states, present = hidden_states(model, harmful, 1)
    forget = ((states - towards) ** 2).sum(-1)[chosen(harmful, present)].mean()
    assert parts["forget"] == pytest.approx(forget, rel=1e-5)

    same = kept if tokens == "all" else kept + refusals
    (now, present), (before, _) = hidden_states(model, same, 1), hidden_states(target.model, same, 1)
    assert parts["retain"] == pytest.approx(3 * ((now - before) ** 2).sum(-1)[present].mean(), rel=1e-5)
    assert parts["retain"] > 0
    with torch.no_grad():
        assert parts["refusal"] == pytest.approx(0.5 * float(workshop.run(refusals).cross_entropy()), rel=1e-5)
    assert parts["loss"] == pytest.approx(parts["forget"] + parts["retain"] + parts["refusal"], rel=1e-6)
