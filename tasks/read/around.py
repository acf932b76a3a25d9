"""Records of both sides by key: those that are asked for, and whoever is connected with them by keys
(`tasks.decide.neighbourhood`), however far it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from connectors.contract import Person
from connectors.errors import IncompleteError
from connectors.model import MembershipRow, sizes_only, users_frame
from connectors.store import in_thread
from tasks.decide.map import usernames
from tasks.decide.names import among, crowd_ids, equal
from tasks.decide.neighbourhood import NAME, OWNER, account_keys, person_keys
from tasks.read import validate
from tasks.read.known import KnownSides, NotNarrowError
from tasks.run import Run


@sizes_only
@dataclass(slots=True)
class Around:
    """Records by key. `people` and `accounts` were read again: by id in the source, by name in Crowd; None: nobody is
    there. `kept_people` and `kept_accounts` are as the store has them. `held`: people who cannot be read still.

    `people_before` and `accounts_before`: those who were read again, as the store has them.

    `named`: the people of whom the source says that they may have changed; None: nobody can say, and everybody is read
    again. `most`: so many records are read, and not more, for `whom`."""

    run: Run
    base: KnownSides
    most: int
    whom: str
    named: Collection[str] | None = None
    people: dict[str, Person | None] = field(default_factory=dict)
    accounts: dict[str, Person | None] = field(default_factory=dict)
    kept_people: dict[str, Person | None] = field(default_factory=dict)
    kept_accounts: dict[str, Person | None] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    people_before: pd.DataFrame = field(default_factory=lambda: users_frame([]))
    accounts_before: pd.DataFrame = field(default_factory=lambda: users_frame([]))

    async def look_up(self, people: Collection[str]) -> None:
        """Takes people (ids), and all who are connected with them, as the store has them."""
        await in_thread(self._look_up, set(people))

    async def read(
        self, people: Collection[str], accounts: Collection[str] = (), perhaps: Collection[str] = ()
    ) -> None:
        """Reads people (ids), accounts (names), and all who are connected with them; `perhaps`: people who may stay
        held. Raises `NotNarrowError` where that is more than `most`, and what reading by key raises."""
        asked, seen = set(people), set[str]()
        new = {*asked, *perhaps} - set(self.people)
        names = {*accounts} | await in_thread(self._accounts, {f"{OWNER}:{one}" for one in (*asked, *perhaps)}, ())
        first = set(self.people)
        while new or names or first:
            if len(self.people) + len(self.accounts) + len(new) + len(names) > self.most:
                raise NotNarrowError(f"more than {self.most} records share names, addresses or owners with {self.whom}")
            again = new if self.named is None else new & set(self.named)
            await in_thread(self._keep_people, new - again - set(self.kept_people))
            await _all([*(self._person(one, must=one in asked) for one in again), *map(self._account, names)])
            found, owned = await in_thread(self._connected, new | first, names, seen)
            new = found - set(self.people) - self.held - (set() if self.named is None else set(self.kept_people))
            names, first = owned - set(self.accounts), set()

    @property
    def everybody(self) -> set[str]:
        """The people who were read, or looked up."""
        return {*self.people, *self.kept_people, *self.held}

    @property
    def names(self) -> set[str]:
        """The accounts that were read, or looked up."""
        return {*self.accounts, *self.kept_accounts}

    async def _account(self, name: str) -> None:
        self.accounts[name] = await self.run.directory.user(name, self.run.crowd_side.scope)
        self.kept_accounts.pop(name, None)

    async def _person(self, identity: str, *, must: bool) -> None:
        """Reads a person; who is held and still cannot be read, and need not (`must`), stays held as they were."""
        source, held = self.run.source_side, self.base.source.rest.held
        try:
            found = await source.client.user(identity, source.scope)
            if found is None and await source.client.has_user(identity):
                raise IncompleteError(f"{source.name}: the user {identity} is there, and was not found")
            self.people[identity] = found
            self.kept_people.pop(identity, None)
            self.held.discard(identity)
        except IncompleteError:
            if must or not ((held["kind"] == "user") & (held["id"] == identity)).any():
                raise
            self.held.add(identity)

    def _look_up(self, new: set[str]) -> None:
        names, seen = set[str](), set[str]()
        while new or names:
            self._keep_people(new)
            self._keep_accounts(names)
            found, owned = self._connected(new, names, seen)
            new, names = found - self.everybody, owned - self.names

    def _keep_people(self, people: Collection[str]) -> None:
        """Takes people as the store has them."""
        held = self.base.source.rest.held
        unread = set(held["id"][equal(held["kind"], "user")]) & set(people)
        self.held |= unread
        self.kept_people |= self._stored(self.run.source_side.stream, set(people) - unread)

    def _keep_accounts(self, names: Collection[str]) -> None:
        """Takes accounts as the store has them."""
        self.kept_accounts |= self._stored(self.run.crowd_side.stream, names)

    def _stored(self, stream: str, ids: Collection[str]) -> dict[str, Person | None]:
        """Users of a stream by id, with their memberships; None: nobody is there."""
        if not ids:
            return {}
        store = self.run.store
        rows = {row[0]: row for row in store.users_now(stream, ids).itertuples(index=False, name=None)}
        pairs: dict[str, list[MembershipRow]] = {}
        for pair in store.pairs_now(stream, list(rows)):
            pairs.setdefault(pair[1], []).append(pair)
        return {one: Person(rows[one], (), pairs.get(one, ())) if one in rows else None for one in ids}

    def _connected(self, people: Collection[str], names: Collection[str], seen: set[str]) -> tuple[set[str], set[str]]:
        """Whom the keys of people and accounts lead to: people, accounts. Keys that were `seen` lead nowhere new. Also
        the keys of before do: whoever was held because of them is not any more."""
        self.base.keys.renew()  # (which writes)
        with self.run.store.one_read():
            return self._found(people, names, seen)

    def _found(self, people: Collection[str], names: Collection[str], seen: set[str]) -> tuple[set[str], set[str]]:
        run = self.run
        users = users_of({one: self.people.get(one) or self.kept_people.get(one) for one in people})
        users = validate.without_blanks(users)
        accounts = users_of({one: self.accounts.get(one) or self.kept_accounts.get(one) for one in names})
        links = run.store.links_about(run.directory_name, run.source_name, (), names, groups=False)
        tied = links[equal(links["kind"], "user") & among(crowd_ids(links["name"]), set(names))]
        were = run.store.users_now(run.source_side.stream, [one for one in people if one in self.people])
        there = run.store.users_now(run.crowd_side.stream, [one for one in names if one in self.accounts])
        self.people_before = together(self.people_before, were)
        self.accounts_before = together(self.accounts_before, there)
        were = validate.without_blanks(were)
        found = [
            person_keys(together(users, were), run.policy),
            account_keys(together(accounts, there), tied, run.policy, run.source_name),
        ]
        keys = {*(key for one in found for key in one["key"]), *(f"{OWNER}:{one}" for one in people)}
        wanted = set(crowd_ids(usernames(users, run.policy.usernames))) - {""}
        new = keys - seen
        seen |= keys
        others = self.base.keys.people({key for key in new if not key.startswith(f"{OWNER}:")})
        others |= {key.removeprefix(f"{OWNER}:") for key in new if key.startswith(f"{OWNER}:")}
        return others, self._accounts(new, wanted)

    def _accounts(self, keys: Collection[str], wanted: Collection[str]) -> set[str]:
        """The accounts that have one of these keys, as the store knows them, and those of the `wanted` names, which may
        be there without its knowing."""
        run = self.run
        names = {key.removeprefix(f"{NAME}:") for key in keys if key.startswith(f"{NAME}:")}
        owners = {key.removeprefix(f"{OWNER}:") for key in keys if key.startswith(f"{OWNER}:")}
        links = run.store.links_about(run.directory_name, run.source_name, owners, names, groups=False)
        there = run.store.users_now(run.crowd_side.stream, names)["id"]
        tied = set(crowd_ids(links["name"][equal(links["kind"], "user")]))
        return {*wanted, *there, *tied, *self.base.keys.accounts(keys)}


async def _all(reads: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Reads side by side; where one fails, the others end too."""
    tasks = [asyncio.create_task(one) for one in reads]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def together(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of both. (Where one has none, pandas needs as long as for many.)"""
    if not len(one) or not len(other):
        return (one if len(one) else other).reset_index(drop=True)
    return pd.concat([one, other], ignore_index=True)


def users_of(people: Mapping[str, Person | None]) -> pd.DataFrame:
    """Those who are there, as users."""
    return users_frame(one.user for one in people.values() if one is not None)
