"""Every page of every read of Crowd, made to go wrong in every way: refused, or exactly right.

The wrong answers come from the emulator process; the truth is what a faultless read gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from connectors.contract import Scope
from connectors.crowd import Crowd
from connectors.errors import ForbiddenError, IncompleteError, RefusedError, RetryableError
from connectors.http import Http
from connectors.model import ID_ATTRIBUTE
from deployments.sandbox.crowd import running
from tests.support.pages import as_pairs

PAGE = 4  # records a page; pages overlap by one, so that page i starts at 3 · i
SIZES = (4, 7, 8, 9)  # one full page and its proof; a last page of one, two and three records
BREAKAGES: dict[str, dict[str, Any]] = {
    "cut": {"kind": "truncated"},
    "cut at the end": {"kind": "truncated", "fraction": 0.98},
    "document cut": {"kind": "truncated-document"},
    "document cut at the end": {"kind": "truncated-document", "fraction": 0.98},
    "one dropped": {"kind": "dropped-items", "seed": 1},
    "another dropped": {"kind": "dropped-items", "seed": 3},
    "two dropped": {"kind": "dropped-items", "drop": 2, "seed": 2},
    "three dropped": {"kind": "dropped-items", "drop": 3},
    "repeated": {"kind": "repeated-page"},
    "emptied": {"kind": "empty-list"},
    "empty body": {"kind": "empty"},
    "html": {"kind": "html"},
    "404 html": {"kind": "status", "status": 404},
    "403 html": {"kind": "status", "status": 403},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
    "reset": {"kind": "reset"},
}
REFUSALS = (IncompleteError, ForbiddenError, RetryableError)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Any]:
    with running() as process:
        yield process


@pytest.fixture
async def http(emulator: Any) -> AsyncIterator[Http]:
    basic = ("crowdsync", "secret")
    async with Http(emulator.url, name="crowd", basic=basic, timeout=2, attempts=1) as one:
        yield one


def company(size: int) -> dict[str, Any]:
    users = [[f"user{i}", "U", f"{i}", f"U {i}", f"u{i}@example.org", i % 2 == 0, {ID_ATTRIBUTE: f"s:{i}"}]
             for i in range(size)]  # fmt: skip
    groups = [[f"group{i}", "text", {ID_ATTRIBUTE: f"s:{i}"}] for i in range(size)]
    pairs = [[f"user{i}", f"group{(i * k) % size}"] for i in range(size) for k in (1, 2)]
    return {
        "users": users,
        "groups": groups,
        "memberships": [[*pair] for pair in {tuple(pair) for pair in pairs}],
        "nestings": [["group1", "group0"]],
    }


def read(crowd: Crowd, table: str) -> AsyncIterator[Any]:
    return as_pairs(crowd.memberships()) if table == "memberships" else getattr(crowd, table)(Scope())


async def rows_of(crowd: Crowd, table: str) -> list[Any]:
    pages = [page async for page in read(crowd, table)]
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert not any(page.held for page in pages)
    return sorted(row for page in pages for row in page.rows)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("table", ["users", "groups", "memberships"])
async def test_a_broken_page_is_refused_wherever_it_stands(
    emulator: Any, http: Http, table: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """One request after the other broken, once; `readers=1` so that the n-th request is the n-th page."""
    emulator.clear()
    emulator.load(**company(size))
    crowd = Crowd(http, page_size=PAGE, readers=1)
    before = sum(http.requests.values())
    truth = await rows_of(crowd, table)
    requests = sum(http.requests.values()) - before
    assert requests == (2 if table == "memberships" else len(range(0, size - 1, PAGE - 1)) + (size % 3 == 1) + 1)
    refused, wrong, accepted = 0, [], []
    for name, rule in BREAKAGES.items():
        for nth in range(1, requests + 1):
            emulator.faults([{**rule, "method": "GET", "nth": nth}])
            try:
                found = await rows_of(crowd, table)
            except REFUSALS:
                refused += 1
            else:
                accepted.append((name, nth))
                if found != truth:
                    wrong.append((name, nth))
            assert emulator.counts()["faults"][0]["fired"] == 1, (name, nth)
    emulator.faults([])
    assert wrong == []
    # Where the broken answer is the honest one, there is nothing to refuse: there is no page before the
    # first, and the list of group names only says which memberships must be there.
    harmless = {("repeated", 1)}
    if table == "memberships":
        harmless |= {(name, 1) for name in BREAKAGES if "dropped" in name or name == "emptied"}
        harmless |= {("repeated", 2)}
    assert set(accepted) <= harmless
    total = len(BREAKAGES) * requests
    with capsys.disabled():
        print(f"{table} of {size}: {refused} of {total} broken reads refused, {len(accepted)} harmless")
    assert refused + len(accepted) == total


@pytest.mark.parametrize("kind", ["one dropped", "two dropped", "repeated", "emptied", "html", "500"])
@pytest.mark.parametrize("table", ["users", "groups"])
async def test_a_page_that_is_broken_every_time_is_refused_also_when_read_ahead(
    emulator: Any, http: Http, table: str, kind: str
) -> None:
    emulator.clear()
    emulator.load(**company(20))
    crowd = Crowd(http, page_size=PAGE, readers=4)
    truth = await rows_of(crowd, table)
    for start in range(0, 20, PAGE - 1):
        emulator.faults([{**BREAKAGES[kind], "method": "GET", "path": "/search", "query": f"start-index={start}&"}])
        if kind == "repeated" and start == 0:
            assert await rows_of(crowd, table) == truth
            continue
        with pytest.raises(REFUSALS):
            await rows_of(crowd, table)
    emulator.faults([])


@pytest.mark.parametrize("kind", ["one dropped", "two dropped", "three dropped", "repeated", "html", "500"])
async def test_a_crowd_that_breaks_every_page_is_refused(emulator: Any, http: Http, kind: str) -> None:
    emulator.clear()
    emulator.load(**company(20))
    crowd = Crowd(http, page_size=PAGE)
    emulator.faults([{**BREAKAGES[kind], "method": "GET"}])
    for table in ("users", "groups"):
        with pytest.raises(REFUSALS):
            await rows_of(crowd, table)
    emulator.faults([])


async def test_a_directory_that_changes_while_it_is_read_is_refused_or_read_right(emulator: Any, http: Http) -> None:
    """A user before the page that is read next comes or goes: nobody else is skipped or doubled."""
    outcomes: Counter[str] = Counter()
    for newcomer in ("aaa", "user05", "zzz"):
        for after in range(1, 7):
            emulator.clear()
            emulator.load(**company(20))
            everybody = {f"user{i}" for i in range(20)}
            crowd = Crowd(http, page_size=PAGE, readers=1)
            found: list[str] = []
            pages = read(crowd, "users")
            try:
                for _ in range(after):
                    found += [row[0] for row in (await anext(pages)).rows]
                emulator.load(users=[[newcomer, "N", "N", "N", "n@example.org", True]])
                async for page in pages:
                    found += [row[0] for row in page.rows]
            except IncompleteError:
                outcomes["refused"] += 1
                continue
            finally:
                await pages.aclose()  # type: ignore[attr-defined]
            outcomes["right"] += 1
            assert len(found) == len(set(found))
            assert set(found) - {newcomer} == everybody
    assert outcomes["refused"] >= 6
    assert outcomes["right"] >= 6


async def test_an_empty_directory_reads_as_empty_and_costs_three_requests(emulator: Any, http: Http) -> None:
    emulator.clear()
    crowd = Crowd(http)
    assert await rows_of(crowd, "users") == []
    assert sum(http.requests.values()) == 3
    assert await rows_of(crowd, "memberships") == []
    emulator.load(**company(4))
    emulator.faults([{"kind": "empty-list", "nth": 1}])
    with pytest.raises(IncompleteError):
        await rows_of(crowd, "users")
    emulator.faults([])


async def test_single_reads_and_the_check(emulator: Any, http: Http) -> None:
    emulator.clear()
    emulator.load(**company(9))
    crowd = Crowd(http, page_size=PAGE)
    person = await crowd.user("USER1", Scope())
    assert person is not None
    assert person.user in await rows_of(crowd, "users")
    assert sorted(person.memberships) == [m for m in await rows_of(crowd, "memberships") if m[1] == "user1"]
    assert {group[0] for group in person.groups} == {m[0] for m in person.memberships}
    assert set(person.groups) <= set(await rows_of(crowd, "groups"))
    group = await crowd.group("Group3", Scope())
    assert group is not None
    assert group.group in await rows_of(crowd, "groups")
    assert await crowd.user("nobody", Scope()) is None
    assert await crowd.group("nothing", Scope()) is None
    lines = await crowd.check()
    assert lines[0].startswith("Crowd/")


async def test_the_token_stays_until_something_changes(emulator: Any, http: Http) -> None:
    emulator.clear()
    emulator.load(**company(4))
    crowd = Crowd(http)
    one = await crowd.token()
    assert one
    assert await crowd.token() == one
    emulator.load(groups=[["another"]])
    assert await crowd.token() != one


async def test_wrong_credentials_and_a_wrong_base_path_are_told_apart(emulator: Any) -> None:
    async with Http(emulator.url, name="crowd", basic=("crowdsync", "wrong"), attempts=1) as http:
        with pytest.raises(RefusedError, match="application and password"):
            await Crowd(http).check()
    async with Http(f"{emulator.url}/x", name="crowd", basic=("crowdsync", "secret"), attempts=1) as http:
        with pytest.raises(Exception, match="context path"):
            await Crowd(http).check()
