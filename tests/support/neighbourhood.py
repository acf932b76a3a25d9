"""Whom a plan about one person or one group must know, found by keys in both sides at once: what the narrow read finds
record by record, for the proof that it is enough."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from connectors.model import Snapshot, crowd_id, sizes_only
from tasks.decide.names import among, crowd_ids
from tasks.decide.neighbourhood import teams_of
from tasks.decide.nesting import codes_in, groups_below, nestings
from tasks.decide.selection import Selection
from tasks.policy import Policy


class Index(Protocol):
    """Both sides by key. Keys are texts as `person_keys` and `account_keys` make them."""

    def people(self, keys: Collection[str]) -> Collection[str]:
        """The people of the source (ids) that have one of these keys."""
        ...

    def accounts(self, keys: Collection[str]) -> Collection[str]:
        """The accounts of Crowd (ids) that have one of these keys, also such as only links of this directory name."""
        ...

    def keys_of_people(self, ids: Collection[str]) -> Collection[str]:
        """The keys of people, and of ids of which only links or marks know."""
        ...

    def keys_of_accounts(self, ids: Collection[str]) -> Collection[str]:
        """The keys of accounts, and of Crowd ids of which only links know."""
        ...


@sizes_only
@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Ids in the source and Crowd ids of accounts: all that a plan about a selection depends on."""

    people: frozenset[str]
    accounts: frozenset[str]

    def __len__(self) -> int:
        return len(self.people) + len(self.accounts)


def neighbourhood(index: Index, people: Iterable[str], accounts: Iterable[str], most: int) -> Neighbourhood | None:
    """Whom a selection names (`people` of the source, `accounts` of Crowd) → all that are connected with them by keys;
    None where that is more than `most` records."""
    new_people, new_accounts = set(people), set(accounts)
    all_people, all_accounts, seen = set[str](), set[str](), set[str]()
    while new_people or new_accounts:
        all_people |= new_people
        all_accounts |= new_accounts
        if len(all_people) + len(all_accounts) > most:
            return None
        keys = {*index.keys_of_people(new_people), *index.keys_of_accounts(new_accounts)} - seen
        seen |= keys
        new_people = set(index.people(keys)) - all_people
        new_accounts = set(index.accounts(keys)) - all_accounts
    return Neighbourhood(frozenset(all_people), frozenset(all_accounts))


def named_by(
    selection: Selection, source: Snapshot, directory: Snapshot, links: pd.DataFrame, policy: Policy, name: str
) -> tuple[set[str], set[str]] | None:
    """The people of the source and the accounts of Crowd that a selection names; None: everybody, because the policy
    has everybody in its group. Of the snapshots groups, nestings and the members of its group are enough. `name`: the
    source's."""
    if selection.person:
        return {selection.person}, set()
    group = crowd_id(selection.group)
    if group in {crowd_id(one) for one in policy.groups.everyone}:
        return None
    teams = teams_of(group, source.groups, directory.groups, links, policy, name)
    if policy.groups.nesting == "flatten":
        teams = groups_below(source.memberships, teams)
    return _members(source.memberships, teams), _members(directory.memberships, {group})


def _members(memberships: pd.DataFrame, groups: Collection[str]) -> set[str]:
    chosen = codes_in(memberships["group_id"], pd.Series(sorted(groups), dtype="str")) & ~nestings(memberships)
    return set(memberships["member_id"][chosen].astype("str"))


def part_of(snapshot: Snapshot, users: Collection[str]) -> Snapshot:
    """Of a side only these users (ids) and their memberships; groups, nestings and what is held are whole."""
    memberships = snapshot.memberships
    members = codes_in(memberships["member_id"], pd.Series(sorted(users), dtype="str"))
    return Snapshot.of(
        snapshot.users[among(snapshot.users["id"], users)],
        snapshot.groups,
        memberships[members | nestings(memberships)],
        snapshot.held,
        snapshot.warnings,
        snapshot.unsound,
    )


def links_of(links: pd.DataFrame, found: Neighbourhood) -> pd.DataFrame:
    """Links → those of groups, and of the accounts of a neighbourhood."""
    return links[np.asarray((links["kind"] == "group") | among(crowd_ids(links["name"]), found.accounts))]
