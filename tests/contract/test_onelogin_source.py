"""The OneLogin source against the emulator: what is OneLogin's own. What all sources do: test_every_source.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from connectors import http as client
from connectors.contract import Scope
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
from connectors.idp.onelogin import OneLogin, OneLoginSettings, user_rows
from connectors.model import Snapshot
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.onelogin import APP, group_id, has_app, role_id, status_of, user_id
from deployments.sandbox.organisation import Organisation, Person, changed, organisation
from deployments.sandbox.server import members_of
from tasks.read.deltas import merged
from tasks.read.extract import read_source
from tests.support.pages import as_pairs

SIZE: dict[str, Any] = {"users": 120, "groups": 10, "memberships": 300, "seed": 7}


@pytest.fixture(scope="module")
def idp() -> Iterator[RunningIdp]:
    with running("onelogin", **SIZE, options={"scope": "Read All", "bare_cursor": True, "manager": "mixed"}) as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(client, "HIGHEST_WAIT", 0.002)


@pytest.fixture(autouse=True)
def sound(idp: RunningIdp) -> Iterator[None]:
    yield
    idp.faults()


@asynccontextmanager
async def source(idp: RunningIdp, secret: str = "", **settings: Any) -> AsyncIterator[OneLogin]:
    chosen = OneLoginSettings.model_validate({**idp.settings, "timeout": 10, **settings})
    opened = OneLogin.open("acme", chosen, {"client_secret": secret} if secret else idp.secrets)
    try:
        yield opened
    finally:
        await asyncio.gather(*(one.aclose() for one in opened.clients))


async def read(idp: RunningIdp, attributes: tuple[str, ...] = (), **settings: Any) -> Snapshot:
    async with source(idp, **settings) as one:
        return await read_source(one, Scope(frozenset(attributes)))


def company() -> Organisation:
    return organisation(**SIZE)


def pairs(snapshot: Snapshot) -> set[tuple[int, int]]:
    rows = snapshot.memberships[["group_id", "member_id"]].astype("str").itertuples(index=False, name=None)
    return {(int(group), int(member)) for group, member in rows}


def in_roles(whole: Organisation) -> set[tuple[int, int]]:
    teams = zip(whole.teams, members_of(whole), strict=True)
    return {(role_id(team.id), user_id(member)) for team, members in teams for member in members}


# --- full reads ------------------------------------------------------------------------------------


async def test_everything_is_read_with_the_fewest_requests(idp: RunningIdp) -> None:
    idp.reset_counts()
    snapshot = await read(idp)
    counts = idp.counts()
    counts.pop("bytes")
    whole = company()
    sizes = [len(members) for members in members_of(whole)]
    # 100 users and members are asked for; this server gives 50 users.
    assert counts == {
        "POST /auth/oauth2/v2/token": 1,
        "GET /api/2/users": 3,
        "GET /api/2/roles": 1,
        "GET /api/2/roles/{id}/users": sum(max(1, -(-size // 100)) for size in sizes),
    }
    assert pairs(snapshot) == in_roles(whole)
    found = {row[0]: row[1:] for row in snapshot.users.itertuples(index=False, name=None)}
    assert found == {
        str(user_id(p.id)): (
            *(f"{p.username}@acme.example", p.email, p.first_name, p.last_name),
            *(f"{p.first_name} {p.last_name}", p.active, "{}"),
        )
        for p in whole.people
    }


async def test_attributes_must_be_asked_for(idp: RunningIdp) -> None:
    asked = ("title", "custom_attributes.location", "custom_attributes.cost_center", "manager_user_id", "group_id")
    snapshot = await read(idp, asked)
    texts = dict(zip(snapshot.users["id"], snapshot.users["attributes"], strict=True))
    for person in company().people:
        wanted = {
            "custom_attributes.location": person.location,
            "group_id": str(group_id(person.department) or ""),
            "manager_user_id": str(user_id(person.manager)) if person.manager else "",  # a number or a text
            "title": person.title,
        }
        assert orjson.loads(texts[str(user_id(person.id))]) == {k: [v] for k, v in wanted.items() if v}
    with pytest.raises(ConfigurationError, match="onelogin"):
        await read(idp, ("custom_attributes.",))


@pytest.mark.parametrize("options", [{"end_cursor": True}, {"bare_cursor": True, "users_cap": 7, "members_cap": 3}])
async def test_cursors_of_both_kinds(options: dict[str, Any]) -> None:
    with running("onelogin", **SIZE, options=options) as other:
        snapshot = await read(other, ("title",))
    assert pairs(snapshot) == in_roles(company())
    assert snapshot.held.empty
    titles = {str(user_id(p.id)): p.title for p in company().people if p.title}
    found = dict(zip(snapshot.users["id"], snapshot.users["attributes"], strict=True))
    assert {key: orjson.loads(text)["title"][0] for key, text in found.items() if text != "{}"} == titles


async def test_who_counts_as_active() -> None:
    whole = organisation(users=600, groups=1, memberships=1)
    with running("onelogin", users=600, groups=1, memberships=1) as other:
        for locked in (True, False):
            for pending in (True, False):
                snapshot = await read(other, locked_active=locked, pending_active=pending)
                found = dict(zip(snapshot.users["id"], snapshot.users["active"], strict=True))
                usable = {1, 4, 5, 8, *({3} if locked else ()), *({7} if pending else ())}
                for person in whole.people:
                    status, state = status_of(person)
                    assert found[str(user_id(person.id))] is (status in usable and state == 1), (status, state)
    assert {status_of(p) for p in whole.people} > {(3, 1), (7, 1), (0, 1), (2, 1), (1, 0), (1, 2), (1, 3), (8, 1)}


async def test_an_unknown_status_is_held() -> None:
    with running("onelogin", **{**SIZE, "users": 400}, options={"status": 6}) as other:
        snapshot = await read(other)
    assert 0 < len(snapshot.held) < 30
    assert len(snapshot.users) + len(snapshot.held) == 400
    assert set(snapshot.held["kind"]) == {"user"}
    assert all("status 6 with state" in reason for reason in snapshot.held["reason"])
    assert all(name.endswith("@acme.example") for name in snapshot.held["name"])


def record(**more: Any) -> dict[str, Any]:
    return {"id": 5, "username": "ann", "email": "a@x.io", "status": 1, "state": 1, **more}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"id": None}, "no id"),
        ({"id": "5"}, "no id"),
        ({"status": None}, "status null"),
        ({"status": True}, "status true"),
        ({"status": "1"}, 'status "1" with state 1'),
        ({"state": 9}, "state 9"),
        ({"state": None}, "state null"),
        ({"username": None, "email": None}, "no username"),
        ({"username": "", "email": "a@x.io"}, "no username"),
    ],
)
def test_flaws_are_named(more: dict[str, Any], reason: str) -> None:
    held: list[Any] = []
    rows = user_rows(OneLoginSettings(url="https://x", client_id="c"), ())
    assert rows([record(), record(**more), "odd"], "user", held) == [
        ("5", "ann", "a@x.io", "", "", "", True, "{}"),
    ]
    assert reason in held[0].reason
    assert "the 2. user" in held[0].reason
    assert "not an object" in held[1].reason


def test_only_a_missing_username_gives_way_to_the_address() -> None:
    for field in ("username", "samaccountname", "userprincipalname"):
        held: list[Any] = []
        settings = OneLoginSettings(url="https://x", client_id="c", username=field)
        rows = user_rows(settings, ())([record(**{field: None})], "user", held)
        assert [row[1] for row in rows] == (["a@x.io"] if field == "username" else [])
        assert len(held) == (field != "username")


async def test_people_without_username_have_their_address() -> None:
    with running("onelogin", **SIZE, options={"without_username": 3}) as other:
        snapshot = await read(other)
        found = dict(zip(snapshot.users["id"], snapshot.users["username"], strict=True))
        some = [p for p in company().people if user_id(p.id) % 3 == 0 and p.email]
        assert len(some) > 20
        for person in company().people:
            bare = user_id(person.id) % 3 == 0
            assert found[str(user_id(person.id))] == (person.email if bare else f"{person.username}@acme.example")
        async with source(other) as one:
            found_person = await one.user(some[0].email.upper())
            assert found_person is not None
            assert found_person.user[:2] == (str(user_id(some[0].id)), some[0].email)


@pytest.mark.parametrize("field", ["email", "samaccountname", "userprincipalname"])
async def test_another_field_as_username(idp: RunningIdp, field: str) -> None:
    snapshot = await read(idp, username=field)
    who = {str(user_id(p.id)): p for p in company().people}
    wanted: dict[str, Callable[[Person], str | None]] = {
        "email": lambda p: p.email,
        "samaccountname": lambda p: p.username if len(p.username) <= 20 else None,
        "userprincipalname": lambda p: f"{p.username}@ad.acme.example",
    }
    name = wanted[field]
    names = {key: name(p) for key, p in who.items()}
    found = dict(zip(snapshot.users["id"], snapshot.users["username"], strict=True))
    assert found == {key: name for key, name in names.items() if name}
    assert set(snapshot.held["id"]) == {key for key, name in names.items() if not name}
    key, username = next(iter(found.items()))
    async with source(idp, username=field) as one:
        for asked in (key, who[key].email):
            person = await one.user(asked)
            assert person is not None
            assert person.user[:2] == (key, username)
        if field == "userprincipalname":
            with pytest.raises(IncompleteError, match="cannot be asked"):
                await one.user(username)
        else:
            person = await one.user(username.upper())
            assert person is not None
            assert person.user[0] == key


# --- by application, and groups instead of roles -----------------------------------------------------


async def test_only_people_and_roles_with_the_application(idp: RunningIdp) -> None:
    whole = company()
    roles = {pair for pair in in_roles(whole) if has_app(pair[0])}
    people = {user for _, user in roles} | {user_id(p.id) for p in whole.people if user_id(p.id) % 16 == 0}
    assert len(people) < len(whole.people)
    idp.reset_counts()
    snapshot = await read(idp, app=APP, page_size=50)
    assert set(map(int, snapshot.users["id"])) == people
    assert set(map(int, snapshot.groups["id"])) == {role_id(t.id) for t in whole.teams if has_app(role_id(t.id))}
    assert pairs(snapshot) == roles
    assert idp.counts()["GET /api/2/apps/{id}/users"] == 1
    assert idp.counts()["GET /api/2/users"] == -(-len(people) // 50)
    # Rows are as without the application, status and all.
    every = (await read(idp)).users
    assert snapshot.users.equals(every[every["id"].isin(snapshot.users["id"])].reset_index(drop=True))
    async with source(idp, app=APP) as one:
        outside = next(user_id(p.id) for p in whole.people if user_id(p.id) not in people)
        assert await one.user(str(outside)) is None
        for inside in sorted(people)[:5]:
            person = await one.user(str(inside))
            assert person is not None
            assert {int(group[0]) for group in person.groups} == {role for role, user in roles if user == inside}
        assert any("application" in line for line in await one.check())
        assert await one.cursor(Scope()) == ""
        with pytest.raises(StaleCursorError, match="full read"):
            await one.changes(Scope(), "2026-01-01T00:00:00Z")


async def test_people_of_the_application_that_do_not_come_are_missed(idp: RunningIdp) -> None:
    for kind in ("drop", "empty"):
        idp.faults({"kind": kind, "path": "/api/2/apps/"})
        with pytest.raises(IncompleteError):
            await read(idp, app=APP)
    idp.faults({"kind": "drop", "path": r"/api/2/users$"})
    with pytest.raises(IncompleteError):
        await read(idp, app=APP)
    idp.faults()
    with pytest.raises(ConfigurationError, match="`app`"):
        await read(idp, app=4711)


@pytest.mark.parametrize("ignored", ["user_ids", "some"])
async def test_others_than_the_people_of_the_application_are_refused(
    idp: RunningIdp, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    """A server that does not know the filter, and one that has lost somebody meanwhile."""
    async with source(idp, app=APP) as one:
        call = one._http.call

        async def deaf(*arguments: Any, params: dict[str, Any], **named: Any) -> Any:
            if ignored in params:
                params.pop(ignored)
            elif "user_ids" in params:
                params["user_ids"] = params["user_ids"].partition(",")[2]
            return await call(*arguments, params=params, **named)

        monkeypatch.setattr(one._http, "call", deaf)
        with pytest.raises(IncompleteError, match="people of the application"):
            await read_source(one, Scope())


async def test_groups_instead_of_roles(idp: RunningIdp) -> None:
    snapshot = await read(idp, groups="groups")
    people = company().people
    assert dict(zip(snapshot.groups["id"], snapshot.groups["name"], strict=True)) == {
        str(group_id(p.department)): p.department for p in people if p.department
    }
    assert pairs(snapshot) == {(group_id(p.department), user_id(p.id)) for p in people if p.department}
    async with source(idp, groups="groups") as one:
        person = await one.user(str(user_id(people[0].id)))
        assert person is not None
        assert [group[1] for group in person.groups] == [people[0].department]
        assert await one.cursor(Scope()) == ""
        assert await one.check()
    # No count in version 1: an empty list is not believed at once.
    idp.faults({"kind": "empty", "path": "/api/1/groups"})
    with pytest.raises(IncompleteError):
        await read(idp, groups="groups")


async def test_groups_page_by_the_older_cursor(idp: RunningIdp) -> None:
    names = {p.department for p in company().people if p.department}
    idp.reset_counts()
    async with source(idp, groups="groups", role_page_size=1) as one:
        pages = [page async for page in one.groups(Scope())]
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert {row[1] for page in pages for row in page.rows} == names
    assert idp.counts()["GET /api/1/groups"] == len(pages) == len(names) > 1


# --- lists that lie ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [r"/api/2/users$", r"/api/2/roles$"])
async def test_an_empty_list_is_not_believed_at_once(idp: RunningIdp, path: str) -> None:
    idp.faults({"kind": "empty", "total": 0, "path": path})
    with pytest.raises(IncompleteError, match="when asked again not empty"):
        await read(idp)


async def test_a_record_twice_is_refused(idp: RunningIdp) -> None:
    idp.faults({"kind": "repeat", "path": r"/api/2/users$", "nth": 2})
    async with source(idp) as one:
        with pytest.raises(IncompleteError, match="users: the server gave a record twice"):
            [page async for page in one.users(Scope())]
        idp.faults({"kind": "repeat", "path": r"/api/2/roles/\d+/users$", "nth": 2})
    members, team = max(
        (len(members), team) for team, members in zip(company().teams, members_of(company()), strict=True)
    )
    async with source(idp, page_size=members // 5) as one:
        assert members % 5 == 0  # all pages are full, so that the count is reached
        with pytest.raises(IncompleteError, match="twice"):
            [page async for page in one.memberships([str(role_id(team.id))])]
    idp.faults({"kind": "malformed", "path": r"/api/2/roles/\d+/users$"})
    held = (await read(idp)).held
    assert list(held["kind"]) == ["group"]
    assert "a member has no id" in held["reason"][0]


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{}", {}), (b'{"data":[]}', {}), (b"null", {}), (b'"x"', {}), (b"[]", {"total-count": "many"})],
)
async def test_what_is_no_list_is_no_empty_list(body: bytes, headers: dict[str, str]) -> None:
    settings = OneLoginSettings(url="https://acme.example", client_id="c")
    one = OneLogin.open("acme", settings, {"client_secret": "s"})

    async def answer(*_: Any, **__: Any) -> Answer:
        return Answer(200, headers, body, "https://acme.example/api/2/users")

    one._http.call = answer  # type: ignore[method-assign]
    for read_one in (one.users(Scope()), one.groups(Scope()), one.memberships(["1"])):
        with pytest.raises(IncompleteError, match="no list"):
            [page async for page in read_one]


async def test_people_who_are_not_assigned_are_no_members(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lists them all the same says so of each."""
    whole = company()
    role = role_id(whole.teams[0].id)
    async with source(idp) as one:
        call = one._http.call

        async def everybody(*arguments: Any, **named: Any) -> Any:
            named["params"] = {**named["params"], "include_unassigned": "true"}
            return await call(*arguments, **named)

        monkeypatch.setattr(one._http, "call", everybody)
        rows = [row async for page in as_pairs(one.memberships([str(role)])) for row in page.rows]
    assert {int(row[1]) for row in rows} == {user for group, user in in_roles(whole) if group == role}


