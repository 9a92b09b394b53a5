"""The spend axis: logarithmic, with a place for zero, and few round ticks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tempering.report.formatting import amount


class Spread:
    """A logarithmic axis with a place for zero: left of the smallest positive value, by an eighth of the width."""

    def __init__(self, values: pd.Series) -> None:
        """Find the range of the positive values, and whether zero needs a place."""
        numbers = values.to_numpy(dtype=float)
        positive = numbers[np.isfinite(numbers) & (numbers > 0)]
        self.low, self.high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 10.0)
        self.zero = self.low / max((self.high / self.low) ** 0.125, 1.35)
        self.has_zero = bool((numbers == 0).any())

    def place(self, values: pd.Series) -> np.ndarray:
        """Where values are drawn, zero in its own place."""
        numbers = values.to_numpy(dtype=float)
        return np.where(numbers > 0, numbers, self.zero)

    def dress(self, axes: Axes, spend: str) -> None:
        """Scale, limits and tick labels of the spend axis."""
        axes.set_xscale("log")
        step = self.low / self.zero
        axes.set_xlim((self.zero if self.has_zero else self.low) / step**0.3, self.high * step**0.5)
        log_ticks(axes, spend, self.low, self.high, zero=self.zero if self.has_zero else None)


def log_ticks(axes: Axes, spend: str, low: float, high: float, zero: float | None = None) -> None:
    """At most five ticks on round numbers inside the data, and one for zero where there is a place for it."""
    limits = axes.get_xlim()
    floor = low * 0.999 if zero is not None else limits[0]
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks: list[float] = []
    for within_decade in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        candidates = (digit * 10.0**exponent for exponent in exponents for digit in within_decade)
        ticks = [tick for tick in candidates if floor <= tick <= limits[1]]
        if len(ticks) >= 3:
            break
    if len(ticks) < 2:
        ticks = sorted({low, high})
    ticks = ticks[:: max(1, math.ceil(len(ticks) / 5))]
    if zero is not None:
        ticks = [zero, *(tick for tick in ticks if tick > zero * (limits[1] / limits[0]) ** 0.13)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == zero else _tick(value, spend)))


def _tick(value: float, spend: str) -> str:
    """A short tick label: "10 G", "200", "$0.001", "$1e-7"."""
    if spend == "usd" and value < 0.0009:
        return f"${value:.0e}".replace("e-0", "e-")
    if spend == "flops":
        return amount(value, spend).replace(".0 ", " ").removesuffix("FLOP").rstrip()
    return amount(value, spend).removesuffix(".00") if spend == "usd" else f"{value:,.0f}" if value >= 1 else f"{value:g}"
