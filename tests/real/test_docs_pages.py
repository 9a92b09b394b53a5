"""What the pages tell a newcomer to type is typed, in order and to the letter, and prints what they show."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.transcripts import blocks, difference, play

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if any(block.language in ("console", "pycon") for block in blocks(page.read_text("utf-8")))
)
INSTALLING = ("make setup", ". .venv/bin/activate")
"""What the tutorial's first block types. Tests have been installed already; see below for what stands in its place."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_can_be_followed_to_the_letter(page: Path, tmp_path: Path) -> None:
    assert play(page.read_text(encoding="utf-8"), tmp_path, skip=INSTALLING.__contains__)


def test_the_tutorial_begins_with_installing_as_the_repository_does() -> None:
    first = next(block for block in blocks((DOCS / "tutorial.md").read_text(encoding="utf-8")) if block.language == "console")
    assert first.text.splitlines() == [f"$ {command}" for command in INSTALLING]
    subprocess.run(["make", "--dry-run", "setup", "VENV=none"], cwd=ROOT, capture_output=True, check=True)
    assert "VENV ?= .venv" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("took 3.5 s", "took  12 s", True),
        ("$1.5e-9 – 2,000", "$7e-12 – 31", True),
        ("2 broken", "2 held", False),
        ("a\nb", "a\nb\nc", False),
        ("a\nb\n…", "a\nb\nc", True),
        ("a\n…\nc", "a\nb\nb\nc", True),
        ("a\nc", "a\nb\nc", False),
        ("a … z", "a 1 b z", True),
        ("…\na", "b\n\na", True),
        ("…\na", "b", False),
        ("", "a", False),
        ("[1/6] …", "[0/6] a", False),
        ("[0.5, 2] …", "[0.25, 1] a", True),
    ],
)
def test_what_is_shown_is_compared_with_what_is_printed(shown: str, printed: str, agree: bool) -> None:
    assert (difference(shown.splitlines(), printed.splitlines()) is None) == agree


@pytest.mark.parametrize(
    "page",
    [
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ echo one\n^C\n```\n",
        "```pycon\n>>> print('one')\ntwo\n```\n",
        "```pycon\n>>> 1 / 0\n```\n",
    ],
)
def test_a_page_that_is_wrong_is_found_out(page: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        play(page, tmp_path)


def test_files_commands_python_and_ctrl_c_are_played_in_one_folder(tmp_path: Path) -> None:
    page = (
        '```text title="a/b.txt"\nhello\n```\n```console\n$ cat a/b.txt \\\n  > c.txt\n$ cat c.txt\nhello\n```\n'
        "```pycon\n>>> text = open('c.txt').read()\n>>> print(text)\nhello\n```\n"
        '```text title="wait.py"\nimport time\ntry:\n    print(1)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    exit(130)\n```\n'
        "```console\n$ python wait.py\n1\n^C\n```\n"
    )
    assert len(play(page, tmp_path)) == 4
