"""Agreement of a person to a plan: asked for in the Prefect UI or on the command line, bound to the plan's digest.

A deployment's run is suspended: it frees its worker, outlives restarts of both, and when it is resumed it reads and
plans anew. Agreement to a plan that is no longer true counts for nothing; its run asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field

from connectors.operations import Kind
from connectors.store import Decision, in_thread
from tasks.decide.guard import Verdict, limits_of
from tasks.policy import Policy
from tasks.run import Run
from tasks.tell.events import emit
from tasks.tell.proposal import Basis, Proposal
from tasks.tell.render import question_markdown
from tasks.tell.stored_plan import StoredPlan, store_plan


class Agreement(RunInput):
    """What a person decides about a plan. (Two switches: a list to choose from does not open in Prefect's dialog.)"""

    approve: bool = Field(False, title="Approve", description="On: the plan is carried out. Off: it is rejected.")
    without: bool = Field(
        False,
        title="Without the dangerous part",
        description="On: the operations of the kinds named above are left out.",
    )
    name: str = Field(min_length=2, max_length=200, title="Your name", description="It stands in the audit.")
    reason: str = Field(min_length=2, max_length=1000, title="Reason", description="It stands in the audit.")

    def decision(self) -> str:
        """As the store calls it."""
        if not self.approve:
            return "reject"
        return "approve_without" if self.without else "approve"


Propose = Callable[[Run, Basis, Policy], Awaitable[Proposal]]
"""How a plan is made anew: `tasks.stages.propose`."""


async def agree(run: Run, stored: StoredPlan, propose: Propose) -> StoredPlan:
    """A plan that needs agreement → what may be carried out: it, the harmless part of it (planned anew), or nothing."""
    decision = await decided(run, stored)
    if decision is None:
        return stored
    if decision.decision == "reject":
        return replace(stored, rejected=f"{decision.actor}: {decision.reason}")
    if decision.decision == "approve":
        return replace(stored, verdict=agreed(stored.verdict, decision))
    assert stored.number is not None
    harmless = run.policy.without(Kind(kind) for kind in decision.without)
    proposal = await propose(run, stored.proposal.basis, harmless)
    await in_thread(run.store.set_plan_status, stored.number, "superseded", at=datetime.now(UTC))
    smaller = await store_plan(run, proposal, replaces=None)
    done = agreed(stored.verdict, decision).agreed
    return replace(smaller, verdict=replace(smaller.verdict, agreed=tuple(f"without: {text}" for text in done)))


async def decided(run: Run, stored: StoredPlan) -> Decision | None:
    """What a person decided about a plan that needs agreement; None where nobody did, and nobody can be asked here.

    A deployment's run is suspended and ends here until somebody decides; only one run of a source asks at a time.
    """
    assert stored.number is not None
    known = await in_thread(run.store.decision, stored.number, now=datetime.now(UTC))
    if known is not None and known.digest == stored.plan.digest:
        return known
    if stored.waits:
        return None
    before = (await in_thread(run.store.load_plan, stored.number)).status
    await in_thread(run.store.set_plan_status, stored.number, "waiting", at=datetime.now(UTC))
    if not (can_ask := bool(deployment.id and not flow_run.parent_flow_run_id)) and before == "waiting":
        return None  # (it was told)
    emit("plan.waiting", run.source_name, plan=stored.number, asks=[ask.text for ask in stored.verdict.asks])
    if not can_ask:
        return None
    hours = run.policy.approval.expires_hours
    question = question_markdown(stored, hours)
    answer = await asuspend_flow_run(
        wait_for_input=Agreement.with_initial_data(description=question),
        timeout=int(hours * 3600),
        key=f"plan-{stored.number}",
    )
    assert isinstance(answer, Agreement)
    await in_thread(decide, run, stored, answer.decision(), answer.name, answer.reason)
    return await in_thread(run.store.decision, stored.number, now=datetime.now(UTC))


def decide(run: Run, stored: StoredPlan, decision: str, actor: str, reason: str) -> None:
    """Writes a decision down, made in the Prefect UI."""
    assert stored.number is not None
    now = datetime.now(UTC)
    if decision == "approve_without" and not stored.verdict.dangerous:
        decision = "approve"  # all of it is without danger
    run.store.decide(
        stored.number,
        digest=stored.plan.digest,
        decision=decision,
        actor=actor,
        reason=reason,
        without=stored.verdict.dangerous if decision == "approve_without" else (),
        expires_at=now + timedelta(hours=run.policy.approval.expires_hours),
        via="prefect",
        at=now,
    )


def agreed(verdict: Verdict, decision: Decision) -> Verdict:
    """A verdict whose questions a person answered."""
    texts = tuple(f"{ask.text} — {decision.actor}: {decision.reason}" for ask in verdict.asks)
    return replace(verdict, asks=(), agreed=texts, passed=limits_of(verdict.asks))
