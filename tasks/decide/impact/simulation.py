"""A plan played through on integer codes, without touching Crowd.

An account is followed through its renames and a name through its holders; groups are told by their folded name,
because that is how applications know them: one that is deleted and made again under its name is one group here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from connectors.model import Snapshot, memberships_from_codes, sizes_only
from connectors.operations import Kind
from tasks.decide.impact.model import State
from tasks.decide.impact.sides import CodedState, Pairs
from tasks.decide.names import among, arrow_text, crowd_ids, equal


def after(operations: pd.DataFrame, directory: Snapshot) -> State:
    """The directory as it will be when every operation (in the order of seq) has been written."""
    course = play(operations, directory)
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


_Rows = Callable[..., np.ndarray]
"""Kinds → the rows of their operations."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Records:
    """Accounts or groups before the plan: `read` rows of the directory, then those that could not be read.

    They cannot be written, but their memberships stand, and such groups give power all the same. Whether such an
    account is active is not known: it counts for nobody."""

    ids: pa.Array
    names: np.ndarray
    read: int


@sizes_only
@dataclass(frozen=True, slots=True)
class Texts:
    """Names and targets of operations: `text` has each spelling, `ids` each folded form, `folded` takes a code of
    the first to one of the second, `name` and `target` are codes of spellings, one per operation."""

    text: np.ndarray
    ids: pa.Array
    folded: np.ndarray
    name: np.ndarray
    target: np.ndarray


@sizes_only
@dataclass(frozen=True, slots=True)
class Moved:
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


@sizes_only
@dataclass(frozen=True, slots=True)
class Course:
    """A plan played through. Users and groups: records of the directory, then new ones, in the order of their
    creation. `node`: group record → code of its name in `group_names`; `names_*` of users, "" where there is none.
    """

    users: Holders
    groups: Holders
    active_before: np.ndarray
    active_after: np.ndarray
    members: Moved
    nestings: Moved
    names_before: np.ndarray
    names_after: np.ndarray
    group_names: np.ndarray
    node: np.ndarray
    texts: Texts
    accounts: Records
    teams: Records

    def people_changes(self) -> tuple[Pairs, Pairs]:
        """Direct members (added, removed), the groups by name."""
        return self.members.changes(self.node, np.arange(self.users.count))

    def sides(self) -> tuple[CodedState, CodedState]:
        """Before and after."""
        people, nests, node = self.members.after(), self.nestings.after(), self.node
        before = (self.members.group, self.members.member), (self.nestings.group, self.nestings.member)
        return (
            CodedState(self.active_before, *before, len(self.group_names)),
            CodedState(
                self.active_after,
                (node[people[0]], people[1]),
                (node[nests[0]], node[nests[1]]),
                len(self.group_names),
            ),
        )


class Holders:
    """Who holds which name when, among accounts or among groups.

    A holding begins with the directory (time 0), a creation or a rename, and ends with a rename or a deletion; the
    time of an operation is its row, from 1. An operation means who holds its name just before it. The record behind
    a holding that a rename began is that of the holding which the same rename ended."""

    def __init__(
        self, records: Records, texts: Texts, creates: np.ndarray, renames: np.ndarray, deletes: np.ndarray
    ) -> None:
        """`creates`, `renames`, `deletes`: rows of operations."""
        self.read, self.given, self.count = records.read, len(records.ids), len(records.ids) + len(creates)
        self._never = len(texts.name) + 2
        self.known = positions_in(records.ids, texts.ids)
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


