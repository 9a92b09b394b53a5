"""A chain hands on what each link made, adds up what all of them spent, and carries ways of asking along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support.toy_study import rows, toy_models, write_rows
from tempering import registry
from tempering.attacks._contract import AttackEnded, Checkpoint
from tempering.attacks.chain import remaining_budget
from tempering.data.importers import load_dataset
from tempering.data.records import AttackerView
from tempering.errors import InvalidStudy, UnknownName
from tempering.models import Target, load
from tempering.models.digest import weight_digest
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter, Spend

LINKS = """
from typing import ClassVar
import torch
from tempering.attacks._contract import Attack, AttackEnded, Checkpoint
from tempering.data.asking import PLAIN
from tempering.settings import Settings
from tempering.threat_model import Need
from tempering.training import Spend


class Shift(Attack):
    class Config(Settings):
        amount: float = 1.0
        checkpoints: int = 1
        end: str = ""
        leaves_hook: bool = False

    source: ClassVar[str] = "for tests"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_PROMPTS})
    family: ClassVar[str] = "weight surgery"

    def run(self, target, view, meter, *, budget, seed):
        assert not view.hazard_train and view.benign_train and view.benign_train[0].answer is None
        model = target.copy_model()
        for _ in range(self.config.checkpoints):
            with torch.no_grad():
                model.get_output_embeddings().weight.add_(self.config.amount)
            meter.trial()
            meter.compute(tokens=0, flops=10.0)
            yield Checkpoint(model, meter.spend(), {"amount": self.config.amount})
            model.get_output_embeddings().weight.data  # the checkpoint before may be changed from here on
        with torch.no_grad():
            model.get_output_embeddings().weight.zero_()
        if self.config.end:
            raise AttackEnded(self.config.end, "as asked")

    def estimate(self, target, view, *, budget):
        return Spend(trials=self.config.checkpoints, flops=10.0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    (folder / "links.py").write_text(LINKS)
    return folder


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return load(str(folder / "guarded"), device="cpu")


@pytest.fixture(scope="module")
def view(folder: Path) -> AttackerView:
    return load_dataset(str(folder / "data.jsonl")).divide().attacker_view()


def link(folder: Path, **config: Any) -> dict[str, Any]:
    return {"name": f"{folder / 'links.py'}:Shift", "config": config}


def chain(*steps: Any) -> Any:
    return registry.create("attacks", "chain", {"steps": list(steps)})


def heads(run: Iterator[Checkpoint]) -> list[torch.Tensor]:
    return [checkpoint.model.get_output_embeddings().weight.detach().clone() for checkpoint in run]


def test_each_link_starts_from_the_last_checkpoint_of_the_one_before(folder: Path, target: Target, view: AttackerView) -> None:
    attack = chain(link(folder, amount=1.0, checkpoints=2), link(folder, amount=0.5))
    found = heads(attack.run(target, view, Meter(), budget=Budget(), seed=0))
    untouched = target.model.get_output_embeddings().weight
    for head, shift in zip(found, (1.0, 2.0, 2.5), strict=True):
        assert torch.allclose(head, untouched + shift, atol=1e-5)


def test_spend_adds_up_and_checkpoints_name_their_link(folder: Path, target: Target, view: AttackerView) -> None:
    attack = chain({**link(folder, checkpoints=2), "label": "first"}, link(folder))
    made = list(attack.run(target, view, Meter(), budget=Budget(), seed=0))
    assert [(checkpoint.spend.trials, checkpoint.spend.flops) for checkpoint in made] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert [checkpoint.details["link"] for checkpoint in made] == ["first", "first", f"{folder / 'links.py'}:Shift"]


def test_a_link_gets_what_the_others_left_of_the_budget() -> None:
    assert remaining_budget(Budget(steps=10, flops=5.0), Spend(steps=4, flops=1.0)) == Budget(steps=6, flops=4.0)
    assert remaining_budget(Budget(steps=10, flops=5.0), Spend(steps=4, flops=5.0)) is None
    assert remaining_budget(Budget(steps=None), Spend(steps=4)) == Budget(steps=None)


def test_a_chain_stops_where_the_budget_is_used_up(folder: Path, target: Target, view: AttackerView) -> None:
    attack = chain(link(folder), link(folder), link(folder))
    assert len(list(attack.run(target, view, Meter(), budget=Budget(trials=2), seed=0))) == 2


def test_a_link_without_a_direction_is_passed_over(folder: Path, target: Target, view: AttackerView) -> None:
    attack = chain(link(folder, checkpoints=0, end="no_direction"), link(folder, amount=0.5))
    (head,) = heads(attack.run(target, view, Meter(), budget=Budget(), seed=0))
    assert torch.allclose(head, target.model.get_output_embeddings().weight + 0.5, atol=1e-6)


def test_a_chain_of_links_without_a_direction_has_none(folder: Path, target: Target, view: AttackerView) -> None:
    attack = chain(*[link(folder, checkpoints=0, end="no_direction")] * 2)
    with pytest.raises(AttackEnded, match="as asked") as ended:
        list(attack.run(target, view, Meter(), budget=Budget(), seed=0))
    assert ended.value.outcome == "no_direction"


def test_a_failed_link_ends_the_chain(folder: Path, target: Target, view: AttackerView) -> None:
    attack = chain(link(folder, end="failed"), link(folder))
    made = []
    with pytest.raises(AttackEnded) as ended:
        made.extend(attack.run(target, view, Meter(), budget=Budget(), seed=0))
    assert ended.value.outcome == "failed"


def test_adapters_are_merged_before_the_next_link(folder: Path, target: Target, view: AttackerView) -> None:
    lora = {"name": "lora_finetune", "config": {"steps": 2, "training": {"learning_rate": 0.01}}}
    before = weight_digest(target.model)
    made = [
        (checkpoint.details["link"], sorted(name for name, _ in checkpoint.model.named_parameters()))
        for checkpoint in chain(lora, link(folder)).run(target, view, Meter(), budget=Budget(), seed=0)
    ]
    assert made[0][0] == "lora_finetune"
    assert any("lora_" in name for name in made[0][1])
    assert made[-1][1] == sorted(name for name, _ in target.model.named_parameters())
    assert weight_digest(target.model) == before


def test_it_needs_what_its_links_need(folder: Path) -> None:
    attack = chain("refusal_ablation", "full_finetune", link(folder))
    assert attack.requires == {Need.WEIGHTS, Need.HARMFUL_PROMPTS, Need.BENIGN_PROMPTS, Need.FINE_TUNING, Need.HARMFUL_EXAMPLES}
    assert attack.uses == {Need.BENIGN_PROMPTS}


def test_a_wrong_link_is_found_out_before_anything_runs() -> None:
    with pytest.raises(UnknownName, match="refusal_ablation"):
        chain("refusal_ablatoin")
    with pytest.raises(InvalidStudy, match="shotz"):
        chain({"name": "full_finetune", "config": {"shotz": 1}})
    with pytest.raises(InvalidStudy, match="not chains"):
        chain("chain")
    with pytest.raises(InvalidStudy, match="at least 1"):
        chain()


def test_the_estimate_is_the_sum_of_its_links(folder: Path, target: Target, view: AttackerView) -> None:
    spend = chain(link(folder, checkpoints=2), link(folder)).estimate(target, view, budget=Budget())
    assert (spend.trials, spend.flops) == (3, 20.0)


def test_a_chain_of_one_is_that_attack(target: Target, view: AttackerView) -> None:
    config = {"steps": 3}
    alone = registry.create("attacks", "full_finetune", config).run(target, view, Meter(), budget=Budget(), seed=1)
    chained = chain({"name": "full_finetune", "config": config}).run(target, view, Meter(), budget=Budget(), seed=1)
    for one, other in zip(heads(alone), heads(chained), strict=True):
        assert torch.equal(one, other)


def test_ways_of_asking_are_carried_along(folder: Path, target: Target, view: AttackerView) -> None:
    in_a_layout = {"name": "full_finetune", "config": {"steps": 1, "template": "question"}}
    first, *_, last = chain(in_a_layout, link(folder)).run(target, view, Meter(), budget=Budget(), seed=0)
    assert last.details["link"] != first.details["link"]
    example = view.hazard_train[0]
    asked = target.tokenizer.decode(last.asking.begin(target.chat, example)[0])
    assert asked == target.tokenizer.decode(first.asking.begin(target.chat, example)[0])
    assert asked.startswith("<unk> : how do you")
    assert "<assistant>" not in asked
