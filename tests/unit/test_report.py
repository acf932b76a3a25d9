"""What people see of a run: names come from outside and must stay names."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from connectors.model import held_frame
from connectors.store import Plan as StoredPlan
from deployments import show, terminal
from tasks.explain import Explained
from tasks.report import Report, _cell, _plain, left_out, report_markdown

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


# ── the terminal ────────────────────────────────────────────────────────────────────────────────

HOSTILE = "\x1b[2J\x1b]0;title\x07ann\u202enimda\u2066\x9b31m\u200b\r\x08\x7f\x00[red]x[/]"
AT = pd.Timestamp("2026-11-23T12:00:00Z")


def frame(*names: str, **values: Any) -> pd.DataFrame:
    """One row, hostile in every column that is not given."""
    return pd.DataFrame([{**dict.fromkeys(names, HOSTILE), **values}])


OPERATION = frame(
    "name", "target", "reason", "note", kind="user_rename", seq=0, record="{}", before="{}", state="failed"
)
HELD_ROW = frame("id", "name", "stage", "reason", kind="user", away="")
REPORT = Report(
    *("run", HOSTILE, HOSTILE, "refused", 1),
    **dict.fromkeys(("radius", "refusals", "asks", "agreed", "forced"), (HOSTILE,)),
    **dict.fromkeys(("held", "warnings"), HELD_ROW),
    **dict.fromkeys(("reported", "failed"), OPERATION),
    sizes={HOSTILE: (1, 2, 3)},
    since=HOSTILE,
    why=HOSTILE,
)
STORED = StoredPlan(1, "", HOSTILE, HOSTILE, HOSTILE, 1, 1, "{}", held_frame(), AT, HOSTILE, AT, "")
COUNTS = dict.fromkeys(("planned", "intended", "done", "already", "failed", "skipped", "undone"), 1)
SUMMARY = orjson.dumps({"refusals": [HOSTILE]}).decode()
PRINTS: dict[str, Callable[[Console], None]] = {
    "report": lambda console: show.report(console, REPORT),
    "plan": lambda console: show.plan(console, STORED, OPERATION, "names"),
    "plans": lambda console: show.plans(console, frame("source", "directory", "status", id=1, created_at=AT, **COUNTS)),
    "runs": lambda console: show.runs(
        console, frame("source", "mode", "status", started_at=AT, finished_at=AT, summary=SUMMARY)
    ),
    "snapshots": lambda console: show.snapshots(
        console, frame("stream", "digest", id=1, taken_at=AT, users=1, groups=1, memberships=1)
    ),
    "difference": lambda console: show.difference(
        console, {HOSTILE: frame("id", HOSTILE, change="~")[["change", "id"]]}
    ),
    "explained": lambda console: show.explained(
        console, HOSTILE, HOSTILE, [Explained("map", HOSTILE, (HOSTILE,), HOSTILE, (HOSTILE,))], AT
    ),
    "decisions": lambda console: show.decisions(
        console,
        frame(
            "actor", "login", "decision", "reason", "via", plan_id=1, at=AT, without=orjson.dumps([HOSTILE]).decode()
        ),
    ),
    "audit": lambda console: show.audit(console, frame("event", "actor", "subject", "details", id=1, at=AT)),
    "links": lambda console: show.links(console, frame("name", "id", "how", made_at=AT), 9),
    "orphans": lambda console: show.orphans(console, frame("name", kind="user", active=True), 9),
    "a line": lambda console: console.print(f"[green]✓[/] {escape(HOSTILE)}", highlight=False),
    "a table": lambda console: console.print(a_table(escape(HOSTILE))),
}


def a_table(text: str) -> Table:
    table = Table(text, title=text)
    table.add_row(text)
    return table


@pytest.mark.parametrize("what", PRINTS)
def test_no_name_reaches_the_terminal_with_its_escape_sequences(what: str) -> None:
    console = show.Terminal(file=io.StringIO(), width=500, force_terminal=False)
    PRINTS[what](console)
    text = console.file.getvalue()
    assert "u001b[2J" in text
    assert {c for c in text if not c.isprintable()} == {"\n"}


def test_every_command_prints_on_such_a_console() -> None:
    assert type(terminal.console) is type(terminal.errors) is show.Terminal
    for file in (Path(show.__file__).parent).glob("*.py"):
        assert not re.search(r"(?<!\w)Console\(", file.read_text().replace("class Terminal(Console)", "")), file


def test_the_report_says_what_was_left_out_by_reason_and_not_too_long() -> None:
    rows = [("user", str(n), f"u_{n}", "map", "email is no address and was left out") for n in range(30)]
    rows += [("group", "g", "", "extract", "description is not text and was left out")]
    report = replace(REPORT, held=held_frame(), warnings=held_frame(rows), refusals=())
    text = report_markdown(report)
    assert "## Left out (31)" in text
    lines = [line for line in text.splitlines() if line.endswith("left out")]
    assert lines[0].startswith("- u\\_0 (user), ") or lines[0].startswith("- u_0 (user), ")
    assert lines[0].endswith("and 20 more: email is no address and was left out")
    assert lines[1] == "- g (group): description is not text and was left out"
    assert report.summary()["left_out"] == 31
    console = show.Terminal(file=io.StringIO(), width=500)
    show.report(console, report)
    assert "u_9 (user), and 20 more" in console.file.getvalue()
    many = held_frame([("user", str(n), f"u{n}", "map", f"reason {n}") for n in range(25)])
    assert left_out(many)[-1] == ("5 more reasons", [])
    assert "Left out" not in report_markdown(replace(report, warnings=held_frame()))


def test_what_must_not_be_overlooked_stands_first() -> None:
    report = Report("r", "acme", "crowd", "nothing to do", None, loud=("'okta_1' owns 2 accounts",))
    assert report_markdown(report).splitlines()[2] == "**'okta_1' owns 2 accounts**"
    assert report.summary()["loud"] == ["'okta_1' owns 2 accounts"]
