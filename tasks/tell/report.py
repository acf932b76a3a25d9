"""What people see of a run: the plan as a table, held records with the way out, the summary.

The same functions feed the Prefect artifacts and the terminal. Usernames, group names and the names of
changed fields are shown; values only where the policy discloses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
import orjson
import pandas as pd
from prefect import get_client, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from connectors.errors import ConfigurationError, CrowdsyncError, RefusedError
from connectors.model import held_frame, sizes_only
from connectors.operations import Kind
from connectors.store import SavedSnapshot
from tasks.decide.guard import Verdict
from tasks.decide.impact import Impact
from tasks.decide.impact import lines as radius
from tasks.decide.names import among, spelled
from tasks.decide.plan import Plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.read.remember import held_keys
from tasks.run import Run, finish
from tasks.tell.events import emit

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


@sizes_only
@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. `status`: nothing to do, planned, refused, waiting (for a person), rejected (by one), applied,
    partly applied, stopped (`why`), skipped (`why`). `radius`: the blast radius in lines; `orphans`: how many records
    of Crowd belong to no source; `verified`: operations of the canary."""

    run: str
    source: str
    directory: str
    status: str
    plan: int | None
    planned: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    withheld: Mapping[str, int] = field(default_factory=dict)
    reported: pd.DataFrame = field(default_factory=pd.DataFrame)
    radius: tuple[str, ...] = ()
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
    since: str = ""
    """Of an incremental read: when the source was last read whole."""
    why: str = ""
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
            **({"full_read": self.since} if self.since else {}),
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


