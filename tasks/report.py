"""What people see of a run: the plan as a table, held records with the way out, the summary.

The same functions feed the Prefect artifacts and the terminal. Usernames, group names and the names of
changed fields are shown; values only where the policy discloses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from connectors.contract import Kind
from connectors.errors import ConfigurationError, CrowdsyncError, RefusedError
from connectors.store import SavedSnapshot
from tasks.guard import Verdict
from tasks.names import spelled
from tasks.plan import Plan
from tasks.run import Run, finish

ROWS: Final = 200
"""Rows that the Prefect page shows at ease; the whole plan is in the store."""

SIGNS: Final[Mapping[Kind, tuple[str, str]]] = {
    Kind.USER_DELETE: ("-", "delete account"),
    Kind.GROUP_DELETE: ("-", "delete group"),
    Kind.USER_DEACTIVATE: ("-", "deactivate"),
    Kind.MEMBERSHIP_REMOVE: ("-", "take out of group"),
    Kind.NESTING_REMOVE: ("-", "take group out of group"),
    Kind.USER_RENAME: ("~", "rename"),
    Kind.USER_ACTIVATE: ("+", "activate"),
    Kind.GROUP_UPDATE: ("~", "update group"),
    Kind.USER_UPDATE: ("~", "update"),
    Kind.USER_ATTRIBUTES: ("~", "set attributes"),
    Kind.USER_CREATE: ("+", "create account"),
    Kind.GROUP_CREATE: ("+", "create group"),
    Kind.NESTING_ADD: ("+", "put group into group"),
    Kind.MEMBERSHIP_ADD: ("+", "put into group"),
    Kind.GROUP_ATTRIBUTES: ("~", "mark group"),
}
"""Sign and words of each kind, the most dangerous first."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. `status`: nothing to do, planned, refused, applied, partly applied, stopped (`why`)."""

    run: str
    source: str
    directory: str
    status: str
    plan: int | None
    planned: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    withheld: Mapping[str, int] = field(default_factory=dict)
    held: pd.DataFrame = field(default_factory=pd.DataFrame)
    refusals: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    snapshots: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    failed: pd.DataFrame = field(default_factory=pd.DataFrame)
    seconds: Mapping[str, float] = field(default_factory=dict)
    since: str = ""
    """Of an incremental read: when the source was last read whole."""
    why: str = ""

    def summary(self) -> dict[str, Any]:
        """The report as JSON values: counts and ids only."""
        return {
            "status": self.status,
            "plan": self.plan,
            "planned": dict(self.planned),
            "outcomes": dict(self.outcomes),
            "withheld": dict(self.withheld),
            "held": len(self.held),
            "refusals": list(self.refusals),
            "forced": list(self.forced),
            "snapshots": dict(self.snapshots),
            "sizes": {side: list(size) for side, size in self.sizes.items()},
            **({"full_read": self.since} if self.since else {}),
            **({"error": self.why} if self.why else {}),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
        }


class ReportedError(CrowdsyncError):
    """The run ended short of its goal; `report` says how far it came."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def plan_rows(operations: pd.DataFrame, disclose: str, limit: int = ROWS) -> list[dict[str, str]]:
    """Operations → table rows for people, the most dangerous kinds first, at most `limit`."""
    rank = {kind.value: n for n, kind in enumerate(SIGNS)}
    chosen = operations.assign(rank=operations["kind"].map(rank)).sort_values(["rank", "seq"]).head(limit)
    rows = []
    for row in chosen.itertuples():
        sign, words = SIGNS[Kind(str(row.kind))]
        line = {
            "": sign,
            "what": words,
            "who": str(row.name),
            "to": str(row.target),
            "changes": changes(str(row.record), str(row.before), disclose),
            "because it": str(row.reason),
        }
        if "state" in operations.columns:
            line |= {"state": str(row.state), "note": str(row.note)}
        rows.append(line)
    return rows


def changes(record: str, before: str, disclose: str) -> str:
    """Which fields an operation changes: names, or `name: old → new` where values may be shown."""
    if not before or not record:
        return ""
    old, new = orjson.loads(before), orjson.loads(record)
    if "attributes" in old:
        old, new = old["attributes"], new.get("attributes", {})
    names = [name for name in old if name != "username"]
    if disclose != "values":
        return ", ".join(names)
    return ", ".join(f"{name}: {_text(old[name])} → {_text(new.get(name, ''))}" for name in names)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def count_line(counts: Mapping[str, int]) -> str:
    """`+ 12 create account, ~ 3 update`: counts by kind for one line."""
    parts = [(sign, counts[kind], words) for kind, (sign, words) in SIGNS.items() if counts.get(kind)]
    return ", ".join(f"{sign} {count:,} {words}" for sign, count, words in parts) or "nothing to do"


WORDS: Final[Mapping[str, str]] = {
    "planned": "not begun",
    "intended": "begun, and the end not known",
    "done": "done",
    "already": "already so",
    "failed": "failed",
    "skipped": "skipped, because they wait for one that failed",
    "undone": "found not done",
}
"""What the states of the journal mean."""


def written(outcomes: Mapping[str, int]) -> str:
    """`150 done, 2 already so, 1 failed`: what became of a plan's operations, in one line."""
    return ", ".join(f"{outcomes[state]:,} {words}" for state, words in WORDS.items() if outcomes.get(state))


