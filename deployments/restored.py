"""`crowdsync database restored`: somebody says that an older copy of the database was put back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from connectors.settings import load
from deployments.govern import _login
from deployments.opened import settings_store
from deployments.terminal import console, explained
from tasks.put_back import every_source, keep_head


def restored(
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the audit.")],
    by: Annotated[str, typer.Option("--by", help="Who says so, where that is not the login name.")] = "",
) -> None:
    """Say that an older copy of the database was put back, where nothing outside of it can tell (a whole machine was).

    Everything is read whole then, no plan of before counts, and each source's next plan asks before it is carried out.
    """
    with explained():
        settings = load()
        with settings_store(settings) as store:
            at = datetime.now(UTC)
            store.note_put_back(every_source(settings), head=None, actor=by or _login(), why=reason, at=at)
            keep_head(store, settings.head_file())
        console.print("Noted. Everything is read by the next run of each source, whose plan asks first.")
        if any(source.kind == "push" for source in settings.sources.values()):
            console.print("What was pushed since the copy is not in it: have the provider push everybody again.")
            console.print("Tokens that were revoked since live again: see crowdsync tokens list.")
