"""SIGKILL in the middle of applying a plan, at seeded points: nothing is lost, nothing is done twice.

One warm process forks a child for each point. The child applies the plan with the real connector, a real
store and a real emulator process, and kills itself at its point; the parent then walks the road again
and compares with the run that nobody killed. The points are reached by wrapping the store, the connector
and the transport here; the program has no hooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pandas as pd
import psycopg
import pytest

from connectors.contract import Outcome
from connectors.crowd import Crowd
from connectors.http import Http
from connectors.model import (
    ID_ATTRIBUTE,
    Snapshot,
    attributes_text,
    groups_frame,
    memberships_frame,
    users_frame,
)
from connectors.operations import Kind, Operation
from connectors.store import Store
from deployments.sandbox import crowd as sandbox
from tasks.decide.plan import Plan
from tasks.policy import Policy
from tasks.write import chunks
from tests import road
from tests.support import postgres
from tests.support.long import long_after

POINTS, PARTS = int(os.environ.get("CROWDSYNC_POINTS", "42")), 6
POINTS_POSTGRESQL = 4
SEED = 20261124
MOMENTS = ("before intent", "after intent", "before send", "after send", "after reply", "after done")
FLUSH = 2
"""Outcomes that are written together, so that a chunk is recorded in several steps."""

POLICY = Policy.model_validate(
    {
        "operations": {"user_delete": True, "group_delete": True},
        "leavers": {"out_of_scope": "delete", "deleted": "delete", "groups": "delete"},
        "attributes": {"extra": {"title": "title"}},
    }
)

current: ContextVar[int] = ContextVar("current", default=0)
"""The operation that this coroutine is writing."""


# --- the company, before and after -----------------------------------------------------------------


@dataclass(frozen=True)
class Someone:
    name: str
    email: str = ""
    active: bool = True
    title: str = ""


People = Mapping[str, Someone]
Teams = Mapping[str, tuple[str, frozenset[str]]]  # id → description, members (ids of people and teams)


def snapshot(people: People, teams: Teams) -> Snapshot:
    return Snapshot.of(
        users_frame(
            (
                key,
                one.name,
                one.email or f"{key}@example.org",
                key.title(),
                "Example",
                f"{key.title()} Example",
                one.active,
                attributes_text({"title": [one.title]} if one.title else {}),
            )
            for key, one in people.items()
        ),
        groups_frame((key, f"team {key}", description, "{}") for key, (description, _) in teams.items()),
        memberships_frame(
            (key, member, "group" if member in teams else "user")
            for key, (_, members) in teams.items()
            for member in members
            if member in people or member in teams
        ),
    )


def first_people() -> dict[str, Someone]:
    people = {f"p{n:02}": Someone(f"user{n:02}", title="clerk" if n % 2 else "") for n in range(1, 26)}
    people["p01"], people["p02"] = Someone("ann"), Someone("bob")
    people["p03"], people["p04"] = Someone("carl"), Someone("dan")
    return people


def first_teams() -> dict[str, tuple[str, frozenset[str]]]:
    everybody = sorted(first_people())
    teams = {f"g{n}": (f"team {n}", frozenset(everybody[n::4])) for n in range(8)}
    teams["g0"] = ("the whole", frozenset({*everybody[:6], "g1", "g2"}))
    teams["g3"] = ("another whole", teams["g3"][1] | {"g4", "g5"})
    return teams


def later_people() -> dict[str, Someone]:
    """Every kind of change: names go round in a circle, along a chain, and to those who are new."""
    people = first_people()
    people["p01"], people["p02"] = replace(people["p01"], name="bob"), replace(people["p02"], name="ann")
    people["p03"], people["p04"] = replace(people["p03"], name="carla"), replace(people["p04"], name="carl")
    people["p05"] = replace(people["p05"], name="eve", email="eve@example.org")
    people["p06"] = replace(people["p06"], name="user25")  # whose account is about to be deleted
    for n in (1, 7, 8, 9):
        people[f"p{n:02}"] = replace(people[f"p{n:02}"], email=f"new{n}@example.org")
    for n in (13, 14, 15):
        people[f"p{n:02}"] = replace(people[f"p{n:02}"], active=False)
    people["p15"] = replace(people["p15"], name="fred")
    for n in (2, 16, 17, 18):
        people[f"p{n:02}"] = replace(people[f"p{n:02}"], title="" if n == 17 else "chief")
    for n in (23, 24, 25):
        del people[f"p{n:02}"]
    people["p31"] = Someone("user05", title="new")  # a name that p05 just gave up
    people["p32"], people["p33"], people["p34"] = Someone("user24"), Someone("gina"), Someone("hal")
    return people


def later_teams() -> dict[str, tuple[str, frozenset[str]]]:
    teams = first_teams()
    teams["g0"] = ("the whole", teams["g0"][1] - {"g1", "p02", "p03"} | {"p07", "g6", "g8", "p31"})
    teams["g1"] = ("a new text", teams["g1"][1] - {"p02", "p06"} | {"p01", "p32", "p33"})
    teams["g2"] = ("another text", teams["g2"][1] - {"p19"} | {"p20", "p04"})
    teams["g3"] = ("another whole", teams["g3"][1] - {"g4"})
    teams["g8"], teams["g9"] = ("new 8", frozenset({"p01", "p33", "p34"})), ("new 9", frozenset({"p15", "p16"}))
    del teams["g5"], teams["g7"]
    return teams


# --- what a killed run leaves ----------------------------------------------------------------------


class Scene:
    """Crowd's content by identity, not by name: names move while a plan is applied."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.users = {self._id(user): user for user in state["users"]}
        self.groups = {group["name"]: group for group in state["groups"]}
        self.nestings = {tuple(pair) for pair in state["nestings"]}
        ids = {user["name"]: self._id(user) for user in state["users"]}
        self.memberships = {(ids[user], group) for user, group in state["memberships"]}

    @staticmethod
    def _id(user: dict[str, Any]) -> str:
        return str(user["attributes"][ID_ATTRIBUTE][0]).removeprefix(f"{road.SOURCE}:")

    def holds(self, operation: Any, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
        """`before` and `after`: names → ids of people, before and after the plan's renames."""
        record = orjson.loads(operation.record or "{}")
        user, group = self.users.get(operation.source_id), self.groups.get(operation.name)
        match Kind(operation.kind):
            case Kind.USER_CREATE:
                return user is not None and user["name"] == operation.name
            case Kind.USER_DELETE:
                return user is None
            case Kind.USER_RENAME:
                return user is not None and user["name"] == operation.target
            case Kind.USER_UPDATE | Kind.USER_ACTIVATE | Kind.USER_DEACTIVATE:
                return user is not None and all(user[name] == value for name, value in record.items())
            case Kind.USER_ATTRIBUTES:
                return user is not None and _has(user, record["attributes"])
            case Kind.GROUP_CREATE:
                return group is not None
            case Kind.GROUP_DELETE:
                return group is None
            case Kind.GROUP_UPDATE:
                return group is not None and group["description"] == record["description"]
            case Kind.GROUP_ATTRIBUTES:
                return group is not None and _has(group, record["attributes"])
            case Kind.MEMBERSHIP_ADD:
                return (after[operation.name], operation.target) in self.memberships
            case Kind.MEMBERSHIP_REMOVE:
                return (before[operation.name], operation.target) not in self.memberships
            case Kind.NESTING_ADD:
                return (operation.name, operation.target) in self.nestings
            case Kind.NESTING_REMOVE:
                return (operation.name, operation.target) not in self.nestings


def _has(record: dict[str, Any], attributes: Mapping[str, Sequence[str]]) -> bool:
    return all(record["attributes"].get(name, []) == values for name, values in attributes.items())


# --- dying on time ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where to die: at this moment in the life of this operation. `size`: operations a chunk."""

    moment: str
    seq: int
    size: int

    def reached(self, moment: str, seqs: Collection[int]) -> None:
        if moment == self.moment and self.seq in seqs:
            os.kill(os.getpid(), signal.SIGKILL)


NEVER = Point("never", 0, 6)


class DyingStore(Store):
    point = NEVER

    def intend(self, plan_id: int, seqs: Sequence[int], **rest: Any) -> None:
        self.point.reached("before intent", seqs)
        super().intend(plan_id, seqs, **rest)
        self.point.reached("after intent", seqs)

    def record(self, plan_id: int, outcomes: Sequence[tuple[int, str, str]], **rest: Any) -> None:
        super().record(plan_id, outcomes, **rest)
        self.point.reached("after done", [seq for seq, _, _ in outcomes])


class DyingTransport(httpx.AsyncBaseTransport):
    def __init__(self, point: Point) -> None:
        self.point, self.inner = point, httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        writes = [current.get()] if request.method != "GET" else []
        self.point.reached("before send", writes)
        response = await self.inner.handle_async_request(request)  # its headers are here: Crowd has done it
        self.point.reached("after send", writes)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


class DyingCrowd(Crowd):
    point = NEVER

    async def write(self, operation: Operation, *, attempted: bool = False) -> Outcome:
        current.set(operation.seq)
        outcome = await super().write(operation, attempted=attempted)
        self.point.reached("after reply", [operation.seq])
        return outcome


def apply_in_child(url: str, store_url: str, made: Plan, number: int, point: Point) -> int:
    """Forks; the child applies the plan until it dies or is done. Returns its wait status."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            asyncio.run(_apply(url, store_url, made, number, point))
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1]


async def _apply(url: str, store_url: str, made: Plan, number: int, point: Point) -> None:
    async with client(url, transport=DyingTransport(point)) as http:
        with DyingStore.open(store_url) as store:
            crowd = DyingCrowd(http)
            store.point = crowd.point = point
            await road.apply(run_of(crowd, store, "killed"), made, number, size=point.size)


def client(url: str, **settings: Any) -> Http:
    return Http(url, name="crowd", basic=("crowdsync", "secret"), **settings)


def run_of(crowd: Crowd, store: Store, name: str) -> Any:
    source = road.FixedSource(snapshot(later_people(), later_teams()))
    return road.run_of(source, crowd, store, POLICY, id=name)


# --- the stage -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Everything before the first write: Crowd's content, the stored plan, and the end that is wanted."""

    emulator: Any
    before: dict[str, Any]
    made: Plan
    number: int
    after: dict[str, Any]
    links: list[tuple[str, ...]]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Any]:
    with sandbox.running() as process:
        yield process


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "FLUSH", FLUSH)
    # Validation is not the subject, and takes half a second for every new content.


