"""What keeps writing safe, on SQLite and on a real PostgreSQL: leases, departures, decisions, health."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from sqlalchemy import text

from connectors.errors import ConfigurationError, CrowdsyncError, RecordError, RefusedError
from connectors.model import Snapshot, users_frame
from connectors.store import Decision, Lease, Quarantine, Store, audit, database
from connectors.store.tables import METADATA
from tests.support import postgres
from tests.support.stored import AT, MINUTE, operations, plan

TABLES = sorted(METADATA.tables)
ODD = ["", "a", 'q"uo,te', "line\nbreak\r\n", "\\N", "nul\0l", "\U0010fffe0", "Ünï", "日本", " lead", "NULL"]


def contents(store: Store, *tables: str) -> dict[str, list[str]]:
    """Every row of the tables (of all where none is named)."""
    with store._db.read() as connection:
        return {
            t: sorted(repr(tuple(row)) for row in connection.execute(text(f'SELECT * FROM "{t}"')))
            for t in tables or TABLES
        }


def taken(store: Store, holder: str = "r1", now: datetime = AT, seconds: float = 60, directory: str = "crowd") -> Lease:
    lease = store.take_lease(directory, holder, now=now, seconds=seconds)
    assert lease is not None
    return lease


def at_once(store: Store, stop: str, call: Callable[[int], Any], n: int = 8) -> list[Any]:
    """The results of n calls in n threads; the error where one raised an error of ours.

    The statement `stop` keeps them from writing until PostgreSQL has all of them waiting, so that each has
    read what it goes by. SQLite lets no second writer begin, whatever it would write.
    """

    def one(i: int) -> Any:
        try:
            return call(i)
        except CrowdsyncError as error:
            return error

    with ThreadPoolExecutor(n) as pool:
        with store._db.write() as stopping:
            if not store._db.sqlite:
                stopping.execute(text(stop))
            calls = [pool.submit(one, i) for i in range(n)]
            if not store._db.sqlite:
                wait_for(store, n)
        return [call.result(timeout=60) for call in calls]


def wait_for(store: Store, n: int) -> None:
    """Until n of PostgreSQL's sessions wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 60
    found = -1
    while found < n:
        assert time.monotonic() < deadline, f"{found} of {n} wait"
        with store._db.read() as connection:
            found = connection.execute(text(waiting)).scalar_one()


# Leases


def test_a_lease_is_held_by_one(store: Store) -> None:
    assert store.lease("crowd") is None
    first = store.take_lease("crowd", "r1", now=AT, seconds=60)
    assert first == Lease("crowd", "r1", 1, AT + MINUTE)
    assert store.lease("crowd") == first
    assert store.take_lease("crowd", "r2", now=AT + MINUTE - timedelta(microseconds=1), seconds=60) is None
    assert store.lease("crowd") == first
    # Another directory is another matter, another way to write the same instant is not.
    assert taken(store, "r2", directory="other").token == 1
    east = (AT + MINUTE / 2).astimezone(timezone(timedelta(hours=9)))
    assert store.take_lease("crowd", "r2", now=east, seconds=60) is None


