"""What commands print: the same facts as the Prefect artifacts, for a terminal; and lists also for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
import pandas as pd
from rich.console import Console
from rich.markup import escape

from connectors.operations import BY_DANGER, KINDS
from deployments.audited import sentence
from deployments.listing import Cell, Form, moment, table, write
from deployments.terminal import printable, said
from tasks.decide.names import spelled
from tasks.tell.rows import changes, count_line, left_out, plan_rows, written

if TYPE_CHECKING:
    from connectors.store import SavedPlan
    from connectors.store.tokens import Token
    from tasks.decide.explain import Explained
    from tasks.tell.report import Report
    from tasks.write.links import Moving

TEXT: Final = Form.TEXT
SHOWN: Final = 20
"""Rows of each table of a report."""

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_CHANGES = {"+": "added", "-": "removed", "~": "changed"}
_STATES = ("planned", "intended", "done", "already", "failed", "skipped", "undone")
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
    said(
        console,
        f"[bold]{_printable(report.source)} → {_printable(report.directory)}[/]  [{colour}]{report.status}[/]{plan}",
    )
    for line in report.loud:
        said(console, f"[bold red]but {_printable(line)}[/]", 2)
    for line in report.remarks:
        said(console, f"[yellow]but {_printable(line)}[/]", 2)
    sides = [
        (
            name,
            f"{users:,} users, {groups:,} groups, {memberships:,} memberships"
            f"{' before' if report.outcomes and name == report.directory else ''}",
        )
        for name, (users, groups, memberships) in report.sizes.items()
    ]
    table(console, ("", ""), sides, indent=2, head=False)
    for line in (report.read, report.standing):
        if line:
            said(console, _printable(line), 2)
    counts: list[tuple[Cell, Cell, Cell]] = [
        ((KINDS[kind].sign, _COLOURS[KINDS[kind].sign]), KINDS[kind].words, f"{report.planned[kind]:,}")
        for kind in BY_DANGER
        if kind in report.planned
    ]
    table(console, ("", "", "operations"), counts, indent=2, head=False)
    if report.impact:
        said(console, "what it does to people:", 2)
        for line in report.impact:
            said(console, _printable(line), 4)
    for ask in report.asks:
        said(console, f"[yellow]needs agreement[/]  {_printable(ask)}", 2)
    for line in report.agreed:
        said(console, f"[green]agreed[/]  {_printable(line)}", 2)
    if report.verified:
        said(console, f"canary: the first {report.verified:,} operations were read back before the rest", 2)
    if report.outcomes:
        said(console, f"written: {written(report.outcomes)}", 2)
    if report.withheld:
        said(console, f"withheld by the policy: {count_line(report.withheld)}", 2)
    for line in report.forced:
        said(console, f"[yellow]forced past[/]  {_printable(line)}", 2)
    if report.orphans:
        whose = f"crowdsync links orphans {_printable(report.source)}"
        said(console, f"{report.orphans:,} records of Crowd belong to no source: {whose}", 2)
    _shielded(console, report.shielded)
    _held(console, report.held, report.lasting)
    _listed(console, "Reported only, and not done", report.reported, "because it", "reason")
    _left_out(console, report.warnings)
    _listed(console, "Failed", report.failed, "why", "note")


def _some(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], number: int, rest: str
) -> None:
    """A table of a report under its title, and how many rows more there are, and where."""
    said(console, f"[bold]{title} ({number:,})[/]")
    table(console, columns, rows, indent=2)
    if number > SHOWN:
        said(console, f"… and {number - SHOWN:,} more, {rest}", 2)


_ON_PAGE: Final = "in the report on the run's page"


def _shielded(console: Console, shielded: pd.DataFrame) -> None:
    if shielded.empty:
        return
    rows = [
        (spelled(str(row.name)), str(row.away).replace("_", " "), str(row.account), str(row.reason))
        for row in shielded.head(SHOWN).itertuples()
    ]
    columns = ("who", "source says", "account", "why, and what to do")
    _some(console, "In against the source's word", columns, rows, len(shielded), _ON_PAGE)


def _held(console: Console, held: pd.DataFrame, lasting: pd.DataFrame) -> None:
    """Held records, and of those that have been held for long, for how many runs."""
    if held.empty:
        return
    long = {(row.kind, row.id): f"{row.runs:,}" for row in lasting.itertuples()}
    rows = [
        (
            *(str(row.kind), spelled(str(row.name)), str(row.stage)),
            *(long.get((row.kind, row.id or row.name), ""), str(row.reason)),
        )
        for row in held.head(SHOWN).itertuples()
    ]
    columns = ("kind", "name", "stage", "runs", "why, and what to do")
    _some(console, "Held: neither created, changed nor deactivated", columns, rows, len(held), "in `crowdsync held`")


def _left_out(console: Console, warnings: pd.DataFrame) -> None:
    if warnings.empty:
        return
    said(console, f"[bold]Warnings ({len(warnings):,})[/]")
    for reason, some in left_out(warnings):
        said(console, f"{_printable(reason)}{': ' if some else ''}{_printable(', '.join(some))}", 2)


def _listed(console: Console, title: str, operations: pd.DataFrame, column: str, why: str) -> None:
    """Operations, a line each; the last column is called `column` and filled from `why`."""
    if operations.empty:
        return
    rows = [
        [KINDS[kind].words if kind in KINDS else str(kind), *map(str, rest)]
        for kind, *rest in operations[["kind", "name", "target", why]].head(SHOWN).itertuples(index=False)
    ]
    _some(console, title, ("operation", "who", "to", column), rows, len(operations), _ON_PAGE)


# ── lists ───────────────────────────────────────────────────────────────────────────────────────


def plan(
    console: Console,
    stored: SavedPlan,
    operations: pd.DataFrame,
    disclose: str,
    overtaken: int | None = None,
    form: Form = TEXT,
) -> None:
    """A stored plan, whole. `overtaken`: by which other one."""
    if form is not TEXT:
        fields = ("seq", "kind", "name", "target", "changes", "reason", "state", "note", "finished_at")
        records = operations.assign(
            changes=[
                changes(str(record), str(before), disclose)
                for record, before in zip(operations["record"], operations["before"], strict=True)
            ]
        )
        write(form, fields, records.to_dict("records"))
        return
    states = {str(state): int(number) for state, number in operations["state"].value_counts().items()}
    status = f"{stored.status}, overtaken by plan {overtaken}" if overtaken else stored.status
    said(
        console,
        f"[bold]plan {stored.id}[/]  {_printable(stored.source)} → {_printable(stored.directory)}  "
        f"{_printable(status)}  made {moment(stored.created_at)} UTC",
    )
    done = written(states) or "none"
    said(console, f"{len(operations):,} operations: {done} · digest {_printable(stored.digest[:12])}", 2)
    rows: list[Sequence[Cell] | str] = []
    of = ""
    for row in plan_rows(operations, disclose, limit=len(operations)):
        if row["who"] != of:
            of = row["who"]
            rows.append(of)
        state = row["state"] if len(states) > 1 else ""
        line = (
            row["what"],
            "  ".join(filter(None, (row["to"], row["changes"]))),
            state,
            row["because it"],
            row["note"],
        )
        rows.append((("  " + row[""], _COLOURS[row[""]]), *line))
    table(console, ("", "what", "", "state", "because it", "note"), rows, head=False)


def plans(console: Console, frame: pd.DataFrame, overtaken: Mapping[int, int] | None = None, form: Form = TEXT) -> None:
    """Stored plans, a line each. `overtaken`: those that another one has overtaken, and which."""
    by = overtaken or {}
    records = [{**row, "overtaken_by": by.get(row["id"])} for row in frame.to_dict("records")]
    if form is not TEXT:
        fields = ("id", "created_at", "source", "directory", "status", "overtaken_by", "about", "digest", "run")
        write(form, (*fields, *_STATES), records)
        return
    if not records:
        said(console, "There are no plans yet; `crowdsync plan` makes one.")
        return
    rows = [
        (
            *(str(row["id"]), moment(row["created_at"]), row["source"], row["directory"]),
            ", ".join(f"{row[state]:,} {state}" for state in _STATES if row[state]) or "none",
            f"overtaken by plan {row['overtaken_by']}" if row["overtaken_by"] else str(row["status"]),
        )
        for row in records
    ]
    table(console, ("plan", "made (UTC)", "source", "directory", "what", "status"), rows)


def runs(console: Console, frame: pd.DataFrame, form: Form = TEXT) -> None:
    """Runs, a line each, with its plan and the snapshots that it took, and what it had to say."""
    found = [_run(row) for row in frame.to_dict("records")]
    if form is not TEXT:
        fields = ("run", "started_at", "finished_at", "source", "directory", "mode", "status", "planned", "held")
        write(form, (*fields, "plans", "source_snapshot", "directory_snapshot", "notes"), found)
        return
    if not found:
        said(console, "There are no runs yet; `crowdsync plan` is a safe first one.")
        return
    rows = [
        (
            moment(row["started_at"])[:-3],
            row["source"],
            str(row["mode"]),
            (str(row["status"]), _STATUS.get(row["status"], "yellow")),
            ", ".join(map(str, row["plans"])),
            ", ".join(str(one) for one in (row["source_snapshot"], row["directory_snapshot"]) if one),
            "" if row["planned"] is None else f"{row['planned']:,}",
            "" if row["held"] is None else f"{row['held']:,}",
            "" if row["took"] is None else f"{row['took']:.1f} s",
            "; ".join(row["notes"]),
        )
        for row in found
    ]
    columns = ("started (UTC)", "source", "mode", "status", "plan", "snapshots", "changes", "held", "took", "note")
    table(console, columns, rows, optional=("took",))


def _run(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of the store's runs, and what its summary says."""
    summary: dict[str, Any] = orjson.loads(row["summary"] or "{}")
    ended = pd.notna(row["finished_at"])
    snapshots = summary.get("snapshots", {})
    but = [*summary.get("loud", ()), *summary.get("remarks", ())]
    why = summary.get("refusals") or [*filter(None, [summary.get("error")])]
    return {
        **row,
        "took": (row["finished_at"] - row["started_at"]).total_seconds() if ended else None,
        "planned": sum(summary["planned"].values()) if "planned" in summary else None,
        "held": summary.get("held"),
        "plans": summary.get("plans") or [one for one in [summary.get("plan")] if one],
        "source_snapshot": snapshots.get("source"),
        "directory_snapshot": snapshots.get("directory"),
        "notes": [*but, *why],
    }


