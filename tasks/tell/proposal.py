"""A proposal: the plan that follows from both sides and the policy, and what stands against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from connectors.contract import Directory, Source
from connectors.model import Snapshot, sizes_only
from connectors.store import StepCursors, WideTotals
from tasks.decide.impact import Impact
from tasks.decide.removals import RecentRemovals
from tasks.decide.selection import Selection
from tasks.policy import Policy

if TYPE_CHECKING:
    from tasks.decide.guard import Verdict
    from tasks.decide.plan import Plan
    from tasks.read.missed import Missed
    from tasks.run import ReadSide


@sizes_only
@dataclass(frozen=True, slots=True)
class Basis:
    """What a proposal is made from, beside the policy. `selection`: whom it is about, None for everybody; `advice`:
    what the provider says of records of one name; `force`: whether it may go past the limits. `totals`: where both
    sides are those of a few people, what the last wide run counted. `read`: how both sides were read, in words.
    `loud`: what must not be overlooked, whatever the plan. `cursors`: where what happens after the reading begins, of a
    run about everybody; None where that cannot be had. `missed`: what had not been told of what a full read
    found. `recent`: what was taken away in the window of the limits, where that is known. `with_others`: the operations
    of a plan about a few → Crowd as far as what they do to people depends on it."""

    source: ReadSide[Source]
    crowd: ReadSide[Directory]
    links: pd.DataFrame
    selection: Selection | None = None
    advice: str = ""
    force: bool = False
    totals: WideTotals | None = None
    read: str = ""
    loud: tuple[str, ...] = ()
    cursors: StepCursors | None = None
    missed: Missed | None = None
    recent: RecentRemovals | None = None
    with_others: Callable[[pd.DataFrame], Snapshot] | None = None

    @property
    def about_everybody(self) -> bool:
        """Whether whoever has anything to be done is in the plan: all there are, or all who changed."""
        return self.selection is None or self.selection.changed is not None


@sizes_only
@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan as the guard sees it, made under `policy` from `basis`. `orphans`: how many records of Crowd belong to no
    source. `counted`: what narrow runs need of everybody, where everybody was looked at. (Not where nobody may ever
    agree to the plan: what was read is in doubt then.) `standing`: of a plan about one person that has nothing to do,
    why."""

    basis: Basis
    policy: Policy
    plan: Plan
    impact: Impact
    verdict: Verdict
    orphans: int = 0
    counted: Mapping[str, Any] | None = None
    standing: str = ""
