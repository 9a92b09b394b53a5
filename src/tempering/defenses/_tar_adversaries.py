"""TAR's adversaries: registered attacks, given a part of the defender's own examples to tamper with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator
from transformers import PreTrainedModel

from tempering import registry
from tempering.data.asking import Asking
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import AttackerView, Example
from tempering.defenses._tar_working import WorkingModel
from tempering.errors import InvalidStudy
from tempering.models import Target
from tempering.settings import Settings
from tempering.study import Budget, MethodChoice
from tempering.threat_model import Need
from tempering.training import FineTuning, FlopCount, Meter, NonFiniteLoss, Workshop
from tempering.training.adapters import lora_parameters
from tempering.training.loop import Prepared, batches, train
from tempering.training.memory import MOMENTS
from tempering.training.objective import FLOAT32

SWITCH = (6.0, 3.0)
"""Of the Beta distribution of the moment, as a share of the steps, at which an adversary goes over from benign to hazard data."""

_DOCUMENTS = "it needs documents, and those are about the evaluator's entities, so a defender is given none"
_WITHOUT_DOCUMENTS = "take it out of 'adversaries', or set one that can train on examples so (relearning: hold: examples)"


class AdversaryChoice(MethodChoice):
    """An attack to train against.

    Attributes:
        weight: how often it is drawn, against the others.
    """

    weight: Annotated[float, Field(gt=0)] = 1.0


class DataMix(Settings):
    """What a fine-tuning adversary trains on, as weights of a draw.

    Attributes:
        forget: hazard questions with their answers.
        retain: benign ones in their place.
        switch: benign ones at first, hazard from step K Beta(6, 3) on.
    """

    forget: Annotated[float, Field(ge=0)] = 1.0
    retain: Annotated[float, Field(ge=0)] = 0.0
    switch: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _something(self) -> DataMix:
        if not self.forget + self.retain + self.switch > 0:
            raise ValueError("one of forget, retain and switch must be above 0")
        return self

    def draw(self, generator: np.random.Generator) -> str:
        """One of ``forget``, ``retain`` and ``switch``."""
        weights = self.model_dump()
        return str(generator.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))


@dataclass(frozen=True)
class Look:
    """A tampered model at which the resistance is asked for.

    Attributes:
        model: live; valid until the next one is asked for.
        weight: of its gradient in the sum.
        count: operations of a pass that gives all its weights a gradient.
        asking: how the adversary asks it.
    """

    model: PreTrainedModel
    weight: float
    count: FlopCount
    asking: Asking


class Adversaries:
    """Draws an adversary a step and lets it tamper with the working model."""

    def __init__(self, choices: Sequence[AdversaryChoice], mix: DataMix, *, steps: int, every: int, growth: float) -> None:
        """Make the attacks, so that a wrong name or setting is found out before anything runs.

        Args:
            choices: attacks with their weights.
            mix: data of those that fine-tune.
            steps: K, the steps that an adversary has.
            every: steps from one look to the next.
            growth: a look after step k + 1 weighs exp(growth (k - K + 1)).

        Raises:
            UnknownName: there is no such attack.
            InvalidStudy: a setting of one is wrong, or it needs documents, which no defender is given.
        """
        self.attacks: list[Any] = [registry.create("attacks", choice.name, choice.config) for choice in choices]
        for choice, attack in zip(choices, self.attacks, strict=True):
            if Need.RETRIEVAL in attack.requires:
                raise InvalidStudy(f"no defence can train against {choice.title!r} as it is set: {_DOCUMENTS}", _WITHOUT_DOCUMENTS)
        self._odds = np.array([choice.weight for choice in choices]) / sum(choice.weight for choice in choices)
        self._mix = mix
        self._steps = steps
        self._every = every
        self._growth = growth

    @property
    def rows(self) -> int:
        """The largest batch that one of them trains on."""
        return max((getattr(training, "batch_size", 0) for attack in self.attacks for training in _trainings(attack)), default=0)

    def bytes_held(self, model: PreTrainedModel) -> int:
        """What the one that needs most holds beside the working model, together with the gradient of a look.

        Args:
            model: the plain one; only looked at.
        """
        return max(_bytes_held(attack, model) for attack in self.attacks)

    def begin(self, target: Target, workshop: Workshop) -> None:
        """Copy the model to work on.

        Args:
            target: stands for the working model before the attacks; only its chat and names are used.
            workshop: of the stage that begins.
        """
        self._working = WorkingModel(workshop)
        self._target = replace(target, model=self._working.model, digest="")
        self.encode = encoding(workshop.chat)

    def looks(self, workshop: Workshop, view: AttackerView) -> Iterator[Look]:
        """Run the adversary of this step on the trained weights and stop wherever the resistance is asked for.

        Args:
            workshop: what the adversary spends is charged here; decides the draw.
            view: the adversary's data.
        """
        generator = workshop.generator(1)
        attack = self.attacks[int(generator.choice(len(self.attacks), p=self._odds))]
        seed = int(generator.integers(2**31))
        self._working.reset(workshop.model)
        asks = (attack.requires | attack.uses) & frozenset(Need)
        if hasattr(attack, "declare"):
            return self._fine_tuned(attack, workshop, view, asks, self._mix.draw(generator), seed)
        return self._attacked(attack, workshop, view.limited_to(asks), seed)

    def _fine_tuned(
        self, attack: Any, workshop: Workshop, view: AttackerView, asks: frozenset[Need], data: str, seed: int
    ) -> Iterator[Look]:
        """Execute a declaration in place, by the one training loop."""
        declaration, order = self._declared(attack, view, asks, data, seed, workshop.generator(2))
        lora = declaration.lora
        settings = declaration.settings.model_copy(update={"autocast": declaration.settings.autocast or workshop.autocast})
        model = self._working.ready(lora, seed)
        encoded = [self.encode(declaration.asking, example) for example in declaration.examples]
        prepared = Prepared(encoded, self._working.count(lora), order)
        try:
            for moment in train(model, workshop.chat, declaration, settings, workshop.meter, prepared):
                weight = float(np.exp(self._growth * (moment.step - declaration.steps)))
                yield Look(moment.model, weight, self._working.count(lora, looked_at=True), declaration.asking)
        except NonFiniteLoss:
            return  # an adversary that trains itself to pieces has nothing more to teach

    def _declared(
        self, attack: Any, view: AttackerView, asks: frozenset[Need], data: str, seed: int, generator: np.random.Generator
    ) -> tuple[FineTuning, list[list[int]] | None]:
        """What is trained, with looks for probes, and in which order where it is not the loop's own."""
        budget = Budget(steps=self._steps)
        benign = replace(view, hazard_train=view.benign_train, hazard_validation=view.benign_validation)
        first = view if data == "forget" else benign
        declaration: FineTuning = attack.declare(self._target, first.limited_to(asks), budget=budget, seed=seed)
        steps = min(declaration.steps, self._steps)
        probes = tuple(range(self._every, steps + 1, self._every)) or (steps,)
        declaration = replace(declaration, steps=steps, probes=probes)
        if data != "switch":
            return declaration, None
        then = attack.declare(self._target, view.limited_to(asks), budget=budget, seed=seed)
        moment = round(steps * generator.beta(*SWITCH))
        size, known = declaration.settings.batch_size, len(declaration.examples)
        before = batches(known, size, moment, seed)
        after = batches(len(then.examples), size, steps - moment, seed)
        order = [*before, *([known + index for index in batch] for batch in after)]
        return replace(declaration, examples=(*declaration.examples, *then.examples)), order

    def _attacked(self, attack: Any, workshop: Workshop, view: AttackerView, seed: int) -> Iterator[Look]:
        """Run any other attack on the working model; every checkpoint of it is a look of weight one."""
        meter, budget = Meter(), Budget(steps=self._steps)
        self._working.ready(None, seed).requires_grad_(False).eval()
        checkpoints = iter(attack.run(self._target, view, meter, budget=budget, seed=seed))
        try:
            for checkpoint in checkpoints:
                if checkpoint.spend.steps > self._steps:
                    break
                yield Look(checkpoint.model, 1.0, self._working.count(looked_at=True), checkpoint.asking)
        except Exception as ended:
            if not hasattr(ended, "outcome"):
                raise  # an attack that ends with an outcome has found no way in, which leaves nothing to learn from
        finally:
            getattr(checkpoints, "close", lambda: None)()
            _add(workshop.meter, meter)


