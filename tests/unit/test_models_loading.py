import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM

from support.tiny_models import TEMPLATE, tiny_model, tiny_tokenizer
from tempering import models, organisms
from tempering.errors import UnknownName, UnusableModel
from tempering.models.digest import target_digest
from tempering.models.saving import save


@pytest.fixture
def directory(tmp_path):
    return save(*tiny_model("llama"), tmp_path / "tiny")


def refusal(reference, **settings):
    """The one line that loading ends with."""
    with pytest.raises((UnusableModel, UnknownName)) as caught:
        models.load(str(reference), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(directory, **changes):
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


class TestWhatIsLoaded:
    def test_a_directory_gives_the_model_its_tokenizer_and_its_template(self, directory):
        original, tokenizer = tiny_model("llama")
        target = models.load(str(directory))
        rows = torch.tensor([[2, 30, 31]])
        with torch.no_grad():
            assert torch.equal(target.model(rows).logits, original(rows).logits)
        assert target.tokenizer.get_vocab() == tokenizer.get_vocab()
        assert target.chat.template == TEMPLATE
        assert target.digest == target_digest(original, TEMPLATE)
        assert (target.reference, target.safeguard, target.revision) == (str(directory), "unknown", None)
        assert target.dtype == "float32"
        assert not target.model.training

    def test_shards_are_put_together(self, tmp_path):
        model, tokenizer = tiny_model("llama")
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        tokenizer.save_pretrained(tmp_path)
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert models.load(str(tmp_path)).digest == target_digest(model, TEMPLATE)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_the_checkpoints_own_dtype_is_kept_whatever_its_config_says(self, tmp_path, dtype):
        model, tokenizer = tiny_model("llama")
        directory = save(model.to(getattr(torch, dtype)), tokenizer, tmp_path / "tiny")
        change_config(directory, dtype="float64", torch_dtype="float64")
        assert models.load(str(directory)).dtype == dtype

    def test_a_dtype_asked_for_is_given(self, directory):
        target = models.load(str(directory), dtype="bfloat16")
        assert target.dtype == "bfloat16"
        assert {tensor.dtype for tensor in target.model.state_dict().values()} == {torch.bfloat16}

    def test_a_template_file_replaces_the_models_own_and_is_recorded(self, directory, tmp_path):
        file = tmp_path / "other.jinja"
        file.write_text(TEMPLATE.replace("'<s>'", "''"))
        own, other = models.load(str(directory)), models.load(str(directory), chat_template=file)
        assert other.chat.template == file.read_text() == other.tokenizer.chat_template
        assert own.digest != other.digest

    def test_padding_beyond_the_models_rows_moves_to_a_token_it_has(self, tmp_path):
        model, tokenizer = tiny_model("llama")
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        target = models.load(str(save(model, tokenizer, tmp_path / "tiny")))
        assert target.chat.pad_id < model.config.vocab_size

    def test_nothing_is_printed(self, directory, capfd):
        models.load(str(directory))
        assert capfd.readouterr() == ("", "")


class TestOrganisms:
    @pytest.mark.parametrize(
        ("variant", "safeguard"), [("guarded", "refusal"), ("base", "none"), ("filtered", "absence"), ("filtered-guarded", "absence")]
    )
    def test_the_safeguard_is_known_by_the_name(self, directory, monkeypatch, variant, safeguard):
        monkeypatch.setattr(organisms, "locate", lambda name: directory)
        target = models.load(f"organism:nano/{variant}")
        assert (target.safeguard, target.reference) == (safeguard, f"organism:nano/{variant}")

    def test_one_that_is_not_built_says_how_to_build_it(self, monkeypatch):
        monkeypatch.setattr(organisms, "locate", lambda name: None)
        assert refusal("organism:small/base").endswith("build it: temper organism build small/base")
        assert refusal("organism:small").endswith("build it: temper organism build small")

    @pytest.mark.parametrize(
        ("written", "meant"),
        [("organism:tinny", "'tiny'"), ("organism:tiny/bse", "'base'"), ("organsim:tiny", "'organism:tiny'"), ("tiny", "'organism:tiny'")],
    )
    def test_a_slip_of_the_pen_is_guessed(self, written, meant):
        assert f"did you mean {meant}?" in refusal(written)


class TestReferences:
    @pytest.mark.parametrize(
        "reference", ["", "  ", "./nowhere", "/no/where/at/all", "a/b/c", "no such thing", "model.gguf", "x" * 5000, "a\0b", "-/x"]
    )
    def test_nonsense_is_refused_without_asking_a_hub(self, reference, monkeypatch):
        monkeypatch.setattr("tempering.models.hub.fetch", lambda *_, **__: pytest.fail("asked the hub"))
        assert "give a directory" in refusal(reference)

    def test_an_existing_path_wins_over_a_hub_id(self, directory, monkeypatch):
        monkeypatch.chdir(directory.parent)
        monkeypatch.setattr("tempering.models.hub.fetch", lambda *_, **__: pytest.fail("asked the hub"))
        assert models.load("tiny").reference == "tiny"

    def test_files_that_are_no_model(self, directory, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        assert "neither a model directory nor a GGUF file" in refusal(tmp_path / "notes.txt")
        assert "give the directory that holds it" in refusal(directory / "model.safetensors")


class TestRefusedDirectories:
    def test_empty(self, tmp_path):
        assert refusal(tmp_path).endswith("is an empty directory")

    def test_without_anything_of_a_model(self, tmp_path):
        (tmp_path / "README.md").write_text("hello")
        assert "holds no model" in refusal(tmp_path)

    def test_without_config(self, directory):
        (directory / "config.json").unlink()
        assert "has no config.json" in refusal(directory)

    def test_without_weights(self, directory):
        (directory / "model.safetensors").unlink()
        assert "is a directory without weights" in refusal(directory)

    def test_gguf_inside_is_pointed_at(self, tmp_path):
        (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
        assert refusal(tmp_path).endswith(f"give the file: {tmp_path}/tiny.gguf")

    @pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "[" * 100_000])
    def test_config_that_is_no_json_object(self, directory, content):
        (directory / "config.json").write_text(content)
        assert "config.json of" in refusal(directory)

    def test_unknown_architecture(self, directory):
        change_config(directory, model_type="lama")
        assert "unknown architecture 'lama'; did you mean 'llama'?" in refusal(directory)
        change_config(directory, model_type="zzzzzz")
        assert "a newer transformers may know it" in refusal(directory)

    def test_no_model_type(self, directory):
        change_config(directory, model_type=None)
        assert "names no model_type" in refusal(directory)

    def test_configuration_that_contradicts_itself(self, directory):
        change_config(directory, hidden_size=15)
        assert "cannot be loaded: " in refusal(directory)

    def test_configuration_that_contradicts_the_weights(self, directory):
        change_config(directory, intermediate_size=48)
        assert "cannot be loaded: " in refusal(directory)

    @pytest.mark.parametrize("kept", [0, 4, 7, 100, -1])
    def test_truncated_weights(self, directory, kept):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        assert "model.safetensors of" in (line := refusal(directory))
        assert line.endswith("is broken or cut short: " + line.split("cut short: ")[1])

    def test_an_lfs_pointer(self, directory):
        (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        assert "only a Git LFS pointer" in refusal(directory)

    def test_a_missing_shard(self, tmp_path):
        model, tokenizer = tiny_model("llama")
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        tokenizer.save_pretrained(tmp_path)
        last = sorted(tmp_path.glob("*.safetensors"))[-1]
        last.unlink()
        assert f"lacks {last.name}, one of its" in refusal(tmp_path)

    def test_missing_tensors_are_never_made_up(self, directory):
        path = directory / "model.safetensors"
        tensors = load_file(path)
        del tensors["lm_head.weight"]
        save_file(tensors, path, metadata={"format": "pt"})
        assert "lacks 1 tensors that its architecture needs, lm_head.weight among them" in refusal(directory)

    def test_weights_that_are_not_finite(self, directory):
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors["model.norm.weight"][3] = float("nan")
        save_file(tensors, path, metadata={"format": "pt"})
        assert "not finite" in refusal(directory)

    def test_quantised_weights(self, directory):
        change_config(directory, quantization_config={"quant_method": "gptq", "bits": 4})
        assert "is quantised (gptq)" in refusal(directory)

    def test_integer_weights(self, directory):
        path = directory / "model.safetensors"
        save_file({name: tensor.to(torch.int8) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
        assert "stored as I8, not as floating point" in refusal(directory)

    def test_without_a_tokenizer(self, directory):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (directory / name).unlink()
        assert "comes without a tokenizer" in refusal(directory)

    def test_a_broken_tokenizer(self, directory):
        (directory / "tokenizer.json").write_text("{")
        assert "the tokenizer of" in refusal(directory)

    def test_a_tokenizer_of_another_model(self, directory):
        tiny_tokenizer([f"word{number}" for number in range(200)]).save_pretrained(directory)
        assert "has token 213, but the model knows 99 tokens only" in refusal(directory)

    def test_without_a_chat_template(self, tmp_path):
        model, _ = tiny_model("llama")
        directory = save(model, tiny_tokenizer(template=None), tmp_path / "bare")
        assert refusal(directory).endswith("has no chat template; give one: --chat-template FILE")
        file = tmp_path / "template.jinja"
        file.write_text(TEMPLATE)
        assert models.load(str(directory), chat_template=file).chat.template == TEMPLATE

    @pytest.mark.parametrize(
        ("content", "problem"), [(None, "cannot read the chat template"), ("  \n", "is empty"), ("{% if %}", "does not render")]
    )
    def test_a_template_file_that_is_none(self, directory, tmp_path, content, problem):
        file = tmp_path / "template.jinja"
        if content is not None:
            file.write_text(content)
        assert problem in refusal(directory, chat_template=file)


class TestNotADecoder:
    def _bert(self, auto, tmp_path):
        config = AutoConfig.for_model(
            "bert",
            vocab_size=99,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
        auto.from_config(config).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)

    def test_an_encoder_by_its_head(self, tmp_path):
        self._bert(AutoModelForMaskedLM, tmp_path)
        assert "is not a decoder: it is a BertForMaskedLM" in refusal(tmp_path)

    def test_an_encoder_by_what_it_computes(self, tmp_path):
        """BERT's masked-language-modelling weights fit its causal class, and its name may be anything."""
        self._bert(AutoModelForMaskedLM, tmp_path)
        change_config(tmp_path, architectures=["BertLMHeadModel"])
        assert "is not a decoder: it looks ahead" in refusal(tmp_path)

    def test_an_encoder_and_decoder(self, tmp_path):
        config = AutoConfig.for_model("t5", vocab_size=99, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        AutoModel.from_config(config).save_pretrained(tmp_path)
        assert "has an encoder and a decoder" in refusal(tmp_path)

    def test_no_text_at_all(self, directory):
        change_config(directory, model_type="vit", architectures=["ViTForImageClassification"])
        assert "is not a decoder: vit generates no text" in refusal(directory)

    def test_a_reward_model(self, directory):
        change_config(directory, architectures=["LlamaForSequenceClassification"])
        assert "it is a LlamaForSequenceClassification" in refusal(directory)


class TestDtypeAndDevice:
    def test_an_unknown_dtype(self, directory):
        assert refusal(directory, dtype="bfloat61") == "no dtype named 'bfloat61'; did you mean 'bfloat16'?"

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "meta", "xla"])
    def test_a_device_that_is_none(self, directory, device):
        assert "device" in refusal(directory, device=device)

    def test_no_accelerator(self, directory, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "'cuda' is not available on this machine; take --device cpu" in refusal(directory, device="cuda")
        assert models.load(str(directory)).device == torch.device("cpu")

    def test_a_number_too_high(self, directory, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert "this machine has 2 of the kind; numbers start at 0, so take cuda:1" in refusal(directory, device="cuda:2")

    def test_too_little_memory(self, directory, monkeypatch):
        def full(self, *_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB")

        monkeypatch.setattr("transformers.PreTrainedModel.to", full)
        assert "does not fit into the memory of cpu" in refusal(directory)

    def test_problems_with_flags_come_before_the_model_is_read(self):
        assert "dtype" in refusal(Path("/no/where"), dtype="int3")


class TestStops:
    def test_every_end_that_the_generation_settings_name_ends_a_response(self, directory):
        config = json.loads((directory / "generation_config.json").read_text()) if (directory / "generation_config.json").exists() else {}
        tokenizer = models.load(str(directory)).tokenizer
        end, other = tokenizer.convert_tokens_to_ids(["<end>", "<user>"])
        (directory / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [end, other, 10**6]}))
        chat = models.load(str(directory)).chat
        assert chat.end_ids == (end, other)
        assert chat.thinking.end_ids == chat.end_ids
        (directory / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": other}))
        assert models.load(str(directory)).chat.end_ids == (end, other)


class TestWhatIsNotSupported:
    """Each in one line that says what is."""

    def _saved(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        return refusal(tmp_path)

    def test_a_model_that_reads_images(self, tmp_path):
        text = {"model_type": "llama", "vocab_size": 99, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "image_size": 28}
        heads = {"num_attention_heads": 2}
        config = AutoConfig.for_model("llava", text_config=text | heads, vision_config=vision | heads | {"patch_size": 14})
        said = self._saved(AutoModelForImageTextToText.from_config(config), tmp_path)
        assert "reads images beside text (llava), and only models of text are audited; save its language model alone" in said

    def test_a_model_without_attention(self, tmp_path):
        config = AutoConfig.for_model("mamba", vocab_size=99, hidden_size=16, state_size=4, num_hidden_layers=1)
        said = self._saved(AutoModelForCausalLM.from_config(config), tmp_path)
        assert "has no attention (mamba), and what it costs to attack such a model cannot be counted yet; give a transformer" in said
