"""Whom a plan about one person or one group must know: everybody whose name, address or ownership meets theirs.

People of the source and accounts of Crowd have *keys*: every form under which their name is compared, their e-mail
address where it correlates them, and the id in the source that owns them. Two records can only have to do with each
other if they share a key, so what is connected to the selection by keys, however far, is all that its plan depends on;
groups, nestings and what is held on either side are few, and known whole. The same pure stages then decide on these
fewer rows what they would decide on all, but for what only everybody together can tell (`tasks.decide.width`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import pandas as pd

from connectors.model import Snapshot, crowd_id, sizes_only
from tasks.decide.map import usernames
from tasks.decide.names import among, ascii_only, crowd_ids, fold, skeletons
from tasks.decide.nesting import codes_in, groups_below, nestings
from tasks.decide.owners import split_mark
from tasks.decide.selection import Selection
from tasks.decide.values import Sources, field_value
from tasks.policy import Policy

NAME: Final = "name"
EMAIL: Final = "email"
OWNER: Final = "owner"


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


def person_keys(users: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Users of a source → their keys under a policy: id, key. Whoever is out of scope has them too."""
    parts = [_keyed(users["id"], OWNER, users["id"]), *_named(users["id"], usernames(users, policy.usernames))]
    if EMAIL in policy.matching.users:
        address = policy.attributes.fields.get(EMAIL)
        emails = users[EMAIL]
        if address is not None:
            emails = field_value(Sources(users, policy.attributes.wanted()), address)
        parts.append(_keyed(users["id"], EMAIL, emails.str.lower()))
    return _together(parts)


def account_keys(accounts: pd.DataFrame, links: pd.DataFrame, policy: Policy, source: str) -> pd.DataFrame:
    """Crowd's users, and the links of users in this directory → their keys: id (Crowd id), key."""
    prefix = f"{source}:"
    marks, _ = split_mark(accounts["attributes"])
    ours = links[links["source"] == source]
    names = pd.concat([accounts["username"], links["name"]], ignore_index=True).astype("str")
    ids = crowd_ids(names)
    parts = [
        *_named(ids, names),
        _keyed(accounts["id"], OWNER, marks.where(marks.str.startswith(prefix), "").str.slice(len(prefix))),
        _keyed(crowd_ids(ours["name"]), OWNER, ours["id"]),
    ]
    if EMAIL in policy.matching.users:
        parts.append(_keyed(accounts["id"], EMAIL, accounts[EMAIL].str.lower()))
    return _together(parts)


def _named(ids: pd.Series, names: pd.Series) -> list[pd.DataFrame]:
    """Every form under which names are compared, as keys. (Plain ones have but one.)"""
    names = names.reset_index(drop=True)
    lower = crowd_ids(names)
    parts = [_keyed(ids, NAME, lower)]
    odd = (lower != (folded := fold(names))).to_numpy() | ~ascii_only(names)
    if odd.any():
        some, plain = names[odd].reset_index(drop=True), folded[odd].reset_index(drop=True)
        whose = pd.Series(ids.to_numpy(dtype=object)[odd], dtype="str")
        parts += [_keyed(whose, NAME, form) for form in (plain, *skeletons(some, plain))]
    return parts


def _keyed(ids: pd.Series, kind: str, values: pd.Series) -> pd.DataFrame:
    """Ids and their values → keys; an empty value is none."""
    frame = pd.DataFrame({"id": ids.to_numpy(dtype=object), "key": values.to_numpy(dtype=object)}, dtype="str")
    frame = frame[frame["key"] != ""]
    return frame.assign(key=f"{kind}:" + frame["key"])


def _together(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)


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
    marked, _ = split_mark(directory.groups["attributes"][(directory.groups["id"] == group).to_numpy()])
    tied = links[(links["kind"] == "group") & (links["source"] == name) & (crowd_ids(links["name"]) == group)]
    owners = {*tied["id"], *(mark.removeprefix(f"{name}:") for mark in marked if mark.startswith(f"{name}:"))}
    ours = (crowd_ids(policy.groups.named(source.groups["name"])) == group).to_numpy(copy=True)
    ours |= among(source.groups["id"], owners)
    teams = set(source.groups["id"][ours])
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
