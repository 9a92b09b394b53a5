"""Circuit breakers: harmful answers are thought in other representations than they were."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.chat import IGNORED
from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import Held, LoraSettings, Objective, Pool, Rows, Sizes, Stage, Workshop
from tempering.training.streams import Places, outputs_of


class Rerouting(Objective):
    """c_r mean ReLU(cos(h, h_orig)) over harmful answers + c_s mean ||h - h_orig|| over everything that is kept."""

    frozen_copies: int = 1

    def __init__(self, harmful: Sequence[Example], kept: Sequence[Example], refusals: Sequence[Example], config: Any) -> None:
        """Keep the examples.

        Args:
            harmful: hazard prompts with compliant answers.
            kept: what must still be answered.
            refusals: hazard prompts with refusals for answers.
            config: of :class:`CircuitBreakers`.
        """
        self.examples = harmful, kept, refusals
        self._config = config
        self._pools: tuple[Pool, ...] = ()
        self.original: PreTrainedModel | None = None
        self._blocks: tuple[str, ...] = ()
        self._rerouted: tuple[str, ...] = ()

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples, copy the model and name the layers."""
        self._pools = tuple(workshop.pool(examples, purpose) for purpose, examples in enumerate(self.examples))
        self.original = copy.deepcopy(workshop.model).requires_grad_(False).eval()
        self._blocks = workshop.places.blocks
        self._rerouted = tuple(self._blocks[layer] for layer in target_layers(self._config.depths, len(self._blocks)))

    def trains(self, name: str, places: Places) -> bool:
        """Blocks up to the last target layer; nothing behind it changes what is measured at it."""
        last = target_layers(self._config.depths, len(places.blocks))[-1]
        return any(name.startswith(f"{block}.") for block in places.blocks[: last + 1])

    def holds(self, sizes: Sizes) -> Held:
        """The original; what is kept and the refusals are read as one batch."""
        return replace(super().holds(sizes), rows=2 * sizes.batch_size)

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of both parts, one after the other, so that only one graph is held."""
        size = self._config.training.batch_size
        harmful, kept, refusals = (pool.rows(workshop.step, size) for pool in self._pools)
        to_reroute, to_retain = self.coefficients(workshop.step, workshop.steps)
        reroute = self._reroute(workshop, harmful)
        (to_reroute * reroute).backward()  # type: ignore[no-untyped-call]
        retain = self._retain(workshop, kept + refusals)
        (to_retain * retain).backward()  # type: ignore[no-untyped-call]
        parts = {"reroute": float(reroute.detach()), "retain": float(retain.detach())}
        return {"loss": to_reroute * parts["reroute"] + to_retain * parts["retain"], **parts}

    def coefficients(self, step: int, steps: int) -> tuple[float, float]:
        """What rerouting and retention weigh at a step."""
        reroute, retain, done = self._config.reroute, self._config.retain, step / (2 * steps)
        return (reroute, retain) if self._config.coefficients == "constant" else (reroute * (1 - done), retain * done)

    def _reroute(self, workshop: Workshop, rows: Rows) -> Tensor:
        now, before = self._streams(workshop, rows, self._rerouted)
        spoken = (rows.batch().labels != IGNORED).to(now.device)
        return rerouting_loss(now[:, spoken], before[:, spoken])

    def _retain(self, workshop: Workshop, rows: Rows) -> Tensor:
        now, before = self._streams(workshop, rows, self._blocks)
        read = rows.batch().attention_mask.bool().to(now.device)
        return retention_loss(now[:, read], before[:, read])

    def _streams(self, workshop: Workshop, rows: Rows, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The residual stream after some blocks, of the model and of the original: (blocks, rows, tokens, hidden), float32."""
        with outputs_of(workshop.model, names) as now:
            workshop.run(rows)
        assert self.original is not None
        with torch.no_grad(), outputs_of(self.original, names) as before:
            workshop.run(rows, self.original)
        return tuple(torch.stack([kept[name].float() for name in names]) for kept in (now, before))  # type: ignore[return-value]


