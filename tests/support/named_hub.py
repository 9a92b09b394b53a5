"""A hub of named sets for tests, and loading from it as a study does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from support.fake_hub import FakeHub, serving
from support.named_samples import ROWS, files_of
from tempering.data.fetching import COPIES
from tempering.data.records import Dataset
from tempering.engine.loading import load_records
from tempering.errors import UnusableData
from tempering.study import DataChoice, ModelChoice


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The only hub that there is, with a cache that is empty; no copies of the user's own."""
    for name in ("HF_TOKEN", COPIES):
        monkeypatch.delenv(name, raising=False)
    with serving(FakeHub({repository: files_of(repository) for repository in ROWS})) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield served


def load(reference: str) -> Dataset:
    """The dataset of a study that names this."""
    return load_records(DataChoice(reference=reference), ModelChoice(reference="some/model"))


def refusal(reference: str) -> str:
    """The one line that says why it cannot be loaded."""
    with pytest.raises(UnusableData) as caught:
        load(reference)
    assert "\n" not in str(caught.value)
    return str(caught.value)
