"""What a run came to, decided once; and its report: to the store, to the Prefect page, to the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pandas as pd

from connectors.errors import CrowdsyncError
from connectors.model import sizes_only
from connectors.store import in_thread
from tasks.decide.impact import lines as impact_lines
from tasks.decide.names import among
from tasks.decide.plan import Plan
from tasks.policy import Policy
from tasks.read.remember import held_keys, remember_in_step
from tasks.run import WRITING, Run, finish
from tasks.tell.events import emit
from tasks.tell.page import name_run, run_id, say, show_markdown
from tasks.tell.render import left_in, report_card, report_markdown, unheeded, wanted_names
from tasks.tell.rows import count_line, written
from tasks.tell.stored_plan import StoredPlan
from tasks.write.apply import Applied


@sizes_only
@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. `status`: nothing to do, planned, refused, waiting (for a person), rejected (by one), applied,
    partly applied, stopped (`why`), skipped (`why`). `impact`: what it does to people, in lines; `orphans`: how many
    records of Crowd belong to no source; `verified`: operations of the canary."""

    run: str
    source: str
    directory: str
    status: str
    plan: int | None
    planned: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    withheld: Mapping[str, int] = field(default_factory=dict)
    reported: pd.DataFrame = field(default_factory=pd.DataFrame)
    impact: tuple[str, ...] = ()
    orphans: int = 0
    verified: int = 0
    held: pd.DataFrame = field(default_factory=pd.DataFrame)
    warnings: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Records that go on without a field, because what stands in it is no value for it."""
    refusals: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    agreed: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    """The limits that the plan went past, by agreement or by force: what they count begins anew."""
    snapshots: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    failed: pd.DataFrame = field(default_factory=pd.DataFrame)
    seconds: Mapping[str, float] = field(default_factory=dict)
    read: str = ""
    """How both sides were read, in a sentence, where that was not whole, or where less was tried."""
    missed: Mapping[str, int] = field(default_factory=dict)
    """Of a full read: how many people and accounts had changed, and how many of them no delta or event had named."""
    why: str = ""
    about: str = ""
    """Whom the run was about alone: person:ID or group:NAME."""
    standing: str = ""
    """Of a run about one person that has nothing to do: how they stand."""
    shielded: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Held people who have left by the source's word, and whose account stays active (as in `Plan`)."""
    lasting: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Records that have been held for long: kind, id, name, reason, since, runs, told_at."""
    loud: tuple[str, ...] = ()
    """What a person has to see to, though nothing failed: somebody is in or out against the source's word."""
    remarks: tuple[str, ...] = ()
    """Who stays in against the source's word because the policy says so."""

    @property
    def headline(self) -> str:
        """How the run ended, in one line that says all that somebody must know."""
        but = "; ".join((*self.loud, *self.remarks))
        return f"{self.status}, but {but}" if but else self.status

    @property
    def outcome(self) -> str:
        """How the run ended, for its name in a list: `plan 7 waits for agreement: - 12 deactivate`."""
        counts = count_line(self.planned, 3)
        plan = f"plan {self.plan}" if self.plan else "a plan"
        said = {
            "applied": counts,
            "planned": f"{plan}: {counts}",
            "waiting": f"{plan} waits for agreement: {counts}",
            "refused": f"{plan} refused: {counts}" if self.planned else "refused",
            "rejected": f"{plan} rejected",
            "partly applied": f"{len(self.failed):,} of {sum(self.planned.values()):,} operations failed",
        }.get(self.status, self.status)
        return f"{said} (see its report)" if self.loud else said

    def summary(self) -> dict[str, Any]:
        """The report as JSON values: counts and ids only."""
        return {
            "status": self.status,
            "plan": self.plan,
            "planned": dict(self.planned),
            "outcomes": dict(self.outcomes),
            "withheld": dict(self.withheld),
            "held": len(self.held),
            "left_out": len(self.warnings),
            "refusals": list(self.refusals),
            "asks": list(self.asks),
            "agreed": list(self.agreed),
            "reported": len(self.reported),
            "orphans": self.orphans,
            "canary": self.verified,
            "forced": list(self.forced),
            "snapshots": dict(self.snapshots),
            "sizes": {side: list(size) for side, size in self.sizes.items()},
            **({"passed": list(self.passed)} if self.passed else {}),
            **({"read": self.read} if self.read else {}),
            **({"missed": dict(self.missed)} if self.missed else {}),
            **({"about": self.about} if self.about else {}),
            **({"error": self.why} if self.why else {}),
            **({"loud": list(self.loud)} if self.loud else {}),
            **({"remarks": list(self.remarks)} if self.remarks else {}),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
        }


