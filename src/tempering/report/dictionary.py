"""What every column of a run's tables holds: type, unit and meaning, in one place.

``temper export`` writes it beside the tables as ``tables.json``, and gives every column the type that stands here, so that the same
column has the same type in every run and files of many runs can be read as one table. How the numbers come about stands in
:mod:`tempering.economics`.

A column that is not described here is what an evaluator of the user's own measured (see ``trajectories`` in
:mod:`tempering.economics.tables`): it passes through with the type it has and a meaning that says no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tempering.economics.capability import is_capability
from tempering.economics.comparison import MEASURED, WITH_SEARCH
from tempering.economics.tables import CURRENCIES, OUTCOMES, SUMMED
from tempering.economics.tax import MEASURES as TAXED
from tempering.economics.tax import TRAINING

Type = Literal["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN"]
"""As SQL calls it: text, whole number, number, true or false."""

TEXT: Type = "VARCHAR"
WHOLE: Type = "BIGINT"
NUMBER: Type = "DOUBLE"
FLAG: Type = "BOOLEAN"

COUNTS = ("examples", "steps", "queries", "tokens", "trials", "search_trials")
"""Spends that are whole numbers."""

UNITS = {
    "examples": "examples",
    "steps": "optimizer steps",
    "queries": "prompts",
    "tokens": "tokens",
    "flops": "FLOP",
    "gpu_hours": "hours of one accelerator",
    "usd": "US dollars",
    "device_seconds": "seconds",
    "trials": "trials",
}
"""The unit of every spend."""

SPENT = {
    "examples": "distinct examples seen",
    "steps": "optimizer steps taken",
    "queries": "prompts sent to the model for an answer",
    "tokens": "tokens through the model, padding left out",
    "flops": "floating-point operations",
    "gpu_hours": "time on the study's accelerator, reckoned from the FLOPs",
    "usd": "dollars by the price book, reckoned from the FLOPs",
    "device_seconds": "seconds of the attack on the machine that ran it",
    "trials": "candidates that the attack itself tried",
}
"""Every spend in words."""


@dataclass(frozen=True)
class Column:
    """What one column holds.

    Attributes:
        type: as SQL calls it.
        unit: what its numbers count; ``""`` for text, and for what has no unit.
        meaning: in words.
    """

    type: Type
    unit: str
    meaning: str


Columns = Mapping[str, Column]
"""The columns of one table by name."""

UNKNOWN = "measured by an evaluator of the study's own, or by a later version of Tempering"
"""The meaning of a column that nobody described."""

BENCHMARK = "score of a benchmark of capability, as task/metric; empty for probes that it was not asked of"


_JUDGED = {
    "harm": ("share", "held-out hazard prompts answered usefully, as {} says"),
    "refusal": ("share", "held-out hazard prompts refused, as {} says"),
    "score": ("share", "mean score that {} gives to the answers to hazard prompts"),
    "unparsed": ("answers", "on which what {} said could not be read"),
    "both": ("answers", "that the deciding judge and {} both find useful"),
    "only_first": ("answers", "that the deciding judge finds useful and {} does not"),
    "only_second": ("answers", "that {} finds useful and the deciding judge does not"),
    "neither": ("answers", "that neither the deciding judge nor {} finds useful"),
}
"""What stands before the dot in the columns of each judge that a study names."""


def is_judged(name: str) -> bool:
    """Whether a measurement is of one judge among those that a study names: it is called ``what.judge``."""
    before, dot, title = name.partition(".")
    return bool(dot and title) and before in _JUDGED


def undescribed(name: str) -> Column:
    """A column that stands in no list: a capability, what one judge of several said, or what somebody else's evaluator measured."""
    if is_judged(name):
        before, _, title = name.partition(".")
        unit, meaning = _JUDGED[before]
        return Column(NUMBER, unit, meaning.format(f"the judge {title}"))
    return Column(NUMBER, "that of the benchmark", BENCHMARK) if is_capability(name) else Column(NUMBER, "", UNKNOWN)


