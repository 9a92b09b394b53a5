"""The site of the documentation: built strictly, no link in it or into it broken, a page for every method that shows its docstring."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from markdown import Markdown
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import tempering
from tempering import registry
from tempering.defenses import Material
from tempering.economics import absence
from tempering.economics.tables import CURRENCIES, OUTCOMES
from tempering.settings import Settings
from tempering.study import Budget
from tempering.threat_model import THREAT_MODELS, Need
from tools.docs_site import checking, docstrings, links, methods, reference

ROOT = Path(__file__).parents[2]
METHODS = [(kind, name) for kind in methods.TITLES for name in registry.own_names(kind)]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all workers as ``make docs`` builds it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "documentation"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        if not (shared / "done").exists():
            command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(shared / "site")]
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "WARNING" not in done.stderr, done.stderr
            (shared / "done").touch()
    return shared / "site"


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, checking.Page]:
    return checking.read_site(site)


class _Article(HTMLParser):
    """The text of a page between its first heading and its first section, with what it is set as."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.text = ""
        self.tags: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self.inside = True
        self.tags += [tag] * (self.inside and "h2" not in self.tags)

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "article"

    def handle_data(self, data: str) -> None:
        if self.inside and "h2" not in self.tags:
            self.text += data
        elif self.inside:
            self.headings.append(data.strip())


def article(page: Path) -> _Article:
    read = _Article()
    read.feed(page.read_text(encoding="utf-8"))
    return read


def squeezed(text: str) -> str:
    return "".join(text.split())


def as_shown(docstring: str) -> str:
    """The letters of a docstring that a reader is to see: without the marks of code, roles and lists."""
    without_roles = docstrings.ROLE.sub(lambda role: role[2].rpartition(".")[2] if role[1] else role[2], docstring)
    return re.sub(r"^(?:- |\d+\. )", "", without_roles.replace("``", ""), flags=re.MULTILINE)


def test_no_link_of_the_site_is_broken_and_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, checking.Page]) -> None:
    assert len(pages) > len(METHODS)
    assert checking.broken_links(pages, site) == []
    assert checking.fetched_from_elsewhere(pages) == []
    styled = [path for suffix in ("css", "svg") for path in site.rglob(f"*.{suffix}")]
    assert [path.name for path in styled if re.search(r"url\(['\"]?https?:", path.read_text(encoding="utf-8"))] == []


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, checking.Page]) -> None:
    home = pages[(site / "index.html").resolve()]
    reached = {(site / link.partition("#")[0]).resolve() for link in home.links if "://" not in link}
    seen: set[Path] = set()
    while reached - seen:
        path = (reached - seen).pop()
        seen.add(path)
        if path in pages:
            reached |= {(path.parent / link.partition("#")[0]).resolve() for link in pages[path].links if "://" not in link}
    assert {path for path in pages if path.name != "404.html"} - seen == set()


