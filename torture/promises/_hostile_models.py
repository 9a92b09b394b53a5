"""Models that a stranger might hand over, each made of a tiny sound one by one change, and the ways by which a model comes in."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture.mutations import ROOT

sys.path.append(str(ROOT / "tests"))

from support.tiny_gguf import write_tiny_gguf
from support.tiny_models import TEMPLATE, WORDS, tiny_model
from support.toy_study import rows, write_rows
from tempering.defenses._data import DEFAULT_REFUSALS
from tempering.models.saving import save

GIB = 1 << 30


class Payload:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


@dataclass(frozen=True)
class Room:
    """Where one hostile model is made.

    Attributes:
        model: a copy of the sound model's directory, to be changed.
        mark: a path at which code that came with the model would leave a folder.
        sound: the sound model.
        beside: a folder outside the model's.
    """

    model: Path
    mark: Path
    sound: Path
    beside: Path

    def change(self, name: str, **changes: Any) -> None:
        path = self.model / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def code(self) -> dict[str, str]:
        (self.model / "own.py").write_text(
            f"import os\nos.mkdir({str(self.mark)!r})\nfrom transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
            "class C(LlamaConfig):\n    model_type = 'own'\nclass M(LlamaForCausalLM):\n    config_class = C\n"
            "class T(PreTrainedTokenizerFast):\n    pass\n"
        )
        return {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}

    def header(self, header: bytes, data: bytes = b"", length: int | None = None) -> None:
        """A safetensors file with this header, said to be as long as told."""
        content = struct.pack("<Q", len(header) if length is None else length) + header + data
        (self.model / "model.safetensors").write_bytes(content)

    def sparse(self, name: str, size: int) -> None:
        with (self.model / name).open("wb") as file:
            file.truncate(size)

    def replace(self, name: str, make: Callable[[Path], Any]) -> None:
        (self.model / name).unlink()
        make(self.model / name)

    def adapter(self, base: str, **changes: Any) -> Path:
        """An adapter's directory, with the model's own weights for its."""
        place = self.beside / f"adapter{len(list(self.beside.iterdir()))}"
        place.mkdir()
        config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        (place / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM", **changes}))
        shutil.copy(self.sound / "model.safetensors", place / "adapter_model.safetensors")
        return place


DEEP_OBJECT = b'{"a":' * 100_000

Make = Callable[[Room], Any]
"""Makes the model hostile; returns the path to hand over where that is not the directory, or a tuple of flags beside it."""


def make_sound(folder: Path) -> Path:
    """A sound model, its data and a sound GGUF file in a folder; returns the model's directory."""
    words = (*WORDS, *(word for text in DEFAULT_REFUSALS for word in re.findall(r"\w+|[^\w\s]", text)))  # so that defences take it
    save(*tiny_model("llama", vocabulary=words), folder / "sound")
    save(*tiny_model("llama", 1, words), folder / "other")
    write_rows(folder / "data.jsonl", rows())
    write_tiny_gguf(folder / "sound.gguf")
    return folder / "sound"


def a_template(text: str) -> Make:
    return lambda room: (room.model / "chat_template.jinja").write_text(text + TEMPLATE)


def a_config(**changes: Any) -> Make:
    return lambda room: room.change("config.json", **changes)


def a_file(name: str, content: bytes) -> Make:
    return lambda room: (room.model / name).write_bytes(content)


def with_sparse(name: str, size: int) -> Make:
    return lambda room: room.sparse(name, size)


def a_link(name: str, to: str) -> Make:
    return lambda room: room.replace(name, lambda path: path.symlink_to(to))


def a_fifo(name: str) -> Make:
    def make(room: Room) -> None:
        (room.model / name).unlink(missing_ok=True)
        os.mkfifo(room.model / name)

    return make


def with_pickle(name: str) -> Make:
    def make(room: Room) -> None:
        (room.model / "model.safetensors").unlink()
        (room.model / name).write_bytes(pickle.dumps(Payload(room.mark)))

    return make


def a_tensor(**changes: Any) -> Make:
    about = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
    return lambda room: room.header(json.dumps({"a": about}).encode(), bytes(16))


def an_index(shard: str) -> Make:
    def make(room: Room) -> None:
        shutil.move(room.model / "model.safetensors", room.beside / "x.safetensors")
        (room.model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard.format(beside=room.beside)}}))

    return make