def test_a_machine_whose_clock_is_ahead_takes_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that counts is the database's; SQLite's is that of the one machine that has it open."""
    lease = store.take_lease("crowd", "r1", seconds=60)
    assert lease is not None

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    assert store.take_lease("crowd", "r2", seconds=60) is None
    if not store._db.sqlite:
        monkeypatch.setattr(database, "datetime", Ahead)
        assert store.take_lease("crowd", "r2", seconds=60) is None
        monkeypatch.undo()
    renewed = store.renew_lease(lease, seconds=120)
    assert timedelta(seconds=60) <= renewed.until - lease.until <= timedelta(seconds=90)
    assert abs(renewed.until - datetime.now(UTC)) < timedelta(seconds=150)


def test_each_taking_raises_the_token(store: Store) -> None:
    assert taken(store, "r1").token == 1
    assert taken(store, "r1").token == 2  # a retried run
    assert taken(store, "r2", AT + MINUTE).token == 3  # over an expired one
    lease = taken(store, "r2", AT + 3 * MINUTE)  # its own, expired
    assert lease.token == 4
    store.release_lease(lease)
    assert taken(store, "r3", AT + 3 * MINUTE).token == 5
    # Only the one taken from another who had not given it back is worth a line to the auditor.
    log = store.audit_log()
    assert log[["event", "actor", "subject"]].to_numpy().tolist() == [["lease taken over", "r2", "crowd"]]
    assert log["at"].tolist() == [AT + MINUTE]
    assert orjson.loads(log["details"][0]) == {
        "from": "r1",
        "token": 3,
        "until": (AT + MINUTE).isoformat(timespec="microseconds"),
    }
    assert store.verify_audit() is None


@pytest.mark.parametrize(("holder", "seconds"), [(" ", 60), ("", 60), ("r1", 0), ("r1", -1)])
def test_a_lease_names_its_holder_and_a_time(store: Store, holder: str, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="needs a holder and a time"):
        store.take_lease("crowd", holder, now=AT, seconds=seconds)
    assert store.lease("crowd") is None


def test_renewing(store: Store) -> None:
    first = taken(store)
    renewed = store.renew_lease(first, now=AT + MINUTE / 2, seconds=60)
    assert renewed == store.lease("crowd") == Lease("crowd", "r1", 1, AT + 1.5 * MINUTE)
    assert store.take_lease("crowd", "r2", now=AT + MINUTE, seconds=60) is None
    # Its time is over, and nobody took it.
    renewed = store.renew_lease(first, now=AT + 5 * MINUTE, seconds=60)
    assert renewed.until == AT + 6 * MINUTE
    second = taken(store, "r2", AT + 7 * MINUTE)
    with pytest.raises(
        RefusedError, match=r"'crowd' is lost by 'r1': 'r2' has it since 2026-11-23T12:07.*new run"
    ) as e:
        store.renew_lease(renewed, now=AT + 7 * MINUTE, seconds=60)
    assert "\n" not in str(e.value)
    assert store.lease("crowd") == second
    third = taken(store, "r2", AT + 7 * MINUTE)
    with pytest.raises(RefusedError, match="a later attempt of 'r2' has it"):
        store.renew_lease(second, now=AT + 7 * MINUTE, seconds=600)
    assert store.lease("crowd") == third
    with pytest.raises(RefusedError, match="'nowhere' is lost by 'r1': nobody has it"):
        store.renew_lease(Lease("nowhere", "r1", 1, AT), now=AT, seconds=60)


def test_releasing(store: Store) -> None:
    first = taken(store)
    store.release_lease(first)
    assert store.lease("crowd") is None
    store.release_lease(first)
    with pytest.raises(RefusedError, match="nobody has it"):
        store.renew_lease(first, now=AT, seconds=60)
    second = taken(store, "r2")  # at once, though its time was not over
    third = taken(store, "r2")
    for lost in (first, second, Lease("nowhere", "r1", 1, AT)):
        store.release_lease(lost)
    assert store.lease("crowd") == third


def test_a_stale_writer_writes_nothing_further(store: Store) -> None:
    plan_id = plan(store)
    first = taken(store)
    store.intend(plan_id, [0], at=AT, fence=first)
    store.set_plan_status(plan_id, "applying", at=AT, fence=first)
    # Over but not taken: still good. Renewed: the old object is as good as the new one.
    store.intend(plan_id, [1], at=AT + 5 * MINUTE, fence=first)
    store.renew_lease(first, now=AT + 5 * MINUTE, seconds=60)
    store.intend(plan_id, [1], at=AT + 5 * MINUTE, fence=first)

    second = taken(store, "r2", AT + 7 * MINUTE)
    third = taken(store, "r2", AT + 7 * MINUTE)
    released = taken(store, "r4", AT + 7 * MINUTE, directory="west")
    store.release_lease(released)
    west = plan(store, directory="west")
    before = contents(store)
    for number, stale in ((plan_id, first), (plan_id, second), (west, released)):
        with pytest.raises(RefusedError, match="is lost by"):
            store.intend(number, [1, 2], at=AT, fence=stale)
        with pytest.raises(RefusedError, match="is lost by"):
            store.set_plan_status(number, "interrupted", at=AT, fence=stale)
    # A good lease of another directory is none of this one.
    with pytest.raises(RefusedError, match="'west', and the lease is for 'crowd'"):
        store.intend(west, [0], at=AT, fence=third)
    with pytest.raises(RefusedError, match="'west', and the lease is for 'crowd'"):
        store.set_plan_status(west, "applying", at=AT, fence=third)
    refused: Callable[[], object]
    for refused in (
        lambda: store.intend(99, [0], at=AT, fence=third),
        lambda: store.set_plan_status(99, "applying", at=AT, fence=third),
    ):
        with pytest.raises(RecordError, match="no plan 99"):
            refused()
    assert contents(store) == before
    store.intend(plan_id, [2], at=AT, fence=third)
    # What was called before the lease was lost is written down all the same.
    store.record(plan_id, [(0, "done", "")], at=AT)
    assert store.operations(plan_id)["state"].tolist() == ["done", "intended", "intended"]


@pytest.mark.postgres
def test_a_lease_is_not_taken_while_an_intent_is_being_written(server: postgres.Server) -> None:
    # SQLite has one writer at a time. Here the intent is stopped between its look at the lease and its end.
    with server.database() as url, Store.open(url) as store, ThreadPoolExecutor(2) as pool:
        plan_id, lease = plan(store), taken(store)
        with store._db.write() as stopping:
            stopping.execute(text("SELECT 1 FROM operation FOR UPDATE"))
            intending = pool.submit(store.intend, plan_id, [0], at=AT, fence=lease)
            wait_for(store, 1)
            taking = pool.submit(store.take_lease, "crowd", "r2", now=AT + MINUTE, seconds=60)
            with pytest.raises(TimeoutError):
                taking.result(timeout=0.5)
        intending.result(timeout=20)
        assert taking.result(timeout=20) == Lease("crowd", "r2", 2, AT + 2 * MINUTE)
        assert store.operations(plan_id)["state"].tolist()[0] == "intended"


RACERS, ROUNDS, FREE_SECONDS = 20, 5, 1.5
STALE = ROUNDS
"""The operation that only stale holders reach for."""


def race(url: str, n: int, plan_id: int, barrier: Any, results: Any) -> None:
    """One racing process: puts its log, or its error as text, which also ends the others' waiting."""
    try:
        with Store.open(url) as store:
            results.put(raced(store, n, plan_id, barrier))
    except BaseException as error:
        barrier.abort()
        results.put(repr(error))
        raise


