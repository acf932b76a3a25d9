"""The SCIM endpoint: what Okta and Microsoft Entra ID send, row by row, on SQLite and on PostgreSQL.

The rows are those of the vendors' pages:
https://learn.microsoft.com/entra/identity/app-provisioning/use-scim-to-provision-users-and-groups and
https://developer.okta.com/docs/api/openapi/okta-scim/guides/scim-20.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.store import Store
from deployments.scim.app import Service
from tests.support.scim_push import BASE, BULK, ENTERPRISE, GROUP, PATCH, USER, Client, client

ADSCIM = "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"


@pytest.fixture
async def idp(store: Store) -> AsyncIterator[Client]:
    async with client(store) as opened:
        yield opened


def news(store: Store) -> set[tuple[str, str]]:
    """What waits in the inbox."""
    found = store.inbox()
    assert set(found["via"]) <= {"scim"}
    return set(found[["kind", "key"]].itertuples(index=False, name=None))


def ids(found: Any) -> list[str]:
    return [one["id"] for one in found["Resources"]]


# Connection tests and matching


async def test_connection_tests_of_okta_and_entra(idp: Client) -> None:
    empty = await idp.get("/Users", startIndex=1, count=2)
    assert (empty["totalResults"], empty.get("Resources", [])) == (0, [])
    found = await idp.call("GET", "/Users", params={"filter": 'userName eq "5dd2-nobody"'})
    assert (found.status_code, found.headers["content-type"]) == (200, "application/scim+json")
    assert found.json()["totalResults"] == 0


async def test_matching_by_every_attribute_that_they_use(idp: Client) -> None:
    emails = [
        {"type": "work", "value": "Ann.Lee@acme.example", "primary": True},
        {"type": "home", "value": "a@x.example"},
    ]
    ann = await idp.user("Ann@Acme.example", externalId="ext-1", emails=emails, active=False)
    ben = await idp.user("ben@acme.example", externalId="EXT-1")
    team = await idp.group("Team A", ann)
    for text, wanted in (
        ('userName eq "ann@acme.example"', [ann]),  # (names ignore case, and who is inactive is found)
        ('userName Eq "ANN@ACME.EXAMPLE"', [ann]),
        ('externalId eq "ext-1"', [ann]),
        ('externalId eq "EXT-1"', [ben]),
        ('emails[type eq "work"].value eq "ann.lee@ACME.example"', [ann]),
        ('emails[type eq "work" and value eq "ann.lee@acme.example"]', [ann]),
        (f'id eq "{ben}"', [ben]),
        (f'{USER}:userName eq "ben@acme.example"', [ben]),
        ('userName eq "ann@acme.example" and externalId eq "ext-1"', [ann]),
        ('userName eq "ann@acme.example" and externalId eq "other"', []),
        ('userName eq "ann@acme.example" and userName eq "ben@acme.example"', []),
        ('userName eq "ann@acme.example" and active eq true', []),
        ('externalId eq "ext-1" or externalId eq "EXT-1"', [ann, ben]),
        ('userName sw "b"', [ben]),
        ('emails.value eq "a@x.example"', [ann]),
        ("not (active eq false)", [ben]),
    ):
        found = await idp.get("/Users", filter=text, startIndex=1, count=100)
        assert (ids(found) if wanted else found.get("Resources", [])) == wanted, text
        assert found["totalResults"] == len(wanted), text
    for text, wanted in (
        ('displayName eq "team a"', [team]),
        (f'members.value eq "{ann}"', [team]),
        (f'members[value eq "{ann}"]', [team]),
        (f'id eq "{team}" and members eq "{ben}"', []),
    ):
        found = await idp.get("/Groups", filter=text, excludedAttributes="members")
        assert (ids(found) if wanted else found.get("Resources", [])) == wanted, text
    for path, text in (
        ("/Groups", f'members co "{ann[:8]}"'),
        ("/Groups", f'not (members.value eq "{ann}")'),
        ("/Groups", 'displayName sw "t" or members pr'),
        ("/Users", f'groups.value eq "{team}"'),  # (none found would be a lie)
        ("/Users", f'groups[value eq "{team}"]'),
    ):
        refused = await idp.call("GET", path, params={"filter": text})
        assert (refused.status_code, refused.json()["scimType"]) == (400, "invalidFilter"), text
    assert (await idp.get("/Groups", filter='displayName co "members"'))["totalResults"] == 0


# People


async def test_okta_creates_a_person_and_the_password_goes_nowhere(idp: Client, store: Store) -> None:
    body = {
        "schemas": [USER],
        "userName": "eve@acme.example",
        "name": {"givenName": "Eve", "familyName": "Oh"},
        "emails": [{"primary": True, "value": "eve@acme.example", "type": "work"}],
        "displayName": "Eve Oh",
        "locale": "en-US",
        "externalId": "00u1",
        "groups": [],
        "password": "thr0w-away",
        "active": True,
    }
    made = await idp.call("POST", "/Users", body)
    assert made.status_code == 201
    found = made.json()
    assert made.headers["location"] == found["meta"]["location"] == f"{BASE}/Users/{found['id']}"
    assert made.headers["etag"] == found["meta"]["version"]
    assert "thr0w-away" not in made.text
    assert news(store) == {("user", found["id"])}
    with store.mirror("acme") as mirror:
        row = mirror.get("user", found["id"])
        assert row is not None
        assert "thr0w" not in row.body
        assert "password" not in row.body
    before = (await idp.get(f"/Users/{found['id']}"))["meta"]["version"]
    await idp.patch(f"/Users/{found['id']}", {"op": "replace", "value": {"password": "an0ther"}})
    again = await idp.get(f"/Users/{found['id']}")
    assert again["meta"]["version"] == before, "a password is no change"
    assert "an0ther" not in str(again)


async def test_okta_puts_the_whole_person(idp: Client, store: Store) -> None:
    ann = await idp.user("ann", name={"givenName": "Ann"}, title="Boss", active=True)
    body = {"schemas": [USER], "id": ann, "userName": "ann.new", "name": {"givenName": "Ann"}, "active": False}
    put = await idp.call("PUT", f"/Users/{ann}", body)
    assert put.status_code == 200
    found = await idp.get(f"/Users/{ann}")
    assert (found["userName"], found["active"], "title" in found) == ("ann.new", False, False)
    same = await idp.call("PUT", f"/Users/{ann}", body)
    assert same.json()["meta"] == found["meta"], "nothing changed"
    assert (await idp.get("/Users", filter='userName eq "ann"'))["totalResults"] == 0
    assert (await idp.call("PUT", "/Users/nobody", body)).status_code == 404


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "value": {"active": False}},  # Okta
        {"op": "Replace", "path": "active", "value": "False"},  # Entra
        {"op": "Replace", "path": "active", "value": False},
        {"op": "replace", "path": "active", "value": False},  # Entra with ?aadOptscim062020
        {"op": "Add", "path": "active", "value": "false"},
    ],
)
async def test_a_person_is_disabled_and_stays_there(idp: Client, store: Store, operation: Any) -> None:
    ann = await idp.user("ann", active=True)
    changed = await idp.patch(f"/Users/{ann}", operation)
    assert changed.status_code in (200, 204)
    found = await idp.get(f"/Users/{ann}")
    assert found["active"] is False
    assert ids(await idp.get("/Users", filter='userName eq "ann"')) == [ann]
    again = await idp.patch(f"/Users/{ann}", operation)
    assert again.status_code in (200, 204)
    assert (await idp.get(f"/Users/{ann}"))["meta"] == found["meta"], "said twice is said once"


@pytest.mark.parametrize("value", [{"active": None}, {"active": None, "title": "x"}])
async def test_nobody_comes_back_by_a_null(idp: Client, value: Any) -> None:
    ann = await idp.user("ann", active=False)
    for operation in ({"op": "replace", "value": value}, {"op": "Replace", "path": "active", "value": None}):
        assert (await idp.patch(f"/Users/{ann}", operation)).status_code in (200, 204)
        assert (await idp.get(f"/Users/{ann}"))["active"] is False


async def test_entra_creates_and_changes_a_person(idp: Client, store: Store) -> None:
    body = {
        "schemas": [USER, ENTERPRISE],
        "externalId": "0a21f0f2",
        "userName": "bo@acme.example",
        "active": True,
        "displayName": "Bo",
        "emails": [{"primary": True, "type": "work", "value": "bo@acme.example"}],
        "meta": {"resourceType": "User"},
        "name": {"formatted": "Bo Xi", "familyName": "Xi", "givenName": "Bo"},
        "roles": [],
        ENTERPRISE: {"department": "IT", "manager": "boss-1"},
    }
    bo = (await idp.call("POST", "/Users", body)).json()["id"]
    assert (await idp.get(f"/Users/{bo}"))[ENTERPRISE] == {"department": "IT", "manager": {"value": "boss-1"}}
    await idp.patch(
        f"/Users/{bo}",
        {"op": "Replace", "path": 'emails[type eq "work"].value', "value": "new@acme.example"},
        {"op": "Add", "path": 'phoneNumbers[type eq "mobile"].value', "value": "+49 1"},
        {"op": "Replace", "path": "name.familyName", "value": "Yu"},
        {"op": "Add", "path": f"{ENTERPRISE}:manager", "value": "boss-2"},
        {"op": "Add", "path": "title", "value": None},
    )
    found = await idp.get(f"/Users/{bo}")
    assert found["emails"] == [{"primary": True, "type": "work", "value": "new@acme.example"}]
    assert found["phoneNumbers"] == [{"type": "mobile", "value": "+49 1"}]
    assert found["name"]["familyName"] == "Yu"
    assert found[ENTERPRISE]["manager"] == {"value": "boss-2"}
    # with ?aadOptscim062020
    await idp.patch(
        f"/Users/{bo}",
        {
            "op": "replace",
            "value": {
                "displayName": "Bo Z",
                "name.givenName": "Bob",
                'emails[type eq "work"].value': "third@acme.example",
                f"{ENTERPRISE}:employeeNumber": "7",
                f"{ENTERPRISE}:manager": "boss-3",
            },
        },
    )
    found = await idp.get(f"/Users/{bo}")
    assert (found["displayName"], found["name"]["givenName"]) == ("Bo Z", "Bob")
    assert found["emails"][0]["value"] == "third@acme.example"
    assert found[ENTERPRISE] == {"department": "IT", "employeeNumber": "7", "manager": {"value": "boss-3"}}
    assert ids(await idp.get("/Users", filter='emails[type eq "work"].value eq "third@acme.example"')) == [bo]
    gone = await idp.call("DELETE", f"/Users/{bo}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await idp.call("GET", f"/Users/{bo}")).status_code == 404
    assert (await idp.call("DELETE", f"/Users/{bo}")).status_code == 404
    assert (await idp.get("/Users", filter='userName eq "bo@acme.example"'))["totalResults"] == 0
    assert news(store) == {("user", bo)}


async def test_a_name_is_given_once(idp: Client) -> None:
    ann = await idp.user("Ann")
    body = {"schemas": [USER], "userName": "aNN"}
    taken = await idp.call("POST", "/Users", body)
    assert (taken.status_code, taken.json()["scimType"]) == (409, "uniqueness")
    ben = await idp.user("ben")
    for changed in (
        await idp.patch(f"/Users/{ben}", {"op": "replace", "path": "userName", "value": "ann"}),
        await idp.call("PUT", f"/Users/{ben}", body),
    ):
        assert changed.status_code == 409
    assert (await idp.get(f"/Users/{ben}"))["userName"] == "ben"
    await idp.group("Team")
    assert (await idp.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "TEAM"})).status_code == 409
    await idp.call("DELETE", f"/Users/{ann}")
    assert await idp.user("ann") != ann, "whoever gets the name is somebody else"


# Groups


async def test_entra_creates_renames_and_reads_a_group(idp: Client, store: Store) -> None:
    body = {"schemas": [GROUP, ADSCIM], "externalId": "8aa1", "displayName": "Crew", "meta": {"resourceType": "Group"}}
    made = await idp.call("POST", "/Groups", body)
    assert made.status_code == 201
    crew = made.json()["id"]
    renamed = await idp.patch(f"/Groups/{crew}", {"op": "Replace", "path": "displayName", "value": "Crew 2"})
    assert (renamed.status_code, renamed.content) == (204, b"")
    found = await idp.get(f"/Groups/{crew}", excludedAttributes="members")
    assert (found["displayName"], found["externalId"], "members" in found) == ("Crew 2", "8aa1", False)
    assert ids(await idp.get("/Groups", filter='displayName eq "crew 2"', excludedAttributes="members")) == [crew]
    assert news(store) == {("group", crew)}
    assert (await idp.call("DELETE", f"/Groups/{crew}")).status_code == 204
    assert (await idp.call("GET", f"/Groups/{crew}")).status_code == 404


async def test_okta_pushes_a_group(idp: Client, store: Store) -> None:
    ann, ben, eve = [await idp.user(name) for name in ("ann", "ben", "eve")]
    members = [{"value": ann, "display": "ann"}, {"value": ben, "display": "ben"}, {"value": ann, "display": "again"}]
    made = await idp.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team", "members": members})
    team = made.json()["id"]
    assert {one["value"] for one in made.json()["members"]} == {ann, ben}
    assert len(made.json()["members"]) == 2
    rename = {"op": "replace", "value": {"id": team, "displayName": "Team 2"}}
    assert (await idp.patch(f"/Groups/{team}", rename)).status_code in (200, 204)
    assert (await idp.get(f"/Groups/{team}"))["displayName"] == "Team 2"
    await idp.patch(f"/Groups/{team}", {"op": "remove", "path": f'members[value eq "{ann}"]'})
    assert await idp.members(team) == {ben}
    await idp.patch(
        f"/Groups/{team}",
        {"op": "remove", "path": f'members[value eq "{ben}"]'},
        {"op": "add", "path": "members", "value": [{"value": eve, "display": "eve"}, {"value": ann}]},
    )
    assert await idp.members(team) == {ann, eve}
    await idp.patch(f"/Groups/{team}", {"op": "replace", "path": "members", "value": [{"value": ben}]})
    assert await idp.members(team) == {ben}
    put = {"schemas": [GROUP], "id": team, "displayName": "Team 3", "members": [{"value": ann}, {"value": eve}]}
    answer = await idp.call("PUT", f"/Groups/{team}", put)
    assert {one["value"] for one in answer.json()["members"]} == {ann, eve}
    assert (await idp.get("/Groups", startIndex=1, count=100))["Resources"][0]["displayName"] == "Team 3"
    await idp.call("PUT", f"/Groups/{team}", {"schemas": [GROUP], "displayName": "Team 3", "members": []})
    assert await idp.members(team) == set()


@pytest.mark.parametrize(
    ("operation", "left"),
    [
        ({"op": "Remove", "path": "members", "value": [{"$ref": None, "value": "{0}"}]}, "12"),  # Entra: THESE only
        ({"op": "remove", "path": "members", "value": [{"value": "{0}"}, {"value": "{2}"}]}, "1"),
        ({"op": "remove", "path": "members", "value": []}, "012"),
        ({"op": "remove", "path": 'members[value eq "{1}"]'}, "02"),
        ({"op": "remove", "path": 'members[value eq "{1}" or value eq "{0}"]'}, "2"),
        ({"op": "remove", "path": 'members[value eq "{1}" and type eq "User"]'}, "02"),
        ({"op": "remove", "path": 'members[type eq "User"]'}, ""),
        ({"op": "Remove", "path": "members"}, ""),
        ({"op": "Add", "path": "members", "value": [{"$ref": None, "value": "{3}"}]}, "0123"),
        ({"op": "add", "path": "Members", "value": {"value": "{3}"}}, "0123"),
        ({"op": "add", "value": {"members": [{"value": "{3}"}]}}, "0123"),
        ({"op": "add", "path": f"{GROUP}:members", "value": [{"value": "{3}"}, {"value": "{3}"}]}, "0123"),
        ({"op": "replace", "value": {"members": [{"value": "{3}"}], "displayName": "T"}}, "3"),
        ({"op": "replace", "path": "members", "value": None}, ""),
        ({"op": "add", "path": "members", "value": None}, "012"),
    ],
)
async def test_every_way_to_change_members(idp: Client, operation: Any, left: str) -> None:
    people = [await idp.user(f"u{number}") for number in range(4)]
    team = await idp.group("T", *people[:3])

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.format(*people) if "{" in value else value
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        return [filled(one) for one in value] if isinstance(value, list) else value

    changed = await idp.patch(f"/Groups/{team}", filled(operation))
    assert changed.status_code == 204, changed.text
    assert await idp.members(team) == {people[int(one)] for one in left}


async def test_nobody_is_told_that_a_member_left_who_did_not(idp: Client) -> None:
    """What members are called is not kept, and a user's groups are changed at the groups alone."""
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    for path, operation in (
        (f"/Groups/{team}", {"op": "remove", "path": 'members[display eq "ann"]'}),
        (f"/Users/{ann}", {"op": "remove", "path": "groups"}),
        (f"/Users/{ann}", {"op": "remove", "path": f'groups[value eq "{team}"]'}),
    ):
        assert (await idp.patch(path, operation)).status_code == 400, operation
    assert await idp.members(team) == {ann}


