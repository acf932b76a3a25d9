"""The source that is pushed to: what the suite over the registry asks of every source, where there are no answers to
spoil. A company is pushed to the endpoint as an identity provider would, and read back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from connectors.contract import Scope, Source
from connectors.errors import ConfigurationError, RefusedError, StaleCursorError
from connectors.idp.push import Push, PushSettings
from connectors.model import Snapshot, crowd_id
from connectors.store import Store
from connectors.store.mirror import Mirrored, MirrorJob, MirrorWriting
from deployments.sandbox.organisation import ENTERPRISE_SCHEMA, Organisation, changed, organisation
from tasks.read.connections import open_source
from tasks.read.deltas import merged
from tasks.read.extract import read_source
from tests.contract.test_every_source import SIZE, check_whole
from tests.support.source_case import Case

CASE = Case(kind="push", users="", groups="", members="", username=lambda person: person.username)
WIDE = Scope(frozenset({"title", f"{ENTERPRISE_SCHEMA}:department"}))


@dataclass
class Pushed:
    """A mirror that follows a company. `ids`: the company's ids → the mirror's."""

    store: Store
    url: str
    company: Organisation = field(default_factory=lambda: organisation(users=0, groups=0, memberships=0, seed=1))
    ids: dict[str, str] = field(default_factory=dict)

    def follow(self, company: Organisation) -> None:
        """Push what is new, what changed, and who is gone."""

        def run(mirror: MirrorWriting) -> None:
            users, groups = company.scim_users(), company.scim_groups()
            there = {one["id"] for one in (*users, *groups)}
            kinds = {person.id: "user" for person in self.company.people}
            for gone in self.ids.keys() - there:
                mirror.remove(kinds.get(gone, "group"), self.ids.pop(gone))
            for kind, name, records in (("user", "userName", users), ("group", "displayName", groups)):
                for one in records:
                    body = {key: part for key, part in one.items() if key not in ("id", "members", "meta")}
                    row = Mirrored(crowd_id(one[name]), orjson.dumps(body).decode(), id=self.ids.get(one["id"], ""))
                    self.ids[one["id"]] = (mirror.put if row.id else mirror.create)(kind, row).id
            for one in groups:
                now = {self.ids[x["value"]]: x["type"].lower() for x in one["members"] if x["value"] in self.ids}
                was = [member for member, _ in mirror.members(self.ids[one["id"]])]
                mirror.leave(self.ids[one["id"]], [member for member in was if member not in now])
                mirror.join(self.ids[one["id"]], now)

        (problem,) = self.store.write_mirror([MirrorJob("crowd", "acme", run)])
        assert problem is None, problem
        self.company = company

    @asynccontextmanager
    async def source(self, page_size: int = 7) -> Any:
        """The source as a run opens it."""
        settings = PushSettings(url="https://sync.example.org", page_size=page_size)
        settings.keep(lambda: self.url, 30)
        async with open_source("acme", settings) as opened:
            yield opened

    async def read(self, scope: Scope = WIDE, page_size: int = 7) -> Snapshot:
        """A whole read."""
        async with self.source(page_size) as source:
            return await read_source(source, scope)


@pytest.fixture
def pushed(store_url: str) -> Iterator[Pushed]:
    with Store.open(store_url) as store:
        yield Pushed(store, store_url)


async def test_a_whole_read_is_the_company_whatever_its_size(pushed: Pushed) -> None:
    async with pushed.source() as source:
        assert isinstance(source, Source)
        assert not source.clients
    for users in (0, 1, 7, 8, 21):
        company = organisation(users=users, groups=min(users, 6), memberships=2 * users if users > 1 else users, seed=2)
        pushed.follow(company)
        check_whole(await pushed.read(), company, CASE)


async def test_one_person_and_one_group_are_as_in_a_whole_read(pushed: Pushed) -> None:
    pushed.follow(organisation(**SIZE))
    whole = await pushed.read()
    of = whole.memberships[whole.memberships["member_kind"] == "user"].astype("str")
    async with pushed.source() as source:
        for row in whole.users.itertuples(index=False, name=None):
            for key in (row[0], row[1], row[1].upper(), row[2]):
                if not key:
                    continue
                found = await source.user(key, WIDE)
                assert tuple(found.user) == row, key
                assert {one[0] for one in found.groups} == set(of.loc[of["member_id"] == row[0], "group_id"])
            assert await source.has_user(row[0])
        for row in whole.groups.itertuples(index=False, name=None):
            assert tuple((await source.group(row[0], WIDE)).group) == row
            assert await source.has_group(row[0])
        for nobody in ("", "nobody", "nobody@acme.example", "a\0b", "%@%", whole.groups["id"][0]):
            assert await source.user(nobody) is None
            assert not await source.has_user(nobody)
        assert await source.group(whole.users["id"][0]) is None
        with pytest.raises(ConfigurationError):
            await source.user(whole.users["id"][0], Scope(frozenset({"a[b"})))


async def test_a_delta_ends_where_a_full_read_does_deletions_included(pushed: Pushed) -> None:
    pushed.follow(organisation(**SIZE))
    async with pushed.source() as source:
        cursor, known = await source.cursor(WIDE), await pushed.read()
        for bad in ("", "nonsense", "{}", "-1", "²", "9" * 17):
            with pytest.raises(StaleCursorError):
                await source.changes(WIDE, bad)
        assert merged(known, await source.changes(WIDE, cursor)).digest() == known.digest()
        for seed in range(4):
            pushed.follow(
                changed(
                    pushed.company, seed=seed, joiners=2, leavers=2, disabled=1, renamed=2, updated=2, moved=4,
                    new_groups=1, renamed_groups=1,
                )
            )  # fmt: skip
            found = await source.changes(WIDE, cursor)
            assert len(found.users) < 20, "those who changed, and nobody else"
            cursor, known = found.cursor, merged(known, found)
            assert known.digest() == (await pushed.read()).digest(), seed


async def test_members_that_nobody_pushed_and_two_with_one_address(pushed: Pushed) -> None:
    body = '{"userName":"%s","emails":[{"value":"Same@acme.example"}]}'

    def run(mirror: MirrorWriting) -> tuple[str, str]:
        for name in ("ann", "ben"):
            mirror.create("user", Mirrored(name, body % name))
        bare = mirror.create("user", Mirrored("eve", '{"userName":"eve"}'))
        team = mirror.create("group", Mirrored("t", '{"displayName":"T"}'))
        mirror.join(team.id, {"stranger": "user"})
        return bare.id, team.id

    ((bare, team),) = pushed.store.write_mirror([MirrorJob("crowd", "acme", run)])
    whole = await pushed.read()
    assert whole.memberships.astype("str").to_numpy().tolist() == [[team, "stranger", "user"]]
    assert whole.users["active"].all(), "who has no `active` is active"
    async with pushed.source() as source:
        assert (await source.user("eve")).user[0] == bare
        with pytest.raises(RefusedError, match="2 people"):
            await source.user("same@acme.example")


async def test_the_check_says_what_is_there(pushed: Pushed) -> None:
    async with pushed.source() as source:
        assert "nothing was pushed yet" in " ".join(await source.check())
        pushed.follow(organisation(**SIZE))
        assert list(await source.check()) == ["users: 30", "groups: 12"]


def test_it_is_opened_with_the_store_alone() -> None:
    settings = PushSettings(url="https://sync.example.org/")
    assert settings.scim_address("acme") == "https://sync.example.org/scim/acme/v2"
    with pytest.raises(ConfigurationError, match="store"):
        Push.open("acme", settings, {})
    with pytest.raises(ConfigurationError, match="store"):
        settings.database()
