"""Both sides were read while the right to write was lent: whom batches of news decided about meanwhile is read again.

What a list said of them may be older than what a batch read and wrote, or a mixture of both. By key, with the right to
write in hand again, they are as they are now, like everybody whom no batch touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace

import pandas as pd

from connectors.answers import NEVER
from connectors.contract import Person
from connectors.errors import CrowdsyncError
from connectors.model import Snapshot, held_frame, memberships_frame, memberships_from_columns
from connectors.store import Overtaken, in_thread
from tasks.decide.names import among
from tasks.read.around import users_of
from tasks.read.deltas import Reading
from tasks.read.extract import held_rows
from tasks.read.news import most_by_key
from tasks.run import Run


async def brought_up(run: Run, source: Reading, crowd: Reading, mark: int) -> tuple[Reading, Reading] | None:
    """Both sides as they were read since the snapshot `mark` was the newest → the same, with whoever was touched by
    batches since as they are now; None: both are to be read again."""
    found = await in_thread(run.store.overtaken, run.directory_name, run.source_name, mark, memberships=True)
    if not found.runs:
        return source, crowd
    people = await in_thread(_people, run, found, source.snapshot)
    accounts = found.accounts | {key.removeprefix("account:") for key in found.keys if key.startswith("account:")}
    most = most_by_key(len(source.snapshot.users), run.policy)
    if found.unclear or people is None or len(people) + len(accounts) > 2 * most:
        return None
    try:
        of_people, of_accounts = await asyncio.gather(_read(run, people), _read_accounts(run, accounts))
    except CrowdsyncError:  # (what is wrong a whole read says)
        return None
    sides = _with(source.snapshot, of_people), _with(crowd.snapshot, of_accounts)
    if sides[0] is None or sides[1] is None:
        return None
    answers = [  # (they are those of before)
        NEVER if side.answers and read else side.answers for side, read in ((source, of_people), (crowd, of_accounts))
    ]
    return replace(source, snapshot=sides[0], answers=answers[0]), replace(crowd, snapshot=sides[1], answers=answers[1])


def _people(run: Run, found: Overtaken, read: Snapshot) -> set[str] | None:
    """Who was touched (ids), as far as anybody knows them; None where a group is another one."""
    users, keys = read.users, found.keys | found.asked
    lower = {key.lower() for key in keys}
    named = among(users["id"], keys) | among(users["username"].str.lower(), lower)
    people = found.people | found.seen | {*users["id"][named | among(users["email"].str.lower(), lower)]}
    stream = run.source_side.stream
    newest = run.store.newest(stream) if found.groups else None
    for group in found.groups:
        known = newest[1].groups if newest is not None else read.groups[:0]
        rows = [set(frame[frame["id"] == group].itertuples(index=False, name=None)) for frame in (known, read.groups)]
        if rows[0] != rows[1]:
            return None
        here = read.memberships[(read.memberships["group_id"] == group).to_numpy()]
        members = set(zip(here["member_id"].astype("str"), here["member_kind"].astype("str"), strict=True))
        moved = members ^ run.store.members_now(stream, group)
        if any(kind == "group" for _, kind in moved):
            return None
        people |= {member for member, _ in moved}
    return people


async def _read(run: Run, people: Collection[str]) -> dict[str, Person | None]:
    side = run.source_side

    async def one(identity: str) -> Person | None:
        found = await side.client.user(identity, side.scope)
        if found is None and await side.client.has_user(identity):
            raise CrowdsyncError(f"{side.name}: the user {identity} is there, and was not found")
        return found

    return dict(zip(people, await asyncio.gather(*map(one, people)), strict=True))


async def _read_accounts(run: Run, names: Collection[str]) -> dict[str, Person | None]:
    side = run.crowd_side
    return dict(zip(names, await asyncio.gather(*(side.client.user(one, side.scope) for one in names)), strict=True))


def _with(snapshot: Snapshot, read: Mapping[str, Person | None]) -> Snapshot | None:
    """A side with these users as they were read again; None where their groups are others."""
    if not read:
        return snapshot
    there = [one for one in read.values() if one is not None]
    groups = {row[0]: tuple(row) for row in snapshot.groups.itertuples(index=False, name=None)}
    unread = set(snapshot.held["id"][(snapshot.held["kind"] == "group").to_numpy()])
    rows = [tuple(group) for one in there for group in one.groups if group[0] not in unread]
    pairs = [pair for one in there for pair in one.memberships if pair[0] not in unread]
    if any(groups.get(row[0]) != row for row in rows) or any(pair[0] not in groups for pair in pairs):
        return None

    def rest(frame: pd.DataFrame) -> pd.DataFrame:
        of_users = (frame["kind"] == "user").to_numpy() if "kind" in frame else True
        return frame[~(among(frame["id"], read) & of_users)]

    now, fresh = snapshot.memberships, memberships_frame(pairs)
    keep = ~(among(now["member_id"].astype("str"), read) & (now["member_kind"] == "user").to_numpy())
    columns = (pd.concat([now[keep][name].astype("str"), fresh[name].astype("str")]) for name in now)
    warned = held_frame(held_rows(one for person in there for one in person.warnings if one.kind == "user"))
    return Snapshot.of(
        pd.concat([rest(snapshot.users), users_of(read)], ignore_index=True),
        snapshot.groups,
        memberships_from_columns(*columns),
        rest(snapshot.held),
        pd.concat([rest(snapshot.warnings), warned], ignore_index=True),
        rest(snapshot.unsound),
    )
