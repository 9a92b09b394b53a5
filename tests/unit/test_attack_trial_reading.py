from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from support.tiny_models import FAMILIES, random_model, tiny_model
from tempering.attacks import _tree_reading
from tempering.attacks._abliteration import ablation
from tempering.attacks._inference import MeteredModel
from tempering.attacks._low_rank import LowRankEdit, applied
from tempering.attacks._prompt_tree import WIDTH, PromptTrees
from tempering.attacks._tree_reading import TreeReading, readable
from tempering.attacks._trial_reading import TrialReading
from tempering.attacks.searched_abliteration import SearchedAbliteration
from tempering.data.chat import ChatFormat
from tempering.data.records import Example, Role
from tempering.models.structure import Structure
from tempering.training import Meter

PROMPTS = [[2, 5, 12, 30, 6], [2, 5, 12, 31, 32, 6], [2, 5, 12, 30, 6], [2, 9]]
ANSWERS = [[[40, 41], [40, 42, 43]], [], [[40, 41]], [[50]]]
LOOKS_BACK_OVER_A_WINDOW = ("gemma2", "gemma3_text", "mistral", "gpt_oss")
READABLE = [family for family in FAMILIES if family not in LOOKS_BACK_OVER_A_WINDOW]


class TestTrees:
    def test_a_shared_beginning_is_there_once(self):
        trees = PromptTrees(PROMPTS, ANSWERS)
        assert trees.input_ids.shape == (1, 1 + 1 + 1 + 2 + 3 + 4 + 1 + 1)
        assert trees.last[0] == trees.last[2] != trees.last[1]

    def test_following_tokens_finds_answers_and_nothing_else(self):
        trees = PromptTrees(PROMPTS, ANSWERS)
        behind = trees.child(trees.last[0], 40)
        assert behind is not None
        assert trees.child(behind, 41) is not None
        assert trees.child(behind, 43) is None
        assert trees.child(trees.last[1], 40) is None
        assert len(set(trees.behind(0))) == 5
        assert list(trees.behind(1)) == [trees.last[1]]

    def test_a_node_sees_its_own_beginning(self):
        trees = PromptTrees(PROMPTS, ANSWERS)
        for row, prompt in enumerate(PROMPTS):
            seen = trees.sees[0, trees.last[row]].nonzero().flatten()
            order = trees.position_ids[0, seen].argsort()
            assert trees.input_ids[0, seen[order]].tolist() == prompt
            assert sorted(trees.position_ids[0, seen].tolist()) == list(range(len(prompt)))

    def test_many_prompts_are_dealt_out_and_none_is_cut(self):
        generator = torch.Generator().manual_seed(0)
        prompts = [torch.randint(0, 90, (20,), generator=generator).tolist() for _ in range(30)] + [[1] * (WIDTH + 9)]
        trees = PromptTrees(prompts, [[[7, 8]]] * 31)
        assert 5 <= len(trees.input_ids) <= 8
        for row, prompt in enumerate(prompts):
            tree, place = divmod(trees.last[row], trees.input_ids.shape[1])
            seen = trees.sees[tree, place].nonzero().flatten()
            assert trees.input_ids[tree, seen].tolist() == prompt
            assert trees.child(trees.last[row], 7) is not None


@torch.no_grad()
def alone(model: Any, sequences: list[list[int]]) -> Tensor:
    return torch.stack([model(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in sequences])


def edits_from(structure: Structure, block: int) -> list[LowRankEdit]:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(64, structure.hidden_size, generator=generator, dtype=torch.float64), dim=-1)
    modules = (*structure.attention_outputs[block:], *structure.mlp_outputs[block:])
    return [ablation(module, vector, 1.2, keep_row_norms=True) for module, vector in zip(modules, vectors, strict=False)]


