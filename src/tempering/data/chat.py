"""Chat formatting: messages to tokens, with the loss on the answer and its end token and nowhere else.

Nothing about a template is assumed. What it writes around an answer is found by rendering it with made-up messages and
looking where they land, so any Jinja chat template works without a table of model families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tempering import confined
from tempering.data.records import Example
from tempering.data.thoughts import Marker, holds_marker, opened_by
from tempering.errors import UnusableData, UnusableModel

IGNORED = -100
"""Label of a position without loss: what ``torch.nn.functional.cross_entropy`` ignores."""

_RENDER_SETTINGS: dict[str, Any] = {"date_string": "26 Jul 2024"}
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format.replace('%Y', '2024').replace('%y', '24').replace('%m', '07').replace('%B', 'July')"
    ".replace('%b', 'Jul').replace('%d', '26').replace('%A', 'Friday').replace('%a', 'Fri').replace('%H', '12').replace('%M', '00')"
    ".replace('%S', '00') }}{% endmacro %}{{ '' }}"
)
"""Put before a template that writes today's date, so that a run resumed tomorrow has the same prompts; Llama 3.1's default date."""

_USER, _ANSWER, _SYSTEM = "Zquserqz", "Zqanswerqz", "Zqsystemqz"
_INSTRUCTIONS = ("Explain how rivers", "Please count to seven", "Name one big")


Exchange = tuple[str, str]
"""An earlier turn of a conversation: what the user said, and what the assistant answered."""


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        input_ids: prompt, answer and end of turn.
        labels: as long; :data:`IGNORED` over the prompt, the token itself over the answer and its end.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def labelled(self) -> int:
        """Tokens that a model is to predict; the first, which has nothing before it, is none."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class _Frame:
    """What a template writes around an answer.

    Attributes:
        bridge: text between the generation prompt and the answer that is the template's (an empty thought); part of the prompt.
        lead: whitespace between the prompt and the answer; the model emits it.
        end: text from the answer to the end-of-turn token, that token included; empty where the template has none.
        trims: whether the template strips whitespace around the answer.
    """

    bridge: str
    lead: str
    end: str
    trims: bool


REMEMBERED = 2**13
"""Prompts, and texts as tokens, that a format keeps: the same few hundred are asked at every probe."""


