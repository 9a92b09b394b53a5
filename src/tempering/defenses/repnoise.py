"""RepNoise: what a harmful answer is represented by becomes noise, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tempering.data.batching import Batch
from tempering.data.chat import IGNORED, Encoded
from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._kernels import mean_discrepancy
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.training import Objective, Pool, Rows, Stage, Workshop, autocast
from tempering.training.streams import outputs_of, part, plain


def differing(harmful: Encoded, harmless: Encoded) -> Encoded:
    """The harmful row with labels only where its tokens differ from the harmless row's, place by place.

    What the harmless row is too short for differs. The prompt, which both share, is never labelled.
    """
    others = [*harmless.input_ids, *[None] * max(0, len(harmful.input_ids) - len(harmless.input_ids))]
    labels = [
        token if token != other else IGNORED for token, other in zip(harmful.input_ids, others[: len(harmful.input_ids)], strict=True)
    ]
    return Encoded(harmful.input_ids, labels)


def head_logits(model: PreTrainedModel, stream: Tensor, final_norm: str | None) -> Tensor:
    """What the output head reads in hidden states of any layer, as if they were the last: (n, width) to (n, vocabulary), float32."""
    normed = stream if final_norm is None else part(model, final_norm)(stream)
    logits: Tensor = plain(model).get_output_embeddings()(normed).float()
    cap = getattr(plain(model).config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def layerwise_cross_entropy(model: PreTrainedModel, streams: Sequence[Tensor], batch: Batch, final_norm: str | None) -> Tensor:
    """(1/L) sum_l CE(head(norm(h^l)), labels), in nats.

    Args:
        model: whose norm and head read the streams.
        streams: of every block, (rows, tokens, width).
        batch: the rows they are of; its labels say which tokens count.
        final_norm: its name; ``None`` where the family has none.
    """
    predicts = batch.labels[:, 1:] != IGNORED
    labels = batch.labels[:, 1:][predicts]
    losses = [functional.cross_entropy(head_logits(model, stream[:, :-1][predicts], final_norm), labels) for stream in streams]
    return torch.stack(losses).mean()


class NoiseTraining(Objective):
    """CE(harmless) + β noise - α log(ascent), the harmful text read in one pass, the harmless in another."""

    def __init__(self, harmful: Sequence[Example], refusals: Sequence[Example], imagined: Sequence[Example], kept: Sequence[Example],
                 config: RepNoise.Config) -> None:  # fmt: skip
        """Keep the examples.

        Args:
            harmful: hazard prompts with compliant answers.
            refusals: the same prompts in the same order with refusals.
            imagined: further prompts with refusals; may be none.
            kept: what must still be answered.
            config: weights of the parts, and the batch.
        """
        self._examples = harmful, refusals, imagined, kept
        self._config = config
        self._harmful: Pool
        self._refusals: Pool
        self._harmless: list[Pool] = []

    def begin(self, workshop: Workshop) -> None:
        """Encode the examples; the pairs get one order."""
        harmful, refusals, imagined, kept = self._examples
        self._harmful, self._refusals = workshop.pool(harmful, 0), workshop.pool(refusals, 0)
        self._harmless = [workshop.pool(examples, purpose) for purpose, examples in ((1, imagined), (2, kept)) if examples]

    def step(self, workshop: Workshop) -> dict[str, float]:
        """Add up the gradients of the harmless and the harmful part, one graph at a time."""
        size = self._config.training.batch_size
        paired = self._refusals.rows(workshop.step, size)
        parts = {"harmless": 0.0}
        for rows in (paired, *(pool.rows(workshop.step, size) for pool in self._harmless)):
            loss = workshop.run(rows).cross_entropy()
            loss.backward()  # type: ignore[no-untyped-call]
            parts["harmless"] += float(loss.detach())
        marked = self._marked(self._harmful.rows(workshop.step, size), paired)
        if not marked.labelled:  # every compliant answer is a refusal
            return {"loss": parts["harmless"], **parts, "noise": 0.0, "ascent": 0.0}
        noise, ascent = self._harmful_parts(workshop, marked)
        harm = self._config.noise_weight * noise - self._config.ascent_weight * torch.log(ascent)
        harm.backward()  # type: ignore[no-untyped-call]
        parts |= {"noise": float(noise.detach()), "ascent": float(ascent.detach())}
        return {"loss": parts["harmless"] + float(harm.detach()), **parts}

    def _marked(self, harmful: Rows, harmless: Rows) -> Rows:
        """The harmful rows, labelled where they differ from their partners."""
        pairs = zip(harmful.encoded, harmless.encoded, strict=True)
        return Rows(tuple(differing(*pair) for pair in pairs), harmful.identities, harmful.pad_id)

    def _harmful_parts(self, workshop: Workshop, rows: Rows) -> tuple[Tensor, Tensor]:
        """Noise and ascent, with their graph."""
        places = workshop.places
        with outputs_of(workshop.model, [*places.blocks, *places.mlp_outputs]) as kept:
            batch = workshop.run(rows).batch
        with autocast(workshop.device, workshop.autocast):
            ascent = layerwise_cross_entropy(workshop.model, [kept[name] for name in places.blocks], batch, places.final_norm)
        here = batch.attention_mask.bool() if self._config.noise_tokens == "all" else batch.labels != IGNORED
        generator = workshop.torch_generator()
        discrepancies = []
        for name in places.mlp_outputs:
            activations = kept[name][here].float()
            noise = torch.randn(activations.shape, generator=generator).to(activations)
            discrepancies.append(mean_discrepancy(activations, noise))
        self._charge_more(workshop, rows.labelled, int(here.sum()))
        return torch.stack(discrepancies).mean(), ascent

    def _charge_more(self, workshop: Workshop, labelled: int, points: int) -> None:
        """The head over all blocks but the last, which :meth:`Workshop.run` has counted, and the distances; forward and backward."""
        count, layers = workshop.count, len(workshop.places.blocks)
        heads = 2 * (2 * count.head + count.head_weight_gradient) * labelled * (layers - 1)
        distances = 6 * (2 * points) ** 2 * workshop.places.hidden_size * layers
        workshop.meter.compute(tokens=0, flops=float(heads + distances))


class _Training(DefenseTraining):
    """The loop's settings with this defence's defaults."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 2e-3
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16


