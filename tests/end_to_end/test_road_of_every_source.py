"""The whole road from each kind of source into Crowd: everything, nothing, some days later, nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.idp import SOURCES
from connectors.settings import load
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import idp as sandbox_idp
from deployments.sandbox.provider import LATER, toml
from tasks.policy import policy_of
from tasks.run import begin
from tests import road
from tests.support.long import long_after

POLICY = """
[sources.acme.policy.limits.user_deactivate]
percent = 50
[[sources.acme.policy.usernames.rules]]
pattern = '@acme\\.example$'
replacement = ""
"""


@pytest.mark.parametrize("kind", long_after(4, sorted(sandbox_idp.EMULATORS)))
async def test_the_whole_road(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        sandbox_idp.running(kind, users=60, groups=10, memberships=200, seed=7) as idp,
        sandbox_crowd.running(applications={"crowdsync": "pw"}) as crowd,
    ):
        monkeypatch.setenv("CROWDSYNC_CROWD_PASSWORD", "pw")
        for name, value in idp.secrets.items():
            monkeypatch.setenv(SOURCES[kind].settings.model_fields[f"{name}_env"].default, value)
        file = tmp_path / "crowdsync.toml"
        file.write_text(
            f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n[directory]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
            f"[sources.acme]\n{toml(idp.settings)}{POLICY}",
            encoding="utf-8",
        )
        settings = load(file)

        async def walk() -> road.Walked:
            async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
                run.finished = True
                return await road.walk(run)

        first = await walk()
        assert set(first.journal["state"]) == {"done"}
        assert first.plan.held.empty
        people = {user["name"] for user in crowd.state()["users"]}
        assert len(people) == first.plan.counts()["user_create"] > 40
        assert not [name for name in people if "@" in name]
        assert (await walk()).plan.operations.empty
        idp.change(seed=11, **LATER)
        later = await walk()
        assert set(later.journal["state"]) == {"done"}
        assert later.plan.counts()["user_deactivate"] >= LATER["leavers"]
        assert (later.plan.counts()["user_rename"], later.plan.counts()["user_create"]) == (2, 3)
        last = await walk()
        assert last.plan.operations.empty
        assert last.plan.held.empty
