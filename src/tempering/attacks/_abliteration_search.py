"""The search for how to ablate refusal: TPE over two objectives, each trial a set of low-rank edits that is measured and dropped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from tempering.attacks._abliteration import (
    Ablations,
    Parameters,
    Profile,
    interpolation,
    leading_directions,
    pareto_front,
    refusal_directions,
)
from tempering.attacks._contract import AttackEnded
from tempering.attacks._inference import MeteredModel
from tempering.attacks._low_rank import LowRankEdit, applied
from tempering.attacks._refusals import is_refusal
from tempering.attacks._residuals import Writer, writers
from tempering.attacks._trial_reading import TrialReading
from tempering.data.records import AttackerView
from tempering.models import Target
from tempering.models.outputs import is_mixture, written_matrices
from tempering.models.structure import Structure
from tempering.training import Meter

_CANDIDATES = 64
"""Points that TPE draws from its model to propose one of them."""


@dataclass(frozen=True)
class Trial:
    """One point of the search space, measured.

    Attributes:
        number: from zero, in the order of the search.
        refusals: harmful validation prompts that were refused.
        asked: of so many.
        divergence: mean first-token KL(untouched || edited) on harmless validation prompts, nats; infinite if the model broke.
        parameters: the point.
    """

    number: int
    refusals: int
    asked: int
    divergence: float
    parameters: Parameters

    @property
    def point(self) -> tuple[float, float]:
        """Refusals and divergence, both better the smaller they are."""
        return float(self.refusals), self.divergence


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other trial beats, by rising refusals."""
    measured = [trial for trial in trials if math.isfinite(trial.divergence)]
    return [measured[index] for index in pareto_front([trial.point for trial in measured])]


