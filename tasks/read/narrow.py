"""The narrow read: one person, and whoever shares a key with them, read again by key on both sides.

What is connected with the person by keys (`tasks.decide.neighbourhood`) is read again, record by record, however far it
goes; groups, nestings and what is held come from the store, as the last wide run left them. Wherever that is not enough
to decide what a wide run would decide, the read says why (`NotNarrowError`), and nothing is concluded from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pandas as pd

from connectors.contract import Directory, Person, Source
from connectors.errors import CrowdsyncError, IncompleteError, RecordError, RefusedError
from connectors.model import (
    GROUPS,
    MEMBERSHIPS,
    Snapshot,
    crowd_id,
    held_frame,
    memberships_frame,
    memberships_from_columns,
    sizes_only,
    users_frame,
)
from connectors.operations import kinds
from connectors.store import RecordChanges, SavedSnapshot, Store, WideTotals, in_thread
from tasks.decide.map import usernames
from tasks.decide.names import among, crowd_ids
from tasks.decide.neighbourhood import NAME, OWNER, account_keys, person_keys
from tasks.decide.owners import split_mark
from tasks.decide.removals import as_left
from tasks.decide.selection import Selection, nobody
from tasks.decide.width import totals_less
from tasks.read import validate
from tasks.read.extract import held_rows
from tasks.read.keys import renew, spaces
from tasks.run import Client, ReadSide, Run, Side

MOST: Final = 20
"""So many records are read again by key, at most; where more are connected, a wide run is the shorter way."""
MOST_REMOVALS: Final = 500
"""So many removals in the window of the limits are looked at one by one, at most."""
OTHERS: Final = 3
"""So many other active members of each group are looked at: they show that nobody leaves it as the last one."""


class NotNarrowError(CrowdsyncError):
    """Why what is asked for cannot be decided from a few records, in words that follow "because"."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Few:
    """Both sides as far as a plan about `selection` depends on them; `totals`: what the last wide run counted.
    `people` and `accounts`: how many were read again by key."""

    selection: Selection
    source: ReadSide[Source]
    crowd: ReadSide[Directory]
    links: pd.DataFrame
    totals: WideTotals
    people: int
    accounts: int

    def words(self) -> str:
        """How both sides were read, in a sentence."""
        who = f"{self.people} {'person' if self.people == 1 else 'people'}"
        what = f"{self.accounts} {'account' if self.accounts == 1 else 'accounts'}"
        return f"Read again by key: {who} and {what}; all else as at {self.totals.at:%Y-%m-%d %H:%M} UTC."


@sizes_only
@dataclass(frozen=True, slots=True)
class _Known:
    """What the store knows of a side: its newest snapshot, of its content the groups and what is whole, and what
    validation holds of it."""

    saved: SavedSnapshot
    rest: Snapshot
    invalid: pd.DataFrame


@sizes_only
@dataclass(frozen=True, slots=True)
class _Base:
    """`recent`: the accounts (ids) that lost something in the window of the limits; `removed`: what was taken away in
    Crowd by anybody since it was read, and in the window; `totals` are less that."""

    totals: WideTotals
    source: _Known
    crowd: _Known
    recent: Collection[str]
    removed: pd.DataFrame


async def read_narrow(run: Run, asked: str) -> Few:
    """One person (id, username or e-mail address) → both sides as far as a plan about them depends on them, saved into
    history. Raises `NotNarrowError`, and `ConfigurationError` for somebody whom nobody knows."""
    base = await in_thread(_base, run)
    try:
        identity, found = await _who(run, asked)
        around = _Around(run, base)
        await around.read(identity, found)
    except (RecordError, RefusedError) as error:  # (there are servers that cannot be asked for one)
        raise NotNarrowError(f"it cannot be read by key ({error})") from None
    return await in_thread(_few, run, base, around, Selection(person=identity))


# What it stands on


