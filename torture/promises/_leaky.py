"""An attack and a defence that fail with everything they can find out in their hands; run by path, in a worker of its own or not."""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from tempering.attacks import Attack, AttackEnded, Checkpoint
from tempering.data.records import AttackerView, DefenderView
from tempering.defenses._contract import Defense, Material
from tempering.evaluators import Evaluator, Subject
from tempering.models import Target
from tempering.settings import Settings
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter, Spend, Stage

WAYS = (
    "message", "representation", "locals", "cause", "ended", "details", "keys", "prints", "logs", "dies", "exits", "warns", "padded",
    "thread", "json", "lines", "names", "unspeakable",
)  # fmt: skip
"""How it fails."""


class Leaky(Attack):
    """Fail, and say everything."""

    class Config(Settings):
        """Settings."""

        way: str = "message"
        refuse: bool = False

        @field_validator("refuse")
        @classmethod
        def _refuse(cls, value: bool) -> bool:
            if value:
                raise ValueError(f"not with {dict(os.environ)}")
            return value

    source: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS})
    family: ClassVar[str] = "fine-tuning"

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        if self.config.way == "estimate":
            raise ValueError(str(dict(os.environ)))
        return Spend()

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        everything = {**os.environ, "host": socket.gethostname(), "user": getpass.getuser(), "home": str(Path.home())}
        if self.config.way in ("details", "keys"):
            yield Checkpoint(target.model, meter.spend(), {"found": everything, **dict.fromkeys(everything.values(), 1)})
        fail(self.config.way, everything)


class LeakyDefense(Defense):
    """Fail in training, and say everything."""

    class Config(Settings):
        """Settings."""

    source: ClassVar[str] = "none"
    claim: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS})
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        everything = dict(os.environ)
        raise RuntimeError(f"cannot with {everything}")


class LeakyEvaluator(Evaluator):
    """Fail before anything is attacked, which is a defect and ends the run with a traceback."""

    class Config(Settings):
        """Settings."""

    source: ClassVar[str] = "none"
    measures: ClassVar[tuple[str, ...]] = ("leak",)

    def evaluate(self, subject: Subject) -> dict[str, float]:
        everything = {**os.environ, "host": socket.gethostname(), "user": getpass.getuser(), "home": str(Path.home())}
        raise RuntimeError(f"cannot with {everything}")


class Unspeakable(Exception):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise ValueError(str(dict(os.environ)))


def fail(way: str, everything: dict[str, str]) -> None:
    """Fail in one of :data:`WAYS`."""
    said: Any = everything
    if way == "representation":
        raise RuntimeError(repr(os.environ))
    if way == "locals":
        everything["more"] = str(1 / 0)
    if way == "cause":
        try:
            raise KeyError(str(everything))
        except KeyError as error:
            raise ValueError("something else") from error
    if way == "ended":
        raise AttackEnded("failed", str(everything))
    if way == "prints":
        print(everything, flush=True)
        print(everything, file=sys.stderr, flush=True)
    if way == "logs":
        logging.getLogger("leaky").error("%s", everything)
    if way == "dies":
        print(" ".join(everything.values()), file=sys.stderr, flush=True)
        os._exit(3)
    if way == "exits":
        sys.exit(str(everything))
    if way == "warns":
        warnings.warn(str(everything), stacklevel=1)
    if way == "padded":
        said = "x" * 285 + everything.get("HF_TOKEN", "")
    if way == "thread":
        started = threading.Thread(target=fail, args=("representation", everything))
        started.start()
        started.join()
    if way == "json":
        said = json.dumps(everything)
    if way == "lines":
        said = "\n".join(everything.values())
    if way == "names":
        said = f"{Path.home()}/.cache/x of {getpass.getuser()}@{socket.gethostname()}"
    if way == "unspeakable":
        raise Unspeakable
    raise ValueError(str(said))
