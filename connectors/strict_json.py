"""JSON that says one thing only: a key that stands twice in an object is refused, and so is what no parser agrees on.

RFC 8259 leaves open which of two equal keys counts, and every fast parser silently takes the last: an answer
`{"members": ["ann"], "members": []}` would empty a group. What got lost is seen by counting: a dropped key takes its
two quotation marks along, so that the text holds more of them than what was read from it, written out again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
import numpy as np
import orjson

_SMALL: Final = 4000
"""Bytes up to which a plain count is quicker than a vectorised one."""
_BLOCK: Final = 1 << 18
"""Bytes that are compared at once: few enough for what they are compared to to stay in the processor's cache."""
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RECORDS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


class NotJsonError(ValueError):
    """The text is no JSON, or none that says one thing only; the message continues "an answer which …"."""


class DoubledKeyError(NotJsonError):
    """A key stands twice in an object. `key` is it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"says {key[:60]!r} twice in one object, so that it cannot be known which one is meant")
        self.key = key


def loads(data: bytes | memoryview) -> Any:
    """JSON text in UTF-8 → its value. Raises `NotJsonError`, and no other error."""
    text = bytes(data)  # (no copy where it is bytes)
    wrong = ""
    try:
        found = orjson.loads(text)
        if _quotes(text) == _quotes(orjson.dumps(found)):
            return found
    except orjson.JSONDecodeError:
        wrong = "is not whole JSON"
    except (TypeError, RecursionError):  # orjson reads four times as deep as it writes
        wrong = "is nested too deeply"
    # Outside: their exceptions hold the text, which no error of ours may carry along.
    raise NotJsonError(wrong) if wrong else DoubledKeyError(_doubled(text))


def fields(data: bytes | memoryview) -> dict[str, msgspec.Raw]:
    """A JSON object in UTF-8, taken apart by one level. Raises as `loads` for its own keys; the values are unread."""
    (found,) = _proved(data, lambda: [_FIELDS.decode(data)])
    return found


def records(data: bytes | memoryview) -> list[dict[str, msgspec.Raw]]:
    """A JSON list of objects in UTF-8, each of them as `fields`."""
    return _proved(data, lambda: _RECORDS.decode(data))


def listing(data: bytes | memoryview, name: str) -> tuple[dict[str, msgspec.Raw], list[dict[str, msgspec.Raw]]]:
    """A JSON object as `fields`, without the list `name`; and this list as `records`, which it has to have. At once: a
    page of many megabytes is then counted once instead of twice."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        found = _FIELDS.decode(data)
        listed = _RECORDS.decode(memoryview(found.pop(name)))
        # What a doubled key takes along never comes back elsewhere: where all is there, each of both is whole.
        if _quotes(data) == 2 * (len(found) + 1) + _inside([found]) + 2 * sum(map(len, listed)) + _inside(listed):
            return found, listed
    found = fields(data)  # why not
    return found, records(memoryview(found.pop(name)))


def _inside(objects: list[dict[str, msgspec.Raw]]) -> int:
    """The quotation marks of all values."""
    return sum(_quotes(memoryview(value)) for one in objects for value in one.values())


def _proved(
    text: bytes | memoryview, objects: Callable[[], list[dict[str, msgspec.Raw]]]
) -> list[dict[str, msgspec.Raw]]:
    """The objects of a text that holds nothing else. Each of their own keys is proved to stand there once."""
    wrong = ""
    try:
        found = objects()
        if _quotes(text) == 2 * sum(map(len, found)) + _inside(found):
            return found
    except (msgspec.DecodeError, UnicodeDecodeError):
        wrong = "is no whole JSON object, or no list of such"
    except RecursionError:
        wrong = "is nested too deeply"
    raise NotJsonError(wrong) if wrong else DoubledKeyError(_doubled(bytes(text)))


def _quotes(text: bytes | memoryview) -> int:
    """How many quotation marks open or close a text in JSON: all but those that a backslash escapes."""
    if len(text) > _SMALL:
        codes = np.frombuffer(text, dtype=np.uint8)
        blocks = [codes[at : at + _BLOCK] for at in range(0, len(codes), _BLOCK)]
        count = sum(int(np.count_nonzero(block == 34)) for block in blocks)
        if not (92 in text if type(text) is bytes else any((block == 92).any() for block in blocks)):
            return count
        at = np.flatnonzero(codes == 92)
        if not (np.diff(at) == 1).any():
            return count - int(np.count_nonzero(codes[at + 1] == 34))
    text = bytes(text)
    if 92 in text:
        text = text.replace(b"\\\\", b"")  # what a pair leaves of a row of backslashes escapes what follows it
        return text.count(b'"') - text.count(b'\\"')
    return text.count(b'"')


class _Found(Exception):
    pass


def _doubled(text: bytes) -> str:
    """The first key that stands twice in one object."""

    def pairs(listed: list[tuple[str, Any]]) -> None:
        known: set[str] = set()
        for key, _ in listed:
            if key in known:
                raise _Found(key)
            known.add(key)

    with suppress(ValueError, RecursionError):
        try:
            json.loads(text, object_pairs_hook=pairs, parse_int=str)
        except _Found as found:
            return str(found)
    return "a key"
