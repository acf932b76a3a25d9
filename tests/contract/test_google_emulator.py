"""The Google emulator, read by Google's own client, which we did not write."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest

from deployments.sandbox.google import ADMIN, Google, group_email, group_id, user_id
from deployments.sandbox.idp import running
from deployments.sandbox.organisation import Person, changed, organisation
from deployments.sandbox.server import Answer, Refusal, Request, children_of, members_of
from tests.support.clients import client_package, drive

SIZE: dict[str, Any] = {"users": 130, "groups": 12, "memberships": 200}
CLIENT = ("google-api-python-client==2.202.0", "google-auth==2.62.0")


def address(person: Person) -> str:
    return f"{person.username}@acme.example"


@pytest.mark.parametrize("busy", ["userRateLimitExceeded", "429"])
def test_the_client_reads_everything(tmp_path: Path, busy: str) -> None:
    company = organisation(**SIZE)
    people = {user_id(p.id): p for p in company.people}
    teams = {group_id(t.id): t for t in company.teams}
    nested = children_of(company)
    parent = next(team for team in company.teams if nested.get(team.id))
    options = {"limit": 200, "window": 3, "busy": busy, "counts": "all"}
    with running("google", **SIZE, options=options) as idp:
        file = tmp_path / "key.json"
        file.write_text(idp.secrets["private_key"])
        found = drive(
            Path(__file__).parent / "idp_clients" / "google_driver.py",
            *(idp.url, str(file), ADMIN, address(company.people[1]), group_id(parent.id)),
            package=client_package(*CLIENT),
        )
        counts = idp.counts()
    assert counts["POST /token"] >= 5

    listed = {u["id"]: u for u in found["users"]}
    assert (listed.keys(), found["user pages"], found["default page"]) == (people.keys(), 6, 100)
    for key, user in listed.items():
        person = people[key]
        assert user["primaryEmail"] == address(person)
        assert user["name"]["givenName"] == person.first_name
        assert (not user["suspended"] and not user["archived"]) == person.active
        assert ("suspensionReason" in user) == user["suspended"]
        assert "customSchemas" not in user
    away = [(u["suspended"], u["archived"]) for u in listed.values() if u["suspended"] or u["archived"]]
    assert set(away) == {(True, False), (False, True), (True, True)}
    assert found["suspended"] == [u["id"] for u in found["users"] if u["suspended"]]
    assert found["deleted"].get("users") is None
    assert found["by address"] == sorted(map(address, company.people))
    assert found["down"] == found["by address"][::-1]
    first = found["users"][0]
    assert (found["by id"], found["by primary address"]) == (first["primaryEmail"], first["id"])
    assert found["by alias"][0] == found["by alias"][1]
    assert found["custom"]["Work"]["badge"] == people[first["id"]].employee_number
    assert found["full"] == ["Site", "Work"]
    assert found["slim"]["users"][0].keys() == {"id", "name", "emails"}
    assert found["slim"]["users"][0]["name"] == {"givenName": people[first["id"]].first_name}
    assert "kind" not in found["slim"]

    assert {g["id"]: g["name"] for g in found["groups"]} == {key: t.name for key, t in teams.items()}
    assert {g["email"] for g in found["groups"]} == set(map(group_email, company.teams))
    assert found["group pages"] == 3
    assert found["group"] == found["groups"][0]
    direct = {group_id(t.id): ids for t, ids in zip(company.teams, members_of(company), strict=True)}
    own = {key for key, ids in direct.items() if first["id"] in map(user_id, ids)}
    assert set(found["groups of"]) == own
    kinds = set()
    for group in found["groups"]:
        members = found["members"][group["id"]]
        kinds |= {m["type"] for m in members}
        assert group["directMembersCount"] == str(len(members))
        assert [m["id"] for m in members if m["type"] == "USER"] == list(map(user_id, direct[group["id"]]))
        children = nested.get(teams[group["id"]].id, ())
        assert [m["id"] for m in members if m["type"] == "GROUP"] == list(map(group_id, children))
        assert all(("email" in m) == (m["type"] != "CUSTOMER") for m in members)
    assert kinds == {"USER", "GROUP", "EXTERNAL", "CUSTOMER"}
    assert found["member pages"] > 2 * len(teams)
    assert found["owners"] in (["OWNER"], [])
    assert {*map(group_id, nested[parent.id])} < set(found["derived"])
    assert found["has"] == {"isMember": True}

    told = found["channels"]
    after = changed(company, seed=1, updated=3)
    assert (told["made"], told["seconds"]) == (["api#channel", True, True], 600)
    assert told["sync"] == [1, "sync", True, ""]
    assert (told["at most"], told["by default"]) == (172_800, 7200)
    assert told["twice"][0::2] == [400, "channelIdNotUnique"]
    assert told["plain"][0] == told["long id"][0] == 400
    assert sorted(told["states"]) == [["update", number] for number in (2, 3, 4)]
    assert told["tokens"] == ["state"] * 3
    assert told["told of"] == sorted(user_id(person.id) for person in {*after.people} - {*company.people})
    assert (told["stopped"], told["gone"][0]) == ("", 404)

    assert found["nobody"] == [404, "Resource Not Found: userKey", "notFound"]
    assert found["no group"] == [404, "Resource Not Found: groupKey", "notFound"]
    assert found["no customer"][0] == found["wrong token"][0] == found["both"][0] == 400
    assert found["outside"] == [400, "Invalid Input: memberKey", "invalid"]
    assert (found["wrong field"][0], found["wrong field"][2]) == (400, "invalidParameter")
    assert found["no right"] == [403, "Not Authorized to access this resource/api", "forbidden"]
    assert (found["one scope"][0], found["one scope"][2]) == (403, "insufficientPermissions")
    assert found["scope not delegated"] == "unauthorized_client"
    assert found["unknown subject"] == found["other account"] == "invalid_grant"
    assert found["one page too large"][0] == 400
    assert found["too many"] == ([429, "rateLimitExceeded"] if busy == "429" else [403, busy])
    assert found["after waiting"] == 1


def asked(google: Google, path: str, **query: Any) -> tuple[int, Any]:
    """One request, as if authorised."""
    prefix = "https://www.googleapis.com/auth/admin.directory."
    google._tokens["t"] = (1e18, frozenset({f"{prefix}user", f"{prefix}group"}), True)
    request = Request("GET", path, {k: str(v) for k, v in query.items()}, {"authorization": "Bearer t"}, b"")
    try:
        answer: Answer = google.answer(request)
    except Refusal as refusal:
        answer = refusal.answer
    return answer.status, orjson.loads(answer.body)


def test_pages_may_be_short_and_empty() -> None:
    company = organisation(users=40, groups=2, memberships=40)
    google = Google({"short": True})
    google.load(company)
    sizes, ids, token = [], list[str](), ""
    while True:
        more = {"pageToken": token} if token else {}
        status, page = asked(google, "/admin/directory/v1/users", customer="my_customer", maxResults=10, **more)
        assert status == 200
        sizes.append(len(page.get("users", ())))
        assert ("users" in page) == bool(sizes[-1])
        ids += [u["id"] for u in page.get("users", ())]
        if "nextPageToken" not in page:
            break
        assert page["nextPageToken"] != token
        token = page["nextPageToken"]
    assert 0 in sizes
    assert max(sizes) == 5
    assert ids == [user_id(p.id) for p in company.people]


def test_the_deleted_and_the_renamed() -> None:
    company = organisation(users=10, groups=2, memberships=4)
    google = Google({})
    google.load(company)
    gone, renamed = company.people[0], company.people[1]
    people = [renamed._replace(username="new.name"), *company.people[2:]]
    google.load(organisation(users=0, groups=0, memberships=0).including(people))
    users = "/admin/directory/v1/users"
    assert asked(google, f"{users}/{address(gone)}")[0] == asked(google, f"{users}/{user_id(gone.id)}")[0] == 404
    status, found = asked(google, f"{users}/{address(renamed)}")
    assert (status, found["primaryEmail"], found["id"]) == (200, "new.name@acme.example", user_id(renamed.id))
    assert address(renamed) in found["aliases"]
    deleted = asked(google, users, customer="my_customer", showDeleted="true")[1]["users"]
    assert [u["id"] for u in deleted] == [user_id(gone.id)]
    assert deleted[0]["deletionTime"]
    assert len(asked(google, users, customer="my_customer")[1]["users"]) == 9


def test_lists_of_nobody_have_no_key() -> None:
    google = Google({})
    google.load(organisation(users=0, groups=0, memberships=0))
    for what in ("users", "groups"):
        status, page = asked(google, f"/admin/directory/v1/{what}", customer="C01acme23")
        assert (status, page.keys()) == (200, {"kind", "etag"})
    assert asked(google, "/admin/directory/v1/users", customer="other")[0] == 400
    assert asked(google, "/admin/directory/v1/users", domain="elsewhere.example")[0] == 404
    assert asked(google, "/admin/directory/v1/users", customer="my_customer", nonsense="1")[0] == 400


def test_without_a_token_nothing_is_told() -> None:
    with running("google", users=1, groups=0, memberships=0) as idp:
        for headers, reason in (({}, "required"), ({"Authorization": "Bearer wrong"}, "authError")):
            request = urllib.request.Request(
                f"{idp.url}/admin/directory/v1/users?customer=my_customer", headers=headers
            )
            with pytest.raises(urllib.error.HTTPError) as wrong:
                urllib.request.urlopen(request, timeout=10)
            assert wrong.value.code == 401
            assert orjson.loads(wrong.value.read())["error"]["errors"][0]["reason"] == reason
