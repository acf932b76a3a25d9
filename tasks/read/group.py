"""One group of Crowd by key on both sides: who is in it, and who of these has to be read again.

The groups of the source that it is made of, and all nestings, are known from the last wide run. Where one of these is
another now, a few people do not tell what follows from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pandas as pd

from connectors.contract import Person
from connectors.model import crowd_id, sizes_only
from connectors.paging import in_order
from connectors.store import in_thread
from tasks.decide.neighbourhood import OWNER, account_keys, teams_of
from tasks.decide.nesting import groups_below, nestings
from tasks.read.extract import read_memberships
from tasks.read.known import KnownSides, NotNarrowError
from tasks.read.news import crowd_members
from tasks.run import Run

MOST: Final = 5_000
"""Of so many members the store is asked how they stand, at most; of more, everything is read at less cost."""
AT_ONCE: Final = 8
"""So many groups of the source are asked for side by side."""

Pairs = set[tuple[str, str]]
"""Groups and members, by id."""


@sizes_only
@dataclass(frozen=True, slots=True)
class GroupMembers:
    """Who is in a group of Crowd (id): `accounts`, and by the source `pairs`, in one of the `teams` that it is made of.

    `moved`: the people and the accounts of whom the store has another thing. `apart`: the people whose account is not
    in it, and the accounts whose person is not, as far as the store knows, which may be the policy's will; and the
    accounts from which a run took something lately, of which the store may not know."""

    group: str
    teams: frozenset[str]
    pairs: Pairs
    accounts: set[str]
    moved: tuple[set[str], set[str]]
    apart: tuple[set[str], set[str]]

    @property
    def people(self) -> set[str]:
        """The people (ids) who are in it by the source."""
        return {person for _, person in self.pairs}

    def agree(self, people: Mapping[str, Person | None], accounts: Mapping[str, Person | None]) -> None:
        """Raises `NotNarrowError` where one of the `moved`, who were read again, is in other groups by their own
        record. (So it is, too, where a group names somebody who is not there.)"""
        at_crowd = {(self.group, one) for one in self.accounts}
        for moved, read, pairs, groups in (
            (self.moved[0], people, self.pairs, self.teams),
            (self.moved[1], accounts, at_crowd, {self.group}),
        ):
            own = {pair for one in moved for pair in _groups_of(read[one], one) if pair[0] in groups}
            if own != {pair for pair in pairs if pair[1] in moved}:
                raise NotNarrowError("a group and a person do not say the same of who is in it")


async def members_of(run: Run, base: KnownSides, name: str) -> GroupMembers:
    """A group by its name in Crowd → who is in it. Raises `NotNarrowError` where the group is not as the store has it,
    or too large."""
    group, known = crowd_id(name), base.crowd
    if group in {crowd_id(one) for one in run.policy.groups.everyone}:
        raise NotNarrowError(f"everybody in scope is to be in {name!r} (groups.everyone)")
    if group not in known.groups:
        raise NotNarrowError(f"the last wide run found no group {name!r} in Crowd whose members it could read")
    teams, above = await in_thread(_teams, run, base, group)
    (accounts, moved_accounts), pairs = await asyncio.gather(
        crowd_members(run, known, group), _pairs(run, base, teams, above)
    )
    for parent in _parents(run, known.rest.memberships, {group}) - known.unread:
        if group not in {member for _, member, kind in await run.directory.members(parent) if kind == "group"}:
            raise NotNarrowError(f"the group {name!r} of Crowd is no longer in the group {parent!r}")
    then: Pairs = set()
    for team in teams:
        members = await in_thread(run.store.members_now, run.source_side.stream, team)
        then |= {(team, member) for member, kind in members if kind == "user"}
    moved = {person for _, person in pairs ^ then}
    people = {person for _, person in pairs}
    if len(people) + len(accounts) > MOST:
        raise NotNarrowError(f"the group {name!r} has {len(people) + len(accounts)} members on both sides, of {MOST}")
    apart = await in_thread(_apart, run, base, people, accounts)
    return GroupMembers(group, teams, pairs, accounts, (moved, moved_accounts), apart)


def _teams(run: Run, base: KnownSides, group: str) -> tuple[frozenset[str], set[str]]:
    """The groups of the source (ids) that a group of Crowd is made of, and those in which they are nested where that
    counts. Raises `NotNarrowError` where the members of one could not be read."""
    rest = base.source.rest
    held = rest.held[(rest.held["kind"] == "group").to_numpy()]
    links = run.store.links_about(run.directory_name, run.source_name, (), ())
    every = pd.concat([rest.groups[["id", "name"]], held[["id", "name"]]], ignore_index=True)
    teams = teams_of(group, every, base.crowd.rest.groups, links, run.policy, run.source_name)
    if run.policy.groups.nesting == "flatten":
        teams = groups_below(rest.memberships, teams)
    if unread := teams - base.source.groups.keys():
        raise NotNarrowError(f"the group {min(unread)!r} of {run.source_name} could not be read at the last wide run")
    return frozenset(teams), _parents(run, rest.memberships, teams) & base.source.groups.keys()


def _parents(run: Run, memberships: pd.DataFrame, groups: set[str]) -> set[str]:
    """The groups in which these are nested, where Crowd is to have the nestings of the source."""
    if run.policy.groups.nesting != "preserve":
        return set()
    nested = memberships[nestings(memberships)][["group_id", "member_id"]].astype("str")
    return set(nested["group_id"][nested["member_id"].isin(groups)]) - groups


async def _pairs(run: Run, base: KnownSides, teams: frozenset[str], above: set[str]) -> Pairs:
    """The people in these groups of the source. Raises `NotNarrowError` where a group, or what is nested in it, or it
    itself in those `above`, is not as the store has it."""
    side, known = run.source_side, base.source

    async def there(team: str) -> bool:
        found = await side.client.group(team, side.scope)
        return found is not None and tuple(found.group) == known.groups[team]

    asked = sorted(teams)
    as_known = in_order(there, asked, AT_ONCE)
    try:
        for team in asked:
            if not await anext(as_known):
                raise NotNarrowError(f"the group {known.groups[team][1]!r} of {side.name} is gone or changed")
    finally:
        await as_known.aclose()  # type: ignore[attr-defined]
    found, held, _ = await read_memberships(side.client.memberships([*asked, *sorted(above)]))
    if held:
        raise NotNarrowError(f"the members of the group {held[0][1]!r} of {side.name} cannot be read")
    nested = nestings(found)
    before = known.rest.memberships[nestings(known.rest.memberships)]
    if _within(found[nested], teams, above) != _within(before, teams, above):
        raise NotNarrowError(f"other groups of {side.name} are in the group, or it is in others")
    return _within(found[~nested], teams, set())


def _within(memberships: pd.DataFrame, teams: frozenset[str], above: set[str]) -> Pairs:
    """Of memberships those in these groups, and theirs in the groups above."""
    pairs = set(memberships[["group_id", "member_id"]].astype("str").itertuples(index=False, name=None))
    return {pair for pair in pairs if pair[0] in teams or (pair[0] in above and pair[1] in teams)}


def _apart(run: Run, base: KnownSides, people: set[str], accounts: set[str]) -> tuple[set[str], set[str]]:
    """As `GroupMembers.apart`: by links and marks."""
    links = run.store.links_about(run.directory_name, run.source_name, people, accounts)
    users = run.store.users_now(run.crowd_side.stream, accounts)
    keys = account_keys(users, links[(links["kind"] == "user").to_numpy()], run.policy, run.source_name)
    owners = keys[keys["key"].str.startswith(f"{OWNER}:")]
    owners = owners.assign(key=owners["key"].str.removeprefix(f"{OWNER}:"))
    both = owners[owners["id"].isin(accounts) & owners["key"].isin(people)]
    return people - set(both["key"]), (accounts - set(both["id"])) | (accounts & set(base.losers))


def _groups_of(read: Person | None, one: str) -> Pairs:
    return set() if read is None else {(group, one) for group, *_ in read.memberships}
