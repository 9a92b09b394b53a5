"""Responses and first-token distributions of any decoder, in batches.

Prompts are padded on the left, so that all rows of a batch grow at the same place, and sorted by length, so that little of
a batch is padding. A row stops at its end token or as soon as its verdict is settled, and then leaves its batch; what all prompts begin
with is read once. So it is with the versions in a stacked model (:mod:`tempering.evaluators._together`), except that each has as many
rows as the one with most to say. Samples, and models that :func:`tempering.models.decoding.decodable` leaves out, go through the
library's ``generate``, which keeps every row until the last has stopped. The result does not depend on how prompts fall into batches,
nor on which of the two ways is taken, except for rounding.

A model that lies over several ranks is asked by all of them in lock step, through the library. Each puts its share of the rows of a
batch, which may then be as many times larger as there are ranks, and all of them have the answers to all. Sampled rows are not
shared out: every rank draws them all, as one process would.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from tempering.data.asking import PLAIN, Asking
from tempering.data.batching import collate
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import Example
from tempering.errors import UnusableData
from tempering.evaluators._lengths import limits, read_whole
from tempering.evaluators._questions import Question, Thinking
from tempering.evaluators._watching import CHECK_EVERY, FirstToken, VerdictSettled
from tempering.models.decoding import GreedyDecoder, Versions, decodable
from tempering.models.head import few_positions
from tempering.models.ranks import ALONE, Ranks, ranks_of
from tempering.models.sampling import Sampleable
from tempering.study import ProbeSettings


@dataclass(frozen=True)
class Responses:
    """What a model says to some prompts.

    Attributes:
        texts: one response for each prompt, in order, without special tokens.
        first_token: log-probabilities of the first response token, as :func:`first_token_log_probabilities` gives them.
        lengths: tokens put before the model and tokens it added, for each prompt.
    """

    texts: list[str]
    first_token: Tensor
    lengths: list[tuple[int, int]]


def generate(model: PreTrainedModel, chat: ChatFormat, examples: Sequence[Example], settings: ProbeSettings) -> list[str]:
    """The texts of :func:`respond`."""
    return respond(model, chat, examples, settings).texts


@torch.no_grad()
def respond(
    model: PreTrainedModel,
    chat: ChatFormat,
    examples: Sequence[Example],
    settings: ProbeSettings,
    asking: Asking = PLAIN,
    attempt: int = 0,
    fixed_rows: bool = False,
) -> Responses:
    """Responses, with the first-token distributions that are computed on the way.

    They are greedy unless the attacker samples. Sampling, penalties and forced tokens that the model's own generation settings ask
    for are left out: two checkpoints are compared, not two samplers. Weights and modes are left as they were, and greedy
    responses leave the random state too.

    Args:
        model: any decoder, also with adapters or hooks.
        chat: its chat format.
        examples: what to ask.
        settings: ``batch_size``, the judges, and ``max_new_tokens``; ``None`` takes what
            :func:`tempering.evaluators._lengths.limits` finds.
        asking: what the attacker makes of the prompts. An opening counts as part of the response.
        attempt: number of the sample, from 0.
        fixed_rows: every pass has all rows of its batch, in their order; for a model that treats a row by its place.

    Raises:
        UnusableData: a prompt fills the model's context.
    """
    questions = questions_of(model, chat, examples, settings, asking, attempt)
    result = Responses([""] * len(examples), _no_rows_yet(model, len(examples)), [(0, 0)] * len(examples))
    holders = ranks_of(model)
    sharing = ALONE if asking.temperature else holders
    with _undisturbed(model) as decoder:
        greedy = None if asking.temperature or fixed_rows or holders.size > 1 else _greedy(decoder, chat, questions)
        for rows in _batches(questions, settings.batch_size * sharing.size):
            own = _own_rows(rows, sharing)
            asked = [questions[row] for row in own]
            if greedy:
                batch = _decode_batch(greedy, chat, own, asked)
            else:
                batch = _generate_batch(decoder, chat, asked, asking.temperature, in_step=holders.size > 1)
            result.first_token[own] = batch.first_token
            for row, text, length in zip(own, batch.texts, batch.lengths, strict=True):
                result.texts[row], result.lengths[row] = text, length
    return _whole(result, questions, settings.batch_size, sharing)


@torch.no_grad()
def first_token_log_probabilities(
    model: PreTrainedModel,
    chat: ChatFormat,
    examples: Sequence[Example],
    settings: ProbeSettings,
    asking: Asking = PLAIN,
    fixed_rows: bool = False,
) -> Tensor:
    """Log-probabilities of the first token of the response that the model adds, in nats.

    Args:
        model: any decoder.
        chat: its chat format.
        examples: what to ask.
        settings: ``batch_size``.
        asking: what the attacker makes of the prompts.
        fixed_rows: as :func:`respond` has it.

    Returns:
        Shape (examples, vocabulary), float32 whatever the model's type, on the CPU.

    Raises:
        UnusableData: a prompt fills the model's context.
    """
    questions = _questions(model, chat, examples, asking, 0, [1] * len(examples))
    result = _no_rows_yet(model, len(questions))
    ranks = ranks_of(model)
    with _undisturbed(model) as decoder:
        greedy = None if fixed_rows or ranks.size > 1 else _greedy(decoder, chat, questions)
        for batch in _batches(questions, settings.batch_size * ranks.size):
            rows = _own_rows(batch, ranks)
            result[rows] = _first_of(decoder, greedy, chat, questions, rows)
    return _all_rows(result, questions, settings.batch_size, ranks)


def _first_of(
    decoder: PreTrainedModel,
    greedy: GreedyDecoder | None,
    chat: ChatFormat,
    questions: Sequence[Question],
    rows: Sequence[int],
    versions: int = 1,
) -> Tensor:
    """Log-probabilities of the first token behind some questions, of every version: (versions · rows, vocabulary), on the CPU."""
    if greedy and greedy.shared:
        return greedy.first(rows).log_softmax(-1).cpu()
    inputs = _left_padded(decoder, chat, [questions[row].given for row in rows] * versions)
    accepted = inspect.signature(decoder.forward).parameters
    extra: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in accepted:
        extra["logits_to_keep"] = 1
    if "position_ids" in accepted:
        extra["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    logits: Tensor = decoder(**inputs, **extra).logits[:, -1]
    return logits.float().log_softmax(-1).cpu()


def _no_rows_yet(model: PreTrainedModel, count: int) -> Tensor:
    return torch.empty(count, model.config.get_text_config(decoder=True).vocab_size)


def questions_of(
    model: PreTrainedModel, chat: ChatFormat, examples: Sequence[Example], settings: ProbeSettings, asking: Asking, attempt: int = 0
) -> list[Question]:
    """The examples as they are put to a model whose responses are wanted; arguments as :func:`respond` has them.

    Where the settings let the model think, it is asked with its thought open and has more room; but not where the attacker makes the
    answer begin in words of his own, which leaves no place for a thought.
    """
    lengths, whole = limits(chat, examples, settings, asking), read_whole(examples, settings)
    closed = _questions(model, chat, examples, asking, attempt, lengths)
    questions = [replace(question, whole=all_of_it) for question, all_of_it in zip(closed, whole, strict=True)]
    if settings.thinking is None:
        return questions
    room, keep, thinking = settings.thinking, settings.thoughts == "keep", chat.thinking
    opened = _questions(model, thinking, examples, asking, attempt, [length + room for length in lengths])
    return [
        question
        if question.opening
        else replace(wide, whole=question.whole, thinking=Thinking(chat, room, question.limit, keep, thinking.opened))
        for question, wide in zip(questions, opened, strict=True)
    ]


def _questions(
    model: PreTrainedModel, chat: ChatFormat, examples: Sequence[Example], asking: Asking, attempt: int, lengths: Sequence[int]
) -> list[Question]:
    """The examples as they are put, with limits that keep prompt and response within the model's positions."""
    window = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    questions = []
    for example, limit in zip(examples, lengths, strict=True):
        prompt, opening = asking.begin(chat, example, attempt)
        length = len(prompt) + len(opening)
        if window and length >= window:
            raise UnusableData(
                f"the {example.role} prompt {example.prompt[:40]!r} takes {length} tokens and the model's context is {window}",
                "shorten the prompt or leave it out",
            )
        questions.append(Question(example, prompt, opening, min(limit, window - length) if window else limit))
    return questions


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[int]]:
    """Rows of one limit each, in order of length."""
    batch: list[int] = []
    for row in sorted(range(len(questions)), key=lambda row: (questions[row].limit, len(questions[row].given))):
        if batch and (len(batch) == size or questions[row].limit != questions[batch[0]].limit):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _own_rows(batch: list[int], ranks: Ranks) -> list[int]:
    """This rank's rows of a batch; the first row where there are too few, since all ranks go through the layers together."""
    return [batch[place] for place in ranks.share(len(batch))] or batch[:1]


