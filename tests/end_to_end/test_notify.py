"""Notifications: real automations on a real Prefect server, and a real receiver of their messages."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from connectors.errors import ConfigurationError, CrowdsyncError
from deployments import notify, serving
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from deployments.server import say_goodbye
from tests.support.prefect import fresh_server, until

PASSWORD, TOKEN = "pass-of-crowd", "token-of-acme"
SECRET = "secret-of-the-webhook-4Kp"

Found = TypeVar("Found")


@dataclass(slots=True)
class Receiver:
    """An HTTP server that keeps what it is sent."""

    url: str = ""
    got: list[tuple[str, str]] = field(default_factory=list)

    def message(self, *words: str) -> str:
        """The message with all these words, as soon as it is there."""
        deadline = time.monotonic() + 60
        while True:
            for path, text in self.got:
                if all(word in text for word in words):
                    assert path == f"/{SECRET}"
                    return text
            assert time.monotonic() < deadline, f"no message with {words} in {self.got}"
            time.sleep(0.25)


@dataclass(frozen=True, slots=True)
class Place:
    """A Prefect server, a receiver, and a company whose provider can be out of reach."""

    api: httpx.Client
    receiver: Receiver
    home: Path
    reachable: Callable[[bool], None]

    def automations(self) -> dict[str, dict[str, Any]]:
        answer = self.api.post("/automations/filter", json={})
        answer.raise_for_status()
        return {one["name"]: one for one in answer.json()}

    def start(self, parameters: dict[str, Any]) -> str:
        """A run that is running, as far as Prefect knows."""
        ident = self.api.get("/deployments/name/preview/preview").json()["id"]
        given = {"parameters": parameters, "state": {"type": "PENDING"}, "name": "of a dead worker"}
        run = self.post(f"/deployments/{ident}/create_flow_run", given).json()["id"]
        self.post(f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
        return str(run)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Prefect's server on SQLite says 503 while it is busy."""

        def answered() -> httpx.Response | None:
            answer = self.api.post(path, json=body)
            return None if answer.status_code == 503 else answer

        return until(answered).raise_for_status()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("notify")
    before = dict(os.environ)
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append((self.path, json.loads(body)["text"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        server = stack.enter_context(fresh_server(home, "TRIGGERS"))
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        scim = stack.enter_context(sandbox_scim.prepared(users=20, groups=4, memberships=50, token=TOKEN))
        listener = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        stack.callback(listener.shutdown)
        receiver.url = f"http://127.0.0.1:{listener.server_port}/{SECRET}"
        config = home / "crowdsync.toml"

        def reachable(yes: bool) -> None:
            url = scim.url if yes else "http://127.0.0.1:1"
            config.write_text(
                f'[store]\nurl = "sqlite:///{home}/crowdsync.db"\n[directory]\nurl = "{crowd.url}"\n'
                f'application = "crowdsync"\n[sources.acme]\nkind = "scim"\nurl = "{url}"\n',
                encoding="utf-8",
            )

        reachable(True)
        os.environ |= {
            "CROWDSYNC_CONFIG": str(config),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": TOKEN,
        }
        os.environ.pop(serving.DEFAULT_SOURCE, None)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        server.wait()
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"{server.url}/api"}))
        yield Place(
            stack.enter_context(httpx.Client(base_url=f"{server.url}/api", timeout=120)), receiver, home, reachable
        )
        say_goodbye()


