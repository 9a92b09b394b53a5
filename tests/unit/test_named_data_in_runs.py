"""A study with named data, from its plan to its page: where the prompts come from, under which licence, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path

from support.command_line import temper
from support.fake_hub import COMMIT, FakeHub
from support.named_hub import hub
from support.named_samples import ROWS, encoded
from support.toy_study import ATTACK, toy_models, toy_study
from tempering import api
from tempering.engine.events import Event
from tempering.study import DataChoice, MethodChoice

__all__ = ["hub"]

ALPACA = "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"


def test_a_run_says_where_its_prompts_come_from(hub: FakeHub, tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS["tatsu-lab/alpaca"][ALPACA]]
    hazard = str(ROWS["LLM-LAT/harmful-dataset"]["data/train-00000-of-00001.parquet"][0]["prompt"])
    rows[0] |= {"instruction": hazard.upper(), "input": ""}
    hub.files["tatsu-lab/alpaca"][ALPACA] = encoded(ALPACA, rows)
    told: list[Event] = []
    study = toy_study(tmp_path, data=DataChoice(reference="llm-lat-harmful@main+alpaca"), seeds=1, attacks=(MethodChoice(name=ATTACK),))
    document = api.plan_document(study)
    assert [used["name"] for used in document["data"]["sets"]] == ["llm-lat-harmful", "alpaca"]
    run = api.run_study(study, out=tmp_path / "run", workers=0, on_event=told.append)
    (warning,) = [event.message for event in told if event.kind == "warning"]
    assert warning.startswith("llm-lat-harmful is not pinned")
    data = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]
    assert data == document["data"]
    assert [(used["revision"], used["licence"]) for used in data["sets"]] == [
        (COMMIT, "none declared"),
        ("dce01c9b08f87459cf36a430d809084718273017", "CC BY-NC 4.0"),
    ]
    (dropped,) = data["dropped"]
    assert (dropped["data"], dropped["kept_in"], dropped["likeness"], dropped["count"]) == ("alpaca", "llm-lat-harmful", "exact", 1)
    page = run.report_path.read_text()
    assert "Where the prompts come from" in page
    assert "1 row of alpaca (benign) says the same as rows of llm-lat-harmful (hazard), which stand for them" in page
    assert "Licence: CC BY-NC 4.0. Use: non-commercial research." in page
    assert "The data tell no right answer to the benign test prompts." in page  # as no named benign set does
    assert hazard not in page
    assert hazard.upper() not in page


def test_a_run_on_a_file_of_ones_own_says_nothing_of_sets(tmp_path: Path) -> None:
    run = api.run_study(toy_study(tmp_path, seeds=1), out=tmp_path / "run", workers=0)
    assert "data" not in run.summary
    page = run.report_path.read_text()
    assert "Where the prompts come from" not in page
    assert "no right answer" not in page  # its benign rows have some


def test_another_revision_is_other_units(hub: FakeHub, tmp_path: Path) -> None:
    toy_models(tmp_path)
    digests = set()
    for reference in ("llm-lat-harmful", f"llm-lat-harmful@{'a' * 40}"):
        digests.add(api.plan_study(toy_study(tmp_path, data=DataChoice(reference=reference), seeds=1)).digest)
    assert len(digests) == 2


def test_the_list_of_named_data(tmp_path: Path) -> None:
    finished = temper("ls", "data", "--json")
    assert finished.exit_code == 0
    rows = {row["name"]: row for row in json.loads(finished.stdout)}
    assert rows["strongreject"]["gated"] == "accept its terms first"
    assert rows["jailbreakbench"]["rows"] == ["hazard", "borderline"]
    assert "not pinned" in rows["harmbench"]["hub"]
    shown = temper("ls", "data").stdout
    assert "CC BY-NC 4.0" in shown


def test_an_error_of_the_hub_ends_a_command_in_one_line(hub: FakeHub, tmp_path: Path) -> None:
    toy_models(tmp_path)
    hub.gated.add("walledai/StrongREJECT")
    finished = temper("audit", str(tmp_path / "guarded"), "--data", "strongreject", "--out", str(tmp_path / "run"))
    assert finished.exit_code == 2
    assert finished.stderr.splitlines()[-1].startswith(
        "error: strongreject is gated on the hub; accept its terms at https://huggingface.co/"
    )
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run").exists()
