"""What a source tells us only because it was asked to, and for a time: looked after, so that it goes on.

The store keeps the subscriptions of a source under the stream `subscriptions:SOURCE`: their ids and ends as the
cursor, and as the scope the address with a digest of it and the secret, so that a new address or secret is seen. It is
written before a subscription is asked for and after it was made, so that a process that is killed in between leaves
none behind that nobody knows.

Where one was missing, changes may have gone untold. That is kept too (`owed`), until it has been put into the inbox
that everybody of the source is to be read: after the new one is there, for what changes before is not told.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import orjson

from connectors.contract import Subscribable, Subscription
from connectors.errors import CrowdsyncError, RefusedError
from connectors.store import Lease, ReadCursor, Store, in_thread

SECONDS: Final = 600.0
"""So long at most one process looks after a source before another one may take over."""
AGAIN: Final = timedelta(hours=1)
"""So long a key is used again of which nobody knows whether there is a subscription."""


class TakenOverError(RefusedError):
    """Another process looks after them by now."""


Became = Literal["stands", "renewed", "made", "made anew", "missing"]


@dataclass(frozen=True, slots=True)
class Cared:
    """What became of one subscription; `until`: when it ends, None where there is none. `why` in plain words."""

    of: str
    became: Became
    until: datetime | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Care:
    """What became of those of a source. `everybody`: all its people are to be read once, which the inbox says by now.
    `busy`: another process is at it."""

    every: tuple[Cared, ...] = ()
    everybody: bool = False
    busy: bool = False


async def care_for(
    store: Store, directory_name: str, name: str, source: Subscribable, address: str, secret: str
) -> Care:
    """Makes sure that a source goes on telling `address` who changed, and says `secret` each time.

    To be called on schedule, by as many processes as there are: one at a time is at it. Raises what stops it before it
    could look; what cannot be subscribed to is told as `missing`, beside the others.
    """
    stream = f"subscriptions:{name}"
    lease = await in_thread(store.take_lease, stream, f"{uuid.uuid4()}", seconds=SECONDS)
    if lease is None:
        return Care(busy=True)
    try:
        digest = hashlib.sha256(f"{address} {secret}".encode()).hexdigest()[:16]
        carer = Carer(store, lease, stream, source, address, secret, f"{address} {digest}")
        every = await carer.look()
        # Until a person has run the first sync, nobody is written to Crowd because of this.
        everybody = carer.owed and await in_thread(store.wide_totals, directory_name, name) is not None
        if everybody:
            now = datetime.now(UTC)
            await in_thread(store.accept, directory_name, name, [("everybody", "", "webhook")], "", now)
            carer.owed = False
            await carer.keep()
        return Care(every, everybody)
    finally:
        await in_thread(store.release_lease, lease)


@dataclass(slots=True)
class Carer:
    """One look at the subscriptions of one source. `asked`: the keys under which some were asked for, and since when;
    `ending`: those that another one has replaced; `whys`: why there is none any more; `lost`: those whose
    predecessor was gone before its end; `kept`: what the store has of all
    this."""

    store: Store
    lease: Lease
    stream: str
    source: Subscribable
    address: str
    secret: str
    scope: str
    known: dict[str, Subscription] = field(default_factory=dict)
    asked: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    ending: list[Subscription] = field(default_factory=list)
    whys: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    owed: bool = False
    kept: str = ""

    async def look(self) -> tuple[Cared, ...]:
        """What became of each."""
        row = await in_thread(self.store.cursor, self.stream)
        if row is not None:
            self._restore(row)
        if row is not None and row.scope != self.scope:
            self.whys = dict.fromkeys(self.known, "our address or its secret changed")
            self.ending += self.known.values()
            self.known, self.asked = {}, {}
        found = await self.source.subscribed(self.address)
        if found is not None:
            await self._end()  # first: a source that can say which there are may refuse a second one to the same
            gone = {of for of, one in self.known.items() if one.id not in found}
            self.whys |= dict.fromkeys(gone, "it was there no more")
            self.known = {of: one for of, one in self.known.items() if of not in gone}
        every = [await self._one(of) for of in self.source.subscriptions.of]
        if not any(one.became == "missing" for one in every):
            # What else leads to us: nobody can tell which secret it says.
            ours = {one.id for one in (*self.known.values(), *self.ending)}
            self.ending += [Subscription("", one, datetime.now(UTC)) for one in sorted({*(found or ())} - ours)]
        await self._end()
        await self.keep()
        lost = "the one before it was there no more"
        return tuple(replace(one, why=lost) if one.of in self.lost else one for one in every)

    async def _one(self, of: str) -> Cared:
        """Sees to one of them."""
        now, span = datetime.now(UTC), self.source.subscriptions
        one = self.known.get(of)
        if one is not None and one.until <= now:
            self.whys[of] = f"the last one ended at {one.until:%Y-%m-%d %H:%M} UTC"
            one = None
        if one is not None and one.until - now > span.lasts - span.renewed:
            return Cared(of, "stands", one.until)
        try:
            if one is None:
                return await self._make(of)
            before = one
            if await self._ask(of, lambda key: self.source.renew(before, self.address, self.secret, key)):
                return Cared(of, "renewed", self.known[of].until)
            self.whys[of], one = "it was there no more", None
            return await self._make(of)
        except TakenOverError:
            raise
        except CrowdsyncError as error:
            if one is not None:
                return Cared(of, "stands", one.until, f"it could not be renewed: {error}")
            return Cared(of, "missing", None, str(error))

    async def _make(self, of: str) -> Cared:
        """A new one. What changes until it is there is not told."""
        await self._ask(of, lambda key: self.source.subscribe(of, self.address, self.secret, key), owed=True)
        became: Became = "made anew" if of in self.whys else "made"
        return Cared(of, became, self.known[of].until, self.whys.get(of, "there was none"))

    async def _ask(self, of: str, ask: Callable[[str], Awaitable[Subscription | None]], *, owed: bool = False) -> bool:
        """Asks for one; whether there is one. The store knows of it before. `owed`: it was missing."""
        now = datetime.now(UTC)
        key, since = self.asked.get(of, ("", now))
        if not key or now - since > AGAIN:
            self.asked[of] = key, _ = f"{uuid.uuid4()}", now
        await self.keep()
        made = await ask(key)
        self.asked.pop(of)
        before = self.known.pop(of, None)
        if made is not None:
            self.ending += [before] if before is not None and before.id != made.id else []
            self.known[of] = made
            self.owed |= owed
        await self.keep()
        return made is not None

    async def _end(self) -> None:
        """Ends what others have replaced, as far as that succeeds; the rest another time. What should have been there
        and was not has told nothing of late."""
        for one in list(self.ending):
            try:
                lasting = one.until > datetime.now(UTC)
                if (lasting or not one.of) and not await self.source.unsubscribe(one) and lasting:
                    self.lost.add(one.of)
                    self.owed = True
            except CrowdsyncError:
                continue
            self.ending.remove(one)

    async def keep(self) -> None:
        """Writes down what is so, where it is not so yet. Raises `TakenOverError`."""
        content = {
            "known": {of: _row(one) for of, one in self.known.items()},
            "asked": {of: [key, since.isoformat()] for of, (key, since) in self.asked.items()},
            "ending": [_row(one) for one in self.ending],
            "owed": self.owed,
        }
        now, text = datetime.now(UTC), orjson.dumps(content).decode()
        if text == self.kept:
            return
        try:
            self.lease = await in_thread(self.store.renew_lease, self.lease, seconds=SECONDS)
        except RefusedError as error:
            raise TakenOverError(str(error)) from None
        await in_thread(self.store.save_cursor, self.stream, ReadCursor(text, self.scope, now, 0), at=now)
        self.kept = text

    def _restore(self, row: ReadCursor) -> None:
        said = orjson.loads(row.cursor)
        self.kept = row.cursor if row.scope == self.scope else ""
        self.known = {of: _subscription(row) for of, row in said["known"].items()}
        self.asked = {of: (key, datetime.fromisoformat(since)) for of, (key, since) in said["asked"].items()}
        self.ending = [_subscription(row) for row in said["ending"]]
        self.owed = bool(said["owed"])


def _row(one: Subscription) -> list[str]:
    return [one.of, one.id, one.until.isoformat(), one.resource]


def _subscription(row: list[str]) -> Subscription:
    return Subscription(row[0], row[1], datetime.fromisoformat(row[2]), row[3])
