"""Paging styles. Each yields `(items, last)` and proves that nothing is missing, or refuses.

`last` is true exactly once, with the final items. What cannot be seen here: that a server gave the
same record twice in place of another; callers therefore check that ids are unique within a read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from connectors.contract import Held, Page
from connectors.errors import IncompleteError, TooLargeError
from connectors.model import Members

Key = TypeVar("Key")
Result = TypeVar("Result")
Row = TypeVar("Row")

AHEAD = 4
"""How many pages are fetched at once."""

FEW, HEAVY = 5, 16 * 2**20
"""Records of which nobody knows how large they are: so many are asked for first, and never more than fit into about so
many bytes."""

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
    weight: Callable[[Result], int] | None = None,
) -> AsyncIterator[tuple[Sequence[Any], bool]]:
    """Pages by index: `fetch(start, count)`, the first record having index `first`; `read` takes an answer apart.
    `weight` (bytes of an answer) is for records of very different sizes: their pages begin small, and grow as long as
    they are light.

    Pages overlap by one record: each must begin with the one that ended the page before. (Where somebody leaves
    before a boundary and somebody else joins behind it, the total stays, and one who was there all along is skipped.)
    The first page says total and page size; the others are then fetched `ahead` at a time, and
    read one by one: a page in objects is many times as large as in bytes. From
    a page that is shorter than that size on, the read goes page by page and advances by what came. Where an answer is
    too large, the rest is asked for in pages of half the size; `TooLargeError` where two records are still too large.
    """
    most = max(count, 2)
    size, answer = most if weight is None else min(most, FEW), None
    while answer is None:
        try:
            answer = await fetch(first, size)
        except TooLargeError as error:
            size = most = _half(size, error)
    part = read(answer)
    total, items = part.total, part.items
    if total is None or total < 0:
        raise IncompleteError(f"{what}: the server does not say how many there are, so nothing is proved.")

    def prove(part: Part, at: int, most: int | None) -> int:
        return _missing_after(part, total, at - first, at, most, what)

    missing = prove(part, first, None)
    yield items, missing == 0
    if not missing:
        return
    at, end, alone = first + len(items) - 1, items[-1], False
    most = most if len(items) == size else max(len(items), 2)  # the server gives no more
    size = max(len(items), 2)
    while missing:
        size = _fitting(size, most, weight(answer)) if weight else size
        growing = size < most
        starts = range(at, first + total - 1, size - 1)[: 1 if alone or growing else None]
        pages = in_order(partial(_sized, fetch, size), starts, ahead)
        try:
            async for answer in pages:
                part = read(answer)
                missing, items = prove(part, at, size), part.items
                meet(end, items, what)
                yield items[1:], missing == 0
                at, end, short = at + len(items) - 1, items[-1], len(items) < size
                if short and growing:
                    size = most = max(len(items), 2)
                alone = alone or (short and not growing)
                if short or (weight and _fitting(size, most, weight(answer)) < size):
                    break
        except TooLargeError as error:
            size = most = _half(size, error)
        finally:
            await pages.aclose()  # type: ignore[attr-defined]


def _fitting(size: int, most: int, weight: int) -> int:
    """How many records to ask for after a page of `size` that had so many bytes."""
    if weight > HEAVY:
        return min(size, max(FEW, size // 2))
    return min(most, 2 * size) if weight <= HEAVY // 2 else size


def _missing_after(part: Part, total: int, before: int, at: int, most: int | None, what: str) -> int:
    """How many are still missing after a page at the index `at`, with so many `before` it, which may have `most`.
    Raises `IncompleteError` where the page does not fit to the read."""
    n = len(part.items)
    if part.total != total:
        raise IncompleteError(
            f"{what}: {total} in all, but {part.total} at index {at}. They changed while being read, "
            "or the answer is damaged; run again."
        )
    if n and part.start is not None and part.start != at:
        raise IncompleteError(f"{what}: asked for index {at}, and got a page that starts at {part.start}.")
    missing = total - before - n
    if missing < 0 or (most is not None and n > most):
        raise IncompleteError(f"{what}: {n} records at index {at} are more than {total} in all allow.")
    if n <= (before > 0) and missing:
        raise IncompleteError(f"{what}: nothing new from index {at} on, and {missing} of {total} are missing.")
    return missing


async def by_position(
    fetch: Callable[[int, int], Awaitable[Result]],
    read: Callable[[Result], Sequence[Any]],
    what: str,
    *,
    count: int,
    expected: int | None,
    ahead: int = AHEAD,
) -> AsyncIterator[tuple[Sequence[Any], bool]]:
    """Pages by position, from 0 on, of a list that says no total: `fetch(start, count)`, `read` takes an answer apart.

    Pages overlap by one record as in `by_index`. The end is where a page is shorter than asked for, and as many have
    come as were `expected`; else it is proved by asking once more, from the last record on: exactly that one comes.
    """
    size, at, number, end = max(count, 2), 0, -1, None
    while True:
        starts = range(at, max((expected or 0) - 1, at + 1), size - 1)
        pages = in_order(partial(_sized, fetch, size), starts, ahead)
        try:
            async for answer in pages:
                items = read(answer)
                if number > 0:
                    meet(end, items, what)
                if len(items) > size:
                    raise IncompleteError(f"{what}: {len(items)} records came, and {size} were asked for.")
                new, asked_again = items[1:] if number > 0 else items, number >= 0
                number = max(number, 0) + len(new)
                end = items[-1] if items else end
                at = max(number - 1, 0)
                ended = len(items) < size and (number == expected or (asked_again and not new))
                yield new, ended
                if ended:
                    return
                if len(items) < size:
                    expected = None
                    break
        except TooLargeError as error:
            size = _half(size, error)
        finally:
            await pages.aclose()  # type: ignore[attr-defined]


def _sized(fetch: Callable[[int, int], Awaitable[Result]], size: int, start: int) -> Awaitable[Result]:
    return fetch(start, size)


def _half(size: int, error: TooLargeError) -> int:
    """Half as many records a page, two at least: pages overlap by one. Raises the error where there are no fewer."""
    if size <= 2:
        raise error
    return max(2, size // 2)


def meet(end: Any, items: Sequence[Any], what: str) -> None:
    """Proves that a page begins with the record that ended the page before it, by id, else as a whole."""
    if not items or identity(items[0]) != identity(end):
        raise IncompleteError(
            f"{what}: a page does not begin with the record that ended the one before it: the list moved while it was "
            "read; run again."
        )


def identity(record: Any) -> Any:
    """What a record is known by in a list: its id, else all of it."""
    key = record.get("id") if isinstance(record, dict) else None
    return record if key is None else key


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
    groups: Iterable[Key],
    members: Callable[[Key], Awaitable[list[Members]]],
    ahead: int,
    held: Sequence[Held] = (),
) -> AsyncIterator[Page[Members]]:
    """`members` of each group (or bundle of groups), up to `ahead` at once, as pages of about `ROWS` memberships.

    `members` adds groups that cannot be read to `held`, which comes with the last page.
    """
    each = in_order(members, groups, ahead)
    rows: list[Members] = []
    number = 0
    try:
        async for found in each:
            rows += found
            number += sum(map(len, found))
            if number >= ROWS:
                yield Page(rows, False)
                rows, number = [], 0
    finally:
        await each.aclose()  # type: ignore[attr-defined]
    yield Page(rows, True, held)


async def drained(pages: AsyncIterator[Page[Row]], held: list[Held]) -> list[Row]:
    """All rows of a read; what was held is added to `held`."""
    rows: list[Row] = []
    async for page in pages:
        rows += page.rows
        held += page.held
    return rows
