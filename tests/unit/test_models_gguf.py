import builtins
import importlib.util

import pytest
import torch

from tempering import models
from tempering.errors import UnusableModel
from tempering.models.saving import save

gguf = pytest.importorskip("gguf")
from support.tiny_gguf import write_tiny_gguf  # noqa: E402 (needs gguf)

ROWS = torch.tensor([[1, 10, 11, 12, 13, 14]])


def test_a_gguf_file_computes_what_its_model_computed(tmp_path):
    path = tmp_path / "tiny.gguf"
    original = write_tiny_gguf(path)
    target = models.load(str(path))
    assert target.dtype == "float32"
    with torch.no_grad():
        assert torch.allclose(target.model(ROWS).logits, original(ROWS).logits, atol=1e-5)
    assert target.tokenizer("the")["input_ids"] == [
        target.tokenizer.convert_tokens_to_ids("t"),
        target.tokenizer.convert_tokens_to_ids("he"),
    ]
    assert "<assistant>" in target.chat.template


def test_quantised_blocks_are_unpacked_into_a_plain_model(tmp_path):
    path = tmp_path / "tiny-q8.gguf"
    original = write_tiny_gguf(path, quantization=gguf.GGMLQuantizationType.Q8_0)
    target = models.load(str(path))
    assert target.dtype == "bfloat16"
    with torch.no_grad():
        expected, found = original(ROWS).logits, models.load(str(path), dtype="float32").model(ROWS).logits
    assert (expected - found).abs().max() < 0.05 * expected.abs().max()
    assert not hasattr(target.model.config, "quantization_config")
    assert not getattr(target.model, "is_quantized", False)
    saved = save(target.model, target.tokenizer, tmp_path / "plain")
    assert models.load(str(saved)).digest == target.digest


def test_nothing_is_printed(tmp_path, capfd):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    capfd.readouterr()
    models.load(str(path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [4, 100, 5000, -64])
def test_a_truncated_file_is_one_line(tmp_path, kept):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnusableModel, match=r"the GGUF file .*tiny\.gguf cannot be loaded: \S") as caught:
        models.load(str(path))
    assert "\n" not in str(caught.value)


def test_without_a_template_the_remedy_is_named(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, template=None)
    with pytest.raises(UnusableModel, match="no chat template; give one: --chat-template FILE"):
        models.load(str(path))


def test_the_missing_package_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else found(name, *rest))
    real_import = builtins.__import__

    def without_gguf(name, *rest, **named):
        if name == "gguf":
            raise ModuleNotFoundError("No module named 'gguf'")
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(UnusableModel, match=r"pip install 'tempering\[gguf\]'"):
        models.load(str(path))


def test_a_part_of_a_split_file_is_refused(tmp_path):
    path = tmp_path / "tiny-00002-of-00003.gguf"
    write_tiny_gguf(path)
    with pytest.raises(UnusableModel, match="one part of a split GGUF file; join the parts"):
        models.load(str(path))
