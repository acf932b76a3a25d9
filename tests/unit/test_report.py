"""What people see of a run: names come from outside and must stay names."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.report import Report, _cell, _plain, report_markdown

MARKDOWN = MarkdownIt("commonmark").enable("strikethrough").enable("table")
NAMES = [
    "-",
    "+",
    "~",
    "- x",
    "1. x",
    "9)",
    "12.",
    "#5",
    "> q",
    "= x",
    "===",
    "[x](javascript:alert(1))",
    "![x](http://h/p.png)",
]
NAMES += [
    "<img src=x onerror=alert(1)>",
    "`x`",
    "*x*",
    "**x**",
    "_x_",
    "__x__",
    "a_b",
    "~~x~~",
    "a\\b",
    "jon.angstrom",
    "O'Neil & Co.",
]
NAMES += ["---", "***", "<https://h>", "a  b", "&lt;b&gt;"]


def shown(markdown: str) -> str:
    """The text of a paragraph as it is seen; fails where it is anything but a paragraph of text."""
    page = MARKDOWN.render(markdown).strip()
    assert page.startswith("<p>")
    assert page.endswith("</p>")
    inside = page[3:-4]
    assert "<" not in inside, page
    return html.unescape(inside)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_table_artifact_stays_text(name: str) -> None:
    assert shown(_plain(name)) == " ".join(name.split())


@given(st.text(st.sampled_from("-+#>=*_`[]()<>!~&;\\|. 1a\n"), min_size=1).filter(str.strip))
def test_no_name_becomes_markup(name: str) -> None:
    assert shown(_plain(name)) == " ".join(name.split())


def test_a_name_does_not_end_its_cell() -> None:
    row = f"| a | b |\n|---|---|\n| {_cell('x|y')} | {_cell('`|`')} |"
    assert MARKDOWN.render(row).count("<td>") == 2


def test_what_must_not_be_overlooked_stands_first() -> None:
    report = Report("r", "acme", "crowd", "nothing to do", None, loud=("'okta_1' owns 2 accounts",))
    assert report_markdown(report).splitlines()[2] == "**'okta_1' owns 2 accounts**"
    assert report.summary()["loud"] == ["'okta_1' owns 2 accounts"]
