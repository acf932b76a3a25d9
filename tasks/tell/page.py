"""The page of a run in Prefect, where it has one: a run outside of Prefect is told of in our own store alone.

Prefect itself is in `tasks.engine`, which is imported here where Prefect is imported already: nobody who has not done
that is part of a flow run.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.settings import Settings
    from connectors.store import Store
    from tasks.engine import Page


def _engine() -> Any:
    return importlib.import_module("tasks.engine") if "prefect.context" in sys.modules else None


def page() -> Page | None:
    """The page of the flow run that this is part of; None outside of flow runs."""
    engine = _engine()
    found: Page | None = engine.Page.here() if engine else None
    return found


def has_page() -> bool:
    """Whether this runs in a flow run of Prefect."""
    return page() is not None


def key_of(source: str, what: str) -> str:
    """The key of an artifact: its versions on the Prefect page are those of this source."""
    return re.sub(r"[^a-z0-9]+", "-", f"{source} {what}".lower()).strip("-")


def can_ask() -> bool:
    """Whether a person can be asked here: this runs in the flow run of a deployment."""
    shown = page()
    return shown is not None and shown.can_ask


def run_id() -> str:
    """The id of the flow run that this is part of; "" outside of flow runs."""
    shown = page()
    return shown.run if shown else ""


def suspends(error: BaseException) -> bool:
    """Whether this is how a flow run ends that is suspended until a person decides."""
    engine = _engine()
    return bool(engine and engine.suspends(error))


async def waits(flow_run_id: str) -> bool:
    """Whether another flow run waits for a person; it does not where that cannot be asked."""
    engine = _engine()
    return bool(engine and await engine.waits(flow_run_id))


async def show_current(store: Store, settings: Settings) -> None:
    """Brings the page about everything up to date (`tasks.tell.current`). Whoever has not imported Prefect has no
    server."""
    if _engine():
        await importlib.import_module("tasks.tell.current").show_current(store, settings)


def say(message: str, *values: Any) -> None:
    """A line in the log of the run."""
    shown = page()
    logger = shown.logger if shown else logging.getLogger("crowdsync")
    logger.info(message, *values)


async def name_run(outcome: str) -> None:
    """`acme sync` → `acme sync: nothing to do`: what tells a run from the others in a list of many. "": as it began."""
    if shown := page():
        try:
            await shown.rename(outcome)
        except Exception as error:  # a name is not worth a run
            logging.getLogger("crowdsync").info("The run keeps its name: %s", error or type(error).__name__)


async def show_markdown(key: str, markdown: str, description: str) -> None:
    """Markdown on the page."""
    if shown := page():
        await shown.markdown(key, markdown, description)


async def show_table(key: str, rows: list[dict[str, Any]], description: str) -> str:
    """A table on the page; the address of it in Prefect's UI, from the root of that."""
    shown = page()
    return await shown.table(key, rows, description) if shown else ""
