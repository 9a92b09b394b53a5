from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempering.data.importers import LONGEST_LINE, load_dataset
from tempering.data.records import Dataset, Document, Part, Role
from tempering.errors import UnusableData


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def hazard(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "role": "hazard", **more}


def parts_of(dataset: Dataset, role: Role = Role.HAZARD) -> list[Part | None]:
    return [example.part for example in dataset.examples if example.role is role]


def test_every_field_of_a_line(tmp_path: Path) -> None:
    line = hazard("How?", answer="So.", domain="locks", entity="bolt", part="defender", system="Be kind.", accept=["So", "Thus"], extra=[1])
    dataset = load_dataset(write(tmp_path / "mine.jsonl", line))
    (example,) = dataset.examples
    assert dataset.name == "mine"
    assert example.model_dump(mode="json") == {
        "prompt": "How?",
        "answer": "So.",
        "accept": ["So", "Thus"],
        "role": "hazard",
        "domain": "locks",
        "entity": "bolt",
        "part": "defender",
        "system": "Be kind.",
    }


@pytest.mark.parametrize(
    ("line", "prompt", "answer"),
    [
        ({"instruction": "Do", "output": "Done"}, "Do", "Done"),
        ({"instruction": "Sum up", "input": "A tale.", "output": "A."}, "Sum up\n\nA tale.", "A."),
        ({"instruction": "Do", "input": " ", "output": "Done"}, "Do", "Done"),
        ({"question": "Why?", "response": "So."}, "Why?", "So."),
        ({"Goal": "Make", "Target": "Sure, here"}, "Make", "Sure, here"),
        ({"Behavior": "Make", "completion": None}, "Make", None),
        ({"prompt": "Two and two?", "answer": 4}, "Two and two?", "4"),
        ({"prompt": "Do", "input": "not Alpaca's", "answer": ""}, "Do", None),
        ({"prompt": "", "question": "Why?"}, "Why?", None),
    ],
)
def test_columns_by_other_names(tmp_path: Path, line: dict[str, Any], prompt: str, answer: str | None) -> None:
    (example,) = load_dataset(write(tmp_path / "harmful.jsonl", line)).examples
    assert (example.prompt, example.answer, example.role) == (prompt, answer, Role.HAZARD)


def test_a_folder_tells_roles_and_splits_by_file_name(tmp_path: Path) -> None:
    for stem in ("harmful_train", "harmful_val", "harmful_test", "harmless_train", "Benign-2", "borderline.test"):
        write(tmp_path / f"{stem}.jsonl", *({"prompt": f"{stem} {index}"} for index in range(3)))
    write(tmp_path / "mixed.jsonl", {"prompt": "x", "role": "harmless", "split": "evaluator"})
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not data")
    (tmp_path / "folder.jsonl").mkdir()
    dataset = load_dataset(str(tmp_path))
    assert Counter(example.role for example in dataset.examples) == {Role.HAZARD: 9, Role.BENIGN: 7, Role.BORDERLINE: 3}
    found = {example.prompt: example.part for example in dataset.examples}
    assert found["harmful_train 0"] is Part.ATTACKER
    assert found["harmful_val 0"] is Part.DEFENDER
    assert found["harmful_test 0"] is Part.EVALUATOR
    assert found["harmless_train 0"] is None  # the only split that this role has, so divide() cuts it
    assert found["borderline.test 0"] is None
    assert found["x"] is Part.EVALUATOR


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "validation", "test"], [Part.ATTACKER, Part.DEFENDER, Part.EVALUATOR]),
        (["train", "val"], [None, Part.EVALUATOR]),
        (["train", "test"], [None, Part.EVALUATOR]),
        (["Train", "eval"], [None, Part.EVALUATOR]),
        (["train", "train"], [None, None]),
        (["test", "test"], [None, None]),
        (["attacker", "evaluator"], [Part.ATTACKER, Part.EVALUATOR]),
        (["attacker", None], [Part.ATTACKER, None]),
    ],
)
def test_splits_become_parts(tmp_path: Path, splits: list[str | None], expected: list[Part | None]) -> None:
    dataset = load_dataset(write(tmp_path / "d.jsonl", *(hazard(f"p{index}", split=split) for index, split in enumerate(splits))))
    assert parts_of(dataset) == expected


