"""The Entra emulator, read by Microsoft's own Graph SDK, which we did not write."""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest

from deployments.sandbox import entra
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import Organisation, changed, organisation
from deployments.sandbox.server import members_of
from tests.support.clients import client_package, drive

SIZE: dict[str, Any] = {"users": 30, "groups": 12, "memberships": 110}
GUESTS = 6
BAD = [400, "InvalidRequest"]


def ask(url: str, *, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), orjson.loads(error.read())


def grant(idp: RunningIdp, tenant: str = entra.TENANT, **changes: str) -> tuple[int, dict[str, str], Any]:
    form = {
        "client_id": entra.CLIENT,
        "scope": "https://graph.microsoft.com/.default",
        "grant_type": "client_credentials",
        "client_secret": idp.secrets["client_secret"],
        **changes,
    }
    return ask(f"{idp.url}/{tenant}/oauth2/v2.0/token", data=urllib.parse.urlencode(form).encode())


def bearer(idp: RunningIdp) -> dict[str, Any]:
    return {"Authorization": f"Bearer {grant(idp)[2]['access_token']}"}


def direct(company: Organisation) -> dict[str, list[list[str]]]:
    """Group → its members with their kind, as the SDK's driver says them."""
    found = {t.id: [[p, "user"] for p in ids] for t, ids in zip(company.teams, members_of(company), strict=True)}
    for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
        found[company.teams[parent].id].append([company.teams[child].id, "group"])
    return {key: sorted(some) for key, some in found.items()}


def flat(members: dict[str, list[list[str]]], group: str) -> set[str]:
    found, todo, seen = set(), [group], {group}
    while todo:
        for member, kind in members[todo.pop()]:
            if kind == "user":
                found.add(member)
            elif member not in seen:
                seen.add(member)
                todo.append(member)
    return found


