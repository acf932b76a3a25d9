"""The blast radius of a plan: what will be different for people once it is applied, found without touching Crowd.

The operations are played through on integer codes. An account is followed through its renames and a name through
its holders; groups are told by their folded name, because that is how applications know them: one that is deleted
and made again under its name is one group here. Whoever may do something "through nested groups" counts as a member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from connectors.model import Snapshot, memberships_from_codes, sizes_only
from connectors.operations import Kind
from tasks.decide.names import among, arrow_text, crowd_ids
from tasks.decide.removals import RecentRemovals
from tasks.policy import Policy, matches

LEAST_RUNS: Final = 3
"""Nothing is unusual before so many plans were applied."""
NAMES: Final = 10
"""Names in one line for people, at most."""

UNUSUAL: Final[Mapping[str, tuple[Kind, ...]]] = {
    "people shut out": (Kind.USER_DEACTIVATE, Kind.USER_DELETE),
    "memberships taken away": (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE),
}
"""What is compared with the runs before, and the operations that count."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Unusual:
    """This plan does more of `what` than the runs before: `now`, against `most_before` in the last `runs`."""

    what: str
    now: int
    most_before: int
    runs: int


@sizes_only
@dataclass(frozen=True, slots=True)
class State:
    """What a directory will be: users (id, username, active), groups (id, name), memberships as in a snapshot.

    Sorted by id as in a snapshot, without records that could not be read (their memberships are there)."""

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame


@sizes_only
@dataclass(frozen=True, slots=True)
class Impact:
    """What a plan does to people. All names are sorted.

    `active_*`: accounts that can log in. `seats_*`: active people in the seat groups; None where no group is one.
    `emptied`: groups that had an active member and have none after; `administrators_lost`: such of them as are
    privileged. `privileged`: group, who, what ("gains" or "loses": the active members that privileged groups gain,
    by their name after the plan, and lose, by their name before it). `shut_out`: people who could log in and were
    in a group, and are inactive, deleted or in no group after. `group_changes`: group, members_before, added,
    removed (direct members; the group that loses most first). `past`: kind → (median, most) of the runs before.
    `losers`: how many people stay active and lose a group that they had, directly or nested; `losers_recently`: the
    same with what was taken away in the window of the limits. `deserted`: such of `emptied` as many people lose so
    (`approval.emptied_members`). `recent`, `recent_groups`: what was taken away in that window, by limit, and members
    by group (as Crowd looks it up).
    """

    active_before: int
    active_after: int
    seats_before: int | None
    seats_after: int | None
    emptied: tuple[str, ...]
    administrators_lost: tuple[str, ...]
    privileged: pd.DataFrame
    shut_out: tuple[str, ...]
    group_changes: pd.DataFrame
    unusual: tuple[Unusual, ...]
    past: Mapping[str, tuple[float, int]]
    losers: int = 0
    losers_recently: int = 0
    deserted: tuple[str, ...] = ()
    recent: Mapping[str, int] = field(default_factory=dict)
    recent_groups: Mapping[str, int] = field(default_factory=dict)


