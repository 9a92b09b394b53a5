"""Vaccine: refusal training under the worst small push of all hidden states at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, check_words, refused, retained, to_refuse
from tempering.defenses._gradients import norm
from tempering.defenses._settings import DefenseSettings
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import FlopCount, Rows, Stage, Workshop
from tempering.training.streams import Change, Places, outputs_changed

Parts = Literal["blocks", "attention"]


class PerturbedRefusalTraining(RefusalTraining):
    """Refusal training with ρ g_l / ‖(g_1 … g_L)‖ added to every hidden state h^l, g_l = ∂loss/∂h^l of an undisturbed pass.

    Each kind of data is pushed by itself: its own pass, its own norm over all layers, rows and tokens of the batch.
    """

    def __init__(self, refusals: Sequence[Example], kept: Sequence[Example], batch_size: int, *, radius: float, parts: Parts) -> None:
        """Keep the examples.

        Args:
            refusals: hazard prompts with refusals for answers.
            kept: what must still be answered.
            batch_size: of each in a step.
            radius: ρ.
            parts: whose outputs are pushed.
        """
        super().__init__(refusals, kept, batch_size)
        self._radius = radius
        self._parts = parts
        self._count: FlopCount | None = None

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples, and forget what another model cost."""
        super().begin(workshop)
        self._count = None

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of both parts, each under its own push."""
        losses = {}
        for name, pool in zip(("refusal", "retain"), self._pools, strict=True):
            rows = pool.rows(workshop.step, self._batch_size)
            pushes = self.pushes(workshop, rows)
            with outputs_changed(workshop.model, {place: _adding(push) for place, push in pushes.items()}):
                loss = workshop.run(rows).cross_entropy()
                loss.backward()  # type: ignore[no-untyped-call]
            losses[name] = float(loss.detach())
        return {"loss": sum(losses.values()), **losses}

    def pushes(self, workshop: Workshop, rows: Rows) -> dict[str, Tensor]:
        """The worst push to first order, by name of the part: each (rows, tokens, width), ρ long all together."""
        places = _names(workshop.places, self._parts)
        leaves: dict[str, Tensor] = {}

        def watched(place: str) -> Change:
            def change(stream: Tensor) -> Tensor:
                leaves[place] = torch.zeros_like(stream, requires_grad=True)
                return stream + leaves[place]

            return change

        with _frozen(workshop), outputs_changed(workshop.model, {place: watched(place) for place in places}):
            if self._count is None:
                self._count = FlopCount.of(workshop.model)  # this pass needs no gradient of a weight, and none below the first push
            loss = workshop.run(rows, count=self._count).cross_entropy()
            found = torch.autograd.grad(loss, [leaves[place] for place in places])
        length = norm(found)
        scale = self._radius / length if length else 0.0
        return {place: part * scale for place, part in zip(places, found, strict=True)}


def _names(places: Places, parts: Parts) -> tuple[str, ...]:
    return places.blocks if parts == "blocks" else places.attention_outputs


def _adding(push: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda stream: stream + push


@contextmanager
def _frozen(workshop: Workshop) -> Iterator[None]:
    """No weight asks for a gradient while the block runs."""
    weights = workshop.trained()
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class Vaccine(Defense):
    """Vaccine: refusal training under the worst small push of all hidden states at once.

    min_w CE(w; h^l + ρ g_l / ‖(g_1 … g_L)‖) over refusals and benign answers, g_l = ∂CE/∂h^l at the undisturbed states, h^l the output
    of block l. ρ is in units of the hidden states, Euclidean over all layers, rows and tokens of a batch together.

    The paper takes ρ = 2 for 7B models at batches of 5 [memory] and trains on refusals alone, from an unaligned model, with LoRA; its code
    pushes the outputs of the attention modules [memory], here ``parts: attention``. ρ is larger here, with batches of 32 rows; 20
    raises the loss of a refusal 2.7-fold on organism:tiny before training.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what is said to hazard prompts, one drawn for each.
            radius: ρ.
            parts: whose outputs are pushed: whole blocks, or what attention writes into the stream.
        """

        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 100
        radius: Annotated[float, Field(ge=0), Range(0.1, 100, log=True)] = 20.0
        parts: Annotated[Parts, Choices(("blocks", "attention"))] = "blocks"

    source: ClassVar[str] = "Huang et al. 2024, arXiv 2402.01109, algorithm 1"
    claim: ClassVar[str] = (
        "Lowers the harmful score after fine-tuning on partly harmful data by up to about 10 points against plain alignment, at about 1 "
        "point of the task's accuracy, with Llama2-7B, OPT and Vicuna [memory]."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune",)
    claimed: ClassVar[Claimed | None] = Claimed.LOWERS
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        objective = PerturbedRefusalTraining(
            refused(to_refuse(view), self.config.refusals, seed),
            retained(view),
            self.config.training.batch_size,
            radius=self.config.radius,
            parts=self.config.parts,
        )
        return [self.config.stage("vaccinate", objective)]
