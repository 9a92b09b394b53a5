"""TAR: tampering attack resistance, by training against adversaries that tamper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from tempering.data.records import DefenderView, Role
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, answered, check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.defenses._tar_adversaries import Adversaries, AdversaryChoice, DataMix, made_up
from tempering.defenses._tar_mapping import MappingTraining
from tempering.defenses._tar_training import Lessons, Outer, TamperResistance
from tempering.models import Target
from tempering.settings import Choices, OnlyIf, Range, Settings
from tempering.training import Stage

GROWTH = 0.0625
"""Later looks along a trajectory weigh more, by this in the exponent a step."""


IMAGINED = 400
"""Made-up questions and answers that are drawn from, at most; the model before is asked about all of them once."""


class _Training(DefenseTraining):
    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 2e-4


def _full(rate: float, weight: float) -> AdversaryChoice:
    return AdversaryChoice(name="full_finetune", config={"training": {"learning_rate": rate}}, weight=weight)


class Tar(Defense):
    """TAR: trained so that the safeguard is still there after adversaries have tampered with the model.

    An outer step at the weights theta: draw an adversary, and x_TR, a batch about hazard entities that the adversary does not hold.
    The adversary takes K steps to theta_1 ... theta_K on its own data, and on the way

        g_TR = sum over k = 3, 7, ... K - 1 of exp(0.0625 (k - K + 1)) grad L_TR(theta_{k + 1}; x_TR),

    k from 0, theta_{k + 1} the weights after step k. Then theta moves by AdamW along lambda_TR g_TR + lambda_retain grad
    [CE(retain) + w mean over layers and tokens ||h - h_ref||_2], h the residual streams after the blocks and h_ref those of the
    model before TAR. Losses are in nats. K = 0 leaves retain training.

    L_TR is, for ``refusal``, DPO with the refusal preferred to the compliant answer and the model before TAR as reference; retain
    training of ``recovery_steps`` follows, to win utility back. For ``knowledge`` it is minus the mean entropy of the next token
    over the answer, and random mapping (the defence ``random_mapping``) comes first.

    First order: theta_k is taken as theta + Delta_k with Delta_k held constant, so that a gradient at theta_k is the gradient at
    theta. That is said of any attack, not of fine-tuning alone. Those that declare a fine-tuning execute it in place, by the one
    training loop, with their own optimiser, schedule, adapters and way of asking (x_TR is asked in it too). Any other is run on a
    model with the weights theta, and L_TR is asked of each of its checkpoints, at weight 1: what it cut, added or rounded is held
    constant. The adapters of a LoRA adversary are part of Delta. Where theta is itself adapters, adversaries tamper with the merged
    weights W, and dL/dW goes to A and B by the chain rule.

    An adversary holds the defender's own hazard examples but for the share that is held out, by entity and drawn anew each step,
    and the defender's benign ones. It holds no documents: those tell what the evaluator asks, so no defender is given any, and an
    attack that needs them cannot be an adversary. With ``data`` it trains on hazard examples (``forget``), on benign ones in their place
    (``retain``), or goes over from these to those at step K Beta(6, 3) (``switch``). Beyond the paper, ``imagined`` of what both
    sides ask is made up: prompts about things that do not exist, answered like another question of the domain with the name
    exchanged. With few entities TAR otherwise learns to deny those very answers: on the organism (19 entities, K = 8, seed 0, N = 200
    without and 120 with), fine-tuning at 3e-4 broke the model within 8 steps without and 11 with them, and ablation recovered .28
    without and .03 with them.

    The paper's settings, for 8 B parameters: K = 64, rates of the adversaries 2e-6, 2e-5 and 4e-5; knowledge N = 750 at 2e-5,
    lambda_TR = 4, all three kinds of data; refusal N = 100 at 6e-5 and 100 steps of SFT to recover. The defaults are for a model of
    a million parameters and three minutes on one core: adversaries at the rates that break the guarded organism within 1 to 11
    steps; K = 16, since at 8 they soon lose every time and nothing more is learnt; N, the outer rate and a short recovery as benign
    and borderline answers allow (lambda_retain = 4 costs a third of the price, a longer recovery likewise).
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            steps: N, outer steps.
            withhold: by refusing, or by not knowing.
            adversaries: registered attacks, each a name or ``{name, config, weight}``; one is drawn for every step. Add for
                example ``{name: refusal_ablation, config: {prompt_counts: [16]}}``. None that needs documents (``retrieval``;
                ``relearning`` that holds them): a defender has none.
            data: what those that fine-tune are trained on.
            inner_steps: K, the steps an adversary has; an attack whose own settings say fewer stops there.
            look_every: steps from one look at L_TR to the next.
            resistance_weight: lambda_TR.
            retain_weight: lambda_retain.
            representation_weight: w, a nat for a distance of 1 / w.
            held_out: share of the hazard's entities that x_TR is drawn from.
            held_out_batch: x_TR, questions.
            imagined: share of made-up ones in x_TR and among the adversary's examples.
            refusal_rows: rows of the retain batch that are refusals of hazard prompts, imagined ones too; the paper has none. The others
                are benign, borderline and rehearsal in equal parts.
            beta: DPO's.
            mapping_steps: of random mapping before, where knowledge is withheld.
            recovery_steps: of retain training after, where it is refused.
            refusals: what is preferred.
        """

        training: _Training = _Training()
        steps: Annotated[int, Field(gt=0), Range(50, 1000, log=True)] = 150
        withhold: Annotated[Literal["refusal", "knowledge"], Choices(("refusal", "knowledge"))] = "refusal"
        adversaries: Annotated[tuple[AdversaryChoice, ...], Field(min_length=1)] = (
            _full(1e-4, 1.0),
            _full(3e-4, 1.0),
            _full(1e-3, 1.0),
            AdversaryChoice(name="lora_finetune", config={"training": {"learning_rate": 1e-3}}),
        )
        data: DataMix = DataMix()
        inner_steps: Annotated[int, Field(ge=0), Choices((4, 8, 16, 64))] = 16
        look_every: Annotated[int, Field(gt=0)] = 4
        resistance_weight: Annotated[float, Field(gt=0), Range(0.1, 10.0, log=True)] = 1.0
        retain_weight: Annotated[float, Field(gt=0), Range(0.1, 10.0, log=True)] = 1.0
        representation_weight: Annotated[float, Field(ge=0)] = 0.1
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.4
        held_out_batch: Annotated[int, Field(gt=0)] = 8
        imagined: Annotated[float, Field(ge=0, lt=1), OnlyIf("withhold", "refusal")] = 0.5
        refusal_rows: Annotated[int, Field(ge=0)] = 8
        beta: Annotated[float, Field(gt=0), OnlyIf("withhold", "refusal")] = 0.1
        mapping_steps: Annotated[int, Field(ge=0), OnlyIf("withhold", "knowledge")] = 100
        recovery_steps: Annotated[int, Field(ge=0), OnlyIf("withhold", "refusal")] = 40
        refusals: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_REFUSALS

    source: ClassVar[str] = "Tamirisa et al. 2024, arXiv 2408.00761, algorithm 1"
    claim: ClassVar[str] = (
        "After fine-tuning attacks the share of hazardous questions (WMDP) answered rightly stays near chance, 25 %: biology 35, "
        "chemistry 27, cyber 29 %, against 55 to 70 % for other safeguards; harmful requests that succeed (HarmBench) after attack are "
        "63.9 %, against 72.5 % of a refusal-trained model. Known to break it: longer warm-up with cosine decay, LoRA, abliteration."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_ANSWERS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("full_finetune",)
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS

    def __init__(self, config: Settings) -> None:
        """Make the adversaries once, so that a wrong name or setting of one is found when a study is read.

        Args:
            config: validated.

        Raises:
            InvalidStudy: an adversary is set wrongly, or needs documents.
            UnknownName: there is no such attack.
        """
        super().__init__(config)
        self.adversaries()

    @property
    def withholds(self) -> str:  # type: ignore[override]
        """As its settings say."""
        return "absence" if self.config.withhold == "knowledge" else "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """Random mapping and TAR for knowledge, TAR and recovery for refusal.

        Raises:
            UnusableModel: the tokenizer does not know every word of a refusal.
        """
        config: Tar.Config = self.config
        knowledge = config.withhold == "knowledge"
        if not knowledge:
            check_words(config.refusals, target.chat)
        hazard, kept = answered(view.hazard), retained(view)
        also = [] if knowledge else refused(to_refuse(view), config.refusals, seed)
        general = [example for example in view.general if example.role is Role.BENIGN]
        groups = [answered(view.benign), answered(view.borderline), answered(general)]
        imagined = [] if knowledge or not config.imagined else made_up(view.imagined, hazard, IMAGINED, np.random.default_rng([seed, 6]))
        asked = [*hazard, *imagined]
        refusals = dict(zip(asked, refused(asked, config.refusals, seed), strict=True))
        lessons = Lessons(hazard, imagined, refusals, groups[0] or kept, groups, also)
        tar = config.stage("resist", TamperResistance(target, self.adversaries(), lessons, self._outer()))
        size = config.training.batch_size
        if knowledge:
            mapping = config.stage("map", MappingTraining(hazard, kept, size), steps=max(1, config.mapping_steps))
            return [mapping, tar] if config.mapping_steps else [tar]
        plain = replace(self._outer(), retain_weight=1.0, representation_weight=0.0)
        recovery = config.stage("recover", TamperResistance(target, None, lessons, plain), steps=max(1, config.recovery_steps))
        return [tar, recovery] if config.recovery_steps else [tar]

    def adversaries(self) -> Adversaries | None:
        """Those of the settings; ``None`` where they have no steps."""
        config: Tar.Config = self.config
        made = Adversaries(config.adversaries, config.data, steps=config.inner_steps, every=config.look_every, growth=GROWTH)
        return made if config.inner_steps else None

    def _outer(self) -> Outer:
        config: Tar.Config = self.config
        return Outer(
            resists=config.withhold,
            resistance_weight=config.resistance_weight,
            retain_weight=config.retain_weight,
            representation_weight=config.representation_weight,
            batch_size=config.training.batch_size,
            refusal_rows=min(config.refusal_rows, config.training.batch_size - 1),
            held_out=config.held_out,
            held_out_batch=config.held_out_batch,
            imagined=config.imagined,
            beta=config.beta,
        )
