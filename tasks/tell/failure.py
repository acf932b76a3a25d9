"""A run that fails, as people read it: a sentence with what to do as its state, and a report. No traceback where the
failure was foreseen, which every `CrowdsyncError` is; what was not keeps its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

from prefect.states import Completed, Failed

from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    IncompleteError,
    RecordError,
    RefusedError,
    RetryableError,
)
from tasks.run import WROTE
from tasks.tell.page import has_page, key_of, name_run, show_markdown
from tasks.tell.render import failure_markdown
from tasks.tell.report import Report, ReportedError

P = ParamSpec("P")
R = TypeVar("R")

_AGAIN: Final = "then start the run again; `crowdsync check` tests everything and writes nothing."
KINDS: Final[dict[type[BaseException], tuple[str, str]]] = {
    AuthenticationError: ("credentials not accepted", f"Correct the secret that is named, {_AGAIN}"),
    ForbiddenError: ("a right is missing", f"Grant what is named, {_AGAIN}"),
    ConfigurationError: ("a setting or a name is wrong", f"Correct what is named, {_AGAIN}"),
    RetryableError: (
        "no answer",
        "The next run tries again by itself. If it stays so, see whether the worker reaches that address.",
    ),
    IncompleteError: (
        "what was read is not whole",
        "Nothing was concluded from it. The next run reads anew; if it stays so, see to what is named.",
    ),
    RecordError: ("a record is missing or at fault", "See to the record that is named, then start the run again."),
    RefusedError: ("refused", "See to what is named, then start the run again."),
    CrowdsyncError: ("failed", "See to what is named, then start the run again."),
    Exception: (
        "an unexpected error",
        "This is a fault of crowdsync: report it, with the traceback in the log of this run.",
    ),
}
"""By type, the nearest first: what a failure is called, and what to do about it."""


Function = Callable[P, Coroutine[Any, Any, R]]


def explained(about: Callable[..., str], folder: Callable[[], str]) -> Callable[[Function[P, R]], Function[P, R]]:
    """A flow's function → the same, whose failures are told on its page; outside of a flow run they are raised as ever.

    `about`: whose run it is, from its arguments; `folder`: of the admin's templates.
    """

    def around(function: Function[P, R]) -> Function[P, R]:
        @wraps(function)
        async def told(*args: P.args, **kwargs: P.kwargs) -> Any:
            if not has_page():
                return await function(*args, **kwargs)
            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                with suppress(Exception):  # the failure itself is what has to be told
                    await show_failure(about(*args, **kwargs), error, folder)
                if not isinstance(error, CrowdsyncError):
                    raise
                return Failed(message=sentence(error), data=error)
            return Completed(message=_ended(result), data=result) if isinstance(result, Report) else result

        return cast("Function[P, R]", told)

    return around


def _ended(report: Report) -> str:
    return f"{report.headline}{f': {report.why}' if report.why else ''}"


def sentence(error: CrowdsyncError) -> str:
    """What happened and what to do, in plain text."""
    what = str(error)
    if not what.endswith((".", ".)", "?")):
        what += "."
    return what if isinstance(error, ReportedError) else f"{what} {_kind(error)[1]}"


def _kind(error: BaseException) -> tuple[str, str]:
    return next(KINDS[one] for one in type(error).__mro__ if one in KINDS)


async def show_failure(about: str, error: Exception, folder: Callable[[], str]) -> None:
    """The report of a run that failed, unless it has one, and its name. Of what was not foreseen the type alone: what
    else it says may be anything."""
    if isinstance(error, ReportedError):
        return
    title, todo = _kind(error)
    try:
        templates = folder()
    except CrowdsyncError:  # crowdsync.toml is what is wrong
        templates = ""
    what = str(error) if isinstance(error, CrowdsyncError) else type(error).__name__
    wrote = WROTE in getattr(error, "__notes__", ())
    text = failure_markdown(about, title, what, todo, wrote=wrote, folder=templates)
    await show_markdown(key_of(about, "report"), text, f"**{title}**")
    await name_run(title)


class _Foreseen(logging.Filter):
    """Prefect logs a traceback for whatever a stage raises, and calls a run that waits for a person an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        if isinstance(raised, CrowdsyncError):
            return False  # its end says the same, in one line
        if record.levelno == logging.ERROR and record.getMessage().startswith("Finished in state Suspended"):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "Waits for a person", ()
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_Foreseen())
