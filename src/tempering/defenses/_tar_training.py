"""TAR's outer loop: gradients of the resistance along tampered trajectories, and of what must stay as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tempering.data.asking import PLAIN, Asking
from tempering.data.records import AttackerView, Example
from tempering.defenses._preference import paired, preference_loss, reference_log_likelihoods
from tempering.defenses._tar_adversaries import Adversaries, Look, divided, picked
from tempering.defenses._tar_working import WayBack
from tempering.models import Target
from tempering.training import Answers, Held, Objective, Pool, Rows, Sizes, Workshop
from tempering.training.objective import FLOAT32
from tempering.training.pieces import short_and_long
from tempering.training.streams import outputs_of


@dataclass(frozen=True)
class Lessons:
    """What TAR trains with.

    Attributes:
        hazard: questions with the answers that are withheld, for adversaries and for the resistance.
        imagined: likewise, about things that do not exist, with answers made up.
        refusals: by question with its answer, the same question refused.
        benign: questions with answers for adversaries.
        kept: what must still be answered, in groups that have equal shares of a batch.
        also_refused: prompts with refusals that are rehearsed beside it.
    """

    hazard: Sequence[Example]
    imagined: Sequence[Example]
    refusals: Mapping[Example, Example]
    benign: Sequence[Example]
    kept: Sequence[Sequence[Example]]
    also_refused: Sequence[Example] = ()


@dataclass(frozen=True)
class Outer:
    """Numbers of the outer loop.

    Attributes:
        resists: by refusing or by not knowing.
        resistance_weight: lambda_TR.
        retain_weight: lambda_retain.
        representation_weight: of mean ||h - h_ref|| within the retain part.
        batch_size: rows of the retain part.
        refusal_rows: rows of it that are refusals.
        held_out: share of the hazard's entities that the adversary does not hold.
        held_out_batch: x_TR, examples.
        imagined: share of what is made up, in x_TR and among the adversary's examples.
        beta: DPO's.
    """

    resists: Literal["refusal", "knowledge"]
    resistance_weight: float
    retain_weight: float
    representation_weight: float
    batch_size: int
    refusal_rows: int
    held_out: float
    held_out_batch: int
    imagined: float
    beta: float


class TamperResistance(Objective):
    """lambda_TR g_TR + lambda_retain grad [CE(retain) + w mean over layers ||h_theta - h_ref||_2], as the defence ``tar`` has it."""

    def __init__(self, target: Target, adversaries: Adversaries | None, lessons: Lessons, outer: Outer) -> None:
        """Keep what it trains with.

        Args:
            target: the model before, for its chat and names.
            adversaries: ``None`` is K = 0, retain training.
            lessons: examples.
            outer: numbers.
        """
        self._target = target
        self._adversaries = adversaries
        self._lessons = lessons
        self._outer = outer
        self._pools: list[tuple[Pool, int]] = []
        self._reference: PreTrainedModel | None = None
        self._way_back: WayBack | None = None
        self._known: dict[Example, Tensor] = {}

    def holds(self, sizes: Sizes) -> Held:
        """The model before, which adapters need no copy of, and what an adversary works on and with; all of that is float32."""
        before = 0 if sizes.adapters else sizes.weights * sizes.element
        if self._adversaries is None:
            return Held(before, 0, sizes.batch_size)
        asked = self._outer.held_out_batch * (2 if self._outer.resists == "refusal" else 1)
        rows = max(sizes.batch_size, asked, self._adversaries.rows)
        return Held(before + FLOAT32 * sizes.weights, self._adversaries.bytes_held(sizes.model), rows)

    def begin(self, workshop: Workshop) -> None:
        """Copy the model as reference and as working model; ask the reference how likely it finds every answer."""
        lessons, outer = self._lessons, self._outer
        refusing = outer.refusal_rows if lessons.also_refused else 0
        groups = [group for group in lessons.kept if group]
        share = max(1, (outer.batch_size - refusing) // len(groups))
        self._pools = [(workshop.pool(group, purpose), share) for purpose, group in enumerate(groups)]
        if refusing:
            self._pools.append((workshop.pool(lessons.also_refused, len(groups)), refusing))
        self._way_back = None
        self._reference = copy.deepcopy(workshop.model).requires_grad_(False).eval()
        if self._adversaries is None:
            return
        self._adversaries.begin(self._target, workshop)
        if outer.resists == "refusal":
            examples = [*lessons.refusals.values(), *lessons.refusals]
            likely = reference_log_likelihoods(self._rows(examples, PLAIN, workshop), lambda rows: self._recalled(workshop, rows))
            self._known = dict(zip(examples, likely, strict=True))

    def step(self, workshop: Workshop) -> dict[str, float]:
        """One outer step."""
        if self._reference is not None and isinstance(workshop.model, PeftModel):
            self._reference = None  # the model with its adapters off is the reference, and needs no memory
        parts = {} if self._adversaries is None else self._resist(workshop, self._adversaries)
        parts |= self._retain(workshop)
        outer = self._outer
        retain = parts["retain"] + outer.representation_weight * parts["representation"]
        return {"loss": outer.resistance_weight * parts.get("resistance", 0.0) + outer.retain_weight * retain, **parts}

    def _resist(self, workshop: Workshop, adversaries: Adversaries) -> dict[str, float]:
        """Sum the gradients of the resistance along one trajectory; the mean of the losses on its way and the last one."""
        if self._way_back is None:
            self._way_back = WayBack(workshop.model)
        view, held_out = self._division(workshop.generator(3))
        losses = []
        for look in adversaries.looks(workshop, view):
            with self._way_back.gradients_at(look.model):
                loss = self._resistance(workshop, look, held_out)
                loss.backward()  # type: ignore[no-untyped-call]
            self._way_back.take(look.model, self._outer.resistance_weight * look.weight)
            losses.append(float(loss.detach()))
        return {"resistance": float(np.mean(losses)), "last": losses[-1]} if losses else {"resistance": 0.0, "last": 0.0}

    def _division(self, generator: np.random.Generator) -> tuple[AttackerView, list[Example]]:
        """What this step's adversary holds, and x_TR."""
        lessons, outer = self._lessons, self._outer
        held, rest = divided(lessons.hazard, outer.held_out, generator)
        made_up = round(outer.imagined * outer.held_out_batch) if lessons.imagined else 0
        batch = picked(held, outer.held_out_batch - made_up, generator)
        if made_up:
            also_held, also_rest = divided(lessons.imagined, outer.held_out, generator)
            batch += picked(also_held, made_up, generator)
            rest = rest + picked(also_rest, round(len(rest) * outer.imagined / (1 - outer.imagined)), generator)
        validation, train = divided(rest, 0.2, generator)
        benign_validation, benign_train = divided(lessons.benign, 0.2, generator)
        return AttackerView(tuple(train), tuple(validation), tuple(benign_train), tuple(benign_validation)), batch

    def _resistance(self, workshop: Workshop, look: Look, hazard: Sequence[Example]) -> Tensor:
        """L_TR on the held-out batch, asked as the adversary asks."""
        model, asking, count = look.model, look.asking, look.count
        if self._outer.resists == "knowledge":
            return -mean_entropy(workshop.run(self._rows(hazard, asking, workshop), model, count).logits)
        examples = [*(self._lessons.refusals[example] for example in hazard), *hazard]
        rows = self._rows(examples, asking, workshop)
        if asking == PLAIN:
            reference = torch.stack([self._known[example] for example in examples])
        else:
            with torch.no_grad():
                reference = self._recalled(workshop, rows).log_likelihoods()
        known_chosen, known_rejected = reference.chunk(2)
        chosen, rejected = paired(workshop.run(rows, model, count))
        return preference_loss(chosen, rejected, known_chosen, known_rejected, self._outer.beta)

    def kept_rows(self, step: int) -> list[Rows]:
        """The retain batch of a step, in pieces of similar length."""
        first, *others = (pool.rows(step, size) for pool, size in self._pools)
        rows = sum(others, start=first)
        return [rows.part(places) for places in short_and_long(rows.lengths)]

    def _retain(self, workshop: Workshop) -> dict[str, float]:
        """The gradient of what must stay as it is, piece by piece."""
        outer, pieces = self._outer, self.kept_rows(workshop.step)
        labelled, tokens = sum(piece.labelled for piece in pieces), sum(sum(piece.lengths) for piece in pieces)
        parts = {"retain": 0.0, "representation": 0.0}
        for piece in pieces:
            answers, apart = self._apart(workshop, piece) if outer.representation_weight else (workshop.run(piece), None)
            loss = answers.cross_entropy() * (piece.labelled / labelled)
            parts["retain"] += float(loss.detach())
            if apart is not None:
                apart = apart * (sum(piece.lengths) / tokens)
                parts["representation"] += float(apart.detach())
                loss = loss + outer.representation_weight * apart
            (outer.retain_weight * loss).backward()  # type: ignore[no-untyped-call]
        return parts

    def _apart(self, workshop: Workshop, rows: Rows) -> tuple[Answers, Tensor]:
        """Answers, and how far the residual streams are from the reference's."""
        blocks = workshop.places.blocks
        with torch.no_grad(), self._reference_model(workshop) as reference, outputs_of(reference, blocks) as known:
            workshop.run(rows, reference)
        with outputs_of(workshop.model, blocks) as streams:
            answers = workshop.run(rows)
        mask = answers.batch.attention_mask
        return answers, distance([streams[block] for block in blocks], [known[block] for block in blocks], mask)

    def _recalled(self, workshop: Workshop, rows: Rows) -> Answers:
        with self._reference_model(workshop) as reference:
            return workshop.run(rows, reference)

    @contextmanager
    def _reference_model(self, workshop: Workshop) -> Iterator[PreTrainedModel]:
        """The model before: a copy of it, or the one that is trained with its adapters off."""
        if self._reference is not None:
            yield self._reference
            return
        off = workshop.model.disable_adapter() if isinstance(workshop.model, PeftModel) else nullcontext()
        with off:
            yield workshop.model

    def _rows(self, examples: Sequence[Example], asking: Asking, workshop: Workshop) -> Rows:
        """Examples as they are asked, encoded once."""
        assert self._adversaries is not None
        encoded = tuple(self._adversaries.encode(asking, example) for example in examples)
        return Rows(encoded, tuple(example.identity for example in examples), workshop.chat.pad_id)


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean over positions of the entropy of the next token, in nats.

    Args:
        logits: (positions, vocabulary).
    """
    log_probabilities = logits.log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1).mean()


def distance(streams: Sequence[Tensor], known: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean over layers and tokens of the Euclidean distance between residual streams.

    Args:
        streams: of every layer, (rows, tokens, width).
        known: likewise, of the reference.
        mask: (rows, tokens), one over tokens and zero over padding.
    """
    tokens = mask.bool()
    each = [(stream - other)[tokens].float().norm(dim=-1).mean() for stream, other in zip(streams, known, strict=True)]
    return torch.stack(each).mean()
