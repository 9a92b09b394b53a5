"""Mixtures of experts, where what comes out is known: by torch's counter, by hand, by the other way of doing it, and by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.planted_refusal import as_target
from support.tiny_models import MIXTURES, random_model, tiny_model
from support.toy_study import rows, toy_study, write_rows
from tempering.attacks._abliteration import ablation
from tempering.attacks._low_rank import applied
from tempering.attacks._merging import Factors, Interpolation, Subtraction, Workbench
from tempering.attacks._orthogonalisation import orthogonalise
from tempering.attacks._residuals import writers
from tempering.attacks._subspaces import orthogonalise_against, orthonormal, subspaces_ablated
from tempering.attacks._surgery import LayerSettings, Surgery
from tempering.engine.plan import make_plan
from tempering.models import Target
from tempering.models.digest import weight_digest
from tempering.models.outputs import written_biases, written_matrices
from tempering.models.saving import save
from tempering.models.structure import Structure
from tempering.study import DataChoice, MethodChoice, ModelChoice
from tempering.training import Meter
from tempering.training.adapters import add_lora, lora_parameters
from tempering.training.flops import FlopCount
from tempering.training.loop import labelled_positions_only
from tempering.training.settings import LoraSettings

ROWS, LENGTH, LABELLED = 3, 24, 4
IDS = torch.tensor([[2, 5, 12, 30, 41, 7, 6], [2, 5, 60, 33, 18, 3, 6]])

every_mixture = pytest.mark.parametrize("family", MIXTURES)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def bases(model: torch.nn.Module, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return orthonormal(torch.randn(count, model.config.hidden_size, generator=generator, dtype=torch.float64))


# --- operations -----------------------------------------------------------------------------------------------------------------


def counted(model: torch.nn.Module, *, backward: bool) -> float:
    torch.manual_seed(0)
    ids = torch.randint(8, model.config.vocab_size, (ROWS, LENGTH))
    labels = torch.full_like(ids, -100)
    labels[:, -LABELLED:] = ids[:, -LABELLED:]
    counter = FlopCounterMode(display=False)
    with counter, labelled_positions_only(model, labels) as targets:
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        if backward:
            torch.nn.functional.cross_entropy(found.float(), targets).backward()
    return float(counter.get_total_flops())


def eager(family: str) -> torch.nn.Module:
    model, _ = tiny_model(family, attn_implementation="eager", hidden_size=64, intermediate_size=176)
    model.train()
    return model.requires_grad_(True)


@every_mixture
def test_only_the_experts_that_a_token_is_sent_to_are_counted(family: str) -> None:
    model = eager(family)
    with torch.no_grad():
        forward = counted(model, backward=False)
    assert FlopCount.of(model).forward([LENGTH] * ROWS, ROWS * LABELLED) == pytest.approx(forward, rel=1e-3)
    assert FlopCount.of(model).training_step([LENGTH] * ROWS, ROWS * LABELLED) == pytest.approx(counted(model, backward=True), rel=1e-3)


@every_mixture
def test_adapters_on_a_mixture_cost_what_torch_counts(family: str) -> None:
    settings = LoraSettings(rank=4)
    parameters = lora_parameters(eager(family), settings)
    model = add_lora(eager(family), settings)
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == parameters
    assert not any("experts" in name for name, weight in model.named_parameters() if weight.requires_grad)
    assert FlopCount.of(model).training_step([LENGTH] * ROWS, ROWS * LABELLED) == pytest.approx(counted(model, backward=True), rel=1e-3)


def test_a_mixtral_worked_out_on_paper() -> None:
    """Hidden 16, two heads of 8, one key-value head, two of four experts of width 32, two blocks."""
    model, _ = tiny_model("mixtral")
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16
    one_expert = 3 * 16 * 32
    assert FlopCount.of(model).body == 2 * (attention + 2 * one_expert + 4 * 16)
    assert 2 * 4 * one_expert < sum(weight.numel() for weight in model.model.layers.parameters())


# --- directions -----------------------------------------------------------------------------------------------------------------


@every_mixture
def test_subspaces_leave_the_stream_by_hooks_and_by_weights_alike(family: str) -> None:
    model = random_model(family)
    basis = bases(model, 3)
    with torch.no_grad(), subspaces_ablated(Structure.of(model), basis[None]):
        by_hooks = logits(model)
    orthogonalise_against(model, basis)
    torch.testing.assert_close(logits(model), by_hooks, rtol=1e-6, atol=1e-6)


def test_one_expert_that_writes_a_direction_is_found_among_all() -> None:
    """Nothing is along r but what one expert of four was made to write; the edit changes that expert and no other."""
    model = random_model("mixtral")
    direction = bases(model, 1)[0]
    orthogonalise(model, direction)
    clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    planted = model.model.layers[1].mlp.experts.down_proj
    with torch.no_grad():
        planted[2] += direction[:, None]
    orthogonalise(model, direction)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, clean[name], rtol=0, atol=1e-12)
    with torch.no_grad():
        planted[2] += direction[:, None]
    orthogonalise(model, bases(model, 2)[1])
    assert (direction @ planted[2]).norm() > 1
    assert (direction @ planted[1]).norm() < 1e-12


@every_mixture
def test_tied_ends_are_parted_and_routers_left_alone(family: str) -> None:
    model = random_model(family, tie_word_embeddings=True)
    head = model.get_output_embeddings().weight.detach().clone()
    reading = {name: tensor.clone() for name, tensor in model.state_dict().items() if "router" in name or ".gate." in name}
    assert reading
    orthogonalise(model, bases(model, 1)[0])
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert not torch.equal(model.get_input_embeddings().weight, head)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in reading.items())


def test_what_writes_in_gpt_oss_is_every_expert_the_other_way_round_with_its_bias() -> None:
    model = random_model("gpt_oss")
    mixture = Structure.of(model).mlp_outputs[0]
    assert [tuple(matrix.shape) for matrix in written_matrices(mixture)] == [(16, 32)] * 4
    assert [tuple(biases.shape) for biases in written_biases(mixture)] == [(16, 4)]
    assert Structure.of(model).mlp_output_weights[0] == (
        "model.layers.0.mlp.experts.down_proj",
        "model.layers.0.mlp.experts.down_proj_bias",
    )


def test_a_plain_full_ablation_of_every_expert_is_directional_ablation_of_the_mlp() -> None:
    """With weight one and row norms let go, the search's edit is W - v vᵀ W, which hooks on the mixture's sum do too."""
    model = random_model("qwen2_moe")
    direction = bases(model, 1)[0]
    (mixture,) = (writer for writer in writers(Structure.of(model))[-1:])
    edits = [ablation(mixture.module, direction, 1.0, keep_row_norms=False, written=matrix) for matrix in written_matrices(mixture.module)]
    assert len(edits) == 5  # four experts and the shared one
    before = weight_digest(model)
    with applied(edits):
        tried = logits(model)
    assert weight_digest(model) == before
    handle = mixture.module.register_forward_hook(lambda _module, _inputs, output: output - (output @ direction)[..., None] * direction)
    torch.testing.assert_close(tried, logits(model), rtol=1e-9, atol=1e-9)
    handle.remove()


def test_all_directions_gone_is_no_mixture_at_all() -> None:
    """With every direction out of embedding, attention and mixture, nothing arrives at the final norm."""
    model = random_model("olmoe")
    seen: dict[str, torch.Tensor] = {}
    model.model.norm.register_forward_pre_hook(lambda _, args: seen.update(last=args[0]))
    logits(model)
    assert seen["last"].abs().max() > 0.1
    orthogonalise_against(model, torch.eye(16, dtype=torch.float64))
    logits(model)
    assert seen["last"].abs().max() < 1e-12


# --- other surgery ----------------------------------------------------------------------------------------------------------------


def pair(family: str) -> tuple[Target, Target]:
    return as_target(*tiny_model(family, 0)), as_target(*tiny_model(family, 1))


@every_mixture
def test_merging_reaches_the_base_bit_for_bit(family: str) -> None:
    target, base = pair(family)
    bench = Workbench(target, base, Meter())
    bench.write(Interpolation(1.0))
    assert weight_digest(bench.model) == weight_digest(base.model)
    bench.write(Interpolation(0.0))
    assert weight_digest(bench.model) == weight_digest(target.model)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_experts_give_up_the_singular_directions_that_were_added_to_them(family: str) -> None:
    _, base = pair(family)
    model = base.copy_model()
    generator = torch.Generator().manual_seed(5)
    experts = model.model.layers[0].mlp.experts.down_proj
    with torch.no_grad():
        for expert in experts:
            expert += torch.randn(len(expert), 1, generator=generator) @ torch.randn(1, expert.shape[1], generator=generator)
    meter = Meter()
    bench = Workbench(replace(base, model=model), base, meter)
    bench.write(Subtraction("rank", 1, 1.0, Factors(1, meter, seed=0)))
    for own, theirs in zip(bench.model.parameters(), base.model.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5)


@every_mixture
def test_every_expert_is_rounded_as_a_layer_of_its_own(family: str) -> None:
    target = as_target(*tiny_model(family))
    surgery = Surgery(target, LayerSettings(parts="mlp"))
    stacked = [layer for layer in surgery.layers if layer.expert is not None]
    assert len(stacked) == 2 * 4 * 2  # two blocks, four experts, two tensors
    surgery.edit(lambda _name, weight: 2 * weight)
    for name, tensor in target.model.state_dict().items():
        factor = 2 if "experts." in name and not name.endswith("bias") else 1
        if factor == 2 or "mlp" not in name:
            assert torch.equal(surgery.model.state_dict()[name], factor * tensor), name
    surgery.restore()
    assert weight_digest(surgery.model) == weight_digest(target.model)


def plan_of(family: str, folder: Path, *attacks: MethodChoice):  # type: ignore[no-untyped-def]
    save(*tiny_model(family), folder / family)
    write_rows(folder / "data.jsonl", rows())
    choice = ModelChoice(reference=str(folder / family), device="cpu")
    return make_plan(toy_study(folder, models=(choice,), data=DataChoice(reference=str(folder / "data.jsonl")), attacks=attacks, seeds=1))


def test_what_cannot_be_done_to_experts_is_left_out_with_its_reason(tmp_path: Path) -> None:
    chosen: Sequence[MethodChoice] = [
        MethodChoice(name="pruning"),
        MethodChoice(name="pruning", config={"method": "magnitude"}, label="by size"),
        MethodChoice(name="lora_finetune", config={"lora": {"targets": "mlp"}}, label="experts"),
        MethodChoice(name="refusal_ablation"),
    ]
    plan = plan_of("mixtral", tmp_path, *chosen)
    assert {unit.work.attack_name for unit in plan.units} == {"by size", "refusal_ablation"}
    reasons = {entry.attack: entry.reason for entry in plan.skipped}
    assert set(reasons) == {"pruning", "experts"}
    assert "take the method 'magnitude'" in reasons["pruning"]
    assert "the experts of a mixture lie in one tensor" in reasons["experts"]
    assert all("\n" not in reason for reason in reasons.values())


def test_an_unknown_architecture_costs_the_study_only_the_attacks_that_need_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempering.models.structure.MLP_OUTPUTS", ())
    monkeypatch.setattr("tempering.models.outputs.MLP_OUTPUTS", ())
    monkeypatch.setattr("tempering.models.structure._matrix_width", lambda _layer: 16)
    plan = plan_of("llama", tmp_path, MethodChoice(name="refusal_ablation"), MethodChoice(name="full_finetune"))
    assert {unit.work.attack_name for unit in plan.units} == {"full_finetune"}
    (left_out,) = plan.skipped
    assert left_out.attack == "refusal_ablation"
    assert "cannot find the MLP output of model.layers.0 in a model of the family 'llama'" in left_out.reason
