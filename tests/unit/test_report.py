"""What people see of a run: names come from outside and must stay names."""

from __future__ import annotations

import asyncio
import html
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
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

from connectors.model import DISABLED, held_frame
from connectors.operations import Kind
from connectors.store import SavedPlan, Store
from deployments import show, terminal
from deployments.terminal import Terminal
from tasks.decide.explain import Explained
from tasks.decide.plan import Owned, Plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.read.missed import Missed
from tasks.read.remember import remember_held
from tasks.run import Run
from tasks.tell import report as telling
from tasks.tell.proposal import Basis
from tasks.tell.render import left_in, report_markdown, unheeded
from tasks.tell.report import Ending, Report, emit_unheeded, lasting
from tasks.tell.rows import left_out
from tasks.tell.templates import cell, plain
from tests.road import run_of

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
    assert shown(plain(name)) == " ".join(name.split())


@given(st.text(st.sampled_from("-+#>=*_`[]()<>!~&;\\|. 1a\n"), min_size=1).filter(str.strip))
def test_no_name_becomes_markup(name: str) -> None:
    assert shown(plain(name)) == " ".join(name.split())


def test_a_name_does_not_end_itscell() -> None:
    row = f"| a | b |\n|---|---|\n| {cell('x|y')} | {cell('`|`')} |"
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
ROWS: dict[str, Any] = {
    **dict.fromkeys(("impact", "refusals", "asks", "agreed", "forced"), (HOSTILE,)),
    **dict.fromkeys(("held", "warnings"), HELD_ROW),
    **dict.fromkeys(("reported", "failed"), OPERATION),
}
REPORT = Report(
    *("run", HOSTILE, HOSTILE, "refused", 1),
    **ROWS,
    sizes={HOSTILE: (1, 2, 3)},
    read=HOSTILE,
    why=HOSTILE,
    standing=HOSTILE,
)
STORED = SavedPlan(1, "", HOSTILE, HOSTILE, HOSTILE, 1, 1, "{}", held_frame(), AT, HOSTILE, AT, "")
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
        console, {HOSTILE: frame("id", "column", "before", "after", change="~")}, lambda kind, identity: identity
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
    printed = io.StringIO()
    PRINTS[what](Terminal(file=printed, width=500, force_terminal=False))
    text = printed.getvalue()
    assert "u001b[2J" in text
    assert {c for c in text if not c.isprintable()} == {"\n"}


def test_every_command_prints_on_such_a_console() -> None:
    assert type(terminal.console) is type(terminal.errors) is Terminal
    for file in (Path(show.__file__).parent).glob("*.py"):
        assert not re.search(r"(?<!\w)Console\(", file.read_text().replace("class Terminal(Console)", "")), file


def test_the_report_says_what_was_left_out_by_reason_and_not_too_long() -> None:
    rows = [("user", str(n), f"u_{n}", "map", "email is no address and was left out") for n in range(30)]
    rows += [("group", "g", "", "extract", "description is not text and was left out")]
    report = replace(REPORT, held=held_frame(), warnings=held_frame(rows), refusals=())
    text = report_markdown(report)
    assert "## Warnings (31)" in text
    lines = [line for line in text.splitlines() if line.endswith("left out")]
    assert lines[0].startswith("- u\\_0 (user), ") or lines[0].startswith("- u_0 (user), ")
    assert lines[0].endswith("and 20 more: email is no address and was left out")
    assert lines[1] == "- g (group): description is not text and was left out"
    assert report.summary()["left_out"] == 31
    printed = io.StringIO()
    show.report(Terminal(file=printed, width=500), report)
    assert "u_9 (user), and 20 more" in printed.getvalue()
    many = held_frame([("user", str(n), f"u{n}", "map", f"reason {n}") for n in range(25)])
    assert left_out(many)[-1] == ("5 more reasons", [])
    assert "Warnings" not in report_markdown(replace(report, warnings=held_frame()))


def test_what_must_not_be_overlooked_stands_first() -> None:
    report = Report("r", "acme", "crowd", "nothing to do", None, loud=("'okta_1' owns 2 accounts",))
    assert report_markdown(report).splitlines()[0].endswith("nothing to do, but 'okta_1' owns 2 accounts")
    assert report.summary()["loud"] == ["'okta_1' owns 2 accounts"]


# ── what must not be quiet ──────────────────────────────────────────────────────────────────────

RALF = ("user", "p1", "ralf|x", "validate", "the e-mail is none", DISABLED)
KIM = ("user", "p2", "kim", "map", "two become one", "")
LOOP = ("nesting", "", "team", "plan", "would make a circle", "")


def a_plan(*held: tuple[str, ...], shielded: tuple[tuple[str, ...], ...] = ()) -> Plan:
    nothing = pd.DataFrame({"kind": pd.array([], dtype="str")})
    left = held_frame(shielded).assign(account=[f"account of {row[2]}" for row in shielded])
    return Plan(nothing, held_frame(held), {}, nothing, nothing, nothing, nothing, Owned(9, 9, 9, 9, 9), "", left)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        yield run_of(None, None, store, Policy())  # type: ignore[arg-type]


def after_runs(run: Run, number: int, plan: Plan) -> pd.DataFrame:
    for n in range(number):
        run.id = f"run {n}"
        asyncio.run(remember_held(run, plan))
    return lasting(run, plan)


def test_a_plan_has_nobody_shielded_unless_it_says_so() -> None:
    nothing = pd.DataFrame()
    made = Plan(nothing, held_frame(), {}, nothing, nothing, nothing, nothing, Owned(0, 0, 0, 0, 0), "")
    assert made.shielded.empty
    assert list(made.shielded.columns) == [*held_frame().columns, "account"]


