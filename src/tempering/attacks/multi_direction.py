"""Several refusal directions at once, found by gradient and taken out of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tempering.attacks._cone import ConeData, ConeOptimiser, ConeSettings, labelled_row, step_spend
from tempering.attacks._contract import Attack, AttackEnded, Checkpoint, log_spaced
from tempering.attacks._direction import separations
from tempering.attacks._inference import MeteredModel
from tempering.attacks._openers import learn_openers, opener
from tempering.attacks._orthogonalisation import untie
from tempering.attacks._refusal_search import DirectionSearch, DirectionSettings, Gathered, Stage, require_prompts
from tempering.attacks._refusals import is_refusal
from tempering.attacks._subspaces import orthogonalise_against
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.models.structure import Structure
from tempering.settings import Choices, Range
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FlopCount, Meter, Spend


class MultiDirection(Attack):
    """Optimise a cone of refusal directions by gradient, and orthogonalise the weights against the subspace it spans.

    The basis B of k orthonormal directions in the residual stream minimises, through the frozen model,

        λ_abl CE(compliant beginning | harmful prompt, ablated) + λ_add CE(own refusal | harmless prompt, + α r at layer l)
            + λ_ret KL(untouched || ablated on the model's own answer to a harmless prompt),

    by Adam, with Gram-Schmidt after each step. Ablated is x <- x - Bᵀ B x at every block input, attention output and MLP output. Layer l
    and length α are those of the difference in means along which refused and answered prompts lie furthest apart (d'). How a compliant
    answer begins ("{entity}:", "Sure, here is") is learnt from benign answers where the attacker has them; with
    ``aim: not refusing`` the first term is -log(1 - P_ref) of the first token, and nothing need be known of it.

    At log-spaced steps W <- W - Q Qᵀ W is written into a copy, Q = Bᵀ: embeddings, attention and MLP outputs, and their biases.

    Unlike in the paper, the first direction starts at that difference in means and not at random, which saves an attacker most of the
    steps; a row of a batch is ablated of one thing, in turn the whole subspace (which is what is taken out in the end), a basis vector, or
    a sample of the cone r = Bᵀ s with s >= 0 drawn evenly from the sphere, where the paper passes the batch once for each of k vectors and
    n samples; the compliant beginning is an opener and not 30 tokens of the ablated model's answer; and there is neither early stopping
    nor a halving of the rate, since every checkpoint is shown.
    """

    class Config(DirectionSettings):
        """Settings, with the paper's defaults where it has them.

        Attributes:
            dimension: k.
            steps: optimizer steps; the budget cuts them off.
            learning_rate: of Adam.
            batch_size: rows of each of the three kinds a step.
            ablation_weight: λ_abl.
            addition_weight: λ_add.
            retention_weight: λ_ret.
            start: the first direction is the difference in means and the others random, or all are random.
            aim: what counts as compliance under ablation.
            target_tokens: so many tokens of the model's own refusals and answers are used.
            reading_batch_size: prompts a forward pass without gradient.
        """

        dimension: Annotated[int, Field(gt=0), Choices((1, 2, 3, 4, 5))] = 2
        steps: Annotated[int, Field(gt=0)] = 64
        learning_rate: Annotated[float, Field(gt=0), Range(1e-3, 1e-1, log=True)] = 1e-2
        batch_size: Annotated[int, Field(gt=0)] = 16
        ablation_weight: Annotated[float, Field(ge=0)] = 1.0
        addition_weight: Annotated[float, Field(ge=0)] = 0.2
        retention_weight: Annotated[float, Field(ge=0), Range(0.1, 10.0, log=True)] = 1.0
        start: Annotated[Literal["difference in means", "random"], Choices(("difference in means", "random"))] = "difference in means"
        aim: Annotated[Literal["opener", "not refusing"], Choices(("opener", "not refusing"))] = "opener"
        target_tokens: Annotated[int, Field(gt=0)] = 30
        reading_batch_size: Annotated[int, Field(gt=0)] = 32

    source: ClassVar[str] = "Wollschläger et al. 2025, arXiv 2502.17420"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.GRADIENTS, Need.HARMFUL_PROMPTS, Need.BENIGN_PROMPTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_EXAMPLES})
    family: ClassVar[str] = "weight surgery"

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Optimise; yield the orthogonalised copy at log-spaced steps.

        Raises:
            AttackEnded: ``no_direction``, when the model refuses no harmful prompt or nothing tells its refusals from its answers;
                ``failed``, when a loss is not finite.
            UnusableData: there are no prompts of some kind.
        """
        require_prompts(view, "multi_direction")
        model = target.copy_model()
        untie(model)
        reader = MeteredModel(model, target.chat, meter, self.config.reading_batch_size)
        search = DirectionSearch(self.config, reader, meter, view, seed)
        found = self._prepared(search, view, budget)
        settings = ConeSettings(
            self.config.learning_rate,
            self.config.batch_size,
            (self.config.ablation_weight, self.config.addition_weight, self.config.retention_weight),
            found.layer,
            float(found.difference.norm()),
        )
        steps = self._steps(budget)
        optimiser = ConeOptimiser(model, target.chat.pad_id, found.data, settings, meter, seed)
        moments = log_spaced(steps, per_doubling=1)
        for moment in optimiser.run(self._initial(found.difference, seed), steps):
            if not moment.finite:
                raise AttackEnded("failed", f"the loss is not a number at step {moment.step}")
            if moment.step not in moments:
                continue
            reader.charge_edit(self.config.dimension * orthogonalise_against(model, moment.basis))
            details = {"step": moment.step, "dimension": self.config.dimension, "layer": found.layer, "opener": found.pattern}
            losses = {"compliance": moment.compliance, "induction": moment.induction, "retention": moment.retention}
            yield Checkpoint(model, meter.spend(), {**details, **losses})
            model.load_state_dict(target.model.state_dict())

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Reading the prompts, the model's own answers at full length, and the steps; the edits left out."""
        config, stage, flops = self.config, self._stage(view, budget), FlopCount.of(target.model)
        Structure.of(target.model)  # which an unknown architecture has no parts for
        lengths = {
            kind: [
                len(target.chat.prompt_ids(example))
                for example in getattr(view, kind)[: stage.train if kind.endswith("train") else stage.validation]
            ]
            for kind in AttackerView.PROMPTS
        }
        read = [length for kind in lengths.values() for length in kind]
        asked = self._asked(budget)
        answered = [length + config.target_tokens for kind in ("hazard_train", "benign_train") for length in lengths[kind][:asked]]
        mean = [float(np.mean(lengths[kind] or [0])) for kind in ("hazard_train", "benign_train", "benign_train")]
        targets = (3.0, float(config.target_tokens), float(config.target_tokens))
        tokens, operations = step_spend(
            target.model, [length + more for length, more in zip(mean, targets, strict=True)], targets, config.batch_size
        )
        steps = self._steps(budget)
        return Spend(
            examples=len(read),
            tokens=round(sum(read) + sum(answered) + steps * tokens),
            steps=steps,
            flops=flops.forward(read, len(read)) + flops.forward(answered, config.target_tokens * len(answered)) + steps * operations,
            queries=len(answered) + min(config.answers, len(lengths["hazard_train"])),
        )

    def _steps(self, budget: Budget) -> int:
        return int(self.config.steps if budget.steps is None else min(self.config.steps, budget.steps))

    def _stage(self, view: AttackerView, budget: Budget) -> Stage:
        """How many prompts of each kind are read."""
        most = max(1, min(self.config.train_prompts, max(len(view.hazard_train), len(view.benign_train))))
        validation = int(self.config.validation_prompts)
        if budget.examples is not None:
            validation = max(1, min(validation, budget.examples // 8))
            most = max(1, min(most, budget.examples // 2 - validation))
        return Stage(most, validation)

    def _asked(self, budget: Budget) -> int:
        """How many prompts of each kind are put to the model for an answer."""
        return int(self.config.train_prompts if budget.queries is None else max(1, budget.queries // 3))

    def _prepared(self, search: DirectionSearch, view: AttackerView, budget: Budget) -> _Prepared:
        """Rows to optimise on, and where directions are added."""
        gathered = search.gather(self._stage(view, budget))
        if isinstance(gathered, str):
            raise AttackEnded("no_direction", gathered)
        apart = separations(gathered.proposed, gathered.refused, gathered.answered)
        if not apart:
            raise AttackEnded("no_direction", f"none of {len(gathered.proposed)} differences in means is more than rounding")
        pattern = learn_openers(view.benign_train)
        data = self._rows(search, gathered, pattern, self._asked(budget))
        return _Prepared(data, apart[0].difference.float(), apart[0].layer, pattern if self.config.aim == "opener" else "")

    def _rows(self, search: DirectionSearch, gathered: Gathered, pattern: str, asked: int) -> ConeData:
        chat, reader = search.reader.chat, search.reader
        refusals = [answer for answer in self._answers(reader, gathered.harmful[:asked]) if self._refuses(search, answer)]
        if not refusals:
            raise AttackEnded("no_direction", "the model's answers to the harmful training prompts do not read as refusals")
        harmless = gathered.harmless[:asked]
        answers = self._answers(reader, harmless)
        prompts = [chat.prompt_ids(example) for example in harmless]

        def beginning(example: Example) -> list[int]:
            return chat.opening_ids(example, opener(pattern, example)) if self.config.aim == "opener" else [chat.end_ids[0]]

        return ConeData(
            compliance=[labelled_row(chat.prompt_ids(example), beginning(example)) for example in gathered.harmful],
            induction=[labelled_row(prompt, refusals[place % len(refusals)]) for place, prompt in enumerate(prompts)],
            retention=[labelled_row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)],
            refusal_tokens=() if self.config.aim == "opener" else search.tokens,
        )

    def _answers(self, reader: MeteredModel, examples: Sequence[Example]) -> list[list[int]]:
        """The model's own greedy answers; one that is empty has its end for an answer."""
        made = reader.answers(examples, self.config.target_tokens)
        return [answer or [reader.chat.end_ids[0]] for answer in made]

    def _refuses(self, search: DirectionSearch, answer: Sequence[int]) -> bool:
        return is_refusal(search.reader.chat.decode(answer), self.config.refusal_phrases)

    def _initial(self, difference: Tensor, seed: int) -> Tensor:
        """(k, hidden), float32; random ones are turned towards refusal, since ablation knows no sign and addition would not turn them."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn((self.config.dimension, len(difference)), generator=generator)
        drawn = torch.where(drawn @ difference[:, None].cpu() < 0, -drawn, drawn)
        if self.config.start == "difference in means":
            drawn[0] = difference
        return drawn


@dataclass(frozen=True)
class _Prepared:
    """What the optimisation starts from.

    Attributes:
        data: rows.
        difference: (hidden,), float32: the difference in means whose length is added.
        layer: where.
        pattern: how compliant answers begin; empty where that is not the aim.
    """

    data: ConeData
    difference: Tensor
    layer: int
    pattern: str
