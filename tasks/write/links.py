"""Changing ownership by hand on the road that every write takes: one writer, a plan with its journal, agreement, audit.

The mark in Crowd is written first, as an operation like any other; the link, and the row of the audit chain that says
who did it and why, follow in the transaction of its outcome. Whatever ends in between is settled by the next run of
any source of the directory, or by the next change by hand.
"""

from __future__ import annotations

import csv
import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pandas as pd
import stamina

from connectors.contract import Directory, Scope
from connectors.errors import ConfigurationError, CrowdsyncError, RetryableError
from connectors.model import ID_ATTRIBUTE, Snapshot, frame_digest, held_frame, sizes_only
from connectors.settings import DirectorySettings, Settings
from connectors.store import Store
from tasks.decide.links import lost_links, new_links, recorded_by
from tasks.decide.ownership import (
    KINDS,
    ByHand,
    Changed,
    Pairing,
    Wanted,
    crowd_records,
    cut,
    hand_over,
    make,
    moves,
    of_link_alone,
    operations,
    pair,
    wanted,
)
from tasks.policy import Policy, policy_of
from tasks.put_back import look_back
from tasks.read import validate
from tasks.read.connections import open_directory, open_source
from tasks.read.deltas import read_whole
from tasks.read.extract import read_directory
from tasks.read.recover import settle_unfinished
from tasks.read.snapshot import save_snapshot, validated
from tasks.write.chunks import OPEN, Progress, apply_operations, chunks
from tasks.write.lease import Writing, only_writer

KEYS: Final = ("username", "email")
ATTEMPTS: Final = 4
HOURS: Final = 24
"""How long the preview of a move is good for."""