def inbox(console: Console, frame: pd.DataFrame, counts: pd.DataFrame, form: Form = TEXT) -> None:
    """Rows of the inbox, a line each, with what was said of them; then how many there are."""
    if form is not TEXT:
        fields = ("id", "source", "directory", "kind", "key", "name", "via", "received_at", "attempts", "status")
        write(form, (*fields, "due_at", "note"), frame.to_dict("records"))
        return
    if frame.empty:
        said(console, "Nothing waits, and nothing is held.")
        return
    rows = []
    for row in frame.to_dict("records"):
        working = row["status"] == "waiting" and pd.notna(row["taken_at"])
        again = (
            f"again at {moment(row['due_at'])} UTC" if row["status"] == "waiting" and pd.notna(row["due_at"]) else ""
        )
        status: Cell = ("held", "red") if row["status"] == "held" else "at work" if working else str(row["status"])
        rows.append(
            (
                *(str(row["id"]), row["source"] or row["directory"], str(row["kind"])),
                *(f"{row['name']} ({row['key']})" if row["name"] else row["key"], str(row["via"])),
                *(moment(row["received_at"]), str(row["attempts"]), status),
                ", ".join(filter(None, (again, row["note"]))),
            )
        )
    table(console, ("no.", "source", "what", "who", "via", "since (UTC)", "tries", "status", "note"), rows)
    for status_, number in counts.groupby("status")["rows"].sum().items():
        said(console, f"{number:,} {status_}")


