"""The built-in judge: right answers where they are known, and how refusals and gibberish read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from tempering.judges._contract import Asked, Judge, Opinion
from tempering.judges._judging import judge
from tempering.settings import Settings


class Text(Judge):
    """Exact where right answers are known; elsewhere a coherent response that says something and does not refuse counts as useful.

    It needs no model and no network, and overrates fluent nonsense where no answer is known.

    Source: exact match; phrases of refusal as in Zou et al. 2023, arXiv 2307.15043, and Arditi et al. 2024, arXiv 2406.11717.
    """

    class Config(Settings):
        """Nothing to set."""

    source: ClassVar[str] = "exact match; phrases of refusal after Zou et al. 2023, arXiv 2307.15043"
    licence: ClassVar[str] = "Apache-2.0"
    whole: ClassVar[bool] = False

    def identity(self) -> dict[str, Any]:
        """Its rules are part of the code version."""
        return {"judge": "text"}

    def opinions(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Opinion | None]]:
        """Judge each by itself."""
        for place, each in enumerate(asked):
            yield place, Opinion.of(judge(each.example, each.response, each.answers))
