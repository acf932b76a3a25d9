"""What every step of the planner stands on: who is where on both sides, and what is left exactly as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import DISABLED, Snapshot, crowd_id, sizes_only
from tasks.decide.map import usernames
from tasks.decide.match import SHARED, Matched
from tasks.decide.names import among, crowd_ids, equal, few, places
from tasks.decide.plan.rows import HeldRow
from tasks.policy import Policy, matches


@sizes_only
@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Both sides, the policy, and where everything is.

    `user_at`, `group_at`: for each desired record the row of its Crowd record, -1 where it has none.
    `own_groups`: which desired groups have a Crowd group of their own (bool); `shared_groups`: which are anybody's, and
    only have our people in them, as those for everyone may be.
    `closed_accounts`: Crowd accounts that are never touched; `frozen_accounts` and `frozen_groups`: also those of
    whoever is held, and what a held record may become. `since`: since when people have left (id, since), where that is
    known."""

    matched: Matched
    source: Snapshot
    directory: Snapshot
    policy: Policy
    name: str
    since: pd.DataFrame | None
    user_at: np.ndarray
    group_at: np.ndarray
    own_groups: np.ndarray
    shared_groups: np.ndarray
    closed_accounts: np.ndarray
    frozen_accounts: np.ndarray
    frozen_groups: np.ndarray

    @property
    def users(self) -> pd.DataFrame:
        """The desired people."""
        return self.matched.users

    @property
    def groups(self) -> pd.DataFrame:
        """The desired groups."""
        return self.matched.groups

    @property
    def accounts(self) -> pd.DataFrame:
        """Crowd's users."""
        return self.matched.accounts

    @property
    def directory_groups(self) -> pd.DataFrame:
        """Crowd's groups."""
        return self.matched.directory_groups

    def held_ids(self, kind: str) -> pd.Series:
        """The ids of held users or groups."""
        return self.matched.held["id"][equal(self.matched.held["kind"], kind)]

    def unread(self, kind: str) -> pd.DataFrame:
        """Records of Crowd that are there but could not be read."""
        held, read = self.directory.held, self.accounts if kind == "user" else self.directory_groups
        found: pd.DataFrame = held[equal(held["kind"], kind) & ~among(held["id"], read["id"])]
        return found.drop_duplicates("id") if len(found) else found


def plan_inputs(
    matched: Matched, source: Snapshot, directory: Snapshot, policy: Policy, name: str, since: pd.DataFrame | None
) -> PlanInputs:
    """Matched records and both snapshots → the inputs. `name`: the source's."""
    closed = _closed(matched.accounts, policy.protection.users, "username")
    closed_groups = _closed(matched.directory_groups, policy.protection.groups, "name")
    frozen_groups = _frozen("group", matched, matched.directory_groups, closed_groups, policy)
    frozen_groups |= policy.privileged(matched.directory_groups["name"]).to_numpy()
    group_at = places(matched.groups["account"], matched.directory_groups["id"])
    shared = (matched.groups["how"] == SHARED).to_numpy(dtype=bool)
    return PlanInputs(
        matched,
        source,
        directory,
        policy,
        name,
        since,
        user_at=places(matched.users["account"], matched.accounts["id"]),
        group_at=group_at,
        own_groups=(group_at >= 0) & ~shared,
        shared_groups=shared,
        closed_accounts=closed,
        frozen_accounts=_frozen("user", matched, matched.accounts, closed, policy),
        frozen_groups=frozen_groups,
    )


def _closed(records: pd.DataFrame, protected: Iterable[str], name: str) -> np.ndarray:
    """Crowd records that are never touched: protected ones, and those whose owner is not certain. bool."""
    closed = matches(records[name], protected) | records["copied"] | records["contested"]
    return closed.to_numpy(dtype=bool, copy=True)


def _frozen(kind: str, matched: Matched, records: pd.DataFrame, closed: np.ndarray, policy: Policy) -> np.ndarray:
    """Crowd records that are closed, and those of whoever is held: bool."""
    held = matched.held[equal(matched.held["kind"], kind)]
    if not len(held):
        return closed.copy()
    owned = ~equal(records["owner"], "")
    held_owner = among(records["owner"], held["id"])
    # What a held record may become is left alone too, unless it is surely somebody else's.
    claimed = among(records["id"], _claims(kind, held, policy)) & ~(owned & ~held_owner)
    return np.asarray(closed | owned & held_owner | claimed, dtype=bool)


