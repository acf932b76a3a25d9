"""The OneLogin emulator, read by OneLogin's own SDK, which we did not write."""

from __future__ import annotations

import base64
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.onelogin import APP, OTHER_APP, group_id, has_app, role_id, status_of, user_id
from deployments.sandbox.organisation import organisation
from deployments.sandbox.server import members_of
from tests.support.clients import client_package, drive

SIZE: dict[str, Any] = {"users": 60, "groups": 12, "memberships": 150}


def ask(url: str, *, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), orjson.loads(error.read())


def token(idp: RunningIdp) -> str:
    form = f"grant_type=client_credentials&client_id={idp.settings['client_id']}"
    given = ask(f"{idp.url}/auth/oauth2/v2/token", data=f"{form}&client_secret={idp.secrets['client_secret']}".encode())
    return str(given[2]["access_token"])


def test_the_sdk_reads_everything() -> None:
    company = organisation(**SIZE)
    people, teams = {user_id(p.id): p for p in company.people}, {role_id(t.id): t for t in company.teams}
    members = {
        role_id(team.id): sorted(map(user_id, ids))
        for team, ids in zip(company.teams, members_of(company), strict=True)
    }
    options = {"scope": "Read All", "limit": 400}
    with running("onelogin", **SIZE, options=options) as idp:
        found = drive(
            Path(__file__).parent / "idp_clients" / "onelogin_driver.py",
            *(idp.url, idp.settings["client_id"], idp.secrets["client_secret"], str(APP)),
            package=client_package("onelogin==4.0.1"),
        )
    assert found["wrong secret"][0] == 401
    assert found["no token"] == [401, {"statusCode": 401, "name": "UnauthorizedError", "message": "Unauthorized"}]
    assert found["token"][0] == "bearer"
    assert 35_900 < found["token"][1] <= 36_000

    assert {u[0]: tuple(u[1:]) for u in found["users"]} == {
        n: (f"{p.username}@acme.example", p.email or None, p.first_name, p.last_name, *status_of(p))
        for n, p in people.items()
    }
    assert (found["user pages"], set(found["user totals"])) == (2, {60})
    assert (found["pages of 7"], len(found["some fields"])) == (9, 60)
    ids = [u[0] for u in found["users"]]
    assert found["second page"] == ids[7:14]
    first = people[ids[0]]
    title, custom, roles, email = found["some fields"][str(ids[0])]
    assert (title, custom["location"], email) == (first.title or None, first.location or None, None)
    held = sorted(role for role, listed in members.items() if ids[0] in listed)
    assert sorted(roles) == held
    alone = found["alone"]
    assert (alone[0], alone[2], sorted(alone[3])) == (ids[0], first.title or None, held)
    assert alone[4:] == [str(user_id(first.manager)) if first.manager else None, group_id(first.department)]
    assert found["by email"] == found["by username"] == [ids[0]]
    start = first.username[:3].lower()
    assert found["by wildcard"] == sorted(n for n, p in people.items() if p.username.lower().startswith(start))
    assert found["by ids"] == sorted([ids[0], ids[-1]])
    assert found["updated since"] == [0, 60]
    assert found["nobody"][0] == 404
    assert found["nobody"][1]["name"] == "NotFoundError"
    assert (found["bad filter"][0], found["bad filter"][1]["name"]) == (422, "UnprocessableEntityError")

    listed = {n: [t.name, [APP, OTHER_APP] if has_app(n) else [OTHER_APP]] for n, t in teams.items()}
    assert {r[0]: r[1:] for r in found["roles"]} == listed
    assert found["role pages"] == 3
    one = found["roles"][0][0]
    assert found["role"] == [teams[one].name, len(members[one])]
    assert found["role by name"] == [one]
    assert found["no role"][1]["name"] == "NotFoundError"
    assert found["role apps"] == (["Jira", "Intranet"] if has_app(one) else ["Intranet"])
    assert sorted(found["roles of app"]) == sorted(n for n in teams if has_app(n))
    assert {int(k): sorted(v) for k, v in found["members"].items()} == members
    assert found["member pages"] > 3
    assert found["everybody"] == 60
    with_app = {n for role, listed in members.items() if has_app(role) for n in listed}
    assert set(found["app users"]) == with_app | {n for n in people if n % 16 == 0}
    assert APP in found["apps of user"][str(found["app users"][0])]
    assert found["apps"] == ["Jira", "Intranet"]

    assert {g[0]: g[1] for g in found["groups"]} == {group_id(p.department): p.department for p in people.values()}
    assert found["group status"] == [200, "Success"]
    assert found["group"] == found["groups"][0][1]
    assert found["limit"][0] == 400
    assert found["429"][0] == 429
    assert 3_500 < found["429"][1] <= 3_600  # seconds left
    assert found["429"][2] == 0


