"""``temper push``: only what was hardened, privately unless told, and every refusal of a hub in one line."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

import tempering
from support.command_line import error_line, temper
from support.toy_study import rows, toy_models, write_rows
from tempering import pushing
from tempering.canonical import canonical_hash
from tempering.engine.hardening import plan_hardening, train
from tempering.errors import HubProblem, NotForPublication
from tempering.models.tampered import mark
from tempering.study import DataChoice, MethodChoice, ModelChoice

REPOSITORY = "org/hardened"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real, short hardening leaves."""
    folder = tmp_path_factory.mktemp("push")
    toy_models(folder)
    write_rows(folder / "data.jsonl", rows())
    model = ModelChoice(reference=str(folder / "guarded"), unguarded=str(folder / "base"), device="cpu")
    choice = MethodChoice.model_validate({"name": "refusal_sft", "config": {"refusals": ["no, i can not say that."], "steps": 2}})
    train(plan_hardening(model, DataChoice(reference=str(folder / "data.jsonl")), choice, seed=1).job, folder / "model")
    return folder / "model"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def reply(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("POST", "https://hub.example/api"))


@dataclass
class Hub:
    """A hub in memory: one repository, or none."""

    exists: bool = False
    private: bool = True
    holds: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    fail: dict[str, Exception] = field(default_factory=dict)
    ignores_private: bool = False

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def model_info(self, repository: str) -> huggingface_hub.ModelInfo:
        self._called("model_info")
        if not self.exists:
            raise RepositoryNotFoundError("no such repository", response=reply(404))
        siblings = [{"rfilename": name} for name in self.holds]
        return huggingface_hub.ModelInfo(id=repository, private=self.private, siblings=siblings, tags=[], downloads=0, likes=0)

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        self._called("create_repo")
        assert not exist_ok
        self.exists, self.private, self.holds = True, private and not self.ignores_private, {".gitattributes": b""}

    def create_commit(self, repository: str, operations: list[Any], *, commit_message: str) -> Any:
        self._called("create_commit")
        for operation in operations:
            if isinstance(operation, huggingface_hub.CommitOperationDelete):
                del self.holds[operation.path_in_repo]
            else:
                with operation.as_file() as file:
                    self.holds[operation.path_in_repo] = file.read()
        return type("CommitInfo", (), {"commit_url": f"https://hub.example/{repository}/commit/1"})()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(pushing, "hub", lambda: made)
    return made


def test_the_whole_model_goes_into_a_private_repository(folder: Path, hub: Hub) -> None:
    (folder / "notes.txt").write_text("mine")
    pushed = tempering.push(folder, REPOSITORY)
    assert hub.private
    assert hub.calls == ["model_info", "create_repo", "model_info", "create_commit"]
    local = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.txt"}
    assert {name: content for name, content in hub.holds.items() if name != ".gitattributes"} == local
    assert {"README.md", "tempering.json", "model.safetensors", "config.json"} <= set(pushed.files)
    assert pushed.files == {name: len(content) for name, content in local.items()}
    assert (pushed.private, pushed.left_out, pushed.url) == (True, ("notes.txt",), "https://hub.example/org/hardened/commit/1")
    assert pushed.notes == ("Left out, since the card does not name it: notes.txt.",)


def test_public_is_said_and_nothing_else_makes_it_so(folder: Path, hub: Hub) -> None:
    assert tempering.push(folder, REPOSITORY, public=True).private is False
    assert hub.private is False
    with pytest.raises(HubProblem, match="org/hardened can be seen by everybody; say --public"):
        tempering.push(folder, REPOSITORY)
    hub.private = True
    pushed = tempering.push(folder, REPOSITORY, public=True)
    assert pushed.private is True
    assert "stays private" in pushed.notes[-1]


def test_nothing_is_sent_where_a_hub_makes_public_what_was_to_be_private(folder: Path, hub: Hub) -> None:
    hub.ignores_private = True
    with pytest.raises(HubProblem, match="can be seen by everybody"):
        tempering.push(folder, REPOSITORY)
    assert "create_commit" not in hub.calls


def test_an_earlier_push_is_replaced_and_strangers_are_left_alone(folder: Path, hub: Hub) -> None:
    hub.exists, hub.holds = True, {"model-00001-of-00002.safetensors": b"old", "tempering.json": b"{}", ".gitattributes": b""}
    assert tempering.push(folder, REPOSITORY).removed == ("model-00001-of-00002.safetensors",)
    assert "model-00001-of-00002.safetensors" not in hub.holds
    hub.holds = {"model.safetensors": b"somebody's"}
    with pytest.raises(HubProblem, match="holds something that temper push did not put there"):
        tempering.push(folder, REPOSITORY)
    assert hub.holds == {"model.safetensors": b"somebody's"}