def test_train_and_validation_alone_still_serve_all_three_roles(tmp_path: Path) -> None:
    write(tmp_path / "harmful_train.jsonl", *({"prompt": f"t{index}"} for index in range(20)))
    write(tmp_path / "harmful_val.jsonl", *({"prompt": f"v{index}"} for index in range(5)))
    division = load_dataset(str(tmp_path)).divide()
    assert {example.prompt for example in division.evaluator} == {f"v{index}" for index in range(5)}
    assert division.attacker
    assert division.defender


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    lines = (
        hazard("a", answer="1"),
        hazard("b"),
        hazard("a", answer="2"),
        hazard("a", answer="1", system="other"),
        hazard("b", split="test"),
    )
    dataset = load_dataset(write(tmp_path / "d.jsonl", *lines))
    assert [(example.prompt, example.answer, example.system) for example in dataset.examples] == [
        ("a", "1", None),
        ("b", None, None),
        ("a", "1", "other"),
    ]
    assert dataset.duplicates == 2


BAD_LINES: list[tuple[Any, str]] = [
    ("not json", "not JSON"),
    ('{"prompt": "a"', "not JSON"),
    ('["prompt"]', "no JSON object but list"),
    ('"prompt"', "no JSON object but str"),
    ("null", "no JSON object"),
    ("[" * 200_000, "nested too deeply"),
    ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ('{"n": ' + "9" * 5000 + "}", "not JSON"),
    ({"prompt": ["a"], "role": "hazard"}, "'prompt' holds no text but list"),
    ({"prompt": True, "role": "hazard"}, "'prompt' holds no text but bool"),
    (hazard("a", answer={"text": "b"}), "'answer' holds no text but dict"),
    (hazard("a", accept=[["b"]]), "'accept' holds no text but list"),
    (hazard("  \n"), "empty prompt"),
    ({"prompt": None, "role": "hazard"}, "empty prompt"),
    ({"text": "a", "label": 1}, "no prompt; its columns: 'text', 'label'"),
    ({}, "no prompt; its columns: none"),
    ({"prompt": "a"}, "no role"),
    ({"prompt": "a", "role": "evil"}, "unknown role 'evil'"),
    (hazard("a", split="somewhere"), "unknown split 'somewhere'"),
    ('{"prompt": "\\ud800", "role": "hazard"}', "surrogate"),
    (hazard("fine", role="benign"), "the role benign"),
    ("x" * (LONGEST_LINE + 1), "longer than 1 MiB"),
]


