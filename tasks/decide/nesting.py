"""Groups in groups: who is a member of a group through the groups that are nested in it.

Memberships of `connectors.model`, whose ids are categories, go in; memberships, or whom a group reaches, come out. A
circle of groups does no harm anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from connectors.model import MEMBER_KINDS, Snapshot, held_records, memberships_from_codes, sorted_unique
from tasks.decide.names import among, equal
from tasks.decide.values import ranges

_USER = MEMBER_KINDS.categories.get_loc("user")


def flattened(memberships: pd.DataFrame) -> pd.DataFrame:
    """Memberships → without nested groups: whoever is in one is in all groups above it, too. Circles do no harm.
    A membership may stand there twice."""
    is_group = nestings(memberships)
    groups, members = memberships["group_id"].cat.categories, memberships["member_id"].cat.categories
    group, member = (memberships[side].cat.codes.to_numpy().astype(np.int64) for side in ("group_id", "member_id"))
    child = groups.get_indexer(members)[member[is_group]] if len(members) else member[is_group]
    parent = group[is_group]
    peopled = child >= 0  # a group without members adds nothing to those above it
    above, below = closure(parent[peopled], child[peopled], len(groups))
    order = np.argsort(below, kind="stable")
    starts = np.searchsorted(below[order], np.arange(len(groups) + 1))
    group, member = group[~is_group], member[~is_group]
    counts = np.diff(starts)[group]
    more = above[order][ranges(starts[:-1][group], counts)]
    codes = np.concatenate([group, more]), np.concatenate([member, np.repeat(member, counts)])
    return memberships_from_codes(groups, members, *codes, np.full(len(codes[0]), _USER))


def closure(parent: np.ndarray, child: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges between nodes 0…count-1 → all pairs (above, below) that a way leads between, each once."""
    order = np.argsort(child, kind="stable")
    parents = parent[order].astype(np.int64)
    starts = np.searchsorted(child[order], np.arange(count + 1))
    found = new = sorted_unique(parent.astype(np.int64) * count + child)
    while len(new):  # one step up; what is known already, as in a circle, is not gone through again
        above, below = np.divmod(new, count)
        counts = np.diff(starts)[above]
        longer = parents[ranges(starts[:-1][above], counts)] * count + np.repeat(below, counts)
        new = np.setdiff1d(sorted_unique(longer), found, assume_unique=True)
        found = sorted_unique(np.concatenate([found, new]))
    return found // max(count, 1), found % max(count, 1)


def members_below(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Which users are members of these groups, directly or through groups nested in them: bool."""
    return members_of(users, memberships, pd.Series(sorted(groups_below(memberships, groups)), dtype="str"))


def members_of(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Which users are direct members of these groups: bool."""
    inside = ~nestings(memberships) & codes_in(memberships["group_id"], groups)
    return among(users, memberships[inside]["member_id"].astype("str"))


def groups_below(memberships: pd.DataFrame, groups: Iterable[str]) -> set[str]:
    """These groups, and all that are nested in them."""
    nested = memberships[nestings(memberships)]
    below = pd.Index(list(groups), dtype="str")
    while True:  # breadth first; a circle adds nothing new and ends it
        found = nested.loc[codes_in(nested["group_id"], below.to_series()), "member_id"].astype("str")
        grown = below.union(pd.Index(found.unique()))
        if len(grown) == len(below):
            break
        below = grown
    return set(below)


def above_unread(snapshot: Snapshot) -> pd.DataFrame:
    """The groups above a group that is held, as held records: whoever is in it is in them, and is not known."""
    unread = snapshot.held.loc[snapshot.held["kind"] == "group", "id"]
    nested = snapshot.memberships[nestings(snapshot.memberships)]
    above = set(unread)
    while len(above) and len(nested):
        more = (
            set(nested.loc[codes_in(nested["member_id"], pd.Series(sorted(above))), "group_id"].astype("str")) - above
        )
        if not more:
            break
        above |= more
    rows = snapshot.groups[among(snapshot.groups["id"], above - set(unread))]
    why = "a group in it is held, so that who is in it is not known; mend that group in the IdP"
    return held_records("group", rows, "name", "filter", pd.Series([why] * len(rows)))


def nestings(memberships: pd.DataFrame) -> np.ndarray:
    """Which memberships are those of a group in a group: bool."""
    return equal(memberships["member_kind"], "group")


def codes_in(column: pd.Series, ids: pd.Series) -> np.ndarray:
    """Which rows of a column of categories have one of these ids: bool."""
    known = among(pd.Series(column.cat.categories), ids)
    return known[column.cat.codes.to_numpy()] if len(known) else np.zeros(len(column), dtype=bool)