def play(operations: pd.DataFrame, directory: Snapshot) -> Course:
    """Operations in the order of seq, and the directory before them → the plan played through."""
    kinds = arrow_text(operations["kind"]).dictionary_encode()
    kind = np.array([list(Kind).index(Kind(text)) for text in kinds.dictionary.to_pylist()], dtype=np.int64)
    kind = kind[np.asarray(kinds.indices)]

    def rows(*wanted: Kind) -> np.ndarray:
        return np.flatnonzero(np.isin(kind, [list(Kind).index(one) for one in wanted]))

    texts = _texts(operations)
    (people, accounts), (nests, teams) = _given(directory)
    created = rows(Kind.GROUP_CREATE)
    users = Holders(accounts, texts, rows(Kind.USER_CREATE), rows(Kind.USER_RENAME), rows(Kind.USER_DELETE))
    groups = Holders(teams, texts, created, np.empty(0, dtype=np.int64), rows(Kind.GROUP_DELETE))

    # A group that is made under a name that was there before is the same one to applications.
    name = texts.folded[texts.name[created]]
    was = groups.known[name]
    fresh, turned = np.unique(name[was < 0][::-1], return_index=True)
    last = texts.name[created][was < 0][::-1][turned]  # of several spellings the last one counts
    node = np.arange(groups.count)
    node[groups.given :] = np.where(was >= 0, was, groups.given + np.searchsorted(fresh, name))

    active = np.zeros(users.count, dtype=bool)
    active[: users.read] = directory.users["active"].to_numpy(dtype=bool)
    return Course(
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


def _texts(operations: pd.DataFrame) -> Texts:
    names, targets = (arrow_text(operations[column]).dictionary_encode() for column in ("name", "target"))
    text = pd.Series(pa.concat_arrays([names.dictionary, targets.dictionary]), dtype="str")
    folded, ids = pd.factorize(crowd_ids(text))
    name, target = (np.asarray(side.indices, dtype=np.int64) for side in (names, targets))
    return Texts(
        text.to_numpy(dtype=object),
        arrow_text(pd.Series(ids)),
        folded.astype(np.int64),
        name,
        target + len(names.dictionary),
    )


def positions_in(ids: pa.Array, values: pa.Array) -> np.ndarray:
    """Texts → their positions in `ids`, -1 where they are not. (Several times faster than `get_indexer`.)"""
    found = pc.index_in(values, value_set=ids if len(values) else ids[:0])  # (for nobody no table is made)
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)


def _given(directory: Snapshot) -> tuple[tuple[Pairs, Records], tuple[Pairs, Records]]:
    """Directory → (memberships, accounts) and (nestings, groups), the pairs in codes of the records."""
    frame = directory.memberships
    group, member = (frame[column].cat.codes.to_numpy() for column in ("group_id", "member_id"))
    of_group, of_member = (arrow_text(pd.Series(frame[c].cat.categories)) for c in ("group_id", "member_id"))
    nested = equal(frame["member_kind"], "group")
    users, user_at = _records(directory, "user", of_member, member[~nested])
    both = np.concatenate([group, len(of_group) + member[nested]])
    groups, group_at = _records(directory, "group", pa.concat_arrays([of_group, of_member]), both)
    parents = group_at[: len(of_group)][group]
    children = group_at[len(of_group) :][member[nested]]
    return ((parents[~nested], user_at[member[~nested]]), users), ((parents[nested], children), groups)


def _records(directory: Snapshot, kind: str, ids: pa.Array, used: np.ndarray) -> tuple[Records, np.ndarray]:
    """The records of a kind, and where among them each of `ids` is, of which memberships have the codes `used`."""
    read, name = (directory.users, "username") if kind == "user" else (directory.groups, "name")
    known, names = arrow_text(read["id"]), read[name].to_numpy(dtype=object)
    at = positions_in(known, ids)
    seen = np.zeros(len(ids), dtype=bool)
    seen[used] = True
    stray = ids.filter(pa.array(seen & (at < 0)))
    held = directory.held[directory.held["kind"] == kind]
    if len(stray) or len(held):
        unread = pd.concat([held[["id", "name"]], pd.DataFrame({"id": stray, "name": stray}, dtype="str")])
        unread = unread[~among(unread["id"], read["id"])].drop_duplicates("id")
        known = pa.concat_arrays([known, arrow_text(unread["id"])])
        names = np.concatenate([names, unread["name"].to_numpy(dtype=object)])
        at = positions_in(known, ids)
    return Records(known, names, len(read)), at


def _active(records: pd.Series, rows: _Rows, users: Holders, texts: Texts, before: np.ndarray) -> np.ndarray:
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
    pairs: Pairs, adds: np.ndarray, removes: np.ndarray, groups: Holders, members: Holders, texts: Texts
) -> Moved:
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
    return Moved(group, member, kept, (new_group[lives], new_member[lives]))


def _by_id(columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame({n: pd.array(list(v), dtype="bool" if n == "active" else "str") for n, v in columns.items()})
    return frame.sort_values("id", ignore_index=True)
