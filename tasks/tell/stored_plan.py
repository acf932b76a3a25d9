"""A plan in the store: saved under a number, or found to be one that is stored already; and its table on the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from connectors.errors import ConfigurationError
from connectors.model import sizes_only
from connectors.store import Decision, SavedPlan, in_thread
from tasks.decide.agreement import also_in, asks_no_more, asks_text, covered
from tasks.decide.guard import Verdict
from tasks.decide.impact import Impact
from tasks.decide.plan import Plan
from tasks.decide.selection import Selection
from tasks.run import Run
from tasks.tell.page import can_ask, has_page, show_table, waits
from tasks.tell.proposal import Proposal
from tasks.tell.render import plan_markdown, plan_table
from tasks.write.open import refuse_unless_open


@sizes_only
@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A judged plan and its number in the store; None where there is nothing to do. `verdict` is the proposal's, with
    what a person decided since; `waits`: why nobody is asked; `rejected`: who did, and why; `before`: the plan that a
    person was asked about, and whose place it takes; `link`: to its table, from the root of Prefect's UI."""

    number: int | None
    proposal: Proposal
    verdict: Verdict
    waits: str = ""
    rejected: str = ""
    before: int | None = None
    link: str = ""

    @property
    def plan(self) -> Plan:
        return self.proposal.plan

    @property
    def impact(self) -> Impact:
        return self.proposal.impact

    @property
    def ready(self) -> bool:
        """Whether it may be carried out."""
        return bool(self.number) and not self.verdict.stops and not self.rejected


