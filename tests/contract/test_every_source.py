"""What every source must do, over the registry: no connector escapes.

Each runs against the emulator of its provider, a process of its own, whose answers are spoilt on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors import http as client
from connectors.contract import Held, Page, Person, Scope, Source
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    IncompleteError,
    RefusedError,
    StaleCursorError,
)
from connectors.idp import SOURCES
from connectors.model import DISABLED, USERS, Snapshot, UserRow, users_frame
from connectors.paging import drained
from connectors.transport import Response, Wire
from deployments.sandbox import idp as sandbox
from deployments.sandbox.organisation import Organisation, organisation
from tasks.decide.map import Desired, desired
from tasks.policy import Policy
from tasks.read.deltas import merged
from tasks.read.extract import read_source
from tasks.read.validate import trimmed
from tests.support.hostile import HOSTS, SCHEMES
from tests.support.long import long_after
from tests.support.pages import as_pairs
from tests.support.source_case import Case

HERE = Path(__file__).parent / "sources"
CASES: dict[str, Case] = {
    file.stem: importlib.import_module(f"tests.contract.sources.{file.stem}").CASE
    for file in sorted(HERE.glob("*.py"))
    if file.stem != "__init__"
}
SIZE: dict[str, Any] = {"users": 30, "groups": 12, "memberships": 60, "seed": 3}
ONCE = ("cut", "truncated", "html", "empty", "reset", "repeat", "cursor", "status", "slow")
ALWAYS = ("cut", "truncated", "html", "status")


@dataclass
class Served:
    """An emulator with what the suite knows of its source."""

    case: Case
    idp: sandbox.RunningIdp

    @asynccontextmanager
    async def source(self, secrets: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Source]:
        kind = SOURCES[self.case.kind]
        chosen = {**self.idp.settings, **self.case.settings, "timeout": 5, **settings}
        opened = kind.open("acme", kind.settings.model_validate(chosen), secrets or self.idp.secrets)
        try:
            yield opened
        finally:
            await asyncio.gather(*(one.aclose() for one in opened.clients))

    async def read(self, **settings: Any) -> Snapshot:
        async with self.source(**settings) as source:
            return await read_source(source, Scope())

    async def outcome(self) -> tuple[str, str]:
        """The digest of a whole read, or the message of its refusal."""
        try:
            return (await self.read()).digest(), ""
        except CrowdsyncError as error:
            return "", str(error)

    async def requests(self, path: str) -> int:
        """How many requests of a whole read match a path."""
        self.idp.faults({"kind": "slow", "path": path, "nth": 10**9, "times": 1})
        await self.read()
        return int(self.idp.faults_state()[0]["seen"])

    def lists(self) -> dict[str, str]:
        every = {"users": self.case.users, "groups": self.case.groups, "members": self.case.members}
        return {name: path for name, path in every.items() if path}


@pytest.fixture(scope="module", params=sorted(CASES))
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    case = CASES[request.param]
    with sandbox.running(case.kind, **SIZE, options=case.options) as running:
        yield Served(case, running)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once; how long they wait is tested elsewhere."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(client, "HIGHEST_WAIT", 0.002)


@pytest.fixture(autouse=True)
def sound(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins with a sound server and the company of `SIZE`."""
    if "served" in request.fixturenames:
        served: Served = request.getfixturevalue("served")
        served.idp.faults()
    yield
    if "served" in request.fixturenames:
        served.idp.faults()


def company() -> Organisation:
    return organisation(**SIZE)


def test_a_setting_that_keeps_two_groups_of_one_name_apart_is_one_and_ends_the_advice() -> None:
    advice = {}
    for name, kind in SOURCES.items():
        base = {field: "https://x" for field, info in kind.settings.model_fields.items() if info.is_required()}
        advice[name] = kind.settings.model_validate({**base, "kind": name}).same_names()
        if advice[name]:
            told = tomllib.loads(advice[name])
            assert kind.settings.model_validate({**base, "kind": name, **told}).same_names() == ""
    assert {name: told for name, told in advice.items() if told} == {
        "keycloak": 'group_names = "path"',
        "google": 'group_names = "email"',
    }


def check_whole(snapshot: Snapshot, whole: Organisation, case: Case) -> None:
    """The snapshot is the company: people, groups, memberships and nestings, by their names."""
    nested = SOURCES[case.kind].capabilities.nested_groups
    fields = ["username", "first_name", "last_name", "active"]
    found = set(snapshot.users[fields].itertuples(index=False, name=None))
    assert found == {(case.username(p), p.first_name, p.last_name, p.active) for p in whole.people}
    assert len(snapshot.users) == len(whole.people)
    assert set(snapshot.groups["name"]) == {team.name for team in whole.teams}
    users = dict(zip(snapshot.users["id"], snapshot.users["username"], strict=True))
    groups = dict(zip(snapshot.groups["id"], snapshot.groups["name"], strict=True))
    got: set[tuple[str, str, str]] = set()
    for group, member, kind in snapshot.memberships.astype("str").itertuples(index=False, name=None):
        got.add((groups[group], (users if kind == "user" else groups)[member], kind))
    people, teams = whole.people, whole.teams
    wanted = {
        (teams[t].name, case.username(people[p]), "user")
        for t, p in zip(whole.member_team.tolist(), whole.member_person.tolist(), strict=True)
    }
    if nested:
        pairs = list(zip(whole.nest_parent.tolist(), whole.nest_child.tolist(), strict=True))
        if case.tree:
            first = {child: parent for parent, child in reversed(pairs)}
            pairs = [(parent, child) for child, parent in first.items()]
        wanted |= {(teams[parent].name, teams[child].name, "group") for parent, child in pairs}
    assert got == wanted
    assert len(snapshot.memberships) == len(wanted)
    assert snapshot.held.empty