async def _in_step(emulator: Any, store: Store) -> None:
    """Crowd and the links as earlier runs have made them; three accounts are inactive."""
    people = first_people()
    emulator.clear()
    async with client(emulator.url) as http:
        for _ in range(2):
            source = road.FixedSource(snapshot(people, first_teams()))
            await road.walk(road.run_of(source, Crowd(http), store, POLICY, id="before"), force=True)
            people |= {key: replace(people[key], active=False) for key in ("p10", "p11", "p12")}


async def _again(emulator: Any, store: Store, mode: str) -> road.Walked:
    async with client(emulator.url) as http:
        return await road.walk(run_of(Crowd(http), store, "again"), mode=mode, force=True, size=6)


def stage(emulator: Any, url: str, copy: Callable[[], str]) -> Stage:
    """Fills the store at `url`, which is then left alone, and applies the plan to a copy, without a kill."""
    with Store.open(url) as store:
        asyncio.run(_in_step(emulator, store))
        before = road.content(emulator)
        walked = asyncio.run(_again(emulator, store, "preview"))
    assert walked.number is not None
    fresh = copy()
    assert apply_in_child(emulator.url, fresh, walked.plan, walked.number, NEVER) == 0
    with Store.open(fresh) as store:
        journal = store.operations(walked.number)
        assert set(journal["state"]) == {"done"}, journal[journal["state"] != "done"].to_string()
        links = links_of(store)
    return Stage(emulator, before, walked.plan, walked.number, road.content(emulator), links)