class ReportedError(CrowdsyncError):
    """The run ended short of its goal; `report` says how far it came."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@sizes_only
@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to: its status and why (as in `Report`); of a plan that was carried out, its operations by state
    in the journal, those that failed or were skipped, how many were verified first, and what stopped it."""

    status: str
    why: str = ""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    failed: pd.DataFrame = field(default_factory=pd.DataFrame)
    verified: int = 0
    stopped: CrowdsyncError | None = None

    def in_step(self, stored: StoredPlan, policy: Policy) -> bool:
        """Whether Crowd is in step with the source now, as far as the run saw: its plan was about everybody, no part of
        it was left out (that is another policy than the run's), and all of it holds."""
        done = self.status in ("nothing to do", "applied") and not self.outcomes.get("undone")
        return done and stored.proposal.basis.about_everybody and stored.proposal.policy == policy


def ended(run: Run, stored: StoredPlan, mode: str, applied: Applied | None) -> Ending:
    """What a run came to, whose plan was carried out (`applied`) or not. A plan that was carried out to its end is
    closed in the store; one that was stopped stays open, and the next run finds out what became of it."""
    number, verdict = stored.number, stored.verdict
    why = stored.rejected or stored.waits
    if verdict.refusals:
        return Ending("refused", why)
    if stored.rejected:
        return Ending("rejected", why)
    if mode in WRITING and verdict.asks and (number or stored.waits):
        way = f"plan {number} needs agreement: crowdsync approve {number} --by NAME --reason TEXT, then apply it"
        return Ending("waiting", why or way)
    if number is None:
        return Ending("nothing to do", why)
    if applied is None:
        return Ending("planned", why)
    outcomes, bad = run.store.outcomes(number), ("failed", "skipped")
    failed = run.store.operations(number, states=bad) if any(map(outcomes.get, bad)) else pd.DataFrame()
    if applied.stopped:
        return Ending("stopped", why or str(applied.stopped), outcomes, failed, applied.verified, applied.stopped)
    run.store.set_plan_status(number, "failed" if len(failed) else "applied", at=datetime.now(UTC))
    return Ending("partly applied" if len(failed) else "applied", why, outcomes, failed, applied.verified)


AGAIN_AFTER: Final = timedelta(hours=24)
"""After so long a message is sent again of what nobody saw to."""


def lasting(run: Run, plan: Plan) -> pd.DataFrame:
    """The held records of a plan that were held in many runs before: kind, id, name, reason, since, runs, told_at."""
    held = held_keys(plan.held, plan.shielded)
    known = run.store.held_records(run.directory_name, run.source_name).drop(columns="reason")
    found = held.merge(known, on=["kind", "id"])
    least = run.policy.limits.held_runs
    long = found[found["runs"] >= least] if least is not None else found[:0]
    return long.sort_values(["runs", "kind", "id"], ascending=[False, True, True], ignore_index=True)


def emit_unheeded(run: Run, report: Report) -> None:
    """Emits an event about the held records that people have to see to: when it is new, and once a day."""
    if not len(report.shielded) and not len(report.lasting):
        return  # what else is loud stands in every report, and in the exit code
    now = datetime.now(UTC)
    known = run.store.held_records(run.directory_name, run.source_name)
    loud = held_keys(*(one for one in (report.shielded, report.lasting) if len(one)))
    loud = loud.merge(known[["kind", "id", "told_at"]], on=["kind", "id"], how="left")
    if (loud["told_at"].isna() | (loud["told_at"] <= pd.Timestamp(now - AGAIN_AFTER))).any():
        emit("source.unheeded", run.source_name, plan=report.plan, headlines=list(report.loud))
        run.store.tell_held(run.directory_name, run.source_name, loud, at=now)


