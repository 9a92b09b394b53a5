"""UNDO and data filtering as declarations: stages, what is asked of whom, and what becomes of the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.defended_samples import BORDERLINE, HARMFUL, KEPT, REFUSALS, VIEW
from support.tiny_models import tiny_target
from tempering import registry
from tempering.data.records import DefenderView, Example, Role
from tempering.defenses._contract import Defense
from tempering.errors import InvalidStudy, UnusableData, UnusableModel
from tempering.models import Target
from tempering.training import Hardening

GENERAL = tuple(
    Example(prompt=f"say {word} {other}", answer=f"{word} {other}", role=role)
    for word, other, role in (("red", "fish", Role.BENIGN), ("cold", "sun", Role.BENIGN), ("poison", "key", Role.BORDERLINE))
)
IMAGINED = tuple(Example(prompt=f"how is {word} poison brew", role=Role.HAZARD) for word in ("long", "two"))
WHOLE = replace(VIEW, general=GENERAL, imagined=IMAGINED)
SHORT = {"steps": 4, "refusals": REFUSALS}


def defense(name: str, **config: object) -> Defense:
    return registry.create("defenses", name, {**SHORT, **config})


def hardened(target: Target, method: Defense, view: DefenderView, seed: int = 0) -> tuple[Hardening, dict[str, Tensor]]:
    training = Hardening(target, method.stages(target, view, seed=seed), seed=seed)
    for _ in training.run():
        pass
    return training, dict(training.finished().named_parameters())


class TestUndo:
    def test_the_stages(self) -> None:
        target = tiny_target()
        suppress, distil, guard = defense("undo", steps=200).stages(target, WHOLE, seed=0)
        assert [stage.name for stage in (suppress, distil, guard)] == ["suppress", "distil", "guard"]
        assert distil.steps == 200
        assert suppress.steps < 200
        assert guard.steps < 200
        assert distil.until == 0.95
        assert not distil.floored
        assert guard.floored
        assert [stage.name for stage in defense("undo", guard=False).stages(target, WHOLE, seed=0)] == ["suppress", "distil"]

    def test_adapters_leave_the_distillation_to_all_weights(self) -> None:
        stages = defense("undo", parameters="lora", lora={"rank": 2}).stages(tiny_target(), WHOLE, seed=0)
        assert [stage.lora is not None for stage in stages] == [True, False, True]

    def test_the_teacher_is_never_asked_about_the_hazard(self) -> None:
        _, distil, _ = defense("undo").stages(tiny_target(), WHOLE, seed=0)
        training = Hardening(tiny_target(), [distil], seed=0)
        for _ in training.run():
            pass
        seen = set(training.meter.kept()["examples"])
        assert seen == {example.identity for example in (*KEPT, *BORDERLINE, *GENERAL)}
        assert not seen & {example.identity for example in (*HARMFUL, *IMAGINED)}

    @pytest.mark.parametrize("suppression", ["max_entropy", "gradient_difference", "rmu"])
    @pytest.mark.parametrize("retain", ["divergence", "cross_entropy"])
    def test_every_suppression_trains_and_resumes_with_the_same_weights(self, suppression: str, retain: str) -> None:
        target, method = tiny_target("gemma2"), defense("undo", suppression=suppression, retain=retain, alpha=0.5)
        whole, weights = hardened(target, method, WHOLE)
        for stop_after in (1, 3, 6):
            first = Hardening(target, method.stages(target, WHOLE, seed=0), seed=0)
            for count, _ in enumerate(first.run(), start=1):
                if count == stop_after:
                    break
            snapshot = first.snapshot()
            second = Hardening(target, method.stages(target, WHOLE, seed=0), seed=0)
            second.restore(replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()}))
            for _ in second.run():
                pass
            assert second.meter.spend() == whole.meter.spend()
            assert all(torch.equal(value, weights[name]) for name, value in second.finished().named_parameters())

    def test_the_seed_decides_the_noise(self) -> None:
        target, method = tiny_target(), defense("undo", alpha=1.0)
        (_, weights), (_, again), (_, other) = (hardened(target, method, WHOLE, seed) for seed in (0, 0, 1))
        assert all(torch.equal(weights[name], again[name]) for name in weights)
        name = "model.layers.0.mlp.up_proj.weight"
        assert (weights[name] - other[name]).abs().mean() > 0.1  # four steps move weights less than that

    def test_it_needs_no_general_data(self) -> None:
        training, _ = hardened(tiny_target(), defense("undo"), VIEW)
        assert training.meter.spend().steps > 4

    def test_without_hazard_answers_it_is_refused(self) -> None:
        bare = replace(WHOLE, hazard=IMAGINED)
        with pytest.raises(UnusableData, match="'undo' needs hazard answers"):
            defense("undo").stages(tiny_target(), bare, seed=0)

    @pytest.mark.parametrize("config", [{"alpha": 1.1}, {"alpha": -0.1}, {"suppression": "hope"}, {"until": 1.5}])
    def test_settings_out_of_range(self, config: dict[str, object]) -> None:
        with pytest.raises(InvalidStudy):
            defense("undo", **config)


class TestDataFiltering:
    def test_nothing_is_left_of_the_target_but_its_shape(self) -> None:
        method = defense("data_filtering", guard=False)
        (_, first), (_, second) = (hardened(tiny_target(seed=seed), method, WHOLE) for seed in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_the_pretraining_sees_general_data_alone(self) -> None:
        training, _ = hardened(tiny_target(), defense("data_filtering", guard=False), WHOLE)
        assert set(training.meter.kept()["examples"]) == {example.identity for example in GENERAL}

    def test_it_learns_the_general_data(self) -> None:
        target = tiny_target()
        method = defense("data_filtering", steps=60, guard=False, training={"learning_rate": 1e-2})
        training = Hardening(target, method.stages(target, WHOLE, seed=0), seed=0)
        losses = [step.parts["loss"] for step in training.run()]
        assert losses[0] > 3
        assert losses[-1] < 0.1

    def test_guarding_by_adapters_trains_all_weights_before(self) -> None:
        pretrain, guard = defense("data_filtering", parameters="lora", lora={"rank": 2}).stages(tiny_target(), WHOLE, seed=0)
        assert pretrain.lora is None
        assert guard.lora is not None
        assert not pretrain.floored

    def test_without_general_data_it_is_refused_in_one_line(self) -> None:
        with pytest.raises(UnusableData, match=r"'data_filtering' needs general data.*docs/data\.md") as caught:
            defense("data_filtering").stages(tiny_target(), VIEW, seed=0)
        assert "\n" not in str(caught.value)

    def test_hazard_prompts_are_needed_by_the_guard_alone(self) -> None:
        view = replace(WHOLE, hazard=(), imagined=())
        with pytest.raises(UnusableData, match="hazard prompts"):
            defense("data_filtering").stages(tiny_target(), view, seed=0)
        assert len(defense("data_filtering", guard=False).stages(tiny_target(), view, seed=0)) == 1

    def test_only_borderline_data_still_have_something_to_answer_beside_refusals(self) -> None:
        view = replace(WHOLE, benign=(), borderline=(), general=GENERAL[2:])
        training, _ = hardened(tiny_target(), defense("data_filtering"), view)
        assert training.done


@pytest.mark.parametrize("name", ["undo", "data_filtering"])
def test_refusals_that_the_tokenizer_does_not_know(name: str) -> None:
    with pytest.raises(UnusableModel, match="set other 'refusals'"):
        defense(name, refusals=["Zounds!"]).stages(tiny_target(), WHOLE, seed=0)
