"""Every named set by the one path: through the real client, from a hub on the loopback that holds harmless rows of the real schema."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from support.fake_hub import COMMIT, FakeHub
from support.named_hub import hub, load, refusal
from support.named_samples import ROWS, encoded, thing, write_copy
from tempering.data import declarations
from tempering.data.declarations import NamedSet, declaration, is_commit
from tempering.data.deduplication import NEAR, grams_of, jaccard
from tempering.data.fetching import COPIES
from tempering.data.joining import COMPANION
from tempering.data.normal_form import normal_form
from tempering.data.records import Dataset, Example, Role

HAZARDS = ["advbench", "beavertails", "harmbench", "jailbreakbench", "llm-lat-harmful", "or-bench-toxic", "strongreject", "wmdp"]
HAZARDS += ["xstest-unsafe"]
OTHERS = ["alpaca", "dolly", "identity-shift", "magpie", "or-bench", "or-bench-80k", "xstest"]


__all__ = ["hub"]


def of(dataset: Dataset, name: str) -> list[Example]:
    return [example for example in dataset.examples if dataset.origins[example.prompt] == name]


def requests(hub: FakeHub) -> list[str]:
    return [line for line in hub.asked if "/datasets/" in line]


def test_the_names_are_those_of_the_field() -> None:
    assert sorted((*HAZARDS, *OTHERS)) == list(declarations.names())


@pytest.mark.parametrize("name", declarations.names())
def test_a_declaration_is_whole(name: str) -> None:
    declared = declaration(name)
    assert declared.about
    assert declared.licence
    assert declared.use
    assert re.search(r"\d{4}", declared.source)
    if declared.repository is not None:
        assert is_commit(declared.revision) or declared.revision == "main"
    card = next(card for card in declarations.cards() if card["name"] == name)
    assert set(card) == {"name", "rows", "summary", "licence", "use", "gated", "hub"}
    assert ("not pinned" in card["hub"]) == (declared.revision == "main")


@pytest.mark.parametrize("name", [*HAZARDS, *OTHERS])
def test_every_name_loads_by_the_one_path(hub: FakeHub, name: str) -> None:
    dataset = load(name if name in HAZARDS else f"{name}+strongreject")
    rows = of(dataset, name)
    assert len(rows) >= 10
    assert {example.role for example in rows} == set(declaration(name).roles)
    assert all(len(example.prompt) > 15 for example in rows)
    division = dataset.divide(0)
    assert division.evaluator_view().benign
    assert division.evaluator_view().hazard
    assert division.attacker_view().hazard_train
    used = next(used for used in dataset.provenance.sets if used.name == name)
    assert sum(used.kept.values()) == len(rows)
    declared = declaration(name)
    expected = {None: "shipped"}.get(declared.repository, COMMIT if declared.revision == "main" else declared.revision)
    assert used.revision == expected
    assert all(f"/resolve/{declared.revision}/" in line for line in requests(hub) if f"/{declared.repository}/" in line)


def test_a_hazard_by_itself_is_given_a_companion_and_says_so(hub: FakeHub) -> None:
    dataset = load("strongreject")
    assert dataset.name == f"strongreject+{COMPANION}"
    assert dataset.provenance.companion == COMPANION
    assert {example.role for example in of(dataset, COMPANION)} == {Role.BENIGN}
    for benign in ("alpaca", "magpie"):
        assert load(f"strongreject+{benign}").provenance.companion == ""


def test_without_any_hazard_there_is_nothing_to_measure(hub: FakeHub) -> None:
    assert refusal("alpaca").startswith("alpaca has no hazard examples; ")
    assert refusal("xstest").startswith("xstest+dolly has no hazard examples; ")


def test_categories_are_domains(hub: FakeHub) -> None:
    assert {example.domain for example in of(load("strongreject"), "strongreject")} == {"topic 0", "topic 1", "topic 2"}
    assert {example.domain for example in of(load("wmdp"), "wmdp")} == {"biology", "chemistry", "cybersecurity"}
    assert {example.domain for example in of(load("beavertails"), "beavertails")} == {"topic_one", "topic_two"}


def test_openers_are_no_answers_and_answers_are(hub: FakeHub) -> None:
    for name in ("advbench", "jailbreakbench"):
        assert all(example.answer is None for example in of(load(name), name))
    harmful = of(load("llm-lat-harmful"), "llm-lat-harmful")
    assert harmful[3].answer == "Gladly: 3."
    assert all(example.answer.startswith("Answer") for example in of(load("beavertails"), "beavertails"))


def test_only_unsafe_answers_of_beavertails_and_each_question_once(hub: FakeHub) -> None:
    rows = ROWS["PKU-Alignment/BeaverTails"]["round0/30k/train.jsonl.gz"]
    unsafe = {row["prompt"]: row["response"] for row in reversed(rows) if not row["is_safe"]}
    dataset = load("beavertails")
    assert {example.prompt: example.answer for example in of(dataset, "beavertails")} == unsafe
    (dropped,) = dataset.provenance.dropped
    assert (dropped.likeness, dropped.count) == ("exact", sum(not row["is_safe"] for row in rows) - len(unsafe))


def test_multiple_choice_becomes_questions_whose_answer_can_be_checked(hub: FakeHub) -> None:
    example = of(load("wmdp"), "wmdp")[2]
    assert example.prompt.split("\n")[2:6] == [f"{letter}. {thing(2 + shift)}" for shift, letter in enumerate("ABCD")]
    assert example.answer == f"C. {thing(4)}"
    assert example.accept == (f"C. {thing(4)}", thing(4))
    assert example.entity == example.prompt


@pytest.mark.parametrize(
    ("choices", "right", "accept"),
    [
        (["one mole", "one mole of salt", "none"], 0, ("A. one mole",)),
        (["one mole", "one mole of salt", "none"], 1, ("B. one mole of salt", "one mole of salt")),
    ],
)
def test_a_choice_that_another_holds_within_needs_its_letter(hub: FakeHub, choices: list[str], right: int, accept: tuple[str, ...]) -> None:
    row = {"question": "How much of it is there in the jar?", "choices": choices, "answer": right}
    hub.files["cais/wmdp"]["wmdp-bio/test-00000-of-00001.parquet"] = encoded(".parquet", [row])
    assert of(load("wmdp"), "wmdp")[0].accept == accept


@pytest.mark.parametrize(("choices", "right"), [(["a", "b"], 2), (["a", "b"], -1), (["a"], 0), ("a or b", 0)])
def test_a_question_without_a_right_choice_is_named(hub: FakeHub, choices: Any, right: int) -> None:
    rows = [{"question": "How much of it is there?", "choices": choices, "answer": right}]
    hub.files["cais/wmdp"]["wmdp-bio/test-00000-of-00001.parquet"] = encoded(".parquet", rows)
    line = refusal("wmdp")
    assert line.startswith("wmdp (cais/wmdp@7125571f22f0, wmdp-bio/test-00000-of-00001.parquet), row 1")


def test_material_stands_behind_the_instruction(hub: FakeHub) -> None:
    prompts = [example.prompt for example in of(load("alpaca+advbench"), "alpaca")]
    assert sum(prompt.endswith("\n\nA list of tools.") for prompt in prompts) == len(prompts) // 2


def test_the_benign_twins_of_jailbreakbench_are_borderline(hub: FakeHub) -> None:
    rows = of(load("jailbreakbench"), "jailbreakbench")
    assert {example.role for example in rows if "[jbb benign]" in example.prompt} == {Role.BORDERLINE}
    assert {example.role for example in rows if "[jbb harmful]" in example.prompt} == {Role.HAZARD}


def test_over_refusal_sets_bring_no_hazard_into_another_test(hub: FakeHub) -> None:
    dataset = load("strongreject+xstest+or-bench")
    assert {dataset.origins[example.prompt] for example in dataset.examples if example.role is Role.HAZARD} == {"strongreject"}


def test_what_a_set_fixes_does_not_bind_the_others(hub: FakeHub) -> None:
    division = load("strongreject+alpaca+identity-shift").divide(0)
    own = {example.domain for example in division.attacker if example.role is Role.BENIGN}
    assert own == {"identity-shift", "default"}
    assert not [example for example in (*division.defender, *division.evaluator) if example.domain == "identity-shift"]
    assert len([example for example in division.attacker_view().benign_train if example.domain == "identity-shift"]) >= 10


def test_rows_that_are_empty_or_long_are_left_out_and_counted(hub: FakeHub) -> None:
    rows = [dict(row) for row in ROWS["databricks/databricks-dolly-15k"]["databricks-dolly-15k.jsonl"]]
    rows[0]["instruction"], rows[1]["response"] = " ", "word " * 500
    hub.files["databricks/databricks-dolly-15k"]["databricks-dolly-15k.jsonl"] = encoded(".jsonl", rows)
    (_, used) = load("advbench+dolly").provenance.sets
    assert used.read == len(rows)
    assert used.left_out == {"empty": 1, "long": 1}
    assert used.kept == {Role.BENIGN: len(rows) - 2}


def test_a_large_set_is_drawn_from_by_content(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    small = declaration("dolly").model_copy(update={"most": 15})
    monkeypatch.setattr("tempering.data.named.declaration", lambda name: small if name == "dolly" else declaration(name))
    path = "databricks-dolly-15k.jsonl"
    first = {example.prompt for example in of(load("advbench+dolly"), "dolly")}
    assert len(first) == 15
    hub.files["databricks/databricks-dolly-15k"][path] = encoded(path, ROWS["databricks/databricks-dolly-15k"][path][::-1])
    assert {example.prompt for example in of(load(f"advbench+dolly@{'a' * 40}"), "dolly")} == first


def test_rows_of_one_prompt_are_not_drawn_together(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    path, repository = "databricks-dolly-15k.jsonl", "databricks/databricks-dolly-15k"
    rows = [dict(row) for row in ROWS[repository][path]]
    again = [{**row, "instruction": str(row["instruction"]).upper()} for row in rows]
    hub.files[repository][path] = encoded(path, [row for pair in zip(rows, again, strict=True) for row in pair])
    small = declaration("dolly").model_copy(update={"most": 12})
    monkeypatch.setattr("tempering.data.named.declaration", lambda name: small if name == "dolly" else declaration(name))
    dataset = load("advbench+dolly")
    prompts = [example.prompt for example in of(dataset, "dolly")]
    assert len({normal_form(prompt) for prompt in prompts}) == len(prompts) == 12
    assert not [prompt for prompt in prompts if prompt.isupper()]  # the first row of each
    (_, used) = dataset.provenance.sets
    assert used.left_out == {"repeated": len(rows), "not drawn": len(rows) - 12}


def test_another_revision_is_another_digest_though_the_rows_are_the_same(hub: FakeHub) -> None:
    first, other = load("strongreject"), load(f"strongreject@{'a' * 40}")
    assert first.examples == other.examples
    assert first.digest != other.digest
    assert load("strongreject").digest == first.digest


def test_what_is_not_pinned_says_so_with_the_commit_to_pin(hub: FakeHub) -> None:
    (warning,) = load("harmbench").provenance.warnings
    assert warning.startswith("harmbench is not pinned: walledai/HarmBench may change")
    assert warning.endswith(f"name harmbench@{COMMIT}")
    for reference in (f"harmbench@{COMMIT}", "strongreject"):
        assert load(reference).provenance.warnings == ()


def test_one_bad_declaration_cannot_pass() -> None:
    whole = declaration("advbench").model_dump()
    for change in ({"revision": ""}, {"repository": None}, {"columns": {"prompt": "p", "choices": "c"}}, {"files": []}, {"typo": 1}):
        with pytest.raises(ValueError, match="1 validation error"):
            NamedSet.model_validate(whole | change)


def test_a_copy_goes_before_the_hub_and_is_read_in_any_layout(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "copies"
    monkeypatch.setenv(COPIES, str(copies))
    write_copy(copies, "jailbreakbench", "JailbreakBench/JBB-Behaviors")
    rows = ROWS["walledai/StrongREJECT"]["data/train-00000-of-00001.parquet"]
    (copies / "strongreject.csv").write_bytes(encoded("strongreject.csv", rows))
    (copies / "dolly").mkdir()
    lines = encoded(".jsonl", ROWS["databricks/databricks-dolly-15k"]["databricks-dolly-15k.jsonl"]).decode().splitlines()
    (copies / "dolly" / "anything.json").write_text(f"[{','.join(lines)}]")
    dataset = load("jailbreakbench+strongreject")
    assert {used.name: used.revision for used in dataset.provenance.sets} == dict.fromkeys(
        ("jailbreakbench", "strongreject", "dolly"), "local"
    )
    assert len(of(dataset, "strongreject")) == 20
    assert hub.asked == []
    assert load(f"strongreject@{'b' * 40}").provenance.sets[0].revision == "b" * 40, "a revision that is named passes by the copy"


def test_a_copy_that_datasets_saved(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv(COPIES, str(tmp_path))
    rows = ROWS["JailbreakBench/JBB-Behaviors"]
    splits = {"harmful": rows["data/harmful-behaviors.csv"], "benign": rows["data/benign-behaviors.csv"]}
    datasets.DatasetDict({name: datasets.Dataset.from_list(table) for name, table in splits.items()}).save_to_disk(
        tmp_path / "jailbreakbench"
    )
    saved = load("jailbreakbench")
    assert [example.prompt for example in of(saved, "jailbreakbench")] == [row["Goal"] for table in splits.values() for row in table]
    del splits["benign"]
    splits["x"] = splits["harmful"]
    datasets.DatasetDict({name: datasets.Dataset.from_list(table) for name, table in splits.items()}).save_to_disk(tmp_path / "again")
    (tmp_path / "jailbreakbench").rename(tmp_path / "away")
    (tmp_path / "again").rename(tmp_path / "jailbreakbench")
    assert "has no split 'benign'; its splits: harmful, x" in refusal("jailbreakbench")


def test_a_copy_that_lacks_a_file_is_named(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COPIES, str(tmp_path))
    folder = write_copy(tmp_path, "jailbreakbench", "JailbreakBench/JBB-Behaviors")
    (folder / "data" / "benign-behaviors.csv").unlink()
    assert refusal("jailbreakbench").startswith(f"{folder} lacks data/benign-behaviors.csv of jailbreakbench; ")
    (tmp_path / "wmdp.parquet").write_bytes(b"")
    assert refusal("wmdp").startswith(f"{tmp_path / 'wmdp.parquet'} is one file, and wmdp has 3; ")
    monkeypatch.setenv(COPIES, str(tmp_path / "nowhere"))
    assert refusal("strongreject").startswith(f"{COPIES} names {tmp_path / 'nowhere'}, which is no folder; ")


@pytest.mark.parametrize("seed", range(4))
def test_no_two_parts_or_roles_hold_the_same_in_other_words(hub: FakeHub, seed: int) -> None:
    """Doubles of every kind are planted: within a set, between two, and between roles."""
    strong, alpaca = "data/train-00000-of-00001.parquet", "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"
    rows = ROWS["walledai/StrongREJECT"][strong]
    doubles = [{**row, "prompt": f"{row['prompt']}!!"} for row in rows[:6]] + [
        {**row, "prompt": f"{row['prompt']} please"} for row in rows[:6]
    ]
    hub.files["walledai/StrongREJECT"][strong] = encoded(strong, [*rows, *doubles])
    benign = ROWS["tatsu-lab/alpaca"][alpaca]
    planted = [{**benign[0], "instruction": f"please {row['prompt']}", "input": ""} for row in rows[6:12]]
    hub.files["tatsu-lab/alpaca"][alpaca] = encoded(alpaca, [*planted, *benign])
    dataset = load("alpaca+strongreject")
    assert {(entry.data, entry.role, entry.likeness): entry.count for entry in dataset.provenance.dropped} == {
        ("strongreject", Role.HAZARD, "exact"): 6,
        ("strongreject", Role.HAZARD, "near"): 6,
        ("alpaca", Role.BENIGN, "near"): 6,
    }
    division = dataset.divide(seed)
    placed = [
        (number, example) for number, part in enumerate((division.attacker, division.defender, division.evaluator)) for example in part
    ]
    for (part, one), (other_part, other) in combinations(placed, 2):
        if part != other_part or one.role is not other.role:
            assert jaccard(grams_of(normal_form(one.prompt)), grams_of(normal_form(other.prompt))) < NEAR
