"""What every judge that asks a model can be told: which model, and where it is."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tempering.errors import InvalidStudy
from tempering.redaction import names_a_secret
from tempering.settings import Settings

Protocol = Literal["chat", "completions"]
"""``/chat/completions``, where the server writes the chat template, or ``/completions``, which takes text as it is."""


class ModelSettings(Settings):
    """Which model is asked, and how.

    Attributes:
        model: a local model by any reference (an organism, a directory, hub-id@revision, a GGUF file, an adapter), or with ``server`` the
            name that the server knows it by.
        server: base address of a server with the OpenAI protocol, such as ``http://127.0.0.1:8000/v1``; ``None`` loads the model here.
        key: the *name* of the environment variable that holds the server's key; ``None`` sends none.
        protocol: of the server; ``None`` takes what suits the judge.
        max_tokens: of an answer, at most; ``None`` takes what suits the judge.
        batch_size: responses read at once by a model here.
        at_once: requests that a server is sent at the same time.
        timeout: seconds after which a request is given up and sent again.
        retries: how often it is.
        dtype: of a model here; ``None`` keeps the checkpoint's own.
        device: of a model here; ``None`` takes an accelerator where there is one.
    """

    model: Annotated[str, Field(min_length=1)]
    server: str | None = None
    key: str | None = None
    protocol: Protocol | None = None
    max_tokens: Annotated[int, Field(gt=0, le=8192)] | None = None
    batch_size: Annotated[int, Field(gt=0)] = 16
    at_once: Annotated[int, Field(gt=0, le=256)] = 8
    timeout: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None

    @field_validator("server")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", value):
            raise ValueError("it should be an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("it should hold no password; put that into an environment variable and name it with key=")
        return value.rstrip("/")

    @field_validator("key")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        """The value is not repeated in what is said: somebody may have given the key itself."""
        if value is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", value):
            raise ValueError("it should be the name of an environment variable that holds the key, such as JUDGE_API_KEY, and not the key")
        if value is not None and not names_a_secret(value):
            raise ValueError("it should be a name that says it is a secret, such as JUDGE_API_KEY, so that its value is kept out of logs")
        return value

    @model_validator(mode="after")
    def _key_goes_where_it_is_safe(self) -> Self:
        if self.key is not None and self.server is None:
            raise ValueError("key= is for a server")
        if self.key is not None and not self.secure:
            raise ValueError("a key is sent by https:// only, or to this machine")
        return self

    @property
    def here(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.server or "").hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.here or (self.server or "").startswith("https://")

    def secret(self) -> str | None:
        """The key itself.

        Raises:
            InvalidStudy: the environment variable is not set.
        """
        if self.key is None:
            return None
        value = os.environ.get(self.key, "").strip()
        if not value:
            raise InvalidStudy(f"the environment variable {self.key} is not set", f"put the key of {self.server} into it")
        if not value.isprintable() or not value.isascii():
            raise InvalidStudy(f"the environment variable {self.key} holds what is no key", f"put the key of {self.server} into it")
        return value
