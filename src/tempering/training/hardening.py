"""The defender's loop: stages of training, each with an objective, that can be stopped at any step and go on as if they had not been."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from tempering.models import Target
from tempering.training.adapters import add_lora
from tempering.training.attention import attend_for_training
from tempering.training.loop import NonFiniteLoss, build_optimiser, rate_factor
from tempering.training.meter import Meter
from tempering.training.objective import Objective, Workshop
from tempering.training.settings import LoraSettings, TrainingSettings

_ADAPTER = re.compile(r"^base_model\.model\.|\.lora_[A-Z]\w*\.\w+|\.base_layer")


@dataclass(frozen=True)
class Stage:
    """One stretch of a defence's training.

    Attributes:
        name: one word, for progress and cards.
        objective: what is minimised.
        settings: optimiser, schedule, clipping; the batch size is the objective's to use.
        steps: optimizer steps at most.
        lora: adapters that move in place of the weights, merged at the end of the stage; ``None`` moves all weights.
        floored: whether the stage is held to the floor of utility. Off where the stage begins with a damaged model.
        until: end the stage as soon as utility is back at this share of the target's; ``None`` runs all steps.
    """

    name: str
    objective: Objective
    settings: TrainingSettings
    steps: int
    lora: LoraSettings | None = None
    floored: bool = True
    until: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained so."""
        if self.settings.optimiser == "schedule-free":
            raise ValueError("a defence is trained by adamw, adamw-8bit, sgd or adafactor")


@dataclass(frozen=True)
class HardeningStep:
    """One step, done.

    Attributes:
        stage: index of the stage.
        step: steps of it done.
        parts: of the loss, by name; ``loss`` is the whole.
    """

    stage: int
    step: int
    parts: dict[str, float]


