"""Few policies in which every value of a field meets every value of every other: covering arrays, as rows of values."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import combinations
from typing import Any

from tasks.policy import Policy
from tests.support.worlds import (
    DAYS,
    EXTRA,
)

Row = dict[str, Any]
"""A value for every factor."""
TAGS = [f"-{number}" for number in range(6)]
FEATURES = tuple(Policy().operations.model_dump())
LEAVING = ("deactivate", "take_groups", "deactivate_and_take_groups", "delete", "nothing")
WAYS = ("out_of_scope", "disabled", "deleted")
UPPER = {"sources": ["first_name", "last_name"], "combine": "join", "steps": [{"function": "upper"}]}
FACTORS: dict[str, list[Any]] = {
    **{f"operations.{name}": ["on", "off", "report"] for name in FEATURES},
    "groups.nesting": ["preserve", "flatten", "ignore"],
    "groups.everyone": [[], ["all-0", "all-1"], ["green-0", "red-1", "Green-2", "outside-3"]],
    "groups.prefix": ["", "x-"],
    "groups.rules": [[], [{"pattern": "^blue", "replacement": "navy"}]],
    "groups.deny": [[], ["gold*", "x-gold*"]],
    "scope.groups": [["*"], ["re:[rbgp].*"]],
    "scope.exclude_groups": [[], ["outside*"]],
    "scope.required_groups": [[], ["red*", "blue*"]],
    "scope.members_only": [False, True],
    "scope.users": [["*"], ["re:[abce].*"]],
    "scope.exclude_users": [[], ["cy*"]],
    "scope.conditions": [
        [],
        [
            {"all": [{"field": EXTRA, "values": ["X"]}]},
            {"all": [{"field": "email", "operator": "is_present"}, {"field": "active", "operator": "is_true"}]},
        ],
    ],
    "usernames.rules": [[], [{"pattern": "^e(v)", "replacement": r"i\1"}]],
    "usernames.deny": [[], ["dan*"]],
    "usernames.case": ["lower", "keep"],
    "matching.users": [["id"], ["id", "username"], ["email", "username"]],
    "matching.groups": [["id"], ["id", "name"]],
    "matching.adoption": ["keys", "listed", "never"],
    **{f"leavers.{way}": list(LEAVING) for way in WAYS},
    "leavers.groups": ["empty", "delete", "nothing"],
    "leavers.delete_after_days": [None, DAYS],
    "protection.users": [["admin*"], ["admin*", "bob*"]],
    "protection.groups": [["prot-*"], ["prot-*", "blue*"]],
    "protection.privileged_allowed": [[], [f"priv-x{tag}" for tag in TAGS]],
    "attributes.fields": [{}, {"display_name": UPPER}],
    "attributes.extra": [{}, {EXTRA: EXTRA}],
}
NARROW = tuple(name for name in FACTORS if name.startswith("scope."))
MOST = {tuple(f"operations.{name}" for name in FEATURES): 4, NARROW: 2}
"""Of these fields at most so many have another value than their first in one policy: else nothing would happen."""
ARRAYS, PARTS = int(os.environ.get("CROWDSYNC_ARRAYS", "1")), 12


def possible(row: Mapping[str, Any]) -> bool:
    """Whether a policy, or a part of one, does not contradict itself."""
    ways = [row.get(f"leavers.{way}") for way in WAYS]
    days = row.get("leavers.delete_after_days")
    adopting = [row.get(f"matching.{side}", [""]) != ["id"] for side in ("users", "groups")]
    known = [f"matching.{side}" in row for side in ("users", "groups")]
    never, listed = (row.get("matching.adoption") == one for one in ("never", "listed"))
    return not (
        (row.get("operations.user_delete") == "off" and ("delete" in ways or days))
        or (row.get("operations.group_delete") == "off" and row.get("leavers.groups") == "delete")
        or (days and set(ways) <= {"nothing", "delete"})
        or (never and any(a and k for a, k in zip(adopting, known, strict=True)))
        or (listed and all(known) and not any(adopting))
    )


def all_pairs() -> set[tuple[str, int, str, int]]:
    """Every two values of two factors that may stand in one policy."""
    return {
        (a, i, b, j)
        for a, b in combinations(FACTORS, 2)
        for i in range(len(FACTORS[a]))
        for j in range(len(FACTORS[b]))
        if possible({a: FACTORS[a][i], b: FACTORS[b][j]})
    }


def covering(rng: random.Random) -> list[dict[str, int]]:
    """Rows (the number of a value for every factor) in which every possible pair stands; greedily few."""
    order = {name: n for n, name in enumerate(FACTORS)}
    open_, rows = all_pairs(), []

    def pair(a: str, i: int, b: str, j: int) -> tuple[str, int, str, int]:
        return (a, i, b, j) if order[a] < order[b] else (b, j, a, i)

    while open_:
        a, i, b, j = min(open_) if rng.random() < 0.1 else rng.choice(sorted(open_))
        row = {a: i, b: j}
        for name in rng.sample([one for one in FACTORS if one not in row], len(FACTORS) - 2):
            values = range(len(FACTORS[name]))
            if any(name in some and sum(row.get(one, 0) > 0 for one in some) >= most for some, most in MOST.items()):
                values = range(1)
            fitting = [n for n in values if possible(values_of(row) | {name: FACTORS[name][n]})]
            if not fitting:  # deletions that are asked for must be allowed, or the other way about
                fitting = [n for n, value in enumerate(FACTORS[name]) if possible(values_of(row) | {name: value})]
            gains = [sum(pair(name, n, other, m) in open_ for other, m in row.items()) for n in fitting]
            best = max(gains)
            row[name] = rng.choice([n for n, gain in zip(fitting, gains, strict=True) if gain == best])
        open_ -= {pair(x, row[x], y, row[y]) for x, y in combinations(row, 2)}
        rows.append(row)
    return rows


def values_of(row: Mapping[str, int]) -> Row:
    return {name: FACTORS[name][n] for name, n in row.items()}


@cache
def table() -> tuple[dict[str, int], ...]:
    return tuple(row for seed in range(ARRAYS) for row in covering(random.Random(seed)))


def policy_of(row: Row) -> Policy:
    whole: dict[str, Any] = defaultdict(dict)
    for path, value in row.items():
        part, name = path.split(".")
        whole[part][name] = value
    whole["protection"]["privileged_groups"] = ["priv-*"]
    if row["matching.adoption"] == "listed":
        whole["matching"] |= {"listed_users": ["a*", "b*"], "listed_groups": ["r*", "b*"]}
    return Policy.model_validate(whole)