@pytest.mark.parametrize(("runs", "least", "long"), [(2, 3, 0), (3, 3, 2), (9, None, 0), (1, 1, 2)])
def test_what_is_held_for_many_runs_is_found(run: Run, runs: int, least: int | None, long: int) -> None:
    run.policy = Policy.model_validate({"limits": {"held_runs": least}})
    found = after_runs(run, runs, a_plan(KIM, KIM, LOOP))
    assert len(found) == long
    assert set(found["runs"]) <= {runs}
    assert set(found["name"]) <= {"kim", "team"}
    assert lasting(run, a_plan(RALF)).empty, "what a plan does not hold is none of its own"


def test_one_line_says_that_somebody_is_in_against_the_word_of_the_source(run: Run) -> None:
    long = after_runs(run, 3, a_plan(KIM, LOOP))
    said = unheeded(a_plan(shielded=(RALF,)).shielded, long)
    assert said[0] == "1 person is in against the source's word"
    assert said[1].startswith("2 records have been held for 3 runs (since ")
    assert unheeded(a_plan(shielded=(RALF, RALF)).shielded, long[:0]) == ("2 people are in against the source's word",)
    assert unheeded(a_plan().shielded, long[:0]) == ()
    quiet = Report("r", "acme", "crowd", "nothing to do", None)
    assert quiet.headline == "nothing to do"
    assert "loud" not in quiet.summary()
    loud = Report("r", "acme", "crowd", "nothing to do", None, loud=said[:1])
    assert loud.headline == "nothing to do, but 1 person is in against the source's word"
    assert loud.summary()["loud"] == list(said[:1])


def test_the_report_names_them_and_the_way_out(run: Run) -> None:
    left = a_plan(shielded=(RALF,)).shielded
    long = after_runs(run, 3, a_plan(KIM))
    report = Report(
        "r",
        "acme",
        "crowd",
        "nothing to do",
        None,
        held=a_plan(KIM, RALF).held,
        shielded=left,
        lasting=long,
        loud=unheeded(left, long),
        remarks=("x",),
    )
    page = report_markdown(report)
    assert page.startswith("# acme → crowd: nothing to do, but 1 person is in against the source's word; 1 record has")
    assert "## In against the source's word (1)" in page
    assert "the e-mail is none" in page
    assert "account of ralf" in page
    assert "## Held for long (1)" in page
    assert "3 runs, since" in page
    screen = StringIO()
    show.report(Console(file=screen, width=120), report)
    text = screen.getvalue()
    for words in (
        "but 1 person is in against the source's word",
        "but x",
        "disabled",
        "account of ralf|x",
        "runs",
    ):
        assert words in text


def test_a_feature_that_is_off_does_not_hide_who_left() -> None:
    policy = Policy.model_validate({"operations": {"user_deactivate": "report"}})
    assert left_in({"user_deactivate": 2, "user_create": 9}, policy) == (
        "2 people who left keep their account as it is: operations.user_deactivate is 'report'",
    )
    assert left_in({"user_create": 9}, policy) == ()
    assert left_in({"user_delete": 1}, Policy()) == (
        "1 person who left keeps their account as it is: operations.user_delete is 'off'",
    )


def test_people_are_told_once_a_day_and_at_once_of_what_is_new(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(telling, "emit", lambda event, source, **payload: sent.append((event, payload["headlines"])))

    def report(*held: tuple[str, ...], shielded: tuple[tuple[str, ...], ...] = ()) -> None:
        plan = a_plan(*held, shielded=shielded)
        long = after_runs(run, 3, plan)
        left = plan.shielded
        loud = unheeded(left, long)
        emit_unheeded(run, Report("r", "acme", "crowd", "", None, shielded=left, lasting=long, loud=loud))

    report(KIM)
    report(KIM)
    assert len(sent) == 1
    assert sent[0][0] == "source.unheeded"
    report(KIM, shielded=(RALF,))
    assert len(sent) == 2
    assert "ralf" not in str(sent), "no names in messages"
    report(KIM, shielded=(RALF,))
    assert len(sent) == 2
    monkeypatch.setattr(telling, "AGAIN_AFTER", -telling.AGAIN_AFTER)
    report(KIM)
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("status", "selection", "policy", "step"),
    [
        ("applied", None, Policy(), True),
        ("nothing to do", None, Policy(), True),
        ("applied", Selection(changed=frozenset({"p1"})), Policy(), True),
        ("nothing to do", Selection(changed=frozenset()), Policy(), True),
        *((status, None, Policy(), False) for status in ("partly applied", "stopped", "waiting", "refused", "planned")),
        ("applied", Selection(person="p1"), Policy(), False),
        ("nothing to do", Selection(group="red"), Policy(), False),
        ("applied", None, Policy().without([Kind.USER_DEACTIVATE]), False),  # a part was left out
    ],
)
def test_when_crowd_is_in_step(status: str, selection: Selection | None, policy: Policy, step: bool) -> None:
    basis = SimpleNamespace(about_everybody=Basis.about_everybody.fget(SimpleNamespace(selection=selection)))  # type: ignore[attr-defined]
    stored = SimpleNamespace(proposal=SimpleNamespace(basis=basis, policy=policy))
    assert Ending(status).in_step(stored, Policy()) is step  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("missed", "words"),
    [
        (Missed(0, 0, 0, 0), ""),
        (Missed(1, 2, 0, 0), "Of 1 person and 2 accounts that had changed, all had been named as changed."),
        (
            Missed(12, 1, 1, 0),
            "Of 12 people and 1 account that had changed, 1 person and 0 accounts had not been named as changed.",
        ),
    ],
)
def test_what_hints_missed_is_said(missed: Missed, words: str) -> None:
    assert missed.words() == words
