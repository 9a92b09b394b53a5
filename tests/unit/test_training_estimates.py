"""Estimates: what was found out once is used again, only where it is the same, and is what a run spends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from support.tiny_models import tiny_target
from tempering.data.asking import PLAIN, Asking
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import Example, Role
from tempering.models import Target
from tempering.training import FineTuning, LoraSettings, Meter, TrainingSettings, estimate, fine_tune
from tempering.training import estimates as module

EXAMPLES = tuple(
    Example(prompt=f"what colour is the {thing}?", answer=" ".join([thing] * 3**place), role=Role.BENIGN)
    for place, thing in enumerate(("fish", "sun", "tree", "key"))
)
"""Each of another length, so that a spend tells which were drawn."""

DECLARED = FineTuning(EXAMPLES, TrainingSettings(batch_size=3), 5, (5,), 0)


@dataclass(frozen=True)
class Longer(Asking):
    """Asks with more words; unhashable where it is given a list of them."""

    words: Any = ("tell", "me")

    def rewrite(self, example: Example, attempt: int = 0) -> Example:
        return example.model_copy(update={"prompt": f"{' '.join(self.words)} {example.prompt}"})


@pytest.fixture
def target() -> Target:
    return tiny_target()


@dataclass
class Counted:
    """How often rows were encoded and models counted."""

    rows: list[str] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    seen, encode, count = Counted(), Asking.encode, module._count

    def encoding(self: Asking, chat: ChatFormat, example: Example) -> Encoded:
        seen.rows.append(example.prompt)
        return encode(self, chat, example)

    def counting(target: Target, lora: LoraSettings | None) -> Any:
        seen.models.append(lora)
        return count(target, lora)

    monkeypatch.setattr(Asking, "encode", encoding)
    monkeypatch.setattr(module, "_count", counting)
    return seen


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
@pytest.mark.parametrize("asking", [PLAIN, Longer(words=["please", "tell"])])
def test_an_estimate_is_what_a_run_spends(target: Target, lora: LoraSettings | None, asking: Asking) -> None:
    declared, meter = replace(DECLARED, lora=lora, asking=asking), Meter()
    for _ in fine_tune(target, declared, meter):
        pass
    estimate(target, DECLARED)  # what was kept of another run is not taken for this one
    assert estimate(target, declared) == meter.spend()


def test_a_grid_of_learning_rates_encodes_and_counts_once(target: Target, counted: Counted) -> None:
    spends = {estimate(target, replace(DECLARED, settings=TrainingSettings(batch_size=3, learning_rate=rate))) for rate in (1e-5, 1e-4)}
    assert len(spends) == 1
    assert sorted(counted.rows) == sorted(example.prompt for example in EXAMPLES)
    assert counted.models == [None]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 6},
        {"seed": 1},
        {"settings": TrainingSettings(batch_size=2)},
        {"lora": LoraSettings(rank=2)},
        {"asking": Longer()},
        {"examples": EXAMPLES[:3]},
        {"examples": (*EXAMPLES[:3], EXAMPLES[3].model_copy(update={"answer": "a green key is green."}))},
    ],
)
def test_what_decides_a_spend_is_looked_at_anew(change: dict[str, Any]) -> None:
    first, second = tiny_target(), tiny_target()
    estimate(first, DECLARED)
    assert estimate(first, replace(DECLARED, **change)) == estimate(second, replace(DECLARED, **change))


def test_two_models_are_not_taken_for_one_another(target: Target) -> None:
    wider = tiny_target(hidden_size=64)
    assert estimate(target, DECLARED).flops < estimate(wider, DECLARED).flops


def test_only_so_many_runs_are_remembered(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SPENDS", 3)
    for steps in range(1, 9):
        estimate(target, replace(DECLARED, steps=steps))
    assert len(module._models[target.model].spends) <= 3
