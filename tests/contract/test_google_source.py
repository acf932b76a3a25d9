"""The Google source against the emulator: what is Google's own. What all sources do: test_every_source.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
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
    RetryableError,
    StaleCursorError,
)
from connectors.http import Answer
from connectors.idp.google import SCOPES, Google, GoogleSettings, user_rows
from connectors.model import Snapshot
from deployments.sandbox.google import ADMIN, group_email, group_id, user_id
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import Organisation, changed, organisation
from deployments.sandbox.server import children_of, members_of
from tasks.read.extract import read_source
from tests.support.clients import client_package
from tests.support.pages import as_pairs

SIZE: dict[str, Any] = {"users": 1100, "groups": 30, "memberships": 2500, "seed": 7}
SMALL: dict[str, Any] = {"users": 20, "groups": 8, "memberships": 60, "seed": 3}
ROOT = "/admin/directory/v1"


@pytest.fixture(scope="module")
def idp() -> Iterator[RunningIdp]:
    with running("google", **SIZE) as one:
        yield one


@pytest.fixture(scope="module")
def changing() -> Iterator[RunningIdp]:
    """One whose company a test may change; it loads it first."""
    with running("google", **SMALL) as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(client, "HIGHEST_WAIT", 0.002)


@asynccontextmanager
async def source(idp: RunningIdp, key: str = "", **settings: Any) -> AsyncIterator[Google]:
    chosen = GoogleSettings.model_validate({**idp.settings, "timeout": 10, **settings})
    opened = Google.open("acme", chosen, {"private_key": key or idp.secrets["private_key"]})
    try:
        yield opened
    finally:
        await asyncio.gather(*(one.aclose() for one in opened.clients))


async def read(idp: RunningIdp, attributes: tuple[str, ...] = (), **settings: Any) -> Snapshot:
    async with source(idp, **settings) as one:
        return await read_source(one, Scope(frozenset(attributes)))


def triples(snapshot: Snapshot) -> set[tuple[str, ...]]:
    rows = snapshot.memberships.astype("str")[["group_id", "member_id", "member_kind"]]
    return set(rows.itertuples(index=False, name=None))


def wanted(company: Organisation) -> set[tuple[str, ...]]:
    found = {
        (group_id(team.id), user_id(member), "user")
        for team, members in zip(company.teams, members_of(company), strict=True)
        for member in members
    }
    nested = children_of(company).items()
    return found | {(group_id(parent), group_id(child), "group") for parent, ids in nested for child in ids}


# --- full reads ------------------------------------------------------------------------------------


async def test_everything_is_read_with_the_fewest_requests(idp: RunningIdp) -> None:
    idp.reset_counts()
    company = organisation(**SIZE)
    snapshot = await read(idp)
    counts = idp.counts()
    counts.pop("bytes")
    # What the emulator adds to every third and every seventh group is paged with the others.
    nested = children_of(company)
    sizes = [
        len(members) + len(nested.get(team.id, ())) + (at % 3 == 1) + (at % 7 == 2)
        for at, (team, members) in enumerate(zip(company.teams, members_of(company), strict=True))
    ]
    assert max(sizes) > 200
    assert counts == {
        "POST /token": 1,
        "GET /users": 3,
        "GET /groups": 1,
        "GET /groups/{key}/members": sum(max(1, -(-size // 200)) + (size == 0) for size in sizes),
    }
    users = {row[0]: row for row in snapshot.users.itertuples(index=False, name=None)}
    for person in company.people:
        address = f"{person.username}@acme.example"
        first, last = person.first_name, person.last_name
        row = (user_id(person.id), address, address, first, last, f"{first} {last}", person.active, "{}")
        assert users.pop(row[0]) == row
    assert not users
    assert set(snapshot.groups["id"]) == {group_id(team.id) for team in company.teams}
    assert set(snapshot.groups["description"]) > {""}
    assert triples(snapshot) == wanted(company)  # neither people from elsewhere, nor everybody
    assert {"user", "group"} == {kind for *_, kind in triples(snapshot)}


async def test_groups_may_be_called_by_their_address(idp: RunningIdp) -> None:
    async with source(idp, group_names="email") as one:
        names = {row[1] async for page in one.groups(Scope()) for row in page.rows}
    assert names == set(map(group_email, organisation(**SIZE).teams))


async def test_short_and_empty_pages_do_not_end_a_list() -> None:
    with running("google", **SMALL, options={"short": True}) as idp:
        snapshot = await read(idp, page_size=4)
    company = organisation(**SMALL)
    assert set(snapshot.users["id"]) == {user_id(p.id) for p in company.people}
    assert triples(snapshot) == wanted(company)


async def test_an_answer_that_is_no_list_is_not_an_empty_one(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (b"{}", b"[]", b'{"users":[]}', b'{"kind":"admin#directory#users","users":null}', b'{"error":{}}'):
        async with source(idp) as one:

            async def call(*_: Any, body: bytes = body, **__: Any) -> Answer:
                return Answer(200, {}, body, idp.url)

            monkeypatch.setattr(one._http, "call", call)
            with pytest.raises(IncompleteError, match="no list"):
                _ = [page async for page in one.users(Scope())]


async def test_the_deleted_are_not_shown(changing: RunningIdp) -> None:
    changing.load(**SMALL)
    changing.change(seed=1, leavers=3, joiners=1, moved=2, renamed=1)
    later = changed(organisation(**SMALL), seed=1, leavers=3, joiners=1, moved=2, renamed=1)
    snapshot = await read(changing)
    assert set(snapshot.users["id"]) == {user_id(p.id) for p in later.people}
    assert triples(snapshot) == wanted(later)


async def test_one_domain_only() -> None:
    with running("google", **SMALL, options={"second": 4}) as idp:
        snapshot = await read(idp, domain="other.example")
        people = organisation(**SMALL).people
        assert set(snapshot.users["id"]) == {user_id(p.id) for p in people[::4]}
        assert all(name.endswith("@other.example") for name in snapshot.users["username"])
        assert len(snapshot.groups) == 2
        inside, outside = people[4], people[1]
        async with source(idp, domain="Other.Example") as one:
            found = await one.user(f"{inside.username}@other.example")
            assert found is not None
            assert {group[0] for group in found.groups} <= set(snapshot.groups["id"])
            direct = {group for group, member, _ in triples(snapshot) if member == user_id(inside.id)}
            assert {group[0] for group in found.groups} == direct
            assert await one.user(user_id(outside.id)) is None
        with pytest.raises(ConfigurationError, match="`domain`"):
            await read(idp, domain="elsewhere.example")


# --- members ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", ["users", "all"])
async def test_a_count_holds_with_and_without_nested_groups(counts: str) -> None:
    with running("google", **SMALL, options={"counts": counts}) as idp:
        assert triples(await read(idp)) == wanted(organisation(**SMALL))
        assert "GET /groups/{key}" not in idp.counts()


async def test_a_count_that_means_now_this_and_now_that_proves_nothing() -> None:
    with running("google", users=30, groups=20, memberships=90, options={"counts": "mixed"}) as idp:
        with pytest.raises(IncompleteError, match="member_counts"):
            await read(idp)
        assert triples(await read(idp, member_counts=False)) == wanted(
            organisation(users=30, groups=20, memberships=90)
        )


async def test_nobody_may_be_missing_but_more_may_have_come() -> None:
    for off, message in ((1, r"group \w+ has \d+ members here, and \d+ by"), (-1, "")):
        with running("google", **SMALL, options={"off": off}) as idp:
            if message:
                with pytest.raises(IncompleteError, match=message):
                    await read(idp)
                assert triples(await read(idp, member_counts=False)) == wanted(organisation(**SMALL))
            else:
                assert triples(await read(idp)) == wanted(organisation(**SMALL))
                assert idp.counts()["GET /groups/{key}"] > 0


async def test_members_that_change_after_their_group_was_listed_are_counted_again(changing: RunningIdp) -> None:
    changing.load(**SMALL)
    async with source(changing) as one:
        groups = [row[0] async for page in one.groups(Scope()) for row in page.rows]
        changing.change(seed=2, leavers=4, joiners=3)
        rows = {row async for page in as_pairs(one.memberships(groups)) for row in page.rows}
    assert rows == wanted(changed(organisation(**SMALL), seed=2, leavers=4, joiners=3))


async def test_a_member_that_comes_twice_stands_in_the_place_of_another(changing: RunningIdp) -> None:
    company = organisation(**SMALL)
    changing.load(**SMALL)
    largest = max(zip(members_of(company), company.teams, strict=True), key=lambda pair: len(pair[0]))[1]
    path = f"{ROOT}/groups/{group_id(largest.id)}/members"
    for counts in (True, False):
        changing.faults({"kind": "repeat", "path": path, "nth": 2, "times": 0})
        with pytest.raises(IncompleteError, match="twice"):
            await read(changing, page_size=3, member_counts=counts)
    changing.faults()


@pytest.mark.parametrize("member", [{"id": 7, "type": "USER"}, {"type": "GROUP"}, {"id": "7"}, {"id": "7", "type": ""},
                                    {"id": "", "type": "USER"}, {"id": "7", "type": []}, None, "7"])  # fmt: skip
async def test_a_member_that_makes_no_sense_makes_no_group_smaller(
    idp: RunningIdp, member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"kind": "admin#directory#members", "members": [{"id": "1", "type": "USER"}, member]}
    async with source(idp, member_counts=False) as one:

        async def call(*_: Any, **__: Any) -> Answer:
            return Answer(200, {}, orjson.dumps(page), idp.url)

        monkeypatch.setattr(one._http, "call", call)
        (selection,) = [found async for found in one.memberships(["0g"])]
        assert (selection.rows, selection.last) == ([], True)
        assert list(selection.held) == [Held("group", "0g", "", "a member has no id or no type")]


async def test_groups_that_were_not_listed_are_counted_too(idp: RunningIdp) -> None:
    team, members = organisation(**SIZE).teams[0], members_of(organisation(**SIZE))[0]
    async with source(idp) as one:
        rows = [row async for page in as_pairs(one.memberships([group_id(team.id)])) for row in page.rows]
        assert [row[1] for row in rows if row[2] == "user"] == list(map(user_id, members))
        with pytest.raises(IncompleteError, match="groupKey"):
            _ = [page async for page in one.memberships(["0nothing"])]


async def test_people_of_other_companies_do_not_disturb() -> None:
    with running("google", **SMALL, options={"outsiders": True}) as idp:
        found = triples(await read(idp))
    assert {member for _, member, _ in found - wanted(organisation(**SMALL))} == {user_id("somebody else")}


# --- one person ------------------------------------------------------------------------------------


async def test_an_address_of_before_stands_for_who_has_it_now(changing: RunningIdp) -> None:
    changing.load(**SMALL)
    before = {p.id: p.username for p in organisation(**SMALL).people}
    changing.change(seed=4, renamed=1, leavers=1)
    later = changed(organisation(**SMALL), seed=4, renamed=1, leavers=1)
    renamed = next(p for p in later.people if before[p.id] != p.username)
    gone = before.keys() - {p.id for p in later.people}
    async with source(changing) as one:
        changing.reset_counts()
        found = await one.user(f"{before[renamed.id]}@acme.example")
        assert found is not None
        assert found.user[:2] == (user_id(renamed.id), f"{renamed.username}@acme.example")
        assert {group[0] for group in found.groups} == {
            group for group, member, _ in wanted(later) if member == user_id(renamed.id)
        }
        assert sum(n for what, n in changing.counts().items() if what.startswith("GET")) <= 3
        for key in gone:
            assert await one.user(user_id(key)) is None
            assert await one.user(f"{before[key]}@acme.example") is None


async def test_strangers_cost_two_requests_at_most(idp: RunningIdp) -> None:
    async with source(idp) as one:
        await one.check()
        for key, requests in (("nobody", 0), ("", 0), ("a\nb@acme.example", 0), ("..@", 2), ("1", 1)):
            idp.reset_counts()
            assert await one.user(key) is None, key
            assert sum(n for what, n in idp.counts().items() if what != "bytes") == requests, key
        # Google refuses addresses of other companies as it refuses whoever has no rights; the list tells which it is.
        idp.reset_counts()
        assert await one.user("ann@partner.example") is None
        assert idp.counts()["GET /users"] == 1
    person = organisation(**SIZE).people[3]
    async with source(idp, subject=f"{person.username}@acme.example") as one:
        with pytest.raises(ForbiddenError):
            await one.user("ann@partner.example")


async def test_an_id_answered_by_somebody_else_is_refused(idp: RunningIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    async with source(idp) as one:
        record = {"id": "2", "primaryEmail": "a@acme.example", "name": {}, "suspended": False, "archived": False}

        async def call(*_: Any, **__: Any) -> Answer:
            return Answer(200, {}, orjson.dumps(record), idp.url)

        monkeypatch.setattr(one._http, "call", call)
        with pytest.raises(IncompleteError, match="another one"):
            await one.user("1")


# --- attributes, records ---------------------------------------------------------------------------


async def test_attributes_are_asked_for(idp: RunningIdp) -> None:
    paths = ("organizations.department", "orgUnitPath", "relations.value", "customSchemas.Work.badge",
             "customSchemas.Work.floors", "customSchemas.Site.name", "archived")  # fmt: skip
    snapshot = await read(idp, paths)
    people = {user_id(p.id): p for p in organisation(**SIZE).people}
    addresses = {p.id: f"{p.username}@acme.example" for p in people.values()}
    for row in snapshot.users.itertuples(index=False):
        person, found = people[str(row.id)], orjson.loads(str(row.attributes))
        assert found.get("organizations.department") == ([person.department] if person.department else None)
        assert found["orgUnitPath"] == [f"/{person.department}"]
        assert found.get("relations.value") == ([addresses[person.manager]] if person.manager else None)
        assert found["customSchemas.Work.badge"] == [person.employee_number]
        assert found["customSchemas.Work.floors"] == ["3"]
        assert found.get("customSchemas.Site.name") == ([person.location] if person.location else None)
        assert found["archived"] in (["true"], ["false"])
    # The same people come with all the attributes as without any.
    bare = await read(idp)
    assert bare.users.drop(columns="attributes").equals(snapshot.users.drop(columns="attributes"))


@pytest.mark.parametrize("path", ["nonsense", "customSchemas.Work", "a b", "id),groups(id", "name.", ""])
async def test_an_attribute_that_google_does_not_know_is_told(idp: RunningIdp, path: str) -> None:
    with pytest.raises(ConfigurationError, match="attribute"):
        await read(idp, (path,))


def test_records_are_held_where_they_do_not_say_enough() -> None:
    good = {"id": "1", "primaryEmail": "a@acme.example", "name": {}, "suspended": False, "archived": False}
    rows = user_rows(())
    active = [
        ({}, True),
        ({"suspended": True}, False),
        ({"archived": True}, False),
        ({"suspended": True, "archived": True}, False),
    ]
    for more, whether in active:
        held: list[Held] = []
        assert [row[6] for row in rows([{**good, **more}], "user", held)] == [whether]
        assert not held
    for field in ("archived", "name"):  # may be missing
        assert rows([{k: v for k, v in good.items() if k != field}], "user", [])[0][6] is True
    spoilt: list[Any] = [{k: v for k, v in good.items() if k != field} for field in ("id", "primaryEmail", "suspended")]
    spoilt += [{**good, field: value} for field in ("suspended", "archived") for value in (None, "false", 0, 1)]
    spoilt += [{**good, "id": 1}, None, "a", 7, []]
    for record in spoilt:
        held = []
        assert rows([good, record], "user", held)[0][0] == "1"
        assert [(one.kind, bool(one.reason)) for one in held] == [("user", True)], record


async def test_people_without_archived_are_active() -> None:
    with running("google", **SMALL, options={"unsaid": 2}) as idp:
        users = (await read(idp)).users
    assert dict(zip(users["id"], users["active"], strict=True)) == {
        user_id(p.id): p.active for p in organisation(**SMALL).people
    }


# --- too many requests, credentials, rights --------------------------------------------------------


@pytest.mark.parametrize("busy", ["userRateLimitExceeded", "quotaExceeded", "rateLimitExceeded", "429"])
async def test_too_many_requests_are_asked_again(busy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(client, "HIGHEST_WAIT", 1.0)
    with running("google", **SMALL, options={"limit": 8, "window": 0.2, "busy": busy}) as idp:
        assert triples(await read(idp)) == wanted(organisation(**SMALL))
    monkeypatch.setattr(client, "HIGHEST_WAIT", 0.002)
    told = r"too many requests.*Tried 9 times"
    with (
        running("google", **SMALL, options={"limit": 0, "busy": busy}) as idp,
        pytest.raises(RetryableError, match=told),
    ):
        await read(idp)


@pytest.mark.parametrize(
    "reason", ["forbidden", "dailyLimitExceeded", "accessNotConfigured", "insufficientPermissions"]
)
async def test_other_refusals_are_final_and_say_what_to_do(reason: str) -> None:
    told = {"accessNotConfigured": "Admin SDK API", "insufficientPermissions": "Domain-wide delegation"}
    with running("google", **SMALL, options={"limit": 0, "busy": reason}) as idp:
        async with source(idp) as one:
            with pytest.raises(ForbiddenError, match=told.get(reason, r"Users > Read")) as wrong:
                await one.check()
        assert reason in str(wrong.value)
        assert idp.counts()["GET /users"] == 1


async def test_an_administrator_is_needed(idp: RunningIdp) -> None:
    person = organisation(**SIZE).people[0]
    async with source(idp, subject=f"{person.username}@acme.example") as one:
        with pytest.raises(
            ForbiddenError, match=rf"Give {re.escape(person.username)}@acme\.example an administrator role"
        ):
            await one.check()
    async with source(idp, subject="nobody@acme.example") as one:
        with pytest.raises(AuthenticationError, match="`subject` is an active user"):
            await one.check()


async def test_scopes_that_were_not_delegated_are_named() -> None:
    with running("google", **SMALL, options={"scopes": SCOPES[:2]}) as idp:
        async with source(idp) as one:
            with pytest.raises(AuthenticationError, match="unauthorized_client") as wrong:
                await one.check()
        client = orjson.loads(idp.secrets["private_key"])["client_id"]
        assert f"Domain-wide delegation) the client {client} needs the scopes {','.join(SCOPES)}" in str(wrong.value)


async def test_the_check_reads_one_of_each(idp: RunningIdp) -> None:
    async with source(idp) as one:
        idp.reset_counts()
        assert await one.check() == [
            f"sources.acme: Google Workspace answers in the name of {ADMIN}",
            "users: can be read",
            "groups: can be read",
            "members: can be read",
        ]
        assert idp.counts()["GET /groups/{key}/members"] == 1
        with pytest.raises(StaleCursorError):
            await one.changes(Scope(), await one.cursor(Scope()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: "secret",
        lambda file: file["private_key"],
        lambda file: orjson.dumps({**file, "private_key": "secret"}).decode(),
        lambda file: orjson.dumps({k: v for k, v in file.items() if k != "client_email"}).decode(),
        lambda file: "[]",
    ],
)
async def test_a_key_file_that_is_none_is_told_and_not_shown(idp: RunningIdp, spoil: Any) -> None:
    key = spoil(orjson.loads(idp.secrets["private_key"]))
    with pytest.raises(ConfigurationError, match=r"sources\.acme\.private_key") as wrong:
        async with source(idp, key):
            pass
    assert "secret" not in str(wrong.value).replace("sources", "")
    assert "BEGIN PRIVATE" not in str(wrong.value).replace("-----BEGIN PRIVATE KEY-----)", "")


async def test_the_address_in_the_key_file_is_not_trusted(idp: RunningIdp) -> None:
    caught: list[bytes] = []

    async def catch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caught.append(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(catch, "127.0.0.1", 0) as trap:
        elsewhere = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/token"
        file = {**orjson.loads(idp.secrets["private_key"]), "token_uri": elsewhere}
        async with source(idp, orjson.dumps(file).decode()) as one:
            await one.check()
            assert [repr(one.clients[0]), repr(one.clients[1])] == [f"<Http sources.acme {idp.url}>"] * 2
    assert not caught


def test_what_is_not_said_is_google_itself() -> None:
    settings = GoogleSettings.model_validate({"kind": "google", "subject": ADMIN})
    file = {"url", "token_url", "customer", "requests_per_second", "page_size", "group_names"}
    assert settings.model_dump(include=file) == {
        "url": "https://admin.googleapis.com",
        "token_url": "https://oauth2.googleapis.com",
        "customer": "my_customer",
        "requests_per_second": 38,
        "page_size": 500,
        "group_names": "name",
    }


# --- Google's own description of its API -----------------------------------------------------------


def wrong_with(request: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """What is wrong with a request by the discovery document, "" where nothing is."""
    path = request["path"].removeprefix("/")
    methods = [
        one
        for resource in document["resources"].values()
        for one in resource.get("methods", {}).values()
        if one["httpMethod"] == request["method"]
        and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(one["flatPath"])), path)
    ]
    if len(methods) != 1:
        return f"{len(methods)} methods"
    method = methods[0]
    known = {**document["parameters"], **method.get("parameters", {})}
    for name, spec in known.items():
        if spec.get("required") and spec["location"] == "query" and name not in request["query"]:
            return f"{name} is missing"
    for name, value in request["query"].items():
        spec = known.get(name)
        if spec is None or spec["location"] != "query":
            return f"{name} is unknown"
        if "enum" in spec and value not in spec["enum"]:
            return f"{name} is none of {spec['enum']}"
        if spec["type"] == "integer":
            if not re.fullmatch(r"-?[0-9]+", value):
                return f"{name} is no number"
            # The maximum of groups and members stands in the description alone.
            most = re.search(r"Max allowed value is (\d+)", spec["description"])
            if int(value) < int(spec.get("minimum", -(2**31))):
                return f"{name} is too small"
            if int(value) > int(spec.get("maximum", most[1] if most else 2**31)):
                return f"{name} is too large"
        if spec["type"] == "boolean" and value not in ("true", "false"):
            return f"{name} is neither true nor false"
    if not set(method["scopes"]) & set(SCOPES):
        return "no scope that was asked for allows it"
    if method["id"] in ("directory.users.list", "directory.groups.list"):
        named = request["query"].keys() & {"customer", "domain", "userKey"}
        if (
            not named
            or (method["id"] == "directory.users.list" and "userKey" in named)
            or named >= {"customer", "userKey"}
        ):
            return "not one of customer, domain and userKey"
    return wrong_field(request["query"].get("fields", ""), document, document["schemas"][method["response"]["$ref"]])


def wrong_field(fields: str, document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The first name in `fields` that the answer cannot have."""
    for name, below in re.findall(r"([^,()]+)(?:\(([^()]*)\))?", fields):
        if name not in schema["properties"]:
            return f"fields: {name} is unknown"
        if below:
            of = schema["properties"][name]["items"]["$ref"]
            if wrong := wrong_field(below, document, document["schemas"][of]):
                return wrong
    return ""


