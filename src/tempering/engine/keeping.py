"""Keeps what an attack made, where the user asks for it: tampered weights, and what they say to the held-out prompts.

Without being asked nothing of the kind reaches the disk: checkpoints live in memory until their attack goes on, and completions until
they are judged. What is kept lies apart, in ``OUT/kept/<unit>/``, for the owner alone (0700), and is marked
(:mod:`tempering.models.tampered`). It decides no result, so it is in no study and in no hash; a unit that was computed before is not
computed anew for it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel

from tempering.attacks._contract import Checkpoint
from tempering.data.records import Role
from tempering.engine.files import KEPT, explained
from tempering.engine.placement import NOTHING, Keeping
from tempering.engine.units import Unit
from tempering.evaluators._contract import Subject
from tempering.judges._judging import answers_named, answers_of
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.models.saving import put, write_model
from tempering.models.tampered import mark

COMPLETIONS = "completions.jsonl"


class Keeper:
    """Keeps what one unit makes, probe by probe; the last one stands."""

    def __init__(self, keeping: Keeping, run: Path, unit: Unit, target: Target) -> None:
        """Nothing is written before there is something to keep.

        Args:
            keeping: what is wanted.
            run: the run directory.
            unit: of an attack.
            target: what it attacks.
        """
        self._keeping, self._run, self._unit, self._target = keeping, run, unit, target
        self._lines: list[str] = []
        self._own = weight_digest(target.model) if keeping.weights else ""

    def take(self, number: int, checkpoint: Checkpoint, subject: Subject) -> None:
        """Keep a checkpoint that has just been examined.

        Args:
            number: of the probe.
            checkpoint: live.
            subject: its examination.

        Raises:
            StoreProblem: it cannot be written.
        """
        if self._keeping == NOTHING:
            return
        if self._keeping.completions:
            self._lines += [json.dumps({"probe": number, **said}, allow_nan=False) for said in _said(subject)]
        tampered = self._tampered(checkpoint.model) if self._keeping.weights else None
        if tampered is None and not self._lines:
            return
        folder = self._run / KEPT
        with explained(self._run):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        put(folder / self._unit.hash, lambda place: self._fill(place, number, tampered), replace=True)

    def _tampered(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """The model as a plain one in the target's type; ``None`` where its weights are the target's own."""
        if model is self._target.model:
            return None
        plain = copy.deepcopy(model)
        if isinstance(plain, PeftModel):
            plain = cast("PreTrainedModel", plain.merge_and_unload())
        plain.to(dtype=self._target.model.dtype)  # type: ignore[call-arg]
        return None if weight_digest(plain) == self._own else plain

    def _fill(self, place: Path, number: int, tampered: PreTrainedModel | None) -> None:
        place.chmod(0o700)
        kept = []
        if tampered is not None:
            write_model(tampered, self._target.tokenizer, place)
            kept.append("tampered weights")
        if self._lines:
            (place / COMPLETIONS).write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
            kept.append("what it says to held-out prompts")
        mark(place, what=" and ".join(kept), how=self._how(number))
        for path in place.iterdir():
            path.chmod(0o600)

    def _how(self, number: int) -> str:
        work = self._unit.work
        assert work.attack is not None
        return (
            f"Made by the attack {work.attack_name.rpartition('/')[2]} with seed {self._unit.seed}, up to probe {number}, on the model "
            f"{self._target.digest}, in unit {self._unit.hash} of a run of Tempering that was asked to keep it."
        )


def _said(subject: Subject) -> list[dict[str, Any]]:
    """What was said at one probe, what it was judged to be, and by what: right answers, and those of the test's others that it names."""
    answers = answers_of(example for role in Role for example in subject.view.of(role))
    return [
        {
            "role": str(role),
            "prompt": example.prompt,
            "response": response,
            "verdict": str(verdict),
            "accept": list(example.accept),
            "named": answers_named(response, answers),
        }
        for role in subject.answered
        for example, response, verdict in zip(subject.view.of(role), subject.responses(role), subject.verdicts(role), strict=True)
    ]
