"""A real Keycloak, on this machine, with what its administrators do.

The distribution is fetched once, by Maven, and unpacked into `.cache/keycloak`, with the extension that sends webhooks
where there is one that fits. Each `running` server has a database of its own, in memory, and ends with the block.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
WITH_WEBHOOKS, NEWEST = "26.5.6", "26.7.3"
VERSION = os.environ.get("CROWDSYNC_KEYCLOAK", WITH_WEBHOOKS)
ARTIFACTS = {
    WITH_WEBHOOKS: {
        "org.keycloak:keycloak-quarkus-dist:26.5.6:tar.gz": (
            "fa3dd5df90b9ac006712c2f0991be4e8a6cb30ac538e0439ce2f45fc40f4c692"
        ),
        "io.phasetwo.keycloak:keycloak-events:0.52:jar": (
            "22d98775326a3fc1e13486b390e0f3a9a429e5d89a42d4419975def1e7d65340"
        ),
    },
    NEWEST: {
        "org.keycloak:keycloak-quarkus-dist:26.7.3:tar.gz": (
            "77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47"
        ),
    },
}
"""What a version is made of, with the SHA-256 of each. keycloak-events 0.53 and later need Java 21, which Debian 12 has
not; 0.52 is made for Keycloak 26.5, and starts on a later one without being able to say so (its REST API fails)."""
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
AT_ONCE = 50
"""People in one import: it is one transaction, and gets slower with each of them."""
READY = 600
"""Seconds that a start may take, on a busy machine; the first one also builds."""


def distribution() -> Path:
    """The unpacked server. Raises `RuntimeError` naming what is missing on the machine."""
    place = ROOT / ".cache" / "keycloak" / VERSION
    if place.exists():
        return place
    if VERSION not in ARTIFACTS:
        raise RuntimeError(f"Keycloak {VERSION} is not one of {', '.join(ARTIFACTS)}")
    if shutil.which("mvn") is None:
        raise RuntimeError("Keycloak is fetched by mvn, and there is none: install Maven (Debian: apt install maven)")
    fresh = place.with_name(f"{VERSION}.{os.getpid()}")
    try:
        server, *extensions = (_fetched(fresh, *one) for one in ARTIFACTS[VERSION].items())
        with tarfile.open(server) as tar:
            tar.extractall(fresh, filter="data")
        unpacked = fresh / f"keycloak-{VERSION}"
        for extension in extensions:
            shutil.copy(extension, unpacked / "providers")
        unpacked.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place


def _fetched(place: Path, artifact: str, sha256: str) -> Path:
    _, name, version, kind = artifact.split(":")
    command = ["mvn", "-q", "-B", "-C", f"-Dmaven.repo.local={place / 'm2'}", COPY, f"-Dartifact={artifact}"]
    made = subprocess.run([*command, f"-DoutputDirectory={place}"], capture_output=True, text=True, timeout=900)
    if made.returncode:
        raise RuntimeError(f"{artifact} cannot be fetched: {made.stdout.strip()[-400:]}")
    found = place / f"{name}-{version}.{kind}"
    with found.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise RuntimeError(f"{artifact} has the SHA-256 {digest} and not {sha256}; nothing of it was run")
    return found


@contextmanager
def running(log: Path, *options: str) -> Iterator[Server]:
    """A server in development mode on a free port, with a bootstrap administrator; its output goes to `log`."""
    home, password = distribution(), secrets.token_urlsafe(16)
    if shutil.which("java") is None:
        raise RuntimeError("Keycloak needs Java 17 or newer (Debian: apt install default-jre-headless)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(home / "bin" / "kc.sh"), "start-dev", "--db=dev-mem", "--http-host=127.0.0.1"]
    environment = {
        **os.environ,
        "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
        "KC_BOOTSTRAP_ADMIN_PASSWORD": password,
        "JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx1g",
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, f"--http-port={port}", *options], env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", password)
        end = time.monotonic() + READY
        while not server.answers():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Keycloak did not start: {log.read_text()[-1500:]}")
            time.sleep(0.5)
        with closing(server.client):
            yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass
class Server:
    """The administrator's side: everything goes through the admin API."""

    url: str
    password: str
    client: httpx.Client = field(init=False)
    until: float = 0.0

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=120)

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            return self.client.get("/realms/master").status_code == 200
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, body: Any = None, *, base: str = "/admin/realms", **query: str) -> Any:
        """One call below `base`: the JSON of its answer, or the id of what it made."""
        if time.monotonic() > self.until:
            form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": self.password}
            said = self.client.post("/realms/master/protocol/openid-connect/token", data=form).raise_for_status().json()
            self.client.headers["authorization"] = f"Bearer {said['access_token']}"
            self.until = time.monotonic() + said["expires_in"] / 2
        answer = self.client.request(method, f"{base}{path}", json=body, params=query)
        assert answer.is_success, (method, path, answer.status_code, answer.text[:300])
        if answer.content:
            return answer.json()
        return answer.headers.get("location", "").rpartition("/")[2]

    def make_realm(
        self,
        realm: str,
        *,
        users: Iterable[Mapping[str, Any]],
        groups: Iterable[Mapping[str, Any]],
        clients: Iterable[str],
        secret: str,
    ) -> None:
        """A realm with people, groups, and clients with a service account, of which the first may `view-users`.

        A user's `groups` are paths."""
        service_clients: list[dict[str, Any]] = [
            {
                "clientId": client,
                "secret": secret,
                "publicClient": False,
                "serviceAccountsEnabled": True,
                "standardFlowEnabled": False,
            }
            for client in clients
        ]
        self.call(
            "POST",
            "",
            {
                "realm": realm,
                "enabled": True,
                "editUsernameAllowed": True,
                "loginWithEmailAllowed": False,
                "duplicateEmailsAllowed": True,
                "groups": list(groups),
            },
        )
        profile = self.call("GET", f"/{realm}/users/profile")
        self.call("PUT", f"/{realm}/users/profile", {**profile, "unmanagedAttributePolicy": "ENABLED"})
        for service in service_clients:
            self.call("POST", f"/{realm}/clients", service)
        waiting = iter(users)
        while some := list(islice(waiting, AT_ONCE)):
            self.call("POST", f"/{realm}/partialImport", {"ifResourceExists": "FAIL", "users": some})
        role_owner = self.call("GET", f"/{realm}/clients", clientId="realm-management")[0]["id"]
        role = self.call("GET", f"/{realm}/clients/{role_owner}/roles/view-users")
        account_id = self.service_account(realm, service_clients[0]["clientId"])
        self.call("POST", f"/{realm}/users/{account_id}/role-mappings/clients/{role_owner}", [role])

    def service_account(self, realm: str, client: str) -> str:
        """The id of a client's service account."""
        found = self.call("GET", f"/{realm}/users", username=f"service-account-{client}", exact="true")
        return str(found[0]["id"])
