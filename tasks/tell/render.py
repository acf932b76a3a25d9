"""The plan, the question and the report as markdown, for the page of a run. Pure text: nothing here knows Prefect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from connectors.operations import BY_DANGER, KINDS, Kind
from tasks.decide.impact import Impact
from tasks.decide.impact import lines as impact_lines
from tasks.decide.names import spelled
from tasks.tell.rows import ROWS, count_line, left_out, plan_rows, written

if TYPE_CHECKING:
    from tasks.decide.guard import Verdict
    from tasks.decide.plan import Plan
    from tasks.policy import Policy
    from tasks.tell.report import Report
    from tasks.tell.stored_plan import StoredPlan


def plan_markdown(plan: Plan, number: int | None, verdict: Verdict, impact: Impact) -> str:
    """The head of the plan's table: what it would do, to whom, and what stands against it."""
    lines = [f"**Plan {number or ''}: {len(plan.operations):,} operations** · digest `{plan.digest[:12]}`", ""]
    lines += impact_markdown(plan, impact)
    for title, texts in (
        ("Refused", verdict.refusals),
        ("Needs agreement", tuple(ask.text for ask in verdict.asks)),
    ):
        if texts:
            lines += [f"**{title}:**", "", *(f"- {plain(text)}" for text in texts), ""]
    if plan.withheld:
        lines += [f"Withheld by the policy: {count_line(plan.withheld)}.", ""]
    if len(plan.operations) > ROWS:
        lines.append(f"The table shows the {ROWS} most dangerous; all of it: `crowdsync plan --show {number}`.")
    return "\n".join(lines)


def impact_markdown(plan: Plan, impact: Impact) -> list[str]:
    """Operations by kind, beside what the runs before had; and what they do to people."""
    counts, past = plan.counts(), impact.past
    compared = any(kind in past for kind in counts)
    lines = ["| | operation | count |" + (" usual | most |" if compared else "")]
    lines += ["|---|---|---:|" + ("---:|---:|" if compared else "")]
    for kind in BY_DANGER:
        if kind.value in counts:
            median, most = past.get(kind.value, (0, 0))
            line = f"| {KINDS[kind].sign} | {KINDS[kind].words} | {counts[kind.value]:,} |"
            lines.append(line + (f" {median:,.0f} | {most:,} |" if compared else ""))
    people = [f"- {plain(line)}" for line in impact_lines(impact)]
    return [*lines, "", "**What it does to people:**", "", *people, ""]


def question_markdown(stored: StoredPlan, hours: float) -> str:
    """What a person is asked who must agree to a plan."""
    lines = [f"# Plan {stored.number}: {len(stored.plan.operations):,} operations need agreement", ""]
    lines += [f"- **{plain(ask.text)}**" for ask in stored.verdict.asks]
    lines += ["", *impact_markdown(stored.plan, stored.impact)]
    dangerous = ", ".join(KINDS[kind].words for kind in stored.verdict.dangerous)
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
    lines += _written(report)
    lines += _against_the_source(report)
    if report.impact:
        lines += ["", "## What it does to people", "", *(f"- {plain(line)}" for line in report.impact)]
    for title, refusals in (
        ("Refused", report.refusals),
        ("Needs agreement", report.asks),
        ("Agreed", report.agreed),
        ("Forced past", report.forced),
    ):
        if refusals:
            lines += ["", f"## {title}", "", *(f"- {cell(refusal)}" for refusal in refusals)]
    lines += _not_done(report)
    lines += _held(report)
    if report.seconds:
        lines += ["", "## Time", "", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in report.seconds.items()]
    return "\n".join(lines)


def _written(report: Report) -> list[str]:
    """How the run ended, and what was planned and written."""
    lines: list[str] = []
    if report.read:
        lines += ["", plain(report.read)]
    if report.standing:
        lines += ["", plain(f"{report.standing}.")]
    if report.why:
        lines += ["", f"**{report.status.capitalize()}:** {plain(report.why)}"]
    number = f" (plan {report.plan})" if report.plan else ""
    lines += ["", f"Planned{number}: {count_line(report.planned)}."]
    if report.withheld:
        lines += ["", f"Withheld by the policy: {count_line(report.withheld)}."]
    if report.outcomes:
        lines += ["", f"Written: {written(report.outcomes)}."]
    if report.verified:
        lines += ["", f"Canary: the first {report.verified:,} operations were read back before the rest."]
    return lines


