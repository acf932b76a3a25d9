"""What comes in reaches Crowd: the receiver and the process that reacts, as people start them, without Prefect."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.store import Store
from deployments.process import ending
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from deployments.sandbox.organisation import changed, organisation
from flows.road import SyncRequest, walk
from tests.support.deliveries import SECRET, with_signature
from tests.support.organisations import different
from tests.support.place import PASSWORD, TOKEN, active, deactivate

PING = "p" * 20
SIZE: dict[str, Any] = {"users": 40, "groups": 6, "memberships": 90}
CHANGES = {"seed": 5, "joiners": 2, "disabled": 2, "renamed": 2, "updated": 3}
SCIM_USER = "urn:ietf:params:scim:schemas:core:2.0:User"


@dataclass(frozen=True)
class Place:
    home: Path
    crowd: sandbox_crowd.RunningCrowd
    idp: sandbox_scim.RunningScim

    @property
    def url(self) -> str:
        return f"sqlite:///{self.home}/store.db"

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from deployments.cli import main; main()", *words],
            env={**os.environ, "PYTHONPATH": "."},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )

    def open_rows(self) -> list[tuple[str, str, str, str]]:
        with Store.open(self.url) as store:
            rows = store.inbox(limit=20)[["source", "kind", "key", "note"]]
        return list(rows.itertuples(index=False, name=None))

    def settled(self, seconds: float = 60) -> None:
        """Until the inbox has nothing open."""
        until(lambda: not self.open_rows(), seconds, lambda: str(self.open_rows()))


def until(what: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("real time")
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        idp = stack.enter_context(sandbox_scim.prepared(**SIZE, token=TOKEN))
        os.environ |= {
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": TOKEN,
            "CROWDSYNC_WEBHOOK_SECRET": SECRET,
            "CROWDSYNC_CROWD_WEBHOOK_SECRET": PING,
            "CROWDSYNC_CONFIG": str(home / "crowdsync.toml"),
        }
        os.environ.pop("PREFECT_API_URL", None)
        here = Place(home, crowd, idp)
        (home / "crowdsync.toml").write_text(
            f'[store]\nurl = "{here.url}"\n[directory]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
            f'[sources.acme]\nkind = "scim"\nurl = "{idp.url}"\n[sources.acme.webhook]\n'
            '[sources.hooli]\nkind = "push"\nurl = "https://sync.example.org"\n'
            "[sources.hooli.policy.limits]\nuser_deactivate = {}\nmembership_remove = {}\ngroup_loss = {}\n",
            encoding="utf-8",
        )
        yield here


@pytest.fixture(scope="module")
def address(place: Place) -> Iterator[str]:
    """Of the receiver; beside it, the process that reacts."""
    with (
        ending(place.start("receive", "--port", "0")) as receiver,
        ending(place.start("react"), patience=30) as reactor,
    ):
        assert receiver.stdout is not None
        assert reactor.stdout is not None
        line = receiver.stdout.readline()
        assert reactor.stdout.readline() == "reacting for crowd\n"
        yield line.split()[-1]


async def test_before_news_come_everybody_is_in_step(place: Place) -> None:
    for status in ("applied", "nothing to do"):
        assert (await walk(SyncRequest(source="acme"))).status == status


def test_a_webhook_reaches_crowd_and_leaves_nothing_to_do(place: Place, address: str) -> None:
    company = organisation(**SIZE)
    place.idp.change(**CHANGES)
    place.crowd.reset_counts()
    people = different(company, changed(company, **CHANGES))
    for number, one in enumerate(sorted(people)):
        body = {"type": "user.updated", "data": {"user": one}}
        sent = with_signature(body, sent=f"msg_{number}", stamp=str(int(time.time())))
        for _ in range(2):  # the second time, it is the same delivery
            answer = httpx.post(f"{address}/webhooks/acme", content=sent.body, headers=dict(sent.headers))
            assert answer.status_code == 204, answer.text
    place.settled()
    assert place.crowd.counts()["writes"] >= len(people)
    with Store.open(place.url) as store:
        runs = store.runs(50)
        done = store.inbox(done_since=datetime(2026, 1, 1, tzinfo=UTC))
    assert len(done) == len(people)
    assert set(runs["mode"]) <= {"react", "sync"}


async def test_then_nothing_is_left_to_do(place: Place) -> None:
    place.crowd.reset_counts()
    assert (await walk(SyncRequest(source="acme"))).status == "nothing to do"
    assert place.crowd.counts()["writes"] == 0


def test_what_is_not_proved_is_turned_away_and_leaves_no_trace(place: Place, address: str) -> None:
    sent = with_signature({"type": "user.updated", "data": {"user": "1"}}, secret="x" * 40, sent="m", stamp="1")
    for path in ("/webhooks/acme", "/webhooks/nobody", "/webhooks/hooli", "/events/acme", "/crowd/crowd", "/crowd/x"):
        answer = httpx.post(f"{address}{path}", content=sent.body, headers=dict(sent.headers))
        assert (answer.status_code, answer.content) == (401, b""), path
    assert httpx.get(f"{address}/scim/hooli/v2/Users").status_code == 401
    assert not place.open_rows()


def test_what_is_changed_by_hand_in_crowd_is_put_right_when_crowd_tells(place: Place, address: str) -> None:
    place.crowd.reset_counts()
    headers = {"authorization": f"Basic {PING}"}
    assert httpx.post(f"{address}/crowd/crowd", headers=headers).status_code == 204
    place.settled()  # (from here on its events are known)
    rows = [row for row in place.crowd.state()["users"] if row["name"] != "admin" and row["active"]]
    name = rows[0]["name"]
    deactivate(place.crowd, name)
    assert httpx.post(f"{address}/crowd/crowd", headers=headers).status_code == 204
    until(lambda: active(place.crowd, name), 30, lambda: str(place.open_rows()))


def names(place: Place) -> set[str]:
    return {row["name"] for row in place.crowd.state()["users"]}


def test_who_is_pushed_is_in_crowd(place: Place, address: str) -> None:
    made = place.start("tokens", "make", "hooli")
    said, _ = made.communicate(timeout=60)
    token = said.strip().splitlines()[-1]
    assert re.fullmatch(r"\S{32,}", token), said
    with httpx.Client(base_url=f"{address}/scim/hooli/v2", headers={"authorization": f"Bearer {token}"}) as http:
        keys = []
        for name in ("one", "two", "three"):
            content = {"schemas": [SCIM_USER], "userName": f"pushed.{name}", "active": True, "displayName": name}
            answer = http.post("/Users", json=content | {"emails": [{"value": f"{name}@x.org", "primary": True}]})
            assert answer.status_code == 201, answer.text
            keys.append(answer.json()["id"])
        until(lambda: names(place) >= {"pushed.one", "pushed.two", "pushed.three"}, 60, lambda: str(place.open_rows()))
        place.settled()
        off: dict[str, Any] = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}
        off["Operations"] = [{"op": "Replace", "path": "active", "value": "False"}]
        assert http.patch(f"/Users/{keys[0]}", json=off).status_code in (200, 204)
    until(lambda: not active(place.crowd, "pushed.one"), 60, lambda: str(place.open_rows()))
    assert active(place.crowd, "pushed.two")


def test_the_process_that_reacts_may_be_killed_and_nothing_is_lost(place: Place, address: str) -> None:
    company = changed(organisation(**SIZE), **CHANGES)
    more = CHANGES | {"seed": 6}
    place.idp.change(**more)
    for number, one in enumerate(sorted(different(company, changed(company, **more)))):
        body = {"type": "user.updated", "data": {"user": one}}
        sent = with_signature(body, sent=f"later_{number}", stamp=str(int(time.time())))
        answer = httpx.post(f"{address}/webhooks/acme", content=sent.body, headers=dict(sent.headers))
        assert answer.status_code == 204
        if number % 3 == 0:
            with ending(place.start("react")) as second:  # beside the first one: both may take a batch
                time.sleep(1.5)
                second.send_signal(signal.SIGKILL)
    place.settled(120)


async def test_after_all_of_it_nothing_is_left_to_do(place: Place) -> None:
    place.crowd.reset_counts()
    assert (await walk(SyncRequest(source="acme"))).status == "nothing to do"
    assert place.crowd.counts()["writes"] == 0
