"""ReFAT: refusal trained while the refusal direction is taken away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, check_words, refused, retained, to_refuse
from tempering.defenses._directions import Block, ablated, ablated_everywhere, blocks_of, last_streams
from tempering.defenses._settings import DefenseSettings
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import LoraSettings, Objective, Pool, Stage, Workshop


class RefusalUnderAblation(Objective):
    """CE(hazard -> refusal), some rows ablated of refusal directions as they now are, + CE(benign -> answer), never ablated."""

    def __init__(self, hazard: Sequence[Example], kept: Sequence[Example], config: Any) -> None:
        """Keep the examples.

        Args:
            hazard: prompts with refusals for answers.
            kept: what must still be answered.
            config: of :class:`ReFAT`.
        """
        self._hazard, self._kept = list(hazard), list(kept)
        self._config = config
        self._pools: tuple[Pool, ...] = ()
        self.blocks: tuple[Block, ...] = ()
        self._positions = 1
        self.directions = torch.empty(0)
        self.harmless = torch.empty(0)

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples and name the target layers."""
        self._pools = tuple(workshop.pool(examples, purpose) for purpose, examples in enumerate((self._hazard, self._kept)))
        blocks = blocks_of(workshop.model)
        self.blocks = blocks[-max(1, math.ceil(self._config.layer_share * len(blocks) - 1e-9)) :]
        self._positions = min(self._config.positions, max(1, len(workshop.chat.post_instruction_ids)))

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of both parts, one after the other, so that only one graph is held."""
        if workshop.step % self._config.refresh == 0:
            self._find_directions(workshop)
        size = self._config.training.batch_size
        hazard = self._pools[0].rows(workshop.step, size)
        units, offsets = self.drawn(workshop, len(hazard))
        with self._without(workshop, units, offsets):
            refusal = workshop.run(hazard).cross_entropy()
        refusal.backward()  # type: ignore[no-untyped-call]
        retain = workshop.run(self._pools[1].rows(workshop.step, size)).cross_entropy()
        retain.backward()  # type: ignore[no-untyped-call]
        parts = {"refusal": float(refusal.detach()), "retain": float(retain.detach())}
        return {"loss": sum(parts.values()), **parts}

    def state(self) -> dict[str, Tensor]:
        """The directions, which are older than the weights by up to ``refresh`` steps."""
        return {"directions": self.directions, "harmless": self.harmless}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the directions up."""
        self.directions, self.harmless = state["directions"], state["harmless"]

    def _find_directions(self, workshop: Workshop) -> None:
        """Mean(hazard) - mean(harmless), normalised, after every target layer, of prompts drawn for this step and the present weights."""
        generator = workshop.generator(1)
        names = [block.name for block in self.blocks]
        training = workshop.model.training
        workshop.model.eval()
        means = []
        for examples in (self._hazard, self._kept):
            drawn = generator.choice(len(examples), size=min(self._config.prompts, len(examples)), replace=False)
            prompts = workshop.prompts([examples[int(index)] for index in drawn])
            means.append(last_streams(workshop, prompts, names, self._positions).mean(0))
        workshop.model.train(training)
        self.directions, self.harmless = functional.normalize(means[0] - means[1], dim=-1), means[1]

    def drawn(self, workshop: Workshop, rows: int) -> tuple[Tensor, Tensor]:
        """What each row is ablated of.

        Returns:
            Units (blocks, rows, hidden), zero for rows that are left alone, and what is added back along them, (blocks, rows).
        """
        config, generator = self._config, workshop.generator()
        chosen = generator.random(1 if config.ablate == "batch" else rows) < config.probability
        position = torch.from_numpy(generator.integers(self._positions, size=rows))
        units = self.directions[:, position]
        if config.direction == "drawn":
            layer = torch.from_numpy(generator.integers(len(self.blocks), size=rows))
            units = self.directions[layer, position].expand_as(units)
        units = units * torch.from_numpy(chosen).to(units)[:, None]
        return units, (units * self.harmless[:, position]).sum(-1)

    def _without(self, workshop: Workshop, units: Tensor, offsets: Tensor) -> AbstractContextManager[None]:
        if self._config.places == "everywhere":
            return ablated_everywhere(workshop.model, self.blocks, units)
        return ablated(workshop.model, self.blocks, units, offsets if self._config.add_back else None)


class ReFAT(Defense):
    """Refusal training through a model whose refusal directions are ablated at random, so that refusing does not hang on them.

        L = CE(hazard -> refusal | with probability p: h^l <- h^l - r^l r^l^T h^l) + CE(benign -> answer)

    h^l is the residual stream after block l, at all positions; l runs over the target layers. r^l is the normalised difference of the
    means of h^l over hazard and harmless prompts at the prompt's last token, found anew every few steps with the weights as they then
    are, from prompts of the defender's own. No gradient goes through r. With ``add_back`` the stream keeps what harmless prompts have
    along r^l in the mean: h^l <- h^l - r^l r^l^T (h^l - mean).

    The paper (as METHODS has it, second-hand): p 0.5, the last 75 % of the layers, directions of 32 + 32 prompts every 4 steps, LoRA of
    rank 128, learning rate 2e-5, batch 32, some 313 steps. An organism of a million weights is trained whole, at 3e-4. Whether p is of a
    row or of a batch, whether the harmless mean is put back, and which places are ablated is not certain from there. Rows are drawn
    each for themselves by default, since every step then trains both and its gradient varies less.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what is said to hazard prompts, one drawn for each.
            probability: of a row, or a batch, to be ablated.
            ablate: rows each for themselves, or whole batches.
            layer_share: the target layers are the last so large a share.
            direction: every layer is ablated of its own, or a row of one drawn layer's direction at all of them.
            places: what the target blocks put out, or also what they take in and what their attention and MLP write.
            positions: directions are read at so many last tokens of the prompt, template included; a row is given one of them.
            add_back: put back what harmless prompts have along the direction in the mean.
            refresh: directions are found anew every so many steps.
            prompts: of each kind that they are found with.
        """

        lora: LoraSettings = LoraSettings(rank=128, alpha=128.0)
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 200
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        probability: Annotated[float, Field(ge=0, le=1)] = 0.5
        ablate: Annotated[Literal["rows", "batch"], Choices(("rows", "batch"))] = "rows"
        layer_share: Annotated[float, Field(gt=0, le=1), Range(0.25, 1.0)] = 0.75
        direction: Annotated[Literal["own", "drawn"], Choices(("own", "drawn"))] = "own"
        places: Annotated[Literal["outputs", "everywhere"], Choices(("outputs", "everywhere"))] = "outputs"
        positions: Annotated[int, Field(gt=0)] = 1
        add_back: bool = False
        refresh: Annotated[int, Field(gt=0)] = 4
        prompts: Annotated[int, Field(gt=0)] = 32

        @model_validator(mode="after")
        def _nothing_is_put_back_into_parts(self) -> ReFAT.Config:
            if self.add_back and self.places == "everywhere":
                raise ValueError("add_back is for the blocks' outputs: what a harmless prompt's single parts write is not measured")
            return self

    source: ClassVar[str] = "Yu et al. 2024, arXiv 2409.20089"
    claim: ClassVar[str] = (
        "Refusal outlasts the ablation of its direction, and with it a wide range of adversarial prompts on three chat models, at a"
        " fraction of what other adversarial training costs."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("refusal_ablation",)
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        objective = RefusalUnderAblation(refused(to_refuse(view), self.config.refusals, seed), retained(view), self.config)
        return [self.config.stage("refuse", objective)]
