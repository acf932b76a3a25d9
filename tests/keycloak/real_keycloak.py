"""The whole road from a real Keycloak into the emulated Crowd, and the emulated Keycloak beside the real one.

Not among the other tests (its name keeps it out): it needs Java and Maven, and a minute. `make test-keycloak` runs it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Scope
from connectors.crowd import Crowd
from connectors.errors import ForbiddenError
from connectors.http import Http
from connectors.idp.keycloak import Keycloak, KeycloakSettings
from connectors.store import Store
from deployments.sandbox.crowd import RunningCrowd
from deployments.sandbox.crowd import running as running_crowd
from deployments.sandbox.organisation import Organisation, organisation
from deployments.sandbox.server import members_of
from tasks.policy import Limit, Limits, Policy
from tasks.read.extract import read_source
from tests import road
from tests.keycloak.server import NEWEST, VERSION, Server
from tests.support import keycloak_clauses as clauses
from tests.support.clients import client_package, drive

CLIENTS = ("crowdsync", "jenkins", "monitoring")
PEOPLE = int(os.environ.get("CROWDSYNC_PEOPLE", "700"))
"""More than two pages; Keycloak takes a minute to be filled with some thousands."""
LARGE: dict[str, Any] = {"users": PEOPLE, "groups": PEOPLE // 6, "memberships": PEOPLE * 9 // 2, "seed": 4}
OPEN = Policy(
    limits=Limits.model_validate(
        {name: {} for name, field in Limits.model_fields.items() if field.annotation is Limit} | {"unusual_times": None}
    )
)
SECRET = secrets.token_urlsafe(24)


def fill(server: Server, realm: str, company: Organisation) -> None:
    """The company as the emulator shows it: a tree of groups, people, service accounts, one of them in two groups."""
    parents: dict[str, str] = {}
    ids = [team.id for team in company.teams]
    for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
        parents.setdefault(ids[child], ids[parent])
    groups: dict[str, dict[str, Any]] = {
        team.id: {
            "id": team.id,
            "name": team.name,
            "description": "",
            "attributes": {"kind": [team.kind]},
            "subGroups": [],
        }
        for team in company.teams
    }
    assert not any("/" in team.name for team in company.teams)  # a path could not be told from a name

    def path(key: str) -> str:
        return f"{path(parents[key]) if key in parents else ''}/{groups[key]['name']}"

    groups[ids[0]]["description"] = "The first one"
    for child, parent in parents.items():
        groups[parent]["subGroups"].append(groups[child])
    mine: dict[str, list[str]] = {}
    for team, members in zip(company.teams, members_of(company), strict=True):
        for member in members:
            mine.setdefault(member, []).append(path(team.id))
    users = [
        {
            "id": person.id,
            "username": person.username,
            "firstName": person.first_name,
            "lastName": person.last_name,
            "email": person.email,
            "enabled": person.active,
            "attributes": {"department": [person.department], "title": [person.title]},
            "groups": mine.get(person.id, []),
        }
        for person in company.people
    ]
    tops = [group for key, group in groups.items() if key not in parents]
    server.make_realm(realm, users=users, groups=tops, clients=CLIENTS, secret=SECRET)
    service_account = server.service_account(realm, CLIENTS[1])
    for team in company.teams[:2]:
        server.call("PUT", f"/{realm}/users/{service_account}/groups/{team.id}")


# --- the emulator beside the real one ----------------------------------------------------------------


@dataclass
class Like:
    """The real server, as the tests of the emulator know theirs."""

    url: str
    secrets: dict[str, str]

    def reset_counts(self) -> None:
        """The real one does not count."""

    def counts(self) -> dict[str, int]:
        return {"GET /users": 9, "GET /groups/{id}/members": 40}


@pytest.fixture(scope="module")
def company() -> Organisation:
    return organisation(**clauses.SIZE, seed=1)


@pytest.fixture(scope="module")
def like(keycloak: Server, company: Organisation) -> Any:
    fill(keycloak, "acme", company)
    return Like(keycloak.url, {"client_secret": SECRET})


def test_what_the_emulator_is_tested_for_holds_on_the_real_one(like: Any, company: Organisation) -> None:
    client = clauses.Client(like)
    clauses.python_keycloak(like, company)
    clauses.token_errors(client)
    clauses.requests_that_are_refused(client)
    clauses.paging(client, flat_groups=VERSION == NEWEST)
    clauses.which_fields_come(client)
    clauses.service_accounts_come_with_named_filters_only(client, company)
    clauses.filters(client, company)


# --- the road ----------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(server: Server, realm: str, **settings: Any) -> AsyncIterator[Keycloak]:
    chosen = {"url": server.url, "realm": realm, "client_id": CLIENTS[0], "page_size": 300, **settings}
    source = Keycloak.open("acme", KeycloakSettings.model_validate(chosen), {"client_secret": SECRET})
    try:
        yield source
    finally:
        await asyncio.gather(*(client.aclose() for client in source.clients))


async def cycle(server: Server, crowd: RunningCrowd, file: Path) -> tuple[road.Walked, int]:
    """One run, and how many requests it sent to Keycloak."""
    async with (
        opened(server, "large") as source,
        Http(crowd.url, name="crowd", basic=("crowdsync", "secret")) as client,
    ):
        with Store.open(f"sqlite:///{file}") as store:
            run = road.run_of(source, Crowd(client), store, OPEN, id=str(time.time_ns()))
            walked = await road.walk(run)
        assert not walked.refusals
        return walked, sum(sum(one.requests.values()) for one in source.clients)


def in_keycloak(server: Server, username: str, before: Collection[str] = ()) -> dict[str, Any]:
    """The realm as a client that we did not write reads it, in Crowd's words: whoever is disabled is not created
    there, but stays if they were there `before`."""
    found = drive(
        clauses.DRIVER, server.url, "large", CLIENTS[0], SECRET, username, package=client_package(clauses.CLIENT)
    )
    users = {user["id"]: user for user in found["users"] if user["enabled"] or user["username"] in before}
    groups = found["groups"]
    return {
        "users": {
            user["username"]: (
                user.get("email", ""),
                user.get("firstName", ""),
                user.get("lastName", ""),
                f"{user.get('firstName', '')} {user.get('lastName', '')}".strip(),
                user["enabled"],
            )
            for user in users.values()
        },
        "groups": {group["name"] for group in groups.values()},
        "memberships": {
            (users[member]["username"], group["name"])
            for group in groups.values()
            for member in group["members"]
            if member in users  # else a service account
        },
        "nestings": {(group["name"], groups[group["parent"]]["name"]) for group in groups.values() if group["parent"]},
    }


def in_crowd(crowd: RunningCrowd) -> dict[str, Any]:
    state = road.content(crowd)
    fields = ("email", "first_name", "last_name", "display_name", "active")
    return {
        "users": {user["name"]: tuple(user[name] for name in fields) for user in state["users"]},
        "groups": {group["name"] for group in state["groups"]},
        "memberships": {tuple(pair) for pair in state["memberships"]},
        "nestings": {tuple(pair) for pair in state["nestings"]},
    }


def same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The two are equal, or the first differences are shown."""
    for what, found in got.items():
        left, right = (set(x.items() if isinstance(x, dict) else x) for x in (found, wanted[what]))
        assert left == right, (what, sorted(left - right)[:5], sorted(right - left)[:5])


