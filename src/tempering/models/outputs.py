"""What a module writes into the residual stream: a linear layer, GPT-2's convolution, or a mixture of experts.

A mixture routes every token to a few of its experts and adds up what they write, each with a factor of its own, and what a shared expert
writes to all tokens. A direction is out of the sum when it is out of every expert's output projection. Since transformers 5 the experts of
a block are one tensor (experts, hidden, intermediate), in GPT-OSS (experts, intermediate, hidden); models that bring their own code may
still hold them as a list of modules.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

EXPERTS = "experts"
"""What the routed experts of a mixture are called in every family of transformers."""

MLP_OUTPUTS = ("down_proj", "fc2", "dense_4h_to_h", "c_proj", "fc_out", "w2", "wo", "output_linear")
"""Last part of the name of the projection that writes the MLP's result into the residual stream."""


def mixture_of(block: nn.Module) -> tuple[str, nn.Module] | None:
    """The mixture of experts of a decoder layer, by its name in it; ``None`` where it has none that is laid out as expected.

    It is the module that holds the routed experts, and beside them the router and the shared expert: what it gives is what enters the
    residual stream.
    """
    holders = [name.rpartition(".")[0] for name, _ in block.named_modules() if name.rpartition(".")[2] == EXPERTS]
    if len(holders) != 1 or not holders[0]:
        return None
    holder = block.get_submodule(holders[0])
    return (holders[0], holder) if _stacked(holder.get_submodule(EXPERTS)) or _listed(holder.get_submodule(EXPERTS)) else None


def is_mixture(module: nn.Module) -> bool:
    """Whether a module is a mixture, and not one layer."""
    return not isinstance(module, (nn.Linear, Conv1D))


def written_matrices(module: nn.Module) -> list[Tensor]:
    """Every weight by which a module writes into the stream, as (hidden, in); what is written into one of these views is written into it.

    Args:
        module: of :attr:`Structure.attention_outputs` or ``mlp_outputs``; of a mixture each expert has one, and each shared one.
    """
    if not is_mixture(module):
        return [_oriented(module)]
    return [*_expert_matrices(module), *(_oriented(layer) for layer in _shared_layers(module))]


def written_biases(module: nn.Module) -> list[Tensor]:
    """Every bias that a module adds to the stream, as (hidden, biases), views likewise."""
    layers = [module] if not is_mixture(module) else _shared_layers(module)
    found = [bias.detach()[:, None] for layer in layers if (bias := _bias(layer)) is not None]
    if is_mixture(module):
        experts = module.get_submodule(EXPERTS)
        found += [experts.get_parameter(f"{name}_bias").detach().T for name in _stacked(experts) if hasattr(experts, f"{name}_bias")]
    return found


def written_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names, within a module, of the parameters behind :func:`written_matrices` and :func:`written_biases`."""
    ours = {memory.untyped_storage().data_ptr() for memory in (*written_matrices(module), *written_biases(module))}
    return tuple(name for name, parameter in module.named_parameters() if parameter.untyped_storage().data_ptr() in ours)


def stacked_experts(module: nn.Module) -> bool:
    """Whether a module is what holds the experts of a mixture as tensors of three dimensions."""
    return bool(_stacked(module))


def expert_matrices(experts: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every matrix of every expert, those that lead into it too, as (out, in) views.

    Args:
        experts: for which :func:`stacked_experts` holds.

    Yields:
        The name of the tensor with the expert's number, as ``down_proj[3]``, and the view.
    """
    for name, parameter in experts.named_parameters(recurse=False):
        if parameter.ndim == 3:
            for number, matrix in enumerate(parameter.detach()):
                yield f"{name}[{number}]", matrix.T if getattr(experts, "is_transposed", False) else matrix


def _stacked(experts: nn.Module) -> list[str]:
    """Names of a module's own tensors that hold the output projections of all experts."""
    return [name for name, parameter in experts.named_parameters(recurse=False) if name in MLP_OUTPUTS and parameter.ndim == 3]


def _listed(experts: nn.Module) -> bool:
    return isinstance(experts, nn.ModuleList) and all(_named_outputs(expert) for expert in experts)


def _named_outputs(module: nn.Module) -> list[nn.Module]:
    return [layer for name, layer in module.named_modules() if name.rpartition(".")[2] in MLP_OUTPUTS and not is_mixture(layer)]


def _expert_matrices(mixture: nn.Module) -> Iterator[Tensor]:
    experts = mixture.get_submodule(EXPERTS)
    outputs = _stacked(experts)
    yield from (matrix for name, matrix in expert_matrices(experts) if name.partition("[")[0] in outputs)


def _shared_layers(mixture: nn.Module) -> list[nn.Module]:
    """The output projections among a mixture's linear layers: of shared experts, and of experts that are a list."""
    return _named_outputs(mixture)


def _oriented(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.get_parameter("weight").detach()
    return weight.T if isinstance(layer, Conv1D) else weight


def _bias(layer: nn.Module) -> Tensor | None:
    bias: Tensor | None = getattr(layer, "bias", None)
    return None if bias is None else bias.detach()
