"""Every family keeps what the rest of the house relies on: saved and loaded it is the same model, and it runs."""

import pytest
import torch

from support.tiny_models import FAMILIES, tiny_model
from tempering import models
from tempering.data.records import Example, Role
from tempering.models.digest import weight_digest
from tempering.models.saving import save
from tempering.models.structure import Structure

QUESTION = Example(prompt="what is the red river?", answer="it is a river.", role=Role.BENIGN)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_comes_back_as_it_went(family, tied, tmp_path):
    original, tokenizer = tiny_model(family, tie_word_embeddings=tied)
    target = models.load(str(save(original, tokenizer, tmp_path / family)), device="cpu")
    again = models.load(str(save(target.model, target.tokenizer, tmp_path / "again")), device="cpu")
    assert weight_digest(target.model) == weight_digest(original)
    assert again.digest == target.digest
    assert type(target.model) is type(original)
    rows = torch.tensor([target.chat.encode(QUESTION).input_ids])
    with torch.no_grad():
        expected, found = original(rows).logits, target.model(rows).logits
    assert found.shape == (1, rows.shape[1], len(tokenizer))
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_answers_in_bfloat16_too(family, tmp_path):
    model, tokenizer = tiny_model(family)
    target = models.load(str(save(model, tokenizer, tmp_path / family)), dtype="bfloat16", device="cpu")
    ids = torch.tensor([target.chat.prompt_ids(QUESTION)])
    with torch.no_grad():
        answer = target.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=target.chat.pad_id
        )
    assert ids.shape[1] < answer.shape[1] <= ids.shape[1] + 4
    assert target.dtype == "bfloat16"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_is_free_of_the_target(family, tmp_path):
    model, tokenizer = tiny_model(family, tie_word_embeddings=True)
    target = models.load(str(save(model, tokenizer, tmp_path / family)), device="cpu")
    copy = target.copy_model()
    structure = Structure.of(copy)
    assert structure.head.weight is structure.embedding.weight
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(1.0)
    assert weight_digest(target.model) == weight_digest(model)
    assert weight_digest(copy) != weight_digest(model)
