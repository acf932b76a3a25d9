"""A plan in the store: saved under a number, or found to be one that is stored already; and its table on the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from connectors.errors import ConfigurationError
from connectors.model import sizes_only
from connectors.store import in_thread
from tasks.decide.guard import Verdict
from tasks.decide.impact import Impact
from tasks.decide.plan import Plan
from tasks.decide.selection import Selection
from tasks.run import Run
from tasks.tell.page import has_page, show_table, waits
from tasks.tell.proposal import Proposal
from tasks.tell.render import plan_markdown, plan_table
from tasks.write.open import refuse_unless_open


@sizes_only
@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A judged plan and its number in the store; None where there is nothing to do. `verdict` is the proposal's, with
    what a person decided since; `waits`: why nobody is asked; `rejected`: who did, and why; `link`: to its table, from
    the root of Prefect's UI."""

    number: int | None
    proposal: Proposal
    verdict: Verdict
    waits: str = ""
    rejected: str = ""
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

    With `replaces`, the plan is the proof that the stored one is still true: if it is not, the new one
    is stored, and refused for a person to look at. A plan that waits for agreement is taken up where it is still true.
    """
    plan, verdict = proposal.plan, proposal.verdict
    now = datetime.now(UTC)
    number: int | None = None
    waits = ""
    if replaces is not None:
        number = await _still_true(run, plan, replaces, now)
    elif run.writing and proposal.basis.selection is None:
        number, waits = await _waiting(run, plan, verdict, now)
    elif run.writing and verdict.asks:
        number = await _resumed(run, plan, now)
    if number is None and len(plan.operations) and not waits:  # (it would be stored anew at every run until then)
        number = await _saved(run, proposal, now)
    if replaces not in (None, number):
        moved = f"plan {replaces} is no longer true: the source, Crowd or the policy changed since; "
        way = f"plan {number} takes its place: look at it, then apply it" if number else "nothing is left to do"
        verdict = replace(verdict, refusals=(*verdict.refusals, moved + way))
    if number and verdict.refusals and number != replaces:
        status = "refused" if replaces is None else "planned"
        await in_thread(run.store.set_plan_status, number, status, at=now)
    stored = StoredPlan(number, proposal, verdict, waits)
    if (number or waits) and has_page():
        stored = replace(stored, link=await create_table(run, stored))
    return stored


async def _still_true(run: Run, plan: Plan, replaces: int, now: datetime) -> int | None:
    """The number of the stored plan that is to be carried out, if it is the same as the new one; else None."""
    stored = await in_thread(run.store.load_plan, replaces)
    if stored.source != run.source_name or stored.directory != run.directory_name:
        raise ConfigurationError(f"plan {replaces} is for {stored.source} → {stored.directory}; name that source")
    refuse_unless_open(replaces, stored.status)
    if stored.digest == plan.digest:
        return replaces
    if run.writing:
        await in_thread(run.store.set_plan_status, replaces, "superseded", at=now)
    return None


async def _waiting(run: Run, plan: Plan, verdict: Verdict, now: datetime) -> tuple[int | None, str]:
    """Of the plan that waits for agreement, if there is one: its number, where the new one is the same; and why nobody
    is asked, where its run asks already. One that is neither is superseded."""
    asked = await in_thread(run.store.asked_plan, run.source_name, run.directory_name)
    if asked is None:
        return None, ""
    number = asked.id if asked.digest == plan.digest else None
    if asked.run != run.id and verdict.asks and await asking(run, asked.run):
        since = f"{asked.status_at:%Y-%m-%d %H:%M} UTC"
        return number, f"plan {asked.id} waits for agreement since {since}: decide on that first"
    if number is None:
        await in_thread(run.store.set_plan_status, asked.id, "superseded", at=now)
    return number, ""


async def _resumed(run: Run, plan: Plan, now: datetime) -> int | None:
    """The number of the plan about some that this very run asked about before it was resumed, if the new one is the
    same; else that one is superseded."""
    asked = await in_thread(run.store.asked_plan, run.source_name, run.directory_name, run=run.id)
    if asked is None or asked.digest == plan.digest:
        return asked.id if asked else None
    await in_thread(run.store.set_plan_status, asked.id, "superseded", at=now)
    return None


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
    )


def stored_selection(run: Run, number: int) -> Selection | None:
    """What the stored plan is about that is to be carried out; None: everybody, or there is none (0)."""
    return None if not number else Selection.read(run.store.load_plan(number).about)


async def asking(run: Run, other: str) -> bool:
    """Whether the flow run of another run still waits for a person."""
    flow_run_id = (await in_thread(run.store.run, other))["flow_run_id"]
    return bool(flow_run_id) and await waits(flow_run_id)


async def create_table(run: Run, stored: StoredPlan) -> str:
    """The plan as a table artifact of the flow run; its address there."""
    rows: list[dict[str, Any]] = [*plan_table(stored.plan.operations, run.policy.disclose)]
    description = plan_markdown(stored.plan, stored.number, stored.verdict, stored.impact, run.templates)
    return await show_table(run.key("plan"), rows, description)
