"""Keycloak as two more things that we did not write: a SCIM server that is read (`kind = "scim"`), and a transmitter of
security event tokens that tells `crowdsync receive`. Both are new in Keycloak 26.7, preview and experimental.

Not in CI, for there Keycloak is an older one, which fits the extension that sends webhooks. `make test-keycloak-newest`
runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Scope
from connectors.http import Http
from connectors.idp.scim import Scim
from connectors.store import Store
from deployments.process import ending
from tasks.read.extract import read_source
from tests.keycloak.server import NEWEST, ROOT, VERSION, Server

REALM, CLIENT, SECRET = "newest", "crowdsync", "s" * 32
AUDIENCE = "https://crowdsync.example.org/events/acme"
CAEP = "https://schemas.openid.net/secevent/caep/event-type"
PEOPLE = [f"person.{number}" for number in range(230)]  # Keycloak gives a hundred a page
GROUPS = {"all": PEOPLE, "few": PEOPLE[:7], "nobody": [], "below": PEOPLE[3:5]}
PATHS = {**{name: f"/{name}" for name in GROUPS}, "below": "/all/below"}
pytestmark = pytest.mark.skipif(VERSION != NEWEST, reason="another Keycloak has neither")


@pytest.fixture(scope="module")
def ids(keycloak: Server) -> dict[str, str]:
    """The realm is filled; names → ids."""
    people = [
        {
            "username": name,
            "email": f"{name}@x.org",
            "firstName": "Ann",
            "lastName": name.title(),
            "enabled": number % 7 != 0,
            "groups": [
                f"/{'all/' * (group == 'below')}{group}" for group, members in GROUPS.items() if name in members
            ],
        }
        for number, name in enumerate(PEOPLE)
    ]
    groups: list[dict[str, Any]] = [
        {"name": "all", "subGroups": [{"name": "below"}]},
        {"name": "few"},
        {"name": "nobody"},
    ]
    keycloak.make_realm(REALM, users=people, groups=groups, clients=(CLIENT,), secret=SECRET)
    attributes = {"ssf.transmitterEnabled": "true", "ssf.defaultSubjects": "ALL"}
    keycloak.call("PUT", f"/{REALM}", {"scimApiEnabled": True, "attributes": attributes})
    found = {one["username"]: one["id"] for one in keycloak.call("GET", f"/{REALM}/users", max="1000")}
    return found | {one["name"]: one["id"] for one in keycloak.call("GET", f"/{REALM}/groups", search="")}


# --- SCIM --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scim(keycloak: Server, ids: dict[str, str]) -> tuple[str, str]:
    """The SCIM root, and a token: of a client with `view-users`, made out to that root."""
    root = f"{keycloak.url}/realms/{REALM}/scim/v2"
    client = keycloak.call("GET", f"/{REALM}/clients", clientId=CLIENT)[0]["id"]
    mapper = {
        "name": "scim",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": root, "access.token.claim": "true"},
    }
    keycloak.call("POST", f"/{REALM}/clients/{client}/protocol-mappers/models", mapper)
    form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
    said = keycloak.client.post(f"/realms/{REALM}/protocol/openid-connect/token", data=form).raise_for_status().json()
    return root, said["access_token"]


@pytest.mark.parametrize("how", ["auto", "list", "get"])
async def test_all_that_it_shows_is_read(scim: tuple[str, str], ids: dict[str, str], how: str) -> None:
    """What it does not show: groups below others, and who is below one."""
    async with Http(scim[0], name="keycloak", bearer=scim[1]) as http:
        found = await read_source(Scim(http, group_members=how), Scope())
    assert set(found.users[["id", "username", "email", "last_name", "active"]].itertuples(index=False, name=None)) == {
        (ids[name], name, f"{name}@x.org", name.title(), number % 7 != 0) for number, name in enumerate(PEOPLE)
    }
    tops = {name: members for name, members in GROUPS.items() if name != "below"}
    assert set(found.groups[["id", "name"]].itertuples(index=False, name=None)) == {(ids[name], name) for name in tops}
    assert set(found.memberships.itertuples(index=False, name=None)) == {
        (ids[group], ids[name], "user") for group, members in tops.items() for name in members
    }
    assert found.held.empty


async def test_one_person_is_read_as_in_a_whole_read(scim: tuple[str, str], ids: dict[str, str]) -> None:
    async with Http(scim[0], name="keycloak", bearer=scim[1]) as http:
        source = Scim(http)
        for key in (ids["person.3"], "person.3", "person.3@x.org"):
            person = await source.user(key)
            assert person is not None
            assert person.user[:3] == (ids["person.3"], "person.3", "person.3@x.org")
            assert {group[1] for group in person.groups} == {"all", "few"}
        assert await source.user("nobody.here") is None
        assert await source.has_user(ids["person.3"])
        assert await source.has_group(ids["few"])
        assert not await source.has_user(ids["few"])


# --- security event tokens ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(keycloak: Server, ids: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The database of a receiver that Keycloak sends tokens to."""
    home, issuer = tmp_path_factory.mktemp("receiver"), f"{keycloak.url}/realms/{REALM}"
    keys = keycloak.client.get(f"/realms/{REALM}/protocol/openid-connect/certs").raise_for_status()
    (home / "jwks.json").write_bytes(keys.content)
    (home / "crowdsync.toml").write_text(
        f'[store]\nurl = "sqlite:///{home}/store.db"\n'
        '[directory]\nurl = "http://127.0.0.1:9/crowd"\napplication = "crowdsync"\n'
        f'[sources.acme]\nkind = "keycloak"\nurl = "{keycloak.url}"\nrealm = "{REALM}"\nclient_id = "{CLIENT}"\n'
        f'[sources.acme.events]\nissuer = "{issuer}"\naudience = "{AUDIENCE}"\njwks_file = "{home}/jwks.json"\n',
        encoding="utf-8",
    )
    environment = {**os.environ, "CROWDSYNC_CONFIG": str(home / "crowdsync.toml"), "PYTHONPATH": "."}
    command = [sys.executable, "-c", "from deployments.cli import main; main()", "receive", "--port", "0"]
    with ending(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)) as receiver:
        assert receiver.stdout is not None
        push = f"{receiver.stdout.readline().split()[-1]}/events/acme"
        events = [f"{CAEP}/session-revoked", f"{CAEP}/credential-change"]
        attributes = {
            "ssf.enabled": "true",
            "ssf.defaultSubjects": "ALL",
            "ssf.allowedDeliveryMethods": "push",
            "ssf.validPushUrls": push,
            "ssf.supportedEvents": ",".join(events),
            "ssf.streamAudience": AUDIENCE,
        }
        client = {"clientId": "receiver", "publicClient": False, "serviceAccountsEnabled": True}
        keycloak.call("POST", f"/{REALM}/clients", {**client, "attributes": attributes})
        delivery = {"method": "urn:ietf:rfc:8935", "endpoint_url": push}
        stream = {"delivery": delivery, "events_requested": events}
        keycloak.call("POST", f"/{REALM}/ssf/clients/receiver/stream", stream)
        yield home / "store.db"


