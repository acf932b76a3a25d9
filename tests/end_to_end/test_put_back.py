"""Yesterday's copy of the database is put back while companies went on: on emulated servers, by what people use. Nobody
is let in or kept in by what the copy believes; the first plan asks, and then all is as if it never was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.settings import load
from connectors.store import Store
from deployments.sandbox.organisation import organisation
from flows.road import SyncRequest, walk
from tasks.put_back import keep_head
from tasks.tell.report import Report
from tests.support.place import Place, place, say, wide
from tests.support.stored import AT, plan

__all__ = ["place", "wide"]
LIMITS = "[sources.acme.policy.limits]\n" + "\n".join(
    f"{kind} = {{percent = 100}}" for kind in ("user_deactivate", "membership_remove", "group_loss")
)
CHANGES: dict[str, Any] = {"joiners": 2, "leavers": 2, "disabled": 1, "renamed": 2, "moved": 3}


def copied(file: Path, to: Path) -> None:
    """As the manual says: by SQLite itself, beside those who write."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def put_back(file: Path, kept: Path) -> None:
    for name in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        name.unlink(missing_ok=True)
    file.write_bytes(kept.read_bytes())


async def synced(**request: Any) -> Report:
    return await walk(SyncRequest(source="acme", **request))


def status(code: int) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(say("status", "--json", code=code))
    return found


@pytest.mark.long
async def test_a_copy_of_yesterday(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    file, kept = place.home / "store.db", place.home / "kept.db"
    place.configure(f"sqlite:///{file}")
    with (place.home / "crowdsync.toml").open("a", encoding="utf-8") as more:
        more.write(LIMITS)
    assert (await synced()).status == "applied"
    assert status(0)["well"]
    place.idp.change(seed=3, **CHANGES)
    early = await synced(mode="preview")
    assert early.plan
    copied(file, kept)
    assert (await synced()).status == "applied"
    place.idp.change(seed=4, **CHANGES)
    assert (await synced()).status == "applied"
    place.idp.change(seed=5, **CHANGES)
    put_back(file, kept)

    crowd = place.crowd.state()
    head = load().head_file()
    before = file.read_bytes(), head.read_bytes()
    shown = await synced(mode="preview", person=organisation(users=40, groups=6, memberships=90).people[0].username)
    assert not shown.planned or shown.asks, "a preview knows it, too"
    assert head.read_bytes() == before[1], "and changes nothing"
    with Store.open(f"sqlite:///{file}") as store:
        assert store.load_plan(early.plan).status == "planned"

    said = await synced()
    assert said.status == "waiting"
    assert [one for one in said.asks if one.startswith("put back:")]
    assert "because an older copy of the database was put back" in said.read
    assert place.crowd.state() == crowd, "nothing is written before somebody agrees"
    assert said.plan is not None
    assert said.plan > early.plan + 2, "the numbers of plans that are lost are not given again"
    found = status(5)
    assert [one for one in found["concerns"] if one["what"].startswith("an older copy of the database was put back")]
    with pytest.raises(Exception, match=f"plan {early.plan} is superseded already"):
        await synced(plan=early.plan)

    say("approve", str(said.plan), "--reason", "looked at it")
    done = await synced(plan=said.plan)
    assert done.status == "applied"
    assert (await synced()).status == "nothing to do"
    assert status(0)["well"]
    # As a database that knows nothing would have it: by the marks in Crowd alone.
    place.configure(f"sqlite:///{place.home}/other.db")
    assert (await synced(mode="preview")).status == "nothing to do"


async def test_somebody_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine was put back whole, the file beside the database too."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    place.configure(f"sqlite:///{place.home}/store.db")
    assert "plan asks first" in say("database", "restored", "--reason", "the machine was put back")
    assert "the machine was put back" in say("audit")
    assert status(5)["directories"][0]["sources"][0]["put_back"]
    assert (await synced()).status == "waiting"


def test_a_change_of_ownership_by_hand_notices_it_first(place: Place) -> None:
    """What became of a plan that was under way in the copy is not concluded from names then either."""
    file, kept = place.home / "store.db", place.home / "kept.db"
    place.configure(f"sqlite:///{file}")
    with Store.open(f"sqlite:///{file}") as store:
        plan(store)
        store.set_plan_status(1, "applying", at=AT)
        store.intend(1, [0], at=AT)
        copied(file, kept)
        store.audit(event="run", actor="crowdsync", subject="r2", details={}, at=AT)
        keep_head(store, load().head_file())
    put_back(file, kept)
    say("links", "cut", "acme", "nobody", "--reason", "a test", code=2)
    with Store.open(f"sqlite:///{file}") as store:
        assert store.operations(1)["state"].tolist() == ["undone", "planned", "planned"]
        assert "older copy" in store.operations(1)["note"].iloc[0]
        assert store.put_back("crowd", "acme")
