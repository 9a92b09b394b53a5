"""A logarithmic axis of prices in either direction, with few round ticks and a place for a price of nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tempering.report.formatting import flops

_MOST_TICKS = 5


@dataclass(frozen=True)
class PriceScale:
    """What a logarithmic axis reaches over.

    Attributes:
        low: the least positive value.
        high: the greatest.
        has_zero: whether zero needs a place.
    """

    low: float
    high: float
    has_zero: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> PriceScale:
        """The scale that has a place for all of these; what is not a number needs none."""
        numbers = [float(value) for value in values if math.isfinite(value)]
        positive = [value for value in numbers if value > 0]
        low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
        return cls(low, high, any(value == 0 for value in numbers))

    @property
    def _step(self) -> float:
        return max(float((self.high / self.low) ** 0.1), 1.35)

    @property
    def zero(self) -> float:
        """Where zero is drawn: below the least positive value."""
        return float(self.low / self._step**1.5)

    @property
    def limits(self) -> tuple[float, float]:
        """From where to where the axis goes; there is room beyond the greatest for an arrow."""
        return (self.zero if self.has_zero else self.low) / self._step**0.8, self.high * self._step**1.6

    def place(self, value: float) -> float:
        """Where a value is drawn: zero in its own place, and what lies outside at the edge."""
        if value == 0 and self.has_zero:
            return self.zero
        return min(max(value, self.limits[0]), self.limits[1])

    def dress(self, axes: Axes, direction: Literal["x", "y"], label: Callable[[float], str] | None = None) -> None:
        """Scale, limits and ticks of one axis.

        Args:
            axes: to dress.
            direction: which of the two.
            label: of a tick; FLOPs unless told.
        """
        words = label or flops_tick
        axes.set(**{f"{direction}scale": "log", f"{direction}lim": self.limits})
        axis = axes.xaxis if direction == "x" else axes.yaxis
        ticks = [tick for tick in _round(self.low, self.high) if self.low / self._step**0.5 <= tick <= self.limits[1]]
        zero = self.zero if self.has_zero else math.nan
        axis.set_major_locator(FixedLocator([*([zero] if self.has_zero else []), *ticks]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == zero else words(value)))


def _round(low: float, high: float) -> list[float]:
    """At most five round numbers from about the least to about the greatest."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5)):
        inside = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [tick for tick in inside if low * 0.7 <= tick <= high * 1.4]
        if len(inside) >= 3:
            break
    inside = inside if len(inside) >= 2 else sorted({low, high})
    return inside[:: max(1, math.ceil(len(inside) / _MOST_TICKS))]


def flops_tick(value: float) -> str:
    """A tick as "10 G": the axis says that it counts FLOPs."""
    return flops(value).replace(".0 ", " ").removesuffix("FLOP").rstrip()
