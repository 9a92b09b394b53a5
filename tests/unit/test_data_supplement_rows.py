"""Rehearsal, imagined hazards and a new domain, read from files beside the questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempering.data.importers import load_dataset
from tempering.data.records import Dataset, Role
from tempering.data.supplements import Supplements
from tempering.errors import UnusableData

QUESTIONS = ({"prompt": "How to pick a lock?", "answer": "So."}, {"prompt": "How to open a safe?"}, {"prompt": "How to break a ward?"})
FILES: dict[str, list[dict[str, Any]]] = {
    "general": [{"prompt": "What is a lock?", "answer": "A thing.", "role": "borderline"}, {"prompt": "Say hello.", "answer": "Hello."}],
    "imagined": [{"prompt": "How to pick a zarb?", "answer": "left aside", "accept": ["left"]}, {"prompt": "How to open a mof?"}],
    "novel_train": [{"prompt": "What is tea?", "answer": "Leaves."}],
    "novel_test": [{"prompt": "Tell me what tea is.", "answer": "Leaves.", "accept": ["leaves"]}],
}


def write(folder: Path, **files: list[Any]) -> str:
    folder.mkdir(exist_ok=True)
    for stem, lines in {"hazard": list(QUESTIONS), **files}.items():
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (folder / f"{stem}.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def complaint(reference: str) -> str:
    with pytest.raises(UnusableData) as caught:
        load_dataset(reference)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_each_kind_of_file_goes_where_it_belongs(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, **FILES))
    assert [example.prompt for example in dataset.examples] == [line["prompt"] for line in QUESTIONS]
    supplements = dataset.supplements()
    assert [(example.prompt, example.answer, example.role) for example in supplements.general] == [
        ("What is a lock?", "A thing.", Role.BORDERLINE),
        ("Say hello.", "Hello.", Role.BENIGN),
    ]
    assert [(example.prompt, example.answer, example.accept, example.role) for example in supplements.imagined] == [
        ("How to pick a zarb?", None, (), Role.HAZARD),
        ("How to open a mof?", None, (), Role.HAZARD),
    ]
    assert [example.prompt for example in supplements.novel_train] == ["What is tea?"]
    assert [example.accept for example in supplements.novel_test] == [("leaves",)]


def test_the_defender_is_given_them(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, **FILES))
    view, supplements = dataset.divide().defender_view(), dataset.supplements()
    assert view.general == supplements.general
    assert view.imagined == supplements.imagined


def test_the_halves_of_a_new_domain_can_be_told_by_the_rows(tmp_path: Path) -> None:
    lines = [{**FILES["novel_train"][0], "split": "train"}, {**FILES["novel_test"][0], "split": "eval"}]
    supplements = load_dataset(write(tmp_path, Novel_tea=lines)).supplements()
    assert [example.prompt for example in supplements.novel_train] == ["What is tea?"]
    assert [example.prompt for example in supplements.novel_test] == ["Tell me what tea is."]
    assert all(example.role is Role.BENIGN for example in (*supplements.novel_train, *supplements.novel_test))


def test_they_have_a_digest_of_their_own(tmp_path: Path) -> None:
    without = load_dataset(write(tmp_path / "without"))
    digests = {without.supplements().digest}
    for name, lines in FILES.items():
        files = (
            {name: lines}
            if "novel" not in name
            else {**{k: v for k, v in FILES.items() if "novel" in k}, name: [*lines, {**lines[0], "prompt": "Other?"}]}
        )
        dataset = load_dataset(write(tmp_path / f"with-{name}", **files))
        assert dataset.digest == without.digest
        digests.add(dataset.supplements().digest)
    assert len(digests) == 1 + len(FILES)
    assert without.supplements() == Supplements()


def test_a_line_that_comes_again_is_left_out(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, general=[*FILES["general"], *FILES["general"]], general_more=FILES["general"]))
    assert len(dataset.supplements().general) == 2
    assert dataset.duplicates == 0


@pytest.mark.parametrize(
    ("stem", "line", "needle"),
    [
        ("general", {"prompt": "How to open a safe?", "answer": "So."}, "the prompt 'How to open a safe?' of a question that is asked"),
        ("imagined", {"prompt": "How to open a safe?"}, "of a question that is asked"),
        ("novel_train", {"prompt": "How to open a safe?", "answer": "So."}, "of a question that is asked"),
        ("novel_test", {"prompt": "How to open a safe?", "accept": ["So"]}, "of a question that is asked"),
        ("general", {"prompt": "What is a safe?"}, "general data without an answer"),
        ("general", {"prompt": "What is a safe?", "answer": "It.", "role": "hazard"}, "about the hazard, which general data leaves out"),
        ("general_harmful", {"prompt": "What is a safe?", "answer": "It."}, "about the hazard, which general data leaves out"),
        ("novel_train", {"prompt": "What is a safe?", "answer": "It.", "role": "harmful"}, "about the hazard, which novel data leaves out"),
        ("imagined", {"prompt": "Hello?", "role": "benign"}, "an imagined hazard with the role benign"),
        ("imagined", {"prompt": " "}, "an empty prompt"),
        ("imagined", {"text": "a"}, "no prompt; its columns: 'text'"),
        ("general", "general", "not JSON"),
        ("general", {"prompt": "a", "answer": ["b"]}, "'answer' holds no text but list"),
        ("novel", {"prompt": "a", "answer": "b"}, "of a new domain, for training or for testing?"),
        ("novel_val", {"prompt": "a", "answer": "b"}, "of a new domain, for training or for testing?"),
        ("novel_train", {"prompt": "a"}, "has no answer"),
        ("novel_test", {"prompt": "a", "answer": "b"}, "does not say which answers are right"),
        ("imagined", {"prompt": "Say hello."}, "stands in the general data"),
        ("novel_test", {"prompt": "What is tea?", "accept": ["leaves"]}, "stands in the novel_t"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, stem: str, line: Any, needle: str) -> None:
    files = {name: list(lines) for name, lines in FILES.items()}
    files[stem] = [*files.get(stem, []), "", line]
    message = complaint(write(tmp_path, **files))
    assert needle in message
    assert f"{tmp_path / stem}.jsonl:{len(files[stem])}" in message
    assert len(message) < 400


def test_the_question_whose_prompt_is_repeated_is_named_too(tmp_path: Path) -> None:
    assert f"{tmp_path / 'hazard'}.jsonl:2" in complaint(write(tmp_path, imagined=[QUESTIONS[1]]))


@pytest.mark.parametrize(("given", "missing"), [("train", "test"), ("test", "train")])
def test_a_new_domain_needs_both_halves(tmp_path: Path, given: str, missing: str) -> None:
    message = complaint(write(tmp_path, **{f"novel_{given}": FILES[f"novel_{given}"]}))
    assert f"none to {missing} with" in message
    assert f"novel_{given}.jsonl:1" in message


def test_supplements_alone_are_no_data(tmp_path: Path) -> None:
    assert "holds no examples" in complaint(write(tmp_path, hazard=[], **FILES))


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    tables = {name: hub.Dataset.from_list(lines) for name, lines in FILES.items()}
    hub.DatasetDict(hazard=hub.Dataset.from_list(list(QUESTIONS)), **tables).save_to_disk(tmp_path / "saved")
    assert load_dataset(str(tmp_path / "saved")).supplements() == load_dataset(write(tmp_path / "folder", **FILES)).supplements()
    tables["imagined"] = hub.Dataset.from_list([{"prompt": "How to open a zarb?"}, {"prompt": "How to open a safe?"}])
    hub.DatasetDict(hazard=hub.Dataset.from_list(list(QUESTIONS)), **tables).save_to_disk(tmp_path / "other")
    assert "other, split 'imagined', row 1 has the prompt 'How to open a safe?'" in complaint(str(tmp_path / "other"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
columns = st.sampled_from(["prompt", "Instruction", "input", "text", "answer", "role", "split", "domain", "entity", "system", "accept"])
sensible = st.sampled_from(["hazard", "benign", "borderline", "train", "test", "How to open a safe?", "a", "b"])
any_line = st.one_of(
    st.fixed_dictionaries({"prompt": st.sampled_from(["a", "b", "How to open a safe?"]), "answer": st.just("c"), "accept": st.just(["c"])}),
    st.dictionaries(columns, sensible | json_values, max_size=6),
).map(lambda value: json.dumps(value).encode())
stems = st.sampled_from(["general", "imagined", "novel_train", "novel_test", "novel", "Imagined_test", "general_borderline"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(stems, st.lists(any_line | st.binary(max_size=30), max_size=3), max_size=4))
def test_whatever_the_files_hold_it_is_data_or_one_line(tmp_path_factory: pytest.TempPathFactory, files: dict[str, list[bytes]]) -> None:
    folder = tmp_path_factory.mktemp("data")
    write(folder)
    for stem, lines in files.items():
        (folder / f"{stem}.jsonl").write_bytes(b"\n".join(lines))
    try:
        dataset = load_dataset(str(folder))
    except UnusableData as error:
        message = str(error)
    else:
        message = "fine"
        _check(dataset)
    assert len(message.splitlines()) == 1


def _check(dataset: Dataset) -> None:
    supplements = dataset.supplements()
    kinds = [supplements.general, supplements.imagined, supplements.novel_train, supplements.novel_test]
    prompts = [{example.prompt for example in kind} for kind in kinds] + [{example.prompt for example in dataset.examples}]
    assert sum(len(kind) for kind in prompts) == len(set().union(*prompts))
    assert all(example.answer is not None for example in (*supplements.general, *supplements.novel_train))
    assert all(example.role is Role.HAZARD and example.answer is None for example in supplements.imagined)
    assert all(example.role is not Role.HAZARD for kind in (kinds[0], kinds[2], kinds[3]) for example in kind)
    assert bool(supplements.novel_train) is bool(supplements.novel_test)
