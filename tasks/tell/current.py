"""The page about everything in Prefect's UI: one artifact of a fixed key, current at the end of every run."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from connectors.settings import Settings
from connectors.store import Store, in_thread
from tasks.tell.dashboard import PASSING, markdown, moment

KEY: Final = "crowdsync"
"""The key of the artifact."""
TITLE: Final = "How everything stands"
SCHEDULED: Final = "sync-all/sync-all"
SECONDS: Final = 5.0
"""So long a run may be kept by it."""

log = logging.getLogger("crowdsync")
_pages: dict[str, UUID] = {}


async def show_current(store: Store, settings: Settings) -> None:
    """Brings the page up to date, where a lasting Prefect server is named. What goes wrong is no matter of a run."""
    url = get_current_settings().api.url
    if not url or os.environ.get(PASSING):
        return
    try:
        async with asyncio.timeout(SECONDS), get_client() as client:
            sources = {one.name: settings.sources_of(one.name) for one in settings.all_directories()}
            found = await in_thread(store.overview, sources, datetime.now(UTC))
            await _keep(client, url, markdown(found, await following(client), settings.templates))
    except Exception as error:
        log.info("the page about everything is not current: %s", error)


async def following(client: PrefectClient) -> str:
    """When the schedule starts the next runs, in words."""
    try:
        deployment = await client.read_deployment_by_name(SCHEDULED)
    except ObjectNotFound:
        return f"Prefect has no deployment {SCHEDULED}: crowdsync deploy"
    if deployment.paused or not any(schedule.active for schedule in deployment.schedules):
        return "the schedule of sync-all is off: nothing starts by itself"
    scheduled = await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=1,
    )
    at = scheduled[0].expected_start_time if scheduled else None
    return (
        f"sync-all at {moment(at)} UTC" if at else "sync-all has a schedule, and Prefect has planned no run of it yet"
    )


async def _keep(client: PrefectClient, url: str, text: str) -> None:
    """Replaces the artifact's text; makes it where there is none."""
    if url not in _pages:
        key = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[KEY]))
        found = await client.read_latest_artifacts(artifact_filter=key, limit=1)
        if found:
            _pages[url] = found[0].latest_id
    if url in _pages:
        try:
            await client.update_artifact(_pages[url], ArtifactUpdate(data=text, description=TITLE))
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            del _pages[url]  # (somebody deleted it)
        else:
            return
    made = await client.create_artifact(ArtifactCreate(key=KEY, type="markdown", data=text, description=TITLE))
    _pages[url] = made.id
