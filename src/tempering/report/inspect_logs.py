"""A run as Inspect logs: what ``inspect view`` shows and :func:`inspect_ai.log.read_eval_log` reads.

One log for each attack on each model behind each defence, one for each hardening, honest fine-tuning and unguarded reference; its status is
an error where every run failed, also where that was before there was anything to probe. Its samples are the probes: the id is the number of
the probe, the epoch the place of the seed, the scores are everything that was measured, and the spend stands in the metadata. The log's own
results have the price. Prompts and completions are in no log: a run keeps none, and what was kept on request stays where it lies. Needs the
extra ``inspect``.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score

from tempering.canonical import canonical_hash
from tempering.economics.tables import GROUP
from tempering.report.folder import write_folder
from tempering.report.rows import group_title

MADE_BY = "tempering export"
_SPENT = ("examples", "tokens", "steps", "flops", "gpu_hours", "usd", "device_seconds", "trials", "queries")
_NO_MEASURE = {"unit", *GROUP, "trial", "seed", "probe", "details", *_SPENT}
_PRICES = ("flops_median", "flops_low", "flops_high", "usd_median", "examples_median", "steps_median", "best_recovered", "utility_kept")
_FILE = re.compile(r"\d{4}-\d{2}-\d{2}T[\d-]+_[\w-]+_[0-9A-Za-z]{22}\.json")


def export_logs(frames: Mapping[str, pd.DataFrame], out: Path, *, facts: Mapping[str, Any], made: datetime) -> list[Path]:
    """Write the logs to a folder of their own, whole or not at all.

    Args:
        frames: by the names in :data:`tempering.report.tables.TABLES`.
        out: absent, empty, or an earlier export of logs, which is replaced.
        facts: what the logs say of the run, as JSON values; ``data`` among them.
        made: when the run was begun; what the logs are sorted by.

    Raises:
        StoreProblem: ``out`` holds something else, or cannot be written to.
    """
    files = {_file_name(log): _encoded(log) for log in _logs(frames, facts, made)}
    return write_folder(out, files, earlier=_earlier(out))


def _logs(frames: Mapping[str, pd.DataFrame], facts: Mapping[str, Any], made: datetime) -> Iterator[EvalLog]:
    units, probes = frames["units"], frames["trajectories"]
    for key, runs in units.groupby([*GROUP, "kind"], sort=True):
        group = dict(zip((*GROUP, "kind"), map(str, key), strict=True))
        runs = runs.sort_values("seed")
        samples = [sample for place, run in enumerate(runs.to_dict("records"), start=1) for sample in _samples(group, run, probes, place)]
        identity = canonical_hash({**group, "study": facts["study_digest"]})
        spec = EvalSpec(
            eval_id=_short(identity, "eval"),
            run_id=_short(canonical_hash(facts["study_digest"]), "run"),
            task_id=_short(identity, "task"),
            created=made.isoformat(),
            task=_title(group),
            model=f"tempering/{group['model']}",
            dataset=EvalDataset(name=str(facts["data"]), samples=len({sample.id for sample in samples})),
            config=EvalConfig(epochs=len(runs)),
            packages={"tempering": str(facts["tempering"])},
            metadata={"made_by": MADE_BY, **facts, **group, "config": json.loads(runs["config"].iloc[0]), "runs": _outcomes(runs, frames)},
        )
        yield EvalLog(
            status="error" if (error := _error(runs)) else "success",
            eval=spec,
            error=error,
            results=EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=_scores(group, samples, frames)),
            stats=EvalStats(started_at=made.isoformat(), completed_at=made.isoformat()),
            samples=samples,
        )


def _error(runs: pd.DataFrame) -> EvalError | None:
    """The first error, where every run failed."""
    if not (runs["status"] == "failed").all():
        return None
    told = next((str(error) for error in runs["error"] if error), "no reason given")
    return EvalError(message=told, traceback="", traceback_ansi="")


def _samples(group: Mapping[str, str], run: Mapping[Any, Any], probes: pd.DataFrame, place: int) -> Iterator[EvalSample]:
    own = probes[probes["unit"] == run["unit"]].sort_values("probe")
    for row in own.to_dict("records"):
        scores = {str(name): Score(value=float(value)) for name, value in row.items() if name not in _NO_MEASURE and _is_known(value)}
        spent = {name: value for name in _SPENT if name in row and _is_known(value := row[name])}
        yield EvalSample(
            id=int(row["probe"]),
            epoch=place,
            input=f"{_title(group)} on {group_title(group['model'], group['defense'])}, seed {run['seed']}, probe {row['probe']}",
            target="",
            output=ModelOutput(model=f"tempering/{group['model']}"),
            scores=scores,
            metadata={"seed": int(run["seed"]), "unit": run["unit"], "spend": spent, "details": json.loads(row["details"])},
        )


def _outcomes(runs: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Of each run, by seed: how it ended."""
    breaks = frames["breaks"].set_index("unit")["outcome"].to_dict()
    return [
        {"seed": int(run["seed"]), "status": run["status"], "error": run["error"], "outcome": breaks.get(run["unit"], "")}
        for run in runs.to_dict("records")
    ]


