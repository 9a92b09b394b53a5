"""The schema of ``card.json``, version 1: the safety case of a model's card. The pydantic models are the documentation and the check.

Every number has an interval beside it, or is the bound that it exceeds; ``shown`` is the same in words, as ``card.md`` has it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tempering.report.summary_schema import Finite, ModelPart, OutcomesPart, PricingPart, ThresholdPart


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CostPart(_Part):
    """A median over runs with its 95 % interval."""

    median: Finite | None = Field(description="null where censored")
    low: Finite | None = Field(description="lower end; where censored, the spend that the true median exceeds; null where nothing is known")
    high: Finite | None = Field(description="upper end; null where it lies beyond the budget")
    censored: bool = Field(description="fewer than half of the runs broke, so that the median lies beyond the budget")
    exceeds: Finite | None = Field(description="where censored, the spend that the median of these runs exceeds; null elsewhere")
    shown: str = Field(description="in words, as '12 (0 – 40)', '> 200' or '> 200 (from 8)'")


class CostsPart(_Part):
    """What a break costs."""

    flops: CostPart = Field(description="floating-point operations")
    usd: CostPart = Field(description="US dollars, as reckoned by 'pricing'")
    examples: CostPart = Field(description="distinct examples seen")


class EstimatePart(_Part):
    """An estimate with an interval."""

    value: Finite | None = Field(description="null where it was not measured")
    low: Finite | None
    high: Finite | None = Field(description="null where there is no upper end")
    shown: str


class RatioPart(EstimatePart):
    """How many times dearer than without the defence."""

    status: str = Field(
        description="'known', 'at_least' (a lower bound), 'control_held', 'free', 'unknown', 'untrained', or '' where not measured"
    )


class ClaimPart(_Part):
    """What is claimed of one model, or of one defence of it."""

    model: str
    defense: str = Field(description="'none' for the model as it came")
    sentences: list[str] = Field(description="the claim in words")
    attack: str | None = Field(description="the cheapest attack; null where nothing broke in half of its runs")
    broken: int = Field(description="runs that broke, of that attack; of all attacks where there is no cheapest")
    runs: int
    cost: CostsPart | None = Field(description="of that attack; null where there is none, and in the claim on a defence")
    multiplier: RatioPart | None = Field(description="what the defence multiplies the best attacker's FLOPs by; null without a defence")


class EvidencePart(_Part):
    """One attack on one model behind one defence."""

    model: str
    defense: str
    attack: str
    runs: int
    outcomes: OutcomesPart
    shown: str = Field(description="the outcomes in words")
    cost: CostsPart
    with_search: CostPart | None = Field(description="dollars with the search for the attack's settings; null where there was none")
    utility_kept: EstimatePart = Field(description="at the break: median over the runs that broke, and the lowest and highest of them")
    few_seeds: bool


class ThreatPart(_Part):
    """What the attacker was assumed to hold."""

    name: str
    holds: list[str]
    lacks: list[str]
    budget: list[str] = Field(description="what one run may spend at most; empty for any amount")


class MethodPart(_Part):
    """An attack, a defence or a measurement."""

    name: str = Field(description="what the study calls it")
    method: str = Field(description="registry name, where that is another one")
    plain: str = Field(description="what kind of attack it is, in plain words; '' for other methods")
    summary: str
    source: str


class LeftOutPart(_Part):
    """What was asked for and not run."""

    name: str
    model: str
    reason: str = Field(description="as the end of a sentence that begins with the name")


class FamilyPart(_Part):
    """A family of attacks that is known from the literature and not available here."""

    name: str
    plain: str
    source: str


class NotTriedPart(_Part):
    """What was not tried. Each might be cheaper than what was."""

    left_out: list[LeftOutPart]
    available: list[MethodPart] = Field(description="attacks that are installed, and that the study does not name")
    unavailable: list[FamilyPart]


class MultiplierPart(_Part):
    """What a defence multiplies the price by."""

    model: str
    defense: str
    best_attacker: RatioPart
    families: dict[str, RatioPart] = Field(description="the same for the best attacker of each family")
    broken: int = Field(description="in how many seeds something broke it")
    seeds: int
    few_seeds: bool


class TaxPart(_Part):
    """What a defence takes from honest users, and in training."""

    model: str
    defense: str
    trainings: int = Field(description="that were tried")
    trained: int = Field(description="that left a model")
    utility_kept: EstimatePart = Field(description="share of the undefended model's utility")
    over_refusal: EstimatePart = Field(description="share of borderline prompts refused")
    over_refusal_change: EstimatePart = Field(description="the same less that of the undefended model")
    lesson: RatioPart = Field(description="steps of an honest user's fine-tuning, over those on the undefended model")
    training_flops: EstimatePart = Field(description="median over trainings, and the least and the most")
    knowledge: str = Field(description="whether what it withholds is gone; '' where not asked")
    few_seeds: bool


class NotePart(_Part):
    """Something that weakens the numbers."""

    head: str
    text: str


class SeedsPart(_Part):
    """How often everything was repeated."""

    values: list[int]
    warning: str = Field(description="in words, where there are too few; '' otherwise")


class DataPart(_Part):
    """The prompts that a model was attacked and judged with."""

    model: str
    reference: str
    digest: str = Field(description="SHA-256")
    seed: int = Field(description="of the division into attacker, defender and evaluator")


class ReproducePart(_Part):
    """What it takes to get the same numbers."""

    command: str = Field(description="to be given inside the run's directory")
    study: str
    study_digest: str
    plan_digest: str = Field(description="over everything that decides a result: models, data, settings, code")
    data: list[DataPart]
    environment: dict[str, JsonValue] = Field(description="versions and hardware")


class Card(_Part):
    """The safety case of a model's card."""

    schema_: Literal[1] = Field(alias="schema", description="version of this schema")
    made_by: Literal["tempering card"] = "tempering card"
    tempering: str = Field(description="version that wrote the card")
    kind: Literal["audit", "comparison"]
    models: list[ModelPart]
    claims: list[ClaimPart]
    seeds: SeedsPart
    threshold: ThresholdPart
    evidence: list[EvidencePart]
    multipliers: list[MultiplierPart] = Field(description="empty where no defences were compared")
    tax: list[TaxPart] = Field(description="empty where no defences were compared")
    threat_model: ThreatPart
    tried: list[MethodPart]
    not_tried: NotTriedPart
    judges: list[MethodPart]
    cannot_see: list[str] = Field(description="what the judging cannot see")
    reliability: list[NotePart]
    would_change: list[str] = Field(description="what would change the claim")
    pricing: PricingPart
    reproduce: ReproducePart
