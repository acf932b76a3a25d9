"""The Okta source against the emulator: what is Okta's own. What all sources do: test_every_source.py."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from connectors import http as client
from connectors.contract import Scope
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    IncompleteError,
    RefusedError,
    RetryableError,
    StaleCursorError,
)
from connectors.idp.okta import Okta, OktaSettings, group_rows, user_rows
from connectors.model import Snapshot
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.okta import APP, EVERYONE, group_id, has_app, status_of, type_of, user_id
from deployments.sandbox.organisation import Organisation, changed, organisation
from deployments.sandbox.server import members_of
from tasks.read.deltas import merged
from tasks.read.extract import read_source
from tests.support.clients import node_package

SIZE: dict[str, Any] = {"users": 120, "groups": 10, "memberships": 300, "seed": 7}
ACTIVE = {"ACTIVE", "PASSWORD_EXPIRED", "RECOVERY"}


@pytest.fixture(scope="module")
def idp() -> Iterator[RunningIdp]:
    with running("okta", **SIZE) as one:
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
async def source(idp: RunningIdp, secrets: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Okta]:
    chosen = OktaSettings.model_validate({**idp.settings, "timeout": 10, **settings})
    opened = Okta.open("acme", chosen, secrets or idp.secrets)
    try:
        yield opened
    finally:
        await asyncio.gather(*(one.aclose() for one in opened.clients))


async def read(idp: RunningIdp, attributes: tuple[str, ...] = (), **settings: Any) -> Snapshot:
    async with source(idp, **settings) as one:
        return await read_source(one, Scope(frozenset(attributes)))


def company() -> Organisation:
    return organisation(**SIZE)


def pairs(snapshot: Snapshot) -> set[tuple[str, str]]:
    return set(snapshot.memberships[["group_id", "member_id"]].astype("str").itertuples(index=False, name=None))


def in_groups(whole: Organisation) -> set[tuple[str, str]]:
    teams = zip(whole.teams, members_of(whole), strict=True)
    return {(group_id(team.id), user_id(member)) for team, members in teams for member in members}


# --- full reads ------------------------------------------------------------------------------------


async def test_everything_is_read_with_the_fewest_requests(idp: RunningIdp) -> None:
    idp.reset_counts()
    snapshot = await read(idp, page_size=50)
    counts = idp.counts()
    counts.pop("bytes")
    whole = company()
    sizes = [len(members) for members in members_of(whole)]
    assert counts == {
        "POST /oauth2/v1/token": 1,
        "GET /api/v1/users": 3,
        "GET /api/v1/groups": 1,
        # An empty group is asked for once more: nothing else proves it empty.
        "GET /api/v1/groups/{id}/users": sum(-(-size // 50) if size else 2 for size in sizes),
    }
    assert pairs(snapshot) == in_groups(whole)
    assert {status_of(p) for p in whole.people} >= {"DEPROVISIONED", "STAGED", "LOCKED_OUT"}
    usable = ACTIVE | {"LOCKED_OUT"}
    found = {row[0]: row[1:] for row in snapshot.users.itertuples(index=False, name=None)}
    assert {key: (*row[:4], row[5]) for key, row in found.items()} == {
        user_id(p.id): (
            *(f"{p.username}@acme.example", p.email, p.first_name, p.last_name, status_of(p) in usable),
        )
        for p in whole.people
    }  # fmt: skip
    # Where Okta knows no display name, it is made of the others.
    displays = {user_id(p.id): {p.display_name, f"{p.first_name} {p.last_name}"} for p in whole.people}
    assert all(row[4] in displays[key] for key, row in found.items())


async def test_pages_are_as_large_as_okta_allows(idp: RunningIdp) -> None:
    async with source(idp) as one:
        asked: list[dict[str, Any]] = []
        call = one._http.call

        async def listen(method: str, path: str, **named: Any) -> Any:
            asked.append({"path": path, **named["params"]})
            return await call(method, path, **named)

        one._http.call = listen  # type: ignore[method-assign]
        await read_source(one, Scope())
    limits = {tuple(path.split("/")[3:4] + path.split("/")[5:]): limit for path, limit in
              ((one["path"], one["limit"]) for one in asked)}  # fmt: skip
    assert limits == {("users",): 200, ("groups",): 200, ("groups", "users"): 1000}


@pytest.mark.parametrize(
    "options",
    [
        {"joined_links": True},
        {"short": True},
        {"users_cap": 7, "members_cap": 3},
        {"joined_links": True, "short": True, "users_cap": 5},
    ],
)
async def test_pages_of_any_size_and_links_of_both_forms(options: dict[str, Any]) -> None:
    with running("okta", **SIZE, options=options) as other:
        snapshot = await read(other, page_size=20)
    assert pairs(snapshot) == in_groups(company())
    assert set(snapshot.users["id"]) == {user_id(p.id) for p in company().people}


async def test_deactivated_people_may_be_hidden_as_members() -> None:
    """Okta does not say whether it lists them; both ways the people themselves are read."""
    with running("okta", **SIZE, options={"hide_deprovisioned": True}) as other:
        snapshot = await read(other)
    gone = {user_id(p.id) for p in company().people if status_of(p) == "DEPROVISIONED"}
    assert gone < set(snapshot.users["id"])
    assert pairs(snapshot) == {pair for pair in in_groups(company()) if pair[1] not in gone}


async def test_an_api_token_does_as_well(idp: RunningIdp) -> None:
    right = (await read(idp)).digest()
    idp.reset_counts()
    async with source(idp, {"token": idp.secrets["token"]}, client_id="", key_id="") as one:
        assert (await read_source(one, Scope())).digest() == right
        assert len(one.clients) == 1
        assert any("API token" in line for line in await one.check())
    assert "POST /oauth2/v1/token" not in idp.counts()


async def test_types_of_groups(idp: RunningIdp) -> None:
    teams = {group_id(t.id): type_of(t) for t in company().teams}
    assert set(teams.values()) == {"OKTA_GROUP", "APP_GROUP"}
    assert set((await read(idp)).groups["id"]) == set(teams)
    snapshot = await read(idp, group_types=["OKTA_GROUP"])
    assert set(snapshot.groups["id"]) == {key for key, kind in teams.items() if kind == "OKTA_GROUP"}
    assert snapshot.held.empty
    snapshot = await read(idp, group_types=["BUILT_IN"])
    assert list(snapshot.groups["name"]) == ["Everyone"]
    assert {user for _, user in pairs(snapshot)} == set(snapshot.users["id"])
    with pytest.raises(ValidationError):
        await read(idp, group_types=[])


async def test_attributes(idp: RunningIdp) -> None:
    asked = ("profile.title", "profile.city", "profile.tools", "profile.managerId", "type.id", "status", "profile.dn")
    snapshot = await read(idp, asked)
    texts = dict(zip(snapshot.users["id"], snapshot.users["attributes"], strict=True))
    tools = 0
    for person in company().people:
        found = orjson.loads(texts[user_id(person.id)])
        tools += found.pop("profile.tools", None) == ["git", "vim"]
        wanted = {
            "profile.title": person.title,
            "profile.city": person.location,
            "profile.managerId": user_id(person.manager) if person.manager else "",
            "type.id": "oty1a2b3c4d5e6f7g8h9",
            "status": status_of(person),
        }
        assert found == {k: [v] for k, v in wanted.items() if v}
    assert 40 < tools < 120
    assert sum("profile.dn" in text for text in snapshot.groups["attributes"]) == sum(
        type_of(t) == "APP_GROUP" for t in company().teams
    )
    with pytest.raises(ConfigurationError, match="okta"):
        await read(idp, ("profile.",))


async def test_who_counts_as_active() -> None:
    whole = organisation(users=600, groups=1, memberships=1)
    with running("okta", users=600, groups=1, memberships=1) as other:
        for locked in (True, False):
            for pending in (True, False):
                snapshot = await read(other, locked_out_active=locked, provisioned_active=pending)
                found = dict(zip(snapshot.users["id"], snapshot.users["active"], strict=True))
                usable = ACTIVE | ({"LOCKED_OUT"} if locked else set()) | ({"PROVISIONED"} if pending else set())
                for person in whole.people:
                    assert found[user_id(person.id)] is (status_of(person) in usable), status_of(person)
    assert {status_of(p) for p in whole.people} == ACTIVE | {
        *("LOCKED_OUT", "PROVISIONED", "STAGED", "SUSPENDED", "DEPROVISIONED")
    }


async def test_an_unknown_status_is_held() -> None:
    with running("okta", **{**SIZE, "users": 400}, options={"status": "ACTIVATING"}) as other:
        snapshot = await read(other)
    assert len(snapshot.held) == 8
    assert len(snapshot.users) == 392
    assert all("status 'ACTIVATING'" in reason for reason in snapshot.held["reason"])
    assert all(name.endswith("@acme.example") for name in snapshot.held["name"])


def record(**more: Any) -> dict[str, Any]:
    return {"id": "00u1", "status": "ACTIVE", "profile": {"login": "ann", "email": None, "lastName": "Lee"}, **more}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"id": None}, "no id"),
        ({"id": 5}, "no id, or one that is not text"),
        ({"id": ""}, "no id"),
        ({"status": None}, "no status"),
        ({"status": ["ACTIVE"]}, "no status"),
        ({"status": "NEW"}, "status 'NEW'"),
        ({"profile": None}, "no profile"),
        ({"profile": {}}, "no login"),
        ({"profile": {"login": ""}}, "no login"),
        ({"profile": {"login": 7}}, "no login"),
    ],
)
def test_flaws_are_named(more: dict[str, Any], reason: str) -> None:
    held: list[Any] = []
    settings = OktaSettings(url="https://x")
    rows = user_rows(settings, ())
    assert rows([record(), record(**more), "odd"], "user", held) == [
        ("00u1", "ann", "", "", "Lee", "Lee", True, "{}"),
    ]
    assert reason in held[0].reason
    assert "the 2. user" in held[0].reason
    assert "not an object" in held[1].reason


def test_flaws_of_groups_and_assignments_are_named() -> None:
    held: list[Any] = []
    good = {"id": "00g1", "type": "OKTA_GROUP", "profile": {"name": "x", "description": None}}
    bad = [{**good, "type": "NEW"}, {**good, "profile": {}}, {**good, "profile": None}, {**good, "id": 1}, 7]
    assert group_rows(())([good, *bad], "group", held) == [("00g1", "x", "", "{}")]
    assert [one.reason.partition(" (")[0] for one in held] == [
        "type 'NEW', whose meaning is not known",
        "no name, or one that is not text",
        "no profile",
        "no id, or one that is not text",
        "the record is not an object",
    ]
    held.clear()
    rows = user_rows(OktaSettings(url="https://x", app="0oa1"), ())
    inner = {"_embedded": {"user": record()}}
    assert rows([{"id": "00u1", "status": "PROVISIONED", **inner}], "user", held)[0][6] is True
    assert rows([{"id": "00u1", "status": "SUSPENDED", **inner}], "user", held)[0][6] is False
    assert not held
    assert not rows([{"id": "00u1", "status": "ACTIVE"}, {"id": "00u2", "status": "ACTIVE", **inner}], "user", held)
    assert [one.reason.partition(" (")[0] for one in held] == [
        "no _embedded.user, which was asked for",
        "the assignment is another user's",
    ]


async def test_one_empty_answer_empties_nothing(idp: RunningIdp) -> None:
    for path in (r"/api/v1/users$", r"/api/v1/groups$", r"/api/v1/groups/[^/]+/users$"):
        idp.faults({"kind": "empty", "path": path})
        with pytest.raises(IncompleteError, match="asked again"):
            await read(idp)


async def test_members_that_come_twice_refuse_the_read_and_damaged_ones_hold_their_group(idp: RunningIdp) -> None:
    path = r"/api/v1/groups/[^/]+/users$"
    idp.faults({"kind": "malformed", "path": path})
    held = (await read(idp)).held
    assert list(held["kind"]) == ["group"]
    assert "a member has no id" in held["reason"][0]
    large = max(zip(members_of(company()), company().teams, strict=True), key=lambda pair: len(pair[0]))
    idp.faults({"kind": "repeat", "path": path, "nth": 2})
    async with source(idp, page_size=10) as one:
        with pytest.raises(IncompleteError, match="twice"):
            _ = [page async for page in one.memberships([group_id(large[1].id)])]


async def test_a_group_that_is_gone_meanwhile_refuses_the_read(idp: RunningIdp) -> None:
    async with source(idp) as one:
        with pytest.raises(IncompleteError, match="404"):
            _ = [page async for page in one.memberships(["00gGone"])]


# --- by application ----------------------------------------------------------------------------------


async def test_only_people_and_groups_of_the_application(idp: RunningIdp) -> None:
    whole = company()
    direct = {user_id(p.id) for p in whole.people}
    groups = {group_id(t.id) for t in whole.teams if has_app(group_id(t.id))}
    idp.reset_counts()
    snapshot = await read(idp, app=APP, page_size=50)
    people = set(snapshot.users["id"])
    assert people < direct
    assert set(snapshot.groups["id"]) == groups
    assert pairs(snapshot) == {pair for pair in in_groups(whole) if pair[0] in groups}
    assert idp.counts()["GET /api/v1/apps/{id}/users"] == -(-len(people) // 50)
    assert "GET /api/v1/users" not in idp.counts()
    assert not any(status_of(p) == "DEPROVISIONED" for p in whole.people if user_id(p.id) in people)
    assert (await read(idp, app=APP, page_size=10)).digest() == snapshot.digest()
    every = (await read(idp)).users
    assert snapshot.users.equals(every[every["id"].isin(people)].reset_index(drop=True))
    async with source(idp, app=APP) as one:
        outside = next(p for p in whole.people if user_id(p.id) not in people)
        assert await one.user(user_id(outside.id)) is None
        assert await one.user(f"{outside.username}@acme.example") is None
        for inside in sorted(people)[:5]:
            person = await one.user(inside)
            assert person is not None
            assert {g[0] for g in person.groups} == {g for g, user in pairs(snapshot) if user == inside}
        assert any(APP in line for line in await one.check())
        assert await one.cursor(Scope()) == ""
        with pytest.raises(StaleCursorError, match="full read"):
            await one.changes(Scope(), "2026-01-01T00:00:00.000Z")
    with pytest.raises(ConfigurationError, match="`app`"):
        await read(idp, app="0oaOther")
    with pytest.raises(ValidationError):
        await read(idp, app="../users")


@pytest.mark.parametrize(("status", "active"), [("PENDING", False), ("REVOKED", False), ("ACTIVE", True)])
async def test_the_status_of_the_assignment_counts_too(status: str, active: bool) -> None:
    with running("okta", **SIZE, options={"app_status": status}) as other:
        snapshot = await read(other, app=APP)
        assert snapshot.users["active"].any() == active
        async with source(other, app=APP) as one:
            for row in snapshot.users.head(3).itertuples(index=False, name=None):
                person = await one.user(row[1])
                assert person is not None
                assert person.user == row
    with running("okta", **SIZE, options={"app_status": "NEW"}) as other:
        snapshot = await read(other, app=APP)
    assert snapshot.users.empty
    assert set(snapshot.held["kind"]) == {"user"}
    assert all(name.endswith("@acme.example") for name in snapshot.held["name"])


# --- one person --------------------------------------------------------------------------------------


async def test_one_person_with_the_fewest_requests(idp: RunningIdp) -> None:
    async with source(idp) as one:
        person = company().people[4]
        login = f"{person.username}@acme.example"
        await one.user(login)
        for key, calls in ((user_id(person.id), 2), (login, 2), (person.email, 3), ("nobody@acme.example", 5)):
            idp.reset_counts()
            found = await one.user(key)
            assert (found is None) == (key == "nobody@acme.example")
            assert sum(n for label, n in idp.counts().items() if label.startswith("GET")) == calls, key
        # What Okta itself takes for a name, but is none of the person's.
        for key in ("me", person.username, "", ".", "..", "a\nb", f"x/../{user_id(person.id)}"):
            assert await one.user(key) is None, key
        deactivated = next(p for p in company().people if status_of(p) == "DEPROVISIONED")
        found = await one.user(deactivated.email)
        assert found is not None
        assert found.user[6] is False


async def test_a_search_that_lags_is_not_trusted() -> None:
    """Filters mind case; a search finds an address in other letters, but what it says may be old."""
    with running("okta", **SIZE, options={"search_lag": True}) as other:
        whole = company()
        later = changed(whole, seed=1, disabled=3, leavers=1)
        other.change(seed=1, disabled=3, leavers=1)
        was = {p.id: p for p in whole.people}
        kept = {p.id for p in later.people}
        async with source(other) as one:
            for now in later.people:
                if now.active != was[now.id].active:
                    found = await one.user(now.email.upper())
                    assert found is not None
                    assert found.user[6] is (status_of(now) in ACTIVE)
            gone = next(p for p in whole.people if p.id not in kept)
            assert await one.user(gone.email.upper()) is None


async def test_an_address_of_two_people_is_nobodys() -> None:
    with running("okta", users=5, groups=1, memberships=2, difficult=True) as other:
        async with source(other) as one:
            users = (await read(other)).users
            with pytest.raises(IncompleteError, match="2 people"):
                await one.user(next(p for p in users["email"] if p.startswith("shared@")))
            slash = next(p for p in users["username"] if "/" in p)
            found = await one.user(slash)
            assert found is not None
            assert found.user[1] == slash


# --- deltas ------------------------------------------------------------------------------------------


async def test_a_mark_is_oktas_clock_less_an_overlap(idp: RunningIdp) -> None:
    async with source(idp) as one:
        cursor = datetime.fromisoformat(await one.cursor(Scope()))
        ago = datetime.now(UTC) - cursor
        assert timedelta(minutes=5) <= ago < timedelta(minutes=6)
        call = one._http.call

        async def clockless(*arguments: Any, **named: Any) -> Any:
            answer = await call(*arguments, **named)
            return type(answer)(answer.status, {}, answer.body, answer.url)

        one._http.call = clockless  # type: ignore[method-assign]
        assert await one.cursor(Scope()) == ""


async def test_deltas_bring_what_changed_and_no_more() -> None:
    with running("okta", **SIZE) as other:
        async with source(other) as one:
            before = await read_source(one, Scope())
            cursor = await one.cursor(Scope())
            whole = company()
            other.reset_counts()
            nothing = await one.changes(Scope(), cursor)
            assert (nothing.users, nothing.groups, nothing.memberships) == ([], [], [])
            # Two lists, each asked twice because it is empty, and the clock.
            assert {k: n for k, n in other.counts().items() if k.startswith("GET")} == {
                "GET /api/v1/groups": 3,
                "GET /api/v1/users": 2,
            }
            for seed in range(1, 4):
                steps = {"seed": seed, "joiners": 2, "disabled": 2, "renamed": 1, "moved": 3, "new_groups": 1}
                later = changed(whole, **steps)
                other.change(**steps)
                found = await one.changes(Scope(), cursor)
                was = {p.id: p for p in whole.people}
                assert {row[0] for row in found.users} >= {user_id(p.id) for p in later.people if was.get(p.id) != p}
                assert len(found.users) < 40
                assert set(found.replaced) == {row[0] for row in found.groups}
                assert EVERYONE not in found.replaced
                assert (found.gone_users, found.gone_groups, found.left) == ((), (), ())
                before = merged(before, found)
                assert before.digest() == (await read_source(one, Scope())).digest()
                whole = later
            disabled = [p for p in whole.people if not p.active and status_of(p) == "DEPROVISIONED"]
            active = dict(zip(before.users["id"], before.users["active"], strict=True))
            assert all(active[user_id(p.id)] is False for p in disabled)  # the delta told them


async def test_a_delta_that_came_damaged_says_so(idp: RunningIdp) -> None:
    cursor = "2020-01-01T00:00:00.000Z"
    async with source(idp, page_size=50) as one:
        for path in (r"/api/v1/users$", r"/api/v1/groups/[^/]+/users$"):
            idp.faults({"kind": "empty", "path": path})
            with pytest.raises(IncompleteError):
                await one.changes(Scope(), cursor)
        idp.faults({"kind": "malformed", "path": r"/api/v1/users$"})
        found = await one.changes(Scope(), cursor)
        assert [one.kind for one in found.held] == ["user"]
        assert len(found.users) == 119


# --- credentials and limits --------------------------------------------------------------------------


async def test_what_is_missing_is_said(idp: RunningIdp) -> None:
    with running("okta", **SIZE, options={"scopes": ["okta.users.read"]}) as other:
        async with source(other) as one:
            with pytest.raises(AuthenticationError, match=r"invalid_scope.*okta.groups.read.*Okta API Scopes"):
                await one.check()
    with running("okta", **SIZE, options={"role": False}) as other:
        async with source(other) as one:
            with pytest.raises(ForbiddenError, match=r"403 \(E0000006.*okta.users.read.*Admin roles"):
                await one.check()
        async with source(other, client_id="", key_id="") as one:
            with pytest.raises(ForbiddenError, match="that admin a role"):
                await one.check()
    with running("okta", **SIZE, options={"dpop": True}) as other:
        async with source(other) as one:
            with pytest.raises(AuthenticationError, match=r"use_dpop_nonce.*DPoP"):
                await one.check()
    wrong = {"token": "00not-the-token"}
    async with source(idp, wrong, client_id="", key_id="") as one:
        with pytest.raises(AuthenticationError, match=r"E0000011.*30 days.*Tokens") as refused:
            await one.check()
        assert wrong["token"] not in str(refused.value)
        assert wrong["token"] not in one._http.scrub(f"echo of {wrong['token']}")
    async with source(idp, key_id="other") as one:
        with pytest.raises(AuthenticationError, match=r"invalid_client.*key_id"):
            await one.check()
    async with source(idp, url=f"{idp.url}/api") as one:
        with pytest.raises((ConfigurationError, IncompleteError, AuthenticationError)) as lost:
            await one.check()
        assert "address" in str(lost.value)
    async with source(idp, url=f"{idp.url}/x", client_id="", key_id="") as one:
        with pytest.raises(ConfigurationError, match="without a path"):
            await one.check()


async def test_only_the_scopes_that_are_needed_are_asked_for() -> None:
    options = {"scopes": ["okta.users.read", "okta.groups.read"]}
    with running("okta", **SIZE, options=options) as other:
        await read(other)
        with pytest.raises(AuthenticationError, match=r"okta.apps.read"):
            await read(other, app=APP)


def test_settings_choose_the_secret() -> None:
    assert OktaSettings(url="https://acme.okta.com").secrets() == ("token",)
    assert OktaSettings(url="https://acme.okta.com", client_id="0oa1", key_id="k").secrets() == ("private_key",)
    with pytest.raises(ValidationError, match="-admin"):
        OktaSettings(url="https://acme-admin.okta.com")
    with pytest.raises(ValidationError, match="client_id"):
        OktaSettings(url="https://acme.okta.com", key_id="k")
    with pytest.raises(ConfigurationError, match="private_key"):
        Okta.open("acme", OktaSettings(url="https://acme.okta.com", client_id="0oa1"), {"private_key": "no key"})


async def test_the_rate_limit_is_waited_for() -> None:
    """The window's end comes as a moment since 1970; where too many calls run at once, that moment says nothing."""
    with running("okta", **SIZE, options={"limit": 8, "window": 1}) as other:
        snapshot = await read(other, page_size=50)
        assert pairs(snapshot) == in_groups(company())
    with running("okta", **SIZE, options={"crowded": 5}) as other:
        snapshot = await read(other, page_size=50)
        assert pairs(snapshot) == in_groups(company())
    with running("okta", **SIZE, options={"limit": 2, "window": 3600}) as other:
        with pytest.raises(RetryableError) as late:
            await read(other)
        assert late.value.retry_after is not None
        assert 3000 < late.value.retry_after <= 3601


