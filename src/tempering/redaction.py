"""Keeps what the environment holds in confidence out of everything that is printed or stored.

Exceptions of libraries and of others' methods carry what they like: an address with a password, a request with its headers, all of
``os.environ``. So every text of an error goes through :func:`redacted` before it is shown, and through :func:`anonymous` before it is
stored, and the streams of the command line and of its workers are looked through once more.

What is known as a secret: the value of an environment variable whose name says so (``TOKEN``, ``SECRET``, ``PASSWORD``, ``PASS``,
``KEY``, ``AUTH``, ``JWT`` and the like), and the password or token in any variable that holds an address. A value of fewer than eight
characters is too common to be told from other text. What a method encodes first, or writes to a file by itself, is beyond this: it runs
with the rights of the user.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import sys
import threading
import traceback
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast
from urllib.parse import quote, unquote

SECRET = "[redacted]"
"""What stands in the place of a secret."""

LEAST = 8
"""Characters of the shortest value that is taken for a secret."""

_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|PASSCODE|PWD$|CREDENTIAL|COOKIE|AUTH|PRIVATE|SIGNATURE|WEBHOOK|APIKEY|CONN(ECTION)?_?STR(ING)?\d*(_|$)"
    r"|(^|_)(PASS|PAT|DSN|SAS|PSK|JWTS?|BEARER)\d*(_|$)"
    # a word before KEY has to be one that has keys: a MONKEY and a HOTKEY hold no secret
    r"|(^|_)(\w*(API|MASTER|SSH|GPG|PGP|RSA|AES|HMAC|JWT|SSL|TLS|ACCESS|ACCOUNT|STORAGE|SHARED|SERVICE|SESSION|CRYPT|CRYPTION|SIGN|SIGNING"
    r"|DEPLOY|ADMIN|ROOT|USER|APP|CLIENT|SERVER|HOST|DB|LICENSE|LICENCE|FERNET|VAULT))?KEYS?\d*(_|$)",
    re.IGNORECASE,
)
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})
_ADDRESS = re.compile(r"://(?=(\S+))")
_NAMED = re.compile(r"(?:key|password|pwd|pass|secret|token|sig|signature)\s*=\s*([^;&\s]+)", re.IGNORECASE)
_TOKEN_LEAST = 16
"""Characters of the shortest user of an address that is taken for a token; the names of users are shorter, or have no digit."""
_COMMON = frozenset({"root", "user", "admin", "ubuntu", "debian", "runner", "jovyan", "docker", "localhost", "nobody", "guest", "main"})
"""Names of users and hosts that say nothing, and stand in ordinary text."""


def names_a_secret(variable: str) -> bool:
    """Whether the value of an environment variable of that name is kept out of everything that is printed or stored."""
    return bool(_NAME.search(variable)) and variable not in _NO_SECRETS


def secrets() -> list[str]:
    """Every secret of this process's environment in the forms that texts hold it in, the longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if names_a_secret(name):
            found.add(value)
            found.update(value.splitlines())
            found.update(_NAMED.findall(value))  # the parts of a connection string
        found.update(_passwords(value))
    long = {value for value in found if len(value.strip()) >= LEAST}
    forms = {form for value in long for form in (value, value.strip(), repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe=""))}
    return sorted(forms, key=len, reverse=True)


def _passwords(value: str) -> set[str]:
    """The passwords of the addresses in a text, and the tokens that stand for a user and a password.

    A password may hold what ends an address, ``/`` and ``@``: so it goes on to the last ``@``, and what the rules of addresses make of it
    is taken too. A number after a colon that a ``/`` ends is a port.
    """
    found: set[str] = set()
    for rest in _ADDRESS.findall(value):
        authority = rest.partition("/")[0]
        users = [authority.rpartition("@")[0], authority.partition("@")[0]] if "@" in authority else []
        port = authority.rpartition(":")[2]
        if "@" in rest and (":" in users[-1] if users else ":" in authority and not port.isdigit()):
            users.append(rest.rpartition("@")[0])
        for user in users:
            name, colon, password = user.partition(":")
            found.update({password, unquote(password)} if colon else ())
            if len(name) >= _TOKEN_LEAST and any(letter.isdigit() for letter in name):
                found.add(name)
    return found


def redacted(text: str) -> str:
    """A text without the secrets of this process's environment."""
    for secret in secrets():
        text = text.replace(secret, SECRET)
    return text


def anonymous(text: str) -> str:
    """A text that may be handed on: without secrets, and without the names of the user, the home directory and the host."""
    text = redacted(text)
    home = os.environ.get("HOME", "") or os.environ.get("USERPROFILE", "")
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home.rstrip('/'))}(?![\w.-])", "~", text)
    for word, names in (("[host]", _hosts()), ("[user]", _users())):
        for name in names:
            if len(name) > 2 and name.lower() not in _COMMON:
                text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", word, text)
    return text


def one_line(text: str, limit: int = 300) -> str:
    """Text without line breaks, fit to be stored and handed on, cut off at ``limit`` characters."""
    line = " ".join(anonymous(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _users() -> set[str]:
    """What the user may be called; whoever changes the environment changes one of these names, not all."""
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    with suppress(OSError, KeyError, ImportError):  # a user without a name, as in some containers
        found.add(getpass.getuser())
    return found


def _hosts() -> list[str]:
    """What the host may be called, the longest name first: the bare one must not be taken out of the one with the domain."""
    found = {os.environ.get(name, "") for name in ("HOSTNAME", "COMPUTERNAME")} | {socket.gethostname()}
    return sorted(found | {name.partition(".")[0] for name in found}, key=len, reverse=True)


class _Guarded:
    """A text stream that writes what it is given without secrets, and is the stream itself in all else."""

    def __init__(self, stream: TextIO) -> None:
        """Keep the stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, and say that all of it is written."""
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Look through what this process prints from now on, tracebacks of any thread included; once is enough."""
    if isinstance(sys.stdout, _Guarded) and isinstance(sys.stderr, _Guarded):
        return
    sys.stdout, sys.stderr = cast(TextIO, _Guarded(sys.stdout)), cast(TextIO, _Guarded(sys.stderr))

    def told(arguments: threading.ExceptHookArgs) -> None:
        lines = traceback.format_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        sys.stderr.write(anonymous("".join(lines)))

    threading.excepthook = told


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, fit to be handed on in a report of a defect."""
    return anonymous("".join(traceback.format_exception(error)))
