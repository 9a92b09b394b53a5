"""The schema of ``summary.json``, version 1: the pydantic models are the documentation and the check at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tempering.data.provenance import Provenance

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TargetPart(_Part):
    """The audited model."""

    reference: str = Field(description="what the user called it")
    digest: str = Field(description="SHA-256 of its weights and chat template")
    dtype: str = Field(description="type of its weights, as 'float32'")


class ModelPart(TargetPart):
    """One of several audited models."""

    parameters: int | None = Field(default=None, description="how many weights it has")
    safeguard: str = Field(default="unknown", description="'refusal', 'absence', 'none' or 'unknown'")


class ThresholdPart(_Part):
    """When a safeguard counts as broken."""

    tau: Finite = Field(description="share of the withheld harm that must be recovered")
    epsilon: Finite = Field(description="share of the target's utility that may be lost")


class OutcomesPart(_Part):
    """How many runs ended in which way; together they are the trials."""

    broken: int = 0
    held: int = 0
    destroyed: int = 0
    no_direction: int = 0
    failed: int = 0


class CostPart(_Part):
    """A median over runs with its 95 % interval."""

    median: Finite | None = Field(description="spend at the median break; null where censored")
    low: Finite | None = Field(
        description="lower end of the interval; where censored, the spend that the true median exceeds; null where nothing was tried"
    )
    high: Finite | None = Field(description="upper end of the interval; null where it lies beyond the budget")
    censored: bool = Field(description="fewer than half of the runs broke, so that the median lies beyond the budget")
    exceeds: Finite | None = Field(
        default=None, description="where censored, the spend that the median of these runs exceeds; null elsewhere, and where unknown"
    )


class CostsPart(_Part):
    """The cost to break in every currency."""

    examples: CostPart = Field(description="distinct examples seen")
    steps: CostPart = Field(description="optimizer steps")
    queries: CostPart = Field(description="prompts sent to the model for an answer")
    tokens: CostPart = Field(description="tokens through the model, padding left out")
    flops: CostPart = Field(description="floating-point operations")
    gpu_hours: CostPart = Field(description="hours of the accelerator named in the study")
    usd: CostPart = Field(description="US dollars at the price book's rate")


class TotalsPart(_Part):
    """The cost to break with the search in it, in the currencies that add up."""

    steps: CostPart
    queries: CostPart
    tokens: CostPart
    flops: CostPart
    gpu_hours: CostPart
    usd: CostPart


class SearchPart(_Part):
    """What finding the attack's settings took; it is not in the cost to break."""

    trials: Finite = Field(description="settings tried by one run, median over runs")
    flops: Finite | None = Field(description="floating-point operations of all trials and of the asking in between, median over runs")
    gpu_hours: Finite | None = Field(description="the same in hours of the accelerator")
    usd: Finite | None = Field(description="the same in US dollars")
    cost_with_search: TotalsPart = Field(description="cost to break with the search of each run added to it")


class AttackPart(_Part):
    """One attack on one model behind one defence."""

    model: str = Field(description="reference of the model")
    defense: str = Field(description="name of the defence, 'none' where there is none")
    attack: str = Field(description="registry name")
    trials: int = Field(description="runs, failed ones included; 0 where the attack was not tried")
    outcomes: OutcomesPart
    cost_to_break: CostsPart | None = Field(description="null where the attack was not tried")
    best_recovered: Finite | None = Field(description="greatest share of the harm recovered by any run that kept utility")
    utility_kept: Finite | None = Field(description="share of utility left at the break, median over runs; null where nothing broke")
    few_seeds: bool = Field(description="too few runs for the interval to mean much")
    not_tried: str | None = Field(description="why the attack was not run; null where it was")
    search: SearchPart | None = Field(default=None, description="there only where the attack's settings were searched for")


class DefensePart(_Part):
    """A defence that was not tried, or whose training failed."""

    model: str = Field(description="reference of the model")
    defense: str = Field(description="name of the defence")
    reason: str = Field(description="why, as the end of a sentence that begins with its name")


class RatioPart(_Part):
    """How many times dearer than without the defence; a ratio of medians with its 95 % interval over seeds."""

    status: str = Field(
        description="'known', 'at_least' (a lower bound), 'control_held', 'free', 'unknown', 'untrained', or '' where not measured"
    )
    value: Finite | None = Field(description="the ratio, or the bound that it exceeds; null where there is none")
    low: Finite | None
    high: Finite | None = Field(description="null where the ratio has no upper bound")


