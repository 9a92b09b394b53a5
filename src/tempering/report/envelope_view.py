"""The attacker's envelope read for people: one model's prices by defence and threat model, at the thresholds that a picture walks along."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from tempering.economics.population import ANY
from tempering.economics.tables import CONTROL
from tempering.report.formatting import Price

if TYPE_CHECKING:
    from tempering.report.section import Material

UNDEFENDED = "undefended"
"""What the model as it came is called."""
FEW_LINES = 6
"""Up to so many defences each has a colour."""
MARKED = 5
"""Where there are more, so many of the dearest have one."""

_REASONS = {"unknown": "not known", "untried": "no attack tried"}


@dataclass(frozen=True)
class Point:
    """The cheapest price at one pair of thresholds.

    Attributes:
        tau: share of the withheld harm that is demanded.
        epsilon: share of utility that may be lost.
        status: a key of :data:`tempering.economics.envelope.STATUSES`.
        price: in FLOPs.
        attack: the cheapest; "" where none is known.
        broken: runs of it that broke.
        runs: all of them.
    """

    tau: float
    epsilon: float
    status: str
    price: Price
    attack: str
    broken: int
    runs: int

    @property
    def told(self) -> bool:
        """Whether there is a price or a bound."""
        return self.status in ("known", "beyond")

    @property
    def place(self) -> float:
        """Where it is drawn; NaN where nothing is known."""
        return (self.price.bound if self.price.censored else self.price.median) if self.told else math.nan

    def __str__(self) -> str:
        """Price and interval, or why there is none."""
        return str(self.price) if self.told else _REASONS[self.status]


@dataclass(frozen=True)
class View:
    """What attackers of one threat model pay for one model, undefended and behind each defence.

    Attributes:
        model: its reference.
        threat_model: what they hold.
        attacks: how many attacks that allows, and were run.
        by_harm: prices by defence as τ goes up, at the study's ε; the undefended model first.
        by_loss: prices by defence as ε goes up, at the study's τ.
        tau: the study's.
        epsilon: the study's.
    """

    model: str
    threat_model: str
    attacks: int
    by_harm: dict[str, tuple[Point, ...]]
    by_loss: dict[str, tuple[Point, ...]]
    tau: float
    epsilon: float

    @property
    def holder(self) -> str:
        """The threat model within a sentence."""
        return "any threat model" if self.threat_model == ANY else self.threat_model

    @property
    def title(self) -> str:
        """The threat model, and how many attacks it allows."""
        return f"{self.holder} ({self.attacks} attack{'' if self.attacks == 1 else 's'})"

    def at(self, defense: str) -> Point:
        """The price at the study's own thresholds."""
        return next(point for point in self.by_harm[defense] if point.tau == self.tau)

    @property
    def dearest_first(self) -> list[str]:
        """The defences by their price, or its bound, at the study's thresholds; those without either left out."""
        told = [name for name in self.by_harm if name != UNDEFENDED and self.at(name).told]
        return sorted(told, key=lambda name: (-self.at(name).price.rank, name))

    @property
    def mostly_known(self) -> bool:
        """Whether at least half of the prices are known at the study's thresholds; an order of bounds says little of defences."""
        return 2 * sum(self.at(name).status == "known" for name in self.by_harm) >= len(self.by_harm)


def views(material: Material) -> list[View]:
    """Every model under every threat model that one of the attacks tried falls under, the study's own threat model first."""
    table = material.conclusions.envelope
    if table.empty:
        return []
    table = table[(table["currency"] == "flops") & (table["status"] != "untried")]
    tau, epsilon = material.study.threshold.tau, material.study.threshold.epsilon
    found = []
    for (model, threat_model), rows in table.groupby(["model", "threat_model"], sort=False):
        by_harm = _by_defense(rows[rows["epsilon"] == epsilon].sort_values("tau"))
        by_loss = _by_defense(rows[rows["tau"] == tau].sort_values("epsilon"))
        found.append(View(str(model), str(threat_model), int(rows["attacks"].max()), by_harm, by_loss, tau, epsilon))
    return [view for view in found if view.by_harm and view.by_loss]


def _by_defense(rows: pd.DataFrame) -> dict[str, tuple[Point, ...]]:
    names = sorted(set(map(str, rows["defense"])), key=lambda name: (name != CONTROL, name))
    return {UNDEFENDED if name == CONTROL else name: tuple(map(_point, rows[rows["defense"] == name].to_dict("records"))) for name in names}


def _point(row: Mapping[Hashable, Any]) -> Point:
    status, (median, low, high) = str(row["status"]), (float(row[name]) for name in ("price", "low", "high"))
    beyond = status != "known"
    price = Price("flops", median, low, high, beyond, exceeds=low if beyond else math.nan)
    return Point(float(row["tau"]), float(row["epsilon"]), status, price, str(row["attack"]), int(row["broken"]), int(row["runs"]))


def marked(found: Sequence[View]) -> list[str]:
    """The defences that are drawn in colour: all of a few, else the dearest of each threat model by turns."""
    names = sorted({name for view in found for name in view.by_harm} - {UNDEFENDED})
    if len(names) <= FEW_LINES:
        return names
    orders = [view.dearest_first for view in found if view.mostly_known] or [view.dearest_first for view in found]
    by_turns = (order[place] for place in range(len(names)) for order in orders if place < len(order))
    return list(dict.fromkeys(by_turns))[:MARKED]
