"""A server on loopback that speaks the OpenAI protocol, says what it is told to, and misbehaves on request."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[dict[str, Any]], str]
"""From a request's payload to the text of the completion."""

Act = Callable[["Handler", dict[str, Any]], None]
"""What is done in place of an answer."""


def asked_text(payload: dict[str, Any]) -> str:
    """Everything that a request put before the model."""
    return payload.get("prompt") or "\n".join(message["content"] for message in payload["messages"])


def answer_in(payload: dict[str, Any]) -> str:
    """The response that is judged, whichever judge asks."""
    text = asked_text(payload)
    for pattern in (
        r"<answer>\n(.*)\n</answer>",
        r"Generation:\n(.*)\n\n---",
        r"AI assistant:\n(.*)\n\n---",
        r"AI model response: (.*)\n\nPretend",
    ):
        if found := re.search(pattern, text, re.DOTALL):
            return found[1]
    return str(payload["messages"][-1]["content"])


@dataclass
class Script:
    """What the server says, and what it has heard.

    Attributes:
        say: the completion.
        acts: what is done with the first requests in place of answering, in order; ``None`` answers.
        heard: payloads, in the order in which they came.
        headers: of each.
        logprobs: of first tokens, where they are asked for.
    """

    say: Say
    acts: list[Act | None] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    logprobs: Callable[[dict[str, Any]], dict[str, float]] = lambda payload: {}
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.script.lock:
            self.script.heard.append(payload)
            self.script.headers.append(dict(self.headers))
            act = self.script.acts.pop(0) if self.script.acts else None
        if act is not None:
            act(self, payload)
        else:
            self.answer(payload)

    def answer(self, payload: dict[str, Any]) -> None:
        text = self.script.say(payload)
        logprobs = self.script.logprobs(payload)
        if self.path.endswith("/chat/completions"):
            told = {"content": [{"token": "x", "top_logprobs": [{"token": key, "logprob": value} for key, value in logprobs.items()]}]}
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "logprobs": told if logprobs else None}
        else:
            choice = {"text": text, "logprobs": {"top_logprobs": [logprobs]} if logprobs else None}
        usage = {"prompt_tokens": len(asked_text(payload).split()), "completion_tokens": len(text.split())}
        self.send(200, {"object": "completion", "choices": [choice], "usage": usage})

    def send(self, status: int, body: Any, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


def refuses(status: int, body: Any = None, **headers: str) -> Act:
    """Answers with a status that says no."""
    return lambda handler, payload: handler.send(status, {"error": {"message": "no"}} if body is None else body, **headers)


def breaks_off(handler: Handler, payload: dict[str, Any]) -> None:
    """Promises more than it sends, and closes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hangs_up(handler: Handler, payload: dict[str, Any]) -> None:
    """Closes without a word."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def no_json(handler: Handler, payload: dict[str, Any]) -> None:
    """Answers with a page."""
    handler.send(200, b"<html>busy</html>")


def no_completion(handler: Handler, payload: dict[str, Any]) -> None:
    """Answers with JSON that is none."""
    handler.send(200, {"choices": []})


def says_nothing(release: threading.Event) -> Act:
    """Takes the request and does not answer it before it is released."""

    def act(handler: Handler, payload: dict[str, Any]) -> None:
        release.wait(30)
        handler.close_connection = True

    return act


@contextmanager
def judge_server(script: Script) -> Iterator[str]:
    """Serve on loopback while the block runs; the base address."""
    bound = type("Bound", (Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
