"""SIGKILL of the receiver the moment that an answer is out: whatever was answered 2xx is in the mirror and the inbox.

A warm process forks a receiver for each round. Several clients push people, changes, members and webhooks to it until
it is killed; then the store is looked at, and everything that it has is told as done, so that what the next round tells
has to be there by itself. CROWDSYNC_KILLS is how many rounds there are on SQLite.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest

from connectors.settings import Settings
from connectors.store import Store
from deployments.receiver import serve
from tests.support.deliveries import SECRET, with_signature
from tests.support.scim_push import BULK, GROUP, PATCH, USER

KILLS = int(os.environ.get("CROWDSYNC_KILLS", "2"))
KILLS_POSTGRESQL = max(2, KILLS // 10)
CLIENTS = 12
FEWEST, MOST = 1, 60
"""Answers of a round before the receiver is killed."""

pytestmark = pytest.mark.long


@dataclass
class Told:
    """What was answered in a round: by whom it is about, and as a count."""

    titles: dict[str, str] = field(default_factory=dict)
    members: set[tuple[str, str]] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    hooks: set[str] = field(default_factory=set)
    answers: int = 0
    statuses: set[int] = field(default_factory=set)


@contextmanager
def receiver(settings: Settings) -> Iterator[tuple[str, int]]:
    """A receiver in a forked process: its address and process id."""
    context = multiprocessing.get_context("fork")
    hear, say = context.Pipe(duplex=False)
    child = context.Process(target=lambda: asyncio.run(serve(settings, "127.0.0.1", 0, say.send)))
    child.start()
    try:
        assert hear.poll(60)
        assert child.pid is not None
        yield hear.recv(), child.pid
    finally:
        child.kill()
        child.join()


class Clients:
    """Push until the receiver is gone. Each person and key is one client's, so that it is known what came last."""

    def __init__(self, address: str, token: str, dice: random.Random, pool: list[str], groups: list[str]) -> None:
        self.scim, self.hooks = f"{address}/scim/pushed/v2", f"{address}/webhooks/acme"
        self.head = {"authorization": f"Bearer {token}", "content-type": "application/scim+json"}
        self.dice, self.pool, self.groups, self.told = dice, pool, groups, Told()
        self.number = dice.randrange(10**12)

    async def push(self, pid: int, after: int) -> Told:
        """Until the receiver is killed, with the answer of this number."""
        async with httpx.AsyncClient(timeout=30) as http:

            async def work() -> None:
                while self.told.answers < after:
                    try:
                        await self.once(http)
                    except httpx.TransportError:
                        return

            async def noted(response: httpx.Response) -> None:
                self.told.statuses.add(response.status_code)
                self.told.answers += 1
                if self.told.answers == after:  # (what is on its way is read all the same: it was sent)
                    os.kill(pid, signal.SIGKILL)

            http.event_hooks["response"] = [noted]
            await asyncio.gather(*(work() for _ in range(CLIENTS)))
        return self.told

    async def once(self, http: httpx.AsyncClient) -> None:
        """One request, and what its answer promises."""
        self.number += 1
        what, told = self.dice.randrange(7), self.told
        one = self.pool.pop() if what in (1, 2, 3) and self.pool else ""
        if not one and what != 5 and what != 6:
            name = f"u{self.number}"
            found = await self.call(http, "POST", "/Users", {"schemas": [USER], "userName": name})
            told.names[found["id"]] = name
        elif what == 1:
            title = f"t{self.number}"
            operation = {"op": "replace", "path": "title", "value": title}
            await self.call(http, "PATCH", f"/Users/{one}", {"schemas": [PATCH], "Operations": [operation]})
            told.titles[one] = title
        elif what == 2:
            group = self.dice.choice(self.groups)
            joins = {"op": "add", "path": "members", "value": [{"value": one}]}
            await self.call(http, "PATCH", f"/Groups/{group}", {"schemas": [PATCH], "Operations": [joins]})
            told.members.add((group, one))
        elif what == 3:
            await self.call(http, "DELETE", f"/Users/{one}", None)
            told.gone.add(one)
        elif what == 5:
            names = [f"b{self.number}-{nth}" for nth in range(3)]
            made = [
                {"method": "POST", "path": "/Users", "bulkId": name, "data": {"schemas": [USER], "userName": name}}
                for name in names
            ]
            found = await self.call(http, "POST", "/Bulk", {"schemas": [BULK], "Operations": made})
            for name, answer in zip(names, found["Operations"], strict=True):
                assert answer["status"] == "201"
                told.names[answer["location"].rpartition("/")[2]] = name
        else:
            key = f"k{self.number}"
            sent = with_signature(
                {"type": "user.updated", "data": {"user": key}}, sent=key, stamp=str(int(datetime.now(UTC).timestamp()))
            )
            answer = await http.post(self.hooks, content=sent.body, headers=dict(sent.headers))
            assert answer.status_code == 204
            told.hooks.add(key)

    async def call(self, http: httpx.AsyncClient, method: str, path: str, body: Any) -> Any:
        """The JSON of an answer that says that it is done."""
        content = None if body is None else orjson.dumps(body)
        answer = await http.request(method, self.scim + path, content=content, headers=self.head)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None


