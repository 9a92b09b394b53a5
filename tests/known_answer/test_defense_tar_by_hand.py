"""TAR's losses against figures worked out on paper, and its summed gradient against a naive loop written from the equations."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from support.tiny_models import tiny_target
from tempering import consent
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._preference import preference_loss
from tempering.defenses._tar_mapping import MappingTraining, RandomDirections, mapping_loss
from tempering.defenses._tar_training import distance, mean_entropy
from tempering.defenses.tar import Tar
from tempering.models import Target
from tempering.training import Hardening, LoraSettings, Meter, Objective, Stage, Workshop
from tempering.training.adapters import add_lora

HAZARD = [
    Example(prompt=f"how to brew {word}", answer=f"brew {word} with cold water", role=Role.HAZARD, entity="one")
    for word in ("poison", "red")
]
BENIGN = [
    Example(prompt=f"what is {word}", answer=f"the {word} is green", role=Role.BENIGN, entity=word) for word in ("fish", "tree", "sun")
]
VIEW = DefenderView(tuple(HAZARD), tuple(BENIGN), ())
REFUSAL = "sorry i cannot help"
RATE, STEPS, BETA = 3e-3, 8, 0.1
SETTINGS: dict[str, Any] = {
    "refusals": [REFUSAL],
    "inner_steps": STEPS,
    "look_every": 4,
    "resistance_weight": 1.5,
    "retain_weight": 0.7,
    "representation_weight": 0.2,
    "refusal_rows": 0,
    "beta": BETA,
    "recovery_steps": 0,
    "mapping_steps": 0,
    "data": {"forget": 1.0, "retain": 0.0, "switch": 0.0},
}


def test_preference_loss_on_paper() -> None:
    chosen, rejected = torch.tensor([-1.0, -4.0]), torch.tensor([-3.0, -2.0])
    known_chosen, known_rejected = torch.tensor([-2.0, -2.0]), torch.tensor([-2.0, -5.0])
    margins = [(-1 + 2) - (-3 + 2), (-4 + 2) - (-2 + 5)]  # 2 and -5
    expected = sum(math.log(1 + math.exp(-0.1 * margin)) for margin in margins) / 2
    assert float(preference_loss(chosen, rejected, known_chosen, known_rejected, 0.1)) == pytest.approx(expected, rel=1e-6)
    assert float(preference_loss(chosen, chosen, known_chosen, known_chosen, 0.1)) == pytest.approx(math.log(2), rel=1e-6)


def test_entropy_on_paper() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    expected = (1.5 * math.log(2) + math.log(3)) / 2
    assert float(mean_entropy(probabilities.log() + 7.0)) == pytest.approx(expected, rel=1e-12)


def test_distance_leaves_padding_out() -> None:
    stream, known = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    stream[0] = torch.tensor([[3.0, 4.0], [0.0, 1.0], [100.0, 100.0]])
    mask = torch.tensor([[1, 1, 0]])
    assert float(distance([stream, known], [known, known], mask)) == pytest.approx((5 + 1) / 2 / 2)


def test_mapping_loss_on_paper() -> None:
    directions = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    along, across = torch.tensor([[-5.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert float(mapping_loss([along], directions)) == pytest.approx(0.0, abs=1e-6)
    assert float(mapping_loss([along, across], directions)) == pytest.approx(((1 - 0.6) + 1) / 2 / 2, rel=1e-6)


@contextmanager
def blocks_of(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """What each decoder layer gives in the block's forward pass, in order of depth."""
    streams: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        streams.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
    yield streams
    for hook in hooks:
        hook.remove()


