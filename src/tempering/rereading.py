"""What a run left behind, read again: its report's tables and summary, or its stored results, assessed anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.economics.assess import Assessment, assess
from tempering.economics.conclusions import Conclusions, conclude
from tempering.economics.envelope import TAUS
from tempering.economics.population import Group
from tempering.economics.prices import load_price_book
from tempering.economics.thresholds import at_thresholds
from tempering.engine.files import Damaged
from tempering.engine.store import RunStore
from tempering.errors import StoreProblem
from tempering.flags import reread
from tempering.report.checksums import read_checked
from tempering.report.families import document_holders, families_of, threat_models_of
from tempering.report.tables import read_tables

if TYPE_CHECKING:
    import pandas as pd

    from tempering.engine.results import Tables
    from tempering.engine.units import Plan
    from tempering.study import Study


@dataclass(frozen=True)
class Reread:
    """A run's stored results, assessed anew.

    Attributes:
        study: with the thresholds and prices that were asked for.
        plan: as it was recorded.
        tables: the engine's.
        assessment: what economics makes of them.
    """

    study: Study
    plan: Plan
    tables: Tables
    assessment: Assessment

    def at_thresholds(self) -> dict[float, Assessment]:
        """What economics makes of them at other thresholds, but those that attackers did not go on to.

        See :func:`tempering.economics.thresholds.at_thresholds`.
        """
        found = at_thresholds(self.assessment, self.tables.units, self.tables.trajectories, **_settings(self.study))
        return {tau: made for tau, made in found.items() if not self.study.probes.why_unseen(tau)}

    def conclusions(self) -> Conclusions:
        """What follows from the assessment; see :mod:`tempering.economics.conclusions`."""
        search = self.study.search
        return conclude(
            self.assessment,
            self.tables.units,
            self.tables.trajectories,
            **{name: value for name, value in _settings(self.study).items() if name != "documents"},
            trials=self.tables.trials,
            random=search.random_trials if search else None,
            parameters={target.reference: float(target.parameters) for target in self.plan.targets if target.parameters},
            population=[Group(**group.model_dump()) for group in self.study.population],
            judges=[judge.title for judge in self.study.probes.judges],
            taus=[tau for tau in TAUS if not self.study.probes.why_unseen(tau)],
        )


def reread_run(
    directory: str | Path,
    *,
    tau: float | None = None,
    epsilon: float | None = None,
    accelerator: str | None = None,
    price_book: str | Path | None = None,
) -> Reread:
    """Assess a run's stored results anew; nothing is written. Arguments and errors are those of :func:`tempering.api.make_report`."""
    store = RunStore(directory)
    plan = store.plan()
    study = reread(plan.study, tau=tau, epsilon=epsilon, accelerator=accelerator, price_book=price_book)
    tables = store.tables(plan)
    if tables.units.empty:
        raise StoreProblem(f"no unit of the run in {directory} is done", f"compute them with: temper resume {directory}")
    return Reread(study, plan, tables, assess(tables.units, tables.trajectories, **_settings(study)))


def _settings(study: Study) -> dict[str, Any]:
    """What a study says of how its results are to be assessed."""
    return {
        "tau": study.threshold.tau,
        "epsilon": study.threshold.epsilon,
        "price_book": load_price_book(study.price_book),
        "accelerator": study.accelerator,
        "families": families_of(study.attacks),
        "threat_models": threat_models_of(study),
        "documents": document_holders(study.attacks),
        "budget": study.budget.model_dump(),
    }


def stored_tables(directory: str | Path) -> dict[str, pd.DataFrame]:
    """Every table of a run by name, as its report was written from them; nothing is computed.

    Raises:
        StoreProblem: it has no report yet, or a table is not as it was written.
    """
    directory = Path(directory)
    try:
        return read_checked(directory, lambda name: name.startswith("tables/"), lambda: read_tables(directory / "tables"))
    except Damaged as problem:
        raise _damaged_report(directory, problem) from None
    except (OSError, ValueError) as error:
        raise _without_report(Path(directory)) from error


def stored_summary(directory: str | Path) -> dict[str, Any]:
    """The ``summary.json`` of a run.

    Raises:
        StoreProblem: it has no report yet, or the summary is not as it was written.
    """
    path = Path(directory) / "summary.json"
    try:
        return read_checked(path.parent, lambda name: name == path.name, lambda: _summary(path))
    except Damaged as problem:
        raise _damaged_report(path.parent, problem) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _without_report(path.parent) from error


def stored_report(directory: str | Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The summary and the tables of one report, though another may be written meanwhile; page and pictures are looked at too.

    Raises:
        StoreProblem: as :func:`stored_summary` and :func:`stored_tables` do, or the page or a picture is not as it was written.
    """
    directory = Path(directory)
    try:
        return read_checked(directory, lambda name: True, lambda: (_summary(directory / "summary.json"), read_tables(directory / "tables")))
    except Damaged as problem:
        raise _damaged_report(directory, problem) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _without_report(directory) from error


def _summary(path: Path) -> dict[str, Any]:
    summary = json.loads(path.read_bytes())
    if not isinstance(summary, dict):
        raise ValueError(summary)
    return summary


def _damaged_report(directory: Path, problem: Damaged) -> StoreProblem:
    return StoreProblem(f"the report in {directory} is damaged: {problem}", f"write it anew with: temper report {directory}")


def _without_report(directory: Path) -> StoreProblem:
    return StoreProblem(f"the run in {directory} has no report yet", f"finish it with: temper resume {directory}")
