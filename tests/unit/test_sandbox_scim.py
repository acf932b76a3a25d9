"""The SCIM servers of the sandbox hold the company that they say, page as they say, and fail as told."""

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from connectors.model import Snapshot, groups_frame, memberships_frame, users_frame
from deployments.sandbox.idp import with_difficult
from deployments.sandbox.organisation import Organisation, changed, organisation
from deployments.sandbox.scim import RunningScim, apply_change, fill, prepared, scim2_server
from deployments.sandbox.server import Fault

SIZE: dict[str, Any] = {"users": 230, "groups": 30, "memberships": 1200, "seed": 5}
DAY_TWO = {
    "seed": 2,
    "joiners": 4,
    "leavers": 3,
    "disabled": 2,
    "renamed": 2,
    "updated": 3,
    "moved": 6,
    "new_groups": 1,
    "renamed_groups": 1,
}


@pytest.fixture(scope="module")
def company() -> Organisation:
    return organisation(**SIZE)


@pytest.fixture(scope="module")
def process() -> Iterator[RunningScim]:
    with prepared(**SIZE, user_page=100, group_page=12, token="s3cret") as running:
        yield running


@pytest.fixture
def server(process: RunningScim) -> Iterator[RunningScim]:
    process.faults()
    process.reset_counts()
    yield process
    process.faults()


def get(server: RunningScim, path: str, **query: Any) -> httpx.Response:
    target = f"{server.url}{path}" + (f"?{urlencode(query)}" if query else "")
    return httpx.get(target, headers={"Authorization": f"Bearer {server.token}"}, timeout=20)


def everything(server: Any, kind: str, count: int = 100) -> list[dict[str, Any]]:
    """A plain reader: goes on from where the page ended until the total is reached."""
    found: list[dict[str, Any]] = []
    while True:
        page = get(server, f"/{kind}", startIndex=len(found) + 1, count=count).json()
        found += page.get("Resources", [])
        if len(found) >= page["totalResults"] or not page.get("Resources"):
            return found


def snapshot_of(users: list[dict[str, Any]], groups: list[dict[str, Any]]) -> Snapshot:
    return Snapshot.of(
        users_frame(
            (
                u["id"],
                u["userName"],
                next((e["value"] for e in u.get("emails", ())), ""),
                u["name"].get("givenName", ""),
                u["name"].get("familyName", ""),
                u.get("displayName", ""),
                u["active"],
                "{}",
            )
            for u in users
        ),
        groups_frame((g["id"], g["displayName"], "", "{}") for g in groups),
        memberships_frame((g["id"], m["value"], m["type"].lower()) for g in groups for m in g.get("members", ())),
    )


# --- prepared: pages -------------------------------------------------------------------------------


def test_the_pages_are_the_company(server: RunningScim, company: Organisation) -> None:
    users, groups = everything(server, "Users"), everything(server, "Groups")
    assert snapshot_of(users, groups).digest() == company.snapshot().digest()
    assert users == [
        u | {"meta": {"resourceType": "User", "location": f"{server.url}/Users/{u['id']}"}}
        for u in company.scim_users()
    ]
    assert [g["members"] for g in groups] == [g["members"] for g in company.scim_groups(server.url)]
    counts = server.counts()
    assert counts.pop("bytes") > 100_000
    assert counts == {"GET /Users": 3, "GET /Groups": 3}


@pytest.mark.parametrize(
    ("kind", "query", "start", "items"),
    [
        ("Users", {}, 1, 100),
        ("Users", {"startIndex": 1, "count": 5000}, 1, 100),
        ("Users", {"startIndex": 201, "count": 100}, 201, 30),
        ("Users", {"startIndex": 231, "count": 100}, 231, 0),
        ("Users", {"startIndex": -3, "count": 7}, 1, 7),
        ("Users", {"count": 0}, 1, 0),
        ("Users", {"count": -1}, 1, 0),
        ("Groups", {"count": 1000}, 1, 12),
        ("Groups", {"startIndex": 25, "count": 12}, 25, 6),
    ],
)
def test_index_paging(server: RunningScim, kind: str, query: dict[str, int], start: int, items: int) -> None:
    answer = get(server, f"/{kind}", **query)
    page = answer.json()
    assert answer.headers["content-type"] == "application/scim+json"
    assert page["totalResults"] == SIZE[kind.lower()]
    assert (page["startIndex"], page["itemsPerPage"], len(page["Resources"])) == (start, items, items)
    # The second time it comes from the cache.
    assert get(server, f"/{kind}", **query).content == answer.content


