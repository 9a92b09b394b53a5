import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from support.tiny_models import FAMILIES, tiny_model
from tempering.models import digest as digest_module
from tempering.models.digest import target_digest, weight_digest


def module(**tensors):
    made = nn.Module()
    for name, tensor in tensors.items():
        made.register_buffer(name, tensor)
    return made


def test_by_hand():
    """Name, dtype and shape, each closed by a null byte, then the little-endian bytes; names in order."""
    found = weight_digest(module(b=torch.tensor([[1.0], [-2.0]]), a=torch.tensor([1, 2], dtype=torch.int16)))
    expected = b"a\0int16\x002\0" + b"\x01\x00\x02\x00" + b"b\0float32\x002,1\0" + b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xc0"
    assert found == hashlib.sha256(expected).hexdigest()


def test_bfloat16_is_digested_by_its_bytes():
    assert weight_digest(module(a=torch.tensor([1.0], dtype=torch.bfloat16))) == hashlib.sha256(b"a\0bfloat16\x001\0\x80\x3f").hexdigest()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 98), st.integers(0, 15))
def test_any_single_bit_counts(row, column):
    model, _ = tiny_model("llama")
    before = weight_digest(model)
    with torch.no_grad():
        model.lm_head.weight.view(torch.int32)[row, column] ^= 1
    assert weight_digest(model) != before
    with torch.no_grad():
        model.lm_head.weight.view(torch.int32)[row, column] ^= 1
    assert weight_digest(model) == before


def test_names_shapes_and_types_count():
    tensor = torch.zeros(2, 3)
    digests = {
        weight_digest(module(a=tensor)),
        weight_digest(module(b=tensor)),
        weight_digest(module(a=tensor.reshape(3, 2))),
        weight_digest(module(a=tensor.to(torch.int32))),
        weight_digest(module(a=tensor.half())),
    }
    assert len(digests) == 5


def test_memory_layout_does_not_count():
    tensor = torch.arange(12.0).reshape(3, 4)
    plain = weight_digest(module(a=tensor))
    assert weight_digest(module(a=tensor.T.contiguous().T)) == plain
    assert weight_digest(module(a=torch.arange(24.0).reshape(3, 8)[:, :4] * 0 + tensor)) == plain
    padded = torch.zeros(3, 8)
    padded[:, :4] = tensor
    assert weight_digest(module(a=padded[:, :4])) == plain


def test_tied_tensors_count_once_and_equal_ones_twice():
    tensor = torch.arange(4.0)
    tied, equal, single = module(a=tensor, b=tensor), module(a=tensor, b=tensor.clone()), module(a=tensor)
    assert weight_digest(tied) == weight_digest(single) != weight_digest(equal)


def test_views_of_one_storage_are_not_mistaken_for_tied_ones():
    storage = torch.arange(8.0)
    apart = module(a=torch.arange(4.0), b=torch.arange(4.0, 8.0))
    assert weight_digest(module(a=storage[:4], b=storage[4:])) == weight_digest(apart)
    assert weight_digest(module(a=torch.empty(0), b=torch.empty(0))) != weight_digest(module(a=torch.empty(0)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 100))
def test_streaming_changes_nothing(chunk, size):
    made = module(a=torch.arange(float(size)), scalar=torch.tensor(3.0))
    whole = weight_digest(made)
    original = digest_module._CHUNK
    digest_module._CHUNK = chunk
    try:
        assert weight_digest(made) == whole
    finally:
        digest_module._CHUNK = original


def test_the_template_counts_in_the_target_only():
    model, _ = tiny_model("llama")
    assert target_digest(model, "a") != target_digest(model, "b")
    assert target_digest(model, "a") == target_digest(tiny_model("llama")[0], "a")


def test_equal_weights_in_another_architecture_are_another_target():
    llama, mistral, far = tiny_model("llama")[0], tiny_model("mistral")[0], tiny_model("llama")[0]
    far.config.rope_parameters = {**far.config.rope_parameters, "rope_theta": 5e5}
    assert len({weight_digest(model) for model in (llama, mistral, far)}) == 1
    assert len({target_digest(model, "x") for model in (llama, mistral, far)}) == 3


def test_how_a_model_was_stored_does_not_count():
    model, _ = tiny_model("llama")
    before = target_digest(model, "x")
    model.config.name_or_path = "/somewhere/else"
    model.config.architectures = ["Another"]
    model.config.dtype = "float64"
    assert target_digest(model, "x") == before


def test_every_family_and_seed_has_its_own():
    digests = {target_digest(tiny_model(family, seed)[0], "x") for family in FAMILIES for seed in (0, 1)}
    assert len(digests) == 2 * len(FAMILIES)


def test_another_process_finds_the_same():
    code = (
        "from support.tiny_models import tiny_model; from tempering.models.digest import target_digest;"
        "print(target_digest(tiny_model('qwen2', tie_word_embeddings=True)[0], 'x'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert out == target_digest(tiny_model("qwen2", tie_word_embeddings=True)[0], "x")
