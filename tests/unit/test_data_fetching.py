"""What goes wrong on the way from the hub, each in one line, with the real client; and what is left behind: nothing."""

from __future__ import annotations

import builtins
import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, errors, file_download

from support.fake_hub import FakeHub
from support.named_hub import hub, load, refusal
from support.named_samples import ROWS, encoded
from tempering.data import deduplication
from tempering.data.fetching import COPIES

__all__ = ["hub"]

REPOSITORY = "walledai/StrongREJECT"
FILE = "data/train-00000-of-00001.parquet"
REVISION = "df54272b395ce9e584d2f8140519935425d8549f"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again after seconds where a hub is out of order; here it does not wait."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def left_in_cache() -> list[str]:
    """Everything in the hub's cache that could be taken for data, whole or half."""
    cache = Path(constants.HF_HUB_CACHE)
    return [path.name for path in cache.rglob("*") if path.is_file() and not path.name.endswith((".lock", ".TAG", "main"))]


def test_a_renamed_column(hub: FakeHub) -> None:
    hub.files[REPOSITORY][FILE] = encoded(FILE, [{"forbidden_prompt": "How?", "category": "x", "source": "y"}])
    assert refusal("strongreject") == (
        "strongreject (walledai/StrongREJECT@df54272b395c, data/train-00000-of-00001.parquet) has no column 'prompt'; its columns: "
        "'forbidden_prompt', 'category', 'source'; the set has changed: name the revision that has it, as NAME@COMMIT"
    )


@pytest.mark.parametrize(
    ("path", "repository", "name"),
    [("xstest_prompts.csv", "Paul/XSTest", "xstest"), ("round0/30k/train.jsonl.gz", "PKU-Alignment/BeaverTails", "beavertails")],
)
def test_a_renamed_column_in_every_format(hub: FakeHub, path: str, repository: str, name: str) -> None:
    rows = [{("text" if column == "prompt" else column): value for column, value in row.items()} for row in ROWS[repository][path]]
    hub.files[repository][path] = encoded(path, rows)
    line = refusal(f"{name}+strongreject")
    assert f"{name} ({repository}@" in line
    assert "has no column 'prompt'; its columns: " in line
    assert "'text'" in line


def test_a_gated_set(hub: FakeHub) -> None:
    hub.gated.add(REPOSITORY)
    assert refusal("strongreject") == (
        "strongreject is gated on the hub; accept its terms at https://huggingface.co/datasets/walledai/StrongREJECT and log in "
        "(hf auth login), or put a copy into the folder that TEMPERING_DATA names"
    )
    assert left_in_cache() == []


def test_a_gated_companion_says_why_it_is_wanted(hub: FakeHub) -> None:
    hub.gated.add("databricks/databricks-dolly-15k")
    line = refusal("strongreject")
    assert line.startswith("dolly is gated on the hub; ")
    assert line.endswith("it is wanted because strongreject has no benign prompts to test with; or name others with +NAME or +FILE")


def test_a_repository_that_is_gone(hub: FakeHub) -> None:
    del hub.files[REPOSITORY]
    assert refusal("strongreject").startswith("the hub has no data set walledai/StrongREJECT that you may read; log in (hf auth login)")


def test_a_revision_that_is_gone(hub: FakeHub) -> None:
    hub.revisions[REPOSITORY] = {"main"}
    line = refusal("strongreject")
    assert line.startswith(f"walledai/StrongREJECT has no revision '{REVISION}' on the hub; name one that it has: strongreject@main")
    assert load("strongreject@main").provenance.warnings


def test_a_file_that_is_gone(hub: FakeHub) -> None:
    hub.files[REPOSITORY] = {"data/other.parquet": b""}
    assert refusal("strongreject").startswith(f"walledai/StrongREJECT has no file {FILE} at revision '{REVISION}'; name a revision")
    assert left_in_cache() == []


def test_offline_only_the_cache_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = load("strongreject").digest
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("strongreject").digest == digest
    assert refusal("advbench") == (
        "the hub's cache does not hold advbench (walledai/AdvBench); HF_HUB_OFFLINE is set: unset it once, or put a copy into the folder "
        "that TEMPERING_DATA names"
    )
    assert hub.asked == []


def test_what_is_pinned_and_cached_asks_nobody(hub: FakeHub) -> None:
    load("strongreject")
    hub.asked.clear()
    load("strongreject")
    assert not [line for line in hub.asked if "/datasets/" in line]


@pytest.mark.usefixtures("impatient")
def test_no_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    line = refusal("strongreject")
    assert line.startswith("the hub cannot be reached to fetch strongreject (walledai/StrongREJECT); connect to the network")
    assert left_in_cache() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_out_of_order(hub: FakeHub, status: int) -> None:
    hub.status = status
    assert refusal("strongreject").startswith(f"the hub answers {status} when asked for strongreject (walledai/StrongREJECT); try again")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def write_half(url: str, file: Any, **settings: Any) -> None:
        file.write(b"PAR1 half")
        file.flush()
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", write_half)
    line = refusal("strongreject")
    assert line.startswith(f"the disk is full: strongreject cannot be kept in {constants.HF_HUB_CACHE}; make room, or set HF_HOME")
    assert left_in_cache() == []
    monkeypatch.undo()


@pytest.mark.parametrize(
    "error", [errors.OfflineModeIsEnabled("off"), RuntimeError("two\nlines"), PermissionError(13, "Permission denied")]
)
def test_whatever_else_the_client_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any, **settings: Any) -> str:
        raise error

    monkeypatch.delenv(COPIES, raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    line = refusal("strongreject")
    assert "strongreject" in line
    assert COPIES in line


@pytest.mark.parametrize(
    ("path", "repository", "name", "content"),
    [
        (FILE, REPOSITORY, "strongreject", b"PAR1 not really"),
        ("xstest_prompts.csv", "Paul/XSTest", "xstest-unsafe", b'id,prompt,type,label\n1,"open'),
        ("xstest_prompts.csv", "Paul/XSTest", "xstest-unsafe", b"id,prompt,type,label\n1,two\n"),
        ("xstest_prompts.csv", "Paul/XSTest", "xstest-unsafe", b"prompt,type,label\n\xff\xfe,x,unsafe\n"),
        ("round0/30k/train.jsonl.gz", "PKU-Alignment/BeaverTails", "beavertails", b"\x1f\x8b half"),
        ("databricks-dolly-15k.jsonl", "databricks/databricks-dolly-15k", "dolly+strongreject", b"[1]\n"),
        ("databricks-dolly-15k.jsonl", "databricks/databricks-dolly-15k", "dolly+strongreject", b"{half\n"),
    ],
)
def test_a_damaged_file_is_named(hub: FakeHub, path: str, repository: str, name: str, content: bytes) -> None:
    hub.files[repository][path] = content
    line = refusal(name)
    assert path.rpartition("/")[2] in line


def test_a_set_of_empty_rows(hub: FakeHub) -> None:
    hub.files[REPOSITORY][FILE] = encoded(FILE, [{"prompt": " ", "category": "x", "source": "y"}])
    assert refusal("strongreject").startswith("strongreject (walledai/StrongREJECT@df54272b395c) holds no rows that can be used")


def test_the_missing_extra_says_its_name(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **settings: Any) -> Any:
        if name.partition(".")[0] == "datasketch":
            raise ImportError(name)
        return real(name, *arguments, **settings)

    monkeypatch.delitem(sys.modules, "datasketch", raising=False)
    deduplication._deduplicated.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal("strongreject").endswith('install it with: pip install "tempering[data]"')
