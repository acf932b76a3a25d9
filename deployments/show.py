"""What commands print: the same facts as the Prefect artifacts, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from connectors.operations import BY_DANGER, KINDS
from deployments.terminal import printable
from tasks.decide.names import spelled
from tasks.tell.rows import count_line, left_out, plan_rows, written

if TYPE_CHECKING:
    from connectors.store import SavedPlan
    from tasks.decide.explain import Explained
    from tasks.tell.report import Report
    from tasks.write.links import Moving

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_NUMBERS = frozenset(
    (
        *("no.", "tries", "plan", "took", "operations", "held", "users", "groups", "memberships"),
        *("planned", "intended", "done", "already", "failed", "skipped", "undone"),
    )
)
_STATUS = {
    "applied": "green",
    "nothing to do": "green",
    "planned": "cyan",
    "refused": "red",
    "rejected": "red",
    "failed": "red",
}


def report(console: Console, report: Report) -> None:
    """A run's end: sizes, counts, what was held and why, what failed. Refusals are errors, and not repeated here."""
    colour = _STATUS.get(report.status, "yellow")
    plan = f" · plan {report.plan}" if report.plan else ""
    console.print(
        f"[bold]{escape(report.source)} → {escape(report.directory)}[/]  [{colour}]{report.status}[/]{plan}",
        highlight=False,
    )
    wide = max(map(len, report.sizes), default=0)
    for line in report.loud:
        console.print(f"  [bold red]but {_printable(line)}[/]", soft_wrap=True, highlight=False)
    for line in report.remarks:
        console.print(f"  [yellow]but {_printable(line)}[/]", soft_wrap=True, highlight=False)
    for name, (users, groups, memberships) in report.sizes.items():
        before = " before" if report.outcomes and name == report.directory else ""
        console.print(
            f"  {escape(name):<{wide}}  {users:,} users, {groups:,} groups, {memberships:,} memberships{before}",
            highlight=False,
        )
    for line in (report.read, report.standing):
        if line:
            console.print(f"  {_printable(line)}", highlight=False)
    if report.planned:
        table = Table(box=None, padding=(0, 0, 0, 2), show_header=False)
        table.add_column()
        table.add_column()
        table.add_column(justify="right")
        for kind in BY_DANGER:
            if kind in report.planned:
                sign = KINDS[kind].sign
                table.add_row(f"[{_COLOURS[sign]}]{sign}[/]", KINDS[kind].words, f"{report.planned[kind]:,}")
        console.print(table)
    if report.impact:
        console.print("  what it does to people:", highlight=False)
        for line in report.impact:
            console.print(f"    {_printable(line)}", soft_wrap=True, highlight=False)
    for ask in report.asks:
        console.print(f"  [yellow]needs agreement[/]  {_printable(ask)}", soft_wrap=True, highlight=False)
    for line in report.agreed:
        console.print(f"  [green]agreed[/]  {_printable(line)}", soft_wrap=True, highlight=False)
    if report.verified:
        console.print(f"  canary: the first {report.verified:,} operations were read back before the rest")
    if report.outcomes:
        console.print(f"  written: {written(report.outcomes)}", highlight=False)
    if report.withheld:
        console.print(f"  withheld by the policy: {count_line(report.withheld)}", highlight=False)
    for line in report.forced:
        console.print(f"  [yellow]forced past[/]  {escape(line)}", soft_wrap=True, highlight=False)
    if report.orphans:
        console.print(
            f"  {report.orphans:,} records of Crowd belong to no source: crowdsync links orphans", highlight=False
        )
    _shielded(console, report.shielded)
    _listed(console, "Reported only, and not done", report.reported, "because it", "reason")
    _held(console, report.held, report.lasting)
    _left_out(console, report.warnings)
    _listed(console, "Failed", report.failed, "why", "note")


def _shielded(console: Console, shielded: pd.DataFrame) -> None:
    if shielded.empty:
        return
    table = Table(title=f"In against the source's word ({len(shielded):,})", title_justify="left")
    for column in ("who", "source says", "account", "why, and what to do"):
        table.add_column(column, overflow="fold")
    for row in shielded.head(20).itertuples():
        said = str(row.away).replace("_", " ")
        table.add_row(*(_printable(value) for value in (spelled(str(row.name)), said, row.account, row.reason)))
    console.print(table)
    if len(shielded) > 20:
        console.print(f"  … and {len(shielded) - 20:,} more, in the report on the run's page")


