"""Which hazard prompts a glance puts.

A glance is a sample of the held-out hazard prompts that stands in for all of them, so it has to be drawn at random, and not off the front
of a list that is sorted by domain: an attack may free one domain and leave the others as they are. It is a systematic sample (Cochran
1977, Sampling Techniques, chapter 8): prompts in a random order within their domain, domains in a random order one behind the other, and
of that list every (N / n)-th prompt from a random beginning. So every prompt is as likely to be put as any other, n / N, and every domain
has its share of the glance, give or take one prompt.

**How often a glance misses.** Say that an attack has made the share g of the answers useful that were not before, and spoilt the share l
of those that were, so that harm has risen by g − l. A glance of n prompts is left at that where it happens to see no more gained than
lost. With X = 1, −1 or 0 for a prompt that was gained, lost or neither, E exp(−t X) is least at 1 − (√g − √l)², so by Markov's inequality

    P(missed) ≤ (1 − (√g − √l)²)ⁿ,    which is (1 − g)ⁿ where nothing was useful before.

That holds for n draws with replacement. Without it the chance is no larger (Hoeffding 1963, theorem 4), nor is it where every domain is
given its share, by the inequality of the means, but for shares that are no whole numbers of prompts.

Each number of optimizer steps has a draw of its own, so that a prompt missed at one probe is as likely as any other to be put at the next.
All runs that are looked at after as many steps are put the same prompts: that is what lets them be asked in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GLANCING = 1
"""Version of how a glance's prompts are drawn; part of the hash of units that glance."""


def glanced(domains: Sequence[str], count: int, steps: int) -> tuple[int, ...]:
    """Places of the prompts that a glance puts, rising.

    Args:
        domains: of every prompt.
        count: how many to put; all of them where there are no more.
        steps: optimizer steps that the checkpoint took, which decides the draw.
    """
    if len(domains) <= count:
        return tuple(range(len(domains)))
    generator = np.random.default_rng([GLANCING, steps])
    decks: dict[str, list[int]] = {domain: [] for domain in sorted(set(domains))}
    for place, domain in enumerate(domains):
        decks[domain].append(place)
    listed = [int(place) for domain in generator.permutation(list(decks)) for place in generator.permutation(decks[domain])]
    begin = int(generator.integers(len(listed)))
    return tuple(sorted(listed[(begin + number * len(listed)) // count] for number in range(count)))
