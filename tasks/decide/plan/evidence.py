"""What the report and the guard need of a plan: what we own, who is asked for by key, who stays in wrongly, doubts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd

from connectors.model import DISABLED, OUT_OF_SCOPE, held_frame
from connectors.operations import KINDS, Kind, kinds
from tasks.decide.names import among, crowd_ids, equal
from tasks.decide.plan.differences import positions
from tasks.decide.plan.inputs import PlanInputs
from tasks.decide.plan.leavers import SHUTS_OUT, FoundLeavers
from tasks.decide.plan.model import Owned
from tasks.decide.selection import Selection


def owned(inputs: PlanInputs) -> Owned:
    """What the source owns before the plan, with what it adopts."""
    mine = ~equal(inputs.accounts["owner"], "")
    mine[inputs.user_at[inputs.user_at >= 0]] = True
    groups = ~equal(inputs.directory_groups["owner"], "")
    groups[inputs.group_at[inputs.own_groups]] = True
    at = positions(inputs.directory.memberships["group_id"], inputs.directory_groups["id"])
    nested = equal(inputs.directory.memberships["member_kind"], "group")
    inside = groups[at] & (at >= 0)
    return Owned(
        int(mine.sum()),
        int((mine & inputs.accounts["active"].to_numpy(dtype=bool)).sum()),
        int(groups.sum()),
        int((inside & ~nested).sum()),
        int((inside & nested).sum()),
    )


def gone(inputs: PlanInputs, leavers: FoundLeavers, orphaned: np.ndarray, operations: pd.DataFrame) -> pd.DataFrame:
    """Of whom and what the plan takes something because the source did not list them: kind, id. `orphaned`: Crowd
    groups of ours that are in scope no more (bool)."""
    handed = inputs.matched.handed_over["before"]
    absent = leavers.absent & leavers.departed
    if not absent.any() and not orphaned.any() and not len(handed):
        return _nobody().copy(deep=False)
    kind = operations["kind"]
    ids = inputs.accounts["owner"][absent]
    of_people = operations[kind.isin(kinds(shuts_out=True))]
    losing = crowd_ids(operations["name"][kind == Kind.MEMBERSHIP_REMOVE])
    taken = among(ids, of_people["source_id"]) | among(inputs.accounts["id"][absent], losing)
    listed = pd.concat([inputs.source.groups["id"], inputs.held_ids("group")])
    lost = orphaned & ~among(inputs.directory_groups["owner"], listed)
    names = pd.concat(
        [
            operations["target"][kind.isin([Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE])],
            operations["name"][kind.isin([Kind.GROUP_DELETE, Kind.NESTING_REMOVE])],
        ]
    )
    groups = inputs.directory_groups[lost & among(inputs.directory_groups["id"], crowd_ids(names))]
    parts = [("user", ids[taken]), ("group", groups["owner"]), ("group", handed)]
    frames = [pd.DataFrame({"kind": kind, "id": of}, dtype="str") for kind, of in parts]
    return pd.concat(frames, ignore_index=True).drop_duplicates(ignore_index=True)


@cache
def _nobody() -> pd.DataFrame:
    return pd.DataFrame({"kind": [], "id": []}, dtype="str")


@cache
def _no_links() -> pd.DataFrame:
    return pd.DataFrame({"kind": [], "id": [], "name": [], "how": []}, dtype="str")


@cache
def _not_shielded() -> pd.DataFrame:
    return held_frame().assign(account=pd.Series(dtype="str"))


def shielded(inputs: PlanInputs, operations: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """Who has left by the source's word and keeps an active account all the same: held, with `account`."""
    if not (held["away"] != "").any():
        return _not_shielded().copy(deep=False)
    stopped = crowd_ids(operations["name"][operations["kind"].isin(kinds(shuts_out=True))])
    active = inputs.accounts[inputs.accounts["active"] & ~among(inputs.accounts["id"], stopped)]
    account: dict[str, str] = {}
    for column in ("owner", "linked", "marked"):
        account |= {one: name for one, name in zip(active[column], active["username"], strict=True) if one}
    word = held["away"].ne("") & (held["kind"] == "user") & held["id"].isin(list(account))
    # (What the policy leaves alone is its own choice, and no doubt.)
    rules = inputs.policy.leavers
    action = held["away"].map({DISABLED: rules.disabled, OUT_OF_SCOPE: rules.out_of_scope})
    word &= action.isin([*SHUTS_OUT, "delete"])
    found = held[word].drop_duplicates("id")
    return found.assign(account=found["id"].map(account).astype("str")).reset_index(drop=True)


