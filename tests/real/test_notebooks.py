"""The committed notebooks run as they stand, and put out what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from support.transcripts import difference
from tools.docs_made import execute
from tools.docs_site import notebooks

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def shown(cell: Any) -> list[str]:
    """What a cell puts out as text, line by line; a picture is a line that says so."""
    lines: list[str] = []
    for output in cell.outputs:
        data = output.get("data", {})
        text = "a picture" if "image/png" in data else output.get("text") or data.get("text/plain", "")
        lines += str(text).splitlines()
    return lines


def test_there_is_one() -> None:
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_puts_out_what_it_shows(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    anew = execute(path, write=False)
    for cell, again in zip(committed.cells, anew.cells, strict=True):
        if cell.cell_type == "code":
            assert difference(shown(cell), shown(again)) is None, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_in_order(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 1024**2


def test_a_page_is_made_of_cells_and_of_what_they_put_out(tmp_path: Path) -> None:
    made = nbformat.v4.new_notebook()
    outputs = [
        nbformat.v4.new_output("stream", text="\x1b[1mhello\x1b[0m\n"),
        nbformat.v4.new_output("display_data", data={"image/png": "AAAA"}),
        nbformat.v4.new_output("execute_result", data={"text/html": "<table>\n\n<tr></tr></table>", "text/plain": "frame"}),
    ]
    made.cells = [nbformat.v4.new_markdown_cell("# Title\n\nwords"), nbformat.v4.new_code_cell("1 + 1", outputs=outputs)]
    nbformat.write(made, tmp_path / "some.ipynb")
    text, pictures = notebooks.as_markdown(tmp_path / "some.ipynb")
    assert text.startswith("# Title\n\n*This page is a notebook that was run: [some.ipynb](some.ipynb).*\n")
    assert "```python\n1 + 1\n```\n\n```text\nhello\n```" in text
    assert "](some-1.png)" in text
    assert '<div class="output"><table>\n<tr></tr></table></div>' in text
    assert pictures == {"some-1.png": b"\0\0\0"}
