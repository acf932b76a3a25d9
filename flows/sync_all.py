"""Every source, each in a run of its own: what the schedule starts."""

# No `from __future__ import annotations` here: see flows/sync.py.
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from connectors.errors import ConfigurationError, CrowdsyncError, RetryableError
from connectors.settings import Settings, load
from connectors.store import Quarantine, Store
from flows.forms import offer
from tasks.tell.current import show_current
from tasks.tell.failure import explained
from tasks.tell.page import name_run, say
from tasks.tell.render import link_markdown, started_markdown

DEPLOYMENT = "sync/sync"
UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]

Row = dict[str, str]
"""source, what (started, skipped, not started), why, run (a link)"""


def _name() -> str:
    """What a run is called: whose syncs it starts."""
    return ", ".join(flow_run.parameters.get("sources") or ["all sources"])


@flow(name="sync-all", flow_run_name=_name, persist_result=False)
@explained(lambda *_, **__: "sync-all", lambda: load().templates)
async def sync_all(sources: list[str] = []) -> list[Row]:  # noqa: B006 (nobody changes it; the form shows it)
    """Start a sync of every source, each in a run of its own.

    Left out are sources in quarantine, and those whose last sync is not over yet. A table says which, and why.

    Args:
        sources: Only these, by their names in crowdsync.toml. Empty: all of them.
    """
    settings = load()
    await offer(settings.sources)
    unfinished = await unfinished_runs()
    rows = [await start(settings, name, unfinished) for name in dict.fromkeys(sources or sorted(settings.sources))]
    for row in rows:
        say("%s: %s", row["source"], f"{row['what']}, {row['why']}" if row["why"] else row["what"])
    text = started_markdown(rows, settings.templates)
    await acreate_table_artifact(rows, key="sync-all", description=text)
    await name_run(", ".join(f"{count} {what}" for what, count in Counter(row["what"] for row in rows).items()))
    with Store.open(settings.store_url(), busy=settings.store.busy) as store:
        await show_current(store, settings)
    failed = [f"{row['source']}: {row['why']}" for row in rows if row["what"] == "not started"]
    if failed:
        raise RetryableError(f"not started: {'; '.join(failed)}")
    return rows


async def start(settings: Settings, name: str, unfinished: Sequence[FlowRun]) -> Row:
    """Starts the sync of one source, unless there is a reason not to; never raises because of it."""

    def told(what: str, why: str, run: FlowRun | None = None) -> Row:
        return {"source": name, "what": what, "why": why, "run": link(run) if run else ""}

    try:
        settings.source(name)
        with Store.open(settings.store_url(), busy=settings.store.busy) as store:
            quarantine = store.quarantine(name, now=datetime.now(UTC))
        if quarantine is not None:
            return told("skipped", resting(quarantine))
        before = next((run for run in unfinished if is_sync_of(run.parameters, name)), None)
        if before is not None:
            return told("skipped", standing(before), before)
        run = await arun_deployment(
            DEPLOYMENT,
            parameters={"request": {"source": name, "mode": "sync", "unattended": True}},
            timeout=0,
            as_subflow=False,
            flow_run_name=f"{name} sync",
            tags=["crowdsync", f"source:{name}"],
            # A retry of this run starts no second one.
            idempotency_key=f"sync-all {flow_run.id} {name}" if flow_run.id else None,
        )
        return told("started", "", run)
    except Exception as error:  # whatever it is, the other sources are started
        return told(
            "not started", str(error) if isinstance(error, CrowdsyncError) else f"{type(error).__name__}: {error}"
        )


async def unfinished_runs() -> list[FlowRun]:
    """The runs of the deployment that should have begun by now and are not over."""
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise ConfigurationError(
                f"Prefect has no deployment {DEPLOYMENT}, which the sources are started with; make it: crowdsync deploy"
            ) from None
        return await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=200,
        )


def is_sync_of(parameters: dict[str, Any], source: str) -> bool:
    """Whether a run is a sync of this whole source: no preview, and not of one person or group."""
    request = parameters.get("request")
    if not isinstance(request, dict) or request.get("source") != source:
        return False
    return request.get("mode", "sync") == "sync" and not (request.get("person") or request.get("group"))


def resting(quarantine: Quarantine) -> str:
    """Why a source in quarantine is left alone."""
    return f"in quarantine until {quarantine.until:%Y-%m-%d %H:%M} UTC, after {quarantine.failures} failures in a row"


def standing(run: FlowRun) -> str:
    """What a run that is not over does."""
    assert run.state is not None
    if run.state.is_paused():
        return "its last sync waits for a person to agree to its plan"
    if run.state.is_running():
        return "its last sync is still running"
    return f"its last sync has not begun yet ({run.state.name}); is a worker running?"


def link(run: FlowRun) -> str:
    """The page of a run, in markdown."""
    return link_markdown(run.name, url_for(run) or "")
