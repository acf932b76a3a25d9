"""The road: one source into one Crowd directory. Prefect runs it as `flows.sync`.

IdP ───extract─▶ snapshot ─▶ validate ─▶ filter ─▶ map ─▶ match ─┐
                                                                 ├─▶ plan ─▶ guard ─▶ apply ─▶ report
Crowd ─extract─▶ snapshot ─▶ validate ───────────────────────────┘
"""

from __future__ import annotations

from asyncio import gather
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.settings import load
from connectors.store import StepCursors, in_thread
from tasks.decide.ownership import abandoned
from tasks.decide.selection import refuse_unknown_group, select
from tasks.decide.width import beyond
from tasks.policy import Policy, policy_of
from tasks.read.deltas import Reading
from tasks.read.known import NotNarrowError
from tasks.read.missed import find_missed
from tasks.read.narrow import NOBODY
from tasks.read.news import starting_cursors
from tasks.read.overtaken import brought_up
from tasks.read.quarantine import watched
from tasks.read.recover import settle_unfinished
from tasks.read.remember import (
    last_read,
    remember_changed,
    remember_departures,
    remember_held,
    remember_read,
    remember_wide,
)
from tasks.run import Run, SkippedError, begin
from tasks.stages import carry_out, conclude, extract_directory, extract_source, propose, read_few, save, validate
from tasks.tell.proposal import Basis, Proposal
from tasks.tell.report import Report, skipped_report
from tasks.tell.stored_plan import store_plan, stored_selection
from tasks.write.apply import Applied
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
    def _one(self) -> SyncRequest:
        if self.person and self.group:
            raise ValueError("person and group exclude each other; keep one")
        return self


async def walk(request: SyncRequest) -> Report:
    """Bring Crowd in step with one source.

    Raises `ReportedError` where the plan is refused or some of it failed, another `CrowdsyncError`
    where the run could not come so far.
    """
    settings = load()
    policy = request.policy or policy_of(settings, request.source)
    try:
        async with begin(settings, request.source, policy, request.mode, unattended=request.unattended) as run:
            advice = settings.source(request.source).same_names()
            proposal = await _of_few(run, request, policy, advice)
            if isinstance(proposal, str):
                proposal = await _of_all(run, request, policy, advice, why=proposal)
            stored = await store_plan(run, proposal, replaces=request.plan or None)
            await remember_wide(run, proposal.counted, proposal.basis.source.saved.digest)
            applied: Applied | None = None
            if request.mode == "sync" and stored.number and not stored.verdict.refusals:
                if stored.verdict.asks:
                    stored = await agree(run, stored, propose)
                if stored.ready:
                    with run.timed("apply"):
                        applied = await carry_out(run, stored)
            return await conclude(run, stored, request.mode, applied)
    except SkippedError as why:
        return await skipped_report(request.source, settings.directory_of(request.source).name, str(why))


async def _of_few(run: Run, request: SyncRequest, policy: Policy, advice: str) -> Proposal | str:
    """What follows for one person, one group, or for all who changed, from the records that concern them; or why
    everything has to be read, "" where that was asked for."""
    if request.full or request.force or request.plan:
        return ""
    if run.put_back:
        return "an older copy of the database was put back"
    one, also, told = bool(request.person or request.group), NOBODY, None
    if not one and not run.lasting:
        return ""
    while True:
        with run.timed("read by key"):
            few = await read_few(run, request.person, request.group, also, told)
        if isinstance(few, NotNarrowError):
            return str(few)
        of_all = few.totals.totals
        with run.timed("plan"):
            basis = Basis(
                few.source, few.crowd, few.links, few.selection, advice,
                totals=few.totals, read=few.words(), recent=few.recent, with_others=few.with_others,
            )  # fmt: skip
            basis = basis if one else replace(basis, cursors=few.cursors, loud=tuple(of_all["loud"]))
            proposal = await propose(run, basis, policy)
        unread = few.still_unread(proposal.plan, policy)
        if not unread:
            break
        also, told = also | unread, few.news  # nothing is done about somebody who was not read again
    why = beyond(proposal.plan, proposal.impact, proposal.verdict, policy)
    if why or one:
        return why or proposal
    if proposal.plan.withheld:
        return "operations that the policy keeps from being done are told of everybody"
    await remember_changed(run, few, proposal.plan)
    return replace(proposal, plan=replace(proposal.plan, withheld=of_all["withheld"]))


async def _both_sides(run: Run, full: bool, *, lend: bool = True) -> tuple[StepCursors | None, Reading, Reading]:
    """Both sides, read whole, and where what happens from then on begins. While they are read, batches of news may
    write to Crowd (`lend`); whom these touched is read again, and where that is not enough, everybody is."""
    source, crowd = run.source_side, run.crowd_side
    mark = await in_thread(run.store.newest_snapshot)
    async with run.writing.lend() if run.writing and lend else nullcontext():
        since = None if full else await last_read(run)
        cursors = await starting_cursors(run)
        reading, of_crowd = await gather(
            watched(run, extract_source(source.client, source.scope, source.name, since)),
            extract_directory(crowd.client, crowd.scope),
        )
    if not run.writing or not lend:
        return cursors, reading, of_crowd
    both = await brought_up(run, reading, of_crowd, mark)
    return (cursors, *both) if both else await _both_sides(run, full, lend=False)


async def _of_all(run: Run, request: SyncRequest, policy: Policy, advice: str, *, why: str) -> Proposal:
    """What follows from both sides, read whole; `why` they are, where it was tried with less."""
    source, crowd = run.source_side, run.crowd_side
    with run.timed("extract"):
        cursors, reading, of_crowd = await _both_sides(run, request.full or run.put_back)
    with run.timed("snapshot"):
        source = await save(run, source, reading.snapshot)
        crowd = await save(run, crowd, of_crowd.snapshot)
        if run.writing:
            await settle_unfinished(run.store, run.directory_name, of_crowd.snapshot)
    with run.timed("validate"):
        source = await validate(run, source)
        await remember_read(run, reading, source.saved.id)
        crowd = await validate(run, crowd)
        missed = await find_missed(run, reading, source.saved, crowd.saved)
    links = await in_thread(run.store.links, run.directory_name)
    selection = await in_thread(stored_selection, run, request.plan) or select(
        source.snapshot, links, run.source_name, request.person, request.group
    )
    if request.group:
        refuse_unknown_group(request.group, source.snapshot, links, crowd.snapshot, policy)
    what, how = "More" if reading.full_at else "Everything", reading.words(run.source_name)
    told = missed.words() if missed is not None else ""
    read = " ".join(filter(None, (f"{what} was read, because {why}." if why else "", how, told)))
    loud = abandoned(crowd.snapshot, links, run.sources, run.directory_name, run.source_name)
    with run.timed("plan"):
        begins = reading.begins(cursors, of_crowd)
        basis = Basis(
            source, crowd, links, selection, advice, request.force, read=read, loud=loud, cursors=begins, missed=missed
        )
        proposal = await propose(run, basis, policy)
    await remember_departures(run, proposal.plan, selection)
    await remember_held(run, proposal.plan, selection)
    return proposal