def raced(store: Store, n: int, plan_id: int, barrier: Any) -> tuple[list[Any], list[bool], list[Any]]:
    """(round, token or None) of each taking; whether a stale lease was refused, each time that it was tried;
    (token, from, until) of the takings in the free race."""
    takings: list[tuple[int, int | None]] = []
    refusals: list[bool] = []
    free: list[tuple[int, datetime, datetime]] = []
    held: Lease | None = None
    for i in range(ROUNDS):
        now = AT + 2 * i * MINUTE  # when the lease of the round before is over
        barrier.wait(120)
        got = store.take_lease("crowd", f"p{n}", now=now, seconds=60)
        takings.append((i, got.token if got else None))
        barrier.wait(120)
        if held is not None:
            try:
                store.intend(plan_id, [STALE], at=now, fence=held)
                refusals.append(False)
            except RefusedError:
                refusals.append(True)
        if got is not None:
            store.intend(plan_id, [i], at=now, fence=got)
            held = got
    # And now without a signal to start, by the clock.
    barrier.wait(120)
    end, attempt = time.monotonic() + FREE_SECONDS, 0
    while time.monotonic() < end:
        now, attempt = datetime.now(UTC), attempt + 1
        got = store.take_lease("free", f"p{n}.{attempt}", now=now, seconds=0.02)
        if got is not None:
            free.append((got.token, now, got.until))
    return takings, refusals, free


def test_twenty_processes_race_for_one_lease(url: str) -> None:
    with Store.open(url) as store:
        plan_id = plan(store, *["user_create"] * (ROUNDS + 1))
        spawning = multiprocessing.get_context("forkserver")
        spawning.set_forkserver_preload(["connectors.store", "pytest"])
        barrier, results = spawning.Barrier(RACERS), spawning.Queue()
        racers = [
            spawning.Process(target=race, args=(url, n, plan_id, barrier, results), daemon=True) for n in range(RACERS)
        ]
        for racer in racers:
            racer.start()
        try:
            logs = [results.get(timeout=180) for _ in racers]
        finally:
            for racer in racers:
                racer.kill()  # what it has to say is said
                racer.join()
        assert [log for log in logs if isinstance(log, str)] == []
        winners = [[t for takings, _, _ in logs for i, t in takings if i == r and t is not None] for r in range(ROUNDS)]
        assert winners == [[r + 1] for r in range(ROUNDS)]
        refusals = [refused for _, refusals, _ in logs for refused in refusals]
        assert len(refusals) >= ROUNDS - 1
        assert all(refusals)
        assert store.operations(plan_id)["attempts"].tolist() == [1] * ROUNDS + [0]

        free = sorted(taking for _, _, takings in logs for taking in takings)
        assert len(free) > 5
        assert [token for token, _, _ in free] == list(range(1, len(free) + 1))
        for (_, _, until), (_, now, _) in pairwise(free):
            assert now >= until
        assert store.audit_log(10_000)["event"].tolist().count("lease taken over") >= len(free) - 1
        assert store.verify_audit() is None


# Departures


def leaving(**why: str) -> pd.DataFrame:
    return pd.DataFrame({"id": list(why), "why": list(why.values())})


