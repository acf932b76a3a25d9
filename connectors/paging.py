"""Paging styles. Each yields `(items, last)` and proves that nothing is missing, or refuses.

`last` is true exactly once, with the final items. What cannot be seen here: that a server gave the
same record twice in place of another; callers therefore check that ids are unique within a read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from connectors.contract import Page
from connectors.errors import IncompleteError
from connectors.model import MembershipRow

Key = TypeVar("Key")
Result = TypeVar("Result")

AHEAD = 4
"""How many pages are fetched at once."""


ROWS = 10_000
"""About how many memberships make a `Page`."""


@dataclass(frozen=True, slots=True)
class Part:
    """One page as the server gave it; None for what it did not say.

    `total` counts the records of the whole read, `start` is the index of the first item, `next`
    the cursor (or link) of the page after this one.
    """

    items: Sequence[Any]
    total: int | None = None
    start: int | None = None
    next: str | None = None


async def in_order(
    fetch: Callable[[Key], Awaitable[Result]], keys: Iterable[Key], ahead: int = AHEAD
) -> AsyncIterator[Result]:
    """`fetch` of each key, in the order of the keys, up to `ahead` of them at once."""
    waiting = iter(keys)
    running: deque[asyncio.Future[Result]] = deque()
    try:
        while True:
            for key in waiting:
                running.append(asyncio.ensure_future(fetch(key)))
                if len(running) >= ahead:
                    break
            if not running:
                return
            result = await running[0]
            running.popleft()
            yield result
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def by_index(
    fetch: Callable[[int, int], Awaitable[Result]],
    read: Callable[[Result], Part],
    what: str,
    *,
    count: int,
    first: int = 1,
    ahead: int = AHEAD,
) -> AsyncIterator[tuple[Sequence[Any], bool]]:
    """Pages by index: `fetch(start, count)`, the first record having index `first`; `read` takes an answer apart.

    The first page tells total and page size; the others are then fetched `ahead` at a time, and
    read one by one: a page in objects is many times as large as in bytes. From
    a page that is shorter than that size on, the read goes page by page and advances by what came.
    """
    part = read(await fetch(first, count))
    total, size, start = part.total, len(part.items), first
    if total is None or total < 0:
        raise IncompleteError(f"{what}: the server does not say how many there are, so nothing is proved.")

    def prove(part: Part, start: int, most: int | None) -> int:
        """What is still missing after this page."""
        n = len(part.items)
        if part.total != total:
            raise IncompleteError(
                f"{what}: {total} in all, but {part.total} at index {start}. They changed while being read, "
                "or the answer is damaged; run again."
            )
        if n and part.start is not None and part.start != start:
            raise IncompleteError(f"{what}: asked for index {start}, and got a page that starts at {part.start}.")
        missing = total - (start - first) - n
        if missing < 0 or (most is not None and n > most):
            raise IncompleteError(f"{what}: {n} records at index {start} are more than {total} in all allow.")
        if n == 0 and missing:
            raise IncompleteError(f"{what}: nothing at index {start}, and {missing} of {total} are missing.")
        return missing

    missing = prove(part, start, None)
    yield part.items, missing == 0
    start += size
    if missing > 0:
        starts = range(start, first + total, size)
        pages = in_order(lambda at: fetch(at, size), starts, ahead)
        try:
            async for answer in pages:
                part = read(answer)
                missing = prove(part, start, size)
                yield part.items, missing == 0
                start += len(part.items)
                if missing and len(part.items) < size:
                    break
        finally:
            await pages.aclose()  # type: ignore[attr-defined]
    while missing > 0:
        part = read(await fetch(start, size))
        missing = prove(part, start, size)
        yield part.items, missing == 0
        start += len(part.items)


async def by_cursor(
    fetch: Callable[[str], Awaitable[Part]], what: str, *, first: str = "", sparse: bool = False
) -> AsyncIterator[tuple[Sequence[Any], bool]]:
    """Pages by cursor (or link): `fetch(cursor)`, from `first` until a page names no next one.

    A total, once said, must stay the same and be reached. Where none is said, the end of the chain is all the
    proof there is; an empty page proves nothing then, nor does one that leads on. `sparse` is for servers whose
    pages may honestly be empty: each such page is asked for again, and must be the same.
    """
    cursor, seen, count = first, {first}, 0
    total: int | None = None
    while True:
        part = await fetch(cursor)
        count += len(part.items)
        if sparse and not part.items and part.total is None:
            again = await fetch(cursor)
            if again.items or bool(again.next) != bool(part.next):
                raise IncompleteError(
                    f"{what}: an empty page after {count}, and when asked again not empty; run again."
                )
        if part.total is not None:
            if total is not None and part.total != total:
                raise IncompleteError(f"{what}: first {total} in all, then {part.total}; run again.")
            total = part.total
        if not part.items and not sparse and (total != count or (part.next and cursor != first)):
            raise IncompleteError(f"{what}: an empty page after {count} of {total or 'an unknown number'}.")
        if total is not None and (count > total or (not part.next and count < total)):
            raise IncompleteError(f"{what}: {count} came, and {total} should have.")
        yield part.items, not part.next
        if not part.next:
            return
        if part.next in seen:
            raise IncompleteError(f"{what}: the server gave the same cursor twice, after {count} records.")
        seen.add(part.next)
        cursor = part.next


async def distinct(
    pages: AsyncIterator[tuple[Sequence[Any], bool]], what: str, kind: type = str
) -> AsyncIterator[tuple[Sequence[Any], int, bool]]:
    """Pages of records → (records, number of the first from 1, last page?), proving that no `id` comes twice.

    `kind` is the type of an id; what has none is left to whoever makes rows of it.
    """
    count, known, seen = 0, 0, set[Any]()
    try:
        async for records, last in pages:
            # Sets of the ids of whole pages: the proof must not cost as much as the reading.
            ids = [key for one in records if type(one) is dict and type(key := one.get("id")) is kind]
            seen.update(ids)
            known += len(ids)
            if len(seen) != known:
                raise IncompleteError(
                    f"{what}: the server gave a record twice, so another may be missing (records {count + 1} to "
                    f"{count + len(records)}). The list moved while it was read; run again."
                )
            yield records, count + 1, last
            count += len(records)
    finally:
        await pages.aclose()  # type: ignore[attr-defined]


async def of_groups(
    groups: Iterable[Key], members: Callable[[Key], Awaitable[list[MembershipRow]]], ahead: int
) -> AsyncIterator[Page[MembershipRow]]:
    """`members` of each group (or bundle of groups), up to `ahead` at once, as pages of about `ROWS` memberships."""
    each = in_order(members, groups, ahead)
    rows: list[MembershipRow] = []
    try:
        async for found in each:
            rows += found
            if len(rows) >= ROWS:
                yield Page(rows, False)
                rows = []
    finally:
        await each.aclose()  # type: ignore[attr-defined]
    yield Page(rows, True)