@dataclass(frozen=True)
class Snapshot:
    """A training, stopped.

    Attributes:
        tensors: weights, optimiser and objective state, by name.
        record: where it stands and what it has spent, as JSON values.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]


class Hardening:
    """The training of one defended model.

    Attributes:
        stages: in order.
        meter: what the defender has spent.
        stage: index of the stage under way; as many as there are when all are done.
        step: steps of that stage done.
    """

    def __init__(self, target: Target, stages: Sequence[Stage], *, seed: int) -> None:
        """Get ready to train a copy; the target is left as it is.

        16-bit weights are trained as everywhere here: all of them on a float32 copy under autocast, adapters in float32 beside
        the frozen 16-bit weights.

        Args:
            target: what to harden.
            stages: at least one.
            seed: decides every random choice.
        """
        self.stages = tuple(stages)
        self.meter = Meter()
        self.stage, self.step = 0, 0
        self._target = target
        self._seed = seed
        self._sixteen_bit = target.model.dtype in (torch.bfloat16, torch.float16)
        full = any(stage.lora is None for stage in self.stages)
        self._model = target.copy_model(torch.float32 if self._sixteen_bit and full else None)
        attend_for_training(self._model, autocast=self._sixteen_bit)
        self._start: dict[str, Tensor] = {}
        self._workshop: Workshop | None = None
        self._optimiser: torch.optim.Optimizer | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model as it stands, with the adapters of a stage under way."""
        return self._workshop.model if self._workshop is not None else self._model

    @property
    def done(self) -> bool:
        """Whether all stages are."""
        return self.stage >= len(self.stages)

    def run(self) -> Iterator[HardeningStep]:
        """Train on from where it stands.

        Yields:
            After every step.

        Raises:
            NonFiniteLoss: a loss is NaN or infinite.
        """
        while not self.done:
            if self._workshop is None:
                self._begin()
            current = self.stage
            while self.stage == current and self.step < self.stages[current].steps:
                yield self._one_step()
            if self.stage == current:
                self.end_stage()

    def trained(self) -> dict[str, Tensor]:
        """What the stage under way moves, by name: the live weights, or the adapters."""
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    def end_stage(self, weights: dict[str, Tensor] | None = None) -> None:
        """Merge the adapters, if any, and go over to the next stage.

        Args:
            weights: a copy of what :meth:`trained` gave earlier in this stage, to end it with; ``None`` ends it as it stands.
        """
        model = self.model
        if weights is not None:
            _load(model, weights)
        if isinstance(model, PeftModel):
            model = cast("PreTrainedModel", model.merge_and_unload())
        self._go_on(model)

    def undo_stage(self) -> None:
        """Leave the stage with the weights that it began with, and go over to the next."""
        model = self.model
        if isinstance(model, PeftModel):
            model = cast("PreTrainedModel", model.unload())
        _load(model, self._start or dict(self._target.model.named_parameters()))
        self._go_on(model)

    def _go_on(self, model: PreTrainedModel) -> None:
        model.eval()
        model.zero_grad(set_to_none=True)
        self._model, self._workshop, self._optimiser = model, None, None
        self.stage, self.step = self.stage + 1, 0

    def finished(self) -> PreTrainedModel:
        """The hardened model in the target's type, in evaluation mode.

        Raises:
            ValueError: a stage is not done.
        """
        if not self.done:
            raise ValueError("the training is not done")
        self._model.requires_grad_(False)
        self._model.to(dtype=self._target.model.dtype)  # type: ignore[call-arg]
        self._model.eval()
        return self._model

    def snapshot(self) -> Snapshot:
        """Everything needed to go on; the tensors are the live ones, so write them before the next step."""
        record = {"stage": self.stage, "step": self.step, "stages": self._described(), "spend": self.meter.kept()}
        tensors: dict[str, Tensor] = {}
        if self._workshop is None:
            tensors |= {f"model.{name}": value for name, value in self._model.named_parameters()}
        else:
            assert self._optimiser is not None
            tensors |= {f"start.{name}": value for name, value in self._start.items()}
            tensors |= {f"trained.{name}": value for name, value in self.trained().items()}
            tensors |= {f"optimiser.{name}": value for name, value in _flat(self._optimiser).items()}
            tensors |= {f"objective.{name}": value for name, value in self.stages[self.stage].objective.state().items()}
        return Snapshot({name: value.detach() for name, value in tensors.items()}, record)

    def restore(self, snapshot: Snapshot) -> None:
        """Take a training up where a snapshot was made, in a process that has just made this object.

        Args:
            snapshot: of a training with the same target, stages and seed.

        Raises:
            ValueError: it is of other stages.
        """
        record = snapshot.record
        if record["stages"] != self._described():
            raise ValueError("the training that was interrupted had other stages")
        self.stage = record["stage"]
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in snapshot.tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = value
        if weights := parts.get("model") or parts.get("start"):
            _load(self._model, weights)
        if "trained" in parts:
            self._begin()  # counted by the meter that is thrown away: what a begin costs was spent when the stage began
            _load(self.model, parts["trained"])
            assert self._optimiser is not None
            _unflatten(self._optimiser, parts.get("optimiser", {}))
            self.stages[self.stage].objective.restore(parts.get("objective", {}))
        self.step, self.meter = record["step"], Meter.restored(record["spend"])
        if self._workshop is not None:
            self._workshop.meter = self.meter

    def _begin(self) -> None:
        """Start the stage: what it began with is kept from the second on, since the first begins with the target."""
        stage = self.stages[self.stage]
        if self.stage > 0:
            self._start = {name: value.detach().clone() for name, value in self._model.named_parameters()}
        torch.manual_seed(self._derived(0))
        use_autocast = stage.settings.autocast or self._sixteen_bit
        seed = (self._seed, self.stage)
        workshop = Workshop(self._model, self._target.chat, self.meter, seed=seed, steps=stage.steps, autocast=use_autocast)
        stage.objective.begin(workshop)
        model = self._model if stage.lora is None else add_lora(self._model, stage.lora)
        if stage.lora is None:
            model.requires_grad_(True)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not stage.objective.trains(_ADAPTER.sub("", name), workshop.places):
                parameter.requires_grad_(False)
        workshop.trains(model)
        self._workshop, self._optimiser = workshop, build_optimiser(model, stage.settings)

    def _one_step(self) -> HardeningStep:
        assert self._workshop is not None
        assert self._optimiser is not None
        stage, workshop, optimiser = self.stages[self.stage], self._workshop, self._optimiser
        workshop.step = self.step
        torch.manual_seed(self._derived(self.step + 1))
        workshop.model.train()
        parts = stage.objective.step(workshop)
        if bad := next((name for name, value in parts.items() if not math.isfinite(value)), None):
            raise NonFiniteLoss(f"{bad} is {parts[bad]} at step {self.step + 1} of {stage.name!r}")
        if stage.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(workshop.trained(), stage.settings.clip_norm)
        for group in optimiser.param_groups:
            group["lr"] = stage.settings.learning_rate * rate_factor(stage.settings, self.step, stage.steps)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.meter.step()
        self.step += 1
        return HardeningStep(self.stage, self.step, parts)

    def _derived(self, place: int) -> int:
        """A seed for torch's global generator that depends on the step alone."""
        return int(np.random.default_rng([self._seed, self.stage, 0, place]).integers(2**62))

    def _described(self) -> list[list[Any]]:
        return [[stage.name, stage.steps] for stage in self.stages]


@torch.no_grad()
def _load(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    for name, value in weights.items():
        own[name].copy_(value)


def _flat(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors; what it nests, as bitsandbytes does, by names joined with dots."""
    return _leaves(optimiser.state_dict()["state"], "")


def _leaves(values: dict[Any, Any], prefix: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    return found


def _unflatten(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[Any, Any] = {}
    for name, value in tensors.items():
        index, *groups, key = name.split(".")
        place = state.setdefault(int(index), {})
        for group in groups:
            place = place.setdefault(group, {})
        counted = value.dim() == 0 and value.dtype == torch.float64  # as numbers that are no tensors were written
        place[key] = int(value) if counted else value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
