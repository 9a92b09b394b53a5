"""From a docstring to Markdown that shows every one of its characters.

Docstrings here are nearly Markdown: paragraphs, lists and indented equations are, names stand between double backticks, other objects in
Sphinx roles. What Markdown would make something else of (``a * b``, ``x_<t``, ``[memory]``) is written as character references.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

ROLE = re.compile(r":(?:mod|func|class|meth|data|attr|exc):`(~?)([^`]+)`")
_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_SPECIAL = re.compile(r"[&<>*_\[\]|\\~^$#]")
_ENTRY = re.compile(r"(\w+): (.*)")
_LINKED = re.compile(r"(\[`[^`]+`\]\([^)]+\))")

Linker = Callable[[str], str | None]
"""Where the page of an object of that dotted name is, if it has one."""


def as_markdown(docstring: str, link: Linker = lambda name: None) -> str:
    """The docstring as Markdown.

    Args:
        docstring: cleaned of its indentation.
        link: knows the pages of other objects.
    """
    blocks = re.split(r"(\n{2,})", docstring)
    return "".join(block if block.startswith(("\n", "    ")) else _block(block, link) for block in blocks)


def literal(text: str) -> str:
    """Text in a table's cell or a paragraph that stays what it is, letter by letter."""
    return re.sub(r"[^\w\s.,:;=()%/+-]|_", lambda match: f"&#{ord(match[0])};", text)


def code(text: str) -> str:
    """The same as code."""
    return f"<code>{literal(text)}</code>"


def attributes(docstring: str) -> dict[str, str]:
    """What the ``Attributes:`` of a docstring says of each, on one line."""
    _, heading, rest = inspect.cleandoc(docstring).partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in rest.splitlines() if heading else ():
        if line and not line.startswith(" "):
            break
        entry = _ENTRY.match(line.removeprefix("    "))
        if entry:
            name = entry[1]
            found[name] = entry[2].strip()
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def documented_fields(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and of those it derives from say of its fields; the nearest has the word."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        found |= attributes(vars(owner).get("__doc__") or "")
    return found


def _block(block: str, link: Linker) -> str:
    linked = ROLE.sub(lambda match: _object(match[2], bool(match[1]), link), block)
    parts = _LINKED.split(linked)
    return "".join(part if place % 2 else _text(part) for place, part in enumerate(parts))


def _text(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(part if place % 2 else _SPECIAL.sub(_reference, part) for place, part in enumerate(parts))


def _reference(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _object(name: str, short: bool, link: Linker) -> str:
    shown = name.rpartition(".")[2] if short else name
    page = link(name)
    return f"[`{shown}`]({page})" if page else f"`{shown}`"


def cleaned(thing: Any) -> str:
    """Docstring of a class, without its indentation."""
    return inspect.cleandoc(thing.__doc__ or "")
