"""`crowdsync react`: one warm process per directory, which takes what the inbox has and brings Crowd in step.

News is gathered for a moment and taken in batches: while one runs, the next one grows. What must not be lost stands in
the inbox and in the journal; Prefect is shown the runs when it answers (`deployments.shown`).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal

from connectors.contract import Hint
from connectors.errors import CrowdsyncError, StaleCursorError
from connectors.hooks.crowd import ping_secrets
from connectors.settings import Settings, load
from connectors.store import ReadCursor, Store, in_thread
from connectors.store.inbox import Hint as Item
from connectors.store.inbox import forget
from deployments.polling import poll
from deployments.server import server_named
from deployments.sign_ins import without_passed_over
from deployments.subscribed import keep_subscribed
from flows.react import Part, react
from flows.road import SyncRequest, walk
from tasks.decide.names import crowd_ids
from tasks.read.connections import open_directory
from tasks.read.webhook import look_after
from tasks.run import Connections, connected
from tasks.tell.report import ReportedError

GATHER: Final = 0.05
"""Seconds for which news is gathered before a batch takes it."""
LARGEST: Final = 500
"""Hints in a batch, at most."""
IDLE: Final = 5.0
"""Seconds after which the inbox is looked at though nothing woke us."""
LOOK: Final = timedelta(minutes=10)
"""So often it is seen to that Crowd pings us."""
SHARE: Final = 1
"""A run about everybody that news led to is followed by the next one after so many times its own length, so that at
least half of the time is left to those who were named alone."""
LEAST: Final = timedelta(seconds=2)
TOGETHER: Final = (LARGEST, 60, 8)
"""So many are tried together that failed not at all, once, or twice; what failed more often is tried alone. Who fails
takes ever fewer along, and never who has just come."""
EVERY: Final = 4
"""Of so many batches of a source one is of those that failed before, however many come anew."""
READ: Final = timedelta(seconds=5)
"""So often what came before everybody was read is looked for; and so far apart clocks may be."""
PUT_OFF: Final = "everybody is read, because"
"""How the note of what waits for a run about everybody begins."""
log = logging.getLogger("crowdsync.react")


@dataclass(slots=True)
class Wide:
    """That everybody of a source is to be read: because of which items of the inbox, and not before when."""

    items: set[int] = field(default_factory=set)
    after: datetime | None = None

    @property
    def due(self) -> bool:
        """Whether it is to be done now."""
        return bool(self.items) and (self.after is None or datetime.now(UTC) >= self.after)


def _prefect() -> Any:
    """What is done with Prefect: only where a server is named is it imported."""
    return importlib.import_module("deployments.watched") if server_named() else None


async def _until(moment: float) -> None:
    """Waits until then, by the loop's clock."""
    await asyncio.sleep(max(moment - asyncio.get_running_loop().time(), 0))


