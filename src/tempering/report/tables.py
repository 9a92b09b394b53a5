"""The tidy tables of a run as Parquet files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from tempering.engine.files import replace_file

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment


class RunTables(Protocol):
    """What the engine hands over: :class:`tempering.engine.results.Tables`."""

    @property
    def units(self) -> pd.DataFrame:
        """One row a unit of work."""

    @property
    def trajectories(self) -> pd.DataFrame:
        """One row a probe."""

    @property
    def trials(self) -> pd.DataFrame | None:
        """One row a trial of a search."""


def write_tables(directory: Path, tables: RunTables, assessment: Assessment) -> list[Path]:
    """Write the tables to ``directory/<name>.parquet``, each atomically.

    They are ``units, trajectories, breaks, survival, prices``, after a search ``trials``, and of a comparison of defences ``multipliers,
    tax, absence``, those of them that have rows; what a run of before left of those is removed. The trajectories are the assessment's, so
    that they carry ``recovered``, ``gpu_hours`` and ``usd``.

    Args:
        directory: made if it is missing.
        tables: what the engine produced.
        assessment: what economics made of it.

    Returns:
        The files, in the order above.
    """
    directory.mkdir(parents=True, exist_ok=True)
    frames = {
        "units": tables.units,
        "trajectories": assessment.trajectories,
        "breaks": assessment.breaks,
        "survival": assessment.survival,
        "prices": assessment.prices,
    }
    if tables.trials is not None and len(tables.trials):
        frames["trials"] = tables.trials
    for name in ("multipliers", "tax", "absence"):
        frame: pd.DataFrame = getattr(assessment, name)
        if len(frame):
            frames[name] = frame
        else:
            (directory / f"{name}.parquet").unlink(missing_ok=True)
    paths = []
    for name, frame in frames.items():
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
        paths.append(directory / f"{name}.parquet")
        replace_file(paths[-1], buffer.getvalue())
    return paths
