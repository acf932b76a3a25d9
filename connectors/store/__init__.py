"""Our own database: history, links, plans, journal, audit, inbox, what keeps writing safe. Everything is on `Store`."""

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
