"""Agreement of a person to a plan: asked for in the Prefect UI or on the command line, bound to the plan's digest.

A deployment's run is suspended: it frees its worker, outlives restarts of both, and when it is resumed it reads and
plans anew. What a person said of a plan that is no longer true holds for the new one where that asks nothing else
(`tasks.decide.agreement`); where it does, its run asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pandas as pd

from connectors.model import sizes_only
from connectors.operations import Kind
from connectors.store import Decision, in_thread
from tasks.decide.agreement import kinds_asked
from tasks.decide.beside import beside, first_owners, owners_by_name, people_in
from tasks.decide.guard import Verdict, limits_of
from tasks.policy import Policy
from tasks.run import Run
from tasks.tell.events import emit
from tasks.tell.page import can_ask, name_run, page
from tasks.tell.proposal import Basis, Proposal
from tasks.tell.render import dangerous_part, question_markdown
from tasks.tell.rows import count_line
from tasks.tell.stored_plan import StoredPlan, close_plan, said_of, store_plan

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
    if stored.before is not None and (said := await said_before(run, stored, stored.before)) is not None:
        return said
    if stored.waits:
        return None
    before = (await in_thread(run.store.load_plan, stored.number)).status
    await in_thread(run.store.set_plan_status, stored.number, "waiting", at=datetime.now(UTC))
    if not can_ask() and before == "waiting":
        return None  # (it was told)
    emit("plan.waiting", run.source_name, plan=stored.number, asks=[ask.text for ask in stored.verdict.asks])
    if (shown := page()) is None or not shown.can_ask:
        return None
    hours = run.policy.approval.expires_hours
    question = question_markdown(stored, hours, run.templates)
    await name_run(f"plan {stored.number} waits for agreement: {count_line(stored.plan.counts(), 3)}")
    in_part = bool(dangerous_part(stored))
    run.asked = stored.number
    answer = await shown.ask(f"plan-{stored.number}", question, hours, in_part=in_part)
    await in_thread(decide, run, stored.number, stored.plan.digest, stored.verdict.dangerous, *answer.said())
    return await in_thread(run.store.decision, stored.number, now=datetime.now(UTC))


async def said_before(run: Run, stored: StoredPlan, number: int) -> Decision | None:
    """What a person said of the plan whose place this one takes, written down as said of this one, where it holds for
    it. That plan is closed."""
    before, shown = await in_thread(run.store.load_plan, number), page()
    asked = await in_thread(run.store.asked_about, run.id)
    if before.status == "waiting" and shown is not None and asked == number:  # (it was resumed with the answer)
        hours = run.policy.approval.expires_hours
        answer = await shown.ask(f"plan-{number}", question_markdown(stored, hours, run.templates), hours, in_part=True)
        await in_thread(decide, run, number, before.digest, kinds_asked(before.asks), *answer.said())
    said = await in_thread(said_of, run, stored.proposal, number)
    now = datetime.now(UTC)
    await in_thread(close_plan, run, number, now)
    if said is None:
        return None
    assert stored.number is not None
    await in_thread(
        run.store.decide,
        stored.number,
        digest=stored.plan.digest,
        decision=said.decision,
        actor=said.actor,
        reason=f"{said.reason} (said of plan {number}, which asked all that this one asks)",
        without=said.without,
        expires_at=said.expires_at,
        via=said.via,
        at=now,
        login=said.login,
    )
    return await in_thread(run.store.decision, stored.number, now=now)


def decide(  # (one argument for each thing that stands in the record)
    run: Run, number: int, digest: str, dangerous: Sequence[Kind], decision: str, actor: str, reason: str
) -> None:
    """Writes down what a person decided in the Prefect UI of the plan with this number and digest."""
    now = datetime.now(UTC)
    if decision == "approve_without" and not dangerous:
        decision = "approve"  # all of it is without danger
    run.store.decide(
        number,
        digest=digest,
        decision=decision,
        actor=actor,
        reason=reason,
        without=dangerous if decision == "approve_without" else (),
        expires_at=now + timedelta(hours=run.policy.approval.expires_hours),
        via="prefect",
        at=now,
    )


STANDS: Final = {
    "planned": "plan {}, which nobody has agreed to yet, asks about it",
    "waiting": "a person is asked about it: plan {} waits for agreement",
    "approved": "a person agreed to it in plan {}, which is to be carried out",
    "rejected": "a person turned it down in plan {}",
    "refused": "plan {}, which was refused, does it too",
}


@sizes_only
@dataclass(frozen=True, slots=True)
class Against:
    """What stands against a plan about some: `why`, in words that follow "because"; the `operations` that it is about;
    a plan without these `kinds` has none of them; and the `fresh` ones, that may be done all the same."""

    why: str
    operations: pd.DataFrame
    kinds: tuple[Kind, ...]
    fresh: pd.DataFrame


def asked_already(run: Run, operations: pd.DataFrame, links: pd.DataFrame) -> Against | None:
    """That a person is asked about some operations of a plan, or turned them down, in the newest plan about everybody;
    None where that is not so. Of these people nothing is done that the other plan does; what it does not is fresh.
    `links`: of the accounts that the operations are about."""
    stopped = run.store.stopped_plan(run.source_name, run.directory_name) if len(operations) else None
    if stopped is None or not operations["kind"].isin(of := kinds_asked(stopped.asks)).any():
        return None
    renamed = run.store.renamed_since(run.source_name, run.directory_name, stopped.created_at)
    now = owners_by_name(links, run.source_name)
    people = {*people_in(operations, now)} - {""}
    names = {*operations["name"], *links["name"], *renamed["name"][renamed["source_id"].isin(people)]}
    theirs = run.store.operations_about(stopped.id, names, people)
    found = beside(theirs, of, now | first_owners(renamed), operations, now)
    if not found.asked.any():
        return None
    done_too = found.asked | found.same
    kinds = tuple(Kind(kind) for kind in operations["kind"][done_too].unique())
    why = STANDS[stopped.status].format(stopped.id)
    return Against(why, operations[found.asked], kinds, operations[~done_too])


def agreed(verdict: Verdict, decision: Decision) -> Verdict:
    """A verdict whose questions a person answered."""
    texts = tuple(f"{ask.text} — {decision.actor}: {decision.reason}" for ask in verdict.asks)
    return replace(verdict, asks=(), agreed=texts, passed=limits_of(verdict.asks))