class AbliterationSearch:
    """Directions from training prompts, then trials on validation prompts.

    Attributes:
        reader: reads the copy that trials hang hooks on.
        model: that copy.
        structure: its parts.
        directions: (layers, hidden), one a layer.
        refused: harmful validation prompts that the untouched model refuses.
        asked: of so many.
    """

    def __init__(self, config: Any, reader: MeteredModel, meter: Meter, view: AttackerView, seed: int) -> None:
        """Read the training prompts and the untouched model's answers.

        Args:
            config: settings of ``searched_abliteration``.
            reader: a copy of the target; trials hang hooks on it.
            meter: what trials are counted on.
            view: the attacker's prompts, at least one of each kind; all of them are used.
            seed: decides the trials.

        Raises:
            AttackEnded: ``failed``, when the untouched model's probabilities are not finite.
        """
        self._config = config
        self.reader = reader
        self._meter = meter
        self._view = view
        self._seed = seed
        self.model = reader.model
        self.structure = structure = Structure.of(reader.model)
        self._writers = writers(structure)
        self._last_layer = len(structure.blocks) - 1
        self._base = reader.first_token(view.benign_validation)
        if not bool(self._base.isfinite().all()):
            raise AttackEnded("failed", "the model's probabilities on harmless prompts are not finite")
        self._mass = self._base.double().exp()
        self._negative_entropy = (self._mass * self._base).sum(-1)
        layers = [index for index, writer in enumerate(self._writers) if max(config.preserved_ranks) and not is_mixture(writer.module)]
        with _recorded(structure.blocks, [self._writers[index] for index in layers]) as harmless:
            reader.first_token(view.benign_train, harmless)
        with _recorded(structure.blocks, ()) as harmful:
            reader.first_token(view.hazard_train, harmful)
        self.directions = refusal_directions(harmful.streams, harmless.streams, orthogonalise=config.orthogonalise_directions)
        leading = (leading_directions(inputs, max(config.preserved_ranks)) for inputs in harmless.inputs)
        self._inputs = dict(zip(layers, leading, strict=True))
        self._ablations: dict[int, list[Ablations]] = {}
        self._prepared_for = self.directions.clone()
        self.asked = len(view.hazard_validation)
        self._reading = TrialReading(reader, structure, view.benign_validation, view.hazard_validation, config)
        untouched = reader.answers(view.hazard_validation, config.answer_tokens, settled=self._refuses)
        self._reading.expect(untouched, self._refuses)
        self.refused = self._refusing(untouched)

    def run(self, trials: int) -> Iterator[Trial]:
        """So many trials, the first of them random.

        Args:
            trials: how many; random is the share that ``config.random_trials`` has in ``config.trials``, rounded up.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        startup = math.ceil(trials * min(1.0, self._config.random_trials / self._config.trials))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                multivariate=True, n_startup_trials=startup, n_ei_candidates=_CANDIDATES, seed=self._seed % 2**32
            )
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        space = search_space(self._last_layer, self._config.preserved_ranks)
        for number in range(trials):
            asked = study.ask(space)
            trial = self.measure(number, parameters_of(asked.params))
            if math.isfinite(trial.divergence):
                # Below the floor a smaller divergence is worth nothing, or TPE would dwell on edits that change nothing at all.
                study.tell(asked, (trial.refusals / trial.asked, max(trial.divergence, self._config.divergence_floor)))
            else:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            yield trial

    def measure(self, number: int, parameters: Parameters) -> Trial:
        """Refusals and divergence under some edits, which act by hooks and are gone afterwards."""
        edits = self.edits(parameters)
        self.reader.charge_edit(sum(edit.edited.numel() for edit in edits))
        with applied(edits):
            changed, answers = self._reading.look(self._first_block(edits), self._refuses)
            moved = float((self._negative_entropy - (self._mass * changed).sum(-1)).mean())
            refusals = self._refusing(answers()) if math.isfinite(moved) else self.asked
        self._meter.trial()
        return Trial(number, refusals, self.asked, moved if math.isfinite(moved) else math.inf, parameters)

    @torch.no_grad()
    def edits(self, parameters: Parameters) -> list[LowRankEdit]:
        """The edits that a point of the search space stands for; layers with a weight of zero have none."""
        layers = len(self.directions)
        shared = None if parameters.direction_index is None else interpolation(layers, parameters.direction_index)
        edits: list[LowRankEdit] = []
        for index in range(len(self._writers)):
            layer, in_mlp = divmod(index, 2)
            weight = (parameters.mlp if in_mlp else parameters.attention).weight(layer)
            if weight > 0:
                mixture = interpolation(layers, layer) if shared is None else shared
                edits += [every.edit(mixture, weight, parameters.preserved) for every in self._ablations_of(index)]
        return edits

    def _ablations_of(self, index: int) -> list[Ablations]:
        """What the trials' edits of one writer have in common: one for a layer, one for every expert of a mixture.

        Behind an output norm the directions are those that the norm turns into them. What an expert is fed depends on who is sent to it,
        so of a mixture's harmless inputs nothing is preserved.
        """
        if not torch.equal(self.directions, self._prepared_for):  # whoever reads directions otherwise may put theirs here
            self._ablations.clear()
            self._prepared_for = self.directions.clone()
        if index not in self._ablations:
            writer = self._writers[index]
            scaled = writer.seen(self.directions.to(written_matrices(writer.module)[0].device))
            self._ablations[index] = [
                Ablations(
                    writer.module,
                    scaled,
                    keep_row_norms=bool(self._config.keep_row_norms),
                    preserved=self._inputs.get(index),
                    written=matrix,
                )
                for matrix in written_matrices(writer.module)
            ]
        return self._ablations[index]

    def _first_block(self, edits: Sequence[LowRankEdit]) -> int:
        """The first block that is edited; behind the last where none is."""
        edited = {id(edit.module) for edit in edits}
        return next((index // 2 for index, writer in enumerate(self._writers) if id(writer.module) in edited), self._last_layer)

    def _refuses(self, tokens: Sequence[int]) -> bool:
        return is_refusal(self.reader.chat.decode(tokens), self._config.refusal_phrases)

    def _refusing(self, answers: Sequence[Sequence[int]]) -> int:
        return sum(self._refuses(answer) for answer in answers)


def all_trials(target: Target, view: AttackerView, config: Any, *, trials: int, seed: int) -> list[Trial]:
    """Every trial of one search on a target, for those who want the whole front and not the attack's checkpoints.

    Args:
        target: left as it was.
        view: all of its prompts are used.
        config: settings of ``searched_abliteration``.
        trials: how many.
        seed: decides the trials.
    """
    meter = Meter()
    reader = MeteredModel(target.copy_model(), target.chat, meter, config.batch_size)
    return list(AbliterationSearch(config, reader, meter, view, seed).run(trials))


def search_space(last_layer: int, preserved_ranks: Sequence[int]) -> dict[str, BaseDistribution]:
    """What a trial is drawn from, by name; layers are counted from zero, so L stands for the index of the last one.

    Args:
        last_layer: L.
        preserved_ranks: the choices for :attr:`Parameters.preserved`.
    """
    space: dict[str, BaseDistribution] = {
        "scope": CategoricalDistribution(("global", "per layer")),
        "direction_index": FloatDistribution(0.4 * last_layer, 0.9 * last_layer),
        "preserved": CategoricalDistribution(tuple(preserved_ranks)),
    }
    for component, lowest in (("attention", 0.8), ("mlp", -0.25)):
        space[f"{component}.max_weight"] = FloatDistribution(lowest, 1.5)
        space[f"{component}.max_weight_position"] = FloatDistribution(0.6 * last_layer, last_layer)
        space[f"{component}.min_weight_share"] = FloatDistribution(0.0, 1.0)
        space[f"{component}.min_weight_distance"] = FloatDistribution(1.0, max(1.0, 0.6 * last_layer))
    return space


def parameters_of(drawn: dict[str, Any]) -> Parameters:
    """What a draw from :func:`search_space` means."""

    def profile(component: str) -> Profile:
        peak = max(0.0, float(drawn[f"{component}.max_weight"]))
        return Profile(
            max_weight=peak,
            max_weight_position=float(drawn[f"{component}.max_weight_position"]),
            min_weight=peak * float(drawn[f"{component}.min_weight_share"]),
            min_weight_distance=float(drawn[f"{component}.min_weight_distance"]),
        )

    index = float(drawn["direction_index"]) if drawn["scope"] == "global" else None
    return Parameters(index, profile("attention"), profile("mlp"), int(drawn["preserved"]))


class _Recording:
    """What passed a model at the last position of every prompt, kept in the order of the prompts."""

    def __init__(self, blocks: int, writers: int) -> None:
        self.passing_streams: list[Tensor] = [torch.empty(0)] * blocks
        self.passing_inputs: list[Tensor] = [torch.empty(0)] * writers
        self._streams: dict[int, Tensor] = {}
        self._inputs: list[dict[int, Tensor]] = [{} for _ in range(writers)]

    def place(self, indices: Sequence[int]) -> None:
        """Keep the last pass's rows under these prompts."""
        for row, index in enumerate(indices):
            self._streams[index] = torch.stack([stream[row] for stream in self.passing_streams])
            for kept, passing in zip(self._inputs, self.passing_inputs, strict=True):
                kept[index] = passing[row]

    @property
    def streams(self) -> Tensor:
        """(prompts, layers, hidden): the residual stream after every block."""
        return torch.stack([self._streams[index] for index in sorted(self._streams)])

    @property
    def inputs(self) -> list[Tensor]:
        """For every writer (prompts, in): what it is fed."""
        return [torch.stack([kept[index] for index in sorted(kept)]) for kept in self._inputs]


@contextmanager
def _recorded(blocks: Sequence[nn.Module], read: Sequence[Writer]) -> Iterator[_Recording]:
    """Record the streams after all blocks and the inputs of some writers while the block runs."""
    recording = _Recording(len(blocks), len(read))
    with ExitStack() as hooks:
        for place, block in enumerate(blocks):

            def keep_stream(_module: nn.Module, _inputs: Any, output: Any, place: int = place) -> None:
                recording.passing_streams[place] = (output[0] if isinstance(output, tuple) else output)[:, -1].cpu()

            hooks.callback(block.register_forward_hook(keep_stream).remove)
        for place, writer in enumerate(read):

            def keep_input(_module: nn.Module, inputs: Any, place: int = place) -> None:
                recording.passing_inputs[place] = inputs[0][:, -1].cpu()

            hooks.callback(writer.module.register_forward_pre_hook(keep_input).remove)
        yield recording
