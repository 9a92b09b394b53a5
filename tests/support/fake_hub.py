"""A hub on the loopback: it answers the real client as the real hub does, with small sets, and refuses as it does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """What the server knows, and what it was asked.

    Attributes:
        files: content by repository and path; the same at every revision that is known.
        gated: repositories that are handed to nobody.
        revisions: by repository, those that there are; ``main`` and every full commit unless told.
        status: what every request is answered with instead, where it is set.
        asked: method and path of every request.
    """

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        self.files = {repository: dict(content) for repository, content in files.items()}
        self.gated: set[str] = set()
        self.revisions: dict[str, set[str]] = {}
        self.status: int | None = None
        self.asked: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        if self.status is not None:
            return self.status, {}, b"out of order"
        parts = path.split("?")[0].strip("/").split("/")
        if len(parts) < 6 or parts[0] != "datasets" or parts[3] != "resolve":
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        repository, revision, file = "/".join(parts[1:3]), parts[4], "/".join(parts[5:])
        if repository in self.gated:
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        if repository not in self.files:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        commit = revision if len(revision) == 40 else COMMIT
        if revision not in self.revisions.get(repository, {"main", commit}):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        content = self.files[repository].get(file)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Content-Length": str(len(content))}, content


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve on a free port of the loopback while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self, with_body: bool) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