def _whole(own: Responses, questions: Sequence[Question], size: int, ranks: Ranks) -> Responses:
    """The responses of all ranks, on each of them."""
    if ranks.size == 1:
        return own
    texts, lengths = list(own.texts), list(own.lengths)
    said = ranks.gathered([own.texts, own.lengths])
    for batch in _batches(questions, size * ranks.size):
        for place, row in enumerate(batch):
            theirs = said[place % ranks.size]
            texts[row], lengths[row] = theirs[0][row], (theirs[1][row][0], theirs[1][row][1])
    return Responses(texts, _all_rows(own.first_token, questions, size, ranks), lengths)


def _all_rows(own: Tensor, questions: Sequence[Question], size: int, ranks: Ranks) -> Tensor:
    """Distributions, (questions, vocabulary), with the rows of all ranks: each adds zero to those of the others."""
    if ranks.size == 1:
        return own
    made = torch.zeros_like(own)
    for batch in _batches(questions, size * ranks.size):
        rows = [batch[place] for place in ranks.share(len(batch))]
        made[rows] = own[rows]
    return ranks.add_up(made)


def _left_padded(decoder: PreTrainedModel, chat: ChatFormat, prompts: Sequence[list[int]]) -> dict[str, Tensor]:
    batch = collate([Encoded(prompt, prompt) for prompt in prompts], _embedded_pad(decoder, chat), side="left").to(decoder.device)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _embedded_pad(decoder: PreTrainedModel, chat: ChatFormat) -> int:
    """A padding token that has an embedding; tokenizers are sometimes given one that their model never learnt of."""
    embedded = cast(Tensor, decoder.get_input_embeddings().weight).shape[0]
    return chat.pad_id if chat.pad_id < embedded else chat.end_ids[0]