def plan_rows(operations: pd.DataFrame, disclose: str, limit: int = ROWS) -> list[dict[str, str]]:
    """Operations → table rows for people, at most `limit`: together what concerns one person or one group, and first
    those to whom the most dangerous things happen."""
    rank = operations["kind"].map({kind.value: n for n, kind in enumerate(SIGNS)})
    # A person who is renamed is one person: named as now until the rename, and then as after it.
    renamed = operations["kind"] == Kind.USER_RENAME
    before = dict(zip(operations["target"][renamed], operations["name"][renamed], strict=True))
    subject = operations["name"].map(lambda name: before.get(name, name)).astype("str")
    of_group = operations["kind"].str.startswith(("group", "nesting"))
    block = pd.Series(np.where(of_group, "group ", "user ") + subject, index=operations.index)
    worst = rank.groupby(block).transform("min")
    order = operations.assign(rank=rank, block=block, worst=worst)
    chosen = order.sort_values(["worst", "block", "rank", "seq"], kind="stable").head(limit)
    rows = []
    for row in chosen.itertuples():
        sign, words = SIGNS[Kind(str(row.kind))]
        line = {
            "": sign,
            "who": str(row.name),
            "what": words,
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


def plan_markdown(plan: Plan, number: int | None, verdict: Verdict, impact: Impact) -> str:
    """The head of the plan's table: what it would do, to whom, and what stands against it."""
    lines = [f"**Plan {number or ''}: {len(plan.operations):,} operations** · digest `{plan.digest[:12]}`", ""]
    lines += reach_markdown(plan, impact)
    for title, texts in (
        ("Refused", verdict.refusals),
        ("Needs agreement", tuple(ask.text for ask in verdict.asks)),
    ):
        if texts:
            lines += [f"**{title}:**", "", *(f"- {_plain(text)}" for text in texts), ""]
    if plan.withheld:
        lines += [f"Withheld by the policy: {count_line(plan.withheld)}.", ""]
    if len(plan.operations) > ROWS:
        lines.append(f"The table shows the {ROWS} most dangerous; all of it: `crowdsync plan --show {number}`.")
    return "\n".join(lines)


def reach_markdown(plan: Plan, impact: Impact) -> list[str]:
    """Operations by kind, beside what the runs before had; and what they do to people."""
    counts, past = plan.counts(), impact.past
    compared = any(kind in past for kind in counts)
    lines = ["| | operation | count |" + (" usual | most |" if compared else "")]
    lines += ["|---|---|---:|" + ("---:|---:|" if compared else "")]
    for kind, (sign, words) in SIGNS.items():
        if kind.value in counts:
            median, most = past.get(kind.value, (0, 0))
            lines.append(
                f"| {sign} | {words} | {counts[kind.value]:,} |" + (f" {median:,.0f} | {most:,} |" if compared else "")
            )
    people = [f"- {_plain(line)}" for line in radius(impact)]
    return [*lines, "", "**What it does to people:**", "", *people, ""]


def question_markdown(filed: Filed, hours: float) -> str:
    """What a person is asked who must agree to a plan."""
    lines = [f"# Plan {filed.number}: {len(filed.plan.operations):,} operations need agreement", ""]
    lines += [f"- **{_plain(ask.text)}**" for ask in filed.verdict.asks]
    lines += ["", *reach_markdown(filed.plan, filed.impact)]
    dangerous = ", ".join(SIGNS[kind][1] for kind in filed.verdict.dangerous)
    lines += [f"The dangerous part: {dangerous}." if dangerous else "No part of it is dangerous.", ""]
    lines += [
        "The whole plan is among this run's artifacts. Agreement counts for this plan alone: if the source, Crowd or "
        f"the policy changed when the run goes on, it asks again. Without an answer it ends in {hours:g} hours.",
    ]
    return "\n".join(lines)


def report_markdown(report: Report) -> str:
    """The run report, for its artifact."""
    lines = [f"# {report.source} → {report.directory}: {report.headline}", ""]
    lines += ["| as read before | users | groups | memberships |", "|---|---:|---:|---:|"]
    for side, (users, groups, memberships) in report.sizes.items():
        lines.append(f"| {side} | {users:,} | {groups:,} | {memberships:,} |")
    if report.since:
        lines += ["", f"Only what changed was read from {report.source}; the last full read was at {report.since}."]
    if report.why:
        lines += ["", f"**{report.status.capitalize()}:** {_plain(report.why)}"]
    number = f" (plan {report.plan})" if report.plan else ""
    lines += ["", f"Planned{number}: {count_line(report.planned)}."]
    if report.withheld:
        lines += ["", f"Withheld by the policy: {count_line(report.withheld)}."]
    if report.outcomes:
        lines += ["", f"Written: {written(report.outcomes)}."]
    if report.verified:
        lines += ["", f"Canary: the first {report.verified:,} operations were read back before the rest."]
    if len(report.shielded):
        lines += ["", f"## In against the source's word ({len(report.shielded):,})", ""]
        lines += ["The source says that they have left, and their account stays active. Why, and what to do:", ""]
        for row in report.shielded.head(ROWS).itertuples():
            who = f"**{_plain(spelled(str(row.name)))}** ({_plain(row.away).replace('_', ' ')})"
            lines.append(f"- {who} · account **{_plain(row.account)}**: {_plain(row.reason)}")
    if len(report.lasting):
        lines += ["", f"## Held for long ({len(report.lasting):,})", ""]
        for row in report.lasting.head(ROWS).itertuples():
            lines.append(
                f"- **{_plain(spelled(str(row.name)))}** ({row.kind}) · {row.runs:,} runs, since "
                f"{row.since:%Y-%m-%d %H:%M} UTC: {_plain(row.reason)}"
            )
    if report.radius:
        lines += ["", "## What it does to people", "", *(f"- {_plain(line)}" for line in report.radius)]
    for title, refusals in (
        ("Refused", report.refusals),
        ("Needs agreement", report.asks),
        ("Agreed", report.agreed),
        ("Forced past", report.forced),
    ):
        if refusals:
            lines += ["", f"## {title}", "", *(f"- {_cell(refusal)}" for refusal in refusals)]
    if len(report.failed):  # (lists, because the page cuts what is long in a table)
        lines += ["", "## Failed", ""]
        for row in report.failed.head(ROWS).itertuples():
            to = f" → {_plain(row.target)}" if row.target else ""
            lines.append(f"- **{_plain(row.name)}{to}** · {SIGNS[Kind(str(row.kind))][1]}: {_plain(row.note)}")
    if len(report.reported):
        lines += ["", f"## Reported only ({len(report.reported):,})", ""]
        lines += ["The policy wants to see these, and has none of them done.", ""]
        lines += ["| operation | who | to | because it |", "|---|---|---|---|"]
        for row in report.reported.head(ROWS).itertuples():
            words = SIGNS[Kind(str(row.kind))][1]
            lines.append(f"| {words} | {_cell(row.name)} | {_cell(row.target)} | {_cell(row.reason)} |")
        if len(report.reported) > ROWS:
            lines += ["", f"… and {len(report.reported) - ROWS:,} more."]
    if report.orphans:
        lines += ["", f"{report.orphans:,} records of Crowd belong to no source: `crowdsync links orphans` lists them."]
    if len(report.held):
        lines += ["", f"## Held ({len(report.held):,})", ""]
        lines += ["Held records were neither created, changed nor deactivated. Why, and what to do:", ""]
        for (stage, reason), rows in report.held.head(ROWS).groupby(["stage", "reason"], sort=False):
            names = ", ".join(f"**{_plain(spelled(str(row.name)))}** ({row.kind})" for row in rows.itertuples())
            lines.append(f"- {names} · {stage}: {_plain(reason)}")
        if len(report.held) > ROWS:
            lines += ["", f"… and {len(report.held) - ROWS:,} more."]
    if len(report.warnings):
        lines += ["", f"## Warnings ({len(report.warnings):,})", ""]
        lines += ["These go on. Why they are named, and what to correct:", ""]
        lines += [f"- {', '.join(map(_plain, some))}: {_plain(reason)}" for reason, some in left_out(report.warnings)]
    if report.seconds:
        lines += ["", "## Time", "", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in report.seconds.items()]
    return "\n".join(lines)


def left_out(warnings: pd.DataFrame, names: int = 10, reasons: int = 20) -> list[tuple[str, list[str]]]:
    """Warnings → by reason, the most frequent first, the names of some whom it concerns and how many more there are."""
    found = []
    for reason in warnings["reason"].value_counts().index[:reasons]:
        rows = warnings[warnings["reason"] == reason]
        some = [f"{spelled(str(row.name or row.id))} ({row.kind})" for row in rows.head(names).itertuples()]
        found.append((str(reason), some + ([f"and {len(rows) - names:,} more"] if len(rows) > names else [])))
    rest = warnings["reason"].nunique() - reasons
    return found + ([(f"{rest:,} more reasons", [])] if rest > 0 else [])


def _cell(value: Any) -> str:
    """Text for a cell of a markdown table."""
    return _plain(value).replace("|", "\\|")


_MARKUP: Final = re.compile(r"[\\`*\[<&]|(?<![^\W_])_|_(?![^\W_])|~~|\A[-+#>=]|(?<=\d)[.)](?=\s|\Z)")


def _plain(value: Any) -> str:
    """Names come from outside: they must not become markup in the page, where every cell of a table is markdown."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(str(value).split()))


Kept = tuple[SavedSnapshot, SavedSnapshot]


@sizes_only
@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan as the guard sees it, made under `policy`."""

    policy: Policy
    plan: Plan
    impact: Impact
    verdict: Verdict
    orphans: int = 0
    warnings: pd.DataFrame = field(default_factory=held_frame)


@sizes_only
@dataclass(frozen=True, slots=True)
class Filed:
    """A judged plan and its number in the store; None where there is nothing to do. `waits`: why nobody is asked;
    `rejected`: who did, and why."""

    number: int | None
    plan: Plan
    verdict: Verdict
    impact: Impact
    kept: Kept
    orphans: int = 0
    waits: str = ""
    rejected: str = ""
    warnings: pd.DataFrame = field(default_factory=held_frame)


async def file_plan(
    run: Run, proposal: Proposal, kept: Kept, *, replaces: int | None, selection: Selection | None = None
) -> Filed:
    """Stores the plan and shows it as an artifact; `selection`: what it is about, where that is not everybody.

    With `replaces`, the plan is the proof that the stored one is still true: if it is not, the new one
    is stored, and refused for a person to look at. A plan that waits for agreement is taken up where it is still true.
    """
    plan, verdict, impact = proposal.plan, proposal.verdict, proposal.impact
    now = datetime.now(UTC)
    number: int | None = None
    waits = ""
    if replaces is not None:
        stored = run.store.load_plan(replaces)
        if stored.source != run.source_name or stored.directory != run.directory_name:
            raise ConfigurationError(f"plan {replaces} is for {stored.source} → {stored.directory}; name that source")
        if stored.status not in ("planned", "refused", "waiting", "approved"):
            raise RefusedError(f"plan {replaces} is {stored.status} already; make a new one with `crowdsync plan`")
        if stored.digest == plan.digest:
            number = replaces
        elif run.writing:
            run.store.set_plan_status(replaces, "superseded", at=now)
    elif run.writing and selection is None:
        asked = run.store.asked_plan(run.source_name, run.directory_name)
        if asked is not None and asked.digest == plan.digest:
            number = asked.id
        if asked is not None and asked.run != run.id and verdict.asks and await asking(run, asked.run):
            waits = (
                f"plan {asked.id} waits for agreement since {asked.status_at:%Y-%m-%d %H:%M} UTC: decide on that first"
            )
        elif asked is not None and number is None:
            run.store.set_plan_status(asked.id, "superseded", at=now)
    if number is None and len(plan.operations) and not waits:  # (it would be kept anew at every run until then)
        number = run.store.save_plan(
            run=run.id,
            source=run.source_name,
            directory=run.directory_name,
            digest=plan.digest,
            source_snapshot=kept[0].id,
            directory_snapshot=kept[1].id,
            policy=proposal.policy.model_dump_json(),
            operations=plan.operations,
            held=plan.held,
            at=now,
            status="planned",
            about=str(selection or ""),
        )
    if replaces not in (None, number):
        moved = f"plan {replaces} is no longer true: the source, Crowd or the policy changed since; "
        way = f"plan {number} takes its place: look at it, then apply it" if number else "nothing is left to do"
        verdict = replace(verdict, refusals=(*verdict.refusals, moved + way))
    if number and verdict.refusals and number != replaces:
        run.store.set_plan_status(number, "refused" if replaces is None else "planned", at=now)
    if number or waits:
        await create_table(run, plan, number, verdict, impact)
    return Filed(number, plan, verdict, impact, kept, proposal.orphans, waits, warnings=proposal.warnings)


def stored_selection(run: Run, number: int) -> Selection | None:
    """What the stored plan is about that is to be carried out; None: everybody, or there is none (0)."""
    return None if not number else Selection.read(run.store.load_plan(number).about)


async def asking(run: Run, other: str) -> bool:
    """Whether the flow run of another run still waits for a person."""
    flow_run_id = run.store.run(other)["flow_run_id"]
    if not flow_run_id:
        return False
    async with get_client() as client:
        try:
            state = (await client.read_flow_run(UUID(flow_run_id))).state
        except ObjectNotFound:  # another server, or cleaned up
            return False
    return state is not None and state.is_paused()


async def create_table(run: Run, plan: Plan, number: int | None, verdict: Verdict, impact: Impact) -> None:
    """The plan as a table artifact of the flow run."""
    shown = plan_rows(plan.operations, run.policy.disclose)
    used = [column for column in (shown[0] if shown else ()) if any(row[column] for row in shown)]
    rows: list[dict[str, Any]] = [{column or "±": _plain(row[column]) for column in used} for row in shown]
    description = plan_markdown(plan, number, verdict, impact)
    await acreate_table_artifact(table=rows, key=run.key("plan"), description=description)


TOLD_AGAIN: Final = timedelta(hours=24)
"""After so long people are told again of what nobody saw to."""


def lasting(run: Run, plan: Plan) -> pd.DataFrame:
    """The held records of a plan that were held in many runs before: kind, id, name, reason, since, runs, told_at."""
    held = held_keys(plan.held, plan.shielded)
    known = run.store.held_records(run.directory_name, run.source_name).drop(columns="reason")
    found = held.merge(known, on=["kind", "id"])
    least = run.policy.limits.held_runs
    long = found[found["runs"] >= least] if least is not None else found[:0]
    return long.sort_values(["runs", "kind", "id"], ascending=[False, True, True], ignore_index=True)


def unheeded(shielded: pd.DataFrame, lasting: pd.DataFrame) -> tuple[str, ...]:
    """Headlines: who is in or out against the source's word, or may be. No names: they go into logs and messages."""
    said = []
    if count := len(shielded):
        whom = "1 person is" if count == 1 else f"{count:,} people are"
        said.append(f"{whom} in against the source's word")
    if count := len(lasting):
        what = "1 record has" if count == 1 else f"{count:,} records have"
        oldest = lasting["since"].min()
        said.append(f"{what} been held for {lasting['runs'].max():,} runs (since {oldest:%Y-%m-%d %H:%M} UTC)")
    return tuple(said)


def wanted_names(held: pd.DataFrame) -> tuple[str, ...]:
    """Groups whose name in Crowd belongs to another one: its permissions may be with the wrong people."""
    count = int(
        ((held["kind"] == "group") & held["reason"].str.contains("crowdsync links hand-over", regex=False)).sum()
    )
    whose = "1 group waits for a name" if count == 1 else f"{count:,} groups wait for names"
    return (f"{whose} that another group has in Crowd: the held records say what hands it over",) if count else ()


def left_in(withheld: Mapping[str, int], policy: Policy) -> tuple[str, ...]:
    """Who has left and keeps access because the policy withholds what would be done."""
    said = []
    for kind in (Kind.USER_DEACTIVATE, Kind.USER_DELETE):
        if count := withheld.get(kind.value, 0):
            whom = "1 person who left keeps" if count == 1 else f"{count:,} people who left keep"
            state = policy.operations.of(kind)
            said.append(f"{whom} their account as it is: operations.{kind.value} is {state!r}")
    return tuple(said)


def tell(run: Run, report: Report) -> None:
    """Tells people which held records they have to see to: when it is new, and once a day."""
    if not len(report.shielded) and not len(report.lasting):
        return  # what else is loud stands in every report, and in the exit code
    now = datetime.now(UTC)
    known = run.store.held_records(run.directory_name, run.source_name)
    loud = held_keys(*(one for one in (report.shielded, report.lasting) if len(one)))
    loud = loud.merge(known[["kind", "id", "told_at"]], on=["kind", "id"], how="left")
    if (loud["told_at"].isna() | (loud["told_at"] <= pd.Timestamp(now - TOLD_AGAIN))).any():
        emit("source.unheeded", run.source_name, plan=report.plan, headlines=list(report.loud))
        run.store.tell_held(run.directory_name, run.source_name, loud, at=now)


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
async def conclude(
    run: Run, filed: Filed, mode: str, *, since: datetime | None = None, loud: tuple[str, ...] = ()
) -> Report:
    """Says how the run ended: to the store, to the Prefect page, to the caller.

    `since`: the last full read, where this one was incremental; `loud`: what must not be overlooked. Raises
    `ReportedError` where the plan was refused or some of its operations failed.
    """
    plan, number, verdict = filed.plan, filed.number, filed.verdict
    outcomes: dict[str, int] = {}
    failed = pd.DataFrame()
    status = "nothing to do" if number is None else "planned"
    if verdict.refusals:
        status = "refused"
    elif filed.rejected:
        status = "rejected"
    elif mode == "sync" and verdict.asks and (number or filed.waits):
        status = "waiting"
    elif number and mode == "sync":
        operations = run.store.operations(number)
        outcomes = {str(state): int(count) for state, count in operations["state"].value_counts().items()}
        failed = operations[operations["state"].isin(["failed", "skipped"])]
        status = "stopped" if run.stopped else "partly applied" if len(failed) else "applied"
        if not run.stopped:  # else the plan stays open, and the next run finds out what became of it
            run.store.set_plan_status(number, "failed" if len(failed) else "applied", at=datetime.now(UTC))
    why = filed.rejected or filed.waits or str(run.stopped or "")
    if status == "waiting" and not why:
        why = f"plan {number} needs agreement: crowdsync approve {number} --by NAME --reason TEXT, then apply it"
    long = lasting(run, plan)
    longer = long[~among(long["id"], plan.shielded["id"])]  # who is in wrongly is told once
    report = Report(
        run=run.id,
        source=run.source_name,
        directory=run.directory_name,
        status=status,
        plan=number,
        planned=plan.counts(),
        outcomes=outcomes,
        withheld=plan.withheld,
        reported=plan.reported,
        radius=tuple(radius(filed.impact)),
        orphans=filed.orphans,
        verified=run.verified,
        held=plan.held,
        warnings=filed.warnings,
        refusals=verdict.refusals,
        asks=tuple(ask.text for ask in verdict.asks),
        agreed=verdict.agreed,
        forced=verdict.forced,
        passed=verdict.passed if outcomes else (),
        snapshots={side: kept.id for side, kept in zip(("source", "directory"), filed.kept, strict=True)},
        sizes={
            side: (kept.users, kept.groups, kept.memberships)
            for side, kept in zip((run.source_name, run.directory_name), filed.kept, strict=True)
        },
        failed=failed,
        seconds=run.seconds,
        since=f"{since:%Y-%m-%d %H:%M} UTC" if since else "",
        why=why,
        shielded=plan.shielded,
        lasting=longer,
        loud=(*unheeded(plan.shielded, longer), *wanted_names(plan.held), *loud),
        remarks=left_in(plan.withheld, run.policy),
    )
    await acreate_markdown_artifact(
        markdown=report_markdown(report), key=run.key("report"), description="What this run did"
    )
    finish(run, status, report.summary())
    line = f"Written: {written(outcomes)}." if outcomes else f"Planned: {count_line(report.planned)}."
    get_run_logger().info("%s. %s Held: %d.", report.headline.capitalize(), line, len(plan.held))
    if report.loud and mode == "sync":
        tell(run, report)
    if verdict.refusals:
        emit("plan.refused", run.source_name, plan=number, refusals=list(verdict.refusals))
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


async def skipped_report(source: str, directory: str, why: str) -> Report:
    """The report of a run that left the field to another one, or its source alone."""
    get_run_logger().info("Skipped: %s", why)
    return Report(run=str(flow_run.id or ""), source=source, directory=directory, status="skipped", plan=None, why=why)