def discovery() -> dict[str, Any]:
    place = client_package("google-api-python-client==2.202.0", "google-auth==2.62.0")
    file = place / "googleapiclient" / "discovery_cache" / "documents" / "admin.directory_v1.json"
    found: dict[str, Any] = orjson.loads(file.read_bytes())
    return found


async def test_every_request_is_as_google_describes_it(tmp_path: Path) -> None:
    document, record = discovery(), tmp_path / "requests"
    options = {"record": str(record), "second": 3, "off": -1}
    with running("google", users=600, groups=210, memberships=1500, options=options) as idp:
        people = organisation(users=600, groups=210, memberships=1500).people
        await read(idp)
        await read(idp, ("organizations.department", "customSchemas.Work.badge", "customSchemas.Site.name"))
        await read(idp, domain="other.example")
        async with source(idp) as one:
            await one.check()
            for key in (
                user_id(people[0].id),
                f"{people[1].username}@acme.example",
                "x@partner.example",
                "' or 1@a?b#c",
            ):
                await one.user(key)
    requests = [orjson.loads(line) for line in record.read_bytes().splitlines()]
    paths = {re.sub(r"(/groups|/users)/[^/]+", r"\1/KEY", request["path"]) for request in requests}
    assert paths == {
        f"{ROOT}{path}" for path in ("/users", "/users/KEY", "/groups", "/groups/KEY", "/groups/KEY/members")
    }
    assert any("pageToken" in request["query"] for request in requests if request["path"].endswith("/users"))
    assert any("pageToken" in request["query"] for request in requests if request["path"].endswith("/groups"))
    assert any("customFieldMask" in request["query"] for request in requests)
    assert len(requests) > 600
    for request in requests:
        assert not wrong_with(request, document), request


def test_the_description_finds_what_is_wrong() -> None:
    document = discovery()
    for path, query, wrong in (
        ("/users", {"customer": "my_customer"}, ""),
        ("/users", {}, "customer"),
        ("/users", {"customer": "c", "maxResults": "501"}, "too large"),
        ("/users", {"customer": "c", "maxResults": "0"}, "too small"),
        ("/users", {"customer": "c", "projection": "all"}, "projection"),
        ("/users", {"customer": "c", "limit": "5"}, "limit is unknown"),
        ("/users", {"customer": "c", "fields": "users(id,nonsense)"}, "nonsense"),
        ("/groups", {"customer": "c", "userKey": "1"}, "not one of"),
        ("/groups/1/members", {"maxResults": "201"}, "too large"),
        ("/groups/1/members", {"includeDerivedMembership": "yes"}, "neither"),
        ("/groups/1/persons", {}, "0 methods"),
        ("/customer/my_customer/orgunits", {}, "no scope"),
    ):
        found = wrong_with({"method": "GET", "path": ROOT + path, "query": query}, document)
        assert (wrong in found) if wrong else not found, (path, query, found)
