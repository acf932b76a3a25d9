"""What a cycle costs: its pages and a few calls to read, a request for each change to write, two rows to remember.

Both servers are processes of their own and count for themselves; the road is `tests/road.py`.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.crowd import Crowd
from connectors.errors import RefusedError
from connectors.http import Http
from connectors.idp.scim import Scim
from connectors.store import Store
from deployments.sandbox.crowd import RunningCrowd
from deployments.sandbox.crowd import running as running_crowd
from deployments.sandbox.scim import RunningScim, prepared
from tasks.policy import Limit, Limits, Policy
from tests import road
from tests.support.long import long_after

PAGE = 10
FIXED = 5
"""Calls beyond the pages that a read may cost, on each side."""
SIZES = [(1, 0), (1, 1), (PAGE, PAGE), (PAGE + 1, PAGE + 1), (35, 25), (2 * PAGE, PAGE - 1), (100, 31)]
OPEN = Policy(
    limits=Limits.model_validate(
        {name: {} for name, field in Limits.model_fields.items() if field.annotation is Limit} | {"unusual_times": None}
    )
)
CHANGES = {"seed": 3, "joiners": 4, "leavers": 3, "disabled": 2, "renamed": 2, "updated": 5, "moved": 4}


@pytest.fixture(scope="module")
def crowds() -> Iterator[RunningCrowd]:
    with running_crowd() as process:
        yield process


@pytest.fixture
def crowd(crowds: RunningCrowd) -> RunningCrowd:
    crowds.clear()
    crowds.reset_counts()
    return crowds


@asynccontextmanager
async def walking(scim: RunningScim, crowd: RunningCrowd, file: Path) -> AsyncIterator[Any]:
    """A run with connections of its own, as each run has them."""
    scim.reset_counts()
    crowd.reset_counts()
    async with (
        Http(scim.url, name="acme", bearer=scim.token, attempts=1) as idp,
        Http(crowd.url, name="crowd", basic=("crowdsync", "secret"), attempts=1) as client,
    ):
        with Store.open(f"sqlite:///{file}") as store:
            source = Scim(idp, page_size=PAGE, group_page_size=PAGE)
            yield road.run_of(source, Crowd(client, page_size=PAGE), store, OPEN)


def company(users: int, groups: int) -> Any:
    memberships = min(users * groups, 3 * users)
    return prepared(users=users, groups=groups, memberships=memberships, user_page=PAGE, group_page=PAGE)


def pages(size: int) -> int:
    """Pages overlap by one record."""
    return max(1, math.ceil((size - 1) / (PAGE - 1)))


def scim_reads(scim: RunningScim) -> int:
    return sum(count for name, count in scim.counts().items() if name != "bytes")


def rows(file: Path) -> dict[str, int]:
    """How many rows each table of the database has."""
    with ExitStack() as stack:
        database = sqlite3.connect(file)
        stack.callback(database.close)
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}


def more(file: Path, before: dict[str, int]) -> dict[str, int]:
    """Which tables grew, and by how many rows."""
    return {name: count - before[name] for name, count in rows(file).items() if count != before[name]}


def streams(file: Path) -> dict[str, int]:
    """Snapshots by stream."""
    with Store.open(f"sqlite:///{file}") as store:
        return {str(stream): int(n) for stream, n in store.snapshots()["stream"].value_counts().items()}


@pytest.mark.parametrize(("users", "groups"), long_after(5, SIZES))
async def test_cycles_cost_their_pages_and_their_changes(
    crowd: RunningCrowd, tmp_path: Path, users: int, groups: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into an empty Crowd; twice with nothing to do; with changes; and with nothing to do again."""
    file, lines = tmp_path / "store.db", []
    with company(users, groups) as scim:
        held = (0, 0)  # users and groups in Crowd
        for cycle in ("first", "no change", "still none", "changes", "no change", "still none"):
            if cycle == "changes":
                if users < 35:
                    break
                scim.change(**CHANGES)
                users += CHANGES["joiners"] - CHANGES["leavers"]
            Store.open(f"sqlite:///{file}").close()  # makes its tables
            before = rows(file)
            async with walking(scim, crowd, file) as run:
                walked = await road.walk(run)
            counts, reads = crowd.counts(), scim_reads(scim)
            writes, crowd_reads = counts["writes"], counts["reads"]
            assert set(counts["statuses"]) <= {"200", "201", "204"}
            assert not walked.refusals
            scim_all, crowd_all = pages(users) + pages(groups), pages(held[0]) + pages(held[1]) + 1
            assert scim_all <= reads <= scim_all + FIXED
            assert crowd_all <= crowd_reads <= crowd_all + FIXED
            assert crowd_reads + writes == sum(counts["requests"].values())
            changes = len(walked.plan.operations)
            assert writes == changes
            assert not changes or set(walked.journal["state"]) == {"done"}
            lines.append(f"{cycle}: {reads}/{scim_all} + {crowd_reads}/{crowd_all} reads, {writes} writes")
            assert bool(changes) == (cycle in ("first", "changes"))
            # The first cycle after changes sees in Crowd what they made of it; the next one sees nothing new.
            grown = more(file, before)
            assert grown["snapshot"] == 2
            assert cycle != "still none" or grown == {"snapshot": 2}
            state = crowd.state()
            held = len(state["users"]), len(state["groups"])
            assert held[0] > 0
            assert held[1] == groups
        cycles = len(lines)
        assert streams(file) == {"source:acme": cycles, "directory:crowd": cycles}
    with capsys.disabled():
        print(f"\n{users} users, {groups} groups: {'; '.join(lines)}")


async def test_a_source_without_people_costs_its_pages_and_nothing_else(crowd: RunningCrowd, tmp_path: Path) -> None:
    """An empty source is refused; what was read is kept, and nothing is written."""
    with company(0, 0) as scim:
        async with walking(scim, crowd, tmp_path / "store.db") as run:
            with pytest.raises(RefusedError, match="no users at all"):
                await road.walk(run)
            assert run.store.plans().empty
        assert 2 <= scim_reads(scim) <= 2 + FIXED
    counts = crowd.counts()
    assert counts["writes"] == 0
    assert 3 <= counts["reads"] <= 3 + FIXED
    assert streams(tmp_path / "store.db") == {"source:acme": 1, "directory:crowd": 1}