def _against_the_source(report: Report) -> list[str]:
    """Who is in against the source's word, and what has been held for long."""
    lines: list[str] = []
    if len(report.shielded):
        lines += ["", f"## In against the source's word ({len(report.shielded):,})", ""]
        lines += ["The source says that they have left, and their account stays active. Why, and what to do:", ""]
        for row in report.shielded.head(ROWS).itertuples():
            who = f"**{plain(spelled(str(row.name)))}** ({plain(row.away).replace('_', ' ')})"
            lines.append(f"- {who} · account **{plain(row.account)}**: {plain(row.reason)}")
    if len(report.lasting):
        lines += ["", f"## Held for long ({len(report.lasting):,})", ""]
        for row in report.lasting.head(ROWS).itertuples():
            lines.append(
                f"- **{plain(spelled(str(row.name)))}** ({row.kind}) · {row.runs:,} runs, since "
                f"{row.since:%Y-%m-%d %H:%M} UTC: {plain(row.reason)}"
            )
    return lines


def _not_done(report: Report) -> list[str]:
    """What failed, what the policy wants to see only, and what belongs to no source."""
    lines: list[str] = []
    if len(report.failed):  # (lists, because the page cuts what is long in a table)
        lines += ["", "## Failed", ""]
        for row in report.failed.head(ROWS).itertuples():
            to = f" → {plain(row.target)}" if row.target else ""
            lines.append(f"- **{plain(row.name)}{to}** · {KINDS[Kind(str(row.kind))].words}: {plain(row.note)}")
    if len(report.reported):
        lines += ["", f"## Reported only ({len(report.reported):,})", ""]
        lines += ["The policy wants to see these, and has none of them done.", ""]
        lines += ["| operation | who | to | because it |", "|---|---|---|---|"]
        for row in report.reported.head(ROWS).itertuples():
            words = KINDS[Kind(str(row.kind))].words
            lines.append(f"| {words} | {cell(row.name)} | {cell(row.target)} | {cell(row.reason)} |")
        if len(report.reported) > ROWS:
            lines += ["", f"… and {len(report.reported) - ROWS:,} more."]
    if report.orphans:
        lines += ["", f"{report.orphans:,} records of Crowd belong to no source: `crowdsync links orphans` lists them."]
    return lines


def _held(report: Report) -> list[str]:
    """Held records, and those that go on without a field."""
    lines: list[str] = []
    if len(report.held):
        lines += ["", f"## Held ({len(report.held):,})", ""]
        lines += ["Held records were neither created, changed nor deactivated. Why, and what to do:", ""]
        for (stage, reason), rows in report.held.head(ROWS).groupby(["stage", "reason"], sort=False):
            names = ", ".join(f"**{plain(spelled(str(row.name)))}** ({row.kind})" for row in rows.itertuples())
            lines.append(f"- {names} · {stage}: {plain(reason)}")
        if len(report.held) > ROWS:
            lines += ["", f"… and {len(report.held) - ROWS:,} more."]
    if len(report.warnings):
        lines += ["", f"## Warnings ({len(report.warnings):,})", ""]
        lines += ["These go on. Why they are named, and what to correct:", ""]
        lines += [f"- {', '.join(map(plain, some))}: {plain(reason)}" for reason, some in left_out(report.warnings)]
    return lines


def cell(value: Any) -> str:
    """Text for a cell of a markdown table."""
    return plain(value).replace("|", "\\|")


_MARKUP: Final = re.compile(r"[\\`*\[<&]|(?<![^\W_])_|_(?![^\W_])|~~|\A[-+#>=]|(?<=\d)[.)](?=\s|\Z)")


def plain(value: Any) -> str:
    """Names come from outside: they must not become markup in the page, where every cell of a table is markdown."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(str(value).split()))


def plan_table(operations: pd.DataFrame, disclose: str) -> list[dict[str, str]]:
    """Operations → the table of a page: the columns that something stands in, none of it markup."""
    shown = plan_rows(operations, disclose)
    used = [column for column in (shown[0] if shown else ()) if any(row[column] for row in shown)]
    return [{column or "±": plain(row[column]) for column in used} for row in shown]


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
