"""Text of users and models in Markdown: a renderer must show it as it is, and make nothing else of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tempering.report.markdown import JOINER, bullets, cell, clean, code, inert, table

RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
AWKWARD = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "<b>",
                "</td>",
                "<!--",
                "|",
                "`",
                "``",
                "\\",
                "\\|",
                "*",
                "**",
                "_",
                "__",
                "~~",
                "[a](http://b.c)",
                "![x](y)",
                "[x]: y",
                "&lt;",
                "&#60;",
            ]
        ),
        st.sampled_from(
            ["https://a.example", "HTTP://", "www.a.example", "a@b.example", "# ", "## x", "- ", "+ ", "1. ", "1)", "> ", "---", "==="]
        ),
        st.sampled_from(
            ["\n", "\n\n", "\t", "    ", "\r", "\0", "\u2028", "\u202e", "\ud800", "$x$", "<javascript:x>", "<a@b.c>", ":", "x", "ä", "7"]
        ),
        st.text(max_size=6),
    ),
    max_size=8,
).map("".join)


def shown(markdown: str, *, inside: str = "paragraph_open") -> tuple[list[str], str]:
    """The kinds of every token, and the text that a reader sees."""
    tokens = RENDERER.parse(markdown)
    kinds = [token.type for token in tokens if token.type != "inline"]
    children = [child for token in tokens if token.type == "inline" for child in token.children or ()]
    assert {child.type for child in children} <= {"text"}, [child.type for child in children]
    return kinds, "".join(child.content for child in children)


@given(AWKWARD)
@example("1. x")
@example("_a_")
@example("\\")
@example("x\n===")
def test_text_stays_text_in_a_paragraph_a_list_and_a_heading(text: str) -> None:
    seen = clean(text)
    for before, kinds in (
        ("", ["paragraph_open", "paragraph_close"]),
        ("- ", ["bullet_list_open", "list_item_open", "paragraph_open", "paragraph_close", "list_item_close", "bullet_list_close"]),
        ("## x ", ["heading_open", "heading_close"]),
    ):
        if not seen:
            continue
        found, words = shown(f"{before}{inert(text)}\n")
        assert found == kinds
        assert words.replace(JOINER, "") == before.removeprefix("- ").removeprefix("## ") + seen.replace(JOINER, "")


@given(AWKWARD, AWKWARD)
def test_text_stays_in_its_cell(one: str, other: str) -> None:
    tokens = RENDERER.parse(table(["A", "B"], [[cell(one), cell(other)]]))
    cells = [token for before, token in itertools.pairwise(tokens) if before.type == "td_open"]
    assert [token.content.count("\n") for token in cells] == [0, 0]
    for token, text in zip(cells, (one, other), strict=True):
        assert {child.type for child in token.children or ()} <= {"text"}
        assert "".join(child.content for child in token.children or ()).replace(JOINER, "") == clean(text).replace(JOINER, "")


@given(AWKWARD)
def test_a_name_is_code_or_text_and_nothing_else(text: str) -> None:
    tokens = RENDERER.parse(table(["A"], [[code(text)]]))
    (inline,) = [token for before, token in itertools.pairwise(tokens) if before.type == "td_open"]
    kinds = {child.type for child in inline.children or ()}
    assert kinds <= {"text"} or kinds == {"code_inline"}
    assert "".join(child.content for child in inline.children or ()).replace(JOINER, "") == clean(text).replace(JOINER, "")


@given(AWKWARD)
def test_what_is_written_can_be_encoded_and_is_one_line(text: str) -> None:
    for written in (inert(text), cell(text), code(text)):
        written.encode("utf-8")
        assert len(written.splitlines()) <= 1


@pytest.mark.parametrize("address", ["https://a.example/x", "HTTPS://a.example", "www.a.example", "WWW.a.example", "me@a.example"])
def test_an_address_is_taken_apart(address: str) -> None:
    """Renderers of the wild link what looks like an address; with a character in its middle that is no part of one, they do not."""
    written = inert(f"see {address} there")
    assert address not in written
    assert written.replace(JOINER, "") == f"see {address} there"


def test_what_is_ordinary_stays_readable() -> None:
    assert inert("1.2 GFLOP by refusal_ablation, $3.40 (a – b)") == "1.2 GFLOP by refusal_ablation, $3.40 (a – b)"
    assert cell("> 200") == "> 200"
    assert code("refusal_ablation") == "`refusal_ablation`"
    assert code("a|b") == "a&#124;b"
    assert inert("<b>&lt;") == "&lt;b>&amp;lt;"  # no dialect knows a tag that has no opening bracket
    assert bullets(["a", "b"]) == "- a\n- b"


def test_what_is_not_seen_for_what_it_is_is_replaced() -> None:
    assert clean("safe\u202etxt.exe") == "safe\N{REPLACEMENT CHARACTER}txt.exe"
    assert clean("a\0b\ud800") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
