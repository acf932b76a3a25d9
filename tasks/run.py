"""One run: its connections, its policy, its clock, and its place in the record of runs."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pandas as pd

from connectors.contract import Directory, Scope, Source
from connectors.errors import CrowdsyncError, RefusedError
from connectors.model import ID_ATTRIBUTE, Snapshot, sizes_only
from connectors.settings import DirectorySettings, Settings
from connectors.store import SavedSnapshot, Store, in_thread
from tasks.decide.plan import Departures
from tasks.decide.removals import RecentRemovals
from tasks.policy import Policy, policy_of
from tasks.process import gone, here
from tasks.put_back import keep_head, look_back
from tasks.read.connections import diagnosed, open_directory, open_source, request_digest
from tasks.read.quarantine import quarantined
from tasks.tell.page import key_of, name_run, run_id, say, show_current, suspends
from tasks.write.lease import BusyError, Writing, only_writer, turn_of

Client = TypeVar("Client", Source, Directory)

WRITING: Final = ("sync", "react")
"""The modes of runs that write to Crowd."""
WROTE: Final = "Crowd had been written to before that"
"""A note on an exception (PEP 678) that ended a run which had begun to write."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Side(Generic[Client]):
    """One side of the road, the source or Crowd: its name in crowdsync.toml, the name of its history in the store, what
    it is asked for and through which client."""

    name: str
    stream: str
    scope: Scope
    client: Client