def kinds(walked: road.Walked) -> dict[str, int]:
    return dict(sorted(Counter(walked.journal["kind"]).items())) if walked.number is not None else {}


async def test_the_road(keycloak: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    company, file, lines = organisation(**LARGE), tmp_path / "store.db", []
    started = time.monotonic()
    fill(keycloak, "large", company)
    filled = time.monotonic() - started

    with running_crowd() as crowd:
        # First run: everything.
        started = time.monotonic()
        walked, requests = await cycle(keycloak, crowd, file)
        lines.append(f"first run: {kinds(walked)}, {requests} requests, {time.monotonic() - started:.1f} s")
        assert walked.plan.held.empty
        wanted, got = in_keycloak(keycloak, company.people[0].username), in_crowd(crowd)
        same(got, wanted)
        names = {team.id: team.name for team in company.teams}
        people = {person.id: person.username for person in company.people if person.active}
        assert set(got["users"]) == set(people.values())
        assert got["groups"] == set(names.values())
        assert got["memberships"] == {
            (people[member], team.name)
            for team, members in zip(company.teams, members_of(company), strict=True)
            for member in members
            if member in people
        }
        above = dict(got["nestings"])
        assert any(above.get(parent) for parent in above.values())  # three levels

        # Changes of every kind.
        members = {team.id: ids for team, ids in zip(company.teams, members_of(company), strict=True)}
        ids = list(people)
        disabled, renamed, deleted, moved, joiner_of = (
            ids[10],
            ids[20],
            ids[30],
            members[company.teams[3].id][0],
            ids[40],
        )
        change(keycloak, disabled, enabled=False)
        change(keycloak, renamed, username="brand.new", lastName="Brand-New", email="brand.new@northwind.example")
        keycloak.call("DELETE", f"/large/users/{deleted}")
        keycloak.call("DELETE", f"/large/users/{moved}/groups/{company.teams[3].id}")
        others = [team.id for team in company.teams if moved not in members[team.id] and team.id != company.teams[3].id]
        keycloak.call("PUT", f"/large/users/{moved}/groups/{others[0]}")
        child = next(team for team in company.teams if team.name in above)
        fresh = keycloak.call("POST", f"/large/groups/{child.id}/children", {"name": "brand new group"})["id"]
        keycloak.call("PUT", f"/large/users/{joiner_of}/groups/{fresh}")
        joiner = keycloak.call(
            "POST", "/large/users", {"username": "Joiner", "enabled": True, "firstName": "Jo", "lastName": "Ito"}
        )
        keycloak.call("PUT", f"/large/users/{joiner}/groups/{fresh}")
        top = next(team for team in company.teams if team.name not in above and team.name not in above.values())
        keycloak.call("POST", f"/large/groups/{child.id}/children", {"id": top.id, "name": top.name})  # moves it

        # Second run: these changes and no others.
        started = time.monotonic()
        walked, requests = await cycle(keycloak, crowd, file)
        lines.append(f"second run: {kinds(walked)}, {requests} requests, {time.monotonic() - started:.1f} s")
        wanted, got = in_keycloak(keycloak, "brand.new", got["users"]), in_crowd(crowd)
        assert got["users"].pop(people[deleted])[-1] is False  # deactivated, their groups as they were
        got["memberships"] = {pair for pair in got["memberships"] if pair[0] != people[deleted]}
        same(got, wanted)
        assert got["users"][people[disabled]][-1] is False
        assert people[renamed] not in got["users"]
        assert ("brand new group", child.name) in got["nestings"]
        assert (top.name, child.name) in got["nestings"]
        assert {("joiner", "brand new group"), (people[joiner_of], "brand new group")} <= got["memberships"]
        assert kinds(walked) == {
            "group_attributes": 1,  # whose the new one is
            "group_create": 1,
            "membership_add": 3,
            "membership_remove": 1,
            "nesting_add": 2,
            "user_create": 1,
            "user_deactivate": 2,
            "user_rename": 1,
            "user_update": 1,
        }

        # Third run: nothing.
        walked, requests = await cycle(keycloak, crowd, file)
        lines.append(f"third run: {kinds(walked) or 'nothing to do'}, {requests} requests")
        assert walked.number is None
        assert not len(walked.plan.operations)

    async with opened(keycloak, "large") as source:
        lines += await source.check()
        for key in (renamed, "brand.new", "BRAND.NEW@northwind.example"):
            person = await source.user(key)
            assert person is not None
            assert person.user[:2] == (renamed, "brand.new")
            mine = {group for group in members if renamed in members[group]}
            assert {group[0] for group in person.groups} == mine
        for nobody in (people[deleted], deleted, f"service-account-{CLIENTS[1]}"):
            assert await source.user(nobody) is None
    async with opened(keycloak, "large") as source, opened(keycloak, "large", group_names="path") as other:
        snapshot = await read_source(source, Scope(frozenset({"attributes.department"})))
        assert snapshot.users["attributes"].str.contains("attributes.department").sum() == len(snapshot.users) - 1
        paths = (await read_source(other, Scope())).groups["name"]
        assert any(path.count("/") == 3 for path in paths)
        about = snapshot.groups.loc[snapshot.groups["description"] == "The first one", "id"]
        assert list(about) == [company.teams[0].id]
    with capsys.disabled():
        print(f"\nKeycloak {VERSION}, {PEOPLE} people and {LARGE['groups']} groups filled in {filled:.0f} s")
        print("\n".join(lines))


def change(server: Server, key: str, **fields: Any) -> None:
    """The user with other fields."""
    server.call("PUT", f"/large/users/{key}", {**server.call("GET", f"/large/users/{key}"), **fields})


async def test_without_view_users_it_stops_and_says_so(keycloak: Server, like: Any) -> None:
    """The other client may only query users: the real one counts them and shows none."""
    realm_management = keycloak.call("GET", "/acme/clients", clientId="realm-management")[0]["id"]
    role = keycloak.call("GET", f"/acme/clients/{realm_management}/roles/query-users")
    service_account = keycloak.service_account("acme", CLIENTS[2])
    keycloak.call("POST", f"/acme/users/{service_account}/role-mappings/clients/{realm_management}", [role])
    async with opened(keycloak, "acme", client_id=CLIENTS[2]) as source:
        with pytest.raises(ForbiddenError, match="250 counted and none shown"):
            [page async for page in source.users(Scope())]
        with pytest.raises(ForbiddenError, match="role view-users of realm-management"):
            await source.check()
