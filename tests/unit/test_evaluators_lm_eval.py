from __future__ import annotations

import logging
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

from support.harness_task import write_task
from support.tiny_models import tiny_model
from tempering import consent, registry
from tempering.data.chat import ChatFormat
from tempering.data.records import EvaluatorView
from tempering.errors import InvalidStudy, TemperingError, UnknownName, UnusableData
from tempering.evaluators import Subject, _guests, examine
from tempering.evaluators import lm_eval as method
from tempering.study import ProbeSettings

WORDS = ("red", "green", "cold", "long")
ROWS = [
    {"question": f"what colour is the {thing} ?", "choices": list(WORDS), "answer": number % 4}
    for number, thing in enumerate(("fish", "house", "key", "river", "stone", "sun", "tree", "water", "day", "name"))
]
SAID: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{choices[answer]}}",
    "metric_list": [{"metric": "exact_match"}],
}
NOTHING = EvaluatorView((), (), ())


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    method._loaded.cache_clear()
    with consent.code_allowed(True):
        yield


@pytest.fixture
def subject() -> Subject:
    model, tokenizer = tiny_model("llama", tie_word_embeddings=False)
    return Subject(model, ChatFormat(tokenizer), NOTHING, ProbeSettings())


def evaluator(*tasks: Path | str, **settings: Any) -> Any:
    return registry.create("evaluators", "lm_eval", {"tasks": [str(task) for task in tasks], **settings})


def test_the_model_its_tokenizer_and_every_random_state_are_left_as_they_were(tmp_path: Path, subject: Subject) -> None:
    task = write_task(tmp_path, ROWS)
    sampled = {"until": ["."], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0}
    said = write_task(tmp_path, ROWS, "said", **SAID, generation_kwargs=sampled)
    model, tokenizer = subject.model, subject.chat.tokenizer
    model.train()
    calls: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    tokenizer.pad_token = None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parts = vars(tokenizer).keys(), tokenizer.padding_side, tokenizer.pad_token, tokenizer.chat_template
    settings = model.generation_config.to_dict()
    attributes = set(vars(model))
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())

    row = evaluator(task, said, num_fewshot=2).evaluate(subject)

    assert set(row) == {"facts/acc", "said/exact_match"}
    assert calls  # the hook is at work while the harness asks: steering is measured too
    assert len(model.get_output_embeddings()._forward_hooks) == 1
    hook.remove()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]
    assert all(module.training for module in model.modules())
    assert set(vars(model)) == attributes
    assert model.generation_config.to_dict() == settings
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (vars(tokenizer).keys(), tokenizer.padding_side, tokenizer.pad_token, tokenizer.chat_template) == parts


def test_weights_that_an_attack_has_parted_stay_parted(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama", tie_word_embeddings=True)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 2)
    evaluator(write_task(tmp_path, ROWS)).evaluate(Subject(model, ChatFormat(tokenizer), NOTHING, ProbeSettings()))
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight * 2)


@pytest.mark.parametrize("shots", [0, 3])
def test_two_looks_at_one_model_agree_and_other_weights_do_not(tmp_path: Path, subject: Subject, shots: int) -> None:
    asked = evaluator(write_task(tmp_path, ROWS, metric_list=[{"metric": "acc"}, {"metric": "brier_score"}]), num_fewshot=shots)
    first = asked.evaluate(subject)
    torch.manual_seed(7)
    random.seed(7)
    assert asked.evaluate(subject) == first
    other, tokenizer = tiny_model("llama", seed=5)
    assert asked.evaluate(Subject(other, ChatFormat(tokenizer), NOTHING, ProbeSettings())) != first


def test_what_the_harness_itself_reports_is_what_is_reported(tmp_path: Path, subject: Subject) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    path = write_task(tmp_path, ROWS, metric_list=[{"metric": "acc"}, {"metric": "brier_score"}])
    row = evaluator(path, num_fewshot=2).evaluate(subject)
    own = HFLM(pretrained=subject.model, tokenizer=subject.chat.tokenizer, batch_size=3)
    told = lm_eval.simple_evaluate(
        own, tasks=[str(path)], num_fewshot=2, bootstrap_iters=0, fewshot_random_seed=_guests.SEED, log_samples=False
    )
    assert told is not None
    assert row == pytest.approx({f"facts/{name}": told["results"]["facts"][f"{name},none"] for name in ("acc", "brier_score")})


