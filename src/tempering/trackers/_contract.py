"""What a tracker is told, and what it has to be able to do."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tempering.redaction import anonymous

PROJECT = "tempering"
"""Under which every tracker files its runs."""

Ending = Literal["finished", "failed", "interrupted"]

_OTHER = re.compile(r"[^A-Za-z0-9 ._/+-]")
"""What no name of a measurement may hold; the strictest of the services decides."""


@dataclass(frozen=True)
class Facts:
    """What a tracker is told of a run before it starts; texts have been through :func:`key` or :func:`anonymous`.

    Attributes:
        name: of the study.
        group: hash of the study, so that runs of the same study stand together.
        settings: what was asked for, as flat values; no method's settings are among them, since prompts can stand there.
    """

    name: str
    group: str
    settings: Mapping[str, str | int | float] = field(default_factory=dict)


class Tracker(ABC):
    """Tells one service of a run. Its methods are called from one thread, one after the other, and may take their time or fail."""

    @abstractmethod
    def load(self) -> None:
        """Import the library; called once, first, in the main thread.

        Raises:
            ImportError: it is not installed.
        """

    @abstractmethod
    def start(self, facts: Facts, folder: Path) -> str:
        """Begin a run.

        Args:
            facts: what there is to say of it.
            folder: of the run directory, which the tracker may keep files in; made when something is put there.

        Returns:
            One line for the user, on where the run can be looked at.
        """

    @abstractmethod
    def probe(self, unit: str, steps: int, values: Mapping[str, float]) -> None:
        """One checkpoint was measured.

        Args:
            unit: what the unit of work is called; fit to be a part of a key.
            steps: optimizer steps that it has made.
            values: measurements and cumulative spend; every one is finite.
        """

    @abstractmethod
    def progress(self, number: int, values: Mapping[str, float]) -> None:
        """Units were finished.

        Args:
            number: of this message, from 0.
            values: ``done``, ``total`` and ``failed``.
        """

    @abstractmethod
    def results(self, values: Mapping[str, float]) -> None:
        """The prices that the run ended with, by keys such as ``price/full_finetune/usd``."""

    @abstractmethod
    def finish(self, ending: Ending) -> None:
        """End the run; nothing is called after it."""


def key(text: str) -> str:
    """A text as a part of a measurement's name: nothing of the machine in it, and no character that a service refuses."""
    return _OTHER.sub("-", anonymous(text)).strip("/ ") or "-"