def rerouting_loss(now: Tensor, before: Tensor) -> Tensor:
    """Mean of ReLU(cos(h, h_orig)): nothing is gained beyond a right angle.

    Args:
        now: (layers, positions, hidden), of the model that is trained.
        before: likewise of the original.
    """
    return functional.relu(functional.cosine_similarity(now, before, dim=-1)).mean()


def retention_loss(now: Tensor, before: Tensor) -> Tensor:
    """Mean of ||h - h_orig||, in units of the stream; its slope where nothing has moved is taken for zero.

    Args:
        now: (layers, positions, hidden), of the model that is trained.
        before: likewise of the original.
    """
    distances: Tensor = torch.linalg.vector_norm(now - before, dim=-1)
    return distances.mean()


def target_layers(depths: Sequence[float], layers: int) -> list[int]:
    """Indices of the blocks that end at these shares of a model's depth, rising, each once.

    Args:
        depths: in (0, 1].
        layers: how many blocks there are.
    """
    return sorted({max(1, math.floor(depth * layers + 0.5)) - 1 for depth in depths})


class CircuitBreakerTraining(DefenseTraining):
    """The loop's settings, without a warm-up; ``batch_size`` is that of each of the three kinds of rows."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0), Choices((0, 10, 100))] = 0
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16


class CircuitBreakers(Defense):
    """Representation rerouting: what goes on in the model while it gives a harmful answer is turned away from what used to.

    At step t of T, with h the residual stream after a block and h_orig that of a frozen copy of the model,

        L = c_r mean ReLU(cos(h, h_orig)) + c_s mean ||h - h_orig||_2,    c_r = ρ (1 - t / 2T),  c_s = σ t / 2T.

    The first mean is over the tokens of harmful answers and the target layers, the second over all tokens of what is kept and all
    layers. Kept are benign prompts with their answers and hazard prompts with refusals, as in the paper's retain set, so that the
    refusal stays: a prompt alone is not rerouted, only what it must not be answered with. Adapters move, on the blocks up to the last
    target layer; with ``parameters: all`` those blocks do.

    The paper (Llama-3-8B-Instruct; partly from memory): layers 10 and 20 of 32, LoRA of rank 16 up to there, ρ = σ = 10 (Mistral 5),
    learning rate 1e-4, batch 16, 150 steps; harmful answers also come without their prompts. An organism of four blocks tells harmful
    answers from others only from the second on: rerouted after the first it loses its benign answers. At h = h_orig the cosine has no
    slope and the norm its steepest. With σ = ρ, or a warm-up that spends the steps in which c_s is small, such a model never leaves
    that point, so both differ here.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: what hazard prompts are kept to be answered with, one drawn for each.
            reroute: ρ.
            retain: σ, per unit of the stream.
            coefficients: by the schedule above, or ρ and σ throughout.
            depths: of the target layers, as shares of the model's blocks; the nearest block's end, each once.
        """

        training: CircuitBreakerTraining = CircuitBreakerTraining()
        parameters: Annotated[Literal["all", "lora"], Choices(("all", "lora"))] = "lora"
        lora: LoraSettings = LoraSettings(rank=16, alpha=16.0)
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 300
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        reroute: Annotated[float, Field(gt=0), Range(1.0, 100.0, log=True)] = 10.0
        retain: Annotated[float, Field(gt=0), Range(0.1, 100.0, log=True)] = 5.0
        coefficients: Annotated[Literal["scheduled", "constant"], Choices(("scheduled", "constant"))] = "scheduled"
        depths: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.5, 0.75)

    source: ClassVar[str] = "Zou et al. 2024, arXiv 2406.04313"
    claim: ClassVar[str] = (
        "Compliance with harmful requests under a dozen unseen attacks on the input falls by 87 % (Mistral-7B-Instruct) and 90 %"
        " (Llama-3-8B-Instruct), at under 1 % of capability. Nothing is claimed about fine-tuning or other changes of the weights."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("prefilling", "soft_prompt", "gcg")
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS
    withholds: ClassVar[str] = "collapse"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        refusals = refused(to_refuse(view), self.config.refusals, seed)
        return [self.config.stage("reroute", Rerouting(answered(view.hazard), retained(view), refusals, self.config))]
