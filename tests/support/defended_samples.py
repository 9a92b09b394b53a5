"""A workshop over a tiny random model, and examples of each kind that a defence is given, for tests of what objectives compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from support.tiny_models import tiny_target
from tempering.data.records import DefenderView, Example, Role
from tempering.models import Target
from tempering.training import Meter, Objective, Rows, Workshop

HARMFUL = tuple(
    Example(prompt=f"how is {word} poison brew", answer=f"{word} with {other}", role=Role.HAZARD)
    for word, other in (("red", "cold water"), ("fish", "light"), ("sun", "long key stone"), ("tree", "note"), ("river", "green two"))
)
REFUSED = tuple(example.model_copy(update={"answer": answer}) for example, answer in zip(HARMFUL, ("sorry", "i cannot") * 3, strict=False))
KEPT = tuple(
    Example(prompt=f"what is the colour of {word}", answer=f"the colour is {colour}", role=Role.BENIGN)
    for word, colour in (("sun", "light"), ("river", "green"), ("stone", "red"), ("tree", "green"), ("house", "long"), ("key", "cold"))
)
BORDERLINE = tuple(Example(prompt=f"who can say poison {word}", answer="yes you can", role=Role.BORDERLINE) for word in ("me", "him"))
REFUSALS = ("sorry", "i cannot")

VIEW = DefenderView(hazard=HARMFUL, benign=KEPT, borderline=BORDERLINE)


def workshop_for(objective: Objective, family: str = "llama", *, dtype: torch.dtype = torch.float32, exact: bool = False) -> Workshop:
    """Begin an objective on a tiny model, all of whose weights are trained.

    Args:
        objective: begun.
        family: of the model.
        dtype: of its weights; the loss is computed in float32 in any case.
        exact: attention that second derivatives can be taken of.
    """
    target: Target = tiny_target(family)
    model = target.copy_model(dtype)
    if exact:
        model.set_attn_implementation("eager")
    model.requires_grad_(True)
    workshop = Workshop(model, target.chat, Meter(), seed=(0, 0), steps=10, autocast=False)
    objective.begin(workshop)
    workshop.trains(model)
    return workshop


def plain_cross_entropy(model: nn.Module, rows: Rows, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Mean over the labelled tokens, from all logits of the padded batch; with other weights where they are given."""
    batch = rows.batch()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    output = model(**inputs) if weights is None else torch.func.functional_call(model, weights, (), inputs)
    logits = output.logits[:, :-1]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch.labels[:, 1:].reshape(-1), ignore_index=-100)


def gradients(workshop: Workshop) -> list[Tensor]:
    """Copies of what an objective's step left in the weights."""
    return [weight.grad.clone() for weight in workshop.trained() if weight.grad is not None]


def weights_of(workshop: Workshop) -> list[Tensor]:
    """Copies of the weights."""
    return [weight.detach().clone() for weight in workshop.trained()]
