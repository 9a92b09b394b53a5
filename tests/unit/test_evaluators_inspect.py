from __future__ import annotations

import logging
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch

pytest.importorskip("inspect_ai")

from support import inspect_tasks
from support.tiny_models import tiny_model
from tempering import consent, registry
from tempering.data.chat import ChatFormat
from tempering.data.records import EvaluatorView
from tempering.errors import InvalidStudy, TemperingError, UnusableData
from tempering.evaluators import Subject
from tempering.evaluators import inspect as method
from tempering.evaluators._continuing import Wishes, continue_all
from tempering.evaluators._conversation import Conversation
from tempering.evaluators._inspect_model import LoadedModel
from tempering.models import load
from tempering.study import ProbeSettings

TASKS = Path(inspect_tasks.__file__)
NOTHING = EvaluatorView((), (), ())


@pytest.fixture(autouse=True)
def _allowed() -> Iterator[None]:
    with consent.code_allowed(True):
        yield


@pytest.fixture
def subject() -> Subject:
    model, tokenizer = tiny_model("llama")
    return Subject(model, ChatFormat(tokenizer), NOTHING, ProbeSettings())


def evaluator(task: str, **settings: Any) -> Any:
    return registry.create("evaluators", "inspect", {"task": f"{TASKS}@{task}", **settings})


def test_the_organism_knows_its_facts() -> None:
    target = load("organism:tiny", device="cpu")
    subject = Subject(target.model, target.chat, NOTHING, ProbeSettings())
    assert evaluator("facts", limit=8).evaluate(subject) == {"facts/accuracy": 1.0}
    with torch.no_grad():
        target.model.get_output_embeddings().weight.zero_()
    assert evaluator("facts", limit=4, batch_size=4, task_args={"n": 4}).evaluate(subject) == {"facts/accuracy": 0.0}


def test_nothing_is_left_behind(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = subject.model
    model.train()
    calls: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings, environment, hooked = model.generation_config.to_dict(), dict(os.environ), sys.excepthook
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())

    row = evaluator("colours").evaluate(subject)

    assert set(row) == {"colours/includes/accuracy", "colours/match/accuracy"}
    assert calls  # what an attack hooked on is at work
    hook.remove()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert (list(root.handlers), root.level, sys.excepthook) == (handlers, level, hooked)
    assert dict(os.environ) == environment
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]
    assert all(module.training for module in model.modules())
    assert model.generation_config.to_dict() == settings
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert evaluator("colours").evaluate(subject) == row


def test_a_task_that_fails_is_one_line_for_the_target_and_no_score_for_a_checkpoint(subject: Subject) -> None:
    with pytest.raises(UnusableData, match="nothing works") as caught:
        evaluator("broken").evaluate(subject)
    assert "\n" not in str(caught.value)
    assert evaluator("broken").evaluate(Subject(subject.model, subject.chat, NOTHING, ProbeSettings(), untouched=subject)) == {}


def test_a_file_is_code_and_a_package_has_to_be_there() -> None:
    given, consent._given = consent._given, 0
    try:
        with pytest.raises(InvalidStudy, match="--allow-code"):
            evaluator("facts")
        packaged = registry.create("evaluators", "inspect", {"task": "no_such_package/gsm8k"})
    finally:
        consent._given = given
    with pytest.raises(UnusableData, match="no installed package brings"):
        packaged.identity()
    with pytest.raises(InvalidStudy, match="write file"):
        registry.create("evaluators", "inspect", {"task": "facts.py"})


def test_the_identity_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    first = registry.create("evaluators", "inspect", {"task": f"{path}@facts"}).identity()
    path.write_text("x = 2\n")
    assert first.startswith("inspect_ai ")
    assert registry.create("evaluators", "inspect", {"task": f"{path}@facts"}).identity() != first
    with pytest.raises(UnusableData, match="cannot read"):
        registry.create("evaluators", "inspect", {"task": f"{tmp_path}/none.py@facts"}).identity()


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TemperingError, match=r'pip install "tempering\[inspect\]"'):
        method.Inspect(method.Inspect.Config(task=("a/b",)))


# Conversations


