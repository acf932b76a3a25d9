"""Events of Prefect that automations act on: `crowdsync.<event>` about a source."""

from __future__ import annotations

from typing import Any

from tasks.tell.page import page


def emit(event: str, source: str, **payload: Any) -> None:
    """Emits an event of Prefect that automations can act on: `crowdsync.<event>` about the source. (Outside of flow
    runs nobody would hear it.)"""
    if shown := page():
        shown.emit(event, source, payload)
