"""How far two raters agree, and what a rater's errors do to a share.

**Agreement.** Of n responses two judges each find some useful. With the shares p_ij of the four cells, p_o = p_11 + p_00 of them alike,
and p_e = p_1· p_·1 + p_0· p_·0 by chance alone, Cohen's

    κ = (p_o − p_e) / (1 − p_e).

Its interval is by the delta method, with the variance of Fleiss, Cohen and Everitt for responses that are independent. Responses to one
prompt are not: a prompt that two judges read differently is asked at every probe. So where responses come in groups (units of work),
the interval is by the jackknife over groups: of n groups, κ_(−g) without group g, and

    se² = (n − 1) / n · Σ_g (κ_(−g) − mean)²,    Student's t with n − 1 degrees of freedom,

and never narrower than for independent responses, since few groups may be alike by chance. Both are cut off at −1 and 1. κ says nothing,
and is not given, where one of the two finds everything useful, or nothing.

**Errors.** Against labels by hand, sensitivity is the share of useful responses that a judge finds useful, specificity the share of others
that it does not; each with the exact interval of Clopper and Pearson. A judge that finds the share q useful then sees a true share of

    π = (q + specificity − 1) / (sensitivity + specificity − 1)

(Rogan and Gladen), cut off at 0 and 1, where the judge is better than chance. Its interval takes the errors of all three as independent
binomials, added to by the method of Lang and Reiczigel, which covers also where counts are small: with n responses judged, m₁ labelled
useful and m₀ not, each count c of N is shrunk to (c + 1) / (N + 2) for the two errors and (c + z²/2) / (N + z²) for q, and

    π̃ = (q̃ + sp̃ − 1) / (sẽ + sp̃ − 1),   Δ = 2 z² (π̃ sẽ(1 − sẽ)/m̃₁ − (1 − π̃) sp̃(1 − sp̃)/m̃₀),
    π̃ + Δ ± z / (sẽ + sp̃ − 1) · √( q̃(1 − q̃)/ñ + π̃² sẽ(1 − sẽ)/m̃₁ + (1 − π̃)² sp̃(1 − sp̃)/m̃₀ ).

Sources: Cohen 1960 (Educ. Psychol. Meas. 20, 37–46); Fleiss, Cohen and Everitt 1969 (Psychol. Bull. 72, 323–327); Rogan and Gladen 1978
(Am. J. Epidemiol. 107, 71–76); Lang and Reiczigel 2014 (Prev. Vet. Med. 113, 13–22).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from tempering.economics.binomial import CONFIDENCE, TAILS
from tempering.economics.survival import Floats

_Z = float(stats.norm.ppf(TAILS[1]))


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; NaN where it does not exist.

    Attributes:
        value: the estimate.
        low: low end.
        high: high end.
    """

    value: float
    low: float
    high: float

    def clipped(self, least: float, most: float) -> Interval:
        """Cut off at both ends."""
        return Interval(*(float(np.clip(each, least, most)) for each in (self.value, self.low, self.high)))


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def kappa(counts: Floats) -> Interval:
    """Cohen's κ of independent responses.

    Args:
        counts: how many responses the first rater put into category i and the second into j, shape (k, k).
    """
    total = float(counts.sum())
    if total == 0:
        return UNKNOWN
    shares = np.asarray(counts, dtype=float) / total
    rows, columns = shares.sum(1), shares.sum(0)
    chance = float(rows @ columns)
    if max(rows.max(), columns.max()) > 1 - 1e-12:
        return UNKNOWN
    alike = float(np.trace(shares))
    value = (alike - chance) / (1 - chance)
    # Fleiss, Cohen and Everitt's equation 13: not under the hypothesis that kappa is 0
    weights = rows[None, :] + columns[:, None]  # of cell (i, j): the second's share of i and the first's share of j
    own = float(sum(shares[i, i] * (1 - weights[i, i] * (1 - value)) ** 2 for i in range(len(shares))))
    apart = (1 - value) ** 2 * float(sum(shares[i, j] * weights[i, j] ** 2 for i, j in np.ndindex(*shares.shape) if i != j))
    variance = (own + apart - (value - chance * (1 - value)) ** 2) / (total * (1 - chance) ** 2)
    reach = _Z * math.sqrt(max(0.0, variance))
    return Interval(value, value - reach, value + reach).clipped(-1, 1)


def kappa_of_groups(counts: Floats) -> Interval:
    """Cohen's κ of responses that come in groups.

    Args:
        counts: of each group, as :func:`kappa` has them, shape (groups, k, k). One group alone is taken for independent responses.
    """
    filled = counts[counts.sum((1, 2)) > 0]
    whole = kappa(filled.sum(0)) if len(filled) else UNKNOWN
    if len(filled) < 2 or math.isnan(whole.value):
        return whole
    without = np.array([kappa(filled.sum(0) - group).value for group in filled])
    if np.isnan(without).any():
        return whole
    number = len(filled)
    error = math.sqrt((number - 1) / number * float(((without - without.mean()) ** 2).sum()))
    reach = max(float(stats.t.ppf((1 + CONFIDENCE) / 2, number - 1)) * error, whole.high - whole.value, whole.value - whole.low)
    return Interval(whole.value, whole.value - reach, whole.value + reach).clipped(-1, 1)


