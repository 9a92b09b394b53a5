"""MLflow. A server is used where ``MLFLOW_TRACKING_URI`` names one; otherwise an SQLite file in the run directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.trackers._contract import PROJECT, Ending, Facts, Tracker

_STATES: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowTracker(Tracker):
    """Runs in the experiment ``tempering``, one metric a unit and measurement, against the unit's optimizer steps."""

    def load(self) -> None:
        """Import the library, its telemetry turned off."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._mlflow = mlflow
        self._client: Any = None
        self._id = ""

    def start(self, facts: Facts, folder: Path) -> str:
        """Begin a run through the client, which adds no tags on user, host, source or git."""
        if self._mlflow.is_tracking_uri_set():
            self._client, artifacts = self._mlflow.MlflowClient(), None
            line = f"mlflow: run {facts.name} at the server that MLFLOW_TRACKING_URI names"
        else:
            folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{(folder / 'mlflow.db').resolve()}", (folder / "mlflow").resolve().as_uri()
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            line = f"mlflow: look at it with: mlflow ui --backend-store-uri sqlite:///{folder / 'mlflow.db'}"
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name, artifact_location=artifacts)
        self._id = self._client.create_run(experiment, run_name=facts.name, tags={"study": facts.group}).info.run_id
        for setting, value in facts.settings.items():
            self._client.log_param(self._id, setting, str(value)[:500])
        return line

    def probe(self, unit: str, steps: int, values: Mapping[str, float]) -> None:
        """Log against the unit's own optimizer steps."""
        self._log({f"{unit}/{name}": value for name, value in values.items()}, steps)

    def progress(self, number: int, values: Mapping[str, float]) -> None:
        """Log the counts."""
        self._log({f"progress/{name}": value for name, value in values.items()}, number)

    def results(self, values: Mapping[str, float]) -> None:
        """Log the prices."""
        self._log(values, 0)

    def finish(self, ending: Ending) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._id, _STATES[ending])

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])
