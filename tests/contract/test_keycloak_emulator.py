"""The emulated Keycloak, held true by python-keycloak, by errors as the real one words them, and by its paging."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import Organisation, organisation
from tests.support import keycloak_clauses as clauses
from tests.support.clients import client_package, drive
from tests.support.keycloak_clauses import CLIENT, Client

SIZE: dict[str, Any] = {**clauses.SIZE}


@pytest.fixture(scope="module")
def idp() -> Iterator[RunningIdp]:
    with running("keycloak", **SIZE) as process:
        yield process


@pytest.fixture(scope="module")
def company() -> Organisation:
    return organisation(**SIZE, seed=1)


@pytest.fixture
def client(idp: RunningIdp) -> Client:
    return Client(idp)


def test_python_keycloak(idp: RunningIdp, company: Organisation) -> None:
    clauses.python_keycloak(idp, company)


def test_token_errors(client: Client) -> None:
    clauses.token_errors(client)


def test_requests_that_are_refused(client: Client) -> None:
    clauses.requests_that_are_refused(client)


def test_paging(client: Client) -> None:
    clauses.paging(client)


def test_which_fields_come(client: Client) -> None:
    clauses.which_fields_come(client)


def test_service_accounts_come_with_named_filters_only(client: Client, company: Organisation) -> None:
    clauses.service_accounts_come_with_named_filters_only(client, company)


def test_filters(client: Client, company: Organisation) -> None:
    clauses.filters(client, company)


def test_limit_as_python_keycloak_meets_it(company: Organisation) -> None:
    """A proxy's 429 in the middle of the reading."""
    with running("keycloak", **SIZE, options={"limit": 3}) as idp:
        script = Path(__file__).parent / "idp_clients" / "keycloak_driver.py"
        arguments = (idp.url, "acme", "crowdsync", idp.secrets["client_secret"], company.people[0].username)
        with pytest.raises(AssertionError, match="429"):
            drive(script, *arguments, package=client_package(CLIENT))


def test_a_caller_without_view_users() -> None:
    with running("keycloak", **SIZE, options={"role": "query-users"}) as idp:
        client = Client(idp)
        assert client.get("/users") == (200, [])
        assert client.get("/users/count") == (200, 250)
        assert client.get("/groups") == (403, {"error": "HTTP 403 Forbidden"})
    with running("keycloak", **SIZE, options={"role": ""}) as idp:
        assert Client(idp).get("/users/count") == (403, {"error": "HTTP 403 Forbidden"})


def test_an_old_server_under_a_path() -> None:
    with running("keycloak", **SIZE, options={"old": True, "prefix": "/auth"}) as idp:
        client = Client(idp, "/auth")

        def walk(groups: list[Any]) -> Iterator[str]:
            for group in groups:
                assert "subGroupCount" not in group
                yield group["id"]
                yield from walk(group["subGroups"])

        tree = client.get("/groups")[1]
        assert len(list(walk(tree))) == client.get("/groups/count")[1]["count"] == 40
        assert client.get(f"/groups/{tree[0]['id']}/children")[0] == 405
        listed = {user["id"]: user["enabled"] for user in client.get("/users", max=-1)[1]}
        alone = {key: client.get(f"/users/{key}")[1]["enabled"] for key in listed}
        assert any(listed[key] and not alone[key] for key in listed)  # locked for a while


def test_changes(company: Organisation) -> None:
    with running("keycloak", **SIZE) as idp:
        client = Client(idp)
        before = {user["id"]: user for user in client.get("/users", max=-1)[1]}
        idp.change(seed=2, leavers=2, joiners=1, renamed=1, disabled=1)
        after = {user["id"]: user for user in client.get("/users", max=-1)[1]}
        assert (len(before.keys() - after.keys()), len(after.keys() - before.keys())) == (2, 1)
        kept = before.keys() & after.keys()
        assert sum(before[key]["username"] != after[key]["username"] for key in kept) == 1
        assert sum(before[key]["enabled"] and not after[key]["enabled"] for key in kept) == 1
