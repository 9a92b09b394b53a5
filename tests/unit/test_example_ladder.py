"""examples/ladder.yaml: what it says of its sizes and of its poison."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tempering import registry
from tempering.attacks._mixtures import mixed
from tempering.attacks.data_poisoning import DataPoisoning
from tempering.economics.ladder import series_of
from tempering.economics.scaling import LEAST_SERIES, LEAST_SIZES
from tempering.engine.loading import divide_for_audit
from tempering.model_choice import ModelChoice
from tempering.study_file import load_study

FILE = Path(__file__).parents[2] / "examples" / "ladder.yaml"
STUDY = load_study(FILE)


def test_it_has_the_sizes_that_a_line_needs_and_too_few_series_for_what_poison_teaches() -> None:
    names = [model.reference for model in STUDY.models]
    assert len(set(names)) >= LEAST_SIZES
    assert len({series_of(name) for name in names}) < LEAST_SERIES  # as its head says; mend that where this is so no longer


@pytest.mark.parametrize("model", STUDY.models, ids=lambda model: model.reference)
def test_every_size_is_fed_the_same(model: ModelChoice) -> None:
    _, division = divide_for_audit(STUDY, model)
    view = division.attacker_view()
    poisonings = [choice for choice in STUDY.attacks if choice.name == "data_poisoning"]
    fed = []
    for choice in poisonings:
        config = cast(DataPoisoning, registry.create("attacks", choice.name, choice.config)).config
        mixture = mixed(
            view.hazard_train, view.benign_train, size=config.examples, fraction=config.poison_fraction, budget=STUDY.budget, seed=0
        )
        hazard = sum(example.role == "hazard" for example in mixture.examples)
        fed.append((len(mixture.examples), hazard))
    assert fed == [(60, 0), (60, 3), (60, 12)]
