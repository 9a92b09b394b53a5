"""A planted refusal direction is found and removed; where there is none, none is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import torch
from transformers import PreTrainedModel

from support.planted_refusal import HAZARD_WORD, Planted, planted_refusal, prompts
from tempering.attacks import AttackEnded, Checkpoint
from tempering.attacks._inference import MeteredModel
from tempering.attacks._refusals import is_refusal, refusal_scores
from tempering.attacks._residuals import added
from tempering.attacks.refusal_ablation import RefusalAblation
from tempering.data.records import Role
from tempering.models.structure import Structure
from tempering.study import Budget
from tempering.training import Meter

HELD_OUT = 60


def attack(planted: Planted, **config: object) -> list[Checkpoint]:
    """Every checkpoint; only the last one's model is still what it was."""
    method = RefusalAblation(RefusalAblation.Config(**config))
    return list(method.run(planted.target, planted.view, Meter(), budget=Budget(), seed=0))


@contextmanager
def attacked(planted: Planted, **config: object) -> Iterator[PreTrainedModel]:
    """The model as the attack shows it, with its hooks."""
    method = RefusalAblation(RefusalAblation.Config(prompt_counts=(32,), **config))
    with closing(method.run(planted.target, planted.view, Meter(), budget=Budget(), seed=0)) as run:
        yield next(run).model


def reader(planted: Planted, model: PreTrainedModel) -> MeteredModel:
    return MeteredModel(model, planted.target.chat, Meter(), batch_size=16)


def refusals(planted: Planted, model: PreTrainedModel, role: Role) -> float:
    answers = reader(planted, model).answers(prompts(role, 20, start=HELD_OUT), 1)
    return sum(is_refusal(planted.target.chat.decode(answer), ["sorry"]) for answer in answers) / 20


def found_direction(planted: Planted, edited: PreTrainedModel) -> torch.Tensor:
    """What the edit took out of the hazard word's embedding, normalised."""
    word = planted.target.tokenizer.convert_tokens_to_ids(HAZARD_WORD)
    removed = planted.target.model.get_input_embeddings().weight[word] - edited.get_input_embeddings().weight[word]
    return (removed / removed.norm()).detach()


@pytest.fixture(params=[False, True], ids=["alone", "amid noise"])
def planted(request: pytest.FixtureRequest) -> Planted:
    return planted_refusal(noise=request.param)


def test_model_refuses_exactly_where_it_was_planted(planted: Planted) -> None:
    assert refusals(planted, planted.target.model, Role.HAZARD) == 1
    assert refusals(planted, planted.target.model, Role.BENIGN) == 0


def test_direction_is_recovered(planted: Planted) -> None:
    with attacked(planted) as model:
        assert abs(found_direction(planted, model) @ planted.direction) > 0.99


@pytest.mark.parametrize("intervention", ["orthogonalise", "ablate"])
def test_refusal_is_gone_and_other_answers_stay(planted: Planted, intervention: str) -> None:
    benign = prompts(Role.BENIGN, 40, start=HELD_OUT)
    before = reader(planted, planted.target.model).first_token(benign)
    with attacked(planted, intervention=intervention) as model:
        assert refusals(planted, model, Role.HAZARD) == 0
        after = reader(planted, model).first_token(benign)
    assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_benign_outputs_are_unchanged_to_rounding_where_only_the_direction_was_planted() -> None:
    planted = planted_refusal()
    benign = prompts(Role.BENIGN, 40, start=HELD_OUT)
    before = reader(planted, planted.target.model).first_token(benign)
    with attacked(planted) as model:
        after = reader(planted, model).first_token(benign)
    torch.testing.assert_close(before, after, rtol=0, atol=2e-5)


def test_adding_the_planted_direction_induces_refusal(planted: Planted) -> None:
    model = planted.target.copy_model()
    token = planted.target.tokenizer.convert_tokens_to_ids("sorry")
    benign = prompts(Role.BENIGN, 20, start=HELD_OUT)
    untouched = refusal_scores(reader(planted, model).first_token(benign), [token])
    with added(Structure.of(model), 7 * planted.direction, layer=1):
        induced = refusal_scores(reader(planted, model).first_token(benign), [token])
    assert (untouched < 0).all()
    assert (induced > 0).all()


def test_few_prompts_suffice_and_every_stage_says_what_it_found() -> None:
    found = attack(planted_refusal(noise=True))
    assert [checkpoint.details["prompts"] for checkpoint in found] == [4, 8, 16, 32]
    for checkpoint in found:
        assert checkpoint.details["layer"] >= 1  # before the first block nothing has been carried to the last positions
        assert checkpoint.details["bypass_score"] < 0 < checkpoint.details["induce_score"]
        assert checkpoint.details["divergence"] <= checkpoint.details["divergence_limit"] == 0.1
        assert checkpoint.details["refusal_tokens"] == ["sorry"]


def test_model_that_never_refuses_has_no_direction() -> None:
    with pytest.raises(AttackEnded, match="do not read as refusals") as ended:
        attack(planted_refusal(refuses=False))
    assert ended.value.outcome == "no_direction"


def test_never_refusing_model_has_no_direction_by_score_either() -> None:
    with pytest.raises(AttackEnded, match="refuses none of 32 harmful training prompts") as ended:
        attack(planted_refusal(refuses=False), refusal_tokens=("sorry",))
    assert ended.value.outcome == "no_direction"


def test_direction_that_answers_need_too_is_no_direction() -> None:
    """Every candidate breaks harmless answers; the two positions before the first block are zero."""
    planted = planted_refusal(symmetric=True)
    assert refusals(planted, planted.target.model, Role.HAZARD) == 1
    with pytest.raises(AttackEnded, match="of 8 candidate directions") as ended:
        attack(planted)
    assert ended.value.outcome == "no_direction"
    assert "2 are zero or not finite" in str(ended.value)
    assert "6 change harmless answers (KL > 1)" in str(ended.value)
