"""Links of pages, between the repository, where they are files beside each other, and the site, where they are all under one root."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "RESPONSIBLE_USE.md": "responsible-use.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages at the root of the repository that the site has too, and where."""

_METHOD = re.compile(r"src/tempering/(attacks|defenses|evaluators|judges)(?:/(?!_)(\w+)\.py)?")

LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
"""A link or picture in Markdown that leads to a file."""

_CODE = re.compile(r"^```.*?^```[ ]*$|``.+?``|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def for_the_site(markdown: str, page: str) -> str:
    """A page's Markdown with links that hold in the site. What links to the file of a method there links to its page here.

    Args:
        markdown: of a page in ``docs/`` or at the root, with links as they hold between files.
        page: where the site has it, with its file's name: ``how-to/attack.md``.
    """
    sources = {site: source for source, site in ROOT_PAGES.items()}
    folder = PurePosixPath("" if page in sources else "docs", *PurePosixPath(page).parts[:-1])

    def rewritten(match: re.Match[str]) -> str:
        target = os.path.normpath(folder / match[2])
        method = _METHOD.fullmatch(target)
        if method:
            inside = f"methods/{method[1]}/{method[2] or 'index'}.md"
        elif target in ROOT_PAGES:
            inside = ROOT_PAGES[target]
        elif target.startswith("docs/"):
            inside = target.removeprefix("docs/")
        else:
            return match[0]
        return match[1] + os.path.relpath(inside, PurePosixPath(page).parent) + match[3]

    parts = re.split(f"({_CODE.pattern})", markdown, flags=_CODE.flags)
    return "".join(part if place % 2 else LINK.sub(rewritten, part) for place, part in enumerate(parts))


def of_a_page(markdown: str) -> list[tuple[str, str]]:
    """Files and anchors that a page links to, code aside; what leads out of the repository is not among them."""
    return [(match[2], match[3][1:-1]) for match in LINK.finditer(_CODE.sub("", markdown))]