def tracked_pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("page", tracked_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_of_the_repository_lead_somewhere(page: Path, site: Path, pages: dict[Path, checking.Page]) -> None:
    """As they are read where the repository is browsed, without a site; the anchors are those that the site gives the same pages."""
    broken = []
    for target, anchor in links.of_a_page(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve()
        inside = file.relative_to(ROOT)
        shown = site / links.ROOT_PAGES.get(str(inside), str(inside).removeprefix("docs/"))
        built = pages.get(shown.with_suffix(".html").resolve())
        if not file.exists() and inside != Path("docs/reliability.md"):  # make torture writes it; the site has its promises till then
            broken.append(f"{target}: no such file")
        elif anchor and (built is None or anchor not in built.anchors):
            broken.append(f"{target}#{anchor}: no such heading")
    assert broken == []


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("[there](other.md) [and there](other.md#below)", True),
        ("[nowhere](absent.md)", False),
        ("[no heading](other.md#absent)", False),
        ("[absolute](/other.md)", False),
        ("![no picture](absent.png)", False),
    ],
)
def test_a_broken_link_breaks_the_build(tmp_path: Path, text: str, sound: bool) -> None:
    """Under the very settings of mkdocs.yml, so that a laxer one fails here."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Here\n\n{text}\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## Below\n")
    places = {"docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site")}
    config = load_config(str(ROOT / "mkdocs.yml"), **places, hooks=[], plugins=[])
    config.nav = None
    assert config.strict
    if sound:
        build(config)
    else:
        with pytest.raises(Abort, match="Aborted with 1 warnings in strict mode"):
            build(config)


def test_the_check_of_built_pages_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#end">1</a><a href="b.html#none">2</a><a href="#top">3</a><a href="c.html">4</a>'
        '<img src="none.png"><script src="https://example.org/x.js"></script><a href="https://example.org">5</a>'
    )
    (tmp_path / "b.html").write_text('<p id="end"></p>')
    pages = checking.read_site(tmp_path)
    assert checking.broken_links(pages, tmp_path) == [
        "a.html: b.html#none: no such heading",
        "a.html: c.html: no such page",
        "a.html: none.png: no such page",
    ]
    assert checking.fetched_from_elsewhere(pages) == ["https://example.org/x.js"]


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=["-".join(method) for method in METHODS])
def test_every_method_has_a_page_that_shows_its_docstring(site: Path, kind: str, name: str) -> None:
    """All of it, letter by letter: no subscript has become emphasis, no comparison a tag; lists are lists and indented equations blocks."""
    method = registry.get(kind, name)
    docstring = inspect.cleandoc(method.__doc__)
    shown = article(site / "methods" / kind / f"{name}.html")
    assert squeezed(as_shown(docstring)) in squeezed(shown.text)
    assert shown.tags.count("h1") == 1
    assert shown.tags.count("li") == len(re.findall(r"^(?:- |\d+\. )", docstring, flags=re.MULTILINE))
    assert shown.tags.count("pre") == sum(block.startswith("    ") for block in re.split(r"\n{2,}", docstring))
    assert {"What it is", "Settings", "Use it"} <= set(shown.headings)
    for setting, _, _, meaning in methods.setting_rows(method.Config):
        assert meaning, f"the docstring of Config says nothing of {setting}"


def test_a_new_method_has_a_page_without_further_ado(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gentle(registry.get("evaluators", "harm")):  # type: ignore[misc]
        """Measure little.

        With `x_<t` and *all* of it, see :mod:`~tempering.evaluators.refusal`.
        """

        class Config(Settings):
            """Settings.

            Attributes:
                strength: how much,
                    in all.
            """

            strength: float = 1.0

    monkeypatch.setattr(registry, "_files", lambda kind: frozenset({"gentle", "refusal"} if kind == "evaluators" else ()))
    monkeypatch.setattr(registry, "get", lambda kind, name: Gentle)
    made = methods.pages()
    assert set(made) == {f"methods/{place}.md" for place in ("evaluators/gentle", "evaluators/refusal")} | {
        f"methods/{kind}/index.md" for kind in methods.TITLES
    }
    page = made["methods/evaluators/gentle.md"]
    assert page.startswith("# gentle\n")
    assert "[`refusal`](refusal.md)" in page
    assert "| <code>strength</code> | <code>1.0</code> |  | how much, in all. |" in page
    assert "](gentle.md)" in made["methods/evaluators/index.md"]


@pytest.fixture(scope="module")
def markdown() -> Markdown:
    config = load_config(str(ROOT / "mkdocs.yml"), hooks=[], plugins=[])
    return Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)


_LETTERS = st.text("abL_*<>&|[]()^~$#=+\\{}‖θ .,:;!/'\"0", min_size=1, max_size=60)


@given(words=st.lists(_LETTERS, min_size=1, max_size=4))
def test_what_a_docstring_says_is_what_is_read(markdown: Markdown, words: list[str]) -> None:
    paragraph = "\n".join(f"x {' '.join(line.split())} y" for line in words)
    markdown.reset()
    read = _Article()
    read.feed(f"<article>{markdown.convert(docstrings.as_markdown(paragraph))}</article>")
    assert squeezed(read.text) == squeezed(paragraph)
    assert set(read.tags) <= {"article", "p"}


@given(text=_LETTERS)
def test_a_cell_shows_what_it_is_given(markdown: Markdown, text: str) -> None:
    markdown.reset()
    read = _Article()
    table = f"| a | b |\n| - | - |\n| {docstrings.code(text)} | x |"
    read.feed(f"<article>{markdown.convert(table)}</article>")
    assert squeezed(read.text) == squeezed(f"ab{text}x")
    assert read.tags.count("td") == 2


def test_every_public_name_has_its_reference(pages: dict[Path, checking.Page], site: Path) -> None:
    anchors = pages[(site / "api" / "index.html").resolve()].anchors
    assert {f"tempering.{name}" for name in tempering.__all__ if not name.startswith("_")} - anchors == set()
    assert {f"tempering.api.{name}" for name in reference.COMMANDS} - anchors == set()
    contracts = pages[(site / "api" / "contracts.html").resolve()].anchors
    assert {f"{module}.{name}" for module, names in reference.CONTRACTS.values() for name in names} - contracts == set()


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("index.md", "[a](../CONTRIBUTING.md#style)", "[a](contributing.md#style)"),
        ("how-to/attack.md", "[a](../../SECURITY.md) [b](../data.md)", "[a](../security.md) [b](../data.md)"),
        ("security.md", "[a](docs/releasing.md) [b](RESPONSIBLE_USE.md)", "[a](releasing.md) [b](responsible-use.md)"),
        ("how-to/attack.md", "[a](../../src/tempering/attacks/gcg.py)", "[a](../methods/attacks/gcg.md)"),
        ("tutorial.md", "[a](../src/tempering/attacks)", "[a](methods/attacks/index.md)"),
        ("index.md", "`[a](../CONTRIBUTING.md)` [b](https://example.org)", "`[a](../CONTRIBUTING.md)` [b](https://example.org)"),
    ],
)
def test_links_of_files_become_links_of_the_site(page: str, text: str, expected: str) -> None:
    assert links.for_the_site(text, page) == expected


def rows_of(markdown: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins so, the head first, without the marks of code."""
    lines = markdown[markdown.index(f"| {first}") :].split("\n\n")[0].splitlines()
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_the_page_of_threat_models_says_what_each_allows() -> None:
    head, *rows = rows_of((ROOT / "docs" / "threat-models.md").read_text(encoding="utf-8"), "it allows")
    assert head[1:] == list(THREAT_MODELS)
    said = {model: {Need(row[0]) for row in rows if row[place] == "yes"} for place, model in enumerate(head[1:], start=1)}
    assert said == THREAT_MODELS
    assert {row[0] for row in rows} == set(Need)
    assert {cell for row in rows for cell in row[1:]} == {"yes", "–"}