@pytest.mark.parametrize("value", ["x", ["x"], [{}], [{"value": ""}], [{"value": 7}], [{"value": "a\u0000b"}], [None]])
async def test_members_that_are_none_are_refused_whole(idp: Client, value: Any) -> None:
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    more = {"op": "remove", "path": "members"}
    refused = await idp.patch(f"/Groups/{team}", more, {"op": "add", "path": "members", "value": value})
    assert refused.status_code == 400, refused.text
    assert await idp.members(team) == {ann}


async def test_members_are_shown_as_far_as_they_are_asked_for(idp: Client) -> None:
    ann = await idp.user("ann")
    inner = await idp.group("Inner")
    team = await idp.group("T", ann, inner, "nobody-knows")
    found = {one["value"]: one for one in (await idp.get(f"/Groups/{team}"))["members"]}
    assert found[ann] == {"value": ann, "type": "User", "$ref": f"{BASE}/Users/{ann}"}
    assert found[inner] == {"value": inner, "type": "Group", "$ref": f"{BASE}/Groups/{inner}"}
    assert found["nobody-knows"]["type"] == "User"
    for query, wanted in (
        ({"attributes": "displayName"}, None),
        ({"attributes": "members.value"}, {"value"}),
        ({"attributes": "displayName,members"}, {"value", "type", "$ref"}),
        ({"attributes": f"{GROUP}:members"}, {"value", "type", "$ref"}),
        ({"excludedAttributes": "members"}, None),
        ({"excludedAttributes": "members.$ref"}, {"value", "type"}),
        ({"excludedAttributes": "displayName"}, {"value", "type", "$ref"}),
    ):
        for one in (await idp.get(f"/Groups/{team}", **query), (await idp.get("/Groups", **query))["Resources"][1]):
            assert ("members" in one) == (wanted is not None), query
            assert not wanted or set(one["members"][0]) == wanted, query
    shown = await idp.patch(
        f"/Groups/{team}", {"op": "remove", "path": f'members[value eq "{ann}"]'}, params={"attributes": "members"}
    )
    assert (shown.status_code, len(shown.json()["members"])) == (200, 2)