def gone(store: Store, source: str = "acme") -> dict[str, tuple[datetime, str]]:
    frame = store.departures("crowd", source)
    assert frame.columns.tolist() == ["id", "since", "why"]
    assert str(frame["since"].dtype).endswith("UTC]")
    return {i: (since, why) for i, since, why in frame.itertuples(index=False, name=None)}


def note_writes(store: Store, table: str, column: str) -> Callable[[], list[tuple[str, str]]]:
    """Let the database note each row of `table` that is written; the notes so far, sorted."""
    with store._db.write() as connection:
        connection.execute(text("CREATE TABLE noted (what TEXT, id TEXT)"))
        if store._db.sqlite:
            for what, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
                connection.execute(
                    text(
                        f"CREATE TRIGGER noting_{what} AFTER {what} ON {table} "
                        f"BEGIN INSERT INTO noted VALUES ('{what}', {row}.{column}); END"
                    )
                )
        else:
            connection.execute(
                text(
                    "CREATE FUNCTION noting() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO noted "
                    f"VALUES (TG_OP, COALESCE(NEW.{column}, OLD.{column})); RETURN NULL; END'"
                )
            )
            connection.execute(
                text(
                    f"CREATE TRIGGER noting AFTER INSERT OR UPDATE OR DELETE ON {table} "
                    "FOR EACH ROW EXECUTE FUNCTION noting()"
                )
            )

    def notes() -> list[tuple[str, str]]:
        with store._db.read() as connection:
            return sorted(tuple(row) for row in connection.execute(text("SELECT what, id FROM noted")))

    return notes


def test_departures(store: Store) -> None:
    later = AT + timedelta(days=1)
    notes = note_writes(store, "departure", "id")
    assert gone(store) == {}
    assert store.save_departures("crowd", "acme", leaving(ann="deleted", bob="out of scope", cy="deleted"), at=AT) == 3
    assert gone(store) == {"ann": (AT, "deleted"), "bob": (AT, "out of scope"), "cy": (AT, "deleted")}
    written = notes()
    assert (
        store.save_departures("crowd", "acme", leaving(cy="deleted", ann="deleted", bob="out of scope"), at=later) == 0
    )
    assert notes() == written
    # Ann still leaves and why changed, Bob is as he was, Cy came back, Dee is new.
    now = leaving(dee="disabled", ann="disabled", bob="out of scope")
    assert store.save_departures("crowd", "acme", now, at=later) == 3
    assert gone(store) == {"ann": (AT, "disabled"), "bob": (AT, "out of scope"), "dee": (later, "disabled")}
    assert sorted([*written, ("DELETE", "cy"), ("INSERT", "dee"), ("UPDATE", "ann")]) == notes()
    # Who leaves again leaves anew.
    store.save_departures("crowd", "acme", leaving(cy="deleted"), at=later)
    assert gone(store) == {"cy": (later, "deleted")}
    assert store.save_departures("crowd", "acme", leaving(), at=later) == 1
    assert gone(store) == {}


def test_departures_among_a_few(store: Store) -> None:
    store.save_departures("crowd", "acme", leaving(ann="deleted", bob="disabled", cy="deleted"), at=AT)
    later = AT + timedelta(days=1)
    # Of these four, Bob still leaves, Cy came back and Dee is new; of Ann nothing is said.
    few = {"bob", "cy", "dee", "eve"}
    assert store.save_departures("crowd", "acme", leaving(bob="disabled", dee="deleted"), at=later, among=few) == 2
    assert gone(store) == {"ann": (AT, "deleted"), "bob": (AT, "disabled"), "dee": (later, "deleted")}
    assert store.save_departures("crowd", "acme", leaving(), at=later, among=()) == 0
    assert len(gone(store)) == 3


def test_departures_of_others_are_left_alone(store: Store) -> None:
    store.save_departures("crowd", "beta", leaving(ann="deleted"), at=AT)
    store.save_departures("other", "acme", leaving(ann="deleted", bob="deleted"), at=AT)
    later = AT + MINUTE
    assert store.save_departures("crowd", "acme", leaving(ann="gone"), at=later) == 1
    assert store.save_departures("crowd", "acme", leaving(), at=later) == 1
    assert gone(store) == {}
    assert gone(store, "beta") == {"ann": (AT, "deleted")}
    assert store.departures("other", "acme")["why"].tolist() == ["deleted"] * 2


