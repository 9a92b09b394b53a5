"""The form of a text in which two that differ by case, spaces or the last full stop are the same."""

from __future__ import annotations

import hashlib
import unicodedata


def normal_form(text: str) -> str:
    """Lower case, single spaces, no sign that ends a sentence at the end. Signs within it stand: they may be all that tells two apart."""
    whole = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return whole.rstrip(" .!?") or whole


def text_digest(text: str) -> str:
    """SHA-256 of a text's normal form, as sixty-four hexadecimal digits: it names a prompt and does not repeat it."""
    return hashlib.sha256(normal_form(text).encode("utf-8", "surrogatepass")).hexdigest()