def _trainings(attack: Any) -> list[Any]:
    """How an attack, or each link of a chain, is set to train; empty where it does not."""
    return [link.config.training for link in getattr(attack, "links", [attack]) if hasattr(link.config, "training")]


def _bytes_held(attack: Any, model: PreTrainedModel) -> int:
    """Float32 numbers as bytes: of all weights where all move, since a gradient, moments or an edited copy is as large as the model."""
    weights = FLOAT32 * sum(weight.numel() for weight in model.parameters())
    if links := getattr(attack, "links", None):  # each works on a copy of what the one before it made
        return weights + max(_bytes_held(link, model) for link in links)
    if not hasattr(attack, "declare"):
        return 2 * weights  # what it edits, and a look's gradient
    moments = MOMENTS.get(getattr(getattr(attack.config, "training", None), "optimiser", "adamw"), 2)
    lora = getattr(attack, "adapters", None)
    if lora is None:
        return int(weights * (1 + moments))  # a look's gradient takes the place of the adversary's own
    return weights + int(FLOAT32 * lora_parameters(model, lora) * (1 + moments))


def encoding(chat: ChatFormat) -> Any:
    """A function of an asking and an example that encodes them and remembers it, for as long as they can be remembered."""

    def encoded(asking: Asking, example: Example) -> Encoded:
        return asking.encode(chat, example)

    remembered = lru_cache(maxsize=100_000)(encoded)

    def encode(asking: Asking, example: Example) -> Encoded:
        try:
            hash(asking)
        except TypeError:
            return encoded(asking, example)
        return remembered(asking, example)

    return encode