def test_what_the_sdk_does_not_send() -> None:
    options = {"scope": "Authentication Only"}
    with running("onelogin", users=3, groups=1, memberships=2, options=options) as idp:
        basic = base64.b64encode(f"{idp.settings['client_id']}:{idp.secrets['client_secret']}".encode()).decode()
        grant, at = b'{"grant_type":"client_credentials"}', f"{idp.url}/auth/oauth2/v2/token"
        kind = {"Content-Type": "application/json"}
        odd = f"client_id:{idp.settings['client_id']}, client_secret:{idp.secrets['client_secret']}"
        tokens = {
            token(idp),
            ask(at, data=grant, **kind, Authorization=f"Basic {basic}")[2]["access_token"],
            ask(at, data=grant, **kind, Authorization=odd)[2]["access_token"],
        }
        assert len(tokens) == 1
        (bearer,) = tokens
        assert ask(at, data=b"{}", **kind, Authorization=f"Basic {basic}")[0] == 400
        # No right to read: 401 in both versions. Version 1 takes its old spelling, and another error body.
        assert ask(f"{idp.url}/api/2/users", Authorization=f"bearer {bearer}")[0] == 401
        status, _, body = ask(f"{idp.url}/api/1/groups", Authorization=f"bearer:{bearer}")
        assert (status, body["status"]["message"]) == (401, "Insufficient Permission")
        assert ask(f"{idp.url}/api/1/groups", Authorization="Basic x")[0] == 400
        assert ask(f"{idp.url}/api/1/groups", Authorization="bearer x")[2]["status"]["message"] == (
            "Authentication Failure"
        )


def test_the_older_groups_page_in_their_body() -> None:
    with running("onelogin", users=600, groups=3, memberships=10) as idp:
        bearer: dict[str, Any] = {"Authorization": f"bearer {token(idp)}"}
        after, found, pages = "", [], 0
        while True:
            said = ask(f"{idp.url}/api/1/groups?limit=3{after}", **bearer)[2]
            found += [group["id"] for group in said["data"]]
            pages += 1
            if not said["pagination"]["after_cursor"]:
                break
            after = f"&after_cursor={said['pagination']['after_cursor']}"
    company = organisation(users=600, groups=3, memberships=10)
    assert sorted(found) == sorted({cast("int", group_id(p.department)) for p in company.people if p.department})
    assert pages == -(-len(found) // 3)


@pytest.mark.parametrize("bare", [False, True])
def test_cursors_hold_the_earlier_query(bare: bool) -> None:
    with running(
        "onelogin", users=9, groups=1, memberships=2, options={"bare_cursor": bare, "end_cursor": True}
    ) as idp:
        bearer: dict[str, Any] = {"Authorization": f"bearer {token(idp)}"}
        _, headers, first = ask(f"{idp.url}/api/2/users?limit=5&fields=title", **bearer)
        assert list(first[0]) == ["id", "title"]
        cursor = urllib.parse.quote(headers["After-Cursor"])
        _, headers, second = ask(f"{idp.url}/api/2/users?cursor={cursor}", **bearer)
        assert (len(second), headers["After-Cursor"], "Before-Cursor" in headers) == (4, "", True)
        assert ("title" in second[0], "email" in second[0]) == (not bare, bare)
        assert ask(f"{idp.url}/api/2/users?cursor=x", **bearer)[0] == 422
