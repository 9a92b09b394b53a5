"""What the searches for attacks' settings tried and found, in words and rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tempering.report.formatting import NOTHING, amount, count, flops
from tempering.report.rows import PriceRow, group_title

if TYPE_CHECKING:
    from tempering.economics.prices import Accelerator
    from tempering.study import Study

_SAMPLERS = {"tpe": "multivariate TPE", "random": "at random"}


def sentences(study: Study, rows: Sequence[PriceRow], units: pd.DataFrame) -> list[str]:
    """What a search did, for the reader of its prices; empty where the study has none.

    Args:
        study: what was asked for.
        rows: the price rows.
        units: the engine's units.
    """
    if study.search is None:
        return []
    search = study.search
    attacks = [row for row in rows if row.search is not None]
    found = []
    if attacks:
        fields = _fields(units)
        most = max(row.search.trials for row in attacks if row.search)
        halving = " Trials that lagged behind were stopped by successive halving." if search.halving else ""
        found.append(
            f"Each run began as an attacker who searches: up to {count(most)} {'trial' if most == 1 else 'trials'} with other settings "
            f"({', '.join(fields)}), the attack's own first, the rest {_sampler(search.sampler)}. A trial was judged by the attacker's own "
            f"validation prompts, never by the test, for the least compute to break the safeguard.{halving}"
        )
        found.append(
            "The settings that won were run once more, and that run is priced on its own; “with search” adds everything that every trial "
            "of that search used, the failed ones and the asking in between too."
        )
    if plain := list(dict.fromkeys(row.attack for row in rows if row.search is None)):
        found.append(f"Run as they stand, for want of settings or of prompts to choose them by: {', '.join(plain)}.")
    return found


def chosen(units: pd.DataFrame, accelerator: Accelerator) -> list[dict[str, Any]]:
    """One row a search: what it chose and what it used.

    Args:
        units: the engine's units.
        accelerator: prices the search.
    """
    from tempering.economics.prices import usd

    if "search_trials" not in units:
        return []
    searched = units[units["search_trials"] > 0].sort_values(["model", "defense", "attack", "seed"])
    several = searched[["model", "defense"]].drop_duplicates().shape[0] > 1
    return [
        {
            "attack": f"{record['attack']} on {group_title(record['model'], record['defense'])}" if several else record["attack"],
            "seed": record["seed"],
            "trials": count(record["search_trials"]),
            "settings": _settings(record["chosen"], record["config"]),
            "flops": flops(record["search_flops"]),
            "usd": amount(usd(float(record["search_flops"]), accelerator), "usd"),
            "ranks": {"trials": float(record["search_trials"]), "flops": float(record["search_flops"])},
        }
        for record in searched.to_dict(orient="records")
    ]


def _sampler(name: str) -> str:
    return _SAMPLERS.get(name, name) if name == "random" else f"by {_SAMPLERS.get(name, name)}"


def _fields(units: pd.DataFrame) -> list[str]:
    """Every setting that some search could set, in order of first appearance."""
    names = [name for text in units.loc[units["search_trials"] > 0, "chosen"] for name in json.loads(text)]
    return list(dict.fromkeys(names))


def _settings(found: str, config: str) -> str:
    """What a search set otherwise than the attack has it: "training.learning_rate 0.00031, shots 50"."""
    changed = []
    for name, value in json.loads(found).items():
        if _at(json.loads(config), name.split(".")) != value:
            changed.append(f"{name} {_short(value)}")
    return ", ".join(changed) or "the attack's own"


def _at(config: Any, path: Sequence[str]) -> Any:
    """What a configuration holds at a dotted path; an object of its own where it holds nothing there."""
    for part in path:
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return NOTHING
    return config


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)
