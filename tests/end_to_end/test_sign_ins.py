"""Who signs in is let into Crowd again where the policy says so, and only then; a second sign-in soon after leads to
nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from connectors.settings import load
from connectors.store import Store
from deployments.react import Reactor
from flows.road import SyncRequest, walk
from tests.support.long import long_after
from tests.support.place import Place, active, deactivate, place, wide

__all__ = ["place", "wide"]


async def told(store: Store, key: str, *via: str) -> str:
    """News of a person, taken → the note of it."""
    now = datetime.now(UTC)
    for one in via:
        store.accept("crowd", "acme", [("user", key, one)], "", now)
    await Reactor("crowd", store).turn()
    notes = store.inbox(done_since=now)["note"].tolist()
    return str(notes[0]) if notes else "waits"


@pytest.mark.parametrize("state", long_after(0, ["sign_in", "on", "off"]))
async def test_who_lets_an_inactive_account_in(place: Place, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    url = f"sqlite:///{place.home}/store.db"
    place.configure(url)
    with (place.home / "crowdsync.toml").open("a", encoding="utf-8") as file:
        file.write(f'[sources.acme.policy.operations]\nuser_activate = "{state}"\n')
    for status in ("applied", "nothing to do"):
        assert (await walk(SyncRequest(source="acme"))).status == status
    with Store.open(url) as store:
        links = store.links("crowd")
        links = links[links["kind"] == "user"]
        pairs = zip(links["id"].astype(str), links["name"].astype(str), strict=True)
        key, name = next((key, name) for key, name in pairs if active(place.crowd, name))
        deactivate(place.crowd, name)
        # A change alone lets nobody in again who must sign in first,
        await told(store, key, "webhook")
        assert active(place.crowd, name) == (state == "on")
        if state != "on":
            assert (await walk(SyncRequest(source="acme"))).status == "nothing to do"
            assert not active(place.crowd, name)
        # a sign-in does, though the person was read a moment ago,
        note = await told(store, key, "sign-in")
        assert note.startswith("passed over") == (state != "sign_in"), note
        assert active(place.crowd, name) == (state != "off")
        # and soon after it needs nothing.
        assert (await told(store, key, "sign-in")).startswith("passed over")
        if state == "sign_in":
            deactivate(place.crowd, name)
            await told(store, key, "sign-in", "webhook")
            assert active(place.crowd, name), "told of a change and a sign-in together"
        assert load().source("acme").sign_in_minutes == 15