# --- Okta's own description of its API -----------------------------------------------------------------


NULLABLE = (
    *("User.activated", "User.lastLogin", "User.passwordChanged", "User.statusChanged", "UserProfile.city"),
    *("UserProfile.displayName", "UserProfile.firstName", "UserProfile.lastName", "UserProfile.managerId"),
    *("UserProfile.mobilePhone", "UserProfile.secondEmail", "UserProfile.title"),
)


@contextmanager
def prism(upstream: str, port: int, folder: Path) -> Iterator[str]:
    """Stoplight's Prism before the emulator: requests and answers that Okta's OpenAPI document forbids are errors."""
    place = node_package(Path(__file__).parent / "prism" / "package.json")
    spec = orjson.loads((place / "node_modules" / "@okta" / "openapi" / "dist" / "spec.json").read_bytes())
    # This document is older than null in it, and than app profiles that hold anything but objects. Both are right by
    # the current one, which is in no package; these are its nullable fields, as Okta's SDK has them.
    for name in NULLABLE:
        kind, _, field = name.partition(".")
        spec["definitions"][kind]["properties"][field]["x-nullable"] = True
    spec["definitions"]["AppUser"]["properties"]["profile"].pop("additionalProperties")
    document = folder / "okta.json"
    document.write_bytes(orjson.dumps(spec))
    command = [str(place / "node_modules" / ".bin" / "prism"), "proxy", str(document), upstream, "--errors"]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*"},
    )
    try:
        for _ in range(600):
            assert process.poll() is None, "Prism ended"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def test_requests_and_answers_fit_oktas_openapi_document(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with (
        running("okta", **SIZE, options={"public": f"http://127.0.0.1:{port}"}) as other,
        prism(other.url, port, tmp_path) as url,
    ):
        async with source(other, url=url, client_id="", key_id="") as one:
            with pytest.raises(IncompleteError, match="422"):  # it does look
                await one._call("/api/v1/users", {"limit": "many"})
        right = await read(other, client_id="", key_id="")  # its links lead to Prism, so they are not followed here
        through: dict[str, Any] = {"url": url, "client_id": "", "key_id": "", "page_size": 50}
        assert (await read(other, **through)).digest() == right.digest()
        assert len((await read(other, **through, app=APP)).users) > 50
        async with source(other, **through) as one:
            assert await one.check()
            cursor = await one.cursor(Scope())
            other.change(seed=3, joiners=2, renamed=2, moved=3)
            found = await one.changes(Scope(), cursor)
            assert merged(right, found).digest() == (await read(other, **through)).digest()
            person = organisation(**SIZE).people[0]
            for key in (user_id(person.id), f"{person.username}@acme.example", person.email.upper()):
                assert await one.user(key) is not None
            assert await one.user("nobody@acme.example") is None


async def test_a_link_to_elsewhere_is_not_followed(idp: RunningIdp) -> None:
    other = idp.url.replace("127.0.0.1", "localhost")
    idp.faults({"kind": "link", "path": r"/api/v1/users$", "text": f"{other}/api/v1/users?after=x"})
    with pytest.raises(RefusedError, match="link"):
        await read(idp)
