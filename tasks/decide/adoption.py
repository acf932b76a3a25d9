"""Adoption: Crowd records that nobody owns go to the desired records that they fit by the policy's keys.

A key is a name or an e-mail address. Where it fits several records nothing is taken, and what is taken gives nobody
power or access: the record is held then, with the way to link it by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np
import pandas as pd

from connectors.model import Snapshot
from tasks.decide.correlation import Correlation, Surroundings
from tasks.decide.names import among, places
from tasks.decide.nesting import members_below
from tasks.policy import Policy, matches


def adopt(found: Correlation, around: Surroundings) -> None:
    """Fills in the Crowd records that are adopted, and the reasons why some are not."""
    existing, matching = found.existing, around.policy.matching
    users = found.kind == "user"
    keys = [key for key in (matching.users if users else matching.groups) if key != "id"]
    free = ((existing["owner"] == "") & ~existing["foreign"] & ~existing["copied"]).to_numpy(copy=True)
    if matching.adoption == "listed":
        free &= matches(existing[found.name], matching.listed_users if users else matching.listed_groups).to_numpy()
    powerful = cache(partial(with_power, around.directory, around.policy))
    # What one takes, the others no longer meet: again, until nothing more is taken.
    before, left = found.reason.copy(), -1
    while keys and left != (left := int(free.sum())):
        found.reason[:] = before
        for key in keys:
            at, records = _fitting(found, key, free)
            if users and len(at):
                at, records = _without_power(found, key, (at, records), powerful, around.source)
            found.account[at] = existing["id"].to_numpy(dtype=object)[records]
            found.how[at] = key
            free[records] = False


def _fitting(found: Correlation, key: str, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the desired records that fit exactly one Crowd record by a key, and of these Crowd records.
    Where a key fits several the reason is filled in. `free`: the Crowd records that may be taken (bool)."""
    wanted, existing = found.wanted, found.existing
    ours = found.names if key != "email" else wanted["email"].str.lower()
    theirs = existing["id"] if key != "email" else existing["email"].str.lower()
    open_ = found.open & (ours != "").to_numpy()
    pool = np.flatnonzero(free & (theirs != "").to_numpy())
    pool_keys = theirs.iloc[pool]
    twice = pool_keys.duplicated(keep=False)
    doubled = ours.duplicated(keep=False).to_numpy()
    unsure = open_ & (among(ours, pool_keys[twice]) | (doubled & among(ours, pool_keys)))
    if unsure.any():
        doubtful = ours[unsure].unique()
        people = _names_by_key(doubtful, ours, wanted[found.name])
        records = _names_by_key(doubtful, pool_keys, existing[found.name].iloc[pool])
        found.reason[unsure] = [_several_fit(key, people[one], records[one]) for one in ours[unsure]]
    unique = np.flatnonzero(~twice.to_numpy())
    at = places(ours, pool_keys.iloc[unique])
    hit = np.flatnonzero(open_ & ~unsure & (at >= 0))
    return hit, pool[unique[at[hit]]]


def _without_power(
    found: Correlation,
    key: str,
    pairs: tuple[np.ndarray, np.ndarray],
    powerful: Callable[[], np.ndarray],
    source: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (positions of desired people, of accounts) → those whose account is active and in no privileged group. The
    reason is filled in for the others."""
    at, records = pairs
    power, existing, wanted = powerful(), found.existing, found.wanted
    closed = power[records] | ~existing["active"].to_numpy(bool)[records]
    for i, n in zip(at[closed], records[closed], strict=True):
        # (An inactive person takes no inactive account, and needs none.)
        if power[n] or found.active[i]:
            who = f"{source} {wanted['id'].iloc[i]}"
            found.reason[i] = _closed(key, existing[found.name].iloc[n], power[n], who)
    return at[~closed], records[~closed]


def with_power(directory: Snapshot, policy: Policy) -> np.ndarray:
    """Which users of the directory are in a privileged group, directly or through nested ones; also in such that the
    policy allows the source to fill, and such that could not be read."""
    protection = policy.protection.model_copy(update={"privileged_allowed": ()})
    whole = policy.model_copy(update={"protection": protection})
    unread = directory.held[directory.held["kind"] == "group"]
    groups = pd.concat([directory.groups[["id", "name"]], unread[["id", "name"]]], ignore_index=True)
    closed = groups["id"][whole.privileged(groups["name"]).to_numpy()]
    return members_below(directory.users["id"], directory.memberships, closed)


def _names_by_key(chosen: Iterable[str], keys: pd.Series, names: pd.Series) -> dict[str, list[str]]:
    """Chosen keys → the names of the records that have them."""
    which = among(keys, chosen)
    found: dict[str, list[str]] = defaultdict(list)
    for key, name in zip(keys[which], names.to_numpy(dtype=object)[which], strict=True):
        found[key].append(name)
    return found


def _several_fit(key: str, ours: list[str], theirs: list[str]) -> str:
    """Why an adoption is left to a person, with the candidates."""
    wanting, found = (", ".join(map(repr, names[:5])) + " …" * (len(names) > 5) for names in (ours, theirs))
    who = f"{wanting} of the source and " if len(ours) > 1 else ""
    return f"its {key} fits {who}{found} of Crowd; link the right one by hand: crowdsync links make"


def _closed(key: str, name: str, power: bool, who: str) -> str:
    """Why an account is not adopted by a key."""
    what = "is in a privileged group" if power else "is inactive"
    never = "power" if power else "access"
    return (
        f"its {key} fits the Crowd user {name!r}, which {what}: adoption never hands out {never}; if it is theirs: "
        f"crowdsync links make {who} {name!r}"
    )
