"""Oracle IDCS and OCI identity domains as a source, against the emulator that Oracle's SDK holds true."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from connectors.contract import Held, Scope
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    IncompleteError,
    RetryableError,
    StaleCursorError,
)
from connectors.http import Answer
from connectors.idp.idcs import Idcs, IdcsSettings, group_rows, user_rows
from connectors.model import Snapshot
from deployments.sandbox.idcs import (
    GROUP_EXTENSION,
    LEAVING_GROUP,
    LEAVING_USER,
    SERVICE_USER,
    USER_EXTENSION,
    group_id,
    user_id,
)
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import ENTERPRISE_SCHEMA, Organisation, changed, organisation
from deployments.sandbox.server import children_of, members_of
from tasks.read.deltas import merged
from tasks.read.extract import read_source

SIZE: dict[str, Any] = {"users": 120, "groups": 10, "memberships": 300, "seed": 3}


@pytest.fixture(scope="module")
def one_idp() -> Iterator[RunningIdp]:
    with running("idcs", **SIZE) as found:
        yield found


@pytest.fixture
def idp(one_idp: RunningIdp) -> Iterator[RunningIdp]:
    one_idp.reset_counts()
    yield one_idp
    one_idp.faults()


@asynccontextmanager
async def source(idp: RunningIdp, *, secret: str = "", **settings: Any) -> AsyncIterator[Idcs]:
    chosen = IdcsSettings.model_validate({**idp.settings, "timeout": 5, **settings})
    opened = Idcs.open("acme", chosen, {"client_secret": secret or idp.secrets["client_secret"]})
    try:
        yield opened
    finally:
        await asyncio.gather(*(client.aclose() for client in opened.clients))


async def read(idp: RunningIdp, *attributes: str, **settings: Any) -> Snapshot:
    async with source(idp, **settings) as one:
        return await read_source(one, Scope(frozenset(attributes)))


def company() -> Organisation:
    return organisation(**SIZE)


def memberships(whole: Organisation) -> set[tuple[str, str, str]]:
    found = {
        (group_id(team.id), user_id(one), "user")
        for team, ids in zip(whole.teams, members_of(whole), strict=True)
        for one in ids
    }
    nested = children_of(whole).items()
    return found | {(group_id(parent), group_id(one), "group") for parent, ids in nested for one in ids}


def seen(snapshot: Snapshot) -> set[tuple[str, str, str]]:
    rows = list(snapshot.memberships.astype("str").itertuples(index=False, name=None))
    assert len(set(rows)) == len(rows)
    return set(rows)


def altered(
    one: Idcs, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    """The server's answers (params of the request, body) changed on their way."""
    call = one._http.call

    async def changed_call(method: str, path: str, *, params: dict[str, Any], **named: Any) -> Answer:
        answer = await call(method, path, params=params, **named)
        if answer.status != 200:
            return answer
        body = orjson.loads(answer.body)
        change(params, body)
        return Answer(200, answer.headers, orjson.dumps(body), answer.url)

    monkeypatch.setattr(one._http, "call", changed_call)


# --- a whole read ------------------------------------------------------------------------------------


async def test_a_read_in_few_requests(idp: RunningIdp) -> None:
    whole = company()
    snapshot = await read(idp)
    rows = {row[0]: row for row in snapshot.users.itertuples(index=False, name=None)}
    assert rows == {
        (key := user_id(p.id)): (
            *(key, f"{p.username}@acme.example", p.email, p.first_name, p.last_name, p.display_name, p.active, "{}"),
        )
        for p in whole.people
    }
    assert {p.active for p in whole.people} == {True, False}
    assert set(snapshot.groups.itertuples(index=False, name=None)) == {
        (group_id(t.id), t.name, f"{t.kind} {t.about}".strip(), "{}") for t in whole.teams
    }
    assert seen(snapshot) == memberships(whole)
    assert children_of(whole)
    assert snapshot.held.empty
    counts = idp.counts()
    counts.pop("bytes")
    assert counts == {"POST /oauth2/v1/token": 1, "GET /Users": 1, "GET /Groups": 1, "GET /Groups?filter": 1}


