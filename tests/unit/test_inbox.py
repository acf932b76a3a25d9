"""The inbox: what is told in real time is kept once, handed out until it is settled, and never lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import psycopg
import pytest
from sqlalchemy import event, text
from typer.testing import CliRunner

from connectors.errors import RecordError, RetryableError
from connectors.model import Snapshot, users_frame
from connectors.store import Hint, Incoming, Store
from connectors.store.inbox import KEEP, LONGEST_PAUSE, TRIES, forget, pause
from deployments.cli import app

AT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def news(*keys: str, via: str = "webhook") -> tuple[tuple[str, str, str], ...]:
    return tuple(("user", key, via) for key in keys)


def told(store: Store, *keys: str, delivery: str = "", at: datetime = AT, via: str = "webhook") -> int:
    return store.accept("crowd", "acme", news(*keys, via=via), delivery, at)


def due(store: Store, at: datetime = AT) -> list[Hint]:
    return store.due("crowd", at)


def keys(store: Store, at: datetime = AT) -> list[str]:
    return [hint.key for hint in due(store, at)]


def taken(store: Store, batch: str = "b1", at: datetime = AT) -> list[int]:
    return store.take([hint.id for hint in due(store, at)], batch, at)


def child(work: Callable[[], object]) -> int:
    """A forked process that does the work and ends without cleaning up. Its number."""
    process = os.fork()
    if not process:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return process


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Accepting


def test_what_is_accepted_is_due_in_order_and_of_its_directory(store: Store) -> None:
    assert told(store, "z", "a") == 2
    assert store.accept("other", "acme", news("a"), "", AT) == 1
    assert told(store, "m", at=AT + SECOND) == 1
    assert keys(store) == ["z", "a", "m"]
    assert [hint.key for hint in store.due("crowd", AT, limit=2)] == ["z", "a"]
    assert due(store)[0].received_at == AT
    assert store.next_due("crowd") == AT
    assert store.next_due("nowhere") is None


def test_a_delivery_that_is_sent_again_is_not_taken_twice(store: Store) -> None:
    assert told(store, "a", "b", delivery="d1") == 2
    assert told(store, "a", "b", delivery="d1") == 0
    store.settle(taken(store), "done", "", AT)
    assert told(store, "a", "b", "c", delivery="d1") == 0
    assert keys(store) == []
    assert store.accept("crowd", "other", news("a"), "d1", AT) == 1  # another's own d1
    assert store.accept("crowd2", "acme", news("a"), "d1", AT) == 1
    assert told(store, "a", delivery="") == told(store, "b", delivery="") == 1  # (nothing tells these apart)


def test_news_of_a_record_that_waits_are_not_doubled(store: Store) -> None:
    assert told(store, "a", "b", delivery="d1") == 2
    assert told(store, "b", "c", "c", delivery="d2") == 1
    assert store.accept("crowd", "acme", (("group", "a", "webhook"),), "d3", AT) == 1
    assert [(hint.kind, hint.key) for hint in due(store)] == [
        *(("user", "a"), ("user", "b"), ("user", "c"), ("group", "a"))
    ]
    assert told(store, "b", "x", delivery="d2") == 0  # remembered, though nothing of "b" was stored for it


def test_what_is_told_while_a_run_looks_is_looked_at_afterwards(store: Store) -> None:
    told(store, "a")
    first = taken(store)
    assert told(store, "a") == 1
    assert told(store, "a") == 0
    store.settle(first, "done", "", AT)
    [hint] = due(store)
    assert hint.id not in first


def test_a_sign_in_and_something_else_are_told_together(store: Store) -> None:
    told(store, "a", "b", via="sign-in")
    told(store, "a")
    told(store, "a", "b", via="sign-in")
    assert {hint.key: hint.via for hint in due(store)} == {"a": "both", "b": "sign-in"}
    assert told(store, "a", via="sign-in") == 0
    counts = store.accept_all(
        [Incoming("crowd", "acme", news("c", via=via), "", AT) for via in ("sign-in", "scim", "webhook")]
    )
    assert counts == [1, 0, 0]
    assert due(store)[-1].via == "both"


def test_a_sign_in_that_was_not_seen_to_is_not_forgotten(store: Store) -> None:
    told(store, "a", "b", via="sign-in")
    ids = [hint.id for hint in due(store)]
    store.take(ids, "run", AT)
    told(store, "a")
    store.give_back(ids, "failed", AT)
    assert {hint.key: hint.via for hint in store.due("crowd", AT + timedelta(hours=1))} == {"a": "both", "b": "sign-in"}
    told(store, "b")  # (it waits for another try, and need not any more)
    assert {hint.key: hint.via for hint in due(store)} == {"a": "both", "b": "both"}


def test_when_people_were_looked_at(store: Store) -> None:
    told(store, "a", "b", "c", "d", via="sign-in")
    told(store, "e")
    rows = {hint.key: hint.id for hint in due(store)}
    store.take([rows[key] for key in "abce"], "run", AT)
    store.settle([rows[key] for key in "abde"], "done", "", AT)  # (nobody looked at d; nobody is done with c)
    people, before = list("abcdef"), AT - timedelta(minutes=15)
    assert store.looked_at("crowd", "acme", people, before) == dict.fromkeys("abe", AT)
    assert store.looked_at("crowd", "acme", people, before, ("sign-in", "both")) == dict.fromkeys("ab", AT)
    assert store.looked_at("crowd", "acme", people, AT + timedelta(seconds=1)) == {}
    assert store.looked_at("crowd", "other", people, before) == {}


def test_many_deliveries_in_one_transaction(store: Store) -> None:
    many = [Incoming("crowd", "acme", news(f"u{n % 1500}"), f"d{n % 2500}", AT) for n in range(3000)]
    assert store.accept_all(many) == [1] * 1500 + [0] * 1500
    assert store.accept_all(many) == [0] * 3000
    assert store.accept_all([]) == []
    assert told(store, delivery="empty") == 0
    assert [hint.key for hint in store.due("crowd", AT, 5000)] == [f"u{n}" for n in range(1500)]


@pytest.mark.parametrize("wrong", ["nul\0", "half \ud83d", "é" * 600], ids=["nul", "surrogate", "long"])
def test_text_that_no_database_keeps_is_turned_away_before(wrong: str, store: Store) -> None:
    for delivery, key in ((wrong, "a"), ("d1", wrong)):
        with pytest.raises(RecordError, match="cannot be kept") as refused:
            told(store, key, delivery=delivery)
        assert str(refused.value).isprintable()
    assert keys(store) == []
    assert told(store, "é" * 500, delivery="d1") == 1  # neither was remembered


def test_odd_text_that_can_be_kept_is_kept(store: Store) -> None:
    odd = ["'; DROP TABLE inbox; --", "\U0010fffe0", "a\nb", "%", "", "🜁"]
    assert told(store, *odd, delivery="\n") == len(odd)
    assert keys(store) == odd
    store.give_back(taken(store), "why\0 \udc00", AT)
    assert due(store, AT + pause(1))[0].note == "why\ufffd ?"


# Failing


def test_what_fails_waits_longer_each_time_and_is_held_in_the_end(store: Store) -> None:
    told(store, "a")
    now, waits = AT, []
    for tries in range(1, TRIES + 1):
        [one] = taken(store, f"b{tries}", now)
        held = store.give_back([one], f"no. {tries}", now)
        assert held == ([one] if tries == TRIES else [])
        again = store.next_due("crowd")
        if again is not None:
            assert keys(store, again - SECOND) == []
            waits.append((again - now).total_seconds())
            now = again
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    assert keys(store, now + 2 * LONGEST_PAUSE) == []
    frame = store.inbox()
    assert frame[["key", "status", "attempts", "batch", "note"]].to_numpy().tolist() == [
        ["a", "held", TRIES, f"b{TRIES}", f"no. {TRIES}"]
    ]
    assert store.retry([one], now, "by hand") == [one]
    assert [(hint.id, hint.attempts) for hint in due(store, now)] == [(one, 0)]


def test_what_is_told_again_need_not_wait_for_another_try(store: Store) -> None:
    told(store, "a", "b", "c")
    tried = taken(store)
    store.give_back(tried[:2], "failed", AT)
    store.settle(tried[1:2], "held", "no use", AT)
    assert told(store, "c") == 1  # while the run still looks at it
    assert keys(store) == ["c", "c"]
    assert told(store, "a", "b") == 2
    store.give_back(tried[2:], "failed", AT)
    assert [(hint.key, hint.attempts) for hint in due(store)] == [("c", 0), ("a", 0), ("b", 0)]
    assert store.next_due("crowd") == AT
    assert set(store.inbox()["status"]) == {"waiting"}
    done = store.inbox(batch="b1")
    assert set(zip(done["id"], done["note"], strict=True)) == {(one, "told again") for one in tried}
    assert store.retry(tried, AT, "") == []


def test_two_rows_of_a_record_that_fail_together_become_one(store: Store) -> None:
    told(store, "a")
    taken(store)
    told(store, "a")
    both = taken(store, "b2")
    assert len(both) == 2
    store.give_back(both, "failed", AT)
    assert [hint.id for hint in due(store, AT + LONGEST_PAUSE)] == [both[1]]
    taken(store, "b3", AT + LONGEST_PAUSE)
    store.settle(both, "held", "", AT)
    assert store.inbox()["id"].tolist() == [both[1]]


def test_take_leaves_out_what_is_done(store: Store) -> None:
    told(store, "a", "b")
    one, two = (hint.id for hint in due(store))
    store.settle([one], "done", "", AT)
    assert store.take([one, two], "b1", AT) == [two]
    assert store.take([], "b1", AT) == []
    store.settle([one], "held", "", AT)
    assert store.inbox()["id"].tolist() == [two]


def test_counts_and_the_age_of_the_oldest(store: Store) -> None:
    told(store, "a", at=AT + SECOND)
    told(store, "b", at=AT)
    store.accept("crowd", "other", news("a"), "", AT)
    held = [hint.id for hint in due(store) if hint.source == "other"]
    store.settle(store.take(held, "b1", AT), "held", "", AT)
    assert store.waiting().to_numpy().tolist() == [
        ["crowd", "acme", "waiting", 2, AT],
        ["crowd", "other", "held", 1, AT],
    ]


async def test_what_fills_the_inbox_goes_on_forgetting(store: Store) -> None:
    forgetting = asyncio.create_task(forget(store, 0.01))
    for n in range(3):
        old = datetime.now(UTC) - KEEP - SECOND
        told(store, f"u{n}", delivery=f"d{n}", at=old)
        store.settle(taken(store), "done", "", old)
        async with asyncio.timeout(10):
            while not store.inbox(done_since=old - SECOND).empty:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    forgetting.cancel()
    assert told(store, "u0", delivery="d0", at=datetime.now(UTC)) == 1


def test_pruning_forgets_what_was_done_and_came_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.store.inbox._SLICE", 3)
    for n in range(8):
        told(store, f"u{n}", delivery=f"d{n}", at=AT + n * SECOND)
    ids = taken(store)
    for n, one in enumerate(ids[:6]):
        store.settle([one], "done", "", AT + n * SECOND)
    store.settle(ids[6:7], "held", "", AT)
    assert store.prune_inbox(AT + 4 * SECOND) == 4 + 4
    assert store.inbox(done_since=AT)["id"].tolist() == [ids[6], ids[7], ids[5], ids[4]]
    assert told(store, "u3", delivery="d3") == 1
    assert told(store, "u4", delivery="d4") == 0


# Nothing is lost


@pytest.mark.parametrize("moment", ["before", "after accepting", "taken"])
def test_a_process_that_is_killed(moment: str, store: Store, store_url: str) -> None:
    def work() -> None:
        with Store.open(store_url) as mine:
            if moment == "before":
                event.listen(mine._db.engine, "commit", lambda _: killed())
            told(mine, "a", "b", delivery="d1")
            if moment == "taken":
                taken(mine)
            killed()

    _, status = os.waitpid(child(work), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    again = told(store, "a", "b", delivery="d1")  # as the sender does that had no answer
    assert again == (2 if moment == "before" else 0)
    assert keys(store) == ["a", "b"]
    assert {hint.attempts for hint in due(store)} == {1 if moment == "taken" else 0}
    assert len(taken(store, "b2")) == 2


def test_many_processes_accept_and_one_takes(store: Store, store_url: str) -> None:
    """Every record is looked at after each of its news, some looks fail, and no row is looked at twice."""
    writers, each = 4, 60

    def write(number: int) -> None:
        with Store.open(store_url) as mine:
            for n in range(each):
                at = datetime.now(UTC)
                many = [
                    Incoming("crowd", "acme", news(f"u{n % 7}", f"w{number}.{n}"), f"{number}.{n}.{i}", at)
                    for i in range(2)
                ]
                mine.accept_all(many)

    running = [child(lambda number=number: write(number)) for number in range(writers)]  # type: ignore[misc]
    seen: list[int] = []
    looked: list[str] = []
    batch = 0
    while running or store.next_due("crowd") is not None:
        for process in list(running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                assert status == 0
                running.remove(process)
        hints = store.due("crowd", datetime.now(UTC) + LONGEST_PAUSE)
        batch += 1
        ids = store.take([hint.id for hint in hints], f"b{batch}", AT)
        assert set(ids) <= {hint.id for hint in hints}  # (not what was told again between the two)
        failed = [one for one in ids if one % 10 == batch % 10]
        store.give_back(failed, "", AT)
        done = [one for one in ids if one not in failed]
        store.settle(done, "done", "", AT)
        seen += done
        looked += [hint.key for hint in hints if hint.id in done]
    assert len(seen) == len(set(seen))
    assert {key for key in looked if key.startswith("w")} == {f"w{w}.{n}" for w in range(writers) for n in range(each)}
    assert {f"u{n}" for n in range(7)} <= set(looked)
    assert store.waiting().empty
    with store._db.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM delivery")).scalar_one() == writers * each * 2


def test_a_full_disk_is_told_and_what_was_accepted_stays(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:

        @event.listens_for(store._db.engine, "connect")
        def full(connection: sqlite3.Connection, _: Any) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages + 20}")

        store._db.engine.dispose()
        kept = 0
        with pytest.raises(RetryableError, match="make room"):  # noqa: PT012 (which of them fails is the disk's)
            while True:
                kept += told(store, f"{kept:0500}", delivery=f"d{kept}")
        assert kept > 5
        assert len(keys(store)) == kept
        with pytest.raises(RetryableError, match="make room"):
            told(store, "y" * 500, delivery=f"d{kept}")
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        assert told(store, "y", delivery=f"d{kept}") == 1


def test_a_database_that_is_held_is_told(store_url: str, store: Store) -> None:
    with (
        Store.open(store_url, busy=0.2) as mine,
        store._db.write() as connection,
    ):
        store._db.lock(connection, 8)  # type: ignore[arg-type]
        with pytest.raises(RetryableError):
            told(mine, "a", delivery="d1")
    assert told(store, "a", delivery="d1") == 1


def test_what_is_accepted_is_synced_to_the_disk(store_url: str, store: Store) -> None:
    if store_url.startswith("sqlite"):
        with store._db.write() as connection:
            assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2  # FULL


def test_accepting_costs_little(store: Store) -> None:
    began = time.process_time()
    for n in range(100):
        told(store, f"u{n}", delivery=f"d{n}")
    assert (time.process_time() - began) / 100 < 0.02
    many = [Incoming("crowd", "acme", news(f"m{n}"), f"m{n}", AT) for n in range(1000)]
    began = time.process_time()
    store.accept_all(many)
    assert time.process_time() - began < 2


# Waking


async def test_news_wakes_whoever_waits_for_them(store: Store, store_url: str) -> None:
    async with store.wake("crowd") as wake:
        assert await wake(5)  # the first call is for what came before
        assert not await wake(0.2)
        with Store.open(store_url) as other:
            await asyncio.to_thread(told, other, "a")
            began = time.monotonic()
            assert await wake(20)  # came between two calls
            waiting = asyncio.create_task(wake(20))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await asyncio.to_thread(told, other, "b")
            assert await waiting
            assert time.monotonic() - began < 10
            held = [hint.id for hint in due(store)]
            store.settle(held, "held", "", AT)
            while await wake(0.2):
                pass
            store.retry(held, AT, "")
            assert await wake(20)
        waiting = asyncio.create_task(wake(20))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.postgres
async def test_a_listener_that_was_cut_off_listens_again(server: Any) -> None:
    with server.database() as url, Store.open(url) as store:
        async with store.wake("crowd") as wake:
            assert await wake(5)
            store.accept("other", "acme", news("a"), "", AT)
            assert not await wake(0.3)  # not ours
            waiting = asyncio.create_task(wake(20))
            await asyncio.sleep(0.1)
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN crowdsync%'"
                )
            assert await waiting  # after a second, in which the database may come back
            assert await wake(5)  # it listens anew, and something may have come meanwhile
            assert not await wake(0.2)
            await asyncio.to_thread(told, store, "b")
            assert await wake(20)


async def test_a_database_that_is_gone_does_not_spin(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        async with store.wake("crowd") as wake:
            assert await wake(1)
            assert wake._file is not None
            wake._file.close()
            began = time.monotonic()
            assert await wake(0.3)
            assert time.monotonic() - began >= 0.3
            assert await wake(1)


# The command


def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration with a store of its own: its address."""
    url = f"sqlite:///{tmp_path}/store.db"
    (tmp_path / "crowdsync.toml").write_text(
        f'[store]\nurl = "{url}"\n[directory]\nurl = "http://127.0.0.1:1/crowd"\napplication = "x"\n'
        '[sources.acme]\nkind = "scim"\nurl = "http://127.0.0.1:1"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    return url


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*words: str, code: int = 0) -> str:
        answer = CliRunner().invoke(app, ["inbox", *words], env={"COLUMNS": "80"})
        assert answer.exit_code == code, (answer.output, answer.exception)
        return answer.output

    url = configured(tmp_path, monkeypatch)
    with Store.open(url) as store:
        assert "Nothing waits" in asked()
        now = datetime.now(UTC)
        told(store, "00u1a2b3c4d5e6f7g8h9", "two\x1b[31m", "three", at=now)
        one, two, three = taken(store, at=now)
        store.settle([one], "held", "Crowd says no", now)
        store.give_back([two], "the source does not answer", now)
        shown = asked()
        rows = [line.split() for line in shown.splitlines()]
        assert max(map(len, shown.splitlines())) <= 80
        assert [str(one), "acme", "user", "00u1a2b3c4d5e6f7g8h9", "webhook"] == rows[2][:5]
        assert [line.strip() for line in shown.splitlines()][3:5] == ["status held", "Crowd says no"]
        assert "at work" in shown
        assert "\\u001b" in shown
        assert "again at 2" in shown
        assert "UTC, the source does not answer" in shown
        assert "1 held" in shown
        assert "2 waiting" in shown
        for wrong in ("99", str(three), "x"):
            assert "--retry: there is no row" in asked("--retry", wrong, code=2)
        assert "1 row is" in asked("--retry", str(two))
        assert "2 rows are" in asked("--retry", "all")
        assert {hint.id for hint in due(store, datetime.now(UTC))} == {one, two, three}
        store.settle([one, two, three], "done", "", datetime.now(UTC))
        assert "Nothing waits" in asked()
        assert "done" in asked("--all")
        assert len(asked("--all", "-n", "1").splitlines()) < len(asked("--all").splitlines())


