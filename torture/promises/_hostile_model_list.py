"""Every hostile model that is tried, by name, and the ways by which a model comes in."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from torture.promises._hostile_models import (
    DEEP_OBJECT,
    GIB,
    Make,
    Room,
    a_config,
    a_directory,
    a_fifo,
    a_file,
    a_key,
    a_link,
    a_pipe,
    a_socket,
    a_template,
    a_tensor,
    adapter,
    adapter_chain,
    adapter_of_pickles,
    adapter_with_link,
    an_index,
    deep_index,
    escape,
    gguf_header,
    link_among_templates,
    linked_weights,
    overwritten,
    own_base,
    patched_key,
    template_flag,
    tokenizer_pattern,
    unknown_word,
    with_code,
    with_gguf,
    with_pickle,
    with_sparse,
)

_DEEP = b"[" * 100_000
_MANY = b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(100_000)) + b"}"
_TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
_OVERLAP = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
_SEQUENCE = "().__class__.__base__.__subclasses__()"
_LIFT = "__init__.__globals__['os'].mkdir('{mark}')"

_PADDING = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}


def _escaped(pattern: str) -> Make:
    """A pattern that no search for the word Regex finds in the file, though whoever reads JSON does."""

    def make(room: Room) -> None:
        tokenizer_pattern(pattern)(room)
        path = room.model / "tokenizer.json"
        path.write_bytes(path.read_bytes().replace(b'"Regex"', b'"\\u0052egex"'))

    return make


def _replacing(pattern: dict[str, str], times: int, content: str = "a" * 10, part: str = "normalizer") -> Make:
    """Replacements one after the other, each of which multiplies what the one before has made."""
    steps = [{"type": "Replace", "pattern": pattern, "content": content}] * times
    name = "decoders" if part == "decoder" else "normalizers"
    return lambda room: room.change("tokenizer.json", **{part: {"type": "Sequence", name: steps}})


PICKLES: dict[str, Make] = {
    **{f"weights as {name}": with_pickle(name) for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl")},
    "a pickle called model.safetensors": with_pickle("model.safetensors"),
    "an adapter of pickles": adapter_of_pickles,
}
CODE: dict[str, Make] = {
    "an architecture of its own": with_code(model_type="own"),
    "a path for an architecture": with_code(model_type="../../own"),
    "a kernel of the hub": a_config(attn_implementation="someone/some-kernel", model_type="unknown-as-yet"),
    "an adapter that imports": adapter(megatron_config={"a": 1}, megatron_core="os"),
}
TEMPLATES: dict[str, Make] = {
    "endless loops": a_template(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}" * 1 + "{% endfor %}{% endfor %}"
    ),
    "ten gigabytes": a_template("{{ 'a' * 10000000000 }}"),
    "ten gigabytes by format": a_template("{{ '%9999999999d' % 1 }}"),
    "ten gigabytes by padding": a_template("{{ 'a'.ljust(9999999999) }}"),
    "ten gigabytes by a filter": a_template("{{ 'a'|center(9999999999) }}"),
    "doubled sixty times": a_template(
        "{% set n = namespace(a='aaaa') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}"
    ),
    "a power": a_template("{{ 10 ** (10 ** 9) }}"),
    "a hundred megabytes": a_template("{{ 'a' * 100000000 }}"),
    "a macro that calls itself": a_template("{% macro m(a) %}{{ m(a) }}{% endmacro %}{{ m(1) }}"),
    "a range of billions": a_template("{% for a in range(10000000000) %}{% endfor %}"),
    "attributes of a class": a_template("{{ ''.__class__.__mro__[1].__subclasses__()[0].x() }}"),
    "all classes": a_template("{% for x in " + _SEQUENCE + " %}{{ x.__name__() }}{% endfor %}"),
    "cycler": escape("{{ cycler." + _LIFT + " }}"),
    "joiner": escape("{{ joiner." + _LIFT + " }}"),
    "namespace": escape("{{ namespace." + _LIFT + " }}"),
    "lipsum": escape("{{ lipsum.__globals__['os'].mkdir('{mark}') }}"),
    "an attribute by a filter": escape("{{ (cycler|attr('__init__')|attr('__globals__'))['os'].mkdir('{mark}') }}"),
    "an attribute by a format": escape("{{ '{0.__class__.__init__.__globals__[os].mkdir}'.format(cycler)() }}"),
    "its own context": escape("{{ self._TemplateReference__context.cycler." + _LIFT + " }}"),
    "a file to include": a_template("{% include '/etc/passwd' %}"),
    "a module to import": a_template("{% import 'os' as os %}{{ os.getcwd() }}"),
    "no Jinja": a_template("{% for %}"),
    "terminal escapes": a_template("{{ raise_exception('\x1b]0;title\x07\x1b[2J\u202eevil') }}"),
    "not UTF-8": a_file("chat_template.jinja", b"\xff\xfe\x00"),
    "a gigabyte": with_sparse("chat_template.jinja", GIB),
    "a link among the further ones": link_among_templates,
}
WEIGHTS: dict[str, Make] = {
    "a header longer than the file": lambda room: room.header(b"{}", length=1000),
    "a header of 2^63 bytes": lambda room: room.header(b"{}", length=1 << 63),
    "a header of 2^64 - 1 bytes": lambda room: room.header(b"{}", length=(1 << 64) - 1),
    "a header of no bytes": lambda room: room.header(b"", length=0),
    "a header that is no JSON": lambda room: room.header(b"{nothing}"),
    "a header that is not UTF-8": lambda room: room.header(b'{"\xff": 1}'),
    "a header nested deeply": lambda room: room.header(DEEP_OBJECT),
    "a header of lists": lambda room: room.header(_DEEP),
    "a header of a hundred thousand tensors": lambda room: room.header(_MANY),
    "a name twice": lambda room: room.header(_TWICE, bytes(4)),
    "tensors that overlap": lambda room: room.header(_OVERLAP, bytes(12)),
    "an unknown type": a_tensor(dtype="F99"),
    "another type than its bytes": a_tensor(dtype="F64"),
    "a shape larger than its bytes": a_tensor(shape=[1 << 40, 2]),
    "a shape that overflows": a_tensor(shape=[1 << 32, 1 << 32]),
    "a shape below zero": a_tensor(shape=[-2, -2]),
    "a shape of 2^63": a_tensor(shape=[1 << 63]),
    "offsets beyond the file": a_tensor(data_offsets=[0, 1 << 40]),
    "offsets the wrong way round": a_tensor(data_offsets=[16, 0]),
    "offsets below zero": a_tensor(data_offsets=[-16, 0]),
    "offsets of 2^64": a_tensor(data_offsets=[0, 1 << 64]),
    "a hole": lambda room: room.header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}', bytes(12)),
    "no offsets": lambda room: room.header(b'{"a":{"dtype":"F32","shape":[1]}}', bytes(4)),
    "other tensors than its configuration": a_tensor(),
    "a gigabyte of zeros": with_sparse("model.safetensors", GIB),
}
GGUF: dict[str, Make] = {
    "2^63 tensors": gguf_header(tensors=1 << 63),
    "2^63 keys": gguf_header(entries=1 << 63),
    "a million tensors": gguf_header(tensors=1_000_000, padding=GIB),
    "version 99": gguf_header(version=99),
    "version 1": gguf_header(version=1),
    "a key of 2^63 bytes": gguf_header(entries=1, body=struct.pack("<Q", 1 << 63)),
    "a text of 2^40 bytes": gguf_header(entries=1, body=a_key("a", 8, struct.pack("<Q", 1 << 40))),
    "a list of 2^60 values": gguf_header(entries=1, body=a_key("a", 9, struct.pack("<IQ", 4, 1 << 60))),
    "a list of a billion bytes": gguf_header(entries=1, body=a_key("a", 9, struct.pack("<IQ", 0, 10**9)), padding=GIB),
    "a list of texts in a gigabyte": gguf_header(entries=1, body=a_key("a", 9, struct.pack("<IQ", 8, 10**8)), padding=GIB),
    "lists in lists": gguf_header(entries=1, body=a_key("a", 9, struct.pack("<IQ", 9, 1) * 1000)),
    "an unknown kind": gguf_header(entries=1, body=a_key("a", 77, bytes(8))),
    "a key that is not UTF-8": gguf_header(entries=1, body=struct.pack("<Q", 2) + b"\xff\xff" + bytes(20)),
    "a tensor of 2^124 values": gguf_header(tensors=1, body=a_key("a", 2, struct.pack("<QQIQ", 1 << 62, 1 << 62, 0, 0)), padding=4096),
    "a billion dimensions": gguf_header(tensors=1, body=a_key("a", 10**9, bytes(64)), padding=4096),
    "a tensor beyond the file": gguf_header(tensors=1, body=a_key("a", 1, struct.pack("<QIQ", 32, 0, 1 << 40)), padding=4096),
    "a tensor of an unknown kind": gguf_header(tensors=1, body=a_key("a", 1, struct.pack("<QIQ", 32, 999, 0)), padding=4096),
    "an alignment of nothing": gguf_header(entries=1, body=a_key("general.alignment", 4, bytes(4)), padding=4096),
    "four billion blocks": patched_key("llama.block_count", 0xFFFFFFFF),
    "a width of four billion": patched_key("llama.embedding_length", 0xFFFFFFFF),
    "cut in the middle": with_gguf(lambda content: content[: len(content) // 2]),
    "four bytes": with_gguf(lambda content: content[:4]),
}
TOKENIZERS: dict[str, Make] = {
    "a gigabyte": with_sparse("tokenizer.json", GIB),
    "a pattern that takes for ever": tokenizer_pattern(r"(a+)+$"),
    "another pattern that takes for ever": tokenizer_pattern(r"(.*b){30}$"),
    "a pattern that takes for ever, its kind written otherwise": _escaped(r"(a+)+$"),
    "ten thousand letters of one": _replacing({"String": "a"}, 4),
    "10^12 letters of one": _replacing({"String": "a"}, 12),
    "10^12 letters of a word": _replacing({"String": "word"}, 12, "word" * 10),
    "10^12 letters by a pattern": _replacing({"Regex": "a"}, 12),
    "10^12 letters when tokens become text": _replacing({"String": "a"}, 12, part="decoder"),
    "a billion tokens of padding": lambda room: room.change("tokenizer.json", padding=_PADDING),
    "nested deeply": a_file("tokenizer.json", DEEP_OBJECT),
    "not UTF-8": a_file("tokenizer.json", b'{"\xff": 1}'),
    "settings nested deeply": a_file("tokenizer_config.json", DEEP_OBJECT),
    "settings of a gigabyte": with_sparse("tokenizer_config.json", GIB),
    "a list": a_file("tokenizer.json", b"[]"),
    "a pipe": a_fifo("tokenizer.json"),
    "a pipe of settings": a_fifo("tokenizer_config.json"),
    "tokens that the model does not know": unknown_word(4_000_000_000),
}
FILES: dict[str, Make] = {
    "a shard above": an_index("../x.safetensors"),
    "a shard two above": an_index("../../x.safetensors"),
    "a shard anywhere": an_index("{beside}/x.safetensors"),
    "a shard below": an_index("sub/x.safetensors"),
    "a shard with a null byte": an_index("x\0.safetensors"),
    "a shard that is this folder": an_index("."),
    "an index nested deeply": deep_index,
    "weights that are a link": linked_weights,
    "a configuration that is a link": a_link("config.json", "/etc/passwd"),
    "a configuration that is /dev/zero": a_link("config.json", "/dev/zero"),
    "a tokenizer that is a link": a_link("tokenizer.json", "/etc/hostname"),
    "weights that are /dev/zero": a_link("model.safetensors", "/dev/zero"),
    "a link in a circle": a_link("config.json", "config.json"),
    "a link to nowhere": a_link("config.json", "nowhere"),
    "a pipe for a configuration": a_fifo("config.json"),
    "a pipe for weights": a_fifo("model.safetensors"),
    "a pipe for generation settings": a_fifo("generation_config.json"),
    "a folder for a configuration": a_directory("config.json"),
    "a folder for weights": a_directory("model.safetensors"),
    "a pipe": a_pipe,
    "a socket": a_socket,
    "a device": lambda room: Path("/dev/zero"),
    "a template that is a pipe": template_flag(os.mkfifo),
    "a template that is /dev/zero": template_flag(lambda path: path.symlink_to("/dev/zero")),
}
CONFIGS: dict[str, Make] = {
    "2^40 layers": a_config(num_hidden_layers=1 << 40),
    "a hundred thousand layers": a_config(num_hidden_layers=100_000),
    "layers below zero": a_config(num_hidden_layers=-1),
    "layers in words": a_config(num_hidden_layers="many"),
    "2^62 positions": a_config(max_position_embeddings=1 << 62),
    "a width of 2^62": a_config(hidden_size=1 << 62),
    "a width of nothing": a_config(hidden_size=0),
    "a vocabulary of 2^50": a_config(vocab_size=1 << 50),
    "2^40 heads": a_config(num_attention_heads=1 << 40),
    "heads of 2^40": a_config(head_dim=1 << 40),
    "no heads": a_config(num_attention_heads=0),
    "an inner width of 2^40": a_config(intermediate_size=1 << 40),
    "2^40 experts": a_config(model_type="mixtral", architectures=["MixtralForCausalLM"], num_local_experts=1 << 40),
    "a number of 5000 digits": a_file("config.json", b'{"model_type": "llama", "num_hidden_layers": ' + b"9" * 5000 + b"}"),
    "nested a hundred thousand deep": a_file("config.json", DEEP_OBJECT),
    "nested in itself": a_file("config.json", b'{"model_type": "llama", "x": ' + _DEEP + b"]" * 100_000 + b"}"),
    "not UTF-8": a_file("config.json", b'{"model_type": "\xff\xfe"}'),
    "a list": a_file("config.json", b"[]"),
    "nothing": a_file("config.json", b""),
    "two gigabytes": with_sparse("config.json", 2 * GIB),
    "a type that is a program": a_config(
        model_type="llama", architectures=["os.system"], dtype="__import__('os')", num_hidden_layers=1 << 33
    ),
    "a name of terminal escapes": a_config(model_type="\x1b]8;;http://evil\x07\x1b[31m\u202e"),
    "generation settings nested deeply": a_file("generation_config.json", DEEP_OBJECT),
    "generation settings of a gigabyte": with_sparse("generation_config.json", GIB),
}
ADAPTERS: dict[str, Make] = {
    "a base on the hub": adapter("someone/some-model"),
    "a base on the hub by revision": adapter("someone/some-model", revision="main"),
    "a base above": adapter("../../.."),
    "a base that is a pipe": lambda room: room.adapter(str(a_pipe(room))),
    "a base that is a device": adapter("/dev/zero"),
    "its own base": own_base,
    "four hundred on each other": adapter_chain,
    "a rank of 2^40": adapter(r=1 << 40),
    "ranks of 2^40": adapter(rank_pattern={"q_proj": 1 << 40}),
    "a pattern that takes for ever": adapter(target_modules=r"((\w|\.)+)+!"),
    "patterns of layers that take for ever": adapter(target_modules=["q_proj"], rank_pattern={r"((\w|\.)+)+!": 2}),
    "a base of a hundred thousand letters": adapter("x" * 100_000),
    "a base that is no name": adapter(base_model_name_or_path=3),
    "a list": lambda room: overwritten(room, b"[]"),
    "nested deeply": lambda room: overwritten(room, DEEP_OBJECT),
    "a link for weights": adapter_with_link,
    "an unknown kind": adapter(peft_type="../../x"),
}


HOSTILE: dict[str, Make] = {
    f"{kind}: {name}": make
    for kind, makes in {
        "pickles": PICKLES,
        "code": CODE,
        "template": TEMPLATES,
        "weights": WEIGHTS,
        "GGUF": GGUF,
        "tokenizer": TOKENIZERS,
        "file": FILES,
        "configuration": CONFIGS,
        "adapter": ADAPTERS,
    }.items()
    for name, make in makes.items()
}
"""Every hostile model by its name."""

SMALL = ("--seeds", "1", "--budget", "steps=1", "--prompts", "2", "--workers", "0", "--device", "cpu")
WAYS: dict[str, Callable[[str, Path], list[str]]] = {
    "audit": lambda model, home: ["audit", model, "--data", str(home / "data.jsonl"), "--attacks", "prefilling", *SMALL],
    "audit --base": lambda model, home: [
        *("audit", str(home / "other"), "--base", model, "--data", str(home / "data.jsonl"), "--attacks", "merge"),
        *("--threat-model", "open-weights+public-base", *SMALL),
    ],
    "audit --unguarded": lambda model, home: [
        *("audit", str(home / "sound"), "--unguarded", model, "--data", str(home / "data.jsonl"), "--attacks", "prefilling", *SMALL),
    ],
    "harden": lambda model, home: [
        *("harden", model, "--defense", "refusal_sft:steps=2", "--data", str(home / "data.jsonl"), "--prompts", "2", "--device", "cpu"),
    ],
    "compare": lambda model, home: [
        *("compare", model, "--defenses", "refusal_sft:steps=2", "--attacks", "prefilling", "--data", str(home / "data.jsonl"), *SMALL),
    ],
    "base-check": lambda model, home: [
        *("base-check", model, "--base", str(home / "other"), "--data", str(home / "data.jsonl"), *SMALL),
    ],
}
"""Ways by which a model comes in: the command for one, given its path and the folder of the sound ones."""
