"""Every stage of the road as a task: thin, under the names that people see on a run's page. Outside of a flow run it
is a plain call.

What a stage does stands in the function that it calls. Frames are neither hashed as inputs nor kept as results.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import pandas as pd

from connectors.answers import recording
from connectors.contract import Directory, Scope, Source
from connectors.errors import CrowdsyncError
from connectors.model import Snapshot
from connectors.store import in_thread
from tasks.decide.filter import Scoped, in_scope
from tasks.decide.group_entries import doubled
from tasks.decide.guard import Verdict, judge
from tasks.decide.impact import Impact
from tasks.decide.impact import impact as impact_of
from tasks.decide.map import Desired, desired
from tasks.decide.match import Matched, match, orphans
from tasks.decide.plan import Departures, Plan, plan
from tasks.decide.removals import RecentRemovals
from tasks.decide.selection import Selection
from tasks.decide.standing import standing
from tasks.decide.width import counted_whole, totals_of, with_totals
from tasks.policy import Policy
from tasks.read.confirm import rest_of, sample_of, still_gone
from tasks.read.deltas import Reading, Since, read_since
from tasks.read.extract import read_directory
from tasks.read.known import NotNarrowError
from tasks.read.narrow import NOBODY, Few, Unread, read_changed, read_group, read_narrow
from tasks.read.news import News
from tasks.read.snapshot import save_snapshot, validated
from tasks.run import Client, ReadSide, Run, Side
from tasks.stage import few_read, judged, matched_accounts, measured, planned_counts, sizes, task
from tasks.tell.page import page, say
from tasks.tell.proposal import Basis, Proposal
from tasks.tell.report import concluded
from tasks.tell.stored_plan import StoredPlan
from tasks.write import canary, chunks
from tasks.write.apply import Applied, Runner, apply_plan
from tasks.write.chunks import Progress

# Read


@task(name="extract source", run_name="extract-{name}", line=lambda read: f"Read {sizes(read.snapshot)}")
async def extract_source(
    source: Source,
    scope: Scope,
    name: str,  # noqa: ARG001 (names the run)
    since: Since | None = None,
) -> Reading:
    """The source as it is now: what changed `since`, or everything where that cannot be had or is in doubt."""
    return await read_since(source, scope, since, say)


@task(name="extract directory", run_name="extract-crowd", line=lambda read: f"Read {sizes(read.snapshot)}")
async def extract_directory(directory: Directory, scope: Scope) -> Reading:
    """Crowd as it is now."""
    with recording(directory.clients) as told:
        snapshot = await read_directory(directory, scope)
    return Reading(snapshot, answers=told.text())


@task(name="read by key", run_name="read by key", line=few_read)
async def read_few(
    run: Run, person: str, group: str, also: Unread = NOBODY, told: News | None = None
) -> Few | NotNarrowError:
    """One person, one group, or all who changed (as `told` a moment ago), `also` these, and whoever is connected with
    them, read again by key; or why that is not enough."""
    try:
        if person:
            return await read_narrow(run, person)
        return await (read_group(run, group, also) if group else read_changed(run, also.people, told))
    except NotNarrowError as why:
        return why


@task(name="snapshot", run_name="snapshot-{side.stream}", line=lambda read: f"Kept as snapshot {read.saved.id}")
async def save(run: Run, side: Side[Client], snapshot: Snapshot) -> ReadSide[Client]:
    """What was read of a side, put into history."""
    saved = await save_snapshot(run.store, side.stream, snapshot, run.id)
    return ReadSide(side.name, side.stream, side.scope, side.client, snapshot, saved)


@task(name="validate", run_name="validate-{read.stream}", line=lambda read: f"Sound: {sizes(read.snapshot)}")
async def validate(run: Run, read: ReadSide[Client]) -> ReadSide[Client]:
    """The part of what was read that may be worked with."""
    snapshot = await validated(run.store, read.stream, read.snapshot, read.saved.digest)
    return ReadSide(read.name, read.stream, read.scope, read.client, snapshot, read.saved)


@task(name="confirm", run_name="confirm {count} gone", line=lambda _: "Asked for by key: they are gone")
async def confirm_gone(
    source: Source,
    gone: pd.DataFrame,
    count: int,  # noqa: ARG001 (names the run)
) -> None:
    """Whoever the plan takes something from because a list did not name them is gone for certain."""
    await still_gone(source, gone)


async def confirm_some(source: Source, plan: Plan) -> None:
    """Before a plan is shown: asks for some of those who are gone. Raises `IncompleteError` where one is there."""
    some = sample_of(plan.gone)
    if len(some):
        await confirm_gone(source, some, len(some))


async def confirm_others(source: Source, plan: Plan) -> None:
    """Before a plan is carried out: asks for all others. Raises `IncompleteError` where one is there."""
    others = rest_of(plan.gone)
    if len(others):
        await confirm_gone(source, others, len(others))


# Decide


@task(name="filter", run_name="filter", line=lambda scoped: f"In scope: {sizes(scoped.snapshot)}")
async def filter_scope(snapshot: Snapshot, policy: Policy, known: Mapping[str, int], whole: bool = True) -> Scoped:
    """The part of the source that is in scope."""
    return in_scope(snapshot, policy, known, whole=whole)


@task(name="map", run_name="map", line=lambda desired: f"Wanted in Crowd: {sizes(desired)}")
async def map_names(snapshot: Snapshot, policy: Policy, whole: bool = True) -> Desired:
    """What the source wants in Crowd."""
    return desired(snapshot, policy, whole=whole)


@task(name="match", run_name="match", line=matched_accounts)
async def match_accounts(  # (the arguments of `match`)
    desired: Desired,
    directory: Snapshot,
    links: pd.DataFrame,
    policy: Policy,
    source: str,
    read: Snapshot,
    advice: str = "",
) -> Matched:
    """Which Crowd account belongs to whom."""
    return match(desired, directory, links, policy, source, read, advice)


@task(name="plan", run_name="plan", line=planned_counts)
async def make_plan(  # (the arguments of `plan`)
    matched: Matched,
    source: Snapshot,
    directory: Snapshot,
    policy: Policy,
    name: str,
    digests: tuple[str, str],
    departures: Departures | None = None,
    selection: Selection | None = None,
    doubts: Sequence[str] = (),
) -> Plan:
    """The operations that turn the directory into the desired state."""
    return plan(
        matched, source, directory, policy, name, digests, departures=departures, selection=selection, doubts=doubts
    )


@task(name="impact", run_name="impact", line=measured)
async def measure(
    operations: pd.DataFrame,
    directory: Snapshot,
    policy: Policy,
    past: pd.DataFrame,
    recent: RecentRemovals | None = None,
) -> Impact:
    """What the plan does to people."""
    return impact_of(operations, directory, policy, past, recent)


@task(name="guard", run_name="guard", line=judged)
async def guard_plan(plan: Plan, policy: Policy, impact: Impact, force: bool, put_back: bool = False) -> Verdict:
    """Whether the plan may be carried out."""
    return judge(plan, policy, impact, force=force, put_back=put_back)


async def propose(run: Run, basis: Basis, policy: Policy) -> Proposal:
    """filter ─▶ map ─▶ match ─▶ plan ─▶ confirm ─▶ impact ─▶ guard

    Both sides as they were read, under a policy → the plan that follows, and what stands against it. Raises
    `IncompleteError` where somebody whom the source's lists did not name is there when asked for by key.
    """
    source, crowd = basis.source, basis.crowd
    totals = None if basis.totals is None else basis.totals.totals
    known = await in_thread(run.store.named_since, source.stream, doubled(source.snapshot.groups, policy))
    scoped = await filter_scope(source.snapshot, policy, known, totals is None)
    desired = await map_names(scoped.snapshot, policy, totals is None)
    matched = await match_accounts(
        desired, crowd.snapshot, basis.links, policy, source.name, source.snapshot, basis.advice
    )
    owners = None if totals is None else {*matched.accounts["owner"], *basis.links["id"][basis.links["kind"] == "user"]}
    departures = await in_thread(run.departures, owners)
    past, recent = await in_thread(run.past), basis.recent or await in_thread(run.recent)

    async def planned(selection: Selection | None) -> Plan:
        plan = await make_plan(
            matched,
            source.snapshot,
            crowd.snapshot,
            policy,
            source.name,
            (source.saved.digest, crowd.saved.digest),
            departures,
            selection,
            scoped.doubts,
        )
        return plan if totals is None else with_totals(plan, totals)

    async def judged(plan: Plan) -> tuple[Impact, Verdict]:
        of = basis.with_others
        directory = crowd.snapshot if of is None else await in_thread(of, plan.operations)
        impact = await measure(plan.operations, directory, policy, past, recent)
        impact = impact if totals is None else counted_whole(impact, totals)
        return impact, await guard_plan(plan, policy, impact, basis.force, run.put_back)

    plan = await planned(basis.selection)
    await confirm_some(source.client, plan)
    impact, verdict = await judged(plan)
    orphaned = len(orphans(matched, policy)) if totals is None else totals["orphans"]
    counted = None
    if totals is None and run.lasting and not basis.force:
        of_all = plan, impact, verdict
        if basis.selection is not None:  # what is found against everybody speaks against what was read
            everybody = await planned(None)
            of_all = everybody, *await judged(everybody)
        if not of_all[2].never:
            counted = totals_of(of_all[0], of_all[1], orphaned, basis.loud)
    about = basis.selection.person if basis.selection is not None else ""
    stands = standing(about, source.snapshot, scoped, matched) if about and not len(plan.operations) else ""
    return Proposal(basis, policy, plan, impact, verdict, orphaned, counted, stands)


# Write


@task(name="apply", run_name="apply {number} of {total}", retries=3)
async def apply_chunk(
    run: Run,
    plan: int,
    bounds: tuple[int, int],
    number: int,  # noqa: ARG001 (names the run)
    total: int,  # noqa: ARG001
    progress: Progress,
) -> None:
    """One chunk of a plan, as far as the journal does not show it as settled."""
    await chunks.apply_chunk(run, plan, bounds, progress)


@task(name="canary", run_name="canary of {count}", retries=3)
async def apply_canary(
    run: Run,
    plan: int,
    first: pd.DataFrame,
    count: int,  # noqa: ARG001 (names the run)
    progress: Progress,
) -> None:
    """The first part of a plan, each phase read back. Raises `RefusedError` where it failed, or does not hold."""
    await canary.apply_canary(run, plan, first, progress)


async def _untold(_: float) -> None:
    """How far a plan is, where there is no page to show it on."""


class _AsTasks:
    """The parts of a plan as tasks, with a progress bar on the run's page."""

    async def begin(self, run: Run, operations: int) -> Callable[[float], Awaitable[None]]:
        shown = page()
        return await shown.progress(run.key("apply"), f"{operations:,} operations") if shown else _untold

    async def canary(self, run: Run, plan: int, first: pd.DataFrame, progress: Progress) -> None:
        await apply_canary(run, plan, first, len(first), progress)

    async def chunk(  # (as `Runner.chunk`)
        self, run: Run, plan: int, bounds: tuple[int, int], progress: Progress, *, number: int, total: int
    ) -> None:
        await apply_chunk(run, plan, bounds, number, total, progress)


apply_runner: Final[Runner] = _AsTasks()
"""How the flow has a plan carried out."""


async def carry_out(run: Run, stored: StoredPlan, runner: Runner = apply_runner) -> Applied:
    """A stored plan → what became of it, its parts run by `runner`. All others from whom something is taken are asked
    for by key before; an error there, or on the way, stops it, and stands in what is returned."""
    assert stored.number is not None
    try:
        await confirm_others(run.source, stored.plan)
    except CrowdsyncError as error:
        return Applied(0, error)
    return await apply_plan(run, stored.plan, stored.number, runner)


# Tell


conclude = task(name="report", run_name="report")(concluded)
