from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from support.tiny_models import tiny_model
from tempering import models
from tempering.errors import UnusableModel
from tempering.models import hub
from tempering.models.saving import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache that holds someone/tiny at one commit, tagged v1, and nothing else; the hub itself is offline."""
    folder = tmp_path / "cache" / "models--someone--tiny"
    save(*tiny_model("llama"), folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    for name in ("main", "v1"):
        (folder / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder / "snapshots" / COMMIT


def refusal(reference, **settings):
    with pytest.raises(UnusableModel) as caught:
        models.load(reference, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("reference", ["someone/tiny", "someone/tiny@v1", f"someone/tiny@{COMMIT}"])
def test_the_cache_serves_offline_and_the_commit_is_recorded(cache, reference):
    target = models.load(reference)
    assert target.revision == COMMIT
    assert target.reference == reference
    assert target.digest == models.load(str(cache)).digest


@pytest.mark.parametrize("reference", ["someone/other", "someone/tiny@v2", "someone/tiny@" + "f" * 40])
def test_what_the_cache_lacks_offline(cache, reference):
    line = refusal(reference)
    assert line.startswith(f"there is no path '{reference}', and the hub's cache does not hold someone/")
    assert "HF_HUB_OFFLINE is set" in line


RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "there is neither a path 'a/b@v1' nor a hub model 'a/b'"),
        (errors.RevisionNotFoundError("404", response=RESPONSE), "a/b has no revision 'v1' on the hub"),
        (errors.GatedRepoError("403", response=RESPONSE), "a/b@v1 is gated on the hub; accept its terms at https://huggingface.co/a/b"),
        (errors.LocalEntryNotFoundError("no network\nat all"), "the hub cannot be reached to fetch a/b; connect to the network"),
        (ConnectionError("refused"), "cannot fetch a/b from the hub: refused"),
        (OSError(28, "No space left on device"), "the disk is full: a/b cannot be kept in "),
        (OSError(122, "Disk quota exceeded"), "make room, or set HF_HOME to a folder elsewhere"),
        (OSError(13, "Permission denied"), "cannot fetch a/b from the hub: [Errno 13] Permission denied"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_failure_of_the_hub_is_one_line(monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert line in refusal("a/b@v1")


@pytest.mark.parametrize(
    ("inner", "line"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (errors.GatedRepoError("403", response=RESPONSE), "a/b@v1 is gated on the hub"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_is_wrapped_in_another_error_is_told(monkeypatch, inner, line):
    def fail(*_, **__):
        try:
            raise inner
        except Exception as error:
            raise errors.LocalEntryNotFoundError("cannot find it on the hub, nor in the cache") from error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert line in refusal("a/b@v1")


def test_only_what_is_needed_is_downloaded(monkeypatch, tmp_path):
    asked = []

    def download(name, **settings):
        asked.append((name, settings))
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.fetch("a/b", "v1", "a/b@v1")
    hub.fetch("a/b", "v1", "a/b@v1", trust_remote_code=True)
    (name, careful), (_, trusting) = asked
    assert (name, careful["revision"]) == ("a/b", "v1")

    def chosen(settings):
        files = [
            *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.model"),
            *(
                "chat_template.jinja",
                "merges.txt",
                "pytorch_model.bin",
                "modeling_own.py",
                "consolidated.safetensors",
                "original/model.safetensors",
            ),
        ]
        wanted, unwanted = settings["allow_patterns"], settings["ignore_patterns"]
        return set(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=wanted, ignore_patterns=unwanted))

    assert chosen(careful) == {
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.model"),
        *("chat_template.jinja", "merges.txt"),
    }
    assert chosen(trusting) == chosen(careful) | {"modeling_own.py"}


def test_a_repository_of_pickles_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: ["config.json", "pytorch_model.bin"])
    assert "a/b keeps its weights as pickles only (pytorch_model.bin)" in refusal("a/b")
