"""Real time from a real Keycloak: its webhooks reach `crowdsync receive`, and `crowdsync react` brings Crowd in step.

The webhook is made as the page for administrators of Keycloak says, with the event types that stand there. Each change
is made as an administrator or the person makes it; what is measured is the time from the answer of Keycloak until Crowd
shows it. CROWDSYNC_ROUNDS (1) says how many people go through all changes.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.store import Store
from deployments.process import ending
from deployments.sandbox import crowd as sandbox_crowd
from flows.road import SyncRequest, walk
from tests.keycloak.server import ROOT, VERSION, WITH_WEBHOOKS, Server

ROUNDS = int(os.environ.get("CROWDSYNC_ROUNDS", "1"))
REALM, CLIENT = "live", "crowdsync"
SECRET, WEBHOOK, CROWD, PASSWORD = "s" * 32, "w" * 40, "pw", "correct horse"
PATIENCE = 180
"""Seconds until a change must be in Crowd; that it takes long is no failure on a busy machine."""
POLL = 0.01
PAGE = ROOT / "connectors" / "idp" / "docs" / "keycloak.md"
POLICY: dict[str, Any] = {
    "scope": {"required_groups": ["staff"]},
    "limits": {
        kind: {} for kind in ("user_rename", "user_deactivate", "membership_remove", "nesting_remove", "group_loss")
    }
    | {"unusual_times": None},
}
pytestmark = pytest.mark.skipif(VERSION != WITH_WEBHOOKS, reason="the extension is for another Keycloak")


def as_documented(url: str) -> dict[str, Any]:
    """The webhook that the page tells to make, with this address."""
    found = re.search(r"\{[^{}]*\"eventTypes\"[^{}]*\}", PAGE.read_text(encoding="utf-8"))
    assert found
    return {**json.loads(found.group()), "url": url, "secret": WEBHOOK}


@dataclass(frozen=True)
class Place:
    """The two sides, and what stands between them."""

    keycloak: Server
    crowd: sandbox_crowd.RunningCrowd
    home: Path
    in_crowd: httpx.Client

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from deployments.cli import main; main()", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.PIPE, text=True
        )

    def call(self, method: str, path: str, body: Any = None, **more: str) -> Any:
        return self.keycloak.call(method, f"/{REALM}{path}", body, **more)

    def change(self, key: str, **fields: Any) -> None:
        self.call("PUT", f"/users/{key}", {**self.call("GET", f"/users/{key}"), **fields})

    def sign_in(self, username: str, password: str = PASSWORD, client: str = "admin-cli") -> httpx.Response:
        form = {"grant_type": "password", "client_id": client, "username": username, "password": password}
        return self.keycloak.client.post(f"/realms/{REALM}/protocol/openid-connect/token", data=form)

    def account(self, username: str) -> dict[str, Any]:
        """The account in Crowd; empty where there is none."""
        answer = self.in_crowd.get("/user", params={"username": username})
        return dict(answer.json()) if answer.status_code == 200 else {}

    def active(self, username: str) -> bool | None:
        return self.account(username).get("active")

    def member(self, username: str, group: str) -> bool:
        asked = {"username": username, "groupname": group}
        return self.in_crowd.get("/user/group/direct", params=asked).status_code == 200

    def open_rows(self) -> str:
        with Store.open(f"sqlite:///{self.home}/store.db") as store:
            return str(store.inbox(limit=20).to_dict("records"))


@pytest.fixture(scope="module")
def place(keycloak: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home, before = tmp_path_factory.mktemp("real time"), dict(os.environ)
    people = [
        {"username": f"person.{number}", "email": f"person.{number}@x.org", "enabled": True, "groups": ["/staff"]}
        for number in range(40)
    ]
    groups: list[dict[str, Any]] = [
        {"name": "staff"},
        {"name": "devs", "subGroups": [{"name": "juniors"}]},
        {"name": "ops"},
    ]
    keycloak.make_realm(REALM, users=people, groups=groups, clients=(CLIENT,), secret=SECRET)
    guarded = {"bruteForceProtected": True, "permanentLockout": True, "failureFactor": 2}
    keycloak.call("PUT", f"/{REALM}", {**guarded, "quickLoginCheckMilliSeconds": 0})
    console = keycloak.call("GET", f"/{REALM}/clients", clientId="account-console")[0]
    keycloak.call("PUT", f"/{REALM}/clients/{console['id']}", {**console, "directAccessGrantsEnabled": True})
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": CROWD}))
        os.environ |= {
            "CROWDSYNC_CROWD_PASSWORD": CROWD,
            "CROWDSYNC_SOURCE_SECRET": SECRET,
            "CROWDSYNC_WEBHOOK_SECRET": WEBHOOK,
            "CROWDSYNC_CONFIG": str(home / "crowdsync.toml"),
        }
        os.environ.pop("PREFECT_API_URL", None)
        (home / "policy.yaml").write_text(json.dumps(POLICY), encoding="utf-8")
        (home / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{home}/store.db"\n[directory]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
            f'[sources.acme]\nkind = "keycloak"\nurl = "{keycloak.url}"\nrealm = "{REALM}"\nclient_id = "{CLIENT}"\n'
            f'client_secret_env = "CROWDSYNC_SOURCE_SECRET"\npolicy_file = "policy.yaml"\n'
            "sign_in_minutes = 0\n[sources.acme.webhook]\n",
            encoding="utf-8",
        )
        in_crowd = httpx.Client(
            base_url=f"{crowd.url}/rest/usermanagement/1",
            auth=("crowdsync", CROWD),
            headers={"accept": "application/json"},
            trust_env=False,
        )
        yield Place(keycloak, crowd, home, stack.enter_context(in_crowd))


@pytest.fixture(scope="module")
def told(place: Place) -> Iterator[None]:
    """The two processes run, and Keycloak tells them."""
    with (
        ending(place.start("receive", "--port", "0")) as receiver,
        ending(place.start("react"), patience=30) as reactor,
    ):
        assert receiver.stdout is not None
        assert reactor.stdout is not None
        address = receiver.stdout.readline().split()[-1]
        assert reactor.stdout.readline() == "reacting for crowd\n"
        place.call("PUT", "", {"eventsListeners": ["jboss-logging", "ext-event-webhook"]})
        made = as_documented(f"{address}/webhooks/acme")
        place.keycloak.call("POST", f"/{REALM}/webhooks", made, base="/realms")
        yield


async def test_before_news_come_everybody_is_in_step(place: Place) -> None:
    for status in ("applied", "nothing to do"):
        assert (await walk(SyncRequest(source="acme"))).status == status
    assert place.active("person.1")


Step = tuple[str, Callable[[], Any], Callable[[], bool]]


def life(place: Place, name: str) -> Iterator[Step]:
    """What becomes of one person: a change, how it is made, and when Crowd shows it."""
    groups = {group["name"]: group["id"] for group in place.call("GET", "/groups")}
    devs, staff = groups["devs"], groups["staff"]
    password = {"type": "password", "value": PASSWORD, "temporary": False}
    first = {"username": name, "email": f"{name}@x.org", "firstName": "Ann", "lastName": "Lee", "enabled": True}
    fresh = {**first, "groups": ["/staff"], "credentials": [password]}
    key = ""

    def create() -> None:
        nonlocal key
        key = place.call("POST", "/users", fresh)

    yield "create", create, lambda: place.active(name) is True
    yield "disable", lambda: place.change(key, enabled=False), lambda: place.active(name) is False
    yield "enable", lambda: place.change(key, enabled=True), lambda: place.active(name) is True
    yield (
        "add to a group",
        lambda: place.call("PUT", f"/users/{key}/groups/{devs}"),
        lambda: place.member(name, "devs"),
    )
    yield (
        "remove from a group",
        lambda: place.call("DELETE", f"/users/{key}/groups/{devs}"),
        lambda: not place.member(name, "devs"),
    )
    yield (
        "out of the scope",
        lambda: place.call("DELETE", f"/users/{key}/groups/{staff}"),
        lambda: place.active(name) is False,
    )
    yield (
        "into the scope",
        lambda: place.call("PUT", f"/users/{key}/groups/{staff}"),
        lambda: place.active(name) is True,
    )
    new = f"{name}.new"
    yield (
        "rename, and another address",
        lambda: place.change(key, username=new, email=f"{new}@x.org"),
        lambda: place.account(new).get("email") == f"{new}@x.org" and not place.account(name),
    )
    deactivate(place, new)  # by hand, in Crowd, which tells nobody here
    yield "sign in", lambda: place.sign_in(new).raise_for_status(), lambda: place.active(new) is True
    yield (
        "their own change",
        own_change(place, new, firstName="Anna", lastName="Lee-Ito"),
        lambda: place.account(new).get("first-name") == "Anna",
    )

    def guess() -> None:
        for _ in range(2):
            assert place.sign_in(new, "a guess").status_code == 401

    yield "locked out by wrong passwords", guess, lambda: place.active(new) is False
    yield "enabled again", lambda: place.change(key, enabled=True), lambda: place.active(new) is True
    yield "delete", lambda: place.call("DELETE", f"/users/{key}"), lambda: place.active(new) is False


def own_change(place: Place, username: str, **fields: str) -> Callable[[], None]:
    """As the account console makes it."""
    token = place.sign_in(username, client="account-console").raise_for_status().json()["access_token"]
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    own = f"{place.keycloak.url}/realms/{REALM}/account/"

    def change() -> None:
        with httpx.Client(headers=headers, trust_env=False) as client:
            profile = client.get(own).raise_for_status().json()
            profile.pop("userProfileMetadata")
            client.post(own, json=profile | fields).raise_for_status()

    return change


def deactivate(place: Place, name: str) -> None:
    found = place.account(name)
    body = {key: found[key] for key in ("name", "first-name", "last-name", "display-name", "email")}
    place.in_crowd.put("/user", params={"username": name}, json=body | {"active": False}).raise_for_status()


def test_crowd_follows_each_change(place: Place, told: None, capsys: pytest.CaptureFixture[str]) -> None:
    took: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        for what, do, shown in life(place, f"newcomer.{number}"):
            assert not shown(), what
            do()
            answered = time.monotonic()
            while not shown():
                assert time.monotonic() < answered + PATIENCE, (what, place.open_rows())
                time.sleep(POLL)
            took.setdefault(what, []).append((time.monotonic() - answered) * 1000)
    every = [value for values in took.values() for value in values]
    with capsys.disabled():
        print(f"\nKeycloak {VERSION}: from its answer until Crowd shows it, ms (of {ROUNDS})\n{'':32}median     max")
        for what, values in {**took, "all": every}.items():
            print(f"{what:32}{statistics.median(values):6.0f}  {max(values):6.0f}")


def test_a_group_that_is_moved_is_so_in_crowd(place: Place, told: None) -> None:
    """It needs more than a few records, so everybody is read because of it."""
    below = place.call("GET", "/groups", search="juniors")[0]
    ops = place.call("GET", "/groups", search="ops")[0]["id"]
    assert (below["name"], nested(place)) == ("devs", {("juniors", "devs")})
    place.call("POST", f"/groups/{ops}/children", {"id": below["subGroups"][0]["id"], "name": "juniors"})
    until(lambda: nested(place) == {("juniors", "ops")}, place)


def nested(place: Place) -> set[tuple[str, str]]:
    return {(child, parent) for child, parent in place.crowd.state()["nestings"]}


def until(what: Callable[[], bool], place: Place) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, place.open_rows()
        time.sleep(0.05)


async def test_then_nothing_is_left_to_do(place: Place, told: None) -> None:
    until(lambda: place.open_rows() == "[]", place)
    place.crowd.reset_counts()
    assert (await walk(SyncRequest(source="acme"))).status == "nothing to do"
    assert place.crowd.counts()["writes"] == 0


@contextmanager
def listening(answers: list[int]) -> Iterator[tuple[str, list[bytes]]]:
    """An address that gives these answers, the last of them from then on; and the bodies that came."""
    bodies: list[bytes] = []

    class Once(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """It says nothing."""

    with HTTPServer(("127.0.0.1", 0), Once) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/webhooks/acme", bodies
        server.shutdown()


def test_keycloak_sends_again_what_was_answered_with_a_503(place: Place, told: None) -> None:
    """With the same `uid`, so that it is known as the same delivery; and what the page calls passed over stays away."""
    someone = place.call("GET", "/users", username="person.2", exact="true")[0]["id"]
    with listening([503, 204]) as (address, bodies):
        made = place.keycloak.call("POST", f"/{REALM}/webhooks", as_documented(address), base="/realms")
        assert place.sign_in("person.2", "a guess").status_code == 401  # access.LOGIN_ERROR is none of the event types
        place.change(someone, lastName="Again")
        until(lambda: len(bodies) == 2, place)
        place.keycloak.call("DELETE", f"/{REALM}/webhooks/{made}", base="/realms")
    one, two = (json.loads(body) for body in bodies)
    assert one == two
    assert (one["type"], one["resourcePath"]) == ("admin.USER-UPDATE", f"users/{someone}")
