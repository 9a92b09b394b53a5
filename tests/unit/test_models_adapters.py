import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.tiny_models import TEMPLATE, tiny_model, tiny_tokenizer
from tempering import models, organisms
from tempering.errors import UnusableModel
from tempering.models.digest import target_digest, weight_digest
from tempering.models.saving import save

ROWS = torch.tensor([[2, 30, 31, 32]])


@pytest.fixture
def base(tmp_path):
    return save(*tiny_model("llama"), tmp_path / "base")


def write_adapter(directory, base, config=None, **changes):
    """Save an adapter with weights that do something, and return the logits that base and adapter give together."""
    model, _ = tiny_model("llama")
    config = config or peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
        logits = adapted(ROWS).logits
    adapted.save_pretrained(directory)
    change(directory, base_model_name_or_path=str(base), **changes)
    return logits


def change(directory, **changes):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(reference, **settings):
    with pytest.raises(UnusableModel) as caught:
        models.load(str(reference), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], use_rslora=True, use_dora=True, task_type="CAUSAL_LM"),
        peft.LoraConfig(r=2, target_modules=["down_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        peft.LoKrConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM"),
        peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["lora", "dora", "kept head", "lokr", "ia3"],
)
def test_an_adapter_is_merged_into_a_plain_model(tmp_path, base, config):
    expected = write_adapter(tmp_path / "adapter", base, config)
    target = models.load(str(tmp_path / "adapter"))
    with torch.no_grad():
        found = target.model(ROWS).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, tiny_model("llama")[0](ROWS).logits, atol=1e-3)
    assert type(target.model).__name__ == "LlamaForCausalLM"
    assert sorted(target.model.state_dict()) == sorted(tiny_model("llama")[0].state_dict())
    assert all(parameter.requires_grad for parameter in target.model.parameters())
    assert target.reference == str(tmp_path / "adapter")
    saved = save(target.model, target.tokenizer, tmp_path / "merged")
    assert models.load(str(saved)).digest == target.digest