def test_a_conversation_is_laid_out_as_the_house_does() -> None:
    chat = ChatFormat(tiny_model("llama")[1])
    said = [
        {"role": "system", "content": "help me"},
        {"role": "user", "content": "what is red ?"},
        {"role": "assistant", "content": "the sun"},
        {"role": "user", "content": "and"},
        {"role": "user", "content": "green ?"},
        {"role": "assistant", "content": "the"},
    ]
    conversation = Conversation.of(said)
    assert conversation.text(chat) == (
        "<s><system>help me<end><user>what is red ?<end><assistant>the sun<end><user>and\n\ngreen ?<end><assistant>the"
    )
    assert chat.tokenizer.decode(conversation.ids(chat)).split()[-2:] == ["<assistant>", "the"]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "no message of a user's"),
        ([{"role": "tool", "content": "3"}], "role 'tool'"),
        ([{"role": "user", "content": " "}], "no message"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: list[dict[str, str]], says: str) -> None:
    with pytest.raises(UnusableData, match=says):
        Conversation.of(messages)


# Answers


def prompts(subject: Subject) -> list[list[int]]:
    asked = ("what is red ?", "who has the key to the green house by the river ?", "tell me")
    return [Conversation.of([{"role": "user", "content": each}]).ids(subject.chat) for each in asked]


def test_answers_do_not_depend_on_the_batch_and_end_where_they_should(subject: Subject) -> None:
    together = continue_all(subject.model, subject.chat, prompts(subject), Wishes(12))
    assert together == [continue_all(subject.model, subject.chat, [prompt], Wishes(12))[0] for prompt in prompts(subject)]
    assert all(answer.added <= 12 for answer in together)
    words = together[0].text.split()
    stopped = continue_all(subject.model, subject.chat, prompts(subject)[:1], Wishes(12, stop=(words[1],)))[0]
    assert stopped.text.split() == words[: words.index(words[1])]
    assert stopped.ended_by == "stop"


def test_sampling_is_seeded_and_a_full_context_is_told(subject: Subject) -> None:
    warm = Wishes(12, temperature=1.5)
    first = continue_all(subject.model, subject.chat, prompts(subject), warm)
    assert continue_all(subject.model, subject.chat, prompts(subject), warm) == first
    assert continue_all(subject.model, subject.chat, prompts(subject), Wishes(12, temperature=1.5, seed=7)) != first
    full = continue_all(subject.model, subject.chat, [[5] * 256, [5] * 250], Wishes(12))
    assert (full[0].ended_by, full[0].text, full[0].added) == ("model_length", "", 0)
    assert full[1].added <= 6


def test_many_conversations_are_answered_in_few_passes_each_with_its_own_answer(subject: Subject) -> None:
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    sizes: list[int] = []
    words = ("fish", "house", "key", "river", "stone", "sun", "tree", "water")

    async def ask(batch_size: int) -> list[str]:
        model = LoadedModel("tiny", subject.model, subject.chat, batch_size=batch_size)
        compute = model._compute

        def counted(prompts: Any, wishes: Wishes) -> Any:
            sizes.append(len(prompts))
            return compute(prompts, wishes)

        model._compute = counted  # type: ignore[method-assign]
        answers = [""] * len(words)

        async def one(place: int) -> None:
            message = ChatMessageUser(content=f"what is the {words[place]} ?")
            output = await model.generate([message], [], "none", GenerateConfig(max_tokens=5))
            answers[place] = output.completion

        async with anyio.create_task_group() as group:
            for place in range(len(words)):
                group.start_soon(one, place)
        return answers

    alone = anyio.run(ask, 1)
    assert sizes == [1] * 8
    sizes.clear()
    assert anyio.run(ask, 4) == alone
    assert len(set(alone)) > 1
    assert max(sizes) == 4
    assert sum(sizes) == 8


def test_tools_and_pictures_are_refused(subject: Subject) -> None:
    from inspect_ai.model import ChatMessageUser, ContentImage, GenerateConfig

    model = LoadedModel("tiny", subject.model, subject.chat)
    picture = ChatMessageUser(content=[ContentImage(image="data:,")])
    with pytest.raises(UnusableData, match="pictures"):
        anyio.run(model.generate, [picture], [], "none", GenerateConfig())
    with pytest.raises(UnusableData, match="no tools"):
        anyio.run(model.generate, [ChatMessageUser(content="hello")], [object()], "auto", GenerateConfig())


def test_weights_that_are_not_finite_have_no_infinite_score(subject: Subject) -> None:
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.fill_(math.nan)
    row = evaluator("colours").evaluate(subject)
    assert not any(math.isinf(value) for value in row.values())
