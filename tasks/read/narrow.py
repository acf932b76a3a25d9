"""The narrow read: a few people and accounts, and whoever shares a key with them, by key on both sides.

Either one person, who is read again with all who are connected with them; or of one group those who are in it on one
side alone, or came or went (`tasks.read.group`); or all of whom both sides say that they changed since Crowd was last
in step (`tasks.read.news`). Groups, nestings and what is held come from the store, as the last wide run left them.
Wherever that is not enough to decide what a wide run would decide, the read says why (`NotNarrowError`), and nothing is
concluded from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import pandas as pd

from connectors.answers import NEVER
from connectors.contract import Directory, Hint, Person, Source
from connectors.errors import RecordError, RefusedError
from connectors.hook import SIGN_INS
from connectors.model import (
    USERS,
    MembershipRow,
    Snapshot,
    held_frame,
    memberships_frame,
    memberships_together,
    sizes_only,
    users_frame,
)
from connectors.operations import kinds
from connectors.store import RecordChanges, StepCursors, WideTotals, in_thread
from tasks.decide.names import among, crowd_ids
from tasks.decide.neighbourhood import OWNER, account_keys
from tasks.decide.owners import split_mark
from tasks.decide.plan import Plan
from tasks.decide.removals import RecentRemovals, as_left
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.read import validate
from tasks.read.around import Around, users_of
from tasks.read.extract import held_rows
from tasks.read.group import members_of
from tasks.read.known import Known, KnownSides, NotNarrowError, known_sides, people_and_accounts
from tasks.read.listing import as_listed
from tasks.read.news import News, last_in_step, most_by_key, news
from tasks.read.who import named, of_groups, who
from tasks.run import Client, ReadSide, Run, Side

MOST: Final = 20
"""So many records are read again by key for one person, at most; where more are connected, a wide run is the shorter
way."""
OTHERS: Final = 3
"""So many other active members of each group are looked at: they show that nobody leaves it as the last one."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Unread:
    """People (ids) and accounts (names) who are as the store has them."""

    people: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.people or self.accounts)

    def __or__(self, other: Unread) -> Unread:
        return Unread(self.people | other.people, self.accounts | other.accounts)


NOBODY: Final = Unread()


@sizes_only
@dataclass(frozen=True, slots=True)
class Few:
    """Both sides as far as a plan about `selection` depends on them; `totals`: what the last wide run counted;
    `recent`: what was taken away in the window of the limits; `with_others`: operations → Crowd as far as what they do
    to people depends on it. `people` and `accounts`: how many were read again by key;
    `unread`: who was not. Where it is about all that changed, `since` and `news`: since Crowd was last in step, and
    what both sides said of it."""

    selection: Selection
    source: ReadSide[Source]
    crowd: ReadSide[Directory]
    links: pd.DataFrame
    totals: WideTotals
    people: int
    accounts: int
    recent: RecentRemovals
    with_others: Callable[[pd.DataFrame], Snapshot]
    unread: Unread = NOBODY
    since: datetime | None = None
    news: News | None = None

    @property
    def cursors(self) -> StepCursors | None:
        """Where what happens now begins, where it is about all that changed."""
        return None if self.news is None else self.news.cursors

    def words(self) -> str:
        """How both sides were read, in a sentence or two."""
        read = people_and_accounts(self.people, self.accounts)
        rest = f"all else as at {self.totals.at:%Y-%m-%d %H:%M} UTC."
        if self.selection.group:
            again = f", and {read}" if self.people or self.accounts else ""
            return f"Read again by key: who is in {self.selection.group} on both sides{again}; {rest}"
        if self.since is None:
            return f"Read again by key: {read}; {rest}"
        begin = f"{self.since:%Y-%m-%d %H:%M} UTC"
        if not self.people and not self.accounts:
            return f"Neither {self.source.name} nor Crowd shows anybody who changed since {begin}; {rest}"
        return f"Changed since {begin}, and read again by key: {read}; {rest}"

    def still_unread(self, plan: Plan, policy: Policy) -> Unread:
        """Who has to be read again before a plan that was made of this may be carried out: whom it does something
        about, or records as owned, of one group; of all who changed, everybody."""
        if not len(plan.operations):
            return NOBODY
        if not self.selection.group:
            return self.unread
        names = {*crowd_ids(plan.operations["name"]), *plan.links["name"]}
        users = self.crowd.snapshot.users[among(self.crowd.snapshot.users["id"], names)]
        links = self.links[((self.links["kind"] == "user") & among(crowd_ids(self.links["name"]), names)).to_numpy()]
        owners = account_keys(users, links, policy, self.source.name)["key"]
        owners = owners[owners.str.startswith(f"{OWNER}:")].str.removeprefix(f"{OWNER}:")
        ids = {*plan.operations["source_id"], *plan.links["id"], *owners}
        return Unread(self.unread.people & ids, self.unread.accounts & names)


