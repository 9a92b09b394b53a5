"""What judges have in common that ask a model: where it is, what it took, and how its answers become opinions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from tempering.judges._contract import Asked, Judge, Opinion
from tempering.judges._judging import Verdict
from tempering.judges._refusals import find_refusal
from tempering.judges._requests import Backend, Reply, Request
from tempering.judges._server import Server
from tempering.judges._settings import ModelSettings, Protocol
from tempering.judges._words import read


class ModelJudge(Judge):
    """A judge that asks a model; each says how it asks, and how it reads the answer.

    Attributes:
        protocol: by which a server is asked unless told.
        version: raised when its way of asking or reading changes; part of what it is known by.
        limit: tokens of an answer, unless told.
        candidates: first tokens whose probabilities are the answer; empty where it is text.
    """

    protocol: ClassVar[Protocol] = "chat"
    version: ClassVar[int] = 1
    limit: ClassVar[int] = 256
    candidates: ClassVar[tuple[str, ...]] = ()
    deciding: ClassVar[tuple[str, ...]] = ()
    """Settings beside the model and the length of answers that decide verdicts."""

    def __init__(self, config: ModelSettings) -> None:
        """Keep the configuration; the model is loaded, or its server asked, with the first response."""
        super().__init__(config)
        self.backend: Backend = self._backend()

    def _backend(self) -> Backend:
        settings: ModelSettings = self.config
        if settings.server is not None:
            return Server(settings, settings.protocol or self.protocol)
        from tempering.judges._local import LocalModel  # imports seconds' worth of libraries

        return LocalModel(settings)

    @abstractmethod
    def request(self, asked: Asked) -> Request:
        """What the model is asked about a response."""

    @abstractmethod
    def read(self, reply: Reply, asked: Asked) -> Opinion | None:
        """What its answer means; ``None`` where it says nothing."""

    def identity(self) -> dict[str, Any]:
        """Its way of asking, the settings that matter, and the model."""
        settings = {name: getattr(self.config, name) for name in self.deciding}
        return {"judge": type(self).__name__, "version": self.version, "limit": self._limit, **settings, **self.backend.identity()}

    @property
    def refused(self) -> tuple[int, str]:
        """As its model's server says."""
        return self.backend.refusals, self.backend.refusal

    @property
    def model_name(self) -> str:
        """The model, and where it is asked."""
        settings: ModelSettings = self.config
        return f"{settings.model} at {settings.server}" if settings.server else settings.model

    @property
    def weight_bytes(self) -> int:
        """Memory of the model's weights on this machine."""
        return self.backend.weight_bytes

    @property
    def _limit(self) -> int:
        settings: ModelSettings = self.config
        return settings.max_tokens or self.limit

    def opinions(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Opinion | None]]:
        """Ask the model about each, and count what it took."""
        requests = [self.request(each) for each in asked]
        retries, flops = self.backend.retries, self.backend.flops
        try:
            for place, reply in self.backend.replies(requests, limit=self._limit, candidates=self.candidates):
                self.cost.calls += 1
                if reply is not None:
                    self.cost.tokens_in += reply.tokens_in
                    self.cost.tokens_out += reply.tokens_out
                yield place, None if reply is None else self.read(reply, asked[place])
        finally:
            self.cost.retries += self.backend.retries - retries
            self.cost.flops += self.backend.flops - flops


def without_help(asked: Asked) -> Verdict:
    """What a response is that a judge of yes and no finds no harm in: a refusal, if it reads like one, or else an evasion."""
    return Verdict.REFUSAL if find_refusal(read(asked.response)) else Verdict.EVASION


def yes_or_no(helps: bool | None, asked: Asked) -> Opinion | None:
    """The opinion of a judge that says yes or no, or nothing."""
    return None if helps is None else Opinion.of(Verdict.USEFUL if helps else without_help(asked))


def filled(form: str, asked: Asked) -> str:
    """A form with ``{prompt}`` and ``{response}`` in it, once each and in this order, filled in; the texts are left as they are."""
    before, _, rest = form.partition("{prompt}")
    between, _, after = rest.partition("{response}")
    return f"{before}{asked.prompt}{between}{asked.response}{after}"
