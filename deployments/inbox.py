"""The command that shows what was told in real time and waits, and has it looked at again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pandas as pd
import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.settings import load
from connectors.store import Store
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
            show.inbox(console, named(store, found), store.waiting(), form)
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


def named(store: Store, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the inbox with a column `name`: what people are called who are told by their ids, "" of all others."""
    names, people = dict[Any, str](), rows[rows["kind"] == "user"]
    for (directory, source), keys in people.groupby(["directory", "source"])["key"]:
        called = store.called(str(directory), str(source), {*keys})
        names.update(((directory, source, key), name) for key, name in called.items())
    whose = zip(rows["directory"], rows["source"], rows["key"], strict=True)
    of_user = rows["kind"] == "user"
    found = [names.get(one, "") if user else "" for one, user in zip(whose, of_user, strict=True)]
    return rows.assign(name=found)
