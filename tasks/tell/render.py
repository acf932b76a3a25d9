"""The plan, the question and the report as markdown, for the page of a run: what each template is filled in with.

Pure text: nothing here knows Prefect. Templates get plain data, which `values` in these functions spell out; every text
of it is escaped where a template says it, but `Words`, which are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from connectors.operations import BY_DANGER, KINDS, Kind
from tasks.decide.impact import Impact
from tasks.decide.impact import lines as impact_lines
from tasks.decide.names import spelled
from tasks.tell.rows import ROWS, count_line, left_out, plan_rows, written
from tasks.tell.templates import Words, plain, render

if TYPE_CHECKING:
    from tasks.decide.guard import Verdict
    from tasks.decide.plan import Plan
    from tasks.policy import Policy
    from tasks.tell.report import Report
    from tasks.tell.stored_plan import StoredPlan

SHOWN: Final = 3
"""Lines of a kind in the question, which must stay in one screen; the plan has all of them."""
WIDE: Final = 110
"""Letters of such a line; in bold a tenth fewer."""


def plan_markdown(plan: Plan, number: int | None, verdict: Verdict, impact: Impact, folder: str = "") -> str:
    """The head of the plan's table: what it would do, to whom, and what stands against it."""
    asks = tuple(ask.text for ask in verdict.asks)
    values = {
        "plan": number or "",
        "operations": len(plan.operations),
        "digest": plan.digest[:12],
        **_impact(plan, impact),
        "verdicts": _said(("Refused", verdict.refusals), ("Needs agreement", asks)),
        "withheld": _counts(plan.withheld) if plan.withheld else "",
        "rows": ROWS,
    }
    return render("plan.md", values, folder)


def _impact(plan: Plan, impact: Impact) -> dict[str, Any]:
    """Operations by kind, beside what the runs before had; and what they do to people."""
    counts, past = plan.counts(), impact.past
    kinds = []
    for kind in BY_DANGER:
        if kind.value in counts:
            usual, most = past.get(kind.value, (0, 0))
            spec = KINDS[kind]
            one = {"sign": Words(spec.sign), "words": spec.words, "count": counts[kind.value]}
            kinds.append({**one, "usual": round(usual), "most": most})
    compared = any(kind in past for kind in counts)
    return {"kinds": kinds, "compared": compared, "impact": impact_lines(impact)}


def dangerous_part(stored: StoredPlan) -> tuple[Kind, ...]:
    """The kinds of operations of a plan that are asked about, where it has others too; else none."""
    counts = stored.plan.counts()
    kinds = tuple(kind for kind in stored.verdict.dangerous if counts.get(kind.value))
    return kinds if len(kinds) < len(counts) else ()