async def test_a_large_read_takes_a_request_for_many() -> None:
    with running("idcs", users=2500, groups=200, memberships=8000) as other:
        snapshot = await read(other)
        counts = other.counts()
    assert seen(snapshot) == memberships(organisation(users=2500, groups=200, memberships=8000))
    empty = 200 - snapshot.memberships["group_id"].nunique()
    assert counts["GET /Users"] == 3
    assert counts["GET /Groups"] == 1
    assert counts["GET /Groups?filter"] == 4 + bool(empty)
    assert "GET /Groups/{id}" not in counts


async def test_who_is_left_out(idp: RunningIdp) -> None:
    snapshot = await read(idp)
    assert not {SERVICE_USER, LEAVING_USER} & set(snapshot.users["id"])
    assert LEAVING_GROUP not in set(snapshot.groups["id"])
    async with source(idp) as one:
        for key in (SERVICE_USER, "backup-job", LEAVING_USER, "leaving@acme.example"):
            assert await one.user(key) is None


async def test_the_recovery_address_is_nobodys_address(idp: RunningIdp) -> None:
    found = await read(idp)
    assert not found.users["email"].str.contains("private.example").any()
    assert (found.users["email"] == "").any() == any(not p.email for p in company().people)
    async with source(idp) as one:
        for person in company().people[:20]:
            assert await one.user(f"{person.username}@private.example") is None


async def test_a_lock_is_no_deactivation(idp: RunningIdp) -> None:
    locked = "urn:ietf:params:scim:schemas:oracle:idcs:extension:userState:User:locked.on"
    async with source(idp) as one:
        altered_rows = [
            record
            async for records, *_ in one._list("/admin/v1/Users", {"attributes": f"active,{locked}"})
            for record in records
        ]
    assert any(r.get(locked.removesuffix(":locked.on"), {}).get("locked") and r["active"] for r in altered_rows)
    active = {user_id(p.id) for p in company().people if p.active}
    snapshot = await read(idp)
    assert set(snapshot.users.loc[snapshot.users["active"], "id"]) == active


async def test_members_that_are_neither_users_nor_groups_are_left_out() -> None:
    with running("idcs", **SIZE, options={"strangers": True}) as other:
        snapshot = await read(other)
        assert other.counts()["GET /Groups?filter"] == 1
    rest = {row for row in seen(snapshot) if row[1] != SERVICE_USER}
    assert rest == memberships(company())


async def test_lists_are_put_in_order() -> None:
    """Without an order a server may show somebody twice, and somebody else never."""
    with running("idcs", **SIZE, options={"restless": True}) as other:
        snapshot = await read(other, page_size=7, groups_at_once=3)
    assert len(snapshot.users) == 120
    assert seen(snapshot) == memberships(company())


