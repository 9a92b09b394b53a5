"""Weights & Biases. Its files lie in the run directory, unless ``WANDB_DIR`` says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tempering.trackers._contract import PROJECT, Ending, Facts, Tracker

_EXIT_CODES: dict[Ending, int] = {"finished": 0, "failed": 1, "interrupted": 130}
_PATIENCE = 45
"""Seconds that the library may take at either end; what was not sent by then stays on disk, for ``wandb sync``."""


class WandbTracker(Tracker):
    """Runs in the project ``tempering``, one metric a unit and measurement; kept offline where nobody is logged in."""

    def load(self) -> None:
        """Import the library, its error reports turned off."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb = wandb
        self._run: Any = None
        self._known: set[str] = set()

    def start(self, facts: Facts, folder: Path) -> str:
        """Begin a run without what the library collects by itself: machine, user, command line, git, code, packages, console."""
        own = "WANDB_DIR" not in os.environ
        if own:
            folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE") or ("online" if self._logged_in() else "offline")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=facts.name,
            group=facts.group,
            config=dict(facts.settings),
            dir=str(folder) if own else None,
            mode=cast(Any, mode),
            settings=self._discreet(),
        )
        if mode == "online" and getattr(self._run, "url", None):
            return f"wandb: {self._run.url}"
        where = Path(self._run.dir).parent
        return f"wandb: kept offline; send it with: wandb sync {where}" if mode == "offline" else ""

    def _logged_in(self) -> bool:
        """Whether a key is at hand; nobody is asked for one, since the run shall not wait for an answer."""
        return bool(self._wandb.login(prompt=False))

    def _discreet(self) -> Any:
        return self._wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            save_code=False,
            program="temper",
            host="-",
            username="-",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=_PATIENCE,
            finish_timeout=_PATIENCE,
        )

    def probe(self, unit: str, steps: int, values: Mapping[str, float]) -> None:
        """Log against the unit's own optimizer steps."""
        axis = f"{unit}/steps"
        if unit not in self._known:
            self._known.add(unit)
            self._run.define_metric(f"{unit}/*", step_metric=axis)
        self._run.log({axis: steps} | {f"{unit}/{name}": value for name, value in values.items()})

    def progress(self, number: int, values: Mapping[str, float]) -> None:
        """Log the counts."""
        self._run.log({f"progress/{name}": value for name, value in values.items()})

    def results(self, values: Mapping[str, float]) -> None:
        """Put the prices into the run's summary."""
        self._run.summary.update(dict(values))

    def finish(self, ending: Ending) -> None:
        """Send the rest."""
        self._run.finish(exit_code=_EXIT_CODES[ending])
