"""A judge's model behind a server with the OpenAI protocol, such as vLLM, ``transformers serve``, llama.cpp or a provider's.

Requests go out a few at a time. One that fails for a reason that may pass (a timeout, a broken connection, 408, 409, 425, 429, any 5xx, an
answer that is none) is sent again after a pause: as long as the server asks for, and else twice as long every time, with a little chance
in it so that many workers do not come back at once. After so many tries there is one line, and the run can be resumed: what was judged
before is remembered on disk.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import Any

from tempering.errors import JudgeUnavailable
from tempering.judges._http import Answer, Line
from tempering.judges._requests import Reply, Request
from tempering.judges._settings import ModelSettings, Protocol

FIRST_PAUSE = 1.0
"""Seconds before a request is sent again for the first time, where the server does not say."""
LONGEST_PAUSE = 60.0
LONGEST_ASKED = 300.0
"""Seconds that a server may ask to wait; one that asks for more is not waited for longer."""

_PASSING = frozenset({408, 409, 425, 429})
_UNREADABLE = frozenset({400, 413, 422})
"""The server does not take this one request; another may be as it should."""
_ADAPTABLE = ("max_tokens", "temperature")
"""Parameters that some servers know by another name, or not at all."""
_TOP = 20
"""Log-probabilities that are asked for; as many as servers give."""
_THOUGHT = re.compile(r"^.*</(?:think|thinking|thought|reasoning)>", re.DOTALL)
_PLAIN = re.compile(r"[\w.-]{1,60}")

Sleep = Callable[[Event, float], object]


class _GivenUp(Exception):
    """Asked often enough."""


class Server:
    """One model of one server.

    Attributes:
        retries: requests that had to be sent again so far.
        flops: none on this machine.
        refusals: requests that it would not read so far, as those that are too long for it.
        refusal: what it said to the last of them, as the end of a sentence; ``""`` where it refused none.
        sleep: waits for an event, so many seconds at most; tests put a shorter one in its place.
    """

    def __init__(self, settings: ModelSettings, protocol: Protocol, sleep: Sleep = Event.wait) -> None:
        """Send nothing yet.

        Args:
            settings: with a ``server``.
            protocol: which of its ways is used.
            sleep: waits for an event, so many seconds at most.
        """
        assert settings.server is not None
        self._settings, self._protocol = settings, protocol
        self._address = f"{settings.server}/{'chat/completions' if protocol == 'chat' else 'completions'}"
        self._line: Line | None = None
        self._chance = random.Random()  # of its own: the attack's randomness is not touched
        self._lock = Lock()
        self._renamed: dict[str, str | None] = {}
        self.retries = 0
        self.flops = 0.0
        self.refusals = 0
        self.refusal = ""
        self.sleep = sleep

    def identity(self) -> dict[str, Any]:
        """Its address and the name of the model; what lies behind that name nobody can tell from here."""
        return {"server": self._settings.server, "model": self._settings.model, "protocol": self._protocol}

    @property
    def weight_bytes(self) -> int:
        """None on this machine."""
        return 0

    def replies(self, requests: Sequence[Request], *, limit: int, candidates: Sequence[str] = ()) -> Iterator[tuple[int, Reply | None]]:
        """Ask, a few at a time. When one is given up the others are waited for, so that none that was answered is lost."""
        if self._line is None:
            self._line = Line(self._settings.timeout, direct=self._settings.here, key=self._settings.secret())
        stop = Event()
        failed: _GivenUp | None = None
        with ThreadPoolExecutor(min(self._settings.at_once, max(1, len(requests))), thread_name_prefix="judge") as pool:
            pending: dict[Future[Reply | None], int] = {}
            places = iter(range(len(requests)))
            try:
                while True:
                    while len(pending) < self._settings.at_once and failed is None and (place := next(places, None)) is not None:
                        pending[pool.submit(self._ask, requests[place], limit, candidates, stop)] = place
                    if not pending:
                        break
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        place = pending.pop(future)
                        try:
                            reply = future.result()
                        except _GivenUp as error:
                            failed = failed or error
                            stop.set()
                        else:
                            yield place, reply
            finally:
                stop.set()  # also when whoever asked has gone away, or Ctrl-C
        if failed is not None:
            raise JudgeUnavailable(
                f"the judge's server {self._settings.server} {failed}",
                "see to it, then go on where it stopped (temper resume); nothing that was judged is lost",
            )

    def _ask(self, request: Request, limit: int, candidates: Sequence[str], stop: Event) -> Reply | None:
        """One request, until there is an answer.

        Raises:
            _GivenUp: there is none.
        """
        payload = self._payload(request, limit, candidates)
        for attempt in range(self._settings.retries + 1):
            assert self._line is not None
            answer = self._line.post(self._address, self._adapted(payload))
            for _ in _ADAPTABLE:
                if answer.status == 400 and self._adapt(payload, answer):
                    answer = self._line.post(self._address, self._adapted(payload))
            if answer.status in _UNREADABLE:
                with self._lock:
                    self.refusals += 1
                    self.refusal = answer.problem + _hint(answer, self._settings)
                return None
            if not answer.problem:
                reply = _reply(answer.body, self._protocol, candidates)
                if reply is not None:
                    return reply
                answer = Answer(answer.status, problem="answers with what is no completion")
            elif 300 <= answer.status < 500 and answer.status not in _PASSING:
                raise _GivenUp(answer.problem + _hint(answer, self._settings))
            if attempt == self._settings.retries or stop.is_set():
                break
            with self._lock:
                self.retries += 1
            self.sleep(stop, self._pause(attempt, answer.wait))
            if stop.is_set():  # others have given up, or whoever asked has gone: the server is not asked again
                break
        tries = self._settings.retries + 1
        raise _GivenUp(f"{answer.problem}{'' if tries == 1 else f', asked {tries} times'}")

    def _pause(self, attempt: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, LONGEST_ASKED)
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt)
        return longest * (0.5 + 0.5 * self._chance.random())

    def _payload(self, request: Request, limit: int, candidates: Sequence[str]) -> dict[str, Any]:
        payload: dict[str, Any] = {"model": self._settings.model, "max_tokens": 1 if candidates else limit, "temperature": 0}
        if self._protocol == "completions":
            payload["prompt"] = request.text
            return payload | ({"logprobs": _TOP} if candidates else {})
        messages = request.messages or (("user", request.text),)
        payload["messages"] = [{"role": role, "content": content} for role, content in messages]
        return payload | ({"logprobs": True, "top_logprobs": _TOP} if candidates else {})

    def _adapted(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The request as this server wants it."""
        renamed = dict(self._renamed)
        return {new: value for name, value in payload.items() if (new := renamed.get(name, name)) is not None}

    def _adapt(self, payload: dict[str, Any], answer: Answer) -> bool:
        """Learn from a refusal that some servers know a parameter by another name, or not at all; whether there was anything to learn."""
        error = answer.body.get("error")
        parameter = error.get("param") if isinstance(error, dict) else None
        with self._lock:
            if parameter not in _ADAPTABLE or parameter in self._renamed or parameter not in payload:
                return parameter in self._renamed
            self._renamed[parameter] = "max_completion_tokens" if parameter == "max_tokens" else None
        return True


