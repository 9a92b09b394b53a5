"""Several checkpoints under examination at once: all that lie in one stacked model answer the same prompts in the same passes.

What prompts begin with is read once for every version, and rows that are done leave, as :mod:`tempering.models.decoding` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tempering.data.asking import Asking
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.evaluators._contract import Subject, as_deployed
from tempering.evaluators._generation import (
    Responses,
    _batches,
    _decode_batch,
    _first_of,
    _generate_batch,
    _greedy,
    _no_rows_yet,
    _questions,
    _undisturbed,
    evaluation_mode,
    questions_of,
)
from tempering.evaluators._questions import fresh
from tempering.study import ProbeSettings
from tempering.training.stacked import bank_of

PASSES = 4
"""A pass of a stacked model may have so many times the rows that a probe's settings allow one model."""

FIRST_TOKENS = (Role.HAZARD, Role.BENIGN)
"""Roles whose first-token distributions evaluators read."""


def ask_together(model: PreTrainedModel, subjects: Sequence[Subject]) -> None:
    """Have every subject's responses made, as its evaluators would ask for them one by one.

    Attackers who sample, or ask more than once, are left to be asked alone. First-token distributions come with the responses; where those
    begin with a thought, they take passes of their own.

    Args:
        model: holds the subjects' models in this order (:mod:`tempering.training.stacked`).
        subjects: with the same prompts, settings and way of asking.
    """
    first = subjects[0]
    with torch.no_grad(), evaluation_mode(model), as_deployed(model, first.origin.model), bank_of(model).at_rest():
        for role in Role:
            asking, examples = first.asking_of(role), first.view.of(role)
            if not examples:
                continue
            if first.settings.thinking is not None and role in FIRST_TOKENS:
                distributions = first_tokens_together(model, first.chat, examples, first.settings, asking)
                for subject, known in zip(subjects, distributions, strict=True):
                    subject.take_first_token(role, known)
            if asking.temperature or asking.attempts > 1:
                continue
            responses = respond_together(model, first.chat, examples, first.settings, asking)
            for subject, made in zip(subjects, responses, strict=True):
                subject.take(role, made)


@torch.no_grad()
def respond_together(
    model: PreTrainedModel, chat: ChatFormat, examples: Sequence[Example], settings: ProbeSettings, asking: Asking
) -> list[Responses]:
    """The responses of every version in a stacked model, as :func:`tempering.evaluators._generation.respond` has those of one, greedily.

    Args:
        model: K versions.
        chat: the chat format.
        examples: what to ask each of them.
        settings: ``max_new_tokens``, the judges and ``batch_size``, of which a pass may have :data:`PASSES` times.
        asking: what the attacker makes of the prompts.

    Raises:
        UnusableData: a prompt fills the model's context.
    """
    versions = bank_of(model)
    count = versions.held
    questions = questions_of(model, chat, examples, settings, asking)
    results = [Responses([""] * len(examples), _no_rows_yet(model, len(examples)), [(0, 0)] * len(examples)) for _ in range(count)]
    with _undisturbed(model) as decoder:
        greedy = _greedy(decoder, chat, questions, versions)
        for rows in _batches(questions, _rows_of_each(settings, count)):
            asked = [fresh(questions[row]) for _ in range(count) for row in rows]
            batch = _decode_batch(greedy, chat, rows, asked) if greedy else _generate_batch(decoder, chat, asked, 0.0)
            for version, result in enumerate(results):
                own = slice(version * len(rows), (version + 1) * len(rows))
                result.first_token[rows] = batch.first_token[own]
                for row, text, length in zip(rows, batch.texts[own], batch.lengths[own], strict=True):
                    result.texts[row], result.lengths[row] = text, length
    return results


@torch.no_grad()
def first_tokens_together(
    model: PreTrainedModel, chat: ChatFormat, examples: Sequence[Example], settings: ProbeSettings, asking: Asking
) -> list[Tensor]:
    """What :func:`tempering.evaluators._generation.first_token_log_probabilities` has of one model, of every version in a stacked one.

    Arguments are those of :func:`respond_together`.

    Returns:
        For each version log-probabilities in nats, (examples, vocabulary), float32, on the CPU.

    Raises:
        UnusableData: a prompt fills the model's context.
    """
    versions = bank_of(model)
    count = versions.held
    questions = _questions(model, chat, examples, asking, 0, [1] * len(examples))
    results = [_no_rows_yet(model, len(examples)) for _ in range(count)]
    with _undisturbed(model) as decoder:
        greedy = _greedy(decoder, chat, questions, versions)
        for rows in _batches(questions, _rows_of_each(settings, count)):
            found = _first_of(decoder, greedy, chat, questions, rows, count)
            for result, own in zip(results, found.chunk(count), strict=True):
                result[rows] = own
    return results


def _rows_of_each(settings: ProbeSettings, versions: int) -> int:
    """Rows that each version has in a pass."""
    return max(1, min(settings.batch_size, PASSES * settings.batch_size // versions))
