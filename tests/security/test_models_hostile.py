"""Models from strangers: nothing in them is run, nothing outside them is read, and the network is left alone."""

import json
import os
import pickle
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.tiny_models import TEMPLATE, tiny_model
from tempering import models
from tempering.errors import UnusableModel
from tempering.models.saving import save


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


@pytest.fixture
def directory(tmp_path):
    return save(*tiny_model("llama"), tmp_path / "tiny")


@pytest.fixture
def mark(tmp_path):
    """A path that exists afterwards only if something was run."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "code that came with the model was run"


@pytest.fixture(autouse=True)
def sealed(monkeypatch):
    """Any attempt to reach the network fails, and is noted."""
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    yield
    assert attempts == []


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(reference, **settings):
    with pytest.raises(UnusableModel) as caught:
        models.load(str(reference), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def plant_code(directory, mark):
    (directory / "modeling_own.py").write_text(
        f"import os\nos.mkdir({str(mark)!r})\nfrom transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    return {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


class TestPickles:
    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl"])
    def test_pickles_alone_are_refused_with_the_way_to_convert_them(self, directory, mark, name):
        (directory / "model.safetensors").unlink()
        (directory / name).write_bytes(pickle.dumps(Bomb(mark)))
        line = refusal(directory)
        assert f"pickles only ({name})" in line
        assert "save_pretrained(NEW) writes safetensors" in line

    def test_a_pickle_beside_safetensors_is_not_opened(self, directory, mark):
        (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
        (directory / "training_args.bin").write_bytes(pickle.dumps(Bomb(mark)))
        assert models.load(str(directory)).dtype == "float32"

    def test_a_pickle_under_the_name_of_safetensors_is_not_opened(self, directory, mark):
        (directory / "model.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
        assert "broken or cut short" in refusal(directory)

    def test_a_configuration_cannot_ask_for_one(self, directory, mark):
        (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
        change(directory / "config.json", transformers_weights="pytorch_model.bin")
        assert "cannot be loaded" in refusal(directory)


class TestCode:
    def test_an_architecture_that_comes_as_code_is_refused(self, directory, mark):
        change(directory / "config.json", model_type="own", auto_map=plant_code(directory, mark))
        line = refusal(directory)
        assert "needs code that ships with it (architecture 'own')" in line
        assert "--trust-remote-code" in line

    def test_a_known_architecture_with_code_beside_it_loads_without_running_it(self, directory, mark):
        change(directory / "config.json", auto_map=plant_code(directory, mark))
        assert type(models.load(str(directory)).model).__module__.startswith("transformers.")

    def test_a_tokenizer_that_comes_as_code_is_not_run(self, directory, mark):
        plant_code(directory, mark)
        change(
            directory / "tokenizer_config.json",
            tokenizer_class="OwnTokenizer",
            auto_map={"AutoTokenizer": [None, "modeling_own.OwnTokenizer"]},
        )
        try:
            tokenizer = models.load(str(directory)).tokenizer
        except UnusableModel as error:
            assert "the tokenizer of" in str(error)  # noqa: PT017 (either way is safe)
        else:
            assert type(tokenizer).__module__.startswith("transformers.")

    def test_trust_runs_it_and_only_trust_does(self, directory, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        ran = tmp_path / "ran"
        change(directory / "config.json", model_type="own", auto_map=plant_code(directory, ran))
        assert type(models.load(str(directory), trust_remote_code=True).model).__name__ == "OwnModel"
        assert ran.exists()

    def test_generation_code_is_not_run(self, directory, mark):
        (directory / "custom_generate").mkdir()
        (directory / "custom_generate" / "generate.py").write_text(f"import os\nos.mkdir({str(mark)!r})\ndef generate(*a, **k): pass\n")
        assert type(models.load(str(directory)).model).__module__.startswith("transformers.")
        assert not mark.exists()

    @pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
    def test_an_attention_kernel_from_the_hub_is_not_fetched(self, directory, key):
        change(directory / "config.json", **{key: "someone/some-kernel"})
        try:
            target = models.load(str(directory))
        except UnusableModel as error:
            assert "kernel" in str(error)  # noqa: PT017 (either way is safe)
        else:
            assert "/" not in str(target.model.config._attn_implementation)

    @pytest.mark.parametrize(
        "attack",
        ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}"],
    )
    def test_a_template_stays_in_its_sandbox(self, directory, attack):
        (directory / "chat_template.jinja").write_text(attack + TEMPLATE)
        assert "chat template does not render" in refusal(directory)


class TestOtherFiles:
    def test_an_index_cannot_reach_outside_the_directory(self, directory, tmp_path):
        tensors = load_file(directory / "model.safetensors")
        save_file(tensors, tmp_path / "secret.safetensors", metadata={"format": "pt"})
        (directory / "model.safetensors").unlink()
        for place in ("../secret.safetensors", str(tmp_path / "secret.safetensors")):
            (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, place)}))
            assert "is no safetensors file of that directory" in refusal(directory)

    @pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": ["a"]}', "[", "null"])
    def test_a_mangled_index(self, directory, index):
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors.index.json").write_text(index)
        assert "model.safetensors.index.json of" in refusal(directory)

    def test_a_header_that_promises_too_much(self, directory):
        path = directory / "model.safetensors"
        path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])
        assert "broken or cut short" in refusal(directory)


class TestNetwork:
    """The autouse fixture is the assertion: nothing was asked."""

    def test_a_directory_is_loaded_without_it(self, directory):
        assert models.load(str(directory)).revision is None

    def test_a_directory_that_names_a_hub_model_is_loaded_without_it(self, directory):
        change(directory / "config.json", _name_or_path="someone/mistral-7b", transformers_version="4.30.0")
        change(directory / "tokenizer_config.json", name_or_path="someone/mistral-7b")
        assert models.load(str(directory)).revision is None

    def test_a_broken_directory_is_refused_without_it(self, directory):
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer_config.json").unlink()
        assert "tokenizer" in refusal(directory)


def test_saving_leaves_no_trace_of_this_machine(directory, tmp_path):
    target = models.load(str(directory))
    again = save(target.model, target.tokenizer, tmp_path / "again")
    for path in again.glob("*.json"):
        assert str(tmp_path) not in path.read_text()
    assert torch.is_tensor(load_file(again / "model.safetensors")["lm_head.weight"])
