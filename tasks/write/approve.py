"""Agreement of a person to a plan: asked for in the Prefect UI or on the command line, bound to the plan's digest.

A deployment's run is suspended: it frees its worker, outlives restarts of both, and when it is resumed it reads and
plans anew. Agreement to a plan that is no longer true counts for nothing; its run asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from connectors.operations import Kind
from connectors.store import Decision, in_thread
from tasks.decide.guard import Verdict, limits_of
from tasks.policy import Policy
from tasks.run import Run
from tasks.tell.events import emit
from tasks.tell.page import name_run, page
from tasks.tell.proposal import Basis, Proposal
from tasks.tell.render import dangerous_part, question_markdown
from tasks.tell.rows import count_line
from tasks.tell.stored_plan import StoredPlan, store_plan

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
    shown = page()
    if not (can_ask := shown is not None and shown.can_ask) and before == "waiting":
        return None  # (it was told)
    emit("plan.waiting", run.source_name, plan=stored.number, asks=[ask.text for ask in stored.verdict.asks])
    if shown is None or not can_ask:
        return None
    hours = run.policy.approval.expires_hours
    question = question_markdown(stored, hours, run.templates)
    await name_run(f"plan {stored.number} waits for agreement: {count_line(stored.plan.counts(), 3)}")
    in_part = bool(dangerous_part(stored))
    run.asked = stored.number
    answer = await shown.ask(f"plan-{stored.number}", question, hours, in_part=in_part)
    await in_thread(decide, run, stored, answer.decided(), answer.name, answer.reason)
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
