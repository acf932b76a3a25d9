"""Providers that have to be asked again and again tell on: from the emulated Entra and Google, over what listens and
the inbox, into the emulated Crowd; also after what they promised has ended, or was taken away.

The servers are real; what listens and what reacts run in this process, without Prefect.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server
from typing import Any

import orjson
import pytest
import uvicorn

from connectors.contract import Subscribable
from connectors.errors import ConfigurationError, RetryableError
from connectors.idp import SOURCES
from connectors.settings import load
from connectors.store import ReadCursor, Store, WideTotals
from deployments.react import Reactor
from deployments.receiver import receiving
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import idp as sandbox_idp
from deployments.sandbox.organisation import changed, organisation
from deployments.sandbox.provider import toml
from flows import subscriptions as flow
from flows.road import SyncRequest, walk
from tasks.read.subscribed import look_after
from tasks.tell.render import subscriptions_markdown

SIZE: dict[str, Any] = {"users": 30, "groups": 4, "memberships": 60, "seed": 7}
CHANGES = {"seed": 5, "joiners": 2, "disabled": 2, "renamed": 2, "updated": 3}
SECRET, OTHER = "f" * 24, "g" * 24
ROLES = ("User.Read.All", "GroupMember.Read.All", "Group.Read.All", "Application.Read.All")
POLICY = """
[sources.acme.policy.limits.user_deactivate]
percent = 50
[[sources.acme.policy.usernames.rules]]
pattern = '@acme\\.example$'
replacement = ""
"""


@dataclass(frozen=True)
class Servers:
    crowd: sandbox_crowd.RunningCrowd
    idps: dict[str, sandbox_idp.RunningIdp]


@dataclass
class Place:
    """A source, a Crowd, a database and the address of what listens."""

    home: Path
    kind: str
    idp: sandbox_idp.RunningIdp
    crowd: sandbox_crowd.RunningCrowd
    store: Store
    reactor: Reactor
    url: str = ""
    listener: tuple[uvicorn.Server, asyncio.Future[None], AsyncExitStack] | None = None

    async def listen(self) -> None:
        """What listens begins to, at a free port or where it did before."""
        socket = create_server(("127.0.0.1", int(self.url.rpartition(":")[2]) if self.url else 0))
        self.url = "http://{}:{}".format(*socket.getsockname())
        self.configure()
        stack = AsyncExitStack()
        stack.enter_context(socket)
        gate = await stack.enter_async_context(receiving(load(), self.store))
        server = uvicorn.Server(uvicorn.Config(gate, log_level="warning", lifespan="off", ws="none"))
        self.listener = server, asyncio.ensure_future(server.serve([socket])), stack

    async def stop(self) -> None:
        assert self.listener is not None
        server, serving, stack = self.listener
        server.should_exit = True
        await serving
        await stack.aclose()

    def configure(self, secret: str = SECRET) -> None:
        os.environ["CROWDSYNC_WEBHOOK_SECRET"] = secret
        (self.home / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{self.home}/store.db"\n[directory]\nurl = "{self.crowd.url}"\n'
            f'application = "crowdsync"\n[receiver]\npublic_url = "{self.url or "http://127.0.0.1:9"}"\n'
            f"[sources.acme]\n{toml(self.idp.settings)}[sources.acme.webhook]\n{POLICY}"
            '[sources.hooli]\nkind = "scim"\nurl = "http://127.0.0.1:9"\n',
            encoding="utf-8",
        )

    async def everybody(self) -> str:
        return (await walk(SyncRequest(source="acme"))).status

    async def look(self) -> list[str]:
        """What became of each subscription."""
        rows = await look_after(load(), self.store, ["acme"])
        return [f"{row['what']} {row['tells of']}".strip() for row in rows]

    async def news(self) -> list[tuple[str, str]]:
        """What came in, as soon as something has."""
        end = time.monotonic() + 20
        while (rows := self.store.inbox()).empty:
            assert time.monotonic() < end, "nothing came"
            await asyncio.sleep(0.02)
        return list(rows[["kind", "key"]].itertuples(index=False, name=None))

    async def settled(self, done: Callable[[], bool]) -> None:
        """Reacts until this is so and nothing waits any more."""
        end = time.monotonic() + 60
        while not (done() and self.store.inbox().empty):
            assert time.monotonic() < end, self.store.inbox().to_dict("records")
            if not await self.reactor.turn():
                await asyncio.sleep(0.02)

    def names(self, *, active: bool) -> set[str]:
        return {row["name"] for row in self.crowd.state()["users"] if row["active"] == active}

    def aged(self, days: float) -> None:
        """As if all that is kept were older."""
        row = self.store.cursor("subscriptions:acme")
        assert row is not None
        said = orjson.loads(row.cursor)
        for one in said["known"].values():
            one[2] = (datetime.fromisoformat(one[2]) - timedelta(days=days)).isoformat()
        self.store.save_cursor(
            "subscriptions:acme", ReadCursor(orjson.dumps(said).decode(), row.scope, row.full_at, 0), at=row.full_at
        )


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": "pw"}))
        idps = {
            kind: stack.enter_context(sandbox_idp.running(kind, **SIZE, options=options))
            for kind, options in {"entra": {"roles": ROLES}, "google": {}}.items()
        }
        yield Servers(crowd, idps)


@pytest.fixture(params=["entra", pytest.param("google", marks=pytest.mark.long)])
async def place(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    kind = request.param
    idp = servers.idps[kind]
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    monkeypatch.setenv("CROWDSYNC_CROWD_PASSWORD", "pw")
    monkeypatch.setenv("CROWDSYNC_WEBHOOK_SECRET", SECRET)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, value in idp.secrets.items():
        monkeypatch.setenv(SOURCES[kind].settings.model_fields[f"{name}_env"].default, value)
    servers.crowd.clear()
    idp.faults()
    idp.unsubscribe()
    idp.load(**SIZE)
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        here = Place(tmp_path, kind, idp, servers.crowd, store, Reactor("crowd", store))
        here.configure()
        await here.listen()
        yield here
        await here.stop()
        for *_, stack in here.reactor.opened.values():
            await stack.aclose()


async def test_a_change_reaches_crowd_and_one_that_nobody_told_does_as_well(place: Place) -> None:
    assert await place.everybody() == "applied"
    assert set(await place.look()) == {f"made {of}" for of in SOURCES[place.kind].subscriptions.of}
    await place.settled(lambda: True)  # (everybody, because nobody had told before)

    before = organisation(**SIZE)
    after = changed(before, **CHANGES)
    was = {person.id: person.active for person in before.people}
    off = {person.username for person in after.people if not person.active and was.get(person.id)}
    new = {person.username for person in after.people if person.id not in was and person.active}
    assert off
    assert new
    place.idp.change(**CHANGES)
    kinds = {kind for kind, _ in await place.news()}
    assert "everybody" not in kinds
    await place.settled(lambda: off <= place.names(active=False) and new <= place.names(active=True))

    # Nothing is told while there is no subscription: it is made anew, and everybody is read.
    place.idp.unsubscribe()
    more = {"seed": 9, "disabled": 2}
    last = changed(after, **more)
    gone = {person.username for person in last.people if not person.active} - {
        person.username for person in after.people if not person.active
    }
    place.idp.change(**more)
    if place.kind == "google":  # which cannot say that they are gone: it is seen when others take their place
        place.aged(0.3)
    await asyncio.sleep(0.2)
    assert place.store.inbox().empty
    became = "renewed" if place.kind == "google" else "made"
    assert {one.partition(" ")[0] for one in await place.look()} == {became}
    assert [kind for kind, _ in await place.news()] == ["everybody"]
    await place.settled(lambda: gone <= place.names(active=False))
    assert await place.everybody() == "nothing to do"


async def test_they_are_renewed_in_time_and_what_was_told_before_is_told_on(place: Place) -> None:
    await place.look()
    first = {one["id"] for one in place.idp.subscriptions()}
    place.aged(1.2)
    assert {one.partition(" ")[0] for one in await place.look()} == {"renewed"}
    now = {one["id"] for one in place.idp.subscriptions()}
    assert len(now) == len(first) == len(SOURCES[place.kind].subscriptions.of)
    assert now == first if place.kind == "entra" else not now & first
    place.idp.change(seed=5, updated=3)
    assert {kind for kind, _ in await place.news()} == {"user"}


@pytest.mark.long
async def test_what_could_not_be_delivered_is_sent_again(place: Place) -> None:
    await place.look()
    await place.stop()
    place.idp.change(seed=5, updated=3)
    await asyncio.sleep(0.1)
    assert place.store.inbox().empty
    await place.listen()
    assert {kind for kind, _ in await place.news()} == {"user"}


@pytest.mark.long
async def test_a_lost_answer_leaves_no_second_one_behind(place: Place) -> None:
    path = "/v1.0/subscriptions" if place.kind == "entra" else "/admin/directory/v1/users/watch"
    place.idp.faults({"kind": "cut", "path": path, "times": 6, "nth": 3 if place.kind == "entra" else 1})
    for _ in range(3):
        await place.look()
    place.idp.faults()
    assert {one.partition(" ")[0] for one in await place.look()} <= {"made", "stands"}
    assert len(place.idp.subscriptions()) == len(SOURCES[place.kind].subscriptions.of)


@pytest.mark.long
async def test_another_secret_is_told_from_the_next_look_on(place: Place) -> None:
    await place.look()
    before = len(place.idp.subscriptions())
    place.configure(f"{OTHER} {SECRET}")
    assert {one.partition(" ")[0] for one in await place.look()} == {"made"}
    assert len(place.idp.subscriptions()) == before
    if place.kind == "entra":
        assert {one["clientState"] for one in place.idp.subscriptions()} == {OTHER}


@pytest.mark.long
async def test_what_the_provider_refuses_is_told_beside_the_others_and_never_the_secret(place: Place) -> None:
    path = "/v1.0/subscriptions" if place.kind == "entra" else "/admin/directory/v1/users/watch"
    for status, says in ((403, "rant" if place.kind == "entra" else "role"), (400, "public_url")):
        place.idp.faults({"kind": "status", "path": path, "status": status, "nth": 4 if place.kind == "entra" else 5})
        rows = await look_after(load(), place.store, ["acme"])
        became = [row["what"] for row in rows]
        assert (became.count("missing"), len(set(became))) == (1, 2), rows
        assert says in next(row["why"] for row in rows if row["what"] == "missing")
        assert SECRET not in str(rows)
        assert "1 missing" in subscriptions_markdown(rows)
        place.idp.unsubscribe()
        place.aged(3)


@pytest.mark.long
async def test_entra_tells_of_its_subscriptions_and_of_those_of_others(servers: Servers, place: Place) -> None:
    if place.kind != "entra":
        pytest.skip("Google sends no such events")
    await place.look()
    place.idp.lifecycle("reauthorizationRequired")
    place.idp.lifecycle("missed")
    assert await place.news() == [("everybody", "")]
    # By hand, with another secret: it goes, for what it tells would be turned away; what leads elsewhere stays.
    opened = SOURCES["entra"].open("acme", load().source("acme"), place.idp.secrets)
    source: Any = opened
    assert isinstance(source, Subscribable)
    place.idp.unsubscribe()
    await source.subscribe("users", f"{place.url}/webhooks/acme", OTHER, "")
    await source.subscribe("groups", f"{place.url}/webhooks/acme?theirs=1", SECRET, "")
    rows = await look_after(load(), place.store, ["acme"])
    assert [row["what"] for row in rows] == ["made anew", "missing"], "one to the same is refused, as documented"
    assert "leads elsewhere" in rows[1]["why"]
    there = {(one["resource"], one["notificationUrl"].rpartition("/")[2]) for one in place.idp.subscriptions()}
    assert there == {("users", "acme"), ("groups", "acme?theirs=1")}
    for client in opened.clients:
        await client.aclose()


@pytest.mark.long
async def test_the_flow_shows_what_stands_and_fails_where_something_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []

    async def show(table: Any, **more: Any) -> None:
        shown.append({"table": table, **more})

    monkeypatch.setattr(flow, "acreate_table_artifact", show)
    place.store.save_wide_totals("crowd", "acme", WideTotals("", "", "", datetime.now(UTC), {}))
    rows = await flow.subscriptions.fn()
    assert [row["what"] for row in shown[-1]["table"]] == [row["what"] for row in rows] == ["made"] * len(rows)
    assert f"**{len(rows)} made**" in shown[-1]["description"]
    assert "everybody of acme is read once" in shown[-1]["description"]
    await flow.subscriptions.fn()
    assert shown[-1]["description"] == f"**{len(rows)} stand**"
    file = place.home / "crowdsync.toml"
    said = file.read_text()
    file.write_text(said.replace("public_url", "# public_url"))
    assert [row["what"] for row in await flow.subscriptions.fn()] == ["left alone"]
    file.write_text(said.replace("[sources.acme.webhook]", "[sources.acme.webhook]\nsubscribe = false"))
    assert await flow.subscriptions.fn() == []
    assert "nothing to look after" in shown[-1]["description"]
    file.write_text(said)
    await place.stop()
    place.idp.unsubscribe()
    place.aged(3)
    if place.kind == "entra":
        with pytest.raises(RetryableError, match="Graph must reach"):
            await flow.subscriptions.fn()
        assert "2 missing" in shown[-1]["description"]
    for name, why in (("nobody", "no source"), ("hooli", "no subscriptions")):
        with pytest.raises((ConfigurationError, RetryableError), match=why):
            await flow.subscriptions.fn([name])
    await place.listen()
