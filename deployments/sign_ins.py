"""Sign-ins that need no look: who was read a moment ago is not read again for signing in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter

from connectors.hook import SIGN_INS
from connectors.settings import Settings
from connectors.store import Store, in_thread
from connectors.store.inbox import Hint
from tasks.policy import policy_of


def passed_over(
    due: Sequence[Hint], looked_at: Mapping[str, datetime], everybody: datetime | None, known: Collection[str]
) -> list[Hint]:
    """Of what is due in one source the sign-ins that may be passed over. `looked_at`: when these people (keys) were
    last read, and `everybody` when all were, both lately enough; `known`: the people whom the store has."""
    return [
        one
        for one in due
        if one.kind == "user"
        and one.via == "sign-in"
        and not one.attempts  # (what was tried and failed has not been read)
        and one.key in known
        and (one.key in looked_at or everybody is not None)
    ]


async def without_passed_over(store: Store, settings: Settings, due: Sequence[Hint]) -> list[Hint]:
    """What is due, without the sign-ins that are passed over; these are settled, with a note."""
    passed: set[int] = set()
    by_source = attrgetter("source")
    for source, items in groupby(sorted(due, key=by_source), by_source):
        some = list(items)
        over = await in_thread(_of_source, store, settings, source, some) if source in settings.sources else []
        passed |= {one.id for one in over}
    return [one for one in due if one.id not in passed]


def _of_source(store: Store, settings: Settings, source: str, due: Sequence[Hint]) -> list[Hint]:
    """Those of one source that are passed over, settled."""
    minutes, now = settings.source(source).sign_in_minutes, datetime.now(UTC)
    people = [one.key for one in due if one.kind == "user" and one.via == "sign-in" and not one.attempts]
    if not minutes or not people:
        return []
    directory, since = due[0].directory, now - timedelta(minutes=minutes)
    # Where a sign-in lets somebody in, only that they signed in before stands for it.
    counts = policy_of(settings, source).operations.user_activate == "sign_in"
    looked_at = store.looked_at(directory, source, people, since, SIGN_INS if counts else ())
    totals = None if counts else store.wide_totals(directory, source)
    everybody = totals.at if totals is not None and totals.at >= since else None
    known = set(store.users_now(f"source:{source}", people)["id"]) if looked_at or everybody else set()
    over = passed_over(due, looked_at, everybody, known)
    for at in sorted({looked_at.get(one.key) or everybody or now for one in over}):
        ids = [one.id for one in over if (looked_at.get(one.key) or everybody or now) == at]
        note = f"passed over: read at {at:%H:%M:%S} UTC, less than {minutes:g} minutes ago (sign_in_minutes)"
        store.settle(ids, "done", note, now)
    return over
