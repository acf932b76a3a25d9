"""The page of a run in Prefect, where it has one: a run outside of Prefect is told of in our own store alone."""

from __future__ import annotations

import logging
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.context import FlowRunContext


def has_page() -> bool:
    """Whether this runs in a flow run of Prefect."""
    return FlowRunContext.get() is not None


def say(message: str, *values: Any) -> None:
    """A line in the log of the run."""
    logger = get_run_logger() if has_page() else logging.getLogger("crowdsync")
    logger.info(message, *values)


async def show_markdown(key: str, markdown: str, description: str) -> None:
    """Markdown on the page."""
    if has_page():
        await acreate_markdown_artifact(markdown=markdown, key=key, description=description)


async def show_table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table on the page."""
    if has_page():
        await acreate_table_artifact(table=rows, key=key, description=description)
