"""Low-rank edits of linear layers, tried on a model without copying it.

An edit replaces a weight W (out, in) by

    W' = diag(scale) W + left right,    left (out, r), right (r, in), scale (out,) or all ones,

so that W' x = scale * (W x) + left (right x): two thin products beside the layer's own. Adding or removing a direction, a LoRA
update and the exact restoration of row norms after any of them all have this form. Biases are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LowRankEdit:
    """A change of one linear layer's weight.

    Attributes:
        module: the layer; its weight W is (out, in).
        left: (out, r).
        right: (r, in), of the same type and device.
        scale: (out,), what each row of W is multiplied by; ``None`` multiplies by one.
    """

    module: nn.Linear
    left: Tensor
    right: Tensor
    scale: Tensor | None = None

    def weight(self) -> Tensor:
        """W', (out, in), in the type of ``left``."""
        weight = self.module.weight.detach().to(self.left.dtype)
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
            bias = self.module.bias
            scale = self.scale.to(exact)
            result = result * scale if bias is None else (result - bias.to(exact)) * scale + bias.to(exact)
        thin = (inputs @ self.right.to(inputs.dtype).T).to(exact)
        left = self.left.to(exact)
        # of rank one, as most edits are, the outer product is never formed: it would be as large as the result
        result = torch.addcmul(result, thin, left[:, 0]) if left.shape[1] == 1 else result + thin @ left.T
        return result.to(unedited.dtype)


@contextmanager
def applied(edits: Sequence[LowRankEdit]) -> Iterator[None]:
    """Let the edits act while the block runs, by hooks: no weight changes, so there is nothing to undo.

    Args:
        edits: at most one a module.
    """
    with ExitStack() as hooks:
        for edit in edits:
            hooks.callback(edit.module.register_forward_hook(_hook(edit)).remove)
        yield


@contextmanager
@torch.no_grad()
def written(edits: Sequence[LowRankEdit]) -> Iterator[None]:
    """Write W' into the weights while the block runs, rounded to their type; afterwards every bit is as it was.

    Args:
        edits: at most one a module.
    """
    before = [edit.module.weight.detach().clone() for edit in edits]
    try:
        for edit in edits:
            edit.module.weight.copy_(edit.weight())
        yield
    finally:
        for edit, weight in zip(edits, before, strict=True):
            edit.module.weight.copy_(weight)


def _hook(edit: LowRankEdit) -> Any:
    return lambda _module, inputs, output: edit.output(inputs[0], output)