def test_departures_of_odd_people(store: Store) -> None:
    odd = pd.DataFrame({"id": pd.Categorical(ODD), "why": ODD[::-1]})
    assert store.save_departures("crowd", "acme", odd, at=AT) == len(ODD)
    assert {i: why for i, (_, why) in gone(store).items()} == dict(zip(ODD, ODD[::-1], strict=True))
    assert store.save_departures("crowd", "acme", pd.concat([odd, odd]), at=AT) == 0
    before = contents(store)
    twice = pd.DataFrame({"id": ["x", "x", "y"], "why": ["deleted", "disabled", "deleted"]})
    with pytest.raises(RecordError, match="acme:x leaves directory 'crowd' for two reasons"):
        store.save_departures("crowd", "acme", twice, at=AT)
    assert contents(store) == before


def test_departures_saved_at_once(store: Store) -> None:
    people = pd.DataFrame({"id": [f"u{i}" for i in range(3_000)], "why": "deleted"})
    written = at_once(
        store,
        "LOCK departure IN SHARE ROW EXCLUSIVE MODE",
        lambda _: store.save_departures("crowd", "acme", people, at=AT),
    )
    assert sorted(written) == [0] * 7 + [3_000]


def test_a_hundred_thousand_departures(store: Store) -> None:
    ids = [f"u{i:06}" for i in range(120_000)]  # more than one slice of the bulk paths
    people = pd.DataFrame({"id": ids[::-1], "why": "deleted"})
    store.save_departures("crowd", "acme", people, at=AT)
    assert store.save_departures("crowd", "acme", people, at=AT + MINUTE) == 0
    changed = people.iloc[:-10].copy()
    changed.iloc[:20, 1] = "disabled"
    assert store.save_departures("crowd", "acme", changed, at=AT + MINUTE) == 30
    stored = store.departures("crowd", "acme")
    assert stored["id"].tolist() == ids[10:]
    assert (stored["why"] == "disabled").sum() == 20
    assert set(stored["since"]) == {AT}


# Decisions


def decide(store: Store, plan_id: int, **changed: Any) -> int:
    values: dict[str, Any] = {
        "digest": "d1",
        "decision": "approve",
        "actor": "ann",
        "reason": "reorganisation",
        "expires_at": AT + 60 * MINUTE,
        "via": "prefect",
        "at": AT + MINUTE,
    }
    return store.decide(plan_id, **values | changed)


@pytest.mark.parametrize("status", ["planned", "refused", "waiting"])
@pytest.mark.parametrize(
    ("decision", "without", "becomes"),
    [
        ("approve", (), "approved"),
        ("approve_without", ("user_delete", "user_deactivate", "user_delete"), "approved"),
        ("reject", (), "rejected"),
    ],
)
def test_a_decision(store: Store, status: str, decision: str, without: tuple[str, ...], becomes: str) -> None:
    plan_id, other = plan(store, status=status), plan(store)
    assert store.decision(plan_id, now=AT) is None
    number = decide(
        store, plan_id, decision=decision, without=without, actor=" ann\0", reason="so\nbe it ", via="command line"
    )
    made = store.decision(plan_id, now=AT + MINUTE)
    assert made == Decision(
        id=number,
        plan_id=plan_id,
        digest="d1",
        at=AT + MINUTE,
        actor="ann\ufffd",
        decision=decision,
        without=without[:2],
        reason="so\nbe it",
        expires_at=AT + 60 * MINUTE,
        via="command line",
    )
    stored = store.load_plan(plan_id)
    assert (stored.status, stored.status_at) == (becomes, AT + MINUTE)
    assert store.load_plan(other).status == "planned"
    assert store.decision(other, now=AT) is None
    row = store.audit_log().iloc[0]
    assert (row["event"], row["actor"], row["subject"], row["at"]) == (
        "approval",
        "ann\ufffd",
        f"plan {plan_id}",
        AT + MINUTE,
    )
    assert orjson.loads(row["details"]) == {
        "decision": decision,
        "reason": "so\nbe it",
        "digest": "d1",
        "without": list(without[:2]),
        "via": "command line",
    }


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"digest": "d2"}, RefusedError, "its digest is d1, the decision's d2"),
        ({"actor": " \n"}, ConfigurationError, "name of who decides"),
        ({"reason": "\t"}, ConfigurationError, "needs a reason"),
        ({"decision": "aprove"}, ConfigurationError, "'aprove' is no decision"),
        ({"via": "mail"}, ConfigurationError, "'mail' is no way to decide; there are prefect, command line"),
        ({"decision": "approve_without"}, ConfigurationError, "at least one"),
        ({"without": ("user_delete",)}, ConfigurationError, "the others none"),
        ({"decision": "reject", "without": ("user_delete",)}, ConfigurationError, "the others none"),
        ({"decision": "approve_without", "without": ("user_delte",)}, ConfigurationError, "'user_delte' is no kind"),
        ({"expires_at": AT + MINUTE}, ConfigurationError, "over before it is made"),
    ],
)
def test_a_decision_that_is_none(store: Store, changed: dict[str, Any], error: type[Exception], message: str) -> None:
    plan_id = plan(store)
    before = contents(store)
    with pytest.raises(error, match=message) as raised:
        decide(store, plan_id, **changed)
    assert "\n" not in str(raised.value)
    with pytest.raises(RecordError, match="no plan 99"):
        decide(store, 99)
    assert contents(store) == before