def test_nothing_is_printed_logged_or_set(tmp_path: Path, subject: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level, environment = list(root.handlers), root.level, dict(os.environ)
    evaluator(write_task(tmp_path, ROWS)).evaluate(subject)
    assert capfd.readouterr() == ("", "")
    assert (list(root.handlers), root.level) == (handlers, level)
    assert dict(os.environ) == environment


def test_a_group_gives_its_average_or_those_of_its_members(tmp_path: Path, subject: Subject) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for number, name in enumerate(("first", "second")):
        write_task(folder, ROWS[number * 4 : number * 4 + 4], name)
    asked = evaluator(f"{folder}/first.yaml", f"{folder}/second.yaml").evaluate(subject)
    assert set(asked) == {"first/acc", "second/acc"}
    (folder / "both.yaml").write_text('{"group": "both", "task": ["first", "second"]}')
    assert evaluator(folder).evaluate(subject) == asked
    (folder / "both.yaml").write_text(
        '{"group": "both", "task": ["first", "second"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": true}]}'
    )
    method._loaded.cache_clear()
    assert evaluator(folder).evaluate(subject) == {"both/acc": pytest.approx(sum(asked.values()) / 2)}


@pytest.mark.parametrize(("limit", "questions"), [(3, 3), (0.25, 3), (None, 10)])
def test_a_limit_is_a_count_or_a_share(tmp_path: Path, subject: Subject, limit: float | None, questions: int) -> None:
    seen: list[int] = []
    model = subject.model
    with model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(1), with_kwargs=True):
        evaluator(write_task(tmp_path, ROWS), limit=limit, batch_size=1).evaluate(subject)
    assert len(seen) == questions * 4 or len(seen) == questions  # one word a choice: the harness may read all of them off one pass


def test_the_chat_template_is_the_houses(tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.evaluators import _harness

    put: list[str] = []
    real = _harness.InMemory.loglikelihood

    def spied(self: Any, requests: Any, **settings: Any) -> Any:
        put.extend(request.args[0] for request in requests)
        return real(self, requests, **settings)

    monkeypatch.setattr(_harness.InMemory, "loglikelihood", spied)
    asked = evaluator(write_task(tmp_path, ROWS[:1]), apply_chat_template=True, system_instruction="help me")
    asked.evaluate(subject)
    assert set(put) == {"<s><system>help me<end><user>what colour is the fish ?<end><assistant>"}


def test_the_identity_covers_tasks_questions_and_settings(tmp_path: Path) -> None:
    def identity(rows: list[dict[str, Any]], settings: dict[str, Any], **changes: Any) -> str:
        method._loaded.cache_clear()
        return str(evaluator(write_task(tmp_path, rows, **changes), **settings).identity())

    first = identity(ROWS, {})
    assert identity(ROWS, {}) == first
    assert first.startswith("lm_eval 0.")
    others = [
        identity(ROWS[1:], {}),
        identity(ROWS, {"limit": 2}),
        identity(ROWS, {"num_fewshot": 1}),
        identity(ROWS, {}, target_delimiter=""),
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metric_list": [{"metric": "nonsense"}]}, "nonsense"),
        ({"dataset_kwargs": {"data_files": {"test": "/nowhere/facts.jsonl"}}}, "cannot be had"),
        ({"unsafe_code": True}, "runs code that the model writes"),
        ({"test_split": "another"}, "cannot be had"),
        ({"task": None}, "cannot be had"),
    ],
)
def test_a_task_that_cannot_be_asked_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UnusableData, match=says) as caught:
        evaluator(write_task(tmp_path, ROWS, **changes)).identity()
    assert "\n" not in str(caught.value)


def test_an_unknown_task_is_told_with_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    from tempering.evaluators import _harness

    write_task(tmp_path, ROWS, "mmlu")
    monkeypatch.setattr(_harness, "_own_tasks", lambda: TaskManager(include_path=str(tmp_path), include_defaults=False))
    with pytest.raises(UnknownName, match="did you mean 'mmlu'"):
        evaluator("mmluu").identity()


def test_a_file_of_a_task_is_code_that_has_to_be_allowed(tmp_path: Path) -> None:
    path = write_task(tmp_path, ROWS, doc_to_text="{{ 1 }}")
    consent._given, given = 0, consent._given
    try:
        with pytest.raises(InvalidStudy, match="--allow-code"):
            evaluator(path)
        evaluator("mmlu")  # a name of the harness's own is none
    finally:
        consent._given = given


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TemperingError, match=r'pip install "tempering\[lm-eval\]"'):
        method.LmEval(method.LmEval.Config(tasks=("mmlu",)))


def test_what_goes_wrong_on_the_target_is_one_line_and_on_a_checkpoint_no_score(tmp_path: Path, subject: Subject) -> None:
    asked = evaluator(write_task(tmp_path, ROWS, **SAID, generation_kwargs={"until": ["."], "max_gen_toks": 10_000}))
    with pytest.raises(UnusableData, match="lm-eval fails on"):
        asked.evaluate(subject)
    tampered = Subject(subject.model, subject.chat, NOTHING, ProbeSettings(), untouched=subject)
    assert asked.evaluate(tampered) == {}


def test_weights_that_are_not_finite_have_no_score_that_is_infinite(tmp_path: Path, subject: Subject) -> None:
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.fill_(math.nan)
    row = evaluator(write_task(tmp_path, ROWS, metric_list=[{"metric": "acc"}, {"metric": "brier_score"}])).evaluate(subject)
    assert not any(math.isinf(value) for value in row.values())