def impact(
    operations: pd.DataFrame,
    directory: Snapshot,
    policy: Policy,
    past: pd.DataFrame | None = None,
    recent: RecentRemovals | None = None,
) -> Impact:
    """Operations in the order of seq, and the directory before them → their impact.

    `past`: a row per plan that was applied, newest first, and a column per kind, as `Store.past_counts` gives;
    `recent`: what was taken away in the window of the limits."""
    recent = recent or RecentRemovals()
    course = _course(operations, directory)
    before, after = course.sides()
    names = course.group_names
    power = _privileged(policy, names)
    had, has = before.peopled(), after.peopled()
    emptied = had & ~has
    seats: list[int | None] = [None, None]
    if policy.limits.seat_groups:
        licensed = matches(pd.Series(names, dtype="str"), policy.limits.seat_groups).to_numpy(dtype=bool)
        seats = [int(side.inside(licensed).sum()) for side in (before, after)]
    lost = before.active & before.placed() & ~(after.active & after.placed())
    runs = _runs(past, policy)
    gone = course.people_changes()[1], course.nestings.changes(course.node, course.node)[1]
    losers = losers_recently = _losers(before, after, [gone[0]], [gone[1]])
    earlier, members, nestings = _with(before, course, recent, directory)
    if losers and earlier is not before:
        losers_recently = _losers(earlier, after, [gone[0], members], [gone[1], nestings])
    of_groups = recent.pairs("group_membership_remove", Kind.MEMBERSHIP_REMOVE, directory)["group"].value_counts()
    return Impact(
        active_before=int(before.active.sum()),
        active_after=int(after.active.sum()),
        seats_before=seats[0],
        seats_after=seats[1],
        emptied=_sorted(names[emptied]),
        administrators_lost=_sorted(names[emptied & power]),
        privileged=_power_changes(course, before, after, power),
        shut_out=_sorted(course.names_before[lost]),
        group_changes=_group_changes(course),
        unusual=_unusual(operations["kind"], runs, policy),
        past={
            kind.value: (float(runs[kind.value].median()), int(runs[kind.value].max()))
            for kind in Kind
            if kind.value in runs.columns and len(runs)
        },
        losers=losers,
        losers_recently=losers_recently,
        deserted=_sorted(names[_deserted(emptied, earlier, after, policy.approval.emptied_members)]),
        recent=recent.counts(directory),
        recent_groups={str(group): int(count) for group, count in of_groups.items()},
    )


def after(operations: pd.DataFrame, directory: Snapshot) -> State:
    """The directory as it will be when every operation (in the order of seq) has been written."""
    course = _course(operations, directory)
    folded = crowd_ids(pd.Series(course.texts.text, dtype="str")).to_numpy(dtype=object)
    sides = []
    for holders, records in ((course.users, course.accounts), (course.groups, course.teams)):
        there = holders.alive.copy()
        there[holders.read : holders.given] = False
        ids = holders.texts(records.ids.to_numpy(zero_copy_only=False), folded)
        sides.append((there, ids, holders.texts(records.names, course.texts.text)))
    (users, user_ids, usernames), (groups, group_ids, group_names) = sides
    people, nests = course.members.after(), course.nestings.after()
    of_group, group_categories = pd.factorize(group_ids)
    of_member, member_categories = pd.factorize(np.concatenate([user_ids, group_ids]))
    memberships = memberships_from_codes(
        group_categories,
        member_categories,
        of_group[np.concatenate([people[0], nests[0]])],
        of_member[np.concatenate([people[1], nests[1] + len(user_ids)])],
        np.repeat([1, 0], [len(people[0]), len(nests[0])]),
    )
    return State(
        _by_id({"id": user_ids[users], "username": usernames[users], "active": course.active_after[users]}),
        _by_id({"id": group_ids[groups], "name": group_names[groups]}),
        Snapshot.of(memberships=memberships).memberships,
    )


def lines(impact: Impact) -> list[str]:
    """The impact in plain words, the most dangerous first."""
    power = impact.privileged
    told = [
        f"{group} loses its last administrator{'' if len(who) == 1 else 's'} ({_some(who)})"
        for group, who in _by_group(power[power["group"].isin(impact.administrators_lost) & (power["what"] == "loses")])
    ]
    told += _power_lines(power[power["what"] == "gains"], "gains")
    told += [f"{u.what}: {u.now:,}, at most {u.most_before:,} in the {u.runs} runs before" for u in impact.unusual]
    if count := len(impact.shut_out):
        whom = "1 person loses" if count == 1 else f"{count:,} people lose"
        told.append(f"{whom} all access: {_some(impact.shut_out)}")
    if count := len(impact.emptied):
        what = "1 group is" if count == 1 else f"{count:,} groups are"
        told.append(f"{what} emptied: {_some(impact.emptied)}")
    rest = ~power["group"].isin(impact.administrators_lost) & (power["what"] == "loses")
    told += _power_lines(power[rest], "loses")
    if impact.active_before != impact.active_after:
        told.append(f"active accounts {impact.active_before:,} → {impact.active_after:,}")
    if impact.seats_before is not None and impact.seats_after is not None and impact.seats_before != impact.seats_after:
        told.append(f"licence seats {impact.seats_before:,} → {impact.seats_after:,}")
    return told


# ── the words ───────────────────────────────────────────────────────────────────────────────────────────────────


