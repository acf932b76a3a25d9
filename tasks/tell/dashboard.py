"""How everything stands, in words: for the terminal and for the page of Prefect. Knows neither Prefect nor pandas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from connectors.store.overview import DirectoryState, Overview, Queue, SourceState
from tasks.tell.templates import render

OVERDUE: Final = timedelta(hours=2)
"""After so long without a good run a source is overdue, unless somebody says otherwise."""
UNHEARD: Final = timedelta(minutes=10)
"""After so long news that waits says that `crowdsync react` does not run, or does not come through."""
PASSING: Final = "CROWDSYNC_PASSING_SERVER"
"""Set in the environment where Prefect's server is one for the length of a command: it needs no such page."""
GOOD: Final = ("nothing to do", "applied")


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that waits for somebody: about which source ("" all of the directory), in words, and what to do."""

    directory: str
    source: str
    what: str
    way: str


def concerns(found: Overview, overdue: timedelta = OVERDUE) -> list[Concern]:
    """What waits for whom, or should have happened; none where all is well."""
    return [
        Concern(directory.directory, source, what, way)
        for directory in found.directories
        for source, what, way in (
            *((one.source, *each) for one in directory.sources for each in _of_source(one, found.at, overdue)),
            *(("", *each) for each in _of_queue(directory.inbox, found.at)),
        )
    ]


def _of_source(one: SourceState, now: datetime, overdue: timedelta) -> Iterator[tuple[str, str]]:
    if one.put_back is not None:
        yield (
            f"an older copy of the database was put back (known since {_at(one.put_back)})",
            f"crowdsync sync {one.source}, and agree to its plan if it is what the source wants",
        )
    for plan in one.plans:
        of = f" about {plan.about}" if plan.about else ""
        if plan.status == "waiting":
            yield (
                f"plan {plan.plan}{of} waits for agreement since {_at(plan.since)}",
                f"crowdsync plan --show {plan.plan}, then approve or reject",
            )
        else:
            yield f"plan {plan.plan}{of} was agreed to at {_at(plan.since)}", f"crowdsync apply {plan.plan}"
    if one.quarantine is not None:
        until = f"until {_at(one.quarantine.until)}" if one.quarantine.until > now else "due again"
        yield (
            f"in quarantine ({until}), {counted(one.quarantine.failures, 'failure')} since {_at(one.quarantine.since)}",
            f"see to it: {one.quarantine.error}",
        )
    if one.last is not None and one.last.status not in (*GOOD, "waiting", "skipped") and one.quarantine is None:
        yield (
            f"the last run, at {_at(one.last.finished_at)}, ended {one.last.status}",
            f"see to it: {one.last.error or 'crowdsync runs'}",
        )
    if one.in_step is None:
        yield "never brought in step", f"crowdsync sync {one.source}"
    elif now - one.in_step > overdue and one.running_since is None:
        yield f"last good run {ago(now - one.in_step)} ago", "see that worker and schedule run"
    if one.last is not None:
        for loud in one.last.loud:
            yield loud, "see the report of its last run"
    yield from _of_queue(one.inbox, now)


def _of_queue(queue: Queue, now: datetime) -> Iterator[tuple[str, str]]:
    if queue.held:
        yield f"{counted(queue.held, 'piece')} of news held", "crowdsync inbox"
    if queue.waiting_since is not None and now - queue.waiting_since > UNHEARD:
        yield (
            f"{counted(queue.waiting, 'piece')} of news waiting, the oldest for {ago(now - queue.waiting_since)}",
            "see that crowdsync react runs; crowdsync inbox says why",
        )


def last_good(one: SourceState) -> str:
    """When a source was last brought in step, for a table."""
    return moment(one.in_step) if one.in_step else "never"


def last_run(one: SourceState) -> str:
    """What the last run about everybody came to, or that one runs."""
    if one.running_since is not None:
        return f"runs since {moment(one.running_since)}"
    return f"{one.last.status} {moment(one.last.finished_at)}" if one.last else "none"


def held(one: SourceState) -> str:
    """`3 users, 1 group`"""
    return ", ".join(counted(count, kind) for kind, count in one.held.items()) or "0"


def news(queue: Queue) -> str:
    """`2 waiting, 1 held`"""
    parts = [(queue.waiting, "waiting"), (queue.held, "held")]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "0"


def markdown(found: Overview, following: str, folder: str = "", overdue: timedelta = OVERDUE) -> str:
    """The page. `following`: when the schedule starts the next runs; `folder`: of templates of an admin."""
    sources = [one for directory in found.directories for one in directory.sources]
    values = {
        "at": moment(found.at),
        "waits": [asdict(one) for one in concerns(found, overdue)],
        "sources": [_row(directory, one) for directory in found.directories for one in directory.sources],
        "following": following,
        "asks": any(plan.status == "waiting" for one in sources for plan in one.plans),
    }
    return render("status.md", values, folder)


def _row(directory: DirectoryState, one: SourceState) -> dict[str, str]:
    return {
        "directory": directory.directory,
        "source": one.source,
        "last_good": last_good(one),
        "read_whole": moment(one.read_whole) if one.read_whole else "never",
        "last_run": last_run(one),
        "held": held(one),
        "news": news(one.inbox),
    }


def moment(at: datetime) -> str:
    """`2026-11-30 01:40`, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _at(time: datetime) -> str:
    """`2026-11-30 01:40 UTC`, for a sentence."""
    return f"{moment(time)} UTC"


def counted(count: int, what: str) -> str:
    """`1 failure`, `2 failures`"""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def ago(time: timedelta) -> str:
    """`45 minutes`, `3 hours`, `2 days`"""
    minutes = int(time.total_seconds() // 60)
    count, what = (minutes, "minute") if minutes < 120 else (minutes // 60, "hour")
    count, what = (count // 24, "day") if what == "hour" and count >= 48 else (count, what)
    return counted(count, what)
