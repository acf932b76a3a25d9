"""The truth about interrupted plans: which of their operations took effect, by what Crowd holds now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd

from connectors.contract import Directory, Scope
from connectors.model import MEMBERSHIPS, Snapshot, crowd_id, memberships_frame, users_frame
from connectors.operations import KINDS, Found, Kind, Operation, stands
from connectors.store import Store, in_thread
from tasks.decide.links import lost_links, new_links, recorded_by
from tasks.decide.ownership import ByHand

_IN_GROUPS: Final = {"membership": "user", "nesting": "group"}
"""What is about the members of a group, and of which kind they are."""


def settle(operations: pd.DataFrame, directory: Snapshot) -> pd.Series:
    """Operations (as the store gives them) + a fresh directory snapshot → whether each one's condition holds now.

    A rename that another one followed (a → a~1 → b) held too."""
    columns = (operations[c] for c in ("seq", "kind", "name", "target", "record", "source_id"))
    rows = [
        (Operation(int(seq), Kind(kind), name, target, orjson.loads(record) if record else {}), person)
        for seq, kind, name, target, record, person in zip(*columns, strict=True)
    ]
    found = _finder([operation for operation, _ in rows], directory)
    holds = np.zeros(len(rows), dtype=bool)
    passed: set[tuple[str, str]] = set()  # (person, name) that a later rename started from
    for i, (operation, person) in reversed(list(enumerate(rows))):
        holds[i] = KINDS[operation.kind].holds(operation, found(operation))
        if KINDS[operation.kind].link == "moves":
            holds[i] |= (person, crowd_id(operation.target)) in passed
            if holds[i]:
                passed.add((person, crowd_id(operation.name)))
    return pd.Series(holds, index=operations.index)


def _finder(operations: Sequence[Operation], directory: Snapshot) -> Callable[[Operation], Found | None]:
    """What the snapshot knows of the record that an operation is about."""
    records: dict[tuple[str, ...], Found] = {}
    for entity, frame, spelt in (("user", directory.users, "username"), ("group", directory.groups, "name")):
        names = {stands(operation) for operation in operations if KINDS[operation.kind].entity == entity}
        # Who is there and could not be read is not gone.
        held = directory.held[(directory.held["kind"] == entity) & directory.held["id"].isin(names)]
        for name, as_spelt in zip(held["id"], held["name"], strict=True):
            records[entity, name] = Found(as_spelt, whole=False)
        chosen = frame[frame["id"].isin(names)]
        for row in chosen.itertuples(index=False, name=None):
            fields: dict[str, Any] = dict(zip(chosen.columns, row, strict=True))
            records[entity, fields["id"]] = Found(fields[spelt], fields, orjson.loads(fields["attributes"]))
    pairs = _pairs([operation for operation in operations if KINDS[operation.kind].entity in _IN_GROUPS], directory)

    def found(operation: Operation) -> Found | None:
        entity = KINDS[operation.kind].entity
        if entity in _IN_GROUPS:
            pair = (crowd_id(operation.target), crowd_id(operation.name), _IN_GROUPS[entity])
            return Found(operation.target) if pair in pairs else None
        return records.get((entity, stands(operation)))

    return found


def _pairs(operations: Sequence[Operation], directory: Snapshot) -> set[tuple[str, ...]]:
    """The memberships of the snapshot in the groups of these operations: group, member, kind of the member."""
    groups = {crowd_id(operation.target) for operation in operations}
    members = {crowd_id(operation.name) for operation in operations}
    table = directory.memberships
    rows = table[table["group_id"].isin(groups) & table["member_id"].isin(members)]
    return set(rows[list(MEMBERSHIPS)].astype("str").itertuples(index=False, name=None))


async def settle_unfinished(
    store: Store, directory_name: str, directory: Snapshot, but: int | None = None
) -> Sequence[int]:
    """Finds out what became of the operations of interrupted plans, and records it. Returns those plans. `but`: one
    that is not interrupted."""
    return await in_thread(_settle_unfinished, store, directory_name, directory, but)


def _settle_unfinished(store: Store, directory_name: str, directory: Snapshot, but: int | None) -> Sequence[int]:
    plans = [number for number in store.unfinished_plans(directory_name) if number != but]
    now = datetime.now(UTC)
    for number in plans:
        known = store.load_plan(number)
        open_ = store.operations(number, states=["intended"]).reset_index(drop=True)
        if len(open_):
            holds = settle(open_, directory)
            done = open_[holds]
            outcomes = [
                (int(seq), "done" if ok else "undone", "settled by the next read of Crowd")
                for seq, ok in zip(open_["seq"], holds, strict=True)
            ]
            store.record(
                number,
                outcomes,
                at=now,
                links=new_links(done, known.source),
                dropped=lost_links(done, known.source),
                directory=directory_name,
                run=known.run,
                **recorded_by(ByHand.read(known.policy), number, done),
            )
        store.set_plan_status(number, "superseded", at=now)
    return plans


MOST_BY_KEY: Final = 500
"""So many operations whose end is not known are asked for by key."""


async def settle_by_key(
    store: Store, directory_name: str, client: Directory, scope: Scope, but: int | None = None
) -> None:
    """As `settle_unfinished`, with what Crowd says of the accounts that they are about. Where groups are concerned, or
    too many, they stay for a run that reads all of it."""
    plans = [number for number in await in_thread(store.unfinished_plans, directory_name) if number != but]
    open_ = [await in_thread(store.operations, number, states=["intended"]) for number in plans]
    operations = pd.concat(open_, ignore_index=True) if open_ else None
    if operations is None or len(operations) > MOST_BY_KEY:
        return
    entities = operations["kind"].map(lambda kind: KINDS[Kind(kind)].entity)
    if entities.isin(["group", "nesting"]).any():
        return
    users = operations[(entities == "user").to_numpy()]
    names = {crowd_id(name) for name in (*operations["name"], *users["target"]) if name}
    found = [one for one in await asyncio.gather(*(client.user(name, scope) for name in sorted(names))) if one]
    pairs = memberships_frame(pair for one in found for pair in one.memberships)
    crowd: Snapshot = Snapshot.of(users_frame(one.user for one in found), None, pairs)
    await settle_unfinished(store, directory_name, crowd, but)