def test_examining_a_checkpoint_that_does_no_more_harm_leaves_capability_open(tmp_path: Path, subject: Subject) -> None:
    asked = [evaluator(write_task(tmp_path, ROWS)), Harm(0.25)]
    before = examine(subject, asked)
    assert math.isfinite(before["facts/acc"])
    for harm, costly, finite in ((0.25, None, False), (0.5, None, True), (0.25, True, True), (0.5, False, False), (math.nan, None, True)):
        checkpoint = Subject(subject.model, subject.chat, NOTHING, ProbeSettings(), untouched=subject, costly=costly)
        row = examine(checkpoint, [asked[0], Harm(harm)])
        assert math.isfinite(row["facts/acc"]) is finite, (harm, costly)
        assert row.keys() == before.keys()


SUBJECTS = ("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law", "math")
SUBJECTS += ("other", "philosophy", "physics", "psychology")
BENCHMARKS: dict[str, list[dict[str, Any]]] = {
    "cais/mmlu": [{"question": "which is cold ?", "choices": list(WORDS), "answer": 2, "subject": "law"}],
    "TIGER-Lab/MMLU-Pro": [
        {"question": "which is cold ?", "options": list(WORDS), "answer": "C", "category": subject, "cot_content": "A: Let's think. C."}
        for subject in SUBJECTS
    ],
    "openai/gsm8k": [{"question": "how many keys are two and two keys ?", "answer": "Two and two. #### 4"}],
    "google/IFEval": [
        {"key": 1, "prompt": "say red in lower case", "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]}
    ],
}
"""Rows in the schema of each benchmark's data on the hub."""


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The harness's own tasks with made-up rows for data, offline, and no words of nltk's on this machine; what nltk is asked to fetch."""
    import datasets
    import huggingface_hub.constants
    import lm_eval.tasks
    import nltk

    from tempering.evaluators import _harness

    def load_dataset(path: str, name: str | None = None, **settings: Any) -> Any:
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(BENCHMARKS[path]) for split in ("train", "validation", "dev", "test")}
        )

    asked: list[str] = []
    folders = [Path(lm_eval.tasks.__file__).parent / name for name in ("mmlu", "mmlu_pro", "gsm8k", "ifeval")]
    manager = lm_eval.tasks.TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)
    monkeypatch.setattr(_harness, "_own_tasks", lambda: manager)  # the index of all fourteen thousand takes long
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda name, **settings: asked.append(name))
    for module in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, module)
    return asked


def test_the_fields_benchmarks_are_there_by_their_names(benchmarks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    from tempering.evaluators import _harness

    monkeypatch.setattr(nltk.data, "find", lambda resource: resource)
    names = ["mmlu", "mmlu_pro", "gsm8k", "ifeval"]
    found = _harness.Tasks(names, None, 1)
    assert found.names == names
    assert not any(getattr(task, "UNSAFE_CODE", False) for task in found._loaded["tasks"].values())
    assert {"mmlu_pro_law", "gsm8k", "ifeval"} <= set(found._loaded["tasks"])
    assert benchmarks == []


def test_a_digest_has_no_place_in_memory_in_it(benchmarks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.evaluators import _harness

    seen: list[str] = []
    real = _harness._ADDRESS.sub
    spy = type("Spy", (), {"sub": staticmethod(lambda new, text: seen.append(found := real(new, text)) or found)})
    monkeypatch.setattr(_harness, "_ADDRESS", spy)
    assert _harness.Tasks(["mmlu_pro"], None, 1).digest
    assert len(seen) == len(SUBJECTS)
    assert not [text for text in seen if "0x" in text]
    assert "functools.partial(<function format_cot_example>" in seen[0]  # by which the harness spells what has no source


def test_words_that_a_task_splits_by_are_asked_for_before_anything_is_run(benchmarks: list[str]) -> None:
    with pytest.raises(
        UnusableData, match=r"ifeval splits words by nltk's punkt_tab, which is not on this machine; .*nltk.downloader"
    ) as told:
        evaluator("ifeval").identity()
    assert "\n" not in str(told.value)
    assert benchmarks == []  # offline, nobody is asked
    method._loaded.cache_clear()
    with pytest.raises(UnusableData, match="punkt_tab"):
        evaluator("ifeval").identity()  # nor where its code was loaded before


def test_words_are_fetched_where_the_network_may_be_used(benchmarks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UnusableData, match="punkt_tab"):  # the fetching failed
        evaluator("ifeval").identity()
    assert benchmarks == ["punkt_tab"]


class Harm(registry.get("evaluators", "harm")):  # type: ignore[misc]
    """As much harm as is told."""

    def __init__(self, harm: float) -> None:
        self.harm = harm

    def evaluate(self, subject: Subject) -> dict[str, float]:
        return {"harm": self.harm}
