"""What changes about accounts that are there, and which are created."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import sizes_only
from connectors.operations import Kind
from tasks.decide.fields import FIELDS
from tasks.decide.names import among, crowd_ids, equal, same
from tasks.decide.plan.attributes import attribute_changes
from tasks.decide.plan.inputs import PlanInputs, alike, different, held_row, taken_by
from tasks.decide.plan.leavers import SHUTS_OUT, FoundLeavers
from tasks.decide.plan.renames import Renames
from tasks.decide.plan.rows import (
    DIFFERS,
    HeldRow,
    StepResult,
    Withheld,
    fields_before,
    frame,
    nothing,
    records,
    together,
)
from tasks.policy import matches

DISABLED = "is disabled in the source"
ACTIVE = "is active in the source"


def change_accounts(
    inputs: PlanInputs, leavers: FoundLeavers, named: Renames, signed_in: Collection[str]
) -> StepResult:
    """One full replace per account that differs, named after the most serious change in it; and the attributes, which
    Crowd keeps apart. `signed_in`: who did so just now (ids)."""
    fixed = named.frozen | leavers.departed
    people = inputs.users.assign(mark=inputs.name + ":" + inputs.users["id"])
    columns = (*FIELDS, "active", "attributes", "mark")
    known, wanted, now = different(people, inputs.accounts, inputs.user_at, fixed, columns)
    if not len(known):
        return StepResult(nothing())
    differs, after = _fields(wanted, now)
    stops = (now["active"] & ~wanted["active"]).to_numpy(dtype=bool, copy=True)
    stops &= np.isin(leavers.action[inputs.user_at[known]], SHUTS_OUT)
    starts = (~now["active"] & wanted["active"]).to_numpy(dtype=bool, copy=True)
    allows = inputs.policy.operations
    waits = starts & ~among(wanted["id"], signed_in) if allows.user_activate == "sign_in" else np.zeros_like(starts)
    starts &= ~waits
    withheld = []

    def changed(kind: Kind, after: pd.DataFrame, which: np.ndarray, reason: str) -> pd.DataFrame:
        return _replaces(kind, wanted["id"], now, after, which, reason) if which.any() else nothing()

    if waits.any():
        rest = changed(Kind.USER_ACTIVATE, now.assign(active=True), waits, f"{ACTIVE}, and has not signed in since")
        withheld.append(Withheld(rest, "off"))
    for kind, which, active, reason in (
        (Kind.USER_DEACTIVATE, stops, False, DISABLED),
        (Kind.USER_ACTIVATE, starts, True, ACTIVE),
    ):
        if which.any() and not allows.allows(kind):
            withheld.append(Withheld(changed(kind, now.assign(active=active), which, reason), allows.of(kind)))
            which[:] = False
    if differs.any() and not allows.allows(Kind.USER_UPDATE):
        rest = changed(Kind.USER_UPDATE, after, differs & ~stops & ~starts, DIFFERS)
        withheld += [Withheld(rest, allows.of(Kind.USER_UPDATE))] if len(rest) else []
        differs[:] = False
        after = now.copy()
    after["active"] = np.where(stops, False, np.where(starts, True, now["active"].to_numpy()))
    after["username"] = named.final[known]
    attributes = attribute_changes(inputs, Kind.USER_ATTRIBUTES, wanted, now, after["username"])
    first = after.assign(username=now["username"]) if stops.any() else after
    parts = [
        # A deactivation comes before the renames, everything else after them.
        changed(Kind.USER_DEACTIVATE, first, stops, DISABLED),
        changed(Kind.USER_ACTIVATE, after, starts, ACTIVE),
        changed(Kind.USER_UPDATE, after, differs & ~stops & ~starts, DIFFERS),
        attributes.operations,
    ]
    return StepResult(together(parts), (), (*withheld, *attributes.withheld))


def _fields(wanted: pd.DataFrame, now: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Desired people and their accounts → whose fields differ (bool), and the accounts with the fields as wanted."""
    differs, after = np.zeros(len(wanted), dtype=bool), now.copy()
    for name in FIELDS:
        # Crowd ignores an empty value in a replace: what the source does not know stays.
        other = ~same(wanted[name], now[name]) & ~equal(wanted[name], "")
        differs |= other
        if other.any():
            after[name] = wanted[name].where(other, now[name])
    return differs, after


def _replaces(
    kind: Kind, ids: pd.Series, now: pd.DataFrame, after: pd.DataFrame, which: np.ndarray, reason: str
) -> pd.DataFrame:
    """One full replace for each account of `which`; `ids`: whose they are."""
    changed = after[which]
    return frame(
        kind,
        changed["username"],
        source_id=ids[which],
        record=records(changed),
        before=fields_before(now[which], changed),
        reason=[reason] * len(changed),
        shuts_out=kind is Kind.USER_DEACTIVATE,
    )


@sizes_only
@dataclass(frozen=True, slots=True)
class CreatedAccounts:
    """`created`: which desired people get a new account (bool)."""

    step: StepResult
    created: np.ndarray


def create_accounts(inputs: PlanInputs, named: Renames) -> CreatedAccounts:
    """Accounts for active people who have none; held where the name is not to be had."""
    users = inputs.users
    new = (inputs.user_at < 0) & users["active"].to_numpy(dtype=bool)
    if not new.any():
        return CreatedAccounts(StepResult(nothing()), new)
    names = crowd_ids(users["username"])
    held: list[HeldRow] = []

    def hold(which: np.ndarray, reason: Callable[[int], str]) -> None:
        held.extend(held_row(users.iloc[i], "", reason(i)) for i in np.flatnonzero(which).tolist())

    blocked = new & among(names, named.taken)
    hold(blocked, lambda i: taken_by(inputs, "user", names.iloc[i], users["id"].iloc[i]))
    closed = new & ~blocked & matches(users["username"], inputs.policy.protection.users).to_numpy()
    hold(closed, lambda _: "its username is a protected one")
    look = new & ~blocked & ~closed & (named.lookalikes != "")
    hold(look, lambda i: alike("user", named.lookalikes[i]))
    created = new & ~blocked & ~closed & ~look
    people = users[created]
    made = frame(
        Kind.USER_CREATE,
        people["username"],
        source_id=people["id"],
        record=records(people, inputs.name + ":" + people["id"]),
        reason=["is new in scope"] * len(people),
    )
    state = inputs.policy.operations.of(Kind.USER_CREATE)
    if state == "on":
        return CreatedAccounts(StepResult(made, tuple(held)), created)
    withheld = (Withheld(made, state),) if len(made) else ()
    return CreatedAccounts(StepResult(made[:0], tuple(held), withheld), np.zeros(len(users), dtype=bool))