def _some(names: Sequence[str]) -> str:
    """At most ten names, and how many more there are."""
    shown = ", ".join(names[:NAMES])
    return f"{shown} … and {len(names) - NAMES:,} more" if len(names) > NAMES else shown


def _by_group(rows: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    for group, who in rows.groupby("group", sort=True)["who"]:
        yield str(group), who.tolist()


def _power_lines(rows: pd.DataFrame, verb: str) -> list[str]:
    told = [f"privileged: {group} {verb} {_some(who)}" for group, who in _by_group(rows)]
    if len(told) > NAMES:
        told[NAMES:] = [f"privileged: {len(told) - NAMES:,} more groups {verb.removesuffix('s')} members too"]
    return told


# ── against the runs before ─────────────────────────────────────────────────────────────────────────────────────


def _runs(past: pd.DataFrame | None, policy: Policy) -> pd.DataFrame:
    return pd.DataFrame() if past is None else past.head(policy.limits.unusual_runs)


def _unusual(kinds: pd.Series, runs: pd.DataFrame, policy: Policy) -> tuple[Unusual, ...]:
    times = policy.limits.unusual_times
    if times is None or len(runs) < LEAST_RUNS:
        return ()
    found = []
    for what, counted in UNUSUAL.items():
        now = int(kinds.isin([kind.value for kind in counted]).sum())
        most = int(runs[[kind.value for kind in counted if kind.value in runs.columns]].sum(axis=1).max())
        if now > times * max(most, 1):
            found.append(Unusual(what, now, most, len(runs)))
    return tuple(found)


# ── the measures, on codes ──────────────────────────────────────────────────────────────────────────────────────

Pairs = tuple[np.ndarray, np.ndarray]
"""Two int columns of one length: (group, member), or (parent, child)."""
_Rows = Callable[..., np.ndarray]
"""Kinds → the rows of their operations."""


@dataclass(frozen=True, slots=True)
class _Side:
    """The directory before or after. `active`: bool per user; `members` and `nestings` in codes of group names."""

    active: np.ndarray
    members: Pairs
    nestings: Pairs
    groups: int

    def peopled(self) -> np.ndarray:
        """Groups with an active member, direct or nested: bool per group."""
        some = np.zeros(self.groups, dtype=bool)
        some[self.members[0][self.active[self.members[1]]]] = True
        return _spread(some, self.nestings[1], self.nestings[0])

    def inside(self, groups: np.ndarray) -> np.ndarray:
        """Groups (bool) → active users in any of them, direct or nested (bool)."""
        below = _spread(groups, *self.nestings)
        found = np.zeros(len(self.active), dtype=bool)
        found[self.members[1][below[self.members[0]]]] = True
        found &= self.active
        return found

    def placed(self) -> np.ndarray:
        """Users who are in a group: bool."""
        found = np.zeros(len(self.active), dtype=bool)
        found[self.members[1]] = True
        return found

    def effective(self, users: np.ndarray) -> np.ndarray:
        """Of these users (bool), every group that they are in, directly or nested: user * groups + group, sorted."""
        group, user = self.members
        width = max(self.groups, 1)
        which = users[user]
        group, user = group[which], user[which].astype(np.int64)
        below, above = _ancestors(*self.nestings, self.groups)
        who, up = _joined(group, below, above, self.groups)
        return np.unique(np.concatenate([user * width + group, user[who] * width + up]))

    def each_inside(self, groups: np.ndarray) -> Iterator[np.ndarray]:
        """For each of the groups (codes) its active users, direct or nested: sorted codes of users."""
        wanted = np.zeros(self.groups, dtype=bool)
        wanted[groups] = True
        group, user = self.members
        which = _spread(wanted, *self.nestings)[group] & self.active[user]
        group, user = group[which], user[which]
        order = np.argsort(group, kind="stable")
        group, user = group[order], user[order]
        first, last = (np.searchsorted(group, np.arange(self.groups), side) for side in ("left", "right"))
        found = np.zeros(len(self.active), dtype=bool)
        for top in groups.tolist():  # a walk per privileged group; its users come as slices
            one = np.zeros(self.groups, dtype=bool)
            one[top] = True
            below = np.flatnonzero(_spread(one, *self.nestings))
            for start, stop in zip(first[below].tolist(), last[below].tolist(), strict=True):
                found[user[start:stop]] = True
            yield np.flatnonzero(found)
            found[:] = False


def _with(before: _Side, course: _Course, recent: RecentRemovals, directory: Snapshot) -> tuple[_Side, Pairs, Pairs]:
    """The directory before, and what was taken away lately put back, as far as both sides of it are there; and what
    that is: memberships, nestings."""
    back: list[Pairs] = []
    for kind, members in ((Kind.MEMBERSHIP_REMOVE, course.accounts), (Kind.NESTING_REMOVE, course.teams)):
        taken = recent.pairs("group_loss", kind, directory)
        group, member = (_at(of.ids, arrow_text(taken[c])) for of, c in ((course.teams, "group"), (members, "member")))
        known = (group >= 0) & (member >= 0)
        back.append((group[known], member[known]))
    if not len(back[0][0]) and not len(back[1][0]):
        return before, back[0], back[1]
    members_, nestings = (
        (np.concatenate([now[0], more[0]]), np.concatenate([now[1], more[1]]))
        for now, more in zip((before.members, before.nestings), back, strict=True)
    )
    return _Side(before.active, members_, nestings, before.groups), back[0], back[1]


def _losers(before: _Side, after: _Side, members: Iterable[Pairs], nestings: Iterable[Pairs]) -> int:
    """How many people are active on both sides and lose a group that they had, directly or through groups in groups.

    `members` and `nestings`: at least those that are there before, and not after."""
    some, cut = np.zeros(len(before.active), dtype=bool), np.zeros(before.groups, dtype=bool)
    for _, user in members:
        some[user] = True
    for _, child in nestings:
        cut[child] = True
    if cut.any():
        some |= before.inside(cut)
    some &= before.active & after.active
    if not some.any():
        return 0
    lost = np.setdiff1d(before.effective(some), after.effective(some), assume_unique=True)
    return len(np.unique(lost // max(before.groups, 1)))


def _deserted(emptied: np.ndarray, before: _Side, after: _Side, least: int) -> np.ndarray:
    """Which emptied groups (bool) at least so many people lose who stay active: codes."""
    codes = np.flatnonzero(emptied)
    stay = [int(after.active[who].sum()) for who in before.each_inside(codes)]
    return codes[np.array(stay, dtype=np.int64) >= least]


def _joined(keys: np.ndarray, left: np.ndarray, right: np.ndarray, count: int) -> Pairs:
    """Codes below `count`, and pairs of such (left sorted) → for each key its pairs: positions of keys, and rights."""
    first, last = (np.searchsorted(left, np.arange(count), side) for side in ("left", "right"))
    many = last[keys] - first[keys]
    at = np.repeat(np.arange(len(keys)), many)
    steps = np.arange(len(at)) - np.repeat(np.cumsum(many) - many, many)
    return at, right[first[keys][at] + steps]


def _ancestors(parent: np.ndarray, child: np.ndarray, count: int) -> Pairs:
    """Nestings → every (group, group that it is in, directly or nested), sorted."""
    width = max(count, 1)
    known = fresh = np.unique(child.astype(np.int64) * width + parent)
    left, right = np.divmod(known, width)
    while len(fresh):
        group, above = np.divmod(fresh, width)
        at, further = _joined(above, left, right, count)
        fresh = np.setdiff1d(group[at] * width + further, known)
        known = np.union1d(known, fresh)
    below, above = np.divmod(known, width)
    return below, above


def _spread(flags: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Flags (bool) → flags of everything that can be reached along the edges start → end, themselves included."""
    flags = flags.copy()
    while True:
        open_ = ~flags[end]
        start, end = start[open_], end[open_]
        reached = end[flags[start]]
        if not len(reached):
            return flags
        flags[reached] = True


def _privileged(policy: Policy, names: np.ndarray) -> np.ndarray:
    """Which group names are privileged, whether or not the policy allows them: bool."""
    protection = policy.protection.model_copy(update={"privileged_allowed": ()})
    everything = policy.model_copy(update={"protection": protection})
    return everything.privileged(pd.Series(names, dtype="str")).to_numpy(dtype=bool)


def _power_changes(course: _Course, before: _Side, after: _Side, power: np.ndarray) -> pd.DataFrame:
    """Active members that privileged groups gain and lose: group, who, what."""
    # Only groups below which something changes are walked.
    touched = np.zeros(before.groups, dtype=bool)
    other = before.active != after.active
    for group, user in (before.members, after.members):
        touched[group[other[user]]] = True
    for group, _ in (*course.people_changes(), *course.nestings.changes(course.node, course.node)):
        touched[group] = True
    parents, children = (np.concatenate(sides) for sides in zip(before.nestings, after.nestings, strict=True))
    concerned = np.flatnonzero(_spread(touched, children, parents) & power)
    rows: list[tuple[np.ndarray, np.ndarray, str]] = []
    for at, was, will in zip(
        concerned.tolist(), before.each_inside(concerned), after.each_inside(concerned), strict=True
    ):
        for who, usernames, what in (
            (np.setdiff1d(will, was, assume_unique=True), course.names_after, "gains"),
            (np.setdiff1d(was, will, assume_unique=True), course.names_before, "loses"),
        ):
            rows.append((np.full(len(who), at), usernames[who], what))
    columns = {
        "group": course.group_names[np.concatenate([r[0] for r in rows])] if rows else [],
        "who": np.concatenate([r[1] for r in rows]) if rows else [],
        "what": np.repeat([r[2] for r in rows], [len(r[1]) for r in rows]) if rows else [],
    }
    frame = pd.DataFrame({name: pd.array(list(values), dtype="str") for name, values in columns.items()})
    return frame.sort_values(["group", "who", "what"], ignore_index=True)


def _group_changes(course: _Course) -> pd.DataFrame:
    """Direct members by group: group, members_before, added, removed."""
    groups = len(course.group_names)
    added, removed = (np.bincount(group, minlength=groups) for group, _ in course.people_changes())
    members = np.bincount(course.members.group, minlength=groups)
    some = np.flatnonzero(added + removed)
    frame = pd.DataFrame(
        {
            "group": pd.array(course.group_names[some], dtype="str"),
            "members_before": members[some],
            "added": added[some],
            "removed": removed[some],
        }
    ).astype({"members_before": "int64", "added": "int64", "removed": "int64"})
    return frame.sort_values(["removed", "group"], ascending=[False, True], ignore_index=True)


# ── the operations, played through ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Records:
    """Accounts or groups before the plan: `read` rows of the directory, then those that could not be read.

    They cannot be written, but their memberships stand, and such groups give power all the same. Whether such an
    account is active is not known: it counts for nobody."""

    ids: pa.Array
    names: np.ndarray
    read: int


@dataclass(frozen=True, slots=True)
class _Texts:
    """Names and targets of operations: `text` has each spelling, `ids` each folded form, `folded` takes a code of
    the first to one of the second, `name` and `target` are codes of spellings, one per operation."""

    text: np.ndarray
    ids: pa.Array
    folded: np.ndarray
    name: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, slots=True)
class _Moved:
    """Pairs before the plan, which of them are `kept`, and those that are new; all in codes of records."""

    group: np.ndarray
    member: np.ndarray
    kept: np.ndarray
    new: Pairs

    def after(self) -> Pairs:
        """The pairs after the plan."""
        return (
            np.concatenate([self.group[self.kept], self.new[0]]),
            np.concatenate([self.member[self.kept], self.new[1]]),
        )

    def changes(self, group_node: np.ndarray, member_node: np.ndarray) -> tuple[Pairs, Pairs]:
        """(added, removed) in nodes: what a group that was made again gets back is neither."""
        new = group_node[self.new[0]], member_node[self.new[1]]
        gone = group_node[self.group[~self.kept]], member_node[self.member[~self.kept]]
        if not len(gone[0]) or not len(new[0]):
            return new, gone
        width = len(member_node)
        keys = [group * width + member for group, member in (new, gone)]
        one, other = np.isin(keys[0], keys[1]), np.isin(keys[1], keys[0])
        return (new[0][~one], new[1][~one]), (gone[0][~other], gone[1][~other])


@dataclass(frozen=True, slots=True)
class _Course:
    """A plan played through. Users and groups: records of the directory, then new ones, in the order of their
    creation. `node`: group record → code of its name in `group_names`; `names_*` of users, "" where there is none.
    """

    users: _Holders
    groups: _Holders
    active_before: np.ndarray
    active_after: np.ndarray
    members: _Moved
    nestings: _Moved
    names_before: np.ndarray
    names_after: np.ndarray
    group_names: np.ndarray
    node: np.ndarray
    texts: _Texts
    accounts: _Records
    teams: _Records

    def people_changes(self) -> tuple[Pairs, Pairs]:
        """Direct members (added, removed), the groups by name."""
        return self.members.changes(self.node, np.arange(self.users.count))

    def sides(self) -> tuple[_Side, _Side]:
        """Before and after."""
        people, nests, node = self.members.after(), self.nestings.after(), self.node
        before = (self.members.group, self.members.member), (self.nestings.group, self.nestings.member)
        return (
            _Side(self.active_before, *before, len(self.group_names)),
            _Side(
                self.active_after,
                (node[people[0]], people[1]),
                (node[nests[0]], node[nests[1]]),
                len(self.group_names),
            ),
        )


class _Holders:
    """Who holds which name when, among accounts or among groups.

    A holding begins with the directory (time 0), a creation or a rename, and ends with a rename or a deletion; the
    time of an operation is its row, from 1. An operation means who holds its name just before it. The record behind
    a holding that a rename began is that of the holding which the same rename ended."""

    def __init__(
        self, records: _Records, texts: _Texts, creates: np.ndarray, renames: np.ndarray, deletes: np.ndarray
    ) -> None:
        """`creates`, `renames`, `deletes`: rows of operations."""
        self.read, self.given, self.count = records.read, len(records.ids), len(records.ids) + len(creates)
        self._never = len(texts.name) + 2
        self.known = _at(records.ids, texts.ids)
        """Folded name → the record that has it before the plan, or -1."""
        first = np.flatnonzero(self.known >= 0)
        name = np.concatenate([first, texts.folded[texts.name[creates]], texts.folded[texts.target[renames]]])
        begins = np.concatenate([np.zeros(len(first), dtype=np.int64), creates + 1, renames + 1])
        new = self.given + np.arange(len(creates))
        record = np.concatenate([self.known[first], new, np.full(len(renames), -1)])
        text = np.concatenate([np.full(len(first), -1), texts.name[creates], texts.target[renames]])
        order = np.argsort(name * self._never + begins)
        name, begins, record, text = name[order], begins[order], record[order], text[order]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        created, renamed = np.split(place[len(first) :], [len(creates)])

        self._name, self._key, self._ends = name, name * self._never + begins, np.full(len(order), self._never)
        source = self._holding(texts.folded[texts.name[renames]], renames + 1)
        for holding, when in (
            (source, renames + 1),
            (self._holding(texts.folded[texts.name[deletes]], deletes + 1), deletes + 1),
        ):
            self._ends[holding[holding >= 0]] = when[holding >= 0]
        behind = np.arange(len(order))
        behind[renamed] = np.where(source >= 0, source, renamed)
        # What is created though it is there stays what it is: Crowd has one record of a name.
        again = created[created > 0]
        again = again[(name[again - 1] == name[again]) & (self._ends[again - 1] == self._never)]
        behind[again], self._ends[again - 1] = again - 1, begins[again]
        while ((further := behind[behind]) != behind).any():  # every step sees through chains twice as long
            behind = further
        self._record = record[behind]

        held, last = self._record >= 0, self._ends == self._never
        self.alive = np.arange(self.count) < self.given
        self.alive[self._record[held]] = False
        self.alive[self._record[held & last]] = True
        self._spelling = np.full(self.count, -1)
        self._spelling[self._record[held & last]] = text[held & last]

    def _holding(self, name: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Folded names and times → the last holding of that name that began before; -1 where there is none."""
        if not len(self._key):
            return np.full(len(name), -1)
        at = np.searchsorted(self._key, name * self._never + when) - 1
        return np.where((at >= 0) & (self._name[at] == name), at, -1)

    def of(self, name: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Folded names and times → the records that are meant; -1 where nobody has the name then."""
        at = self._holding(name, when)
        return np.where((at >= 0) & (self._ends[at] >= when), self._record[at], -1) if len(self._key) else at

    def texts(self, before: np.ndarray, text: np.ndarray) -> np.ndarray:
        """A text of each record before the plan, and one of each spelling → of all records after the plan; "" for
        new ones that do not last."""
        texts = np.concatenate([before, np.full(self.count - self.given, "", dtype=object)])
        spelt = np.flatnonzero(self._spelling >= 0)
        texts[spelt] = text[self._spelling[spelt]]
        return texts


def _course(operations: pd.DataFrame, directory: Snapshot) -> _Course:
    """Operations in the order of seq, and the directory before them → the plan played through."""
    kinds = arrow_text(operations["kind"]).dictionary_encode()
    kind = np.array([list(Kind).index(Kind(text)) for text in kinds.dictionary.to_pylist()], dtype=np.int64)
    kind = kind[np.asarray(kinds.indices)]

    def rows(*wanted: Kind) -> np.ndarray:
        return np.flatnonzero(np.isin(kind, [list(Kind).index(one) for one in wanted]))

    texts = _texts(operations)
    (people, accounts), (nests, teams) = _given(directory)
    created = rows(Kind.GROUP_CREATE)
    users = _Holders(accounts, texts, rows(Kind.USER_CREATE), rows(Kind.USER_RENAME), rows(Kind.USER_DELETE))
    groups = _Holders(teams, texts, created, np.empty(0, dtype=np.int64), rows(Kind.GROUP_DELETE))

    # A group that is made under a name that was there before is the same one to applications.
    name = texts.folded[texts.name[created]]
    was = groups.known[name]
    fresh, turned = np.unique(name[was < 0][::-1], return_index=True)
    last = texts.name[created][was < 0][::-1][turned]  # of several spellings the last one counts
    node = np.arange(groups.count)
    node[groups.given :] = np.where(was >= 0, was, groups.given + np.searchsorted(fresh, name))

    active = np.zeros(users.count, dtype=bool)
    active[: users.read] = directory.users["active"].to_numpy(dtype=bool)
    return _Course(
        users,
        groups,
        active,
        _active(operations["record"], rows, users, texts, active),
        _moved(people, rows(Kind.MEMBERSHIP_ADD), rows(Kind.MEMBERSHIP_REMOVE), groups, users, texts),
        _moved(nests, rows(Kind.NESTING_ADD), rows(Kind.NESTING_REMOVE), groups, groups, texts),
        np.concatenate([accounts.names, np.full(users.count - users.given, "", dtype=object)]),
        users.texts(accounts.names, texts.text),
        np.concatenate([teams.names, texts.text[last]]),
        node,
        texts,
        accounts,
        teams,
    )


def _texts(operations: pd.DataFrame) -> _Texts:
    names, targets = (arrow_text(operations[column]).dictionary_encode() for column in ("name", "target"))
    text = pd.Series(pa.concat_arrays([names.dictionary, targets.dictionary]), dtype="str")
    folded, ids = pd.factorize(crowd_ids(text))
    name, target = (np.asarray(side.indices, dtype=np.int64) for side in (names, targets))
    return _Texts(
        text.to_numpy(dtype=object),
        arrow_text(pd.Series(ids)),
        folded.astype(np.int64),
        name,
        target + len(names.dictionary),
    )


def _at(ids: pa.Array, values: pa.Array) -> np.ndarray:
    """Texts → their positions in `ids`, -1 where they are not. (Several times faster than `get_indexer`.)"""
    return np.asarray(pc.fill_null(pc.index_in(values, value_set=ids), -1), dtype=np.int64)


def _given(directory: Snapshot) -> tuple[tuple[Pairs, _Records], tuple[Pairs, _Records]]:
    """Directory → (memberships, accounts) and (nestings, groups), the pairs in codes of the records."""
    frame = directory.memberships
    group, member = (frame[column].cat.codes.to_numpy() for column in ("group_id", "member_id"))
    of_group, of_member = (arrow_text(pd.Series(frame[c].cat.categories)) for c in ("group_id", "member_id"))
    nested = (frame["member_kind"] == "group").to_numpy()
    users, user_at = _records(directory, "user", of_member, member[~nested])
    both = np.concatenate([group, len(of_group) + member[nested]])
    groups, group_at = _records(directory, "group", pa.concat_arrays([of_group, of_member]), both)
    parents = group_at[: len(of_group)][group]
    children = group_at[len(of_group) :][member[nested]]
    return ((parents[~nested], user_at[member[~nested]]), users), ((parents[nested], children), groups)


def _records(directory: Snapshot, kind: str, ids: pa.Array, used: np.ndarray) -> tuple[_Records, np.ndarray]:
    """The records of a kind, and where among them each of `ids` is, of which memberships have the codes `used`."""
    read, name = (directory.users, "username") if kind == "user" else (directory.groups, "name")
    known, names = arrow_text(read["id"]), read[name].to_numpy(dtype=object)
    at = _at(known, ids)
    seen = np.zeros(len(ids), dtype=bool)
    seen[used] = True
    stray = ids.filter(pa.array(seen & (at < 0)))
    held = directory.held[directory.held["kind"] == kind]
    if len(stray) or len(held):
        unread = pd.concat([held[["id", "name"]], pd.DataFrame({"id": stray, "name": stray}, dtype="str")])
        unread = unread[~among(unread["id"], read["id"])].drop_duplicates("id")
        known = pa.concat_arrays([known, arrow_text(unread["id"])])
        names = np.concatenate([names, unread["name"].to_numpy(dtype=object)])
        at = _at(known, ids)
    return _Records(known, names, len(read)), at


def _active(records: pd.Series, rows: _Rows, users: _Holders, texts: _Texts, before: np.ndarray) -> np.ndarray:
    """Who can log in after the plan: the last operation that says so decides. bool per account."""
    on, off = rows(Kind.USER_ACTIVATE, Kind.USER_CREATE), rows(Kind.USER_DEACTIVATE)
    which = np.sort(np.concatenate([on, off, rows(Kind.USER_UPDATE)]))
    record = arrow_text(records.iloc[which])
    # Quotes inside of texts are escaped, and attributes are lists: nothing else in a record looks like this.
    yes, no = (
        pc.match_substring_regex(record, f'"active"\\s*:\\s*{value}').to_numpy(zero_copy_only=False)
        for value in ("true", "false")
    )
    yes = yes | (~no & np.isin(which, on))
    who = users.of(texts.folded[texts.name[which]], which + 2)  # the time after, when a new account is there
    says = (yes | no | np.isin(which, off)) & (who >= 0)
    active = before.copy()
    active[who[says]] = yes[says]  # of several the last one stays
    return active & users.alive


def _moved(
    pairs: Pairs, adds: np.ndarray, removes: np.ndarray, groups: _Holders, members: _Holders, texts: _Texts
) -> _Moved:
    """Pairs before the plan, and the rows of operations on them: the last one decides, unless a side is deleted."""
    group, member = pairs
    rows = np.concatenate([adds, removes])
    give = np.arange(len(rows)) < len(adds)
    order = np.argsort(rows)
    rows, give = rows[order], give[order]
    of_group = groups.of(texts.folded[texts.target[rows]], rows + 1)
    of_member = members.of(texts.folded[texts.name[rows]], rows + 1)
    known = (of_group >= 0) & (of_member >= 0)
    width = max(members.count, 1)
    key, give = of_group[known] * width + of_member[known], give[known]
    if not (key[1:] > key[:-1]).all():
        order = np.argsort(key, kind="stable")
        key, give = key[order], give[order]
        last = np.concatenate([key[1:] != key[:-1], [True]])
        key, give = key[last], give[last]
    kept = groups.alive[group] & members.alive[member]
    if len(key) and len(group):
        present = group * width + member
        sorter = None if (present[1:] > present[:-1]).all() else np.argsort(present)
        at = np.minimum(np.searchsorted(present, key, sorter=sorter), len(present) - 1)
        at = at if sorter is None else sorter[at]
        there = present[at] == key
        kept[at[there & ~give]] = False
        key, give = key[~there], give[~there]
    new_group, new_member = np.divmod(key[give], width)
    lives = groups.alive[new_group] & members.alive[new_member]
    return _Moved(group, member, kept, (new_group[lives], new_member[lives]))


def _sorted(names: np.ndarray) -> tuple[str, ...]:
    return tuple(sorted(names.tolist()))


def _by_id(columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame({n: pd.array(list(v), dtype="bool" if n == "active" else "str") for n, v in columns.items()})
    return frame.sort_values("id", ignore_index=True)