def links_of(store: Store) -> list[tuple[str, ...]]:
    links = store.links(road.DIRECTORY)[["source", "kind", "id", "name", "how"]]
    return sorted(links.itertuples(index=False, name=None))


def points(operations: pd.DataFrame, count: int) -> list[Point]:
    """Every moment for every kind of operation first, then by lot; no point twice."""
    rng = random.Random(SEED)
    kinds = operations.groupby("kind")["seq"].apply(list)
    chosen = {(moment, rng.choice(kinds[kind])) for kind in sorted(kinds.index) for moment in MOMENTS}
    every = [(moment, int(seq)) for moment in MOMENTS for seq in operations["seq"]]
    rest = sorted(set(every) - chosen)
    listed = sorted(chosen)
    rng.shuffle(listed)
    rng.shuffle(rest)
    return [Point(moment, seq, rng.randint(4, 8)) for moment, seq in (listed + rest)[:count]]


def kill_and_run_again(stage: Stage, url: str, point: Point) -> None:
    """One point: everything that must be true afterwards."""
    emulator, number = stage.emulator, stage.number
    road.reload(emulator, stage.before)
    status = apply_in_child(emulator.url, url, stage.made, number, point)
    assert os.WIFSIGNALED(status), f"{point} was not reached ({status})"
    assert os.WTERMSIG(status) == signal.SIGKILL
    killed = road.content(emulator)
    with Store.open(url) as store:
        left = store.operations(number).set_index("seq")
        again = asyncio.run(_again(emulator, store, "sync"))
        assert road.content(emulator) == stage.after
        assert links_of(store) == stage.links
        assert asyncio.run(_again(emulator, store, "preview")).plan.operations.empty
        assert store.verify_audit() is None
        journal = store.operations(number)
        assert list(again.settled) == [number]
        assert store.unfinished_plans(road.DIRECTORY) == []
        assert store.load_plan(number).status == "superseded"
    assert set(again.journal.get("state", pd.Series(dtype="str"))) <= {"done", "already"}

    # The journal tells the truth of the moment of death.
    scene = Scene(killed)
    before, after = names_of(stage.before), names_of(stage.after)
    open_: Counter[tuple[str, str, str]] = Counter()
    renamed: dict[str, str] = {}
    operation: Any
    for operation in reversed(list(journal.itertuples())):
        holds = scene.holds(operation, before, after)
        if operation.kind == Kind.USER_RENAME:
            # A name on the way of a circle is left again by the next rename.
            holds = holds or renamed.get(operation.source_id) == operation.target
            if holds:
                renamed[operation.source_id] = operation.name
        elif not holds:
            open_[operation.kind, operation.name, operation.target] += 1
        expected = ("done", "already") if holds else ("planned", "undone")
        was = left["state"][operation.seq]
        assert operation.state in expected, f"{operation.kind} {operation.seq}: {operation.state}, holds: {holds}"
        assert (operation.state == "planned") == (was == "planned") == (operation.attempts == 0)
        if was in ("done", "already"):
            assert operation.state == was
    # … and the second run does what was not done, and nothing else.
    second = again.plan.operations
    second = second[second["kind"] != Kind.USER_RENAME]
    assert Counter(second[["kind", "name", "target"]].itertuples(index=False, name=None)) == open_