def question_markdown(stored: StoredPlan, hours: float, folder: str = "") -> str:
    """What a person is asked who must agree to a plan."""
    impact, asks = impact_lines(stored.impact), [ask.text for ask in stored.verdict.asks]
    values = {
        "plan": stored.number,
        "operations": len(stored.plan.operations),
        "counts": Words(count_line(stored.plan.counts(), 3)),
        "link": Words(stored.link),
        "impact": [_clipped(line, WIDE * 9 // 10) for line in impact[:SHOWN]],
        "more_impact": len(impact[SHOWN:]),
        "asks": [_clipped(text, WIDE) for text in asks[:SHOWN]],
        "more_asks": len(asks[SHOWN:]),
        "dangerous": ", ".join(KINDS[kind].words for kind in dangerous_part(stored)),
        "hours": f"{hours:g}",
    }
    return render("question.md", values, folder)


def _clipped(text: str, most: int) -> str:
    """A text in so many characters, cut between its words."""
    if len(text) <= most:
        return text
    words = text[: most - 1].rpartition(" ")[0]
    return f"{words.rstrip(',')} …" if words else f"{text[: most - 1]}…"


def report_markdown(report: Report, folder: str = "") -> str:
    """The run report, for its artifact."""
    shielded, held = report.shielded.head(ROWS), report.held.head(ROWS)
    by_reason = held.groupby(["stage", "reason"], sort=False) if len(held) else ()
    values = {
        "source": report.source,
        "directory": report.directory,
        "status": report.status,
        "headline": report.headline,
        "sides": [
            {"name": side, "users": users, "groups": groups, "memberships": memberships}
            for side, (users, groups, memberships) in report.sizes.items()
        ],
        **{name: getattr(report, name) for name in ("plan", "read", "standing", "why", "verified", "orphans")},
        "planned": _counts(report.planned),
        "withheld": _counts(report.withheld) if report.withheld else "",
        "written": written(report.outcomes),
        "impact": list(report.impact),
        "verdicts": _said(
            ("Refused", report.refusals),
            ("Needs agreement", report.asks),
            ("Agreed", report.agreed),
            ("Forced past", report.forced),
        ),
        "against": {"count": len(report.shielded), "rows": [_away(row) for row in shielded.itertuples()]},
        "lasting": {
            "count": len(report.lasting),
            "rows": [_long(row) for row in report.lasting.head(ROWS).itertuples()],
        },
        "failed": [_operation(row) | {"note": str(row.note)} for row in report.failed.head(ROWS).itertuples()],
        "reported": {
            "count": len(report.reported),
            "rows": [_operation(row) | {"reason": str(row.reason)} for row in report.reported.head(ROWS).itertuples()],
            "more": max(len(report.reported) - ROWS, 0),
        },
        "held": {
            "count": len(report.held),
            "rows": [
                {"stage": str(stage), "reason": str(reason), "who": _who(rows)} for (stage, reason), rows in by_reason
            ],
            "more": max(len(report.held) - ROWS, 0),
        },
        "warnings": {
            "count": len(report.warnings),
            "rows": [{"reason": reason, "who": some} for reason, some in left_out(report.warnings)]
            if len(report.warnings)
            else [],
        },
        "seconds": [{"stage": stage, "seconds": f"{took:.2f}"} for stage, took in report.seconds.items()],
    }
    return render("report.md", values, folder)


def report_card(report: Report, folder: str = "") -> str:
    """What a run did, in the line that stands on the card of its report."""
    short = report.status in ("partly applied", "stopped") and report.outcomes
    counts = written(report.outcomes) if short else Words(count_line(report.planned, 3))
    but = [*report.loud, *report.remarks]
    values = {"status": report.status, "counts": counts, "held": len(report.held), "but": but}
    return render("card.md", values, folder)


def failure_markdown(about: str, title: str, what: str, todo: str, *, wrote: bool, folder: str = "") -> str:
    """The report of a run that failed: whose it is, what happened, and what to do (of ours)."""
    values = {"about": about, "title": title, "what": what, "todo": Words(todo), "wrote": wrote}
    return render("failed.md", values, folder)


def in_words(status: str) -> str:
    """What a batch of news came to (`flows.react`), as people read it."""
    return "everybody is read instead" if status == "wide" else status


def batch_markdown(status: str, summary: Mapping[str, Any], folder: str = "") -> str:
    """What a batch of news came to, whose run is shown when it is over; `summary` as in `flows.react`."""
    values = {
        "status": in_words(status),
        "wide": status == "wide",
        "why": summary.get("error", ""),
        "planned": _counts(summary.get("planned", {})),
        "written": written(summary.get("outcomes", {})),
        "held": summary.get("held", 0),
    }
    return render("react.md", values, folder)


def started_markdown(rows: Sequence[Mapping[str, str]], folder: str = "") -> str:
    """`2 started, 1 skipped`, of what became of each source (`what`)."""
    counts = Counter(row["what"] for row in rows)
    order = [what for what in ("started", "skipped", "not started") if counts[what]]
    return render("started.md", {"counts": _tally(counts, order)}, folder)


def subscriptions_markdown(rows: Sequence[Mapping[str, str]], folder: str = "") -> str:
    """`4 stand, 1 made anew`, of what became of each subscription (`what`), or that there is nothing to look after."""
    counts = Counter("stand" if row["what"] == "stands" else row["what"] for row in rows)
    read = sorted({row["source"] for row in rows if row["why"].endswith("everybody is read")})
    values = {"counts": _tally(counts, counts), "read": ", ".join(read), "missing": counts["missing"]}
    return render("subscriptions.md", values, folder)


def _tally(counts: Mapping[str, int], order: Iterable[str]) -> list[dict[str, Any]]:
    return [{"what": what, "count": counts[what]} for what in order]


def link_markdown(name: str, url: str) -> str:
    """A link to a page of Prefect."""
    return render("link.md", {"name": name, "url": Words(url)})


def _counts(counts: Mapping[str, int]) -> Words:
    return Words(count_line(counts))


def _said(*parts: tuple[str, Sequence[str]]) -> list[tuple[str, list[str]]]:
    """Titles and what stands under them, where something does."""
    return [(title, list(texts)) for title, texts in parts if texts]


def _away(row: Any) -> dict[str, str]:
    away = str(row.away).replace("_", " ")
    return {"name": spelled(str(row.name)), "away": away, "account": str(row.account), "reason": str(row.reason)}


def _long(row: Any) -> dict[str, Any]:
    since = f"{row.since:%Y-%m-%d %H:%M}"
    return {
        "name": spelled(str(row.name)),
        "kind": str(row.kind),
        "runs": int(row.runs),
        "since": since,
        "reason": str(row.reason),
    }


def _operation(row: Any) -> dict[str, str]:
    return {"name": str(row.name), "target": str(row.target), "what": KINDS[Kind(str(row.kind))].words}


def _who(rows: pd.DataFrame) -> list[dict[str, str]]:
    return [{"name": spelled(str(row.name)), "kind": str(row.kind)} for row in rows.itertuples()]


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
