"""What connectors share that ask a provider what happened: up to where each list was read, and whether that is lost.

Lists are read again from a while before their newest known event, for what is written late. That event must then be
there once more: where it is not, the provider has forgotten what it had, and perhaps what came after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from connectors.errors import StaleCursorError

MOST_EVENTS: Final = 20_000
"""Events of one list that are read in one poll; where there are more, everybody is read instead."""


@dataclass(frozen=True, slots=True)
class Point:
    """The newest event of a list that is known: when it happened (milliseconds since 1970, by the provider's clock),
    and its id; "" where there was none at that time."""

    time: int
    event: str = ""


Found = dict[str, tuple[int, Any]]
"""Events by id: when they happened (milliseconds), and what the provider says of them."""


def points(cursor: str) -> dict[str, Point]:
    """A cursor → the point of each list. Raises `StaleCursorError` for one that we did not make."""
    try:
        return {name: Point(int(time), str(event)) for name, (time, event) in orjson.loads(cursor).items()}
    except (ValueError, TypeError, AttributeError):
        raise StaleCursorError(f"{cursor[:40]!r} is no place to poll on from") from None


def cursor_of(reached: Mapping[str, Point]) -> str:
    """As `points`, the other way."""
    return orjson.dumps({name: (one.time, one.event) for name, one in reached.items()}).decode()


def reached(found: Found, last: Point) -> Point:
    """The point after these events were read; of the one before only the time where its event is there no more."""
    newest = max(((time, event) for event, (time, _) in found.items()), default=(0, ""))
    return Point(*newest) if newest[0] >= last.time else Point(last.time)


def lost(what: str, found: Found, last: Point) -> str:
    """Why events of a list may be missing; "" where none are."""
    if last.event and last.event not in found:
        return f"{what} that were there at the last poll are there no more"
    return f"more than {MOST_EVENTS:,} {what} happened" if len(found) > MOST_EVENTS else ""


def digest(event: Any) -> str:
    """An id for an event that has none."""
    return sha256(orjson.dumps(event, option=orjson.OPT_SORT_KEYS)).hexdigest()