async def test_who_is_deleted_is_in_no_group(idp: Client, store: Store) -> None:
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    before = (await idp.get(f"/Groups/{team}"))["meta"]["version"]
    await idp.call("DELETE", f"/Users/{ann}")
    after = await idp.get(f"/Groups/{team}")
    assert "members" not in after
    assert after["meta"]["version"] != before


async def test_changes_of_one_group_side_by_side_all_count(idp: Client) -> None:
    """Both providers send them."""
    people = [await idp.user(f"u{number}") for number in range(12)]
    team = await idp.group("T", people[0])
    name = {"op": "replace", "path": "displayName", "value": "T 2"}
    calls = [
        idp.patch(f"/Groups/{team}", {"op": "Add", "path": "members", "value": [{"value": one}]}) for one in people[1:]
    ]
    calls += [idp.patch(f"/Groups/{team}", {"op": "remove", "path": f'members[value eq "{people[0]}"]'})]
    calls += [idp.patch(f"/Groups/{team}", name, {"op": "remove", "path": 'members[type eq "Device"]'})]
    answers = await asyncio.gather(*calls)
    assert [one.status_code for one in answers] == [204] * 13
    assert await idp.members(team) == set(people[1:])
    assert (await idp.get(f"/Groups/{team}"))["displayName"] == "T 2"


