"""Comparing defences: each hardens the model, and the same attackers price what comes of it beside the model as it came."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tempering import api
from tempering.engine.executors import ExecutorChoice
from tempering.flags import make_study
from tempering.growing import Watcher
from tempering.result import Run
from tempering.study import Study

Methods = str | Iterable[str | dict[str, Any]]
"""Names separated by commas, or a list of names and of ``{"name": …, "config": …, "label": …}``."""


def compare(
    model: str = "organism:tiny",
    *,
    defenses: Methods = "all",
    attacks: Methods = "quick",
    out: str | Path | None = None,
    workers: int | None = None,
    executor: str | ExecutorChoice = "local",
    allow_code: bool = False,
    track: str | Iterable[str] = (),
    on_event: Watcher | None = None,
    **settings: Any,
) -> Run:
    """Harden one model by each defence, and price every hardened model and the model as it came under the same attacks.

    Args:
        model: as :func:`tempering.audit` takes it.
        defenses: ``"all"``, names separated by commas (``a+b`` for a chain), or a list of names and of ``{"name": …, "config": …}``.
        attacks: ``"quick"``, ``"all"``, names, or a list, as :func:`tempering.audit` takes them.
        out: run directory; ``runs/compare-<name>-<hash>`` unless told. The hardened models stay in its folder ``models``.
        workers: processes at work at once; chosen by cores and memory unless told.
        executor: where they are, as :func:`tempering.audit` takes it.
        allow_code: as :func:`tempering.audit` takes it.
        track: likewise.
        on_event: is told of everything that happens.
        settings: further arguments of :func:`tempering.audit` (``data, seeds, budget, tau, epsilon, search, threat_model`` and so on), and
            ``utility_floor``: a defence's training must leave this share of the model's utility.

    Returns:
        The finished run. Seed k attacks the model that seed k hardened; a defence that could not be trained is told of and not priced.

    Raises:
        TemperingError: something in the arguments cannot be used; the message is one line.
    """
    study = comparison_study(model, defenses=defenses, attacks=attacks, allow_code=allow_code, **settings)
    return api.run_study(study, out=out, workers=workers, executor=executor, allow_code=allow_code, track=track, on_event=on_event)


def comparison_study(model: str = "organism:tiny", *, defenses: Methods = "all", **settings: Any) -> Study:
    """The study that a comparison runs.

    Raises:
        TemperingError: a method does not exist, or a setting cannot be used.
    """
    return make_study(model, defenses=defenses, **settings)