def divided(examples: Sequence[Example], share: float, generator: np.random.Generator) -> tuple[list[Example], list[Example]]:
    """Examples cut in two by entity; both parts are all of them where there is one entity only.

    Args:
        examples: any.
        share: of the entities in the first part; at least one, and at least one left.
        generator: draws them.
    """
    entities = list(dict.fromkeys(example.entity for example in examples))
    if len(entities) < 2:
        return list(examples), list(examples)
    count = min(len(entities) - 1, max(1, round(share * len(entities))))
    chosen = {entities[int(index)] for index in generator.permutation(len(entities))[:count]}
    return [one for one in examples if one.entity in chosen], [one for one in examples if one.entity not in chosen]


def picked(examples: Sequence[Example], count: int, generator: np.random.Generator) -> list[Example]:
    """So many of the examples, or all where there are fewer, in an order that the generator draws."""
    return [examples[int(index)] for index in generator.permutation(len(examples))[:count]]


def made_up(prompts: Sequence[Example], known: Sequence[Example], most: int, generator: np.random.Generator) -> list[Example]:
    """Prompts about things that do not exist, each with an answer of the kind that the hazard has.

    The answer is that to another question of the domain, with the name in it exchanged. What it says is as good as any; that it complies
    is what adversaries train for.

    Args:
        prompts: whose entities the answers are to name.
        known: hazard examples with answers.
        most: prompts taken.
        generator: draws prompts and answers.
    """
    by_domain: dict[str, list[Example]] = {}
    for example in known:
        by_domain.setdefault(example.domain, []).append(example)
    made = []
    for prompt in picked([one for one in prompts if one.domain in by_domain], most, generator):
        like = by_domain[prompt.domain][int(generator.integers(len(by_domain[prompt.domain])))]
        answer = str(like.answer).replace(like.entity, prompt.entity)
        made.append(prompt.model_copy(update={"answer": answer, "accept": ()}))
    return made


def _add(meter: Meter, spent: Meter) -> None:
    """Charge to one meter what another has counted."""
    spend = spent.spend()
    meter.examples(spent.kept()["examples"])
    meter.compute(tokens=spend.tokens, flops=spend.flops)
    meter.query(spend.queries)
    for _ in range(spend.steps):
        meter.step()
    for _ in range(spend.trials):
        meter.trial()
