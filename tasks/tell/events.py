"""Events of Prefect that automations act on: `crowdsync.<event>` about a source."""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run


def emit(event: str, source: str, **payload: Any) -> None:
    """Emits an event of Prefect that automations can act on: `crowdsync.<event>` about the source."""
    if flow_run.id:
        resource = {"prefect.resource.id": f"crowdsync.source.{source}", "prefect.resource.name": source}
        emit_event(f"crowdsync.{event}", resource=resource, payload={"source": source, **payload})