def names_of(state: dict[str, Any]) -> dict[str, str]:
    return {user["name"]: Scene._id(user) for user in state["users"]}


# --- the tests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", long_after(1, range(PARTS)))
def test_killed_anywhere_the_next_run_ends_where_the_unkilled_one_does(
    emulator: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: int
) -> None:
    base, number = tmp_path / "base.db", iter(range(POINTS + 1))

    def copy() -> str:
        path = tmp_path / f"{next(number)}.db"
        assert not base.with_name("base.db-wal").exists()
        shutil.copy(base, path)
        return f"sqlite:///{path}"

    start = time.perf_counter()
    scene = stage(emulator, f"sqlite:///{base}", copy)
    assert set(scene.made.operations["kind"]) == {kind.value for kind in Kind}
    chosen = points(scene.made.operations, POINTS)
    assert len(chosen) == POINTS
    chosen = chosen[part::PARTS]
    for point in chosen:
        kill_and_run_again(scene, copy(), point)
    tell(capsys, scene, chosen, "SQLite", time.perf_counter() - start)


@pytest.mark.long
@pytest.mark.postgres
def test_killed_with_the_journal_in_postgresql(emulator: Any, capsys: pytest.CaptureFixture[str]) -> None:
    reason = postgres.missing()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test PostgreSQL: {reason}")
        pytest.skip(f"PostgreSQL half left out: {reason}")
    start = time.perf_counter()
    with postgres.running() as server:
        root, number = server.url.rsplit("/", 1)[0], iter(range(POINTS_POSTGRESQL + 1))

        def copy() -> str:
            name = f"killed_{next(number)}"
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{name}" TEMPLATE base')
            return f"{root}/{name}"

        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE base")
        scene = stage(emulator, f"{root}/base", copy)
        chosen = points(scene.made.operations, POINTS_POSTGRESQL)
        for point in chosen:
            kill_and_run_again(scene, copy(), point)
    tell(capsys, scene, chosen, "PostgreSQL", time.perf_counter() - start)


def tell(capsys: pytest.CaptureFixture[str], scene: Stage, chosen: Sequence[Point], store: str, seconds: float) -> None:
    kinds = scene.made.operations.set_index("seq")["kind"]
    moments = Counter(point.moment for point in chosen)
    hit = {kinds[point.seq] for point in chosen}
    with capsys.disabled():
        print(
            f"\nkilled at {len(chosen)} points of {len(kinds)} operations of {len(hit)} kinds, journal in {store}, "
            f"{seconds:.0f} s: " + ", ".join(f"{moments[moment]} {moment}" for moment in MOMENTS)
        )
