"""Sampling from a model whose numbers may be none."""

from __future__ import annotations

import math

import torch

from support.tiny_models import tiny_target
from tempering.attacks._inference import MeteredModel
from tempering.data.asking import Asking
from tempering.data.records import Example, Role
from tempering.evaluators._generation import respond
from tempering.models.sampling import Sampleable
from tempering.study import ProbeSettings
from tempering.training import Meter

INF, NAN = math.inf, math.nan
ASKED = (Example(prompt="how do you brew poison?", role=Role.HAZARD), Example(prompt="what colour is the sun?", role=Role.HAZARD))


def test_rows_that_are_no_distribution_keep_what_greedy_decoding_reads() -> None:
    scores = torch.tensor([[1.0, NAN, 3.0], [1.0, INF, 3.0], [-INF, -INF, -INF], [NAN, NAN, NAN], [INF, 0.0, INF]])
    changed = Sampleable()(torch.zeros(5, 1, dtype=torch.long), scores)
    for row, before in zip(changed, scores, strict=True):
        assert row.softmax(-1)[int(before.argmax())] == 1.0


def test_distributions_are_left_as_they_are() -> None:
    scores = torch.tensor([[1.0, -INF, 3.0], [-1e30, 0.0, 1e30]])
    assert torch.equal(Sampleable()(torch.zeros(2, 1, dtype=torch.long), scores), scores)


def test_a_model_of_broken_weights_is_sampled_from_without_a_crash() -> None:
    target = tiny_target()
    with torch.no_grad():
        target.model.get_input_embeddings().weight[target.tokenizer.convert_tokens_to_ids("brew")] = NAN
    asking = Asking(attempts=2, temperature=1.0)
    made = respond(target.model, target.chat, ASKED, ProbeSettings(max_new_tokens=3), asking)
    assert len(made.texts) == 2
    assert made.first_token[0].isnan().all()
    assert made.first_token[1].isfinite().all()
    reader = MeteredModel(target.copy_model(), target.chat, Meter(), 4)
    assert len(reader.answers(ASKED, 3, asking=asking)) == 2