def test_it_is_made_once(place: Place) -> None:
    """Again: nothing. Another block: changed, and what somebody switched off stays off."""
    made = asyncio.run(notify.create_webhook(place.receiver.url))
    assert [what for _, what in made] == ["created"] * 7
    assert set(place.automations()) == {name for name, _ in made}
    again = asyncio.run(notify.create(f"custom-webhook/{notify.BLOCK}"))
    assert [what for _, what in again] == ["unchanged"] * 7
    off = place.automations()["crowdsync: source recovered"]["id"]
    place.api.patch(f"/automations/{off}", json={"enabled": False}).raise_for_status()

    from prefect.blocks.notifications import SlackWebhook

    SlackWebhook(url="https://hooks.slack.com/services/none").save("ops")
    other = asyncio.run(notify.create("slack-webhook/ops"))
    assert [what for _, what in other] == ["updated"] * 7
    now = place.automations()
    assert {name for name, one in now.items() if not one["enabled"]} == {"crowdsync: source recovered"}
    assert now["crowdsync: source recovered"]["id"] == off
    assert len({one["actions"][0]["block_document_id"] for one in now.values()}) == 1

    place.api.patch(f"/automations/{off}", json={"enabled": True}).raise_for_status()
    asyncio.run(notify.create_webhook(place.receiver.url, timedelta(seconds=10)))


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("ops", "write TYPE/NAME"),
        ("slack-webhook/nobody", "has no block slack-webhook/nobody.*can be named: custom-webhook/crowdsync"),
        ("crowd-credentials/acme", "sends no notifications"),
    ],
)
def test_a_block_that_does_not_fit_is_told(place: Place, block: str, told: str) -> None:
    from tasks.read.blocks import CrowdCredentials

    CrowdCredentials(password="x").save("acme", overwrite=True)
    with pytest.raises(ConfigurationError, match=told):
        asyncio.run(notify.create(block))
    with pytest.raises(ConfigurationError, match="https://") as error:
        asyncio.run(notify.create_webhook(SECRET))
    assert SECRET not in str(error.value)


def test_quarantine_and_recovery_are_told(place: Place) -> None:
    from flows.buttons import full_read, preview

    async def called() -> Any:
        return await full_read("acme")

    async def previewed() -> Any:
        return await preview("acme")

    place.reachable(False)
    with pytest.raises(CrowdsyncError):
        asyncio.run(previewed())  # (what a preview meets is its own: it does not count among the failures)
    with pytest.raises(CrowdsyncError):
        asyncio.run(called())
    text = place.receiver.message("acme cannot be read")
    for words in ("127.0.0.1:1", "Failures in a row: 1", "until 20", "What to do", "/runs/flow-run/"):
        assert words in text
    place.reachable(True)
    asyncio.run(called())
    text = place.receiver.message("acme can be read again")
    for words in ("1 times in a row", "/runs/flow-run/"):
        assert words in text


def test_plans_are_told(place: Place) -> None:
    """What the road says of a plan, in a run of it."""
    from prefect import flow

    from tasks.tell.events import emit

    @flow(name="sync")
    async def saying() -> None:
        emit("plan.waiting", "acme", plan=41, asks=["90 accounts are more than 5", "half of a group"])
        emit("plan.refused", "acme", plan=42, refusals=["this would shut everybody out"])
        emit("source.unheeded", "acme", plan=None, headlines=["1 person is in against the source's word"])

    async def called() -> Any:
        return await saying()

    asyncio.run(called())
    text = place.receiver.message("plan 41 of acme waits for you")
    for words in ("- 90 accounts are more than 5\n- half of a group\n", "crowdsync approve 41", "/runs/flow-run/"):
        assert words in text
    text = place.receiver.message("plan 42 of acme was refused")
    for words in ("- this would shut everybody out", "Nothing was written", "crowdsync plan --show 42"):
        assert words in text
    text = place.receiver.message("acme is not followed")
    for words in ("- 1 person is in against the source's word", "the way out", "/runs/flow-run/"):
        assert words in text


def test_a_run_whose_worker_died_is_crashed_and_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be running for ever, and keep its source from being synced."""
    from prefect.events import emit_event

    monkeypatch.setattr(serving, "BEATS", timedelta(seconds=10))
    asyncio.run(serving.deploy())
    run = place.start({"source": "acme"})
    beat = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.name": "of a dead worker"}
    tag = {"prefect.resource.id": "prefect.tag.crowdsync", "prefect.resource.role": "tag"}
    emit_event("prefect.flow-run.heartbeat", resource=beat, related=[tag])
    text = place.receiver.message("the run of a dead worker crashed")
    assert "No sign of life" in text
    assert f"/runs/flow-run/{run}" in text
    assert place.api.get(f"/flow_runs/{run}").json()["state_type"] == "CRASHED"


def test_that_nothing_was_synced_is_told(place: Place) -> None:
    text = place.receiver.message("no sync was completed for 10 seconds")
    assert "Work Pools" in text


def test_the_address_of_the_webhook_stays_secret(place: Place) -> None:
    assert place.receiver.got
    answer = place.api.post("/block_documents/filter", json={"include_secrets": False})
    assert "custom-webhook" in answer.text
    assert SECRET not in answer.text
    for file in place.home.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