class TestReadingTrees:
    @pytest.mark.parametrize("family", READABLE)
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_every_node_gets_what_its_sequence_alone_gets(self, family, attention):
        model = random_model(family, num_hidden_layers=3)
        model.set_attn_implementation(attention)
        assert readable(model)
        trees = PromptTrees(PROMPTS, ANSWERS)
        answer = trees.child(trees.child(trees.last[0], 40), 42)
        reading = TreeReading(model, Structure.of(model), trees, [*trees.last, answer])
        expected = [*PROMPTS, [*PROMPTS[0], 40, 42]]
        torch.testing.assert_close(reading.logits(0), alone(model, expected), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("family", READABLE)
    def test_blocks_before_the_edit_are_read_once_and_the_result_is_the_same(self, family):
        model = random_model(family, num_hidden_layers=4)
        structure = Structure.of(model)
        trees = PromptTrees(PROMPTS, ANSWERS)
        reading = TreeReading(model, structure, trees, trees.last)
        runs = [0] * 4
        for place, module in enumerate(structure.attention_outputs):
            module.register_forward_hook(lambda *_, place=place: runs.__setitem__(place, runs[place] + 1))
        for first, expected in (
            (2, [1, 1, 1, 1]),
            (3, [0, 0, 1, 1]),
            (3, [0, 0, 0, 1]),
            (1, [0, 1, 1, 1]),
            (0, [1, 1, 1, 1]),
            (3, [0, 0, 0, 1]),
        ):
            runs[:] = [0] * 4
            with applied(edits_from(structure, first)):
                found, ran = reading.logits(first), list(runs)
                torch.testing.assert_close(found, alone(model, PROMPTS), rtol=1e-8, atol=1e-8)
            assert ran == expected
        assert not any("forward" in vars(block) for block in structure.blocks)

    @pytest.mark.parametrize("family", LOOKS_BACK_OVER_A_WINDOW)
    def test_models_that_look_back_over_a_window_are_left_alone(self, family):
        overrides = {"sliding_window": 64} if family == "mistral" else {}
        assert not readable(tiny_model(family, **overrides)[0])


def examples(role: Role, *prompts: str) -> list[Example]:
    return [Example(prompt=prompt, role=role) for prompt in prompts]


@contextmanager
def counted_tokens(model: Any) -> Iterator[list[int]]:
    """How many tokens of a row each pass reads."""
    read: list[int] = []
    handle = model.register_forward_pre_hook(lambda _model, _inputs, named: read.append(named["input_ids"].shape[1]), with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


HARMLESS = examples(Role.BENIGN, "what is the key ?", "what is the light ?", "say it is red", "what is the key ?")
HARMFUL = examples(
    Role.HAZARD, "what is the poison ?", "how do you brew it ?", "what is the poison of the river ?", "who are you ?", "tell me"
)


class TestTrials:
    @pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "gemma2"])
    def test_a_trial_reads_what_reading_one_by_one_reads_and_is_charged_the_same(self, family):
        model, tokenizer = tiny_model(family, num_hidden_layers=4)
        structure, chat = Structure.of(model), ChatFormat(tokenizer)
        config = SearchedAbliteration.Config(answer_tokens=6)
        meters = Meter(), Meter()
        trees, plain = (MeteredModel(model, chat, meter, 3) for meter in meters)
        reading = TrialReading(trees, structure, HARMLESS, HARMFUL, config)
        assert reading.in_trees is (family != "gemma2")
        unlike = set()
        for first in (3, 2, 3, 0, 2, 0, 3):
            settled = self.settles(chat)
            with applied(edits_from(structure, first)):
                found, answers = reading.look(first, settled)
                made = answers()
                torch.testing.assert_close(found, plain.first_token(HARMLESS), rtol=1e-4, atol=1e-4)
                assert made == plain.answers(HARMFUL, 6, settled=settled)
            unlike.add(str(made))
        assert len(unlike) == 3
        ours, theirs = (meter.spend() for meter in meters)
        assert (ours.tokens, ours.queries, ours.examples) == (theirs.tokens, theirs.queries, theirs.examples)
        assert ours.flops == pytest.approx(theirs.flops, rel=1e-12)

    def test_answers_that_were_seen_are_not_generated_again(self):
        model, tokenizer = tiny_model("llama", num_hidden_layers=4)
        reader = MeteredModel(model, ChatFormat(tokenizer), Meter(), 3)
        reading = TrialReading(reader, Structure.of(model), HARMLESS, HARMFUL, SearchedAbliteration.Config(answer_tokens=6))
        passes = []
        for _ in range(3):
            before = [0]
            handle = model.register_forward_pre_hook(lambda *_, seen=before: seen.__setitem__(0, seen[0] + 1))
            reading.look(0, lambda _: False)[1]()
            handle.remove()
            passes.append(before[0])
        assert passes[0] > 1
        assert passes[1:] == [1, 1]

    def test_answers_that_were_expected_are_not_generated(self):
        model, tokenizer = tiny_model("llama", num_hidden_layers=4)
        chat = ChatFormat(tokenizer)
        reader = MeteredModel(model, chat, Meter(), 3)
        for settled in (self.settles(chat), lambda _: False):
            reading = TrialReading(reader, Structure.of(model), HARMLESS, HARMFUL, SearchedAbliteration.Config(answer_tokens=6))
            answers = reader.answers(HARMFUL, 6, settled=settled)
            reading.expect(answers, settled)
            with counted_tokens(model) as read:
                assert reading.look(3, settled)[1]() == answers
            assert len(read) == 1

    @pytest.mark.parametrize("family", ["llama", "gpt_neox"])
    def test_an_answer_that_nothing_foresaw_is_read_token_by_token_and_no_prompt_again(self, family):
        model, tokenizer = tiny_model(family, num_hidden_layers=4)
        structure = Structure.of(model)
        reader = MeteredModel(model, ChatFormat(tokenizer), Meter(), 64)
        reading = TrialReading(reader, structure, HARMLESS, HARMFUL, SearchedAbliteration.Config(answer_tokens=6))
        passes = []
        for first in (2, 3, 2, 0):
            with applied(edits_from(structure, first)):
                expected = reader.answers(HARMFUL, 6)
                _, answers = reading.look(first, lambda _: False)
                with counted_tokens(model) as read:
                    assert answers() == expected
                assert all(width == 1 for width in read)
                passes.append(len(read))
        assert passes[0] > 0

    def test_without_room_for_keys_and_values_prompts_are_read_again(self, monkeypatch):
        model, tokenizer = tiny_model("llama", num_hidden_layers=4)
        reader = MeteredModel(model, ChatFormat(tokenizer), Meter(), 64)
        monkeypatch.setattr(_tree_reading, "MOST_KEPT", 2000)
        reading = TrialReading(reader, Structure.of(model), HARMLESS, HARMFUL, SearchedAbliteration.Config(answer_tokens=6))
        expected = reader.answers(HARMFUL, 6)
        _, answers = reading.look(3, lambda _: False)
        with counted_tokens(model) as read:
            assert answers() == expected
        assert max(read) > 1

    @staticmethod
    def settles(chat: ChatFormat):
        """Some answers are cut, by all of their tokens."""
        return lambda tokens: sum(tokens) % 5 == 0