def test_a_dry_run_asks_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(pushing, "hub", refuse)
    result = temper("push", folder, REPOSITORY, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Would be pushed to org/hardened, private; nothing was sent."
    assert any(line.startswith("model.safetensors  ") for line in result.stdout.splitlines())
    document = json.loads(temper("push", folder, REPOSITORY, "--dry-run", "--public", "--json").stdout)
    assert (document["url"], document["private"]) == (None, None)


def sealed(record: dict[str, Any]) -> str:
    unsealed = {name: value for name, value in record.items() if name != "seal"}
    return json.dumps({**unsealed, "seal": canonical_hash(unsealed)})


def refused(folder: Path, hub: Hub) -> str:
    with pytest.raises(NotForPublication) as caught:
        tempering.push(folder, REPOSITORY, public=True)
    assert hub.calls == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_an_attack_made_is_refused_by_each_of_its_marks(folder: Path, hub: Hub, tmp_path: Path) -> None:
    record = (folder / "tempering.json").read_text()
    marked = Path(shutil.copytree(folder, tmp_path / "marked"))
    mark(marked, what="the last checkpoint", how="By a test.")
    for name in ("TAMPERED", "README.md", "config.json"):
        one = Path(shutil.copytree(folder, tmp_path / f"only-{name}"))
        shutil.copy(marked / name, one / name)
        assert (one / "tempering.json").read_text() == record
        assert "is what an attack made of a model" in refused(one, hub)
    inside = Path(shutil.copytree(folder, marked / "inside"))
    assert "is what an attack made of a model" in refused(inside, hub)


def test_what_a_run_kept_is_refused_even_without_a_mark(folder: Path, hub: Hub, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.json").write_text("{}")
    kept = Path(shutil.copytree(folder, run / "kept" / "abc" / "model"))
    assert "lies in kept, among what attacks of a run made" in refused(kept, hub)
    link = tmp_path / "link"
    link.symlink_to(kept)
    assert "lies in kept" in refused(link, hub)


def test_what_has_no_card_or_another_one_is_refused(folder: Path, hub: Hub, made: Path) -> None:
    record = json.loads((folder / "tempering.json").read_text())
    path = folder / "tempering.json"
    path.write_text(json.dumps({**record, "seed": 99}))
    assert "has been changed since it was written" in refused(folder, hub)
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "seal"}))
    assert "is not sealed" in refused(folder, hub)
    path.write_text(sealed({**record, "files": {}}))
    assert "names no weights" in refused(folder, hub)
    path.write_text(sealed({**record, "digest": "0" * 64}))
    assert "its card says 0000000000000000" in refused(folder, hub)
    path.write_text(sealed({**record, "digest": record["base"]["digest"]}))
    assert "holds the weights of its base" in refused(folder, hub)
    path.write_text(sealed({name: value for name, value in record.items() if name != "spend"}))
    assert "lacks what a card is made of" in refused(folder, hub)
    path.write_text("[" * 100_000)
    assert "is no JSON" in refused(folder, hub)
    path.unlink()
    assert "has no card of a hardening (tempering.json)" in refused(folder, hub)
    assert "has no card of a hardening" in refused(made.parent / "guarded", hub)
    assert "there is no folder" in refused(folder / "none", hub)


def test_weights_that_the_card_was_not_written_for_are_refused(folder: Path, hub: Hub, made: Path) -> None:
    shutil.copy(made.parent / "guarded" / "model.safetensors", folder / "model.safetensors")
    assert "model.safetensors is not the file that the card was written for" in refused(folder, hub)
    (folder / "model.safetensors").unlink()
    assert "lacks model.safetensors, which its card names" in refused(folder, hub)


def test_a_name_that_leads_out_of_the_folder_is_refused(folder: Path, hub: Hub) -> None:
    record = json.loads((folder / "tempering.json").read_text())
    (folder.parent / "secret").write_text("x")
    (folder / "tempering.json").write_text(sealed({**record, "files": {**record["files"], "../secret": "0"}}))
    assert "lacks ../secret" in refused(folder, hub)


def test_another_readme_gives_way_to_the_card(folder: Path, hub: Hub) -> None:
    card = (folder / "README.md").read_bytes()
    (folder / "README.md").write_text("# This model cannot be broken\n")
    pushed = tempering.push(folder, REPOSITORY)
    assert hub.holds["README.md"] == card
    assert pushed.notes[0].startswith("README.md is not the card that follows from tempering.json")


FAILURES = [
    (reply(401), "the hub does not know who pushes to org/hardened; log in with a token that may write: hf auth login"),
    (reply(403), "your token may not write to org/hardened; use one that may"),
    (reply(404), "the hub has no org/hardened that you may write to"),
    (reply(409), "org/hardened was changed at the same time"),
    (reply(429), "the hub asks to be asked less often"),
    (reply(503), "the hub failed (503); give the command again later"),
    (reply(413), "the hub refuses to take org/hardened (413): it said no"),
]


@pytest.mark.parametrize(("response", "line"), FAILURES, ids=lambda value: getattr(value, "status_code", None))
@pytest.mark.parametrize("at", ["create_repo", "create_commit"])
def test_a_refusal_of_the_hub_is_one_line(folder: Path, hub: Hub, response: httpx.Response, line: str, at: str) -> None:
    hub.fail[at] = HfHubHTTPError("it said no\nat length", response=response)
    result = temper("push", folder, REPOSITORY)
    assert line in error_line(result)
    assert result.exit_code == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "the hub cannot be reached: [Errno 111] Connection refused"),
        (httpx.ReadTimeout("timed out"), "the hub cannot be reached: timed out"),
        (OSError("Network is unreachable"), "the hub cannot be reached: Network is unreachable"),
        (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set; unset it"),
    ],
)
def test_a_missing_network_is_one_line(folder: Path, hub: Hub, error: Exception, line: str) -> None:
    hub.fail["model_info"] = error
    assert line in error_line(temper("push", folder, REPOSITORY))


@pytest.mark.parametrize("name", ["model", "a/b/c", "org/na me", "--", "org/", ".."])
def test_a_name_that_is_none_is_told_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(HubProblem, match="write org/name"):
        tempering.push(tmp_path, name)


class _Refusing(BaseHTTPRequestHandler):
    """A server that knows nobody."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Refusing) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_the_real_client_against_a_server_that_knows_nobody(folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pushing, "hub", lambda: huggingface_hub.HfApi(endpoint=server, token=False))
    with pytest.raises(HubProblem, match="the hub does not know who pushes to org/hardened"):
        tempering.push(folder, REPOSITORY)
