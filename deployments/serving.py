"""What Prefect must know and run: the work pool, the deployments of `prefect.yaml`, and a worker."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from connectors.errors import ConfigurationError, CrowdsyncError
from connectors.settings import load

if TYPE_CHECKING:
    from prefect.automations import AutomationCore
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate

FILE = Path(__file__).with_name("prefect.yaml")
POOL = "crowdsync"
BUTTONS = "buttons"
"""The work queue of the runs that `crowdsync react` takes itself; workers take them where none runs."""
DEFAULT_SOURCE = "CROWDSYNC_DEFAULT_SOURCE"
DEAD_RUNS = "crowdsync: a run that died is crashed"
BEATS = timedelta(minutes=10)
"""How long a run may give no sign of life. Prefect's runs give one every three minutes."""
_MINUTES = f"{BEATS.total_seconds() / 60:g} minutes"


async def deploy(*more: Path, **job: str) -> list[str]:
    """Makes the work pool and every deployment of `prefect.yaml` known to Prefect's server; their names.

    May be run again at any time: it brings everything to this version. A schedule that somebody switched off stays off.
    The forms get the sources of crowdsync.toml to choose from, where it is at hand; the types of credentials are made
    known, too. `more` are files like it; `job` are further job variables, for where every worker is known.
    Raises `ConfigurationError` where the server refuses.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.utilities.templating import apply_values

    from tasks.read.blocks import register

    described = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (FILE, *more)]
    sources = _sources()
    os.environ.setdefault(DEFAULT_SOURCE, sources[0] if len(sources) == 1 else "")
    await register()
    async with get_client() as client:
        await _pool(client)
        names = []
        for one, pull in ((one, file["pull"]) for file in described for one in file["deployments"]):
            one = one | {
                "parameters": apply_values(one["parameters"], {}),
                "job": one["work_pool"]["job_variables"] | job,
            }
            try:
                names.append(await _deployed(client, one, pull, sources))
            except PrefectHTTPStatusError as error:
                raise ConfigurationError(
                    f"Prefect does not take the deployment {one['name']}: {error.response.text}"
                ) from None
        await _dead_runs(client)
    return names


async def _pool(client: PrefectClient) -> None:
    """The work pool, unless it is there already."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    pool = WorkPoolCreate(
        name=POOL,
        type="process",
        description="Workers that have crowdsync installed.",
        base_job_template=ProcessWorker.get_default_base_job_template(),
    )
    with suppress(ObjectAlreadyExists):
        await client.create_work_pool(pool)


async def _deployed(
    client: PrefectClient, one: dict[str, Any], pull: list[dict[str, Any]], sources: Sequence[str]
) -> str:
    from prefect.client.schemas.objects import ConcurrencyOptions
    from prefect.exceptions import ObjectNotFound
    from prefect.flows import Flow, load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    from flows.forms import with_sources

    flow: Flow[..., Any] = load_flow_from_entrypoint(one["entrypoint"])
    form, parameters = parameter_schema(flow).model_dump(exclude_unset=True), one["parameters"]
    if sources:
        form, parameters = with_sources(form, sources), _chosen(parameters)
    name = f"{flow.name}/{one['name']}"
    try:
        before = await client.read_deployment_by_name(name)
        switched = {schedule.slug: schedule.active for schedule in before.schedules}
    except ObjectNotFound:
        switched = {}
    limit = one.get("concurrency_limit") or {}
    await client.create_deployment(
        flow_id=await client.create_flow_from_name(flow.name),
        name=one["name"],
        entrypoint=one["entrypoint"],
        pull_steps=pull,
        parameters=parameters,
        parameter_openapi_schema=form,
        enforce_parameter_schema=True,
        description=one["description"],
        tags=one["tags"],
        schedules=[_schedule(schedule, switched) for schedule in one.get("schedules", ())],
        concurrency_limit=limit.get("limit"),
        concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None,
        work_pool_name=one["work_pool"]["name"],
        work_queue_name=one["work_pool"].get("work_queue_name"),
        job_variables=one["job"],
        version=version("crowdsync"),
    )
    return name


def _schedule(one: dict[str, Any], switched: Mapping[str | None, bool | None]) -> DeploymentScheduleCreate:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    active = switched.get(one["slug"], one["active"])
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=one["cron"], timezone=one["timezone"]), slug=one["slug"], active=active
    )


async def _dead_runs(client: PrefectClient) -> None:
    """A run whose machine died would stay "running", and keep its source from being synced: Prefect is told to
    crash it when it gives no sign of life."""
    from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType

    ends = ("Completed", "Failed", "Cancelled", "Cancelling", "Crashed", "Paused", "Suspended", "AwaitingRetry")
    wanted = AutomationCore(
        name=DEAD_RUNS,
        description=f"A run that gives no sign of life for {_MINUTES} is gone, with its machine or its worker.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": "prefect.tag.crowdsync", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.Pending", "prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            within=BEATS,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No sign of life for {_MINUTES}: its machine or its worker is gone. It may be started again.",
            )
        ],
    )
    await automation(client, wanted)


async def automation(client: PrefectClient, wanted: AutomationCore) -> str:
    """What became of one automation, which is known by its name: created, updated, unchanged.

    One that somebody switched off stays off.
    """
    from prefect.automations import AutomationCore

    found = await client.read_automations_by_name(wanted.name)
    if not found:
        await client.create_automation(wanted)
        return "created"
    wanted = wanted.model_copy(update={"enabled": found[0].enabled})
    if _content(found[0]) == _content(wanted):
        return "unchanged"
    # Read from its dump, every field of it counts as set; Prefect's client sends only those, its server wants all.
    whole = AutomationCore.model_validate(wanted.model_dump(mode="json", exclude={"owner_resource"}))
    await client.update_automation(found[0].id, whole)
    return "updated"


def _content(automation: AutomationCore) -> dict[str, Any]:
    content = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    sets = ("expect", "after", "for_each")
    content["trigger"] = {name: sorted(value) if name in sets else value for name, value in content["trigger"].items()}
    return content


def _chosen(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a form is filled with, without a source that is not chosen yet."""
    kept = {name: _chosen(value) if isinstance(value, dict) else value for name, value in parameters.items()}
    return {name: value for name, value in kept.items() if name != "source" or value}


def _sources() -> list[str]:
    """The sources to choose from: those of crowdsync.toml, where it is at hand."""
    try:
        return sorted(load().sources)
    except CrowdsyncError:
        return []


async def serve(ready: Callable[[], None], *more: Path) -> None:
    """For the sandbox: deploys, says so, and works until it is cancelled. All of it is here, so that its runs start in
    one step, and some seconds sooner: Prefect needs no process that looks for the code first. The buttons are left to
    `crowdsync react`. `more` are files of further deployments."""
    from prefect.workers.process import ProcessWorker

    await _abandon()
    await deploy(*more, command=f"{shlex.quote(sys.executable)} -m prefect.engine")
    ready()
    worker = ProcessWorker(work_pool_name=POOL, work_queues=["default"], create_pool_if_not_found=False)
    await worker.start(printer=lambda *_: None)


async def _abandon() -> None:
    """Cancels what an earlier sandbox left unfinished: its Crowd and its plans are gone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterExpectedStartTime, FlowRunFilterState
    from prefect.client.schemas.filters import FlowRunFilterStateType as Types
    from prefect.states import Cancelled

    from flows.sync_all import UNFINISHED

    old = FlowRunFilter(
        state=FlowRunFilterState(type=Types(any_=UNFINISHED)),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
    )
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_run_filter=old):
            await client.set_flow_run_state(run.id, Cancelled(message="its sandbox has ended"), force=True)
