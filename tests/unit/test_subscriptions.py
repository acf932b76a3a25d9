"""Subscriptions, looked after: what the store keeps of them, what is asked of the source, and when everybody is read.

The source is scripted: one that says which subscriptions there are and prolongs them, as Graph does, or neither, as
Google does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import orjson
import pytest

from connectors.contract import Subscribable, Subscription, Subscriptions
from connectors.errors import AmbiguousError, ConfigurationError, CrowdsyncError, RefusedError, RetryableError
from connectors.store import ReadCursor, Store, WideTotals
from tasks.read.subscriptions import AGAIN, Care, care_for

ADDRESS = "https://sync.example.org/webhooks/acme"
SECRET = "a-secret-of-20-signs"
STREAM = "subscriptions:acme"


@dataclass
class Scripted:
    """A `Subscribable`. `there`: what it has, by id. `fails`: what a call by its name raises, once done (`after`)."""

    lists: bool = True
    there: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    fails: dict[str, list[Exception]] = field(default_factory=dict)
    after: bool = False
    lasts: timedelta = timedelta(days=2)
    slow: float = 0.0
    subscriptions: ClassVar[Subscriptions] = Subscriptions(("users", "groups"), timedelta(days=2), timedelta(days=1))

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        await asyncio.sleep(self.slow)
        if self.fails.get(name) and not self.after:
            raise self.fails[name].pop(0)

    def _done(self, name: str) -> None:
        if self.fails.get(name) and self.after:
            raise self.fails[name].pop(0)

    async def subscribed(self, address: str) -> Sequence[str] | None:
        await self._call("list")
        return [key for key, (_, leads, _) in self.there.items() if leads == address] if self.lists else None

    async def subscribe(self, of: str, address: str, secret: str, key: str) -> Subscription:
        await self._call(f"subscribe {of}")
        key = f"{len(self.calls)} {key}" if self.lists else key  # (it gives ids of its own)
        self.there[key] = (of, address, secret)
        self._done(f"subscribe {of}")
        return Subscription(of, key, datetime.now(UTC) + self.lasts, "resource")

    async def renew(self, old: Subscription, address: str, secret: str, key: str) -> Subscription | None:
        await self._call(f"renew {old.of}")
        if not self.lists:
            self.there[key] = (old.of, address, secret)
            self._done(f"renew {old.of}")
            return Subscription(old.of, key, datetime.now(UTC) + self.lasts, "resource")
        return replace(old, until=datetime.now(UTC) + self.lasts) if old.id in self.there else None

    async def unsubscribe(self, old: Subscription) -> bool:
        await self._call("end")
        return self.there.pop(old.id, None) is not None


@pytest.fixture
def backend() -> str:
    """One kind of store: what is used of it is tested with both."""
    return "sqlite"


@pytest.fixture(params=[True, False], ids=["lists", "cannot list"])
def source(request: pytest.FixtureRequest) -> Scripted:
    one = Scripted(lists=request.param)
    assert isinstance(one, Subscribable)
    return one


@pytest.fixture
def read_before(store: Store) -> None:
    """The source has been read once, so that Crowd has people by it."""
    store.save_wide_totals("crowd", "acme", WideTotals("p", "r", "s", datetime.now(UTC), {}))


async def care(store: Store, source: Scripted, address: str = ADDRESS, secret: str = SECRET) -> Care:
    source.calls.clear()
    return await care_for(store, "crowd", "acme", source, address, secret)


def became(found: Care) -> list[str]:
    return [one.became for one in found.every]


def told(store: Store) -> list[tuple[str, str, str, str]]:
    """What the inbox has; it is then done."""
    rows = store.inbox()
    store.settle(rows["id"].tolist(), "done", "", datetime.now(UTC))
    return list(rows[["directory", "source", "kind", "key"]].itertuples(index=False, name=None))


EVERYBODY = [("crowd", "acme", "everybody", "")]


def aged(store: Store, by: timedelta) -> None:
    """As if time had passed."""
    row = store.cursor(STREAM)
    assert row is not None
    said = orjson.loads(row.cursor)
    for one in said["known"].values():
        one[2] = (datetime.fromisoformat(one[2]) - by).isoformat()
    for asked in said["asked"].values():
        asked[1] = (datetime.fromisoformat(asked[1]) - by).isoformat()
    mark = ReadCursor(orjson.dumps(said).decode(), row.scope, row.full_at, row.snapshot)
    store.save_cursor(STREAM, mark, at=row.full_at)


@pytest.mark.usefixtures("read_before")
async def test_they_are_made_once_and_everybody_is_read_then(store: Store, source: Scripted) -> None:
    found = await care(store, source)
    assert (became(found), found.everybody, told(store)) == (["made", "made"], True, EVERYBODY)
    assert sorted(source.there.values()) == [("groups", ADDRESS, SECRET), ("users", ADDRESS, SECRET)]
    kept = store.cursor(STREAM)
    for _ in range(2):
        found = await care(store, source)
        assert (became(found), found.everybody, told(store)) == (["stands", "stands"], False, [])
        assert source.calls == ["list"]
    assert store.cursor(STREAM) == kept
    assert SECRET not in repr(kept)


async def test_nobody_is_written_to_crowd_before_the_first_sync_and_nothing_is_forgotten(
    store: Store, source: Scripted
) -> None:
    assert not (await care(store, source)).everybody
    assert told(store) == []
    assert not (await care(store, source)).everybody
    store.save_wide_totals("crowd", "acme", WideTotals("p", "r", "s", datetime.now(UTC), {}))
    assert (await care(store, source)).everybody
    assert told(store) == EVERYBODY
    assert not (await care(store, source)).everybody


@pytest.mark.usefixtures("read_before")
async def test_they_are_renewed_in_time_and_nobody_is_read(store: Store, source: Scripted) -> None:
    await care(store, source)
    told(store)
    first = set(source.there)
    aged(store, timedelta(hours=23))
    assert became(await care(store, source)) == ["stands", "stands"]
    aged(store, timedelta(hours=2))
    found = await care(store, source)
    assert (became(found), found.everybody, told(store)) == (["renewed", "renewed"], False, [])
    assert len(source.there) == 2
    assert (set(source.there) == first) == source.lists
    if not source.lists:  # the new one is there before the old one is ended
        assert source.calls == ["list", "renew users", "renew groups", "end", "end"]
    assert became(await care(store, source)) == ["stands", "stands"]
    assert source.calls == ["list"]


@pytest.mark.usefixtures("read_before")
async def test_one_that_ended_is_made_anew_and_everybody_is_read(store: Store, source: Scripted) -> None:
    await care(store, source)
    told(store)
    source.there.clear()
    aged(store, timedelta(days=3))
    found = await care(store, source)
    assert (became(found), found.everybody, told(store)) == (["made anew", "made anew"], True, EVERYBODY)
    assert [one.why for one in found.every if "ended at" in one.why or "no more" in one.why]
    assert len(source.there) == 2


@pytest.mark.usefixtures("read_before")
async def test_one_that_the_provider_took_away_is_made_anew(store: Store) -> None:
    source = Scripted()
    await care(store, source)
    told(store)
    gone = next(key for key, (of, *_) in source.there.items() if of == "groups")
    del source.there[gone]
    found = await care(store, source)
    assert (became(found), found.everybody, told(store)) == (["stands", "made anew"], True, EVERYBODY)
    assert found.every[1].why == "it was there no more"
    # Also where it goes between the look and the renewal.
    aged(store, timedelta(hours=30))
    source.fails["renew users"] = []
    real = source.subscribed

    async def then_gone(address: str) -> Sequence[str] | None:
        there = await real(address)
        source.there.clear()
        return there

    source.subscribed = then_gone  # type: ignore[method-assign]
    assert became(await care(store, source)) == ["made anew", "made anew"]
    assert told(store) == EVERYBODY


@pytest.mark.usefixtures("read_before")
async def test_that_one_was_gone_is_seen_when_the_next_one_takes_its_place(store: Store) -> None:
    """Where the source cannot say which there are."""
    source = Scripted(lists=False)
    await care(store, source)
    told(store)
    del source.there[next(key for key, (of, *_) in source.there.items() if of == "groups")]
    assert (became(await care(store, source)), told(store)) == (["stands", "stands"], [])
    aged(store, timedelta(hours=30))
    found = await care(store, source)
    assert (became(found), found.everybody, told(store)) == (["renewed", "renewed"], True, EVERYBODY)
    assert [one.why for one in found.every] == ["", "the one before it was there no more"]
    assert (became(await care(store, source)), told(store)) == (["stands", "stands"], [])


@pytest.mark.usefixtures("read_before")
@pytest.mark.parametrize("what", ["address", "secret"])
async def test_a_new_address_or_secret_replaces_them(store: Store, source: Scripted, what: str) -> None:
    await care(store, source)
    told(store)
    address, secret = (ADDRESS + "/new", SECRET) if what == "address" else (ADDRESS, SECRET[::-1])
    found = await care(store, source, address, secret)
    assert (became(found), told(store)) == (["made anew", "made anew"], EVERYBODY)
    assert sorted(source.there.values()) == [("groups", address, secret), ("users", address, secret)]
    assert became(await care(store, source, address, secret)) == ["stands", "stands"]
    assert source.calls == ["list"]


async def test_what_leads_elsewhere_stays_and_what_leads_to_us_unknown_goes_at_last(store: Store) -> None:
    source = Scripted()
    others = {"theirs": ("users", "https://other.example.org", "t"), "by hand": ("users", ADDRESS, "?")}
    source.there |= others
    source.fails["subscribe groups"] = [ConfigurationError("no")]
    assert became(await care(store, source)) == ["made", "missing"]
    assert others.keys() < source.there.keys(), "it may be all that tells us"
    assert became(await care(store, source)) == ["stands", "made"]
    assert "theirs" in source.there
    assert "by hand" not in source.there


@pytest.mark.usefixtures("read_before")
async def test_what_cannot_be_subscribed_to_is_told_beside_the_others(store: Store, source: Scripted) -> None:
    source.fails["subscribe users"] = [ConfigurationError("the address does not answer")] * 2
    found = await care(store, source)
    assert (became(found), told(store)) == (["missing", "made"], EVERYBODY)
    assert found.every[0].why == "the address does not answer"
    assert (became(await care(store, source)), told(store)) == (["missing", "stands"], [])
    assert (became(await care(store, source)), told(store)) == (["made", "stands"], EVERYBODY)


@pytest.mark.usefixtures("read_before")
async def test_one_that_cannot_be_renewed_stands_until_it_ends(store: Store, source: Scripted) -> None:
    await care(store, source)
    told(store)
    aged(store, timedelta(hours=30))
    source.fails["renew users"] = [RetryableError("not available now")]
    found = await care(store, source)
    assert became(found) == ["stands", "renewed"]
    assert found.every[0].why == "it could not be renewed: not available now"
    assert (became(await care(store, source)), told(store)) == (["renewed", "stands"], [])
    assert len(source.there) == 2


@pytest.mark.parametrize("error", [AmbiguousError("lost"), KeyboardInterrupt()], ids=["lost answer", "killed"])
async def test_what_may_have_been_made_is_asked_for_by_the_same_key(
    store: Store, source: Scripted, error: BaseException
) -> None:
    """Killed, or without an answer, after the source has made it: no second one is left behind."""
    source.after, source.fails["subscribe users"] = True, [error]  # type: ignore[list-item]
    with suppress(KeyboardInterrupt):
        assert became(await care(store, source)) == ["missing", "made"]
    assert set(became(await care(store, source))) <= {"made", "stands"}
    assert sorted(of for of, *_ in source.there.values()) == ["groups", "users"]


async def test_a_key_is_used_again_for_an_hour_only(store: Store) -> None:
    source = Scripted(lists=False, fails={"subscribe users": [RetryableError("x")] * 2}, after=True)
    await care(store, source)
    aged(store, AGAIN + timedelta(minutes=1))
    await care(store, source)
    assert sorted(of for of, *_ in source.there.values()) == ["groups", "users", "users"]


@pytest.mark.usefixtures("read_before")
async def test_many_at_once_make_each_but_once(store: Store, source: Scripted) -> None:
    source.slow = 0.005
    found = await asyncio.gather(*(care_for(store, "crowd", "acme", source, ADDRESS, SECRET) for _ in range(8)))
    assert any(became(one) == ["made", "made"] for one in found)
    assert len(source.there) == 2
    assert told(store) == EVERYBODY


async def test_who_was_overtaken_stops(store: Store, source: Scripted) -> None:
    class Overtaken(Scripted):
        async def subscribed(self, address: str) -> Sequence[str] | None:
            lease = store.lease(STREAM)
            assert lease is not None
            assert store.take_lease(STREAM, "another", seconds=60, now=lease.until + timedelta(seconds=1))
            return await super().subscribed(address)

    late = Overtaken(lists=source.lists)
    with pytest.raises(RefusedError, match="another"):
        await care(store, late)
    assert not late.there


@pytest.mark.usefixtures("read_before")
async def test_a_failed_look_changes_nothing_and_the_next_one_puts_it_right(store: Store, source: Scripted) -> None:
    source.fails["list"] = [RetryableError("not now")]
    with pytest.raises(CrowdsyncError):
        await care(store, source)
    assert (source.there, store.cursor(STREAM)) == ({}, None)
    assert became(await care(store, source)) == ["made", "made"]
    source.fails["end"] = [RetryableError("not now")] * 2
    await care(store, source, ADDRESS, SECRET[::-1])
    await care(store, source, ADDRESS, SECRET[::-1])
    assert sorted(secret for *_, secret in source.there.values()) == [SECRET[::-1]] * 2