@sizes_only
@dataclass(slots=True)
class Hand:
    """One directory and everything about its ownership, as it is now. Without `writing` it is looked at only."""

    run: str
    crowd: DirectorySettings
    store: Store
    directory: Directory
    snapshot: Snapshot
    links: pd.DataFrame
    records: pd.DataFrame
    writing: Writing | None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a change by hand: the plan's number (None: it was so already), what could not be done (name,
    note), and what was gone past."""

    plan: int | None
    names: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    forced: tuple[str, ...] = ()


@asynccontextmanager
async def taken_in_hand(
    settings: Settings, crowd: DirectorySettings, policy: Policy, mode: str, source: str, *, writing: bool = True
) -> AsyncIterator[Hand]:
    """Reads a directory whole; with `writing` alone with it, and with the truth about interrupted plans.

    Raises what reading raises, and `BusyError` where another run writes for too long."""
    run = str(uuid.uuid4())
    with Store.open(settings.store_url(), busy=settings.store.busy) as store:
        store.start_run(run=run, source=source, directory=crowd.name, mode=mode, at=datetime.now(UTC))
        try:
            async with open_directory(crowd) as (directory, _):
                if writing:
                    patience = crowd.wait_minutes * 60
                    async with only_writer(store, crowd.name, run, busy=crowd.busy, patience=patience) as alone:
                        look_back(store, settings, crowd.name, source, acts=True)
                        yield await _read(run, crowd, policy, store, directory, alone)
                else:
                    yield await _read(run, crowd, policy, store, directory, None)
        except BaseException as error:
            why = str(error) if isinstance(error, CrowdsyncError) else type(error).__name__
            _finish(store, run, mode, "failed", {"error": why})
            raise
        _finish(store, run, mode, "applied" if writing else "planned", {})


def _finish(store: Store, run: str, mode: str, status: str, summary: Mapping[str, Any]) -> None:
    store.finish_run(run, status=status, summary=summary, at=datetime.now(UTC), mode=mode)


async def _read(
    run: str, crowd: DirectorySettings, policy: Policy, store: Store, directory: Directory, writing: Writing | None
) -> Hand:
    snapshot = await read_directory(directory, Scope(_attributes_needed(store, crowd.name)))
    if writing is not None:
        await settle_unfinished(store, crowd.name, snapshot)
    links = store.links(crowd.name)
    return Hand(run, crowd, store, directory, snapshot, links, crowd_records(snapshot, links, policy), writing)


def _attributes_needed(store: Store, directory: str) -> frozenset[str]:
    """The attributes that tell what became of interrupted plans."""
    names = {ID_ATTRIBUTE}
    for number in store.unfinished_plans(directory):
        for record in store.operations(number, states=["intended"])["record"]:
            names |= orjson.loads(record or "{}").get("attributes", {}).keys()
    return frozenset(names)


def policy_by_hand(settings: Settings, source: str) -> Policy:
    """The policy of a source; the defaults where it is configured no more."""
    return policy_of(settings, source) if source in settings.sources else Policy()


def directory_with(settings: Settings, store: Store, source: str) -> DirectorySettings:
    """The directory of a source; of one that is configured no more, the one in which it has links."""
    if source in settings.sources:
        return settings.directory_of(source)
    every = settings.all_directories()
    found = [one for one in every if len(store.links(one.name, source))] or (every if len(every) == 1 else [])
    if len(found) != 1:
        which = f"has links in {', '.join(one.name for one in found)}" if found else "has no links"
        raise ConfigurationError(
            f"{settings.file}: no source is called {source!r}, and it {which}; [sources] has "
            f"{', '.join(sorted(settings.sources))}"
        )
    return found[0]


def last_seen(store: Store, source: str, policy: Policy) -> Wanted | None:
    """The last read of a source; None where there was none."""
    latest = store.snapshots(f"source:{source}", 1)
    if latest.empty:
        return None
    snapshot = store.load_snapshot(int(latest["id"].iloc[0]))
    held = store.verdict(str(latest["digest"].iloc[0]), validate.RULES)
    sound = validate.without(snapshot, validate.broken(snapshot) if held is None else held)
    return wanted(source, latest["taken_at"].iloc[0], sound, policy)


# ── one record ──────────────────────────────────────────────────────────────────────────────────────────────────


async def change_one(
    settings: Settings, what: str, source: str, kind: str, identity: str, other: str, by_hand: ByHand, *, force: bool
) -> Done:
    """`what`: make (`other` is the Crowd name), cut (`other` too, or "") or hand over (`other` is the new id)."""
    # (More than seven parameters: each is a word of the command line, and none of them belong together.)
    policy = policy_by_hand(settings, source)
    with Store.open(settings.store_url(), busy=settings.store.busy) as store:
        crowd = directory_with(settings, store, source)
        seen = None if what == "cut" else last_seen(store, source, policy)
    async with taken_in_hand(settings, crowd, policy, f"links {what}", source) as hand:
        changed = _changed(hand, what, source, kind, identity, other, seen)
        by_hand = replace(by_hand, forced=changed.forced(force))
        return await carry_out(hand, changed.change, source, f"link:{kind}:{source}:{identity}", by_hand)


def _changed(hand: Hand, what: str, source: str, kind: str, identity: str, other: str, seen: Wanted | None) -> Changed:
    if what == "make":
        return make(hand.records, hand.links, seen, source, kind, identity, other)
    if what == "hand over":
        return hand_over(hand.records, hand.links, seen, source, kind, identity, other)
    return cut(hand.records, hand.links, source, kind, identity, other)


async def carry_out(
    hand: Hand, changes: pd.DataFrame, source: str, about: str, by_hand: ByHand, held: pd.DataFrame | None = None
) -> Done:
    """Changes of ownership that a person agreed to → Crowd and the links, through a plan of their own."""
    if changes.empty:
        return Done(None)
    made = operations(changes)
    number = _store_plan(hand, made, source, about, by_hand.text(), held)
    store, now = hand.store, datetime.now(UTC)
    assert hand.writing is not None
    store.decide(
        number,
        digest=store.load_plan(number).digest,
        decision="approve",
        actor=by_hand.actor,
        reason=by_hand.reason,
        expires_at=now + timedelta(hours=HOURS),
        via="command line",
        at=now,
    )
    store.set_plan_status(number, "applying", at=now, expected=("approved",), fence=hand.writing.lease)
    progress = Progress()
    _link_alone(hand, number, made[of_link_alone(made)], source, by_hand)
    for first, last in chunks(made):
        async for attempt in stamina.retry_context(on=RetryableError, attempts=ATTEMPTS, timeout=None):
            with attempt:
                await apply_operations(
                    store.operations(number, states=OPEN, first=first, last=last),
                    hand.directory,
                    store,
                    number,
                    source=source,
                    directory_name=hand.crowd.name,
                    run=hand.run,
                    progress=progress,
                    concurrency=hand.crowd.concurrency,
                    writing=hand.writing,
                    by_hand=by_hand,
                )
    journal = store.operations(number)
    failed = journal[~journal["state"].isin(["done", "already"])]
    store.set_plan_status(number, "failed" if len(failed) else "applied", at=datetime.now(UTC))
    names = tuple(journal.loc[journal["state"].isin(["done", "already"]), "name"])
    return Done(number, names, tuple(zip(failed["name"], failed["note"], strict=True)), by_hand.forced)


def _link_alone(hand: Hand, number: int, alone: pd.DataFrame, source: str, by_hand: ByHand) -> None:
    """What changes no mark: the record is gone from Crowd, or its mark says somebody else."""
    if alone.empty:
        return
    seqs, now = [int(seq) for seq in alone["seq"]], datetime.now(UTC)
    assert hand.writing is not None
    hand.writing.raise_if_lost()
    hand.store.intend(number, seqs, at=now, fence=hand.writing.lease)
    hand.store.record(
        number,
        [(seq, "already", "its mark in Crowd is not changed") for seq in seqs],
        at=now,
        links=new_links(alone, source),
        dropped=lost_links(alone, source),
        directory=hand.crowd.name,
        run=hand.run,
        **recorded_by(by_hand, number, alone),
    )


def _store_plan(
    hand: Hand, made: pd.DataFrame, source: str, about: str, policy: str, held: pd.DataFrame | None = None
) -> int:
    """Stores a plan of ownership; it waits for agreement."""
    digest = hashlib.sha256(hand.snapshot.digest().encode() + frame_digest(made)).hexdigest()
    latest = [hand.store.snapshots(stream, 1)["id"] for stream in (f"source:{source}", f"directory:{hand.crowd.name}")]
    return hand.store.save_plan(
        run=hand.run,
        source=source,
        directory=hand.crowd.name,
        digest=digest,
        source_snapshot=int(latest[0].iloc[0]) if len(latest[0]) else 0,
        directory_snapshot=int(latest[1].iloc[0]) if len(latest[1]) else 0,
        policy=policy,
        operations=made,
        held=held_frame() if held is None else held,
        at=datetime.now(UTC),
        status="waiting",
        about=about,
    )


# ── to another source ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Moving:
    """What a move does, or did: `pairing`, the number of the plan that shows it, and `done` where it was agreed to.
    `moved_on`: it was, and is no longer what was shown."""

    pairing: Pairing
    plan: int | None
    done: Done | None = None
    moved_on: bool = False


async def move(
    settings: Settings, old: str, new: str, by: str, kinds: Sequence[str] = KINDS, by_hand: ByHand | None = None
) -> Moving:
    """Everything that `old` owns goes to `new`, pair by pair; without `by_hand` it is only shown.

    Both sides are read again. What is carried out is what a preview of the last hours showed, or what is left of it.
    """
    if old == new:
        raise ConfigurationError(
            f"{old!r} is both sources; to give a record to another id of it: crowdsync links hand-over"
        )
    policy, crowd = policy_of(settings, new), settings.directory_of(new)
    key: str | Mapping[str, str] = by if by in KEYS else ids_of(Path(by))
    word = by if by in KEYS else "list of ids"
    listed = "" if by in KEYS else f":{hashlib.sha256(orjson.dumps(key, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]}"
    about = f"links:{old}>{new}:{word}{listed}:{'+'.join(kinds)}"
    async with taken_in_hand(settings, crowd, policy, "links move", new, writing=by_hand is not None) as hand:
        theirs = await _read_again(settings, new, policy, hand)
        pairing = pair(hand.records, hand.links, theirs, old, key, kinds)
        changes = moves(pairing, word)
        held = _held(pairing)
        if by_hand is None:
            number = (
                _store_plan(hand, operations(changes), new, about, policy.model_dump_json(), held)
                if len(changes)
                else None
            )
            return Moving(pairing, number)
        if not len(changes):
            return Moving(pairing, None, Done(None))
        if not _shown(hand, about, operations(changes)):
            number = _store_plan(hand, operations(changes), new, about, policy.model_dump_json(), held)
            return Moving(pairing, number, moved_on=True)
        done = await carry_out(hand, changes, new, about, by_hand, held)
        return Moving(pairing, done.plan, done)


def _held(pairing: Pairing) -> pd.DataFrame:
    left = pairing.left_out
    rows = left[["kind", "owner", "name"]].assign(stage="pair", reason=left["reason"], away="")
    return rows.rename(columns={"owner": "id"}).reset_index(drop=True)


async def _read_again(settings: Settings, source: str, policy: Policy, hand: Hand) -> Wanted:
    """A source as it is now: read whole, saved in history, and its sound part under its policy."""
    now = datetime.now(UTC)
    async with open_source(source, settings.source(source)) as idp:
        snapshot = (await read_whole(idp, Scope(policy.wanted()))).snapshot
    stream = f"source:{source}"
    saved = await save_snapshot(hand.store, stream, snapshot, hand.run)
    return wanted(source, now, await validated(hand.store, stream, snapshot, saved.digest), policy)


def _shown(hand: Hand, about: str, made: pd.DataFrame) -> bool:
    """Whether the newest plan about the same move shows every one of these operations, and is not too old."""
    plans = hand.store.plans(500, hand.crowd.name)
    plans = plans[(plans["about"] == about) & (plans["created_at"] > datetime.now(UTC) - timedelta(hours=HOURS))]
    if plans.empty:
        return False
    shown = hand.store.operations(int(plans["id"].iloc[0]))
    columns = ["kind", "name", "record"]
    return set(made[columns].itertuples(index=False, name=None)) <= set(
        shown[columns].itertuples(index=False, name=None)
    )


def ids_of(file: Path) -> dict[str, str]:
    """A CSV file with the columns old_id and new_id → old → new. Raises `ConfigurationError` naming the line."""
    found: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened)
            if not {"old_id", "new_id"} <= set(rows.fieldnames or ()):
                raise ConfigurationError(f"{file}: its first line has no old_id and new_id; name the columns so")
            for row in rows:
                old, new = ((row[name] or "").strip() for name in ("old_id", "new_id"))
                if not old or not new:
                    raise ConfigurationError(f"{file}: line {rows.line_num} lacks an id; give both, or take it out")
                if found.setdefault(old, new) != new:
                    raise ConfigurationError(f"{file}: line {rows.line_num}: {old!r} stands twice; keep one of them")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"--by: {str(file)!r} is neither {' nor '.join(KEYS)} nor a CSV file that can be read ({why})"
        ) from None
    return found