async def test_few_members_are_news_themselves_and_of_many_the_group_is(idp: Client, store: Store) -> None:
    people = [await idp.user(f"u{number}") for number in range(12)]
    team = await idp.group("T")
    inner = await idp.group("Inner")

    async def told(*operations: Any) -> set[tuple[str, str]]:
        waiting = list(store.inbox()["id"])
        store.settle(waiting, "done", "", datetime.now(UTC))
        assert (await idp.patch(f"/Groups/{team}", *operations)).status_code == 204
        return news(store)

    add = {"op": "add", "path": "members"}
    assert await told({**add, "value": [{"value": people[0]}]}) == {("user", people[0])}
    assert await told({**add, "value": [{"value": people[0]}]}) == set(), "they were in it"
    assert await told({**add, "value": [{"value": one} for one in people]}) == {("group", team)}
    assert await told({"op": "remove", "path": f'members[value eq "{people[1]}"]'}) == {("user", people[1])}
    assert await told({**add, "value": [{"value": inner}]}) == {("group", team)}
    assert await told({"op": "replace", "path": "displayName", "value": "T 2"}) == {("group", team)}


# Versions, pages, bulk


async def test_versions(idp: Client) -> None:
    ann = await idp.user("ann")
    ben = await idp.user("ben")
    team = await idp.group("T", ann)
    for path, operation in (
        (f"/Users/{ann}", {"op": "replace", "path": "title", "value": "x"}),
        (f"/Groups/{team}", {"op": "add", "path": "members", "value": [{"value": ben}]}),
    ):
        etag = (await idp.call("GET", path)).headers["etag"]
        assert (await idp.call("GET", path, headers={"if-none-match": etag})).status_code == 304
        wrong = {"if-match": 'W/"0"'}
        assert (await idp.patch(path, operation, headers=dict(wrong))).status_code == 412
        assert (await idp.call("DELETE", path, headers=dict(wrong))).status_code == 412
        changed = await idp.patch(path, operation, headers={"if-match": etag})
        assert changed.status_code == 204
        assert changed.headers["etag"] != etag
        assert (await idp.call("GET", path)).headers["etag"] == changed.headers["etag"]
        assert (await idp.patch(path, operation, headers={"if-match": etag})).status_code == 412


