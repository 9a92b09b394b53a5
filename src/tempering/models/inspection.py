"""Looks at a model directory before anything in it is loaded, so that what cannot or must not be loaded is told in one line."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tempering.errors import UnusableModel
from tempering.models.belonging import check_belonging, names_in, read_json
from tempering.models.plausible import Stored, check_sizes

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
"""Endings of weight files that are, or may be, programs: reading a pickle runs it."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json", "tokenizer_config.json")

_OTHER_HEAD = re.compile(
    r"For(MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|PreTraining|ImageClassification)$"
)
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Inspection:
    """What a look at a directory tells.

    Attributes:
        config: ``config.json``.
        dtype: the type most of the weights are stored in, as torch calls it.
    """

    config: dict[str, Any]
    dtype: str


def inspect(directory: Path, reference: str, *, trust_remote_code: bool = False) -> Inspection:
    """Check a directory's configuration and weights without loading either.

    Args:
        directory: a directory in the Hugging Face layout.
        reference: what the user called it, for messages.
        trust_remote_code: accept an architecture that comes as code with the model.

    Raises:
        UnusableModel: anything that would keep the directory from being loaded safely as a decoder.
    """
    files = _files(directory, reference)
    check_belonging(directory, reference)
    if "config.json" not in files:
        raise _without_config(files, reference)
    config = read_json(directory / "config.json", reference)
    _check_architecture(config, reference, trust_remote_code)
    weights = [check_safetensors(path, reference) for path in _weight_files(directory, files, reference)]
    stored = Stored(sum(file.tensors for file in weights), max(file.largest for file in weights))
    check_sizes(config, stored, "config.json", reference)
    return Inspection(config, _dtype_of(sum((file.sizes for file in weights), Counter()), reference))


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory comes with a tokenizer."""
    return any((directory / name).is_file() for name in TOKENIZER_FILES)


@dataclass(frozen=True)
class WeightFile:
    """What the header of a weight file tells.

    Attributes:
        sizes: bytes by stored type.
        tensors: how many there are.
        largest: the largest dimension of any.
    """

    sizes: Counter[str]
    tensors: int
    largest: int


def check_safetensors(path: Path, reference: str) -> WeightFile:
    """Open a weight file, which checks its header against its length, and look at what it tells of its tensors.

    Raises:
        UnusableModel: truncated or not safetensors.
    """
    sizes: Counter[str] = Counter()
    tensors, largest = 0, 0
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part = file.get_slice(name)
                tensors, count = tensors + 1, 1
                for length in part.get_shape():
                    count, largest = count * length, max(largest, length)
                sizes[part.get_dtype()] += count * _BYTES.get(part.get_dtype(), 1)
    except (SafetensorError, OSError) as error:
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise UnusableModel(f"{path.name} of {reference} is only a Git LFS pointer", "fetch the file itself: git lfs pull") from None
        raise UnusableModel(f"{path.name} of {reference} is broken or cut short: {error}", "download the model again") from None
    return WeightFile(sizes, tensors, largest)


def pickle_refusal(names: list[str], reference: str, loader: str = "AutoModelForCausalLM") -> UnusableModel:
    """The refusal of weights that are kept as pickles, saying how to convert them."""
    return UnusableModel(
        f"{reference} keeps its weights as pickles only ({names[0]}), and reading a pickle can run code",
        f"convert it where you trust it: {loader}.from_pretrained(OLD).save_pretrained(NEW) writes safetensors",
    )


def _files(directory: Path, reference: str) -> set[str]:
    try:
        return names_in(directory)
    except OSError as error:
        raise UnusableModel(f"cannot read {reference}: {error.strerror or error}") from None


def _without_config(files: set[str], reference: str) -> UnusableModel:
    gguf = sorted(name for name in files if name.endswith(".gguf"))
    if gguf:
        return UnusableModel(f"{reference} holds GGUF files", f"give the file: {reference.rstrip('/')}/{gguf[0]}")
    if not files:
        return UnusableModel(f"{reference} is an empty directory")
    if not any(name.endswith((".safetensors", *PICKLES)) for name in files):
        return UnusableModel(f"{reference} holds no model: neither config.json nor weights")
    return UnusableModel(f"{reference} has no config.json", "put the model's config.json beside its weights")


def _check_architecture(config: dict[str, Any], reference: str, trust_remote_code: bool) -> None:
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise UnusableModel(f"config.json of {reference} names no model_type", "take the config.json that came with the weights")
    if family not in CONFIG_MAPPING:
        if config.get("auto_map"):
            if trust_remote_code:
                return
            raise UnusableModel(
                f"{reference} needs code that ships with it (architecture {family!r}), and such code is not run",
                "read the code, then pass --trust-remote-code for this model",
            )
        near = difflib.get_close_matches(family, list(CONFIG_MAPPING.keys()), n=1, cutoff=0.8)
        hint = f"did you mean {near[0]!r}?" if near else "a newer transformers may know it"
        raise UnusableModel(f"config.json of {reference} names the unknown architecture {family!r}", hint)
    if config.get("is_encoder_decoder"):
        raise _not_a_decoder(reference, f"{family} has an encoder and a decoder")
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise UnusableModel(
                f"{reference} reads images beside text ({family}), and only models of text are audited",
                "save its language model alone, with the tokenizer, and give that",
            )
        raise _not_a_decoder(reference, f"{family} generates no text")
    heads = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if heads and all(_OTHER_HEAD.search(name) for name in heads):
        raise _not_a_decoder(reference, f"it is a {heads[0]}")
    if config.get("quantization_config"):
        method = (
            config["quantization_config"].get("quant_method", "an unknown method")
            if isinstance(config["quantization_config"], dict)
            else "?"
        )
        raise UnusableModel(
            f"{reference} is quantised ({method}), and quantised weights cannot be attacked or measured exactly",
            "give the unquantised checkpoint, or a GGUF file, which is unpacked",
        )


def _not_a_decoder(reference: str, why: str) -> UnusableModel:
    return UnusableModel(f"{reference} is not a decoder: {why}", "give a chat model that generates text left to right")


def _weight_files(directory: Path, files: set[str], reference: str) -> list[Path]:
    """The safetensors files that make up the model, each one present and inside the directory."""
    if WEIGHTS in files:
        return [directory / WEIGHTS]
    if INDEX not in files:
        raise _without_weights(files, reference)
    shards = read_json(directory / INDEX, reference).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UnusableModel(f"{INDEX} of {reference} has no usable weight_map", "download the model again")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UnusableModel(
                f"{INDEX} of {reference} names {name!r}, which is no safetensors file of that directory",
                "take the model from a source you trust",
            )
        if name not in files and not (directory / name).exists():
            raise UnusableModel(f"{reference} lacks {name}, one of its {len(names)} weight files", "download the rest")
    return [directory / name for name in names]


def _without_weights(files: set[str], reference: str) -> UnusableModel:
    pickles = sorted(
        name for name in files if name.endswith(PICKLES) and not name.startswith(("training_args", "optimizer", "scheduler", "rng_state"))
    )
    if pickles:
        return pickle_refusal(pickles, reference)
    strays = sorted(name for name in files if name.endswith(".safetensors"))
    if strays:
        return UnusableModel(
            f"{reference} has neither {WEIGHTS} nor {INDEX}, only {strays[0]}", "save the model again with save_pretrained"
        )
    return UnusableModel(f"{reference} is a directory without weights", f"put {WEIGHTS} beside its config.json")


def _dtype_of(sizes: Counter[str], reference: str) -> str:
    floats = {name: size for name, size in sizes.items() if name in _TORCH_NAMES}
    if not sizes:
        raise UnusableModel(f"the weight files of {reference} hold no tensors", "download the model again")
    if sum(floats.values()) < sum(sizes.values()) / 2:
        raise UnusableModel(
            f"most weights of {reference} are stored as {sizes.most_common(1)[0][0]}, not as floating point",
            "give the unquantised checkpoint",
        )
    return _TORCH_NAMES[max(floats, key=lambda name: floats[name])]
