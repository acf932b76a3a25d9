"""The Okta emulator, read by Okta's own SDK, which we did not write."""

from __future__ import annotations

import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.okta import APP, EVERYONE, group_id, has_app, status_of, type_of, user_id
from deployments.sandbox.organisation import organisation
from deployments.sandbox.server import members_of
from tests.support.clients import client_package, drive

SIZE: dict[str, Any] = {"users": 60, "groups": 12, "memberships": 150}


def sdk(idp: RunningIdp, place: Path, *more: str) -> Any:
    key = place / "key.pem"
    key.write_text(idp.secrets["private_key"])
    key.chmod(0o600)
    return drive(
        Path(__file__).parent / "idp_clients" / "okta_driver.py",
        *(idp.url, idp.secrets["token"], idp.settings["client_id"], idp.settings["key_id"], str(key), APP, *more),
        package=client_package("okta==3.4.6"),
        environment={"OKTA_TESTING_TESTINGDISABLEHTTPSCHECK": "true"},
    )


def ask(idp: RunningIdp, path: str, token: str = "", **options: Any) -> tuple[int, Message, Any]:
    headers = {"Authorization": f"SSWS {token or idp.secrets['token']}"}
    request = urllib.request.Request(f"{idp.url}{path}", headers=headers, **options)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, orjson.loads(error.read())


