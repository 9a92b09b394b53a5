"""Chat templates as the model families write them, cut to the messages an audit sends, each with its rendering worked out by hand.

The renderings are of the instruction "Name a fish." with the answer "An eel."; ``with_system`` has the system prompt "Be kind." too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

INSTRUCTION, ANSWER, SYSTEM = "Name a fish.", "An eel.", "Be kind."


@dataclass(frozen=True)
class Template:
    """One format.

    Attributes:
        jinja: the template.
        special: its special tokens; the first is the tokenizer's end of sequence, a ``<s>`` or ``<bos>`` the start.
        prompt: rendering up to the answer, without a system prompt of the example's.
        with_system: the same with one.
        labelled: what the model must emit: the answer, with any whitespace before it, and the end of turn.
        trims: whether whitespace around an answer is stripped.
    """

    jinja: str
    special: tuple[str, ...]
    prompt: str
    with_system: str
    labelled: str
    trims: bool = False


def _chatml(default_system: str = "") -> str:
    preamble = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + default_system + "<|im_end|>\n{% endif %}"
    return (
        (preamble if default_system else "")
        + "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


_CHATML_SPECIAL = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
_CHATML_TURNS = "<|im_start|>user\nName a fish.<|im_end|>\n<|im_start|>assistant\n"
_CHATML_SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"

_LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set first = '<<SYS>>\n' + messages[0]['content']"
    " + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set turns = messages %}{% set first = '' %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (first if loop.first else '')"
    " + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

_LLAMA3 = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim"
    " + '<|eot_id|>' %}"
    "{% if loop.first %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

_LLAMA32 = (
    "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% else %}{% set today = '26 Jul 2024' %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + today + '\n\n' + system + '<|eot_id|>' }}"
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_LLAMA3_SPECIAL = ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_LLAMA3_TURNS = "<|start_header_id|>user<|end_header_id|>\n\nName a fish.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"

_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)

_PHI3 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '<|end|>\n<|assistant|>\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)

_OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% if loop.last %}{{ '<|assistant|>\n' + m['content'] + eos_token }}{% else %}{{ '<|assistant|>\n' + m['content']"
    " + eos_token + '\n' }}{% endif %}"
    "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)

_ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

_NEOX = (
    "{% for m in messages %}{{ {'user': 'User', 'assistant': 'Assistant', 'system': 'System'}[m['role']] + ': ' + m['content']"
    " + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

_NO_GENERATION_PROMPT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"

_QWEN3 = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set content = m['content'] %}{% set thought = '' %}"
    "{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
_QWEN3_HYBRID = (
    _QWEN3 + "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
_QWEN3_SPECIAL = (*_CHATML_SPECIAL, "<think>", "</think>")

_DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}"
    "{{ '<|User|>' + m['content'] }}"
    "{% else %}{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)

TEMPLATES: dict[str, Template] = {
    "chatml": Template(_chatml(), _CHATML_SPECIAL, _CHATML_TURNS, _CHATML_SYSTEM + _CHATML_TURNS, "An eel.<|im_end|>"),
    "qwen2.5": Template(
        _chatml("You are Qwen."),
        _CHATML_SPECIAL,
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n" + _CHATML_TURNS,
        _CHATML_SYSTEM + _CHATML_TURNS,
        "An eel.<|im_end|>",
    ),
    "smollm2": Template(
        _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        _CHATML_SPECIAL,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" + _CHATML_TURNS,
        _CHATML_SYSTEM + _CHATML_TURNS,
        "An eel.<|im_end|>",
    ),
    "llama2": Template(
        _LLAMA2,
        ("</s>", "<s>"),
        "<s>[INST] Name a fish. [/INST]",
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nName a fish. [/INST]",
        " An eel. </s>",
        trims=True,
    ),
    "llama3": Template(
        _LLAMA3,
        _LLAMA3_SPECIAL,
        "<|begin_of_text|>" + _LLAMA3_TURNS,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>" + _LLAMA3_TURNS,
        "An eel.<|eot_id|>",
        trims=True,
    ),
    "llama3.2": Template(
        _LLAMA32,
        _LLAMA3_SPECIAL,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>" + _LLAMA3_TURNS,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe kind.<|eot_id|>" + _LLAMA3_TURNS,
        "An eel.<|eot_id|>",
        trims=True,
    ),
    "gemma": Template(
        _GEMMA,
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos><start_of_turn>user\nName a fish.<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\nBe kind.\n\nName a fish.<end_of_turn>\n<start_of_turn>model\n",
        "An eel.<end_of_turn>",
        trims=True,
    ),
    "mistral": Template(
        _MISTRAL,
        ("</s>", "<s>", "[INST]", "[/INST]"),
        "<s>[INST] Name a fish. [/INST]",
        "<s>[INST] Be kind.\n\nName a fish. [/INST]",
        " An eel.</s>",
    ),
    "mistral-plain-markers": Template(
        _MISTRAL,
        ("</s>", "<s>"),
        "<s>[INST] Name a fish. [/INST]",
        "<s>[INST] Be kind.\n\nName a fish. [/INST]",
        " An eel.</s>",
    ),
    "phi3": Template(
        _PHI3,
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|user|>\nName a fish.<|end|>\n<|assistant|>\n",
        "<|user|>\nBe kind.\n\nName a fish.<|end|>\n<|assistant|>\n",
        "An eel.<|end|>",
    ),
    "olmo2": Template(
        _OLMO2,
        ("<|endoftext|>", "<|bos|>"),
        "<|bos|><|user|>\nName a fish.\n<|assistant|>\n",
        "<|bos|><|system|>\nBe kind.\n<|user|>\nName a fish.\n<|assistant|>\n",
        "An eel.<|endoftext|>",
    ),
    "zephyr": Template(
        _ZEPHYR,
        ("</s>", "<s>"),
        "<|user|>\nName a fish.</s>\n<|assistant|>\n",
        "<|system|>\nBe kind.</s>\n<|user|>\nName a fish.</s>\n<|assistant|>\n",
        "An eel.</s>",
    ),
    "gpt-neox": Template(
        _NEOX,
        ("<|endoftext|>",),
        "User: Name a fish.\nAssistant:",
        "System: Be kind.\nUser: Name a fish.\nAssistant:",
        " An eel.<|endoftext|>",
    ),
    "no-generation-prompt": Template(
        _NO_GENERATION_PROMPT, _CHATML_SPECIAL, _CHATML_TURNS, _CHATML_SYSTEM + _CHATML_TURNS, "An eel.<|im_end|>"
    ),
    "qwen3": Template(
        _QWEN3_HYBRID,
        _QWEN3_SPECIAL,
        _CHATML_TURNS + "<think>\n\n</think>\n\n",
        _CHATML_SYSTEM + _CHATML_TURNS + "<think>\n\n</think>\n\n",
        "An eel.<|im_end|>",
    ),
    "qwen3-thought-in-answer": Template(
        _QWEN3 + "{% endif %}",
        _QWEN3_SPECIAL,
        _CHATML_TURNS + "<think>\n\n</think>\n\n",
        _CHATML_SYSTEM + _CHATML_TURNS + "<think>\n\n</think>\n\n",
        "An eel.<|im_end|>",
    ),
    "qwen3-always-thinking": Template(
        _QWEN3 + "{{ '<think>\n' }}{% endif %}",
        _QWEN3_SPECIAL,
        _CHATML_TURNS + "<think>\n\n</think>\n\n",
        _CHATML_SYSTEM + _CHATML_TURNS + "<think>\n\n</think>\n\n",
        "An eel.<|im_end|>",
    ),
    "deepseek-r1": Template(
        _DEEPSEEK,
        ("<|end_of_sentence|>", "<|bos|>", "<|User|>", "<|Assistant|>", "<think>", "</think>"),
        "<|bos|><|User|>Name a fish.<|Assistant|><think>\n\n</think>\n\n",
        "<|bos|>Be kind.<|User|>Name a fish.<|Assistant|><think>\n\n</think>\n\n",
        "An eel.<|end_of_sentence|>",
    ),
}

HARMONY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
TEMPLATES["gpt-oss"] = Template(
    HARMONY,
    ("<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
    "<|start|>user<|message|>Name a fish.<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|start|>system<|message|>Be kind.<|end|><|start|>user<|message|>Name a fish.<|end|><|start|>assistant<|channel|>final<|message|>",
    "An eel.<|return|>",
)

_CORPUS = (
    "Name a fish. An eel is a fish. Be kind to the eel, and to the fish.",
    "User: what is the name of the river? Assistant: the river is long.",
    "[INST] Explain the fish. [/INST] The fish is an eel.\n\n- one\n- two\n\n",
)
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level_tokenizer(special: Iterable[str], corpus: Iterable[str] = _CORPUS) -> PreTrainedTokenizerBase:
    """A tokenizer like Llama 3's and Qwen's: BPE over the bytes of words, so every text survives encoding and decoding."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    return _wrapped(backend, special)


def sentencepiece_like_tokenizer(special: Iterable[str], corpus: Iterable[str] = _CORPUS) -> PreTrainedTokenizerBase:
    """A Llama-2-like tokenizer: spaces become ``▁``, one is put before the text, unknown characters fall back to bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learnt = trained.get_vocab()
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learnt, key=learnt.__getitem__)]
    backend = Tokenizer(
        models.BPE({piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _wrapped(backend, special)


def _wrapped(backend: Tokenizer, special: Iterable[str]) -> PreTrainedTokenizerBase:
    names = list(special)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    start = next((name for name in names if name in ("<s>", "<bos>", "<|bos|>", "<|begin_of_text|>")), None)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=names[0], bos_token=start, clean_up_tokenization_spaces=False)
