"""What a broken model can still do, by benchmarks: before and after each attack, and before and after each defence.

A capability is a measurement whose name has a slash in it, ``task/metric``. It is costly, so probes that do no more harm than the
target have none. Of a run of an attack the *after* is that of the checkpoint where it broke; of a run that did not break, that of the
measured checkpoint with the most recovered harm: what the attacker would have been left with. The *before* is the untouched target's,
of the same run. A hardening has its own row, with the attack ``""``: the model as it came before it, the hardened one after it.

**capability**, one row a (model, defense, attack, measure):

=======================  ========  =========================================================================================
column                   type      meaning
=======================  ========  =========================================================================================
model, defense, attack   str       as in prices; ``attack`` is "" in the rows of hardenings
measure                  str       ``task/metric``
before, after            float64   means over the runs in which both were measured; NaN without any
change                   float64   mean of after − before
<each>_low, _high        float64   95 % interval over seeds, by the bootstrap; of ``after`` and ``change``
runs                     int64     in which both were measured
broken                   int64     of them, runs whose after is that of a break
few_seeds                bool      fewer than five of them
=======================  ========  =========================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tempering.economics.medians import FEW_SEEDS
from tempering.economics.tables import GROUP
from tempering.economics.tax import mean_over_seeds

_NUMBERS = ("before", "after", "after_low", "after_high", "change", "change_low", "change_high")
_TYPES = {
    **dict.fromkeys((*GROUP, "measure"), "object"),
    **dict.fromkeys(_NUMBERS, "float64"),
    **dict.fromkeys(("runs", "broken"), "int64"),
    "few_seeds": "bool",
}


def is_capability(name: str) -> bool:
    """Whether a measurement is of a capability: it is called ``task/metric``."""
    return "/" in name


def capabilities(units: pd.DataFrame, trajectories: pd.DataFrame, breaks: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What every attack and every defence leaves of each capability.

    Args:
        units: one row a unit, as :func:`tempering.economics.tables.checked_units` returns them.
        trajectories: one row a probe, with ``recovered``.
        breaks: one row a unit of kind attack.
        seed: of the bootstrap's draws.

    Returns:
        The table described at the head of this module, ordered by model, defense, attack and measure; empty where none was measured.
    """
    measures = [str(name) for name in trajectories.columns if is_capability(str(name))]
    ends = breaks.set_index("unit")["probe"].to_dict() if len(breaks) else {}
    of_interest = units[units["kind"].isin(("attack", "harden"))]
    by_unit = dict(iter(trajectories.sort_values("probe").groupby("unit", sort=False)))
    rows: list[dict[str, Any]] = []
    for key, runs in of_interest.groupby(GROUP, sort=True):
        group = dict(zip(GROUP, key, strict=True))
        for measure in sorted(measures):
            pairs = [_pair(by_unit[unit], measure, int(ends.get(unit, -1))) for unit in sorted(runs["unit"]) if unit in by_unit]
            if any(np.isfinite(before) for before, _, _ in pairs):
                rows.append({**group, "measure": measure, **_row(pairs, seed)})
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def _pair(probes: pd.DataFrame, measure: str, broke_at: int) -> tuple[float, float, bool]:
    """The measure before and after one run, and whether the latter is that of a break."""
    values, numbers = probes[measure].to_numpy(dtype=float), probes["probe"].to_numpy()
    before = float(values[0]) if len(values) and numbers[0] == 0 else np.nan
    at_break = values[numbers == broke_at] if broke_at >= 0 else np.array([])
    if len(at_break) and np.isfinite(at_break[0]):
        return before, float(at_break[0]), True
    later = np.isfinite(values) & (numbers > 0)
    if not later.any():
        return before, np.nan, False
    recovered = probes["recovered"].to_numpy(dtype=float) if "recovered" in probes else np.full(len(probes), np.nan)
    harm = np.where(later, np.nan_to_num(recovered, nan=-np.inf), -np.inf)
    place = int(np.argmax(harm)) if np.isfinite(harm).any() else int(np.flatnonzero(later)[-1])
    return before, float(values[place]), False


def _row(pairs: list[tuple[float, float, bool]], seed: int) -> dict[str, Any]:
    known = [(before, after, broke) for before, after, broke in pairs if np.isfinite(before) and np.isfinite(after)]
    before, after = (np.array([pair[side] for pair in known], dtype=float) for side in (0, 1))
    ends = {"after": mean_over_seeds(after, seed), "change": mean_over_seeds(after - before, seed)}
    all_before = np.array([pair[0] for pair in pairs if np.isfinite(pair[0])])
    return {
        "before": float(before.mean() if len(known) else all_before.mean()),
        **{f"{name}{end}": value for name, values in ends.items() for end, value in zip(("", "_low", "_high"), values, strict=True)},
        "runs": len(known),
        "broken": sum(broke for _, _, broke in known),
        "few_seeds": len(known) < FEW_SEEDS,
    }