# --- deltas ------------------------------------------------------------------------------------------


async def test_a_delta_says_what_changed() -> None:
    amounts = {"seed": 9, "joiners": 3, "renamed": 2, "disabled": 2, "updated": 2, "moved": 4, "new_groups": 1}
    with running("onelogin", **SIZE) as other:
        async with source(other) as one:
            cursor = await one.cursor(Scope())
            before = await read_source(one, Scope())
            # Everybody was changed a day ago: nobody within the overlap.
            first = await one.changes(Scope(), cursor)
            assert (first.users, first.gone_users, first.gone_groups) == ([], (), ())
            assert merged(before, first).digest() == before.digest()
            other.change(**amounts, renamed_groups=1)
            other.reset_counts()
            delta = await one.changes(Scope(), first.cursor)
            assert other.counts()["GET /api/2/users"] == 1
            assert len(delta.users) >= 9
            assert len(delta.users) < 30
            assert len(delta.replaced) == len(delta.groups) == 11
            after = merged(before, delta)
            assert after.digest() == (await read_source(one, Scope())).digest()
            # Who is deleted is not told: only a full read sees it.
            other.change(seed=10, leavers=5)
            delta = await one.changes(Scope(), delta.cursor)
            assert (delta.gone_users, delta.left) == ((), ())
            assert len(merged(after, delta).users) == len(after.users)
            assert len((await read_source(one, Scope())).users) == len(after.users) - 5
    later = changed(company(), **amounts, renamed_groups=1)
    assert pairs(after) == in_roles(later)


