"""From probes and trials to files, and from files to the tables of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tempering.engine.parquet_file import check_columns, read_parquet
from tempering.engine.results import COUNTS, NO_SPEND, SPEND, Probe, Tables, Trial
from tempering.engine.units import Unit, Work

MEASURES = ("harm", "refusal", "utility", "over_refusal", "borderline", "coherence", "divergence")
"""Measurements that every trajectory table has a column for; NaN where no evaluator gave it."""


SEARCH_SPEND = tuple(f"search_{name}" for name in SPEND if name != "trials")
"""Columns of the units table with what a unit's search used, beside ``search_trials``, how many settings it tried."""

_TRIAL_TEXT = ("config", "outcome", "stopped", "error")
_TRIAL_NUMBERS = ("objective", "recovered", "utility_kept")


@dataclass(frozen=True)
class FinishedUnit:
    """A unit with what it left in the store.

    Attributes:
        unit: what it was.
        manifest: its manifest.
        probes: from :func:`decode_probes`.
        trials: from :func:`decode_trials`; ``None`` without a search.
    """

    unit: Unit
    manifest: dict[str, Any]
    probes: pa.Table
    trials: pa.Table | None = None


def encode_probes(probes: Sequence[Probe]) -> bytes:
    """Probes as a Parquet file: ``probe``, the spend, the measurements, ``details`` as JSON."""
    measures = list(dict.fromkeys(name for probe in probes for name in probe.measurements))
    columns: dict[str, pa.Array] = {"probe": pa.array([probe.number for probe in probes], pa.int64())}
    for name in SPEND:
        kind = pa.int64() if name in COUNTS else pa.float64()
        columns[name] = pa.array([probe.spend[name] for probe in probes], kind)
    for name in measures:
        columns[name] = pa.array([float(probe.measurements.get(name, math.nan)) for probe in probes], pa.float64())
    columns["details"] = pa.array([json.dumps(probe.details, sort_keys=True, allow_nan=False) for probe in probes], pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def decode_probes(content: bytes) -> pa.Table:
    """Undo :func:`encode_probes`, as an Arrow table.

    Raises:
        Damaged: it is not what that function makes.
    """
    table = read_parquet(content)
    check_columns(table, {"probe": pa.int64(), **_spend_types(), "details": pa.string()}, others=pa.float64())
    return table


def encode_trials(trials: Sequence[Trial]) -> bytes:
    """Trials as a Parquet file.

    Columns: ``number``, ``config`` (JSON), ``outcome``, ``stopped``, ``objective``, ``recovered``, ``utility_kept``, ``error``, the
    attack's spend, ``break_<spend>`` (NaN without a break) and ``check_<spend>``.
    """
    columns: dict[str, pa.Array] = {"number": pa.array([trial.number for trial in trials], pa.int64())}
    configs = [json.dumps(trial.config, sort_keys=True, allow_nan=False) for trial in trials]
    for name in _TRIAL_TEXT:
        columns[name] = pa.array(configs if name == "config" else [getattr(trial, name) for trial in trials], pa.string())
    for name in _TRIAL_NUMBERS:
        columns[name] = pa.array([getattr(trial, name) for trial in trials], pa.float64())
    for name in SPEND:
        kind = pa.int64() if name in COUNTS else pa.float64()
        columns[name] = pa.array([trial.spend[name] for trial in trials], kind)
        columns[f"break_{name}"] = pa.array([float(trial.break_spend.get(name, math.nan)) for trial in trials], pa.float64())
        columns[f"check_{name}"] = pa.array([trial.checks[name] for trial in trials], kind)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def decode_trials(content: bytes) -> pa.Table:
    """Undo :func:`encode_trials`, as an Arrow table.

    Raises:
        Damaged: it is not what that function makes.
    """
    table = read_parquet(content)
    own = {"number": pa.int64(), **dict.fromkeys(_TRIAL_TEXT, pa.string()), **dict.fromkeys(_TRIAL_NUMBERS, pa.float64())}
    spent = _spend_types()
    checks = {f"check_{name}": kind for name, kind in spent.items()}
    check_columns(table, {**own, **spent, **checks, **{f"break_{name}": pa.float64() for name in spent}})
    return table


def _spend_types() -> dict[str, pa.DataType]:
    return {name: pa.int64() if name in COUNTS else pa.float64() for name in SPEND}


def join_tables(finished: Sequence[FinishedUnit]) -> Tables:
    """The tables out of every unit's manifest, probes and trials.

    Args:
        finished: in the order that the rows shall have.
    """
    return Tables(units=_units(finished), trajectories=_trajectories(finished), trials=_trials(finished))


def _units(finished: Sequence[FinishedUnit]) -> pd.DataFrame:
    configs: dict[str, str] = {}
    rows = []
    for entry in finished:
        unit, manifest = entry.unit, entry.manifest
        work = unit.work
        search = manifest.get("search") or {"trials": 0, "spend": NO_SPEND}
        if work.hash not in configs:
            configs[work.hash] = json.dumps(_config(work), sort_keys=True)
        rows.append(
            {
                "unit": unit.hash,
                "kind": work.kind,
                "model": work.model.title,
                "defense": work.defense_name,
                "attack": work.attack_name,
                "trial": work.trial,
                "config": configs[work.hash],
                "seed": unit.seed,
                "status": manifest["status"],
                "error": manifest["error"],
                "wall_s": manifest["wall_s"],
                **{name: manifest["spend"][name] for name in SPEND},
                "search_trials": search["trials"],
                **{name: search["spend"][name.removeprefix("search_")] for name in SEARCH_SPEND},
                "chosen": json.dumps(search["config"], sort_keys=True) if "config" in search else "",
                "judging": json.dumps(manifest["judging"], sort_keys=True) if "judging" in manifest else "",
            }
        )
    text = ("unit", "kind", "model", "defense", "attack", "trial", "config", "status", "error", "chosen", "judging")
    known = ("unit", "kind", "model", "defense", "attack", "trial", "config", "seed", "status", "error", "wall_s", *SPEND)
    judged = ("judging",) if any(row["judging"] for row in rows) else ()
    columns = (*known, "search_trials", *SEARCH_SPEND, "chosen", *judged)
    whole = {"seed", *COUNTS, *(f"search_{name}" for name in COUNTS)}
    types = {name: object if name in text else np.int64 if name in whole else np.float64 for name in columns}
    return pd.DataFrame(rows, columns=list(columns)).astype(types)


def _config(work: Work) -> dict[str, Any]:
    """The settings of what a unit does: of its attack, its defence or the honest user's training."""
    if work.kind == "harden" and work.defense:
        return work.defense.config
    if work.trainability:
        return work.trainability.model_dump(mode="json")
    return work.attack.config if work.attack else {}


def _trajectories(finished: Sequence[FinishedUnit]) -> pd.DataFrame:
    empty = decode_probes(encode_probes([]))
    joined = pa.concat_tables([empty, *(entry.probes for entry in finished)], promote_options="default")
    probes, columns = joined.to_pandas(), _named(finished, [entry.probes.num_rows for entry in finished])
    for name in MEASURES:
        if name not in probes:
            probes[name] = np.nan
    further = sorted(set(probes.columns) - {"probe", "details", *SPEND, *MEASURES})
    for name in ("probe", *SPEND, *MEASURES, *further, "details"):
        columns[name] = probes[name].to_numpy()
    return pd.DataFrame(columns)


def _trials(finished: Sequence[FinishedUnit]) -> pd.DataFrame:
    searched = [(entry, entry.trials) for entry in finished if entry.trials is not None]
    joined = pa.concat_tables([decode_trials(encode_trials([])), *(trials for _, trials in searched)]).to_pandas()
    columns = _named([entry for entry, _ in searched], [trials.num_rows for _, trials in searched])
    return pd.DataFrame({**columns, **{name: joined[name].to_numpy() for name in joined.columns}})


def _named(finished: Sequence[FinishedUnit], lengths: Sequence[int]) -> dict[str, Any]:
    """The columns that say whose rows they are, each unit's values as often as it has rows."""
    units = [entry.unit for entry in finished]
    names = {
        "unit": [unit.hash for unit in units],
        "model": [unit.work.model.title for unit in units],
        "defense": [unit.work.defense_name for unit in units],
        "attack": [unit.work.attack_name for unit in units],
        "trial": [unit.work.trial for unit in units],
    }
    columns: dict[str, Any] = {name: np.repeat(np.array(values, dtype=object), lengths) for name, values in names.items()}
    columns["seed"] = np.repeat(np.array([unit.seed for unit in units], dtype=np.int64), lengths)
    return columns
