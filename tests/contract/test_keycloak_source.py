"""The Keycloak connector against the emulated Keycloak: what is peculiar to it. `test_every_source.py` has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from connectors import http as client
from connectors.contract import Held, Scope
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    IncompleteError,
    RefusedError,
)
from connectors.idp.keycloak import Keycloak, KeycloakSettings, user_rows
from connectors.model import Snapshot
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import organisation
from tasks.read.extract import read_source

SIZE: dict[str, Any] = {"users": 30, "groups": 12, "memberships": 60, "seed": 3}
PREFIX = "service-account-"


@pytest.fixture(scope="module")
def idp() -> Iterator[RunningIdp]:
    with running("keycloak", **SIZE) as process:
        yield process


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, idp: RunningIdp) -> Iterator[None]:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(client, "HIGHEST_WAIT", 0.002)
    idp.faults()
    idp.reset_counts()
    yield
    idp.faults()


@asynccontextmanager
async def opened(idp: RunningIdp, **settings: Any) -> AsyncIterator[Keycloak]:
    chosen = KeycloakSettings.model_validate({**idp.settings, "page_size": 10, "timeout": 5, **settings})
    source = Keycloak.open("acme", chosen, idp.secrets)
    try:
        yield source
    finally:
        await asyncio.gather(*(one.aclose() for one in source.clients))


async def read(idp: RunningIdp, scope: Scope = Scope(), **settings: Any) -> Snapshot:  # noqa: B008
    async with opened(idp, **settings) as source:
        return await read_source(source, scope)


async def test_a_read_costs_its_pages_and_a_call_for_each_group(idp: RunningIdp) -> None:
    snapshot = await read(idp)
    counts = {name: count for name, count in idp.counts().items() if name != "bytes"}
    people = snapshot.memberships[snapshot.memberships["member_kind"] == "user"]
    sizes = people["group_id"].astype("str").value_counts()
    empty = 12 - len(sizes)
    more = sum((size - 1) // 10 for size in sizes)
    service_accounts = counts.pop("GET /groups/{id}/members") - 12 - empty - more
    assert service_accounts in (0, 1)  # a service account made a page longer than ten
    assert counts == {
        "POST /token": 1,
        "GET /users": 4 + 1,  # ten a page that overlap by one; once for people named as service accounts are
        "GET /users/count": 1 + 1,
        "GET /groups": 1,
        "GET /groups/count": 1,
    }


async def test_service_accounts_are_nobody_and_people_named_alike_are_people(idp: RunningIdp) -> None:
    plain = await read(idp)
    assert not plain.users["username"].str.startswith(PREFIX).any()
    with running("keycloak", **SIZE, options={"likeness": True}) as like:
        found = await read(like)
        assert found.memberships.equals(plain.memberships)
        name = next(one for one in found.users["username"] if one.startswith(PREFIX))
        async with opened(like) as source:
            person = await source.user(name)
            assert person is not None
            assert person.memberships
            assert await source.user(f"{PREFIX}jenkins") is None


@pytest.mark.parametrize("options", [{"old": True, "prefix": "/auth"}, {"literal": True}])
async def test_group_trees_of_older_servers(idp: RunningIdp, options: dict[str, Any]) -> None:
    """The tree in one answer, or level by level where * finds nothing."""
    right = await read(idp)
    with running("keycloak", **SIZE, options=options) as older:
        url = older.url + options.get("prefix", "")
        older.reset_counts()
        found = await read(older, url=url)
        assert found.users.equals(right.users)
        assert found.memberships.equals(right.memberships)
        assert set(found.groups["name"]) == set(right.groups["name"])
        counts = older.counts()
        assert counts["GET /groups"] == 2
        parents = right.memberships.loc[right.memberships["member_kind"] == "group", "group_id"].nunique()
        assert counts.get("GET /groups/{id}/children", 0) == (0 if "old" in options else parents)
        for kind in ("drop", "total", "repeat", "cut"):
            older.faults({"kind": kind, "path": r".*/groups(/[^/]+/children)?$", "nth": 2, "times": 0})
            try:
                assert (await read(older, url=url)).digest() == found.digest()
                assert kind == "repeat"  # there are no pages to repeat
            except IncompleteError:
                assert kind != "repeat"


async def test_who_is_nested_in_whom_is_as_old_as_the_list_of_groups_and_no_older(idp: RunningIdp) -> None:
    """A source that stays open (`crowdsync react`) hears of a group that was moved."""
    async with opened(idp) as source:
        snapshot = await read_source(source, Scope())
        assert idp.counts()["GET /groups"] == 1
        for more in (2, 3):
            assert [page async for page in source.memberships([snapshot.groups["id"].iloc[0]])]
            assert idp.counts()["GET /groups"] == more


async def test_a_group_is_called_by_its_name_or_its_path(idp: RunningIdp) -> None:
    by_name, by_path = await read(idp), await read(idp, group_names="path")
    names = dict(zip(by_name.groups["id"], by_name.groups["name"], strict=True))
    paths = dict(zip(by_path.groups["id"], by_path.groups["name"], strict=True))
    assert all(path.startswith("/") and path.endswith(f"/{names[key]}") for key, path in paths.items())
    nested = by_path.memberships[by_path.memberships["member_kind"] == "group"].astype("str")
    assert len(nested)
    for parent, child in zip(nested["group_id"], nested["member_id"], strict=True):
        assert paths[child] == f"{paths[parent]}/{names[child]}"


async def test_groups_have_descriptions() -> None:
    """On newer servers."""
    with running("keycloak", users=5, groups=40, memberships=5) as newer:
        about = {team.id: f"Works on {team.about}" for team in organisation(users=5, groups=40, memberships=5).teams
                 if team.kind == "project"}  # fmt: skip
        found = (await read(newer)).groups
        assert about
        assert {key: text for key, text in found[["id", "description"]].to_numpy() if text} == about


async def test_fewer_listed_than_counted_is_not_a_whole_read(idp: RunningIdp) -> None:
    """And where both say so again, another run would not help: the cause and the way out are named."""
    right = (await read(idp)).digest()
    idp.faults({"kind": "total", "path": ".*/users/count$", "total": 31})
    assert (await read(idp)).digest() == right  # somebody left between the count and the list
    for rules, message in (
        ([{"total": 31, "times": 0}], "31 counted, and 30 listed, which is so again.*federated.*user_counts = false"),
        ([{"total": 33, "nth": 1}, {"total": 32, "nth": 1}], "33 counted, and 30 listed, then 32 counted.*run again"),
    ):
        idp.faults(*({"kind": "total", "path": ".*/users/count$", **rule} for rule in rules))
        async with opened(idp) as source:
            with pytest.raises(IncompleteError, match=message):
                [page async for page in source.users(Scope())]
    for kind in ("drop", "empty"):  # (`repeat` of a last page is the list's own end)
        idp.faults({"kind": kind, "path": ".*/users$", "nth": 4})
        with pytest.raises(IncompleteError, match=r"moved|counted"):
            await read(idp)


@pytest.mark.parametrize("page_size", [1, 4, 10, 29, 30, 31, 1000])
async def test_federated_people_who_are_listed_and_not_counted_do_no_harm(page_size: int) -> None:
    """Also where as many as are counted fill some pages exactly."""
    with running("keycloak", **SIZE, options={"federation": -20}) as idp:
        found = await read(idp, page_size=page_size)
        assert len(found.users) == 30
        assert found.digest() == (await read(idp, page_size=page_size, user_counts=False)).digest()
        async with opened(idp, page_size=page_size) as source:
            assert "more are listed than counted" in (await source.check())[-1]


async def test_federated_people_who_are_counted_and_not_listed() -> None:
    with running("keycloak", **SIZE, options={"federation": 5}) as idp:
        with pytest.raises(IncompleteError, match="35 counted, and 30 listed, which is so again"):
            await read(idp)
        assert len((await read(idp, user_counts=False)).users) == 30
        async with opened(idp) as source:
            assert "fewer are listed than counted" in (await source.check())[-1]
        for kind in ("drop", "empty", "repeat", "cut"):  # the list proves its own end, then
            for nth in range(1, 6):
                idp.faults({"kind": kind, "path": ".*/users$", "nth": nth})
                try:
                    assert len((await read(idp, user_counts=False)).users) == 30
                except RefusedError:
                    continue


async def test_a_large_group_is_read_in_pages_whose_boundaries_hold() -> None:
    with running("keycloak", users=300, groups=1, memberships=250) as idp:
        company = organisation(users=300, groups=1, memberships=250)
        snapshot = await read(idp)
        assert len(snapshot.memberships) == 250
        assert set(snapshot.memberships["member_id"]) == {company.people[p].id for p in company.member_person.tolist()}
        for kind in ("repeat", "drop", "empty"):
            idp.faults({"kind": kind, "path": ".*/members$", "nth": 7, "times": 0})
            with pytest.raises(IncompleteError, match="moved"):
                await read(idp)


async def test_an_empty_group_is_asked_for_twice() -> None:
    with running("keycloak", users=5, groups=1, memberships=5) as idp:
        idp.faults({"kind": "empty", "path": ".*/members$"})
        with pytest.raises(IncompleteError, match="not empty"):
            await read(idp)


@pytest.mark.parametrize("role", ["query-users", ""])
async def test_a_missing_role_is_told_and_never_an_empty_realm(role: str) -> None:
    with running("keycloak", **SIZE, options={"role": role}) as idp:
        async with opened(idp) as source:
            for call in (source.check(), anext(source.users(Scope())), read_source(source, Scope())):
                with pytest.raises(ForbiddenError, match="client crowdsync the role view-users of realm-management"):
                    await call
            if role:
                name = organisation(**SIZE).people[0].username
                with pytest.raises(ForbiddenError, match="1 counted and none shown"):
                    await source.user(name)


async def test_a_client_of_another_realm(idp: RunningIdp) -> None:
    right = (await read(idp)).digest()
    with running("keycloak", **SIZE, options={"token_realm": "master"}) as other:
        assert (await read(other, token_realm="master")).digest() == right
        with pytest.raises(AuthenticationError, match="client of the realm acme"):
            await read(other)
    with running("keycloak", **SIZE, options={"token_realm": "master", "role": ""}) as other:
        async with opened(other, token_realm="master") as source:
            with pytest.raises(ForbiddenError, match="view-users of acme-realm"):
                await source.check()


async def test_wrong_addresses(idp: RunningIdp) -> None:
    with pytest.raises(ConfigurationError, match=r"Realm not found.*Check `realm`"):
        await read(idp, realm="other", token_realm="acme")
    with pytest.raises(IncompleteError, match="404 without an access token"):
        await read(idp, url=f"{idp.url}/auth")
    with pytest.raises(IncompleteError, match="404 without an access token"):
        await read(idp, realm="other")


async def test_attributes(idp: RunningIdp) -> None:
    scope = Scope(frozenset({"attributes.department", "attributes.none", "emailVerified"}))
    found = {key: orjson.loads(text) for key, text in (await read(idp, scope)).users[["id", "attributes"]].to_numpy()}
    for person in organisation(**SIZE).people:
        assert found[person.id].pop("emailVerified")[0] in ("true", "false")
        assert found[person.id] == {"attributes.department": [person.department]}
    for bad in ("", "attributes.", "profile.department", ".x"):
        with pytest.raises(ConfigurationError, match="no path such as"):
            await read(idp, Scope(frozenset({bad})))


async def test_names_of_attributes_may_have_dots() -> None:
    rows = user_rows(frozenset({"attributes.ldap.entry"}))
    record = {"id": "1", "username": "ann", "enabled": True, "attributes": {"ldap.entry": ["a", "b"]}}
    assert rows([record], "record", []) == [
        ("1", "ann", "", "", "", "", True, '{"attributes.ldap.entry":["a","b"]}'),
    ]


async def test_records_that_cannot_be_rows_are_held() -> None:
    good = {"id": "1", "username": "ann", "firstName": "Ann", "lastName": "Lee", "email": "a@b.c", "enabled": False}
    bad: list[tuple[Any, str]] = [
        ({**good, "id": ""}, "no id"),
        ({**good, "username": None}, "no username"),
        ({**good, "enabled": "true"}, "enabled is neither true nor false"),
        ({name: value for name, value in good.items() if name != "enabled"}, "enabled is neither"),
        ([good], "not an object"),
    ]
    held: list[Held] = []
    rows = user_rows(frozenset())([good, *(record for record, _ in bad), {**good, "email": None}], "record", held)
    row = ("1", "ann", "a@b.c", "Ann", "Lee", "Ann Lee", False, "{}")
    assert rows == [row, (*row[:2], "", *row[3:])]
    for one, (_, reason) in zip(held, bad, strict=True):
        assert reason in one.reason


async def test_a_person_who_is_locked_for_a_while_stays_active() -> None:
    with running("keycloak", users=60, groups=2, memberships=60, options={"old": True}) as idp:
        right = await read(idp)
        async with opened(idp) as source:
            for key, active in zip(right.users["id"], right.users["active"], strict=True):
                person = await source.user(key)
                assert person is not None
                assert person.user[6] == active, key
        assert "GET /users/{id}" not in idp.counts()


async def test_one_person_costs_three_calls(idp: RunningIdp) -> None:
    async with opened(idp) as source:
        await source.check()
        idp.reset_counts()
        assert await source.user(organisation(**SIZE).people[0].username)
        counts = idp.counts()
        counts.pop("bytes")
        assert counts == {"GET /users": 1, "GET /users/{id}/groups/count": 1, "GET /users/{id}/groups": 1}


async def test_one_person_is_never_nobody_by_one_damaged_answer(idp: RunningIdp) -> None:
    person = organisation(**SIZE).people[0]
    async with opened(idp) as source:
        for key in (person.id, person.username):
            idp.faults({"kind": "empty", "path": ".*/users$"})
            with pytest.raises(RefusedError):
                await source.user(key)
        idp.faults({"kind": "drop", "path": ".*/users/[^/]+/groups$"})
        with pytest.raises(IncompleteError, match="counted"):
            await source.user(person.id)


async def test_an_address_of_two_people_is_nobodys_key() -> None:
    with running("keycloak", **SIZE, options={"shared_mail": True}) as idp:
        async with opened(idp) as source:
            with pytest.raises(IncompleteError, match="not one person's"):
                await source.user("Shared@acme.example")


async def test_a_proxy_that_limits_requests(idp: RunningIdp) -> None:
    right = (await read(idp)).digest()
    with running("keycloak", **SIZE, options={"limit": 25}) as limited:
        assert (await read(limited)).digest() == right


async def test_tokens_that_last_a_second(idp: RunningIdp) -> None:
    right = (await read(idp)).digest()
    with running("keycloak", **SIZE, options={"lifetime": 1}) as short:
        async with opened(short) as source:
            assert (await read_source(source, Scope())).digest() == right
            await asyncio.sleep(1.1)
            assert (await read_source(source, Scope())).digest() == right
        assert short.counts()["POST /token"] == 2


async def test_the_check(idp: RunningIdp) -> None:
    async with opened(idp) as source:
        assert await source.check() == [
            "sources.acme: realm acme answers client crowdsync",
            "users: 30 without service accounts",
            "groups: 12 of all levels",
        ]