@pytest.mark.parametrize(
    "status", ["approved", "rejected", "applying", "applied", "failed", "interrupted", "superseded"]
)
def test_a_plan_that_is_past_deciding(store: Store, status: str) -> None:
    plan_id = plan(store, status=status)
    before = contents(store)
    for decision in ("approve", "reject"):
        with pytest.raises(RefusedError, match=f"is {status} and no longer open"):
            decide(store, plan_id, decision=decision)
    assert contents(store) == before


def test_a_decision_stands_or_falls_with_its_audit_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_id = plan(store)
    before = contents(store)

    def full(*_: Any, **__: Any) -> int:
        raise RecordError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", full)
        with pytest.raises(RecordError, match="no room"):
            decide(store, plan_id)
    assert contents(store) == before
    decide(store, plan_id)


def test_decisions_expire_and_are_kept(store: Store) -> None:
    plan_id, other = plan(store), plan(store)
    first = decide(store, plan_id)
    assert store.decision(plan_id, now=AT + 60 * MINUTE - timedelta(microseconds=1)) is not None
    assert store.decision(plan_id, now=AT + 60 * MINUTE) is None
    before = contents(store, "decision")["decision"]
    store.set_plan_status(plan_id, "waiting", at=AT)
    second = decide(store, plan_id, decision="reject", at=AT + 2 * MINUTE, expires_at=AT + 5 * MINUTE)
    third = decide(store, other)
    assert first < second < third
    assert set(before) < set(contents(store, "decision")["decision"])
    found = store.decision(plan_id, now=AT + 2 * MINUTE)
    assert found is not None
    assert (found.id, found.decision) == (second, "reject")
    # The rejection is over; the approval before it does not come back.
    assert store.decision(plan_id, now=AT + 5 * MINUTE) is None
    listed = store.decisions()
    assert listed["id"].tolist() == [third, second, first]
    assert listed["decision"].tolist() == ["approve", "reject", "approve"]
    assert listed["expires_at"].tolist() == [AT + 60 * MINUTE, AT + 5 * MINUTE, AT + 60 * MINUTE]
    assert listed["at"].tolist()[1] == AT + 2 * MINUTE
    assert listed["without"].tolist() == ["[]"] * 3
    assert store.decisions(limit=1)["id"].tolist() == [third]


def test_of_many_who_decide_at_once_one_does(store: Store) -> None:
    plan_id = plan(store)
    made = at_once(
        store,
        "SELECT 1 FROM plan FOR UPDATE",
        lambda i: decide(store, plan_id, decision=("approve", "reject")[i % 2], actor=f"p{i}"),
    )
    assert sum(isinstance(number, int) for number in made) == 1
    assert sum(isinstance(error, RefusedError) for error in made) == 7
    assert len(store.decisions()) == len(store.audit_log()) == 1


# Health


def test_a_failing_source_rests_longer_each_time(store: Store) -> None:
    assert store.quarantine("acme", now=AT) is None
    first = store.failed("acme", "no\0 answer", at=AT)
    assert first == Quarantine("acme", 1, AT, AT + timedelta(seconds=300), "no\ufffd answer")
    assert store.quarantine("acme", now=AT + timedelta(seconds=299)) == first
    assert store.quarantine("acme", now=AT + timedelta(seconds=300)) is None
    assert store.quarantine("beta", now=AT) is None
    pauses = []
    for i in range(1, 10):
        again = store.failed("acme", f"error {i}", at=AT + i * MINUTE)
        assert (again.failures, again.since, again.error) == (i + 1, AT, f"error {i}")
        pauses.append((again.until - (AT + i * MINUTE)).total_seconds())
    assert pauses == [600, 1200, 2400, 4800, 9600, 19200, 21600, 21600, 21600]
    store.failed("beta", "refused", at=AT, first_pause=10, longest=15)
    assert store.failed("beta", "refused", at=AT, first_pause=10, longest=15).until == AT + timedelta(seconds=15)
    frame = store.quarantines()
    assert frame.columns.tolist() == ["source", "failures", "since", "until", "error"]
    assert frame["source"].tolist() == ["acme", "beta"]
    assert frame["failures"].tolist() == [10, 2]
    assert frame["until"].tolist() == [AT + 9 * MINUTE + timedelta(hours=6), AT + timedelta(seconds=15)]


