"""Looks for links in built pages that lead nowhere, and for anything that a page would fetch from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ADDRESSES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}
_FETCHED = {"img", "script", "source", "iframe"}
_FETCHED_LINKS = {"stylesheet", "preconnect", "preload", "icon", "modulepreload", "dns-prefetch"}


@dataclass
class Page:
    """What a page names and what it links to.

    Attributes:
        anchors: its ids and names.
        links: addresses of links and of what it shows, as they are written.
        fetched: those among them that a browser fetches by itself.
    """

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.page.anchors |= {values[name] for name in ("id", "name") if name in values}
        if address := values.get(_ADDRESSES.get(tag, ""), ""):
            self.page.links.append(address)
            if tag in _FETCHED or (tag == "link" and _FETCHED_LINKS & set(values.get("rel", "").split())):
                self.page.fetched.append(address)


def read(path: Path) -> Page:
    """Read one page."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def read_site(site: Path) -> dict[Path, Page]:
    """Every page of a built site by its resolved path."""
    return {path.resolve(): read(path) for path in sorted(site.rglob("*.html"))}


def broken_links(pages: dict[Path, Page], site: Path) -> list[str]:
    """A line for every link within the site whose page, file or anchor is not there.

    Args:
        pages: what :func:`read_site` gives.
        site: the folder, which an address that begins with a slash is reckoned from.
    """
    found = []
    for path, page in pages.items():
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists():
                found.append(f"{path.relative_to(site.resolve())}: {address}: no such page")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                found.append(f"{path.relative_to(site.resolve())}: {address}: no such heading")
    return found


def fetched_from_elsewhere(pages: dict[Path, Page]) -> list[str]:
    """What the pages would have a browser fetch from other hosts."""
    return sorted({address for page in pages.values() for address in page.fetched if urlsplit(address).netloc})
