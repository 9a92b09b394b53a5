import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.tiny_models import TEMPLATE, tiny_model
from tempering import models
from tempering.errors import StoreProblem
from tempering.models import saving
from tempering.models.digest import target_digest
from tempering.models.saving import save


def test_what_is_saved_is_loaded(tmp_path):
    model, tokenizer = tiny_model("llama")
    directory = save(model, tokenizer, tmp_path / "new" / "folders" / "tiny")
    assert models.load(str(directory)).digest == target_digest(model, TEMPLATE)
    assert {path.name for path in directory.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert [path.name for path in directory.parent.iterdir()] == ["tiny"]


def _unlisted(monkeypatch):
    """Listings show nothing, as those of a network file system may for a while."""
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": [] if isinstance(path, Path) else listdir(path))
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(()))
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: iter(()))


def test_what_a_listing_does_not_show_yet_is_loaded_all_the_same(tmp_path, monkeypatch):
    model, tokenizer = tiny_model("llama")
    directory = save(model, tokenizer, tmp_path / "tiny")
    _unlisted(monkeypatch)
    assert models.load(str(directory)).digest == target_digest(model, TEMPLATE)


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_what_a_listing_does_not_show_yet_is_among_the_files(tmp_path, monkeypatch, shard):
    model, tokenizer = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size=shard)
    tokenizer.save_pretrained(tmp_path)
    listed = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len([path for path in listed if path.suffix == ".safetensors"]) > 1 or shard == "5GB"
    assert saving.files_in(tmp_path) == listed
    _unlisted(monkeypatch)
    assert saving.files_in(tmp_path) == listed


def test_a_view_into_larger_memory_is_saved_as_itself(tmp_path):
    model, tokenizer = tiny_model("llama")
    weight = model.lm_head.weight
    model.lm_head.weight = torch.nn.Parameter(torch.cat([weight, weight])[: len(weight)])
    assert models.load(str(save(model, tokenizer, tmp_path / "tiny"))).digest == target_digest(model, TEMPLATE)


def test_an_existing_directory_is_kept_unless_told(tmp_path):
    first, tokenizer = tiny_model("llama", seed=0)
    second, _ = tiny_model("llama", seed=1)
    directory = save(first, tokenizer, tmp_path / "tiny")
    with pytest.raises(StoreProblem, match="exists already"):
        save(second, tokenizer, directory)
    assert models.load(str(directory)).digest == target_digest(first, TEMPLATE)
    (directory / "stray.txt").write_text("from before")
    save(second, tokenizer, directory, replace=True)
    assert models.load(str(directory)).digest == target_digest(second, TEMPLATE)
    assert not (directory / "stray.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "tiny").mkdir()
    assert (save(*tiny_model("llama"), tmp_path / "tiny") / "config.json").is_file()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "tiny").write_text("hello")
    with pytest.raises(StoreProblem, match="exists already"):
        save(*tiny_model("llama"), tmp_path / "tiny")


@pytest.mark.parametrize("replace", [False, True])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch, replace):
    model, tokenizer = tiny_model("llama")
    if replace:
        save(model, tokenizer, tmp_path / "tiny")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(StoreProblem, match="No space left on device; free some space"):
        save(model, tokenizer, tmp_path / "tiny", replace=replace)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreProblem, match="cannot write the model to"):
        save(*tiny_model("llama"), tmp_path / "file" / "tiny")


def test_a_failure_in_the_last_moment_brings_the_old_directory_back(tmp_path, monkeypatch):
    first, tokenizer = tiny_model("llama")
    directory = save(first, tokenizer, tmp_path / "tiny")
    rename = os.replace

    def refuse(source, destination):
        if Path(destination) == directory and Path(source).name == "model":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, destination)

    monkeypatch.setattr(saving.os, "replace", refuse)
    with pytest.raises(StoreProblem, match="Input/output error"):
        save(tiny_model("llama", seed=1)[0], tokenizer, directory, replace=True)
    assert models.load(str(directory)).digest == target_digest(first, TEMPLATE)


def test_a_killed_process_leaves_no_directory(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from support.tiny_models import tiny_model; from tempering.models import saving;"
        "saving._flush = lambda folder: os.kill(os.getpid(), signal.SIGKILL);"
        f"saving.save(*tiny_model('llama'), Path({str(tmp_path / 'tiny')!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert not (tmp_path / "tiny").exists()
    assert (save(*tiny_model("llama"), tmp_path / "tiny") / "config.json").is_file()


def test_the_folder_can_be_read_by_others(tmp_path):
    directory = save(*tiny_model("llama"), tmp_path / "tiny")
    (tmp_path / "plain").mkdir()
    assert directory.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nothing_is_printed(tmp_path, capfd):
    save(*tiny_model("llama"), tmp_path / "tiny")
    assert capfd.readouterr() == ("", "")


def test_further_files_appear_with_the_model_or_not_at_all(tmp_path):
    def card(folder):
        assert (folder / "model.safetensors").is_file()
        (folder / "README.md").write_text("what it is")

    def fails(folder):
        card(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreProblem, match="cannot write the model"):
        save(*tiny_model("llama"), tmp_path / "tiny", beside=fails)
    assert list(tmp_path.iterdir()) == []
    directory = save(*tiny_model("llama"), tmp_path / "tiny", beside=card)
    assert (directory / "README.md").read_text() == "what it is"
    assert len({path.stat().st_mode for path in directory.iterdir()}) == 1  # the weights may be read by whoever may read the rest