async def test_pages_have_a_lasting_order(idp: Client) -> None:
    made = [await idp.user(f"u{number}") for number in range(7)]
    found: list[str] = []
    for start in (1, 4, 7):
        page = await idp.get("/Users", startIndex=start, count=3)
        assert (page["totalResults"], page["startIndex"]) == (7, start)
        assert page["itemsPerPage"] == len(page["Resources"])
        found += ids(page)
    assert found == made
    assert (await idp.get("/Users", startIndex=8, count=3)).get("Resources", []) == []
    assert (await idp.get("/Users", count=0)).get("Resources", []) == []
    assert len((await idp.get("/Users", startIndex=0, count=10**9))["Resources"]) == 7
    searched = await idp.call("POST", "/Users/.search", {"filter": 'userName eq "u3"'})
    assert ids(searched.json()) == [made[3]]


SEARCHES: list[tuple[str, dict[str, str]]] = [
    ("/Users", {}),
    ("/Users", {"count": "0"}),
    ("/Users", {"startIndex": "2", "count": "1"}),
    ("/Users", {"startIndex": "9"}),
    ("/Users", {"attributes": "userName,name.givenName"}),
    ("/Users", {"excludedAttributes": "emails,meta"}),
    ("/Users", {"filter": 'userName eq "ann"'}),
    ("/Users", {"filter": 'userName eq "nobody"'}),
    ("/Groups", {}),
    ("/Groups", {"attributes": "displayName"}),
    ("/Groups", {"excludedAttributes": "members"}),
    ("/Groups", {"filter": 'displayName eq "red"'}),
]