@sizes_only
@dataclass(frozen=True, slots=True)
class ReadSide(Side[Client]):
    """One side as it was read: `snapshot` is what may be worked with, `saved` how history knows what was read."""

    snapshot: Snapshot
    saved: SavedSnapshot


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
    concurrency: int
    request_digest: str = ""
    """Digest of what the source is asked for: a delta to the answer to another request is worth nothing."""
    lasting: bool = True
    """Whether later runs go by what this one finds out: since when people are away, where the next read begins, whether
    the source answers. Not so a preview, nor a run under another policy than the source's own."""
    sources: Collection[str] = ()
    """The sources of the directory in the configuration."""
    templates: str = ""
    """The folder with the admin's templates."""
    seconds: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    asked: int | None = None
    """The plan about which a person is asked."""
    put_back: bool = False
    """Whether an older copy of the database was put back, and nobody saw to that for this source."""
    head_file: Path | None = None
    """Where it is kept how far the database is."""
    writing: Writing | None = None
    """The right to write to the directory; None where the run does not."""
    lender: int | None = None
    """The plan that is being carried out by the run that lent this one its right to write: what it is to take away
    counts as taken."""

    @property
    def source_side(self) -> Side[Source]:
        """The source, to be read: with the attributes that scope and mapping read."""
        return Side(self.source_name, f"source:{self.source_name}", Scope(self.policy.wanted()), self.source)

    @property
    def crowd_side(self) -> Side[Directory]:
        """Crowd, to be read: with the attributes that are written there."""
        ours = frozenset({ID_ATTRIBUTE, *self.policy.attributes.extra})
        return Side(self.directory_name, f"directory:{self.directory_name}", Scope(ours), self.directory)

    def departures(self, among: Collection[str] | None = None) -> Departures:
        """Who left since when, of all or of these people (ids), and what time it is."""
        return Departures(self.store.departures(self.directory_name, self.source_name, among), datetime.now(UTC))

    def past(self) -> pd.DataFrame:
        """How many operations of each kind the plans before had."""
        return self.store.past_counts(self.source_name, self.directory_name, self.policy.limits.unusual_runs)

    def recent(self, now: datetime | None = None, removals: pd.DataFrame | None = None) -> RecentRemovals:
        """What was taken away in the window of the limits, which ends `now`; `removals`, where that is known."""
        hours = self.policy.limits.window_hours
        if not hours:
            return RecentRemovals()
        who, since = (self.source_name, self.directory_name), (now or datetime.now(UTC)) - timedelta(hours=hours)
        if removals is None:
            removals = self.store.removals(*who, since, pending=self.lender)
        return RecentRemovals(removals, self.store.passed_limits(*who, since), hours)

    def key(self, what: str) -> str:
        """The key of an artifact: its versions on the Prefect page are those of this source."""
        return key_of(self.source_name, what)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the wall time inside to `seconds[stage]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - start


class SkippedError(RefusedError):
    """The run had to leave the field to another one, or its source alone; nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Connections:
    """What a run works through: a source, a directory, and the store."""

    source: Source
    directory: Directory
    store: Store


@asynccontextmanager
async def connected(settings: Settings, source: str) -> AsyncIterator[Connections]:
    """The connections of a source's runs, closed at the end."""
    async with (
        open_source(source, settings.source(source)) as idp,
        open_directory(settings.directory_of(source)) as (directory, _),
        open_store(settings) as store,
    ):
        yield Connections(idp, directory, store)


@asynccontextmanager
async def begin(
    settings: Settings,
    source: str,
    policy: Policy,
    mode: str,
    *,
    unattended: bool = False,
    through: Connections | None = None,
) -> AsyncIterator[Run]:
    """Opens a run; whatever ends it before `finish` is recorded as its failure.

    A run that writes is the only one of its directory. An `unattended` one is skipped while its source is in
    quarantine. Raises `SkippedError` there, and where another run writes and the directory's `busy` is "skip".
    `through`: the connections, where they are open already and stay so.
    """
    chosen, crowd = settings.source(source), settings.directory_of(source)
    if mode == "react":  # news is taken when the other run is done
        crowd = crowd.model_copy(update={"busy": "wait"})
    async with nullcontext(through) if through else connected(settings, source) as opened:
        store = opened.store
        run = Run(
            id=run_id() or str(uuid.uuid4()),
            source_name=source,
            directory_name=crowd.name,
            policy=policy,
            source=opened.source,
            directory=opened.directory,
            store=store,
            concurrency=crowd.concurrency,
            request_digest=request_digest(chosen, policy),
            lasting=mode in WRITING and policy == policy_of(settings, source),
            sources=settings.sources_of(crowd.name),
            head_file=settings.head_file() if mode in WRITING else None,
            templates=settings.templates,
        )
        async with recorded(run, settings, mode):
            if unattended and (why := await in_thread(quarantined, store, source)):
                raise SkippedError(why)
            writing = writer(run, crowd, batch=mode == "react") if mode in WRITING else nullcontext()
            async with writing, limited(source, chosen.run_hours):
                run.put_back = await in_thread(look_back, store, settings, crowd.name, source, acts=run.lasting)
                yield run


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The store of the configuration."""
    opened = await in_thread(Store.open, settings.store_url(), busy=settings.store.busy)
    with opened as store:
        yield store


@asynccontextmanager
async def recorded(run: Run, settings: Settings, mode: str) -> AsyncIterator[None]:
    """Inside, the run stands in the table of runs; how it ended is recorded there unless it did so itself.

    (At its end the right to write is given back already: nothing is renewed that a call of the store could hold up.)
    """
    try:
        await in_thread(
            run.store.start_run,
            run=run.id,
            source=run.source_name,
            directory=run.directory_name,
            mode=mode,
            flow_run_id=run_id(),
            process=here(),
            at=datetime.now(UTC),
        )
        await in_thread(close_gone, run.store)
        yield
    except SkippedError as error:
        finish(run, "skipped", {"error": str(error)})
        raise
    except BaseException as error:
        if suspends(error):
            finish(run, "waiting", {"plan": run.asked, "error": "waits for a person to agree: Resume in Prefect asks"})
            raise
        known = await diagnosed(settings, run.source_name, run.source, run.directory, error)
        if "apply" in run.seconds:
            known.add_note(WROTE)
        if not run.finished:
            with suppress(CrowdsyncError):  # the store may be what failed
                finish(run, "failed", {"error": _line(known)})
        if known is error:
            raise
        raise known from None
    finally:
        if mode != "react":  # (whose process does it every few seconds)
            await show_current(run.store, settings)


def close_gone(store: Store) -> None:
    """Notes the end of the runs that were killed: those whose process is gone for certain, and no others. Nobody waits
    for what they held, but for a moment; what became of their operations is found out by the next run that writes."""
    for run, process in store.running().items():
        if gone(process, one_machine=store.one_machine):
            store.interrupt_run(
                run,
                process,
                why="its process ended without a word: it was killed, or its machine",
                at=datetime.now(UTC),
            )
    for run, process in store.writers().items():  # (also one that was killed between its end and giving back)
        if gone(process, one_machine=store.one_machine):
            store.let_go(run, process)


@asynccontextmanager
async def writer(run: Run, crowd: DirectorySettings, *, batch: bool) -> AsyncIterator[None]:
    """Inside, the run is the only one that writes to its directory; a `batch` of news also where another lends it."""
    patience = crowd.wait_minutes * 60
    waits = "" if batch or crowd.busy == "skip" else await in_thread(_waits, run)
    if waits:
        say("It %s, which writes to %s now", waits, crowd.name)
        await name_run(waits)
    try:
        async with only_writer(
            run.store, crowd.name, run.id, busy=crowd.busy, patience=patience, batch=batch
        ) as run.writing:
            if waits:
                await name_run("")
            yield
    except BusyError as error:
        if crowd.busy == "skip":
            raise SkippedError(str(error)) from None
        raise


def _waits(run: Run) -> str:
    """`waits for a sync of acme`, whose turn it is to write to the directory; "" where it is nobody's."""
    turn = run.store.lease(turn_of(run.directory_name))
    if turn is None or turn.until <= datetime.now(UTC) or turn.holder == run.id:
        return ""
    try:
        other = run.store.run(turn.holder)
    except CrowdsyncError:
        return "waits for another run"
    return f"waits for a {other['mode']} of {other['source']}"


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


def finish(run: Run, status: str, summary: Mapping[str, Any]) -> None:
    """Records how the run ended, in the table of runs and in the audit chain."""
    now = datetime.now(UTC)
    run.finished = True
    run.store.finish_run(run.id, status=status, summary=summary, at=now)
    if run.head_file is not None and run.lasting:
        keep_head(run.store, run.head_file)


def _line(error: BaseException) -> str:
    if not isinstance(error, Exception):
        return "it was ended from outside: cancelled, by Ctrl-C or by SIGTERM"
    return str(error) if isinstance(error, CrowdsyncError) else type(error).__name__
