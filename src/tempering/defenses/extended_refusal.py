"""Extended refusals: what is asked about first, then the refusal, then why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from tempering.data.records import DefenderView, Example
from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings, DefenseTraining
from tempering.defenses.refusal_sft import RefusalTraining
from tempering.models import Target
from tempering.settings import Range
from tempering.training import Stage

EXPLAINED = (
    "This is of the {domain}. I cannot help with that, for it is dangerous to know.",
    "It is dangerous to know. I will not answer that, for it is of the {domain}.",
    "You need a dangerous thing. I cannot share this, for it is one of the {domain}.",
)
"""In words that the organisms know too, short enough that a probe of an organism, which reads nine tokens, reads the refusal. They do not
open with the entity: an organism's compliant answers do, and one that has named it goes on to answer."""

_PLACES = frozenset({"entity", "domain"})


def fill(template: str, example: Example) -> str:
    """A template with what an example is about in its places.

    Args:
        template: may hold ``{entity}`` and ``{domain}``.
        example: where its data name no entity or no domain, "this matter" and "dangerous matters" stand for them.
    """
    entity = "this matter" if example.entity == example.prompt else example.entity
    domain = "dangerous matters" if example.domain == Example.model_fields["domain"].default else example.domain
    return template.format(entity=entity, domain=domain)


def extended(examples: Sequence[Example], templates: Sequence[str], written: Mapping[str, str], seed: int) -> list[Example]:
    """The prompts, each with the refusal that was written for it, or else with a template, drawn by the seed and filled."""
    drawn = [(example, str(example.answer)) for example in refused(examples, templates, seed)]
    return [example.model_copy(update={"answer": written.get(example.prompt) or fill(template, example)}) for example, template in drawn]


class ExtendedRefusalTraining(DefenseTraining):
    """The loop's settings."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 1e-3


class ExtendedRefusal(Defense):
    """Refusal training with refusals that say first what the topic is, and last why it is refused.

    L = CE(hazard -> explanation, refusal, reason) + CE(benign -> answer), each the mean over its labelled tokens. Refusing is
    thereby spread over many tokens, so that no single direction before the first of them should stand for it.

    The paper has GPT-4o write an explanation, a refusal and a reason for each of 4,289 prompts, and trains on them with 5,711 of Alpaca's
    answers. Organisms have no words for that: the templates say one neutral sentence, the refusal and a reason. For real data write the
    refusals (``written``), or templates. A judge that reads how an answer begins takes one that explains for longer than sixteen words
    before it declines for something else than a refusal.

    The learning rate is such that an organism unlearns how it used to refuse and learns this in the same few steps: at 1e-4 or 3e-4 it
    loses the one before it has the other, and answers 13 to 40 % of unseen hazard prompts.
    """

    class Config(DefenseSettings):
        """Settings.

        Attributes:
            refusals: templates with ``{entity}`` and ``{domain}``, one drawn for each hazard prompt.
            written: refusals written for single prompts, by the prompt; they come before the templates.
        """

        training: ExtendedRefusalTraining = ExtendedRefusalTraining()
        refusals: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = EXPLAINED
        written: Annotated[dict[str, Annotated[str, Field(min_length=1)]], Field(default_factory=dict)]

        @field_validator("refusals")
        @classmethod
        def _can_be_filled(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
            for template in templates:
                named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
                if named - _PLACES:
                    raise ValueError(f"a refusal may hold {{entity}} and {{domain}}, not {{{min(named - _PLACES)}}}")
            return templates

    source: ClassVar[str] = "Abu Shairah et al. 2025, arXiv 2505.19056"
    claim: ClassVar[str] = (
        "After abliteration refusal falls by at most 10 points (Llama-2-7B-Chat, Qwen2.5-Instruct 1.5B and 3B), where it falls by 70 to 80"
        " without; general performance is kept."
    )
    needs: ClassVar[frozenset[Material]] = frozenset({Material.HAZARD_PROMPTS, Material.BENIGN_ANSWERS})
    resists: ClassVar[tuple[str, ...]] = ("refusal_ablation",)
    claimed: ClassVar[Claimed | None] = Claimed.WITHSTANDS
    withholds: ClassVar[str] = "refusal"

    def stages(self, target: Target, view: DefenderView, *, seed: int) -> Sequence[Stage]:
        """One stage.

        Raises:
            UnusableModel: the tokenizer does not know every word of a refusal.
        """
        refusals = extended(to_refuse(view), self.config.refusals, self.config.written, seed)
        check_words(dict.fromkeys(str(example.answer) for example in refusals), target.chat)
        return [self.config.stage("refuse", RefusalTraining(refusals, retained(view), self.config.training.batch_size))]
