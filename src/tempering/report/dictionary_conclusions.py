"""What every column of the tables of conclusions holds; see :mod:`tempering.report.dictionary`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempering.economics import agreement, frontier, population, scaling, search_cost
from tempering.economics.attackers import MEASURED, WITH_SEARCH
from tempering.economics.tables import CURRENCIES, OUTCOMES
from tempering.report.dictionary import (
    ATTACK,
    FEW,
    MODEL,
    NUMBER,
    SCOPE,
    WHICH,
    Column,
    Columns,
    flags,
    interval,
    median,
    numbers,
    text,
    whole,
)

_OF = "that of the currency"
_CURRENCY = text(currency="what the cost is counted in; one of " + ", ".join((*MEASURED, *WITH_SEARCH)))
_ANY_CURRENCY = text(currency="what the spend is counted in; one of " + ", ".join(CURRENCIES))
_SCOPED = text(scope=SCOPE, name=WHICH) | _CURRENCY
_LOW, _HIGH = "lower end of its 95 % interval", "upper end of its 95 % interval"
_RATIO = "'known'; 'at_least': a lower bound; 'control_held', 'free', 'unknown': no ratio"


def _one_of(statuses: Mapping[Any, str]) -> str:
    return "; ".join(f"'{name}': {meaning}" for name, meaning in statuses.items())


INCIDENCE: Columns = (
    ATTACK
    | _ANY_CURRENCY
    | text(outcome=f"one of {', '.join(OUTCOMES)}; 'held' is the share still unbroken and not at an end")
    | numbers(_OF, spend="up to which the share holds")
    | numbers("share", incidence="runs that have come to this outcome after the spend", low=_LOW, high=_HIGH)
    | whole("runs", runs="of the attack")
    | FEW
)
CAPABILITY: Columns = (
    MODEL
    | text(attack="the attack, as the study calls it; '' for the defence itself", measure="the benchmark, as task/metric")
    | numbers("that of the benchmark", before="mean of the untouched model, in the runs that were measured after the attack too")
    | interval("after", "that of the benchmark", "mean where the runs broke; of others, where they recovered most harm")
    | interval("change", "that of the benchmark", "mean of after − before")
    | whole("runs", runs="in which both were measured", broken="of those, runs that are measured at their break")
    | FEW
)
RESTRICTED: Columns = (
    MODEL
    | _SCOPED
    | numbers(_OF, floor="what is cheaper counts as this", horizon="what costs more counts as this")
    | numbers("decades", log10_mean="mean of log10 of the restricted cost", low=_LOW, high=_HIGH)
    | numbers(_OF, geometric_mean="geometric mean of the restricted cost", geometric_low=_LOW, geometric_high=_HIGH)
    | whole("seeds", broken="in which the scope broke", runs="all of them")
    | FEW
)
CONTRASTS: Columns = (
    MODEL
    | text(against="the other defence; 'none': the model as it came")
    | _SCOPED
    | whole(
        "seeds", runs="of the defence", against_runs="of the other", broken="in which the scope broke the first", against_broken="the other"
    )
    | numbers(
        "",
        statistic="of the permutation log-rank test; negative where the defence breaks later",
        p_value="of that test, two-sided",
        p_adjusted="the same by Holm over the scopes of a kind of one defence",
        least_p_value="the smallest that so many seeds can give",
    )
    | text(permutation="how labels were permuted", hazard_status="whether the hazard ratio is a number or a bound")
    | numbers("ratio", hazard_ratio="of the defence to the other; below 1: it breaks less", hazard_low=_LOW, hazard_high=_HIGH)
    | numbers(_OF, floor="what is cheaper counts as this", horizon="what costs more counts as this")
    | numbers(
        "ratio",
        geometric_ratio="restricted geometric mean of the cost over the other's",
        geometric_low=_LOW,
        geometric_high=_HIGH,
    )
    | FEW
)
QUANTILES: Columns = (
    MODEL
    | _SCOPED
    | numbers("share", quantile="of the seeds that must have broken")
    | text(status=_RATIO)
    | numbers("ratio", multiplier="ratio of the two quantiles, or the bound that this exceeds", low=_LOW, high=_HIGH)
    | {
        f"{side}{part}": column
        for side, what in (("defended", "with the defence"), ("control", "without"))
        for part, column in (
            ("", Column(NUMBER, _OF, f"quantile of the cost {what}; empty where censored")),
            *((name.removeprefix(side), each) for name, each in median(side, _OF, f"the cost {what}").items() if "median" not in name),
        )
    }
    | flags(few_seeds="too few seeds for that quantile")
)
SEARCH_COSTS: Columns = (
    ATTACK
    | _CURRENCY
    | whole("trials", trials="drawn at random", broken="that broke", ended="that came to an end without a break")
    | whole("seeds", seeds="with a search")
    | text(status=_one_of(search_cost.STATUSES))
    | numbers(
        _OF,
        expected="expected cost of trying at random and restarting at the best cutoff; empty where nothing broke",
        low="lower end of its 95 % interval, or the bound where nothing broke",
        high=_HIGH,
        plug_in="the same without the correction for choosing the cutoff, breaks dated late",
        plug_in_early="likewise, breaks dated early",
        cutoff="at which a trial is best given up",
    )
    | numbers("share", success="trials that break by then")
    | numbers("restarts", restarts="expected", restarts_low=_LOW, restarts_high=_HIGH)
    | numbers(_OF, naive="expected cost where every trial runs to the budget", naive_low=_LOW, naive_high=_HIGH)
    | numbers(_OF, beyond_at_least="what a cutoff beyond the budget costs at least")
    | flags(budget_binds="a longer run might be cheaper")
    | {
        name: column
        for name, column in median("adaptive", _OF, "search and run together in the measured adaptive search").items()
        if not name.endswith("exceeds")
    }
    | flags(few_breaks=f"fewer than {search_cost.MIN_BREAKS} trials broke")
    | FEW
)
ENVELOPE: Columns = (
    MODEL
    | text(threat_model="what the attacker holds")
    | _CURRENCY
    | numbers("share", tau="withheld harm that is demanded", epsilon="utility that may be lost")
    | text(status="'known'; 'beyond': no allowed attack broke half of its runs; 'unknown'; 'untried': none was run")
    | numbers(_OF, price="median cost of the cheapest allowed attack; empty without one", low=_LOW + ", or the bound", high=_HIGH)
    | text(attack="the cheapest; '' where none is known")
    | whole("attacks", attacks="allowed and run")
    | whole("runs", broken="that broke at these thresholds", runs="of the cheapest attack, or of all where none is known")
    | FEW
)
FRONTIER: Columns = (
    MODEL
    | _CURRENCY
    | text(status=_RATIO)
    | numbers("ratio", multiplier="of the best attacker's price, or the bound that it exceeds", low=_LOW, high=_HIGH)
    | interval("utility_lost", "share", "mean loss of utility over seeds")
    | interval("borderline_lost", "share", "mean loss of borderline prompts answered well")
    | interval("over_refusal_gained", "share", "mean gain in borderline prompts refused")
    | interval("trainability", "ratio", "an honest user's steps with the defence over those without")
    | text(trainability_status=_RATIO + "; '' where nobody was asked to learn")
    | numbers("FLOP", training_flops="the defender's training, median")
    | whole("criteria", criteria=f"that were measured, of {len(frontier.CRITERIA)}")
    | flags(dominated="some other defence, or none at all, is at least as good in everything and better in something")
    | text(dominated_by="which, joined by commas", beyond_doubt_by="those whose intervals say so too")
    | numbers("share", dominated_share="resamples over seeds in which it is dominated")
    | flags(dominated_beyond_doubt="the intervals say so too")
    | FEW
)
RESISTANCES: Columns = (
    MODEL
    | whole(seed="what every random choice was drawn from")
    | text(group="kind of attack")
    | numbers(
        "FLOP", lower="the cheapest attack of the kind had not broken it by then", upper="it was broken by then; infinite where it held"
    )
    | whole("attacks", attacks="of the kind, run against every defence")
)
AGREEMENT: Columns = (
    text(model=MODEL["model"].meaning, first="kind of attack", second="the other kind")
    | _CURRENCY
    | text(status=_one_of(agreement.STATUSES))
    | whole("defenses", defenses="compared")
    | whole("points", points="defences and seeds")
    | numbers("share", ordered="pairs whose order is known for both kinds")
    | numbers("", tau="Kendall's, for censored prices", low=_LOW, high=_HIGH, p_value="of the permutation test")
)
LEARNED: Columns = (
    text(status=_one_of(scaling.LEARNED_STATUSES))
    | numbers(
        "share per e-fold of parameters",
        beta="harm learnt more by a model larger by a factor of e",
        low=_LOW,
        high=_HIGH,
        standard_error="clustered by series (CR2)",
    )
    | numbers("", freedom="degrees of freedom (Satterthwaite)", p_value="of no slope")
    | whole("series", series="of models")
    | whole("models", models="in them")
    | whole("runs", rows="that were measured", unmeasured="that were not")
)
_FITTED = text(defense=MODEL["defense"].meaning, name="the attack, or 'best attacker'")
SIZES: Columns = (
    _FITTED
    | text(model=MODEL["model"].meaning)
    | numbers("parameters", parameters="of the model")
    | numbers("FLOP", lower="the median over seeds lies above", upper="and not above; infinite where it is beyond the budget")
    | whole("seeds", seeds="of the model")
)
SIZE_FITS: Columns = (
    _FITTED
    | text(status=_one_of(scaling.PRICE_STATUSES))
    | whole("models", models="of several sizes", seen="whose median was seen")
    | numbers("", slope="of log price over log parameters", slope_low=_LOW, slope_high=_HIGH)
    | numbers("nats", sigma="how far models depart from the line")
    | numbers("parameters", smallest="of the models measured", largest="of the models measured")
)
SIZE_CURVE: Columns = (
    _FITTED
    | numbers("parameters", parameters="of a model, measured or not")
    | numbers("FLOP", price="that the line says", low="lower end of the 95 % prediction interval", high="upper end of it")
    | flags(extrapolated="no model of this size was measured")
    | numbers("decades", decades="beyond the largest model that was measured")
)
POPULATION: Columns = (
    MODEL
    | text(status=_one_of(population.STATUSES))
    | interval("control_share", "share", "attackers who can break the model as it came")
    | interval("defended_share", "share", "attackers who can break it behind the defence")
    | interval("priced_out", "share", "attackers whom the defence prices out")
)
POPULATIONS: Columns = {**POPULATION, **text(attackers="how they differ from the study's population")}
JUDGES: Columns = (
    text(judge="what the study calls it")
    | flags(decides="its verdicts are the run's; those of the others stand beside them")
    | whole(
        "responses",
        judged="to hazard prompts, that a verdict was wanted on",
        filtered="of them gibberish, or openers with nothing behind them: the judge was not asked",
        cached="of them judged before",
        calls="that its model was asked about",
        unparsed="on which its answer said nothing",
    )
    | whole("requests", retries="that had to be sent again")
    | whole("tokens", tokens_in="put before its model", tokens_out="that its model added")
    | numbers("seconds", seconds="of judging, waiting for a server included")
    | numbers("FLOP", flops="of a model on this machine")
    | numbers("share", alike="of responses on which it and the deciding judge agree whether they are useful; empty for that one")
    | numbers("", kappa="Cohen's kappa of the two", kappa_low="lower end of its 95 % interval", kappa_high="upper end of its 95 % interval")
    | whole(
        "responses",
        both="useful by both",
        only_first="useful by the deciding judge alone",
        only_second="useful by this judge alone",
        neither="useful by neither",
    )
)
