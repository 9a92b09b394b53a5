"""Decoders with random weights, a few thousand parameters each, of every family the tests care about.

All share one word-level tokenizer with a chat template, so a test can tell tokens from text at a glance. Words outside the
vocabulary become ``<unk>``; hand ``vocabulary`` the words that must survive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tempering.data.chat import ChatFormat
from tempering.models import Target
from tempering.models.digest import weight_digest

SPECIAL = ("<pad>", "<unk>", "<s>", "<end>", "<system>", "<user>", "<assistant>")
PUNCTUATION = (".", ",", "?", "!", ":", "'", "-")
WORDS = tuple(
    """a about am an and answer are asked be brew but can cannot cold colour day do does eat fish for from green hello help her him
    house how i in is it key light like long make me my name no not note of on one or please poison question red river say see sorry
    stone sun tell that the them there they this three to tree two us was water we what when where which who why will with word
    yes you your""".split()  # noqa: SIM905 (ninety quoted words are harder to read)
)

TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

_COMMON: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # wide enough that different inputs give visibly different outputs
}
_GROUPED = {"num_key_value_heads": 1}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_GROUPED},
    "qwen2": {**_GROUPED},
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "mistral": {**_GROUPED, "head_dim": 8},
    "phi": {},
    "phi3": {**_GROUPED},
    "gpt_neox": {},
    "olmo2": {**_GROUPED},
}
"""transformers' ``model_type`` of each family, with what it needs beyond the common sizes."""

MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {**_GROUPED, "num_local_experts": 4},
    "qwen3_moe": {**_GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "olmoe": {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**_GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64},
    "qwen2_moe": {
        **_GROUPED,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 20,
    },
}
"""Mixtures of experts: with the experts in one tensor, the other way round and with biases (GPT-OSS), beside a shared expert (Qwen 2)."""

FAMILIES |= MIXTURES

CONVOLUTIONS: dict[str, dict[str, Any]] = {"gpt2": {"n_inner": 32}}
"""Families whose layers hold their weights the other way round, and learn positions; for the tests that are about that."""


def tiny_tokenizer(vocabulary: Iterable[str] | None = None, template: str | None = TEMPLATE) -> PreTrainedTokenizerBase:
    """A word-level tokenizer: one token a word or punctuation mark, decoded with single spaces.

    Args:
        vocabulary: the words it knows; ``None`` takes about a hundred everyday ones.
        template: the chat template; ``None`` leaves it without.
    """
    words = dict.fromkeys((*SPECIAL, *PUNCTUATION, *(WORDS if vocabulary is None else vocabulary)))
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(
    family: str, seed: int = 0, vocabulary: Iterable[str] | None = None, **overrides: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random two-layer decoder of a family, 16 wide, in float32 and evaluation mode, with its tokenizer.

    Args:
        family: a key of :data:`FAMILIES` or :data:`CONVOLUTIONS`.
        seed: decides the weights; the caller's random state is left as it was.
        vocabulary: the tokenizer's words.
        overrides: further fields of the family's configuration, such as ``num_hidden_layers=4``.
    """
    tokenizer = tiny_tokenizer(vocabulary)
    settings = {
        **_COMMON,
        **(FAMILIES | CONVOLUTIONS)[family],
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **overrides,
    }
    config = AutoConfig.for_model(family, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if family in MIXTURES:
        model.set_experts_implementation("eager")  # grouped products know no float64
    return model.eval(), tokenizer


def tiny_target(family: str = "llama", seed: int = 0, **overrides: Any) -> Target:
    """A random two-layer decoder as a target, with a digest of its weights."""
    model, tokenizer = tiny_model(family, seed, **overrides)
    return Target("tiny", model, tokenizer, ChatFormat(tokenizer), weight_digest(model))


def random_model(family: str, **overrides: Any) -> PreTrainedModel:
    """In float64, with norms and biases that are not one and zero, as no trained model has them."""
    model = tiny_model(family, **overrides)[0].double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model
