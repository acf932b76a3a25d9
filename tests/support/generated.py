"""Random people, and random conditions and values of a policy that fit them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tasks.policy import Policy, Value
from tests.support.frames import person

POOL = (
    "",
    "it",
    "IT",
    "hr",
    "5",
    "007",
    "-1.5",
    "x5",
    "true",
    "No",
    "2026-02-28",
    "2026-02-30",
    "2026-03-01T08:00:00Z",
)
OPERATORS = {
    "equals": ("it", "5", "HR"),
    "not_equals": ("it", "5", "no"),
    "contains": ("t", "-", "5"),
    "starts_with": ("2026", "I", "x"),
    "ends_with": ("t", "8", "E"),
    "matches": ("[a-z]+", "i.", r"\d+"),
    "is_present": (),
    "is_absent": (),
    "is_true": (),
    "is_false": (),
    "above": ("1", "6"),
    "below": ("1", "6"),
    "before": ("2026-03-01", "2027-01-01"),
    "after": ("2026-02-27", "2026-03-01"),
}


def any_condition(rng: random.Random, fields: Sequence[str]) -> dict[str, Any]:
    operator = rng.choice(list(OPERATORS))
    pool = OPERATORS[operator]
    most = 1 if operator in ("above", "below", "before", "after") else len(pool)
    return {
        "field": rng.choice(fields),
        "operator": operator,
        "values": rng.sample(pool, rng.randint(min(1, most), most)),
    }


def any_people(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    return [
        person(
            f"p{n}",
            f"{rng.choice(('ann', 'Bob', 'svc'))}-{n}",
            rng.choice(POOL),
            active=rng.random() < 0.7,
            last_name=rng.choice(POOL),
            attributes={
                name: rng.choices(POOL, k=rng.randint(0, 3)) for name in ("dept", "level") if rng.random() < 0.8
            },
        )
        for n in range(count)
    ]


def any_conditions(rng: random.Random) -> list[dict[str, Any]]:
    """Blocks that a policy takes (some contradict themselves)."""
    while True:
        blocks = [
            {
                "all": [
                    any_condition(rng, ("dept", "level", "email", "last_name", "none"))
                    for _ in range(rng.randint(1, 3))
                ]
            }
            for _ in range(rng.randint(1, 3))
        ]
        try:
            Policy.model_validate({"scope": {"conditions": blocks}})
        except ValueError:
            continue
        return blocks


def step(function: str, **more: Any) -> dict[str, Any]:
    return {"function": function, **more}


def value(*sources: str, steps: tuple[dict[str, Any], ...] = (), **more: Any) -> Value:
    return Value.model_validate({"sources": sources, "steps": steps, **more})


TEXTS = ("", " ", "a", "A,b", "b, ,c", " É x ", 'q"\\', "x1,y22", "😀\n", "de", "DE", "\x01,a", "ann lee")
NAMES = ("x", "y", "z", "username", "email", "last_name")


def any_step(rng: random.Random) -> dict[str, Any]:
    return rng.choice(
        (
            step("lower"),
            step("upper"),
            step("trim"),
            step("replace", pattern="[0-9]+", replacement=rng.choice(("", "#"))),
            step("replace", pattern=r"(\w)[ ,](\w)", replacement=r"\2-\1"),
            step("replace", pattern="^a.*"),
            step("split", separator=rng.choice((",", " ", "a", ", ")), part=rng.choice((None, 1, 2, -1, -2, 3))),
            step("lookup", table={"A": "first", "de": "Germany", "b": ""}, otherwise=rng.choice(("keep", "empty"))),
            step("default", value=rng.choice(("none", "a,b"))),
        )
    )


def any_value(rng: random.Random, names: tuple[str, ...] = NAMES, *, one: bool = False) -> Value | str:
    """A random value; `one`: such as a field takes, which has one value."""
    if rng.random() < 0.2:
        return rng.choice(names)
    sources = rng.sample(names, rng.randint(0, min(3, len(names))))
    steps = [any_step(rng) for _ in range(rng.randint(0, 4))]
    steps = [s | {"part": 1} if one and s["function"] == "split" and not s["part"] else s for s in steps]
    if not sources:
        steps.append(step("default", value="d"))
    join = {"combine": "join", "separator": rng.choice((" ", "", ", "))} if rng.random() < 0.4 else {}
    return value(*sources, steps=tuple(steps), **join)
