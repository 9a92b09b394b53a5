"""What strangers wrote is run elsewhere, within limits, and only what it says comes back."""

from __future__ import annotations

import json

import pytest

from support.templates import TEMPLATES, byte_level_tokenizer
from tempering import confined
from tempering.errors import UnusableModel
from tempering.models.checkpoints import try_tokenizer

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Name a fish."}]


@pytest.mark.parametrize("name", ["chatml", "llama3.2", "gemma", "qwen3", "deepseek-r1"])
def test_a_template_renders_as_transformers_renders_it(name):
    template = TEMPLATES[name]
    tokenizer = byte_level_tokenizer(template.special)
    messages = MESSAGES[1:] if name == "gemma" else MESSAGES
    settings = {**tokenizer.special_tokens_map, "enable_thinking": False, "add_generation_prompt": True}
    expected = tokenizer.apply_chat_template(
        messages, chat_template=template.jinja, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert confined.render(template.jinja, messages, settings) == expected


def test_one_that_takes_too_much_is_ended_and_the_next_is_served():
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(confined.Exceeded, match="more than 3 s of computing"):
        confined.render(loops, MESSAGES, {})
    with pytest.raises(confined.Exceeded, match="more memory"):
        confined.render("{{ 'a' * 10000000000 }}", MESSAGES, {})
    with pytest.raises(confined.Exceeded, match="3000000 characters of a short conversation"):
        confined.render("{{ 'a' * 3000000 }}", MESSAGES, {})
    assert confined.render("{{ messages[1].content }}", MESSAGES, {}) == "Name a fish."


def test_what_it_says_of_itself_is_passed_on():
    with pytest.raises(confined.Refused, match="no system turn"):
        confined.render("{{ raise_exception('no system turn') }}", MESSAGES, {})


def test_it_cannot_see_the_environment(monkeypatch):
    monkeypatch.setenv("A_SECRET", "canary")
    confined._helper._end()
    confined.render("a", MESSAGES, {})
    process = confined._helper._process
    assert process is not None
    with open(f"/proc/{process.pid}/environ", "rb") as file:  # noqa: PTH123 (no regular file)
        assert b"canary" not in file.read()


def test_patterns_that_take_for_ever():
    with pytest.raises(confined.Exceeded):
        confined.try_patterns([r"((\w|\.)+)+!"], ["model.layers.0.self_attn.q_proj"])
    confined.try_patterns([r".*q_proj"], ["model.layers.0.self_attn.q_proj"])


def test_a_tokenizer_whose_pattern_takes_for_ever(tmp_path):
    path = tmp_path / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": split}))
    with pytest.raises(confined.Refused):
        confined.try_tokenizer(path)


def tokenizer(path, **parts):
    vocabulary = {"a": 0, "w": 1, "<s>": 2}
    path.write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}, **parts}))
    return path


def replacing(pattern, times, content="a" * 10, names="normalizers"):
    return {"type": "Sequence", names: [{"type": "Replace", "pattern": pattern, "content": content}] * times}


@pytest.mark.parametrize("times", [4, 12])
@pytest.mark.parametrize(
    "part",
    [
        lambda times: {"normalizer": replacing({"String": "a"}, times)},
        lambda times: {"normalizer": replacing({"String": "word"}, times, "word" * 10)},
        lambda times: {"normalizer": replacing({"Regex": "[aw]"}, times)},
        lambda times: {"decoder": replacing({"String": "a"}, times, names="decoders")},
    ],
)
def test_a_tokenizer_whose_replacements_multiply(part, times, tmp_path):
    with pytest.raises(confined.Exceeded, match=r"its replacements make up to .* characters of one"):
        confined.try_tokenizer(tokenizer(tmp_path / "tokenizer.json", **part(times)))


def test_a_tokenizer_that_pads_without_end(tmp_path):
    padding = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    for size in (20_000, 10**9):
        with pytest.raises(confined.Exceeded):
            confined.try_tokenizer(tokenizer(tmp_path / "tokenizer.json", padding={**padding, "strategy": {"Fixed": size}}))


def test_replacements_of_real_tokenizers_are_fine(tmp_path):
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        *({"type": "Replace", "pattern": {"String": quote * 2}, "content": '"'} for quote in "`'"),
        {"type": "NFKD"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    parts = {"normalizer": {"type": "Sequence", "normalizers": steps}, "decoder": {"type": "Sequence", "decoders": back}}
    confined.try_tokenizer(tokenizer(tmp_path / "tokenizer.json", **parts))


def test_every_tokenizer_is_tried_however_its_names_are_written(tmp_path):
    """JSON knows many ways to write a name: no search of the bytes tells which patterns a file holds."""
    path = tokenizer(tmp_path / "tokenizer.json", normalizer=replacing({"Regex": "a"}, 12))
    path.write_bytes(path.read_bytes().replace(b'"Regex"', b'"\\u0052egex"'))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnusableModel, match="is not used: its replacements make up to"):
        try_tokenizer(tmp_path, "it")


def test_one_that_is_sound_is_tried_once_in_a_process(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(confined, "try_tokenizer", tried.append)
    path = tokenizer(tmp_path / "tokenizer.json", padding=None)
    for _ in range(2):
        try_tokenizer(tmp_path, "it")
    assert tried == [path]
    path.write_bytes(path.read_bytes() + b" ")
    try_tokenizer(tmp_path, "it")
    assert tried == [path, path]
