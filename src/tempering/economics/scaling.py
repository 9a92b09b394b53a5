"""Scaling laws: does a larger model learn more from poison, and what does it cost to break one?

**What is learnt** (Bowen et al. 2024, arXiv 2408.02946). With N the number of parameters,

    learned = α_series + β ln N + (effect of the poison rate) + error

by least squares, errors clustered by series of models, since sizes of one series share data and recipe. ``learned`` is the score
after the attack less the score before. With the handful of series that anybody has, the sandwich of the textbooks is too narrow: the
standard error is CR2 and the interval Student's t with Satterthwaite's degrees of freedom; see :mod:`tempering.economics.clustered`.

Simulated coverage of the 95 % interval (slopes that differ between series, an effect of every model shared by its five rates; 1,000 to
2,000 studies): 3 series of 3 sizes 95 %, 4 series of 2–4 sizes 96 %, 5 of 1–5 sizes 96 %, 8 of 2–4 sizes 95 %. The plain sandwich with a
normal quantile: 62, 69, 67 and 82 %. The price of honesty is about two degrees of freedom for 3 to 5 series, about four for 8.

* Fewer than :data:`LEAST_SERIES` series: no interval could be meant (``too_few_series``).
* No series has two sizes: ln N and the series cannot be told apart (``unidentified``).
* A score that could not be measured is left out and counted (``unmeasured``).

**What a break costs.**  For one defence and one attack, or the best of several,

    ln price = a + b ln N + σ e

One value a model: the median over its seeds, which lies in (⌈n/2⌉-th smallest lower end, ⌈n/2⌉-th smallest upper end] whatever happened
between the probes, and beyond the first where that upper end is infinite. Runs that ended without a usable break count as unbroken up
to the largest spend of their model, as in :mod:`tempering.economics.medians`. Seeds of one model are not so many models: that a model
departs from the line is one draw of e, so the degrees of freedom are about models less two, whatever the number of seeds. The fit, and
its intervals, are those of :mod:`tempering.economics.censored_line`: interval- and right-censored, exact for prices known exactly.

* A price in (0, s], s the first checkpoint, counts as s: nothing cheaper was on offer. A price of 0 has no logarithm; it lies below the
  least price that any model has (left-censored).
* Fewer than :data:`LEAST_SIZES` different sizes: refused (``too_few_sizes``). Two points have a line, and no way to know its error.
* Fewer than three models whose median was seen: ``too_few_prices``; the bounds of the models are all that is known.

**Extrapolation** to 7 and 70 billion parameters is drawn with the *prediction* interval for the median price of one more model, not with
that of the line, and says over how many decades it reaches beyond the largest model measured. It assumes that the line goes on, which
nothing here can test: ``extrapolated`` marks every such row.

**learned** (in), one row a trained model: ``series, model, parameters, poison_rate, learned``. **learned_scaling** (out), one row:
``status, beta, low, high, standard_error, freedom, p_value, series, models, rows, unmeasured``.

**runs** (in), one row a seed: ``defense, name, model, parameters, lower, upper, ended``: the price lies in (lower, upper]. Out:

* **sizes**, one row a (defense, name, model): ``parameters, lower, upper, seeds``: where its median lies.
* **fits**, one row a (defense, name): ``status, models, seen, slope, slope_low, slope_high, sigma, smallest, largest``. A slope of 1 is
  a price in proportion to the size: as many tokens whatever the model, if the price is in FLOPs.
* **curve**, one row a (defense, name) and size, those measured and those asked for: ``parameters, price, low, high, extrapolated,
  decades``. Where there is no fit, price is NaN, low 0 and high inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tempering.economics import censored_line
from tempering.economics.clustered import coefficient, identified
from tempering.economics.medians import CONFIDENCE, carried_on
from tempering.economics.survival import Floats
from tempering.errors import TemperingError

LEAST_SERIES = 3
"""Series below which the errors of series cannot be told from anything."""
LEAST_SIZES = 3
"""Different sizes below which a line has no error."""
ASKED = (7e9, 70e9)
"""Sizes to extrapolate to unless others are asked for."""

LEARNED_STATUSES = {
    "known": "the slope and its interval are known",
    "too_few_series": "too few series of models to tell how far one departs from the others",
    "unidentified": "no series has two sizes; size and series cannot be told apart",
}
PRICE_STATUSES = {
    "known": "the line and its interval are known",
    "too_few_sizes": "fewer than three sizes; a line through two points has no error",
    "too_few_prices": "fewer than three models broke in half of their seeds; the others are known to cost more than their budget",
}

_KEY = ["defense", "name"]
_LEARNED_TYPES = {
    "status": "object",
    **dict.fromkeys(("beta", "low", "high", "standard_error", "freedom", "p_value"), "float64"),
    **dict.fromkeys(("series", "models", "rows", "unmeasured"), "int64"),
}
_KEY_TYPES = dict.fromkeys(_KEY, "object")
_SIZE_TYPES = {**_KEY_TYPES, "model": "object", **dict.fromkeys(("parameters", "lower", "upper"), "float64"), "seeds": "int64"}
_FIT_TYPES = {
    **_KEY_TYPES,
    "status": "object",
    **dict.fromkeys(("models", "seen"), "int64"),
    **dict.fromkeys(("slope", "slope_low", "slope_high", "sigma", "smallest", "largest"), "float64"),
}
_CURVE_TYPES = {
    **_KEY_TYPES,
    **dict.fromkeys(("parameters", "price", "low", "high"), "float64"),
    "extrapolated": "bool",
    "decades": "float64",
}


class InvalidScaling(TemperingError):
    """A table of sizes that holds no sizes."""


@dataclass(frozen=True)
class PriceScaling:
    """Prices over sizes; the tables are described at the head of this module."""

    sizes: pd.DataFrame
    fits: pd.DataFrame
    curve: pd.DataFrame


def learned_scaling(learned: pd.DataFrame) -> pd.DataFrame:
    """How much more a larger model learns from poison.

    Args:
        learned: as the head of this module says.

    Returns:
        One row; none for an empty table.

    Raises:
        InvalidScaling: a size is not a positive number.
    """
    table = learned.assign(parameters=_positive(learned["parameters"]))
    measured = table[np.isfinite(table["learned"].astype(float))]
    if table.empty:
        return pd.DataFrame(columns=list(_LEARNED_TYPES)).astype(_LEARNED_TYPES)
    row: dict[str, Any] = {
        "series": measured["series"].nunique(),
        "models": measured["model"].nunique(),
        "rows": len(measured),
        "unmeasured": len(table) - len(measured),
    }
    row |= dict.fromkeys(("beta", "low", "high", "standard_error", "freedom", "p_value"), math.nan) | _regressed(measured)
    return pd.DataFrame([row], columns=list(_LEARNED_TYPES)).astype(_LEARNED_TYPES)


def _regressed(measured: pd.DataFrame) -> dict[str, Any]:
    if measured["series"].nunique() < LEAST_SERIES:
        return {"status": "too_few_series"}
    logs = np.log(measured["parameters"].to_numpy(dtype=float))
    series = pd.factorize(measured["series"], sort=True)[0].astype(np.int64)
    rates = pd.factorize(measured["poison_rate"], sort=True)[0]
    design = np.column_stack([logs - logs.mean(), np.eye(series.max() + 1)[series], np.eye(rates.max() + 1)[rates][:, 1:]])
    if not identified(design, 0):
        return {"status": "unidentified"}
    found = coefficient(measured["learned"].to_numpy(dtype=float), design, series, 0, confidence=CONFIDENCE)
    numbers = {"beta": found.value, "low": found.low, "high": found.high, "standard_error": found.error}
    return {"status": "known", **numbers, "freedom": found.freedom, "p_value": found.p_value}


def price_scaling(runs: pd.DataFrame, *, extrapolate_to: Sequence[float] = ASKED) -> PriceScaling:
    """The price of a break as a function of the size of the model.

    Args:
        runs: as the head of this module says.
        extrapolate_to: further sizes, in parameters.

    Returns:
        The tables described there, ordered by defence, name and size; empty for an empty table.

    Raises:
        InvalidScaling: a size is not a positive number.
    """
    runs = runs.assign(parameters=_positive(runs["parameters"]))
    sizes: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    for key, group in runs.groupby(_KEY, sort=True):
        named = dict(zip(_KEY, key, strict=True))
        models = [_median(model, seeds) for model, seeds in group.groupby("model", sort=True)]
        models.sort(key=lambda row: (row["parameters"], row["model"]))
        fitted = _Fitted.of(models)
        wanted = sorted({row["parameters"] for row in models} | {float(size) for size in extrapolate_to})
        sizes += [{**named, **row} for row in models]
        fits.append({**named, **fitted.row()})
        curve += [{**named, **fitted.at(size)} for size in wanted]
    tables = ((sizes, _SIZE_TYPES), (fits, _FIT_TYPES), (curve, _CURVE_TYPES))
    return PriceScaling(*(pd.DataFrame(rows, columns=list(types)).astype(types) for rows, types in tables))


def _positive(sizes: pd.Series[float]) -> pd.Series[float]:
    numbers = sizes.astype(float)
    if not ((numbers > 0) & np.isfinite(numbers)).all():
        raise InvalidScaling("a size is not a positive number", "give every model its number of parameters")
    return numbers


def _median(model: Any, seeds: pd.DataFrame) -> dict[str, Any]:
    """Between which two prices the median over the seeds of one model lies."""
    lower, upper = (seeds[end].to_numpy(dtype=float) for end in ("lower", "upper"))
    carried = carried_on(lower, upper, seeds["ended"].to_numpy(dtype=bool))
    middle = math.ceil(len(seeds) / 2) - 1
    opens, closes = float(np.sort(carried)[middle]), float(np.sort(upper)[middle])
    size = float(seeds["parameters"].iloc[0])
    return {"model": str(model), "parameters": size, "lower": min(opens, closes), "upper": closes, "seeds": len(seeds)}


@dataclass(frozen=True)
class _Fitted:
    """The medians of one defence and attack, with logarithms taken about their means, and what can be said of them."""

    sizes: Floats
    lower: Floats
    upper: Floats
    status: str
    centre: float
    height: float

    @classmethod
    def of(cls, models: list[dict[str, Any]]) -> _Fitted:
        sizes, lower, upper = (np.array([row[name] for row in models]) for name in ("parameters", "lower", "upper"))
        lower = np.where(lower == 0, upper, lower)  # nothing cheaper than the first checkpoint was on offer
        priced = upper[(upper > 0) & np.isfinite(upper)]
        # Free: below the least that anything costs. And a model that was never looked at lies anywhere.
        upper = np.where(upper == 0, priced.min() if len(priced) else 1.0, upper)
        with np.errstate(divide="ignore"):
            low, high = np.log(np.where(np.isinf(lower), 0.0, lower)), np.log(upper)
        seen = int(censored_line.seen(low[None], high[None])[0])
        status = "known" if seen >= LEAST_SIZES else "too_few_prices"
        status = status if len(np.unique(sizes)) >= LEAST_SIZES else "too_few_sizes"
        centre = float(np.log(sizes).mean())
        height = float(np.median(high[np.isfinite(high)])) if seen else 0.0
        return cls(sizes, (low - height)[None], (high - height)[None], status, centre, height)

    @property
    def design(self) -> Floats:
        return np.column_stack([np.ones(len(self.sizes)), np.log(self.sizes) - self.centre])

    def row(self) -> dict[str, Any]:
        numbers = dict.fromkeys(("slope", "slope_low", "slope_high", "sigma"), math.nan)
        if self.status == "known":
            line = censored_line.fit(self.lower, self.upper, self.design)
            low, high = censored_line.coefficient_interval(self.lower, self.upper, self.design, 1, CONFIDENCE)
            numbers = {"slope": line.coefficients[0, 1], "slope_low": low[0], "slope_high": high[0], "sigma": line.sigma[0]}
        models = {"models": len(self.sizes), "seen": int(censored_line.seen(self.lower, self.upper)[0])}
        return {"status": self.status, **models, **numbers, "smallest": self.sizes.min(), "largest": self.sizes.max()}

    def at(self, size: float) -> dict[str, Any]:
        price, low, high = math.nan, 0.0, math.inf
        if self.status == "known":
            place = np.array([1.0, math.log(size) - self.centre])
            line = censored_line.fit(self.lower, self.upper, self.design)
            ends = censored_line.prediction_interval(self.lower, self.upper, self.design, place, CONFIDENCE)
            price, low, high = (_price(float(value) + self.height) for value in (line.coefficients[0] @ place, ends[0][0], ends[1][0]))
        outside = max(math.log10(size / self.sizes.max()), math.log10(self.sizes.min() / size), 0.0)
        extrapolated = not self.sizes.min() <= size <= self.sizes.max()
        return {"parameters": size, "price": price, "low": low, "high": high, "extrapolated": extrapolated, "decades": outside}


def _price(logarithm: float) -> float:
    return math.exp(logarithm) if logarithm < 700 else math.inf
