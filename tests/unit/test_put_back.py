"""An older copy of the database that was put back is noticed by the file outside of it, and nothing that it says of the
present is believed: neither where deltas begin, nor what past runs counted, nor plans, agreements and clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from connectors.errors import RefusedError
from connectors.model import held_frame
from connectors.settings import Settings
from connectors.store import LastInStep, ReadCursor, StepCursors, Store, WideTotals
from connectors.store.put_back import Head, read_head, write_head
from tasks.decide.guard import PUT_BACK, judge
from tasks.decide.plan import Owned, Plan
from tasks.policy import Policy
from tests.support.frames import the_operations
from tests.support.stored import AT, plan

LATER = AT + timedelta(days=1)
CROWD, PAIRS = "crowd", [("crowd", "acme"), ("crowd", "beta")]


def audited(store: Store, *subjects: str) -> Head:
    for subject in subjects:
        store.audit(event="run", actor="crowdsync", subject=subject, details={}, at=AT)
    head = store.head(AT)
    assert head is not None
    return head


def test_a_chain_that_goes_on_is_no_older_copy(store: Store) -> None:
    assert store.head(AT) is None
    head = audited(store, "r1", "r2")
    assert head.row == 2
    assert not store.is_older(head)
    audited(store, "r3")
    assert not store.is_older(head)


def test_a_chain_that_ends_before_or_went_another_way_is_one(store: Store, tmp_path: Path) -> None:
    head = audited(store, "r1", "r2")
    assert store.is_older(Head(3, "of a row that is not here", 0, head.at)), "it ends before"
    assert store.is_older(Head(2, "another", 0, head.at)), "since then others were written"
    with Store.open(f"sqlite:///{tmp_path}/fresh.db") as fresh:
        assert fresh.is_older(head), "an empty one, in place of it"
        fresh.note_put_back(PAIRS, head=Head(2, "h", 7, head.at), actor="crowdsync", why="", at=LATER)
        assert plan(fresh) == 8


def test_what_it_says_of_the_present_is_taken_back(store: Store) -> None:
    for directory, source in PAIRS:
        store.save_cursor(f"source:{source}", ReadCursor("delta", "", AT, 1), at=AT)
        store.save_in_step(directory, source, LastInStep("p", "r", StepCursors("c", "t", 1, AT, AT), 1))
        store.save_wide_totals(directory, source, WideTotals("p", "r", "s", AT, {}))
    store.save_cursor("webhook:crowd", ReadCursor("7", "address", AT, 0), at=AT)
    store.save_departures(CROWD, "acme", pd.DataFrame({"id": ["u1"], "why": ["deleted"]}, dtype="str"), at=AT)
    begun, agreed, waiting = plan(store), plan(store, digest="d2"), plan(store, digest="d3")
    done = plan(store, digest="d4")
    for number, status in ((begun, "applying"), (agreed, "approved"), (waiting, "waiting"), (done, "applied")):
        store.set_plan_status(number, status, at=AT)
    store.intend(begun, [0], at=AT)

    store.note_put_back(PAIRS, head=Head(99, "x", 500, "then"), actor="crowdsync", why="a test", at=LATER)

    for directory, source in PAIRS:
        assert store.cursor(f"source:{source}") is None
        assert store.in_step(directory, source) is None
        assert store.wide_totals(directory, source) is None
        assert store.put_back(directory, source)
    assert store.cursor("webhook:crowd") is not None, "what Crowd and providers know of us still holds"
    assert store.departures(CROWD, "acme")["since"].tolist() == [pd.Timestamp(LATER)], "nobody is deleted too early"
    became = {number: store.load_plan(number).status for number in (begun, agreed, waiting, done)}
    assert became == {begun: "superseded", agreed: "superseded", waiting: "superseded", done: "applied"}
    assert store.unfinished_plans(CROWD) == []
    assert store.operations(begun)["state"].tolist() == ["undone", "planned", "planned"]
    assert store.links(CROWD).empty, "no link is made of what may be somebody else's by now"
    with pytest.raises(RefusedError, match="superseded"):
        store.decide(
            *(waiting,), digest="d3", decision="approve", actor="kim", reason="why",
            expires_at=LATER + timedelta(hours=1), via="command line", at=LATER,
        )  # fmt: skip
    assert plan(store, digest="d5") > 500, "no number of a plan means two"
    told = store.due(CROWD, LATER)
    assert [(hint.source, hint.kind) for hint in told] == [("acme", "everybody"), ("beta", "everybody")]
    row = store.audit_log(1).iloc[0]
    assert (row["event"], row["subject"]) == ("older copy", "database")
    assert store.verify_audit() is None

    store.saw_put_back(CROWD, "acme")
    assert [store.put_back(*of) for of in PAIRS] == [False, True]


def test_another_machine_that_noticed_it_later_does_not_begin_again(store: Store) -> None:
    """Two machines have a head of before, of one time; the first notices, and the source is seen to."""
    audited(store, "r1")
    heads = [Head(9, f"machine {n}", 0, AT.isoformat(timespec="microseconds")) for n in (1, 2)]
    assert store.is_older(heads[0])
    store.note_put_back(PAIRS, head=heads[0], actor="crowdsync", why="", at=LATER)
    assert not store.is_older(heads[1])
    again = Head(9, "of after that", 0, (LATER + timedelta(hours=1)).isoformat(timespec="microseconds"))
    assert store.is_older(again), "a copy of before was put back once more"


def test_the_file_is_replaced_whole_and_a_broken_one_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "store.db.head"
    assert read_head(file) is None
    head = Head(7, "h", 3, datetime.now(UTC).isoformat())
    write_head(file, head)
    assert read_head(file) == head
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
    for broken in (b"", b"{", b"[]", b'{"row": 1}'):
        file.write_bytes(broken)
        assert read_head(file) is None
    with pytest.raises(OSError, match="no-such"):
        write_head(tmp_path / "no-such" / "head", head)


def a_plan(*rows: tuple[str, str]) -> Plan:
    nothing = pd.DataFrame()
    operations = the_operations(*rows).assign(shuts_out=False)
    return Plan(operations, held_frame(), {}, nothing, nothing, nothing, nothing, Owned(9, 9, 9, 0, 0), "")


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///crowdsync.db?timeout=3", "crowdsync.db.head"),
        ("sqlite:////var/lib/one#.db", "/var/lib/one#.db.head"),
        ("postgresql://crowdsync:s%2F3@db.example.org:5432/staging?sslmode=require", "staging.head"),
        ("postgresql+psycopg://db.example.org", "crowdsync.head"),
    ],
)
def test_each_database_has_a_file_of_its_own(url: str, file: str) -> None:
    rest: dict[str, Any] = {
        "directory": {"url": "https://crowd.example.org/crowd", "application": "crowdsync"},
        "sources": {"acme": {"kind": "scim", "url": "https://idp.example.org/scim/v2"}},
    }
    assert Settings.model_validate({**rest, "store": {"url": url}}).head_file() == Path(file)
    named = {"url": url, "head_file": "/elsewhere"}
    assert Settings.model_validate({**rest, "store": named}).head_file() == Path("/elsewhere")


def test_every_plan_asks_also_one_that_only_gives() -> None:
    made = a_plan(("user_create", "ann"))
    assert not judge(made, Policy()).stops
    verdict = judge(made, Policy(), put_back=True)
    assert [ask.text for ask in verdict.asks] == [PUT_BACK]
    assert verdict.dangerous == ("user_create",)
    assert judge(made, Policy(), put_back=True, force=True).forced == (PUT_BACK,)
    assert judge(made, Policy.model_validate({"approval": {"when": "never"}}), put_back=True).refusals
    assert not judge(a_plan(), Policy(), put_back=True).stops, "nothing to do is nothing to agree to"
