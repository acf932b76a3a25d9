"""Keeping what was read: history, the verdict of validation, and the truth about interrupted plans."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.model import ID_ATTRIBUTE, Snapshot
from connectors.operations import Kind
from connectors.store import ReadCursor, SavedSnapshot, Store
from tasks.decide.match import HANDED_OVER
from tasks.decide.names import crowd_ids
from tasks.decide.ownership import ByHand, ended_links, made_links
from tasks.decide.plan import GIVER, Plan
from tasks.decide.selection import Selection
from tasks.read import validate
from tasks.read.extract import Reading, Since
from tasks.run import Run


def settle(operations: pd.DataFrame, directory: Snapshot) -> pd.Series:
    """Operations (as the store gives them) + a fresh directory snapshot → whether each one's condition holds now.

    A rename that another one followed (a → a~1 → b) held too."""
    users = pd.Index(directory.users["id"])
    groups = pd.Index(directory.groups["id"])
    pairs = pd.MultiIndex.from_arrays(
        [directory.memberships[c].astype("str") for c in ("group_id", "member_id", "member_kind")]
    )
    name, target = crowd_ids(operations["name"]), crowd_ids(operations["target"])
    is_nesting = operations["kind"].str.startswith("nesting")
    wanted = pd.MultiIndex.from_arrays([target, name, pd.Series(np.where(is_nesting, "group", "user"))])
    member = pairs.isin(wanted) if wanted.empty else wanted.isin(pairs)
    holds = np.zeros(len(operations), dtype=bool)
    passed: set[tuple[str, str]] = set()  # (person, name) that a later rename started from
    for i in range(len(operations) - 1, -1, -1):
        record = orjson.loads(operations["record"].iloc[i] or "{}")
        match Kind(operations["kind"].iloc[i]):
            case Kind.MEMBERSHIP_ADD | Kind.NESTING_ADD:
                holds[i] = member[i]
            case Kind.MEMBERSHIP_REMOVE | Kind.NESTING_REMOVE:
                holds[i] = not member[i]
            case Kind.USER_DELETE:
                holds[i] = name.iloc[i] not in users
            case Kind.GROUP_DELETE:
                holds[i] = name.iloc[i] not in groups
            case Kind.GROUP_CREATE:
                holds[i] = name.iloc[i] in groups
            case Kind.GROUP_UPDATE:
                row = _row(directory.groups, groups, name.iloc[i])
                holds[i] = row is not None and row["description"] == record["description"]
            case Kind.USER_RENAME:
                row = _row(directory.users, users, target.iloc[i])
                person = str(operations["source_id"].iloc[i])
                holds[i] = (row is not None and _has(row, record["attributes"])) or (person, target.iloc[i]) in passed
                if holds[i]:
                    passed.add((person, name.iloc[i]))
            case Kind.USER_ATTRIBUTES:
                holds[i] = _has(_row(directory.users, users, name.iloc[i]), record["attributes"])
            case Kind.GROUP_ATTRIBUTES:
                holds[i] = _has(_row(directory.groups, groups, name.iloc[i]), record["attributes"])
            case Kind.USER_CREATE:
                row = _row(directory.users, users, name.iloc[i])
                mark = {ID_ATTRIBUTE: record["attributes"][ID_ATTRIBUTE]}
                holds[i] = row is not None and _has(row, mark)
            case _:
                row = _row(directory.users, users, name.iloc[i])
                fields = {k: v for k, v in record.items() if k != "attributes" and v != ""}
                holds[i] = row is not None and all(row[k] == v for k, v in fields.items())
    return pd.Series(holds, index=operations.index)


def _row(frame: pd.DataFrame, index: pd.Index, name: str) -> pd.Series | None:
    at = index.get_indexer(pd.Index([name]))[0]
    return None if at < 0 else frame.iloc[at]


def _has(row: pd.Series | None, attributes: dict[str, list[str]]) -> bool:
    present = {} if row is None else orjson.loads(row["attributes"])  # (who is gone has no attributes)
    return all(present.get(name, []) == values for name, values in attributes.items())


def new_links(operations: pd.DataFrame, source: str) -> pd.DataFrame:
    """Operations that hold, in their order → the links they made or moved: source, kind, id, name, how.

    `reason` of an adoption says by which key it was made."""
    made = operations["kind"].isin([Kind.USER_CREATE, Kind.USER_RENAME, Kind.GROUP_CREATE])
    marked = operations["kind"].isin([Kind.USER_ATTRIBUTES, Kind.GROUP_ATTRIBUTES]) & operations[
        "reason"
    ].str.startswith(("adopted by ", HANDED_OVER))
    links = operations[(made | marked) & (operations["source_id"] != "")]
    entity = links["kind"].str.split("_").str[0].astype("str")
    last = ~pd.DataFrame({"kind": entity, "id": links["source_id"]}).duplicated(keep="last")  # a → a~1 → b
    links, entity = links[last], entity[last]
    told = links["reason"]
    how = told.where(told.str.startswith("adopted by "), "created").str.removeprefix("adopted by ")
    how = how.where(~told.str.startswith(HANDED_OVER), HANDED_OVER)
    renamed = links["kind"] == Kind.USER_RENAME
    found = pd.DataFrame(
        {
            "source": pd.array([source] * len(links), dtype="str"),
            "kind": entity,
            "id": links["source_id"].astype("str"),
            "name": links["name"].where(~renamed, links["target"]).astype("str"),
            "how": how.where(~renamed, "renamed").astype("str"),
        }
    )
    return pd.concat([found, made_links(operations)], ignore_index=True)


def lost_links(operations: pd.DataFrame, source: str) -> pd.DataFrame:
    """Operations that hold → the links that end, by a deletion, a hand-over or by hand: source, kind, id."""
    gone = operations[operations["kind"].isin([Kind.USER_DELETE, Kind.GROUP_DELETE]) & (operations["source_id"] != "")]
    given = operations[operations["reason"].str.startswith(HANDED_OVER)]
    givers = [str(orjson.loads(record).get(GIVER, "")) for record in given["record"]]
    given = given.assign(source_id=pd.array(givers, dtype="str"))
    gone = pd.concat([gone, given[given["source_id"] != ""]])
    deleted = pd.DataFrame(
        {
            "source": pd.array([source] * len(gone), dtype="str"),
            "kind": gone["kind"].str.split("_").str[0].astype("str"),
            "id": gone["source_id"].astype("str"),
        }
    )
    return pd.concat([deleted, ended_links(operations)], ignore_index=True)


def told_by(by_hand: ByHand | None, plan: int, operations: pd.DataFrame) -> dict[str, Any]:
    """What `Store.record` is told of operations that hold, beside their links: who did it, where it was by hand."""
    return {} if by_hand is None else {"actor": by_hand.actor, "audited": by_hand.audited(plan, operations)}


def settle_unfinished(store: Store, directory_name: str, directory: Snapshot) -> Sequence[int]:
    """Finds out what became of the operations of interrupted plans, and records it. Returns those plans."""
    plans = store.unfinished_plans(directory_name)
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
                **told_by(ByHand.read(known.policy), number, done),
            )
        store.set_plan_status(number, "superseded", at=now)
    return plans


def last_read(run: Run) -> Since | None:
    """What an incremental read may start from; None where a full one is due, or nothing else can be had."""
    if not run.source.capabilities.delta:
        return None
    cursor = run.store.cursor(run.streams[0])
    now = datetime.now(UTC)
    due = timedelta(hours=run.policy.reads.full_every_hours)
    if cursor is None or cursor.scope != run.request_digest or not timedelta() <= now - cursor.full_at < due:
        return None
    return Since(cursor.cursor, run.store.load_snapshot(cursor.snapshot), cursor.full_at)


def remember_read(run: Run, reading: Reading, snapshot: int) -> None:
    """Keeps where the next incremental read begins; a preview moves nothing."""
    if not run.lasting or not run.source.capabilities.delta:
        return
    now = datetime.now(UTC)
    cursor = (
        ReadCursor(reading.cursor, run.request_digest, reading.full_at or now, snapshot) if reading.cursor else None
    )
    run.store.save_cursor(run.streams[0], cursor, at=now)


def remember_departures(run: Run, plan: Plan, selection: Selection | None) -> None:
    """Keeps since when the people who have an account have been away.

    Also where the plan then waits or is refused: it is what was seen of the source. Not so by a preview, nor by a run
    about one person or group (`selection`): the clocks are everybody's."""
    if run.lasting and selection is None:
        run.store.save_departures(run.directory_name, run.source_name, plan.leavers, at=datetime.now(UTC))


