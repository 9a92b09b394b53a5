"""Trackio. Its database is the one that ``trackio show`` opens: ``TRACKIO_DIR``, or the Hugging Face cache unless told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.trackers._contract import PROJECT, Ending, Facts, Tracker


class TrackioTracker(Tracker):
    """Runs in the project ``tempering``; local, unless ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL`` names where to send them."""

    def load(self) -> None:
        """Import the library."""
        import trackio

        self._trackio = trackio
        self._run: Any = None

    def start(self, facts: Facts, folder: Path) -> str:
        """Begin a run; the machine is not watched, and the user's name, which the library adds, is taken out again."""
        self._run = self._trackio.init(
            project=PROJECT,
            name=None,
            group=facts.group,
            config={"study": facts.name, **facts.settings},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._run.config["_Username"] = None
        return f"trackio: run {self._run.name}; look at it with: trackio show --project {PROJECT}"

    def probe(self, unit: str, steps: int, values: Mapping[str, float]) -> None:
        """Log with the unit's optimizer steps among the values: the service has one axis for all units."""
        self._run.log({f"{unit}/{name}": value for name, value in {"steps": steps, **values}.items()})

    def progress(self, number: int, values: Mapping[str, float]) -> None:
        """Log the counts."""
        self._run.log({f"progress/{name}": value for name, value in values.items()})

    def results(self, values: Mapping[str, float]) -> None:
        """Log the prices."""
        self._run.log(dict(values))

    def finish(self, ending: Ending) -> None:
        """Say how it ended, and flush."""
        self._run.log({"progress/ended_well": float(ending == "finished")})
        self._run.finish()