@pytest.mark.long
def test_the_sdk_reads_everything(tmp_path: Path) -> None:
    company = organisation(**SIZE)
    people, teams = {user_id(p.id): p for p in company.people}, {group_id(t.id): t for t in company.teams}
    members = {
        group_id(team.id): sorted(map(user_id, ids))
        for team, ids in zip(company.teams, members_of(company), strict=True)
    }
    with running("okta", **SIZE) as idp:
        found = sdk(idp, tmp_path)

    listed = {n: p for n, p in people.items() if status_of(p) != "DEPROVISIONED"}
    assert len(listed) < len(people)  # the plain list leaves them out
    assert {u[0]: tuple(u[1:]) for u in found["users"]} == {
        n: (f"{p.username}@acme.example", p.email, p.first_name, p.last_name, status_of(p)) for n, p in listed.items()
    }
    assert found["user pages"] == -(-len(listed) // 20)
    assert dict(found["everybody"]) == {n: status_of(p) for n, p in people.items()}
    assert (found["everybody pages"], set(found["deactivated"])) == (1, people.keys() - listed.keys())
    ids = [u[0] for u in found["everybody"]]
    first = people[ids[0]]
    assert "tools" in found["extra"]
    assert found["alone"] == [ids[0], first.title or None, first.department or None]
    assert found["by login"] == found["by short login"] == found["me"] == ids[0]
    assert found["by filter"] == found["search does not"] == [ids[0]]
    assert found["filter minds case"] == 0
    colleagues = {n for n, p in people.items() if p.department == first.department and status_of(p).startswith("A")}
    assert set(found["by search"]) == colleagues
    assert ids[0] in found["by q"]
    assert found["changed since"] == 0
    assert found["bad filter"][:2] == [400, "E0000053"]
    assert found["bad search"][:2] == [400, "E0000031"]
    assert found["nobody"][:2] == [404, "E0000007"]

    held = [g for g, of in members.items() if ids[0] in of]
    assert found["groups of user"] == sorted([*held, EVERYONE])
    kinds = {n: [t.name, type_of(t)] for n, t in teams.items()} | {EVERYONE: ["Everyone", "BUILT_IN"]}
    assert {g[0]: g[1:] for g in found["groups"]} == kinds
    assert (found["group pages"], found["group"]) == (3, found["groups"][0])
    assert found["by kind"] == sorted(n for n, t in teams.items() if type_of(t) == "APP_GROUP")
    start = found["groups"][0][1].lower()
    assert sorted(found["by name"]) == sorted(n for n, t in teams.items() if t.name.lower().startswith(start))
    assert (found["group by q"], found["groups changed"]) == ([EVERYONE], 13)
    assert {g: sorted(of) for g, of in found["members"].items()} == members | {EVERYONE: sorted(people)}
    assert found["member pages"] > 3
    assert found["counts"] == {g: len(of) for g, of in found["members"].items()}
    assert found["no group"][:2] == [404, "E0000007"]

    by_group = {n for g, of in members.items() if has_app(g) for n in of}
    assigned = {a[0]: a[1:] for a in found["app users"]}
    assert by_group & listed.keys() <= assigned.keys() < listed.keys()  # some have it without a group
    assert {scope for scope, *_ in assigned.values()} == {"USER", "GROUP"}
    assert all(login == f"{people[n].username}@acme.example" for n, (_, _, login) in assigned.items())
    assert (found["app user pages"], found["app user"]) == (-(-len(assigned) // 9), found["app users"][0][0])
    assert found["not assigned"][:2] == [404, "E0000007"]
    assert found["app groups"] == sorted(g for g in members if has_app(g))

    assert found["wrong token"][:2] == [401, "E0000011"]
    assert found["by key"] == len(listed)
    assert found["wrong scope"][:2] == [403, "E0000006"]
    assert found["no such scope"][:2] == [400, "invalid_scope"]
    assert found["wrong client"][:2] == [401, "invalid_client"]


@pytest.mark.nightly
def test_the_sdk_waits_when_it_is_told_to(tmp_path: Path) -> None:
    with running("okta", users=3, groups=1, memberships=2, options={"limit": 4, "window": 2}) as idp:
        assert sdk(idp, tmp_path, "patient") == [1] * 6
    with running("okta", users=3, groups=1, memberships=2, options={"limit": 4}) as idp:
        assert sdk(idp, tmp_path, "impatient") == [[429, "E0000047"]] * 2


def test_what_the_sdk_does_not_see() -> None:
    with running("okta", **SIZE, options={"crowded": 7}) as idp:
        _, headers, _ = ask(idp, "/api/v1/users?limit=5")
        links = headers.get_all("link", [])
        assert [link.partition("; ")[2] for link in links] == ['rel="self"', 'rel="next"']
        assert links[1].startswith(f"<{idp.url}/api/v1/users?")
        assert ask(idp, "/api/v1/users?limit=500")[0] == 200
        assert ask(idp, "/api/v1/groups?limit=20000")[2]["errorCode"] == "E0000001"
        assert ask(idp, f"/api/v1/apps/{APP}/users?limit=501")[0] == 400
        assert ask(idp, f"/api/v1/apps/{APP}/groups?limit=19")[0] == 400
        assert ask(idp, "/api/v1/users", token="x")[2]["errorCode"] == "E0000011"
        status, headers, body = ask(idp, "/api/v1/users")
        assert (status, headers["x-rate-limit-limit"], body["errorCode"]) == (429, "0", "E0000047")
        assert ask(idp, "/api/v1/users", method="POST", data=b"{}")[0] == 405
        assert ask(idp, "/api/v1/users?after=x")[0] == 400
        assert ask(idp, "/api/v1/things")[2]["errorCode"] == "E0000007"


@pytest.mark.parametrize("lag", [False, True])
def test_a_search_may_lag_and_a_filter_does_not(lag: bool) -> None:
    with running("okta", **SIZE, options={"search_lag": lag, "joined_links": True}) as idp:
        idp.change(seed=1, joiners=4)
        recent = quote('lastUpdated gt "1970-01-01T00:00:00.000Z"')
        assert len(ask(idp, f"/api/v1/users?filter={recent}")[2]) == 64
        assert len(ask(idp, f"/api/v1/users?search={recent}")[2]) == (60 if lag else 64)
        _, headers, _ = ask(idp, "/api/v1/groups?limit=5")
        (line,) = headers.get_all("link", [])
        assert line.count('rel="') == 2
