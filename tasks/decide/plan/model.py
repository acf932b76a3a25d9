"""What a plan is, and what the planner is told of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pandas as pd
import pyarrow.compute as pc

from connectors.model import held_frame, sizes_only
from connectors.operations import KINDS
from tasks.decide.names import arrow_text

COLUMNS: Final = ("kind", "name", "target", "source_id", "record", "before", "reason")
"""What an operation is. Its digest covers these, and `seq` and `phase`."""
KNOWN: Final = ("shuts_out", "marks")
"""What the planner knows of an operation besides (bool): somebody who can log in now cannot afterwards; an account
that is there gets the ownership mark."""
GIVER: Final = "giver"
"""Key in the record of an ownership mark: the id of the same source that had the Crowd record before."""


@dataclass(frozen=True, slots=True)
class Owned:
    """What the source owns in the directory before the plan: the base of per cent limits."""

    users: int
    active: int
    groups: int
    memberships: int
    nestings: int


@sizes_only
@dataclass(frozen=True, slots=True)
class Plan:
    """`operations`: seq, phase, `COLUMNS` and `KNOWN`; `record` and `before` are JSON text or "".
    `withheld`: operations that the policy's features keep out, counted by kind; `reported` are those of them that it
    wants to see, in `COLUMNS`.
    `leavers`: the people (id, why) who have an account and left: out of scope, disabled or gone.
    `gone`: of whom and what (kind, id) the plan takes something because a list did not name them: ask by key first.
    `shielded`: people (`HELD` and `account`) who have left by the source's clear word and whose active account stays,
    because whose it is is in doubt. `warnings` has the columns of `HELD`. `doubts`: sentences on the policy or the
    database that a person must agree to where the plan takes anything away. `handed_over`: Crowd groups that go to
    another id (name, before, after).
    `links`: ownership that needs no write (the mark in Crowd was enough), in the columns kind, id, name, how.
    `stale`: links (kind, id) to records that are gone and whose names the plan gives to somebody else.
    `digest` covers the operations, both snapshots and the policy."""

    operations: pd.DataFrame
    held: pd.DataFrame
    withheld: Mapping[str, int]
    reported: pd.DataFrame
    leavers: pd.DataFrame
    links: pd.DataFrame
    stale: pd.DataFrame
    owned: Owned
    digest: str
    shielded: pd.DataFrame = field(default_factory=lambda: held_frame().assign(account=pd.Series(dtype="str")))
    gone: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["kind", "id"], dtype="str"))
    warnings: pd.DataFrame = field(default_factory=held_frame)
    doubts: tuple[str, ...] = ()
    handed_over: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["name", "before", "after"], dtype="str")
    )

    def counts(self) -> dict[str, int]:
        """Operations by kind, in the order of the phases, without zeros."""
        found = pc.value_counts(arrow_text(self.operations["kind"])).to_pylist()
        counts = {one["values"]: one["counts"] for one in found}
        return {kind.value: counts[kind.value] for kind in KINDS if kind.value in counts}

    def shut_out(self) -> int:
        """How many accounts that can log in now cannot after the plan."""
        return int(self.operations["shuts_out"].sum())


@sizes_only
@dataclass(frozen=True, slots=True)
class Departures:
    """What the planner knows of time: who left since when (id, since: UTC), and what time it is."""

    since: pd.DataFrame
    now: datetime