def snapshots(console: Console, frame: pd.DataFrame, of: str = "", form: Form = TEXT) -> None:
    """Snapshots, a line each; `of` what they are, where that was asked for."""
    if form is not TEXT:
        fields = ("id", "stream", "taken_at", "run", "digest", "users", "groups", "memberships")
        write(form, fields, frame.to_dict("records"))
        return
    if frame.empty:
        what = f"There are no snapshots of {_printable(of)}" if of else "There are no snapshots"
        said(console, f"{what} yet; every run takes one of each side.")
        return
    rows = [
        (
            *(str(row["id"]), row["stream"], moment(row["taken_at"])),
            *(f"{row[name]:,}" for name in ("users", "groups", "memberships")),
            str(row["digest"])[:8],
        )
        for row in frame.to_dict("records")
    ]
    columns = ("no.", "of", "taken (UTC)", "users", "groups", "memberships", "content")
    table(console, columns, rows, optional=("content",))


Named = Callable[[str, str], str]
"""Kind (user, group) and id of a record → its name."""


def difference(console: Console, frames: Mapping[str, pd.DataFrame], named: Named, form: Form = TEXT) -> None:
    """What differs between two snapshots, table by table."""
    if form is not TEXT:
        records = [
            {**row, "table": name, **_names(name, row, named), "change": _CHANGES[row["change"]]}
            for name, frame in frames.items()
            for row in frame.to_dict("records")
        ]
        fields = ("table", "change", "id", "name", "column", "before", "after")
        write(form, (*fields, "group_id", "group", "member_id", "member", "member_kind"), records)
        return
    for name, frame in frames.items():
        signs = frame["change"].value_counts().to_dict() if len(frame) else {}
        line = ", ".join(f"[{_COLOURS[s]}]{s}[/] {signs[s]:,}" for s in ("+", "-", "~") if s in signs)
        said(console, f"[bold]{_printable(name)}[/]  {line or 'the same'}")
        rows: list[Sequence[Cell]] = []
        for row in frame.head(MANY).to_dict("records"):
            who, sign = _names(name, row, named), (row["change"], _COLOURS[row["change"]])
            if name == "memberships":
                rows.append((sign, who["member"], who["group"]))
            else:
                change = f"{row['before'] or 'nothing'} → {row['after'] or 'nothing'}" if row["column"] else ""
                rows.append((sign, who["name"], str(row["column"]), change))
        columns = ("", "who", "in group") if name == "memberships" else ("", "who", "field", "before and after")
        if rows:
            table(console, columns, rows, indent=2)
        if len(frame) > MANY:
            said(console, f"… and {len(frame) - MANY:,} more (all of them: --json or --csv)", 2)