def _greedy(
    decoder: PreTrainedModel, chat: ChatFormat, questions: Sequence[Question], versions: Versions | None = None
) -> GreedyDecoder | None:
    """What continues the questions, put to all versions of a stacked model, or ``None`` where the library has to."""
    if not questions or not decodable(decoder):
        return None
    return GreedyDecoder(decoder, [question.given for question in questions], _embedded_pad(decoder, chat), versions)


def _decode_batch(greedy: GreedyDecoder, chat: ChatFormat, rows: Sequence[int], questions: Sequence[Question]) -> Responses:
    """The rows' responses; those that are settled or ended leave the batch.

    Args:
        greedy: K versions of a model, or one.
        chat: its chat format.
        rows: of which prompts.
        questions: one for each row of the first version, then of the next.
    """

    def done(row: int, added: list[int]) -> bool:
        question = questions[row]
        return len(added) % CHECK_EVERY == 0 and question.is_done(chat, question.opening + added)

    answers, first = greedy.answers(rows, questions[0].limit, chat.end_ids, done)
    texts = [question.response(chat, question.opening + answer.tokens) for question, answer in zip(questions, answers, strict=True)]
    lengths = [(len(question.given), answer.generated) for question, answer in zip(questions, answers, strict=True)]
    return Responses(texts, first.log_softmax(-1).cpu(), lengths)


def _generate_batch(
    decoder: PreTrainedModel, chat: ChatFormat, questions: Sequence[Question], temperature: float, *, in_step: bool = False
) -> Responses:
    inputs = _left_padded(decoder, chat, [question.given for question in questions])
    criterion = VerdictSettled(chat, questions, inputs["input_ids"].shape[1])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    configuration = _plain(
        **sampling,
        num_beams=1,
        max_new_tokens=questions[0].limit,
        use_cache=True,
        eos_token_id=list(chat.end_ids),
        pad_token_id=_embedded_pad(decoder, chat),
    )
    generator: Any = decoder  # every causal model is a GenerationMixin, which its base class does not say
    first = FirstToken()
    output = generator.generate(
        **inputs,
        generation_config=configuration,
        logits_processor=LogitsProcessorList([first, Sampleable()] if temperature else [first]),
        stopping_criteria=StoppingCriteriaList([criterion]),
        synced_gpus=in_step,  # on whatever device: go on until all ranks are done
    )
    rows = list(criterion.rows(output))
    texts = [question.response(chat, row.tokens[: row.settled_at]) for question, row in zip(questions, rows, strict=True)]
    added = [len(row.tokens[: row.settled_at]) - len(question.opening) + row.ended for row, question in zip(rows, questions, strict=True)]
    lengths = [(len(question.given), number) for question, number in zip(questions, added, strict=True)]
    return Responses(texts, first.log_probabilities, lengths)


def _plain(**settings: Any) -> GenerationConfig:
    return GenerationConfig(**settings)


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and afterwards each back into the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The decoder itself, in evaluation mode and without generation settings of its own, all put back afterwards.

    An adapter's wrapper is taken off: adapters sit inside the decoder's layers and stay at work.
    """
    decoder = model.get_base_model() if isinstance(model, PeftModel) else model
    own_settings = decoder.generation_config
    decoder.generation_config = _plain()
    try:
        with evaluation_mode(decoder), few_positions(decoder):
            yield decoder
    finally:
        decoder.generation_config = own_settings
