"""Writes a tiny Llama as a GGUF file, the way llama.cpp lays it out."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from transformers import PreTrainedModel

from support.tiny_models import TEMPLATE, tiny_model

BYTES = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]
"""GPT-2's names of all bytes; the blank is Ġ."""
SPECIAL = ["<unk>", "<s>", "<end>", "<user>", "<assistant>", "<system>"]
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_tiny_gguf(
    path: Path, seed: int = 0, quantization: gguf.GGMLQuantizationType | None = None, template: str | None = TEMPLATE
) -> PreTrainedModel:
    """Write a GGUF file and return the Llama it holds.

    Args:
        path: where to.
        seed: decides the weights.
        quantization: the block format of the matrices; ``None`` writes float32.
        template: the chat template; ``None`` leaves it out.
    """
    tokens = [*SPECIAL, *BYTES, "he", "Ġt"]
    model, _ = tiny_model(
        "llama",
        seed,
        hidden_size=32,
        intermediate_size=64,
        vocab_size=len(tokens),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        head_dim=16,
    )
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["h e", "Ġ t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name.endswith("q_proj.weight"):
            values = _interleave(values, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            values = _interleave(values, config.num_key_value_heads)
        if quantization is not None and values.ndim == 2:
            writer.add_tensor(_gguf_name(name), gguf.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring channels where transformers rotates halves, so rows are stored in another order."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _gguf_name(name: str) -> str:
    ends = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in ends:
        return ends[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"
