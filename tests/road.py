"""The road without Prefect: the stages of `flows/road.py`, one after the other, for tests.

`walk` calls what the flow calls (a task's own function is its `.fn`); what is left out are Prefect's
runs and artifacts. `FixedSource` is a source that gives one snapshot; `content` is what Crowd holds,
less what Crowd itself keeps; `reload` puts such a content back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pandas as pd

from connectors.contract import PLAIN, Capabilities, Changes, Directory, Group, Page, Person, Scope, Source
from connectors.errors import RetryableError
from connectors.http import Http
from connectors.model import GroupRow, Members, Snapshot, UserRow
from connectors.source import SourceSettings
from connectors.store import SavedSnapshot, Store
from tasks.decide.filter import in_scope
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Plan, plan
from tasks.policy import Policy
from tasks.read.extract import read_directory, read_source
from tasks.read.recover import settle_unfinished
from tasks.read.snapshot import save_snapshot, validated
from tasks.run import Run
from tasks.write.apply import apply_plan
from tasks.write.canary import apply_canary
from tasks.write.chunks import CHUNK, Progress, apply_chunk
from tests.support.pages import by_group

SOURCE, DIRECTORY = "acme", "crowd"
RETRIES = 3
OWN = ("requiresPasswordChange", "invalidPasswordAttempts", "passwordLastChanged", "lastAuthenticated")
"""User attributes that Crowd keeps by itself."""


class FixedSource:
    """`connectors.contract.Source` over one snapshot, that is read whole."""

    name: ClassVar[str] = "fixed"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True)
    settings: ClassVar[type[SourceSettings]] = SourceSettings

    @classmethod
    def open(cls, name: str, settings: Any, secrets: Mapping[str, str]) -> FixedSource:
        raise NotImplementedError

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    @property
    def clients(self) -> Sequence[Http]:
        return ()

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        yield Page(list(self.snapshot.users.itertuples(index=False, name=None)), last=True)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        yield Page(list(self.snapshot.groups.itertuples(index=False, name=None)), last=True)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        yield Page(by_group(self.snapshot.memberships), last=True)

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        raise NotImplementedError

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        raise NotImplementedError

    async def has_user(self, identity: str) -> bool:
        raise NotImplementedError

    async def has_group(self, identity: str) -> bool:
        raise NotImplementedError

    async def cursor(self, scope: Scope) -> str:
        raise NotImplementedError

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        raise NotImplementedError

    async def check(self) -> Sequence[str]:
        return ()


def run_of(
    source: Source,
    directory: Directory,
    store: Store,
    policy: Policy,
    *,
    id: str = "run",  # noqa: A002
    concurrency: int = 3,
) -> Run:
    """A run over connections that the test has opened."""
    return Run(
        id=id,
        source_name=SOURCE,
        directory_name=DIRECTORY,
        policy=policy,
        source=source,
        directory=directory,
        store=store,
        concurrency=concurrency,
    )


@dataclass(frozen=True, slots=True)
class Walked:
    """How far the road went: the plan, its number (None: nothing to do) and what the journal says of it."""

    plan: Plan
    number: int | None
    kept: tuple[SavedSnapshot, SavedSnapshot]
    refusals: tuple[str, ...]
    journal: pd.DataFrame
    settled: Sequence[int]


async def walk(run: Run, *, mode: str = "sync", force: bool = False, size: int = CHUNK) -> Walked:
    """The whole road, or with mode "preview" up to the stored plan. Raises what the stages raise."""
    ours, theirs = run.source_side, run.crowd_side
    source = await read_source(ours.client, ours.scope)
    crowd = await read_directory(theirs.client, theirs.scope)
    kept = await save_snapshot(run.store, ours.stream, source, run.id)
    crowd_kept = await save_snapshot(run.store, theirs.stream, crowd, run.id)
    settled = await settle_unfinished(run.store, run.directory_name, crowd)
    source = await validated(run.store, ours.stream, source, kept.digest)
    crowd = await validated(run.store, theirs.stream, crowd, crowd_kept.digest)
    wanted = desired(in_scope(source, run.policy).snapshot, run.policy)
    matched = match(wanted, crowd, run.store.links(run.directory_name), run.policy, run.source_name, source)
    made = plan(matched, source, crowd, run.policy, run.source_name, (kept.digest, crowd_kept.digest))
    verdict = judge(made, run.policy, impact(made.operations, crowd, run.policy), force=force)
    number = None
    if len(made.operations):
        number = run.store.save_plan(
            run=run.id,
            source=run.source_name,
            directory=run.directory_name,
            digest=made.digest,
            source_snapshot=kept.id,
            directory_snapshot=crowd_kept.id,
            policy=run.policy.model_dump_json(),
            operations=made.operations,
            held=made.held,
            at=datetime.now(UTC),
            status="refused" if verdict.stops else "planned",
        )
        if mode == "sync" and not verdict.stops:
            await apply(run, made, number, size=size)
    journal = made.operations if number is None else run.store.operations(number)
    return Walked(made, number, (kept, crowd_kept), verdict.stops, journal, settled)


class AtOnce:
    """`tasks.write.apply.Runner`: what may go through later is tried again at once."""

    async def begin(self, run: Run, operations: int) -> Callable[[float], Awaitable[None]]:
        async def tell(percent: float) -> None:
            pass

        return tell

    async def canary(self, run: Run, plan: int, first: pd.DataFrame, progress: Progress) -> None:
        await self._tried(lambda: apply_canary(run, plan, first, progress))

    async def chunk(
        self, run: Run, plan: int, bounds: tuple[int, int], progress: Progress, *, number: int, total: int
    ) -> None:
        await self._tried(lambda: apply_chunk(run, plan, bounds, progress))

    async def _tried(self, part: Callable[[], Awaitable[None]]) -> None:
        for left in range(RETRIES, -1, -1):
            try:
                await part()
                break
            except RetryableError:
                if not left:
                    raise


async def apply(run: Run, made: Plan, number: int, *, size: int = CHUNK) -> None:
    """`tasks.write.apply.apply_plan`, and the plan's status afterwards. Raises what stopped it."""
    applied = await apply_plan(run, made, number, AtOnce(), size=size)
    if applied.stopped is not None:
        raise applied.stopped
    failed = run.store.operations(number, states=["failed", "skipped"])
    run.store.set_plan_status(number, "failed" if len(failed) else "applied", at=datetime.now(UTC))


def content(emulator: Any) -> dict[str, Any]:
    """What the emulated Crowd holds, without what Crowd keeps by itself (passwords, dates, keys)."""
    state: dict[str, Any] = emulator.state()
    for user in state["users"]:
        user["attributes"] = {name: values for name, values in user["attributes"].items() if name not in OWN}
    return state


def reload(emulator: Any, state: dict[str, Any]) -> None:
    """Empties the emulated Crowd and puts `content` into it."""
    emulator.clear()
    emulator.load(
        users=[
            [
                *(user[name] for name in ("name", "first_name", "last_name", "display_name", "email", "active")),
                user["attributes"],
            ]
            for user in state["users"]
        ],
        groups=[[group["name"], group["description"], group["attributes"]] for group in state["groups"]],
        memberships=state["memberships"],
        nestings=state["nestings"],
    )
