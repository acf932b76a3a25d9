"""The road: one source into one Crowd directory.

IdP ───extract─▶ snapshot ─▶ validate ─▶ filter ─▶ map ─▶ match ─┐
                                                                 ├─▶ plan ─▶ guard ─▶ apply ─▶ report
Crowd ─extract─▶ snapshot ─▶ validate ───────────────────────────┘
"""

# No `from __future__ import annotations` here: a worker loads this file under a name that is gone again
# when Prefect looks up what the text "SyncRequest" means, and every run of a deployment would fail.
from asyncio import gather
from typing import Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from connectors.settings import load
from tasks.apply import apply_plan
from tasks.extract import extract_directory, extract_source
from tasks.filter import filter_scope
from tasks.guard import guard_plan
from tasks.map import map_names
from tasks.match import match_accounts
from tasks.plan import make_plan
from tasks.policy import Policy, policy_of
from tasks.report import Report, conclude, file_plan
from tasks.run import begin, stopped_short
from tasks.snapshot import check, keep, last_read, remember_read, settle_unfinished


class SyncRequest(BaseModel):
    """What to sync, and how far to go."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(title="Source", description="The source's name in crowdsync.toml.")
    mode: Literal["sync", "preview"] = Field(
        "sync", title="Mode", description="sync writes to Crowd; preview stops at the plan and shows it."
    )
    force: bool = Field(False, title="Force", description="Go past the limits. A plan against everybody stays refused.")
    full: bool = Field(False, title="Full read", description="Read everything, not only what changed since last time.")
    plan: int | None = Field(None, title="Plan", description="Apply this stored plan, if it is still true.")
    policy: Policy | None = Field(None, title="Policy", description="Empty: the one in crowdsync.toml.")


def _name() -> str:
    """What a run is called on its page: `acme sync`, `acme preview`, `acme apply plan 7`."""
    request = SyncRequest.model_validate(flow_run.parameters["request"])
    what = f"apply plan {request.plan}" if request.plan and request.mode == "sync" else request.mode
    return f"{request.source} {what}{' (forced)' if request.force else ''}"


@flow(name="sync", flow_run_name=_name, persist_result=False, validate_parameters=True)
async def sync(request: SyncRequest) -> Report:
    """Bring Crowd in step with one source.

    Raises `ReportedError` where the plan is refused or some of it failed, another `CrowdsyncError`
    where the run could not come so far.
    """
    settings = load()
    policy = request.policy or policy_of(settings, request.source)
    async with begin(settings, request.source, policy, request.mode) as run:
        stream, crowd_stream = run.streams
        scope, crowd_scope = run.scopes
        with run.timed("extract"):
            reading, crowd = await gather(
                extract_source(run.source, scope, run.source_name, None if request.full else last_read(run)),
                extract_directory(run.directory, crowd_scope),
            )
            source = reading.snapshot
        with run.timed("snapshot"):
            kept = await keep(run.store, stream, source, run.id)
            remember_read(run, reading, kept.id)
            crowd_kept = await keep(run.store, crowd_stream, crowd, run.id)
            settle_unfinished(run.store, run.directory_name, crowd)
        with run.timed("validate"):
            source = await check(run.store, stream, source, kept.digest)
            crowd = await check(run.store, crowd_stream, crowd, crowd_kept.digest)
        with run.timed("plan"):
            scoped = await filter_scope(source, policy.scope)
            desired = await map_names(scoped.snapshot, policy)
            links = run.store.links(run.directory_name)
            matched = await match_accounts(desired, crowd, links, policy, run.source_name)
            plan = await make_plan(matched, source, crowd, policy, run.source_name, (kept.digest, crowd_kept.digest))
            verdict = await guard_plan(plan, policy, request.force)
        filed = await file_plan(run, plan, verdict, kept, crowd_kept, replaces=request.plan)
        if filed.number and request.mode == "sync" and not filed.verdict.refusals:
            with run.timed("apply"), stopped_short(run):
                await apply_plan(run, plan, filed.number)
        return await conclude(run, filed, request.mode, since=reading.full_at)
