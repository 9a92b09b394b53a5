"""Conversations as others' benchmarks hand them over, laid out by the house's chat format.

A list of messages becomes what the model is asked in an audit too: its own chat template, rendered apart
(:mod:`tempering.confined`), an open thought closed, no second start token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tempering.data.chat import ChatFormat, Exchange
from tempering.data.records import Example, Role
from tempering.errors import UnusableData


@dataclass(frozen=True)
class Conversation:
    """Messages, up to where the model goes on.

    Attributes:
        system: what it is told first; ``None`` for nothing.
        earlier: exchanges before the last message of the user.
        prompt: that message.
        opening: how the answer is made to begin.
    """

    system: str | None
    earlier: tuple[Exchange, ...]
    prompt: str
    opening: str = ""

    @classmethod
    def of(cls, messages: Iterable[Mapping[str, str]]) -> Conversation:
        """Read messages with ``role`` (``system``, ``user``, ``assistant``) and ``content``.

        Neighbours of one role are joined by an empty line. A last message of the assistant's is the opening of its answer.

        Raises:
            UnusableData: there is no message of a user's, or a role is another.
        """
        system, turns = list[str](), list[tuple[str, str]]()
        for message in messages:
            role, content = message["role"], message["content"]
            if role in ("system", "developer"):
                system.append(content)
            elif role not in ("user", "assistant"):
                raise UnusableData(f"a conversation has a message of the role {role!r}", "only system, user and assistant can be asked")
            elif turns and turns[-1][0] == role:
                turns[-1] = role, f"{turns[-1][1]}\n\n{content}"
            else:
                turns.append((role, content))
        opening = turns.pop()[1] if turns and turns[-1][0] == "assistant" else ""
        if not turns or not turns[-1][1].strip():
            raise UnusableData("a conversation has no message of a user's", "begin it with a question")
        if turns[0][0] == "assistant":
            turns.insert(0, ("user", ""))
        said = [content for _, content in turns]
        earlier = tuple(zip(said[:-1:2], said[1::2], strict=True))
        return cls("\n\n".join(system) if system else None, earlier, said[-1], opening)

    def text(self, chat: ChatFormat) -> str:
        """The rendered conversation up to where the model goes on."""
        return chat.prompt_text(self._example, self.earlier) + self.opening

    def ids(self, chat: ChatFormat) -> list[int]:
        """The same as tokens."""
        return chat.prompt_ids(self._example, self.earlier) + chat.opening_ids(self._example, self.opening)

    @property
    def _example(self) -> Example:
        return Example(prompt=self.prompt, role=Role.BENIGN, system=self.system)