MANY: Final = 100
"""Rows of each table of a difference."""


def _names(table: str, row: Mapping[Any, Any], named: Named) -> dict[str, str]:
    if table == "memberships":
        member = named(str(row["member_kind"]), str(row["member_id"]))
        return {"member": member, "group": named("group", str(row["group_id"]))}
    return {"name": named(table.removesuffix("s"), str(row["id"]))}


def explained(
    console: Console, source: str, person: str, rows: Sequence[Explained], read: Any, form: Form = TEXT
) -> None:
    """Why a person is as they are, rule by rule."""
    if form is not TEXT:
        fields = ("stage", "what", "before", "rule", "after")
        write(form, fields, ({name: getattr(row, name) for name in fields} for row in rows))
        return
    said(console, f"[bold]{_printable(person)}[/] in {_printable(source)}, as read {moment(read)} UTC")
    lines = []
    for row in rows:
        before, after = ", ".join(row.before), ", ".join(row.after)
        kept = row.what in ("scope", "held") or not before or before == after
        value = (after or before) if kept else f"{before} → {after or 'nothing'}"
        lines.append((row.stage, row.what, (value, "bold"), row.rule))
    table(console, ("stage", "what", "becomes", "why"), lines)


def decisions(console: Console, frame: pd.DataFrame, form: Form = TEXT) -> None:
    """Decisions, a line each."""
    records = [{**row, "without": orjson.loads(row["without"])} for row in frame.to_dict("records")]
    if form is not TEXT:
        fields = ("plan_id", "at", "actor", "login", "decision", "without", "reason", "expires_at", "via")
        write(form, fields, records)
        return
    if not records:
        said(console, "There are no decisions yet: no plan had to be agreed to.")
        return
    rows = [
        (
            str(row["plan_id"]),
            moment(row["at"]),
            row["actor"] if row["login"] in ("", row["actor"]) else f"{row['actor']} (login {row['login']})",
            str(row["decision"]).replace("_", " "),
            ", ".join(row["without"]),
            str(row["via"]),
            str(row["reason"]),
        )
        for row in records
    ]
    table(console, ("plan", "made (UTC)", "who", "decision", "without", "via", "why"), rows)


def audit(
    console: Console, frame: pd.DataFrame, runs: Mapping[str, Mapping[Any, Any]] | None = None, form: Form = TEXT
) -> None:
    """The audit chain, a sentence each. `runs`: those that it speaks of, by id."""
    records = [
        {**row, "details": _details(row["details"]), "sentence": _sentence(row, runs or {})}
        for row in frame.to_dict("records")
    ]
    if form is not TEXT:
        write(form, ("id", "at", "event", "actor", "subject", "sentence", "details", "hash"), records)
        return
    if not records:
        said(console, "The audit is empty: nothing has happened yet.")
        return
    rows = [(str(row["id"]), moment(row["at"]), row["sentence"]) for row in records]
    table(console, ("no.", "when (UTC)", "what happened"), rows)


def _details(text: Any) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # somebody changed the row: it is shown as it is
        return str(text)


