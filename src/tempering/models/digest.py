"""Digests that name a model by what it is: the same weights give the same name in every process, on every device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_CHUNK = 1 << 22
"""Elements brought to the host at once (16 MiB of float32), so that a digest never doubles the memory a model takes."""

_PASSING = frozenset({"architectures", "auto_map", "dtype", "name_or_path", "torch_dtype", "transformers_version", "use_cache"})
"""Fields of a configuration that say where it came from or how it was stored, not what the model computes."""


@torch.no_grad()
def weight_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all weights.

    Tensors are taken in the order of their names. Tied ones (the same memory under several names) count once, under the name
    that sorts first, so a model digests alike whether or not its file repeats them.

    Args:
        model: any module; parameters and persistent buffers count.

    Returns:
        Sixty-four hexadecimal digits, independent of device, process and memory layout. Bytes are little-endian, as in safetensors.
    """
    digest = hashlib.sha256()
    for name, tensor in _distinct(model):
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{','.join(map(str, tensor.shape))}\0".encode())
        for chunk in _chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()


def target_digest(model: PreTrainedModel, template: str) -> str:
    """What decides how a target behaves, as one name: its weights, its architecture and its chat template.

    The architecture counts because equal weights can compute different things: Llama and Mistral name their tensors alike, and a
    changed rotary base shows in no tensor at all.

    Args:
        model: the model.
        template: the Jinja chat template in use.

    Returns:
        Sixty-four hexadecimal digits.
    """
    described = {key: value for key, value in model.config.to_diff_dict().items() if key not in _PASSING and not key.startswith("_")}
    architecture = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(f"{weight_digest(model)}\0{architecture}\0{template}".encode()).hexdigest()


def _distinct(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors by sorted name, without those that show the same memory in the same way as an earlier one."""
    seen: set[Hashable] = set()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        memory = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and memory in seen:
            continue
        seen.add(memory)
        yield name, tensor


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in row-major order, a chunk at a time."""
    flat = tensor.detach().contiguous().reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        # numpy knows no bfloat16; bytes are all that is wanted
        yield flat[start : start + _CHUNK].cpu().view(torch.uint8).numpy().data