class SharePart(_Part):
    """A share, mean over seeds with its 95 % interval, and the same of the undefended model; null where it was not measured."""

    value: Finite | None
    low: Finite | None
    high: Finite | None
    control: Finite | None


class MultiplierPart(_Part):
    """How many times dearer the defence makes a break for the best attacker, in FLOPs: a ratio of medians with its 95 % interval."""

    median: Finite | None = Field(description="ratio of the medians; null where censored, and where there is none")
    low: Finite | None = Field(description="lower end of the interval; where censored, of the bound")
    high: Finite | None = Field(description="null where the ratio has no upper bound, and where there is none")
    censored: bool = Field(description="the defended median lies beyond the budget, so that only a lower bound is known")
    exceeds: Finite | None = Field(description="where censored, the bound that the ratio exceeds; null elsewhere")
    status: str = Field(description="as of the best attacker's ratio, which says why there is no number where there is none")


class AttackRatioPart(_Part):
    """The same for one attack, run against both."""

    attack: str = Field(description="the attack, as the study calls it")
    status: str = Field(description="'known', 'at_least' (a lower bound), 'control_held', 'free' or 'unknown'")
    multiplier: Finite | None = Field(description="the ratio, or the bound that it exceeds; null where there is none")
    low: Finite | None
    high: Finite | None = Field(description="null where the ratio has no upper bound")


class ChangePart(_Part):
    """By how much a share of the undefended model's changed for the worse; mean over seeds with its 95 % interval, null if not measured."""

    value: Finite | None = Field(description="below nothing where it changed for the better")
    low: Finite | None
    high: Finite | None


class TaxPart(_Part):
    """What a defence takes; more is worse."""

    utility: ChangePart = Field(description="utility lost")
    borderline: ChangePart = Field(description="share of borderline prompts answered well that is lost")
    over_refusal: ChangePart = Field(description="share of borderline prompts that are refused more")
    benign_trainability: RatioPart = Field(description="an honest user's steps to teach the model a new benign domain, over those without")
    flops: Finite | None = Field(description="of the defender's training, median over seeds")


class DominationPart(_Part):
    """By what a defence is dominated: as good in the multiplier and in every tax that was measured, and better in one."""

    by: list[str] = Field(description="defences that dominate it by the points, the dearest to break first; 'none' is no defence at all")
    share: Finite | None = Field(description="of the resamples over seeds in which it is dominated; null where none can tell")
    beyond_doubt: bool = Field(description="whether the 95 % intervals say so too")
    beyond_doubt_by: list[str] = Field(description="those whose intervals do")


class ComparedPart(_Part):
    """What one defence does to the price of a model, and what it takes."""

    model: str = Field(description="reference of the model")
    defense: str = Field(description="title of the defence")
    multiplier: MultiplierPart
    by_attack: list[AttackRatioPart] = Field(description="every attack that was run on both, the defence's cheapest first")
    tax: TaxPart
    dominated: bool | None = Field(
        description="whether another defence, or none at all, is at least as good in everything and better in something; null where that "
        "was not looked at, as of a defence without a multiplier"
    )
    domination: DominationPart | None = Field(description="by which, and how surely; null where that was not looked at")
    best_attacker: RatioPart = Field(description="FLOPs of the cheapest break of each seed, over the undefended model's")
    at_control_utility: RatioPart = Field(description="the same where breaks must keep the undefended model's utility")
    attack: str | None = Field(description="the attack that was cheapest in most seeds; null where nothing broke")
    broken: int = Field(description="in how many seeds something broke it")
    runs: int = Field(description="seeds")
    families: dict[str, RatioPart] = Field(description="the same for the best attacker of each family")
    utility: SharePart
    utility_kept: SharePart = Field(description="of the undefended model's utility")
    over_refusal: SharePart = Field(description="borderline prompts refused")
    borderline: SharePart = Field(description="borderline prompts answered well")
    coherence: SharePart
    refusal: SharePart
    harm: SharePart
    lesson: RatioPart = Field(description="steps of an honest user's fine-tuning on a new benign domain, over the undefended model's")
    training_flops: Finite | None = Field(description="what the defender spent, median over seeds")
    knowledge: str | None = Field(description="whether what it withholds is gone: a verdict of tempering.economics.absence")
    few_seeds: bool = Field(description="too few seeds for the intervals to mean much")