def with_code(*files: str, **changes: Any) -> Make:
    def make(room: Room) -> None:
        mapping = room.code()
        room.change("config.json", **{"auto_map": mapping, **changes})

    return make


def tokenizer_pattern(pattern: str) -> Make:
    def make(room: Room) -> None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        room.change("tokenizer.json", pre_tokenizer=split)

    return make


def unknown_word(number: int) -> Make:
    """A word of the vocabulary for which the model has no row. (An added token beyond the rows is let be: some sound models have such.)"""

    def make(room: Room) -> None:
        path = room.model / "tokenizer.json"
        content = json.loads(path.read_bytes())
        words = content["model"]["vocab"]
        words[next(reversed(words))] = number
        path.write_text(json.dumps(content))

    return make


def deep_index(room: Room) -> None:
    an_index("a.safetensors")(room)
    (room.model / "model.safetensors.index.json").write_bytes(DEEP_OBJECT)


def linked_weights(room: Room) -> None:
    shutil.move(room.model / "model.safetensors", room.beside / "weights")
    (room.model / "model.safetensors").symlink_to(room.beside / "weights")


def a_directory(name: str) -> Make:
    return lambda room: room.replace(name, lambda path: path.mkdir())


def with_gguf(make: Callable[[bytes], bytes]) -> Make:
    def made(room: Room) -> Path:
        path = room.beside / "hostile.gguf"
        path.write_bytes(make((room.sound.parent / "sound.gguf").read_bytes()))
        return path

    return made


def gguf_header(*, tensors: int = 0, entries: int = 0, body: bytes = b"", version: int = 3, padding: int = 0) -> Make:
    def made(room: Room) -> Path:
        path = room.beside / "hostile.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + body)
        if padding:
            with path.open("ab") as file:
                file.truncate(padding)
        return path

    return made


def a_key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def patched_key(name: str, number: int) -> Make:
    """The sound file with another number for one key of 32 bits."""

    def patch(content: bytes) -> bytes:
        at = content.index(name.encode()) + len(name) + 4
        return content[:at] + struct.pack("<I", number) + content[at + 4 :]

    return with_gguf(patch)


def adapter(base: str = "{sound}", **changes: Any) -> Make:
    return lambda room: room.adapter(base.format(sound=room.sound, beside=room.beside), **changes)


def adapter_chain(room: Room) -> Path:
    place, base = room.beside, str(room.sound)
    for _ in range(400):
        place = room.adapter(base)
        base = str(place)
    return place


def own_base(room: Room) -> Path:
    place = room.adapter("placeholder")
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(place)}))
    return place


def adapter_of_pickles(room: Room) -> Path:
    place = room.adapter(str(room.sound))
    (place / "adapter_model.safetensors").unlink()
    (place / "adapter_model.bin").write_bytes(pickle.dumps(Payload(room.mark)))
    return place


def adapter_with_link(room: Room) -> Path:
    place = room.adapter(str(room.sound))
    (place / "adapter_model.safetensors").unlink()
    (place / "adapter_model.safetensors").symlink_to(room.sound / "model.safetensors")
    return place


def template_flag(make: Callable[[Path], Any]) -> Make:
    def made(room: Room) -> tuple[str, ...]:
        make(room.beside / "template")
        return "--chat-template", str(room.beside / "template")

    return made


def a_pipe(room: Room) -> Path:
    os.mkfifo(room.beside / "pipe")
    return room.beside / "pipe"


def a_socket(room: Room) -> Path:
    here = Path.cwd()
    os.chdir(room.beside)  # a socket's path may be a hundred characters long
    socket.socket(socket.AF_UNIX).bind("socket")
    os.chdir(here)
    return room.beside / "socket"


def link_among_templates(room: Room) -> None:
    (room.model / "additional_chat_templates").mkdir()
    (room.model / "additional_chat_templates" / "a.jinja").symlink_to("/etc/passwd")


def escape(template: str) -> Make:
    return lambda room: (room.model / "chat_template.jinja").write_text(template.replace("{mark}", str(room.mark)) + TEMPLATE)


def overwritten(room: Room, content: bytes) -> Path:
    place = room.adapter(str(room.sound))
    (place / "adapter_config.json").write_bytes(content)
    return place
