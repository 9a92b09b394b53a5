"""Low-rank edits of linear layers, tried on a model without copying it.

An edit replaces a weight W (out, in) by

    W' = diag(scale) W + left right,    left (out, r), right (r, in), scale (out,) or all ones,

so that W' x = scale * (W x) + left (right x): two thin products beside the layer's own. Adding or removing a direction, a LoRA
update and the exact restoration of row norms after any of them all have this form. Biases are left alone.

The experts of a mixture are no layers of their own, so their edits are written into the weights even while they are only tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempering.models.outputs import is_mixture, written_matrices


@dataclass(frozen=True)
class LowRankEdit:
    """A change of one linear layer's weight, or of one expert's in a mixture.

    Attributes:
        module: the layer, or the mixture.
        left: (out, r).
        right: (r, in), of the same type and device.
        scale: (out,), what each row of W is multiplied by; ``None`` multiplies by one.
        matrix: W, (out, in), a view of the module's memory; ``None`` is the layer's one weight.
    """

    module: nn.Module
    left: Tensor
    right: Tensor
    scale: Tensor | None = None
    matrix: Tensor | None = None

    @property
    def edited(self) -> Tensor:
        """W, (out, in): what is written into it is written into the module."""
        return written_matrices(self.module)[0] if self.matrix is None else self.matrix

    def weight(self) -> Tensor:
        """W', (out, in), in the type of ``left``."""
        weight = self.edited.to(self.left.dtype)
        kept = weight if self.scale is None else weight * self.scale[:, None]
        return torch.addmm(kept, self.left, self.right)

    def output(self, inputs: Tensor, unedited: Tensor) -> Tensor:
        """What the edited layer gives, from what the unedited one gave.

        The thin product with ``right`` runs in the layer's own type, as the layer's product does; the sum is formed in float32 at least.

        Args:
            inputs: (..., in).
            unedited: (..., out), the bias included.

        Returns:
            (..., out), in the type of ``unedited``.
        """
        exact = torch.promote_types(unedited.dtype, torch.float32)
        result = unedited.to(exact)
        if self.scale is not None:
            bias: Tensor | None = getattr(self.module, "bias", None)
            scale = self.scale.to(exact)
            result = result * scale if bias is None else (result - bias.to(exact)) * scale + bias.to(exact)
        thin = (inputs @ self.right.to(inputs.dtype).T).to(exact)
        left = self.left.to(exact)
        # of rank one, as most edits are, the outer product is never formed: it would be as large as the result
        result = torch.addcmul(result, thin, left[:, 0]) if left.shape[1] == 1 else result + thin @ left.T
        return result.to(unedited.dtype)


@contextmanager
def applied(edits: Sequence[LowRankEdit]) -> Iterator[None]:
    """Let the edits act while the block runs: those of layers by hooks, so that no weight changes, those of experts as :func:`written`.

    Args:
        edits: at most one a weight.
    """
    with ExitStack() as stack:
        stack.enter_context(written([edit for edit in edits if is_mixture(edit.module)]))
        for edit in edits:
            if not is_mixture(edit.module):
                stack.callback(edit.module.register_forward_hook(_hook(edit)).remove)
        yield


@contextmanager
@torch.no_grad()
def written(edits: Sequence[LowRankEdit]) -> Iterator[None]:
    """Write W' into the weights while the block runs, rounded to their type; afterwards every bit is as it was.

    Args:
        edits: at most one a weight.
    """
    weights = [edit.edited for edit in edits]
    before = [weight.clone() for weight in weights]
    try:
        for edit, weight in zip(edits, weights, strict=True):
            weight.copy_(edit.weight())
        yield
    finally:
        for weight, own in zip(weights, before, strict=True):
            weight.copy_(own)


def _hook(edit: LowRankEdit) -> Any:
    return lambda _module, inputs, output: edit.output(inputs[0], output)
