"""What weakens a result: whom the budget cut off, and who came to their own end."""

import pytest

from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from tempering.report import notes
from tempering.report.card_words import would_change
from tempering.report.defended import defense_rows
from tempering.report.rows import price_rows

ENDED = ("prefilling", "retrieval", "refusal_ablation")
"""Attacks of one checkpoint; the budget of 200 steps is nothing to them."""


def told(*attacks, defense="data_filtering"):
    made = comparison({defense: DEFENSES[defense]}, {name: ATTACKS[name] for name in attacks}, seeds=2, novel=False)
    rows, units = price_rows(made.assessment), made.tables.units
    found = notes.cut_off(rows, made.study, made.assessment, units)
    warnings = {note.head: note.text for note in notes.reliability(rows, made.study, made.assessment, units)}
    changes = would_change(made.study, rows, defense_rows(made.assessment), not_tried=0, reliability=(), cut_off=found)
    return [(row.defense, row.attack) for row in found], warnings, [change for change in changes if change.startswith("A larger budget")]


def test_only_who_had_more_to_give_was_cut_off():
    found, warnings, changes = told("full_finetune", *ENDED)
    assert found == [("data_filtering", "full_finetune")]
    assert "In 1 of 8 rows of prices" in warnings["Cut off by the budget"]
    assert any("For full_finetune a break was not reached" in change for change in changes)
    assert any("bounds on data_filtering" in change for change in changes)


def test_attacks_that_came_to_their_own_end_are_not_said_to_be_cut_off():
    found, warnings, changes = told(*ENDED)
    assert found == changes == []
    assert "Cut off by the budget" not in warnings


@pytest.mark.parametrize("attack", ["full_finetune", "prefilling"])
def test_what_broke_was_not_cut_off(attack):
    assert told(attack, defense="booster")[0] == []
