"""Accounts whose person has another username now, in an order in which each finds its name free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import ID_ATTRIBUTE, crowd_id, sizes_only
from connectors.operations import Kind
from tasks.decide.names import among, clashes, crowd_ids
from tasks.decide.plan.inputs import PlanInputs, alike, held_row, taken_by
from tasks.decide.plan.leavers import FoundLeavers
from tasks.decide.plan.rows import HeldRow, Row, StepResult, Withheld, json, of_rows
from tasks.policy import matches

TAKEN = "waits for a name that another account keeps"
CHANGED = "username changed in the source"
MAKES_ROOM = "makes room: names go round in a circle"


@sizes_only
@dataclass(frozen=True, slots=True)
class Renames:
    """`frozen`: accounts that are left as they are, with those whose rename is held. By desired person: `final`, the
    username that the account has after the plan, and `lookalikes`, the name of an account that stays and looks like the
    wanted one, "". `taken`: the names that will be in use (folded), where anybody needs a new one."""

    step: StepResult
    frozen: np.ndarray
    final: np.ndarray
    lookalikes: np.ndarray
    taken: frozenset[str]


class _Movers:
    """The renames that are left, while one after another is held. `by_name`: the name that each wants → its row among
    the desired people; `left`: the names that they give up."""

    def __init__(
        self, inputs: PlanInputs, frozen: np.ndarray, current: np.ndarray, wanted: np.ndarray, moves: np.ndarray
    ) -> None:
        """`current` and `wanted`: what each desired person is called, and is to be called as Crowd looks it up."""
        self.inputs, self.frozen, self.current, self.wanted, self.moves = inputs, frozen, current, wanted, moves
        self.ids = inputs.users["account"].to_numpy(dtype=object)
        self.by_name: dict[str, int] = {self.wanted[i]: i for i in np.flatnonzero(moves).tolist()}
        self.left = {self.ids[i] for i in self.by_name.values()}
        self.held: list[HeldRow] = []

    def hold(self, first: int, reason: str) -> list[int]:
        """Holds a rename, and those that wait for its name. Returns their rows."""
        found, waiting = [], [(first, reason)]
        while waiting:
            i, reason = waiting.pop()
            self.held.append(held_row(self.inputs.users.iloc[i], self.current[i], reason))
            self.frozen[self.inputs.user_at[i]] = True
            self.moves[i] = False
            del self.by_name[self.wanted[i]]
            self.left.discard(self.ids[i])
            found.append(i)
            if self.ids[i] in self.by_name:
                waiting.append((self.by_name[self.ids[i]], TAKEN))
        return found


def find_renames(inputs: PlanInputs, leavers: FoundLeavers) -> Renames:
    """Who is renamed, and what creations must know of names."""
    users, at = inputs.users, inputs.user_at
    known, active = at >= 0, users["active"].to_numpy(dtype=bool)
    frozen = leavers.frozen.copy()
    current = np.full(len(users), "", dtype=object)
    current[known] = inputs.accounts["username"].to_numpy(dtype=object)[at[known]]
    wanted = crowd_ids(users["username"]).to_numpy(dtype=object)
    # Who is disabled keeps the name: many providers give the deleted another one.
    moves = known & (wanted != users["account"].to_numpy(dtype=object)) & active
    moves[known] &= ~frozen[at[known]] & ~leavers.departed[at[known]]
    new = ~known & active
    allows = inputs.policy.operations
    deleted = set(inputs.accounts["id"][leavers.deleted]) if allows.allows(Kind.USER_DELETE) else set[str]()
    taken = _taken(inputs, deleted) if moves.any() or new.any() else set[str]()
    withheld: tuple[Withheld, ...] = ()
    if not allows.allows(Kind.USER_RENAME):
        whole = zip(users["id"][moves], current[moves], users["username"][moves], strict=True)
        rows = [_rename(inputs, *one, CHANGED) for one in whole]
        withheld = (Withheld(of_rows(rows), allows.of(Kind.USER_RENAME)),) if rows else ()
        moves[:] = False
    movers = _Movers(inputs, frozen, current, wanted, moves)
    for i in np.flatnonzero(moves & matches(users["username"], inputs.policy.protection.users).to_numpy()).tolist():
        if moves[i]:
            movers.hold(i, "its new username is a protected one")
    for name, i in list(movers.by_name.items()):
        if name in taken and name not in movers.left and moves[i]:
            movers.hold(i, taken_by(inputs, "user", name, users["id"].iloc[i]))
    lookalikes = _lookalikes(movers, new, deleted)
    operations = _operations(movers, taken)
    final = np.where(known, current, users["username"].to_numpy(dtype=object))
    taken = (taken - movers.left) | set(wanted[moves])
    return Renames(StepResult(operations, tuple(movers.held), withheld), frozen, final, lookalikes, frozenset(taken))


def _taken(inputs: PlanInputs, deleted: set[str]) -> set[str]:
    """The names that are in use now and will not be given up by a deletion, folded."""
    there = set(inputs.accounts["id"].to_numpy(dtype=object)) - deleted
    return there | set(inputs.unread("user")["id"]) if there else there


def _lookalikes(movers: _Movers, new: np.ndarray, deleted: set[str]) -> np.ndarray:
    """For each desired person the name of an account that stays and looks like the wanted name, ""; renames to such a
    name are held, and then the names that they keep count too."""
    inputs, users = movers.inputs, movers.inputs.users
    found = np.full(len(users), "", dtype=object)
    names = inputs.accounts["username"]
    if deleted or movers.left:
        names = names[~among(inputs.accounts["id"], deleted | movers.left)]
    while len(names) and (movers.moves.any() or new.any()):
        open_ = np.flatnonzero((movers.moves | new) & (found == ""))
        found[open_] = clashes(users["username"].iloc[open_], names) if len(open_) else ""
        held = []
        for i in np.flatnonzero(movers.moves & (found != "")).tolist():
            held += movers.hold(i, alike("user", found[i])) if movers.moves[i] else []
        names = pd.Series(movers.current[held], dtype="str")
    return found


def _operations(movers: _Movers, taken: set[str]) -> pd.DataFrame:
    """The renames that are left. Changes in place what each account is called (`movers.current`) and, where a circle
    needs a name for a while, `taken`."""
    inputs, current, rows = movers.inputs, movers.current, []
    usernames = inputs.users["username"]
    for i, makes_room in _in_order(movers.by_name, {i: movers.ids[i] for i in movers.by_name.values()}):
        target, reason = usernames.iloc[i], CHANGED
        if makes_room:
            target, reason = _aside(current[i], taken), MAKES_ROOM
            taken.add(crowd_id(target))
        rows.append(_rename(inputs, inputs.users["id"].iloc[i], current[i], target, reason))
        current[i] = target
    return of_rows(rows)


def _rename(inputs: PlanInputs, identity: str, old: str, new: str, reason: str) -> Row:
    record = json({"attributes": {ID_ATTRIBUTE: [f"{inputs.name}:{identity}"]}})
    return Row(Kind.USER_RENAME.value, old, new, identity, record, json({"username": old}), reason)


def _in_order(mover: dict[str, int], gives: dict[int, str]) -> Iterator[tuple[int, bool]]:
    """Who wants which name and who gives which → (who, whether it only makes room), such that a name is free when it is
    taken: chains from their end; of a circle one makes room first."""
    wants = {i: name for name, i in mover.items()}
    givers = set(gives.values())
    ready = [i for name, i in mover.items() if name not in givers]
    while wants:
        if not ready:  # only circles are left
            i = next(iter(wants))
            yield i, True
            ready.append(mover[gives.pop(i)])
        i = ready.pop()
        yield i, False
        del wants[i]
        if (name := gives.pop(i, None)) in mover:
            ready.append(mover[name])


def _aside(name: str, taken: set[str]) -> str:
    """A name like this one that nobody has."""
    return next(other for n in range(1, 10_000) if crowd_id(other := f"{name[:200]}~{n}") not in taken)