class CheapestPart(_Part):
    """The attack with the lowest median price in dollars."""

    model: str
    defense: str
    attack: str
    usd: Finite | None
    flops: Finite | None
    examples: Finite | None


class AssumptionPart(_Part):
    """A number that was assumed, with where and when it was read."""

    value: Finite
    source: str
    date: str = Field(description="as '2026-01-31'")


class PricingPart(_Part):
    """What GPU-hours and dollars were reckoned with: hours = FLOPs / (peak rate × utilisation) / 3600, dollars = hours × price."""

    accelerator: str = Field(description="its name in the price book")
    price_book: str = Field(description="the day of the price book, as '2026-01-31'")
    peak_flops: AssumptionPart = Field(description="FLOP/s")
    utilisation: AssumptionPart = Field(description="share of the peak rate that is used")
    usd_per_hour: AssumptionPart = Field(description="US dollars for an hour of one")


class JudgePart(_Part):
    """A judge of responses to hazard prompts, what judging took, and how far it agrees with the one that decides."""

    judge: str = Field(description="as the study calls it")
    name: str = Field(description="the registry's")
    decides: bool = Field(description="whether prices are by its verdicts")
    judged: int = Field(description="responses that a verdict was wanted on")
    filtered: int = Field(description="of them gibberish and bare openers, on which no model was asked")
    cached: int = Field(description="of them judged before")
    calls: int = Field(description="responses that its model was asked about")
    retries: int = Field(description="requests that had to be sent again")
    unparsed: int = Field(description="answers that said nothing; they count neither way")
    tokens_in: int
    tokens_out: int
    seconds: Finite = Field(description="of judging, waiting for a server included")
    flops: Finite = Field(description="of a model on this machine; in no attacker's spend")
    agreement: Finite | None = Field(description="share of responses on which it and the deciding judge agree; null for that one")
    kappa: Finite | None = Field(description="Cohen's, of the two, useful or not; null where it does not exist")
    kappa_low: Finite | None
    kappa_high: Finite | None
    both: int = Field(description="responses that both find useful")
    only_first: int
    only_second: int
    neither: int


class SpentPart(_Part):
    """What the audit itself took."""

    wall_s: Finite = Field(description="seconds of work, summed over units")
    flops: Finite = Field(description="floating-point operations of the attacks")


class CapabilityPart(_Part):
    """What an attack, or a defence, leaves of a benchmark."""

    model: str
    defense: str
    attack: str = Field(description="'' for the defence itself")
    measure: str = Field(description="the benchmark, as task/metric")
    before: float | None = Field(description="mean of the untouched model")
    after: float | None = Field(description="mean where the runs broke, or else recovered most harm; null where none was measured")
    after_low: float | None = Field(description="lower end of its 95 % interval over seeds")
    after_high: float | None = Field(description="upper end of its 95 % interval over seeds")
    runs: int = Field(description="runs in which both were measured")
    broken: int = Field(description="of those, runs measured at their break")


class Summary(_Part):
    """Everything a program needs of an audit."""

    schema_: Literal[1] = Field(alias="schema", description="version of this schema")
    study: str = Field(description="name of the study")
    study_digest: str = Field(description="twelve digits of the hash of the resolved study")
    target: TargetPart = Field(description="the audited model; the first where there are several")
    models: list[ModelPart] = Field(default=[], description="every audited model, where there are several")
    threshold: ThresholdPart
    attacks: list[AttackPart]
    defenses: list[ComparedPart] = Field(default=[], description="there only where defences were compared, the dearest to break first")
    defenses_not_tried: list[DefensePart] = Field(default=[], description="there only where a defence was left out or failed to train")
    capability: list[CapabilityPart] = Field(default=[], description="there only where the study asked for benchmarks")
    judges: list[JudgePart] = Field(default=[], description="there only where the study names judges, the deciding one first")
    cheapest: CheapestPart | None = Field(description="null where no attack broke at least half of its runs")
    pricing: PricingPart
    data: Provenance | None = Field(
        default=None, description="there only where sets were named or joined: where the prompts come from, and which were left out"
    )
    environment: dict[str, JsonValue]
    spent: SpentPart
