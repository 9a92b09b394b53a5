"""The report: draws what economics computed, and computes nothing.

``write_report`` is looked up on first use, because the drawing library takes longer to import than the first line of
progress may wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempering.report.write import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """Import the writer when it is first asked for."""
    if name == "write_report":
        from tempering.report.write import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
