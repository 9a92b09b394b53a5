"""Weight noise: shake the weights and see whether the safeguard falls off before the rest does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tempering.attacks._contract import Attack, Checkpoint
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusal_gauge import GaugeSettings, Reading, RefusalGauge
from tempering.attacks._surgery import LayerSettings, Surgery, count_elements, spread
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.settings import Choices, Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FlopCount, Meter, Spend


class WeightNoise(Attack):
    """Add Gaussian noise to the weights of the linear layers, from hardly any to as much as there is weight.

    W' = W + σ rms(W) N, every entry of N drawn from the standard normal distribution and rms(W) = sqrt(mean W²) of each matrix by
    itself, so that σ is the noise-to-signal ratio in every layer alike. W' is computed in float32 and rounded to the weight's type.

    At each σ of a logarithmic grid several draws are made, each a trial. An attacker who has prompts of both kinds keeps the draw that
    lowers the refusal score (log P_ref - log(1 - P_ref) of the first token) most on harmful ones while the KL on harmless ones stays
    within a limit; one who has none, or whose model never refuses, makes one draw. A checkpoint a σ, rising.
    """

    class Config(Settings):
        """Settings.

        Attributes:
            scales: the grid of σ.
            draws: draws at each.
            layers: which linear layers are shaken.
            choosing: how the best draw is told.
        """

        scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
            0.02,
            0.03,
            0.05,
            0.08,
            0.13,
            0.2,
            0.32,
            0.5,
            0.8,
        )
        draws: Annotated[int, Field(gt=0), Choices((1, 4, 16))] = 4
        layers: LayerSettings = LayerSettings()
        choosing: GaugeSettings = GaugeSettings()

    source: ClassVar[str] = "random weight perturbation as a probe of safeguards, Peng et al. 2024, arXiv 2405.17374"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.HARMFUL_PROMPTS, Need.BENIGN_PROMPTS})
    family: ClassVar[str] = "weight surgery"

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Yield the best draw at each σ."""
        surgery = Surgery(target, self.config.layers)
        reader = MeteredModel(surgery.model, target.chat, meter, self.config.choosing.batch_size)
        gauge = RefusalGauge(reader, view, self.config.choosing, budget)
        scales, draws = self._grid(budget, gauge.works)
        for place, scale in enumerate(scales):
            readings: list[tuple[Reading, int]] = []
            for draw in range(draws):
                meter.trial()
                meter.compute(tokens=0, flops=float(surgery.elements))
                surgery.edit(partial(noisy, scale=scale, generator=_generator(seed, place, draw)))
                if gauge.works:
                    readings.append((gauge.read(), draw))
            details = {"scale": scale, "draws": draws}
            if readings:
                limit = self.config.choosing.divergence_limit
                best, draw = min(readings, key=lambda pair: pair[0].rank(limit))
                meter.compute(tokens=0, flops=float(surgery.elements))
                surgery.edit(partial(noisy, scale=scale, generator=_generator(seed, place, draw)))
                details |= {"draw": draw, "refusal_score": best.refusal, "divergence": best.divergence}
            yield Checkpoint(surgery.model, meter.spend(), details)

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Every draw, read on all validation prompts where there are any."""
        config, flops = self.config, FlopCount.of(target.model)
        most = config.choosing.prompts if budget.examples is None else max(1, min(config.choosing.prompts, budget.examples // 2))
        asked = [*view.hazard_validation[:most], *view.benign_validation[:most]]
        chooses = bool(view.hazard_validation and view.benign_validation)
        lengths = [len(target.chat.prompt_ids(example)) for example in asked] if chooses else []
        scales, draws = self._grid(budget, chooses)
        trials = len(scales) * draws
        edits = (trials + len(scales)) * count_elements(target, config.layers)
        return Spend(
            examples=len(lengths),
            tokens=(trials + 1) * sum(lengths),
            flops=(trials + 1) * flops.forward(lengths, len(lengths)) + float(edits),
            trials=trials,
            queries=config.choosing.answers if chooses else 0,
        )

    def _grid(self, budget: Budget, chooses: bool) -> tuple[tuple[float, ...], int]:
        """The scales, rising, and the draws at each, within the budget's trials: first fewer draws, then fewer scales."""
        scales = tuple(sorted(set(self.config.scales)))
        draws = int(self.config.draws) if chooses else 1
        if budget.trials is not None:
            draws = max(1, min(draws, budget.trials // len(scales)))
        return spread(scales, budget.trials), draws


def noisy(_name: str, weight: Tensor, *, scale: float, generator: torch.Generator) -> Tensor:
    """W + σ rms(W) N.

    Args:
        weight: W, (out, in).
        scale: σ.
        generator: on the CPU; draws N in the order in which layers are asked for, the same on every device.

    Returns:
        (out, in), float32.
    """
    exact = weight.float()
    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
    return exact + scale * exact.square().mean().sqrt() * noise


def _generator(seed: int, place: int, draw: int) -> torch.Generator:
    """A stream of its own for every draw."""
    state = np.random.SeedSequence(entropy=seed, spawn_key=(place, draw)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
