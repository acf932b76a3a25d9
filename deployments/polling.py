"""News by polling, where nobody sends it: the events of providers, and security event tokens (RFC 8936).

What is found is put into the inbox, as `crowdsync receive` does with what comes in; only then the place is kept to poll
on from, or the token acknowledged. Where events were lost in between, everybody is read. A poll that fails is tried
again after growing pauses, and `crowdsync inbox` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, ClassVar, Final, Protocol

import orjson

from connectors.contract import Polled, Polls
from connectors.errors import CrowdsyncError, RecordError, StaleCursorError
from connectors.hook import MalformedError, NotVerifiedError
from connectors.hooks import events_of
from connectors.hooks.events import EventTokens, UnknownKeyError
from connectors.settings import Settings, load
from connectors.source import SourceSettings
from connectors.store import ReadCursor, Store, in_thread
from connectors.store.inbox import Incoming
from connectors.transmitter import Transmitter, keys_of
from tasks.read.connections import open_source

LOOK: Final = 5.0
"""Seconds after which it is looked again what is to be polled."""
LONGEST: Final = 600.0
"""Seconds between two tries of a poll that fails, at most."""
KEYS: Final = 600.0
"""Seconds after which the public keys of an issuer are read anew."""
PATIENCE: Final = timedelta(hours=1)
"""So long a token waits for the key that signed it to be known; then it is refused."""
ROUNDS: Final = 100
"""So many answers of tokens are taken in one poll, at most."""
log = logging.getLogger("crowdsync.poll")


class Ask(Protocol):
    """One poll after another of one source."""

    async def once(self) -> None:
        """What there is, into the inbox. Raises what may be mended."""
        ...

    async def aclose(self) -> None: ...


async def poll(store: Store, directory: str) -> None:
    """Polls what the settings say for this directory, as they are then. Until it is cancelled."""
    running: dict[str, tuple[str, asyncio.Task[None]]] = {}
    try:
        while True:
            try:
                wanted = {name: (which, begin) for name, which, begin in ways(load(), store, directory)}
            except Exception as error:  # what runs goes on
                log.warning("%s: %s", directory, error, exc_info=None if isinstance(error, CrowdsyncError) else error)
            else:
                others = [one for one, (which, _) in running.items() if which != wanted.get(one, ("",))[0]]
                for name in {*others, *(one for one, (_, task) in running.items() if task.done())}:
                    task = running.pop(name)[1]
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                for name in wanted.keys() - running.keys():
                    which, begin = wanted[name]
                    running[name] = which, asyncio.create_task(begin())
            await asyncio.sleep(LOOK)
    finally:
        tasks = [task for _, task in running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Way = tuple[str, str, Callable[[], Coroutine[Any, Any, None]]]


def ways(settings: Settings, store: Store, directory: str) -> Iterator[Way]:
    """What is to be polled for a directory: its name, its settings as text, and how it is begun."""

    def way(name: str, source: SourceSettings, kind: type[Events] | type[Tokens], seconds: float) -> Way:
        stream = f"{kind.word}:{directory}:{name}"
        ask = kind(name, source, store, directory, stream)
        return stream, repr(source), lambda: again_and_again(ask, store, stream, seconds)

    for name in settings.sources_of(directory):
        source = settings.source(name)
        if (polling := getattr(source, "polling", None)) is not None:
            yield way(name, source, Events, polling.seconds)
        if source.events is not None and source.events.poll_url:
            yield way(name, source, Tokens, source.events.poll_seconds)


async def again_and_again(ask: Ask, store: Store, stream: str, seconds: float) -> None:
    """Polls every so many seconds; what fails after growing pauses. Until it is cancelled."""
    failed, since, noted = 0, datetime.now(UTC), True  # (a process before this one may have noted something)
    try:
        while True:
            try:
                await ask.once()
                if noted:
                    await in_thread(store.save_cursor, failing(stream), None, at=datetime.now(UTC))
                if failed:
                    log.info("%s: answers again", stream)
                failed, noted, pause = 0, False, seconds
            except Exception as error:  # whatever it is: nothing is lost, but time
                known = isinstance(error, CrowdsyncError)
                failed, since, noted = failed + 1, since if failed else datetime.now(UTC), True
                pause = min(seconds * 2.0 ** min(failed, 16), LONGEST)
                why = str(error) if known else f"{type(error).__name__}: {error}"
                log.warning(
                    "%s: failed %d times; again in %.0f s: %s",
                    *(stream, failed, pause, why),
                    exc_info=None if known else error,
                )
                note = ReadCursor(why, "", since, failed)
                try:
                    await in_thread(store.save_cursor, failing(stream), note, at=datetime.now(UTC))
                except CrowdsyncError as also:
                    log.warning("%s: %s", stream, also)
                await ask.aclose()  # the next one begins anew, with the secrets of then
            await asyncio.sleep(pause)
    finally:
        await ask.aclose()


def failing(stream: str) -> str:
    """Under which name the store keeps that a poll fails: why, since when, and how often."""
    return f"failing:{stream}"


def failures(settings: Settings, store: Store) -> list[str]:
    """What cannot be polled now, a line each, for people."""
    found = []
    for directory in settings.all_directories():
        for stream, *_ in ways(settings, store, directory.name):
            if (one := store.cursor(failing(stream))) is not None:
                since = f"{one.full_at:%Y-%m-%d %H:%M:%S} UTC"
                found.append(f"{stream} fails since {since} ({one.snapshot} times): {one.cursor}")
    return found


@dataclass(slots=True)
class Events:
    """The events of a provider (`connectors.contract.Polls`)."""

    word: ClassVar[str] = "events"
    name: str
    settings: SourceSettings
    store: Store
    directory: str
    stream: str
    opened: tuple[Polls, AsyncExitStack] | None = None
    seen: set[str] = field(default_factory=set)
    remarks: tuple[str, ...] = ()

    async def once(self) -> None:
        """As `Ask.once`."""
        source = await self._source()
        known = await in_thread(self.store.cursor, self.stream)
        now, gap = datetime.now(UTC), ""
        if known is None:
            found, gap = await source.news(""), "it was not polled before"
        else:
            try:
                found = await source.news(known.cursor)
                gap = found.gap
            except StaleCursorError as error:
                found, gap = await source.news(""), str(error).rstrip(".")
        self._remark(found)
        incoming = [
            Incoming(self.directory, self.name, tuple((one.kind, one.key, one.via) for one in news), event, now)
            for event, news in found.events
            if news and event not in self.seen
        ]
        # Of whom nobody was read yet, everybody will be.
        if gap and await in_thread(self.store.wide_totals, self.directory, self.name) is not None:
            log.warning("%s: everybody is read, because %s", self.stream, gap)
            incoming.append(Incoming(self.directory, self.name, (("everybody", "", "poll"),), "", now))
        if incoming:
            await in_thread(self.store.accept_all, incoming)
        if known is None or known.cursor != found.cursor:
            at = ReadCursor(found.cursor, "", now, 0)
            await in_thread(self.store.save_cursor, self.stream, at, at=now)
        self.seen = {event for event, _ in found.events if event}

    def _remark(self, found: Polled) -> None:
        """Says once what the provider leaves out."""
        remarks = tuple(found.remarks)
        for one in remarks if remarks != self.remarks else ():
            log.warning("%s: %s", self.stream, one)
        self.remarks = remarks

    async def _source(self) -> Polls:
        if self.opened is None:
            stack = AsyncExitStack()
            source = await stack.enter_async_context(open_source(self.name, self.settings))
            assert isinstance(source, Polls)  # (its settings have `polling`)
            self.opened = source, stack
        return self.opened[0]

    async def aclose(self) -> None:
        """As `Ask.aclose`."""
        opened, self.opened = self.opened, None
        if opened is not None:
            await opened[1].aclose()


@dataclass(slots=True)
class Tokens:
    """The security event tokens of a source."""

    word: ClassVar[str] = "event tokens"
    name: str
    settings: SourceSettings
    store: Store
    directory: str
    stream: str
    transmitter: Transmitter | None = None
    hook: EventTokens | None = None
    read_at: float = 0.0
    strange: dict[str, datetime] = field(default_factory=dict)

    async def once(self) -> None:
        """As `Ask.once`. What is taken stands in the inbox before that is said."""
        if self.transmitter is None:
            self.transmitter = Transmitter(self.name, self.settings)
        if self.hook is None or monotonic() - self.read_at > KEYS:
            await self._read_keys()
        found = await self.transmitter.poll()
        for _ in range(ROUNDS):
            taken, refused = await self._take(found)
            if not taken and not refused:
                return
            found = await self.transmitter.poll(taken, refused)

    async def _take(self, tokens: Mapping[str, str]) -> tuple[list[str], dict[str, dict[str, str]]]:
        """Tokens → the ids of those that are in the inbox now, and why others are refused. About those under a key
        that is not known yet nothing is said, so that they come again."""
        now, incoming = datetime.now(UTC), dict[str, Incoming | None]()
        refused: dict[str, dict[str, str]] = {}
        fresh = False
        for key, token in tokens.items():
            try:
                try:
                    incoming[key] = self._read(token, now)
                except UnknownKeyError:
                    if not fresh:
                        await self._read_keys()
                        fresh = True
                    incoming[key] = self._read(token, now)
            except UnknownKeyError as error:
                if now - self.strange.setdefault(key, now) > PATIENCE:
                    refused[key] = orjson.loads(error.answer.body)
                log.warning("%s: %s", self.stream, error)
            except (NotVerifiedError, MalformedError) as error:
                refused[key] = orjson.loads(error.answer.body)
                log.error("%s: one is refused: %s", self.stream, error)
            except RecordError as error:
                refused[key] = {"err": "invalid_request", "description": "names somebody whom no database keeps"}
                log.error("%s: one is refused: %s", self.stream, error)
        kept = [one for one in incoming.values() if one is not None]
        if kept:
            await in_thread(self.store.accept_all, kept)
        self.strange = {key: at for key, at in self.strange.items() if key in tokens and key not in refused}
        return list(incoming), refused

    def _read(self, token: str, now: datetime) -> Incoming | None:
        """What a token tells; None where that is nothing of ours."""
        assert self.hook is not None
        accepted = self.hook.read(token.encode("utf-8", "replace"), now)
        news = tuple((one.kind, one.key, one.via) for one in accepted.news)
        return Incoming(self.directory, self.name, news, accepted.delivery, now) if news else None

    async def _read_keys(self) -> None:
        assert self.settings.events is not None
        self.hook = events_of(self.name, self.settings, await keys_of(self.name, self.settings.events))
        self.read_at = monotonic()

    async def aclose(self) -> None:
        """As `Ask.aclose`."""
        transmitter, self.transmitter = self.transmitter, None
        if transmitter is not None:
            await transmitter.aclose()