# --- large groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 500])
async def test_answers_with_too_many_members(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Counter(row[0] for row in memberships(company()))
    most = max(sizes.values()) // 2
    monkeypatch.setattr("connectors.idp.idcs._INSIDE", most)
    with running("idcs", **SIZE, options={"members_cap": most, "too_many": status}) as other:
        assert seen(await read(other)) == memberships(company())
        counts = other.counts()
    pages = [-(-size // most) for size in sizes.values() if size > most]
    assert max(pages) > 1
    # The pages of the large groups, and an empty one twice; the small groups still come together.
    assert counts["GET /Groups/{id}"] == sum(pages) + 2 * len(pages)
    assert counts["GET /Groups?filter"] < 20


async def test_a_group_of_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.idp.idcs._INSIDE", 5)
    with running("idcs", **SIZE, options={"members_cap": 9}) as other:
        right = memberships(company())
        assert seen(await read(other)) == right
        for nth in (1, 2, 3):
            for kind in ("drop", "repeat", "empty", "malformed"):
                other.faults({"kind": kind, "path": r"/admin/v1/Groups/", "nth": nth})
                try:
                    snapshot = await read(other)
                except IncompleteError:
                    continue
                held = set(snapshot.held["id"])
                assert seen(snapshot) == {row for row in right if row[0] not in held}, (kind, nth)
                assert not held or kind == "malformed"
        other.faults({"kind": "drop", "path": r"/admin/v1/Groups/", "nth": 2})
        with pytest.raises(IncompleteError, match="moved while it was read"):
            await read(other)


async def test_a_server_that_ignores_the_page_inside(monkeypatch: pytest.MonkeyPatch, idp: RunningIdp) -> None:
    group = max(Counter(row[0] for row in memberships(company())).items(), key=lambda pair: pair[1])[0]
    async with source(idp) as one:
        call = one._http.call

        async def deaf(method: str, path: str, *, params: dict[str, Any], **named: Any) -> Answer:
            return await call(method, path, params={**params, "attributes": "members"}, **named)

        monkeypatch.setattr(one._http, "call", deaf)
        with pytest.raises(IncompleteError, match="moved while it was read"):
            await asyncio.wait_for(one._members_by_page(group), 10)


# --- answers that lie --------------------------------------------------------------------------------


async def test_groups_without_members_are_asked_for_again(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the server knew no sub-attributes: nothing looks like an empty group."""

    def bare(params: dict[str, Any], body: dict[str, Any]) -> None:
        if "members.value" in params["attributes"]:
            for record in body["Resources"]:
                record.pop("members", None)

    async with source(idp) as one:
        altered(one, monkeypatch, bare)
        assert seen(await read_source(one, Scope())) == memberships(company())


async def test_bare_groups_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.idp.idcs._INSIDE", 9)
    with running("idcs", **SIZE, options={"members_cap": 9}) as other:
        async with source(other, groups_at_once=3) as one:
            call = one._http.call

            async def deaf(method: str, path: str, *, params: dict[str, Any], **named: Any) -> Answer:
                """The first question is answered without members whatever their number."""
                if params.get("attributes") == "members.value,members.type":
                    params = {**params, "attributes": "displayName"}
                return await call(method, path, params=params, **named)

            monkeypatch.setattr(one._http, "call", deaf)
            assert seen(await read_source(one, Scope())) == memberships(company())


async def test_really_empty_groups_are_empty() -> None:
    with running("idcs", users=5, groups=4, memberships=0) as other:
        snapshot = await read(other)
        nested = memberships(organisation(users=5, groups=4, memberships=0))
        assert seen(snapshot) == nested
        assert other.counts()["GET /Groups?filter"] == 2


@pytest.mark.parametrize(
    "members",
    [
        *([{"value": "x"}], [{"type": "User"}], [{"type": "User", "value": 7}], [{"type": "Group", "value": ""}]),
        *("x", {"a": 1}, [7], [{"type": "User", "value": "x"}] * 2),
    ],
)
async def test_members_that_make_no_sense(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch, members: Any) -> None:
    def spoil(params: dict[str, Any], body: dict[str, Any]) -> None:
        if "members" in params["attributes"]:
            body["Resources"][-1]["members"] = members

    async with source(idp) as one:
        altered(one, monkeypatch, spoil)
        if isinstance(members, list) and len(members) == 2:
            with pytest.raises(IncompleteError, match="member twice"):
                await read_source(one, Scope())
            return
        right = await read(idp)
        snapshot = await read_source(one, Scope())
        held = set(snapshot.held["id"])
        assert held
        assert set(snapshot.groups["id"]) == set(right.groups["id"]) - held
        assert seen(snapshot) == {row for row in seen(right) if row[0] not in held}


async def test_groups_that_are_gone_meanwhile(idp: RunningIdp) -> None:
    async with source(idp) as one:
        with pytest.raises(IncompleteError, match="asked for 2 groups, got 1"):
            [page async for page in one.memberships([group_id(company().teams[0].id), "0" * 32])]
        idp.faults({"kind": "total", "path": r"/admin/v1/Groups$"})
        with pytest.raises(IncompleteError, match="got 1 of 2"):
            [page async for page in one.memberships([group_id(company().teams[0].id)])]


@pytest.mark.parametrize("path", [r"/admin/v1/Users$", r"/admin/v1/Groups$"])
async def test_an_empty_list_is_not_believed_at_once(idp: RunningIdp, path: str) -> None:
    idp.faults({"kind": "empty", "total": 0, "path": path})
    with pytest.raises(IncompleteError, match="when asked again not empty"):
        await read(idp)


async def test_a_record_twice_is_refused(idp: RunningIdp) -> None:
    idp.faults({"kind": "repeat", "path": r"/admin/v1/Users$", "nth": 2})
    async with source(idp, page_size=61) as one:
        with pytest.raises(IncompleteError, match="/Users: a page does not begin with the record"):
            [page async for page in one.users(Scope())]


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"totalResults":"3","Resources":[]}', b'{"totalResults":1,"Resources":{}}']
)
async def test_what_is_no_list_is_no_empty_list(body: bytes) -> None:
    one = Idcs.open("acme", IdcsSettings(url="https://acme.example", client_id="c"), {"client_secret": "s"})

    async def answer(*_: Any, **__: Any) -> Answer:
        return Answer(200, {}, body, "https://acme.example/admin/v1/Users")

    one._http.call = answer  # type: ignore[method-assign]
    for read_one in (one.users(Scope()), one.groups(Scope()), one.memberships(["1"])):
        with pytest.raises(IncompleteError, match="not a ListResponse"):
            [page async for page in read_one]


# --- rows and attributes -----------------------------------------------------------------------------


def test_records_become_rows_or_are_held() -> None:
    held: list[Held] = []
    good = {"id": "1", "userName": "ann", "active": True}
    bad = [
        {**good, "active": None},
        {**good, "active": "true"},
        {"id": "1", "active": True},
        {**good, "id": 7},
        7,
    ]
    rows = user_rows(())([good, *bad, {**good, "name": {"givenName": "Ann", "familyName": None}}], "user", held)
    assert rows == [("1", "ann", "", "", "", "", True, "{}"), ("1", "ann", "", "Ann", "", "Ann", True, "{}")]
    assert len(held) == len(bad)
    assert all(one.reason for one in held)
    held.clear()
    teams = [{"id": "g", "displayName": "x"}, {"id": "g"}]
    assert group_rows(())(teams, "group", held) == [("g", "x", "", "{}")]
    assert len(held) == 1


@pytest.mark.parametrize(
    ("emails", "chosen"),
    [
        ([{"type": "recovery", "value": "r", "primary": True}, {"type": "home", "value": "h"}], "h"),
        ([{"type": "home", "value": "h"}, {"type": "work", "value": "w"}], "w"),
        ([{"type": "work", "value": "w"}, {"type": "home", "value": "h", "primary": True}], "h"),
        ([{"type": "other", "value": "o"}], "o"),
        ([{"type": "recovery", "value": "r"}], ""),
        ([{"type": "work"}], ""),
        ([{"type": "Recovery", "value": "r"}, "o"], "o"),
        ({"type": "recovery", "value": "r"}, ""),
        ([{"type": "home", "value": "h"}, {"type": "work", "value": "w", "primary": "TRUE"}], "w"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_address(emails: Any, chosen: str) -> None:
    rows = user_rows(())([{"id": "1", "userName": "ann", "active": True, "emails": emails}], "user", [])
    assert rows[0][2] == chosen


async def test_attributes_are_asked_for_by_name(idp: RunningIdp) -> None:
    department, status = f"{ENTERPRISE_SCHEMA}:department", f"{USER_EXTENSION}:status"
    about = f"{GROUP_EXTENSION}:description"
    manager = f"{ENTERPRISE_SCHEMA}:manager.value"
    paths = ("title", "addresses.locality", department, status, about, manager, "name.formatted")
    snapshot = await read(idp, *paths)
    people = {user_id(p.id): p for p in company().people}
    for key, text in zip(snapshot.users["id"], snapshot.users["attributes"], strict=True):
        person, found = people[key], orjson.loads(text)
        assert found.pop(status)[0] in ("verified", "pendingVerification")  # returned on request
        wanted = {
            "title": person.title,
            "addresses.locality": person.location,
            department: person.department,
            manager: user_id(person.manager) if person.manager else "",
            "name.formatted": person.display_name,
        }
        assert found == {name: [value] for name, value in wanted.items() if value}
    for row in snapshot.groups.itertuples(index=False, name=None):
        assert orjson.loads(row[3]) == {about: [row[2]]}
    for bad in ("a,b", "emails[type]", "title&count=1", "a..b", ""):
        with pytest.raises(ConfigurationError, match="attribute path"):
            await read(idp, bad)


# --- deltas ------------------------------------------------------------------------------------------


async def test_a_delta_says_what_changed() -> None:
    amounts = {"seed": 9, "joiners": 3, "renamed": 2, "disabled": 2, "updated": 2, "moved": 2, "new_groups": 1}
    with running("idcs", **SIZE) as other:
        async with source(other) as one:
            cursor = await one.cursor(Scope())
            before = await read_source(one, Scope())
            # Everybody was changed a day ago: nobody within the overlap.
            other.reset_counts()
            first = await one.changes(Scope(), cursor)
            assert (first.users, first.groups, first.replaced, first.memberships) == ([], [], [], [])
            counts = other.counts()
            counts.pop("bytes")
            assert counts == {"GET /Users?filter": 1, "GET /Groups?filter": 1}
            assert merged(before, first).digest() == before.digest()
            other.change(**amounts, renamed_groups=1)
            delta = await one.changes(Scope(), first.cursor)
            assert 5 <= len(delta.users) < 30
            assert 0 < len(delta.replaced) == len(delta.groups) <= 11
            after = merged(before, delta)
            assert after.digest() == (await read_source(one, Scope())).digest()
            # Who is deleted is not told: only a full read sees it.
            other.change(seed=10, leavers=5)
            delta = await one.changes(Scope(), delta.cursor)
            assert (delta.gone_users, delta.gone_groups, delta.left) == ((), (), ())
            assert len(merged(after, delta).users) == len(after.users)
            assert len((await read_source(one, Scope())).users) == len(after.users) - 5
    assert seen(after) == memberships(changed(company(), **amounts, renamed_groups=1))


async def test_a_mark_lies_before_now(idp: RunningIdp) -> None:
    async with source(idp) as one:
        ago = datetime.now(UTC) - datetime.fromisoformat(await one.cursor(Scope()))
        assert timedelta(minutes=5) < ago < timedelta(hours=1)
        for bad in ("", "yesterday", "2026-13-01T00:00:00.000Z", '2026-01-01T00:00:00.000Z" or active pr'):
            with pytest.raises(StaleCursorError):
                await one.changes(Scope(), bad)


async def test_a_delta_proves_itself_whole(idp: RunningIdp) -> None:
    async with source(idp, page_size=50) as one:
        whole = await one.changes(Scope(), "2020-01-01T00:00:00.000Z")
        assert (len(whole.users), len(whole.groups)) == (120, 10)
        for path, nth in ((r"/admin/v1/Users$", 2), (r"/admin/v1/Groups$", 1), (r"/admin/v1/Groups$", 2)):
            idp.faults({"kind": "drop", "path": path, "nth": nth})
            with pytest.raises(IncompleteError):
                await one.changes(Scope(), "2020-01-01T00:00:00.000Z")
        idp.faults({"kind": "malformed", "path": r"/admin/v1/Users$"})
        held = await one.changes(Scope(), "2020-01-01T00:00:00.000Z")
        assert [one.kind for one in held.held] == ["user"]


# --- one person --------------------------------------------------------------------------------------


async def test_one_person_takes_two_requests(idp: RunningIdp) -> None:
    whole = company()
    direct = {(user, group) for group, user, kind in memberships(whole) if kind == "user"}
    above = {child for _, child, kind in memberships(whole) if kind == "group"}
    # Somebody who is in a nested group, and not in the one above it.
    inside = next(
        p
        for p in whole.people
        for parent, child, kind in memberships(whole)
        if kind == "group" and (user_id(p.id), child) in direct and (user_id(p.id), parent) not in direct
    )
    assert above
    async with source(idp) as one:
        await one.check()
        for key in (user_id(inside.id), f"{inside.username}@ACME.example", inside.email.upper()):
            idp.reset_counts()
            found = await one.user(key)
            counts = idp.counts()
            counts.pop("bytes")
            assert counts == {"GET /Users?filter": 1, "GET /Groups?filter": 1}
            assert found is not None
            assert found.user[0] == user_id(inside.id)
            assert {(found.user[0], g[0]) for g in found.groups} == {
                pair for pair in direct if pair[0] == found.user[0]
            }
        for stranger in ("", "nobody", "0" * 32, 'x" or active pr or userName eq "x', "back\\slash"):
            assert await one.user(stranger) is None


async def test_one_person_whose_groups_do_not_come(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    member = next(user for _, user, kind in sorted(memberships(company())) if kind == "user")
    mine = {group for group, user, _ in memberships(company()) if user == member}

    def bare(params: dict[str, Any], body: dict[str, Any]) -> None:
        for record in body.get("Resources", ()) if "groups.type" in params["attributes"] else ():
            record.pop("groups", None)

    async with source(idp) as one:
        altered(one, monkeypatch, bare)
        found = await one.user(member)
        assert found is not None
        assert {group[0] for group in found.groups} == mine
    nobody = next(
        user_id(p.id) for p in company().people if user_id(p.id) not in {m[1] for m in memberships(company())}
    )
    async with source(idp) as one:
        found = await one.user(nobody)
        assert found is not None
        assert found.groups == []


async def test_one_person_where_it_is_not_said_which_groups_are_direct(
    idp: RunningIdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = next(user for _, user, kind in sorted(memberships(company())) if kind == "user")

    def typeless(_: dict[str, Any], body: dict[str, Any]) -> None:
        for record in body["Resources"]:
            for group in record.get("groups", ()):
                group.pop("type")

    async with source(idp) as one:
        altered(one, monkeypatch, typeless)
        with pytest.raises(IncompleteError, match="direct"):
            await one.user(member)


async def test_nobody_must_be_nobody_twice(idp: RunningIdp) -> None:
    idp.faults({"kind": "empty", "total": 0, "path": r"/admin/v1/Users$"})
    async with source(idp) as one:
        with pytest.raises(IncompleteError):
            await one.user(user_id(company().people[0].id))


async def test_two_people_with_one_address(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    person = next(p for p in company().people if p.email and p.email != f"{p.username}@acme.example")

    def double(_: dict[str, Any], body: dict[str, Any]) -> None:
        body["Resources"] *= 2
        body["Resources"][1] = {**body["Resources"][0], "id": "other"}
        body["totalResults"] = 2

    async with source(idp) as one:
        altered(one, monkeypatch, double)
        with pytest.raises(IncompleteError, match="2 people"):
            await one.user(person.email)


# --- credentials, rights, limits ---------------------------------------------------------------------


async def test_the_check_counts(idp: RunningIdp) -> None:
    async with source(idp) as one:
        lines = await one.check()
    assert lines == [
        "sources.acme: the identity domain answers",
        "users, service users among them: 122",
        "groups: 11",
    ]


async def test_wrong_credentials(idp: RunningIdp) -> None:
    async with source(idp, secret="not-the-secret") as one:
        with pytest.raises(AuthenticationError, match="client_id") as wrong:
            await one.check()
    assert "not-the-secret" not in str(wrong.value)
    assert "$CROWDSYNC_SOURCE_SECRET" in str(wrong.value)


@pytest.mark.parametrize("status", [401, 403])
async def test_the_missing_role_is_named(status: int) -> None:
    with running("idcs", users=5, groups=2, memberships=4, options={"role": False, "no_role": status}) as other:
        async with source(other) as one:
            for call in (one.check(), read_source(one, Scope()), one.user("ann")):
                with pytest.raises(ForbiddenError, match="application role") as refused:
                    await call
                assert "not authorized" in str(refused.value)
                assert "error.common.http.forbidden" in str(refused.value)


async def test_an_address_with_a_path(idp: RunningIdp) -> None:
    assert len((await read(idp, url=f"{idp.url}/admin/v1/")).users) == 120
    async with source(idp, url=f"{idp.url}/ui/v1") as one:
        with pytest.raises(CrowdsyncError, match="address"):
            await one.check()
    async with source(idp) as one:
        with pytest.raises(ConfigurationError, match="domain URL"):
            await one._get("/admin/v2/Users", {})


async def test_an_error_is_told_in_the_servers_words(idp: RunningIdp) -> None:
    async with source(idp) as one:
        with pytest.raises(IncompleteError, match="Invalid filter") as refused:
            await one._get("/admin/v1/Users", {"filter": "nonsense"})
    assert "error.common.validation.invalidFilter" in str(refused.value)


async def test_the_rate_limit_is_waited_for() -> None:
    """The API does not say how long; with several tries the wait is long enough."""
    with running("idcs", **SIZE, options={"limit": 6, "window": 1}) as other:
        snapshot = await read(other, groups_at_once=1, requests_per_second=5)
        assert seen(snapshot) == memberships(company())


async def test_a_rate_limit_that_stays_ends_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.http.FIRST_WAIT", 0.001)
    monkeypatch.setattr("connectors.http.HIGHEST_WAIT", 0.002)
    with running("idcs", **SIZE, options={"limit": 0}) as other, pytest.raises(RetryableError, match="429"):
        await read(other)


async def test_a_token_that_ends_is_fetched_anew() -> None:
    with running("idcs", **SIZE, options={"seconds": 1}) as other:
        async with source(other) as one:
            right = (await read_source(one, Scope())).digest()
            other.faults({"kind": "expire", "path": "/admin/v1/", "nth": 3})
            assert (await read_source(one, Scope())).digest() == right
        assert other.counts()["POST /oauth2/v1/token"] >= 2
