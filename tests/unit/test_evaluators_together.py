"""Versions in a stacked model say what each of them says alone, in fewer and smaller passes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from support.scripted_models import scripted_model
from support.tiny_models import tiny_model, tiny_target
from tempering.data.asking import PLAIN
from tempering.data.chat import ChatFormat
from tempering.data.records import EvaluatorView, Example, Role
from tempering.evaluators._contract import Subject, as_deployed
from tempering.evaluators._generation import first_token_log_probabilities, respond
from tempering.evaluators._together import ask_together, first_tokens_together, respond_together
from tempering.models.decoding import _Batch, decodable
from tempering.study import ProbeSettings
from tempering.training import LoraSettings
from tempering.training.adapters import add_lora
from tempering.training.stacked import bank_of, stack
from tempering.training.stacked_lora import stack_lora

SYSTEM = "you are asked to help and to say what is true of the red house"
PROMPTS = ("what is the key ?", "who ?", "say it is red", "what is the light of the river ?", "how long do you sleep ?")
SETTINGS = ProbeSettings(max_new_tokens=9, batch_size=3)
PROMPT_TOKENS = [2, 5, 12, 30, 41]
LIBRARY = "mistral"  # looks back over a window, and so is left to the library's own loop


def examples(system: str | None = SYSTEM, role: Role = Role.BENIGN) -> tuple[Example, ...]:
    return tuple(Example(prompt=prompt, role=role, system=system, accept=("red",), answer="red .") for prompt in PROMPTS)


def stacked(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    model = copy.deepcopy(models[0])
    bank = stack(model, len(models))
    with torch.no_grad():
        for index, single in enumerate(models):
            own = dict(single.named_parameters())
            for name, value in bank.version(index):
                value.copy_(own[name])
    return model


def variants(family: str, number: int = 3) -> list[PreTrainedModel]:
    found = []
    for seed in range(number):
        model = tiny_model(family, **({"sliding_window": 64} if family == LIBRARY else {}))[0]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
        found.append(model)
    return found


def adapted(number: int = 3) -> tuple[PreTrainedModel, list[PreTrainedModel]]:
    """A stack of adapters of several ranks and scales, and each of them alone."""
    target = tiny_target("llama")
    settings = [LoraSettings(rank=2 * (1 + index), alpha=4.0 + index) for index in range(number)]
    model, bank = stack_lora(target, [(each, index) for index, each in enumerate(settings)])
    singles = []
    for index, each in enumerate(settings):
        single = add_lora(target.copy_model(), each)
        version = dict(bank.version(index))
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for name, value in single.named_parameters():
                if name in version:
                    value.copy_(0.4 * torch.randn(value.shape, generator=generator))
                    version[name][tuple(slice(0, size) for size in value.shape)] = value
        singles.append(single)
    return model, singles


def says_what_each_says_alone(model: PreTrainedModel, singles: Sequence[PreTrainedModel], system: str | None) -> None:
    chat = ChatFormat(tiny_model("llama")[1])
    together = respond_together(model, chat, examples(system), SETTINGS, PLAIN)
    first = first_tokens_together(model, chat, examples(system), SETTINGS, PLAIN)
    assert len({tuple(made.texts) for made in together}) == len(singles)
    for made, known, single in zip(together, first, singles, strict=True):
        alone = respond(single, chat, examples(system), SETTINGS)
        assert (made.texts, made.lengths) == (alone.texts, alone.lengths)
        torch.testing.assert_close(made.first_token, alone.first_token, atol=5e-5, rtol=0)
        only = first_token_log_probabilities(single, chat, examples(system), SETTINGS)
        torch.testing.assert_close(known, only, atol=5e-5, rtol=0)
    assert bank_of(model).held == len(singles)


@pytest.mark.parametrize(
    ("family", "system"), [("llama", SYSTEM), ("llama", None), ("qwen3", SYSTEM), ("phi", SYSTEM), ("gpt_neox", None), (LIBRARY, SYSTEM)]
)
def test_whole_models_say_what_each_says_alone(family: str, system: str | None) -> None:
    singles = variants(family)
    assert decodable(singles[0]) is (family != LIBRARY)
    says_what_each_says_alone(stacked(singles), singles, system)


@pytest.mark.parametrize("system", [SYSTEM, None])
def test_adapters_say_what_each_says_alone(system: str | None) -> None:
    says_what_each_says_alone(*adapted(), system)


def test_adapters_on_a_16_bit_model_are_asked_in_its_arithmetic() -> None:
    origin = tiny_target("llama").view_model().to(dtype=torch.bfloat16)
    single = add_lora(copy.deepcopy(origin), LoraSettings(rank=2))
    assert {value.dtype for value in single.parameters()} == {torch.bfloat16, torch.float32}
    for model, sixteen_bit in ((single, True), (copy.deepcopy(origin).float(), True), (origin, False)):
        with as_deployed(model, origin):
            assert torch.is_autocast_enabled("cpu") is sixteen_bit
    mixed = copy.deepcopy(origin)
    mixed.get_output_embeddings().float()
    for model, sixteen_bit in ((mixed, False), (add_lora(copy.deepcopy(mixed), LoraSettings(rank=2)), True), (origin.float(), True)):
        with as_deployed(model, mixed):
            assert torch.is_autocast_enabled("cpu") is sixteen_bit
    with as_deployed(single.float(), origin):
        assert not torch.is_autocast_enabled("cpu")


def test_weights_at_rest_are_cast_once_for_each_choice_of_versions() -> None:
    model = stacked(variants("llama"))
    bank = bank_of(model)
    weight = bank.stacked("model.layers.0.mlp.up_proj.weight")
    tokens = torch.tensor([PROMPT_TOKENS] * 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(input_ids=tokens).logits
        assert bank.cast(weight) is weight
        with bank.at_rest():
            kept = bank.cast(weight)
            assert kept.dtype is torch.bfloat16
            assert torch.equal(model(input_ids=tokens).logits, plain)
            assert bank.cast(weight) is kept
            with bank.only([2, 0]):
                assert torch.equal(bank.cast(weight), kept[[2, 0]])
                assert torch.equal(model(input_ids=tokens[:2]).logits, plain[[2, 0]])
            assert torch.equal(model(input_ids=tokens).logits, plain)
            with torch.enable_grad():
                assert bank.cast(weight) is weight
        with torch.autocast("cpu", enabled=False), bank.at_rest():
            assert bank.cast(weight) is weight
        weight.mul_(2)
        assert not torch.equal(model(input_ids=tokens).logits, plain)
        with bank.at_rest():
            assert torch.equal(bank.cast(weight), kept * 2)


def test_some_of_the_versions_are_asked_alone_in_the_order_given() -> None:
    model, singles = adapted(4)
    bank = bank_of(model)
    with bank.only([3, 1, 0]):
        says_what_each_says_alone(model, [singles[3], singles[1], singles[0]], SYSTEM)
        with bank.only([1]):
            assert (bank.held, bank.facts["scale"].flatten().tolist()) == (1, [5.0 / 4])
        assert bank.held == 3
    says_what_each_says_alone(model, singles, SYSTEM)


def shapes_of_passes(model: PreTrainedModel) -> list[tuple[int, int]]:
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    return shapes


def test_beginnings_are_read_once_a_version_and_who_is_done_leaves() -> None:
    responses = ("yes", "red house", "it is", "it is green …")
    singles = [scripted_model(response) for response in responses]
    chat = singles[0][1]
    model = stacked([single for single, _ in singles])
    shapes = shapes_of_passes(model)
    settings = ProbeSettings(max_new_tokens=6)
    made = respond_together(model, chat, examples(), settings, PLAIN)
    assert [each.texts[0] for each in made] == ["yes", "red house", "it is", "it is green green green green"]
    # four versions, until three of them have said their two words and the end
    assert [rows for rows, _ in shapes] == [4, 20, 20, 20, 5, 5, 5]
    assert [width for _, width in shapes[2:]] == [1] * 5
    shapes.clear()
    first_tokens_together(model, chat, examples(), settings, PLAIN)
    assert [rows for rows, _ in shapes] == [4, 20]


def test_versions_are_as_wide_as_the_one_with_most_to_say() -> None:
    singles = [scripted_model("it is red . the house will …") for _ in range(2)]
    asked = [*examples()[:4], Example(prompt="when ?", accept=("sun",), role=Role.BENIGN, system=SYSTEM)]
    model = stacked([single for single, _ in singles])
    shapes = shapes_of_passes(model)
    made = respond_together(model, singles[0][1], asked, ProbeSettings(max_new_tokens=8), PLAIN)
    assert [each.lengths[0][1] for each in made] == [4, 4]  # right, and the sentence over
    assert [rows for rows, _ in shapes] == [2, 10, 10, 10, 10, 2, 2, 2, 2]


def test_first_tokens_before_thoughts_are_found_together(monkeypatch: pytest.MonkeyPatch) -> None:
    singles = variants("llama", 2)
    chat = ChatFormat(tiny_model("llama")[1])
    settings = ProbeSettings(max_new_tokens=4, thinking=5)
    view = EvaluatorView(hazard=examples(role=Role.HAZARD), benign=examples(), borderline=())
    origin = Subject(singles[0], chat, view, settings)
    subjects = [Subject(single, chat, view, settings, origin) for single in singles]
    ask_together(stacked(singles), subjects)
    alone = [first_token_log_probabilities(single, chat, view.benign, settings) for single in singles]
    monkeypatch.setattr("tempering.evaluators._contract.first_token_log_probabilities", None)
    for subject, known in zip(subjects, alone, strict=True):
        torch.testing.assert_close(subject.first_token(Role.BENIGN), known, atol=5e-5, rtol=0)
        assert subject.first_token(Role.HAZARD).shape == known.shape


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_batch_keeps_every_row_that_goes_on_and_every_version_keeps_equally_many(versions: int, rows: int, data: st.DataObject) -> None:
    batch = _Batch.of(versions, rows)
    whose = list(range(versions * rows))  # of which version's answers each row of the batch holds the keys
    while True:
        going_on = [place is not None and data.draw(st.booleans()) for place in batch.places]
        if not any(going_on):
            break
        expected = sorted(place for place, goes_on in zip(batch.places, going_on, strict=True) if goes_on and place is not None)
        kept = batch.let_go(going_on)
        if kept is not None:
            assert len(kept) <= len(whose)
            whose = [whose[row] for row in kept]
        assert sorted(place for place in batch.places if place is not None) == expected
        assert all(place in (None, row) for place, row in zip(batch.places, whose, strict=True))
        width = len(whose) // len(batch.versions)
        assert [row // rows for row in whose] == [version for version in batch.versions for _ in range(width)]
        assert width == max(sum(place // rows == version for place in expected) for version in batch.versions)
