"""Another identity provider: the same people under other ids and another source's name."""

from __future__ import annotations

import asyncio
import getpass
import re
from pathlib import Path

from connectors.settings import load
from connectors.store import Store
from tests.support.moving import OTHER, company, linked, owners_in
from tests.support.place import Place, place, say, walked, wide

__all__ = ["place", "wide"]  # (the fixtures)


async def test_everything_goes_to_the_new_source_once_it_was_shown(place: Place, tmp_path: Path) -> None:
    said = asyncio.to_thread
    place.configure(f"sqlite:///{tmp_path}/store.db")
    content = company(u1=(5, False), u2=(4, "somebody.else@example.org"))
    content["groups"].append(["confluence-administrators", "", {}])
    content["memberships"].append([content["users"][0][0], "confluence-administrators"])
    place.crowd.load(**content)
    store = Store.open(load().store_url())
    linked(store, content, every=2)
    doubtful = [content["users"][at][0] for at in range(3)]
    before = await walked()
    assert before.plan.operations.empty
    assert len(before.plan.held) > 40, "all who are active are held"
    loud = await said(lambda: say("check", "acme", code=2))
    assert "'okta' owns 40 accounts and 6 groups of crowd and is no source of it any more" in loud
    assert "crowdsync links move okta acme --by username" in loud

    digest = place.crowd.digest()
    shown = await said(say, "links", "move", OTHER, "acme", "--by", "username")
    told = re.search(r"(\d+) left out", shown)
    assert told is not None, shown
    left_out = int(told[1])
    assert f"{40 - 3} accounts and 6 groups to be moved, 3 left out" in shown, shown
    assert "has the power of 'confluence-administrators'" in shown
    assert "the account is inactive" in shown
    assert "another e-mail address in acme" in shown
    assert "Nothing was written" in shown
    assert "crowdsync.id" in await said(say, "plan", "--show", str(store.plans(1)["id"].iloc[0]))
    assert place.crowd.digest() == digest
    assert "say why" in await said(lambda: say("links", "move", OTHER, "acme", "--yes", code=2))
    unseen = await said(lambda: say("links", "move", OTHER, "acme", "--by", "email", "--yes", "--reason", "x", code=3))
    assert "this is not what was shown" in unseen
    assert place.crowd.digest() == digest

    done = await said(say, "links", "move", OTHER, "acme", "--yes", "--reason", "new IdP", "--decided-by", "Kim")
    assert f"{46 - left_out} links moved from okta to acme" in done
    marks, links = owners_in(place, store)
    assert {key: mark for key, mark in marks.items() if mark.startswith("acme:")} == {
        key: owner for key, owner in links.items() if owner.startswith("acme:")
    }
    stays = {key for key, mark in marks.items() if mark.startswith(f"{OTHER}:")}
    assert stays == {("user", name) for name in doubtful}
    after = await walked()
    assert after.plan.operations.empty, after.plan.operations
    assert set(after.plan.held["name"].str.lower()) == {name.lower() for name in doubtful}

    # What may not be guessed is written down.
    ids = dict(zip(after.plan.held["name"].str.lower(), after.plan.held["id"], strict=True))
    file = tmp_path / "pairs.csv"
    rows = [f"{marks['user', name].partition(':')[2]},{ids[name.lower()]}" for name in doubtful]
    file.write_text("\n".join(["old_id,new_id", *rows]), encoding="utf-8")
    by_file = ("links", "move", OTHER, "acme", "--by", str(file), "--kind", "user")
    assert "3 accounts and 0 groups to be moved, 0 left out" in await said(say, *by_file)
    assert "3 links moved" in await said(say, *by_file, "--yes", "--reason", "known by HR")
    assert "0 accounts and 0 groups to be moved, 0 left out" in await said(say, *by_file)
    await said(say, "check", "acme")
    assert {mark.partition(":")[0] for mark in owners_in(place, store)[0].values()} == {"acme", ""}
    audit = store.audit_log(200)
    moved = audit[audit["event"] == "links moved by hand"]
    by_kim = moved["details"].str.contains("new IdP", regex=False)
    assert set(moved.loc[by_kim, "actor"]) == {"Kim"}
    assert set(moved.loc[~by_kim, "actor"]) == {getpass.getuser()}
    assert moved["details"].str.contains('"login":').all()
    assert store.verify_audit() is None
    assert set(store.plans()["status"]) <= {"applied", "waiting"}
    runs = store.runs(50)
    assert set(runs.loc[runs["mode"] == "links move", "status"]) == {"applied", "planned"}
    store.close()
