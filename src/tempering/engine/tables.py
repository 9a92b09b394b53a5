"""From probes to files, and from files to the two tables of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tempering.engine.results import COUNTS, SPEND, Probe, Tables
from tempering.engine.units import Unit

MEASURES = ("harm", "refusal", "utility", "over_refusal", "coherence", "divergence")
"""Measurements that every trajectory table has a column for; NaN where no evaluator gave it."""


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
    """Undo :func:`encode_probes`, as an Arrow table."""
    return pq.read_table(pa.BufferReader(content), use_threads=False)


def join_tables(finished: Sequence[tuple[Unit, dict[str, Any], pa.Table]]) -> Tables:
    """The two tables out of every unit's manifest and probes.

    Args:
        finished: in the order that the rows shall have.
    """
    return Tables(units=_units(finished), trajectories=_trajectories(finished))


def _units(finished: Sequence[tuple[Unit, dict[str, Any], pa.Table]]) -> pd.DataFrame:
    configs: dict[str, str] = {}
    rows = []
    for unit, manifest, _ in finished:
        work = unit.work
        if work.hash not in configs:
            configs[work.hash] = json.dumps(work.attack.config if work.attack else {}, sort_keys=True)
        rows.append(
            {
                "unit": unit.hash,
                "kind": work.kind,
                "model": work.model.reference,
                "defense": work.defense_name,
                "attack": work.attack_name,
                "trial": work.trial,
                "config": configs[work.hash],
                "seed": unit.seed,
                "status": manifest["status"],
                "error": manifest["error"],
                "wall_s": manifest["wall_s"],
                **{name: manifest["spend"][name] for name in SPEND},
            }
        )
    text = ("unit", "kind", "model", "defense", "attack", "trial", "config", "status", "error")
    columns = ("unit", "kind", "model", "defense", "attack", "trial", "config", "seed", "status", "error", "wall_s", *SPEND)
    types = {name: object if name in text else np.int64 if name in COUNTS or name == "seed" else np.float64 for name in columns}
    return pd.DataFrame(rows, columns=list(columns)).astype(types)


def _trajectories(finished: Sequence[tuple[Unit, dict[str, Any], pa.Table]]) -> pd.DataFrame:
    empty = decode_probes(encode_probes([]))
    probes = pa.concat_tables([empty, *(table for _, _, table in finished)], promote_options="default").to_pandas()
    lengths = [table.num_rows for _, _, table in finished]
    names = {
        "unit": [unit.hash for unit, _, _ in finished],
        "model": [unit.work.model.reference for unit, _, _ in finished],
        "defense": [unit.work.defense_name for unit, _, _ in finished],
        "attack": [unit.work.attack_name for unit, _, _ in finished],
        "trial": [unit.work.trial for unit, _, _ in finished],
    }
    columns: dict[str, Any] = {name: np.repeat(np.array(values, dtype=object), lengths) for name, values in names.items()}
    columns["seed"] = np.repeat(np.array([unit.seed for unit, _, _ in finished], dtype=np.int64), lengths)
    for name in MEASURES:
        if name not in probes:
            probes[name] = np.nan
    further = sorted(set(probes.columns) - {"probe", "details", *SPEND, *MEASURES})
    for name in ("probe", *SPEND, *MEASURES, *further, "details"):
        columns[name] = probes[name].to_numpy()
    return pd.DataFrame(columns)