def test_groups_without_members(server: RunningScim) -> None:
    for query in ({"excludedAttributes": "members"}, {"attributes": "id,displayName"}):
        page = get(server, "/Groups", count=5, **query).json()
        assert len(page["Resources"]) == 5
        assert all("members" not in group for group in page["Resources"])
    assert any(group["members"] for group in get(server, "/Groups", count=5).json()["Resources"])


def test_one_resource_and_filters(server: RunningScim, company: Organisation) -> None:
    person, team = company.people[17], company.teams[3]
    assert get(server, f"/Users/{person.id}").json()["userName"] == person.username
    whole = get(server, f"/Groups/{team.id}").json()
    assert whole["displayName"] == team.name
    assert "members" not in get(server, f"/Groups/{team.id}", excludedAttributes="members").json()

    def found(kind: str, condition: str) -> set[str]:
        page = get(server, f"/{kind}", filter=condition).json()
        assert page["totalResults"] == len(page["Resources"])
        return {resource["id"] for resource in page["Resources"]}

    assert found("Users", f'userName eq "{person.username.upper()}"') == {person.id}
    assert found("Users", f'USERNAME EQ "{person.username}"') == {person.id}
    assert found("Users", f'userName eq "{person.username[:-1]}"') == set()
    assert found("Users", f'emails[type eq "work"].value eq "{person.email}"') == {person.id}
    assert found("Users", f'id eq "{person.id}"') == {person.id}
    assert found("Users", 'nickName eq "x"') == set()
    assert found("Groups", f'displayName eq "{team.name}"') == {team.id}
    member = whole["members"][0]["value"]
    assert found("Groups", f'members.value eq "{member}"') == {
        g["id"] for g in company.scim_groups() if any(m["value"] == member for m in g["members"])
    }
    in_small = next(g for g in company.scim_groups() if 0 < len(g["members"]) < 50)
    assert found("Users", f'groups.value eq "{in_small["id"]}"') == {
        m["value"] for m in in_small["members"] if m["type"] == "User"
    }


