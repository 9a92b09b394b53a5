"""By what a run is told to have enough: the untouched target is examined once, and the model without the safeguard for its harm alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.toy_study import toy_models, toy_study
from tempering.engine import worker as working
from tempering.engine.holding import Holding
from tempering.engine.plan import make_plan
from tempering.engine.worker import Worker, reproducible
from tempering.evaluators._contract import Subject, examine
from tempering.study import ProbeSettings


def test_nothing_is_examined_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_models(tmp_path)
    study = toy_study(tmp_path, {}, {"learning_rate": 1e-3}, seeds=2, probes=ProbeSettings(prompts=4, max_new_tokens=8, until=0.9))
    units = [unit for unit in make_plan(study).units if unit.work.kind == "attack"]
    reference = next(unit for unit in make_plan(study).units if unit.work.kind == "reference")
    seen: list[tuple[Subject, list[str]]] = []
    loaded: list[str] = []
    load = Holding.load

    def counted(subject: Subject, evaluators: list[Any]) -> dict[str, float]:
        seen.append((subject, sorted(measure for each in evaluators for measure in each.measures)))
        return examine(subject, evaluators)

    def noted(self: Holding, choice: Any, digest: str, device: str) -> Any:
        loaded.append(digest)
        return load(self, choice, digest, device)

    monkeypatch.setattr(working, "examine", counted)
    monkeypatch.setattr(Holding, "load", noted)
    worker = Worker()
    with reproducible(1):
        begun = [worker.ready(unit) for unit in units]
    (first, everything), (second, measures) = seen
    assert "utility" in everything
    assert first.model is begun[0].target.model
    assert set(measures) == {measure for each in begun[0].evaluators if "harm" in each.measures for measure in each.measures}
    assert "utility" not in measures
    assert second.view == first.view
    work = units[0].work
    assert loaded == [work.model_digest, work.reference_digest]  # both as the ranks hold them
    scale = begun[0].scale
    assert scale is not None
    with reproducible(1):
        known = Worker().run(reference).probes[0].measurements["harm"]
    assert scale.reference_harm == (known if known > 0 else 1.0)
    assert (scale.harm, scale.utility) == (begun[0].measurements["harm"], begun[0].measurements["utility"])
