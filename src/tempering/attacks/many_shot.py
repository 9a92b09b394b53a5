"""Many-shot: a long run of answered harmful questions goes before the one that is meant."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tempering.attacks._fine_tuning import drawn
from tempering.attacks._trying import InputAttack, TryingSettings, Way
from tempering.data.asking import Asking
from tempering.data.chat import ChatFormat, Exchange
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.settings import Choices
from tempering.study import Budget
from tempering.threat_model import Need

Layout = Literal["turns", "text"]


@dataclass(frozen=True)
class ManyShot(Asking):
    """Puts answered questions before the one that is asked.

    Attributes:
        demonstrations: questions with their answers, in order.
        layout: as earlier turns of the conversation, or as a dialogue within the one message.
        room: tokens there are for a prompt; the first demonstrations are left out where it would be longer. ``None`` leaves none out.
    """

    demonstrations: tuple[Exchange, ...] = ()
    layout: Layout = "turns"
    room: int | None = None

    def prompt_ids(self, chat: ChatFormat, example: Example, attempt: int = 0) -> list[int]:
        """Tokens of as many of the last demonstrations as there is room for, and the question."""
        asked = self.rewrite(example, attempt)
        return self._ids(chat, asked, self.fitting(chat, asked))

    def fitting(self, chat: ChatFormat, example: Example) -> int:
        """How many of the demonstrations there is room for before this example."""
        count = len(self.demonstrations)
        if self.room is None or len(self._ids(chat, example, count)) <= self.room:
            return count
        return max(0, bisect_right(range(count), self.room, key=lambda kept: len(self._ids(chat, example, kept))) - 1)

    def _ids(self, chat: ChatFormat, example: Example, kept: int) -> list[int]:
        shown = self.demonstrations[len(self.demonstrations) - kept :]
        if self.layout == "turns":
            return chat.prompt_ids(example, shown)
        dialogue = [f"User: {question}\nAssistant: {answer}\n\n" for question, answer in shown]
        prompt = f"{''.join(dialogue)}User: {example.prompt}\nAssistant:" if dialogue else example.prompt
        return chat.prompt_ids(example.model_copy(update={"prompt": prompt}))


class ManyShotJailbreaking(InputAttack):
    """Show k answered harmful questions before the one that is asked, k = 1, 2, 4, ... up to what the context holds.

    The model is asked p(a | q_1, a_1, ..., q_k, a_k, q): in-context learning of compliance, whose loss falls as a power of k. The
    demonstrations are the attacker's own answered examples, drawn by the seed; those of a smaller k are among those of a larger
    one. Each k is a trial on prompts of the attacker's own, and a checkpoint.

    The paper writes the dialogue into one message, because that is all a chat interface lets one do; here the default is true
    earlier turns, which any API takes. ``layout: text`` is the paper's.
    """

    class Config(TryingSettings):
        """Settings.

        Attributes:
            shots: at most so many demonstrations; fewer where the attacker has fewer answered examples or the context holds fewer.
            layout: earlier turns of the conversation, or a dialogue within the one message.
        """

        shots: Annotated[int, Field(gt=0), Choices((8, 32, 128, 256))] = 256
        layout: Annotated[Layout, Choices(("turns", "text"))] = "turns"

    source: ClassVar[str] = "Anil et al. 2024, Many-shot jailbreaking (NeurIPS 2024)"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.QUERIES, Need.HARMFUL_EXAMPLES})
    shows_more: ClassVar[bool] = True
    nothing_to_try: ClassVar[tuple[str, str]] = (
        "no answered harmful example fits into the model's context",
        "give the attacker's hazard examples an 'answer'",
    )

    def ways(
        self, target: Target, view: AttackerView, prompts: Sequence[Example], *, room: int | None, limit: int | None, seed: int
    ) -> Sequence[Way]:
        """One for each number of demonstrations."""
        answered = [example for example in view.hazard_train if example.answer]
        shots = self.config.shots if limit is None else min(self.config.shots, limit)
        shown = drawn(answered, shots, budget=Budget(), seed=seed)
        exchanges = tuple((example.prompt, str(example.answer)) for example in shown)
        longest = ManyShot(demonstrations=exchanges, layout=self.config.layout, room=room)
        most = min(longest.fitting(target.chat, example) for example in prompts)
        counts = sorted({min(2**power, most) for power in range(most.bit_length() + 1)} - {0})
        return [self._way(shown[:count], exchanges[:count], room) for count in counts]

    def _way(self, shown: Sequence[Example], exchanges: tuple[Exchange, ...], room: int | None) -> Way:
        identities = [example.identity for example in shown]
        asking = ManyShot(demonstrations=exchanges, layout=self.config.layout, room=room)
        return Way(asking, {"shots": len(shown), "layout": self.config.layout}, material=lambda _: identities)
