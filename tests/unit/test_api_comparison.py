"""The tables of a comparison, from a real run of tiny models to the notebook."""

import pandas as pd
import pytest

import tempering
from support.toy_study import ATTACK, DEFENSE, toy_models, write_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    toy_models(folder)
    write_folder(folder / "data")
    failing = {"name": DEFENSE, "config": {"nan_on": [0]}, "label": "failing"}
    given = {"data": folder / "data", "unguarded": str(folder / "base"), "device": "cpu", "attacks": ATTACK, "seeds": 1, "prompts": 4}
    defenses = [failing, {"name": DEFENSE, "label": "firm"}]
    return tempering.compare(
        str(folder / "guarded"), defenses=defenses, budget="steps=4", out=folder / "out", workers=0, utility_floor=0.001, **given
    )


def test_a_run_opens_with_the_tables_that_it_was_written_with(run):
    opened = tempering.open_run(run.directory)
    for name in ("multipliers", "tax", "absence"):
        pd.testing.assert_frame_equal(getattr(opened, name), getattr(run, name))
    assert opened._repr_html_() == run._repr_html_()
    assert "<th>Best attacker</th>" in run._repr_html_()


def test_the_engines_tables_are_those_that_economics_reads(run):
    tax = run.tax.set_index("defense")
    assert tax["hardened"].to_dict() == {"failing": 0, "firm": 1}
    assert tax.loc["firm", "training_steps"] == 3
    assert tax.loc["firm", "training_flops"] > 0
    assert 0 <= tax.loc["firm", "utility"] <= 1
    assert tax.loc["firm", "novel_runs"] in (0, 1)
    assert set(run.multipliers["defense"]) == {"firm"}
    assert set(run.multipliers["scope"]) == {"best attacker", "threat model", "family", "attack"}


def test_a_defence_that_could_not_be_trained_is_shown_as_such(run):
    page = run.report_path.read_text(encoding="utf-8")
    assert "could not be trained" in page
    entries = {entry["defense"]: entry for entry in run.summary["defenses"]}
    assert entries["failing"]["best_attacker"] == {"status": "untrained", "value": None, "low": None, "high": None}