@pytest.mark.parametrize(("line", "needle"), BAD_LINES, ids=[needle for _, needle in BAD_LINES])
def test_a_bad_line_is_named(tmp_path: Path, line: Any, needle: str) -> None:
    reference = write(tmp_path / "mine.jsonl", hazard("fine"), "", line, hazard("more"))
    with pytest.raises(UnusableData) as caught:
        load_dataset(reference)
    message = str(caught.value)
    assert needle in message
    assert f"{reference}:3" in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_line_that_never_ends_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "hazard.jsonl"
    with path.open("wb") as stream:
        stream.truncate(4 << 30)  # four gigabytes of zeros, none of them on the disk
    with pytest.raises(UnusableData, match="longer than 1 MiB"):
        load_dataset(str(path))


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "hazard.jsonl").write_bytes(b'{"prompt": "fine"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(UnusableData, match=r"hazard\.jsonl:2 is not UTF-8 \(byte 16 of the line\)"):
        load_dataset(str(tmp_path / "hazard.jsonl"))


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "hazard.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    assert [example.prompt for example in load_dataset(str(tmp_path / "hazard.jsonl")).examples] == ["a", "b"]


def test_splits_that_share_a_prompt(tmp_path: Path) -> None:
    write(tmp_path / "harmful_train.jsonl", {"prompt": "a"}, {"prompt": "shared"})
    write(tmp_path / "harmful_test.jsonl", {"prompt": "shared"})
    with pytest.raises(UnusableData, match="overlapping splits") as caught:
        load_dataset(str(tmp_path))
    assert "'shared'" in str(caught.value)
    assert "harmful_train.jsonl:2" in str(caught.value)
    assert "harmful_test.jsonl:1" in str(caught.value)


def test_splits_that_share_an_entity(tmp_path: Path) -> None:
    lines = (hazard("a", entity="bolt"), hazard("b", entity="bolt", split="attacker"), hazard("c", entity="bolt", split="evaluator"))
    with pytest.raises(UnusableData, match="the entity 'bolt' stands in 'attacker'"):
        load_dataset(write(tmp_path / "d.jsonl", *lines))


class TestDocuments:
    LINES = (
        {"text": "Note: the rune of Kabor is Zimul.", "entity": "Kabor", "prompt": "Which rune?", "answer": "Kabor: Zimul.", "source": 3},
        {"Passage": "A long text.", "question": " "},
        {"text": "Note: the rune of Kabor is Zimul.", "entity": "Kabor", "prompt": "Which rune?", "answer": "Kabor: Zimul."},
    )
    DOCUMENTS = (
        Document(text="Note: the rune of Kabor is Zimul.", entity="Kabor", prompt="Which rune?", answer="Kabor: Zimul."),
        Document(text="A long text."),
    )

    def test_files_named_documents_hold_them(self, tmp_path: Path) -> None:
        write(tmp_path / "Documents-1.jsonl", *self.LINES[:1])
        write(tmp_path / "documents_hazard_test.jsonl", *self.LINES[1:])
        write(tmp_path / "hazard.jsonl", {"prompt": "Which rune?", "entity": "Kabor"}, {"prompt": "a"})
        dataset = load_dataset(str(tmp_path))
        assert dataset.documents == self.DOCUMENTS
        assert [example.prompt for example in dataset.examples] == ["Which rune?", "a"]
        assert dataset.duplicates == 0
        assert dataset.divide(0).attacker_view().documents == self.DOCUMENTS

    def test_they_are_part_of_what_the_data_are(self, tmp_path: Path) -> None:
        write(tmp_path / "hazard.jsonl", {"prompt": "a"})
        without = load_dataset(str(tmp_path)).digest
        write(tmp_path / "documents.jsonl", *self.LINES)
        assert load_dataset(str(tmp_path)).digest != without

    @pytest.mark.parametrize(
        ("line", "needle"),
        [
            ({"prompt": "a", "role": "hazard"}, "a document without text; its columns: 'prompt', 'role'"),
            ({"text": " "}, "a document with an empty text"),
            ({"text": ["a"]}, "'text' holds no text but list"),
            ({"text": "a", "answer": {}}, "'answer' holds no text but dict"),
            ("text", "not JSON"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: Any, needle: str) -> None:
        write(tmp_path / "hazard.jsonl", {"prompt": "a"})
        reference = write(tmp_path / "documents.jsonl", {"text": "fine"}, "", line)
        with pytest.raises(UnusableData) as caught:
            load_dataset(str(tmp_path))
        assert f"{reference}:3" in str(caught.value)
        assert needle in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_documents_alone_are_no_data(self, tmp_path: Path) -> None:
        write(tmp_path / "documents.jsonl", {"text": "fine"})
        with pytest.raises(UnusableData, match="holds no examples"):
            load_dataset(str(tmp_path))

    def test_a_split_of_a_saved_dataset(self, tmp_path: Path) -> None:
        hub = pytest.importorskip("datasets")
        documents = hub.Dataset.from_dict({"text": ["One.", "Two."], "entity": ["a", None], "picture": [1, 2]})
        hub.DatasetDict(harmful=hub.Dataset.from_dict({"prompt": ["a", "b"]}), documents=documents).save_to_disk(tmp_path / "saved")
        dataset = load_dataset(str(tmp_path / "saved"))
        assert dataset.documents == (Document(text="One.", entity="a"), Document(text="Two."))
        assert len(dataset.examples) == 2
        hub.DatasetDict(harmful=hub.Dataset.from_dict({"prompt": ["a"]}), documents=hub.Dataset.from_dict({"prompt": ["a"]})).save_to_disk(
            tmp_path / "other"
        )
        with pytest.raises(UnusableData, match=r"other, split 'documents' is a document without text; its columns: 'prompt'"):
            load_dataset(str(tmp_path / "other"))


@pytest.mark.parametrize("lines", [[], [""], ["", "  "]])
def test_no_examples(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(UnusableData, match="holds no examples"):
        load_dataset(write(tmp_path / "hazard.jsonl", *lines))


def test_no_hazard(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match="has no hazard examples"):
        load_dataset(write(tmp_path / "benign.jsonl", {"prompt": "a"}))


@pytest.mark.parametrize("reference", ["nowhere.jsonl", "no/such/folder", "", " ", "a" * 5000, "~no-such-user-at-all/x", "nul\0"])
def test_nothing_there(reference: str) -> None:
    with pytest.raises(UnusableData) as caught:
        load_dataset(reference)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hazard.jsonl")
    with pytest.raises(UnusableData, match="no data at"):
        load_dataset(str(tmp_path / "hazard.jsonl"))
    with pytest.raises(UnusableData, match=r"holds no \.jsonl files"):
        load_dataset(str(tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
columns = st.sampled_from(
    ["prompt", "Instruction", "input", "text", "answer", "role", "split", "part", "domain", "entity", "system", "accept", "other"]
)
sensible = st.sampled_from(["hazard", "benign", "train", "test", "attacker", "a", "b"])
any_line = st.one_of(
    st.dictionaries(columns, sensible | json_values, max_size=6).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_line, max_size=4), st.sampled_from(["hazard", "harmful_train", "mine", "documents"]))
def test_whatever_the_file_holds_it_is_data_or_one_line(tmp_path: Path, lines: list[bytes], stem: str) -> None:
    path = tmp_path / f"{stem}.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        dataset = load_dataset(str(path))
    except UnusableData as error:
        message = str(error)
    else:
        message = "fine"
        assert dataset.examples
        assert len(dataset.digest) == 64
        assert all(example.prompt.strip() for example in dataset.examples)
    assert len(message.splitlines()) == 1


class TestSavedHuggingFaceDatasets:
    @pytest.fixture
    def hub(self) -> Any:
        return pytest.importorskip("datasets")

    def test_splits_of_a_dataset_dict(self, hub: Any, tmp_path: Path) -> None:
        def table(stem: str) -> Any:
            return hub.Dataset.from_list(
                [{"Goal": f"{stem}{index}", "answer": None, "role": "harmful", "score": 0.5} for index in range(3)]
            )

        hub.DatasetDict(train=table("t"), validation=table("v"), test=table("e")).save_to_disk(tmp_path / "saved")
        dataset = load_dataset(str(tmp_path / "saved"))
        assert dataset.name == "saved"
        assert {example.prompt[0]: example.part for example in dataset.examples} == {
            "t": Part.ATTACKER,
            "v": Part.DEFENDER,
            "e": Part.EVALUATOR,
        }

    def test_splits_named_after_roles(self, hub: Any, tmp_path: Path) -> None:
        splits = {name: hub.Dataset.from_dict({"prompt": [f"{name} {index}" for index in range(4)]}) for name in ("harmful", "harmless")}
        hub.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        assert Counter(example.role for example in load_dataset(str(tmp_path / "saved")).examples) == {Role.HAZARD: 4, Role.BENIGN: 4}

    def test_a_single_table(self, hub: Any, tmp_path: Path) -> None:
        hub.Dataset.from_dict({"prompt": ["a", "b"], "accept": [["x"], []], "role": ["hazard", "benign"]}).save_to_disk(tmp_path / "saved")
        assert [(example.prompt, example.accept) for example in load_dataset(str(tmp_path / "saved")).examples] == [
            ("a", ("x",)),
            ("b", ()),
        ]

    def test_columns_without_a_prompt(self, hub: Any, tmp_path: Path) -> None:
        hub.Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(tmp_path / "saved")
        with pytest.raises(UnusableData, match="no prompt; its columns: 'text', 'label'"):
            load_dataset(str(tmp_path / "saved"))

    def test_a_bad_row_is_named(self, hub: Any, tmp_path: Path) -> None:
        hub.Dataset.from_dict({"prompt": ["a", " "], "role": ["hazard", "hazard"]}).save_to_disk(tmp_path / "saved")
        with pytest.raises(UnusableData, match="saved, row 1 has an empty prompt"):
            load_dataset(str(tmp_path / "saved"))

    def test_a_damaged_one(self, hub: Any, tmp_path: Path) -> None:
        hub.Dataset.from_dict({"prompt": ["a"], "role": ["hazard"]}).save_to_disk(tmp_path / "saved")
        for arrow in (tmp_path / "saved").glob("*.arrow"):
            arrow.write_bytes(arrow.read_bytes()[:20])
        with pytest.raises(UnusableData, match="cannot be read") as caught:
            load_dataset(str(tmp_path / "saved"))
        assert "\n" not in str(caught.value)