def remember_held(run: Run, plan: Plan, selection: Selection | None = None) -> None:
    """Keeps for how many runs each record has been held; in the same runs as `remember_departures`."""
    if run.lasting and selection is None:
        held = held_keys(plan.held, plan.shielded)
        run.store.save_held(run.directory_name, run.source_name, held, run=run.id, at=datetime.now(UTC))


def held_keys(*frames: pd.DataFrame) -> pd.DataFrame:
    """Held records → kind, id, name, reason of each one once; what has no id goes by its name."""
    held = pd.concat([frame[["kind", "id", "name", "reason"]] for frame in frames], ignore_index=True)
    held["id"] = held["id"].where(held["id"] != "", held["name"])
    return held.drop_duplicates(["kind", "id"], ignore_index=True)


@task(name="snapshot", task_run_name="snapshot-{stream}", cache_policy=NO_CACHE, persist_result=False)
async def keep(store: Store, stream: str, snapshot: Snapshot, run: str) -> SavedSnapshot:
    """Puts a snapshot into history."""
    return await asyncio.to_thread(store.save_snapshot, stream, snapshot, taken_at=datetime.now(UTC), run=run)


@task(name="validate", task_run_name="validate-{stream}", cache_policy=NO_CACHE, persist_result=False)
async def check(store: Store, stream: str, snapshot: Snapshot, digest: str) -> Snapshot:
    """Snapshot → the part of it that may be worked with. The same content is judged once."""
    if stream.startswith("source:"):
        validate.refuse_if_empty(snapshot)
        snapshot = validate.trimmed(snapshot)
    held = store.verdict(digest, validate.RULES)
    if held is None:
        held = validate.broken_rows(snapshot)
        store.save_verdict(digest, validate.RULES, held, at=datetime.now(UTC))
    return validate.without(snapshot, held)