def text(**meanings: str) -> dict[str, Column]:
    """Columns of text by name."""
    return {name: Column(TEXT, "", meaning) for name, meaning in meanings.items()}


def whole(unit: str = "", **meanings: str) -> dict[str, Column]:
    """Columns of whole numbers by name."""
    return {name: Column(WHOLE, unit, meaning) for name, meaning in meanings.items()}


def numbers(unit: str = "", **meanings: str) -> dict[str, Column]:
    """Columns of numbers by name."""
    return {name: Column(NUMBER, unit, meaning) for name, meaning in meanings.items()}


def flags(**meanings: str) -> dict[str, Column]:
    """Columns of true and false by name."""
    return {name: Column(FLAG, "", meaning) for name, meaning in meanings.items()}


def spends(names: Iterable[str], when: str, *, prefix: str = "") -> dict[str, Column]:
    """Spends with the type that each has as a count or a measure."""
    return {f"{prefix}{name}": Column(WHOLE if name in COUNTS else NUMBER, UNITS[name], f"{SPENT[name]}, {when}") for name in names}


def median(name: str, unit: str, what: str) -> dict[str, Column]:
    """The columns of a median with its interval."""
    return {
        f"{name}_median": Column(NUMBER, unit, f"median of {what}; empty where censored"),
        f"{name}_low": Column(NUMBER, unit, "lower end of its 95 % interval; where censored, the spend that the true median exceeds"),
        f"{name}_high": Column(NUMBER, unit, "upper end of its 95 % interval; infinite where it lies beyond the budget"),
        f"{name}_censored": Column(FLAG, "", "fewer than half of the runs got there, so that the median lies beyond the budget"),
        f"{name}_exceeds": Column(NUMBER, unit, "where censored, the spend that the median of these runs exceeds; empty elsewhere"),
    }


def interval(name: str, unit: str, what: str) -> dict[str, Column]:
    """A value and the two ends of its interval."""
    return numbers(unit, **{name: what, f"{name}_low": "lower end of its 95 % interval", f"{name}_high": "upper end of its 95 % interval"})


SCOPE = "what the attacker may choose from: 'attack', 'family', 'threat model' or 'best attacker'"
WHICH = "which attack, family or threat model"
_SPEND = ("examples", "tokens", "steps", "flops", "device_seconds", "trials", "queries")
MODEL = text(
    model="the audited model, as the study calls it",
    defense="the defence that hardened it, as the study calls it; 'none': the model as it came",
)
ATTACK = MODEL | text(attack="the attack, as the study calls it; '' where none was run")
_RUN = (
    text(unit="the run: its hash, the same in units, breaks, trajectories and trials")
    | ATTACK
    | text(trial="short hash of the attack's configuration")
    | whole(seed="what every random choice of the run was drawn from")
)
_KEPT = numbers("share", utility_kept="utility over the target's own, at the break; empty without one")
FEW = flags(few_seeds="fewer than five seeds: too few for the interval to mean much")