def test_the_site_says_which_attacks_run_under_each_threat_model(site: Path) -> None:
    text = (site / "threat-models.html").read_text(encoding="utf-8")
    for name in registry.own_names("attacks"):
        if name != "chain":
            row = next(line for line in text.split("<tr>") if f"methods/attacks/{name}.html" in line)
            allowed = [cell == "yes" for cell in re.findall(r"<td>([^<]*)</td>", row)]
            assert allowed == [registry.get("attacks", name).needs <= allows for allows in THREAT_MODELS.values()], name


def test_the_glossary_has_every_name_that_a_table_or_a_study_uses() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = {term for line in re.findall(r"^(\S.*)\n:   ", text, flags=re.MULTILINE) for term in re.findall(r"`([^`]+)`", line)}
    measures = {"harm", "refusal", "utility", "over_refusal", "borderline", "coherence", "divergence"}
    verdicts = {absence.SUPPRESSED, absence.NO_SIGN, absence.UNDECIDED, absence.UNTRIED}
    assert {*Need, *Material, *OUTCOMES, *CURRENCIES, *Budget.model_fields, *measures, *verdicts} - terms == set()


def test_the_glossary_has_every_word_of_reading_a_report() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    _, *rows = rows_of((ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8"), "word")
    assert [row[0] for row in rows if f"\n{row[0]}\n:   " not in text] == []
