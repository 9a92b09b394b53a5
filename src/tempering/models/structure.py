"""Where the parts of a decoder are, for any family.

Families agree on the parts but not on their names: what Llama calls ``self_attn.o_proj`` is ``attention.dense`` in GPT-NeoX and
``self_attn.dense`` in Phi. :class:`Structure` finds them once, by structure first and by name where structure cannot tell, so that
no attack or defence knows a family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tempering.errors import UnusableModel
from tempering.models.outputs import MLP_OUTPUTS, mixture_of, written_matrices, written_parameters

ATTENTION_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
"""Last part of the name of the projection that writes the heads' result into the residual stream."""

OTHER_OUTPUTS = ("out_proj", "o_proj", "per_layer_projection")
"""Last part of the name of what else may write into the stream, outside attention and MLP: state-space mixers (Falcon-H1), short
convolutions (LFM2), embeddings for each layer (Gemma 3n and 4). What is not edited with the rest would let a direction back in."""

OUTPUT_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),  # Gemma 2 and 3, OLMo 2 and 3, EXAONE 4
    ("post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM-4
)
"""Pairs of norms between a block's outputs and the residual stream. The first alone means nothing: Llama's norm *before* the MLP
bears the same name, so a block has output norms only where it has both of a pair."""

_ATTENTION = re.compile(r"att(n|ention)")
_EXPERTS = re.compile(r"(^|[._])experts?\b|moe")


@dataclass(frozen=True)
class Structure:
    """The parts of one decoder; the modules are the model's own, not copies.

    Blocks may be sequential or parallel (attention and MLP reading the same input, as in GPT-NeoX and Phi): what is written into
    the residual stream is the same set either way.

    Attributes:
        blocks: the decoder layers, in order.
        embedding: turns token ids into the first residual stream.
        position_embedding: learned positions that are added to it (OPT), or ``None`` (rotary families).
        final_norm: applied to the last residual stream, or ``None`` where the family has none.
        head: from the normed residual stream to logits; shares its weight with ``embedding`` in tied models.
        attention_outputs: the linear modules, one a block, whose result enters the residual stream; their weights are the
            :func:`~tempering.models.outputs.written_matrices`, (hidden, heads × head size).
        mlp_outputs: likewise for the MLP, (hidden, intermediate); in a mixture of experts the module that adds up what its experts write.
        attention_output_norms: the norm between that module and the residual stream (Gemma 2, OLMo 2), or ``None``, one a block.
        mlp_output_norms: likewise for the MLP.
        attention_output_names: dotted names of ``attention_outputs`` in the model.
        mlp_output_names: dotted names of ``mlp_outputs`` in the model.
        mlp_output_weights: for each of them the dotted names of the parameters that write.
        hidden_size: width of the residual stream.
    """

    blocks: tuple[nn.Module, ...]
    embedding: nn.Embedding
    position_embedding: nn.Embedding | None
    final_norm: nn.Module | None
    head: nn.Linear
    attention_outputs: tuple[nn.Module, ...]
    mlp_outputs: tuple[nn.Module, ...]
    attention_output_norms: tuple[nn.Module | None, ...]
    mlp_output_norms: tuple[nn.Module | None, ...]
    attention_output_names: tuple[str, ...]
    mlp_output_names: tuple[str, ...]
    mlp_output_weights: tuple[tuple[str, ...], ...]
    hidden_size: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Structure:
        """Find the parts of a model.

        Args:
            model: a decoder with a language-modelling head.

        Raises:
            UnusableModel: a part cannot be found.
        """
        embedding, head = _ends(model)
        hidden_size = embedding.embedding_dim
        decoder = model.get_decoder()
        blocks = _blocks(decoder, model)
        names = {id(module): name for name, module in model.named_modules()}
        attention = [_output(block, hidden_size, "attention", model, names[id(block)]) for block in blocks]
        mlp = [_output(block, hidden_size, "MLP", model, names[id(block)]) for block in blocks]
        norms = [_output_norms(block) for block in blocks]
        return cls(
            blocks=blocks,
            embedding=embedding,
            position_embedding=_position_embedding(decoder, embedding),
            final_norm=_final_norm(decoder),
            head=head,
            attention_outputs=tuple(attention),
            mlp_outputs=tuple(mlp),
            attention_output_norms=tuple(first for first, _ in norms),
            mlp_output_norms=tuple(second for _, second in norms),
            attention_output_names=tuple(names[id(module)] for module in attention),
            mlp_output_names=tuple(names[id(module)] for module in mlp),
            mlp_output_weights=tuple(tuple(f"{names[id(module)]}.{own}" for own in written_parameters(module)) for module in mlp),
            hidden_size=hidden_size,
        )


