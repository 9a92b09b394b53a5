"""From a reference to a loaded target: every kind of model, one function, one line for whatever is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tempering.data.chat import ChatFormat
from tempering.errors import UnknownName, UnusableModel
from tempering.models import adapters, hub
from tempering.models.belonging import CONFIG_BYTES
from tempering.models.checkpoints import Options, load_directory, load_gguf, load_tokenizer
from tempering.models.digest import target_digest
from tempering.models.inspection import has_tokenizer
from tempering.models.quantised import checked
from tempering.models.references import Kind, kind_of, resolve
from tempering.models.target import Safeguard, Target
from tempering.reading import Unreadable, read_text
from tempering.relocation import located

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The types weights may be loaded in."""


@dataclass(frozen=True)
class _Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    safeguard: Safeguard
    revision: str | None


@dataclass(frozen=True)
class Plain:
    """A model that is asked and not attacked, with or without a chat template.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: its tokenizer.
        digest: SHA-256 over names, shapes, dtypes and bytes of all weights, and the architecture; the chat template is left out.
        revision: commit of a model from the hub.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    revision: str | None


def load_plain(reference: str, *, dtype: str | None = None, device: str | None = None) -> Plain:
    """Load a model that need not be made for chats, by the references that :func:`load` takes. No code of its own is run.

    Raises:
        UnusableModel: whatever is wrong with the model, in one line that says what to do.
        UnknownName: an organism or a dtype that does not exist.
    """
    options = Options(_dtype(dtype), False)
    place = _device(device)
    loaded = _load(reference, options, trail=())
    _check_vocabulary(loaded.model, loaded.tokenizer, reference)
    model = _move(loaded.model, place, reference)
    model.eval()
    _check_causal(model, reference)
    return Plain(model, loaded.tokenizer, target_digest(model, ""), loaded.revision)


def load(
    reference: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    chat_template: Path | None = None,
    trust_remote_code: bool = False,
    other_template: str | None = None,
    system: str | None = None,
    quantization: str | None = None,
) -> Target:
    """Load a model as a target.

    Args:
        reference: ``organism:NAME[/variant]``, a directory with safetensors, a GGUF file, a PEFT adapter's directory, or
            ``hub-id@revision``. A path that exists is never taken for a hub id, and nothing local asks the network.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``None`` keeps the checkpoint's own.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``None`` takes ``cuda`` where there is one.
        chat_template: a file with a Jinja chat template, in place of the model's own.
        trust_remote_code: run code that ships with the model.
        other_template: a Jinja chat template for a model that has none of its own.
        system: the system prompt that it is deployed with.
        quantization: hold the weights in few bits: ``nf4`` or ``int8``.

    Raises:
        UnusableModel: whatever is wrong with the model, in one line that says what to do.
        UnknownName: an organism or a dtype that does not exist.
    """
    place = _device(device)
    options = Options(_dtype(dtype), trust_remote_code, checked(quantization, reference), place)
    template = _read_template(chat_template)
    loaded = _load(reference, options, trail=())
    model, tokenizer = loaded.model, loaded.tokenizer
    _check_vocabulary(model, tokenizer, reference)
    chat = _chat_format(tokenizer, template or (None if tokenizer.chat_template else other_template), reference, system, _ends(model))
    tokenizer.chat_template = chat.template  # so that saving the target keeps the template it was measured with
    model = _move(model, place, reference) if quantization is None else model
    model.eval()
    _check_causal(model, reference)
    return Target(
        reference=reference,
        model=model,
        tokenizer=tokenizer,
        chat=chat,
        digest=target_digest(model, chat.template),
        safeguard=loaded.safeguard,
        revision=loaded.revision,
    )


def _load(reference: str, options: Options, trail: tuple[str, ...]) -> _Loaded:
    source = resolve(reference)
    path, kind, revision = source.path, source.kind, None
    options = replace(options, dtype=options.dtype or _dtype(source.dtype))
    if kind is Kind.HUB:
        # what a directory on this machine names is no wish of the user's
        asked = not trail or hub.is_cached(Path(trail[0]))
        path, revision = hub.fetch(
            source.hub_name, source.revision, reference, trust_remote_code=options.trust_remote_code, local_only=not asked
        )
        kind = kind_of(path, reference)
    if options.quantization and kind in (Kind.GGUF, Kind.ADAPTER):
        raise UnusableModel(
            f"{reference} is of the kind {kind}, whose weights are made on loading and cannot be held in {options.quantization}",
            "load it once, save it as a directory, and give that",
        )
    if kind is Kind.GGUF:
        model, tokenizer = load_gguf(path, reference, options)
    elif kind is Kind.ADAPTER:
        return _load_adapter(path, reference, options, trail, revision)
    else:
        model, tokenizer = load_directory(path, reference, options)
    return _Loaded(model, tokenizer, source.safeguard, revision)


def _load_adapter(directory: Path, reference: str, options: Options, trail: tuple[str, ...], revision: str | None) -> _Loaded:
    """The base with the adapter merged in; the adapter's tokenizer and template win over the base's."""
    here = str(directory.resolve())
    adapters.check_cycle(here, trail)
    base_name = adapters.base_reference(directory, reference)
    try:
        base = _load(base_name, options, (*trail, here))
    except (UnusableModel, UnknownName) as error:
        if trail:
            raise
        raise UnusableModel(f"the base model of the adapter {reference} cannot be loaded: {error}") from error
    model = adapters.merge(base.model, directory, reference)
    tokenizer = load_tokenizer(directory, reference, options) if has_tokenizer(directory) else base.tokenizer
    if not tokenizer.chat_template:
        tokenizer.chat_template = base.tokenizer.chat_template
    return _Loaded(model, tokenizer, "unknown", revision)


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)
    return DTYPES[name]


def device_type(name: str | None) -> str:
    """The kind of device, ``cpu`` or ``cuda``, that :func:`load` would take.

    Args:
        name: as for :func:`load`.

    Raises:
        UnusableModel: there is no such device.
    """
    return _device(name).type


def _device(name: str | None) -> torch.device:
    """The device asked for, once it is known to be there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnusableModel(f"there is no device {name!r}", "write cpu, cuda or cuda:NUMBER") from None
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if available == 0:
        raise UnusableModel(f"the device {name!r} is not available on this machine", "take --device cpu, or leave it out")
    if (device.index or 0) >= available:
        raise UnusableModel(
            f"there is no device {name!r}: this machine has {available} of the kind",
            f"numbers start at 0, so take {device.type}:{available - 1}",
        )
    return device


