"""What every command needs: consoles, exit codes, the store, Prefect's server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import typer
from rich.markup import escape

from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    RecordError,
    RefusedError,
    RetryableError,
)
from connectors.settings import Settings, load
from deployments import show
from deployments.server import SECONDS, STARTUP_SECONDS
from deployments.show import Terminal, printable

FAILED: Final = 1
WRONG: Final = 2
REFUSED: Final = 3
PARTLY: Final = 4
UNHEEDED: Final = 5

console = Terminal()
errors = Terminal(stderr=True)


@contextmanager
def explained() -> Iterator[None]:
    """Every failure ends in one line that says what, where and what to do, and in its exit code."""
    try:
        yield
    except CrowdsyncError as error:
        report = getattr(error, "report", None)
        if report is not None:
            show.report(console, report)
        for line in report.refusals if report and report.refusals else [str(error)]:
            errors.print(f"[bold red]error[/]  {escape(printable(line))}", soft_wrap=True, highlight=False)
        raise typer.Exit(code_of(error)) from None


def code_of(error: CrowdsyncError) -> int:
    """The exit code of a failure."""
    report = getattr(error, "report", None)
    if report is not None:
        return REFUSED if report.status == "refused" else PARTLY
    if isinstance(error, (ConfigurationError, AuthenticationError, ForbiddenError)):
        return WRONG
    return REFUSED if isinstance(error, (RefusedError, RecordError)) else FAILED


@contextmanager
def prefect_explained() -> Iterator[None]:
    """What goes wrong between us and Prefect's server, in one line."""
    from prefect.exceptions import PrefectException
    from prefect.settings import get_current_settings

    try:
        yield
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "server" not in str(error) and "API" not in str(error):
            raise
        url = get_current_settings().api.url
        if url is None:
            way = "it was to be started for this run only; try again, or start one: `prefect server start`"
        else:
            way = f"PREFECT_API_URL is {url}: start that server, or unset it to run without one"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RetryableError(f"Prefect's server does not answer as it should ({reason}); {way}") from None


def quiet_prefect() -> None:
    """Prefect says what it does on its page; the terminal is for the report."""
    for name, value in {
        STARTUP_SECONDS: str(SECONDS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "INFO",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def settings_store(settings: Settings) -> Iterator[Any]:
    """The store of the configuration, open."""
    from connectors.store import Store

    try:
        opened = Store.open(settings.store_url(), busy=settings.store.busy)
    except ConfigurationError as error:
        if isinstance(error.__cause__, RetryableError):  # held by another process: that is no setting
            raise RetryableError(str(error)) from None
        raise
    with opened as store:
        yield store


@contextmanager
def opened_store() -> Iterator[Any]:
    """The store, to look up what the command names; what is not there is the call's fault."""
    with explained(), settings_store(load()) as store:
        try:
            yield store
        except (RecordError, RefusedError) as error:
            if error.__cause__ is not None:  # the database itself
                raise
            raise ConfigurationError(str(error)) from None
