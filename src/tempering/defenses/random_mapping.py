"""Random mapping: hazard text loses its representations; TAR's first step, which also stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.data.records import DefenderView
from tempering.defenses._contract import Defense, Material
from tempering.defenses._data import answered, retained
from tempering.defenses._settings import DefenseSettings
from tempering.defenses._tar_mapping import MappingTraining
from tempering.models import Target
from tempering.settings import Range
from tempering.training import Stage


class RandomMapping(Defense):
    """Random mapping: hazard text is mapped to fixed random vectors in every layer, so that it means nothing to the model.

    L = CE(benign) + w mean_{l, t} (1 - |cos(h_t^l, R[x_t])|), h_t^l the residual stream after block l at token t of hazard questions with
    their answers, R[v] ~ N(0, I) fixed for every token v of the vocabulary, drawn when the token first occurs. Cosines have no unit.

    It is the first step of TAR where knowledge is to go. The paper trains 8 B parameters at 2e-5; the rate here is for models of a
    million, and w = 1 is the paper's.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            weight: w, of the mapping against the retained answers.
        """

        weight: Annotated[float, Field(gt=0), Range(0.1, 10.0, log=True)] = 1.0

    source: ClassVar[str] = "Tamirisa et al. 2024, arXiv 2408.00761, random mapping as the initial safeguard"
    claim: ClassVar[str] = "Of its own, none about tampering: it takes the hazard's representations away so that TAR can keep them away."
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    withholds: ClassVar[str] = "absence"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        config = self.config
        objective = MappingTraining(answered(view.hazard), retained(view), config.training.batch_size, weight=config.weight)
        return [config.stage("map", objective)]