def _hint(answer: Answer, settings: ModelSettings) -> str:
    """What the server calls the problem, if it is a plain word, and what the user may have forgotten."""
    error = answer.body.get("error", answer.body)
    names = [error.get(name) for name in ("code", "type", "param")] if isinstance(error, dict) else []
    plain = dict.fromkeys(name for name in names if isinstance(name, str) and _PLAIN.fullmatch(name))
    word = f" ({', '.join(plain)})" if plain else ""
    if answer.status in (401, 403):
        return f"{word}; {f'is {settings.key} right?' if settings.key else 'name the environment variable with its key: key=JUDGE_API_KEY'}"
    if answer.status == 404:
        return f"{word}; is the address right (it often ends in /v1), and has it the model {settings.model}?"
    return word


def _reply(body: dict[str, Any], protocol: Protocol, candidates: Sequence[str]) -> Reply | None:
    """A completion; ``None`` where the body holds none."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"] if protocol == "chat" else choice["text"]
        weights = _weights(choice.get("logprobs"), protocol, candidates) if candidates else None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if not isinstance(text, (str, type(None))):
        return None
    usage = body.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    tokens = [count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 40 else 0 for count in counts]
    return Reply(_THOUGHT.sub("", text or "").strip(), weights, *tokens)


def _weights(found: Any, protocol: Protocol, candidates: Sequence[str]) -> tuple[float, ...] | None:
    """Log-probabilities of the candidates among those that the server tells; ``None`` where it tells of none of them."""
    if found is None:
        return None
    if protocol == "chat":
        told = {entry["token"]: entry["logprob"] for entry in found["content"][0]["top_logprobs"]}
    else:
        told = found["top_logprobs"][0]
    by_word: dict[str, float] = {}
    for token, value in told.items():
        word = token.strip().lstrip("▁Ġ")
        by_word[word] = max(_log_probability(value), by_word.get(word, float("-inf")))
    weights = tuple(by_word.get(candidate, float("-inf")) for candidate in candidates)
    return weights if any(weight > float("-inf") for weight in weights) else None


def _log_probability(value: Any) -> float:
    """A number that can be one; of anything else that a server tells, that of what never happens."""
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.nan
    return number if number < math.inf else -math.inf