async def read_narrow(run: Run, asked: str) -> Few:
    """One person (id, username or e-mail address) → both sides as far as a plan about them depends on them, saved into
    history. Raises `NotNarrowError`, and `ConfigurationError` for somebody whom nobody knows."""
    base = await in_thread(known_sides, run)
    around = Around(run, base, MOST, "that person")
    try:
        identity, found = await who(run, base, asked)
        if found is not None:
            around.people[identity] = found
        await around.read({identity})
    except (RecordError, RefusedError) as error:  # (there are servers that cannot be asked for one)
        raise NotNarrowError(f"it cannot be read by key ({error})") from None
    return await in_thread(_few, run, base, around, Selection(person=identity))


async def read_group(run: Run, name: str, also: Unread = NOBODY) -> Few:
    """One group (by its name in Crowd) → both sides as far as a plan about it depends on them, saved into history. Read
    again are its members that moved, those who are in it on one side alone, and `also` these; the others are as the
    store has them. Raises `NotNarrowError`."""
    base = await in_thread(known_sides, run)
    most = most_by_key(base.source.saved.users, run.policy)
    around = Around(run, base, 2 * most, f"those who are in {name!r} on one side alone, or came or went")
    try:
        members = await members_of(run, base, name)
        people, accounts = (
            moved | more for moved, more in zip(members.moved, (also.people, also.accounts), strict=True)
        )
        count = len(people | members.apart[0]), len(accounts | members.apart[1])
        if sum(count) > most:
            share = f"more than {most} (reads.by_key_percent)"
            raise NotNarrowError(f"{people_and_accounts(*count)} are {around.whom}, {share}")
        await around.read(people, accounts | members.apart[1], members.apart[0] - people)
        members.agree(around.people, around.accounts)
        await around.look_up(members.people - around.everybody)
    except (RecordError, RefusedError) as error:
        raise NotNarrowError(f"one of its members, or the group itself, cannot be read by key ({error})") from None
    few = await in_thread(_few, run, base, around, Selection(group=name))
    return replace(few, unread=Unread(frozenset({*around.kept_people, *around.held}), frozenset(around.kept_accounts)))


async def read_changed(run: Run, also: Collection[str] = (), told: News | None = None) -> Few:
    """All who changed since Crowd was last in step with the source, and `also` these people (ids) → both sides as far
    as a plan about them depends on them, saved into history. `told`: what both sides said a moment ago in this run;
    they are not asked for it again, and what changed after it the next run is told. Raises `NotNarrowError`."""
    last = await in_thread(last_in_step, run)
    base = await in_thread(known_sides, run)
    found = told or await news(run, base, last)
    people = {*found.people, *also}
    around = Around(run, base, found.most + len(also), "those who changed", people)
    try:
        await around.look_up({*found.others} - people)
        await around.read(people, found.accounts)
    except (RecordError, RefusedError) as error:
        raise NotNarrowError(f"one who changed cannot be read by key ({error})") from None
    few = await in_thread(_few, run, base, around, None)
    if found.listed is not None and not await in_thread(as_listed, found.listed, around.people, base.source):
        # What it answered is not what the store has: the next run is to compare the list again, whatever it is.
        found = replace(found, cursors=replace(found.cursors, source_answers=NEVER))
    unread = Unread(frozenset(around.kept_people))
    return replace(few, unread=unread, since=last.since.at, news=found)