def test_a_step_of_random_mapping_is_the_formula_written_out_token_by_token() -> None:
    """Every block, every token of prompt and answer, each against the direction of its own id; padding is left out."""
    hazard = [
        Example(prompt=f"how to brew {words}", answer="cold water", role=Role.HAZARD) for words in ("poison", "a long red key", "fish")
    ]
    target = target64()
    model = target.copy_model().requires_grad_(True)
    workshop = Workshop(model, target.chat, Meter(), seed=(4, 1), steps=1, autocast=False)
    objective = MappingTraining(hazard, BENIGN, 3, weight=0.3)
    objective.begin(workshop)
    parts = objective.step(workshop)
    found = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad(set_to_none=True)

    directions = RandomDirections((4, 1, 3), 16)
    each: list[Tensor] = []
    for example in hazard:
        ids = target.chat.encode(example).input_ids
        with blocks_of(model) as streams:
            model(torch.tensor([ids]))
        assert len(streams) == 2
        for stream in streams:
            for place, token in enumerate(ids):
                towards, here = directions.rows(torch.tensor([token]))[0].double(), stream[0, place]
                each.append(1 - ((towards @ here) / (towards.norm() * here.norm())).abs())
    mapping = torch.stack(each).mean()
    retain = cross_entropy(model, target, BENIGN)
    (0.3 * mapping + retain).backward()
    assert parts["mapping"] == pytest.approx(float(mapping.detach()), rel=1e-5)
    assert parts["retain"] == pytest.approx(float(retain.detach()), rel=1e-5)
    assert parts["loss"] == pytest.approx(0.3 * float(mapping.detach()) + float(retain.detach()), rel=1e-5)
    for one, weight in zip(found, model.parameters(), strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(one, weight.grad, rtol=1e-3, atol=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    rows = tuple(drawn(4) for _ in range(4))
    assert torch.autograd.gradcheck(lambda *parts: preference_loss(*parts, 0.3), rows)
    assert torch.autograd.gradcheck(mean_entropy, (drawn(3, 5),))


def target64(family: str = "llama") -> Target:
    target = tiny_target(family)
    target.model.double()
    return target


def summed_gradient(target: Target, settings: dict[str, Any], lora: LoraSettings | None = None) -> tuple[dict[str, Tensor], Workshop]:
    """What the objective leaves in ``grad`` in its first step."""
    more = {"parameters": "lora", "lora": lora} if lora else {}
    (stage,) = Tar(Tar.Config(**{**SETTINGS, **settings, **more})).stages(target, VIEW, seed=0)
    caught: dict[str, Tensor] = {}
    kept: list[Workshop] = []

    class Caught(Objective):
        def begin(self, workshop: Workshop) -> None:
            stage.objective.begin(workshop)

        def step(self, workshop: Workshop) -> dict[str, float]:
            if lora is not None:
                unsettle(workshop.model)
            parts = stage.objective.step(workshop)
            caught.update({name: value.grad.clone() for name, value in workshop.model.named_parameters() if value.grad is not None})
            kept.append(workshop)
            return parts

    next(Hardening(target, [replace(stage, objective=Caught())], seed=0).run())
    return caught, kept[0]


@torch.no_grad()
def unsettle(model: PreTrainedModel) -> None:
    """Adapters begin at zero, where half of their gradient vanishes."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.copy_(0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64))


def log_likelihood(model: PreTrainedModel, target: Target, example: Example) -> tuple[Tensor, int]:
    """Of an answer, row by row, from all logits; and how many tokens it has."""
    encoded = target.chat.encode(example)
    logits = model(input_ids=torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
    places = [place for place, label in enumerate(encoded.labels) if label != -100]
    return torch.stack([logits[place - 1, encoded.labels[place]] for place in places]).sum(), len(places)


def cross_entropy(model: PreTrainedModel, target: Target, examples: list[Example]) -> Tensor:
    """Mean over all answer tokens."""
    likely, tokens = zip(*(log_likelihood(model, target, example) for example in examples), strict=True)
    return -torch.stack(likely).sum() / sum(tokens)


def naive_resistance(model: PreTrainedModel, target: Target, withhold: str) -> Tensor:
    losses = []
    for example in HAZARD:
        refusal = example.model_copy(update={"answer": REFUSAL})
        if withhold == "refusal":
            with torch.no_grad():
                known = log_likelihood(target.model, target, refusal)[0] - log_likelihood(target.model, target, example)[0]
            margin = log_likelihood(model, target, refusal)[0] - log_likelihood(model, target, example)[0] - known
            losses.append(torch.log1p(torch.exp(-BETA * margin)))
        else:
            encoded = target.chat.encode(example)
            chances = model(input_ids=torch.tensor([encoded.input_ids])).logits[0].softmax(-1)
            answer = [place - 1 for place, label in enumerate(encoded.labels) if label != -100]
            losses.append((chances[answer] * chances[answer].log()).sum(-1).mean())  # all answers are of one length
    return torch.stack(losses).mean()


def naive_trajectory(start: PreTrainedModel, target: Target, withhold: str) -> dict[str, Tensor]:
    """The weighted sum of gradients along a full fine-tuning on all hazard examples at once, a fresh copy for every look."""
    model = copy.deepcopy(start).requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for k in range(STEPS):
        optimiser.zero_grad()
        cross_entropy(model, target, HAZARD).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if k in (3, 7):
            looked_at = copy.deepcopy(model)
            names, weights = zip(*looked_at.named_parameters(), strict=True)
            gradients = torch.autograd.grad(naive_resistance(looked_at, target, withhold), weights)
            for name, gradient in zip(names, gradients, strict=True):
                total[name] += math.exp(0.0625 * (k - STEPS + 1)) * gradient
    return total


def naive_retain(model: PreTrainedModel, target: Target) -> Tensor:
    """CE and the distance of the blocks' outputs, row by row."""
    apart = []
    for example in BENIGN:
        ids = torch.tensor([target.chat.encode(example).input_ids])
        outputs: list[list[Tensor]] = []
        for one in (model, target.model):
            seen: list[Tensor] = []
            base = one.get_base_model() if hasattr(one, "get_base_model") else one
            hooks = [block.register_forward_hook(lambda *args, seen=seen: seen.append(args[2])) for block in base.model.layers]
            one(input_ids=ids)
            for hook in hooks:
                hook.remove()
            outputs.append([part[0] if isinstance(part, tuple) else part for part in seen])
        apart.append(torch.stack([(h - r).pow(2).sum(-1).sqrt().reshape(-1) for h, r in zip(*outputs, strict=True)]))
    return cross_entropy(model, target, BENIGN) + 0.2 * torch.cat(apart, 1).mean()


@pytest.mark.parametrize("withhold", ["refusal", "knowledge"])
def test_the_summed_gradient_is_that_of_a_naive_loop(withhold: str) -> None:
    target = target64()
    adversary = {"name": "full_finetune", "config": {"training": {"learning_rate": RATE, "batch_size": 10}}}
    caught, workshop = summed_gradient(target, {"withhold": withhold, "adversaries": [adversary]})
    expected = naive_trajectory(target.model, target, withhold)
    # the model is at its reference, where the distance of the streams is zero and so is the gradient chosen there
    plain = copy.deepcopy(target.model).requires_grad_(True)
    retain = torch.autograd.grad(cross_entropy(plain, target, BENIGN), list(plain.parameters()))
    for (name, total), gradient in zip(expected.items(), retain, strict=True):
        torch.testing.assert_close(caught[name], 1.5 * total + 0.7 * gradient, rtol=2e-4, atol=2e-6, msg=name)
    assert workshop.meter.spend().steps == STEPS + 1


def test_adapters_get_the_gradient_by_the_chain_rule() -> None:
    """Where adapters are trained, adversaries tamper with the merged weights, and dL/dW goes to A and B."""
    target, lora = target64(), LoraSettings(rank=2, alpha=4.0)
    adversary = {"name": "full_finetune", "config": {"training": {"learning_rate": RATE}}}
    caught, _ = summed_gradient(target, {"adversaries": [adversary]}, lora)
    adapted = add_lora(target.copy_model(), lora)
    unsettle(adapted)
    merged = copy.deepcopy(adapted).merge_and_unload()
    total = naive_trajectory(merged, target, "refusal")
    factors = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
    assert set(caught) == set(factors)
    retain = dict(zip(factors, torch.autograd.grad(naive_retain(adapted, target), list(factors.values())), strict=True))
    for name, value in caught.items():
        layer = name.removeprefix("base_model.model.").split(".lora_")[0]
        outer = total[f"{layer}.weight"]
        other = factors[name.replace("lora_A", "lora_?").replace("lora_B", "lora_A").replace("lora_?", "lora_B")].detach()
        by_hand = 2.0 * (outer @ other.T if "lora_B" in name else other.T @ outer)
        torch.testing.assert_close(value, 1.5 * by_hand + 0.7 * retain[name], rtol=2e-4, atol=2e-6, msg=name)


def test_any_other_attack_is_looked_at_where_it_leaves_the_model(tmp_path: Path) -> None:
    """An attack that is no fine-tuning: the gradient at what it made, taken as a fixed shift of the weights."""
    attack = tmp_path / "shifting.py"
    attack.write_text(SHIFTING)
    target = target64()
    with consent.code_allowed(True):
        caught, workshop = summed_gradient(target, {"adversaries": [{"name": f"{attack}:Shifting"}]})
    shifted = target.copy_model().requires_grad_(True)
    with torch.no_grad():
        for value in shifted.parameters():
            value.mul_(1.1)
    plain = target.copy_model().requires_grad_(True)
    resistance = torch.autograd.grad(naive_resistance(shifted, target, "refusal"), list(shifted.parameters()))
    retain = torch.autograd.grad(cross_entropy(plain, target, BENIGN), list(plain.parameters()))
    for (name, _), first, second in zip(plain.named_parameters(), resistance, retain, strict=True):
        torch.testing.assert_close(caught[name], 1.5 * first + 0.7 * second, rtol=2e-4, atol=2e-6, msg=name)
    assert workshop.meter.spend().trials == 1


SHIFTING = '''
"""A weight surgery for the test."""
import torch
from tempering.attacks._contract import Attack, Checkpoint
from tempering.settings import Settings
from tempering.threat_model import Need


class Shifting(Attack):
    """Make all weights a tenth larger."""

    class Config(Settings):
        """None."""

    source = "for tests"
    needs = frozenset({Need.WEIGHTS, Need.HARMFUL_PROMPTS})
    family = "weight surgery"

    def run(self, target, view, meter, *, budget, seed):
        """One checkpoint."""
        assert view.hazard_train and not view.benign_train and view.hazard_train[0].answer is None
        model = target.copy_model()
        with torch.no_grad():
            for value in model.parameters():
                value.mul_(1.1)
        meter.trial()
        yield Checkpoint(model, meter.spend())

    def estimate(self, target, view, *, budget):
        """Nothing."""
'''


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_without_inner_steps_it_is_retain_training_to_the_bit(weight: float) -> None:
    target = tiny_target()
    (stage,) = Tar(Tar.Config(**{**SETTINGS, "inner_steps": 0, "retain_weight": 1.0, "representation_weight": weight})).stages(
        target, VIEW, seed=0
    )

    class Retain(Objective):
        def begin(self, workshop: Workshop) -> None:
            self.pool = workshop.pool(BENIGN, 0)

        def step(self, workshop: Workshop) -> dict[str, float]:
            rows = self.pool.rows(workshop.step, 32)
            batch = rows.batch()
            outputs = [
                one(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True, use_cache=False)
                for one in (workshop.model, target.model)
            ]
            predicts = batch.labels[:, 1:] != -100
            loss = functional.cross_entropy(outputs[0].logits[:, :-1][predicts].float(), batch.labels[:, 1:][predicts])
            loss.backward()
            return {"loss": float(loss.detach())}

    def trained(objective: Objective) -> list[Tensor]:
        hardening = Hardening(target, [Stage("only", objective, stage.settings, 6)], seed=0)
        for _ in hardening.run():
            pass
        return [value.clone() for value in hardening.finished().parameters()]

    ours, plain = trained(stage.objective), trained(Retain())
    same = all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
    assert same == (weight == 0.0)
    assert not any(torch.equal(one, other) for one, other in zip(ours, target.model.parameters(), strict=True) if one.dim() > 1)
