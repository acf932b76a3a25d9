"""Our own database: history, links, plans, journal, audit, inbox, what keeps writing safe. Everything is on `Store`.

What stands here is imported when it is first used: a page about everything (`overview`) needs no pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from connectors.store.decisions import Decision
    from connectors.store.health import Quarantine
    from connectors.store.history import ReadCursor, SavedSnapshot
    from connectors.store.in_step import LastInStep, StepCursors
    from connectors.store.inbox import Hint, Incoming
    from connectors.store.journal import SavedPlan
    from connectors.store.leases import Lease
    from connectors.store.overtaken import Overtaken
    from connectors.store.records import IndexState, RecordChanges, WideTotals
    from connectors.store.store import Store
    from connectors.store.threads import in_thread
    from connectors.store.wake import Wake

__all__ = [
    "Decision",
    "Hint",
    "Incoming",
    "IndexState",
    "LastInStep",
    "Lease",
    "Overtaken",
    "Quarantine",
    "ReadCursor",
    "RecordChanges",
    "SavedPlan",
    "SavedSnapshot",
    "StepCursors",
    "Store",
    "Wake",
    "WideTotals",
    "in_thread",
]

_PLACES: Final = {
    "decisions": ("Decision",),
    "health": ("Quarantine",),
    "history": ("ReadCursor", "SavedSnapshot"),
    "in_step": ("LastInStep", "StepCursors"),
    "inbox": ("Hint", "Incoming"),
    "journal": ("SavedPlan",),
    "leases": ("Lease",),
    "overtaken": ("Overtaken",),
    "records": ("IndexState", "RecordChanges", "WideTotals"),
    "store": ("Store",),
    "threads": ("in_thread",),
    "wake": ("Wake",),
}
_PLACE: Final = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(name)
    found = getattr(import_module(f"{__name__}.{_PLACE[name]}"), name)
    globals()[name] = found
    return found