def _read_template(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = read_text(located(str(path)) or path, CONFIG_BYTES)
    except Unreadable as error:
        raise UnusableModel(f"cannot read the chat template {path}: {error}", "give a text file with a Jinja template") from None
    if not text.strip():
        raise UnusableModel(f"the chat template {path} is empty", "give a text file with a Jinja template")
    return text


def _chat_format(
    tokenizer: PreTrainedTokenizerBase, template: str | None, reference: str, system: str | None, ends: list[int]
) -> ChatFormat:
    own = tokenizer.chat_template
    if template is None and not (own.get("default") if isinstance(own, dict) else own):
        raise UnusableModel(f"{reference} has no chat template", "give one: --chat-template FILE")
    return ChatFormat(tokenizer, template, system, ends=ends)


def _ends(model: PreTrainedModel) -> list[int]:
    """Token ids that the model's generation settings end a response at, as far as the model has them."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    ids = named if isinstance(named, (list, tuple)) else [] if named is None else [named]
    embedding: Any = model.get_input_embeddings()
    return [int(token) for token in ids if 0 <= int(token) < len(embedding.weight)]


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reference: str) -> None:
    """Refuse a tokenizer whose tokens the model does not know.

    Added tokens that no text of ours contains may lie beyond the model's rows, as they do in some checkpoints; those that the tokenizer
    itself puts into texts may not. Padding is masked, so it moves to a token that the model has.
    """
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    added = set(tokenizer.added_tokens_decoder)
    ordinary = max((token for token in tokenizer.get_vocab().values() if token not in added), default=0)
    highest = max([ordinary, *(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None)])
    if highest >= rows:
        raise UnusableModel(
            f"the tokenizer of {reference} has token {highest}, but the model knows {rows} tokens only",
            "use the tokenizer that belongs to the weights",
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def _move(model: PreTrainedModel, device: torch.device, reference: str) -> PreTrainedModel:
    try:
        return model.to(device)  # type: ignore[no-any-return,arg-type]
    except torch.OutOfMemoryError as error:
        raise UnusableModel(f"{reference} does not fit into the memory of {device}", "take --dtype bfloat16, or --device cpu") from error


@torch.no_grad()
def _check_causal(model: PreTrainedModel, reference: str) -> None:
    """Refuse encoders: in a decoder no token changes what comes before it, whatever the family calls itself."""
    first, second, third = range(3)
    rows = torch.tensor([[first, second, second], [first, second, third]], device=model.device)
    with _readable_failure(reference):
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[:, :2].float()
    scale = logits.abs().max().clamp_min(1e-6)
    if not torch.isfinite(logits).all():
        raise UnusableModel(
            f"{reference} computes numbers that are not finite", "its weights are broken, or overflow in this dtype: try --dtype float32"
        )
    rounding = max(1e-3, 4 * torch.finfo(model.dtype).eps)  # experts may be grouped otherwise, and so be rounded otherwise
    if (logits[0] - logits[1]).abs().max() > rounding * scale:
        raise UnusableModel(
            f"{reference} is not a decoder: it looks ahead, as encoders do", "give a chat model that generates text left to right"
        )


@contextlib.contextmanager
def _readable_failure(reference: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the weights make the architecture run into
        raise UnusableModel(f"{reference} loads but does not run: {hub.one_line(error)}") from error