@pytest.mark.parametrize(
    ("path", "query", "status", "scim_type"),
    [
        ("/Users/nobody", {}, 404, None),
        ("/Cars", {}, 404, None),
        ("/Users", {"filter": "userName sw"}, 400, "invalidFilter"),
        ("/Users", {"filter": 'userName eq "\\q"'}, 400, "invalidFilter"),
        ("/Users", {"count": "many"}, 400, "invalidValue"),
        ("/Schemas", {"filter": 'id eq "x"'}, 403, None),
    ],
)
def test_errors(server: RunningScim, path: str, query: dict[str, str], status: int, scim_type: str | None) -> None:
    answer = get(server, path, **query)
    assert answer.status_code == status
    error = answer.json()
    assert error["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
    assert error["status"] == str(status)
    assert error.get("scimType") == scim_type


def test_a_token_is_needed(server: RunningScim) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {server.token}"}):
        answer = httpx.get(f"{server.url}/Users", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    answer = httpx.post(f"{server.url}/Users", headers={"Authorization": f"Bearer {server.token}"}, json={})
    assert answer.status_code == 501


def test_discovery(server: RunningScim) -> None:
    config = get(server, "/ServiceProviderConfig").json()
    assert config["filter"] == {"supported": True, "maxResults": 100}
    assert config["pagination"]["index"]
    assert not config["pagination"]["cursor"]
    assert [r["endpoint"] for r in get(server, "/ResourceTypes").json()["Resources"]] == ["/Users", "/Groups"]
    assert get(server, "/Schemas").json()["totalResults"] == 3


def test_requests_in_one_packet_are_answered_in_order(server: RunningScim) -> None:
    host, port = server.url.split("/")[2].split(":")
    server.faults({"kind": "slow", "path": "/ResourceTypes", "seconds": 0.3})
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        for path, last in (("ResourceTypes", ""), ("Schemas", "Connection: close\r\n")):
            connection.sendall(
                f"GET /v2/{path} HTTP/1.1\r\nHost: x\r\n{last}Authorization: Bearer {server.token}\r\n\r\n".encode()
            )
            time.sleep(0.05)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.index(b"core:2.0:ResourceType") < received.index(b"core:2.0:Schema")


def test_cursor_paging(company: Organisation) -> None:
    with prepared(**SIZE, paging="cursor", user_page=100) as server:
        found: list[dict[str, Any]] = []
        cursor: str | None = ""
        pages = []
        while cursor is not None:
            pages.append(cursor)
            page = get(server, "/Users", cursor=cursor, count=90).json()
            assert "startIndex" not in page
            found += page["Resources"]
            cursor = page.get("nextCursor")
        assert [u["id"] for u in found] == [p.id for p in company.people]
        assert len(pages) == len(set(pages)) == 3
        # A server whose default is the cursor answers a request without it in the same way.
        assert "nextCursor" in get(server, "/Users", count=90).json()
        for query, scim_type in (
            ({"cursor": "nonsense", "count": 90}, "invalidCursor"),
            ({"cursor": pages[1], "count": 91}, "invalidCount"),
        ):
            answer = get(server, "/Users", **query)
            assert (answer.status_code, answer.json()["scimType"]) == (400, scim_type)
        assert get(server, "/Groups", cursor=pages[1], count=90).json()["scimType"] == "invalidCursor"
        server.change(seed=1, joiners=1)
        assert get(server, "/Users", cursor=pages[1], count=90).json()["scimType"] == "expiredCursor"
        assert get(server, "/ServiceProviderConfig").json()["pagination"]["defaultPaginationMethod"] == "cursor"


# --- prepared: faults ------------------------------------------------------------------------------


def page_two(server: RunningScim) -> httpx.Response:
    get(server, "/Users", startIndex=1, count=100)
    return get(server, "/Users", startIndex=101, count=100)


def test_cut_and_reset(server: RunningScim) -> None:
    server.faults({"kind": "cut", "path": "/Users", "nth": 2})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        page_two(server)
    assert get(server, "/Users").status_code == 200
    server.faults({"kind": "reset", "path": "/Users", "nth": 2})
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        page_two(server)
    assert get(server, "/Users").status_code == 200


def test_truncated(server: RunningScim) -> None:
    server.faults({"kind": "truncated", "path": "/Users", "nth": 2})
    answer = page_two(server)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        answer.json()


def test_drop(server: RunningScim, company: Organisation) -> None:
    server.faults({"kind": "drop", "path": "/Users", "nth": 2, "items": 3})
    page = page_two(server).json()
    assert page["totalResults"] == 230
    assert [u["id"] for u in page["Resources"]] == [p.id for p in company.people[103:200]]
    assert len(page_two(server).json()["Resources"]) == 100, "a faulty page stayed in the cache"


def test_repeat(server: RunningScim, company: Organisation) -> None:
    server.faults({"kind": "repeat", "path": "/Users", "nth": 2})
    page = page_two(server).json()
    assert page["startIndex"] == 1
    assert page["Resources"][0]["id"] == company.people[0].id


@pytest.mark.parametrize(("rule", "total"), [({}, 230), ({"total": 0}, 0)])
def test_empty(server: RunningScim, rule: dict[str, int], total: int) -> None:
    server.faults({"kind": "empty", "path": "/Users", "nth": 2, **rule})
    page = page_two(server).json()
    assert page["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:ListResponse"]
    assert (page["totalResults"], page["Resources"]) == (total, [])


def test_html_status_and_slow(server: RunningScim) -> None:
    server.faults(
        {"kind": "html", "path": "/Users"},
        {"kind": "status", "path": "/Groups", "status": 429, "retry_after": "7", "times": 2},
        {"kind": "slow", "path": "/Schemas", "seconds": 0.4},
    )
    page = get(server, "/Users")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
    for _ in range(2):
        answer = get(server, "/Groups")
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["status"]) == (429, "7", "429")
    begun = time.monotonic()
    assert get(server, "/Schemas").json()["totalResults"] == 3
    assert time.monotonic() - begun >= 0.4
    assert get(server, "/Users").json()["totalResults"] == 230
    assert get(server, "/Groups").status_code == 200
    assert [(f["seen"], f["fired"]) for f in server.faults_state()] == [(2, 1), (3, 2), (1, 1)]
    with pytest.raises(ValueError, match="unknown fault 'x'"):
        Fault("x")


# --- prepared: the next day ------------------------------------------------------------------------


def test_change_moves_to_the_changed_company(company: Organisation) -> None:
    with prepared(**SIZE) as server:
        everything(server, "Users")
        sizes = server.change(**DAY_TWO)
        later = changed(company, **DAY_TWO)
        assert sizes == {
            "users": 231,
            "groups": 31,
            "memberships": len(later.member_team),
            "nestings": len(later.nest_parent),
        }
        users, groups = everything(server, "Users", 1000), everything(server, "Groups")
        assert snapshot_of(users, groups).digest() == later.snapshot().digest() != company.snapshot().digest()
        gone = {p.id for p in company.people} - {p.id for p in later.people}
        assert {get(server, f"/Users/{key}").status_code for key in gone} == {404}


def test_difficult_people_are_served() -> None:
    with prepared(users=20, groups=4, memberships=30, difficult=True) as server:
        company = with_difficult(organisation(users=20, groups=4, memberships=30))
        snapshot = snapshot_of(everything(server, "Users"), everything(server, "Groups"))
        assert snapshot.digest() == company.snapshot().digest()


def test_it_ends_promptly_on_sigterm() -> None:
    with prepared(users=50, groups=5, memberships=50) as server, httpx.Client() as client:
        client.get(f"{server.url}/Users", headers={"Authorization": "Bearer sandbox"})
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
        assert time.monotonic() - begun < 2


def test_it_ends_with_its_parent() -> None:
    with prepared(users=5, groups=1, memberships=5) as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(5) == 0


# --- scim2-server ----------------------------------------------------------------------------------


def test_scim2_server_holds_the_same_people_on_both_days() -> None:
    company = organisation(users=150, groups=25, memberships=700)
    with scim2_server() as server:
        begun = time.monotonic()
        mapping = fill(server.url, server.token, company)
        assert time.monotonic() - begun < 5
        assert in_our_ids(server, mapping) == whole(company)
        later = changed(company, **DAY_TWO)
        mapping = apply_change(server.url, server.token, company, later, mapping)
        assert in_our_ids(server, mapping) == whole(later) != whole(company)


def whole(org: Organisation) -> tuple[str, dict[str, Any]]:
    return org.snapshot().digest(), {
        p.id: (p.title, p.locale, p.department, p.employee_number, p.manager) for p in org.people
    }


def in_our_ids(server: Any, mapping: dict[str, str]) -> tuple[str, dict[str, Any]]:
    ours = {theirs: own for own, theirs in mapping.items()}
    users, groups = everything(server, "Users"), everything(server, "Groups")
    enterprise = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
    for resource in (*users, *groups):
        resource["id"] = ours[resource["id"]]
        for member in resource.get("members", ()):
            member["value"] = ours[member["value"]]
    details = {
        u["id"]: (
            u["title"],
            u["locale"],
            u[enterprise]["department"],
            u[enterprise]["employeeNumber"],
            ours.get(u[enterprise].get("manager", {}).get("value"), ""),
        )
        for u in users
    }
    return snapshot_of(users, groups).digest(), details
