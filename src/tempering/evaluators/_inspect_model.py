"""A loaded model as Inspect sees one: asked by the house's chat format, greedily unless a temperature is asked for.

Imported only once somebody asks for it; needs the extra ``inspect``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from transformers import PreTrainedModel

from tempering.data.chat import ChatFormat
from tempering.errors import UnusableData
from tempering.evaluators._continuing import Continued, Wishes, continue_all
from tempering.evaluators._conversation import Conversation

MAX_TOKENS = 512
"""Of an answer, where nobody says how long it may be."""

_GATHER = 0.01
"""Seconds in which further conversations join a batch."""


@dataclass(eq=False)
class _Waiting:
    """A conversation that waits for its answer."""

    prompt: list[int]
    wishes: Wishes
    answer: Continued | None = None
    error: BaseException | None = None


class LoadedModel(ModelAPI):  # type: ignore[misc]
    """A model in memory."""

    def __init__(
        self,
        model_name: str,
        model: PreTrainedModel,
        chat: ChatFormat,
        *,
        config: GenerateConfig | None = None,
        batch_size: int = 1,
        arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Nothing of the model is changed, now or when it answers.

        Args:
            model_name: what logs call it.
            model: any decoder.
            chat: its chat format.
            config: of Inspect, for every answer.
            batch_size: conversations answered in one pass; alone, an answer is the same to the last bit whatever else is asked.
            arithmetic: gives the context to compute in, since that of one thread does not hold in another.
        """
        super().__init__(model_name=model_name, config=config or GenerateConfig())
        self._loaded, self._chat = model, chat
        self._batch_size, self._arithmetic = batch_size, arithmetic
        self._queue: list[_Waiting] = []
        self._turn = anyio.Lock()

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 -- the name that Inspect calls it by
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer a conversation.

        Raises:
            UnusableData: it has tools, pictures, or messages of other roles.
        """
        if tools:
            raise UnusableData("a model of Tempering's is given no tools", "take a task without")
        prompt = Conversation.of(map(_plain_message, input)).ids(self._chat)
        wishes = _wishes(config)
        answers = [await self._answer(prompt, wishes, number) for number in range(config.num_choices or 1)]
        usage = ModelUsage(
            input_tokens=answers[0].asked,
            output_tokens=sum(answer.added for answer in answers),
            total_tokens=answers[0].asked + sum(answer.added for answer in answers),
        )
        return ModelOutput(model=self.model_name, choices=[self._choice(answer) for answer in answers], usage=usage)

    def _choice(self, answer: Continued) -> ChatCompletionChoice:
        message = ChatMessageAssistant(content=answer.text, model=self.model_name, source="generate")
        return ChatCompletionChoice(message=message, stop_reason=answer.ended_by)

    async def _answer(self, prompt: list[int], wishes: Wishes, number: int) -> Continued:
        """One answer, made in a batch with others that wait; whoever has the turn sees to the batch."""
        if wishes.temperature:
            wishes = replace(wishes, seed=wishes.seed + number)
        own = _Waiting(prompt, wishes)
        self._queue.append(own)
        try:
            async with self._turn:
                if own in self._queue:
                    await self._see_to_batch(own)
        finally:
            if own in self._queue:
                self._queue.remove(own)
        if own.error is not None:
            raise own.error
        assert own.answer is not None
        return own.answer

    async def _see_to_batch(self, own: _Waiting) -> None:
        if self._batch_size > 1:
            await anyio.sleep(_GATHER)
        others = [each for each in self._queue if each is not own and each.wishes == own.wishes]
        batch = [own, *others[: self._batch_size - 1]]
        for each in batch:
            self._queue.remove(each)
        try:
            answers = await anyio.to_thread.run_sync(self._compute, [each.prompt for each in batch], own.wishes)
        except Exception as error:
            for each in batch:
                each.error = error
        else:
            for each, answer in zip(batch, answers, strict=True):
                each.answer = answer

    def _compute(self, prompts: Sequence[list[int]], wishes: Wishes) -> list[Continued]:
        with self._arithmetic():
            return continue_all(self._loaded, self._chat, prompts, wishes)

    def max_tokens(self) -> int | None:
        """Tokens of an answer, where nobody says how many."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Conversations that are asked at once: two batches, so that one can form while the other is answered."""
        return 1 if self._batch_size == 1 else 2 * self._batch_size

    def connection_key(self) -> str:
        """One model, one queue."""
        return f"tempering {id(self._loaded)}"


def _wishes(config: GenerateConfig) -> Wishes:
    unset: dict[str, Any] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "stop": tuple(config.stop_seqs) if config.stop_seqs else None,
        "seed": config.seed,
    }
    return Wishes(config.max_tokens or MAX_TOKENS, **{name: value for name, value in unset.items() if value is not None})


def _plain_message(message: ChatMessage) -> dict[str, str]:
    """A message as text.

    Raises:
        UnusableData: it holds something else.
    """
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    if any(part.type not in ("text", "reasoning") for part in message.content):
        raise UnusableData("a conversation has pictures, sound or files in it", "take a task of text")
    return {"role": message.role, "content": message.text}
