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
from connectors.store import Decision
from tasks.decide.guard import Verdict, limits_of
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.run import Run
from tasks.tell.events import emit
from tasks.tell.report import Filed, Proposal, file_plan, question_markdown


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


async def agree(run: Run, filed: Filed, propose: Callable[[Policy], Awaitable[Proposal]]) -> Filed:
    """A plan that needs agreement → what may be carried out: it, the harmless part of it (planned anew), or nothing."""
    decision = await decided(run, filed)
    if decision is None:
        return filed
    if decision.decision == "reject":
        return replace(filed, rejected=f"{decision.actor}: {decision.reason}")
    if decision.decision == "approve":
        return replace(filed, verdict=agreed(filed.verdict, decision))
    assert filed.number is not None
    proposal = await propose(run.policy.without(Kind(kind) for kind in decision.without))
    run.store.set_plan_status(filed.number, "superseded", at=datetime.now(UTC))
    selection = Selection.read(run.store.load_plan(filed.number).about)
    smaller = await file_plan(run, proposal, filed.kept, replaces=None, selection=selection)
    done = agreed(filed.verdict, decision).agreed
    return replace(smaller, verdict=replace(smaller.verdict, agreed=tuple(f"without: {text}" for text in done)))


async def decided(run: Run, filed: Filed) -> Decision | None:
    """What a person decided about a plan that needs agreement; None where nobody did, and nobody can be asked here.

    A deployment's run is suspended and ends here until somebody decides; only one run of a source asks at a time.
    """
    assert filed.number is not None
    known = run.store.decision(filed.number, now=datetime.now(UTC))
    if known is not None and known.digest == filed.plan.digest:
        return known
    if filed.waits:
        return None
    run.store.set_plan_status(filed.number, "waiting", at=datetime.now(UTC))
    if not deployment.id or flow_run.parent_flow_run_id:
        return None
    hours = run.policy.approval.expires_hours
    emit("plan.waiting", run.source_name, plan=filed.number, asks=[ask.text for ask in filed.verdict.asks])
    question = question_markdown(filed, hours)
    answer = await asuspend_flow_run(
        wait_for_input=Agreement.with_initial_data(description=question),
        timeout=int(hours * 3600),
        key=f"plan-{filed.number}",
    )
    assert isinstance(answer, Agreement)
    decide(run, filed, answer.decision(), answer.name, answer.reason)
    return run.store.decision(filed.number, now=datetime.now(UTC))


def decide(run: Run, filed: Filed, decision: str, actor: str, reason: str) -> None:
    """Writes a decision down, made in the Prefect UI."""
    assert filed.number is not None
    now = datetime.now(UTC)
    if decision == "approve_without" and not filed.verdict.dangerous:
        decision = "approve"  # all of it is without danger
    run.store.decide(
        filed.number,
        digest=filed.plan.digest,
        decision=decision,
        actor=actor,
        reason=reason,
        without=filed.verdict.dangerous if decision == "approve_without" else (),
        expires_at=now + timedelta(hours=run.policy.approval.expires_hours),
        via="prefect",
        at=now,
    )


def agreed(verdict: Verdict, decision: Decision) -> Verdict:
    """A verdict whose questions a person answered."""
    texts = tuple(f"{ask.text} — {decision.actor}: {decision.reason}" for ask in verdict.asks)
    return replace(verdict, asks=(), agreed=texts, passed=limits_of(verdict.asks))
