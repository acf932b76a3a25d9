"""Entra's peculiarities, through the emulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors import http as client
from connectors.contract import Changes, Scope
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    IncompleteError,
    RefusedError,
    RetryableError,
    StaleCursorError,
)
from connectors.idp.entra import Entra, EntraSettings
from connectors.model import Snapshot
from connectors.source import secrets_of
from deployments.sandbox import entra
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import Organisation, changed, difficult, organisation
from tasks.read.deltas import merged
from tasks.read.extract import read_source

SIZE: dict[str, Any] = {"users": 60, "groups": 24, "memberships": 200}
GUESTS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(client, "HIGHEST_WAIT", 0.002)


@asynccontextmanager
async def source(idp: RunningIdp, secrets: dict[str, str] | None = None, **more: Any) -> AsyncIterator[Entra]:
    opened = Entra.open("acme", EntraSettings(**{**idp.settings, "timeout": 5, **more}), secrets or idp.secrets)
    try:
        yield opened
    finally:
        await asyncio.gather(*(one.aclose() for one in opened.clients))


async def read(idp: RunningIdp, *attributes: str, **more: Any) -> Snapshot:
    async with source(idp, **more) as opened:
        return await read_source(opened, Scope(frozenset(attributes)))


def company() -> Organisation:
    return organisation(**SIZE)


def pairs(snapshot: Snapshot) -> set[tuple[str, ...]]:
    return set(snapshot.memberships.astype("str").itertuples(index=False, name=None))


def wanted_pairs(whole: Organisation) -> set[tuple[str, ...]]:
    teams, people = whole.teams, whole.people
    found = zip(whole.member_team.tolist(), whole.member_person.tolist(), strict=True)
    nested = zip(whole.nest_parent.tolist(), whole.nest_child.tolist(), strict=True)
    return {(teams[t].id, people[p].id, "user") for t, p in found} | {
        (teams[parent].id, teams[child].id, "group") for parent, child in nested
    }


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningIdp]:
    with running("entra", **SIZE, options={"guests": GUESTS}) as idp:
        yield idp


# --- whole reads ---


@pytest.mark.parametrize("page", [1, 7, 10_000])
async def test_pages_of_every_size_some_of_them_empty(page: int) -> None:
    with running("entra", **SIZE, options={"sparse": 2}) as idp:
        assert pairs(await read(idp, page_size=page)) == wanted_pairs(company())


async def test_people(shared: RunningIdp) -> None:
    found = await read(shared, "department", "onPremisesExtensionAttributes.extensionAttribute1")
    rows = {row.id: row for row in found.users.itertuples()}
    assert len(rows) == 60
    without_mail = 0
    for person in company().people:
        row = rows[person.id]
        assert (row.username, row.active) == (entra.upn(person, GUESTS), person.active)
        assert (row.first_name, row.last_name, row.display_name) == (
            person.first_name,
            person.last_name,
            person.display_name,
        )
        assert row.email == person.email  # out of mail, otherMails or proxyAddresses
        without_mail += int(person.id[-12:], 16) % 10 == 0
        said = {"department": [person.department]} if person.department else {}
        if person.location:
            said["onPremisesExtensionAttributes.extensionAttribute1"] = [person.location]
        assert orjson.loads(str(row.attributes)) == said
    assert without_mail > 2
    assert pairs(found) == wanted_pairs(company())  # without devices, contacts and service principals


async def test_guests_can_be_left_out(shared: RunningIdp) -> None:
    found = await read(shared, guests=False)
    assert set(found.users["id"]) == {p.id for p in company().people if not entra.is_guest(p, GUESTS)}
    guest = next(p for p in company().people if entra.is_guest(p, GUESTS))
    async with source(shared, guests=False) as opened:
        assert await opened.user(guest.id) is None
        assert await opened.user(entra.upn(guest, GUESTS)) is None
        assert await opened.cursor(Scope()) == ""


@pytest.mark.parametrize("name", ["mailNickname", "onPremisesSamAccountName", "employeeId"])
async def test_other_usernames(shared: RunningIdp, name: str) -> None:
    found = await read(shared, username=name)
    one = company().people[5]
    names = {"mailNickname": one.username, "employeeId": one.employee_number}
    if name == "onPremisesSamAccountName":  # guests and long names have none
        assert set(found.held["reason"].str.contains("no onPremisesSamAccountName")) == {True}
        assert len(found.held) + len(found.users) == 60
        return
    assert found.held.empty
    assert dict(zip(found.users["id"], found.users["username"], strict=True))[one.id] == names[name]
    async with source(shared, username=name) as opened:
        person = await opened.user(names[name].upper())
        assert person is not None
        assert person.user[:2] == (one.id, names[name])
        assert {g for g, _, _ in person.memberships} == {g for g, m, _ in wanted_pairs(company()) if m == one.id}


async def test_an_account_that_says_not_whether_it_is_enabled_is_held() -> None:
    with running("entra", **SIZE, options={"unsaid": 9}) as idp:
        found = await read(idp)
        assert 0 < len(found.held) < 20
        assert set(found.held["kind"]) == {"user"}
        assert found.held["reason"].str.contains("accountEnabled").all()
        assert len(found.users) + len(found.held) == 60


@pytest.mark.parametrize("path", ["nonsense", "aboutMe"])
async def test_a_property_that_lists_do_not_have(shared: RunningIdp, path: str) -> None:
    with pytest.raises(ConfigurationError, match=path):
        await read(shared, path)


@pytest.mark.parametrize("path", ["a b", "city&$filter=x", "", "x..y", "città"])
async def test_a_property_that_is_none(shared: RunningIdp, path: str) -> None:
    with pytest.raises(ConfigurationError, match="entra: "):
        await read(shared, path)


async def test_groups_that_hide_their_members() -> None:
    hidden = {t.id for t in company().teams if int(t.id[-12:], 16) % 4 == 0}
    assert hidden
    with running("entra", **SIZE, options={"hidden": 4}) as idp:
        found = await read(idp)
        assert set(found.held["id"]) == hidden
        assert found.held["reason"].str.contains("Member.Read.Hidden").all()
        assert not set(found.groups["id"]) & hidden
    roles = [*entra.ROLES, "Member.Read.Hidden"]
    with running("entra", **SIZE, options={"hidden": 4, "roles": roles}) as idp:
        assert pairs(await read(idp, hidden_members=True)) == wanted_pairs(company())


async def test_a_group_that_is_gone_refuses_the_read(shared: RunningIdp) -> None:
    async with source(shared) as opened:
        some = [company().teams[0].id, "11111111-2222-3333-4444-555555555555"]
        with pytest.raises(IncompleteError, match="404"):
            [page async for page in opened.memberships(some)]


async def test_the_fewest_requests() -> None:
    sizes: dict[str, Any] = {"users": 3000, "groups": 300, "memberships": 400}
    with running("entra", **sizes) as idp:
        found = await read(idp)
        counts = idp.counts()
        assert counts["GET /users"] == 4  # of 999
        assert counts["GET /groups"] == 1
        assert counts["POST /$batch"] <= 15 + 15  # and once more for groups that are empty
        assert counts["POST /oauth2/v2.0/token"] == 1
        assert len(set(counts) - {"bytes"}) == 4
        assert found.memberships["group_id"].nunique() < 250
        assert pairs(found) == wanted_pairs(organisation(**sizes))


# --- throttling ---


async def test_parts_of_a_batch_are_throttled_one_by_one() -> None:
    with running("entra", **SIZE, options={"limit": 30, "window": 1}) as idp:
        assert pairs(await read(idp)) == wanted_pairs(company())
        assert idp.counts()["POST /$batch"] > 2


async def test_a_tenant_that_stays_busy() -> None:
    with (
        running("entra", **SIZE, options={"limit": 5, "window": 500}) as idp,
        pytest.raises(RetryableError, match="wait"),
    ):
        await read(idp)


# --- the application ---


def in_scope(whole: Organisation) -> tuple[set[str], set[str]]:
    groups = {team.id for team in entra.assigned_teams(whole)}
    users = {person.id for person in entra.assigned_people(whole)}
    return users | {m for g, m, kind in wanted_pairs(whole) if g in groups and kind == "user"}, groups


@pytest.mark.parametrize("app", [entra.APP, entra.APP_OBJECT])
async def test_only_who_is_assigned_to_an_application(app: str) -> None:
    sparse: dict[str, Any] = {"users": 200, "groups": 24, "memberships": 200}
    whole = organisation(**sparse)
    with running("entra", **sparse) as idp:
        found = await read(idp, app=app, page_size=20)
        users, groups = in_scope(whole)
        assert 0 < len(users) < 200
        assert 0 < len(groups) < 24
        assert any(g in groups and m not in groups for g, m, kind in wanted_pairs(whole) if kind == "group")
        assert (set(found.users["id"]), set(found.groups["id"])) == (users, groups)
        assert pairs(found) == {row for row in wanted_pairs(whole) if row[0] in groups}
        async with source(idp, app=app) as opened:
            assert await opened.cursor(Scope()) == ""
            outside = next(p for p in whole.people if p.id not in users)
            assert await opened.user(outside.id) is None
            inside = next(m for g, m, kind in wanted_pairs(whole) if g in groups and kind == "user")
            person = await opened.user(inside)
            assert person is not None
            assert {g[0] for g in person.groups} == {
                g for g, m, _ in wanted_pairs(whole) if m == inside and g in groups
            }
            assert any(f"{len(users)} people and {len(groups)} groups" in line for line in await opened.check())


async def test_an_application_without_anybody_and_one_that_is_none(shared: RunningIdp) -> None:
    found = await read(shared, app=entra.OTHER_APP)
    assert found.users.empty
    assert found.groups.empty
    async with source(shared, app="11111111-2222-3333-4444-555555555555") as opened:
        for call in (opened.check(), read_source(opened, Scope())):
            with pytest.raises(ConfigurationError, match="no enterprise application"):
                await call


# --- one person ---


async def test_one_person_in_the_fewest_requests() -> None:
    with running("entra", **SIZE, options={"guests": GUESTS}) as idp:
        direct = wanted_pairs(company())
        async with source(idp) as opened:
            await opened.check()
            for one in company().people[:12]:
                mine = {g for g, m, _ in direct if m == one.id}
                for key, most in ((one.id, 1), (entra.upn(one, GUESTS), 1), (one.email, 3)):
                    idp.reset_counts()
                    found = await opened.user(key)
                    assert found is not None
                    assert found.user[0] == one.id
                    assert {g[0] for g in found.groups} == mine
                    made = sum(n for name, n in idp.counts().items() if name != "bytes")
                    assert made <= most + (not mine), key


async def test_awkward_names() -> None:
    with running("entra", users=20, groups=3, memberships=20, difficult=True) as idp:
        async with source(idp) as opened:
            for case in difficult():
                for person in case.people:
                    found = await opened.user(person.id)
                    assert found is not None
                    assert found.user[:2] == (person.id, entra.upn(person))
                    if "quotes" in case.why:
                        found = await opened.user(entra.upn(person))
                        assert found is not None
                        assert found.user[0] == person.id
            assert await opened.user("$nobody@acme.example") is None


async def test_an_address_of_two_people_is_nobodys(shared: RunningIdp) -> None:
    one, other = company().people[:2]
    async with source(shared) as opened:
        records = [
            {"id": p.id, "userPrincipalName": f"{p.id}@x", "accountEnabled": True, "mail": "shared@acme.example"}
            for p in (one, other)
        ]
        with pytest.raises(RefusedError, match="not one person's"):
            opened._the_one(records, "Shared@acme.example")
        assert opened._the_one(records[:1] * 2, "Shared@acme.example") == records[0]


# --- deltas ---

AMOUNTS: dict[str, Any] = {"joiners": 4, "leavers": 4, "disabled": 2, "renamed": 3, "updated": 4, "moved": 6}
MORE: dict[str, Any] = {"new_groups": 2, "renamed_groups": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"replay": True, "delta_page": 3, "delta_members": 2},
        {"minimal": True},
        {"contrary": True, "delta_members": 1, "delta_page": 2},
    ],
    ids=["plain", "replay", "minimal", "contrary"],
)
async def test_deltas_follow_a_company(options: dict[str, Any]) -> None:
    scope = Scope(frozenset({"department", "jobTitle"}))
    with running("entra", **SIZE, options={**options, "guests": GUESTS}) as idp:
        async with source(idp) as opened:
            cursor = await opened.cursor(scope)
            before = await read_source(opened, scope)
            for seed in range(1, 4):
                idp.change(seed=seed, **AMOUNTS, **MORE)
                changes = await opened.changes(scope, cursor)
                cursor, before = changes.cursor, merged(before, changes)
                assert len(changes.gone_users) == 4
                assert before.digest() == (await read_source(opened, scope)).digest()
            again = await opened.changes(scope, cursor)
            assert (again.users, again.groups, again.memberships, again.gone_users) == ([], [], [], [])


async def test_a_delta_reads_only_what_changed() -> None:
    with running("entra", **SIZE) as idp:
        async with source(idp) as opened:
            cursor = await opened.cursor(Scope())
            idp.change(seed=1, leavers=6, moved=1)
            idp.reset_counts()
            changes: Changes = await opened.changes(Scope(), cursor)
            counts = idp.counts()
            assert {k: v for k, v in counts.items() if k != "bytes"} == {"GET /users/delta": 1, "GET /groups/delta": 1}
            assert not changes.users
            assert len(changes.gone_users) == 6
            reasons = {entra.is_purged(key) for key in changes.gone_users}
            assert reasons == {True, False}  # soft-deleted and purged
            later = changed(company(), seed=1, leavers=6, moved=1)
            assert set(changes.memberships) == wanted_pairs(later) - wanted_pairs(company())
            assert set(changes.left) == wanted_pairs(company()) - wanted_pairs(later)


async def test_whoever_is_restored_needs_a_full_read() -> None:
    with running("entra", **SIZE) as idp:
        async with source(idp) as opened:
            cursor = await opened.cursor(Scope())
            idp.change(seed=1, leavers=6)
            cursor = (await opened.changes(Scope(), cursor)).cursor
            kept = orjson.loads(cursor)["gone"]
            assert kept
            assert not any(entra.is_purged(key) for key in kept)
            idp.load(**SIZE)
            with pytest.raises(StaleCursorError, match="restored"):
                await opened.changes(Scope(), cursor)


@pytest.mark.parametrize("status", [410, 400])
async def test_a_delta_that_the_server_forgot(shared: RunningIdp, status: int) -> None:
    async with source(shared) as opened:
        cursor = await opened.cursor(Scope())
        shared.faults({"kind": "status", "path": "/v1.0/users/delta", "status": status})
        with pytest.raises(StaleCursorError, match=rf"{status} .*\); a full read is due"):
            await opened.changes(Scope(), cursor)
        shared.faults()
        with pytest.raises(StaleCursorError, match="other properties"):
            await opened.changes(Scope(frozenset({"city"})), cursor)


async def test_an_old_mark() -> None:
    with running("entra", **SIZE, options={"delta_seconds": 0}) as idp:
        async with source(idp) as opened:
            with pytest.raises(StaleCursorError, match="410"):
                await opened.changes(Scope(), await opened.cursor(Scope()))


@pytest.mark.parametrize("kind", ["empty", "cursor", "malformed", "truncated"])
async def test_a_damaged_delta_leads_to_a_full_read(kind: str) -> None:
    with running("entra", **SIZE) as idp:
        async with source(idp) as opened:
            cursor = await opened.cursor(Scope())
            idp.change(seed=1, updated=5)
            idp.faults({"kind": kind, "path": "/v1.0/users/delta"})
            if kind == "cursor":
                idp.faults({"kind": kind, "path": "/v1.0/users/delta", "times": 0})
            with pytest.raises(StaleCursorError):
                await opened.changes(Scope(), cursor)


@pytest.mark.parametrize("link", ["https://evil.example/users/delta?x", "//evil.example/users/delta", "/users/../x"])
async def test_the_links_of_a_mark_stay_where_they_belong(shared: RunningIdp, link: str) -> None:
    async with source(shared) as opened:
        cursor = orjson.loads(await opened.cursor(Scope()))
        with pytest.raises(RefusedError):
            await opened.changes(Scope(), orjson.dumps({**cursor, "groups": link}).decode())
        shared.faults({"kind": "link", "path": "/v1.0/users/delta", "text": link, "times": 0})
        with pytest.raises(RefusedError):
            await opened.cursor(Scope())
        shared.faults()


# --- credentials and rights ---


@pytest.mark.parametrize(
    ("roles", "missing", "more"),
    [
        (["GroupMember.Read.All"], "User.Read.All", {}),
        (["User.Read.All"], "GroupMember.Read.All", {}),
        (["User.Read.All", "GroupMember.Read.All"], "Application.Read.All", {"app": entra.APP}),
    ],
)
async def test_a_missing_permission_is_named(roles: list[str], missing: str, more: dict[str, Any]) -> None:
    with running("entra", **SIZE, options={"roles": roles}) as idp:
        async with source(idp, **more) as opened:
            for call in (opened.check(), read_source(opened, Scope())):
                with pytest.raises(ForbiddenError) as wrong:
                    await call
                assert missing in str(wrong.value)
                assert "API permissions" in str(wrong.value)


@pytest.mark.parametrize(("field", "value"), [("tenant", "other"), ("client_id", "other")])
async def test_a_wrong_tenant_or_client(shared: RunningIdp, field: str, value: str) -> None:
    async with source(shared, None, **{field: value}) as opened:
        with pytest.raises(AuthenticationError, match="AADSTS"):
            await opened.check()


async def test_the_check_counts(shared: RunningIdp) -> None:
    async with source(shared) as opened:
        lines = await opened.check()
        assert "users: 60" in lines
        assert "groups: 24" in lines


async def test_a_certificate_in_place_of_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, pem = entra.certificate()
    other_key, other = entra.certificate()
    file, key_file = tmp_path / "app.pem", tmp_path / "app.key"
    file.write_text(pem)
    key_file.write_text(key)
    with running("entra", **SIZE, options={"certificate": pem}) as idp:
        more = {"certificate_file": str(file), "private_key_file": str(key_file)}
        monkeypatch.delenv("CROWDSYNC_SOURCE_SECRET", raising=False)
        secrets = secrets_of("acme", EntraSettings(**{**idp.settings, **more}))
        assert set(secrets) == {"private_key"}
        async with source(idp, secrets, **more) as opened:
            assert len((await read_source(opened, Scope())).users) == 60
        with pytest.raises(ConfigurationError, match="not the key of"):
            async with source(idp, {"private_key": other_key}, **more):
                pass
        file.write_text(other)
        async with source(idp, {"private_key": other_key}, **more) as opened:
            with pytest.raises(AuthenticationError, match="AADSTS700027"):
                await opened.check()
        for content, why in (("nonsense", "no certificate"), (None, "No such file")):
            file.unlink()
            if content is not None:
                file.write_text(content)
            with pytest.raises(ConfigurationError, match=why):
                async with source(idp, secrets, **more):
                    pass


async def test_secrets_go_to_the_login_address_and_tokens_to_the_api_only(shared: RunningIdp) -> None:
    with running("entra", users=1, groups=1, memberships=1) as login:
        shared.reset_counts()
        async with source(shared, login.secrets, login_url=login.url) as opened:
            with pytest.raises(AuthenticationError):  # these are two servers, after all
                await opened.check()
        assert set(login.counts()) == {"POST /oauth2/v2.0/token", "bytes"}
        assert set(shared.counts()) == {"POST /$batch", "bytes"}