def _held(console: Console, held: pd.DataFrame, lasting: pd.DataFrame) -> None:
    """Held records, and of those that have been held for long, for how many runs."""
    if held.empty:
        return
    long = {(row.kind, row.id): f"{row.runs:,}" for row in lasting.itertuples()}
    table = Table(title=f"Held: neither created, changed nor deactivated ({len(held):,})", title_justify="left")
    for column in ("kind", "name", "stage", *(["runs"] if long else []), "why, and what to do"):
        table.add_column(column, overflow="fold", no_wrap=column in ("kind", "stage", "runs"))
    for row in held.head(20).itertuples():
        runs = [long.get((row.kind, row.id or row.name), "")] if long else []
        values = (row.kind, spelled(str(row.name)), row.stage, *runs, row.reason)
        table.add_row(*(_printable(value) for value in values))
    console.print(table)
    if len(held) > 20:
        console.print(f"  … and {len(held) - 20:,} more, in the report on the run's page")


def _left_out(console: Console, warnings: pd.DataFrame) -> None:
    if warnings.empty:
        return
    console.print(f"Warnings ({len(warnings):,})", highlight=False)
    for reason, some in left_out(warnings):
        console.print(f"  {_printable(reason)}: {_printable(', '.join(some))}", soft_wrap=True, highlight=False)


def _listed(console: Console, title: str, operations: pd.DataFrame, column: str, why: str) -> None:
    """Operations, a line each; the last column is called `column` and filled from `why`."""
    if operations.empty:
        return
    table = Table(title=f"{title} ({len(operations):,})", title_justify="left")
    for name in ("operation", "who", "to", column):
        table.add_column(name, overflow="fold")
    for values in operations[["kind", "name", "target", why]].head(20).itertuples(index=False):
        table.add_row(*map(_printable, values))
    console.print(table)
    if len(operations) > 20:
        console.print(f"  … and {len(operations) - 20:,} more, in the report on the run's page")


def plan(console: Console, stored: SavedPlan, operations: pd.DataFrame, disclose: str) -> None:
    """A stored plan, whole."""
    console.print(
        f"[bold]plan {stored.id}[/]  {escape(stored.source)} → {escape(stored.directory)}  {stored.status}  "
        f"made {_when(stored.created_at)}  digest {stored.digest[:12]}",
        highlight=False,
    )
    rows = plan_rows(operations, disclose, limit=len(operations))
    shown = [column for column in (rows[0] if rows else ()) if any(row[column] for row in rows)]
    table = _table(*shown)
    for row in rows:
        sign = row[""]
        table.add_row(f"[{_COLOURS[sign]}]{sign}[/]", *(_printable(row[column]) for column in shown[1:]))
    console.print(table)


def plans(console: Console, frame: pd.DataFrame) -> None:
    """Stored plans, a line each."""
    states = [s for s in ("planned", "intended", "done", "already", "failed", "skipped", "undone") if frame[s].any()]
    if frame.empty:
        console.print("There are no plans yet; `crowdsync plan` makes one.", highlight=False)
        return
    table = _table("plan", "made", "source", "directory", "status", *states)
    for row in frame.to_dict("records"):
        table.add_row(
            str(row["id"]),
            _when(row["created_at"]),
            _printable(row["source"]),
            _printable(row["directory"]),
            str(row["status"]),
            *(f"{row[s]:,}" for s in states),
        )
    console.print(table)


def runs(console: Console, frame: pd.DataFrame) -> None:
    """Runs, a line each."""
    if frame.empty:
        console.print("There are no runs yet; `crowdsync sync --dry-run` is a safe first one.", highlight=False)
        return
    table = _table("started", "took", "source", "mode", "status", "operations", "held", "plan")
    for row in frame.to_dict("records"):
        summary: dict[str, Any] = orjson.loads(row["summary"] or "{}")
        took = (row["finished_at"] - row["started_at"]).total_seconds() if pd.notna(row["finished_at"]) else None
        table.add_row(
            _when(row["started_at"]),
            "" if took is None else f"{took:.1f} s",
            _printable(row["source"]),
            str(row["mode"]),
            f"[{_STATUS.get(row['status'], 'yellow')}]{row['status']}[/]",
            f"{sum(summary.get('planned', {}).values()):,}" if "planned" in summary else "",
            str(summary.get("held", "")),
            str(summary.get("plan") or ""),
        )
    console.print(table)
    for row in frame.to_dict("records"):  # below the table, whole: there a narrow screen would cut them
        summary = orjson.loads(row["summary"] or "{}")
        for line in (*summary.get("loud", ()), *summary.get("remarks", ())):
            console.print(
                f"{_when(row['started_at'])}  [yellow]but[/] {_printable(line)}", soft_wrap=True, highlight=False
            )
        for line in summary.get("refusals") or filter(None, [summary.get("error")]):
            console.print(
                f"{_when(row['started_at'])}  [red]{row['status']}[/]  {_printable(line)}",
                soft_wrap=True,
                highlight=False,
            )