async def read_named(run: Run, base: KnownSides, hints: Collection[Hint]) -> Few:
    """People and groups of the source (by id; people also by username or e-mail address) and accounts of Crowd (by
    name) that may have changed → both sides as far as a plan about them depends on them, saved into history. Whoever is
    connected with them is read again, too, and decided on. Hints of whom nobody knows lead to nobody. Raises
    `NotNarrowError`."""
    accounts = {hint.key for hint in hints if hint.kind == "account"}
    most = most_by_key(base.source.saved.users, run.policy)
    around = Around(run, base, 2 * most, "those who may have changed")
    try:
        around.people |= await named(run, base, {hint.key for hint in hints if hint.kind == "user"})
        signed_in = frozenset[str]()
        if run.policy.operations.user_activate == "sign_in":
            signed_in = frozenset(await named(run, base, {hint.key for hint in hints if hint.via in SIGN_INS}))
        people = {*around.people} | await of_groups(run, base, {hint.key for hint in hints if hint.kind == "group"})
        if len(people) + len(accounts) > most:
            share = f"more than {most} (reads.by_key_percent)"
            raise NotNarrowError(f"{people_and_accounts(len(people), len(accounts))} may have changed, {share}")
        around.people = {key: one for key, one in around.people.items() if one is not None}
        await around.read(people, accounts)
    except (RecordError, RefusedError) as error:
        raise NotNarrowError(f"one who may have changed cannot be read by key ({error})") from None
    return await in_thread(_few, run, base, around, Selection(people=frozenset(around.everybody), signed_in=signed_in))


# Both sides of a few


def _few(run: Run, base: KnownSides, around: Around, selection: Selection | None) -> Few:
    """What was read, saved into history, and both sides made of it; about a person, or about all that changed."""
    gone = [key for key, one in around.people.items() if one is None]
    if gone and run.lasting and len(run.store.users_now(run.source_side.stream, gone)):
        # The next delta would be put on top of a snapshot with them, and few providers name who is gone in it.
        run.store.save_cursor(run.source_side.stream, None, at=datetime.now(UTC))
    sides = run.source_side, run.crowd_side
    source = _side(run, sides[0], base.source, around.people, around.people_before, around.kept_people, around.held)
    crowd = _side(run, sides[1], base.crowd, around.accounts, around.accounts_before, around.kept_accounts)
    links = run.store.links_about(run.directory_name, run.source_name, around.everybody, around.names)
    about = selection or Selection(changed=frozenset(around.everybody))
    count = len(around.people), len(around.accounts)
    with_others = partial(_with_others, run, base, crowd.snapshot, around.names)
    return Few(about, source, crowd, links, base.totals, *count, base.recent, with_others)


def _side(
    run: Run,
    side: Side[Client],
    known: Known,
    read: Mapping[str, Person | None],
    before: pd.DataFrame,
    kept: Mapping[str, Person | None],
    unread: Collection[str] = (),
) -> ReadSide[Client]:
    """One side of a few, as far as it may be worked with; and how history knows it. `read`: what was read again,
    and `before`, as the store has that; `kept`: what is as the store has it; `unread`: who is there and cannot be read,
    but for their groups."""
    there: list[Person] = [one for one in read.values() if one is not None]
    users = users_of(read)
    _same_groups(side, known, there)
    pairs = _memberships(side, known, (pair for one in there for pair in one.memberships))
    held = _without(known.rest.held, read)
    warned = held_frame(held_rows(warning for one in there for warning in one.warnings if warning.kind == "user"))
    warnings = _without(known.rest.warnings, read)
    warnings = pd.concat([warnings, warned], ignore_index=True) if len(warned) else warnings
    gone: list[str] = [key for key, one in read.items() if one is None]
    # What is as it was is as valid as it was.
    was = set(zip(*(before[name].tolist() for name in USERS), strict=True))
    changed: Snapshot = Snapshot.of(users_frame(one.user for one in there if tuple(one.user) not in was))
    of_source = side.stream == run.source_side.stream
    changed = validate.trimmed(changed) if of_source else changed
    invalid = _without(known.invalid, {*changed.users["id"], *gone})
    if len(changed.users):
        invalid = pd.concat([invalid, validate.broken_few(changed)], ignore_index=True)
    memberships = memberships_frame(pairs)
    changes = RecordChanges(
        users, gone, memberships, held, warnings, before,
        verdict=(validate.RULES, invalid),
        counted=(run.directory_name, run.source_name) if of_source else None,
    )  # fmt: skip
    saved = run.store.save_changes(side.stream, known.saved, changes, taken_at=datetime.now(UTC), run=run.id)
    as_before: list[Person] = [one for one in kept.values() if one is not None]
    users = pd.concat([users, users_of(kept)], ignore_index=True) if as_before else users
    others = _memberships(side, known, run.store.pairs_now(side.stream, unread))
    others += _memberships(side, known, (pair for one in as_before for pair in one.memberships))
    memberships = memberships_together(memberships, memberships_frame(others), known.rest.memberships)
    snapshot = Snapshot.of(users, known.rest.groups, memberships, held, warnings)
    snapshot = validate.trimmed(snapshot) if of_source else snapshot
    return ReadSide(side.name, side.stream, side.scope, side.client, validate.without(snapshot, invalid), saved)


