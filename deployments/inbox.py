"""The command that shows what was told in real time and waits, and has it looked at again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.settings import load
from deployments import show
from deployments.listing import AsCsv, AsJson, Form
from deployments.opened import opened_store
from deployments.terminal import console, errors, said

LATE = timedelta(days=1)
"""How far back `--all` shows what is done."""
EVERY = 1_000_000


def inbox(
    retry: Annotated[
        str, typer.Option("--retry", help="Have it looked at again at once: a row's number, or all.", metavar="ID|all")
    ] = "",
    done: Annotated[bool, typer.Option("--all", help="Also what was done within a day.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="How many rows, newest first: held, waiting, done.", min=1)
    ] = 20,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """What was told in real time: what waits, and what is held because it failed too often."""
    with opened_store() as store:
        now = datetime.now(UTC)
        if not retry:
            form = Form.of(as_json, as_csv)
            found = store.inbox(done_since=now - LATE if done else None, limit=limit)
            show.inbox(console, found, store.waiting(), form)
            from deployments.polling import failures

            for line in failures(load(), store):
                said(console if form is Form.TEXT else errors, f"[red]{escape(line)}[/]")
            return
        rows = store.inbox(limit=EVERY)
        # What a run has in hand is settled by it.
        ids = rows.loc[rows["taken_at"].isna() & ((rows["status"] == "held") | (rows["attempts"] > 0)), "id"].tolist()
        if retry != "all":
            ids = [one for one in ids if str(one) == retry]
            if not ids:
                raise ConfigurationError(
                    f"--retry: there is no row {retry!r} that is held or waits for another try; see crowdsync inbox"
                )
        again = len(store.retry(ids, now, "retried by hand")) if ids else 0
        console.print(f"{again:,} {'row is' if again == 1 else 'rows are'} looked at again at once", highlight=False)
