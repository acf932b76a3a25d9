"""One run: its connections, its policy, its clock, and its place in the record of runs."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from prefect.runtime import flow_run

from connectors.contract import Directory, Scope, Source
from connectors.crowd import Crowd
from connectors.errors import AuthenticationError, ConfigurationError, CrowdsyncError, IncompleteError
from connectors.http import Http
from connectors.idp import SOURCES
from connectors.model import ID_ATTRIBUTE
from connectors.settings import DirectorySettings, Settings
from connectors.source import SourceSettings
from connectors.store import Store
from tasks.blocks import directory_secret, source_secrets
from tasks.policy import Policy


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
    doors: tuple[Http, Http]
    concurrency: int
    asked: str = ""
    """What the source is asked for, as a digest: a delta to the answer to another question is worth nothing."""
    seconds: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    stopped: CrowdsyncError | None = None

    @property
    def streams(self) -> tuple[str, str]:
        """The names of both histories."""
        return f"source:{self.source_name}", f"directory:{self.directory_name}"

    @property
    def scopes(self) -> tuple[Scope, Scope]:
        """Which attributes to ask both sides for."""
        ours = frozenset({ID_ATTRIBUTE, *self.policy.attributes.extra})
        return Scope(self.policy.attributes.wanted()), Scope(ours)

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
    """One source, its doors closed at the end. Raises `ConfigurationError`; nothing is called yet."""
    source = SOURCES[settings.kind].open(name, settings, await source_secrets(name, settings))
    try:
        yield source
    finally:
        await asyncio.gather(*(door.aclose() for door in source.doors))


@asynccontextmanager
async def open_directory(settings: DirectorySettings) -> AsyncIterator[tuple[Crowd, Http]]:
    """Crowd and its door. Raises `ConfigurationError`; nothing is called yet."""
    async with directory_http(settings, await directory_secret(settings)) as door:
        yield Crowd(door, page_size=settings.page_size), door


def directory_http(settings: DirectorySettings, password: str) -> Http:
    """The door to Crowd. Raises `ConfigurationError`."""
    return Http(
        settings.url,
        name="directory",
        basic=(settings.application, password),
        rate=settings.requests_per_second,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        verify=settings.ca_file or True,
    )


_HOW = {"policy", "directory", "block", "concurrency", "requests_per_second", "timeout", "page_size", "ca_file"}


def question(settings: SourceSettings, policy: Policy) -> str:
    """Digest of what a source is asked for: its settings but for how it is asked, and the attributes."""
    asked = [settings.model_dump(exclude=_HOW), policy.attributes.wanted()]
    # Sets are sorted: their own order is another one in every process.
    return hashlib.sha256(orjson.dumps(asked, default=sorted, option=orjson.OPT_SORT_KEYS)).hexdigest()


@asynccontextmanager
async def begin(settings: Settings, source: str, policy: Policy, mode: str) -> AsyncIterator[Run]:
    """Opens a run; whatever ends it before `finish` is recorded as its failure."""
    chosen, crowd = settings.source(source), settings.directory_of(source)
    async with open_source(source, chosen) as idp, open_directory(crowd) as (directory, door):
        with Store.open(settings.store_url(), busy=settings.store.busy) as store:
            run = Run(
                id=str(flow_run.id or uuid.uuid4()),
                source_name=source,
                directory_name=crowd.name,
                policy=policy,
                source=idp,
                directory=directory,
                store=store,
                doors=(idp.doors[0], door),
                concurrency=crowd.concurrency,
                asked=question(chosen, policy),
            )
            store.start_run(
                run=run.id,
                source=source,
                directory=crowd.name,
                mode=mode,
                flow_run_id=str(flow_run.id or ""),
                at=datetime.now(UTC),
            )
            try:
                yield run
            except BaseException as error:
                known = await diagnosed(run, settings, error)
                if not run.finished:
                    finish(run, "failed", {"error": _line(known)})
                if known is error:
                    raise
                raise known from None


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
    return str(error) if isinstance(error, CrowdsyncError) else type(error).__name__
