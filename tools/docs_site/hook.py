"""What MkDocs calls while it builds the site; see ``mkdocs.yml``.

Added to the pages in ``docs/`` are those of every registered method, the reference of the public names, the pages at the root of the
repository, and the notebooks. Pages that the navigation does not name yet are put at its end.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the ``mkdocs`` command does not have the folder that it is called in there

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.docs_site import links, methods, notebooks, promises, reference

_ROLE = re.compile(r":(?:mod|func|class|meth|data|attr|exc):<code>~?([^<]+)</code>")
_FURTHER = "More"
_BY_THREAT_MODEL = "<!-- attacks by threat model -->"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = methods.pages() | reference.pages()
    made |= {site: (links.ROOT / source).read_text(encoding="utf-8") for source, site in links.ROOT_PAGES.items()}
    if files.get_file_from_path("reliability.md") is None:
        made["reliability.md"] = promises.page()
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            text, pictures = notebooks.as_markdown(Path(file.abs_src_path or ""))
            made[file.src_uri.removesuffix(".ipynb") + ".md"] = text
            for name, content in pictures.items():
                files.append(File.generated(config, str(Path(file.src_uri).parent / name), content=content))
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    config.nav = _whole_navigation(config.nav or [], files)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links of the site, and put in what is made of the registry."""
    return links.for_the_site(markdown, page.file.src_uri).replace(_BY_THREAT_MODEL, methods.by_threat_model())


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name objects in Sphinx roles; show the name."""
    return _ROLE.sub(lambda match: f"<code>{match[1].removeprefix('tempering.')}</code>", html)


def _whole_navigation(nav: list[Any], files: Files) -> list[Any]:
    """The navigation with the pages below each list in their place, and with what nobody has put into it yet at the end."""
    pages = sorted(file.src_uri for file in files.documentation_pages())
    whole = [_with_lists(entry, pages) for entry in nav]
    further = sorted(set(pages) - set(_named(whole)))
    return [*whole, {_FURTHER: list(further)}] if further else whole


def _with_lists(entry: Any, pages: list[str]) -> Any:
    """Below a page that lists those beside it (``methods/attacks/index.md``) stand the others, under their files' names."""
    if not isinstance(entry, dict):
        return entry
    return {
        title: [_with_lists(part, pages) for part in below] if isinstance(below, list) else _expanded(below, pages)
        for title, below in entry.items()
    }


def _expanded(place: str, pages: list[str]) -> Any:
    folder, _, name = place.rpartition("/")
    if not folder or name != "index.md":
        return place
    beside = [page for page in pages if page.rpartition("/")[0] == folder and page != place]
    return [place, *({page.rpartition("/")[2].removesuffix(".md"): page} for page in beside)]


def _named(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [name for part in (entry.values() if isinstance(entry, dict) else entry) for name in _named(part)]
