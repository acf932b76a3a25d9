"""The commands of those who answer for it: links by hand, explanations, policies, the audit."""

from __future__ import annotations

import json
import os
import pwd
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from connectors.settings import load
from connectors.store import Store
from tests.support.place import Place, place, say, walked, wide

__all__ = ["place", "wide"]  # (the fixtures)

LOGIN = pwd.getpwuid(os.getuid()).pw_name


async def test_links_are_shown_cut_and_made_by_hand(place: Place, tmp_path: Path) -> None:
    import asyncio

    place.configure(f"sqlite:///{tmp_path}/store.db")
    await walked()
    with Store.open(load().store_url()) as store:
        links = store.links("crowd", "acme")
    person = links[links["kind"] == "user"].iloc[0]
    name, identity = str(person["name"]), str(person["id"])
    said = asyncio.to_thread  # the commands run loops of their own
    assert name in await said(say, "links", "show", "acme", "--name", name)
    assert "nothing: every record" in await said(say, "links", "orphans", "acme")

    out = await said(say, "links", "cut", "acme", identity, "--reason", "another person", "--by", "Kim")
    assert f"{name} no longer belongs to acme:{identity}" in out
    user = next(user for user in place.crowd.state()["users"] if user["name"] == name)
    assert "crowdsync.id" not in user["attributes"]
    again = await walked()
    held = again.plan.held[again.plan.held["id"] == identity]
    assert "owned by nobody" in held["reason"].iloc[0]
    assert again.plan.operations.empty
    assert name in await said(say, "links", "orphans", "acme")

    out = await said(say, "links", "make", "acme", identity, name, "--reason", "is the same after all", "--by", "Kim")
    assert f"{name} belongs to acme:{identity}" in out
    user = next(user for user in place.crowd.state()["users"] if user["name"] == name)
    assert user["attributes"]["crowdsync.id"] == [f"acme:{identity}"]
    back = await walked()
    assert back.plan.operations.empty
    assert identity not in set(back.plan.held["id"])
    taken = await said(lambda: say("links", "make", "acme", "somebody", name, "--reason", "x", code=2))
    assert f"belongs to acme:{identity}; crowdsync links hand-over acme {identity} somebody --kind user, or" in taken
    assert "or cut that link first" in taken
    await said(lambda: say("links", "make", "acme", "x", "y", "--reason", " ", code=2))
    await said(lambda: say("links", "cut", "acme", "nobody", "--reason", "x", code=2))
    with Store.open(load().store_url()) as store:
        rows = store.audit_log(50)
        history = store.link_history("crowd", id=identity)
    by_hand = rows[rows["event"].str.startswith("link ")]
    assert list(by_hand["event"]) == ["link made by hand", "link cut by hand"]
    assert set(by_hand["actor"]) == {"Kim"}
    assert {json.loads(details)["login"] for details in by_hand["details"]} == {LOGIN}
    assert list(history["action"]) == ["made", "dropped", "made"]


async def test_a_name_that_is_given_does_not_hide_the_login(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    place.configure(f"sqlite:///{tmp_path}/store.db")
    monkeypatch.setenv("LOGNAME", "the boss")
    number = (await walked()).number
    with Store.open(load().store_url()) as store:
        store.set_plan_status(int(number or 0), "waiting", at=datetime.now(UTC))
    await asyncio.to_thread(say, "approve", str(number), "--reason", "looked at it", "--by", "The Boss")
    said = await asyncio.to_thread(say, "decisions")
    assert f"The Boss (login {LOGIN})" in said
    with Store.open(load().store_url()) as store:
        row = store.audit_log(1).iloc[0]
        decision = store.decision(int(number or 0), now=datetime.now(UTC))
    assert row["actor"] == "The Boss"
    assert json.loads(row["details"])["login"] == LOGIN
    assert decision is not None
    assert (decision.actor, decision.login) == ("The Boss", LOGIN)


async def test_one_person_is_explained_and_policies_are_looked_at(place: Place, tmp_path: Path) -> None:
    import asyncio

    place.configure(f"sqlite:///{tmp_path}/store.db")
    said = asyncio.to_thread
    assert "was never read" in await said(lambda: say("explain", "acme", "ann", code=2))
    await walked()
    with Store.open(load().store_url()) as store:
        latest = store.snapshots("source:acme", 1)
        person = store.load_snapshot(int(latest["id"].iloc[0])).users.iloc[0]
    out = await said(say, "explain", "acme", str(person["username"]))
    assert "username" in out
    assert "its name in the IdP" in out
    assert "nobody" in (await said(lambda: say("explain", "acme", "who-is-that", code=2))).lower()

    shown = yaml.safe_load(await said(say, "policy", "show", "acme"))
    assert shown["approval"]["when"] == "above_limits"
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(shown), encoding="utf-8")
    assert "sound" in await said(say, "policy", "check", str(file))
    file.write_text("scope: {groups: [x], exclude_groups: [x]}", encoding="utf-8")
    assert "scope" in await said(lambda: say("policy", "check", str(file), code=2))
    assert json.loads(await said(say, "policy", "schema"))["title"] == "A crowdsync policy"
    assert " links of crowd" in await said(say, "audit")