def plan_markdown(plan: Plan, number: int | None, refusals: tuple[str, ...]) -> str:
    """The head of the plan's table: what it would do, and what stands against it."""
    lines = [f"**Plan {number or ''}: {len(plan.operations):,} operations** · digest `{plan.digest[:12]}`", ""]
    lines += ["| | operation | count |", "|---|---|---:|"]
    counts = plan.counts()
    for kind, (sign, words) in SIGNS.items():
        if kind.value in counts:
            lines.append(f"| {sign} | {words} | {counts[kind.value]:,} |")
    lines.append("")
    if refusals:
        lines += ["**Refused:**", "", *(f"- {_cell(refusal)}" for refusal in refusals), ""]
    if plan.withheld:
        lines += [f"Withheld by the policy: {count_line(plan.withheld)}.", ""]
    if len(plan.operations) > ROWS:
        lines.append(f"The table shows the {ROWS} most dangerous; all of it: `crowdsync plan --show {number}`.")
    return "\n".join(lines)


def report_markdown(report: Report) -> str:
    """The run report, for its artifact."""
    lines = [f"# {report.source} → {report.directory}: {report.status}", ""]
    lines += ["| as read before | users | groups | memberships |", "|---|---:|---:|---:|"]
    for side, (users, groups, memberships) in report.sizes.items():
        lines.append(f"| {side} | {users:,} | {groups:,} | {memberships:,} |")
    if report.since:
        lines += ["", f"Only what changed was read from {report.source}; the last full read was at {report.since}."]
    if report.why:
        lines += ["", f"**Stopped:** {_cell(report.why)}"]
    number = f" (plan {report.plan})" if report.plan else ""
    lines += ["", f"Planned{number}: {count_line(report.planned)}."]
    if report.withheld:
        lines += ["", f"Withheld by the policy: {count_line(report.withheld)}."]
    if report.outcomes:
        lines += ["", f"Written: {written(report.outcomes)}."]
    for title, refusals in (("Refused", report.refusals), ("Forced past", report.forced)):
        if refusals:
            lines += ["", f"## {title}", "", *(f"- {_cell(refusal)}" for refusal in refusals)]
    if len(report.failed):
        lines += ["", "## Failed", "", "| operation | who | to | why |", "|---|---|---|---|"]
        for row in report.failed.head(ROWS).itertuples():
            words = SIGNS[Kind(str(row.kind))][1]
            lines.append(f"| {words} | {_cell(row.name)} | {_cell(row.target)} | {_cell(row.note)} |")
    if len(report.held):
        lines += ["", f"## Held ({len(report.held):,})", ""]
        lines += ["Held records were neither created, changed nor deactivated.", ""]
        lines += ["| kind | name | stage | why, and what to do |", "|---|---|---|---|"]
        for row in report.held.head(ROWS).itertuples():
            lines.append(f"| {row.kind} | {_cell(spelled(str(row.name)))} | {row.stage} | {_cell(row.reason)} |")
        if len(report.held) > ROWS:
            lines += ["", f"… and {len(report.held) - ROWS:,} more."]
    if report.seconds:
        lines += ["", "## Time", "", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in report.seconds.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Text for a cell of a markdown table."""
    return _plain(value).replace("|", "\\|")


_MARKUP: Final = re.compile(r"[\\`*\[<&]|(?<![^\W_])_|_(?![^\W_])|~~|\A[-+#>=]|(?<=\d)[.)](?=\s|\Z)")


def _plain(value: Any) -> str:
    """Names come from outside: they must not become markup in the page, where every cell of a table is markdown."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(str(value).split()))


@dataclass(frozen=True, slots=True)
class Filed:
    """A judged plan and its number in the store; None where there is nothing to do."""

    number: int | None
    plan: Plan
    verdict: Verdict
    kept: tuple[SavedSnapshot, SavedSnapshot]


async def file_plan(
    run: Run, plan: Plan, verdict: Verdict, kept: SavedSnapshot, crowd_kept: SavedSnapshot, *, replaces: int | None
) -> Filed:
    """Stores the plan and shows it as an artifact.

    With `replaces`, the plan is the proof that the stored one is still true: if it is not, the new one
    is stored, and refused for a person to look at.
    """
    now = datetime.now(UTC)
    number: int | None = None
    if replaces is not None:
        stored = run.store.load_plan(replaces)
        if stored.source != run.source_name or stored.directory != run.directory_name:
            raise ConfigurationError(f"plan {replaces} is for {stored.source} → {stored.directory}; name that source")
        if stored.status not in ("planned", "refused"):
            raise RefusedError(f"plan {replaces} is {stored.status} already; make a new one with `crowdsync plan`")
        if stored.digest == plan.digest:
            number = replaces
        else:
            run.store.set_plan_status(replaces, "superseded", at=now)
    if number is None and len(plan.operations):
        number = run.store.save_plan(
            run=run.id,
            source=run.source_name,
            directory=run.directory_name,
            digest=plan.digest,
            source_snapshot=kept.id,
            directory_snapshot=crowd_kept.id,
            policy=run.policy.model_dump_json(),
            operations=plan.operations,
            held=plan.held,
            at=now,
            status="planned",
        )
    if replaces not in (None, number):
        moved = f"plan {replaces} is no longer true: the source, Crowd or the policy changed since; "
        way = f"plan {number} takes its place: look at it, then apply it" if number else "nothing is left to do"
        verdict = Verdict((*verdict.refusals, moved + way), verdict.forced)
    if number and verdict.refusals and number != replaces:
        run.store.set_plan_status(number, "refused" if replaces is None else "planned", at=now)
    if number:
        await create_table(run, plan, number, verdict.refusals)
    return Filed(number, plan, verdict, (kept, crowd_kept))


async def create_table(run: Run, plan: Plan, number: int, refusals: tuple[str, ...]) -> None:
    """The plan as a table artifact of the flow run."""
    shown = plan_rows(plan.operations, run.policy.disclose)
    used = [column for column in (shown[0] if shown else ()) if any(row[column] for row in shown)]
    rows: list[dict[str, Any]] = [{column or "±": _plain(row[column]) for column in used} for row in shown]
    await acreate_table_artifact(table=rows, key=run.key("plan"), description=plan_markdown(plan, number, refusals))


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
async def conclude(run: Run, filed: Filed, mode: str, *, since: datetime | None = None) -> Report:
    """Says how the run ended: to the store, to the Prefect page, to the caller.

    `since`: the last full read, where this one was incremental. Raises `ReportedError` where the plan was refused or
    some of its operations failed.
    """
    plan, number, verdict = filed.plan, filed.number, filed.verdict
    outcomes: dict[str, int] = {}
    failed = pd.DataFrame()
    status = "nothing to do" if number is None else "planned"
    if verdict.refusals:
        status = "refused"
    elif number and mode == "sync":
        operations = run.store.operations(number)
        outcomes = {str(state): int(count) for state, count in operations["state"].value_counts().items()}
        failed = operations[operations["state"].isin(["failed", "skipped"])]
        status = "stopped" if run.stopped else "partly applied" if len(failed) else "applied"
        if not run.stopped:  # else the plan stays open, and the next run finds out what became of it
            run.store.set_plan_status(number, "failed" if len(failed) else "applied", at=datetime.now(UTC))
    report = Report(
        run=run.id,
        source=run.source_name,
        directory=run.directory_name,
        status=status,
        plan=number,
        planned=plan.counts(),
        outcomes=outcomes,
        withheld=plan.withheld,
        held=plan.held,
        refusals=verdict.refusals,
        forced=verdict.forced,
        snapshots={side: kept.id for side, kept in zip(("source", "directory"), filed.kept, strict=True)},
        sizes={
            side: (kept.users, kept.groups, kept.memberships)
            for side, kept in zip((run.source_name, run.directory_name), filed.kept, strict=True)
        },
        failed=failed,
        seconds=run.seconds,
        since=f"{since:%Y-%m-%d %H:%M} UTC" if since else "",
        why=str(run.stopped or ""),
    )
    await acreate_markdown_artifact(
        markdown=report_markdown(report), key=run.key("report"), description="What this run did"
    )
    finish(run, status, report.summary())
    told = f"Written: {written(outcomes)}." if outcomes else f"Planned: {count_line(report.planned)}."
    get_run_logger().info("%s. %s Held: %d.", status.capitalize(), told, len(plan.held))
    if verdict.refusals:
        raise ReportedError("; ".join(verdict.refusals), report)
    if run.stopped:
        done = outcomes.get("done", 0) + outcomes.get("already", 0)
        raise ReportedError(
            f"stopped after {done:,} of {len(plan.operations):,} operations: {run.stopped} "
            "Then run again: what is left is planned anew.",
            report,
        )
    if len(failed):
        raise ReportedError(f"{len(failed):,} of {len(plan.operations):,} operations failed: see the report", report)
    return report
