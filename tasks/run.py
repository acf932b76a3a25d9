"""One run: its connections, its policy, its clock, and its place in the record of runs."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prefect.runtime import flow_run

from connectors.contract import Directory, Scope, Source
from connectors.crowd import Crowd
from connectors.errors import CrowdsyncError
from connectors.http import Http
from connectors.idp import SOURCES
from connectors.model import ID_ATTRIBUTE
from connectors.settings import DirectorySettings, Settings, SourceSettings, secret
from connectors.store import Store
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
    seconds: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    @property
    def streams(self) -> tuple[str, str]:
        """The names of both histories."""
        return f"source:{self.source_name}", f"directory:{self.directory_name}"

    @property
    def scopes(self) -> tuple[Scope, Scope]:
        """Which attributes to ask both sides for."""
        ours = frozenset({ID_ATTRIBUTE, *self.policy.attributes.extra})
        return Scope(self.policy.attributes.wanted()), Scope(ours)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the wall time inside to `seconds[stage]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - start


def source_http(name: str, settings: SourceSettings) -> Http:
    """The door to one source. Raises `ConfigurationError`."""
    return Http(
        settings.url,
        name=name,
        bearer=secret(f"sources.{name}.token", settings.token_env, settings.token_file),
        rate=settings.requests_per_second,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        verify=settings.ca_file or True,
    )


def directory_http(settings: DirectorySettings) -> Http:
    """The door to Crowd. Raises `ConfigurationError`."""
    return Http(
        settings.url,
        name=settings.name,
        basic=(settings.application, secret("directory.password", settings.password_env, settings.password_file)),
        rate=settings.requests_per_second,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        verify=settings.ca_file or True,
    )


@asynccontextmanager
async def begin(settings: Settings, source: str, policy: Policy, mode: str) -> AsyncIterator[Run]:
    """Opens a run; whatever ends it before `finish` is recorded as its failure."""
    chosen, crowd = settings.source(source), settings.directory
    async with source_http(source, chosen) as idp, directory_http(crowd) as door:
        with Store.open(settings.store_url()) as store:
            run = Run(
                id=str(flow_run.id or uuid.uuid4()),
                source_name=source,
                directory_name=crowd.name,
                policy=policy,
                source=SOURCES[chosen.kind](idp, page_size=chosen.page_size),
                directory=Crowd(door, page_size=crowd.page_size),
                store=store,
                doors=(idp, door),
                concurrency=crowd.concurrency,
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
                if not run.finished:
                    finish(run, "failed", {"error": _line(error)})
                raise


def finish(run: Run, status: str, summary: Mapping[str, Any]) -> None:
    """Records how the run ended, in the table of runs and in the audit chain."""
    now = datetime.now(UTC)
    run.finished = True
    run.store.finish_run(run.id, status=status, summary=summary, at=now)
    run.store.audit(event="run", actor="crowdsync", subject=run.id, details={"status": status, **summary}, at=now)


def _line(error: BaseException) -> str:
    return str(error) if isinstance(error, CrowdsyncError) else type(error).__name__
