"""Incremental reads: what changed on top of what was there, and when everything is read instead."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from connectors.contract import Capabilities, Changes, Held, Page, Scope
from connectors.errors import StaleCursorError
from connectors.model import MembershipRow, Snapshot, groups_frame, held_frame, memberships_frame, users_frame
from connectors.source import EventSettings, WebhookSettings
from connectors.store import ReadCursor, Store
from deployments.sandbox.organisation import changed, organisation
from tasks.policy import Policy
from tasks.read.connections import request_digest
from tasks.read.deltas import Reading, Since, merged, read_since
from tasks.read.remember import last_read, remember_read
from tasks.run import Run
from tests.road import FixedSource


def person(key: str, name: str = "", active: bool = True) -> tuple[Any, ...]:
    return key, name or f"name-of-{key}", f"{key}@example.org", "F", "L", "F L", active, "{}"


def team(key: str, name: str = "") -> tuple[Any, ...]:
    return key, name or f"group-{key}", "", "{}"


BEFORE = Snapshot.of(
    users_frame([person("a"), person("b"), person("c")]),
    groups_frame([team("g"), team("h")]),
    memberships_frame([("g", "a", "user"), ("g", "b", "user"), ("h", "c", "user"), ("h", "g", "group")]),
    held_frame([("user", "x", "broken", "extract", "no name")]),
)


def pairs(snapshot: Snapshot) -> set[MembershipRow]:
    return set(snapshot.memberships.astype("str").itertuples(index=False, name=None))


def test_nothing_changed_is_the_same_snapshot() -> None:
    assert merged(BEFORE, Changes("m")).digest() == BEFORE.digest()
    assert len(merged(BEFORE, Changes("m")).held) == 1


def test_rows_replace_rows_and_whoever_is_not_named_stays() -> None:
    now = merged(BEFORE, Changes("m", users=[person("b", "new", active=False), person("d")], groups=[team("i")]))
    assert dict(zip(now.users["id"], now.users["username"], strict=True)) == {
        "a": "name-of-a", "b": "new", "c": "name-of-c", "d": "name-of-d"
    }  # fmt: skip
    assert list(now.users["active"]) == [True, False, True, True]
    assert list(now.groups["id"]) == ["g", "h", "i"]
    assert pairs(now) == pairs(BEFORE)


def test_members_come_whole_or_one_by_one() -> None:
    now = merged(
        BEFORE,
        Changes("m", replaced=["g"], memberships=[("g", "c", "user"), ("h", "a", "user")], left=[("h", "c", "user")]),
    )
    assert pairs(now) == {("g", "c", "user"), ("h", "a", "user"), ("h", "g", "group")}


def test_only_what_the_source_calls_deleted_goes() -> None:
    now = merged(BEFORE, Changes("m", gone_users=["a"], gone_groups=["g"]))
    assert (list(now.users["id"]), list(now.groups["id"])) == (["b", "c"], ["h"])
    assert pairs(now) == {("h", "c", "user")}
    assert pairs(merged(BEFORE, Changes("m", gone_users=["c"]))) == pairs(BEFORE) - {("h", "c", "user")}
    assert pairs(merged(BEFORE, Changes("m", gone_groups=["g"]))) == {("h", "c", "user")}


def test_a_record_that_makes_no_sense_any_more_is_held_and_stays_in_its_groups() -> None:
    now = merged(BEFORE, Changes("m", held=[Held("user", "a", "name-of-a", "no login")]))
    assert "a" not in set(now.users["id"])
    assert set(now.held["id"]) == {"x", "a"}
    assert pairs(now) == pairs(BEFORE)
    again = merged(now, Changes("m", users=[person("a"), person("x")]))
    assert again.held.empty
    assert list(again.users["id"]) == ["a", "b", "c", "x"]


@pytest.mark.parametrize(
    "changes",
    [
        Changes("m", memberships=[("nowhere", "a", "user")]),
        Changes("m", memberships=[("g", "nobody", "user")]),
        Changes("m", memberships=[("g", "nothing", "group")]),
        Changes("m", users=[person("a"), person("a", "twice")]),
        Changes("m", groups=[team("g"), team("g", "twice")]),
    ],
)
def test_what_does_not_fit_asks_for_a_full_read(changes: Changes) -> None:
    with pytest.raises(StaleCursorError):
        merged(BEFORE, changes)


@pytest.mark.parametrize("seed", range(20))
def test_a_delta_ends_where_a_full_read_does(seed: int) -> None:
    """Generated companies some days later: the differences on top of the old snapshot are the new one."""
    old = organisation(users=60, groups=9, memberships=200, seed=seed)
    new = changed(old, seed=seed, joiners=4, leavers=3, disabled=2, renamed=3, updated=4, moved=9, new_groups=2)
    before, after = old.snapshot(), new.snapshot()
    rows = {
        name: set(getattr(after, name).itertuples(index=False, name=None))
        - set(getattr(before, name).itertuples(index=False, name=None))
        for name in ("users", "groups")
    }
    come, gone = pairs(after) - pairs(before), pairs(before) - pairs(after)
    whole = sorted({group for group, _, _ in come | gone})[::2]  # half of the groups whole, the others by difference
    changes = Changes(
        "m",
        users=sorted(rows["users"]),
        groups=sorted(rows["groups"]),
        replaced=whole,
        memberships=[p for p in come if p[0] not in whole] + [p for p in pairs(after) if p[0] in whole],
        left=[p for p in gone if p[0] not in whole],
        gone_users=sorted(set(before.users["id"]) - set(after.users["id"])),
    )
    assert merged(before, changes).digest() == after.digest()


# --- when ------------------------------------------------------------------------------------------


class DeltaSource(FixedSource):
    """A source that counts how it was read."""

    capabilities: ClassVar[Capabilities] = Capabilities(delta=True)

    def __init__(self, snapshot: Snapshot, changes: Changes | Exception) -> None:
        super().__init__(snapshot)
        self.says = changes
        self.asked: list[str] = []

    async def users(self, scope: Scope) -> AsyncIterator[Page[Any]]:
        self.asked.append("users")
        async for page in super().users(scope):
            yield page

    async def cursor(self, scope: Scope) -> str:
        self.asked.append("cursor")
        return "m1"

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        self.asked.append(f"changes since {cursor}")
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture
def backend() -> str:
    """One kind of store: what is used of it is tested with both."""
    return "sqlite"


def run_with(source: Any, store: Store, asked: str = "q", **reads: float) -> Run:
    policy = Policy.model_validate({"reads": reads})
    return Run("r", "acme", "crowd", policy, source, None, store, 1, request_digest=asked)  # type: ignore[arg-type]


async def read(run: Run, full: bool = False) -> Reading:
    """The first two stages of the flow."""
    reading = await read_since(run.source, Scope(), None if full else await last_read(run), lambda *_: None)
    kept = run.store.save_snapshot(run.source_side.stream, reading.snapshot, taken_at=datetime.now(UTC), run=run.id)
    await remember_read(run, reading, kept.id)
    return reading


async def test_a_full_read_and_then_what_changed(store: Store) -> None:
    source = DeltaSource(BEFORE, Changes("m2", users=[person("d")]))
    first = await read(run_with(source, store))
    assert (source.asked, first.full_at) == (["cursor", "users"], None)
    second = await read(run_with(source, store))
    assert source.asked[2:] == ["changes since m1"]
    assert second.full_at is not None
    source.says = Changes("m3")
    third = await read(run_with(source, store))
    assert source.asked[3:] == ["changes since m2"]
    assert third.full_at == second.full_at
    assert list(third.snapshot.users["id"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("doubt", [StaleCursorError("410"), Changes("m2", memberships=[("g", "nobody", "user")])])
async def test_doubt_leads_to_a_full_read(store: Store, doubt: Any) -> None:
    source = DeltaSource(BEFORE, doubt)
    await read(run_with(source, store))
    reading = await read(run_with(source, store))
    assert source.asked[2:] == ["changes since m1", "cursor", "users"]
    assert reading.full_at is None


@pytest.mark.parametrize(
    ("asked", "hours", "full"), [("q", 24, False), ("q", 0, True), ("other", 24, True), ("q", 0.0001, True)]
)
async def test_when_a_full_read_is_due(store: Store, asked: str, hours: float, full: bool) -> None:
    source = DeltaSource(BEFORE, Changes("m2"))
    await read(run_with(source, store))
    cursor = store.cursor("source:acme")
    assert cursor is not None
    earlier = dataclasses.replace(cursor, full_at=datetime.now(UTC) - timedelta(seconds=1))
    store.save_cursor("source:acme", earlier, at=datetime.now(UTC))
    await read(run_with(source, store, asked, full_every_hours=hours))
    assert ("users" in source.asked[2:]) == full


async def test_a_full_read_on_demand(store: Store) -> None:
    source = DeltaSource(BEFORE, Changes("m2"))
    await read(run_with(source, store))
    await read(run_with(source, store), full=True)
    assert source.asked == ["cursor", "users", "cursor", "users"]


async def test_a_source_without_deltas_is_read_whole(store: Store) -> None:
    source = DeltaSource(BEFORE, Changes("m2"))
    source.capabilities = Capabilities()  # type: ignore[misc]
    for _ in range(2):
        await read(run_with(source, store))
    assert "changes since m1" not in source.asked
    assert store.cursor("source:acme") is None


async def test_a_clock_that_went_back_proves_nothing(store: Store) -> None:
    source = DeltaSource(BEFORE, Changes("m2"))
    kept = store.save_snapshot("source:acme", BEFORE, taken_at=datetime.now(UTC), run="r")
    store.save_cursor(
        "source:acme", ReadCursor("m1", "q", datetime.now(UTC) + timedelta(hours=1), kept.id), at=datetime.now(UTC)
    )
    assert await last_read(run_with(source, store)) is None


def test_another_question_is_another_mark() -> None:
    from connectors.idp.scim import ScimSettings

    one = ScimSettings(url="https://a")
    policy = Policy()
    events = EventSettings(issuer="i", audience="a", jwks_file="k")
    same: Sequence[ScimSettings] = [
        ScimSettings(url="https://a", page_size=7, timeout=3, block="b"),
        ScimSettings(url="https://a", webhook=WebhookSettings(), events=events),
    ]
    assert {request_digest(x, policy) for x in same} == {request_digest(one, policy)}
    assert request_digest(ScimSettings(url="https://b"), policy) != request_digest(one, policy)
    more = Policy.model_validate({"attributes": {"extra": {"x": "title"}}})
    assert request_digest(one, more) != request_digest(one, policy)


def test_the_same_question_is_the_same_mark_in_every_process() -> None:
    """Each run of a schedule is a process of its own, with another order of sets."""
    code = (
        "from connectors.idp.okta import OktaSettings as S;"
        "from tasks.policy import Policy; from tasks.read.connections import request_digest;"
        "p = Policy.model_validate({'attributes': {'extra': {x: 'profile.' + x for x in 'abcdef'}}});"
        "print(request_digest(S(url='https://a', group_types=['OKTA_GROUP', 'APP_GROUP', 'BUILT_IN']), p))"
    )
    asked = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(asked) == 1


async def test_since_is_what_a_delta_starts_from(store: Store) -> None:
    kept = store.save_snapshot("source:acme", BEFORE, taken_at=datetime.now(UTC), run="r")
    store.save_cursor("source:acme", ReadCursor("m1", "q", datetime.now(UTC), kept.id), at=datetime.now(UTC))
    since = await last_read(run_with(DeltaSource(BEFORE, Changes("m2")), store))
    assert isinstance(since, Since)
    assert (since.cursor, since.before.digest(), len(since.before.held)) == ("m1", BEFORE.digest(), 1)
