"""A committed notebook as a page: its text, its code, and what the code put out, nothing of it computed anew."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def as_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by file name."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    pictures: dict[str, bytes] = {}
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts += [f"```python\n{cell.source}\n```", *(_output(output, path.stem, pictures) for output in cell.outputs)]
    note = f"*This page is a notebook that was run: [{path.name}]({path.name}).*"
    title, _, rest = "\n\n".join(part for part in parts if part).partition("\n")
    return f"{title}\n\n{note}\n{rest}\n", pictures


def _output(output: Any, stem: str, pictures: dict[str, bytes]) -> str:
    if output.output_type == "stream":
        return _fenced(output.text)
    if output.output_type == "error":
        return _fenced("\n".join(output.traceback))
    data = output.data
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![What the cell above draws]({name})"
    if "text/markdown" in data:
        return str(data["text/markdown"])
    if "text/html" in data and "<table" in data["text/html"]:
        return f'<div class="output">{_one_block(data["text/html"])}</div>'
    return _fenced(data.get("text/plain", ""))


def _one_block(html: str) -> str:
    """HTML without the blank lines at which Markdown would begin anew, and without styles of its own."""
    return re.sub(r"\n\s*\n", "\n", re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)).strip()


def _fenced(text: str) -> str:
    return f"```text\n{_CONTROLS.sub('', text).rstrip()}\n```"