def test_no_connector_escapes() -> None:
    asked = {name: source for name, source in SOURCES.items() if name != "push"}
    assert set(CASES) == set(asked)  # (what pushes has no answers to spoil: test_push_source.py)
    assert set(asked) <= set(sandbox.EMULATORS)
    for name, source in asked.items():
        assert (CASES[name].kind, source.name) == (name, name)
        assert source.settings.model_fields["kind"].default == name
        assert len(source.settings.known) >= 1


async def test_it_is_a_source(served: Served) -> None:
    async with served.source() as source:
        assert isinstance(source, Source)
        assert source.clients


async def test_a_whole_read_is_the_company(served: Served) -> None:
    check_whole(await served.read(), company(), served.case)


async def test_companies_of_every_size(served: Served) -> None:
    """Nobody, one, exactly a page, a page and one."""
    page = served.case.page
    try:
        for users in (0, 1, page, page + 1, 3 * page):
            sizes = {"users": users, "groups": min(users, 6), "memberships": 2 * users if users > 1 else users}
            served.idp.load(**sizes, seed=users + 1)
            check_whole(await served.read(), organisation(**sizes, seed=users + 1), served.case)
    finally:
        served.idp.load(**SIZE)


@pytest.mark.long
async def test_a_company_of_ten_thousand(served: Served) -> None:
    large = {"users": 10_000, "groups": 20, "memberships": 12_000, "seed": 5}
    try:
        served.idp.load(**large)
        settings = {name: value for name, value in served.idp.settings.items() if name == "page_size"}
        check_whole(await served.read(**settings), organisation(**large), served.case)
    finally:
        served.idp.load(**SIZE)


def pages(count: int, which: str) -> list[int]:
    """Of so many pages (from 1) the ends, or those between."""
    ends = sorted({1, count} - {0})
    return ends if which == "ends" else sorted({*range(1, count + 1)} - {*ends})


every_page = pytest.mark.parametrize("which", long_after(1, ["ends", "between"]))


