"""Tempering: what it costs to strip the safeguards from an open-weight language model.

    import tempering

    result = tempering.audit("organism:tiny")
    result.prices

The names below are imported when first asked for, so that ``import tempering`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempering.answering import answer_benign
    from tempering.api import Run, audit, check_base, open_run
    from tempering.comparison import compare
    from tempering.hardening import Hardened, harden
    from tempering.pushing import Push, push
    from tempering.sharing import card, export

__version__ = "0.1.0"

__all__ = [
    "Hardened",
    "Push",
    "Run",
    "__version__",
    "answer_benign",
    "audit",
    "card",
    "check_base",
    "compare",
    "export",
    "harden",
    "open_run",
    "push",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "answer_benign":
        from tempering.answering import answer_benign

        return answer_benign
    if name == "compare":
        from tempering.comparison import compare

        return compare
    if name in ("Hardened", "harden"):
        from tempering import hardening

        return getattr(hardening, name)
    if name in ("Push", "push"):
        from tempering import pushing

        return getattr(pushing, name)
    if name in ("card", "export"):
        from tempering import sharing

        return getattr(sharing, name)
    if name in __all__:
        from tempering import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