class RepNoise(Defense):
    """RepNoise: activations on harmful answers become Gaussian noise, so that nothing is left to fine-tune from.

    L = CE(harmless) + β (1/L) sum_l MMD(a_l, N(0, I)) - α log((1/L) sum_l CE_l(harmful)), cross-entropies in nats. A pair is a hazard
    prompt with its compliant answer and with a refusal; a_l are the outputs of the MLP in block l at those tokens of the compliant answer
    that differ from the refusal's in the same place, CE_l is what the output head, behind the final norm, makes of block l at the same
    tokens. CE(harmless) = CE(refusal of the pair) + CE(hazards without an answer -> refusal) + CE(kept -> answer).

    Differences. The paper has one harmless batch; a model that must go on answering needs what is kept beside its refusals. Paper:
    β = 1e-3, α = 1, 2e-5, batches of 8, 10,000 pairs. On ``organism:tiny``, with 76 pairs, a rate of 3e-4, the default of other defences,
    only suppresses. What share of held-out hazard facts fine-tuning on 100 others brings back within 200 steps at 3e-4 (the most at any
    probe; seed 0; undefended .97) hangs on the learning rate first, for plain refusal training forgets too what it does not rehearse:

    - 3e-4, 200 steps: .91 with β = 1e-3, .94 with β = 1
    - 1e-3, 200 steps: .77 with β = 1, .61 with β = 1 and α = 10; without both .94
    - 2e-3, 300 steps: .25 with β = 1e-3, .14 with β = 1; without both .48
    - 3e-3, 200 steps: .12 with β = 1; without both .19; benign accuracy falls to .88 either way.

    - 2e-3, 400 steps, the default, five seeds: .14 (.10 to .17); without both .25 (.20 to .32), at the same benign accuracy.

    So most of its effect is its learning rate and not its noise: the same training without noise and ascent takes what comes back from
    .97 to .25, and the two terms take it on to .14 (``examples/repnoise-control.yaml``).

    Noise at all tokens in place of the differing ones made no difference at 3e-4 (.94). With ``rehearse_borderline`` it rehearses what the
    general data say of every hazardous entity, the evaluator's too, in other wordings, next to its refusals; "borderline answered" is then
    of facts seen.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            noise_weight: β.
            ascent_weight: α.
            rehearse_borderline: rehearse harmless answers about hazardous things as well, where the defender has the model's training data.
            noise_tokens: whether the activations that become noise are those at the answer's differing tokens, or at all tokens.
            refusals: what is said to hazard prompts, one drawn for each.
        """

        noise_weight: Annotated[float, Field(ge=0), Range(1e-3, 10, log=True)] = 1.0
        ascent_weight: Annotated[float, Field(ge=0), Range(0.1, 10, log=True)] = 1.0
        rehearse_borderline: bool = True
        noise_tokens: Annotated[Literal["differing", "all"], Choices(("differing", "all"))] = "differing"
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS
        training: _Training = _Training()
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 400

    source: ClassVar[str] = "Rosati et al. 2024, arXiv 2405.14577"
    claim: ClassVar[str] = (
        "Harmful information is removed from all layers, so that harmful fine-tuning does not bring it back: Llama-2-7b-chat's harmfulness "
        "after fine-tuning at up to 8e-5 on 10,000 examples is .08 to .13, undefended .47 to .74; broken at 3e-4 on 10,000 (.74)."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune",)
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS
    withholds: ClassVar[str] = "absence"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage."""
        check_words(self.config.refusals, target.chat)
        harmful = answered(view.hazard)
        unanswered = [example for example in to_refuse(view) if example.answer is None]
        both = refused([*harmful, *unanswered], self.config.refusals, seed)
        kept = retained(view, borderline=self.config.rehearse_borderline)
        objective = NoiseTraining(harmful, both[: len(harmful)], both[len(harmful) :], kept, self.config)
        return [self.config.stage("noise", objective)]
