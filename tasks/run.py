"""One run: its connections, its policy, its clock, and its place in the record of runs."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson
import pandas as pd
from prefect.exceptions import Pause
from prefect.runtime import flow_run

from connectors.contract import Directory, Scope, Source
from connectors.crowd import Crowd
from connectors.errors import AuthenticationError, ConfigurationError, CrowdsyncError, IncompleteError, RefusedError
from connectors.http import Http
from connectors.idp import SOURCES
from connectors.model import ID_ATTRIBUTE, sizes_only
from connectors.settings import DirectorySettings, Settings
from connectors.source import SourceSettings
from connectors.store import Store
from tasks.decide.plan import Departures
from tasks.decide.removals import RecentRemovals
from tasks.policy import Policy, policy_of
from tasks.process import gone, here
from tasks.read.blocks import directory_secret, source_secrets
from tasks.tell.events import emit
from tasks.write.lease import BusyError, Writing, only_writer

Result = TypeVar("Result")


@sizes_only
@dataclass(slots=True)
class Run:
    """Everything that the stages of one run share."""

    id: str
    source_name: str
    directory_name: str
    policy: Policy
    source: Source
    directory: Directory
    store: Store
    clients: tuple[Http, Http]
    concurrency: int
    asked: str = ""
    """What the source is asked for, as a digest: a delta to the answer to another question is worth nothing."""
    lasting: bool = True
    """Whether later runs go by what this one finds out: since when people are away, where the next read begins, whether
    the source answers. Not so a preview, nor a run under another policy than the source's own."""
    seconds: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    stopped: CrowdsyncError | None = None
    verified: int = 0
    """How many operations were carried out first and read back."""
    writing: Writing | None = None
    """The right to write to the directory; None where the run does not."""

    @property
    def streams(self) -> tuple[str, str]:
        """The names of both histories."""
        return f"source:{self.source_name}", f"directory:{self.directory_name}"

    @property
    def scopes(self) -> tuple[Scope, Scope]:
        """Which attributes to ask both sides for."""
        ours = frozenset({ID_ATTRIBUTE, *self.policy.attributes.extra})
        return Scope(self.policy.wanted()), Scope(ours)

    def departures(self) -> Departures:
        """Who has been away since when, and what time it is."""
        return Departures(self.store.departures(self.directory_name, self.source_name), datetime.now(UTC))

    def past(self) -> pd.DataFrame:
        """How many operations of each kind the plans before had."""
        return self.store.past_counts(self.source_name, self.directory_name, self.policy.limits.unusual_runs)

    def recent(self) -> RecentRemovals:
        """What was taken away in the window of the limits."""
        hours = self.policy.limits.window_hours
        if not hours:
            return RecentRemovals()
        who, since = (self.source_name, self.directory_name), datetime.now(UTC) - timedelta(hours=hours)
        return RecentRemovals(self.store.removals(*who, since), self.store.passed_limits(*who, since), hours)

    def key(self, what: str) -> str:
        """The key of an artifact: its versions on the Prefect page are those of this source."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.source_name} {what}".lower()).strip("-")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the wall time inside to `seconds[stage]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - start


@asynccontextmanager
async def open_source(name: str, settings: SourceSettings) -> AsyncIterator[Source]:
    """One source, its clients closed at the end. Raises `ConfigurationError`; nothing is called yet."""
    source = SOURCES[settings.kind].open(name, settings, await source_secrets(name, settings))
    try:
        yield source
    finally:
        await asyncio.gather(*(client.aclose() for client in source.clients))


@asynccontextmanager
async def open_directory(settings: DirectorySettings) -> AsyncIterator[tuple[Crowd, Http]]:
    """Crowd and its client. Raises `ConfigurationError`; nothing is called yet."""
    async with directory_http(settings, await directory_secret(settings)) as client:
        yield Crowd(client, page_size=settings.page_size), client


def directory_http(settings: DirectorySettings, password: str) -> Http:
    """The client of Crowd. Raises `ConfigurationError`."""
    return Http(
        settings.url,
        name="directory",
        basic=(settings.application, password),
        rate=settings.requests_per_second,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        verify=settings.ca_file or True,
    )


_HOW = {
    "policy",
    "policy_file",
    "directory",
    "block",
    "concurrency",
    "requests_per_second",
    "timeout",
    "page_size",
    "group_page_size",
    "max_megabytes",
    "run_hours",
    "ca_file",
}


def question(settings: SourceSettings, policy: Policy) -> str:
    """Digest of what a source is asked for: its settings but for how it is asked, and the attributes."""
    asked = [settings.model_dump(exclude=_HOW), policy.wanted()]
    # Sets are sorted: their own order is another one in every process.
    return hashlib.sha256(orjson.dumps(asked, default=sorted, option=orjson.OPT_SORT_KEYS)).hexdigest()


class SkippedError(RefusedError):
    """The run had to leave the field to another one, or its source alone; nothing is wrong with it."""


@asynccontextmanager
async def begin(
    settings: Settings, source: str, policy: Policy, mode: str, *, unattended: bool = False
) -> AsyncIterator[Run]:
    """Opens a run; whatever ends it before `finish` is recorded as its failure.

    A run that writes is the only one of its directory. An `unattended` one is skipped while its source is in
    quarantine. Raises `SkippedError` there, and where another run writes and the directory's `busy` is "skip".
    """
    chosen, crowd = settings.source(source), settings.directory_of(source)
    async with open_source(source, chosen) as idp, open_directory(crowd) as (directory, client):
        with Store.open(settings.store_url(), busy=settings.store.busy) as store:
            run = Run(
                id=str(flow_run.id or uuid.uuid4()),
                source_name=source,
                directory_name=crowd.name,
                policy=policy,
                source=idp,
                directory=directory,
                store=store,
                clients=(idp.clients[0], client),
                concurrency=crowd.concurrency,
                asked=question(chosen, policy),
                lasting=mode == "sync" and policy == policy_of(settings, source),
            )
            store.start_run(
                run=run.id,
                source=source,
                directory=crowd.name,
                mode=mode,
                flow_run_id=str(flow_run.id or ""),
                process=here(),
                at=datetime.now(UTC),
            )
            try:
                close_gone(store)
                if unattended:
                    refuse_in_quarantine(store, source)
                async with writer(run, crowd) if mode == "sync" else nullcontext(), limited(source, chosen.run_hours):
                    yield run
            except Pause:
                finish(run, "waiting", {"error": "waits for a person to agree"})
                raise
            except SkippedError as error:
                finish(run, "skipped", {"error": str(error)})
                raise
            except BaseException as error:
                known = await diagnosed(run, settings, error)
                if not run.finished:
                    with suppress(CrowdsyncError):  # the store may be what failed
                        finish(run, "failed", {"error": _line(known)})
                if known is error:
                    raise
                raise known from None


def close_gone(store: Store) -> None:
    """Notes the end of the runs that were killed: those whose process is gone for certain, and no others. What became
    of their operations is found out by the next run that writes."""
    for run, process in store.running().items():
        if gone(process, one_machine=store.one_machine):
            store.interrupt_run(
                run,
                process,
                why="its process ended without a word: it was killed, or its machine",
                at=datetime.now(UTC),
            )


@asynccontextmanager
async def writer(run: Run, crowd: DirectorySettings) -> AsyncIterator[None]:
    """Inside, the run is the only one that writes to its directory."""
    patience = crowd.wait_minutes * 60
    try:
        async with only_writer(run.store, crowd.name, run.id, busy=crowd.busy, patience=patience) as run.writing:
            yield
    except BusyError as error:
        if crowd.busy == "skip":
            raise SkippedError(str(error)) from None
        raise


@asynccontextmanager
async def limited(source: str, hours: float) -> AsyncIterator[None]:
    """What is inside ends after so many hours, as if it were killed. Raises `RefusedError` then.

    Every answer has its own limit; this one is for what never ends all the same, such as a list with always one page
    more. Waiting for the right to write is not counted, nor waiting for a person: the run is suspended then, and
    begins anew.
    """
    limit = asyncio.timeout(hours * 3600)
    try:
        async with limit:
            yield
    except (TimeoutError, asyncio.CancelledError):
        if not limit.expired():
            raise
        raise RefusedError(
            f"the run took longer than {hours:g} hours and was stopped; what it had written to Crowd stands in the "
            f"journal, and the next run goes on from there. See what was slow, or raise sources.{source}.run_hours"
        ) from None


def refuse_in_quarantine(store: Store, source: str) -> None:
    """Raises `SkippedError` while a source is in quarantine."""
    known = store.quarantine(source, now=datetime.now(UTC))
    if known is not None:
        raise SkippedError(
            f"{source} failed {known.failures} times in a row and is left alone until "
            f"{known.until:%Y-%m-%d %H:%M} UTC (the last time: {known.error}); a run that a person starts tries at once"
        )


async def watched(run: Run, reading: Awaitable[Result]) -> Result:
    """A read of the source, whose failure puts it in quarantine and whose success ends that; an event says so.

    What a preview finds does neither: scheduled runs must not be skipped because of what it alone asked for."""
    if not run.lasting:
        return await reading
    try:
        read = await reading
    except CrowdsyncError as error:
        known = run.store.failed(run.source_name, str(error), at=datetime.now(UTC))
        until = f"{known.until:%Y-%m-%d %H:%M} UTC"
        emit("source.quarantined", run.source_name, failures=known.failures, until=until, error=known.error)
        raise
    was = run.store.recovered(run.source_name, at=datetime.now(UTC))
    if was is not None:
        emit("source.recovered", run.source_name, failures=was.failures, since=f"{was.since:%Y-%m-%d %H:%M} UTC")
    return read


async def diagnosed(run: Run, settings: Settings, error: BaseException) -> BaseException:
    """What stopped a run, in better words where one side does not pass its own check (wrong address or secret)."""
    if not isinstance(error, (AuthenticationError, IncompleteError)):
        return error
    sides = (
        check_source(run.source_name, settings.source(run.source_name), run.source),
        check_directory(settings.directory_of(run.source_name), run.directory),
    )
    found = await asyncio.gather(*sides, return_exceptions=True)
    return next((why for why in found if isinstance(why, (AuthenticationError, ConfigurationError))), error)


async def check_source(name: str, settings: SourceSettings, source: Source) -> Sequence[str]:
    """`Source.check`, and where the settings stand that it finds wrong."""
    places = ", ".join(f"{secret} from {settings.place(secret)}" for secret in settings.secrets())
    return await _checked(source.check(), f"sources.{name}", f"{settings.url}, {places}")


async def check_directory(settings: DirectorySettings, directory: Directory) -> Sequence[str]:
    """`Directory.check`, and where the settings stand that it finds wrong."""
    place = f"the Prefect block {settings.block}" if settings.block else ""
    place = place or settings.password_file or f"${settings.password_env}"
    told = f"{settings.url}, application {settings.application!r}, password from {place}"
    return await _checked(directory.check(), "directory", told)


async def _checked(check: Awaitable[Sequence[str]], field: str, used: str) -> Sequence[str]:
    try:
        return await check
    except AuthenticationError as error:
        raise AuthenticationError(f"{error} (Used: {used}.)") from None
    except IncompleteError as error:
        raise ConfigurationError(f"{field}.url: {error}") from None


@contextmanager
def stopped_short(run: Run) -> Iterator[None]:
    """What ends the writing before its end is kept for the report, which says how far it came."""
    try:
        yield
    except CrowdsyncError as error:
        run.stopped = error


def finish(run: Run, status: str, summary: Mapping[str, Any]) -> None:
    """Records how the run ended, in the table of runs and in the audit chain."""
    now = datetime.now(UTC)
    run.finished = True
    run.store.finish_run(run.id, status=status, summary=summary, at=now)
    run.store.audit(event="run", actor="crowdsync", subject=run.id, details={"status": status, **summary}, at=now)


def _line(error: BaseException) -> str:
    if not isinstance(error, Exception):
        return "it was ended from outside: cancelled, by Ctrl-C or by SIGTERM"
    return str(error) if isinstance(error, CrowdsyncError) else type(error).__name__
