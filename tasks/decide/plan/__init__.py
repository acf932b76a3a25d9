"""The operations that turn the directory into the desired state.

Matched records → a table of operations in the order of their phases: take away before giving. Every
difference is found on integer codes; only what changes is ever looked at row by row.

A record that is held, and every Crowd record that is or may become its own, is left exactly as it is.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.model import (
    DISABLED,
    ID_ATTRIBUTE,
    OUT_OF_SCOPE,
    Snapshot,
    crowd_id,
    frame_digest,
    held_frame,
    sizes_only,
    sorted_unique,
)
from connectors.operations import Kind
from tasks.decide.map import FIELDS, usernames
from tasks.decide.match import HANDED_OVER, SHARED, Matched
from tasks.decide.names import among, clashes, crowd_ids
from tasks.decide.selection import Selection
from tasks.policy import Policy, matches

PHASES: Mapping[Kind, int] = {
    Kind.USER_DEACTIVATE: 1,  # leavers lose access first, and free their licence seats
    Kind.USER_DELETE: 2,
    Kind.MEMBERSHIP_REMOVE: 3,
    Kind.NESTING_REMOVE: 3,
    Kind.GROUP_DELETE: 4,
    Kind.USER_RENAME: 5,  # before creations, which may want the old name
    Kind.GROUP_CREATE: 6,
    Kind.USER_CREATE: 6,
    Kind.GROUP_UPDATE: 7,
    Kind.GROUP_ATTRIBUTES: 7,
    Kind.USER_UPDATE: 7,
    Kind.USER_ACTIVATE: 7,
    Kind.USER_ATTRIBUTES: 7,
    Kind.NESTING_ADD: 8,
    Kind.MEMBERSHIP_ADD: 9,
}
MARKS = 0
"""Phase of the marks of ownership on existing records, before anything else: what has been touched is known as ours."""
TAKEN = "waits for a name that another account keeps"
_DIFFERS = "differs from the source"
_BOTH = ("deactivate_and_take_groups",)
GIVER = "giver"
"""Key in the record of an ownership mark: the id of the same source that had the Crowd record before."""
COLUMNS = ("kind", "name", "target", "source_id", "record", "before", "reason")


@dataclass(frozen=True, slots=True)
class Owned:
    """What the source owns in the directory before the plan: the base of per cent limits."""

    users: int
    active: int
    groups: int
    memberships: int
    nestings: int


@sizes_only
@dataclass(frozen=True, slots=True)
class Plan:
    """`operations`: seq, phase and `COLUMNS`; `record` and `before` are JSON text or "".
    `withheld`: operations that the policy's features keep out, counted by kind; `reported` are those of them that it
    wants to see, in the columns of `operations` from kind on.
    `leavers`: the people (id, why) who have an account and are away: out of scope, disabled or gone.
    `gone`: of whom and what (kind, id) the plan takes something because a list did not name them: ask by key first.
    `shielded`: people (`HELD` and `account`) who have left by the source's clear word and whose active account stays,
    because whose it is is in doubt. `warnings` has the columns of `HELD`. `doubts`: sentences on the policy or the
    database that a person must agree to where the plan takes anything away. `handed_over`: Crowd groups that go to
    another id (name, before, after).
    `links`: ownership that needs no write (the mark in Crowd was enough), in the columns kind, id, name, how.
    `stale`: links (kind, id) to records that are gone and whose names the plan gives to somebody else.
    `digest` covers the operations, both snapshots and the policy."""

    operations: pd.DataFrame
    held: pd.DataFrame
    withheld: Mapping[str, int]
    reported: pd.DataFrame
    leavers: pd.DataFrame
    links: pd.DataFrame
    stale: pd.DataFrame
    owned: Owned
    digest: str
    shielded: pd.DataFrame = field(default_factory=lambda: held_frame().assign(account=pd.Series(dtype="str")))
    gone: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["kind", "id"], dtype="str"))
    warnings: pd.DataFrame = field(default_factory=held_frame)
    doubts: tuple[str, ...] = ()
    handed_over: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["name", "before", "after"], dtype="str")
    )

    def counts(self) -> dict[str, int]:
        """Operations by kind, in the order of the phases, without zeros."""
        counts = self.operations["kind"].value_counts()
        return {kind.value: int(counts[kind.value]) for kind in PHASES if kind.value in counts.index}

    def shut_out(self) -> int:
        """How many accounts that can log in now cannot after the plan."""
        gone = self.operations[self.operations["kind"].isin([Kind.USER_DEACTIVATE, Kind.USER_DELETE])]
        return int(gone["before"].str.contains('"active":true', regex=False).sum())


@sizes_only
@dataclass(frozen=True, slots=True)
class Departures:
    """What the planner knows of time: who left since when (id, since: UTC), and what time it is."""

    since: pd.DataFrame
    now: datetime


def plan(
    matched: Matched,
    source: Snapshot,
    directory: Snapshot,
    policy: Policy,
    source_name: str,
    digests: tuple[str, str] | None = None,
    *,
    departures: Departures | None = None,
    selection: Selection | None = None,
    doubts: Sequence[str] = (),
) -> Plan:
    """Matched records → plan. `digests` are those of both snapshots, where they are known already. Without `departures`
    nobody has been away for long; with `selection` it is the part that concerns one person or group. `doubts`
    are those that the stages before had."""
    planning = _Planning(matched, source, directory, policy, source_name, departures)
    operations, held, withheld = planning.operations()
    reported = pd.concat([_operations([]), *planning.reported], ignore_index=True)
    if selection is not None:
        now, then = planning.names_of(selection.person)
        nested = directory.memberships[(directory.memberships["member_kind"] == "group").to_numpy()]
        nestings = list(nested[["group_id", "member_id"]].astype("str").itertuples(index=False, name=None))
        operations = selection.of(operations, now, then, nestings).reset_index(drop=True)
        operations["seq"] = np.arange(1, len(operations) + 1)
        held = selection.holding(held)
        reported, withheld = reported[:0], {}
    source_digest, directory_digest = digests or (source.digest(), directory.digest())
    digest = hashlib.sha256()
    for part in (source_digest, directory_digest, policy.digest()):
        digest.update(part.encode())
    digest.update(frame_digest(operations))
    return Plan(
        operations,
        held,
        withheld,
        reported,
        planning.leavers,
        planning.links(),
        planning.stale(operations),
        planning.owned(),
        digest.hexdigest(),
        gone=planning.gone(operations),
        shielded=planning.shielded(operations, held),
        warnings=planning.warnings(),
        doubts=(*doubts, *planning.doubts()),
        handed_over=matched.handed_over,
    )


class _Planning:
    def __init__(
        self,
        matched: Matched,
        source: Snapshot,
        directory: Snapshot,
        policy: Policy,
        source_name: str,
        departures: Departures | None,
    ) -> None:
        self.matched, self.source, self.policy, self.source_name = matched, source, policy, source_name
        self.directory = directory
        self.users, self.groups = matched.users, matched.groups
        self.accounts, self.directory_groups = matched.accounts, matched.directory_groups
        self.held = [matched.held]
        self.withheld: dict[str, int] = {}
        self.since = None if departures is None else departures.since
        self.reported: list[pd.DataFrame] = []
        self.accounts_closed = self._closed_to_us(self.accounts, policy.protection.users, "username")
        self.accounts_frozen = self._frozen("user", self.accounts, self.accounts_closed)
        closed = self._closed_to_us(self.directory_groups, policy.protection.groups, "name")
        self.groups_frozen = self._frozen("group", self.directory_groups, closed)
        self.groups_frozen |= policy.privileged(self.directory_groups["name"]).to_numpy()
        # Positions: an existing record is its row in the directory, a new one follows after them.
        # (An Index keeps the table that it once made for look-ups.)
        self.account_index, self.directory_group_index = (
            pd.Index(self.accounts["id"]),
            pd.Index(self.directory_groups["id"]),
        )
        self.user_index, self.group_index = pd.Index(self.users["id"]), pd.Index(self.groups["id"])
        self.user_at = self.account_index.get_indexer(pd.Index(self.users["account"]))
        self.group_at = self.directory_group_index.get_indexer(pd.Index(self.groups["account"]))
        self._find_leavers(departures)

    def _closed_to_us(self, records: pd.DataFrame, protected: Iterable[str], name: str) -> np.ndarray:
        """Crowd records that are never touched: protected ones, and those whose owner is not certain."""
        closed = matches(records[name], protected) | records["copied"] | records["contested"]
        return closed.to_numpy(dtype=bool, copy=True)

    def _frozen(self, kind: str, records: pd.DataFrame, closed: np.ndarray) -> np.ndarray:
        """Those, and the records of whoever is held."""
        held = self.matched.held[self.matched.held["kind"] == kind]
        owned = (records["owner"] != "").to_numpy()
        held_owner = among(records["owner"], held["id"])
        # What a held record may become is left alone too, unless it is surely somebody else's.
        claimed = among(records["id"], self._claimed(kind, held)) & ~(owned & ~held_owner)
        return np.asarray(closed | owned & held_owner | claimed, dtype=bool)

    def _claimed(self, kind: str, held: pd.DataFrame) -> pd.Series:
        """Held records → the Crowd names that they have or want."""
        mapped = held["stage"].isin(["match", "plan"])  # from there on they go by their Crowd names
        raw = held["name"][~mapped]
        if kind == "group":
            names = crowd_ids(pd.concat([self.policy.groups.named(raw), held["name"][mapped]]))
            # The policy itself names the groups for everyone.
            return names[~among(names, {crowd_id(name) for name in self.policy.groups.everyone})]
        if self.policy.usernames.source == "username":
            raw = usernames(pd.DataFrame({"username": raw}), self.policy.usernames)
        return crowd_ids(pd.concat([raw, held["name"][mapped]]))

    def _held_ids(self, kind: str) -> pd.Series:
        return self.matched.held.loc[self.matched.held["kind"] == kind, "id"]

    def operations(self) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
        parts = [self._leavers(), self._renames(), self._user_changes(), self._group_changes()]
        parts += [self._user_creates(), self._group_creates(), *self._membership_changes()]
        parts = [_phased(part) for part in parts if len(part)]
        frame = pd.concat(parts, ignore_index=True) if parts else _phased(_operations([]))
        allowed = np.ones(len(frame), dtype=bool)
        for kind in frame["kind"].unique():
            if not self.policy.operations.allows(Kind(str(kind))):
                of_kind = (frame["kind"] == kind).to_numpy()
                self._withhold(frame[of_kind])
                allowed &= ~of_kind
        frame = frame[allowed]
        frame = frame.sort_values("phase", kind="stable")
        frame.insert(0, "seq", np.arange(1, len(frame) + 1))
        frame = frame[["seq", "phase", *COLUMNS]].reset_index(drop=True)
        return frame, pd.concat(self.held, ignore_index=True), self.withheld

    def _withhold(self, operations: pd.DataFrame) -> None:
        """Counts operations of one kind that the policy's features keep out, and keeps those that it wants to see."""
        if operations.empty:
            return
        kind = Kind(str(operations["kind"].iloc[0]))
        self.withheld[kind.value] = self.withheld.get(kind.value, 0) + len(operations)
        if self.policy.operations.of(kind) == "report":
            self.reported.append(operations[list(COLUMNS)])

    # ── people ──────────────────────────────────────────────────────────────────────────────────

    def _find_leavers(self, departures: Departures | None) -> None:
        """Accounts that we own and whose person is gone, out of scope or disabled: what is due for each. Whoever is
        held counts too, where the source's word that they left is clear: doubt about the rest does not shield them.

        `leaving`: the person is not wanted in Crowd at all, or the account is due to be deleted. `due`: the action of
        the policy, by account, "" where the person is there. `losing`: their memberships are taken away."""
        known = self.user_at >= 0
        at = self.user_at[known]
        owner = self.accounts["owner"].to_numpy(dtype=object, copy=True)
        adopted = np.zeros(len(owner), dtype=bool)
        adopted[at] = owner[at] == ""
        owner[at] = self.users["id"].to_numpy(dtype=object)[known]
        self.due = np.full(len(owner), "", dtype=object)
        self.why = np.full(len(owner), "", dtype=object)
        wanted, active = np.zeros((2, len(owner)), dtype=bool)
        wanted[at] = True
        active[at] = self.users["active"].to_numpy(dtype=bool)[known]
        # Few are away, and only they are looked up.
        few = np.flatnonzero((owner != "") & ~active)
        held = self.matched.held[self.matched.held["kind"] == "user"]
        words = dict(zip(held["id"], held["away"], strict=True))
        words |= {key: word for key, word in zip(held["id"], held["away"], strict=True) if word}
        few = few[[bool(words.get(one, "?")) for one in owner[few]]]
        told = np.full(len(owner), "", dtype=object)
        told[few] = [words.get(one, "") for one in owner[few]]
        listed = np.zeros(len(owner), dtype=bool)
        listed[few] = among(pd.Series(owner[few], dtype="str"), self.source.users["id"])
        ours = np.zeros(len(owner), dtype=bool)
        ours[few] = True
        spoken = told != ""
        self.absent = ours & ~wanted & ~listed & ~spoken
        outside = ours & ~wanted & listed & ~spoken | (told == OUT_OF_SCOPE)
        disabled = ours & wanted & ~spoken | (told == DISABLED)
        leavers = self.policy.leavers
        for which, action, why in (
            (self.absent, leavers.deleted, "is gone from the source"),
            (outside, leavers.out_of_scope, "is out of scope"),
            (disabled, leavers.disabled, "is disabled in the source"),
        ):
            self.due[which], self.why[which] = action, why
        if leavers.delete_after_days is not None and departures is not None and len(departures.since):
            before = pd.Timestamp(departures.now) - pd.Timedelta(days=leavers.delete_after_days)
            long = departures.since[departures.since["since"] <= before]
            late = ours & np.isin(self.due, ["deactivate", "take_groups", *_BOTH])
            late[late] = among(pd.Series(owner[late], dtype="str"), long["id"])
            since = dict(zip(long["id"], long["since"].dt.strftime("%Y-%m-%d"), strict=True))
            self.due[late] = "delete"
            self.why[late] = [f"{w} since {since[o]}" for w, o in zip(self.why[late], owner[late], strict=True)]
        for i in np.flatnonzero(adopted & (self.due == "delete") & ~self.accounts_frozen):
            self.accounts_frozen[i] = True  # what was never ours is not taken in order to be deleted
            person = self.users[(self.users["id"] == owner[i]).to_numpy()].iloc[0]
            self._hold(person, "", f"{self.why[i]}, and its Crowd account is nobody's: delete that by hand")
        self.accounts_frozen[spoken & ~self.accounts_closed] = False
        self.leaving = (self.absent | outside | spoken | (self.due == "delete")) & ~self.accounts_frozen
        self.losing = np.isin(self.due, ["take_groups", *_BOTH]) & ~self.accounts_frozen
        left = self.due != ""
        self.leavers = pd.DataFrame(
            {"id": pd.array(owner[left], dtype="str"), "why": pd.array(self.why[left], dtype="str")}
        )

    def _leavers(self) -> pd.DataFrame:
        """What is done to the accounts of those who are away; the disabled are shut out with their other changes."""
        deleted = self.leaving & (self.due == "delete")
        gone = self.accounts[deleted]
        parts = [
            _frame(
                Kind.USER_DELETE,
                gone["username"],
                source_id=gone["owner"],
                before=_records(gone),
                reason=self.why[deleted],
            )
        ]
        shut = self.leaving & np.isin(self.due, ["deactivate", *_BOTH]) & self.accounts["active"].to_numpy(dtype=bool)
        gone = self.accounts[shut]
        parts.append(
            _frame(
                Kind.USER_DEACTIVATE,
                gone["username"],
                source_id=gone["owner"],
                record=_records(gone.assign(active=False)),
                before=['{"active":true}'] * len(gone),
                reason=self.why[shut],
            )
        )
        return pd.concat(parts, ignore_index=True)

    def _renames(self) -> pd.DataFrame:
        """Accounts whose person has another username now, in an order in which each finds its name free.

        Also settles what creations need: `taken`, the names that will be in use, and `lookalikes`, the name of
        an account that stays and looks like the wanted one.
        """
        users, at = self.users, self.user_at
        known = at >= 0
        current = np.full(len(users), "", dtype=object)
        current[known] = self.accounts["username"].to_numpy(dtype=object)[at[known]]
        ids = users["account"].to_numpy(dtype=object)
        wanted = crowd_ids(users["username"]).to_numpy(dtype=object)
        # Who is disabled keeps the name: many providers give the deleted another one.
        moves = known & (wanted != ids) & users["active"].to_numpy(dtype=bool)
        moves[known] &= ~self.accounts_frozen[at[known]] & ~self.leaving[at[known]]
        deleted: set[str] = set()
        if self.policy.operations.allows(Kind.USER_DELETE):
            deleted = set(self.accounts["id"][self.leaving & (self.due == "delete")])
        new = ~known & users["active"].to_numpy(dtype=bool)
        self.taken = set(self.account_index.to_numpy(dtype=object)) - deleted if (moves.any() or new.any()) else set()
        if self.taken:
            self.taken |= set(self._unread("user")["id"])
        if not self.policy.operations.allows(Kind.USER_RENAME):
            whole = zip(users["id"][moves], current[moves], users["username"][moves], strict=True)
            self._withhold(_operations([self._rename(*one, "username changed in the source") for one in whole]))
            moves[:] = False
        mover: dict[str, int] = {wanted[i]: i for i in np.flatnonzero(moves).tolist()}  # by the name it wants
        left = {ids[i] for i in mover.values()}

        def stay(first: int, reason: str) -> list[int]:
            """Holds a rename, and those that wait for its name."""
            held, waiting = [], [(first, reason)]
            while waiting:
                i, reason = waiting.pop()
                self._hold(users.iloc[i], current[i], reason)
                self.accounts_frozen[at[i]] = True
                moves[i] = False
                del mover[wanted[i]]
                left.discard(ids[i])
                held.append(i)
                if ids[i] in mover:
                    waiting.append((mover[ids[i]], TAKEN))
            return held

        for i in np.flatnonzero(moves & matches(users["username"], self.policy.protection.users).to_numpy()).tolist():
            if moves[i]:
                stay(i, "its new username is a protected one")
        for name, i in list(mover.items()):
            if name in self.taken and name not in left and moves[i]:
                stay(i, self._taken_by("user", name, users["id"].iloc[i]))
        self.lookalikes = np.full(len(users), "", dtype=object)
        names = self.accounts["username"]
        if deleted or left:
            names = names[~among(self.accounts["id"], deleted | left)]
        while len(names) and (moves.any() or new.any()):
            open_ = np.flatnonzero((moves | new) & (self.lookalikes == ""))
            self.lookalikes[open_] = clashes(users["username"].iloc[open_], names) if len(open_) else ""
            held = []
            for i in np.flatnonzero(moves & (self.lookalikes != "")).tolist():
                held += stay(i, _alike("user", self.lookalikes[i])) if moves[i] else []
            names = pd.Series(current[held], dtype="str")

        rows = []
        for i, step_aside in _in_order(mover, {i: ids[i] for i in mover.values()}):
            target, reason = users["username"].iloc[i], "username changed in the source"
            if step_aside:
                target, reason = _aside(current[i], self.taken), "makes room: names go round in a circle"
                self.taken.add(crowd_id(target))
            rows.append(self._rename(users["id"].iloc[i], current[i], target, reason))
            current[i] = target
        self.final = np.where(known, current, users["username"].to_numpy(dtype=object))
        self.taken = (self.taken - left) | set(wanted[moves])
        return _operations(rows)

    def _rename(self, identity: str, old: str, new: str, reason: str) -> tuple[Any, ...]:
        record = _json({"attributes": {ID_ATTRIBUTE: [f"{self.source_name}:{identity}"]}})
        return (Kind.USER_RENAME.value, old, new, identity, record, _json({"username": old}), reason)

    def _user_changes(self) -> pd.DataFrame:
        """One full replace per account that differs, named after the most serious change in it; and
        the attributes, which Crowd keeps apart."""
        known = np.flatnonzero(self.user_at >= 0)
        at = self.user_at[known]
        open_ = ~self.accounts_frozen[at] & ~self.leaving[at]
        known, at = known[open_], at[open_]
        wanted = self.users.iloc[known].reset_index(drop=True)
        now = self.accounts.iloc[at].reset_index(drop=True)
        allows = self.policy.operations
        updates = allows.allows(Kind.USER_UPDATE)
        fields_differ = np.zeros(len(wanted), dtype=bool)
        after = now.copy()
        for name in FIELDS:
            # Crowd ignores an empty value in a replace: what the source does not know stays.
            differs = ((wanted[name] != now[name]) & (wanted[name] != "")).to_numpy()
            fields_differ |= differs
            if differs.any():
                after[name] = wanted[name].where(differs, now[name])
        stops = (now["active"] & ~wanted["active"]).to_numpy(dtype=bool, copy=True)
        stops &= np.isin(self.due[at], ["deactivate", *_BOTH])
        starts = (~now["active"] & wanted["active"]).to_numpy(dtype=bool, copy=True)
        for kind, which, active, reason in (
            (Kind.USER_DEACTIVATE, stops, False, "is disabled in the source"),
            (Kind.USER_ACTIVATE, starts, True, "is active in the source"),
        ):
            if which.any() and not allows.allows(kind):
                self._withhold(self._changed(kind, wanted, now, now.assign(active=active), which, reason))
                which[:] = False
        if fields_differ.any() and not updates:
            which = fields_differ & ~stops & ~starts
            self._withhold(self._changed(Kind.USER_UPDATE, wanted, now, after, which, _DIFFERS))
            fields_differ[:] = False
            after = now.copy()
        after["active"] = np.where(stops, False, np.where(starts, True, now["active"].to_numpy()))
        after["username"] = self.final[known]
        parts = [
            # A deactivation comes before the renames, everything else after them.
            self._changed(
                Kind.USER_DEACTIVATE,
                wanted,
                now,
                after.assign(username=now["username"]),
                stops,
                "is disabled in the source",
            ),
            self._changed(Kind.USER_ACTIVATE, wanted, now, after, starts, "is active in the source"),
            self._changed(Kind.USER_UPDATE, wanted, now, after, fields_differ & ~stops & ~starts, _DIFFERS),
            self._attribute_changes(Kind.USER_ATTRIBUTES, wanted, now, after["username"], allows.user_update),
        ]
        return pd.concat([_phased(part) for part in parts], ignore_index=True)

    def _changed(
        self, kind: Kind, wanted: pd.DataFrame, now: pd.DataFrame, after: pd.DataFrame, which: np.ndarray, reason: str
    ) -> pd.DataFrame:
        """One full replace for each account of `which`."""
        changed = after[which]
        return _frame(
            kind,
            changed["username"],
            source_id=wanted["id"][which],
            record=_records(changed),
            before=_before(now[which], changed),
            reason=[reason] * len(changed),
        )

    def _attribute_changes(
        self, kind: Kind, wanted: pd.DataFrame, now: pd.DataFrame, final: pd.Series, update: str
    ) -> pd.DataFrame:
        """Attributes that differ. Those that mark ownership come first, under the name that the record has now."""
        mark = np.asarray(self.source_name + ":" + wanted["id"], dtype=object)
        unmarked = now["mark"].to_numpy(dtype=object) != mark
        texts = (now["attributes"] != wanted["attributes"]).to_numpy(dtype=bool)
        names = now["username" if kind is Kind.USER_ATTRIBUTES else "name"].where(unmarked, final)
        rows: list[tuple[Any, ...]] = []
        phases: list[int] = []
        kept: list[tuple[Any, ...]] = []
        givers = dict(zip(self.matched.handed_over["after"], self.matched.handed_over["before"], strict=True))
        for i in np.flatnonzero(unmarked | texts):
            wish = wanted["attributes"].iloc[i] if texts[i] else ""
            change, before = _attribute_change(now["attributes"].iloc[i], wish)
            if change and update != "on":
                kept.append(_attributes(kind, names.iloc[i], wanted["id"].iloc[i], change, before, _DIFFERS))
                change, before = {}, {}
            reason = _DIFFERS
            if unmarked[i]:
                change[ID_ATTRIBUTE] = [mark[i]]
                before[ID_ATTRIBUTE] = [now["mark"].iloc[i]] if now["mark"].iloc[i] else []
                how = wanted["how"].iloc[i]
                reason = "marks ownership" if how == "link" else f"adopted by {how}"
                if how == HANDED_OVER:
                    reason = f"{HANDED_OVER}: the group that had it is gone from the source"
            if change:
                giver = (
                    givers.get(wanted["id"].iloc[i], "") if unmarked[i] and wanted["how"].iloc[i] == HANDED_OVER else ""
                )
                rows.append(_attributes(kind, names.iloc[i], wanted["id"].iloc[i], change, before, reason, giver))
                phases.append(MARKS if unmarked[i] else PHASES[kind])
        if kept:
            self.withheld[kind.value] = self.withheld.get(kind.value, 0) + len(kept)
            if update == "report":
                self.reported.append(_operations(kept))
        return _operations(rows).assign(phase=np.array(phases, dtype="int64"))

    def _user_creates(self) -> pd.DataFrame:
        new = (self.user_at < 0) & self.users["active"].to_numpy(dtype=bool)
        names = crowd_ids(self.users["username"])
        blocked = new & among(names, self.taken) if new.any() else new
        for i in np.flatnonzero(blocked):
            self._hold(self.users.iloc[i], "", self._taken_by("user", names.iloc[i], self.users["id"].iloc[i]))
        closed = new & ~blocked & matches(self.users["username"], self.policy.protection.users).to_numpy()
        for i in np.flatnonzero(closed):
            self._hold(self.users.iloc[i], "", "its username is a protected one")
        alike = new & ~blocked & ~closed & (self.lookalikes != "")
        for i in np.flatnonzero(alike):
            self._hold(self.users.iloc[i], "", _alike("user", self.lookalikes[i]))
        self.created = new & ~blocked & ~closed & ~alike
        people = self.users[self.created]
        marks = self.source_name + ":" + people["id"]
        frame = _frame(
            Kind.USER_CREATE,
            people["username"],
            source_id=people["id"],
            record=_records(people, marks),
            reason=["is new in scope"] * len(people),
        )
        if not self.policy.operations.allows(Kind.USER_CREATE):
            self._withhold(frame)
            self.created[:] = False
            return frame[:0]
        return frame

    # ── groups ──────────────────────────────────────────────────────────────────────────────────

    def _group_changes(self) -> pd.DataFrame:
        known = np.flatnonzero(self.group_at >= 0)
        at = self.group_at[known]
        open_ = ~self.groups_frozen[at] & (self.groups["how"].iloc[known] != SHARED).to_numpy()
        known, at = known[open_], at[open_]
        wanted = self.groups.iloc[known].reset_index(drop=True)
        now = self.directory_groups.iloc[at].reset_index(drop=True)
        wanted = wanted.assign(attributes=now["attributes"])  # groups carry no mapped attributes
        parts = [self._attribute_changes(Kind.GROUP_ATTRIBUTES, wanted, now, now["name"], "on")]
        differs = ((wanted["description"] != now["description"]) & (wanted["description"] != "")).to_numpy()
        if differs.any():
            changed = wanted[differs]
            parts.append(
                _frame(
                    Kind.GROUP_UPDATE,
                    now["name"][differs],
                    source_id=changed["id"],
                    record=[_json({"description": d}) for d in changed["description"]],
                    before=[_json({"description": d}) for d in now["description"][differs]],
                    reason=["differs from the source"] * len(changed),
                )
            )
        self.groups_leaving = (
            (self.directory_groups["owner"] != "")
            & ~among(self.directory_groups["owner"], self.groups["id"])
            & ~among(self.directory_groups["owner"], self._held_ids("group"))
        ).to_numpy() & ~self.groups_frozen
        # (Gone from the source, and yet wanted: the policy puts everybody into it.)
        self.groups_leaving[self.group_at[(self.groups["how"] == SHARED).to_numpy()]] = False
        self.groups_deleted = self.groups_leaving & (self.policy.leavers.groups == "delete")
        if self.groups_deleted.any():
            # Members of a group inside a privileged one have its power: to take it away is not ours.
            closed = self._closed(self.directory_groups["name"], *self._nestings_now(self.directory_groups["id"]))
            for i in np.flatnonzero(self.groups_deleted & closed):
                owner = self.directory_groups["owner"].iloc[i]
                group = pd.Series({"id": owner, "name": self.directory_groups["name"].iloc[i]})
                self._hold(group, "", "to be deleted, but it is inside a privileged group", "group")
            self.groups_deleted &= ~closed
        if self.groups_deleted.any():
            gone = self.directory_groups[self.groups_deleted]
            reason = np.where(
                among(gone["owner"], self.source.groups["id"]), "is out of scope", "is gone from the source"
            )
            parts.append(_frame(Kind.GROUP_DELETE, gone["name"], source_id=gone["owner"], reason=reason))
        self.groups_deleted &= self.policy.operations.allows(Kind.GROUP_DELETE)
        return pd.concat([_phased(part) for part in parts], ignore_index=True)

    def _group_creates(self) -> pd.DataFrame:
        protected = matches(self.groups["name"], self.policy.protection.groups)
        closed = (protected | self.policy.privileged(self.groups["name"])).to_numpy()
        new = self.group_at < 0
        stay = ~self.groups_deleted
        taken = among(crowd_ids(self.groups["name"]), self.directory_groups["id"][stay])
        for i in np.flatnonzero(new & taken):
            name, identity = crowd_id(self.groups["name"].iloc[i]), self.groups["id"].iloc[i]
            self._hold(self.groups.iloc[i], "", self._taken_by("group", name, identity), "group")
        for i in np.flatnonzero(new & closed & ~taken):
            self._hold(
                self.groups.iloc[i],
                "",
                "is a protected or privileged group that the policy does not name",
                "group",
            )
        alike = new & ~closed & ~taken
        if alike.any():
            labels = clashes(self.groups["name"][alike], self.directory_groups["name"][stay])
            alike[alike] = labels != ""
            for i, label in zip(np.flatnonzero(alike), labels[labels != ""], strict=True):
                self._hold(self.groups.iloc[i], "", _alike("group", label), "group")
        self.groups_created = new & ~closed & ~taken & ~alike
        groups = self.groups[self.groups_created]
        reason = ["is new in scope"] * len(groups)
        created = _frame(
            Kind.GROUP_CREATE,
            groups["name"],
            source_id=groups["id"],
            record=[_json({"description": d}) for d in groups["description"]],
            reason=reason,
        )
        if not self.policy.operations.allows(Kind.GROUP_CREATE):
            self._withhold(created)
            self.groups_created[:] = False
            return created[:0]
        marked = _frame(
            Kind.GROUP_ATTRIBUTES,
            groups["name"],
            source_id=groups["id"],
            record=[_json({"attributes": {ID_ATTRIBUTE: [f"{self.source_name}:{i}"]}}) for i in groups["id"]],
            reason=["marks ownership"] * len(groups),
        )
        return pd.concat([created, marked], ignore_index=True)

    # ── memberships ─────────────────────────────────────────────────────────────────────────────

    def _membership_changes(self) -> list[pd.DataFrame]:
        accounts, groups = len(self.accounts), len(self.directory_groups)
        # Codes of everything that will exist: directory rows first, then desired rows.
        users_final = _placed(
            self.accounts["username"], self.users.assign(username=self.final)["username"], self.user_at
        )
        groups_final = _placed(self.directory_groups["name"], self.groups["name"], self.group_at)
        user_code = np.where(self.user_at >= 0, self.user_at, accounts + np.arange(len(self.users)))
        group_code = np.where(self.group_at >= 0, self.group_at, groups + np.arange(len(self.groups)))
        users_total, groups_total = accounts + len(self.users), groups + len(self.groups)

        # Who may be given something, and from whom something may be taken.
        fixed_groups = np.zeros(groups_total, dtype=bool)
        fixed_groups[:groups] = self.groups_frozen
        powerful = self._privileged(groups_final, group_code)
        self._tell_closed(powerful[:groups])
        fixed_groups |= powerful
        give_groups, take_groups = ~fixed_groups, ~fixed_groups
        exists = np.zeros(groups_total, dtype=bool)
        exists[self.group_at[self.group_at >= 0]] = True
        exists[groups + np.flatnonzero(self.groups_created)] = True
        give_groups = give_groups & exists
        ours = np.zeros(groups_total, dtype=bool)
        ours[:groups] = (self.directory_groups["owner"] != "").to_numpy()
        ours[self.group_at[self.group_at >= 0]] = True
        if self.policy.leavers.groups != "empty":
            ours[:groups] &= ~self.groups_leaving
        take_groups = take_groups & ours
        shared = np.zeros(groups_total, dtype=bool)  # of these only our people are ours, not the groups in them
        shared[self.group_at[(self.groups["how"] == SHARED).to_numpy()]] = True

        give_users = np.zeros(users_total, dtype=bool)
        give_users[self.user_at[self.user_at >= 0]] = True
        give_users[accounts + np.flatnonzero(self.created)] = True
        give_users[:accounts] &= ~self.accounts_frozen
        take_users = np.zeros(users_total, dtype=bool)
        take_users[:accounts] = (self.accounts["owner"] != "").to_numpy()
        take_users[self.user_at[self.user_at >= 0]] = True
        # Those who leave keep their memberships, which Crowd ignores, unless the policy takes them.
        take_users[:accounts] &= ~self.accounts_frozen & (~self.leaving | self.losing)
        give_users[:accounts] &= ~self.leaving & ~self.losing

        # People and groups apart: a name may be that of both, and groups in groups are few.
        wanted, now = self.matched.memberships, self.directory.memberships
        nested, now_nested = ((side["member_kind"] == "group").to_numpy() for side in (wanted, now))
        group_of = _positions(wanted["group_id"], self.group_index, group_code)
        now_group = _positions(now["group_id"], self.directory_group_index)
        user_of = np.where(nested, -1, _positions(wanted["member_id"], self.user_index, user_code))
        now_user = np.where(now_nested, -1, _positions(now["member_id"], self.account_index))
        child_of = _positions(wanted["member_id"][nested], self.group_index, group_code)
        now_child = _positions(now["member_id"][now_nested], self.directory_group_index)
        group_of_child, now_parent = group_of[nested], now_group[now_nested]

        people = _difference(
            (group_of, user_of),
            (now_group, now_user),
            users_total,
            (give_groups, give_users),
            (take_groups, take_users),
            np.concatenate([self.losing, np.zeros(users_total - accounts, dtype=bool)]),
        )
        children = _difference(
            (group_of_child, child_of),
            (now_parent, now_child),
            groups_total,
            (give_groups, give_groups),
            (take_groups & ~shared, ours & ~fixed_groups),
        )
        if self.policy.groups.nesting == "ignore":
            nothing = np.empty(0, dtype=np.int64)
            children = ((nothing, nothing), (nothing, nothing))
        children = (self._without_circles(children, now_parent, now_child, groups_final), children[1])
        removed_users = np.concatenate([self.accounts["username"].to_numpy(dtype=object), users_final[accounts:]])
        group_names = groups_final
        result = []
        for kind, (groups_, members), names, reason in (
            (Kind.MEMBERSHIP_REMOVE, people[1], removed_users, "is no member in the source"),
            (Kind.NESTING_REMOVE, children[1], groups_final, "is not nested in the source"),
            (Kind.NESTING_ADD, children[0], groups_final, "is nested in the source"),
            (Kind.MEMBERSHIP_ADD, people[0], users_final, "is a member in the source"),
        ):
            if len(groups_):
                result.append(
                    pd.DataFrame(
                        {
                            "kind": pd.array([kind.value] * len(groups_), dtype="str"),
                            "name": pd.array(names[members], dtype="str"),
                            "target": pd.array(group_names[groups_], dtype="str"),
                            **{
                                c: pd.array([""] * len(groups_), dtype="str") for c in ("source_id", "record", "before")
                            },
                            "reason": pd.array([reason] * len(groups_), dtype="str"),
                        }
                    )
                )
        return result

    def _without_circles(
        self,
        children: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
        now_group: np.ndarray,
        now_child: np.ndarray,
        names: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nestings to add and to remove → those to add that close no circle: Crowd has none. The others are held."""
        (parents, members), removed = children
        if not len(parents):
            return parents, members
        below: dict[int, set[int]] = defaultdict(set)
        nested = (now_group >= 0) & (now_child >= 0)
        gone = np.flatnonzero(self.groups_deleted)
        nested &= ~np.isin(now_group, gone) & ~np.isin(now_child, gone)
        for parent, child in zip(now_group[nested].tolist(), now_child[nested].tolist(), strict=True):
            below[parent].add(child)
        if self.policy.operations.allows(Kind.NESTING_REMOVE):
            for parent, child in zip(*(side.tolist() for side in removed), strict=True):
                below[parent].discard(child)
        fits = np.ones(len(parents), dtype=bool)
        for i in np.lexsort((names[members].astype(str), names[parents].astype(str))):  # every run in the same order
            parent, child = int(parents[i]), int(members[i])
            seen, todo = {child}, [child]
            while todo and parent not in seen:
                new = below[todo.pop()] - seen
                seen |= new
                todo += new
            if parent in seen:
                fits[i] = False
                reason = f"nesting it in {names[parent]!r} would make a circle of groups; Crowd has none"
                self.held.append(held_frame([("nesting", "", names[child], "plan", reason)]))
            else:
                below[parent].add(child)
        return parents[fits], members[fits]

    def _privileged(self, names: np.ndarray, group_code: np.ndarray) -> np.ndarray:
        """Groups that give power, by code: by name, or because they are nested in one, now or in the desired state."""
        nested = self.matched.memberships[(self.matched.memberships["member_kind"] == "group").to_numpy()]
        wanted = [_positions(nested[side], self.groups["id"], group_code) for side in ("group_id", "member_id")]
        parent, child = self._nestings_now(self.directory_groups["id"], len(names))
        gone = np.flatnonzero(self.groups_deleted)
        stays = ~np.isin(parent, gone) & ~np.isin(child, gone)
        parent, child = np.concatenate([np.stack([parent[stays], child[stays]]), np.stack(wanted)], axis=1)
        return self._closed(pd.Series(names, dtype="str"), parent, child)

    def _tell_closed(self, powerful: np.ndarray) -> None:
        """Holds the groups of this source that give power which the policy does not name: they are left as they are,
        members included, which nobody would notice. (Of one inside another, only what is in it and it is in.)"""
        owner = self.directory_groups["owner"].to_numpy(dtype=object, copy=True)
        own = (self.group_at >= 0) & (self.groups["how"] != SHARED).to_numpy()
        owner[self.group_at[own]] = self.groups["id"].to_numpy(dtype=object)[own]
        closed = np.flatnonzero(powerful & (owner != ""))
        names = self.directory_groups["name"].iloc[closed]
        itself = self.policy.privileged(names).to_numpy(dtype=bool)
        for i, name, alone in zip(closed, names, itself, strict=True):
            what = "is a privileged group" if alone else "is inside a privileged group"
            reason = f"{what}: its members stay as they are; name it in protection.privileged_allowed, or leave it out"
            self.held.append(held_frame([("group" if alone else "nesting", owner[i], name, "plan", reason)]))

    def _nestings_now(self, ids: pd.Series, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Nestings in Crowd → positions of parents and children in `ids`; -1 where unknown. Groups whose record
        could not be read follow after `count` others: they give their power all the same."""
        unread = self._unread("group")["id"]
        nodes = pd.concat([ids, unread], ignore_index=True)
        at = np.concatenate([np.arange(len(ids)), (len(ids) if count is None else count) + np.arange(len(unread))])
        now = self.directory.memberships
        nested = now[(now["member_kind"] == "group").to_numpy()]
        sides = [_positions(nested[side], nodes, at) for side in ("group_id", "member_id")]
        return sides[0], sides[1]

    def _closed(self, names: pd.Series, parent: np.ndarray, child: np.ndarray) -> np.ndarray:
        """Names of groups by code, and their nestings → which of them give power that the policy does not allow."""
        everyone = pd.concat([names, self._unread("group")["name"]], ignore_index=True)
        closed = self.policy.privileged(everyone).to_numpy(dtype=bool, copy=True)
        if closed.any():
            known = (parent >= 0) & (child >= 0)
            parent, child = parent[known], child[known]
            named = among(everyone.str.lower(), [n.lower() for n in self.policy.protection.privileged_allowed])
            while True:
                grown = closed.copy()
                grown[child[closed[parent]]] = True
                grown &= ~named
                if (grown == closed).all():
                    break
                closed = grown
        return closed[: len(names)]

    def _unread(self, kind: str) -> pd.DataFrame:
        """Records of Crowd that are there but could not be read."""
        held, read = self.directory.held, self.accounts if kind == "user" else self.directory_groups
        return held[(held["kind"] == kind) & ~among(held["id"], read["id"])].drop_duplicates("id")

    # ── what the report and the guard need ──────────────────────────────────────────────────────

    def owned(self) -> Owned:
        mine = (self.accounts["owner"] != "").to_numpy(copy=True)
        mine[self.user_at[self.user_at >= 0]] = True
        groups = (self.directory_groups["owner"] != "").to_numpy(copy=True)
        own = (self.group_at >= 0) & (self.groups["how"] != SHARED).to_numpy()
        groups[self.group_at[own]] = True
        at = _positions(self.directory.memberships["group_id"], self.directory_group_index)
        nested = (self.directory.memberships["member_kind"] == "group").to_numpy()
        inside = groups[at] & (at >= 0)
        return Owned(
            int(mine.sum()),
            int((mine & self.accounts["active"].to_numpy(dtype=bool)).sum()),
            int(groups.sum()),
            int((inside & ~nested).sum()),
            int((inside & nested).sum()),
        )

    def names_of(self, person: str) -> tuple[set[str], set[str]]:
        """The usernames that a person's account has, and those that it gets."""
        wanted = (self.users["id"] == person).to_numpy()
        at = self.user_at[wanted]
        owned = self.accounts["username"][self.accounts["owner"] == person]
        return {*owned, *self.accounts["username"].iloc[at[at >= 0]]}, set(self.final[wanted])

    def gone(self, operations: pd.DataFrame) -> pd.DataFrame:
        """Of whom and what the plan takes something because the source did not list them: kind, id."""
        ids = self.accounts["owner"][self.absent & self.leaving]
        of_people = operations[operations["kind"].isin([Kind.USER_DEACTIVATE, Kind.USER_DELETE])]
        losing = crowd_ids(operations["name"][operations["kind"] == Kind.MEMBERSHIP_REMOVE])
        taken = among(ids, of_people["source_id"]) | among(self.accounts["id"][self.absent & self.leaving], losing)
        listed = pd.concat([self.source.groups["id"], self._held_ids("group")])
        lost = self.groups_leaving & ~among(self.directory_groups["owner"], listed)
        names = pd.concat(
            [
                operations["target"][operations["kind"].isin([Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE])],
                operations["name"][operations["kind"].isin([Kind.GROUP_DELETE, Kind.NESTING_REMOVE])],
            ]
        )
        groups = self.directory_groups[lost & among(self.directory_groups["id"], crowd_ids(names))]
        parts = [("user", ids[taken]), ("group", groups["owner"]), ("group", self.matched.handed_over["before"])]
        frames = [pd.DataFrame({"kind": kind, "id": of}, dtype="str") for kind, of in parts]
        return pd.concat(frames, ignore_index=True).drop_duplicates(ignore_index=True)

    def shielded(self, operations: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
        """Who has left by the source's word and keeps an active account all the same: held, with `account`."""
        stopped = operations["kind"].isin([Kind.USER_DEACTIVATE, Kind.USER_DELETE])
        active = self.accounts[
            self.accounts["active"] & ~among(self.accounts["id"], crowd_ids(operations["name"][stopped]))
        ]
        of = (
            {
                identity: name
                for column in ("owner", "linked", "marked")
                for identity, name in zip(active[column], active["username"], strict=True)
                if identity
            }
            if (held["away"] != "").any()
            else {}
        )
        word = held["away"].ne("") & (held["kind"] == "user") & held["id"].isin(list(of))
        # (What the policy leaves alone is its own choice, and no doubt.)
        leavers = self.policy.leavers
        done = {DISABLED: leavers.disabled, OUT_OF_SCOPE: leavers.out_of_scope}
        word &= held["away"].map(done).isin(["deactivate", *_BOTH, "delete"])
        found = held[word].drop_duplicates("id")
        return found.assign(account=found["id"].map(of).astype("str")).reset_index(drop=True)

    def warnings(self) -> pd.DataFrame:
        """Those of the stages before, and groups whose name in Crowd is another one: Crowd cannot rename groups."""
        known = np.flatnonzero((self.group_at >= 0) & (self.groups["how"] != SHARED).to_numpy())
        now = self.directory_groups["id"].to_numpy(dtype=object)[self.group_at[known]]
        wanted = self.groups.iloc[known]
        other = crowd_ids(wanted["name"]).to_numpy(dtype=object) != now
        names = self.directory_groups["name"].to_numpy(dtype=object)[self.group_at[known[other]]]
        told = held_frame(
            ("group", row.id, row.name, "plan", f"is still called {name!r} in Crowd, which cannot rename groups")
            for row, name in zip(wanted[other].itertuples(), names, strict=True)
        )
        return pd.concat([self.matched.warnings, told], ignore_index=True)

    def doubts(self) -> Iterator[str]:
        """What speaks against taking anything away, beyond numbers."""
        if self.matched.unknown_marks:
            yield (
                f"{self.matched.unknown_marks} records of Crowd bear this source's mark and are not in our database, "
                "though others are: it is older than Crowd, as when a backup was put back; put the newest one back, or "
                "agree that what it says of leavers holds"
            )

    def _taken_by(self, kind: str, name: str, identity: str) -> str:
        """Why a name cannot be had: whose it is, since when that one is gone, and what hands it over."""
        records = self.accounts if kind == "user" else self.directory_groups
        at = pd.Index(records["id"]).get_indexer(pd.Index([name]))[0]
        what = "account" if kind == "user" else "group"
        if at < 0:
            return f"another {what} gets this name"
        owner = str(records["owner"].iloc[at])
        if not owner:
            whose = "another source's" if records["foreign"].iloc[at] else "nobody's"
            return f"a Crowd {what} of this name is there, and {whose}"
        shown = records["username" if kind == "user" else "name"].iloc[at]
        listed = self.source.users if kind == "user" else self.source.groups
        is_held = (self.matched.held["id"] == owner) & (self.matched.held["kind"] == kind)
        way = f"crowdsync links hand-over {self.source_name} {owner} {identity} --kind {kind}"
        of = listed[(listed["id"] == owner).to_numpy()]
        if len(of):
            called = of["username" if kind == "user" else "name"].iloc[0]
            state = f"which is {called!r} in the source" + (
                "" if kind == "group" or of["active"].iloc[0] else ", disabled"
            )
        elif is_held.any():
            state = "which is held"
        else:
            state = f"which is gone from the source{self._since(owner) if kind == 'user' else ''}"
        same = "the same person" if kind == "user" else "to be this group's"
        return f"the Crowd {what} {shown!r} belongs to {owner}, {state}; if it is {same}: {way}"

    def _since(self, identity: str) -> str:
        if self.since is None:
            return ""
        since = self.since.loc[self.since["id"] == identity, "since"]
        return f" since {since.iloc[0]:%Y-%m-%d}" if len(since) else ""

    def links(self) -> pd.DataFrame:
        """Ownership that Crowd's marks alone tell, also of those who leave: a database that knows only some of them
        would look as if it were older than Crowd."""
        parts = []
        for kind, records in (("user", self.accounts), ("group", self.directory_groups)):
            handed = among(records["owner"], self.matched.handed_over["after"]) & (kind == "group")
            found = records[(records["how"] == "id") & ~handed]  # (those who are handed one get theirs with the mark)
            parts.append(
                pd.DataFrame({"kind": kind, "id": found["owner"], "name": found["id"], "how": "id"}, dtype="str")
            )
        return pd.concat(parts, ignore_index=True)

    def stale(self, operations: pd.DataFrame) -> pd.DataFrame:
        named = operations[operations["kind"].isin([Kind.USER_CREATE, Kind.USER_RENAME, Kind.GROUP_CREATE])]
        links = self.matched.stale
        if named.empty or links.empty:
            return links.loc[[], ["kind", "id"]]
        names = crowd_ids(named["target"].where(named["kind"] == Kind.USER_RENAME, named["name"]))
        keys = named["kind"].str.split("_").str[0] + ":" + names
        return links.loc[among(links["kind"] + ":" + crowd_ids(links["name"]), keys), ["kind", "id"]]

    def _hold(self, record: pd.Series, account: str, reason: str, kind: str = "user") -> None:
        name = record["username" if kind == "user" else "name"]
        reason += f" (now {account!r})" if account else ""
        away = DISABLED if kind == "user" and not record["active"] else ""
        self.held.append(held_frame([(kind, record["id"], name, "plan", reason, away)]))


def _difference(
    wanted: tuple[np.ndarray, np.ndarray],
    present: tuple[np.ndarray, np.ndarray],
    width: int,
    give: tuple[np.ndarray, np.ndarray],
    take: tuple[np.ndarray, np.ndarray],
    losing: np.ndarray | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Positions (-1 where unknown) of (group, member) wanted and present → those to add and those to remove.

    Members that are `losing` are wanted nowhere."""
    width = max(width, 1)
    known = (wanted[0] >= 0) & (wanted[1] >= 0)
    if losing is not None and losing.any():
        known &= ~losing[wanted[1]]
    wanted_keys = sorted_unique(wanted[0][known].astype(np.int64) * width + wanted[1][known])
    known = (present[0] >= 0) & (present[1] >= 0)
    present_keys = sorted_unique(present[0][known].astype(np.int64) * width + present[1][known])
    if len(wanted_keys) == len(present_keys) and (wanted_keys == present_keys).all():
        nothing = np.empty(0, dtype=np.int64)
        return (nothing, nothing), (nothing, nothing)
    add, remove = (
        np.divmod(_less(*keys), width) for keys in ((wanted_keys, present_keys), (present_keys, wanted_keys))
    )
    may_add = give[0][add[0]] & give[1][add[1]]
    may_remove = take[0][remove[0]] & take[1][remove[1]]
    return (add[0][may_add], add[1][may_add]), (remove[0][may_remove], remove[1][may_remove])


def _less(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Sorted keys that are not among sorted others."""
    if not len(others):
        return keys
    at = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    left: np.ndarray = keys[others[at] != keys]
    return left


def _positions(column: pd.Series, ids: pd.Series | pd.Index, codes: np.ndarray | None = None) -> np.ndarray:
    """Categorical ids → positions in `ids` (or `codes` of them), -1 where unknown."""
    index = ids if isinstance(ids, pd.Index) else pd.Index(ids)
    at = index.get_indexer(column.cat.categories)
    if codes is not None and len(codes):
        at = np.where(at >= 0, codes[at], -1)
    return at[column.cat.codes.to_numpy()] if len(at) else np.full(len(column), -1)


def _placed(existing: pd.Series, wanted: pd.Series, at: np.ndarray) -> np.ndarray:
    """Names by code: what the directory has (by its final name), then the wanted rows."""
    names = existing.to_numpy(dtype=object).copy()
    known = at >= 0
    if existing.name == "username":
        names[at[known]] = wanted.to_numpy(dtype=object)[known]
    return np.concatenate([names, wanted.to_numpy(dtype=object)])


def _in_order(mover: dict[str, int], gives: dict[int, str]) -> Iterator[tuple[int, bool]]:
    """Who wants which name and who gives which → (who, whether it only steps aside), such that a name is free when
    it is taken: chains from their end; of a circle one steps aside first."""
    wants = {i: name for name, i in mover.items()}
    givers = set(gives.values())
    ready = [i for name, i in mover.items() if name not in givers]
    while wants:
        if not ready:  # only circles are left
            i = next(iter(wants))
            yield i, True
            ready.append(mover[gives.pop(i)])
        i = ready.pop()
        yield i, False
        del wants[i]
        if (name := gives.pop(i, None)) in mover:
            ready.append(mover[name])


def _aside(name: str, taken: set[str]) -> str:
    return next(f"{name[:200]}~{n}" for n in range(1, 10_000) if crowd_id(f"{name[:200]}~{n}") not in taken)


def _attribute_change(now: str, wanted: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Attributes as they are and as they should be, as JSON text ("": as they are) → what changes, and what it was."""
    if not wanted:
        return {}, {}
    old, new = orjson.loads(now), orjson.loads(wanted)
    new = {name: old.get(name, []) if values is None else values for name, values in new.items()}  # null: as it is
    names = [name for name in sorted(old.keys() | new.keys()) if sorted(old.get(name, [])) != sorted(new.get(name, []))]
    return {name: new.get(name, []) for name in names}, {name: old.get(name, []) for name in names}


def _attributes(
    kind: Kind,
    name: str,
    identity: str,
    change: dict[str, list[str]],
    before: dict[str, list[str]],
    reason: str,
    giver: str = "",
) -> tuple[Any, ...]:
    """`giver`: the id whose link ends when this holds."""
    record = {"attributes": change} | ({GIVER: giver} if giver else {})
    return kind.value, name, "", identity, _json(record), _json({"attributes": before}), reason


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _records(users: pd.DataFrame, marks: pd.Series | None = None) -> list[str]:
    """Whole Crowd records of the rows that are about to be written, as JSON text."""
    columns = [users[field] for field in FIELDS]
    rows = zip(*columns, users["active"].astype(bool), strict=True)
    plain = [{"email": e, "first_name": f, "last_name": la, "display_name": d, "active": a} for e, f, la, d, a in rows]
    if marks is not None:
        for record, text, mark in zip(plain, users["attributes"], marks, strict=True):
            given = {name: values for name, values in orjson.loads(text).items() if values is not None}
            record["attributes"] = {**given, ID_ATTRIBUTE: [mark]}
    return [_json(record) for record in plain]


def _before(now: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    names = (*FIELDS, "active")
    old = zip(*(now[name] for name in names), strict=True)
    new = zip(*(after[name] for name in names), strict=True)
    return [
        _json({name: (bool(a) if name == "active" else a) for name, a, b in zip(names, o, n, strict=True) if a != b})
        for o, n in zip(old, new, strict=True)
    ]


def _frame(
    kind: Kind,
    names: Any,
    *,
    source_id: Any,
    reason: Any,
    record: Any = None,
    before: Any = None,
    target: Any = None,
) -> pd.DataFrame:
    count = len(names)
    empty = [""] * count
    columns = {
        "kind": [kind.value] * count,
        "name": names,
        "target": empty if target is None else target,
        "source_id": source_id,
        "record": empty if record is None else record,
        "before": empty if before is None else before,
        "reason": reason,
    }
    return pd.DataFrame({name: pd.array(list(values), dtype="str") for name, values in columns.items()})


def _alike(kind: str, other: str) -> str:
    return f"looks like the existing Crowd {kind} {other!r}; rename one of them"


def _phased(part: pd.DataFrame) -> pd.DataFrame:
    """Operations with their phase: that of their kind, where they have none yet."""
    if "phase" in part.columns:
        return part
    by_kind = {kind.value: number for kind, number in PHASES.items()}
    return part.assign(phase=part["kind"].map(by_kind).astype("int64"))


def _operations(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return pd.DataFrame({n: pd.array(list(v), dtype="str") for n, v in zip(COLUMNS, columns, strict=True)})


@task(name="plan", task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
async def make_plan(
    matched: Matched,
    source: Snapshot,
    directory: Snapshot,
    policy: Policy,
    name: str,
    digests: tuple[str, str],
    departures: Departures | None = None,
    selection: Selection | None = None,
    doubts: Sequence[str] = (),
) -> Plan:
    """The operations that turn the directory into the desired state."""
    return plan(
        matched, source, directory, policy, name, digests, departures=departures, selection=selection, doubts=doubts
    )
