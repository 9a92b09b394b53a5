"""The one family of errors that a user is meant to read.

Every message is one line that says what is wrong, where, and what to do. The command line prints it after ``error:``
and exits with ``exit_code``; anything that is not a :class:`TemperingError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from tempering.plain_text import clean
from tempering.redaction import redacted

_LONGEST = 2000
"""Characters of a message; names and values out of files may be of any length."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from or while handling, outermost first: libraries wrap one in another."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class TemperingError(Exception):
    """A problem the user can mend: bad input, a missing file, a full disk.

    Attributes:
        exit_code: what the process exits with when this error ends it.
    """

    exit_code = 2

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Build the one-line message.

        Args:
            problem: what is wrong and where, without a full stop.
            remedy: what the user can do about it, without a full stop.
        """
        line = clean(redacted(f"{problem}; {remedy}" if remedy else problem))
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}")


class UnknownName(TemperingError):
    """A method, organism or accelerator that does not exist, with the nearest name that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Compose the message from the names that exist.

        Args:
            kind: what was looked for, in the singular ("attack").
            name: what the user wrote.
            known: every name that would have been found.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}" if names else "none is installed"
        super().__init__(f"no {kind} named {name!r}", remedy)


class InvalidStudy(TemperingError):
    """A study file or flag that does not describe a study."""


class UnusableModel(TemperingError):
    """A model reference that cannot be loaded safely or at all."""


class MemoryShortage(UnusableModel):
    """What would fit into this machine's memory were it free, and it is not: the same may well work later."""

    exit_code = 3


class UnusableData(TemperingError):
    """Data that cannot be split into the roles an audit needs."""


class StoreProblem(TemperingError):
    """A run directory that cannot be written, read or resumed."""

    exit_code = 3


class LeftAlone(StoreProblem):
    """Files that may be sound, though they cannot be read now, or not by this version; nothing is put aside or computed anew for it."""


class UnreadableJudge(TemperingError):
    """A judge whose answers say nothing, too often for what is left of them to be a measurement."""


class JudgeUnavailable(TemperingError):
    """A judge that cannot be asked: its server is gone, refuses, or is overloaded. No outcome of what was to be judged."""

    exit_code = 3


class UnreadableMessage(TemperingError):
    """What a worker or a job has written is no message."""

    exit_code = 3


class FailedTraining(TemperingError):
    """A defence whose training came to nothing: its loss is not finite any more."""

    exit_code = 3


class NotForPublication(TemperingError):
    """A folder that must not be put on a hub: it was attacked, or nothing says that it was hardened."""


class HubProblem(TemperingError):
    """A hub that cannot be reached, or that refuses."""

    exit_code = 3