def look(store: Store, told: Told, before: int) -> None:
    """Everything that was answered is kept, and whatever is kept is told."""
    rows = store.inbox(limit=100_000)[["source", "kind", "key"]].itertuples(index=False, name=None)
    news = set(rows)
    with store.mirror("pushed") as mirror:
        for one, name in told.names.items():
            row = mirror.get("user", one)
            assert row is not None, "somebody who was answered 201 is not there"
            assert orjson.loads(row.body)["userName"] == name
        for one, title in told.titles.items():
            row = mirror.get("user", one)
            assert row is not None
            assert orjson.loads(row.body)["title"] == title
        for group, one in told.members:
            assert (one, "user") in mirror.members(group)
        for one in told.gone:
            assert mirror.get("user", one) is None
        changes = mirror.since(before)
    answered = [*told.names, *told.titles, *(one for _, one in told.members), *told.gone]
    assert {("pushed", "user", one) for one in answered} <= news
    assert {("acme", "user", key) for key in told.hooks} <= news
    kept = {("pushed", "user", one.id) for one in changes.users} | {
        ("pushed", "user", one) for one in changes.gone_users
    }
    assert kept <= news, "something is in the mirror and nobody was told"


def rounds(url: str, count: int) -> int:
    """Answers that were looked at."""
    settings = Settings.model_validate(
        {
            "store": {"url": url},
            "directory": {"url": "http://crowd.example.org", "application": "crowdsync"},
            "sources": {
                "acme": {"kind": "scim", "url": "https://idp.example.org", "webhook": {}},
                "pushed": {"kind": "push", "url": "https://sync.example.org"},
            },
        }
    )
    dice, pool, groups, answers = random.Random(14), list[str](), list[str](), 0
    with Store.open(url) as store:
        token = store.make_token("pushed", days=1, now=datetime.now(UTC))[1]
    for nth in range(count):
        with Store.open(url) as store, store.mirror("pushed") as mirror:
            before = mirror.change()
        with receiver(settings) as (address, pid):
            if not groups:
                head = {"authorization": f"Bearer {token}"}
                for name in ("one", "two"):
                    body = {"schemas": [GROUP], "displayName": name}
                    made = httpx.post(f"{address}/scim/pushed/v2/Groups", json=body, headers=head)
                    groups.append(made.json()["id"])
            clients = Clients(address, token, dice, pool, groups)
            after = FEWEST + round((MOST - FEWEST) * dice.random()) if nth else MOST
            told = asyncio.run(clients.push(pid, after))
        assert told.statuses <= {200, 201, 204}
        answers += told.answers
        with Store.open(url) as store:
            look(store, told, before)
            store.settle(list(store.inbox(limit=100_000)["id"]), "done", "", datetime.now(UTC))
        pool += told.names
        dice.shuffle(pool)
    return answers


def test_what_was_answered_is_kept(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROWDSYNC_WEBHOOK_SECRET", SECRET)
    answers = rounds(store_url, KILLS if store_url.startswith("sqlite") else KILLS_POSTGRESQL)
    print(f"{answers} answers")
    assert answers >= MOST