@dataclass(slots=True)
class Reactor:
    """What `crowdsync react` does for one directory."""

    directory: str
    store: Store
    wide: dict[str, Wide] = field(default_factory=dict)
    opened: dict[str, tuple[str, Connections, AsyncExitStack]] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    looked_after: datetime | None = None
    settled_at: datetime | None = None
    running: asyncio.Task[None] | None = None
    """The run about everybody, beside which batches go on."""
    batches: Counter[str] = field(default_factory=Counter)
    resting: dict[str, datetime] = field(default_factory=dict)
    """Sources that could not even be begun with: until when they are left alone."""
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whatever this process does about the directory: a batch, or a run of a button."""
    prefect: Any = field(default_factory=_prefect)
    """`deployments.watched`, or None."""

    async def work(self) -> None:
        """Until `end`; a batch that runs then is finished."""
        around = (
            keep_subscribed(self.directory, self.store),
            poll(self.store, self.directory),
            forget(self.store),
            *(self.prefect.beside(self.directory, self.store, self.turns) if self.prefect else ()),
        )
        beside = [asyncio.create_task(one) for one in around]
        try:
            await self._resume()
            async with self.store.wake(self.directory) as wake:
                over = asyncio.ensure_future(self.ended.wait())
                while not self.ended.is_set():
                    async with self.turns:
                        more = await self.turn()
                    if not more:
                        woken = asyncio.ensure_future(wake(IDLE))
                        await asyncio.wait({woken, over}, return_when=asyncio.FIRST_COMPLETED)
                        woken.cancel()
                over.cancel()
                if self.running is not None:
                    await self.running
        finally:
            beside += [] if self.running is None else [self.running]
            for one in beside:
                one.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            for *_, stack in self.opened.values():
                await stack.aclose()

    async def _resume(self) -> None:
        """What a process before this one put off until everybody is read: it was killed, and need not be waited for."""
        try:
            rows = await in_thread(partial(self.store.inbox, directory=self.directory, limit=1_000_000))
        except CrowdsyncError as error:  # it is due by itself, later
            log.warning("%s: %s", self.directory, error)
            return
        off = rows[(rows["status"] == "waiting") & rows["note"].str.startswith(PUT_OFF)]
        for source, ids in off.groupby("source")["id"]:
            self.wide.setdefault(str(source), Wide()).items |= {*ids.tolist()}

    def end(self) -> None:
        """Ends `work` after the batch, and the run about everybody, that run."""
        self.ended.set()

    async def turn(self) -> bool:
        """A batch of each source that has news, beside a run about everybody; whether there was any news."""
        try:
            settings = load()
            self._begin_wide()
            await self._settle_read(settings)
            now = datetime.now(UTC)
            found = await in_thread(self.store.due, self.directory, now, LARGEST)
            found = await without_passed_over(self.store, settings, found)
            due = await in_thread(self.store.sources_due, self.directory, now)
            if due := [source for source in due if self.resting.get(source, now) <= now]:
                # What came while a batch ran has been gathered by that.
                waited = (now - min((item.received_at for item in found), default=now)).total_seconds()
                ready = asyncio.get_running_loop().time() + min(max(GATHER - waited, 0), GATHER)
                for source in due:
                    await (self._batch(settings, source, ready) if source else self._of_crowd(settings, ready))
                return True
            await self._look_after(settings)
        except CrowdsyncError as error:  # the store, or the configuration: it may be mended
            log.warning("%s: %s", self.directory, error)
        return False

    async def _due(self, source: str) -> list[Item]:
        """What of a source is to be looked at now, together: what came anew, and every so often what failed before,
        those alike that failed as often as who waits the longest of them."""
        self.batches[source] += 1

        async def ask(limit: int, least: int, most: int | None) -> list[Item]:
            due, now = self.store.due, datetime.now(UTC)
            return await in_thread(due, self.directory, now, limit, source=source, attempts=(least, most))

        anew = self.batches[source] % EVERY != 0
        if anew and (found := await ask(LARGEST, 0, 0)):
            return found
        if found := await ask(1, 1, None):
            failed = found[0].attempts
            return await ask(TOGETHER[failed], failed, failed) if failed < len(TOGETHER) else found
        return await ask(LARGEST, 0, 0)

    def _begin_wide(self) -> None:
        """Begins the run about everybody that is due the longest; one at a time."""
        if self.running is not None and self.running.done():
            if (error := self.running.exception()) is not None:
                log.warning("%s, everybody: %s", self.directory, error)
            self.running = None
        due = [source for source, wide in self.wide.items() if wide.due]
        if due and self.running is None:
            source = min(due, key=lambda one: self.wide[one].after or datetime.min.replace(tzinfo=UTC))
            self.running = asyncio.create_task(self._everybody(source, self.wide[source]))

    async def _settle_read(self, settings: Settings) -> None:
        """Everything that came before everybody was read, by any run that left Crowd in step, is done; but for who is
        held. (So is what waited for agreement to a plan that was agreed to since.)"""
        now = datetime.now(UTC)
        if self.settled_at is not None and now - self.settled_at < READ:
            return
        self.settled_at = now
        for source in settings.sources_of(self.directory):
            last = await in_thread(self.store.in_step, self.directory, source)
            if last is None:
                continue
            held = set((await in_thread(self.store.held_records, self.directory, source))["id"])
            note = f"everybody was read at {last.since.full_at:%Y-%m-%d %H:%M:%S} UTC"
            settle = self.store.settle_before
            await in_thread(settle, self.directory, source, last.since.full_at - READ, note, now, but=held)

    async def _batch(self, settings: Settings, source: str, ready: float = 0.0) -> None:
        """What the inbox has of a source, together, at `ready` (of the loop's clock); until then it is prepared."""
        taken: list[Item] = []

        async def gather(run: str) -> Sequence[Hint]:
            await _until(ready)
            due = await self._due(source)
            still = await in_thread(self.store.take, [item.id for item in due], run, datetime.now(UTC))
            taken.extend(item for item in due if item.id in {*still})
            return [Hint(item.kind, item.key, item.via) for item in taken if item.kind != "everybody"]

        try:
            parts = await react(settings, source, gather, await self._connections(settings, source))
        except Exception as error:  # whatever it is, what came in is tried again
            known = isinstance(error, CrowdsyncError)
            log.warning("%s: %s", source, error, exc_info=None if known else error)
            if taken:
                await self._later(taken, str(error) if known else f"{type(error).__name__}: {error}")
            else:  # it did not come so far; what is due stays so
                self.resting[source] = datetime.now(UTC) + timedelta(seconds=IDLE)
            return
        by_hint = {(hint.kind, hint.key): part for part in parts for hint in part.hints}
        unnamed = Part((), "wide", "something changed that no key names")
        of_part: dict[int, list[Item]] = {}
        for item in taken:
            of_part.setdefault(id(by_hint.get((item.kind, item.key), unnamed)), []).append(item)
        for part in (*parts, unnamed):
            await self._came(source, of_part.get(id(part), []), part)

    async def _came(self, source: str, items: Sequence[Item], part: Part) -> None:
        """A part of a batch came to an end, with these items."""
        if part.settled:
            note = f"plan {part.plan}: {part.status}" if part.plan else part.status
            await self._settle(items, "done", note)
        elif part.status == "wide":
            self.wide.setdefault(source, Wide()).items |= {item.id for item in items}
            await self._again(items, 600, f"{PUT_OFF} {part.why}")
        else:
            await self._later(items, f"{part.status}: {part.why}" if part.why else part.status)

    async def _later(self, items: Sequence[Item], note: str) -> None:
        """These failed: they are tried again, after growing pauses, and at last no more."""
        held = await in_thread(self.store.give_back, [item.id for item in items], note, datetime.now(UTC))
        if held:
            log.error("%s: %d hints are held, because %s; see `crowdsync inbox`", self.directory, len(held), note)

    async def _again(self, items: Sequence[Item], pause: float, note: str) -> None:
        if items:
            due = datetime.now(UTC) + timedelta(seconds=pause)
            await in_thread(self.store.retry, [item.id for item in items], due, note)

    async def _settle(self, items: Sequence[Item], status: Literal["done", "held"], note: str) -> None:
        if items:
            await in_thread(self.store.settle, [item.id for item in items], status, note, datetime.now(UTC))

    async def _everybody(self, source: str, wide: Wide) -> None:
        """A run about everybody, because of some news: as a flow run where Prefect answers, plainly where it does
        not."""
        items, wide.items, began = wide.items, set(), datetime.now(UTC)
        request = SyncRequest(source=source, mode="sync", unattended=True)
        try:
            report = await (self.prefect.everybody(request) if self.prefect else walk(request))
        except ReportedError as error:
            report = error.report
        except Exception as error:  # they are due again after their pause
            unknown = None if isinstance(error, CrowdsyncError) else error
            log.warning("%s, everybody: %s", source, error, exc_info=unknown)
            return
        finally:
            ended = datetime.now(UTC)
            wide.after = ended + max(LEAST, SHARE * (ended - began))
        if report.status == "skipped":
            return
        status: Literal["done", "held"] = "done" if report.status in ("nothing to do", "applied") else "held"
        note = f"the run about everybody: {report.status}"
        if report.status == "waiting":
            note += f", {report.why}"
        if status == "held":
            log.error("%s: %d hints are held, because of %s", source, len(items), note)
        await in_thread(self.store.settle, sorted(items), status, note, datetime.now(UTC))

    async def _of_crowd(self, settings: Settings, ready: float = 0.0) -> None:
        """Crowd says that something changed: whom, its events say; they are put into the inbox of each source."""
        await _until(ready)
        taken = await self._due("")
        chosen = settings.directory_named(self.directory)
        stream = f"events:{self.directory}"
        try:
            async with open_directory(chosen) as (directory, _):
                known = await in_thread(self.store.cursor, stream)
                try:
                    if known is None:
                        raise StaleCursorError("nobody asked yet")
                    changes = await directory.changes(known.cursor)
                    news, token = {(hint.kind, hint.key) for hint in changes.hints}, changes.token
                except StaleCursorError:  # or it has no events: anybody may have changed
                    news, token = {("group", "")}, await directory.token() or ""
        except CrowdsyncError as error:
            await self._later(taken, str(error))
            return
        now = datetime.now(UTC)
        for source, named in (await in_thread(self._whose, settings, news)).items():
            await in_thread(self.store.accept, self.directory, source, sorted(named), "", now)
        cursor = ReadCursor(token, "", now, 0) if token else None
        await in_thread(self.store.save_cursor, stream, cursor, at=now)
        await self._settle(taken, "done", f"{len(news)} named")

    def _whose(self, settings: Settings, news: Collection[tuple[str, str]]) -> dict[str, set[tuple[str, str, str]]]:
        """What changed in Crowd (kind, name) → what each source is told. An account concerns the source that it is
        linked to, and one that is linked to none all those that were ever read. Of a group everybody is read: a few
        records do not tell what follows."""
        names = {key for kind, key in news if kind == "user"}
        links = self.store.links_about(self.directory, "", (), names)
        links = links[links["kind"] == "user"]
        owner = dict(zip(crowd_ids(links["name"]), links["source"], strict=True))
        told: dict[str, set[tuple[str, str, str]]] = {}
        for source in settings.sources_of(self.directory):
            if self.store.wide_totals(self.directory, source) is None:
                continue
            named = {("account", name, "crowd") for name in names if owner.get(name, source) == source}
            told[source] = named | ({("everybody", "", "crowd")} if len(names) < len(news) else set())
        return told

    async def _look_after(self, settings: Settings) -> None:
        """Now and then: that Crowd still pings us. Where it did not, its events tell what was missed."""
        now, chosen = datetime.now(UTC), settings.directory_named(self.directory)
        if not settings.receiver.public_url or (self.looked_after and now - self.looked_after < LOOK):
            return
        self.looked_after = now
        secrets = ping_secrets(chosen)
        endpoint = f"{settings.receiver.public_url.rstrip('/')}/crowd/{self.directory}"
        async with open_directory(chosen) as (_, client):
            found = await look_after(self.store, self.directory, client, endpoint, secrets[0])
        if not found.startswith("Crowd's webhook stands"):
            log.info("%s: %s", self.directory, found)
            await in_thread(self.store.accept, self.directory, "", [("crowd", "", "crowd")], "", now)

    async def _connections(self, settings: Settings, source: str) -> Connections:
        """The connections of a source, which stay open as long as its settings are the same."""
        which = repr((settings.source(source), settings.directory_of(source)))
        if source in self.opened and self.opened[source][0] != which:
            await self.opened.pop(source)[2].aclose()
        if source not in self.opened:
            stack = AsyncExitStack()
            connections = await stack.enter_async_context(connected(settings, source))
            self.opened[source] = which, connections, stack
        return self.opened[source][1]