def test_a_source_that_failed_for_a_year(store: Store) -> None:
    store.failed("acme", "e", at=AT)
    with store._db.write() as connection:
        connection.execute(text("UPDATE source_health SET failures = 5000"))
    assert store.failed("acme", "e", at=AT).until == AT + timedelta(hours=6)


def test_recovery(store: Store) -> None:
    assert store.recovered("acme", at=AT) is None
    assert store.audit_log().empty
    assert store.quarantines().empty
    store.failed("acme", "down", at=AT)
    last = store.failed("acme", "down", at=AT + MINUTE)
    other = store.failed("beta", "down", at=AT)
    assert store.recovered("acme", at=AT + 60 * MINUTE) == last
    assert store.recovered("acme", at=AT + 60 * MINUTE) is None
    assert store.quarantine("acme", now=AT) is None
    assert store.quarantine("beta", now=AT) == other
    # It starts anew.
    assert store.failed("acme", "down", at=AT + 90 * MINUTE).failures == 1
    log = store.audit_log()
    assert log["event"].tolist()[::-1] == ["source quarantined"] * 3 + ["source recovered", "source quarantined"]
    assert log["subject"].tolist()[::-1] == ["acme", "acme", "beta", "acme", "acme"]
    assert log["at"].tolist()[1] == AT + 60 * MINUTE
    assert orjson.loads(log["details"][1])["failures"] == 2
    details = orjson.loads(log["details"][0])
    assert (details["failures"], details["error"]) == (1, "down")
    assert store.verify_audit() is None


def test_failures_at_once_are_all_counted(store: Store) -> None:
    made = at_once(
        store, "LOCK source_health IN SHARE ROW EXCLUSIVE MODE", lambda i: store.failed("acme", f"{i}", at=AT).failures
    )
    assert sorted(made) == list(range(1, 9))


# Past counts


def test_past_counts(store: Store) -> None:
    empty = store.past_counts("acme", "crowd")
    assert empty.columns.tolist() == ["plan"]
    assert empty.empty
    a = plan(store, "user_create", "user_create", "user_delete")
    b = plan(store, "membership_add", "user_create")
    c = plan(store, operations=operations())
    others = [
        plan(store, "group_delete", source="beta"),
        plan(store, "group_delete", directory="other"),
        failed := plan(store, "group_delete"),
    ]
    for number in (a, b, c, *others):
        store.set_plan_status(number, "failed" if number == failed else "applied", at=AT)
    counts = store.past_counts("acme", "crowd")
    assert counts.columns.tolist() == ["plan", "membership_add", "user_create", "user_delete"]
    assert counts.to_numpy().tolist() == [[c, 0, 0, 0], [b, 1, 1, 0], [a, 0, 2, 1]]
    assert {str(dtype) for dtype in counts.dtypes} == {"int64"}
    assert store.past_counts("acme", "crowd", limit=2).to_numpy().tolist() == [[c, 0, 0], [b, 1, 1]]


# The way from the schema before


def an_older_plan(store: Store) -> int:
    """A plan of two operations as schema 0002 has it."""
    values = dict.fromkeys(("run", "source", "policy", "created_at", "status_at"), "x")
    values |= {"directory": "crowd", "digest": "d1", "held": "[]", "status": "planned"}
    values |= {"created_at": AT.isoformat(), "status_at": AT.isoformat()}
    whole = {"id": 1, **values, "source_snapshot": 1, "directory_snapshot": 2}
    with store._db.write() as connection:
        names = ", ".join(whole)
        marks = ", ".join(f":{name}" for name in whole)
        connection.execute(text(f"INSERT INTO plan ({names}) VALUES ({marks})"), whole)
        for seq in (0, 1):
            texts = ("name", "target", "source_id", "record", "before", "reason", "note", "intended_at", "finished_at")
            row = {"plan_id": 1, "seq": seq, "phase": 1, "kind": "user_create", "state": "planned", "attempts": 0}
            row |= dict.fromkeys(texts, "")
            names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO operation ({names}) VALUES ({marks})"), row)
    return 1