def test_the_sdk_reads_everything() -> None:
    company = organisation(**SIZE)
    people = {p.id: p for p in company.people}
    members = direct(company)
    options: dict[str, Any] = {"guests": GUESTS, "sparse": 3, "delta_page": 7, "delta_members": 4}
    options["roles"] = (*entra.ROLES, "Group.Read.All")
    with (
        running("entra", **SIZE, options=options) as idp,
        running("entra", users=3, groups=1, memberships=2, options={"limit": 4, "window": 2}) as busy,
    ):
        found = drive(
            Path(__file__).parent / "idp_clients" / "entra_driver.py",
            *(idp.url, grant(idp)[2]["access_token"], entra.APP_OBJECT),
            *(busy.url, grant(busy)[2]["access_token"]),
            package=client_package("msgraph-sdk==1.65.0", "deprecated==1.3.1"),
        )
    assert {u[0]: u[1:] for u in found["users"]} == {
        key: [
            entra.upn(p, GUESTS),
            p.active,
            p.first_name,
            p.last_name,
            "Guest" if entra.is_guest(p, GUESTS) else "Member",
        ]
        for key, p in people.items()
    }
    assert len(found["users"]) == 30
    assert found["user pages"] == 5 + 1  # every third page is empty and leads on
    assert found["thin"] == [30, True]
    first = people[found["users"][0][0]]
    assert found["alone"] == [first.id, first.active, first.department or None, first.location or None]
    assert found["guest"] is found["by mail"] is True
    assert found["counted"] == [30, 1]
    assert found["nobody"] == [404, "Request_ResourceNotFound"]
    assert found["bad select"] == [400, "BadRequest"]
    assert found["not in lists"] == [501, "NotImplemented"]
    assert found["too many"] == [400, "Request_BadRequest"]

    assert found["groups"] == {t.id: t.name for t in company.teams}
    assert found["group pages"] == 4
    assert found["members"] == members
    assert found["kinds"] == ["contact", "device", "group", "principal", "user"]
    assert found["member pages"] > 3
    assert {key: set(some) for key, some in found["flat"].items()} == {key: flat(members, key) for key in members}
    assert found["cast"] == [400, "Request_UnsupportedQuery"]
    assert found["member of"] == sorted(key for key, some in members.items() if [first.id, "user"] in some)
    assert found["all member of"] == sorted(key for key in members if first.id in flat(members, key))
    kinds = [kind for _, kind in found["assigned"]]
    assert {key for key, kind in found["assigned"] if kind == "Group"} == {t.id for t in entra.assigned_teams(company)}
    assert {key for key, kind in found["assigned"] if kind == "User"} == {p.id for p in entra.assigned_people(company)}
    assert kinds.count("ServicePrincipal") == 1
    assert found["batch"] == [200] * 12 + [404]
    assert found["batch headers"] == "application/json"

    assert found["users delta"] == [sorted(people), 5, 30]
    ids, pages, items = found["groups delta"]
    assert ids == sorted(t.id for t in company.teams)
    assert pages == -(-items // 7)
    assert items > len(ids)  # a large group comes in slices
    wanted = {key: {member for member, _ in some} for key, some in members.items() if some}
    assert {key: set(some) & (people.keys() | members.keys()) for key, some in found["members delta"].items()} == wanted
    assert found["bad users delta"] == found["bad groups delta"] == [400, "syncStateNotFound"]
    gone = found["later"][1]
    assert len(gone) == 6
    assert set(gone) == {"changed", "deleted"}
    assert found["bin"] == gone.count("changed")
    assert found["later"][0] <= 8
    after = changed(changed(company, seed=1, leavers=6, updated=2), seed=2, disabled=2, moved=2)
    before = changed(company, seed=1, leavers=6, updated=2)
    expected: dict[str, Any] = {
        "made": ["users", "state", True, True],
        "listed": [["users", None, True], ["groups", None, True]],  # the secret is shown to nobody
        "renewed": True,
        "shown": True,
        "twice": [409, "Conflict"],
        **dict.fromkeys(("too long", "over", "plain", "deaf", "deaf to lifecycle", "long state", "created"), BAD),
        "told": [["Groups", "updated", "state"], ["Users", "updated", "state"]],
        "told of": sorted({person.id for person in {*after.people} - {*before.people}}),
        "gone": [404, "ResourceNotFound"],
        "left": ["groups"],
    }
    assert found["subscriptions"] == expected
    assert found["429"] == [429, "TooManyRequests", "ResourceUnitLimitExceeded"]
    assert 1 <= found["wait"] <= 2
    assert found["after it"] == 1


def test_tokens() -> None:
    key, pem = entra.certificate()
    other, _ = entra.certificate()
    with running("entra", users=3, groups=1, memberships=2, options={"certificate": pem}) as idp:
        status, _, said = grant(idp)
        assert (status, said["token_type"], said["expires_in"]) == (200, "Bearer", 3599)
        for changes, number in (
            ({"client_secret": "wrong"}, 7000215),
            ({"client_id": "wrong"}, 700016),
            ({"tenant": "wrong"}, 90002),
            ({"scope": "User.Read.All"}, 1002012),
        ):
            status, _, said = grant(idp, **changes)
            assert status in (400, 401)
            assert said["error_codes"] == [number]

        def signed(private: str, **header: str) -> dict[str, str]:
            now, at = int(time.time()), f"{idp.url}/{entra.TENANT}/oauth2/v2.0/token"
            claims = {"iss": entra.CLIENT, "sub": entra.CLIENT, "aud": at, "iat": now, "nbf": now, "exp": now + 300}
            token = jwt.encode({**claims, "jti": str(uuid.uuid4())}, private, algorithm="PS256", headers=header)
            kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            return {"client_assertion_type": kind, "client_assertion": token}

        print_of = thumbprint(pem)
        once = signed(key, **{"x5t#S256": print_of})
        assert grant(idp, **once)[0] == 200
        assert grant(idp, **once)[0] == 401  # not twice
        assert grant(idp, **signed(other, **{"x5t#S256": print_of}))[0] == 401
        assert grant(idp, **signed(key))[0] == 401
        assert (
            ask(f"{idp.url}/v1.0/users", Authorization="Bearer x")[2]["error"]["code"] == "InvalidAuthenticationToken"
        )


def thumbprint(pem: str) -> str:
    import base64

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    known = x509.load_pem_x509_certificate(pem.encode())
    return base64.urlsafe_b64encode(known.fingerprint(SHA256())).rstrip(b"=").decode()


def test_what_the_sdk_does_not_send() -> None:
    with running("entra", users=30, groups=3, memberships=40, options={"limit": 40, "window": 1}) as idp:
        head = bearer(idp)

        def batch(*requests: Any) -> tuple[int, Any]:
            status, _, said = ask(
                f"{idp.url}/v1.0/$batch",
                data=orjson.dumps({"requests": requests}),
                **head,
                **{"Content-Type": "application/json"},
            )
            return status, said

        one = {"id": "1", "method": "GET", "url": "/users?$top=999"}
        assert batch(one, one)[0] == 400
        assert batch(*({**one, "id": str(n)} for n in range(21)))[0] == 400
        assert batch({"id": "1"})[0] == 400
        # Each is throttled alone, in any order: 2 units each, of 40.
        time.sleep(1)
        status, said = batch(*({**one, "id": str(n)} for n in range(20)))
        assert status == 200
        assert [part["status"] for part in said["responses"]] == [200] * 20
        assert all(len(part["body"]["value"]) == 30 for part in said["responses"])
        assert [part["id"] for part in said["responses"]] != [str(n) for n in range(20)]
        status, said = batch(one, {**one, "id": "2", "dependsOn": ["1"]})
        parts = {part["id"]: part for part in said["responses"]}
        assert (status, parts["1"]["status"], parts["2"]["status"]) == (200, 429, 424)
        assert parts["1"]["headers"]["Retry-After"] == "1"
        time.sleep(1)
        _, headers, said = ask(f"{idp.url}/v1.0/groups?$top=2&$select=id", **head)
        assert headers["x-ms-resource-unit"] == "1"
        assert said["@odata.nextLink"].startswith(f"{idp.url}/v1.0/groups?$top=2&$select=id&$skiptoken=")
        assert ask(f"{idp.url}/v1.0/users/delta?$top=3", **head)[0] == 400
        assert ask(f"{idp.url}/v1.0/directory/deletedItems", **head)[0] == 400
        assert ask(f"{idp.url}/v1.0/users?$filter=accountEnabled%20ne%20true", **head)[0] == 400
        assert ask(f"{idp.url}/v1.0/servicePrincipals(appId='{entra.APP}')/appRoleAssignedTo", **head)[0] == 200
        assert ask(f"{idp.url}/v1.0/servicePrincipals(appId='x')/appRoleAssignedTo", **head)[0] == 404


@pytest.mark.parametrize(
    ("roles", "path"), [((), "/users"), (("User.Read.All",), "/groups"), (("GroupMember.Read.All",), "/users")]
)
def test_a_permission_that_is_missing(roles: tuple[str, ...], path: str) -> None:
    with running("entra", users=3, groups=1, memberships=2, options={"roles": roles}) as idp:
        status, _, said = ask(f"{idp.url}/v1.0{path}", **bearer(idp))
        assert (status, said["error"]["code"]) == (403, "Authorization_RequestDenied")


def test_an_old_delta_token_is_gone() -> None:
    with running("entra", users=3, groups=1, memberships=2, options={"delta_seconds": 0}) as idp:
        head = bearer(idp)
        link = ask(f"{idp.url}/v1.0/users/delta", **head)[2]["@odata.deltaLink"]
        status, headers, _ = ask(link, **head)
        assert status == 410
        assert headers["Location"].endswith("$deltatoken=")
