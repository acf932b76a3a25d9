"""Several sources into one directory, or into several: each keeps what it owns, and touches nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import ConfigurationError
from connectors.settings import Settings, load
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from tasks.policy import policy_of
from tasks.run import begin
from tests import road

PASSWORD, TOKEN = "pw", "tok"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Two companies, of which some people have the same usernames, and two Crowds."""
    monkeypatch.setenv("CROWDSYNC_CROWD_PASSWORD", PASSWORD)
    monkeypatch.setenv("CROWDSYNC_SOURCE_TOKEN", TOKEN)
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                sandbox_scim.prepared(users=users, groups=6, memberships=90, seed=seed, token=TOKEN)
            )
            for name, users, seed in (("north", 40, 1), ("south", 60, 2))
        }
        crowds = {
            name: stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
            for name in ("one", "two")
        }
        yield {**servers, **crowds, "home": tmp_path}


def configuration(place: dict[str, Any], text: str, **into: str) -> Settings:
    crowd = '[directories.{0}]\nurl = "{1}"\napplication = "crowdsync"\n'
    source = '[sources.{0}]\nkind = "scim"\nurl = "{1}"\n'
    lines = [f'[store]\nurl = "sqlite:///{place["home"]}/s.db"\n']
    lines += [crowd.format(name, place[name].url) for name in ("one", "two")]
    for name in ("north", "south"):
        lines.append(source.format(name, place[name].url) + text.replace("NAME", into.get(name, "")))
    file = place["home"] / "crowdsync.toml"
    file.write_text("".join(lines), encoding="utf-8")
    return load(file)


async def walk(settings: Settings, source: str) -> road.Walked:
    async with begin(settings, source, policy_of(settings, source), "sync") as run:
        run.finished = True
        return await road.walk(run)


def accounts(crowd: Any) -> dict[str, str]:
    """Username → the mark of its owner."""
    return {user["name"]: user["attributes"]["crowdsync.id"][0] for user in road.content(crowd)["users"]}


async def test_two_sources_into_one_directory(place: dict[str, Any]) -> None:
    settings = configuration(place, 'directory = "one"\n')
    north = await walk(settings, "north")
    before = accounts(place["one"])
    south = await walk(settings, "south")
    after = accounts(place["one"])
    assert {mark.partition(":")[0] for mark in before.values()} == {"north"}
    assert {mark.partition(":")[0] for mark in after.values()} == {"north", "south"}
    assert before.items() <= after.items(), "the first owner keeps its accounts"
    held = south.plan.held
    taken = held[held["reason"].str.contains("another source owns the Crowd record of this name")]
    assert set(taken["kind"]) == {"user", "group"}, "both companies have an All Staff, and people of one name"
    assert not set(taken.loc[taken["kind"] == "user", "name"].str.lower()) & (after.keys() - before.keys())
    assert not place["two"].state()["users"]
    for name, was in (("north", north), ("south", south)):
        again = await walk(settings, name)
        assert again.plan.operations.empty, name
        assert set(again.plan.held["id"]) == set(was.plan.held["id"])


async def test_two_sources_into_two_directories(place: dict[str, Any]) -> None:
    settings = configuration(place, 'directory = "NAME"\n', north="one", south="two")
    for source, crowd in (("north", "one"), ("south", "two")):
        await walk(settings, source)
        assert {mark.partition(":")[0] for mark in accounts(place[crowd]).values()} == {source}
    for source in ("north", "south"):
        assert (await walk(settings, source)).plan.operations.empty


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", r"sources\.north\.directory: is missing; name one of one, two"),
        ('directory = "three"\n', r"sources\.north\.directory: is none of one, two"),
    ],
)
async def test_a_directory_that_is_not_named_right(place: dict[str, Any], line: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        configuration(place, line)
