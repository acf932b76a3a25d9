"""Whom a key leads to: what people, buttons and identity providers call somebody → ids in the source."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from connectors.contract import Changes, Person
from connectors.errors import ConfigurationError, IncompleteError
from connectors.model import crowd_id
from connectors.store import in_thread
from tasks.decide.names import crowd_ids, equal
from tasks.decide.selection import nobody
from tasks.read.extract import read_memberships
from tasks.read.known import KnownSides, NotNarrowError
from tasks.read.news import people_of
from tasks.run import Run


async def who(run: Run, base: KnownSides, asked: str) -> tuple[str, Person | None]:
    """The one person who is asked for → the id, and the record where it was read already. Raises `ConfigurationError`
    for somebody whom neither the source, nor the store, nor a link knows."""
    known, named = await in_thread(_asked, run, base, asked)
    if asked in known:
        return asked, None
    found = await run.source.user(asked, run.source_side.scope)
    if found is not None:
        if named - {found.user[0]}:
            raise NotNarrowError(f"{asked!r} fits several people of {run.source_name}")
        return found.user[0], found
    # Whoever had this name or address may have another one now, or be gone.
    gone = await in_thread(_gone, run, asked) or named
    if not gone:
        raise nobody(run.source_name, asked, await in_thread(_usernames, run))
    if len(gone) > 1:
        raise NotNarrowError(f"{asked!r} fits several people of {run.source_name}")
    return gone.pop(), None


def _asked(run: Run, base: KnownSides, asked: str) -> tuple[set[str], set[str]]:
    """Of the people of whom the store knows: the one who has this id, and those who have this username or address."""
    ids = base.keys.people({f"asked:{asked.lower()}"})
    users = run.store.users_now(run.source_side.stream, {asked, *ids})
    wanted = asked.strip().lower()
    named = (users["username"].str.strip().str.lower() == wanted) | (users["email"].str.strip().str.lower() == wanted)
    return set(users["id"]) & {asked}, set(users["id"][named])


def _usernames(run: Run) -> list[str]:
    """As the source was read last."""
    latest = run.store.latest_snapshot(run.source_side.stream)
    return [] if latest is None else run.store.load_snapshot(latest.id).users["username"].tolist()


def _gone(run: Run, asked: str) -> set[str]:
    """The ids of those who are linked under this id or Crowd username."""
    links = run.store.links_about(run.directory_name, run.source_name, {asked}, {crowd_id(asked)}, groups=False)
    ours = links[(links["source"] == run.source_name) & (links["kind"] == "user")]
    return set(ours["id"][(ours["id"] == asked) | (crowd_ids(ours["name"]) == crowd_id(asked))])


async def named(run: Run, base: KnownSides, keys: Collection[str]) -> dict[str, Person | None]:
    """People of the source by id, username or e-mail address → by id, with the record where it was read already. Of
    keys that nobody knows there is nothing. Raises `NotNarrowError` where one fits several."""
    links = await in_thread(run.store.links_about, run.directory_name, run.source_name, set(keys), (), groups=False)
    users = await in_thread(run.store.users_now, run.source_side.stream, set(keys))
    linked = links["id"][equal(links["source"], run.source_name) & equal(links["kind"], "user")]
    ours = {*users["id"], *linked} & set(keys)

    async def found(key: str) -> tuple[str, Person | None] | None:
        try:
            return await who(run, base, key)
        except ConfigurationError:
            return None

    others = await asyncio.gather(*(found(key) for key in sorted(set(keys) - ours)))
    return dict.fromkeys(ours) | dict(one for one in others if one is not None)


async def of_groups(run: Run, base: KnownSides, groups: Collection[str]) -> set[str]:
    """Groups of the source (ids) → the people (ids) who may have joined or left them since they were read. Raises
    `NotNarrowError` where a group is new, gone or changed, or other groups are in it."""
    side = run.source_side
    if not groups:
        return set()
    asked = sorted(groups)
    read = dict(zip(asked, await asyncio.gather(*(side.client.group(one, side.scope) for one in asked)), strict=True))
    there = [one for one, group in read.items() if group is not None]
    pairs, held, _ = await read_memberships(side.client.memberships(there))
    if held:
        raise IncompleteError(f"the members of the group {held[0][1]!r} of {side.name} cannot be read")
    rows = [group.group for group in read.values() if group is not None]
    gone = [one for one, group in read.items() if group is None]
    members = list(pairs.astype("str").itertuples(index=False, name=None))
    changes = Changes("", groups=rows, replaced=there, memberships=members, gone_groups=gone)
    return await in_thread(people_of, run, base.source, changes)
