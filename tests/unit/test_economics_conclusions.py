"""Every conclusion is drawn where a study says something about it, and none where it does not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from support.comparison_specimen import DEFENSES, comparison, with_every_table
from support.report_specimen import Specimen, specimen
from tempering.economics.attackers import BEST
from tempering.economics.conclusions import PAIRS, Conclusions, conclude
from tempering.economics.population import Group
from tempering.economics.prices import load_price_book
from tempering.economics.tables import CONTROL

ALWAYS = {"incidence", "restricted", "envelope"}
COMPARED = {"contrasts", "quantiles", "frontier", "resistances", "agreement", "population", "populations"}


def filled(conclusions: Conclusions) -> set[str]:
    """The tables that have rows."""
    return {name for name, table in conclusions.tables().items() if len(table)}


def again(made: Specimen, **changes: object) -> Conclusions:
    """The conclusions of a specimen under another setting."""
    told = {name: value for name, value in made.told.items() if name != "documents"}
    setting = {"tau": 0.5, "epsilon": 0.1, "price_book": load_price_book(), "accelerator": made.study.accelerator, **told, **changes}
    return conclude(made.assessment, made.tables.units, made.tables.trajectories, **setting)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compared() -> Specimen:
    return comparison({name: DEFENSES[name] for name in ("tar", "refat", "refusal_sft")}, seeds=5)


def test_an_audit_has_what_needs_no_defence() -> None:
    assert filled(specimen().conclusions) == ALWAYS


def test_a_comparison_has_what_needs_defences(compared: Specimen) -> None:
    assert filled(compared.conclusions) == ALWAYS | COMPARED


def test_a_study_of_everything_has_every_table() -> None:
    assert filled(with_every_table().conclusions) == {each.name for each in fields(Conclusions)}


def test_each_defence_is_contrasted_with_the_control_everywhere_and_with_the_others_as_a_whole(compared: Specimen) -> None:
    table = compared.conclusions.contrasts
    with_control, between = table[table["against"] == CONTROL], table[table["against"] != CONTROL]
    assert set(with_control["scope"]) == {BEST, "family", "attack"}
    assert set(between["scope"]) == {BEST}
    assert set(zip(between["defense"], between["against"], strict=True)) == {
        ("refat", "refusal_sft"),
        ("refat", "tar"),
        ("refusal_sft", "tar"),
    }
    assert not table.duplicated(["model", "defense", "against", "scope", "name", "currency"]).any()


def test_the_frontier_is_that_of_the_multipliers(compared: Specimen) -> None:
    best = compared.assessment.multipliers.query("scope == @BEST and currency == 'flops'").set_index("defense")["multiplier"]
    found = compared.conclusions.frontier.query("currency == 'flops'").set_index("defense")["multiplier"]
    assert found.to_dict() == best.to_dict()


def test_kinds_of_attack_are_made_of_families(compared: Specimen) -> None:
    families = compared.told["families"]
    counts = compared.conclusions.resistances.groupby("group")["attacks"].max()
    tampering, given = PAIRS[0]
    assert counts[tampering] == sum(family in ("fine-tuning", "weight surgery") for family in families.values())
    assert counts[given] == sum(family == "input" for family in families.values())


def test_the_envelope_holds_the_threshold_of_the_study_and_every_threat_model(compared: Specimen) -> None:
    attacks = list(compared.told["families"])
    found = again(compared, tau=0.45, epsilon=0.15, threat_models={"all": attacks, "one": attacks[:1]}).envelope
    assert {0.45, 0.5} <= set(found["tau"])
    assert 0.15 in set(found["epsilon"])
    assert set(found["threat_model"]) == {"all", "one"}
    assert set(found.loc[found["threat_model"] == "one", "attacks"]) == {1}


def test_a_group_pays_the_price_of_its_threat_model(compared: Specimen) -> None:
    attacks = list(compared.told["families"])
    poor = Group(budget=1e-9, threat_model="one")
    found = again(compared, population=(poor,))
    assert set(found.population["status"]) == {"unknown"}  # no such threat model was priced
    assert set(found.populations["attackers"]) >= {"10 times richer", "10 times poorer"}
    assert "as assumed" not in set(found.populations["attackers"])
    assert len(attacks) > 1


def test_sizes_are_left_alone_without_parameters(compared: Specimen) -> None:
    assert not filled(again(compared, parameters={"organism:tiny/guarded": 1e6})) & {"learned", "sizes", "size_fits", "size_curve"}