def inbox(console: Console, frame: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Rows of the inbox, a line each, and below what was said of them; then how many there are."""
    if frame.empty:
        console.print("Nothing waits, and nothing is held.", highlight=False)
        return
    table = _table("no.", "source", "what", "who", "via", "since", "tries", "status")
    for row in frame.to_dict("records"):
        working = row["status"] == "waiting" and pd.notna(row["taken_at"])
        table.add_row(
            str(row["id"]),
            _printable(row["source"] or row["directory"]),
            str(row["kind"]),
            _printable(row["key"]),
            str(row["via"]),
            _when(row["received_at"]),
            str(row["attempts"]),
            "[red]held[/]" if row["status"] == "held" else "at work" if working else str(row["status"]),
        )
    console.print(table)
    for row in frame[frame["note"] != ""].to_dict("records"):
        again = f", again at {_when(row['due_at'])}" if row["status"] == "waiting" and pd.notna(row["due_at"]) else ""
        line = f"no. {row['id']}  {row['status']}{again}: {_printable(row['note'])}"
        console.print(line, soft_wrap=True, highlight=False)
    for status, rows in counts.groupby("status")["rows"].sum().items():
        console.print(f"{rows:,} {status}", highlight=False)


def snapshots(console: Console, frame: pd.DataFrame) -> None:
    """Snapshots, a line each."""
    if frame.empty:
        console.print("There are no snapshots yet; every run takes one of each side.", highlight=False)
        return
    table = _table("no.", "of", "taken", "users", "groups", "memberships", "content")
    for row in frame.to_dict("records"):
        table.add_row(
            str(row["id"]),
            _printable(row["stream"]),
            _when(row["taken_at"]),
            f"{row['users']:,}",
            f"{row['groups']:,}",
            f"{row['memberships']:,}",
            str(row["digest"])[:8],
        )
    console.print(table)


def difference(console: Console, frames: dict[str, pd.DataFrame]) -> None:
    """What differs between two snapshots, table by table."""
    for name, frame in frames.items():
        counts = frame["change"].value_counts().to_dict() if len(frame) else {}
        line = ", ".join(f"[{_COLOURS[s]}]{s}[/] {counts[s]:,}" for s in ("+", "-", "~") if s in counts)
        console.print(f"[bold]{name}[/]  {line or 'the same'}", highlight=False)
        if frame.empty:
            continue
        table = _table("", *frame.columns[1:])
        for row in frame.head(100).itertuples(index=False):
            table.add_row(f"[{_COLOURS[row[0]]}]{row[0]}[/]", *(_printable(value) for value in row[1:]))
        console.print(table)
        if len(frame) > 100:
            console.print(f"  … and {len(frame) - 100:,} more")


def explained(console: Console, source: str, person: str, rows: list[Explained], read: Any) -> None:
    """Why a person is as they are, rule by rule."""
    console.print(f"[bold]{_printable(person)}[/] in {_printable(source)}, as read {_when(read)}", highlight=False)
    table = _table("stage", "what", "from", "rule", "to")
    for row in rows:
        table.add_row(
            row.stage,
            _printable(row.what),
            _printable(", ".join(row.before)),
            _printable(row.rule),
            f"[bold]{_printable(', '.join(row.after))}[/]",
        )
    console.print(table)


def decisions(console: Console, frame: pd.DataFrame) -> None:
    """Decisions, a line each."""
    table = _table("plan", "made", "who", "decision", "without", "why", "via")
    for row in frame.itertuples():
        without = ", ".join(orjson.loads(str(row.without)))
        table.add_row(
            str(row.plan_id),
            _when(row.at),
            _printable(row.actor if row.login in ("", row.actor) else f"{row.actor} (login {row.login})"),
            str(row.decision).replace("_", " "),
            without,
            _printable(row.reason),
            str(row.via),
        )
    console.print(table if len(frame) else "no decisions yet")


def audit(console: Console, frame: pd.DataFrame) -> None:
    """The audit chain, a line each."""
    table = _table("no.", "made", "event", "who", "about", "details")
    for row in frame.itertuples():
        table.add_row(
            str(row.id),
            _when(row.at),
            _printable(row.event),
            _printable(row.actor),
            _printable(row.subject),
            _printable(row.details),
        )
    console.print(table)


def links(console: Console, frame: pd.DataFrame, limit: int) -> None:
    """Links, a line each."""
    table = _table("name", "id", "how", "made")
    for row in frame.head(limit).itertuples():
        table.add_row(_printable(row.name), _printable(row.id), _printable(row.how), _when(row.made_at))
    console.print(table if len(frame) else "no links")
    if len(frame) > limit:
        console.print(f"  … and {len(frame) - limit:,} more")


def orphans(console: Console, frame: pd.DataFrame, limit: int) -> None:
    """What belongs to no source, a line each."""
    table = _table("kind", "name", "active")
    for row in frame.head(limit).itertuples():
        active = ("yes" if row.active else "no") if row.kind == "user" else ""
        table.add_row(str(row.kind), _printable(spelled(str(row.name))), active)
    console.print(table if len(frame) else "nothing: every record of Crowd belongs to a source, or is protected")
    if len(frame) > limit:
        console.print(f"  … and {len(frame) - limit:,} more")


def moving(console: Console, moving: Moving, old: str, new: str) -> None:
    """What a move between sources does, or did: who goes to whom, what it leads to, who is left out and why."""
    pairs, left = moving.pairing.pairs, moving.pairing.left_out
    users = int((pairs["kind"] == "user").sum())
    console.print(
        f"[bold]{escape(old)} → {escape(new)}[/]  {users:,} accounts and {len(pairs) - users:,} groups to be moved, "
        f"{len(left):,} left out",
        highlight=False,
    )
    people = pairs[pairs["kind"] == "user"]
    for which, what in (
        (people["active"] & ~people["stays"], f"are disabled in {new}: its next sync deactivates them"),
        (
            people["name"].str.lower() != people["becomes"].str.lower(),
            f"have another username there: {new} renames them",
        ),
    ):
        if len(names := people.loc[which, "name"].tolist()):
            shown = ", ".join(names[:10]) + (f" … and {len(names) - 10:,} more" if len(names) > 10 else "")
            console.print(
                f"  {len(names):,} of them {escape(what)} ({_printable(shown)})", soft_wrap=True, highlight=False
            )
    table = _table("kind", "name", "from", "to")
    for row in pairs.head(20).itertuples():
        table.add_row(str(row.kind), *map(_printable, (row.name, row.was, row.owner)))
    if len(pairs):
        console.print(table)
    if len(pairs) > 20:
        whole = f": crowdsync plan --show {moving.plan}" if moving.plan else ""
        console.print(f"  … and {len(pairs) - 20:,} more{whole}", highlight=False)
    if len(left):
        table = Table(title=f"Left out ({len(left):,}): they stay {old}'s", title_justify="left")
        for column in ("kind", "name", "owner", "why, and what to do"):
            table.add_column(column, overflow="fold", no_wrap=column == "kind")
        for row in left.head(50).itertuples():
            table.add_row(str(row.kind), *map(_printable, (row.name, row.owner, row.reason)))
        console.print(table)
    if len(left) > 50:
        console.print(f"  … and {len(left) - 50:,} more", highlight=False)


def _table(*columns: str) -> Table:
    """Rows of a list: numbers to the right, moments never broken, no lines that would take a narrow screen's room."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        right = name in _NUMBERS
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=right or name in ("", "made", "started", "since", "taken", "status", "content", "state"),
            overflow="fold",
        )
    return table


def _printable(value: Any) -> str:
    return escape(printable(value))


def _when(value: Any) -> str:
    return str(pd.Timestamp(value).strftime("%Y-%m-%d %H:%M:%S")) if pd.notna(value) else ""