def warnings(inputs: PlanInputs) -> pd.DataFrame:
    """Those of the stages before, and groups whose name in Crowd is another one: Crowd cannot rename groups."""
    known = np.flatnonzero(inputs.own_groups)
    at = inputs.group_at[known]
    wanted = crowd_ids(inputs.groups["name"]).to_numpy(dtype=object)[known]
    other = wanted != inputs.directory_groups["id"].to_numpy(dtype=object)[at]
    names = inputs.directory_groups["name"].to_numpy(dtype=object)[at[other]]
    if not other.any():
        return inputs.matched.warnings
    found = held_frame(
        ("group", row.id, row.name, "plan", f"is still called {name!r} in Crowd, which cannot rename groups")
        for row, name in zip(inputs.groups.iloc[known[other]].itertuples(), names, strict=True)
    )
    return pd.concat([inputs.matched.warnings, found], ignore_index=True)


def doubts(inputs: PlanInputs) -> Iterator[str]:
    """What speaks against taking anything away, beyond numbers."""
    if inputs.matched.unknown_marks:
        yield (
            f"{inputs.matched.unknown_marks} records of Crowd bear this source's mark and are not in our database, "
            "though others are: it is older than Crowd, as when a backup was put back; put the newest one back, or "
            "agree that what it says of leavers holds"
        )


def links(inputs: PlanInputs, selection: Selection | None = None) -> pd.DataFrame:
    """Ownership that Crowd's marks alone tell (kind, id, name, how), also of those who leave: a database that knows
    only some of them would look as if it were older than Crowd. With `selection` of people theirs alone: others may
    be as the store had them, under a name that they have no longer."""
    parts = [_no_links().copy(deep=False)]
    for kind, records in (("user", inputs.accounts), ("group", inputs.directory_groups)):
        if not equal(records["how"], "id").any():
            continue
        handed = among(records["owner"], inputs.matched.handed_over["after"]) & (kind == "group")
        found = records[equal(records["how"], "id") & ~handed]  # (those who are handed one get theirs with the mark)
        parts.append(pd.DataFrame({"kind": kind, "id": found["owner"], "name": found["id"], "how": "id"}, dtype="str"))
    found = pd.concat(parts, ignore_index=True)
    if selection is None or selection.group:
        return found
    people = selection.persons if selection.changed is None else selection.changed
    mine: pd.DataFrame = found[~equal(found["kind"], "user") | among(found["id"], people)]
    return mine.reset_index(drop=True)


def stale(inputs: PlanInputs, operations: pd.DataFrame) -> pd.DataFrame:
    """Links (kind, id) to records that are gone and whose names the plan gives to somebody else."""
    named = operations[operations["kind"].isin([*kinds(link="makes"), *kinds(link="moves")])]
    found = inputs.matched.stale
    if named.empty or found.empty:
        return found[["kind", "id"]][:0]
    names = crowd_ids(named["target"].where(named["kind"] == Kind.USER_RENAME, named["name"]))
    keys = named["kind"].map(lambda kind: KINDS[Kind(kind)].entity) + ":" + names
    return found.loc[among(found["kind"] + ":" + crowd_ids(found["name"]), keys), ["kind", "id"]]