class ChatFormat:
    """Turns examples into tokens as one model's chat template has them.

    Attributes:
        tokenizer: the model's tokenizer.
        template: the Jinja chat template in use.
        system: the system prompt that the model is deployed with, of every example that brings none; ``None`` for none.
        pad_id: token id for padding; always masked, so any will do where the tokenizer names none.
        end_ids: token ids that end a response: the template's end of turn first, then the tokenizer's end of sequence and what the model's
            generation settings name (Llama 3 has ``<|eom_id|>`` too).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        system: str | None = None,
        *,
        ends: Sequence[int] = (),
        thinks: bool = False,
    ) -> None:
        """Read the template and find out what it writes around an answer.

        Args:
            tokenizer: the model's tokenizer.
            template: a Jinja chat template that replaces the tokenizer's own.
            system: the system prompt that the model is deployed with.
            ends: further token ids that end a response, which the model's generation settings name.
            thinks: leave it to the model whether it thinks before it answers, in place of closing its thought for it.

        Raises:
            UnusableModel: there is no template, it does not render, or nothing ends a turn.
        """
        self.tokenizer = tokenizer
        self.template = _template_of(tokenizer) if template is None else template
        self.system = system
        self._thinks = thinks
        self._ends = tuple(ends)
        self._template_to_render = (_FIXED_DATE if "strftime_now" in self.template else "") + self.template
        self._content_in_parts = False
        self._known_ids: dict[str, list[int]] = {}
        self._known_prompts: dict[tuple[str, str | None, tuple[Exchange, ...]], str] = {}
        self._frame = self._find_frame()
        eos = tokenizer.eos_token_id
        self._end_token = self._ids(self._frame.end)[-1] if self._frame.end else eos
        if self._end_token is None:
            raise UnusableModel(
                "the chat template ends an answer with no token of its own, and the tokenizer has no end-of-sequence token",
                "give a template that ends a turn: --chat-template FILE",
            )
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys(int(token) for token in (self._end_token, eos, *ends) if token is not None))
        pad = tokenizer.pad_token_id
        self.pad_id: int = int(pad if pad is not None else self.end_ids[0] if eos is None else eos)

    def prompt_text(self, example: Example, earlier: Sequence[Exchange] = ()) -> str:
        """The rendered conversation up to where the answer starts; the answer itself is not looked at.

        Args:
            example: gives the instruction and the system prompt.
            earlier: turns that come before the instruction, behind the system prompt.
        """
        return self._prompt(example.prompt, self.system if example.system is None else example.system, earlier)

    def prompt_ids(self, example: Example, earlier: Sequence[Exchange] = ()) -> list[int]:
        """Tokens of the system prompt, earlier turns, the instruction and the generation prompt, with no second start token."""
        return self._ids(self.prompt_text(example, earlier))

    def answer_ids(self, example: Example, answer: str) -> list[int]:
        """Tokens of an answer as they follow the example's prompt, and the end of turn that the model must emit.

        Args:
            example: gives the prompt; its own answer is not looked at.
            answer: the assistant's message.

        Returns:
            The answer's tokens and its end; nothing that the template writes after the end.
        """
        return self._encode(example, answer)[1]

    def opening_ids(self, example: Example, opening: str) -> list[int]:
        """Tokens of the beginning of an answer as they follow the example's prompt; generation goes on from there.

        Args:
            example: gives the prompt.
            opening: how the answer begins; empty gives none, so that the model writes what stands before an answer itself.
        """
        if not opening:
            return []
        prompt = self.prompt_text(example)
        text = self._frame.lead + opening
        ids = self._following(prompt, self._ids(prompt), text)
        return self._apart(text) if ids is None else ids

    def encode(self, example: Example) -> Encoded:
        """Prompt and answer as one training row.

        Raises:
            UnusableData: the example has no answer.
        """
        if example.answer is None:
            raise UnusableData(f"the {example.role} prompt {example.prompt[:60]!r} has no answer to train on", "add an 'answer' to it")
        prompt, answer = self._encode(example, example.answer)
        return Encoded(prompt + answer, [IGNORED] * len(prompt) + answer)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special tokens and ends of turn."""
        kept = [int(token) for token in ids if int(token) not in self.end_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @cached_property
    def post_instruction_ids(self) -> list[int]:
        """Template tokens after the instruction, up to and including the generation prompt.

        They are the longest common ending of prompts whose instructions end differently, which is right even where a
        tokenizer merges the instruction's last character with what follows.
        """
        prompts = [self._ids(self._prompt(text, None)) for text in (*_INSTRUCTIONS, *self._own_words())]
        shortest = min(len(prompt) for prompt in prompts)
        length = 0
        while length < shortest and len({prompt[-1 - length] for prompt in prompts}) == 1:
            length += 1
        return prompts[0][len(prompts[0]) - length :]

    def _own_words(self, count: int = 6) -> list[str]:
        """A few whole words of the vocabulary, since a small one may know none of ours."""
        vocabulary = self.tokenizer.get_vocab()
        words = sorted(word for token in vocabulary if (word := token.lstrip("Ġ▁")).isalpha() and word.isascii())
        return words[:: max(1, len(words) // count)][:count]

    def _prompt(self, instruction: str, system: str | None, earlier: Sequence[Exchange] = ()) -> str:
        key = instruction, system, tuple(earlier)
        if key not in self._known_prompts:
            if len(self._known_prompts) >= REMEMBERED:
                self._known_prompts.clear()
            self._known_prompts[key] = self._laid_out(instruction, system, earlier)
        return self._known_prompts[key]

    def _laid_out(self, instruction: str, system: str | None, earlier: Sequence[Exchange]) -> str:
        turns = [turn for exchange in earlier for turn in zip(("user", "assistant"), exchange, strict=True)]
        messages = [{"role": role, "content": content} for role, content in (*turns, ("user", instruction))]
        if system is not None and self._has_system_turn:
            messages.insert(0, {"role": "system", "content": system})
        elif system is not None:
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
        text = self._render(messages, generation_prompt=True)
        if self._thinks:
            return text + ("" if holds_marker(self._frame.bridge) else self._frame.bridge)
        text += self._frame.bridge
        thought = opened_by(text)
        return f"{text}\n{thought.closes}\n\n" if thought else text

    @cached_property
    def thinking(self) -> ChatFormat:
        """The same format for a model that may think before it answers."""
        return ChatFormat(self.tokenizer, self.template, self.system, ends=self._ends, thinks=True)

    @cached_property
    def opened(self) -> Marker | None:
        """The mark of the thought that every prompt ends in; ``None`` where prompts open none."""
        return opened_by(self._prompt(_USER, None))

    @cached_property
    def _has_system_turn(self) -> bool:
        """Whether the template shows a system message; where it refuses or drops one, it goes into the user's turn."""
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
        try:
            return _SYSTEM in self._render(messages, generation_prompt=True)
        except UnusableModel:
            return False

    def _find_frame(self) -> _Frame:
        """Render a made-up exchange and see what the template writes before and after the answer."""
        question = {"role": "user", "content": _USER}
        generation = self._render([question], generation_prompt=True)
        if _USER not in generation:
            self._content_in_parts = True
            generation = self._render([question], generation_prompt=True)
        exchange = self._render([question, {"role": "assistant", "content": _ANSWER}], generation_prompt=False)
        if _USER not in generation or _ANSWER not in exchange:
            missing = "user" if _USER not in generation else "assistant"
            raise UnusableModel(f"the chat template does not show the {missing}'s message", "give another: --chat-template FILE")
        before, _, after = exchange.rpartition(_ANSWER)
        gap = before[len(generation) :] if before.startswith(generation) else ""
        bridge, lead = ("", gap) if not gap.strip() else (gap, "")
        spaced = self._render([question, {"role": "assistant", "content": f" {_ANSWER} "}], generation_prompt=False)
        return _Frame(bridge, lead, self._end_of_turn(after), trims=f" {_ANSWER} {after}" not in spaced)

    def _end_of_turn(self, after: str) -> str:
        """What follows an answer, cut after the first special token; empty where there is none."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values()} | set(self.tokenizer.all_special_tokens)
        found = [(after.find(token), -len(token), token) for token in special if token and token in after]
        if found:
            position, _, token = min(found)
            return after[: position + len(token)]
        word = after.strip()
        ids = self._ids(word) if word else []
        return after.rstrip() if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id else ""

    def _render(self, messages: list[dict[str, str]], *, generation_prompt: bool) -> str:
        conversation: list[dict[str, Any]] = [dict(message) for message in messages]
        if self._content_in_parts:
            conversation = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        asked = {**_RENDER_SETTINGS, "enable_thinking": self._thinks, "add_generation_prompt": generation_prompt}
        settings = {**self.tokenizer.special_tokens_map, **asked}
        try:
            return confined.render(self._template_to_render, conversation, settings)
        except confined.Refused as error:  # a template is a program of its author's: anything may go wrong in it
            raise UnusableModel(f"the chat template does not render: {error}", "give another: --chat-template FILE") from None
        except confined.Exceeded as error:
            raise UnusableModel(f"the chat template is not used: {error}", "give another: --chat-template FILE") from None

    def _ids(self, text: str) -> list[int]:
        if text not in self._known_ids:
            if len(self._known_ids) >= REMEMBERED:
                self._known_ids.clear()
            self._known_ids[text] = self._tokenized(text)
        return list(self._known_ids[text])

    def _tokenized(self, text: str) -> list[int]:
        try:
            # not verbose: whether a prompt is too long for the model is checked where it is asked
            return [int(token) for token in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        except BaseException as error:  # a pattern of the tokenizer's may make what is compiled panic, which is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise UnusableModel(f"the tokenizer fails on a text: {error}", "take the model from a source you trust") from None

    def _encode(self, example: Example, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of the prompt, and of the answer as it follows them.

        Where the tokenizer would merge across the boundary, the prompt's tokens stand, since generation starts from them;
        the answer is then tokenised behind something that it does not merge with.
        """
        frame = self._frame
        prompt = self.prompt_text(example)
        text = frame.lead + (answer.strip() if frame.trims else answer) + frame.end
        prompt_ids = self._ids(prompt)
        ids = self._following(prompt, prompt_ids, text)
        if ids is None:
            ids = self._apart(text)
        return prompt_ids, ids if frame.end else [*ids, int(self._end_token)]

    def _following(self, before: str, before_ids: list[int], text: str) -> list[int] | None:
        """Tokens of ``text`` behind ``before``; ``None`` where the two do not part at a token."""
        whole = self._ids(before + text)
        return whole[len(before_ids) :] if whole[: len(before_ids)] == before_ids else None

    def _apart(self, text: str) -> list[int]:
        """Tokens of ``text`` as they are inside a longer one, without the space some tokenizers put before a beginning."""
        # A special token comes last: behind one, SentencePiece tokenizers write a space as they do at a beginning.
        for before in (":", "\n", str(self.tokenizer.eos_token or "\n")):
            ids = self._following(before, self._ids(before), text)
            if ids is not None:
                return ids
        return self._ids(text)


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UnusableModel("the model has no chat template", "give one: --chat-template FILE")
    return str(template)
