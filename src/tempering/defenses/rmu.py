"""RMU: representation misdirection, the middle of the model is steered away wherever the hazard is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from tempering.data.chat import IGNORED
from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._distillation import frozen_copy
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import Held, Objective, Pool, Rows, Sizes, Stage, Workshop
from tempering.training.streams import Places, outputs_of


def misdirection(states: Tensor, towards: Tensor, here: Tensor) -> Tensor:
    """Mean squared distance ‖h - towards‖² over the places that count: a sum over the width, as in the paper.

    UNDO's suppression of the same kind takes the mean over the width; :func:`tempering.defenses._suppression.steering_loss` says why.

    Args:
        states: (rows, tokens, width).
        towards: broadcast to the states: one vector for all, or other states.
        here: (rows, tokens), which places count; at least one.
    """
    return torch.mean((states - towards).square().sum(-1)[here])


def unit_vector(width: int, generator: torch.Generator) -> Tensor:
    """(width,), of length 1, its entries drawn uniformly from [0, 1) as in the paper; UNDO's suppression draws every direction alike."""
    drawn = torch.rand(width, generator=generator)
    unit: Tensor = drawn / drawn.norm()
    return unit


class Misdirection(Objective):
    """‖h_l - c u‖² on hazard text + α ‖h_l - h_l before‖² on what is kept + w CE(hazard prompts -> refusal)."""

    frozen_copies = 1

    def __init__(self, harmful: Sequence[Example], kept: Sequence[Example], refusals: Sequence[Example], config: Rmu.Config) -> None:
        """Keep the examples.

        Args:
            harmful: hazard prompts with compliant answers.
            kept: what must still be answered.
            refusals: hazard prompts with refusals for answers.
            config: layer, weights of the parts, and the batch.
        """
        self._examples = harmful, kept, refusals
        self._config = config
        self._pools: tuple[Pool, ...] = ()
        self._before: PreTrainedModel
        self._block = ""
        self._towards: Tensor

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples, copy the model, and draw where to steer."""
        self._pools = tuple(workshop.pool(examples, purpose) for purpose, examples in enumerate(self._examples))
        self._before = frozen_copy(workshop.model)
        places = workshop.places
        self._block = places.blocks[self._layer(places)]
        unit = unit_vector(places.hidden_size, torch.Generator().manual_seed(int(workshop.generator(7).integers(2**62))))
        self._towards = unit.to(workshop.device) * self._length(workshop)

    def _layer(self, places: Places) -> int:
        """Index of the block that is steered."""
        return max(1, round(self._config.depth * len(places.blocks))) - 1

    def trains(self, name: str, places: Places) -> bool:
        """The output projections of the MLPs in the last layers up to the one that is steered."""
        last = self._layer(places) + 1
        return any(name in names for names in places.mlp_output_weights[max(0, last - self._config.layers) : last])

    def holds(self, sizes: Sizes) -> Held:
        """The model before; refusals that are among what is kept are read with it as one batch."""
        return replace(super().holds(sizes), rows=sizes.batch_size * (2 if self._spares_prompts else 1))

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of the parts, one graph at a time."""
        size = self._config.training.batch_size
        harmful, kept, refusals = (pool.rows(workshop.step, size) for pool in self._pools)
        parts = {}
        for name, part in (
            ("forget", partial(self._forget, workshop, harmful)),
            ("retain", partial(self._retain, workshop, kept + refusals if self._spares_prompts else kept)),
            ("refusal", partial(self._refusal, workshop, refusals)),
        ):
            loss = part()
            loss.backward()  # type: ignore[no-untyped-call]
            parts[name] = float(loss.detach())
        return {"loss": sum(parts.values()), **parts}

    @property
    def _spares_prompts(self) -> bool:
        """Whether hazard prompts are read as before, so that their refusals can be among what is kept."""
        return bool(self._config.forget_tokens == "answers")

    def _forget(self, workshop: Workshop, rows: Rows) -> Tensor:
        states, here = self._states(workshop, rows)
        return misdirection(states, self._towards, here)

    def _retain(self, workshop: Workshop, rows: Rows) -> Tensor:
        with torch.no_grad(), outputs_of(self._before, [self._block]) as before:
            workshop.run(rows, self._before)
        with outputs_of(workshop.model, [self._block]) as now:
            batch = workshop.run(rows).batch
        distance = misdirection(now[self._block].float(), before[self._block].float(), batch.attention_mask.bool())
        return self._config.retain_weight * distance

    def _refusal(self, workshop: Workshop, rows: Rows) -> Tensor:
        return self._config.refusal_weight * workshop.run(rows).cross_entropy()

    def _states(self, workshop: Workshop, rows: Rows) -> tuple[Tensor, Tensor]:
        """What the steered block gives for hazard text, and where in it to steer."""
        with outputs_of(workshop.model, [self._block]) as states:
            batch = workshop.run(rows).batch
        here = batch.labels != IGNORED if self._spares_prompts else batch.attention_mask.bool()
        return states[self._block].float(), here

    @torch.no_grad()
    def _length(self, workshop: Workshop) -> Tensor:
        """c: the coefficient times the mean length of the states that will be steered, over the first batch of hazard text."""
        states, here = self._states(workshop, self._pools[0].rows(0, self._config.training.batch_size))
        length: Tensor = self._config.steering * states.norm(dim=-1)[here].mean()
        return length


