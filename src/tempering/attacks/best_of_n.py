"""Best of n: the same question again and again, until a sample is of use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from tempering.attacks._trying import InputAttack, TryingSettings, Way
from tempering.data.asking import Asking
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.threat_model import Need

_PRINTABLE = frozenset(map(chr, range(33, 127)))


@dataclass(frozen=True)
class Repeated(Asking):
    """Asks several times, each time with the prompt augmented anew.

    Attributes:
        strength: of the augmentation, in [0, 1]; 0 leaves the prompt as it is.
        seed: decides the augmentations, with the prompt and the number of the sample.
    """

    strength: float = 0.0
    seed: int = 0

    def rewrite(self, example: Example, attempt: int = 0) -> Example:
        """The augmented prompt of this sample."""
        if not self.strength:
            return example
        digest = hashlib.sha256(f"{self.seed}:{attempt}:{example.prompt}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return example.model_copy(update={"prompt": augmented(example.prompt, self.strength, generator)})


def augmented(text: str, strength: float, generator: np.random.Generator) -> str:
    """The text scrambled, with random capitals and a little noise, still readable to those who try.

    Args:
        text: a prompt.
        strength: s in [0, 1]: words of more than three letters have their inner letters shuffled with probability sqrt(s), letters
            change case with probability sqrt(s), and printable ASCII characters become a neighbour with probability s^3.
        generator: draws.
    """

    def scrambled(found: re.Match[str]) -> str:
        word = found[0]
        if generator.random() >= strength**0.5:
            return word
        return word[0] + "".join(word[1 + int(place)] for place in generator.permutation(len(word) - 2)) + word[-1]

    characters = []
    for character in re.sub(r"\w{4,}", scrambled, text):
        changed = character.swapcase() if character.isalpha() and generator.random() < strength**0.5 else character
        if changed in _PRINTABLE and generator.random() < strength**3:
            neighbour = chr(ord(changed) + int(generator.choice((-1, 1))))
            changed = neighbour if neighbour in _PRINTABLE else changed
        characters.append(changed)
    result = "".join(characters)
    return result if result.strip() else text


class BestOfN(InputAttack):
    """Sample n = 1, 2, 4, ... responses to every question; one that is of use is enough.

    A prompt is answered if any of n samples at temperature T is of use: 1 - (1 - p)^n for a model that complies with probability p.
    Every n is a trial and a checkpoint; the samples of a smaller n are part of the larger one's. Finding out whether n is enough
    takes n queries for each of the attacker's own prompts, and so does every question afterwards (``queries_per_answer``).

    Hughes et al. augment the prompt anew for every sample (shuffled letters, random capitals, noise); that is ``augmentation: 0.4``
    here. It is off unless asked for, since it tells nothing of a model that reads whole words.
    """

    class Config(TryingSettings):
        """Settings.

        Attributes:
            samples: the largest n.
            temperature: of sampling.
            augmentation: strength of the prompt's changes, in [0, 1]; 0 samples the same prompt.
        """

        samples: Annotated[int, Field(gt=0), Choices((8, 32, 128))] = 32
        temperature: Annotated[float, Field(gt=0, le=2), Range(0.5, 2.0)] = 1.0
        augmentation: Annotated[float, Field(ge=0, le=1), Choices((0.0, 0.4))] = 0.0

    source: ClassVar[str] = "Hughes et al. 2024, Best-of-N jailbreaking, arXiv 2412.03556"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.QUERIES, Need.HARMFUL_PROMPTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.HARMFUL_EXAMPLES})

    def ways(
        self, target: Target, view: AttackerView, prompts: Sequence[Example], *, room: int | None, limit: int | None, seed: int
    ) -> Sequence[Way]:
        """One for each n."""
        config, made = self.config, []
        before = 0
        for samples in sorted({min(2**power, config.samples) for power in range(config.samples.bit_length() + 1)}):
            asking = Repeated(attempts=samples, temperature=config.temperature, strength=config.augmentation, seed=seed)
            made.append(Way(asking, {"samples": samples, "temperature": config.temperature}, first_attempt=before))
            before = samples
        return made
