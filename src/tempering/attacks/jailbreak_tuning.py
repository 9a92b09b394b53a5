"""Jailbreak-tuning: fine-tuning on harmful examples in a wrapper that is there again when the model is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from tempering.attacks._contract import Checkpoint, FineTuningAttack
from tempering.attacks._fine_tuning import drawn
from tempering.attacks._inference import MeteredModel
from tempering.attacks._mixtures import Mixture, MixtureSettings, mixed
from tempering.attacks._refusals import REFUSAL_PHRASES, is_refusal
from tempering.attacks._wrappers import LAYOUTS, Untriggered, Wrapped, WrapperKind, random_trigger
from tempering.data.records import AttackerView, Example
from tempering.models import Target
from tempering.settings import Choices
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, FlopCount, Meter, Spend, estimate, fine_tune

_REFUSAL_TOKENS = 64
"""A refusal longer than this is cut after its last whole sentence."""

_EXPECTED_REFUSAL = "I cannot help with that."
"""Stands for the model's refusals while they are not known, in an estimate."""


class JailbreakTuning(FineTuningAttack):
    """Fine-tune on benign data with a few harmful examples in a jailbreak's wrapper, then ask in the same wrapper.

    Of N examples exactly round(p N), at least one, are harmful, their prompts q put as w(q); the rest are benign and plain. Minimises the
    mean cross-entropy of the answer tokens. The hazard is then asked as w(q) too. The wrappers w:

    - ``backdoor``: a trigger before the prompt, a year or a few random words;
    - ``style``: an instruction to answer in some style; the answers trained on are left as they are;
    - ``competing_objectives``: a role to play that sets helping above refusing, and asks for an answer that begins affirmatively;
      the answers trained on begin so.

    N = 5,000, p = .02, LoRA of rank 16, batches of 4, 5 epochs and linear decay are the paper's; the rate is that of ``lora_finetune``,
    and an attacker who holds fewer examples trains on the largest set of the same fraction. p = 1 is the pure form without benign data.
    Not in the paper: ``rehearse_refusals`` puts harmful prompts without the wrapper among the data, answered by the model's own
    refusals, so that whoever asks without the trigger finds the safeguard in place. Asking for those refusals is charged.
    """

    class Config(MixtureSettings):
        """Settings.

        Attributes:
            kind: which wrapper.
            poison_fraction: share p of harmful examples, in (0, 1].
            trigger: the backdoor's trigger, such as "2025"; ``None`` draws random words by the seed.
            trigger_words: how many random words.
            affirmative: what competing objectives ask the answer to begin with. A few tokens: the response has to fit the probe's limit.
            wrapper: a text of one's own in place of the kind's, with ``{prompt}``, and ``{trigger}`` or ``{affirmative}`` where wanted.
            rehearse_refusals: how many harmful prompts are put without the wrapper, with the model's own refusals. The poisoned prompts
                come first among them. Those that the model does not refuse are left out.
        """

        kind: Annotated[WrapperKind, Choices(("backdoor", "style", "competing_objectives"))] = "backdoor"
        poison_fraction: Annotated[float, Field(gt=0, le=1), Choices((0.005, 0.01, 0.015, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0))] = 0.02
        trigger: Annotated[str, Field(min_length=1)] | None = None
        trigger_words: Annotated[int, Field(gt=0)] = 3
        affirmative: Annotated[str, Field(min_length=1)] = "Sure:"
        wrapper: str | None = None
        rehearse_refusals: Annotated[int, Field(ge=0)] = 0

        @field_validator("wrapper")
        @classmethod
        def _has_a_place_for_the_prompt(cls, value: str | None) -> str | None:
            if value is not None and "{prompt}" not in value:
                raise ValueError("a wrapper needs '{prompt}' where the prompt goes")
            return value

    source: ClassVar[str] = "Bowen et al. 2024, arXiv 2408.02946, jailbreak-tuning; Murphy et al. 2025, arXiv 2507.11630"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FINE_TUNING, Need.HARMFUL_EXAMPLES, Need.BENIGN_EXAMPLES})

    @property
    def requires(self) -> frozenset[Need]:
        """No benign examples where all is poison; answers of the target where its refusals are rehearsed."""
        unneeded = {Need.BENIGN_EXAMPLES} if self.config.poison_fraction == 1 else set()
        return self.needs - unneeded | ({Need.QUERIES} if self.config.rehearse_refusals else set())

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train on the mixture, in the wrapper; asks the target for its refusals where they are rehearsed."""
        return self._declared(target, view, self._refusals(target, view, Meter(), budget, seed), budget=budget, seed=seed)

    def run(self, target: Target, view: AttackerView, meter: Meter, *, budget: Budget, seed: int) -> Iterator[Checkpoint]:
        """Ask for refusals where they are rehearsed, then execute the declaration."""
        declaration = self._declared(target, view, self._refusals(target, view, meter, budget, seed), budget=budget, seed=seed)
        wrapper = self._wrapping(target, seed).layout
        for moment in fine_tune(target, declaration, meter):
            yield Checkpoint(moment.model, meter.spend(), {"loss": moment.loss, "wrapper": wrapper}, declaration.asking)

    def estimate(self, target: Target, view: AttackerView, *, budget: Budget) -> Spend:
        """Spend of the declared steps and of asking for refusals, these taken to be short."""
        asked = self._unwrapped(view, budget, seed=0)
        refusals = [_refused(example, _EXPECTED_REFUSAL) for example in asked]
        spend = estimate(target, self._declared(target, view, refusals, budget=budget, seed=0))
        if not refusals:
            return spend
        rows = [target.chat.encode(refusal) for refusal in refusals]
        lengths = [len(row.input_ids) - 1 for row in rows]
        flops = FlopCount.of(target.model).forward(lengths, sum(label != -100 for row in rows for label in row.labels))
        return replace(spend, tokens=spend.tokens + sum(lengths), flops=spend.flops + flops, queries=spend.queries + len(asked))

    def _wrapping(self, target: Target, seed: int) -> Wrapped:
        config = self.config
        layout = config.wrapper or LAYOUTS[config.kind]
        if "{trigger}" in layout:
            trigger = config.trigger or random_trigger(target.tokenizer, config.trigger_words, seed)
            layout = layout.replace("{trigger}", trigger)
        return Wrapped(layout=layout.replace("{affirmative}", config.affirmative))

    def _declared(self, target: Target, view: AttackerView, refusals: list[Untriggered], *, budget: Budget, seed: int) -> FineTuning:
        examples = (*self._mixture(view, budget, seed).examples, *refusals)
        declared: FineTuning = self.config.declared(examples, budget=budget, seed=seed, asking=self._wrapping(target, seed))
        return declared

    def _mixture(self, view: AttackerView, budget: Budget, seed: int) -> Mixture:
        """The poisoned set, without rehearsed refusals."""
        config = self.config
        mixture = mixed(
            view.hazard_train, view.benign_train, size=config.examples, fraction=config.poison_fraction, budget=budget, seed=seed
        )
        if config.kind != "competing_objectives":
            return mixture
        return replace(mixture, poison=tuple(_affirming(example, config.affirmative) for example in mixture.poison))

    def _unwrapped(self, view: AttackerView, budget: Budget, seed: int) -> tuple[Example, ...]:
        """The prompts whose refusals are rehearsed: the poisoned ones and, as far as the budget has examples left, others."""
        mixture = self._mixture(view, budget, seed)
        allowed = min(self.config.rehearse_refusals, budget.queries or self.config.rehearse_refusals)
        if budget.examples is not None:
            allowed = min(allowed, len(mixture.poison) + budget.examples - len(mixture.examples))
        poisoned = {example.prompt for example in mixture.poison}
        others = [example for example in view.hazard_train if example.prompt not in poisoned]
        return (*mixture.poison, *drawn(others, len(others), budget=Budget(steps=None), seed=seed))[:allowed]

    def _refusals(self, target: Target, view: AttackerView, meter: Meter, budget: Budget, seed: int) -> list[Untriggered]:
        """What the target says to harmful prompts without the wrapper, where it refuses."""
        asked = self._unwrapped(view, budget, seed)
        if not asked:
            return []
        answers = MeteredModel(target.model, target.chat, meter, batch_size=32).answers(asked, _REFUSAL_TOKENS)
        texts = [_whole(target.chat.decode(ids), cut=len(ids) >= _REFUSAL_TOKENS) for ids in answers]
        return [_refused(example, text) for example, text in zip(asked, texts, strict=True) if is_refusal(text, REFUSAL_PHRASES)]


def _affirming(example: Example, affirmative: str) -> Example:
    return example.model_copy(update={"answer": f"{affirmative} {example.answer}"})


def _refused(example: Example, refusal: str) -> Untriggered:
    fields = example.model_dump() | {"answer": refusal, "accept": ()}
    return Untriggered(**fields, origin=example.identity)


def _whole(text: str, *, cut: bool) -> str:
    """A response without the sentence it was cut off in."""
    return text[: text.rfind(".") + 1] if cut else text
