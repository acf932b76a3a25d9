"""Who changed since Crowd was last in step with a source: by the delta of the source, Crowd's events, our own links,
and the clock.

All of these are hints: whoever is named is read again, and nothing is taken from what was said of them. Groups are
compared with what the store has; where one is another, a few people do not tell what follows from it. Of a side that
cannot name anybody, nobody changed where it answers everything as it did then; where it does not, a source is listed
(`tasks.read.listing`), and with Crowd both are read whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

import pandas as pd

from connectors.answers import same
from connectors.contract import Changes, DirectoryChanges
from connectors.errors import StaleCursorError
from connectors.model import Snapshot, sizes_only
from connectors.store import LastInStep, StepCursors, in_thread
from tasks.policy import Policy
from tasks.read.deltas import Reading, read_whole
from tasks.read.known import Known, KnownSides, NotNarrowError, not_long_ago, people_and_accounts, same_rules
from tasks.read.listing import unlike
from tasks.read.quarantine import watched
from tasks.run import Run

Named = TypeVar("Named")

LEAST: Final = 20
"""So many may always have changed, whatever the share."""
MOST: Final = 2_000
"""So many, at most, are read again by key."""


@sizes_only
@dataclass(frozen=True, slots=True)
class News:
    """`people` (ids): who may have changed in the source, or is to be deleted by now. `others`: people who are to be
    decided on besides, as the store has them. `accounts`: the names in Crowd that may have changed. `cursors`: where
    what happens now begins. `most`: so many records may be read for it. `listed`: what `people` were found in, of a
    source that names nobody and answers otherwise than it did."""

    people: Collection[str]
    others: Collection[str]
    accounts: Collection[str]
    cursors: StepCursors
    most: int
    listed: Snapshot | None = None


async def starting_cursors(run: Run) -> StepCursors | None:
    """Where what happens from now on begins, but for what only the reading of both sides says (`Reading.begins`); None
    for a run that later ones do not go by."""
    if not run.lasting:
        return None
    token = await run.directory.token()
    now, event = datetime.now(UTC), await in_thread(run.store.newest_link_event, run.directory_name)
    return StepCursors("", token or "", event, now, now)


def most_by_key(people: int, policy: Policy) -> int:
    """How many may have changed in a source of so many people, to be read again one by one."""
    percent = policy.reads.by_key_percent
    return min(MOST, max(LEAST, int(people * percent / 100))) if percent else 0


def last_in_step(run: Run) -> LastInStep:
    """Since when what changed is to be asked for. Raises `NotNarrowError`."""
    last = run.store.in_step(run.directory_name, run.source_name)
    if last is None:
        raise NotNarrowError("no run about everybody that read both sides whole has left Crowd in step yet")
    same_rules(run, last.policy, last.requested, "when Crowd was last in step", "Crowd was last in step")
    if not last.since.cursor and not (last.since.source_answers and last.snapshot):
        raise NotNarrowError(f"{run.source_name} does not say what changed, with these settings")
    if not last.since.token and not last.since.crowd_answers:
        raise NotNarrowError("Crowd offers no events that can be relied on")
    not_long_ago(run, last.since.full_at, "full read")
    return last


async def news(run: Run, base: KnownSides, last: LastInStep) -> News:
    """Who changed since. Raises `NotNarrowError` where they cannot be named, or are too many."""
    now, event = datetime.now(UTC), await in_thread(run.store.newest_link_event, run.directory_name)
    changes, hints = await asyncio.gather(
        watched(run, _named(_of_source(run, last))), _named(_of_crowd(run, last.since))
    )
    for error in (changes, hints):
        if isinstance(error, StaleCursorError):
            raise NotNarrowError(str(error).rstrip("."))
    assert isinstance(changes, Changes | Reading)
    assert isinstance(hints, DirectoryChanges)
    listed = changes.snapshot if isinstance(changes, Reading) else None
    if isinstance(changes, Reading):
        people = await unlike(run, base.source, last, changes.snapshot)
        since = replace(last.since, cursor=changes.cursor, source_answers=changes.answers)
    else:
        people = await in_thread(people_of, run, base.source, changes)
        since = replace(last.since, cursor=changes.cursor)
    people |= await in_thread(_due, run, last)
    others, accounts = await in_thread(_ours, run, last)
    accounts |= {hint.key for hint in hints.hints if hint.kind == "user"}
    groups = [hint.key for hint in hints.hints if hint.kind == "group"]
    if len(groups) > LEAST:
        raise NotNarrowError(f"{len(groups)} groups of Crowd may have changed")
    for group in groups:
        accounts |= (await crowd_members(run, base.crowd, group))[1]
    most = most_by_key(base.source.saved.users, run.policy)
    if len(people) + len(accounts) > most:
        share = f"more than {most} (reads.by_key_percent)"
        raise NotNarrowError(f"{people_and_accounts(len(people), len(accounts))} changed, {share}")
    cursors = replace(since, token=hints.token, event=event, at=now)
    return News(people, others, accounts, cursors, 2 * most, listed)


async def _of_source(run: Run, last: LastInStep) -> Changes | Reading:
    """What a source says that changed. Of one that cannot say it, nothing, where it answers as it did then and the
    store has it as then; else all that it lists now. Raises `StaleCursorError` and `IncompleteError`."""
    if last.since.cursor:
        return await run.source.changes(run.source_side.scope, last.since.cursor)
    as_then = not await in_thread(run.store.changed_since, run.source_side.stream, last.snapshot)
    if as_then and await same(run.source.clients, last.since.source_answers):
        return Changes("")
    return await read_whole(run.source, run.source_side.scope, keeps=True)


async def _of_crowd(run: Run, since: StepCursors) -> DirectoryChanges:
    """What Crowd says that changed; nothing, where one that cannot say it answers as it did then. Raises
    `StaleCursorError`."""
    if since.token:
        return await run.directory.changes(since.token)
    if await same(run.directory.clients, since.crowd_answers):
        return DirectoryChanges("")
    raise StaleCursorError("Crowd does not answer as it did when it was last in step")


async def _named(asked: Awaitable[Named]) -> Named | StaleCursorError:
    """What a side says, or why only a full read helps."""
    try:
        return await asked
    except StaleCursorError as error:
        return error


async def crowd_members(run: Run, known: Known, group: str) -> tuple[set[str], set[str]]:
    """The users who are in a group of Crowd; and those of whom the store has another thing. Raises `NotNarrowError`
    where the group is not otherwise as the store has it."""
    side = run.crowd_side
    found = await side.client.group(group, side.scope)
    if found is None and group not in known.groups:
        return set(), set()
    if found is None or known.groups.get(group) != tuple(found.group):
        raise NotNarrowError(f"the group {group!r} of {side.name} is new, gone or changed")
    members = {(member, kind) for _, member, kind in await side.client.members(group)}
    different = members ^ await in_thread(run.store.members_now, side.stream, group)
    if any(kind == "group" for _, kind in different):
        raise NotNarrowError(f"other groups are in the group {group!r} of {side.name}")
    return {member for member, kind in members if kind == "user"}, {member for member, _ in different}


def people_of(run: Run, known: Known, changes: Changes) -> set[str]:
    """Who may have changed in the source (ids). Raises `NotNarrowError` where a group did."""
    for row in changes.groups:
        if known.groups.get(row[0]) != tuple(row):
            raise NotNarrowError(f"the group {row[1]!r} of {run.source_name} is new or changed")
    held = {one.id for one in changes.held if one.kind == "group"}
    lost = {*changes.gone_groups} & (known.groups.keys() | known.unread)
    if lost := lost | (held - known.unread) | ({*changes.replaced} & (known.unread - held)):
        raise NotNarrowError(f"the group {min(lost)!r} of {run.source_name} is gone, cannot be read, or can be again")
    people = {one.id for one in (*changes.held, *changes.warnings) if one.kind == "user"}
    return people | {row[0] for row in changes.users} | {*changes.gone_users} | _members(run, known, changes)


def _members(run: Run, known: Known, changes: Changes) -> set[str]:
    """The people (ids) who may have joined or left a group of the source, but for the unread ones. Raises
    `NotNarrowError` where a group did."""
    now = known.rest.memberships
    nestings = set(now[(now["member_kind"] == "group").to_numpy()].astype("str").itertuples(index=False, name=None))
    whole: dict[str, set[tuple[str, str]]] = {group: set() for group in changes.replaced}
    different = {pair for pair in changes.left if pair[2] == "user" or pair in nestings}
    for pair in changes.memberships:
        if pair[0] in whole:
            whole[pair[0]].add(pair[1:])
        elif pair[2] == "user" or pair not in nestings:
            different.add(pair)
    for group, members in whole.items():
        if group not in known.unread:
            known_members = run.store.members_now(run.source_side.stream, group)
            different |= {(group, *member) for member in members ^ known_members}
    if any(kind == "group" for _, _, kind in different):
        raise NotNarrowError(f"other groups are in a group of {run.source_name}")
    return {member for _, member, _ in different}


def _due(run: Run, last: LastInStep) -> set[str]:
    """Whom (ids) it became time to delete."""
    days = run.policy.leavers.delete_after_days
    if days is None:
        return set()
    gone = run.store.departures(run.directory_name, run.source_name)
    since = gone["since"] + pd.Timedelta(days=days)
    return set(gone["id"][(since > pd.Timestamp(last.since.at)) & (since <= pd.Timestamp(datetime.now(UTC)))])


def _ours(run: Run, last: LastInStep) -> tuple[set[str], set[str]]:
    """People (ids) who are to be decided on though nothing is said of them, and accounts (names): who is held, and
    whose links are others. Raises `NotNarrowError` where a group's is."""
    held = run.store.held_records(run.directory_name, run.source_name)
    links = run.store.links_changed(run.directory_name, last.since.event)
    if (links["kind"] == "group").any():
        raise NotNarrowError("links of groups were made or changed since then")
    people = {*held["id"][held["kind"] == "user"], *links["id"][links["source"] == run.source_name]}
    return people, {*links["before"], *links["after"]} - {""}
