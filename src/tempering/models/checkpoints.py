"""Loads what lies on the disk: a directory in the Hugging Face layout, or a GGUF file. Never asks the network."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tempering import confined
from tempering.errors import UnusableModel
from tempering.models.belonging import TOKENIZER_BYTES, check_belonging
from tempering.models.gguf_header import check_gguf
from tempering.models.hub import one_line
from tempering.models.inspection import has_tokenizer, inspect
from tempering.models.quantised import loading_settings
from tempering.models.quiet import quiet_libraries
from tempering.reading import Unreadable, read_bytes


@dataclass(frozen=True)
class Options:
    """How the weights are to be held.

    Attributes:
        dtype: type of the weights; ``None`` keeps the checkpoint's own.
        trust_remote_code: run code that ships with the model.
        quantization: ``nf4`` or ``int8``; ``None`` holds the weights as they are.
        device: where quantised weights are put; others are moved later.
    """

    dtype: torch.dtype | None = None
    trust_remote_code: bool = False
    quantization: str | None = None
    device: torch.device | None = None


def load_directory(directory: Path, reference: str, options: Options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a directory's safetensors and tokenizer.

    Args:
        directory: holds ``config.json``, safetensors (sharded or not) and a tokenizer.
        reference: what the user called it, for messages.
        options: dtype and trust.

    Raises:
        UnusableModel: anything in the directory that cannot be loaded safely as a decoder.
    """
    found = inspect(directory, reference, trust_remote_code=options.trust_remote_code)
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
    dtype = options.dtype or getattr(torch, found.dtype)
    try:
        with quiet_libraries():
            config = AutoConfig.from_pretrained(directory, **common)
            _check_config(config, reference)
            packing = loading_settings(options.quantization, dtype, options.device)
            model, told = _read_weights(directory, config=config, dtype=dtype, use_safetensors=True, **packing, **common)
    except UnusableModel:
        raise
    except Exception as error:  # transformers raises anything from KeyError to its own, all caused by the directory
        raise UnusableModel(f"{reference} cannot be loaded: {one_line(error)}") from error
    _check_complete(told, reference)
    return model, load_tokenizer(directory, reference, options)


def load_tokenizer(directory: Path, reference: str, options: Options) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory.

    Raises:
        UnusableModel: there is none, or it cannot be loaded.
    """
    if not has_tokenizer(directory):
        raise UnusableModel(f"{reference} comes without a tokenizer", "put the tokenizer.json that belongs to it beside the weights")
    try_tokenizer(directory, reference)
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=options.trust_remote_code)
    except BaseException as error:  # what is compiled may panic, which is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UnusableModel(f"the tokenizer of {reference} cannot be loaded: {one_line(error)}") from error
    return _usable(tokenizer, reference)


def try_tokenizer(directory: Path, reference: str) -> None:
    """Try a tokenizer in a process of its own: its patterns may take for ever, and its replacements make terabytes of a letter.

    Which ones do cannot be told from the bytes of the file, since JSON has many ways to write a name. So every one is tried, once in a
    process: a few tenths of a second, a second for a quarter of a million tokens.

    Raises:
        UnusableModel: it is one of those.
    """
    check_belonging(directory, reference)
    path = directory / "tokenizer.json"
    try:
        if not path.is_file():
            return
        content = hashlib.sha256(read_bytes(path, TOKENIZER_BYTES)).digest()
        if content not in _tried:
            confined.try_tokenizer(path)
            _tried.add(content)
    except confined.Exceeded as error:
        raise UnusableModel(f"the tokenizer of {reference} is not used: {error}", "take the model from a source you trust") from None
    except (confined.Refused, Unreadable) as error:
        raise UnusableModel(f"the tokenizer of {reference} cannot be loaded: {error}", "download the model again") from None


_tried: set[bytes] = set()
"""SHA-256 of the tokenizers that were tried and found sound."""


def load_gguf(path: Path, reference: str, options: Options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GGUF file, its quantised blocks unpacked, as a plain model.

    Without a dtype asked for, a file of quantised blocks becomes bfloat16, which loses less than the quantisation already has,
    and one of plain floating point keeps its own type.

    Raises:
        UnusableModel: the ``gguf`` package is missing, or the file is broken, incomplete or of an unknown architecture.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UnusableModel(
            f"{reference} is a GGUF file, and reading it needs the gguf package", "install it: pip install 'tempering[gguf]'"
        )
    if re.search(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", path.name):
        raise UnusableModel(f"{reference} is one part of a split GGUF file", "join the parts first: llama-gguf-split --merge FIRST OUT")
    check_gguf(path, reference)
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    unpack = getattr(transformers, "GgufConfig", None)  # newer transformers may otherwise keep the blocks packed
    try:
        dtype = options.dtype or _gguf_dtype(path)
        # the bar of the unpacking obeys no setting, so it is sent where nobody sees it
        with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
            packing = {"quantization_config": unpack(dequantize=True)} if unpack else {}
            model, told = _read_weights(path.parent, dtype=dtype, **packing, **where)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    except Exception as error:
        raise UnusableModel(f"the GGUF file {reference} cannot be loaded: {one_line(error)}") from error
    _check_complete(told, reference)
    return _plain(model), _usable(tokenizer, reference)


def _read_weights(directory: Path, **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and what transformers tells of the keys that it missed."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **settings)
    model, told = loaded
    return model, told


def _gguf_dtype(path: Path) -> torch.dtype:
    """The type most of a file's weights are stored in; bfloat16 where those are quantised blocks."""
    from gguf import GGMLQuantizationType, GGUFReader

    sizes: dict[Any, int] = {}
    for tensor in GGUFReader(path).tensors:
        sizes[tensor.tensor_type] = sizes.get(tensor.tensor_type, 0) + int(tensor.n_elements)
    kinds = {
        GGMLQuantizationType.F64: torch.float64,
        GGMLQuantizationType.F32: torch.float32,
        GGMLQuantizationType.F16: torch.float16,
    }
    return kinds.get(max(sizes, key=lambda kind: sizes[kind]), torch.bfloat16)


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """Forget that the weights were once quantised: they are plain tensors now, and are saved and trained as such."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    return model


def _check_config(config: PreTrainedConfig, reference: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise UnusableModel(
            f"{reference} is not a decoder: {config.model_type} has an encoder and a decoder",
            "give a chat model that generates text left to right",
        )
    text = config.get_text_config(decoder=True)
    if not getattr(text, "num_attention_heads", None):
        raise UnusableModel(
            f"{reference} has no attention ({config.model_type}), and what it costs to attack such a model cannot be counted yet",
            "give a transformer; state-space layers beside attention are no hindrance",
        )
    # Since transformers 5 an attention implementation may name a repository whose kernel is fetched and run.
    if "/" in str(getattr(config, "_attn_implementation", None) or ""):
        raise UnusableModel(
            f"config.json of {reference} asks for an attention kernel from the hub, and such code is not run",
            "remove its attn_implementation",
        )


def _check_complete(told: dict[str, Any], reference: str) -> None:
    """Refuse a model that would start with random weights in some places."""
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        raise UnusableModel(
            f"{reference} lacks {len(missing)} tensors that its architecture needs, {missing[0]} among them",
            "give a complete checkpoint with its language-modelling head",
        )


def _usable(tokenizer: PreTrainedTokenizerBase, reference: str) -> PreTrainedTokenizerBase:
    if not len(tokenizer):
        raise UnusableModel(f"the tokenizer of {reference} is empty", "put the tokenizer.json that belongs to it beside the weights")
    return tokenizer