def _sentence(row: Mapping[Any, Any], runs: Mapping[str, Mapping[Any, Any]]) -> str:
    """A row in words; one that was changed may have none."""
    try:
        details = orjson.loads(row["details"])
        return sentence(str(row["event"]), str(row["actor"]), str(row["subject"]), details, runs.get(row["subject"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{row['actor']}: {row['event']} {row['subject']} ({row['details']})"


def links(console: Console, frame: pd.DataFrame, limit: int, form: Form = TEXT) -> None:
    """Links, a line each."""
    if form is not TEXT:
        write(form, ("source", "kind", "name", "id", "how", "made_at"), frame.head(limit).to_dict("records"))
        return
    if frame.empty:
        said(console, "no links")
        return
    rows = [(*map(str, (row.name, row.id, row.how)), moment(row.made_at)) for row in frame.head(limit).itertuples()]
    table(console, ("name", "id", "how", "made (UTC)"), rows, optional=("made (UTC)",))
    _more(console, frame, limit)


def orphans(console: Console, frame: pd.DataFrame, limit: int, form: Form = TEXT) -> None:
    """What belongs to no source, a line each."""
    if form is not TEXT:
        write(form, ("kind", "name", "active"), frame.head(limit).to_dict("records"))
        return
    if frame.empty:
        said(console, "nothing: every record of Crowd belongs to a source, or is protected")
        return
    rows = [
        (str(row.kind), spelled(str(row.name)), ("yes" if row.active else "no") if row.kind == "user" else "")
        for row in frame.head(limit).itertuples()
    ]
    table(console, ("kind", "name", "active"), rows)
    _more(console, frame, limit)


def held(console: Console, frame: pd.DataFrame, limit: int, form: Form = TEXT) -> None:
    """What is held, a line each: source, kind, id, name, runs, since, reason."""
    if form is not TEXT:
        write(form, ("source", "kind", "id", "name", "since", "runs", "reason"), frame.head(limit).to_dict("records"))
        return
    if frame.empty:
        said(console, "Nothing is held, as of the last sync.")
        return
    rows = [
        (*map(str, (row.source, row.kind, spelled(str(row.name)), row.runs)), moment(row.since), str(row.reason))
        for row in frame.head(limit).itertuples()
    ]
    columns = ("source", "kind", "name", "runs", "since (UTC)", "why, and what to do")
    table(console, columns, rows, optional=("since (UTC)",))
    _more(console, frame, limit)


def _more(console: Console, frame: pd.DataFrame, limit: int) -> None:
    if len(frame) > limit:
        said(console, f"… and {len(frame) - limit:,} more: --limit {len(frame)}", 2)


def tokens(console: Console, found: Sequence[Token], now: Any, form: Form = TEXT) -> None:
    """Tokens, a line each; never the tokens themselves."""
    if form is not TEXT:
        fields = ("id", "source", "made_at", "expires_at", "used_on", "revoked_at")
        write(form, fields, ({name: getattr(one, name) for name in fields} for one in found))
        return
    if not found:
        said(console, "There are none: crowdsync tokens make SOURCE")
        return
    rows = []
    for one in found:
        until = f"{one.expires_at:%Y-%m-%d}" if one.revoked_at is None else f"revoked {one.revoked_at:%Y-%m-%d}"
        over = " (over)" if one.revoked_at is None and not one.lives(now) else ""
        used = f"{one.used_on:%Y-%m-%d}" if one.used_on else "never"
        rows.append((one.id, one.source, f"{one.made_at:%Y-%m-%d}", until + over, used))
    table(console, ("id", "source", "made", "lives until", "last used"), rows)


def moving(console: Console, moving: Moving, old: str, new: str) -> None:
    """What a move between sources does, or did: who goes to whom, what it leads to, who is left out and why."""
    pairs, left = moving.pairing.pairs, moving.pairing.left_out
    users = int((pairs["kind"] == "user").sum())
    said(
        console,
        f"[bold]{_printable(old)} → {_printable(new)}[/]  {users:,} accounts and {len(pairs) - users:,} groups to be "
        f"moved, {len(left):,} left out",
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
            said(console, f"{len(names):,} of them {_printable(what)} ({_printable(shown)})", 2)
    if len(pairs):
        rows = [[str(row.kind), *map(str, (row.name, row.was, row.owner))] for row in pairs.head(SHOWN).itertuples()]
        table(console, ("kind", "name", "from", "to"), rows, indent=2)
    if len(pairs) > SHOWN:
        whole = f": crowdsync plan --show {moving.plan}" if moving.plan else ""
        said(console, f"… and {len(pairs) - SHOWN:,} more{whole}", 2)
    if len(left):
        said(console, f"[bold]Left out ({len(left):,}): they stay {_printable(old)}'s[/]")
        rows = [[str(row.kind), *map(str, (row.name, row.owner, row.reason))] for row in left.head(50).itertuples()]
        table(console, ("kind", "name", "owner", "why, and what to do"), rows, indent=2)
    if len(left) > 50:
        said(console, f"… and {len(left) - 50:,} more", 2)


def _printable(value: Any) -> str:
    return escape(printable(value))