def _base(run: Run) -> _Base:
    totals = _totals(run)
    source = _known(run.store, run.source_side)
    crowd = _known(run.store, run.crowd_side)
    if source.saved.digest != totals.snapshot:
        raise NotNarrowError(f"{run.source_name} was read since by a run that did not end well, or by a preview")
    if run.store.unfinished_plans(run.directory_name):
        raise NotNarrowError("an earlier run was interrupted, and what became of its operations is to be found out")
    window = run.recent().removals
    since = run.store.removals(None, run.directory_name, totals.at)
    if since["kind"].isin([*kinds(entity="group"), *kinds(entity="nesting")]).any():
        raise NotNarrowError("groups of Crowd were taken away or out of groups since the last wide run")
    recent = set(crowd_ids(window["name"]))
    if len(recent) > MOST_REMOVALS:
        raise NotNarrowError(f"{len(recent)} accounts lost something in the window of the limits")
    own = run.store.removals(run.source_name, run.directory_name, totals.at)
    totals = replace(totals, totals=totals_less(totals.totals, own, since))
    renew(run, source.saved.id, crowd.saved.id)
    return _Base(totals, source, crowd, recent, pd.concat([window, since], ignore_index=True))


def _totals(run: Run) -> WideTotals:
    totals = run.store.wide_totals(run.directory_name, run.source_name)
    if totals is None:
        raise NotNarrowError("no run has read both sides whole and found nothing against it yet")
    if totals.policy != run.policy.digest():
        raise NotNarrowError("the policy is another one than that of the last wide run")
    if totals.requested != run.request_digest:
        raise NotNarrowError("the settings or attributes that are asked for changed since the last wide run")
    hours = run.policy.reads.full_every_hours
    if not timedelta() <= datetime.now(UTC) - totals.at < timedelta(hours=hours):
        raise NotNarrowError(f"the last wide run is more than {hours:g} hours ago (reads.full_every_hours)")
    return totals


def _known(store: Store, side: Side[Client]) -> _Known:
    found = store.newest(side.stream)
    if found is None:
        raise NotNarrowError(f"{side.name} was never read")
    saved, rest = found
    invalid = store.verdict(saved.digest, validate.RULES)
    if invalid is None:
        raise NotNarrowError(f"what was last read of {side.name} was not validated")
    return _Known(saved, rest, invalid)


# Who


async def _who(run: Run, asked: str) -> tuple[str, Person | None]:
    """The one person who is asked for → the id, and the record where it was read already. Raises `ConfigurationError`
    for somebody whom neither the source, nor the store, nor a link knows."""
    known, named = await in_thread(_asked, run, asked)
    if asked in known:
        return asked, None
    found = await run.source.user(asked, run.source_side.scope)
    if found is not None:
        if named - {found.user[0]}:
            raise NotNarrowError(f"{asked!r} fits several people of {run.source_name}")
        return found.user[0], found
    gone = await in_thread(_gone, run, asked)
    if not gone:
        raise nobody(run.source_name, asked)
    if len(gone) > 1:
        raise NotNarrowError(f"{asked!r} fits several people of {run.source_name}")
    return gone.pop(), None


def _asked(run: Run, asked: str) -> tuple[set[str], set[str]]:
    """Of the people of whom the store knows: the one who has this id, and those who have this username or address."""
    people, _ = spaces(run)
    ids = run.store.having(people, {f"asked:{asked.lower()}"})
    users = run.store.users_now(run.source_side.stream, {asked, *ids})
    wanted = asked.strip().lower()
    named = (users["username"].str.strip().str.lower() == wanted) | (users["email"].str.strip().str.lower() == wanted)
    return set(users["id"]) & {asked}, set(users["id"][named])


def _gone(run: Run, asked: str) -> set[str]:
    """The ids of those who are linked under this id or Crowd username."""
    links = run.store.links_about(run.directory_name, run.source_name, {asked}, {crowd_id(asked)})
    ours = links[(links["source"] == run.source_name) & (links["kind"] == "user")]
    return set(ours["id"][(ours["id"] == asked) | (crowd_ids(ours["name"]) == crowd_id(asked))])


# Whoever is connected


