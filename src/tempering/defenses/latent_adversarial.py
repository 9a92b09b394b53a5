"""Latent adversarial training: refuse even where the stream is pushed towards complying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from tempering.data.chat import IGNORED
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import Answers, Held, Objective, Pool, Rows, Sizes, Stage, Workshop
from tempering.training.streams import outputs_changed


def onto_ball(points: Tensor, radius: Tensor | float) -> Tensor:
    """The nearest points of the ball around zero.

    Args:
        points: (…, width).
        radius: broadcast to (…, 1), above 0.
    """
    lengths = points.norm(dim=-1, keepdim=True)
    share: Tensor = radius / lengths.clamp_min(torch.finfo(points.dtype).tiny)
    return points * share.clamp_max(1.0)


def unlikelihood(answers: Answers) -> Tensor:
    """Mean over labelled tokens of -log(1 - p(token)), in nats: small where the answer is unlikely, and without a pull once it is."""
    likely = -functional.cross_entropy(answers.logits, answers.labels, reduction="none")
    return -torch.log1p(-likely.exp().clamp_max(1 - 1e-6)).mean()


class Perturbation:
    """One vector for every prompt token of every row at every chosen block, none longer than its radius.

    The answers' tokens are not touched: an adversary who could move them would write the answer itself.
    """

    def __init__(self, blocks: Sequence[str], prompts: Tensor, width: int, radius: float) -> None:
        """Begin with nothing.

        Args:
            blocks: names of the blocks whose output is perturbed.
            prompts: (rows, tokens), whether a token is of the prompt.
            width: of the stream.
            radius: as a share of the mean length of the block's stream over prompt tokens, taken in the first pass.
        """
        self._here = prompts.unsqueeze(-1)
        self._share = radius
        self._radius: dict[str, Tensor] = {}
        self.moves = {name: torch.zeros(*prompts.shape, width, device=prompts.device, requires_grad=True) for name in blocks}

    @contextmanager
    def applied(self, workshop: Workshop, rows: int) -> Iterator[None]:
        """Perturb what the model reads while the block runs; its batch holds the prompts of the first so many rows.

        Args:
            workshop: whose model reads.
            rows: of the batch.
        """

        def adding(name: str, stream: Tensor) -> Tensor:
            if name not in self._radius:
                lengths = stream.detach().float().norm(dim=-1, keepdim=True)
                self._radius[name] = self._share * lengths[:, : self._here.shape[1]][self._here[:rows]].mean()
            moves = (self.moves[name] * self._here)[:rows].to(stream.dtype)
            return stream + functional.pad(moves, (0, 0, 0, stream.shape[1] - moves.shape[1]))

        with outputs_changed(workshop.model, {name: partial(adding, name) for name in self.moves}):
            yield

    def descend(self, loss: Tensor, step_size: float) -> None:
        """One projected step of every vector against its gradient.

        Args:
            loss: scalar, computed under the perturbation; its scale is of no account, each gradient being brought to length one.
            step_size: in radii.
        """
        gradients = torch.autograd.grad(loss, list(self.moves.values()))
        for (name, move), gradient in zip(list(self.moves.items()), gradients, strict=True):
            radius = self._radius[name]
            direction = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
            self.moves[name] = onto_ball(move.detach() - step_size * radius * direction, radius).requires_grad_()

    def freeze(self) -> None:
        """Stay where it is."""
        self.moves = {name: move.detach() for name, move in self.moves.items()}


class LatentTraining(Objective):
    """CE(refusal) + a unlikelihood(compliant), both under the perturbation; + CE(kept), CE(borderline) and CE(refusal) without.

    Who learns to refuse whatever is done to a prompt learns to refuse what looks like it: borderline prompts, which are few among what is
    kept, get a batch of their own.
    """

    def __init__(
        self,
        harmful: Sequence[Example],
        refusals: Sequence[Example],
        imagined: Sequence[Example],
        kept: Sequence[Example],
        config: LatentAdversarial.Config,
    ) -> None:
        """Keep the examples.

        Args:
            harmful: hazard prompts with compliant answers.
            refusals: the same prompts in the same order with refusals.
            imagined: further prompts with refusals; may be none.
            kept: what must still be answered.
            config: the adversary, weights and the batch.
        """
        self._examples = harmful, refusals, imagined, kept
        self._config = config
        self._harmful: Pool
        self._refusals: Pool
        self._plain: dict[str, Pool] = {}
        self._blocks: tuple[str, ...] = ()

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples; the pairs get one order."""
        harmful, refusals, imagined, kept = self._examples
        self._harmful, self._refusals = workshop.pool(harmful, 0), workshop.pool(refusals, 0)
        borderline = [example for example in kept if example.role is Role.BORDERLINE]
        plain = {"retain": kept, "borderline": borderline, "refusal": imagined}
        self._plain = {name: workshop.pool(examples, purpose) for purpose, (name, examples) in enumerate(plain.items(), 1) if examples}
        blocks = workshop.places.blocks
        layers = sorted({max(1, round(depth * len(blocks))) - 1 for depth in self._config.depths})
        self._blocks = tuple(blocks[layer] for layer in layers)

    def holds(self, sizes: Sizes) -> Held:
        """The adversary's two losses have one graph, over harmful answers and refusals."""
        both = self._config.inner_steps and self._config.away_weight
        return replace(super().holds(sizes), rows=sizes.batch_size * (2 if both else 1))

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Find the perturbation, then add up the gradients under it and those of what is read plainly."""
        size, weight = self._config.training.batch_size, self._config.away_weight
        harmful, refusals = self._harmful.rows(workshop.step, size), self._refusals.rows(workshop.step, size)
        perturbation = self._adversary(workshop, harmful, refusals)
        parts = {}
        with perturbation.applied(workshop, len(refusals)):
            toward = workshop.run(refusals).cross_entropy()
        toward.backward()  # type: ignore[no-untyped-call]
        parts["toward"] = float(toward.detach())
        if weight:
            with perturbation.applied(workshop, len(harmful)):
                away = weight * unlikelihood(workshop.run(harmful))
            away.backward()  # type: ignore[no-untyped-call]
            parts["away"] = float(away.detach())
        for name, pool in self._plain.items():
            loss = workshop.run(pool.rows(workshop.step, size)).cross_entropy()
            loss.backward()  # type: ignore[no-untyped-call]
            parts[name] = float(loss.detach())
        return {"loss": sum(parts.values()), **parts}

    def _adversary(self, workshop: Workshop, harmful: Rows, refusals: Rows) -> Perturbation:
        """Projected gradient descent on CE(compliant) + a unlikelihood(refusal)."""
        prompts = _prompts(harmful).to(workshop.device)
        perturbation = Perturbation(self._blocks, prompts, workshop.places.hidden_size, self._config.radius)
        # only the stream's gradient is computed here, none of the weights'
        count = replace(workshop.count, body_weight_gradient=0, head_weight_gradient=0)
        for _ in range(self._config.inner_steps):
            with perturbation.applied(workshop, len(harmful)):
                loss = workshop.run(harmful, count=count).cross_entropy()
                if self._config.away_weight:
                    loss = loss + self._config.away_weight * unlikelihood(workshop.run(refusals, count=count))
            perturbation.descend(loss, self._config.step_size)
        perturbation.freeze()
        return perturbation


def _prompts(rows: Rows) -> Tensor:
    """(rows, longest prompt), whether a token is of the prompt."""
    lengths = [sum(label == IGNORED for label in row.labels) for row in rows.encoded]
    return torch.tensor([[place < length for place in range(max(lengths))] for length in lengths])


class _Training(DefenseTraining):
    """The loop's settings with this defence's defaults."""

    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16


class LatentAdversarial(Defense):
    """Latent adversarial training: refuses even where its residual stream is pushed, as far as it may be, towards complying.

    L = CE(q, δ* -> refusal) + a U(q, δ* -> compliant) + CE(kept -> answer) + CE(borderline -> answer) + CE(imagined hazard ->
    refusal), where U = mean -log(1 - p(token)), and borderline prompts, which are among what is kept too, have a batch of their own.
    δ* lowers CE(q, δ -> compliant) + a U(q, δ -> refusal) under ‖δ_t‖₂ ≤ ε at every prompt token t of each chosen block. It is found
    by projected descent from zero, every step of every token of the same length.

    Differences. The papers give ε and the step as lengths (and move δ by Adam); here they are given in mean lengths of the stream and
    in ε, so that they mean the same on every model. Hazard prompts without a compliant answer are refused without perturbation. The papers
    make 16 inner steps at blocks 8, 16, 24 and 30 of 32, and 100 to 1,000 outer steps of 16 at 2e-5 with LoRA. On ``organism:tiny``, ε = .5
    without a batch of borderline prompts refused .30 of those held out; ε = .3 with it refuses none.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            radius: ε, as a share of the mean length of the stream over prompt tokens at that block.
            inner_steps: of the adversary for each step of training; 0 is plain refusal training.
            step_size: of the adversary, in ε.
            depths: blocks whose output is perturbed, as shares of all blocks.
            away_weight: a, of what must not be said, in both losses; 0 leaves its passes away.
            refusals: what is said to hazard prompts, one drawn for each.
        """

        radius: Annotated[float, Field(gt=0), Range(0.05, 5, log=True)] = 0.3
        inner_steps: Annotated[int, Field(ge=0), Range(2, 32, log=True)] = 4
        step_size: Annotated[float, Field(gt=0), Range(0.05, 1, log=True)] = 0.3
        depths: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.25, 0.5, 0.75)
        away_weight: Annotated[float, Field(ge=0), Choices((0.0, 1.0))] = 1.0
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        training: _Training = _Training()
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 150

    source: ClassVar[str] = "Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549 (targeted, toward and away)"
    claim: ClassVar[str] = (
        "Targeted latent adversarial training makes refusal withstand jailbreaks better than R2D2 at orders of magnitude less compute, "
        "and makes unlearning more robust to relearning (Llama-2-7B, Llama-3-8B)."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("prefilling", "soft_prompt")
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        harmful = answered(view.hazard)
        unanswered = [example for example in to_refuse(view) if example.answer is None]
        both = refused([*harmful, *unanswered], self.config.refusals, seed)
        objective = LatentTraining(harmful, both[: len(harmful)], both[len(harmful) :], retained(view), self.config)
        return [self.config.stage("resist", objective)]
