"""What Keycloak answers: the same for the emulated one and for a real one of which the emulator must be true."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from deployments.sandbox.idp import RunningIdp
from deployments.sandbox.organisation import Organisation
from tests.support.clients import client_package, drive

SIZE = {"users": 250, "groups": 40, "memberships": 1500}
CLIENT = "python-keycloak==7.1.1"
DRIVER = Path(__file__).parents[1] / "contract" / "idp_clients" / "keycloak_driver.py"


class Client:
    """Plain requests, with a token."""

    def __init__(self, idp: RunningIdp, prefix: str = "", realm: str = "acme") -> None:
        self.base, self.realm, self.secret = idp.url + prefix, realm, idp.secrets["client_secret"]
        self.token = self.grant(client_id="crowdsync", client_secret=self.secret)[1]["access_token"]

    def grant(self, grant_type: str = "client_credentials", realm: str = "", **form: str) -> tuple[int, Any]:
        path = f"/realms/{realm or self.realm}/protocol/openid-connect/token"
        fields = {"grant_type": grant_type, **form} if grant_type else form
        return self.call(path, {}, urlencode(fields).encode())

    def get(self, path: str, token: str | None = None, **query: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return self.call(f"/admin/realms/acme{path}{'?' if query else ''}{urlencode(query)}", headers)

    def call(self, path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(self.base + path, body, dict(headers))
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return answer.status, orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read()
            return error.code, orjson.loads(said) if said.startswith(b"{") else said

    def ids(self, path: str, **query: Any) -> list[str]:
        status, found = self.get(path, **query)
        assert status == 200, found
        return [one["id"] for one in found]


def python_keycloak(idp: RunningIdp, company: Organisation) -> None:
    """All that the client can read, page after page, as the company has it."""
    person = company.people[int(company.member_person[0])]
    idp.reset_counts()
    found = drive(
        DRIVER,
        *(idp.url, "acme", "crowdsync", idp.secrets["client_secret"], person.username),
        package=client_package(CLIENT),
    )
    assert found["token"] == {"expires_in": 300, "token_type": "Bearer", "refresh_expires_in": 0}
    assert found["users_count"] == len(found["users"]) == 250
    shown = {(p["id"], p["username"], p.get("email", ""), p.get("firstName", ""), p["enabled"]) for p in found["users"]}
    assert shown == {(p.id, p.username, p.email.lower(), p.first_name, p.active) for p in company.people}
    departments = {p["id"]: p["attributes"]["department"] for p in found["users"]}
    assert departments == {p.id: [p.department] for p in company.people}

    groups = found["groups"]
    assert found["groups_count"] == len(groups) == 40
    assert found["groups_count_top"] == sum(not group["parent"] for group in groups.values())
    assert {key: group["name"] for key, group in groups.items()} == {team.id: team.name for team in company.teams}
    people = {p.id for p in company.people}
    members = {(key, member) for key, group in groups.items() for member in group["members"] if member in people}
    pairs = zip(company.member_team.tolist(), company.member_person.tolist(), strict=True)
    assert members == {(company.teams[t].id, company.people[p].id) for t, p in pairs}
    pairs = zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True)
    nestings = {(company.teams[p].id, company.teams[c].id) for p, c in pairs}
    shown_nestings = {(group["parent"], key) for key, group in groups.items() if group["parent"]}
    assert shown_nestings
    assert shown_nestings <= nestings
    assert {child for _, child in shown_nestings} == {child for _, child in nestings}
    assert sum(len(group["members"]) for group in groups.values()) == 1500 + 2  # a service account in two groups

    assert (found["one"]["id"], found["one"]["access"]["view"]) == (person.id, True)
    assert set(found["its_groups"]) == {key for key, member in members if member == person.id}
    assert found["by_path"] is True
    assert any(len(line) > 1 for line in found["found"])  # an ancestor, with what was found below it
    assert found["services"] == [f"service-account-{name}" for name in ("crowdsync", "jenkins", "monitoring")]
    assert found["errors"] == {
        "user": [404, {"error": "User not found"}],
        "group": [404, {"error": "Could not find group by id"}],
        "path": [404, {"error": "Group path does not exist"}],
        "write": [403, {"error": "HTTP 403 Forbidden"}],
        "secret": [
            401,
            {
                "error": "unauthorized_client",
                "error_description": "Invalid client or Invalid client credentials",
            },
        ],
    }
    counts = idp.counts()
    assert counts["GET /users"] >= 3 * 3  # three times, in pages of a hundred
    assert counts["GET /groups/{id}/members"] >= 40


def token_errors(client: Client) -> None:
    secret, told = client.secret, "Invalid client or Invalid client credentials"
    cases: list[tuple[dict[str, str], int, dict[str, str]]] = [
        ({"client_id": "nobody", "client_secret": secret}, 401, {"error": "invalid_client", "error_description": told}),
        ({"client_id": "crowdsync"}, 401, {"error": "unauthorized_client", "error_description": told}),
        ({"client_id": "crowdsync", "client_secret": secret, "grant_type": "x"}, 400,
         {"error": "unsupported_grant_type", "error_description": "Unsupported grant_type"}),
        ({"client_id": "crowdsync", "client_secret": secret, "grant_type": ""}, 400,
         {"error": "invalid_request", "error_description": "Missing form parameter: grant_type"}),
        ({"client_id": "crowdsync", "client_secret": secret, "realm": "none"}, 404, {"error": "Realm does not exist"}),
    ]  # fmt: skip
    for form, status, body in cases:
        assert client.grant(**form) == (status, body)
    basic = {"Authorization": "Basic " + __import__("base64").b64encode(f"crowdsync:{secret}".encode()).decode()}
    path = "/realms/acme/protocol/openid-connect/token"
    assert client.call(path, basic, b"grant_type=client_credentials&client_id=crowdsync")[0] == 200


def requests_that_are_refused(client: Client) -> None:
    assert client.get("/users", token="") == (401, {"error": "HTTP 401 Unauthorized"})
    assert client.get("/users", token="x") == (401, {"error": "HTTP 401 Unauthorized"})
    for query in ({"first": "abc"}, {"max": "9999999999"}):
        assert client.get("/users", **query) == (404, {"error": "HTTP 404 Not Found"})
    headers = {"Authorization": f"Bearer {client.token}"}
    assert client.call("/admin/realms/nope/users", headers) == (404, {"error": "Realm not found."})
    assert client.call("/admin/realms/master/users", headers) == (403, {"error": "HTTP 403 Forbidden"})
    assert client.call("/auth/admin/realms/acme/users", headers)[0] == 404
    assert client.get("/group-by-path//x")[1]["error"] == "missingNormalization"
    assert client.get("/groups/nothing/members") == (404, {"error": "Could not find group by id"})
    assert client.get("/users/nobody/groups") == (404, {"error": "User not found"})


def paging(client: Client, *, flat_groups: bool = True) -> None:
    """Defaults: 100 users, 100 members, 10 children, all groups at the top; no cap, and below zero no limit.
    `flat_groups`: all levels come in one list, as from 26.7 on; a server before it finds nothing by `search=*`."""
    everybody = client.ids("/users", max=-1)
    assert len(everybody) == client.get("/users/count")[1] == 250
    assert client.ids("/users") == everybody[:100]
    assert client.ids("/users/") == everybody[:100]
    assert client.ids("/users", first=-5, max=3) == everybody[:3]
    assert client.ids("/users", first=249, max=5000) == everybody[249:]
    assert client.ids("/users", first=250) == client.ids("/users", max=0) == []
    top = client.ids("/groups")
    assert len(top) == client.get("/groups/count", top="true")[1]["count"] > 10
    assert client.ids("/groups", first=1, max=2) == top[1:3]
    parents = [group for group in client.get("/groups")[1] if group["subGroupCount"]]
    for group in parents:
        children = client.ids(f"/groups/{group['id']}/children", max=-1)
        assert len(children) == group["subGroupCount"]
        assert client.ids(f"/groups/{group['id']}/children") == children[:10]
        members = client.ids(f"/groups/{group['id']}/members", max=-1)
        assert client.ids(f"/groups/{group['id']}/members") == members[:100]
    flat = client.ids("/groups", search="*", populateHierarchy="false")
    assert client.get("/groups/count")[1]["count"] == 40
    assert len(set(flat)) == len(flat) == (40 if flat_groups else 0)
    assert client.ids("/groups", search="", populateHierarchy="false") == top


def which_fields_come(client: Client) -> None:
    brief, full = (client.get("/users", max=1, briefRepresentation=x)[1][0] for x in ("true", "false"))
    dropped = {"attributes", "totp", "disableableCredentialTypes", "requiredActions", "notBefore"}
    assert set(full) - set(brief) - {"userProfileMetadata"} == dropped  # (which servers before 26.7 show, too)
    assert {"access", "enabled", "createdTimestamp", "emailVerified"} <= set(brief)
    group = client.get("/groups")[1][0]
    assert "attributes" not in group
    assert "attributes" in client.get("/groups", briefRepresentation="false")[1][0]
    member = client.get(f"/groups/{group['id']}/members", max=1)[1][0]
    assert "access" not in member
    assert "attributes" in member or member["username"].startswith("service-account-")
    mine = client.get(f"/users/{member['id']}/groups")[1][0]
    assert not {"subGroupCount", "access", "attributes"} & set(mine)


def service_accounts_come_with_named_filters_only(client: Client, company: Organisation) -> None:
    def services(**query: str) -> set[str]:
        found = client.get("/users", max=-1, **query)[1]
        return {user["username"] for user in found if user["username"].startswith("service-account-")}

    assert services() == services(search="service") == set()
    assert len(services(enabled="true")) == len(services(exact="true")) == 3
    assert services(username="service-account-jenkins", exact="true") == {"service-account-jenkins"}
    active = sum(person.active for person in company.people)
    assert client.get("/users/count", enabled="true")[1] == active + 3


def filters(client: Client, company: Organisation) -> None:
    person = company.people[7]
    for query in (
        {"username": person.username.upper(), "exact": "true"},
        {"email": person.email.upper(), "exact": "true"},
        {"search": f"id:{person.id}"},
        {"search": f'"{person.username}"'},
        {"search": f"{person.first_name} {person.email}"},
        {"search": f"*{person.username[2:]}"},
        {"username": person.username[1:-1], "lastName": person.last_name, "email": person.email},
    ):
        assert person.id in client.ids("/users", **query), query
        assert client.get("/users/count", **query)[1] == len(client.ids("/users", max=-1, **query))
    assert client.ids("/users", username=person.username[1:], exact="true") == []
    assert client.ids("/users", search="id:nobody") == []
    assert len(client.ids("/users", q=f"title:{person.title}", max=-1)) >= 1 if " " not in person.title else True
