"""What a narrow read stands on: what the last wide run left in the store of both sides.

Wherever that is not enough to decide what a wide run would decide, it says why (`NotNarrowError`), and nothing is
concluded from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pandas as pd

from connectors.errors import CrowdsyncError
from connectors.model import GROUPS, GroupRow, Snapshot, sizes_only
from connectors.operations import Kind, kinds
from connectors.store import SavedSnapshot, Store, WideTotals
from tasks.decide.kept import kept
from tasks.decide.names import crowd_ids, equal
from tasks.decide.nesting import groups_below
from tasks.decide.removals import RecentRemovals
from tasks.decide.width import totals_less, totals_more
from tasks.read import validate
from tasks.read.keys import Keys
from tasks.run import Client, Run, Side

MOST_REMOVALS: Final = 5_000
"""So many removals in the window of the limits are looked at one by one, at most."""

MOST_MADE: Final = 2_000
"""So many accounts and memberships that were made since the last wide run are counted, at most; where there are more,
none is, and limits are as narrow as they were then."""


class NotNarrowError(CrowdsyncError):
    """Why what is asked for cannot be decided from a few records, in words that follow "because"."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of a side: its newest snapshot, of its content the groups and what is whole, and what
    validation holds of it. `groups`: their rows by id; `unread`: those (ids) whose members could not be read."""

    saved: SavedSnapshot
    rest: Snapshot
    invalid: pd.DataFrame
    groups: Mapping[str, GroupRow]
    unread: frozenset[str]


@sizes_only
@dataclass(frozen=True, slots=True)
class KnownSides:
    """`recent`: what was taken away in the window of the limits, and `losers`, the accounts (ids) that lost something
    by it; `removed`: what was taken away in Crowd by anybody since it was read, and in the window; `totals` are less
    that. `keys` find the records of both."""

    totals: WideTotals
    source: Known
    crowd: Known
    recent: RecentRemovals
    losers: Collection[str]
    removed: pd.DataFrame
    keys: Keys


def known_sides(run: Run) -> KnownSides:
    """Both sides as the store knows them. Raises `NotNarrowError`."""
    with run.store.one_read():
        return _known_sides(run)


def _known_sides(run: Run) -> KnownSides:
    if run.put_back:
        raise NotNarrowError("an older copy of the database was put back")
    totals = _totals(run)
    source = _known(run.store, run.source_side)
    crowd = _known(run.store, run.crowd_side)
    if source.saved.digest != totals.snapshot:
        raise NotNarrowError(f"{run.source_name} was read since by a run that did not end well, or by a preview")
    if {*run.store.unfinished_plans(run.directory_name)} - {run.lender}:
        raise NotNarrowError("an earlier run was interrupted, and what became of its operations is to be found out")
    now = datetime.now(UTC)
    begin = now - timedelta(hours=run.policy.limits.window_hours)
    every = run.store.removals(None, run.directory_name, min(begin, totals.at), pending=run.lender)
    ours = every["source"] == run.source_name
    recent = run.recent(now, every[ours & (every["at"] >= begin)])
    window, since = recent.removals, every[every["at"] >= totals.at]
    if since["kind"].isin([*kinds(entity="group"), *kinds(entity="nesting")]).any():
        raise NotNarrowError("groups of Crowd were taken away or out of groups since the last wide run")
    losers = set(crowd_ids(window["name"]))
    if len(losers) > MOST_REMOVALS:
        raise NotNarrowError(f"{len(losers)} accounts lost something in the window of the limits")
    own = since[ours[since.index]]
    made = run.store.made_since(run.source_name, run.directory_name, totals.at, MOST_MADE)
    anew = set(made["source_id"][equal(made["kind"], Kind.USER_CREATE)])
    newcomers = run.store.first_linked(run.directory_name, run.source_name, totals.at, anew) if anew else ()
    counted = totals_more(totals_less(totals.totals, own, since), made, own, newcomers)
    totals = replace(totals, totals={**counted, "out_by_nestings": _out_by_nestings(run, crowd, recent)})
    removed = pd.concat([window, since], ignore_index=True)
    return KnownSides(totals, source, crowd, recent, losers, removed, Keys(run, source.saved.id, crowd.saved.id))


def _out_by_nestings(run: Run, crowd: Known, recent: RecentRemovals) -> int:
    """How many accounts, at most, are out of groups because a group was taken out of them lately."""
    out = recent.pairs("group_loss", Kind.NESTING_REMOVE, crowd.rest)
    if out.empty:
        return 0
    return run.store.count_members(run.crowd_side.stream, groups_below(crowd.rest.memberships, out["member"]))


def _totals(run: Run) -> WideTotals:
    totals = run.store.wide_totals(run.directory_name, run.source_name)
    if totals is None:
        raise NotNarrowError(
            "no run yet has read both sides whole (one whose plan is never carried out does not count)"
        )
    if "loud" not in totals.totals:
        raise NotNarrowError("the last wide run was one of an earlier version")
    same_rules(run, totals.policy, totals.requested, "that of the last wide run", "the last wide run")
    not_long_ago(run, totals.at, "wide run")
    return totals


def same_rules(run: Run, policy: str, requested: str, whose: str, then: str) -> None:
    """Raises `NotNarrowError` where these digests are not those of the run: of a policy (`whose`), and of what was
    requested `then`."""
    if policy != run.policy.digest():
        raise NotNarrowError(f"the policy is another one than {whose}")
    if requested != run.request_digest:
        raise NotNarrowError(f"the settings or attributes that are asked for changed since {then}")


def not_long_ago(run: Run, at: datetime, what: str) -> None:
    """Raises `NotNarrowError` where something is longer ago than the policy wants everything to be read."""
    hours = run.policy.reads.full_every_hours
    if not timedelta() <= datetime.now(UTC) - at < timedelta(hours=hours):
        raise NotNarrowError(f"the last {what} is more than {hours:g} hours ago (reads.full_every_hours)")


def _known(store: Store, side: Side[Client]) -> Known:
    found = store.newest(side.stream)
    if found is None:
        raise NotNarrowError(f"{side.name} was never read")
    saved, rest = found
    invalid = store.verdict(saved.digest, validate.RULES)
    if invalid is None:
        raise NotNarrowError(f"what was last read of {side.name} was not validated")
    unread = frozenset(rest.held["id"][equal(rest.held["kind"], "group")]) if len(rest.held) else frozenset()
    return Known(saved, rest, invalid, _rows(rest.groups), unread)


@kept
def _rows(groups: pd.DataFrame) -> Mapping[str, GroupRow]:
    """Groups → their rows by id."""
    columns = [groups[name].tolist() for name in GROUPS]
    return dict(zip(columns[0], zip(*columns, strict=True), strict=True))


def people_and_accounts(people: int, accounts: int) -> str:
    """So many of each, in words."""
    who = f"{people:,} {'person' if people == 1 else 'people'}"
    return f"{who} and {accounts:,} {'account' if accounts == 1 else 'accounts'}"