@sizes_only
@dataclass(slots=True)
class _Around:
    """Records that were read again: by id in the source, by name in Crowd; None: nobody is there. `held`: people who
    cannot be read still."""

    run: Run
    base: _Base
    people: dict[str, Person | None] = field(default_factory=dict)
    accounts: dict[str, Person | None] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    async def read(self, identity: str, found: Person | None) -> None:
        """Reads a person and all who are connected with them."""
        if found is not None:
            self.people[identity] = found
        people = set() if found is not None else {identity}
        accounts = await in_thread(self._accounts, {f"{OWNER}:{identity}"}, set())
        while people or accounts:
            if len(self.people) + len(self.accounts) + len(people) + len(accounts) > MOST:
                raise NotNarrowError(f"more than {MOST} records share names, addresses or owners with that person")
            await asyncio.gather(
                *(self._person(one, must=one == identity) for one in people),
                *(self._account(one) for one in accounts),
            )
            people, accounts = await in_thread(self._next)

    async def _account(self, name: str) -> None:
        self.accounts[name] = await self.run.directory.user(name, self.run.crowd_side.scope)

    async def _person(self, identity: str, *, must: bool) -> None:
        """Reads a person; who is held and still cannot be read, and need not (`must`), stays held as they were."""
        source, held = self.run.source_side, self.base.source.rest.held
        try:
            found = await source.client.user(identity, source.scope)
            if found is None and await source.client.has_user(identity):
                raise IncompleteError(f"{source.name}: the user {identity} is there, and was not found")
            self.people[identity] = found
        except IncompleteError:
            if must or not ((held["kind"] == "user") & (held["id"] == identity)).any():
                raise
            self.held.add(identity)

    @property
    def users(self) -> pd.DataFrame:
        """Who is there in the source, as it was read."""
        return _users_of(self.people)

    def links(self) -> pd.DataFrame:
        """The links of all groups, and of everybody here."""
        run, names = self.run, {*self.accounts, *self.base.recent}
        return run.store.links_about(run.directory_name, run.source_name, set(self.people), names)

    def _next(self) -> tuple[set[str], set[str]]:
        """Whom the keys of those who were read lead to, and who was not read yet: people, accounts."""
        run = self.run
        users = validate.trimmed(Snapshot.of(self.users)).users
        links = self.links()
        tied = links[(links["kind"] == "user") & among(crowd_ids(links["name"]), set(self.accounts))]
        found = [
            person_keys(users, run.policy),
            account_keys(_users_of(self.accounts), tied, run.policy, run.source_name),
        ]
        keys = {*pd.concat(found)["key"], *(f"{OWNER}:{one}" for one in (*self.people, *self.held))}
        wanted = set(crowd_ids(usernames(users, run.policy.usernames))) - {""} - set(self.accounts)
        new, self.seen = keys - self.seen, self.seen | keys
        people = run.store.having(spaces(run)[0], {key for key in new if not key.startswith(f"{OWNER}:")})
        people |= {key.removeprefix(f"{OWNER}:") for key in new if key.startswith(f"{OWNER}:")}
        return people - set(self.people) - self.held, self._accounts(new, wanted) - set(self.accounts)

    def _accounts(self, keys: Collection[str], wanted: Collection[str]) -> set[str]:
        """The accounts that have one of these keys, as the store knows them, and those of the `wanted` names, which may
        be there without its knowing."""
        run = self.run
        names = {key.removeprefix(f"{NAME}:") for key in keys if key.startswith(f"{NAME}:")}
        owners = {key.removeprefix(f"{OWNER}:") for key in keys if key.startswith(f"{OWNER}:")}
        links = run.store.links_about(run.directory_name, run.source_name, owners, names)
        there = run.store.users_now(run.crowd_side.stream, names)["id"]
        tied = set(crowd_ids(links["name"][(links["kind"] == "user").to_numpy()]))
        return {*wanted, *there, *tied, *run.store.having(spaces(run)[1], keys)}


def _users_of(people: Mapping[str, Person | None]) -> pd.DataFrame:
    return users_frame(one.user for one in people.values() if one is not None)


# Both sides of a few


def _few(run: Run, base: _Base, around: _Around, selection: Selection) -> Few:
    """What was read, saved into history, and both sides made of it."""
    source = _side(run, run.source_side, base.source, around.people)
    crowd = _side(run, run.crowd_side, base.crowd, around.accounts)
    if source.saved.digest != base.totals.snapshot:
        run.store.move_wide_totals(run.directory_name, run.source_name, source.saved.digest)
    others, links = _others(run, base, around)
    crowd = replace(crowd, snapshot=_together(crowd.snapshot, others))
    return Few(selection, source, crowd, links, base.totals, len(around.people), len(around.accounts))