async def store_plan(run: Run, proposal: Proposal, *, replaces: int | None) -> StoredPlan:
    """Stores the plan and shows it as an artifact.

    With `replaces`, the plan is the proof that the stored one is still true: if it is not, the new one is stored, and
    refused for a person to look at, unless what a person said of that one holds for it, too. A plan that waits for
    agreement is taken up where it is still true.
    """
    plan, verdict = proposal.plan, proposal.verdict
    now = datetime.now(UTC)
    place = _Place()
    if replaces is not None:
        place = await _still_true(run, proposal, replaces, now)
    elif run.writing and proposal.basis.about_everybody:
        place = await _waiting(run, proposal)
    elif run.writing and verdict.asks:
        place = await _resumed(run, plan)
    number, waits, before = place.number, place.waits, place.before
    if number is None and len(plan.operations) and not waits:  # (it would be stored anew at every run until then)
        number = await _saved(run, proposal, now)
    asks = number and verdict.asks and not verdict.refusals
    if before is not None and not asks:  # (else it is seen first what a person said of it)
        await in_thread(close_plan, run, before, now)
        before = None
    if place.untrue:
        moved = f"plan {replaces} is no longer true: the source, Crowd or the policy changed since; "
        way = f"plan {number} takes its place: look at it, then apply it" if number else "nothing is left to do"
        verdict = replace(verdict, refusals=(*verdict.refusals, moved + way))
    if number and verdict.refusals and number != replaces:
        status = "refused" if replaces is None else "planned"
        await in_thread(run.store.set_plan_status, number, status, at=now)
    stored = StoredPlan(number, proposal, verdict, waits, before=before)
    if (number or waits) and has_page():
        stored = replace(stored, link=await create_table(run, stored))
    return stored


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a plan stands among those before it. `number`: it is stored already; `waits`: why nobody is asked about it;
    `before`: the one that a person was asked about, and whose place it takes; `untrue`: what was to be carried out is
    no longer true."""

    number: int | None = None
    waits: str = ""
    before: int | None = None
    untrue: bool = False


async def _still_true(run: Run, proposal: Proposal, replaces: int, now: datetime) -> _Place:
    """Of the stored plan that is to be carried out, where the new one is the same, or is covered by agreement to it."""
    stored = await in_thread(run.store.load_plan, replaces)
    if stored.source != run.source_name or stored.directory != run.directory_name:
        raise ConfigurationError(f"plan {replaces} is for {stored.source} → {stored.directory}; name that source")
    refuse_unless_open(replaces, stored.status)
    if stored.digest == proposal.plan.digest:
        return _Place(replaces)
    if not run.writing:
        return _Place(untrue=True)
    said = await in_thread(said_of, run, proposal, replaces)
    # Where nothing is asked any more, nobody would leave the part out that a person did not want.
    if said is not None and (said.decision == "approve" or (said.decision != "reject" and proposal.verdict.asks)):
        return _Place(before=replaces)
    await in_thread(run.store.set_plan_status, replaces, "superseded", at=now)
    return _Place(untrue=True)


async def _waiting(run: Run, proposal: Proposal) -> _Place:
    """Of the plan that waits for agreement, if there is one: its number, where the new one is the same; and why nobody
    is asked, where its run asks already, or where it asks all that the new one would and nobody can be asked here. One
    that is neither makes place."""
    asked = await in_thread(run.store.asked_plan, run.source_name, run.directory_name)
    if asked is None:
        return _place_of(await in_thread(_turned_down, run), proposal.plan)
    number = asked.id if asked.digest == proposal.plan.digest else None
    if proposal.verdict.asks and await in_thread(run.store.asked_about, run.id) != asked.id:  # (else it was resumed)
        still = asked.status == "waiting" and not number and not can_ask()
        if (still and await in_thread(_covers, run, asked, proposal)) or await asking(run, asked.id):
            since = f"{asked.status_at:%Y-%m-%d %H:%M} UTC"
            return _Place(number, f"plan {asked.id} waits for agreement since {since}: decide on that first")
    return _Place(number, before=None if number else asked.id)


async def _resumed(run: Run, plan: Plan) -> _Place:
    """Of the plan about some that this very run asked about before it was resumed: its number, if the new one is the
    same; else that one makes place."""
    asked = await in_thread(run.store.asked_plan, run.source_name, run.directory_name, run=run.id)
    return _place_of(asked or await in_thread(_turned_down, run), plan)


def _place_of(asked: SavedPlan | None, plan: Plan) -> _Place:
    """Of the plan that this run asked about, if there is one: its number, where the new one is the same; else it makes
    place."""
    if asked is None or asked.digest == plan.digest:
        return _Place(asked.id if asked else None)
    return _Place(before=asked.id)


def _turned_down(run: Run) -> SavedPlan | None:
    """The plan that this run asked about before it was resumed, where a person turned it down by another way."""
    number = run.store.asked_about(run.id)
    asked = run.store.load_plan(number) if number else None
    return asked if asked is not None and asked.status == "rejected" else None


def close_plan(run: Run, number: int, now: datetime) -> None:
    """Another plan takes the place of this one. What a person turned down stays so."""
    if run.store.load_plan(number).status != "rejected":
        run.store.set_plan_status(number, "superseded", at=now)


def said_of(run: Run, proposal: Proposal, number: int) -> Decision | None:
    """What a person said of an earlier plan, where that holds for the new one, too."""
    said = run.store.decision(number, now=datetime.now(UTC))
    return said if said is not None and _covers(run, run.store.load_plan(number), proposal) else None


def _covers(run: Run, before: SavedPlan, proposal: Proposal) -> bool:
    """Whether whoever decides about an earlier plan decides about the new one, too: it is made by the same policy,
    about the same people, and asks nothing that the other one did not ask."""
    found, operations = proposal.verdict.found, proposal.plan.operations
    if before.policy != proposal.policy.model_dump_json() or before.about != str(proposal.basis.selection or ""):
        return False
    if not asks_no_more(before.asks, found):
        return False
    of = covered(found)
    return bool(also_in(run.store.operations(before.id, of=of), operations[operations["kind"].isin(of)]).all())


async def _saved(run: Run, proposal: Proposal, now: datetime) -> int:
    """The number under which the plan is stored."""
    basis, plan = proposal.basis, proposal.plan
    return await in_thread(
        run.store.save_plan,
        run=run.id,
        source=run.source_name,
        directory=run.directory_name,
        digest=plan.digest,
        source_snapshot=basis.source.saved.id,
        directory_snapshot=basis.crowd.saved.id,
        policy=proposal.policy.model_dump_json(),
        operations=plan.operations,
        held=plan.held,
        at=now,
        status="planned",
        about=str(basis.selection or ""),
        asks=asks_text(proposal.verdict.found),
    )


def stored_selection(run: Run, number: int) -> Selection | None:
    """What the stored plan is about that is to be carried out; None: everybody, or there is none (0)."""
    return None if not number else Selection.read(run.store.load_plan(number).about)


async def asking(run: Run, number: int) -> bool:
    """Whether the flow run of another run waits for a person to decide about a plan."""
    runs = await in_thread(run.store.runs_asking, run.source_name, run.directory_name, number)
    return any([await waits(flow_run) for other, flow_run in runs.items() if flow_run and other != run.id])


async def create_table(run: Run, stored: StoredPlan) -> str:
    """The plan as a table artifact of the flow run; its address there."""
    rows: list[dict[str, Any]] = [*plan_table(stored.plan.operations, run.policy.disclose)]
    description = plan_markdown(stored.plan, stored.number, stored.verdict, stored.impact, run.templates)
    return await show_table(run.key("plan"), rows, description)
