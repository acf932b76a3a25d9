"""Our own database: history, links, plans, journal, audit. Everything is on `Store`."""

from connectors.store.history import Mark, SavedSnapshot
from connectors.store.journal import Plan
from connectors.store.store import Store

__all__ = ["Mark", "Plan", "SavedSnapshot", "Store"]
