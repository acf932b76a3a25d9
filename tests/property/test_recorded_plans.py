"""Plans of generated worlds, as they were before the code was taken apart: the same inputs give the same plans.

`python -m tests.property.test_recorded_plans` records them anew. A part that differs is named; what stands in it is
shown by the same worlds in an older checkout.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from connectors.errors import ConfigurationError
from tasks.decide.filter import in_scope
from tasks.decide.guard import judge
from tasks.decide.impact import impact, lines
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import KNOWN, plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.tell.render import plan_markdown
from tasks.tell.rows import plan_rows
from tests.support.policy_rows import TAGS, policy_of, table, values_of
from tests.support.worlds import SOURCE, World, add_world, any_policy, since

FILE = Path(__file__).with_name("recorded_plans.json")
FREE = 60
"""How many worlds have a policy in which every field is left to chance; the others have the pairs of all values."""
PARTS = 8

pytestmark = pytest.mark.long


def text(value: Any) -> str:
    """A value as text that says everything in it."""
    if isinstance(value, pd.DataFrame):
        return f"{list(value.columns)}\n{value.astype('str').to_csv(index=False)}"
    if is_dataclass(value):
        return "\n".join(text(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (tuple, list)):
        return "\n".join(map(text, value))
    return repr(dict(value)) if hasattr(value, "items") else repr(value)


def short(value: Any) -> str:
    return sha256(text(value).encode()).hexdigest()[:12]


@cache
def policies() -> list[Policy]:
    chosen = [policy_of(values_of(numbers)) for numbers in table()]
    return chosen + [any_policy(random.Random(f"free {n}"), TAGS) for n in range(FREE)]


def parts_of(policy: Policy, rng: random.Random) -> Iterator[tuple[str, Any]]:
    world = World()
    for tag in TAGS:
        add_world(world, rng, tag)
    source, directory = world.source(), world.crowd.snapshot(policy.attributes.extra)
    wanted = desired(in_scope(source, policy).snapshot, policy)
    matched = match(wanted, directory, world.links.frame(), policy, SOURCE, source)
    made = plan(matched, source, directory, policy, SOURCE, departures=since(source))
    for field in fields(made):
        value = getattr(made, field.name)
        yield field.name, value.drop(columns=list(KNOWN)) if field.name == "operations" else value
    measured = impact(made.operations, directory, policy)
    yield "impact", measured
    yield "impact in words", lines(measured)
    verdict = judge(made, policy, measured)
    yield "verdict", verdict
    yield "forced", judge(made, policy, measured, force=True)
    yield "rows", plan_rows(made.operations, "values")
    yield "head", plan_markdown(made, 1, verdict, measured)
    people, groups = [user[0] for user in world.users], [group[1] for group in world.groups]
    for selection in (
        *(Selection(person=one) for one in rng.sample(people, min(2, len(people)))),
        *(Selection(group=one) for one in rng.sample(groups, min(2, len(groups)))),
    ):
        some = plan(matched, source, directory, policy, SOURCE, departures=since(source), selection=selection)
        yield str(selection), (some.digest, text(some.operations.drop(columns=list(KNOWN))), text(some.held))


def record(number: int) -> dict[str, str]:
    try:
        return {name: short(value) for name, value in parts_of(policies()[number], random.Random(f"world {number}"))}
    except ConfigurationError as error:
        return {"error": str(error)}


@cache
def recorded() -> list[dict[str, str]]:
    found: list[dict[str, str]] = orjson.loads(FILE.read_bytes())
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_the_same_inputs_give_the_same_plans(part: int) -> None:
    for number in range(part, len(recorded()), PARTS):
        now, then = record(number), recorded()[number]
        differs = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        assert not differs, f"world {number}: {', '.join(differs)}"


if __name__ == "__main__":
    every = [record(number) for number in range(len(policies()))]
    FILE.write_bytes(orjson.dumps(every, option=orjson.OPT_INDENT_2))
    print(f"{len(every)} worlds, {sum('error' in one for one in every)} of them refused", file=sys.stderr)
