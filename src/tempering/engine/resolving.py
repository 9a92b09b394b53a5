"""From a method as a study names it to the method with its whole configuration and the identity of its code."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tempering import registry
from tempering.engine.units import ResolvedJudge, ResolvedMethod
from tempering.judge_choice import JudgeChoice
from tempering.judges._judging import COMPLIANCE_VERSION
from tempering.judges._panel import let_go, panel_of
from tempering.study import MethodChoice


def resolve(kind: str, choice: MethodChoice) -> ResolvedMethod:
    """A method with its whole configuration and the identity of its code.

    Args:
        kind: ``attacks``, ``defenses`` or ``evaluators``.
        choice: as the study names it.
    """
    method = registry.create(kind, choice.name, choice.config)
    links = method.config.steps if choice.name == "chain" else ()
    codes = [code_identity(kind, name) for name in (choice.name, *(link.name for link in links))]
    codes.append(getattr(method, "identity", lambda: "")())
    return ResolvedMethod(name=choice.name, config=method.config.model_dump(mode="json"), code=" + ".join(filter(None, codes)))


def resolve_evaluators(choices: tuple[MethodChoice, ...]) -> tuple[ResolvedMethod, ...]:
    """The evaluators that examine checkpoints; where the study names none, all of Tempering's own that need not be asked for."""
    named = choices or [MethodChoice(name=name) for name in registry.unasked("evaluators")]
    return tuple(resolve("evaluators", choice) for choice in named)


def resolve_judges(choices: tuple[JudgeChoice, ...]) -> tuple[tuple[ResolvedJudge, ...], int]:
    """The judges of a study as they are now, and the memory that their weights take on this machine. Models are loaded and let go of.

    Raises:
        UnusableModel: a judge's model cannot be loaded.
    """
    if not choices:
        return (), 0
    panel = panel_of(choices)
    try:
        size = sum(seat.judge.weight_bytes for seat in panel.seats)
        return tuple(
            ResolvedJudge(title=seat.title, identity=seat.identity, code=code_identity("judges", seat.name)) for seat in panel.seats
        ), size
    finally:
        let_go()


def compliance_rules(judges: tuple[ResolvedJudge, ...], *, told: bool) -> int:
    """The version of the rules by which a work's responses to hazard prompts are judged by text; 0 where none of them decides anything.

    Args:
        judges: of the study; empty is the text alone.
        told: whether a right answer is known to every hazard prompt.
    """
    asked = not judges or any(judge.identity.get("judge") == "text" for judge in judges)
    return COMPLIANCE_VERSION if asked and not told else 0


def code_identity(kind: str, name: str) -> str:
    """What tells this code from other code of the same name; see :class:`tempering.engine.units.ResolvedMethod`."""
    if ".py:" in name:
        return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()
    point = registry.entry_point(kind, name)
    return f"{point.dist.name} {point.dist.version}" if point is not None and point.dist is not None else ""
