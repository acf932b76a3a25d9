"""Saving what was read into history, and the verdict of validation on it."""

from __future__ import annotations

from datetime import UTC, datetime

from connectors.model import Snapshot
from connectors.store import SavedSnapshot, Store, in_thread
from tasks.read import validate


async def save_snapshot(store: Store, stream: str, snapshot: Snapshot, run: str) -> SavedSnapshot:
    """Puts a snapshot into history."""
    return await in_thread(store.save_snapshot, stream, snapshot, taken_at=datetime.now(UTC), run=run)


async def validated(store: Store, stream: str, snapshot: Snapshot, digest: str) -> Snapshot:
    """Snapshot → the part of it that may be worked with. The same content is judged once.

    Raises `RefusedError` for a source without people, and where a rule about the whole table does not hold."""
    if stream.startswith("source:"):
        validate.refuse_if_empty(snapshot)
        snapshot = validate.trimmed(snapshot)
    held = await in_thread(store.verdict, digest, validate.RULES)
    if held is None:
        held = validate.broken_rows(snapshot)
        await in_thread(store.save_verdict, digest, validate.RULES, held, at=datetime.now(UTC))
    return validate.without(snapshot, held)