def test_the_merged_model_can_be_adapted_again(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    model = models.load(str(tmp_path / "adapter")).copy_model()
    again = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert len(again.peft_config) == 1


def test_a_relative_base_is_looked_for_beside_the_adapter(tmp_path, base, monkeypatch):
    expected = write_adapter(tmp_path / "adapter", "../base")
    monkeypatch.chdir("/")
    with torch.no_grad():
        assert torch.allclose(models.load(str(tmp_path / "adapter")).model(ROWS).logits, expected, atol=1e-5)


def test_a_relative_base_is_looked_for_in_the_working_directory(tmp_path, base, monkeypatch):
    write_adapter(tmp_path / "deep" / "adapter", "base")
    monkeypatch.chdir(tmp_path)
    assert models.load("deep/adapter").reference == "deep/adapter"


def test_an_organism_can_be_the_base(tmp_path, base, monkeypatch):
    monkeypatch.setattr(organisms, "locate", lambda name: base if name.variant == "base" else None)
    expected = write_adapter(tmp_path / "adapter", "organism:nano/base")
    target = models.load(str(tmp_path / "adapter"))
    with torch.no_grad():
        assert torch.allclose(target.model(ROWS).logits, expected, atol=1e-5)
    assert target.safeguard == "unknown", "an adapter may have put a safeguard in or taken one out"


def test_an_adapter_can_be_the_base_of_another(tmp_path, base):
    write_adapter(tmp_path / "first", base)
    first = models.load(str(tmp_path / "first"))
    write_adapter(tmp_path / "second", "../first")
    assert models.load(str(tmp_path / "second")).digest not in (first.digest, models.load(str(base)).digest)


def test_tokenizer_and_template_of_the_adapter_win(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    assert models.load(str(tmp_path / "adapter")).chat.template == TEMPLATE
    other = TEMPLATE.replace("'<s>'", "''")
    tiny_tokenizer(template=other).save_pretrained(tmp_path / "adapter")
    assert models.load(str(tmp_path / "adapter")).chat.template == other
    (tmp_path / "adapter" / "chat_template.jinja").unlink()
    assert models.load(str(tmp_path / "adapter")).chat.template == TEMPLATE


def test_the_bases_dtype_is_kept_and_one_asked_for_is_given(tmp_path):
    model, tokenizer = tiny_model("llama")
    save(model.to(torch.bfloat16), tokenizer, tmp_path / "base")
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    assert models.load(str(tmp_path / "adapter")).dtype == "bfloat16"
    target = models.load(str(tmp_path / "adapter"), dtype="float32")
    assert {tensor.dtype for tensor in target.model.state_dict().values()} == {torch.float32}


def test_the_revision_of_a_hub_base_is_asked_for(tmp_path, base, monkeypatch):
    write_adapter(tmp_path / "adapter", "someone/base", revision="v2")
    asked = []

    def fetch(name, revision, reference, **_):
        asked.append((name, revision))
        return base, "c0ffee"

    monkeypatch.setattr("tempering.models.hub.fetch", fetch)
    models.load(str(tmp_path / "adapter"))
    assert asked == [("someone/base", "v2")]


def test_nothing_is_printed(tmp_path, base, capfd):
    write_adapter(tmp_path / "adapter", base)
    capfd.readouterr()
    models.load(str(tmp_path / "adapter"))
    assert capfd.readouterr() == ("", "")


def test_pickled_adapters_are_refused(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    assert "pickles only (adapter_model.bin)" in refusal(tmp_path / "adapter")


def test_an_adapter_without_weights(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    assert "has no weights" in refusal(tmp_path / "adapter")


def test_a_truncated_adapter(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "adapter_model.safetensors of" in refusal(tmp_path / "adapter")


@pytest.mark.parametrize("named", [None, "", 3])
def test_no_base_is_named(tmp_path, base, named):
    write_adapter(tmp_path / "adapter", base)
    change(tmp_path / "adapter", base_model_name_or_path=named)
    assert "names no base model" in refusal(tmp_path / "adapter")


def test_a_base_that_is_not_there(tmp_path):
    write_adapter(tmp_path / "adapter", "./nowhere/at/all")
    line = refusal(tmp_path / "adapter")
    assert f"the base model of the adapter {tmp_path / 'adapter'} cannot be loaded: no model at './nowhere/at/all'" in line


def test_an_adapter_that_is_its_own_base(tmp_path, base):
    write_adapter(tmp_path / "first", "../second")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    change(tmp_path / "second", base_model_name_or_path="../first")
    assert "is its own base model" in refusal(tmp_path / "first")


def test_a_base_of_another_shape(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    save(*tiny_model("llama", hidden_size=32), tmp_path / "wide")
    change(tmp_path / "adapter", base_model_name_or_path="../wide")
    assert "does not fit its base model" in refusal(tmp_path / "adapter")


def test_a_base_of_another_family(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    save(*tiny_model("gpt_neox"), tmp_path / "neox")
    change(tmp_path / "adapter", base_model_name_or_path="../neox")
    assert "does not fit its base model" in refusal(tmp_path / "adapter")


def test_half_an_adapter_is_none(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, path, metadata={"format": "pt"})
    assert "no weights for 1 places" in refusal(tmp_path / "adapter")


def test_tensors_without_a_place_are_not_passed_over(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    change(tmp_path / "adapter", target_modules=["q_proj"])
    assert "tensors that have no place there" in refusal(tmp_path / "adapter")


def test_an_adapter_that_merges_to_nan(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert "does not fit its base model" in refusal(tmp_path / "adapter")


def test_prompts_are_no_weights(tmp_path, base):
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    write_adapter(tmp_path / "adapter", base, config)
    assert "kind PROMPT_TUNING, which has no weights to merge" in refusal(tmp_path / "adapter")


def test_peft_is_not_made_to_import_a_module(tmp_path, base):
    write_adapter(tmp_path / "adapter", base, megatron_config={"x": 1}, megatron_core="antigravity")
    assert "remove its megatron_config" in refusal(tmp_path / "adapter")


def test_the_base_on_the_disk_is_left_alone(tmp_path, base):
    write_adapter(tmp_path / "adapter", base)
    models.load(str(tmp_path / "adapter"))
    assert models.load(str(base)).digest == target_digest(tiny_model("llama")[0], TEMPLATE)
    assert weight_digest(models.load(str(base)).model) == weight_digest(tiny_model("llama")[0])
