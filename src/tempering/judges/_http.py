"""One POST of JSON and its answer, by the standard library alone.

The libraries' own HTTP client is not used: which one there is (httpx, httpx2) depends on the version of ``huggingface_hub``, and one kind
of request needs none. What matters here is kept small and strict: no redirect is followed, since a key would go along with it; an answer
has a size and a time it must come within; proxies of the environment are used, but not for this machine.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import IO, Any

LARGEST = 8 << 20
"""Bytes of an answer; a completion has a few thousand."""
_PIECE = 1 << 16


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        body: the JSON object; empty where there was none.
        problem: what is wrong with it, as the end of a sentence; ``""`` where nothing is.
        wait: seconds that the server asks to wait before the next request, where it does.
    """

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    wait: float | None = None


class _Staying(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the answer is what it is."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """Go nowhere."""


class Line:
    """The way to one server."""

    def __init__(self, timeout: float, *, direct: bool, key: str | None) -> None:
        """Open nothing yet.

        Args:
            timeout: seconds within which an answer must be there.
            direct: go by no proxy.
            key: sent as a bearer token.
        """
        proxies = urllib.request.ProxyHandler({}) if direct else urllib.request.ProxyHandler()
        self._opener = urllib.request.build_opener(proxies, _Staying)
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tempering"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def post(self, address: str, payload: dict[str, Any]) -> Answer:
        """Send a request. Whatever goes wrong is told in the answer."""
        request = urllib.request.Request(address, json.dumps(payload).encode(), self._headers, method="POST")
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return _read(response.status, _content(response, deadline))
        except urllib.error.HTTPError as error:
            with error:
                return _refusal(error, deadline)
        except TimeoutError:
            return Answer(0, problem=f"did not answer within {self._timeout:g} s")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(0, problem=_in_words(error, self._timeout))


class _TooMuch(ValueError):
    """An answer that is too long."""


def _content(response: IO[bytes], deadline: float) -> bytes:
    """All of an answer, unless it is too long or takes too long."""
    pieces: list[bytes] = []
    while piece := response.read(_PIECE):
        pieces.append(piece)
        if sum(map(len, pieces)) > LARGEST:
            raise _TooMuch
        if time.monotonic() > deadline:
            raise TimeoutError
    length = getattr(response, "length", None)
    if length:
        raise http.client.IncompleteRead(b"", length)
    return b"".join(pieces)


def _read(status: int, content: bytes) -> Answer:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Answer(status, problem="answers with what is no JSON object")
    return Answer(status, body)


def _refusal(error: urllib.error.HTTPError, deadline: float) -> Answer:
    """An answer that says no; of its text nothing is kept but the names of what is wrong, since servers repeat what they were sent."""
    try:
        body = _read(error.code, _content(error, deadline)).body
    except (OSError, http.client.HTTPException, ValueError):
        body = {}
    return Answer(
        error.code,
        body,
        f"answers {error.code} {http.client.responses.get(error.code, '')}".strip(),
        _wait(error.headers.get("Retry-After")),
    )


def _wait(text: str | None) -> float | None:
    """Seconds of a ``Retry-After``, which is a number or a date."""
    if text is None:
        return None
    try:
        return max(0.0, float(text)) if text.strip().isascii() else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _in_words(error: Exception, timeout: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"did not answer within {timeout:g} s"
    if isinstance(reason, ConnectionRefusedError):
        return "cannot be reached: nobody listens there"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "has a certificate that is not trusted"
    if isinstance(reason, _TooMuch):
        return "answers with more than a completion can be"
    if isinstance(reason, (http.client.HTTPException, ConnectionError, EOFError)):
        return "broke off its answer"
    if isinstance(reason, OSError) and reason.strerror:
        return f"cannot be reached: {reason.strerror}"
    return f"cannot be reached: {type(reason).__name__}"