def hints(database: Path) -> list[Any]:
    with Store.open(f"sqlite:///{database}") as store:
        rows = store.inbox(limit=20)[["source", "kind", "key", "via"]]
    return list(rows.itertuples(index=False, name=None))


def test_its_security_event_tokens_name_whom_they_are_about(keycloak: Server, ids: dict[str, str], told: Path) -> None:
    """A session that ends (`sub_id` of a person and a session), and a password that is set (of a person alone)."""
    password = {"type": "password", "value": "correct horse", "temporary": False}
    someone, another = ids["person.1"], ids["person.2"]
    keycloak.call("PUT", f"/{REALM}/users/{someone}/reset-password", password)
    until(told, [("acme", "user", someone, "event")])
    keycloak.call("PUT", f"/{REALM}/users/{another}/reset-password", password)
    until(told, [("acme", "user", someone, "event"), ("acme", "user", another, "event")])


def test_a_session_that_ends_names_whose_it_was(keycloak: Server, ids: dict[str, str], told: Path) -> None:
    third = ids["person.3"]
    password = {"type": "password", "value": "correct horse", "temporary": False}
    keycloak.call("PUT", f"/{REALM}/users/{third}", {"credentials": [password]})
    form = {"grant_type": "password", "client_id": "admin-cli", "username": "person.3", "password": "correct horse"}
    keycloak.client.post(f"/realms/{REALM}/protocol/openid-connect/token", data=form).raise_for_status()
    keycloak.call("POST", f"/{REALM}/users/{third}/logout")
    until(told, [("acme", "user", third, "event")])


def until(database: Path, wanted: list[Any]) -> None:
    end = time.monotonic() + 60
    while not set(wanted) <= set(hints(database)):
        assert time.monotonic() < end, hints(database)
        time.sleep(0.2)