async def test_a_mark_lies_before_now(idp: RunningIdp) -> None:
    async with source(idp) as one:
        cursor = datetime.fromisoformat(await one.cursor(Scope()))
        ago = datetime.now(UTC) - cursor
        assert timedelta(minutes=5) < ago < timedelta(hours=1)
        for bad in ("", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00Z&status=1"):
            with pytest.raises(StaleCursorError):
                await one.changes(Scope(), bad)


async def test_a_delta_proves_itself_whole(idp: RunningIdp) -> None:
    async with source(idp) as one:
        for path in (r"/api/2/users$", r"/api/2/roles$", r"/api/2/roles/\d+/users$"):
            idp.faults({"kind": "drop", "path": path})
            with pytest.raises(IncompleteError):
                await one.changes(Scope(), "2020-01-01T00:00:00Z")


# --- one person --------------------------------------------------------------------------------------


async def test_one_person_takes_few_calls(idp: RunningIdp) -> None:
    person = company().people[3]
    async with source(idp) as one:
        await one.check()
        for key, calls in (
            (str(user_id(person.id)), {"GET /api/2/users/{id}": 1, "GET /api/2/roles": 1}),
            (f"{person.username}@acme.example", {"GET /api/2/users": 1, "GET /api/2/roles": 1}),
            (person.email, {"GET /api/2/users": 2, "GET /api/2/roles": 1}),
        ):
            idp.reset_counts()
            found = await one.user(key)
            counts = idp.counts()
            counts.pop("bytes")
            assert counts == calls
            assert found is not None
            assert found.user[0] == str(user_id(person.id))
            assert {int(g[0]) for g in found.groups} == {g for g, u in in_roles(company()) if u == int(found.user[0])}
        for stranger in ("", "*", "1", f"{person.username}*", "."):
            assert await one.user(stranger) is None


async def test_one_person_where_lists_tell_no_roles() -> None:
    person = company().people[3]
    with running("onelogin", **SIZE, options={"lists_without_roles": True}) as other:
        async with source(other) as one:
            found = await one.user(f"{person.username}@acme.example")
    assert found is not None
    assert {int(g[0]) for g in found.groups} == {g for g, u in in_roles(company()) if u == user_id(person.id)}
    assert found.groups


async def test_a_role_of_a_person_that_is_not_listed_is_missed(idp: RunningIdp) -> None:
    person, role = sorted((user, role) for role, user in in_roles(company()))[0]
    async with source(idp) as one:
        whole = one.groups

        async def fewer(scope: Scope) -> AsyncIterator[Any]:
            async for page in whole(scope):
                yield replace(page, rows=[row for row in page.rows if row[0] != str(role)])

        one.groups = fewer  # type: ignore[method-assign]
        with pytest.raises(IncompleteError, match="not listed"):
            await one.user(str(person))


# --- credentials, rights, limits ---------------------------------------------------------------------


async def test_the_check_counts(idp: RunningIdp) -> None:
    async with source(idp) as one:
        lines = await one.check()
    assert lines == ["sources.acme: OneLogin answers", "users: 120", "roles: 10"]


async def test_wrong_credentials(idp: RunningIdp) -> None:
    async with source(idp, secret="not-the-secret") as one:
        with pytest.raises(AuthenticationError, match="client_id") as wrong:
            await one.check()
    assert "not-the-secret" not in str(wrong.value)
    assert "$CROWDSYNC_SOURCE_SECRET" in str(wrong.value)


async def test_the_missing_scope_is_named() -> None:
    """OneLogin answers 401, and gives the same token again."""
    with running("onelogin", users=5, groups=2, memberships=4, options={"scope": "Authentication Only"}) as other:
        for settings in ({}, {"groups": "groups"}):
            async with source(other, **settings) as one:
                other.reset_counts()
                for call in (one.check(), read_source(one, Scope()), one.user("1"), one.user("ann")):
                    with pytest.raises(ForbiddenError, match="Read Users") as refused:
                        await call
                    assert "Insufficient Permission" in str(refused.value)
    with running("onelogin", users=5, groups=2, memberships=4) as other:
        await read(other)
        async with source(other, app=APP) as one:
            with pytest.raises(ForbiddenError, match="Read All"):
                await one.check()


async def test_credentials_whose_maker_is_gone() -> None:
    with running("onelogin", users=5, groups=2, memberships=4, options={"orphan": True}) as other:
        async with source(other) as one:
            with pytest.raises(AuthenticationError, match="deleted"):
                await one.check()
            with pytest.raises(RetryableError):
                await read_source(one, Scope())


async def test_an_address_with_a_path(idp: RunningIdp) -> None:
    async with source(idp, url=f"{idp.url}/api/2") as one:
        with pytest.raises(CrowdsyncError):
            await one.check()


async def test_the_rate_limit_is_waited_for() -> None:
    """The reset is in seconds left; nothing is asked before."""
    with running("onelogin", **SIZE, options={"limit": 10, "window": 1}) as other:
        snapshot = await read(other, concurrency=2)
        counts = other.counts()
    assert pairs(snapshot) == in_roles(company())
    assert counts["GET /api/2/roles/{id}/users"] < 30


async def test_a_long_limit_ends_the_read() -> None:
    with (
        running("onelogin", **SIZE, options={"limit": 3, "window": 3600}) as other,
        pytest.raises(RetryableError) as later,
    ):
        await read(other)
    assert later.value.retry_after is not None
    assert later.value.retry_after > 3000


async def test_a_token_that_ends_is_fetched_anew() -> None:
    with running("onelogin", **SIZE, options={"seconds": 1}) as other:
        async with source(other) as one:
            right = (await read_source(one, Scope())).digest()
            other.faults({"kind": "expire", "path": "/api/2/", "nth": 3})
            assert (await read_source(one, Scope())).digest() == right
        assert other.counts()["POST /auth/oauth2/v2/token"] >= 2
