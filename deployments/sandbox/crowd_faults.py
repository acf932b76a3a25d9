"""Faults on demand: rules that make chosen requests go wrong, the same way in every run.

A rule is a dict. It selects by `method`, `path` (prefix of the path after the API version),
`path_regex` (searched in it) and `query` (part of the raw query string); it fires on the `nth`
matching request (a number or a list, from 1), on `every` k-th, or with a `probability` drawn from
`seed`, and always if none of these is given; at most `times` times. The first rule that fires wins.
A `lost-ping` is about the pings to webhooks alone, and its `path` is the beginning of the endpoint.

| kind | what happens |
|---|---|
| `status` | answers `status` (default 503) unprocessed, with `retry_after`, `headers` and `body` if given |
| `reset` | the connection is reset before anything is processed |
| `slow` | waits `delay` seconds, then answers as usual |
| `truncated` | processed, but the answer breaks off after `fraction` of it: the framing is not honoured |
| `truncated-document` | processed, the framing is honoured, but the document ends after `fraction` of it |
| `html` | 200 with an HTML page, unprocessed |
| `empty` | 200 with an empty body, unprocessed |
| `empty-list` | a valid list with nothing in it |
| `repeated-page` | a list answers with the page before the one that was asked for |
| `dropped-items` | a list lacks `drop` of its items, chosen by `seed` |
| `replayed-events` | all events that are kept are given again, whatever the token |
| `expired-token` | events since a token: EVENT_TOKEN_EXPIRED |
| `alias-event` | the application's event stream is interrupted first, as by a changed alias |
| `foreign-token` | the event token in the answer is that of another server |
| `endless-events` | events since a token: one more of somebody else, and one more token, each time |
| `lost-ping` | a ping is taken from the queue and never sent; Crowd counts neither a success nor a failure |
| `committed-reset` | processed, then the connection is reset instead of an answer |
| `committed-silence` | processed, then nothing for `delay` seconds (default 3600), then reset |
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

KINDS: Final = frozenset(
    {
        "status",
        "reset",
        "slow",
        "truncated",
        "truncated-document",
        "html",
        "empty",
        "empty-list",
        "repeated-page",
        "dropped-items",
        "replayed-events",
        "expired-token",
        "alias-event",
        "foreign-token",
        "endless-events",
        "lost-ping",
        "committed-reset",
        "committed-silence",
    }
)
EVENT_KINDS: Final = frozenset({"replayed-events", "expired-token", "alias-event", "foreign-token", "endless-events"})
PING_KINDS: Final = frozenset({"lost-ping"})
PAGE_KINDS: Final = frozenset({"empty-list", "repeated-page", "dropped-items"})

Item = TypeVar("Item")


@dataclass(slots=True)
class Fault:
    """One rule, with its own count of matching requests and its own dice."""

    kind: str
    method: str | None = None
    path: str | None = None
    path_regex: re.Pattern[str] | None = None
    query: str | None = None
    nth: frozenset[int] | None = None
    every: int | None = None
    probability: float | None = None
    times: int | None = None
    seed: int = 0
    status: int = 503
    retry_after: str | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float | None = None
    fraction: float = 0.5
    drop: int = 1
    matched: int = 0
    fired: int = 0
    dice: random.Random = field(default_factory=random.Random)

    @classmethod
    def of(cls, rule: Mapping[str, Any]) -> Fault:
        """A rule as in the module's docstring; a number as kind is short for that status."""
        given = dict(rule)
        kind = str(given.pop("kind"))
        if kind.isdigit():
            kind, given["status"] = "status", int(kind)
        if kind not in KINDS:
            raise ValueError(f"unknown kind of fault {kind!r}; known: {', '.join(sorted(KINDS))}")
        allowed = {
            "method", "path", "path_regex", "query", "nth", "every", "probability", "times", "seed",
            "status", "retry_after", "body", "headers", "delay", "fraction", "drop",
        }  # fmt: skip
        unknown = set(given) - allowed
        if unknown:
            raise ValueError(f"unknown members of a fault: {', '.join(sorted(unknown))}")
        if given.get("path_regex") is not None:
            given["path_regex"] = re.compile(given["path_regex"])
        if given.get("nth") is not None:
            nth = given["nth"]
            given["nth"] = frozenset([nth] if isinstance(nth, int) else nth)
        if given.get("retry_after") is not None:
            given["retry_after"] = str(given["retry_after"])
        if given.get("method") is not None:
            given["method"] = str(given["method"]).upper()
        fault = cls(kind, **given)
        fault.dice.seed(fault.seed)
        return fault

    def fires(self, method: str, path: str, query: str) -> bool:
        """Whether this request is one to go wrong. Counts it, so ask once per request."""
        if self.method is not None and method != self.method:
            return False
        if self.path is not None and not path.startswith(self.path):
            return False
        if self.path_regex is not None and not self.path_regex.search(path):
            return False
        if self.query is not None and self.query not in query:
            return False
        self.matched += 1
        chosen = True
        if self.nth is not None:
            chosen = self.matched in self.nth
        if self.every is not None:
            chosen = chosen and self.matched % self.every == 0
        if self.probability is not None:
            # The dice fall for every matching request, so that one more rule does not move the others.
            chosen = (self.dice.random() < self.probability) and chosen
        return chosen and (self.times is None or self.fired < self.times)

    def page(self, items: list[Item], start: int, count: int) -> list[Item]:
        """The page that a list answers with instead of `items[start:start + count]`."""
        if self.kind == "empty-list":
            return []
        if self.kind == "repeated-page":
            start = max(0, start - count)
        found = items[start : start + count]
        if self.kind == "dropped-items":
            for _ in range(min(self.drop, len(found))):
                del found[self.dice.randrange(len(found))]
        return found
