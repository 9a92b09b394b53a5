"""The safety case of a made-up run."""

from __future__ import annotations

from typing import Any

from support.report_specimen import Specimen
from tempering.report.card import Origin, SafetyCase, make_card


def safety_case(subject: Specimen, **changes: Any) -> SafetyCase:
    """The card of a specimen.

    Args:
        subject: the run.
        changes: fields of the origin that shall differ.
    """
    data = [{"model": target["reference"], "reference": "organism:tiny", "digest": "cd34" * 16, "seed": 0} for target in subject.targets]
    fields: dict[str, Any] = {
        "targets": subject.targets,
        "skipped": subject.skipped,
        "data": data,
        "plan_digest": "ef56" * 16,
        "study_digest": subject.study.digest,
        "environment": subject.environment,
        "tempering": "0.1.0",
    }
    return SafetyCase(make_card(subject.study, subject.assessment, subject.tables.units, Origin(**{**fields, **changes})))
