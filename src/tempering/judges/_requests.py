"""What a judge asks its model, and what comes back; the same for weights that lie here and for a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One question to a judge's model: messages for its chat template, or text as it is.

    Attributes:
        messages: role and content of each; empty where there is ``text``.
        text: what the model is to continue.
        special: whether the tokenizer puts its own special tokens (a beginning of sequence) before ``text``.
    """

    messages: tuple[tuple[str, str], ...] = ()
    text: str = ""
    special: bool = True


@dataclass(frozen=True)
class Reply:
    """What the model answered.

    Attributes:
        text: its answer, without special tokens.
        weights: log-probabilities of the candidates that the judge named, as first token; ``None`` where it named none, or the server
            told none of them.
        tokens_in: tokens put before it.
        tokens_out: tokens it added.
    """

    text: str = ""
    weights: tuple[float, ...] | None = None
    tokens_in: int = 0
    tokens_out: int = 0


class Backend(Protocol):
    """A judge's model, wherever it is.

    Attributes:
        retries: requests that had to be sent again so far.
        flops: operations on this machine so far.
        refusals: requests that it would not read so far.
        refusal: why it would not read the last of them, as the end of a sentence; ``""`` where nobody says.
    """

    retries: int
    flops: float
    refusals: int
    refusal: str

    def identity(self) -> dict[str, Any]:
        """What tells this model from others, as JSON values."""

    def replies(self, requests: Sequence[Request], *, limit: int, candidates: Sequence[str] = ()) -> Iterator[tuple[int, Reply | None]]:
        """Ask.

        Args:
            requests: what to ask.
            limit: tokens of an answer, at most.
            candidates: first tokens whose log-probabilities are wanted; with any, nothing more is generated than that token.

        Yields:
            Place of a request, and its reply, as they come; ``None`` where the model cannot read the request, as one that is too long.

        Raises:
            JudgeUnavailable: it cannot be asked. What was answered before has been given out.
        """

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights on this machine."""
