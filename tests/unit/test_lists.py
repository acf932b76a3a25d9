"""Lists at 80 columns: no name is broken, no line is longer, however long the names are; and for programs they are JSON
and CSV with the whole values."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pandas as pd
import pytest
from rich.cells import cell_len

from connectors.model import held_frame
from connectors.store import SavedPlan, Store
from connectors.store.tokens import Token
from deployments import show
from deployments.listing import Form
from deployments.terminal import Terminal
from tasks.decide.explain import Explained
from tasks.tell.report import Report

AT = pd.Timestamp("2026-11-30T00:08:24Z")
SHORT = ["ann", "Sales & Marketing", "aikaterini.georgiou", "Проект-Восход", "jira-users"]
LONG = [
    "x" * 70,
    "customer-support-" + "north-" * 8,
    "ｗｉｄｅ.ｎａｍｅ.ｏｆ.ｗｈｏｍ",
    "o" * 36 + "-" + "p" * 30,
]
WHY = "two people become one name in Crowd; rename all but one of them in the identity provider, then run again"
STATES = ("planned", "intended", "done", "already", "failed", "skipped", "undone")


def rows(names: list[str], **values: Any) -> pd.DataFrame:
    """A row for each name, which stands under every value that is None."""
    return pd.DataFrame([{key: name if value is None else value for key, value in values.items()} for name in names])


def run(names: list[str]) -> pd.DataFrame:
    summary = {"planned": {"user_create": 3}, "held": 4, "plan": 7, "snapshots": {"source": 101, "directory": 102}}
    text = orjson.dumps({**summary, "refusals": [WHY]}).decode()
    made = rows(names, source=None, mode="preview", status="partly applied", started_at=AT, finished_at=AT)
    return made.assign(summary=text, run="r", directory="crowd")


def operations(names: list[str]) -> pd.DataFrame:
    return rows(
        names, name=None, target=None, kind="membership_add", seq=1, record="", before="", reason="is a member", note=""
    ).assign(state=["done", *["failed"] * (len(names) - 1)])


def report(names: list[str]) -> Report:
    held = held_frame([("user", "1", name, "match", WHY) for name in names])
    shielded = held.assign(account=names)
    long = rows(names, kind="user", id="1", name=None, reason=WHY, since=AT, runs=3, told_at=AT)
    return Report(
        *("run", names[0], names[1], "planned", 1),
        sizes=dict.fromkeys(names, (1000000, 2000, 30000000)),
        planned={"user_create": 1_000_000},
        held=held,
        warnings=held,
        shielded=shielded,
        lasting=long,
        reported=operations(names),
        failed=operations(names),
        loud=(WHY,),
        impact=(f"people lose all access: {', '.join(names)}",),
        asks=(WHY,),
        read=WHY,
    )


def stored(names: list[str]) -> SavedPlan:
    return SavedPlan(1, "", names[0], names[1], "d" * 64, 1, 1, "{}", held_frame(), AT, "planned", AT, "")


def tokens(names: list[str]) -> list[Token]:
    at = datetime(2026, 11, 30, tzinfo=UTC)
    return [Token("abcd1234", name, at, at, None, None) for name in names]


def audited(names: list[str]) -> pd.DataFrame:
    details = {"reason": WHY, "login": "root", "plan": 3, "decision": "approve_without", "without": ["user_delete"]}
    details["changes"] = [{"kind": "user", "name": name, "from": "", "to": f"a:{name}"[:60]} for name in names]
    text = orjson.dumps(details).decode()
    events = ["approval", *["link made by hand"] * (len(names) - 1)]
    return rows(names, id=1, at=AT, actor=None, subject="plan 3", hash="h").assign(details=text, event=events)


def moved(names: list[str]) -> Any:
    pairs = rows(names, kind="user", name=None, was="okta:1", owner="acme:2", active=True, stays=False, becomes="z")
    return SimpleNamespace(pairing=SimpleNamespace(pairs=pairs, left_out=pairs.assign(reason=WHY)), plan=1)


Print = Callable[[Terminal, list[str], Form], None]
LISTS: dict[str, Print] = {
    "plan": lambda c, n, form: show.plan(c, stored(n), operations(n), "names", 4, form),
    "plans": lambda c, n, form: show.plans(
        c,
        rows(n, id=1, created_at=AT, source=None, directory=None, status="planned", digest="d", about="", run="r")
        .assign(**dict.fromkeys(STATES, 0))
        .assign(done=880, failed=2),
        {1: 2},
        form,
    ),
    "runs": lambda c, n, form: show.runs(c, run(n), form),
    "inbox": lambda c, n, form: show.inbox(
        c,
        rows(n, id=1, source=None, directory="crowd", kind="user", key=None, via="webhook", received_at=AT, due_at=AT)
        .assign(name=n, attempts=3, status="waiting", taken_at=None, note=WHY),
        pd.DataFrame({"status": ["waiting"], "rows": [3]}),
        form,
    ),
    "snapshots": lambda c, n, form: show.snapshots(
        c, rows(n, id=1, stream=None, taken_at=AT, users=10, groups=20, memberships=10**7, digest="d" * 64), "", form
    ),
    "difference": lambda c, n, form: show.difference(
        c,
        {
            "users": rows(n, change="~", id=None, column="display_name", before="Ann", after="Ann Lee"),
            "memberships": rows(n, change="+", group_id=None, member_id=None, member_kind="user"),
        },
        lambda kind, identity: identity,
        form,
    ),
    "explained": lambda c, n, form: show.explained(
        c, "acme", n[0], [Explained("map", "group", (one,), WHY, (one,)) for one in n], AT, form
    ),
    "decisions": lambda c, n, form: show.decisions(
        c,
        rows(n, plan_id=1, at=AT, actor=None, login="root", decision="approve_without", reason=WHY, via="prefect")
        .assign(without='["user_delete"]', expires_at=AT),
        form,
    ),
    "audit": lambda c, n, form: show.audit(c, audited(n), {}, form),
    "links": lambda c, n, form: show.links(
        c, rows(n, source="acme", kind="user", name=None, id="0" * 32, how="created", made_at=AT), 99, form
    ),
    "orphans": lambda c, n, form: show.orphans(c, rows(n, kind="user", name=None, active=True), 99, form),
    "held": lambda c, n, form: show.held(
        c, rows(n, source="acme", kind="user", id="1", name=None, since=AT, runs=12, reason=WHY), 99, form
    ),
    "tokens": lambda c, n, form: show.tokens(c, tokens(n), datetime(2026, 11, 30, tzinfo=UTC), form),
}  # fmt: skip
TEXTS: dict[str, Print] = LISTS | {
    "report": lambda c, n, _: show.report(c, report(n)),
    "moving": lambda c, n, _: show.moving(c, moved(n), "okta", "acme"),
}


@pytest.mark.parametrize("names", [SHORT, LONG, SHORT * 4 + LONG[:2]], ids=["short", "long", "a few long"])
@pytest.mark.parametrize("what", TEXTS)
def test_no_name_is_broken_and_no_line_is_longer_than_the_screen(what: str, names: list[str]) -> None:
    screen = io.StringIO()
    TEXTS[what](Terminal(file=screen, width=80, force_terminal=False), names, Form.TEXT)
    lines = screen.getvalue().splitlines()
    print(screen.getvalue())
    assert [line for line in lines if cell_len(line) > 80] == []
    broken = [name for name in (names[:3] if what == "audit" else names) if not any(name in line for line in lines)]
    assert broken == []


@pytest.mark.parametrize("what", LISTS)
def test_programs_get_the_whole_values(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "=cmd|' /C calc'!A0\u202e,\"x\"\n"
    LISTS[what](Terminal(), [name, "ann"], Form.JSON)
    text = capsys.readouterr().out
    assert {c for c in text if not c.isprintable()} == {"\n"}
    found = json.loads(text)
    values = [value for row in found for value in row.values()]
    assert what == "audit" or any(value in (name, [name]) for value in values)
    assert not [value for value in values if re.match(r"\d{4}-\d\d-\d\d ", str(value))], "ISO 8601, with its T"
    LISTS[what](Terminal(), [name, "ann"], Form.CSV)
    lines = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert lines[0] == list(found[0])
    assert len(lines) == len(found) + 1
    assert not [cell for line in lines[1:] for cell in line if cell.startswith("=")]


@pytest.mark.parametrize(
    ("other", "overtaken"),
    [
        ({}, False),
        ({"digest": "other"}, True),
        ({"digest": "other", "about": "person:1"}, False),
        ({"digest": "other", "directory": "crowd2"}, False),
        ({"digest": "other", "source": "okta"}, False),
        ({"source": "okta", "status": "applied", "at": datetime(2026, 12, 1, tzinfo=UTC)}, True),
        ({"status": "applied", "at": datetime(2026, 11, 1, tzinfo=UTC)}, False),
    ],
)
def test_a_plan_is_overtaken_by_one_that_shows_that_it_is_not_true_any_more(
    store: Store, other: dict[str, Any], overtaken: bool
) -> None:
    nothing = rows(["x"], phase=1, seq=1, kind="user_create", name=None).assign(
        **dict.fromkeys(("target", "source_id", "record", "before", "reason"), "")
    )
    plan: dict[str, Any] = {"run": "r", "source": "acme", "directory": "crowd", "digest": "d", "policy": "{}"}
    plan |= {"source_snapshot": 1, "directory_snapshot": 1, "operations": nothing, "held": held_frame()}
    plan["at"] = datetime(2026, 11, 30, tzinfo=UTC)
    first = store.save_plan(**plan)
    second = store.save_plan(**(plan | other))
    assert store.plans_overtaken([first, second]) == ({first: second} if overtaken else {})