def _side(run: Run, side: Side[Client], known: _Known, read: Mapping[str, Person | None]) -> ReadSide[Client]:
    """One side of a few, as far as it may be worked with; and how history knows it."""
    there = [one for one in read.values() if one is not None]
    users = _users_of(read)
    memberships = memberships_frame(_memberships(side, known, there))
    held = _without(known.rest.held, read)
    warned = held_frame(held_rows(warning for one in there for warning in one.warnings if warning.kind == "user"))
    warnings = pd.concat([_without(known.rest.warnings, read), warned], ignore_index=True)
    gone: list[str] = [key for key, one in read.items() if one is None]
    # What is as it was is as valid as it was.
    before = set(run.store.users_now(side.stream, list(read)).itertuples(index=False, name=None))
    changed: Snapshot = Snapshot.of(
        users_frame(row for row in users.itertuples(index=False, name=None) if row not in before)
    )
    changes = RecordChanges(users, gone, memberships, held, warnings)
    saved = run.store.save_changes(side.stream, known.saved, changes, taken_at=datetime.now(UTC), run=run.id)
    snapshot = Snapshot.of(users, known.rest.groups, _both(memberships, known.rest.memberships), held, warnings)
    if side.stream.startswith("source:"):
        snapshot, changed = validate.trimmed(snapshot), validate.trimmed(changed)
    still = _without(known.invalid, {*changed.users["id"], *gone})
    invalid = pd.concat([still, validate.broken_rows(changed)], ignore_index=True)
    if saved.digest != known.saved.digest:
        run.store.save_verdict(saved.digest, validate.RULES, invalid, at=datetime.now(UTC))
    return ReadSide(side.name, side.stream, side.scope, side.client, validate.without(snapshot, invalid), saved)


def _both(some: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The memberships of two frames."""
    return memberships_from_columns(
        *(pd.concat([some[side].astype("str"), others[side].astype("str")]) for side in MEMBERSHIPS)
    )


def _without(held: pd.DataFrame, read: Collection[str]) -> pd.DataFrame:
    """Held records, or warnings, but for those of users who were read again."""
    return held[~((held["kind"] == "user") & among(held["id"], set(read))).to_numpy()].reset_index(drop=True)


def _memberships(side: Side[Client], known: _Known, people: Iterable[Person]) -> Sequence[tuple[str, str, str]]:
    """The direct memberships of those who were read. Raises `NotNarrowError` where one is in a group of which the store
    does not know, or knows something else."""
    groups = {row[0]: row for row in known.rest.groups[list(GROUPS)].itertuples(index=False, name=None)}
    held = known.rest.held
    unread = set(held["id"][(held["kind"] == "group").to_numpy()])
    found: list[tuple[str, str, str]] = []
    for person in people:
        for group in person.groups:
            if group[0] not in unread and groups.get(group[0]) != tuple(group):
                what = "changed" if group[0] in groups else "is new"
                raise NotNarrowError(f"the group {group[1]!r} of {side.name} {what} since the last wide run")
        for row in person.memberships:
            if row[0] in groups:
                found.append(row)
            elif row[0] not in unread:
                raise NotNarrowError(f"a group of {side.name} is new since the last wide run")
    return found


def _others(run: Run, base: _Base, around: _Around) -> tuple[Snapshot, pd.DataFrame]:
    """Accounts that count, though nothing is decided about them: those that lost something lately, for the limits, and
    some active members of the groups of those who were read. As what was taken away since they were read left them; and
    the links of all of these."""
    store, stream = run.store, run.crowd_side.stream
    groups = {group[0] for one in around.accounts.values() if one is not None for group in one.groups}
    members = store.active_members(stream, sorted(groups), OTHERS + len(around.accounts)) - set(base.recent)
    ids = {*base.recent, *members} - set(around.accounts) - set(base.crowd.invalid["id"])
    users = store.users_now(stream, ids)
    # (Links also by marks: what was renamed since stands in the store under its old name.)
    marks, _ = split_mark(users["attributes"])
    owners = {*around.people, *marks.str.removeprefix(f"{run.source_name}:")}
    links = store.links_about(run.directory_name, run.source_name, owners, {*around.accounts, *users["id"]})
    # Nor does it say that a member is there still under another name.
    renamed = among(users["id"], members) & (marks != "") & ~among(users["id"], crowd_ids(links["name"]))
    users = users[~renamed.to_numpy()]
    others = Snapshot.of(users, None, store.memberships_now(stream, list(users["id"])))
    return as_left(others, base.removed), links


def _together(snapshot: Snapshot, others: Snapshot) -> Snapshot:
    """A side with the users of another one, and their memberships."""
    return Snapshot.of(
        pd.concat([snapshot.users, others.users], ignore_index=True),
        snapshot.groups,
        _both(snapshot.memberships, others.memberships),
        snapshot.held,
        snapshot.warnings,
        snapshot.unsound,
    )
