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
from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.settings import load
from tasks.decide.filter import doubled, filter_scope
from tasks.decide.guard import guard_plan, measure
from tasks.decide.map import map_names
from tasks.decide.match import match_accounts, orphans
from tasks.decide.ownership import abandoned
from tasks.decide.plan import make_plan
from tasks.decide.selection import select
from tasks.policy import Policy, policy_of
from tasks.read.confirm import confirm_gone, parts
from tasks.read.extract import extract_directory, extract_source
from tasks.read.recover import settle_unfinished
from tasks.read.remember import last_read, remember_departures, remember_held, remember_read
from tasks.read.snapshot import save_snapshot, validated
from tasks.run import SkippedError, begin, stopped_short, watched
from tasks.stages import apply_runner
from tasks.tell.report import Proposal, Report, conclude, file_plan, skipped_report, stored_selection
from tasks.write.apply import apply_plan
from tasks.write.approve import agree


class SyncRequest(BaseModel):
    """What to sync, and how far to go."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(title="Source", description="The source's name in crowdsync.toml.")
    mode: Literal["sync", "preview"] = Field(
        "sync", title="Mode", description="sync writes to Crowd; preview stops at the plan and shows it."
    )
    person: str = Field("", title="One person", description="Only this one: id, username or e-mail address in the IdP.")
    group: str = Field("", title="One group", description="Only this one, by its name in Crowd.")
    force: bool = Field(False, title="Force", description="Go past the limits. A plan against everybody stays refused.")
    full: bool = Field(False, title="Full read", description="Read everything, not only what changed since last time.")
    plan: int = Field(0, ge=0, title="Plan", description="Apply the stored plan of this number, if it is still true.")
    policy: Policy | None = Field(None, title="Policy", description="Empty: the one in crowdsync.toml.")
    unattended: bool = Field(
        False, title="Unattended", description="Nobody started it: skip it while the source is in quarantine."
    )

    @model_validator(mode="after")
    def _one(self) -> "SyncRequest":
        if self.person and self.group:
            raise ValueError("person and group exclude each other; keep one")
        return self


def _name() -> str:
    """What a run is called on its page: `acme sync`, `acme preview of ann`, `acme apply plan 7`."""
    request = SyncRequest.model_validate(flow_run.parameters["request"])
    what = f"apply plan {request.plan}" if request.plan and request.mode == "sync" else request.mode
    about = request.person or request.group
    return f"{request.source} {what}{f' of {about}' if about else ''}{' (forced)' if request.force else ''}"


@flow(name="sync", flow_run_name=_name, persist_result=False, validate_parameters=True)
async def sync(request: SyncRequest) -> Report:
    """Bring Crowd in step with one source.

    Raises `ReportedError` where the plan is refused or some of it failed, another `CrowdsyncError`
    where the run could not come so far.
    """
    settings = load()
    policy = request.policy or policy_of(settings, request.source)
    try:
        async with begin(settings, request.source, policy, request.mode, unattended=request.unattended) as run:
            stream, crowd_stream = run.streams
            scope, crowd_scope = run.scopes
            with run.timed("extract"):
                since = None if request.full else await last_read(run)
                reading, crowd = await gather(
                    watched(run, extract_source(run.source, scope, run.source_name, since)),
                    extract_directory(run.directory, crowd_scope),
                )
                source = reading.snapshot
            with run.timed("snapshot"):
                kept = await save_snapshot(run.store, stream, source, run.id)
                crowd_kept = await save_snapshot(run.store, crowd_stream, crowd, run.id)
                if run.writing:
                    await settle_unfinished(run.store, run.directory_name, crowd)
            with run.timed("validate"):
                source = await validated(run.store, stream, source, kept.digest)
                await remember_read(run, reading, kept.id)
                crowd = await validated(run.store, crowd_stream, crowd, crowd_kept.digest)
            links = run.store.links(run.directory_name)
            selection = stored_selection(run, request.plan) or select(
                source, links, run.source_name, request.person, request.group
            )

            advice = settings.source(request.source).same_names()

            async def propose(policy: Policy) -> Proposal:
                """filter ─▶ map ─▶ match ─▶ plan ─▶ confirm ─▶ guard"""
                known = run.store.named_since(stream, doubled(source.groups, policy))
                scoped = await filter_scope(source, policy, known)
                desired = await map_names(scoped.snapshot, policy)
                matched = await match_accounts(desired, crowd, links, policy, run.source_name, source, advice)
                departures, digests = run.departures(), (kept.digest, crowd_kept.digest)
                plan = await make_plan(
                    matched, source, crowd, policy, run.source_name, digests, departures, selection, scoped.doubts
                )
                first, _ = parts(plan.gone)
                if len(first):
                    await confirm_gone(run.source, first, len(first))
                impact = await measure(plan.operations, crowd, policy, run.past(), run.recent())
                verdict = await guard_plan(plan, policy, impact, request.force)
                return Proposal(policy, plan, impact, verdict, len(orphans(matched, policy)), plan.warnings)

            with run.timed("plan"):
                proposal = await propose(policy)
            await remember_departures(run, proposal.plan, selection)
            await remember_held(run, proposal.plan, selection)
            filed = await file_plan(
                run, proposal, (kept, crowd_kept), replaces=request.plan or None, selection=selection
            )
            if request.mode == "sync" and filed.number and not filed.verdict.refusals:
                if filed.verdict.asks:
                    filed = await agree(run, filed, propose)
                if filed.number and not filed.verdict.stops and not filed.rejected:
                    with run.timed("apply"), stopped_short(run):
                        _, others = parts(filed.plan.gone)
                        if len(others):
                            await confirm_gone(run.source, others, len(others))
                        applied = await apply_plan(run, filed.plan, filed.number, apply_runner)
                        run.verified, run.stopped = applied.verified, applied.stopped
            loud = abandoned(crowd, links, settings.sources_of(run.directory_name), run.directory_name, run.source_name)
            return await conclude(run, filed, request.mode, since=reading.full_at, loud=loud)
    except SkippedError as why:
        return await skipped_report(request.source, settings.directory_of(request.source).name, str(why))
