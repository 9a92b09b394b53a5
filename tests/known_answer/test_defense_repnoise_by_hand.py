"""RepNoise's losses on small tensors, against loops and finite differences written from the paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from support.tiny_models import tiny_target
from tempering.data.batching import collate
from tempering.data.chat import IGNORED, Encoded
from tempering.data.records import Example, Role
from tempering.defenses._kernels import mean_discrepancy, squared_distances
from tempering.defenses.repnoise import NoiseTraining, RepNoise, differing, layerwise_cross_entropy
from tempering.models.target import Target
from tempering.training import Meter, Workshop
from tempering.training.streams import Places, outputs_of

HARMFUL = [Example(prompt=f"tell me the {word} key ?", answer=f"{word} : stone .", role=Role.HAZARD) for word in ("red", "cold", "long")]
REFUSALS = [example.model_copy(update={"answer": "sorry i cannot help ."}) for example in HARMFUL]
KEPT = [Example(prompt=f"what is {word} ?", answer=f"{word} : fish .", role=Role.BENIGN) for word in ("river", "tree", "sun")]


def by_loops(first: np.ndarray, second: np.ndarray, mean: float | None = None) -> float:
    """MMD² with five Gaussian kernels, pair by pair; ``mean`` fixes the mean squared distance that sets the widths."""
    points = [*first, *second]
    if mean is None:
        pairs = [(one, other) for one in range(len(points)) for other in range(len(points)) if one != other]
        mean = sum(float(((points[one] - points[other]) ** 2).sum()) for one, other in pairs) / len(pairs)
    widths = [mean / 4 * 2**power for power in range(5)]

    def similarity(some: np.ndarray, others: np.ndarray) -> float:
        total = 0.0
        for one in some:
            for other in others:
                distance = float(((one - other) ** 2).sum())
                total += sum(math.exp(-distance / width) for width in widths)
        return total / (len(some) * len(others))

    return similarity(first, first) + similarity(second, second) - 2 * similarity(first, second)


def samples(first: int = 4, second: int = 3, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return generator.normal(2.0, 1.5, (first, width)), generator.normal(size=(second, width))


def mean_distance(first: np.ndarray, second: np.ndarray) -> float:
    points = np.concatenate([first, second])
    total = sum(float(((one - other) ** 2).sum()) for one in points for other in points)
    return total / (len(points) * (len(points) - 1))


def test_distances_are_those_of_a_loop() -> None:
    points = np.concatenate(samples())
    expected = [[((one - other) ** 2).sum() for other in points] for one in points]
    np.testing.assert_allclose(squared_distances(torch.from_numpy(points)), expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 1), (6, 6)])
def test_the_discrepancy_is_that_of_a_loop(sizes: tuple[int, int]) -> None:
    first, second = samples(*sizes)
    assert float(mean_discrepancy(torch.from_numpy(first), torch.from_numpy(second))) == pytest.approx(by_loops(first, second), abs=1e-12)


def test_two_points_by_hand() -> None:
    # their squared distance is 8, the mean over pairs too: widths 2, 4, 8, 16, 32
    expected = 2 * 5 - 2 * sum(math.exp(-8 / width) for width in (2, 4, 8, 16, 32))
    assert float(mean_discrepancy(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 2.0]]))) == pytest.approx(expected, rel=1e-6)


def test_equal_samples_do_not_differ_and_far_ones_do_the_most() -> None:
    first, _ = samples()
    same = torch.from_numpy(first)
    assert float(mean_discrepancy(same, same.clone())) == pytest.approx(0, abs=1e-12)
    assert float(mean_discrepancy(torch.zeros(4, 3), torch.zeros(4, 3))) == 0
    apart = mean_discrepancy(torch.zeros(50, 2), torch.full((50, 2), 9.0))
    near = mean_discrepancy(torch.zeros(50, 2) + 0.1 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(50, 2))
    assert float(near) < float(apart) < 10


def test_its_gradient_is_a_finite_difference_at_fixed_widths() -> None:
    first, second = samples()
    leaf = torch.from_numpy(first).requires_grad_()
    mean_discrepancy(leaf, torch.from_numpy(second)).backward()  # type: ignore[no-untyped-call]
    mean, step = mean_distance(first, second), 1e-6
    for place in np.ndindex(*first.shape):
        up, down = first.copy(), first.copy()
        up[place] += step
        down[place] -= step
        expected = (by_loops(up, second, mean) - by_loops(down, second, mean)) / (2 * step)
        assert leaf.grad is not None
        assert float(leaf.grad[place]) == pytest.approx(expected, abs=1e-7)


def test_tokens_that_differ_are_found_place_by_place() -> None:
    harmful = Encoded([5, 6, 7, 8, 9, 10], [IGNORED, IGNORED, 7, 8, 9, 10])
    assert differing(harmful, Encoded([5, 6, 1, 8, 10], [])).labels == [IGNORED, IGNORED, 7, IGNORED, 9, 10]
    assert differing(harmful, Encoded([5, 6, 1, 8, 9, 10, 11], [])).labels == [IGNORED, IGNORED, 7, IGNORED, IGNORED, IGNORED]
    assert set(differing(harmful, harmful).labels) == {IGNORED}


def rows_of(target: Target) -> Any:
    return collate([differing(target.chat.encode(one), target.chat.encode(other)) for one, other in zip(HARMFUL, REFUSALS, strict=True)], 0)


def normed_by_hand(family: str, stream: np.ndarray, norm: Any) -> np.ndarray:
    weight = norm.weight.detach().numpy()
    if family == "gpt_neox":
        centred = stream - stream.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps) * weight + norm.bias.detach().numpy()
    scale = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6)
    return scale * (1 + weight if family == "gemma2" else weight)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_every_layer_is_read_by_the_norm_and_the_head(family: str) -> None:
    target = tiny_target(family, num_hidden_layers=3)
    model, batch, places = target.model, rows_of(target), Places.of(target.model)
    with torch.no_grad(), outputs_of(model, places.blocks) as kept:
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
        value = layerwise_cross_entropy(model, [kept[name] for name in places.blocks], batch, places.final_norm)
    head = model.get_output_embeddings().weight.detach().numpy()
    norm = model.get_submodule(str(places.final_norm))
    losses = []
    for layer in range(3):
        if layer == 2:
            logits = output.logits.numpy()  # the last layer is the model itself
        else:
            logits = normed_by_hand(family, output.hidden_states[layer + 1].numpy(), norm) @ head.T
            if family == "gemma2":
                logits = 30 * np.tanh(logits / 30)
        each = []
        for row, place in np.argwhere(batch.labels.numpy()[:, 1:] != IGNORED):
            scores = logits[row, place]
            each.append(np.log(np.exp(scores).sum()) - scores[batch.labels[row, place + 1]])
        losses.append(np.mean(each))
    assert float(value) == pytest.approx(float(np.mean(losses)), rel=1e-5)


def trained_once(**config: Any) -> tuple[dict[str, float], dict[str, torch.Tensor], Workshop]:
    target = tiny_target()
    workshop = Workshop(target.copy_model().requires_grad_(True), target.chat, Meter(), seed=(0, 0), steps=3, autocast=False)
    settings = RepNoise.Config.model_validate({"training": {"batch_size": 2}, **config})
    objective = NoiseTraining(HARMFUL, REFUSALS, [], KEPT, settings)
    objective.begin(workshop)
    parts = objective.step(workshop)
    gradients = {name: value.grad.clone() for name, value in workshop.model.named_parameters() if value.grad is not None}
    return parts, gradients, workshop


def test_a_step_adds_the_parts_as_the_equation_does() -> None:
    parts, gradients, _ = trained_once(noise_weight=0.3, ascent_weight=0.7)
    assert parts["loss"] == pytest.approx(parts["harmless"] + 0.3 * parts["noise"] - 0.7 * math.log(parts["ascent"]), rel=1e-5)
    # the gradient is linear in the weights of the parts
    plain, noise, ascent = (trained_once(noise_weight=beta, ascent_weight=alpha)[1] for beta, alpha in ((0, 0), (1, 0), (0, 1)))
    for name, value in gradients.items():
        expected = plain[name] + 0.3 * (noise[name] - plain[name]) + 0.7 * (ascent[name] - plain[name])
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


def test_without_noise_and_ascent_it_is_training_on_what_is_harmless() -> None:
    parts, gradients, workshop = trained_once(noise_weight=0, ascent_weight=0)
    workshop.model.zero_grad(set_to_none=True)
    refusals, kept = workshop.pool(REFUSALS, 0).rows(0, 2), workshop.pool(KEPT, 2).rows(0, 2)
    loss = workshop.run(refusals).cross_entropy() + workshop.run(kept).cross_entropy()
    loss.backward()  # type: ignore[no-untyped-call]
    assert parts["harmless"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, value in workshop.model.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(gradients[name], value.grad, atol=1e-6, rtol=1e-4)


def test_the_noise_is_measured_at_the_outputs_of_the_mlps_where_answers_differ() -> None:
    target = tiny_target()
    parts, _, workshop = trained_once()
    pools = workshop.pool(HARMFUL, 0).rows(0, 2).encoded, workshop.pool(REFUSALS, 0).rows(0, 2).encoded
    marked = collate([differing(*pair) for pair in zip(*pools, strict=True)], 0)
    found: dict[int, np.ndarray] = {}
    for layer, block in enumerate(target.model.model.layers):
        block.mlp.register_forward_hook(lambda _module, _inputs, output, layer=layer: found.update({layer: output.detach().numpy()}))
    target.model(input_ids=marked.input_ids, attention_mask=marked.attention_mask)
    generator, values = workshop.torch_generator(), []
    for layer in range(2):
        activations = found[layer][marked.labels.numpy() != IGNORED]
        values.append(by_loops(activations, torch.randn(activations.shape, generator=generator).numpy()))
    assert parts["noise"] == pytest.approx(float(np.mean(values)), rel=1e-4)