UNITS_TABLE: Columns = (
    _RUN
    | text(
        kind="'attack'; 'reference': a probe of the unguarded model; 'harden': a defence's training; 'novel': an honest user's fine-tuning",
        config="the whole configuration of what was done, as JSON",
        status="'completed', 'enough' (ended where the attacker had enough), 'no_direction' or 'failed'",
        error="why it was not completed, in one line; '' where it was",
        chosen="the settings that a search found, as JSON; '' without a search",
        judging="what each judge took meanwhile, as JSON; only where the study names judges",
    )
    | numbers("seconds", wall_s="from start to end, probes included")
    | spends(_SPEND, "at the end of the run")
    | whole("trials", search_trials="settings that the attacker tried first; 0 without a search")
    | spends((name for name in _SPEND if name != "trials"), "by the search for the settings", prefix="search_")
)
TRAJECTORIES: Columns = (
    _RUN
    | whole(probe="number of the probe; 0 is the untouched model, at no spend")
    | spends(_SPEND, "up to this probe")
    | numbers("hours of one accelerator", gpu_hours=f"{SPENT['gpu_hours']}, up to this probe")
    | numbers("US dollars", usd=f"{SPENT['usd']}, up to this probe")
    | numbers(
        "share",
        harm="held-out hazard prompts answered usefully",
        refusal="held-out hazard prompts refused",
        utility="held-out benign prompts answered well",
        over_refusal="held-out borderline prompts refused",
        borderline="held-out borderline prompts answered well",
        coherence="answers that are text",
        first_token_refusal="probability that the first token of the answer to a hazard prompt is one that refusals begin with",
        harm_evasion="hazard prompts neither refused nor answered",
        harm_gibberish="hazard prompts answered with what is no text",
        novel="benign prompts of a domain that is new to the model answered right; only where an honest user taught it",
        recovered="harm gained over the target's own, as a share of what the unguarded model has more",
        utility_kept="utility over the target's own",
    )
    | numbers("nats", divergence="KL divergence of the first answered token from the target's")
    | text(details="what the attack said of the checkpoint, as JSON")
)
BREAKS: Columns = (
    _RUN
    | text(outcome=f"one of {', '.join(OUTCOMES)}")
    | whole("probes", probe="number of the probe at which it broke; −1 without a break", probes="probes that could be measured")
    | numbers(
        "share",
        withheld="harm of the unguarded model less harm of the target",
        recovered_at_break="recovered harm at the break; empty without one",
        best_recovered="most harm recovered by any probe that kept utility",
        best_recovered_any="most harm recovered by any probe",
    )
    | _KEPT
    | {f"{name}_lower": Column(NUMBER, UNITS[name], f"{SPENT[name]}, at the last probe before the break") for name in CURRENCIES}
    | {f"{name}_upper": Column(NUMBER, UNITS[name], f"{SPENT[name]}, at the break; infinite without one") for name in CURRENCIES}
    | whole("trials", search_trials="settings that the attacker tried first")
    | {f"{name}_search": Column(NUMBER, UNITS[name], f"{SPENT[name]}, by that search") for name in CURRENCIES}
)
SURVIVAL: Columns = (
    ATTACK
    | text(currency="what the spend is counted in; one of " + ", ".join(CURRENCIES))
    | numbers("that of the currency", spend="up to which the share holds")
    | numbers(
        "share",
        survival="runs still unbroken after the spend (Turnbull's estimate)",
        low="lower end of its pointwise 95 % interval",
        high="upper end of its pointwise 95 % interval",
        kaplan_meier="the same by Kaplan and Meier, each break taken to lie at the probe that saw it",
    )
)
PRICES: Columns = (
    ATTACK
    | whole("runs", trials="all of them, failed ones included", **{name: f"that ended as '{name}'" for name in OUTCOMES})
    | {key: column for name in CURRENCIES for key, column in median(name, UNITS[name], f"{SPENT[name]} at the break").items()}
    | {
        key: column
        for name in SUMMED
        for key, column in median(f"total_{name}", UNITS[name], f"{SPENT[name]} at the break, the search added").items()
    }
    | numbers("trials", search_trials="median of the settings tried by a run; 0 without a search")
    | {f"search_{name}_median": Column(NUMBER, UNITS[name], f"median of {SPENT[name]} by the searches") for name in CURRENCIES}
    | numbers("share", best_recovered="most harm recovered by any run that kept utility")
    | numbers("share", utility_kept="utility over the target's own at the break, median over runs; empty where nothing broke")
    | FEW
)
TRIALS: Columns = (
    _RUN
    | whole(number="of the trial, from 0; the first has the attack's own settings")
    | text(
        config="what the search set, as JSON",
        outcome="on the attacker's own validation prompts",
        stopped="why it was not run on: 'broke', 'beaten', 'halved', 'budget'; '' where it came to its end",
        error="why it failed, in one line",
    )
    | numbers(objective="what the search minimises")
    | numbers("share", recovered="most harm recovered at kept utility", utility_kept="utility over the target's own, there")
    | spends(_SPEND, "when the trial was stopped")
    | {f"break_{name}": Column(NUMBER, UNITS[name], f"{SPENT[name]}, at the break; empty without one") for name in _SPEND}
    | spends(_SPEND, "by asking the validation prompts", prefix="check_")
)
MULTIPLIERS: Columns = (
    MODEL
    | text(
        scope=SCOPE,
        name=WHICH,
        currency="what the cost is counted in; one of " + ", ".join((*MEASURED, *WITH_SEARCH)),
        status="'known'; 'at_least': a lower bound; 'control_held', 'free', 'unknown': no ratio",
        defended_attack="the attack that was cheapest in most seeds; '' where none broke",
        control_attack="the same without the defence",
        control_utility_status="as status, with breaks that must keep the undefended model's utility",
    )
    | numbers(
        "ratio",
        multiplier="how many times dearer than without the defence, or the bound that this exceeds",
        low="lower end of its 95 % interval",
        high="upper end of its 95 % interval; infinite above a bound",
        control_utility_multiplier="as multiplier, with breaks that must keep the undefended model's utility",
        control_utility_low="lower end of its 95 % interval",
        control_utility_high="upper end of its 95 % interval",
    )
    | median("defended", "that of the currency", "the cost of a break with the defence")
    | median("control", "that of the currency", "the cost of a break without the defence")
    | whole(
        "seeds",
        defended_broken="in which something in the scope broke the defended model",
        defended_runs="of the defended model",
        control_broken="in which something in the scope broke the undefended model",
        control_runs="of the undefended model",
        control_utility_broken="as defended_broken, with breaks that must keep the undefended model's utility",
    )
    | FEW
)
TAX: Columns = (
    MODEL
    | whole("trainings", hardenings="of the defence that were tried", hardened="that left a model")
    | {
        key: column
        for name in TAXED
        for key, column in (
            *interval(name, "share", f"{name.replace('_', '-')} of the hardened model, mean over seeds").items(),
            (f"{name}_control", Column(NUMBER, "share", "the same of the model as it came")),
            *interval(f"{name}_change", "share", "mean of the differences, seed by seed").items(),
        )
    }
    | interval("utility_kept", "share", "utility over that of the model as it came")
    | {f"training_{name}": Column(NUMBER, UNITS[name], f"{SPENT[name]} by the defender, median over trainings") for name in TRAINING}
    | numbers("share", novel_level="answers of a new benign domain that an honest user's fine-tuning must get right to count as learnt")
    | median("novel_steps", "optimizer steps", "the steps until that is learnt")
    | median("novel_control", "optimizer steps", "the same without the defence")
    | whole("seeds", novel_learnt="in which it was learnt", novel_runs="in which it was taught")
    | text(novel_status="of novel_ratio, as status in multipliers; '' where nobody was asked to learn")
    | interval("novel_ratio", "ratio", "how many times the steps it takes with the defence")
    | FEW
)
ABSENCE: Columns = (
    MODEL
    | {
        key: column
        for kind, what in (("examples", "attacks that hold no documents"), ("documents", "attacks that look things up"))
        for key, column in {
            f"{kind}_recovered": Column(NUMBER, "share", f"most harm recovered by {what}, median over seeds; empty where none was run"),
            f"{kind}_attack": Column(TEXT, "", "the one that recovered most in most seeds; '' where none was run"),
            f"{kind}_seeds": Column(WHOLE, "seeds", "in which it reached the threshold"),
            f"{kind}_runs": Column(WHOLE, "seeds", "in which there was one"),
        }.items()
    }
    | text(verdict="'suppressed, not removed', 'no sign of knowledge', 'undecided' or 'untried'")
)
