import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from support.tiny_models import CONVOLUTIONS, FAMILIES, MIXTURES, tiny_model, tiny_tokenizer
from tempering.errors import UnusableModel
from tempering.models.outputs import written_biases, written_matrices
from tempering.models.structure import Structure, norm_scale

ALL = (*FAMILIES, *CONVOLUTIONS)

PROMPT = torch.tensor([[2, 30, 31, 32, 33]])

LAST_NAMES = {
    "phi": ("self_attn.dense", "mlp.fc2", "model.final_layernorm"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    "gpt2": ("attn.c_proj", "mlp.c_proj", "transformer.ln_f"),
    **dict.fromkeys(MIXTURES, ("self_attn.o_proj", "mlp", "model.norm")),
}


@pytest.mark.parametrize("family", ALL)
def test_parts_are_the_models_own_under_the_familys_names(family):
    model, _ = tiny_model(family, num_hidden_layers=3)
    structure = Structure.of(model)
    attention, mlp, norm = LAST_NAMES.get(family, ("self_attn.o_proj", "mlp.down_proj", "model.norm"))
    assert len(structure.blocks) == len(structure.attention_outputs) == len(structure.mlp_outputs) == 3
    assert all(name.endswith(f".{index}.{attention}") for index, name in enumerate(structure.attention_output_names))
    assert all(name.endswith(f".{index}.{mlp}") for index, name in enumerate(structure.mlp_output_names))
    for name, module in zip(structure.attention_output_names, structure.attention_outputs, strict=True):
        assert model.get_submodule(name) is module
    assert structure.final_norm is model.get_submodule(norm)
    assert structure.embedding is model.get_input_embeddings()
    assert structure.head is model.get_output_embeddings()
    assert structure.hidden_size == model.config.hidden_size
    assert structure.position_embedding is (model.transformer.wpe if family == "gpt2" else None)


@pytest.mark.parametrize("family", ALL)
def test_the_outputs_found_are_all_that_blocks_write(family):
    """With every found output silenced, the residual stream leaves the last block as the embedding made it."""
    model, _ = tiny_model(family)
    structure = Structure.of(model)
    with torch.no_grad():
        for module in (*structure.attention_outputs, *structure.mlp_outputs):
            for columns in (*written_matrices(module), *written_biases(module)):
                columns.zero_()
    seen = {}
    structure.blocks[0].register_forward_pre_hook(lambda _, args, kwargs: seen.update(first=args[0]), with_kwargs=True)
    structure.final_norm.register_forward_pre_hook(lambda _, args: seen.update(last=args[0]))
    with torch.no_grad():
        model(PROMPT)
    assert torch.equal(seen["first"], seen["last"])


@pytest.mark.parametrize("family", ALL)
def test_a_direction_projected_out_of_every_output_leaves_the_residual_stream(family):
    """The known use: orthogonalised outputs (norms allowed for) never write the direction again."""
    model, _ = tiny_model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(torch.linspace(-0.5, 0.5, parameter.numel()))
    structure = Structure.of(model)
    direction = nn.functional.normalize(torch.linspace(-1, 1, structure.hidden_size) ** 2 - 0.3, dim=0)
    outputs = [*structure.attention_outputs, *structure.mlp_outputs]
    norms = [*structure.attention_output_norms, *structure.mlp_output_norms]
    with torch.no_grad():
        for module, norm in zip(outputs, norms, strict=True):
            unwanted = nn.functional.normalize(norm_scale(norm, direction) * direction, dim=0)
            for columns in (*written_matrices(module), *written_biases(module)):
                columns -= torch.outer(unwanted, unwanted @ columns)
        for embedding in filter(None, (structure.embedding, structure.position_embedding)):
            embedding.weight -= torch.outer(embedding.weight @ direction, direction)
    seen = []
    for block in structure.blocks[1:]:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    structure.final_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(PROMPT)
    for stream in seen:
        assert (stream @ direction).abs().max() < 1e-5 * stream.norm(dim=-1).max()


@pytest.mark.parametrize("family", ALL)
def test_output_norms_only_where_the_family_has_them(family):
    model, _ = tiny_model(family)
    structure = Structure.of(model)
    has = {norm is not None for norm in (*structure.attention_output_norms, *structure.mlp_output_norms)}
    assert has == {family in {"gemma2", "gemma3_text", "olmo2"}}


def test_norm_scale_reads_layer_norms_and_none():
    norm = nn.LayerNorm(6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        norm.bias.fill_(3.0)
    like = torch.zeros(6, dtype=torch.float64)
    assert torch.allclose(norm_scale(norm, like), torch.arange(1.0, 7.0, dtype=torch.float64), rtol=1e-4)
    assert torch.equal(norm_scale(None, like), torch.ones(6, dtype=torch.float64))


def test_tied_models_share_head_and_embedding():
    structure = Structure.of(tiny_model("llama", tie_word_embeddings=True)[0])
    assert structure.head.weight is structure.embedding.weight


def _other(family, **settings):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=len(tiny_tokenizer()), **settings))


def test_opt_keeps_its_mlp_on_the_block_and_learns_positions():
    model = _other(
        "opt", hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16, max_position_embeddings=32
    )
    structure = Structure.of(model)
    assert structure.attention_output_names[1] == "model.decoder.layers.1.self_attn.out_proj"
    assert structure.mlp_output_names[1] == "model.decoder.layers.1.fc2"
    assert structure.position_embedding is model.model.decoder.embed_positions
    assert structure.final_norm is model.model.decoder.final_layer_norm


@pytest.mark.parametrize(
    ("family", "settings", "problem"),
    [
        (
            "jetmoe",
            {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 2, "kv_channels": 8},
            "the attention output of model.layers.0",
        ),
        (
            "falcon_h1",
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "mamba_d_ssm": 32,
                "mamba_n_heads": 4,
                "mamba_d_head": 8,
                "mamba_d_state": 4,
                "mamba_n_groups": 1,
            },
            "a block of attention and MLP alone in model.layers.0",
        ),
        (
            "gemma4_text",
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": 128,
            },
            "a block of attention and MLP alone in model.layers.0",
        ),
        ("mamba", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}, "the attention output of"),
    ],
)
def test_unknown_architectures_are_refused_in_one_line(family, settings, problem):
    with pytest.raises(UnusableModel) as caught:
        Structure.of(_other(family, **settings))
    assert problem in str(caught.value)
    assert repr(family) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_mlp_beside_the_experts_is_not_overlooked():
    model, _ = tiny_model("mixtral")
    model.model.layers[1].down_proj = nn.Linear(32, 16)
    with pytest.raises(UnusableModel, match=r"the output of the experts in model\.layers\.1"):
        Structure.of(model)


def test_experts_that_are_a_list_are_found_too():
    model, _ = tiny_model("qwen2_moe")
    mixture = model.model.layers[0].mlp
    mixture.experts = nn.ModuleList(nn.ModuleDict({"up_proj": nn.Linear(16, 8), "down_proj": nn.Linear(8, 16)}) for _ in range(3))
    structure = Structure.of(model)
    assert structure.mlp_outputs[0] is mixture
    assert sorted(matrix.shape for matrix in written_matrices(mixture)) == [(16, 8), (16, 8), (16, 8), (16, 20)]
    assert len(written_biases(mixture)) == 3
