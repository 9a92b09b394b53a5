"""Many copies of one decoder in one: layers that hold K versions of their weights and put every version to its own rows.

A stacked model takes K · b rows, those of version k at k · b to (k + 1) · b − 1. Rows of a decoder never meet, so one forward pass of the
stacked model is K forward passes; a layer's K products of matrices are one batched product. A layer whose weights do not move is not
stacked, and sees all rows as one.

Everything that moves lies in one matrix, a version a row (:class:`Bank`): the weights of the stacked layers are views into it and so are
their gradients. An optimiser that is given one row moves one version, and a plain model whose weights are views into a row is that
version, without a copy.

Layers are told by what they are, not by model family: linear layers, embeddings, LayerNorm, and whatever else has weights of one
dimension that it applies element by element (every RMSNorm). A model that holds weights in any other way cannot be stacked, nor can one
that drops out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers import PreTrainedModel

_DROPOUTS = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout")
"""What model families call the rates of dropouts that are no module of their own."""


class CannotStack(Exception):
    """The model holds weights in a layer that has no stacked form; whoever wanted to train many at once trains them one by one."""


@dataclass(frozen=True)
class Place:
    """Where one weight lies in a row of the bank.

    Attributes:
        name: as ``named_parameters`` calls it.
        shape: of one version.
        start: its first column.
    """

    name: str
    shape: torch.Size
    start: int

    @property
    def stop(self) -> int:
        """The column after its last."""
        return self.start + self.shape.numel()


class Bank:
    """The moving weights of K versions of a model, and their gradients.

    Attributes:
        weights: shape (K, P); columns up to ``matrices`` belong to weights of two dimensions and more.
        gradients: the same shape, zero until a backward pass adds to it.
        places: of every weight, matrices first.
        facts: what else layers know of every version, by name, a version a row.
        matrices: how many columns are of matrices.
    """

    def __init__(self, weights: Sequence[tuple[str, Tensor]], versions: int) -> None:
        """Make room.

        Args:
            weights: name and value of everything that moves, all of one type and on one device.
            versions: K; every one begins as the value given.
        """
        ordered = sorted(weights, key=lambda named: named[1].dim() < 2)
        places, start = [], 0
        for name, value in ordered:
            places.append(Place(name, value.shape, start))
            start += value.numel()
        self.places = tuple(places)
        self.matrices = sum(value.numel() for _, value in ordered if value.dim() >= 2)
        example = ordered[0][1]
        self.facts: dict[str, Tensor] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._parts: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.weights = torch.empty((versions, start), dtype=example.dtype, device=example.device)
        self._shown: Tensor | None = None
        self._casts: dict[int, Tensor] | None = None
        for place, (_, value) in zip(places, ordered, strict=True):
            self.weights[:, place.start : place.stop] = value.detach().reshape(1, -1)
        self.gradients = torch.zeros_like(self.weights)

    @property
    def versions(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def held(self) -> int:
        """How many versions the stacked layers hold now: all, or those of :meth:`only`."""
        return self.versions if self._shown is None else len(self._shown)

    def stacked(self, name: str) -> nn.Parameter:
        """All versions of one weight, shape (K, …), with its gradient; both share the bank's memory. Asked twice it is the same."""
        if name not in self._parameters:
            place = next(place for place in self.places if place.name == name)
            parameter = nn.Parameter(self._view(self.weights, place))
            parameter.grad = self._view(self.gradients, place)
            self._parameters[name] = parameter
        return self._parameters[name]

    def version(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every weight of one version, in the bank's own memory."""
        for place in self.places:
            yield place.name, self.weights[index, place.start : place.stop].view(place.shape)

    def parts(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Every version as an optimiser sees it: all its matrices in one vector, all else in another, which may be empty."""
        if not self._parts:
            for row, slope in zip(self.weights, self.gradients, strict=True):
                pair = (nn.Parameter(row[: self.matrices]), nn.Parameter(row[self.matrices :]))
                pair[0].grad, pair[1].grad = slope[: self.matrices], slope[self.matrices :]
                self._parts.append(pair)
        return self._parts

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all versions but these, which move up. What was handed out goes on holding the versions that are left."""
        chosen = torch.as_tensor(list(rows), dtype=torch.int64, device=self.weights.device)
        self.weights, self.gradients = self.weights[chosen], self.gradients[chosen]
        self.facts = {name: fact[chosen] for name, fact in self.facts.items()}
        self._show(self.weights, self.gradients)
        if self._parts:
            self._parts = [self._parts[row] for row in rows]
            for row, slope, (matrices, others) in zip(self.weights, self.gradients, self._parts, strict=True):
                _point(matrices, row[: self.matrices], slope[: self.matrices])
                _point(others, row[self.matrices :], slope[self.matrices :])

    @contextmanager
    def only(self, rows: Sequence[int]) -> Iterator[None]:
        """Let the stacked layers hold these versions alone, in this order, for the block, to be asked and not trained.

        Args:
            rows: versions, counted among those that the layers hold now.
        """
        if list(rows) == list(range(self.held)):
            yield
            return
        before, facts = self._shown, self.facts
        chosen = torch.as_tensor(list(rows), dtype=torch.int64, device=self.weights.device)
        self._shown = (self.weights if before is None else before)[chosen]
        self.facts = {name: fact[chosen] for name, fact in facts.items()}
        self._show(self._shown, None)
        try:
            yield
        finally:
            self._shown, self.facts = before, facts
            if before is None:
                self._show(self.weights, self.gradients)
            else:
                self._show(before, None)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep what :meth:`cast` makes for the block, in which nobody moves a weight; :meth:`only` forgets it."""
        before, self._casts = self._casts, {}
        try:
            yield
        finally:
            self._casts = before

    def cast(self, weight: nn.Parameter) -> Tensor:
        """A weight of :meth:`stacked` as autocast computes with it, made once while all are :meth:`at_rest`.

        The weight itself without autocast, and wherever its gradient may be asked for. Autocast remembers what it made of weights, but
        not of views of them, such as a layer's transposed ones.
        """
        kind = weight.device.type
        if self._casts is None or torch.is_grad_enabled() or not torch.is_autocast_enabled(kind):
            return weight
        if id(weight) not in self._casts:
            self._casts[id(weight)] = weight.to(torch.get_autocast_dtype(kind))
        return self._casts[id(weight)]

    def _show(self, weights: Tensor, gradients: Tensor | None) -> None:
        """Let the stacked layers hold other tables."""
        if self._casts is not None:
            self._casts = {}
        for place in self.places:
            if place.name in self._parameters:
                slope = None if gradients is None else self._view(gradients, place)
                _point(self._parameters[place.name], self._view(weights, place), slope)

    def _view(self, table: Tensor, place: Place) -> Tensor:
        return table[:, place.start : place.stop].view(len(table), *place.shape)


def _point(parameter: nn.Parameter, value: Tensor, slope: Tensor | None) -> None:
    """Let a parameter be another stretch of memory; the optimiser that knows it does not notice."""
    parameter.grad = None  # of another shape, which the new value would not go with
    parameter.data = value
    parameter.grad = slope


def bank_of(model: nn.Module) -> Bank:
    """Where the versions of a stacked model lie."""
    return cast(Bank, model.bank)


def stack(model: PreTrainedModel, versions: int) -> Bank:
    """Turn a model into K versions of itself, all of whose weights move.

    Args:
        model: changed in place; hand over a copy. Tied weights stay tied.
        versions: K.

    Returns:
        Where the weights now lie; names are those of the plain model, a tied weight once.

    Raises:
        CannotStack: some layer has no stacked form, or drops out. The model is then as it was.
    """
    _refuse_dropout(model)
    layers = [(name, module) for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]
    for name, module in layers:
        _refuse_strangers(name, module)
    names = {id(value): name for name, value in model.named_parameters()}
    bank = Bank(list(model.named_parameters()), versions)
    for name, module in layers:
        own = {each: bank.stacked(names[id(value)]) for each, value in module.named_parameters(recurse=False)}
        _replace(model, name, _stacked(module, own, bank))
    vars(model)["bank"] = bank
    return bank


def _refuse_dropout(model: nn.Module) -> None:
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    config = getattr(model, "config", None)
    rates += [getattr(config, name, 0.0) or 0.0 for name in _DROPOUTS]
    if any(rate > 0 for rate in rates):
        raise CannotStack("the model drops out, and one random state cannot be that of several versions")


def _refuse_strangers(name: str, module: nn.Module) -> None:
    if type(module) is nn.Linear or (type(module) is nn.Embedding and module.max_norm is None and not module.sparse):
        return
    flat = all(value.dim() == 1 for value in module.parameters(recurse=False))
    if flat and next(module.children(), None) is None and not isinstance(module, (nn.Linear, nn.Embedding)):
        return
    raise CannotStack(f"{name} is a {type(module).__name__}, which has no stacked form")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _stacked(module: nn.Module, weights: dict[str, nn.Parameter], bank: Bank) -> nn.Module:
    if isinstance(module, nn.Linear):
        return StackedLinear(weights["weight"], weights.get("bias"), bank)
    if isinstance(module, nn.Embedding):
        return StackedEmbedding(weights["weight"], module.padding_idx)
    if isinstance(module, nn.LayerNorm):
        return StackedLayerNorm(module, weights)
    return StackedScale(module, weights)


class StackedLinear(nn.Module):
    """K linear layers."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, bank: Bank) -> None:
        """Take weights of shape (K, out, in), and a bias of shape (K, out), from a bank."""
        super().__init__()
        self.weight, self.bias, self.bank = weight, bias, bank

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (K · b, …, in) to (K · b, …, out)."""
        versions, wide, narrow = self.weight.shape
        rows = inputs.reshape(versions, -1, narrow)
        weight = self.bank.cast(self.weight).transpose(1, 2)
        outputs = torch.bmm(rows, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, weight)
        return outputs.reshape(*inputs.shape[:-1], wide)


class StackedEmbedding(nn.Module):
    """K embeddings."""

    def __init__(self, weight: nn.Parameter, padding: int | None) -> None:
        """Take weights of shape (K, vocabulary, width), and the token whose vector does not learn."""
        super().__init__()
        self.weight = weight
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (K · b, T) to vectors (K · b, T, width)."""
        versions = len(self.weight)
        grouped = tokens.reshape(versions, -1)
        vectors = self.weight[torch.arange(versions, device=tokens.device).unsqueeze(1), grouped]
        if self.padding is not None:
            vectors = torch.where((grouped == self.padding).unsqueeze(-1), vectors.detach(), vectors)
        return vectors.reshape(*tokens.shape, -1)


class StackedLayerNorm(nn.Module):
    """K layer norms."""

    def __init__(self, module: nn.LayerNorm, weights: dict[str, nn.Parameter]) -> None:
        """Take weights of shape (K, width)."""
        super().__init__()
        self.shape, self.epsilon = module.normalized_shape, module.eps
        self.weight, self.bias = weights.get("weight"), weights.get("bias")

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (K · b, …, width) to the same."""
        outputs = functional.layer_norm(inputs, self.shape, eps=self.epsilon)
        if self.weight is None:
            return outputs
        grouped = _grouped(outputs, len(self.weight)) * _alongside(self.weight, inputs)
        if self.bias is not None:
            grouped = grouped + _alongside(self.bias, inputs)
        return grouped.reshape(inputs.shape)


class StackedScale(nn.Module):
    """K of a layer that applies weights of one dimension element by element, as an RMSNorm does."""

    def __init__(self, module: nn.Module, weights: dict[str, nn.Parameter]) -> None:
        """Take the layer for what it does, and weights of shape (K, width)."""
        super().__init__()
        self._what = [module]  # in a list, so that its own weights are nobody's parameters
        for name, value in weights.items():
            self.register_parameter(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (K · b, …, width) to the same."""
        weights = dict(self.named_parameters(recurse=False))
        versions = len(next(iter(weights.values())))
        broadcast = {name: _alongside(value, inputs) for name, value in weights.items()}
        outputs: Tensor = functional_call(self._what[0], broadcast, (_grouped(inputs, versions),))
        return outputs.reshape(inputs.shape)


def _grouped(rows: Tensor, versions: int) -> Tensor:
    """(K · b, …) to (K, b, …)."""
    return rows.reshape(versions, -1, *rows.shape[1:])


def _alongside(weight: Tensor, rows: Tensor) -> Tensor:
    """Shape (K, width) to (K, 1, …, 1, width), to go with rows that are grouped."""
    return weight.reshape(len(weight), *([1] * (rows.dim() - 1)), -1)
