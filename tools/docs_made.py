"""Makes anew what of ``docs/`` is made by running something: the notebooks' outputs and the tutorial's pictures. ``make docs-made``.

The pictures show the tutorial's own audit: the terminal as an SVG, and the head of the report, which takes Debian's ``chromium``.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PARTS = ("notebooks", "terminal", "report")
COLUMNS = 124
_FONT_FACES = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)
_CLIP = re.compile(r"terminal-\d+")


def main() -> int:
    """Make what was asked for, all of it unless told."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="everything unless told")
    asked = parser.parse_args().parts or list(PARTS)
    if "notebooks" in asked:
        for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
            execute(notebook)
    if {"terminal", "report"} & set(asked):
        with tempfile.TemporaryDirectory() as folder:
            command = audit_of((DOCS / "tutorial.md").read_text(encoding="utf-8"))
            printed = ran(command, Path(folder))
            (DOCS / "images").mkdir(exist_ok=True)
            if "terminal" in asked:
                (DOCS / "images" / "audit.svg").write_text(terminal(command, printed), encoding="utf-8")
            if "report" in asked:
                picture(next(Path(folder).glob("runs/*/report.html")), DOCS / "images" / "report.png")
    return 0


def execute(path: Path, *, write: bool = True) -> Any:
    """Run a notebook's cells in an empty folder, and keep what they put out; nothing that tells when or where.

    Args:
        path: the notebook.
        write: put the outputs into it.

    Returns:
        The notebook with its new outputs.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "data" in output and "text/html" in output.data and "image/png" in output.data:
                    del output.data["text/html"]
    if write:
        nbformat.write(notebook, path)
    return notebook


def audit_of(markdown: str) -> str:
    """The first audit that a page types."""
    found = re.search(r"^\$ (temper audit .*)$", markdown, flags=re.MULTILINE)
    if found is None:
        raise SystemExit("error: the tutorial types no 'temper audit'")
    return found[1]


def ran(command: str, folder: Path) -> str:
    """Run it as in a terminal so wide, and give what stands there in the end: how many runs were done, and the result."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    words = [sys.executable, "-m", "tempering", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    progress = re.split(r"\x1b\[2K|\r", done.stderr.rstrip())[-1]
    return f"{progress}\n{done.stdout}"


def terminal(command: str, printed: str) -> str:
    """An SVG of a terminal in which the command was typed; its letters are whatever fixed font there is, and none is fetched."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(Text(f"$ {command}"))
    console.print(Text.from_ansi(printed))
    svg = console.export_svg(title="temper audit", code_format=_FONT_FACES.sub("", CONSOLE_SVG_FORMAT))
    return _CLIP.sub("terminal", svg)


def picture(report: Path, to: Path) -> None:
    """The head of a report, as a browser shows it."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("error: there is no chromium for the picture of the report; install it with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(report.as_uri())
        page.screenshot(path=to)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
