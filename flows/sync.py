"""The road as a flow of Prefect."""

# No `from __future__ import annotations` here: a worker loads this file under a name that is gone again
# when Prefect looks up what the text "SyncRequest" means, and every run of a deployment would fail.
from prefect import flow
from prefect.runtime import flow_run

from connectors.settings import load
from flows.road import SyncRequest, walk
from tasks.tell.failure import explained
from tasks.tell.report import Report

__all__ = ["SyncRequest", "sync"]


def _name() -> str:
    """What a run is called on its page: `acme sync`, `acme preview of ann`, `acme apply plan 7`."""
    request = SyncRequest.model_validate(flow_run.parameters["request"])
    what = f"apply plan {request.plan}" if request.plan and request.mode == "sync" else request.mode
    about = request.person or request.group
    return f"{request.source} {what}{f' of {about}' if about else ''}{' (forced)' if request.force else ''}"


@flow(name="sync", flow_run_name=_name, persist_result=False, validate_parameters=True)
@explained(lambda request: request.source, lambda: load().templates)
async def sync(request: SyncRequest) -> Report:
    """Bring Crowd in step with one source.

    Raises `ReportedError` where the plan is refused or some of it failed, another `CrowdsyncError`
    where the run could not come so far.
    """
    return await walk(request)