async def concluded(
    run: Run,
    stored: StoredPlan,
    mode: str,
    applied: Applied | None,
) -> Report:
    """The report of a run, which is recorded, shown on its page and, where it must be, emitted.

    Raises `ReportedError` where the plan was refused or some of its operations failed.
    """
    ending = await in_thread(ended, run, stored, mode, applied)
    report = await in_thread(reported, run, stored, ending)
    if ending.in_step(stored, run.policy):
        basis = stored.proposal.basis
        await remember_in_step(run, basis.cursors, basis.source.saved.id)
        if run.put_back and run.lasting:
            await in_thread(run.store.saw_put_back, run.directory_name, run.source_name)
    text, card = report_markdown(report, run.templates), report_card(report, run.templates)
    await show_markdown(run.key("report"), text, card)
    await name_run(report.outcome)
    await in_thread(finish, run, ending.status, report.summary())
    line = f"Written: {written(ending.outcomes)}." if ending.outcomes else f"Planned: {count_line(report.planned)}."
    say("%s. %s Held: %d.", report.headline.capitalize(), line, len(report.held))
    if report.loud and mode in WRITING:
        await in_thread(emit_unheeded, run, report)
    if report.refusals:
        emit("plan.refused", run.source_name, plan=report.plan, refusals=list(report.refusals))
    raise_if_short(report, ending)
    return report


def reported(run: Run, stored: StoredPlan, ending: Ending) -> Report:
    """The report of a run that came to `ending`."""
    proposal, plan, verdict = stored.proposal, stored.plan, stored.verdict
    source, crowd = proposal.basis.source, proposal.basis.crowd
    long = lasting(run, plan)
    longer = long[~among(long["id"], plan.shielded["id"])]  # who is in wrongly is named once
    return Report(
        run=run.id,
        source=run.source_name,
        directory=run.directory_name,
        status=ending.status,
        plan=stored.number,
        planned=plan.counts(),
        outcomes=ending.outcomes,
        withheld=plan.withheld,
        reported=plan.reported,
        impact=tuple(impact_lines(stored.impact)),
        orphans=proposal.orphans,
        verified=ending.verified,
        held=plan.held,
        warnings=plan.warnings,
        refusals=verdict.refusals,
        asks=tuple(ask.text for ask in verdict.asks),
        agreed=verdict.agreed,
        forced=verdict.forced,
        passed=verdict.passed if ending.outcomes else (),
        snapshots={"source": source.saved.id, "directory": crowd.saved.id},
        sizes={one.name: (one.saved.users, one.saved.groups, one.saved.memberships) for one in (source, crowd)},
        failed=ending.failed,
        seconds=run.seconds,
        read=proposal.basis.read,
        missed=proposal.basis.missed.figures() if proposal.basis.missed else {},
        about="" if proposal.basis.about_everybody else str(proposal.basis.selection),
        why=ending.why,
        standing=proposal.standing,
        shielded=plan.shielded,
        lasting=longer,
        loud=(*unheeded(plan.shielded, longer), *wanted_names(plan.held), *proposal.basis.loud),
        remarks=(*left_in(plan.withheld, run.policy), *left_to_news(ending.outcomes)),
    )


def left_to_news(outcomes: Mapping[str, int]) -> tuple[str, ...]:
    """What of a plan was left out for batches of news that came meanwhile, in words."""
    left = outcomes.get("undone", 0)
    return (f"{left} of its operations were left to news that came meanwhile",) if left else ()


def raise_if_short(report: Report, ending: Ending) -> None:
    """Raises `ReportedError` where the run was refused, was stopped, or some of its operations failed."""
    if report.refusals:
        raise ReportedError("; ".join(report.refusals), report)
    planned = sum(report.planned.values())
    if ending.stopped:
        done = ending.outcomes.get("done", 0) + ending.outcomes.get("already", 0)
        raise ReportedError(
            f"stopped after {done:,} of {planned:,} operations: {ending.stopped} "
            "Then run again: what is left is planned anew.",
            report,
        )
    if len(ending.failed):
        raise ReportedError(f"{len(ending.failed):,} of {planned:,} operations failed: see the report", report)


async def skipped_report(source: str, directory: str, why: str) -> Report:
    """The report of a run that left the field to another one, or its source alone."""
    say("Skipped: %s", why)
    await name_run("skipped")
    return Report(run=run_id(), source=source, directory=directory, status="skipped", plan=None, why=why)
