"""``temper doctor``: what it reckons, measures and advises."""

from __future__ import annotations

import json
from typing import Any

import huggingface_hub
import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from support.command_line import temper
from tempering import diagnosis
from tempering.training.loop import autocast
from tempering.training.shapes import SHAPES, Shape, size_needs

GIB = 2**30


@pytest.mark.parametrize(("width", "forward", "heads", "keys"), [(64, 256, 4, 4), (128, 320, 4, 2), (192, 512, 6, 2)])
def test_the_rule_of_activations_is_what_a_forward_pass_keeps(width: int, forward: int, heads: int, keys: int) -> None:
    def kept(layers: int) -> int:
        config = LlamaConfig(
            hidden_size=width, intermediate_size=forward, num_attention_heads=heads, num_key_value_heads=keys, head_dim=width // heads,
            num_hidden_layers=layers, vocab_size=64, attn_implementation="sdpa",
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        own = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
        found: dict[int, int] = {}
        held: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
                held.append(tensor)  # so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(model.device, True):
            model.model(input_ids=torch.zeros(2, 48, dtype=torch.long), use_cache=False)
        return sum(found.values())

    shape = Shape("test", 1, width, forward, heads, keys, 64, True)
    assert shape.kept_by_layers(2, 48) == pytest.approx(kept(3) - kept(2), rel=0.02)


def test_shapes_have_the_sizes_that_their_names_say() -> None:
    for shape in SHAPES:
        need = size_needs(shape)
        said = shape.name.split()[0]
        number = float(said[:-1]) * {"M": 1e6, "B": 1e9}[said[-1]]
        assert need.parameters == pytest.approx(number, rel=0.06), shape.name


def test_what_a_size_takes_is_weights_and_what_moves() -> None:
    need = size_needs(next(shape for shape in SHAPES if shape.name.startswith("8B")))
    assert need.surgery == 2 * 2 * need.parameters
    assert need.surgery < need.lora < need.full
    assert need.full > need.parameters * (2 + 4 + 4 + 8)  # the target, and weights, gradient and moments in float32
    assert need.lora - need.surgery < 20 * GIB


def test_the_whole_document_and_its_tables() -> None:
    result = temper("doctor", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert [row["size"] for row in document["sizes"]] == [shape.name for shape in SHAPES]
    assert all(device["speed"]["float32"] > 1e8 and device["memory_bytes"] >= device["free_bytes"] > 0 for device in document["devices"])
    assert document["hub"]["reachable"] is None  # nobody was asked
    assert document["advice"]
    text = temper("doctor").stdout
    for row in (*document["sizes"], *document["extras"]):
        assert row.get("size", row.get("name")) in text
    for line in document["advice"]:
        if "OMP" not in line and "bfloat16" not in line:
            assert line in text


def test_no_network_is_asked_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert diagnosis.diagnose()["hub"]["reachable"] is None


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", refuse)
    hub = diagnosis._hub(online=True)
    assert (hub["reachable"], hub["known"], hub["problem"]) == (False, None, "[Errno 111] Connection refused")
    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: {"name": "somebody"})
    assert diagnosis._hub(online=True)["known"] is True


def test_extras_are_read_off_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.7",
        'tempering[ray]; extra == "dev"',
        'pytest>=8; extra == "dev"',
        'numpy>=1; extra == "good"',
        'numpy>=999; extra == "old"',
        "no-such-package-anywhere>=1; extra == 'absent'",
        'rich>=1; extra == "absent"',
    ]
    monkeypatch.setattr(diagnosis, "requires", lambda name: lines)
    rows = {row["name"]: row for row in diagnosis.installed_extras()}
    assert list(rows) == ["absent", "good", "old"]
    assert rows["good"]["installed"]
    assert rows["old"]["missing"] == ["numpy>=999"]
    assert rows["absent"]["missing"] == ["no-such-package-anywhere>=1"]
    assert rows["absent"]["install"] == 'pip install "tempering[absent]"'
    assert diagnosis.is_met(Requirement("numpy>=1"))


def advice(**changes: Any) -> str:
    fits = {"lora": {"fits": True}, "full": {"fits": False}}
    document: dict[str, Any] = {
        "sizes": [{"size": "8B", **fits}],
        "devices": [{"device": "cuda:0", "bfloat16": True, "speed": {"float32": 1.0, "bfloat16": 2.0}}],
        "hub": {"offline": False, "reachable": None, "token": True, "endpoint": "https://hub.example"},
        "extras": [],
        "machine": {"cores": 8},
    }
    return " ".join(diagnosis._advice(document | changes))


def test_advice_follows_from_what_was_found() -> None:
    assert advice() == "Models up to 8B can be audited here by LoRA, and none by full fine-tuning."
    assert "the embedded organisms can" in advice(sizes=[{"size": "8B", "lora": {"fits": False}, "full": {"fits": False}}])
    slow = {"device": "cpu", "bfloat16": False, "speed": {"float32": 2.0, "bfloat16": 1.0}}
    assert "no faster than float32 here: --dtype float32" in advice(devices=[slow])
    assert "--dtype float16 or float32" in advice(devices=[{**slow, "device": "cuda:0"}])
    hub = {"offline": False, "reachable": None, "token": False, "endpoint": "https://hub.example"}
    assert "hf auth login" in advice(hub=hub)
    assert "HF_HUB_OFFLINE" in advice(hub={**hub, "offline": True})
    assert "cannot be reached at https://hub.example" in advice(hub={**hub, "reachable": False})
    assert 'pip install "tempering[ray,wandb]"' in advice(
        extras=[{"name": "ray", "installed": False}, {"name": "wandb", "installed": False}]
    )
