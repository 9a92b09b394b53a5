"""The tidy tables of a run as Parquet files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from tempering.engine.files import replace_file

if TYPE_CHECKING:
    from tempering.economics.assess import Assessment


_COMPARED = ("multipliers", "tax", "absence")
"""Tables that only a comparison of defences has."""


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


def table_frames(tables: RunTables, assessment: Assessment) -> dict[str, pd.DataFrame]:
    """The tables of a run by name.

    They are ``units, trajectories, breaks, survival, prices``, after a search ``trials``, and of a comparison of defences ``multipliers,
    tax, absence``, those of them that have rows. The trajectories are the assessment's, so that they carry ``recovered``, ``gpu_hours``
    and ``usd``.

    Args:
        tables: what the engine produced.
        assessment: what economics made of it.
    """
    frames = {
        "units": tables.units,
        "trajectories": assessment.trajectories,
        "breaks": assessment.breaks,
        "survival": assessment.survival,
        "prices": assessment.prices,
    }
    if tables.trials is not None and len(tables.trials):
        frames["trials"] = tables.trials
    return frames | {name: getattr(assessment, name) for name in _COMPARED if len(getattr(assessment, name))}


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()


def write_tables(directory: Path, parquets: Mapping[str, bytes], csvs: Mapping[str, bytes]) -> list[Path]:
    """Write tables to ``directory/<name>.parquet`` and ``.csv``, each atomically; what a run of before left of others is removed.

    Args:
        directory: made if it is missing.
        parquets: every table, as :func:`parquet_bytes` makes it.
        csvs: those that are too large to be in the page.

    Returns:
        The files, in that order.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents = {f"{name}.parquet": content for name, content in parquets.items()} | {f"{name}.csv": text for name, text in csvs.items()}
    stale = {f"{name}.parquet" for name in _COMPARED} | {f"{name}.csv" for name in parquets}
    for name in sorted(stale - set(contents)):
        (directory / name).unlink(missing_ok=True)
    for name, content in contents.items():
        replace_file(directory / name, content)
    return [directory / name for name in contents]
