"""Who has left, what is due for each, and what is done to their accounts first of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from connectors.model import DISABLED, OUT_OF_SCOPE, sizes_only, text_array
from connectors.operations import Kind
from tasks.decide.names import among
from tasks.decide.plan.inputs import PlanInputs, held_row
from tasks.decide.plan.model import Departures
from tasks.decide.plan.rows import HeldRow, StepResult, frame, nothing, records, together

SHUTS_OUT: Final = ("deactivate", "deactivate_and_take_groups")
"""Actions of the policy that deactivate an account."""
TAKES_GROUPS: Final = ("take_groups", "deactivate_and_take_groups")


@sizes_only
@dataclass(frozen=True, slots=True)
class FoundLeavers:
    """Accounts that we own and whose person is gone, out of scope or disabled; arrays by account.

    `action` of the policy and `why`, "" where the person is there. `absent`: the source does not name the person at
    all. `departed`: the person is not wanted in Crowd any more, or the account is to be deleted. `stripped`: their
    memberships are taken away. `frozen`: accounts that are left exactly as they are. `people`: id, why."""

    step: StepResult
    action: np.ndarray
    why: np.ndarray
    absent: np.ndarray
    departed: np.ndarray
    stripped: np.ndarray
    frozen: np.ndarray
    people: pd.DataFrame

    @property
    def deleted(self) -> np.ndarray:
        """Accounts that are to be deleted: bool."""
        return np.asarray(self.departed & (self.action == "delete"))


def find_leavers(inputs: PlanInputs, departures: Departures | None) -> FoundLeavers:
    """Whoever is held counts too, where the source's word that they left is clear: doubt about the rest does not
    shield them. Without `departures` nobody has been gone for long."""
    owner, adopted = _owners(inputs)
    ours, wanted, word = _words(inputs, owner)
    listed = np.zeros(len(owner), dtype=bool)
    if ours.any():
        listed[ours] = among(pd.Series(owner[ours], dtype="str"), inputs.source.users["id"])
    spoken = word != ""
    absent = ours & ~wanted & ~listed & ~spoken
    outside = ours & ~wanted & listed & ~spoken | (word == OUT_OF_SCOPE)
    disabled = ours & wanted & ~spoken | (word == DISABLED)
    action, why = np.full((2, len(owner)), "", dtype=object)
    rules = inputs.policy.leavers
    for which, of_policy, reason in (
        (absent, rules.deleted, "is gone from the source"),
        (outside, rules.out_of_scope, "is out of scope"),
        (disabled, rules.disabled, "is disabled in the source"),
    ):
        action[which], why[which] = of_policy, reason
    _delete_late(inputs, departures, owner, ours, (action, why))
    frozen, held = inputs.frozen_accounts.copy(), list[HeldRow]()
    for i in np.flatnonzero(adopted & (action == "delete") & ~frozen):
        frozen[i] = True  # what was never ours is not taken in order to be deleted
        person = inputs.users[(inputs.users["id"] == owner[i]).to_numpy()].iloc[0]
        held.append(held_row(person, "", f"{why[i]}, and its Crowd account is nobody's: delete that by hand"))
    frozen[spoken & ~inputs.closed_accounts] = False
    departed = (absent | outside | spoken | (action == "delete")) & ~frozen
    stripped = np.isin(action, TAKES_GROUPS) & ~frozen
    left = action != ""
    people = pd.DataFrame({"id": text_array(owner[left]), "why": text_array(why[left])}, copy=False)
    operations = _operations(inputs, action, why, departed)
    return FoundLeavers(StepResult(operations, tuple(held)), action, why, absent, departed, stripped, frozen, people)


def _owners(inputs: PlanInputs) -> tuple[np.ndarray, np.ndarray]:
    """For each account who owns it after this plan (id, ""), and whether it is nobody's yet (bool)."""
    at = inputs.user_at[inputs.user_at >= 0]
    owner = inputs.accounts["owner"].to_numpy(dtype=object, copy=True)
    adopted = np.zeros(len(owner), dtype=bool)
    adopted[at] = owner[at] == ""
    owner[at] = inputs.users["id"].to_numpy(dtype=object)[inputs.user_at >= 0]
    return owner, adopted


def _words(inputs: PlanInputs, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each account whether it is one of ours whose person is not active (bool), whether the person is wanted
    (bool), and what the source says of a held one: the word, "" for none. Held ones without a word are left out."""
    known = inputs.user_at >= 0
    at = inputs.user_at[known]
    wanted, active = np.zeros((2, len(owner)), dtype=bool)
    wanted[at] = True
    active[at] = inputs.users["active"].to_numpy(dtype=bool)[known]
    # Few have left, and only they are looked up.
    few = np.flatnonzero((owner != "") & ~active)
    held = inputs.matched.held[inputs.matched.held["kind"] == "user"]
    words = dict(zip(held["id"], held["away"], strict=True))
    words |= {key: word for key, word in zip(held["id"], held["away"], strict=True) if word}
    few = few[[bool(words.get(one, "?")) for one in owner[few]]]
    word = np.full(len(owner), "", dtype=object)
    word[few] = [words.get(one, "") for one in owner[few]]
    ours = np.zeros(len(owner), dtype=bool)
    ours[few] = True
    return ours, wanted, word


def _delete_late(
    inputs: PlanInputs,
    departures: Departures | None,
    owner: np.ndarray,
    ours: np.ndarray,
    due: tuple[np.ndarray, np.ndarray],
) -> None:
    """Turns action and why of those who left long enough ago into a deletion; both arrays are changed in place."""
    action, why = due
    days = inputs.policy.leavers.delete_after_days
    if days is None or departures is None or not len(departures.since):
        return
    long = departures.since[departures.since["since"] <= pd.Timestamp(departures.now) - pd.Timedelta(days=days)]
    late = ours & np.isin(action, [*SHUTS_OUT, "take_groups"])
    late[late] = among(pd.Series(owner[late], dtype="str"), long["id"])
    since = dict(zip(long["id"], long["since"].dt.strftime("%Y-%m-%d"), strict=True))
    action[late] = "delete"
    why[late] = [f"{w} since {since[o]}" for w, o in zip(why[late], owner[late], strict=True)]


def _operations(inputs: PlanInputs, action: np.ndarray, why: np.ndarray, departed: np.ndarray) -> pd.DataFrame:
    """What is done to the accounts of those who left; the disabled are shut out with their other changes."""
    deleted = departed & (action == "delete")
    active = inputs.accounts["active"].to_numpy(dtype=bool)
    shut = departed & np.isin(action, SHUTS_OUT) & active
    if not deleted.any() and not shut.any():
        return nothing()
    gone, closed = inputs.accounts[deleted], inputs.accounts[shut]
    parts = [
        frame(
            Kind.USER_DELETE,
            gone["username"],
            source_id=gone["owner"],
            before=records(gone),
            reason=why[deleted],
            shuts_out=active[deleted],
        ),
        frame(
            Kind.USER_DEACTIVATE,
            closed["username"],
            source_id=closed["owner"],
            record=records(closed.assign(active=False)),
            before=['{"active":true}'] * len(closed),
            reason=why[shut],
            shuts_out=True,
        ),
    ]
    return together(parts)