@every_page
async def test_every_page_spoilt_once_is_refused_or_read_right(
    served: Served, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    right = (await served.read()).digest()
    refused = healed = 0
    for name, path in served.lists().items():
        kinds = ONCE + (("drop", "total") if name in served.case.counted else ())
        for nth in pages(await served.requests(path), which):
            for kind in kinds:
                rule = {"kind": kind, "path": path, "nth": nth, "seconds": 0.001, "retry_after": "0"}
                served.idp.faults({**rule, "status": (429, 500, 503)[nth % 3]})
                found, message = await served.outcome()
                refused += bool(message)
                healed += not message
                assert found in (right, ""), (name, kind, nth)
                assert "\n" not in message
                assert not any(secret in message for secret in served.idp.secrets.values())
                assert served.idp.faults_state()[0]["fired"] == 1, (name, kind, nth)
    if which == "ends":
        assert refused
        assert healed
    with capsys.disabled():
        print(f"\n{served.case.kind}: pages spoilt once: {refused} refused, {healed} read right")


@every_page
async def test_every_page_spoilt_for_good_is_refused(
    served: Served, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    right = (await served.read()).digest()
    refused = 0
    for name, path in served.lists().items():
        counted = name in served.case.counted
        for nth in pages(await served.requests(path), which):
            for kind in ALWAYS + (("drop", "empty") if counted else ()):
                served.idp.faults({"kind": kind, "path": path, "nth": nth, "times": 0, "status": 500})
                found, message = await served.outcome()
                refused += bool(message)
                if not message:  # an empty page of an empty list is right
                    assert kind in ("drop", "empty")
                    assert found == right, (name, kind, nth)
    with capsys.disabled():
        print(f"\n{served.case.kind}: pages spoilt for good: {refused} refused")


class Between:
    """A way to a real server (`connectors.transport.Wire`), on which answers are changed."""

    def __init__(self, inner: Wire) -> None:
        self.inner = inner

    def changed(self, path: str, body: bytes) -> bytes | None:
        """What comes instead of an answer; None: it itself."""
        raise NotImplementedError

    async def send(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        answer = await self.inner.send(method, target, headers, content)
        whole = b"".join([piece async for piece in answer.body])
        await answer.close()
        plain = gzip.decompress(whole) if answer.headers.get("content-encoding") == "gzip" else whole
        new = self.changed(target.partition("?")[0], plain)
        left = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        headers = answer.headers if new is None else {**left, "content-type": "application/json"}
        return Response(answer.status, headers, _pieces(whole if new is None else new), _nothing)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _nothing() -> None:
    pass


class Doubling(Between):
    """The way to a real server, on which the `nth` answer to `path` gets a key twice: its last list once more, empty,
    or where it is a bare list, the first field of its first record."""

    def __init__(self, inner: Wire, path: str, nth: int) -> None:
        super().__init__(inner)
        self.path, self.left = path, nth

    def changed(self, path: str, body: bytes) -> bytes | None:
        if not re.search(self.path, path):
            return None
        self.left -= 1
        if self.left:
            return None
        found = orjson.loads(body)
        if isinstance(found, list):
            key = next(iter(found[0])) if found and isinstance(found[0], dict) else ""
            return body.replace(b"{", b'{"%s":null,' % key.encode(), 1) if key else b'[{"":1,"":2}]'
        key = [name for name, value in found.items() if isinstance(value, list) or len(found) == 1][-1]
        return body.rstrip()[:-1] + b',"%s":[]}' % key.encode()


async def test_a_key_that_stands_twice_is_refused_in_every_list(served: Served) -> None:
    """The last of the two would count for a parser that is not asked: an empty list of people, groups or members."""
    for name, path in served.lists().items():
        for nth in sorted({1, await served.requests(path)}):
            async with served.source() as source:
                api = source.clients[0]
                api._wire = doubling = Doubling(api._wire, path, nth)
                with pytest.raises(IncompleteError, match="twice in one object"):
                    await read_source(source, Scope())
                assert doubling.left <= 0, (name, nth)


async def test_a_token_that_ends_in_the_middle_is_replaced(served: Served) -> None:
    right = (await served.read()).digest()
    for name, path in served.lists().items():
        for nth in range(1, await served.requests(path) + 1):
            served.idp.faults({"kind": "expire", "path": path, "nth": nth})
            assert (await served.read()).digest() == right, (name, nth)


async def test_malformed_records_are_held_and_the_rest_goes_on(served: Served) -> None:
    right = await served.read()
    for name, kind in (("users", "user"), ("groups", "group")):
        served.idp.faults({"kind": "malformed", "path": served.lists()[name]})
        found = await served.read()
        assert list(found.held["kind"]) == [kind], name
        assert len(getattr(found, name)) == len(getattr(right, name)) - 1
        other = "groups" if name == "users" else "users"
        assert getattr(found, other).equals(getattr(right, other))
        assert (found.held["reason"] != "").all()


def at(way: str, value: Any) -> dict[str, Any]:
    """A JSON merge patch that sets one value."""
    first, _, rest = way.partition(".")
    return {first: at(rest, value) if rest else value}


STRANGE: tuple[Any, ...] = (7, 1.5, True, False, ["x", 7], [[]], {"x": "y"}, {"x": {"value": "y"}}, 10**15)
STRANGE_ADDRESSES: tuple[Any, ...] = (
    7,
    True,
    [7],
    [[]],
    [{"value": 7}],
    [{"value": ["x"], "primary": True}],
    {"value": {"x": "y"}},
)
TEXTS = (
    "",
    " ",
    "\u3000",
    "n/a",
    "a\x00b",
    "\x1b[2J",
    "x" * 300,
    "😀" * 200,
    "\ud83d",
    "Ann \ude00!",
    "\ufffe",
    "x" * 10**5,
)


def bad_fields(case: Case) -> list[tuple[str, Any, dict[str, Any]]]:
    """(column, value, patch) for every optional column and many values, of people as they are and disabled."""
    found: list[tuple[str, Any, dict[str, Any]]] = []
    for column, way in case.fields.items():
        strange = STRANGE_ADDRESSES if way == "emails" else STRANGE
        for value in (*strange, *TEXTS):
            plain = at(
                way, [{"value": value, "primary": True}] if way == "emails" and isinstance(value, str) else value
            )
            found += [(column, value, plain), (column, value, {**plain, **case.off[len(found) % len(case.off)]})]
    return found


@dataclass
class People:
    """What a read of people gave."""

    rows: dict[str, UserRow]
    held: dict[str, Held]
    warnings: dict[str, list[Held]]


async def people(served: Served, patches: Sequence[Mapping[str, Any]] = ()) -> People:
    """All people, the first of them with these patches."""
    served.idp.faults(*([{"kind": "patch", "path": served.case.users, "text": json.dumps(patches)}] if patches else []))
    found = People({}, {}, defaultdict(list))
    async with served.source() as source:
        async for page in source.users(Scope()):
            found.rows |= {row[0]: row for row in page.rows}
            found.held |= {one.id: one for one in page.held}
            for one in page.warnings:
                found.warnings[one.id].append(one)
    return found


async def test_an_optional_field_of_any_kind_holds_nobody_and_hides_nobody_who_is_disabled(served: Served) -> None:
    right = await people(served)
    keys, spoilt = list(right.rows)[: served.case.page], bad_fields(served.case)
    assert len(spoilt) >= 100
    for start in range(0, len(spoilt), len(keys)):
        some = spoilt[start : start + len(keys)]
        found = await people(served, [patch for *_, patch in some])
        assert not found.held
        assert found.rows.keys() == right.rows.keys()
        assert found.warnings.keys() <= set(keys)
        made = mapped([found.rows[key] for key in keys])
        assert made.held.empty
        told: dict[Any, set[str]] = defaultdict(set)
        for key, reason in zip(made.warnings["id"], made.warnings["reason"], strict=True):
            told[key].add(reason.split(" ")[0])
        for key, (column, value, patch) in zip(keys, some, strict=False):
            row, was, note = found.rows[key], right.rows[key], (column, str(value)[:20], patch.keys())
            text = isinstance(value, str)
            off = any(patch.items() >= one.items() for one in served.case.off)
            assert row[6] is (False if off else was[6]), note
            assert row[:2] == was[:2], note
            reasons = {one.reason for one in found.warnings[key]}
            assert reasons == (set() if text else {f"{column} is not text and was left out"}), note
            assert all((one.kind, one.name, one.away) == ("user", was[1], "") for one in found.warnings[key]), note
            assert key in set(made.users["id"]), note
            assert told.get(key, set()) <= {column, "display_name"}, note
            if not text:
                assert row[USERS.index(column)] != value, note


def mapped(rows: Sequence[UserRow]) -> Desired:
    """People as they come to Crowd, where validation lets them through."""
    return desired(trimmed(Snapshot.of(users_frame(rows))), Policy())


async def test_a_held_person_who_is_disabled_for_certain_is_said_to_be(served: Served) -> None:
    case, right = served.case, await people(served)
    keys = list(right.rows)[: case.page]
    wrong = [at(case.title, value) for value in (7, "", True, ["x"], {"x": "y"}, None, [])]
    silent = [{**one, **leaf} for one in wrong for leaf in [strange_off(case)]]
    offs = [{**one, **case.off[n % len(case.off)]} for n, one in enumerate([*wrong, *wrong])]
    for patches, away in ((silent, ""), (offs, DISABLED), (wrong, None)):
        for start in range(0, len(patches), len(keys)):
            some = patches[start : start + len(keys)]
            found = await people(served, some)
            for key, patch in zip(keys, some, strict=False):
                note = (key, patch)
                if case.kind == "onelogin" and patch[case.title] is None:  # the address takes its place
                    continue
                assert key not in found.rows, note
                was = DISABLED if not right.rows[key][6] else ""
                assert (found.held[key].kind, found.held[key].away) == ("user", was if away is None else away), note
                assert found.held[key].reason, note


def strange_off(case: Case) -> dict[str, Any]:
    """The fields that disable, with values that are no words."""
    return {name: [] for off in case.off for name in off}


@pytest.mark.parametrize("text", ["", " \u00a0", "a\x00b", "x" * 300])
async def test_a_username_that_is_text_and_still_none_keeps_the_word(served: Served, text: str) -> None:
    """Validation holds these rows by their rules, with the word from their column `active`."""
    patch = {**at(served.case.title, text), **served.case.off[0]}
    found = await people(served, [patch])
    if text:
        (row,) = (row for row in found.rows.values() if row[1] == text)
        assert row[6] is False
    else:
        assert [one.away for one in found.held.values()] == [DISABLED]


async def test_one_person_with_a_bad_field_can_be_read(served: Served) -> None:
    case, right = served.case, await people(served)
    row, patch = next(iter(right.rows.values())), at(case.fields["last_name"], 7)
    served.idp.faults({"kind": "patch", "path": case.one, "text": json.dumps([patch]), "times": 0})
    async with served.source() as source:
        found = await source.user(row[0])
    assert found is not None
    assert (found.user[0], found.user[6]) == (row[0], row[6])
    assert (row[USERS.index("last_name")] != "", found.user[USERS.index("last_name")]) == (True, "")


async def test_a_delta_says_the_same(served: Served) -> None:
    case = served.case
    if not SOURCES[case.kind].capabilities.delta:
        return
    column, way = next(iter(case.fields.items()))
    try:
        async with served.source() as source:
            cursor = await source.cursor(Scope())
            served.idp.change(seed=9, updated=5, joiners=0, disabled=0, renamed=0)
            patches = [at(way, 7), {**at(case.title, 7), **case.off[0]}]
            served.idp.faults({"kind": "patch", "path": case.delta, "text": json.dumps(patches)})
            changes = await source.changes(Scope(), cursor)
        assert [(one.kind, one.reason) for one in changes.warnings] == [
            ("user", f"{column} is not text and was left out")
        ]
        assert [(one.kind, one.away) for one in changes.held] == [("user", DISABLED)]
        assert changes.warnings[0].id in {row[0] for row in changes.users}
    finally:
        served.idp.load(**SIZE)


async def test_a_malformed_member_holds_its_group_and_the_rest_goes_on(served: Served) -> None:
    if not served.case.members:
        return  # they come with the groups
    right, held = await served.read(), 0
    for nth in range(1, await served.requests(served.case.members) + 1):
        served.idp.faults({"kind": "malformed", "path": served.case.members, "nth": nth})
        try:
            found = await served.read()
        except IncompleteError:
            continue
        assert found.users.equals(right.users)
        names = set(found.held["name"])
        assert set(found.held["kind"]) <= {"group"}
        assert set(found.groups["name"]) == set(right.groups["name"]) - names
        ids = set(right.groups.loc[right.groups["name"].isin(names), "id"])
        rest = right.memberships.astype("str")
        rest = rest[~rest["group_id"].isin(ids)].reset_index(drop=True)
        assert found.memberships.astype("str").equals(rest), nth
        held += len(names)
    assert held


async def test_whoever_stays_is_read_while_others_come_and_go(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """One leaves and one joins between any two requests, anywhere in the lists: totals never change. Whoever was there
    all along is read, or the read is refused; where a page has but a number, a look-up still finds them."""
    stay = await served.read()
    rows = set(stay.memberships.astype("str").itertuples(index=False, name=None))
    outcomes = {"whole": 0, "refused": 0, "found by a look-up": 0}

    async def read(what: str, source: Source) -> set[Any]:
        """Who of those that stay is missing."""
        if what == "members":
            members = await drained(as_pairs(source.memberships(list(stay.groups["id"]))), [])
            return rows - set(members)
        pages: Any = source.users(Scope()) if what == "people" else source.groups(Scope())
        found = {row[0] for row in await drained(pages, [])}
        return set((stay.users if what == "people" else stay.groups)["id"]) - found

    try:
        for seed in range(16):
            for what in ("people", "groups", "members"):
                async with served.source(page_size=(5, 10)[seed % 2]) as source:
                    chance = (0.3, 1.0)[seed // 2 % 2]
                    served.idp.churn(seed=seed, chance=chance, people=what != "groups", teams=what == "groups")
                    try:
                        missing = await read(what, source)
                    except IncompleteError:
                        outcomes["refused"] += 1
                        continue
                    outcomes["found by a look-up" if missing else "whole"] += 1
                    assert served.case.by_number or not missing, (seed, what)
                    if what != "members":
                        look_up = source.has_user if what == "people" else source.has_group
                        assert all([await look_up(key) for key in missing])
    finally:
        served.idp.churn()
    assert outcomes["whole"]
    with capsys.disabled():
        print(f"\n{served.case.kind}, others come and go: {outcomes}")


async def test_a_look_up_says_what_a_list_would_name(served: Served) -> None:
    """Of everybody who is there, and of those who were there before."""
    before = await served.read()
    try:
        async with served.source() as source:
            assert all([await source.has_user(key) for key in before.users["id"]])
            assert all([await source.has_group(key) for key in before.groups["id"]])
            for look_up, never in zip((source.has_user, source.has_group), served.case.never, strict=True):
                assert not any([await look_up(key) for key in never])
            served.idp.change(seed=9, leavers=3)
            left = set(before.users["id"]) - set((await served.read()).users["id"])
            assert len(left) == 3
            assert not any([await source.has_user(key) for key in left])
            served.idp.load(**{**SIZE, "seed": 8})
            assert not any([await source.has_user(key) for key in before.users["id"]])
            assert not any([await source.has_group(key) for key in before.groups["id"]])
    finally:
        served.idp.load(**SIZE)


async def test_a_look_up_that_says_nothing_clear_is_not_a_no(served: Served) -> None:
    before = await served.read()
    try:
        served.idp.load(**{**SIZE, "seed": 8})
        async with served.source() as source:
            for kind in ("cut", "html", "status"):
                served.idp.faults({"kind": kind, "path": "/(?!token|oauth2|realms)", "times": 0, "status": 500})
                for look_up, key in (
                    (source.has_user, before.users["id"][0]),
                    (source.has_group, before.groups["id"][0]),
                    (source.group, before.groups["id"][0]),
                ):
                    with contextlib.suppress(CrowdsyncError):
                        await look_up(key)
                        pytest.fail(f"{kind}: {look_up.__name__} believed it")
    finally:
        served.idp.faults()
        served.idp.load(**SIZE)


async def test_a_look_up_knows_the_scope(served: Served) -> None:
    case = served.case
    if not case.narrow:
        return
    with contextlib.ExitStack() as stack:
        if case.narrow_options:
            options = {**case.options, **case.narrow_options}
            other = stack.enter_context(sandbox.running(case.kind, **SIZE, options=options))
            served = Served(case, other)
        whole, narrow = await served.read(), await served.read(**case.narrow)
        assert 0 < len(narrow.users) < len(whole.users)
        assert 0 < len(narrow.groups) < len(whole.groups)
        async with served.source(**case.narrow) as source:
            for key in whole.users["id"]:
                assert await source.has_user(key) == (key in set(narrow.users["id"])), key
            for key in whole.groups["id"]:
                assert await source.has_group(key) == (key in set(narrow.groups["id"])), key


async def test_groups_in_a_circle_are_read_as_they_are(served: Served) -> None:
    if not (SOURCES[served.case.kind].capabilities.nested_groups and served.case.circular):
        return
    try:
        served.idp.load(users=12, groups=5, memberships=20, circle=True)
        snapshot = await served.read()
        assert (snapshot.memberships["member_kind"] == "group").sum() == 3
    finally:
        served.idp.load(**SIZE)


def hostile_links(port: int, trap: int) -> list[str]:
    """Links that lead anywhere but to 127.0.0.1:port, in many spellings."""
    hosts = [host.replace("idp.example", f"127.0.0.1:{port}") for host in HOSTS if host.isascii()]
    hosts = [host for host in hosts if host != f"127.0.0.1:{port}"]
    traps = [f"{host}:{trap}" for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]")]
    traps += [f"127.0.0.1:{port}@127.0.0.1:{trap}", f"127.0.0.1:{trap}\\@127.0.0.1:{port}", f"localhost:{port}"]
    paths = ("/", "/api/v1/users?after=x", "/v1.0/users?$skiptoken=x", "/admin/x?pageToken=y", "", "/a;b", "/a%20b?c=d")
    links = [f"http://{host}{path}" for host in (*hosts, *traps) for path in paths]
    links += [f"//{host}{path}" for host in traps for path in paths]
    links += [f"{scheme}://127.0.0.1:{port}/x{n}" for scheme in (*SCHEMES[1:], "https") for n in range(3)]
    links += ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "http:127.0.0.1", "\\\\evil\\x"]
    return links


async def test_no_hostile_link_is_followed(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    caught: list[bytes] = []

    async def catch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caught.append(await reader.read(1000))
        writer.close()

    trap = await asyncio.start_server(catch, "127.0.0.1", 0)
    port = int(served.idp.url.rpartition(":")[2])
    links = hostile_links(port, trap.sockets[0].getsockname()[1])
    assert len(set(links)) >= 500
    async with trap, served.source() as source:
        groups = [row[0] for row in await drained(source.groups(Scope()), [])]
        lists: dict[str, Callable[[], AsyncIterator[Page[Any]]]] = {
            "users": lambda: source.users(Scope()),
            "groups": lambda: source.groups(Scope()),
            "members": lambda: source.memberships(groups[:1]),
        }
        for name in sorted(served.case.links):
            # Each read has one page before it is refused, and each page has the next link.
            served.idp.faults(*({"kind": "link", "path": served.lists()[name], "text": link} for link in links))
            for link in links:
                with pytest.raises(RefusedError):
                    pytest.fail(f"{name}, {link}: {await drained(lists[name](), [])}")
            state = served.idp.faults_state()
            assert [(one["text"], one["fired"]) for one in state] == [(link, 1) for link in links], name
            assert sum(one["seen"] for one in state) == sum(range(1, len(links) + 1)), name
    assert not caught
    if served.case.links:
        with capsys.disabled():
            print(f"\n{served.case.kind}: {len(set(links))} hostile links in {', '.join(sorted(served.case.links))}")


async def test_one_person(served: Served) -> None:
    """By id, username and e-mail, with their direct groups; nobody for a stranger."""
    right = await served.read()
    direct = right.memberships[right.memberships["member_kind"] == "user"].astype("str")
    names = dict(zip(right.groups["id"], right.groups["name"], strict=True))
    async with served.source() as source:
        for row in list(right.users.itertuples(index=False, name=None))[::7]:
            wanted = {names[group] for group in direct.loc[direct["member_id"] == row[0], "group_id"]}
            for key in {row[0], row[1], row[1].upper(), row[2]} - {""}:
                found = await source.user(key)
                assert found is not None, key
                assert tuple(found.user) == row, key
                assert {group[1] for group in found.groups} == wanted, key
                assert {member for _, member, _ in found.memberships} <= {row[0]}
                assert {group for group, _, _ in found.memberships} == {group[0] for group in found.groups}
        for stranger in ("nobody", "nobody@acme.example", "00u-not-there", "a/../b", "x' or 1 eq 1", "(*)", '"'):
            assert await source.user(stranger) is None, stranger


class Whole:
    """What a whole read has, by person."""

    def __init__(self, whole: Snapshot) -> None:
        users, groups, members = (
            list(frame.itertuples(index=False, name=None))
            for frame in (whole.users, whole.groups, whole.memberships.astype("str"))
        )
        self.users = {row[0]: row for row in users}
        self.groups = {row[0]: row for row in groups}
        assert (len(self.users), len(self.groups)) == (len(users), len(groups))
        self.members: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in members:
            if row[2] == "user":
                self.members[row[1]].append(row)
        self.warnings = list(whole.warnings[[field.name for field in fields(Held)]].itertuples(index=False, name=None))

    def is_as(self, found: Person | None, key: str) -> None:
        """One person is what a whole read has of them: row, groups, direct memberships and warnings."""
        assert found is not None, key
        assert tuple(found.user) == self.users[key]
        members = self.members[key]
        assert sorted(found.memberships) == sorted(members)
        groups = {group: self.groups[group] for group, *_ in members if group in self.groups}
        assert sorted(map(tuple, found.groups)) == sorted(groups.values())
        mine = {"user": {key}, "group": set(groups)}
        wanted = [one for one in self.warnings if one[1] in mine[one[0]]]
        assert sorted(map(astuple, found.warnings)) == sorted(wanted)


def same_as_whole(found: Person | None, whole: Snapshot, key: str) -> None:
    """One person is what a whole read has of them."""
    Whole(whole).is_as(found, key)


async def all_same(served: Served, **settings: Any) -> Snapshot:
    """Everybody, one by one, is as in a whole read with all the attributes."""
    async with served.source(**settings) as source:
        scope = Scope(frozenset(served.case.attributes))
        whole = await read_source(source, scope)
        assert whole.held.empty
        of_whole = Whole(whole)
        for key in whole.users["id"]:
            of_whole.is_as(await source.user(key, scope), key)
    return whole


async def test_one_person_is_as_in_a_whole_read(served: Served) -> None:
    """Active and disabled, in groups and in none, with several attributes and with none of them asked for."""
    whole = await all_same(served)
    for attribute in served.case.attributes:
        texts = [*whole.users["attributes"], *whole.groups["attributes"]]
        assert any(f'"{attribute}":' in text for text in texts), attribute
    assert set(whole.users["active"]) == {True, False}
    direct = whole.memberships[whole.memberships["member_kind"] == "user"].astype("str")
    assert set(whole.users["id"]) - set(direct["member_id"])
    async with served.source() as source:
        plain, key = await served.read(), whole.users["id"][0]
        same_as_whole(await source.user(key), plain, key)
        by_name = await source.user(whole.users["username"][0], Scope(frozenset(served.case.attributes)))
        same_as_whole(by_name, whole, key)


async def test_one_person_is_as_in_a_whole_read_with_every_setting(served: Served) -> None:
    case = served.case
    for settings in case.others:
        await all_same(served, **settings)
    if not case.narrow:
        return
    with contextlib.ExitStack() as stack:
        if case.narrow_options:
            options = {**case.options, **case.narrow_options}
            served = Served(case, stack.enter_context(sandbox.running(case.kind, **SIZE, options=options)))
        whole, narrow = await served.read(), await all_same(served, **case.narrow)
        outside = set(whole.users["id"]) - set(narrow.users["id"])
        assert outside
        async with served.source(**case.narrow) as source:
            for key in outside:
                assert await source.user(key, Scope(frozenset(case.attributes))) is None, key


SPOILT = [{"value": {"x": "y"}}]
"""No value of any optional field, nor of an e-mail address."""


class Spoiling(Between):
    """The way to a real server, all of whose answers have `SPOILT` in every field of these names."""

    def __init__(self, inner: Wire, names: frozenset[str]) -> None:
        super().__init__(inner)
        self.names = names

    def changed(self, path: str, body: bytes) -> bytes | None:
        return orjson.dumps(self.spoil(orjson.loads(body)))

    def spoil(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: SPOILT if name in self.names else self.spoil(one) for name, one in value.items()}
        return [self.spoil(one) for one in value] if isinstance(value, list) else value


async def test_one_person_has_the_warnings_of_a_whole_read(served: Served) -> None:
    """Of the person and of their groups, where optional fields and attributes of everybody are spoilt."""
    case, scope = served.case, Scope(frozenset(served.case.attributes))
    ways = [way for column, way in case.fields.items() if column != "display_name"]  # (groups need theirs)
    leaves = frozenset(way.split(".")[-1] for way in (*ways, case.attributes[0], "description"))
    async with served.source() as source:
        api = source.clients[0]
        api._wire = Spoiling(api._wire, leaves)
        whole = await read_source(source, scope)
        assert len(whole.users) == SIZE["users"]
        assert set(whole.warnings["kind"]) == ({"user"} if case.kind in ("onelogin", "scim") else {"user", "group"})
        assert whole.warnings["reason"].str.startswith(case.attributes[0]).any()
        of_whole = Whole(whole)
        for key in whole.users["id"]:
            of_whole.is_as(await source.user(key, scope), key)


async def test_one_person_with_any_bad_field_is_as_in_a_whole_read(served: Served) -> None:
    case, scope = served.case, Scope(frozenset(served.case.attributes))
    keys, spoilt = list((await people(served)).rows)[: case.page], bad_fields(case)[::2]
    for start in range(0, len(spoilt), len(keys)):
        some = [patch for *_, patch in spoilt[start : start + len(keys)]]
        served.idp.faults({"kind": "patch", "path": case.users, "text": json.dumps(some)})
        async with served.source(concurrency=1) as source:  # (the first page is asked for first)
            whole = Whole(await read_source(source, scope))
            for key, patch in zip(keys, some, strict=False):
                served.idp.faults({"kind": "patch", "path": case.one, "text": json.dumps([patch]), "times": 0})
                whole.is_as(await source.user(key, scope), key)


async def test_one_person_who_cannot_be_a_row_is_not_nobody(served: Served) -> None:
    """Nor is somebody else."""
    case, rows = served.case, (await people(served)).rows
    key, other = list(rows)[:2]
    strange = int(other) if other.isdigit() and case.kind == "onelogin" else other
    for patch in ({"id": ["x"]}, {"id": None}, {"id": strange}, at(case.title, ["x"])):
        served.idp.faults({"kind": "patch", "path": case.one, "text": json.dumps([patch]), "times": 0})
        async with served.source() as source:
            with pytest.raises(IncompleteError):
                pytest.fail(f"{patch}: {await source.user(key)}")


async def test_an_attribute_that_the_source_refuses_is_not_nobody(served: Served) -> None:
    """Whatever a whole read says of such an attribute, of one person is said, too."""
    key = next(iter((await people(served)).rows))
    for name in ("nonsense", "customSchemas.None.x", "a b", ""):
        scope = Scope(frozenset({name}))
        async with served.source() as source:
            try:
                whole = await read_source(source, scope)
            except ConfigurationError:
                with pytest.raises(ConfigurationError):
                    await source.user(key, scope)
            else:
                same_as_whole(await source.user(key, scope), whole, key)


async def every_group(served: Served, **settings: Any) -> Snapshot:
    """Each group by its id, and its members, are as in a whole read with all the attributes."""
    scope = Scope(frozenset(served.case.attributes))
    async with served.source(**settings) as source:
        whole = await read_source(source, scope)
    async with served.source(**settings) as source:  # (one that has listed nothing)
        for row in whole.groups.itertuples(index=False, name=None):
            found = await source.group(row[0], scope)
            assert found is not None, row[0]
            assert tuple(found.group) == row
        ids = list(whole.groups["id"])
        held: list[Held] = []
        for some in ([one] for one in ids[:3]):
            members = await drained(as_pairs(source.memberships(some)), held)
            pairs = whole.memberships[whole.memberships["group_id"].isin(some)].astype("str")
            assert sorted(members) == sorted(pairs.itertuples(index=False, name=None))
        assert not held
    return whole


async def test_one_group_is_as_in_a_whole_read(served: Served) -> None:
    """Also by every setting; and nobody else's."""
    case = served.case
    for settings in ({}, *case.others):
        await every_group(served, **settings)
    async with served.source() as source:
        for never in case.never[1]:
            assert await source.group(never) is None
    if not case.narrow:
        return
    with contextlib.ExitStack() as stack:
        if case.narrow_options:
            options = {**case.options, **case.narrow_options}
            served = Served(case, stack.enter_context(sandbox.running(case.kind, **SIZE, options=options)))
        whole, narrow = await served.read(), await every_group(served, **case.narrow)
        outside = set(whole.groups["id"]) - set(narrow.groups["id"])
        assert outside
        async with served.source(**case.narrow) as source:
            for key in outside:
                assert await source.group(key, Scope(frozenset(case.attributes))) is None, key


async def test_one_group_that_is_gone_is_none_and_one_that_cannot_be_a_row_is_not(served: Served) -> None:
    before = await served.read()
    key = before.groups["id"][0]
    for names in ({"name", "displayName"}, {"id"}):
        async with served.source() as source:
            api = source.clients[0]
            api._wire = Spoiling(api._wire, frozenset(names))
            with pytest.raises(IncompleteError):
                pytest.fail(f"{names}: {await source.group(key)}")
    try:
        served.idp.load(**{**SIZE, "seed": 8})
        async with served.source() as source:
            for key in before.groups["id"]:
                assert await source.group(key) is None, key
    finally:
        served.idp.load(**SIZE)


async def test_wrong_credentials_are_told_and_not_shown(served: Served) -> None:
    _, others = sandbox.module_of(served.case.kind).credentials()
    async with served.source(secrets=others) as source:
        for call in (source.check(), read_source(source, Scope())):
            with pytest.raises((AuthenticationError, ConfigurationError)) as wrong:
                await call
            message = str(wrong.value)
            assert "acme" in message
            assert not any(secret in message for secret in others.values())


async def test_the_check_says_what_was_found(served: Served) -> None:
    async with served.source() as source:
        lines = await source.check()
        assert lines
        assert not any("\n" in line for line in lines)


async def test_deltas_are_offered_or_refused(served: Served) -> None:
    async with served.source() as source:
        cursor = await source.cursor(Scope())
        if not source.capabilities.delta:
            assert cursor == ""
            with pytest.raises(StaleCursorError):
                await source.changes(Scope(), cursor)
        else:
            assert cursor
            for bad in ("", "nonsense", "{}"):
                with pytest.raises(StaleCursorError):
                    await source.changes(Scope(), bad)


async def test_a_delta_ends_where_a_full_read_does(served: Served) -> None:
    """Some days later, again and again; of those who left, only whom the source calls deleted is gone."""
    if not SOURCES[served.case.kind].capabilities.delta:
        return
    try:
        async with served.source() as source:
            cursor = await source.cursor(Scope())
            before = await read_source(source, Scope())
            same = await source.changes(Scope(), cursor)
            assert merged(before, same).digest() == before.digest()
            known = before
            for seed, leavers in ((1, 0), (2, 0), (3, 2)):
                served.idp.change(
                    seed=seed, joiners=2, disabled=1, renamed=2, updated=2, moved=4, new_groups=1, renamed_groups=1,
                    leavers=leavers,
                )  # fmt: skip
                changes = await source.changes(Scope(), cursor)
                cursor, known = changes.cursor, merged(known, changes)
                full = await read_source(source, Scope())
                if not leavers:
                    assert known.digest() == full.digest(), seed
            left = set(known.users["id"]) - set(full.users["id"])
            assert len(left) == (0 if changes.gone_users else 2)
            rest = known.users[~known.users["id"].isin(left)].reset_index(drop=True)
            assert rest.equals(full.users)
            assert known.groups.equals(full.groups)
            extra = known.memberships[~known.memberships["member_id"].isin(left)].astype("str")
            assert set(extra.itertuples(index=False, name=None)) == set(
                full.memberships.astype("str").itertuples(index=False, name=None)
            )
    finally:
        served.idp.load(**SIZE)