def _without(held: pd.DataFrame, read: Collection[str]) -> pd.DataFrame:
    """Held records, or warnings, but for those of users who were read again."""
    if not len(held) or not read:
        return held
    return held[~((held["kind"] == "user") & among(held["id"], set(read))).to_numpy()].reset_index(drop=True)


def _same_groups(side: Side[Client], known: Known, people: Iterable[Person]) -> None:
    """Raises `NotNarrowError` where one who was read is in a group of which the store does not know, or knows something
    else."""
    for person in people:
        for group in person.groups:
            if group[0] not in known.unread and known.groups.get(group[0]) != tuple(group):
                what = "changed" if group[0] in known.groups else "is new"
                raise NotNarrowError(f"the group {group[1]!r} of {side.name} {what} since the last wide run")


def _memberships(side: Side[Client], known: Known, pairs: Iterable[MembershipRow]) -> list[MembershipRow]:
    """Memberships, but for those in groups that could not be read. Raises `NotNarrowError` where the store does not
    know the group."""
    found = [pair for pair in pairs if pair[0] not in known.unread]
    if not known.groups.keys() >= {pair[0] for pair in found}:
        raise NotNarrowError(f"a group of {side.name} is new since the last wide run")
    return found


def _with_others(
    run: Run, base: KnownSides, snapshot: Snapshot, names: Collection[str], operations: pd.DataFrame
) -> Snapshot:
    """Crowd as far as it was read (`names`: the accounts), and what operations of a plan are judged by besides, though
    nothing is decided about them: where they take something from somebody, the accounts that lost something lately, for
    the limits, and some active members of their groups. As what was taken away since they were read left them."""
    taking = operations[among(operations["kind"], kinds(effect="takes"))]
    if not len(taking):
        return snapshot
    store, stream = run.store, run.crowd_side.stream
    sides = (snapshot.memberships[side].astype("str").tolist() for side in ("group_id", "member_id"))
    groups_of: dict[str, set[str]] = {}
    there = Counter[str]()
    for group, member in zip(*sides, strict=True):
        groups_of.setdefault(member, set()).add(group)
        there[group] += 1
    of = set(crowd_ids(taking["target"])).union(*(groups_of.get(name, ()) for name in crowd_ids(taking["name"])))
    members = store.active_members(stream, {group: OTHERS + there[group] for group in of}) - {*base.losers, *names}
    users = store.users_now(stream, {*base.losers, *members} - {*names, *base.crowd.invalid["id"]})
    # Who was renamed since stands in the store under the old name, too: that one is no other member.
    marks, _ = split_mark(users["attributes"])
    owners = set(marks.str.removeprefix(f"{run.source_name}:"))
    links = store.links_about(run.directory_name, run.source_name, owners, set(users["id"]), groups=False)
    renamed = ((marks != "") & ~among(users["id"], crowd_ids(links["name"]))).to_numpy()
    users = users[~(renamed & among(users["id"], members))]
    others = as_left(Snapshot.of(users, None, store.memberships_now(stream, list(users["id"]))), base.removed)
    return Snapshot.of(
        pd.concat([snapshot.users, others.users], ignore_index=True),
        snapshot.groups,
        memberships_together(snapshot.memberships, others.memberships),
        snapshot.held,
        snapshot.warnings,
        snapshot.unsound,
    )
