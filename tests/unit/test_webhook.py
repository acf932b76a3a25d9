"""Crowd's webhook, looked after: what the store keeps of it, and what is found or done (an emulated Crowd)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from connectors.errors import ConfigurationError, CrowdsyncError
from connectors.http import Http
from connectors.store import Store
from deployments.sandbox.crowd import RunningCrowd, running
from tasks.read.webhook import look_after
from tests.support.crowd_bodies import new_user
from tests.support.listener import Listener, listening, wait_until

WEBHOOK = "/rest/usermanagement/1/webhook"


@pytest.fixture(scope="module")
def process() -> Iterator[RunningCrowd]:
    with running() as one:
        yield one


@pytest.fixture
def crowd(process: RunningCrowd) -> RunningCrowd:
    process.configure(
        directories=[{"name": "d"}],
        applications=[{"name": "crowdsync", "password": "secret"}],
        events={"ping_failures": 2, "ping_patience": 0},
    )
    process.faults([])
    return process


@pytest.fixture
async def client(crowd: RunningCrowd) -> AsyncIterator[Http]:
    async with Http(crowd.url, name="crowd", basic=("crowdsync", "secret"), timeout=5, attempts=1) as one:
        yield one


@pytest.fixture
def receiver() -> Iterator[Listener]:
    with listening() as one:
        yield one


async def pinged(client: Http, receiver: Listener, name: str) -> str | None:
    """By what the ping proves itself that follows the making of a user."""
    before = len(receiver.taken)
    await client.call("POST", "/rest/usermanagement/1/user", json=new_user(name))
    wait_until(lambda: len(receiver.taken) > before)
    return receiver.taken[-1].headers.get("authorization")


def kept(store: Store, directory: str = "main") -> str | None:
    row = store.cursor(f"webhook:{directory}")
    return None if row is None else row.cursor


async def test_it_is_registered_once(store: Store, crowd: RunningCrowd, client: Http, receiver: Listener) -> None:
    said = await look_after(store, "main", client, receiver.url, "one")
    made = kept(store)
    assert said == f"Crowd's webhook is registered ({made})."
    assert await look_after(store, "main", client, receiver.url, "one") == f"Crowd's webhook stands ({made})."
    assert [str(one["id"]) for one in crowd.webhooks()] == [made]
    assert await pinged(client, receiver, "ann") == "Basic one"
    await look_after(store, "second", client, receiver.url + "2", "two")
    assert kept(store) == made != kept(store, "second")
    assert len(crowd.webhooks()) == 2


async def test_one_that_crowd_removed_is_registered_anew(
    store: Store, crowd: RunningCrowd, client: Http, receiver: Listener
) -> None:
    await look_after(store, "main", client, receiver.url, "one")
    made = kept(store)
    receiver.status = 500
    await pinged(client, receiver, "ann")
    wait_until(lambda: crowd.webhooks()[0]["failures"] == 1)
    await pinged(client, receiver, "bob")
    wait_until(lambda: not crowd.webhooks())
    receiver.status = 204
    said = await look_after(store, "main", client, receiver.url, "one")
    assert kept(store) != made
    assert said == (
        f"Crowd's webhook is registered anew ({kept(store)} for {made}): it was there no more; look whether its pings "
        "reach us."
    )
    assert await pinged(client, receiver, "cy") == "Basic one"


@pytest.mark.parametrize("what", ["address", "token"])
async def test_a_new_address_or_token_replaces_it(
    store: Store, crowd: RunningCrowd, client: Http, receiver: Listener, what: str
) -> None:
    await look_after(store, "main", client, receiver.url, "one")
    made = kept(store)
    endpoint, token = (receiver.url + "/new", "one") if what == "address" else (receiver.url, "two")
    said = await look_after(store, "main", client, endpoint, token)
    assert said == f"Crowd's webhook is registered anew ({kept(store)} for {made}): our address or its token changed."
    assert [one["endpoint"] for one in crowd.webhooks()] == [endpoint]
    assert await pinged(client, receiver, "ann") == f"Basic {token}"
    assert (await look_after(store, "main", client, endpoint, token)).startswith("Crowd's webhook stands")


async def test_what_others_registered_stays(
    store: Store, crowd: RunningCrowd, client: Http, receiver: Listener
) -> None:
    """The id that we know leads to somebody else: another Crowd stands at this address, or a backup was restored."""
    await look_after(store, "main", client, receiver.url, "one")
    row = store.cursor("webhook:main")
    assert row is not None
    crowd.clear()
    theirs = await client.call("POST", WEBHOOK, json={"endpointUrl": "http://localhost:1/theirs"})
    id_of_theirs = str(theirs.json()["id"])
    for token in ("one", "two"):
        store.save_cursor("webhook:main", type(row)(id_of_theirs, row.scope, row.full_at, 0), at=row.full_at)
        assert "anew" in await look_after(store, "main", client, receiver.url, token)
        assert [one["endpoint"] for one in crowd.webhooks()] == ["http://localhost:1/theirs", receiver.url]


async def test_a_store_that_forgot_it(store: Store, crowd: RunningCrowd, client: Http, receiver: Listener) -> None:
    await look_after(store, "main", client, receiver.url, "one")
    store.save_cursor("webhook:main", None, at=store.cursor("webhook:main").full_at)  # type: ignore[union-attr]
    await look_after(store, "main", client, receiver.url, "two")
    assert [str(one["id"]) for one in crowd.webhooks()] == [kept(store)]
    assert await pinged(client, receiver, "ann") == "Basic two"


async def test_after_a_failure_the_next_look_puts_it_right(
    store: Store, crowd: RunningCrowd, client: Http, receiver: Listener
) -> None:
    await look_after(store, "main", client, receiver.url, "one")
    for method in ("GET", "DELETE", "POST"):
        for number in (1, 2):
            crowd.faults([{"kind": 503, "method": method, "path": "/webhook", "nth": number}])
            token = f"{method}{number}"
            try:
                await look_after(store, "main", client, receiver.url, token)
            except CrowdsyncError:
                crowd.faults([])
                await look_after(store, "main", client, receiver.url, token)
            assert [str(one["id"]) for one in crowd.webhooks()] == [kept(store)]
            assert await pinged(client, receiver, token) == f"Basic {token}"
    with pytest.raises(ConfigurationError):
        await look_after(store, "main", client, "no address", "one")


async def test_the_store_does_not_know_the_token(store: Store, client: Http, receiver: Listener) -> None:
    await look_after(store, "main", client, receiver.url, "one-secret")
    assert "one-secret" not in str(store.cursor("webhook:main"))


async def test_a_crowd_without_webhooks(store: Store, crowd: RunningCrowd, client: Http, receiver: Listener) -> None:
    await look_after(store, "main", client, receiver.url, "one")
    crowd.faults([{"kind": 404, "path": "/webhook"}])
    for _ in range(2):
        assert (await look_after(store, "main", client, receiver.url, "one")).startswith(
            "This Crowd offers no webhooks"
        )
        assert kept(store) is None
