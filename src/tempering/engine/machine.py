"""Whether the machine has failed, and not what was being computed on it."""

from __future__ import annotations

import os

from tempering.engine.files import MACHINE_TROUBLE
from tempering.errors import StoreProblem, causes
from tempering.models.saving import number_of


def trouble(error: Exception) -> str:
    """What the system said of a disk or of the machine, however often it was wrapped; ``""`` where it said nothing of the kind."""
    for link in causes(error):
        number = number_of(link) if isinstance(link, Exception) else None
        if number in MACHINE_TROUBLE:
            return os.strerror(number)
    return ""


def refuse_trouble(error: Exception, doing: str) -> None:
    """Let an error that the machine is to blame for end the run, so that it counts as no outcome.

    Args:
        error: what went wrong.
        doing: what could not be done, to follow "cannot".

    Raises:
        StoreProblem: the disk or the machine has failed.
    """
    if said := trouble(error):
        raise StoreProblem(f"cannot {doing}: {said}", "see to the disk, then give the command again") from error