def test_people_are_shown_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = configured(tmp_path, monkeypatch)
    ann = ("5723807b-1c6e-4a53-9a0f-0c1d2e3f4a5b", "ann.lee@example.org", "", "", "", "", True, "{}")
    with Store.open(url) as store:
        told(store, ann[0], "gone", "unknown", at=(now := datetime.now(UTC)))
        store.accept("crowd", "acme", [("account", "gone", "crowd"), ("group", ann[0], "webhook")], "", now)
        store.save_snapshot("source:acme", Snapshot.of(users_frame([ann])), taken_at=now, run="r")
        links = pd.DataFrame(
            [("acme", "user", "gone", "bob", "created")], columns=["source", "kind", "id", "name", "how"]
        )
        store.save_links("crowd", links, at=now, run="r")
    shown = CliRunner().invoke(app, ["inbox", "--json"])
    names = {(row["kind"], row["key"]): row["name"] for row in orjson.loads(shown.output)}
    assert names == {
        ("user", ann[0]): ann[1], ("user", "gone"): "bob", ("user", "unknown"): "", ("account", "gone"): "",
        ("group", ann[0]): "",
    }  # fmt: skip
    shown = CliRunner().invoke(app, ["inbox"], env={"COLUMNS": "80"})
    assert f"{ann[1]} ({ann[0]})" in " ".join(shown.output.split())
    assert max(map(len, shown.output.splitlines())) <= 80