async def test_a_search_is_answered_as_the_library_would(idp: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, though what it made of each record is not made once more."""
    person = {"name": {"givenName": "Ann", "familyName": "É"}, "emails": [{"value": "a@x.org", "type": "work"}]}
    more = {ENTERPRISE: {"department": "IT", "manager": {"value": "m"}}}
    for name in ("ann", "bob"):
        await idp.call("POST", "/Users", {"schemas": [USER, ENTERPRISE], "userName": name, **person, **more})
    await idp.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "red", "members": [{"value": "m"}]})
    ours = [(await idp.call("GET", path, params=query)).content for path, query in SEARCHES]
    monkeypatch.delattr(Service, "search_response")
    theirs = [(await idp.call("GET", path, params=query)).content for path, query in SEARCHES]
    assert ours == theirs


async def test_bulk(idp: Client, store: Store) -> None:
    ann = await idp.user("ann")
    patch = {"schemas": [PATCH], "Operations": [{"op": "Add", "path": "members", "value": [{"value": ann}]}]}
    answer = await idp.call(
        "POST",
        "/Bulk",
        {
            "schemas": [BULK],
            "Operations": [
                {"method": "POST", "path": "/Users", "bulkId": "b", "data": {"schemas": [USER], "userName": "ben"}},
                {"method": "POST", "path": "/Users", "bulkId": "x", "data": {"schemas": [USER], "userName": "ANN"}},
                {
                    "method": "POST", "path": "/Groups", "bulkId": "g",
                    "data": {"schemas": [GROUP], "displayName": "T", "members": [{"value": "bulkId:b"}]},
                },
                {"method": "PATCH", "path": "/Groups/bulkId:g", "data": patch},
                {"method": "DELETE", "path": "/Users/nobody"},
            ],
        },
    )  # fmt: skip
    assert answer.status_code == 200
    found = answer.json()["Operations"]
    assert [one["status"] for one in found] == ["201", "409", "201", "200", "404"]
    ben, team = (found[at]["location"].rpartition("/")[2] for at in (0, 2))
    assert await idp.members(team) == {ann, ben}
    assert (await idp.get("/Users"))["totalResults"] == 2, "what failed left nothing"


async def test_what_is_announced_is_what_is_done(idp: Client) -> None:
    config = await idp.get("/ServiceProviderConfig")
    assert (config["patch"]["supported"], config["bulk"]["supported"], config["etag"]["supported"]) == (True,) * 3
    assert (config["sort"]["supported"], config["changePassword"]["supported"]) == (False, False)
    assert config["authenticationSchemes"][0]["type"] == "oauthbearertoken"
    assert {one["id"] for one in (await idp.get("/ResourceTypes"))["Resources"]} == {"User", "Group"}
    schemas = {
        one["id"]: {part["name"]: part for part in one["attributes"]}
        for one in (await idp.get("/Schemas"))["Resources"]
    }
    assert schemas.keys() == {USER, GROUP, ENTERPRISE}
    assert "password" not in schemas[USER]
    assert schemas[USER]["groups"]["returned"] == "never"
    assert {one["name"] for one in schemas[GROUP]["members"]["subAttributes"]} == {"value", "type", "$ref"}
    assert (await idp.call("GET", "/Users", params={"sortBy": "userName"})).status_code == 501
    assert (await idp.call("GET", "/Me")).status_code == 501
    assert (await idp.call("OPTIONS", "/Users")).status_code == 405
