"""The tidy tables of a run: which there are, and how they are written to Parquet files and read again.

:data:`TABLES` is the one list of them. A table that economics gains joins everything that reads or writes tables (the run's folder,
``open_run``, ``temper export``) by one line there, and by its columns in :mod:`tempering.report.dictionary`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from tempering.economics.assess import Assessment
from tempering.economics.conclusions import Conclusions
from tempering.engine.files import Damaged, replace_file
from tempering.engine.parquet_file import read_parquet
from tempering.report import dictionary
from tempering.report import dictionary_conclusions as more
from tempering.report.dictionary import Columns

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Table:
    """One tidy table of a run.

    Attributes:
        name: of its file, and of its place in the engine's tables or the assessment.
        row: what one row of it is.
        columns: what its columns hold.
        always: whether every run has it; others are written where they have rows.
        source: who made it: the engine, or economics in its assessment or in the conclusions from that.
    """

    name: str
    row: str
    columns: Columns
    always: bool = False
    source: Literal["engine", "assessment", "conclusions"] = "assessment"


TABLES = (
    Table("units", "a unit of work: what was done, how it ended, what it spent", dictionary.UNITS_TABLE, always=True, source="engine"),
    Table("trajectories", "a probe: one look at one model on its way", dictionary.TRAJECTORIES, always=True),
    Table("breaks", "a run of an attack: its outcome, and between which spends it broke", dictionary.BREAKS, always=True),
    Table("survival", "a point of a survival curve: how many runs are unbroken after a spend", dictionary.SURVIVAL, always=True),
    Table("prices", "an attack on a model behind a defence: its outcomes and its price", dictionary.PRICES, always=True),
    Table("trials", "a trial of a search for an attack's settings", dictionary.TRIALS, source="engine"),
    Table("multipliers", "a defence, what the attacker may choose from, and a currency: how many times dearer", dictionary.MULTIPLIERS),
    Table("tax", "a defence: what it takes from the honest user, and in training", dictionary.TAX),
    Table("absence", "a model behind a defence: whether what it withholds is gone", dictionary.ABSENCE),
    *(
        Table(name, row, columns, source="conclusions")
        for name, row, columns in (
            ("incidence", "an outcome after a spend: how many runs have come to it", more.INCIDENCE),
            ("restricted", "a model behind a defence, what the attacker may choose from, and a currency: a mean price", more.RESTRICTED),
            ("contrasts", "two defences, what the attacker may choose from, and a currency: whether they differ", more.CONTRASTS),
            ("quantiles", "as in multipliers, and a quantile: how many times dearer for lucky and for unlucky seeds", more.QUANTILES),
            ("search_costs", "a searched attack and a currency: what trying settings at random costs", more.SEARCH_COSTS),
            ("envelope", "a model behind a defence, a threat model, a currency and two thresholds: the cheapest price", more.ENVELOPE),
            ("frontier", "a defence and a currency: its multiplier against what it takes, and what dominates it", more.FRONTIER),
            ("resistances", "a defence, a seed and a kind of attack: what that kind costs", more.RESISTANCES),
            ("agreement", "two kinds of attack: whether resistance to one goes with resistance to the other", more.AGREEMENT),
            ("learned", "the study: what larger models learn from poison", more.LEARNED),
            ("sizes", "a model of several, a defence and an attack: between which spends its price lies", more.SIZES),
            ("size_fits", "a defence and an attack: the line of price over size", more.SIZE_FITS),
            ("size_curve", "a size, a defence and an attack: the price that the line says", more.SIZE_CURVE),
            ("capability", "an attack or a hardening, and a benchmark: what is left of it", more.CAPABILITY),
            ("population", "a defence: who is priced out", more.POPULATION),
            ("populations", "a defence and another population of attackers: who is priced out", more.POPULATIONS),
            ("judges", "a judge: what judging took, and how far it agrees with the one that decides", more.JUDGES),
        )
    ),
)
"""Every table, in the order in which they are listed."""


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


def run_tables(tables: RunTables, assessment: Assessment, conclusions: Conclusions) -> dict[str, pd.DataFrame]:
    """The tables that a run has, by name and in order: those that every run has, and of the others those that have rows.

    The trajectories are the assessment's, so that they carry ``recovered``, ``gpu_hours`` and ``usd``.

    Args:
        tables: what the engine produced.
        assessment: what economics made of it.
        conclusions: and of that.
    """
    return dict(_present({"engine": tables, "assessment": assessment, "conclusions": conclusions}))


def _present(sources: Mapping[str, object]) -> Iterator[tuple[str, pd.DataFrame]]:
    for table in TABLES:
        frame: pd.DataFrame | None = getattr(sources[table.source], table.name)
        if frame is not None and (table.always or len(frame)):
            yield table.name, frame


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()


def write_tables(directory: Path, parquets: Mapping[str, bytes], csvs: Mapping[str, bytes] | None = None) -> list[Path]:
    """Write tables to ``directory/<name>.parquet`` and ``.csv``, each atomically; what an earlier report left beside them is removed.

    Args:
        directory: made if it is missing.
        parquets: every table of the run, as :func:`parquet_bytes` makes it, by the names in :data:`TABLES`.
        csvs: those that are too large to be in the page.

    Returns:
        The files, in that order.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents = {f"{name}.parquet": content for name, content in parquets.items()}
    contents |= {f"{name}.csv": text for name, text in (csvs or {}).items()}
    for name in (f"{table.name}.{kind}" for table in TABLES for kind in ("parquet", "csv")):
        if name not in contents:
            (directory / name).unlink(missing_ok=True)
    for name, content in contents.items():
        replace_file(directory / name, content)
    return [directory / name for name in contents]


def read_tables(directory: Path) -> dict[str, pd.DataFrame]:
    """Read what :func:`write_tables` wrote.

    Args:
        directory: the folder of the tables.

    Raises:
        OSError: a table that every run has is not there.
        Damaged: a file is no table.
    """
    found: dict[str, pd.DataFrame] = {}
    for table in TABLES:
        path = directory / f"{table.name}.parquet"
        if path.is_file() or table.always:
            found[table.name] = _frame(path)
    return found


def _frame(path: Path) -> pd.DataFrame:
    table = read_parquet(path.read_bytes())
    try:
        frame: pd.DataFrame = table.to_pandas()
    except (pa.ArrowException, ValueError, TypeError, LookupError) as error:
        raise Damaged(f"it is no table ({type(error).__name__})") from error
    return frame


def assessment_of(frames: Mapping[str, pd.DataFrame], cheapest: dict[str, Any] | None) -> Assessment:
    """The assessment that tables were written from; those that it had no rows in are empty.

    Args:
        frames: from :func:`read_tables`.
        cheapest: from the summary.
    """
    return Assessment(**_made_by("assessment", frames), cheapest=cheapest)


def conclusions_of(frames: Mapping[str, pd.DataFrame]) -> Conclusions:
    """The conclusions that tables were written from; those that they had no rows in are empty.

    Args:
        frames: from :func:`read_tables`.
    """
    return Conclusions(**_made_by("conclusions", frames))


def _made_by(source: str, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {table.name: frames[table.name] for table in TABLES if table.source == source and table.name in frames}
