"""Forward passes of an attack, every one of them charged to the meter.

Prompts are tokenised once, sorted by length, padded on the left so that the last position is the last token of every row, and
logits are computed at that position only. Positions count from each row's first token, so padding changes no result but by rounding.
What all prompts begin with is read once, and answers that are done leave their batch, where the model allows it; an attacker is charged
as if every prompt were read alone, so that a price does not depend on how.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from tempering.data.asking import PLAIN, Asking
from tempering.data.batching import Batch, collate
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import Example
from tempering.models.decoding import Decoded, GreedyDecoder, decodable
from tempering.models.head import few_positions
from tempering.models.sampling import Sampleable
from tempering.training import FlopCount, Meter


class Recorder(Protocol):
    """Keeps something of the passes that run while it records."""

    def place(self, indices: Sequence[int]) -> None:
        """Say which prompts the last pass read, in the order of its rows."""


class MeteredModel:
    """A model read by an attack.

    Attributes:
        model: in evaluation mode; hooks may be set and weights edited between passes.
        chat: its chat format.
    """

    def __init__(self, model: PreTrainedModel, chat: ChatFormat, meter: Meter, batch_size: int) -> None:
        """Keep the model and count its operations.

        Args:
            model: put into evaluation mode.
            chat: turns prompts into tokens.
            meter: what every pass is charged to.
            batch_size: prompts a pass.
        """
        model.train(False)
        self.model = model
        self.chat = chat
        self._meter = meter
        self._batch_size = batch_size
        self._flops = FlopCount.of(model)
        self._tokenised: dict[str, list[int]] = {}
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._decodable = decodable(model)

    @torch.inference_mode()
    def first_token(self, examples: Sequence[Example], recorder: Recorder | None = None) -> Tensor:
        """Log-probabilities of the first answer token.

        Args:
            examples: the prompts, at least one; their answers are not looked at.
            recorder: also keeps the residual stream, or whatever it is for.

        Returns:
            (prompts, vocabulary), float32, on the CPU, in the order of ``examples``.
        """
        rows: list[Tensor] = [torch.empty(0)] * len(examples)
        ids = [self.prompt_ids(example) for example in examples]
        # what records looks at the last positions of whole prompts
        decoder = GreedyDecoder(self.model, ids, self.chat.pad_id) if self._decodable and recorder is None else None
        for indices in self.batches(ids):
            logits = decoder.first(indices) if decoder and decoder.shared else self._read([ids[index] for index in indices])
            for index, row in zip(indices, logits.float().log_softmax(-1).cpu(), strict=True):
                rows[index] = row
            if recorder is not None:
                recorder.place(indices)
        self.charge_first_token(examples)
        return torch.stack(rows)

    @torch.inference_mode()
    def answers(
        self,
        examples: Sequence[Example],
        new_tokens: int,
        opening: tuple[int, ...] = (),
        settled: Callable[[Sequence[int]], bool] | None = None,
        asking: Asking = PLAIN,
        attempt: int = 0,
    ) -> list[list[int]]:
        """The first tokens of the model's own answers: greedy ones, unless it is asked so as to sample.

        Args:
            examples: the prompts.
            new_tokens: at most so many tokens of each are generated.
            opening: tokens that the answers are made to begin with.
            settled: told the generated tokens of an answer so far, says whether the rest of it does not matter; it is then not generated.
            asking: how the prompts are put, how the answers are made to begin (before ``opening``), and at which temperature they go on.
            attempt: number of the sample, from 0.

        Returns:
            Token ids in the order of ``examples``, openings among them, cut before the end of the turn and where they were settled.
        """
        begun = [self._begin(example, asking, attempt) for example in examples]
        given = [[*prompt, *own, *opening] for prompt, own in begun]
        decoder = GreedyDecoder(self.model, given, self.chat.pad_id) if self._decodable and not asking.temperature else None
        answers = [Decoded()] * len(examples)
        for indices in self.batches(given):
            if decoder:
                done = None if settled is None else lambda _row, tokens: settled(tokens)
                made = decoder.answers(indices, new_tokens, self.chat.end_ids, done)[0]
            else:
                made = self._generated([given[index] for index in indices], new_tokens, asking.temperature, settled)
            for index, answer in zip(indices, made, strict=True):
                answers[index] = answer
        self._charge_answers(examples, [len(ids) for ids in given], answers)
        return [[*own, *opening, *answer.tokens] for (_, own), answer in zip(begun, answers, strict=True)]

    def _read(self, prompts: Sequence[list[int]]) -> Tensor:
        """Logits behind some prompts, in one pass: (rows, vocabulary)."""
        batch = self._padded(prompts)
        arguments = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if self._takes_positions:
            arguments["position_ids"] = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        with few_positions(self.model):
            logits: Tensor = self.model(**arguments, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits

    def _generated(
        self, prompts: Sequence[list[int]], new_tokens: int, temperature: float, settled: Callable[[Sequence[int]], bool] | None
    ) -> list[Decoded]:
        """Answers by the library's ``generate``, in one batch."""
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
        settings = GenerationConfig(
            **sampling,
            max_new_tokens=new_tokens,
            pad_token_id=self.chat.pad_id,
            eos_token_id=list(self.chat.end_ids),
            use_cache=True,
        )
        batch = self._padded(prompts)
        width = batch.input_ids.shape[1]
        watch = _Watch(settled, width, self.chat.end_ids)
        with few_positions(self.model):
            sequences = self.model.generate(  # type: ignore[operator]
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([Sampleable()] if temperature else []),
                stopping_criteria=StoppingCriteriaList([watch] if settled else []),
            )
        made = []
        for row, padded in enumerate(sequences[:, width:].tolist()):
            sequence = padded[: watch.settled_at.get(row)]
            end = next((place for place, token in enumerate(sequence) if token in self.chat.end_ids), None)
            made.append(Decoded(sequence[:end], ended=end is not None))
        return made

    def charge_edit(self, elements: int) -> None:
        """Charge the projection of so many weights: a product and an update, two operations each."""
        self._meter.compute(tokens=0, flops=4.0 * elements)

    def charge_first_token(self, examples: Sequence[Example]) -> None:
        """Charge what :meth:`first_token` takes, to whoever has computed it otherwise."""
        self._charge([len(self.prompt_ids(example)) for example in examples], labelled=len(examples))
        self._meter.examples(example.identity for example in examples)

    def charge_answers(self, examples: Sequence[Example], answers: Sequence[Decoded]) -> None:
        """Charge what :meth:`answers` takes to plain prompts, to whoever has computed it otherwise."""
        self._charge_answers(examples, [len(self.prompt_ids(example)) for example in examples], answers)

    def prompt_ids(self, example: Example) -> list[int]:
        """Tokens of a prompt, found once."""
        if example.identity not in self._tokenised:
            self._tokenised[example.identity] = self.chat.prompt_ids(example)
        return self._tokenised[example.identity]

    def _charge_answers(self, examples: Sequence[Example], lengths: Sequence[int], answers: Sequence[Decoded]) -> None:
        # the last generated token is never read
        read = [length + answer.generated - 1 for length, answer in zip(lengths, answers, strict=True)]
        self._charge(read, labelled=sum(answer.generated for answer in answers))
        self._meter.examples(example.identity for example in examples)
        self._meter.query(len(examples))

    def _charge(self, lengths: list[int], labelled: int) -> None:
        self._meter.compute(tokens=sum(lengths), flops=self._flops.forward(lengths, labelled))

    def batches(self, rows: Sequence[list[int]]) -> Iterator[list[int]]:
        """Which rows are read together: some of like length."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _padded(self, rows: Sequence[list[int]]) -> Batch:
        return collate([Encoded(row, row) for row in rows], self.chat.pad_id, side="left").to(self.model.device)

    def _begin(self, example: Example, asking: Asking, attempt: int) -> tuple[list[int], list[int]]:
        """Tokens of the prompt, and of the opening behind it."""
        return (self.prompt_ids(example), []) if asking is PLAIN else asking.begin(self.chat, example, attempt)


class _Watch(StoppingCriteria):
    """Ends an answer as soon as it is settled.

    Attributes:
        settled_at: by row, after how many new tokens; rows that ended by themselves or ran to the limit are not in it.
    """

    def __init__(self, settled: Callable[[Sequence[int]], bool] | None, width: int, ends: Sequence[int]) -> None:
        """Watch the tokens behind the first ``width``."""
        self._settled = settled
        self._width = width
        self._ends = set(ends)
        self._open: list[int] | None = None
        self.settled_at: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows need no more tokens: (rows,), bool."""
        open_rows = range(len(input_ids)) if self._open is None else self._open
        self._open = []
        for row in open_rows:
            tokens = input_ids[row, self._width :].tolist()
            if self._settled is not None and self._settled(tokens):
                self.settled_at[row] = len(tokens)
            elif tokens[-1] not in self._ends:
                self._open.append(row)
        return torch.tensor([row in self.settled_at for row in range(len(input_ids))], device=input_ids.device)