def _claims(kind: str, held: pd.DataFrame, policy: Policy) -> pd.Series:
    """Held records → the Crowd names that they have or want, as Crowd looks them up."""
    mapped = held["stage"].isin(["match", "plan"])  # from there on they go by their Crowd names
    raw = held["name"][~mapped]
    if kind == "group":
        names = crowd_ids(pd.concat([policy.groups.named(raw), held["name"][mapped]]))
        # The policy itself names the groups for everyone.
        return names[~among(names, {crowd_id(name) for name in policy.groups.everyone})]
    if policy.usernames.source == "username":
        raw = usernames(pd.DataFrame({"username": raw}), policy.usernames)
    return crowd_ids(pd.concat([raw, held["name"][mapped]]))


def different(
    wanted: pd.DataFrame, existing: pd.DataFrame, at: np.ndarray, fixed: np.ndarray, columns: Iterable[str]
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Desired records and those of Crowd (`at`: where each has its own, -1 for none) → the rows of those that may be
    changed and differ in any of these columns; they, and their Crowd records, row by row. `fixed`: Crowd records that
    stay as they are (bool)."""
    known = np.flatnonzero(at >= 0)
    known = known[~fixed[at[known]]]
    other = np.zeros(len(known), dtype=bool)
    one_by_one = few(wanted, existing)
    for column in columns:  # few records differ, and only they are taken whole
        if one_by_one:
            mine, theirs = wanted[column].tolist(), existing[column].tolist()
            other |= np.array([mine[one] != theirs[its] for one, its in zip(known, at[known], strict=True)], dtype=bool)
        else:
            other |= np.asarray(wanted[column].array[known] != existing[column].array[at[known]], dtype=bool)
    known = known[other]
    return known, wanted.iloc[known].reset_index(drop=True), existing.iloc[at[known]].reset_index(drop=True)


def held_row(record: pd.Series, account: str, reason: str, kind: str = "user") -> HeldRow:
    """A desired record that the planner holds → its row; `account`: what it is called in Crowd now, "" for nothing."""
    name = record["username" if kind == "user" else "name"]
    reason += f" (now {account!r})" if account else ""
    away = DISABLED if kind == "user" and not record["active"] else ""
    return kind, record["id"], name, "plan", reason, away


def alike(kind: str, other: str) -> str:
    """Why a record is held whose name looks like that of another one."""
    return f"looks like the existing Crowd {kind} {other!r}; rename one of them"


def taken_by(inputs: PlanInputs, kind: str, name: str, identity: str) -> str:
    """Why a name cannot be had: whose it is, since when that one is gone, and what hands it over."""
    records = inputs.accounts if kind == "user" else inputs.directory_groups
    at = places([name], records["id"])[0]
    what = "account" if kind == "user" else "group"
    if at < 0:
        return f"another {what} gets this name"
    owner = str(records["owner"].iloc[at])
    if not owner:
        whose = "another source's" if records["foreign"].iloc[at] else "nobody's"
        return f"a Crowd {what} of this name is there, and {whose}"
    shown = records["username" if kind == "user" else "name"].iloc[at]
    way = f"crowdsync links hand-over {inputs.name} {owner} {identity} --kind {kind}"
    same = "the same person" if kind == "user" else "to be this group's"
    state = _state(inputs, kind, owner)
    return f"the Crowd {what} {shown!r} belongs to {owner}, {state}; if it is {same}: {way}"


def _state(inputs: PlanInputs, kind: str, owner: str) -> str:
    """What the source says of the one who owns a Crowd record, in words."""
    listed = inputs.source.users if kind == "user" else inputs.source.groups
    of = listed[equal(listed["id"], owner)]
    if len(of):
        called = of["username" if kind == "user" else "name"].iloc[0]
        return f"which is {called!r} in the source" + ("" if kind == "group" or of["active"].iloc[0] else ", disabled")
    if (inputs.held_ids(kind) == owner).any():
        return "which is held"
    if kind == "group" or inputs.since is None:
        return "which is gone from the source"
    since = inputs.since.loc[inputs.since["id"] == owner, "since"]
    return "which is gone from the source" + (f" since {since.iloc[0]:%Y-%m-%d}" if len(since) else "")
