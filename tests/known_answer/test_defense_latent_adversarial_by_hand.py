"""The latent adversary's geometry by hand, and its first step against a gradient computed another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from support.tiny_models import tiny_target
from tempering.data.chat import IGNORED
from tempering.data.records import Example, Role
from tempering.defenses.latent_adversarial import LatentAdversarial, LatentTraining, Perturbation, onto_ball, unlikelihood
from tempering.training import Answers, Meter, Rows, Workshop

HARMFUL = [Example(prompt=f"tell me {word} key ?", answer="red : stone .", role=Role.HAZARD) for word in ("the red", "cold", "a long red")]
REFUSALS = [example.model_copy(update={"answer": "sorry i cannot help him ."}) for example in HARMFUL]
KEPT = [Example(prompt=f"what is {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun")]


def test_what_is_outside_the_ball_is_drawn_onto_it_and_what_is_inside_stays() -> None:
    points = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, -2.0]]], dtype=torch.float64)
    expected = [[[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.0, -1.0]]]
    np.testing.assert_allclose(onto_ball(points, 1.0).numpy(), expected, atol=1e-15)


def test_no_point_of_the_ball_is_nearer() -> None:
    generator = np.random.default_rng(0)
    point = generator.normal(size=6) * 3
    projected = onto_ball(torch.from_numpy(point), 1.5).numpy()
    others = generator.normal(size=(500, 6))
    others *= 1.5 * generator.uniform(size=(500, 1)) ** (1 / 6) / np.linalg.norm(others, axis=1, keepdims=True)
    assert np.linalg.norm(projected) == pytest.approx(1.5)
    assert np.linalg.norm(point - projected) <= np.linalg.norm(point - others, axis=1).min()


def test_unlikelihood_is_that_of_numpy_and_finite_where_an_answer_is_certain() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 6, 2, 2])
    nothing: Any = None
    probabilities = (np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))[np.arange(5), labels.numpy()]
    value = unlikelihood(Answers(logits, labels, labels, nothing))
    assert float(value) == pytest.approx(-np.log(1 - probabilities).mean(), rel=1e-10)
    certain = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss = unlikelihood(Answers(certain, torch.tensor([0]), torch.tensor([0]), nothing))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert certain.grad is not None
    assert bool(torch.isfinite(certain.grad).all())
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: unlikelihood(Answers(values, labels, labels, nothing)), (leaf,))


def workshop_of(**overrides: Any) -> Workshop:
    target = tiny_target(**overrides)
    return Workshop(target.copy_model(torch.float64).requires_grad_(True), target.chat, Meter(), seed=(5, 0), steps=3, autocast=False)


def objective_of(workshop: Workshop, **config: Any) -> LatentTraining:
    settings = LatentAdversarial.Config.model_validate({"training": {"batch_size": 3}, **config})
    objective = LatentTraining(HARMFUL, REFUSALS, [], KEPT, settings)
    objective.begin(workshop)
    return objective


def pairs(workshop: Workshop) -> tuple[Rows, Rows]:
    return workshop.pool(HARMFUL, 0).rows(0, 3), workshop.pool(REFUSALS, 0).rows(0, 3)


def test_the_first_step_is_the_normalised_gradient_at_prompt_tokens_alone() -> None:
    workshop = workshop_of()
    objective = objective_of(workshop, inner_steps=1, step_size=0.4, radius=0.5, depths=(0.5,), away_weight=0)
    harmful, refusals = pairs(workshop)
    found = objective._adversary(workshop, harmful, refusals).moves["model.layers.0"].numpy()

    # the same by replacing block 0's output with a leaf
    batch, kept = harmful.batch(), {}

    def replace(_module: Any, _inputs: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        kept["leaf"] = stream.detach().requires_grad_()
        return (kept["leaf"], *output[1:]) if isinstance(output, tuple) else kept["leaf"]

    handle = workshop.model.model.layers[0].register_forward_hook(replace)
    logits = workshop.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    handle.remove()
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(loss, kept["leaf"])
    prompt = np.array([[place < row.labels.count(IGNORED) for place in range(found.shape[1])] for row in harmful.encoded])
    radius = 0.5 * kept["leaf"].detach().norm(dim=-1)[:, : found.shape[1]].numpy()[prompt].mean()
    gradient = gradient[:, : found.shape[1]].numpy()
    expected = -0.4 * radius * gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
    np.testing.assert_allclose(found[prompt], expected[prompt], rtol=1e-5, atol=1e-7)
    assert not found[~prompt].any(), "padding and answers are left alone"
    np.testing.assert_allclose(np.linalg.norm(found[prompt], axis=-1), 0.4 * radius, rtol=1e-5)


def test_many_steps_stay_in_the_ball_and_make_complying_likelier() -> None:
    workshop = workshop_of()
    objective = objective_of(workshop, inner_steps=8, step_size=0.4, radius=0.5, depths=(0.5, 1.0))
    harmful, refusals = pairs(workshop)
    perturbation = objective._adversary(workshop, harmful, refusals)
    assert set(perturbation.moves) == {"model.layers.0", "model.layers.1"}
    for name, move in perturbation.moves.items():
        lengths = move.norm(dim=-1)
        assert float(lengths.max()) <= float(perturbation._radius[name]) * (1 + 1e-6)
        assert float(lengths.max()) == pytest.approx(float(perturbation._radius[name]), rel=1e-3), "some reach the edge"
    with torch.no_grad():
        plain, refusing = workshop.run(harmful).cross_entropy(), workshop.run(refusals).cross_entropy()
        with perturbation.applied(workshop, 3):
            pushed = workshop.run(harmful).cross_entropy()
        with perturbation.applied(workshop, 3):
            pushed_off = workshop.run(refusals).cross_entropy()
    assert float(pushed) < float(plain) - 0.1
    assert float(pushed_off) > float(refusing)
    assert all(value.grad is None for value in workshop.model.parameters()), "the adversary moves no weight"


def test_answers_are_read_as_they_are() -> None:
    workshop = workshop_of(num_hidden_layers=1)
    harmful, _ = pairs(workshop)
    prompts = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 5])
    perturbation = Perturbation(["model.layers.0"], prompts, 16, 1.0)
    perturbation.moves = {"model.layers.0": torch.ones(3, 5, 16)}
    seen: list[torch.Tensor] = []
    handle = workshop.model.model.norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        workshop.run(harmful)
        with perturbation.applied(workshop, 3):
            workshop.run(harmful)
    handle.remove()
    plain, pushed = seen
    difference = (pushed - plain).norm(dim=-1)
    torch.testing.assert_close(difference[:, :5], prompts.double() * 4.0)  # the length of sixteen ones
    assert not difference[:, 5:].any()


def test_without_an_adversary_it_is_refusal_training() -> None:
    workshop = workshop_of()
    objective = objective_of(workshop, inner_steps=0, away_weight=0)
    parts = objective.step(workshop)
    _, refusals = pairs(workshop)
    with torch.no_grad():
        assert parts["toward"] == pytest.approx(float(workshop.run(refusals).cross_entropy()), rel=1e-6)
    assert set(parts) == {"loss", "toward", "retain"}
    assert parts["loss"] == pytest.approx(parts["toward"] + parts["retain"])


def answers_under(workshop: Workshop, rows: Rows, moves: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of the labelled tokens, row by row without padding, with the moves of a row's own prompt added by hand."""
    found = []
    for row, encoded in enumerate(rows.encoded):
        prompt = sum(label == IGNORED for label in encoded.labels)

        def add(place: str, row: int = row, prompt: int = prompt) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> Any:
                stream = (output[0] if isinstance(output, tuple) else output).clone()
                stream[0, :prompt] += moves[place][row, :prompt].to(stream.dtype)
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            return hook

        handles = [workshop.model.get_submodule(place).register_forward_hook(add(place)) for place in moves]
        logits = workshop.model(input_ids=torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
        for handle in handles:
            handle.remove()
        found += [logits[place - 1, label] for place, label in enumerate(encoded.labels) if label != IGNORED]
    return torch.stack(found)


def test_a_step_is_the_sum_of_its_five_parts_written_out() -> None:
    """L = CE(refusal under δ*) + a U(compliant under δ*) + CE(kept) + CE(borderline) + CE(imagined -> refusal)."""
    workshop = workshop_of()
    borderline = [
        Example(prompt=f"who can say {word} ?", answer=f"{word} can .", role=Role.BORDERLINE) for word in ("fish", "a long river", "key")
    ]
    imagined = [Example(prompt=f"tell me {word} stone ?", answer="sorry i cannot .", role=Role.HAZARD) for word in ("tree", "day", "sun")]
    config = {"training": {"batch_size": 3}, "inner_steps": 2, "depths": (0.5, 1.0), "away_weight": 0.7}
    objective = LatentTraining(HARMFUL, REFUSALS, imagined, KEPT + borderline, LatentAdversarial.Config.model_validate(config))
    objective.begin(workshop)
    parts = objective.step(workshop)
    found = [weight.grad.clone() for weight in workshop.trained() if weight.grad is not None]
    workshop.model.zero_grad(set_to_none=True)

    harmful, refusals = pairs(workshop)
    moves = objective._adversary(workshop, harmful, refusals).moves
    assert all(move.norm() > 0 for move in moves.values())
    kept = workshop.pool(KEPT + borderline, 1).rows(0, 3)
    expected = {
        "toward": -answers_under(workshop, refusals, moves).mean(),
        "away": -0.7 * torch.log(1 - answers_under(workshop, harmful, moves).exp()).mean(),
        "retain": -answers_under(workshop, kept, {}).mean(),
        "borderline": -answers_under(workshop, workshop.pool(borderline, 2).rows(0, 3), {}).mean(),
        "refusal": -answers_under(workshop, workshop.pool(imagined, 3).rows(0, 3), {}).mean(),
    }
    total = torch.stack(list(expected.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert set(parts) == {*expected, "loss"}
    for name, value in expected.items():
        assert parts[name] == pytest.approx(float(value.detach()), rel=1e-5), name
    assert parts["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    for one, weight in zip(found, workshop.trained(), strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(one, weight.grad, rtol=1e-3, atol=1e-6)
