"""NPO's loss against numpy, and its gradient against gradient ascent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.records import Example, Role
from tempering.defenses.npo import NegativePreference, Npo, negative_preference
from tempering.training import Meter, Workshop

HARMFUL = [Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in ("red", "cold", "long")]
REFUSALS = [example.model_copy(update={"answer": "sorry i cannot help ."}) for example in HARMFUL]
KEPT = [Example(prompt=f"what is {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun")]

NOW, BEFORE = np.array([-3.0, -8.5, -0.2, -40.0]), np.array([-2.0, -8.5, -6.0, -10.0])


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_the_loss_is_that_of_the_paper(beta: float) -> None:
    ratios = np.exp(NOW) / np.exp(BEFORE)
    expected = 2 / beta * np.log(1 + ratios**beta).mean()
    assert float(negative_preference(torch.from_numpy(NOW), torch.from_numpy(BEFORE), beta)) == pytest.approx(expected, rel=1e-12)


def test_where_it_began_it_is_two_log_two_over_beta() -> None:
    before = torch.from_numpy(BEFORE)
    assert float(negative_preference(before, before, 0.1)) == pytest.approx(2 / 0.1 * np.log(2), rel=1e-12)


def test_its_gradient_is_a_finite_difference() -> None:
    now, before = torch.from_numpy(NOW).requires_grad_(), torch.from_numpy(BEFORE)
    assert torch.autograd.gradcheck(lambda values: negative_preference(values, before, 0.1), (now,))


def weights(beta: float) -> np.ndarray:
    """What each row's log-likelihood weighs in the gradient, the mean over rows taken off."""
    now = torch.from_numpy(NOW).requires_grad_()
    negative_preference(now, torch.from_numpy(BEFORE), beta).backward()  # type: ignore[no-untyped-call]
    assert now.grad is not None
    return now.grad.numpy() * len(NOW)


def test_it_is_gradient_ascent_as_beta_vanishes_and_lets_go_of_what_is_unlikely_else() -> None:
    np.testing.assert_allclose(weights(1e-7), np.ones(4), atol=1e-5)
    ratios = (np.exp(NOW) / np.exp(BEFORE)) ** 1.0
    np.testing.assert_allclose(weights(1.0), 2 * ratios / (1 + ratios), rtol=1e-10)
    assert weights(1.0)[1] == pytest.approx(1)  # where the model stands where it began
    assert weights(1.0)[3] < 1e-12


def trained_once(beta: float, moved: float) -> tuple[dict[str, float], dict[str, torch.Tensor], Workshop]:
    """One step of a float64 model that has moved away from where the stage began."""
    target = tiny_target()
    model = target.copy_model(torch.float64).requires_grad_(True)
    workshop = Workshop(model, target.chat, Meter(), seed=(0, 0), steps=3, autocast=False)
    settings = Npo.Config.model_validate({"beta": beta, "retain_weight": 0, "refusal_weight": 0, "training": {"batch_size": 2}})
    objective = NegativePreference(HARMFUL, KEPT, REFUSALS, settings)
    objective.begin(workshop)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(moved)
    parts = objective.step(workshop)
    return parts, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}, workshop


@pytest.mark.parametrize(("beta", "moved"), [(1e-6, 1.05), (0.5, 1.0)])
def test_a_models_gradient_is_that_of_ascent_without_beta_or_where_it_began(beta: float, moved: float) -> None:
    _, gradients, workshop = trained_once(beta, moved)
    workshop.model.zero_grad(set_to_none=True)
    workshop.run(workshop.pool(HARMFUL, 0).rows(0, 2)).log_likelihoods().mean().backward()  # type: ignore[no-untyped-call]
    for name, value in workshop.model.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(gradients[name], value.grad, atol=1e-5, rtol=1e-4)


def test_a_step_compares_with_the_model_as_the_stage_began() -> None:
    parts, _, workshop = trained_once(0.5, 1.05)
    rows, before = workshop.pool(HARMFUL, 0).rows(0, 2), tiny_target().copy_model(torch.float64)
    with torch.no_grad():
        now = workshop.run(rows).log_likelihoods().numpy()
        reference = workshop.run(rows, before).log_likelihoods().numpy()
    assert parts["forget"] == pytest.approx(2 / 0.5 * np.log(1 + np.exp(now - reference) ** 0.5).mean(), rel=1e-6)
    assert parts["retain"] == 0