class _Training(DefenseTraining):
    """The loop's settings with this defence's defaults."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-3
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16


class Rmu(Defense):
    """Representation misdirection: hazard text is steered to one random direction in the middle of the model.

    L = E ‖h_l(x_hazard) - c u‖² + α E ‖h_l(x_kept) - h_l before(x_kept)‖², h_l the residual stream behind block l, squared lengths averaged
    over tokens, u a unit vector with entries drawn from [0, 1) by the seed. Only the MLP output projections of blocks l - 2 … l move.

    Differences. The paper's c (6.5 for a 7B model at block 7 of 32) is a length; here it is given in mean lengths of the steered states, so
    that it means the same on every model. The paper steers whole texts, and what a steered model says is gibberish. This one shall go on
    refusing: the answers alone are steered, refused hazard prompts (imagined ones too) are among what is kept, and w CE(hazard -> refusal)
    stands beside. With ``forget_tokens: all`` prompts are steered too, and refusals of held-out hazards fell from 1.00 to .12 on
    ``organism:tiny``. The paper trains 150 steps of 4 at 5e-5 with α = 1200; rates here are fitted to small models.

    The count of FLOPs takes every backward pass to begin at the head; that of the steering begins at block l.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            depth: the block that is steered, as a share of all blocks.
            layers: how many blocks up to it move.
            steering: c, in mean lengths of the steered states.
            retain_weight: α.
            refusal_weight: w.
            forget_tokens: steer hazard prompts and answers, or the answers alone.
            refusals: what is said to hazard prompts, one drawn for each.
        """

        depth: Annotated[float, Field(gt=0, le=1), Choices((0.25, 0.5, 0.75))] = 0.5
        layers: Annotated[int, Field(gt=0)] = 3
        steering: Annotated[float, Field(gt=0), Range(0.5, 20, log=True)] = 2.0
        retain_weight: Annotated[float, Field(ge=0), Range(1, 1e3, log=True)] = 10.0
        refusal_weight: Annotated[float, Field(ge=0), Range(0.1, 100, log=True)] = 30.0
        forget_tokens: Annotated[Literal["all", "answers"], Choices(("all", "answers"))] = "answers"
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        training: _Training = _Training()

    source: ClassVar[str] = "Li et al. 2024, arXiv 2403.03218, section 4"
    claim: ClassVar[str] = (
        "Zephyr-7B's accuracy on WMDP-Bio falls from 63.7 to 31.2 % at the price of 1 to 2 points of MMLU; its authors name fine-tuning "
        "as what it does not withstand."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    withholds: ClassVar[str] = "absence"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        refusals = refused(to_refuse(view), self.config.refusals, seed)
        return [self.config.stage("misdirect", Misdirection(answered(view.hazard), retained(view), refusals, self.config))]
