"""What a stage is: a function of a name that people read, with a line in the log of the run.

The lines say counts: no names, and no values.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

import stamina

from connectors.errors import RetryableError
from connectors.model import Snapshot
from tasks.decide.guard import Verdict
from tasks.decide.impact import Impact
from tasks.decide.map import Desired
from tasks.decide.match import Matched
from tasks.decide.plan import Plan
from tasks.read.known import NotNarrowError
from tasks.read.narrow import Few
from tasks.tell.page import has_page, page, say
from tasks.tell.rows import count_line

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[P, Coroutine[Any, Any, R]]


@dataclass(eq=False)
class Stage(Generic[P, R]):
    """A function that inside of a flow run is a task of Prefect, and else what it is, so that nothing waits for
    Prefect. Where it raises `RetryableError`, it is called again, at most so many times."""

    fn: Callable[P, R]
    name: str
    run_name: str
    """What a run of the task is called, from its arguments."""
    retries: int = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        if shown := page():
            return shown.task(self)(*args, **options)
        if not self.retries:
            return self.fn(*args, **options)
        again = stamina.retry(on=RetryableError, attempts=self.retries + 1, timeout=None, wait_initial=2, wait_max=30)
        return again(self.fn)(*args, **options)


def task(
    name: str, run_name: str, retries: int = 0, line: Callable[[Any], str] | None = None
) -> Callable[[Function[P, R]], Function[P, R]]:
    """A function → a stage of this name. `line`: what its result is in the log of the run."""

    def stage(function: Function[P, R]) -> Function[P, R]:
        @wraps(function)
        async def said(*args: P.args, **kwargs: P.kwargs) -> R:
            result = await function(*args, **kwargs)
            if line is not None and has_page():
                say("%s", line(result))
            return result

        return Stage(said, name, run_name, retries)

    return stage


def sizes(of: Snapshot | Desired) -> str:
    """How much there is."""
    return f"{len(of.users):,} users, {len(of.groups):,} groups, {len(of.memberships):,} memberships"


def few_read(few: Few | NotNarrowError) -> str:
    """What was read by key."""
    if isinstance(few, NotNarrowError):
        return "Everything is read; the report says why"
    return f"Read by key: {sizes(few.source.snapshot)}; in Crowd {sizes(few.crowd.snapshot)}"


def matched_accounts(matched: Matched) -> str:
    """Who has an account."""
    known = int((matched.users["account"] != "").sum())
    return f"{known:,} people have an account, {len(matched.users) - known:,} get one; {len(matched.held):,} held"


def measured(impact: Impact) -> str:
    """What a plan does to people."""
    return (
        f"{len(impact.shut_out):,} people lose all access, {len(impact.emptied):,} groups are emptied; active accounts "
        f"{impact.active_before:,} → {impact.active_after:,}"
    )


def judged(verdict: Verdict) -> str:
    """What stands against a plan."""
    if verdict.refusals:
        return f"Refused for {len(verdict.refusals)} reasons; the report has them"
    return f"{len(verdict.asks)} reasons to ask a person" if verdict.asks else "Nothing stands against it"


def planned_counts(plan: Plan) -> str:
    """What a plan would do."""
    return f"Plan: {count_line(plan.counts())}; {len(plan.held):,} held"
