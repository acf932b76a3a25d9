"""What a plan that was made from a few records cannot say of itself, so that everybody has to be looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from connectors.model import Snapshot
from connectors.operations import KINDS, Kind
from tasks.decide.guard import Verdict
from tasks.decide.impact import Impact
from tasks.decide.names import among, crowd_ids, equal
from tasks.decide.plan import Owned, Plan
from tasks.decide.plan.renames import MAKES_ROOM
from tasks.decide.removals import RecentRemovals
from tasks.policy import Limit, Policy


def beyond(plan: Plan, impact: Impact, verdict: Verdict, policy: Policy) -> str:
    """A plan from a few records, its impact and its verdict → why a wide run has to decide, in words that follow
    "because"; "" where it need not."""
    if verdict.stops:
        return f"what stands against the plan is judged over everybody ({verdict.stops[0]})"
    operations = plan.operations
    if (operations["reason"] == MAKES_ROOM).any():
        return "names go round in a circle, and one has to make room under a name that nobody has"
    entities = operations["kind"].map(lambda kind: KINDS[Kind(kind)].entity)
    if entities.isin(["group", "nesting"]).any():
        return "a group of Crowd changes, and the store would not know of it"
    if impact.seats_before != impact.seats_after:
        return "licence seats are counted over everybody (limits.seat_groups)"
    for limit, kind in (
        ("group_membership_add", Kind.MEMBERSHIP_ADD),
        ("group_membership_remove", Kind.MEMBERSHIP_REMOVE),
    ):
        if getattr(policy.limits, limit) != Limit() and (operations["kind"] == kind).any():
            return f"limits.{limit} is per cent of all members of a group"
    return ""


def totals_of(plan: Plan, impact: Impact, orphans: int, loud: Sequence[str] = ()) -> dict[str, Any]:
    """What of a plan about everybody, its impact, the orphans of Crowd and what must not be overlooked besides (`loud`)
    counts for a plan about a few, as JSON values."""
    return {
        "owned": asdict(plan.owned),
        "doubts": list(plan.doubts),
        "active": impact.active_before,
        "orphans": orphans,
        "withheld": dict(plan.withheld),
        "loud": list(loud),
    }


def totals_less(totals: Mapping[str, Any], own: pd.DataFrame, every: pd.DataFrame) -> dict[str, Any]:
    """What a wide run counted, less what was taken away since: by this source (`own`) and by `every` one, in the
    columns of `tasks.decide.removals`."""
    if not len(own) and not len(every):
        return dict(totals)
    nothing = Snapshot.of()  # nobody is back
    of_own, of_every = (RecentRemovals(removals).counts(nothing) for removals in (own, every))
    less = {"users": "user_delete", "active": "user_deactivate", "memberships": "membership_remove"}
    owned = {name: count - of_own.get(less.get(name, ""), 0) for name, count in totals["owned"].items()}
    return {**totals, "owned": owned, "active": totals["active"] - of_every.get("user_deactivate", 0)}


def totals_more(
    totals: Mapping[str, Any], made: pd.DataFrame, own: pd.DataFrame, newcomers: Collection[str]
) -> dict[str, Any]:
    """What a wide run counted, and what this source made since (`made`, as the journal has it): the accounts of
    `newcomers` (ids), who had none before, and their memberships. Not what came after a removal (`own`) of the same
    name: that is no more than there was. So nothing is counted that a wide run would not count."""
    create = equal(made["kind"], Kind.USER_CREATE)
    if not create.any():
        return dict(totals)
    made = made.assign(name=crowd_ids(made["name"]), target=crowd_ids(made["target"]))
    created = made[create & among(made["source_id"], newcomers)].drop_duplicates("name")
    first = dict(zip(crowd_ids(own["name"])[::-1], own["at"][::-1], strict=True))  # (they come by time)
    kept = [first.get(name, at) >= at for name, at in zip(created["name"], created["at"], strict=True)]
    created = created[np.array(kept, dtype=bool)]
    joined = made[~create & among(made["name"], created["name"])].drop_duplicates(["name", "target"])
    taken = set(zip(crowd_ids(own["target"]), crowd_ids(own["name"]), strict=True))
    pairs = {*zip(joined["target"], joined["name"], strict=True)} - taken
    more = {"users": len(created), "active": len(created), "memberships": len(pairs)}
    owned = {name: count + more.get(name, 0) for name, count in totals["owned"].items()}
    return {**totals, "owned": owned, "active": totals["active"] + len(created)}


def with_totals(plan: Plan, totals: Mapping[str, Any]) -> Plan:
    """A plan from a few records, with what is owned and doubted of everybody."""
    doubts = tuple(dict.fromkeys((*plan.doubts, *totals["doubts"])))
    return replace(plan, owned=Owned(**totals["owned"]), doubts=doubts)


def counted_whole(impact: Impact, totals: Mapping[str, Any]) -> Impact:
    """The impact of such a plan, with the active accounts of everybody. Who lost a group because another one was taken
    out of it lately is not among a few: as many as there may be count, and an emptied group is one that they lost."""
    others, out = totals["active"] - impact.active_before, totals["out_by_nestings"]
    return replace(
        impact,
        active_before=totals["active"],
        active_after=impact.active_after + others,
        losers_recently=impact.losers_recently + (out if impact.losers else 0),
        deserted=impact.emptied if out else impact.deserted,
    )