def _scores(group: Mapping[str, str], samples: list[EvalSample], frames: Mapping[str, pd.DataFrame]) -> list[EvalScore]:
    """The price, and of every measurement the mean over seeds before and at the end."""
    found = []
    prices = frames["prices"]
    mine = prices[(prices[GROUP] == [group[name] for name in GROUP]).all(axis=1)] if group["kind"] == "attack" else prices[:0]
    for row in mine.to_dict("records"):
        broken = {"broken": float(row["broken"]) / max(1.0, float(row["trials"]))}
        found.append(_score("price", {**broken, **{name: row[name] for name in _PRICES if name in row}}))
    first: dict[int, EvalSample] = {}
    last: dict[int, EvalSample] = {}
    for sample in samples:
        first.setdefault(sample.epoch, sample)
        last[sample.epoch] = sample
    names = dict.fromkeys(name for sample in samples for name in sample.scores or {})
    for name in names:
        found.append(_score(name, {"before": _mean(first.values(), name), "after": _mean(last.values(), name)}))
    return found


def _score(name: str, metrics: Mapping[str, float]) -> EvalScore:
    known = {metric: EvalMetric(name=metric, value=float(value)) for metric, value in metrics.items() if _is_known(value)}
    return EvalScore(name=name, scorer="tempering", metrics=known)


def _mean(samples: Any, name: str) -> float:
    values = [sample.scores[name].value for sample in samples if name in sample.scores]
    return sum(values) / len(values) if values else math.nan


def _is_known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _title(group: Mapping[str, str]) -> str:
    names = {"harden": f"hardening by {group['defense']}", "novel": "honest fine-tuning", "reference": "reference without the safeguard"}
    title = names.get(group["kind"]) or group["attack"]
    return title.rpartition("/")[2]


def _short(digest: str, what: str) -> str:
    """Twenty-two letters and digits, as Inspect's own identities have."""
    return canonical_hash({what: digest})[:22]


def _file_name(log: EvalLog) -> str:
    """As Inspect names logs: when, what, which."""
    when = log.eval.created.replace(":", "-").replace("+", "-")
    return f"{when}_{re.sub('[^A-Za-z0-9-]+', '-', log.eval.task).strip('-') or 'task'}_{log.eval.eval_id}.json"


def _encoded(log: EvalLog) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.json"
        write_eval_log(log, str(path), format="json")
        return path.read_bytes()


def _earlier(out: Path) -> set[str] | None:
    """The files of an earlier export of logs; ``None`` where there is none."""
    try:
        names = {path.name for path in out.iterdir()}
        ours = all(_FILE.fullmatch(name) and _is_ours(out / name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if names and ours else None


def _is_ours(path: Path) -> bool:
    return bool(json.loads(path.read_text(encoding="utf-8"))["eval"]["metadata"]["made_by"] == MADE_BY)
