"""People who are pushed under names of their own and are one name in Crowd: each is answered as SCIM wants, and held
where an administrator looks; nothing is written, and nobody gets the account of another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.contract import Hint
from connectors.settings import load
from connectors.store import Store
from deployments.sandbox import crowd as sandbox_crowd
from flows.react import react
from flows.road import SyncRequest, walk
from tests.support.place import PASSWORD, say, wide
from tests.support.scim_push import Client, client

__all__ = ["wide"]


@pytest.mark.long
async def test_whoever_is_called_as_another_is_held_and_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First after the name is somebody's, then two at once."""
    monkeypatch.setenv("CROWDSYNC_CROWD_PASSWORD", PASSWORD)
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    url = f"sqlite:///{tmp_path}/store.db"
    with sandbox_crowd.running(applications={"crowdsync": PASSWORD}) as crowd, Store.open(url) as store:
        (tmp_path / "crowdsync.toml").write_text(
            f'[store]\nurl = "{url}"\n[directory]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
            '[sources.acme]\nkind = "push"\nurl = "https://sync.example.org"\n'
            "[[sources.acme.policy.usernames.rules]]\npattern = '@.*'\nreplacement = ''\n",
            encoding="utf-8",
        )

        def people() -> dict[str, str]:
            return {row["name"]: row["email"] for row in crowd.state()["users"]}

        async def looked_at() -> list[str]:
            """What became of those who wait in the inbox."""

            async def gather(_: str) -> Sequence[Hint]:
                return [Hint(one.kind, one.key) for one in waiting]

            waiting = store.due("crowd", datetime.now(UTC))
            statuses = [part.status for part in await react(load(), "acme", gather)]
            store.settle([one.id for one in waiting], "done", "", datetime.now(UTC))
            return statuses

        async def pushed(idp: Client, name: str) -> str:
            return await idp.user(name, emails=[{"type": "work", "value": name, "primary": True}], displayName=name)

        async with client(store) as idp:
            await pushed(idp, "ann@one.example")
            assert (await walk(SyncRequest(source="acme"))).status == "applied"
            await looked_at()
            assert people() == {"ann": "ann@one.example"}
            second = await pushed(idp, "ann@two.example")
            assert second in say("inbox")
            crowd.reset_counts()
            await looked_at()
            bobs = [await pushed(idp, f"bob@{where}.example") for where in ("one", "two")]
            await looked_at()
            report = await walk(SyncRequest(source="acme"))
            assert crowd.counts()["writes"] == 0
            assert people() == {"ann": "ann@one.example"}
            assert sorted(report.held["id"]) == sorted([second, *bobs])
            why = say("explain", "acme", "ann@two.example")
            assert "'ann@two.example' is the name in Crowd of 'ann@one.example', who has an account there" in why
            for name in ("bob@one.example", "bob@two.example"):  # (in the order of their ids)
                assert "become one name in Crowd; rename all but one" in say("explain", "acme", name)
            assert {one["userName"] for one in (await idp.get("/Users"))["Resources"]} >= {"ann@two.example"}
