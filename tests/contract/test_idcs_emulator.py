"""The emulator of IDCS and OCI identity domains, read by Oracle's own SDK, which we did not write."""

from __future__ import annotations

import base64
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deployments.sandbox.idcs import LEAVING_GROUP, LEAVING_USER, SERVICE_USER, group_id, user_id
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import organisation
from deployments.sandbox.server import children_of, members_of
from tests.support.clients import client_package, drive

SIZE: dict[str, Any] = {"users": 60, "groups": 12, "memberships": 150, "seed": 3}
ORACLE_ERROR = "urn:ietf:params:scim:api:oracle:idcs:extension:messages:Error"


def ask(url: str, *, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), orjson.loads(error.read())


def basic(idp: RunningIdp) -> str:
    return "Basic " + base64.b64encode(f"{idp.settings['client_id']}:{idp.secrets['client_secret']}".encode()).decode()


def token(idp: RunningIdp) -> str:
    form = b"grant_type=client_credentials&scope=urn:opc:idm:__myscopes__"
    return str(ask(f"{idp.url}/oauth2/v1/token", data=form, Authorization=basic(idp))[2]["access_token"])


def new_key(file: Path) -> str:
    """A private key into a file; its public key."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.nightly
def test_the_sdk_reads_everything(tmp_path: Path) -> None:
    company = organisation(**SIZE)
    people, teams = {user_id(p.id): p for p in company.people}, {group_id(t.id): t for t in company.teams}
    users = {group_id(t.id): set(map(user_id, m)) for t, m in zip(company.teams, members_of(company), strict=True)}
    nested = {group_id(k): {group_id(one) for one in v} for k, v in children_of(company).items()}
    public = new_key(tmp_path / "key.pem")
    new_key(tmp_path / "other.pem")
    with running("idcs", **SIZE, options={"public_key": public, "members_cap": 140, "limit": 150}) as idp:
        found = drive(
            Path(__file__).parent / "idp_clients" / "idcs_driver.py",
            *(idp.url, str(tmp_path / "key.pem"), str(tmp_path / "other.pem")),
            package=client_package("oci==2.189.0"),
        )
        counts = idp.counts()
    assert found["wrong key"][0] == 401

    extra = {SERVICE_USER, LEAVING_USER}
    assert set(found["users"]) == {*people, *extra}
    assert found["user pages"] == 3
    assert (found["default count"], found["most"], found["none"]) == (50, 1000, 62)
    for key, person in people.items():
        seen = found["users"][key]
        assert seen["name"] == f"{person.username}@acme.example"
        assert (seen["names"], seen["display"]) == ([person.first_name, person.last_name], person.display_name)
        assert (seen["active"], seen["email"]) == (person.active, [person.email] if person.email else [])
        assert (seen["department"], seen["manager"]) == (
            person.department or None,
            user_id(person.manager) if person.manager else None,
        )
        assert (seen["groups"], seen["login"], seen["service"], seen["going"]) == (None, None, None, None)
        assert seen["ocid"] == f"ocid1.user.oc1..aaaaaaaa{key}"
    every = [found["users"][key] for key in people]
    assert {"recovery", "work"} <= {kind for one in every for kind in one["types"]}
    assert {one["locked"] for one in every} == {True, False}
    assert any(one["locked"] and one["active"] for one in every)
    assert (found["users"][SERVICE_USER]["service"], found["users"][LEAVING_USER]["going"]) == (True, True)
    names = sorted(
        [*(f"{p.username}@acme.example".lower() for p in company.people), "backup-job", "leaving@acme.example"]
    )
    assert [one[1].lower() for one in found["some"]] == names[:3]
    assert all(one[3:] == [None, None, None] for one in found["some"])
    assert [one.lower() for one in found["descending"]] == names[::-1][:50]
    assert set(found["request"]) <= {"verified", "pendingVerification"}
    first = sorted(people)[0]
    assert found["alone"] == found["users"][first]
    assert found["alone by ocid"][0] == 404

    assert {k: v[:2] for k, v in found["groups"].items() if k != LEAVING_GROUP} == {
        k: [t.name, t.name] for k, t in teams.items()
    }
    assert all(v[2] for k, v in found["groups"].items() if k != LEAVING_GROUP)
    assert {str(v[3]) for v in found["groups"].values()} == {"None"}  # members are returned=request
    assert (found["group pages"], found["going"]) == (3, [LEAVING_GROUP])
    for key in teams:
        rows = found["members"][key]
        assert {row[0] for row in rows if row[1] == "User"} == users[key]
        # This SDK knows of no other kind of member, and shows a nested group as unknown.
        assert {row[0] for row in rows if row[1] == "UNKNOWN_ENUM_VALUE"} == nested.get(key, set())
        assert all(row[0] == row[2] for row in rows)
        within, waiting = set(users[key]), [key]
        while waiting:
            for child in nested.get(waiting.pop(), ()):
                within |= users[child]
                waiting.append(child)
        assert set(found["of groups"][key]) == within
    direct = {k: {g for g, kind, _ in v if kind == "direct"} for k, v in found["groups of users"].items()}
    assert direct == {k: {g for g, m in users.items() if k in m} for k in {*people, *extra}}
    assert any(kind == "indirect" for v in found["groups of users"].values() for _, kind, _ in v)
    assert found["types unasked"] == ["None"]

    assert found["by name"] == [first]
    assert found["by mail"] == [k for k, p in people.items() if p.email == found["users"][first]["name"]]
    assert found["by ids"] == sorted(people)[:2]
    assert found["since"] == [62, 0]
    assert found["service"] == ["backup-job"]
    inactive = sum(not p.active for p in company.people)
    assert found["searched"] == [inactive, sorted(teams)[0]]
    assert found["mixed"] == inactive + sum(p.active and not p.title for p in company.people) + 2
    assert found["bad filter"][0] == found["not searchable"][0] == 400
    assert found["too many"][0] == 400
    assert found["429"][0] == 429
    assert found["ecid"]
    assert counts["POST /Users/.search"] == counts["POST /Groups/.search"] == 1


def test_the_token_grant() -> None:
    with running("idcs", users=3, groups=1, memberships=2) as idp:
        at, grant = f"{idp.url}/oauth2/v1/token", "grant_type=client_credentials"
        scope = "&scope=" + urllib.parse.quote("urn:opc:idm:__myscopes__ urn:opc:resource:expiry=7200")
        status, _, body = ask(at, data=f"{grant}{scope}".encode(), Authorization=basic(idp))
        assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 3600)
        assert ask(at, data=grant.encode(), Authorization=basic(idp))[2]["error"] == "invalid_scope"
        assert ask(at, data=f"grant_type=password{scope}".encode(), Authorization=basic(idp))[0] == 400
        # The secret belongs into Basic.
        inside = f"{grant}{scope}&client_id={idp.settings['client_id']}&client_secret={idp.secrets['client_secret']}"
        assert ask(at, data=inside.encode())[2]["error"] == "invalid_client"
        users = f"{idp.url}/admin/v1/Users"
        assert ask(users)[0] == ask(users, Authorization="Bearer x")[0] == 401
        assert ask(users, Authorization=f"Bearer {body['access_token']}")[0] == 200
        # A signed request is taken only where a key is known.
        assert ask(users, Authorization='Signature version="1",headers="date"')[0] == 401


def test_what_the_sdk_does_not_show() -> None:
    with running("idcs", users=30, groups=4, memberships=60, options={"members_cap": 30, "restless": True}) as idp:
        bearer: dict[str, Any] = {"Authorization": f"Bearer {token(idp)}"}
        # Blanks may be plus signs; a start below 1 is 1, a negative count 50.
        status, headers, body = ask(f"{idp.url}/admin/v1/Users?filter=active+eq+true&startIndex=-3&count=-1", **bearer)
        assert (status, body["startIndex"], body["itemsPerPage"]) == (200, 1, 50)
        assert headers["Content-Type"] == "application/scim+json"
        assert "X-ORACLE-DMS-RID" in headers
        # The documented spelling of a page inside an attribute.
        group = ask(f"{idp.url}/admin/v1/Groups?attributes=displayName&sortBy=id", **bearer)[2]["Resources"][0]["id"]
        inside = f"{idp.url}/admin/v1/Groups/{group}?attributes=members[startIndex=1%26count=2]"
        assert len(ask(inside, **bearer)[2]["members"]) == 2
        assert "members" not in ask(inside.replace("startIndex=1", "startIndex=99"), **bearer)[2]
        status, _, body = ask(f"{idp.url}/admin/v1/Groups?attributes=members", **bearer)
        assert (status, body["status"], list(body[ORACLE_ERROR])) == (400, "400", ["messageId"])
        # Without an order there is none.
        lists = [
            ask(f"{idp.url}/admin/v1/Users?count=9{by}", **bearer)[2] for by in ("", "", "&sortBy=id", "&sortBy=id")
        ]
        ids = [[one["id"] for one in page["Resources"]] for page in lists]
        assert ids[0] != ids[1]
        assert ids[2] == ids[3] == sorted(ids[2])