@torch.no_grad()
def norm_scale(norm: nn.Module | None, like: Tensor) -> Tensor:
    """What an RMS norm multiplies each channel by after normalising.

    To keep a direction r out of the residual stream behind such a norm, its input must be orthogonal to scale × r, not to r:
    (scale × x) · r = x · (scale × r). Found by asking the norm, since families write the scale differently (Gemma stores scale − 1).

    Args:
        norm: a norm of :attr:`Structure.attention_output_norms` or ``mlp_output_norms``; ``None`` scales by one.
        like: (hidden,), gives size, type and device.

    Returns:
        (hidden,): the scale of each channel.
    """
    ones = torch.ones_like(like)
    if norm is None:
        return ones
    # The root mean square of ±1 is one, so only the scale is left. Half the signs are turned so that a norm that also takes the mean
    # away (LayerNorm) meets a mean of zero; a bias falls out in the difference.
    signs = ones.clone()
    signs[1::2] = -1
    parameter = next(norm.parameters(), like)
    probe = signs.to(parameter.device, parameter.dtype)
    scaled: Tensor = (norm(probe) - norm(-probe)) / 2
    return scaled.to(like.device, like.dtype) * signs


def _unknown(model: PreTrainedModel, what: str) -> UnusableModel:
    family = getattr(model.config, "model_type", type(model).__name__)
    return UnusableModel(
        f"cannot find {what} in a model of the family {family!r}", "attacks that edit weights by part do not know this architecture"
    )


def _ends(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise _unknown(model, "the token embedding")
    if not isinstance(head, nn.Linear):
        raise _unknown(model, "the output head")
    return embedding, head


def decoder_blocks(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """The decoder layers alone, in order, of any family, mixtures of experts included.

    Raises:
        UnusableModel: they cannot be found.
    """
    return _blocks(model.get_decoder(), model)


def _blocks(decoder: nn.Module, model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """The list of layers as long as the configuration says; it may sit one level down (OPT's ``decoder.layers``)."""
    expected = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == expected]
    if not lists:
        raise _unknown(model, f"its {expected} decoder layers")
    return tuple(lists[0])


def _final_norm(decoder: nn.Module) -> nn.Module | None:
    """The last norm that stands beside the layers, not in them."""
    norms = [module for name, module in decoder.named_children() if re.search(r"norm|ln_f", name) and not isinstance(module, nn.ModuleList)]
    return norms[-1] if norms else None


def _position_embedding(decoder: nn.Module, embedding: nn.Embedding) -> nn.Embedding | None:
    others = [
        module
        for module in decoder.children()
        if isinstance(module, nn.Embedding) and module is not embedding and module.embedding_dim == embedding.embedding_dim
    ]
    return others[0] if others else None


def _output(block: nn.Module, hidden_size: int, part: str, model: PreTrainedModel, block_name: str) -> nn.Module:
    """The one module of a block's attention or MLP whose result enters the residual stream."""
    in_attention = part == "attention"
    writers = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and _width(module) == hidden_size and bool(_ATTENTION.search(name)) is in_attention
    }
    if not in_attention and any(_EXPERTS.search(name) for name, _ in block.named_modules()):
        return _mixture(block, hidden_size, writers, model, block_name)
    known = ATTENTION_OUTPUTS if in_attention else MLP_OUTPUTS
    if not in_attention and any(name.rpartition(".")[2] in OTHER_OUTPUTS for name in writers):
        raise _unknown(model, f"a block of attention and MLP alone in {block_name}")
    named = [module for name, module in writers.items() if name.rpartition(".")[2] in known]
    # Under an unknown name an MLP's output is still the only module that comes back from another width.
    candidates = named or [module for module in writers.values() if not in_attention and _matrix_width(module) != hidden_size]
    if len(candidates) != 1:
        raise _unknown(model, f"the {part} output of {block_name}")
    return candidates[0]


def _mixture(
    block: nn.Module, hidden_size: int, writers: dict[str, nn.Linear | Conv1D], model: PreTrainedModel, block_name: str
) -> nn.Module:
    """The mixture of experts of a block, if everything but attention that writes into the stream is inside it."""
    found, known = mixture_of(block), (*MLP_OUTPUTS, *OTHER_OUTPUTS)
    beside = [name for name in writers if found and not name.startswith(f"{found[0]}.") and name.rpartition(".")[2] in known]
    if found is None or beside or any(len(matrix) != hidden_size for matrix in written_matrices(found[1])):
        raise _unknown(model, f"the output of the experts in {block_name}")
    return found[1]


def _width(layer: nn.Linear | Conv1D) -> int:
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


def _matrix_width(layer: nn.Linear | Conv1D) -> int:
    return int(layer.nx if isinstance(layer, Conv1D) else layer.in_features)


def _output_norms(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    children = dict(block.named_children())
    for first, second in OUTPUT_NORMS:
        if first in children and second in children:
            return children[first], children[second]
    return None, None