@dataclass(frozen=True)
class Errors:
    """A judge against labels by hand.

    Attributes:
        true_useful: useful, and found useful.
        false_useful: not useful, and found useful.
        true_useless: not useful, and found not to be.
        false_useless: useful, and found not to be.

    Where responses were drawn with unequal chances these are effective numbers, and no integers: see :func:`effective`.
    """

    true_useful: float
    false_useful: float
    true_useless: float
    false_useless: float

    @property
    def sensitivity(self) -> Interval:
        """Share of useful responses that it finds."""
        return share(self.true_useful, self.true_useful + self.false_useless)

    @property
    def specificity(self) -> Interval:
        """Share of other responses that it passes over."""
        return share(self.true_useless, self.true_useless + self.false_useful)

    @property
    def agreement(self) -> Interval:
        """κ with the labels."""
        return kappa(np.array([[self.true_useful, self.false_useless], [self.false_useful, self.true_useless]], dtype=float))


def share(count: float, total: float) -> Interval:
    """A share with its exact interval; unknown of nothing."""
    if total <= 0:
        return UNKNOWN
    with np.errstate(invalid="ignore"):
        low = special.betaincinv(count, total - count + 1, TAILS[0]) if count > 0 else 0.0
        high = special.betaincinv(count + 1, total - count, TAILS[1]) if count < total else 1.0
    return Interval(count / total, float(low), float(high))


def effective(labels: Sequence[bool], found: Sequence[bool], weights: Sequence[float]) -> Errors:
    """The errors of a judge on responses that were drawn with unequal chances.

    Each response stands for ``weight`` of its kind. Shares are weighted, and as sure as those of Kish's effective number
    (Σ w)² / Σ w² of equal ones (Korn and Graubard 1998, Surv. Methodol. 24, 193–201); with equal weights all is as it would be without.

    Args:
        labels: whether each is useful, by hand.
        found: whether the judge found it so.
        weights: of each, more than 0.
    """
    counts: list[float] = []
    truth, said, weight = np.asarray(labels, dtype=bool), np.asarray(found, dtype=bool), np.asarray(weights, dtype=float)
    for kind in (True, False):
        own = weight[truth == kind]
        number = float(own.sum() ** 2 / (own**2).sum()) if len(own) else 0.0
        hits = float(weight[(truth == kind) & (said == kind)].sum() / own.sum()) * number if len(own) else 0.0
        counts += [hits, number - hits]
    return Errors(true_useful=counts[0], false_useless=counts[1], true_useless=counts[2], false_useful=counts[3])


def corrected(useful: float, judged: float, errors: Errors) -> Interval:
    """The true share of useful responses behind the share that a judge finds.

    Args:
        useful: how many responses the judge finds useful.
        judged: of how many; others than those that were labelled, or the same.
        errors: of the judge, on responses that were labelled by hand. They are drawn at random among those that are useful, and among those
            that are not; how many of either kind there are does not matter.
    """
    positives, negatives = errors.true_useful + errors.false_useless, errors.true_useless + errors.false_useful
    if judged == 0 or positives == 0 or negatives == 0:
        return UNKNOWN
    found, sensitivity, specificity = useful / judged, errors.true_useful / positives, errors.true_useless / negatives
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return UNKNOWN
    value = (found + specificity - 1) / youden
    return Interval(value, *_lang_reiczigel(useful, judged, errors, positives, negatives)).clipped(0, 1)


def _lang_reiczigel(useful: float, judged: float, errors: Errors, positives: float, negatives: float) -> tuple[float, float]:
    judged_, positives_, negatives_ = judged + _Z**2, positives + 2, negatives + 2
    found = (useful + _Z**2 / 2) / judged_
    sensitivity, specificity = (errors.true_useful + 1) / positives_, (errors.true_useless + 1) / negatives_
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return 0.0, 1.0
    true = (found + specificity - 1) / youden
    of_positives = sensitivity * (1 - sensitivity) / positives_
    of_negatives = specificity * (1 - specificity) / negatives_
    shift = 2 * _Z**2 * (true * of_positives - (1 - true) * of_negatives)
    error = math.sqrt(found * (1 - found) / judged_ + true**2 * of_positives + (1 - true) ** 2 * of_negatives) / youden
    return true + shift - _Z * error, true + shift + _Z * error


@dataclass(frozen=True)
class JudgeReport:
    """A judge against labels.

    Attributes:
        judge: what it is called.
        model: what it asks; ``""`` where it asks no model.
        labelled: responses with a label that it could tell of.
        unparsed: those on which its answer said nothing.
        confusion: how many responses of each label it gave each verdict, unweighted.
        errors: weighted.
        harm: by group, ``""`` for all: responses, share that it finds useful, and what that is corrected for its errors.
        cost: what judging took.
    """

    judge: str
    model: str
    labelled: int
    unparsed: int
    confusion: dict[str, dict[str, int]]
    errors: Errors
    harm: list[dict[str, Any]]
    cost: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """As JSON values; what does not exist is NaN, which the writer makes ``null``."""
        measured = {"kappa": self.errors.agreement, "sensitivity": self.errors.sensitivity, "specificity": self.errors.specificity}
        return {
            "judge": self.judge,
            "model": self.model,
            "labelled": self.labelled,
            "unparsed": self.unparsed,
            **{name: asdict(interval) for name, interval in measured.items()},
            "confusion": self.confusion,
            "harm": [{**entry, "corrected": asdict(entry["corrected"])} for entry in self.harm],
            "cost": self.cost,
        }
