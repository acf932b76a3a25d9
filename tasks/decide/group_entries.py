"""Which groups the entries of a policy mean, and who is in them.

An entry is a name, a pattern or `id:…`. A name that two groups have means the one that had it first; where that cannot
be said, or the members of a group cannot be read, the answer is a doubt with its reason, which holds people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import Snapshot
from tasks.decide.names import among, crowd_ids
from tasks.decide.nesting import groups_below
from tasks.policy import BY_ID, Policy, ScopePolicy, matches

Below = Callable[[pd.Series, pd.DataFrame, pd.Series], np.ndarray]
"""(people, memberships, groups) → who is in these groups."""

NEW = 2**62
"""Since when a group has had its name that no snapshot knows yet: later than all others."""


@dataclass(frozen=True, slots=True)
class Meant:
    """Which groups a list of the policy means (ids): `sure` ones, and those of which it is in doubt, or whose members
    cannot be read, with the reason by id. `later` had a name after another group: they do not count."""

    sure: pd.Index
    doubted: Mapping[str, str]
    later: Mapping[str, str]


def doubled(groups: pd.DataFrame, policy: Policy) -> list[str]:
    """The groups (ids) that share a name which lets people in."""
    scope = policy.scope
    if not scope.required_groups and not scope.members_only:
        return []
    entitling = groups_named(groups, scope.required_groups)
    if scope.members_only:
        entitling |= groups_in_scope(groups, scope)
    names = crowd_ids(groups["name"])[entitling]
    return [str(one) for one in groups["id"][entitling][names.duplicated(keep=False)]]


def groups_named(groups: pd.DataFrame, entries: Sequence[str]) -> np.ndarray:
    """Which groups the entries name, by name or as `id:…`: bool."""
    ids = [entry.removeprefix(BY_ID) for entry in entries if entry.startswith(BY_ID)]
    named = matches(groups["name"], [entry for entry in entries if not entry.startswith(BY_ID)]).to_numpy(dtype=bool)
    return np.asarray(named | among(groups["id"], ids), dtype=bool)


def groups_in_scope(groups: pd.DataFrame, scope: ScopePolicy) -> np.ndarray:
    """Which groups are in scope: bool."""
    return np.asarray(groups_named(groups, scope.groups) & ~groups_named(groups, scope.exclude_groups), dtype=bool)


def meant(
    snapshot: Snapshot, entries: Sequence[str], field: str, known: Mapping[str, int], without: Sequence[str] = ()
) -> Meant:
    """Which groups the entries of a field mean. Of those that share a name it is the one that has had it for longest;
    where that cannot be said it is in doubt, and so is a group that is held: its members cannot be read."""
    groups = snapshot.groups
    by_id = groups_named(groups, [entry for entry in entries if entry.startswith(BY_ID)])
    named = groups_named(groups, entries) & ~groups_named(groups, without)
    names = crowd_ids(groups["name"])
    several = named & ~by_id & names.where(pd.Series(named, index=names.index), "").duplicated(keep=False).to_numpy()
    sure, doubted, later = named.copy(), dict[str, str](), dict[str, str]()
    for name, index in names[several].groupby(names[several]).groups.items():
        at = groups.index.get_indexer(index)
        ids = groups["id"].iloc[at].tolist()
        since = [known.get(one, NEW) for one in ids]
        first = min(since)
        sole = since.count(first) == 1
        shown = ", ".join(f"{BY_ID}{one}" for one in ids)
        for one, row, when in zip(ids, at, since, strict=True):
            if sole and when == first:
                continue
            sure[row] = False
            which = f"{len(ids)} groups are called {name!r} ({shown}), which {field} names"
            if sole:
                later[one] = f"{which}; only the one that was called so first counts: name the right one by its id"
            else:
                doubted[one] = f"{which}: nobody's state changes by it; name the right one by its id"
    held = snapshot.held[(snapshot.held["kind"] == "group") & ~among(snapshot.held["id"], groups["id"])]
    unread = held[groups_named(held, entries) & ~groups_named(held, without)]
    doubted |= {
        one: f"the members of the group {name!r}, which {field} names, are not known: it is held"
        for one, name in zip(unread["id"], unread["name"], strict=True)
    }
    return Meant(pd.Index(groups["id"][sure]), doubted, later)


def admitted(
    ids: pd.Series, snapshot: Snapshot, groups: Meant, below: Below
) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Which people (ids) are in these groups for certain; for whom that cannot be said, and why."""
    held = snapshot.held.loc[snapshot.held["kind"] == "group", "id"]
    admitted = below(ids, snapshot.memberships, groups.sure.to_series())
    unsure, reasons = np.zeros(len(ids), dtype=bool), pd.Series("", index=ids.index, dtype="str")
    unread = set(held) & (set(groups.doubted) | groups_below(snapshot.memberships, groups.sure)) if len(held) else set()
    for one, reason in groups.doubted.items():
        some = np.ones(len(ids), bool) if one in unread else below(ids, snapshot.memberships, pd.Series([one]))
        reasons = reasons.where((reasons != "") | ~some, reason)
        unsure |= some
    for one in sorted(unread - set(groups.doubted)):
        reasons = reasons.where(
            reasons != "", f"the members of the group {one!r}, through which they may be in, are not known: it is held"
        )
        unsure[:] = True
    return admitted, unsure & ~admitted, reasons


def unmatched(snapshot: Snapshot, fields: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The entries of these fields that no group fits, read or held, in words."""
    asked = [(field, entry) for field, entries in fields.items() for entry in entries if entry != "*"]
    if not asked:
        return ()
    held = snapshot.held[snapshot.held["kind"] == "group"]
    groups = pd.concat([snapshot.groups[["id", "name"]], held[["id", "name"]]], ignore_index=True)
    if groups.empty:
        return ()
    return tuple(
        f"{field} names {entry!r}, and no group fits it"
        for field, entry in asked
        if not groups_named(groups, (entry,)).any()
    )