def test_from_schema_0002_with_data(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS, older, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (older / "versions").glob("[0-9]*.py"):
        if path.name[:4] > "0002":
            path.unlink()
    new = [
        "decision",
        "delivery",
        "departure",
        "held_record",
        "in_step",
        "inbox",
        "indexed_key",
        "indexed_space",
        "lease",
        "mirror",
        "mirror_gone",
        "mirror_member",
        "mirror_record",
        "source_health",
        "token",
        "wide_read",
    ]
    old = [t for t in TABLES if t not in new]
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", older)
        with Store.open(url) as store:
            saved = store.save_snapshot(
                "source:acme",
                Snapshot.of(users_frame([("u1", "ann", "a@x", "A", "B", "A B", True, "{}")])),
                taken_at=AT,
                run="r1",
            )
            plan_id = an_older_plan(store)
            store.intend(plan_id, [0], at=AT)
            link = pd.DataFrame(
                [("acme", "user", "u1", "ann", "created")], columns=["source", "kind", "id", "name", "how"]
            )
            store.save_links("crowd", link, at=AT, run="r1")
            before = contents(store, *old)
            before["plan"] = [row.removesuffix(")") + ", '', '')" for row in before["plan"]]  # about all, asks nothing
            with store._db.read() as connection, pytest.raises(Exception, match="lease"):
                connection.execute(text("SELECT * FROM lease"))
    with pytest.raises(ConfigurationError, match=r"schema 0002.*crowdsync database upgrade"):
        Store.open(url)
    assert Store.upgrade(url) == ("0002", database.revisions()[-1])
    with Store.open(url) as store:
        assert contents(store, *old) == before
        assert contents(store, *new) == {t: [] for t in new}
        assert store.load_snapshot(saved.id).digest() == saved.digest
        # The old plan is led on by the new parts.
        store.intend(plan_id, [1], at=AT, fence=taken(store))
        decide(store, plan_id)
        store.save_departures("crowd", "acme", leaving(u1="deleted"), at=AT)
        store.failed("acme", "down", at=AT)
        assert store.load_plan(plan_id).status == "approved"
        assert store.verify_audit() is None


# ── what is held, and for how long ──────────────────────────────────────────────────────────────


def holding(*ids: str, kind: str = "user", reason: str = "why") -> pd.DataFrame:
    return pd.DataFrame({"kind": [kind] * len(ids), "id": list(ids), "reason": [reason] * len(ids)}, dtype="str")


def held(store: Store, source: str = "acme", directory: str = "crowd") -> dict[str, tuple[int, datetime]]:
    frame = store.held_records(directory, source)
    return {i: (int(runs), since) for i, runs, since in zip(frame["id"], frame["runs"], frame["since"], strict=True)}


def test_held_records_count_their_runs(store: Store) -> None:
    store.save_held("crowd", "acme", holding("ann", "bob"), run="r1", at=AT)
    store.save_held("crowd", "acme", holding("ann", "bob"), run="r1", at=AT + MINUTE)  # taken up again after a question
    assert held(store) == {"ann": (1, AT), "bob": (1, AT)}
    store.save_held("crowd", "acme", holding("ann", "cy", reason="another"), run="r2", at=AT + MINUTE)
    assert held(store) == {"ann": (2, AT), "cy": (1, AT + MINUTE)}
    assert set(store.held_records("crowd", "acme")["reason"]) == {"another"}
    store.save_held("crowd", "beta", holding("ann"), run="r3", at=AT)
    store.save_held("other", "acme", holding("ann"), run="r3", at=AT)
    store.save_held("crowd", "acme", holding("bob"), run="r4", at=AT + 2 * MINUTE)
    assert held(store) == {"bob": (1, AT + 2 * MINUTE)}, "who is held again is held anew"
    store.save_held("crowd", "acme", holding(), run="r5", at=AT)
    assert held(store) == {}
    assert held(store, "beta") == held(store, "acme", "other") == {"ann": (1, AT)}


def test_held_records_of_any_name_and_of_two_kinds(store: Store) -> None:
    both = pd.concat([holding(*ODD), holding(*ODD, kind="group"), holding("a", reason="a second one")])
    for run in ("r1", "r2"):
        store.save_held("crowd", "acme", both, run=run, at=AT)
    frame = store.held_records("crowd", "acme")
    assert len(frame) == 2 * len(ODD)
    assert set(frame["runs"]) == {2}
    assert set(frame["reason"]) == {"why"}
    assert frame["told_at"].isna().all()
    store.tell_held("crowd", "acme", holding(*ODD), at=AT)
    told = store.held_records("crowd", "acme").dropna()
    assert set(told["kind"]) == {"user"}
    assert set(told["id"]) == set(ODD)
    store.save_held("crowd", "acme", both, run="r3", at=AT + MINUTE)
    assert store.held_records("crowd", "acme")["told_at"].notna().sum() == len(ODD), "who was told stays so"
