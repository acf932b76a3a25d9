"""Events of Prefect that automations act on: `crowdsync.<event>` about a source."""

from __future__ import annotations

from typing import Any

from tasks.tell.page import page


def emit(event: str, source: str, **payload: Any) -> None:
    """Emits an event of Prefect that automations can act on: `crowdsync.<event>` about the source. (Outside of flow
    runs nobody would hear it.)"""
    if shown := page():
        shown.emit(event, source, tame(payload))


def tame(value: Any) -> Any:
    """What goes into a message, without what a chat or a mail would make a link, a mention or HTML of."""
    if isinstance(value, str):
        return value.replace("<", "‹").replace(">", "›").replace("](", "] (")
    if isinstance(value, dict):
        return {name: tame(one) for name, one in value.items()}
    return [tame(one) for one in value] if isinstance(value, list) else value
