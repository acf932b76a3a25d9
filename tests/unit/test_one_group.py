"""What makes a run about one group wide, and whom it reads again, that generated worlds seldom show."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from connectors.contract import Person, Scope
from connectors.store import Store
from tasks.policy import Policy
from tasks.read import group as group_module
from tasks.read.known import NotNarrowError
from tasks.read.narrow import Few, read_group
from tasks.run import Run
from tests.support.by_key import a_run, link, remember, without_limits
from tests.support.frames import policy_with
from tests.support.in_step import settle, settled_run
from tests.support.of_group import compare_group, narrow
from tests.support.worlds import SOURCE, World

pytestmark = pytest.mark.parametrize("backend", ["sqlite"])


def company() -> World:
    """Thirty people in one group, one of them disabled, and five in another, which is in the first."""
    world = World()
    world.users = [(f"p{n}", f"user{n}", f"u{n}@x", "F", "L", "D", n != 7, "{}") for n in range(30)]
    world.groups = [("g0", "red", "", "{}"), ("g1", "blue", "", "{}")]
    world.memberships = [("g0", f"p{n}", "user") for n in range(30)] + [("g1", f"p{n}", "user") for n in range(5)]
    world.memberships.append(("g0", "g1", "group"))
    return world


async def begun(store: Store, policy: Policy | None = None) -> tuple[Run, World]:
    """A run whose Crowd is in step."""
    return await settled_run(store, company, policy or without_limits(Policy()))


def join(world: World, group: str, *names: str) -> None:
    """By hand, in Crowd."""
    for name in names:
        record = world.crowd.users.get(name) or world.crowd.add_user(name)
        world.crowd.memberships ^= {(world.crowd.groups[group]["key"], record["key"])}


def read(few: Few) -> tuple[int, int]:
    return few.people, few.accounts


async def test_only_who_moved_or_is_in_it_on_one_side_alone_is_read(store: Store) -> None:
    run, world = await begun(store)
    few = await read_group(run, "RED")
    assert read(few) == (1, 1)  # the one who is disabled, and has no account
    assert len(few.unread.people) == 29
    words = few.words()
    assert words.startswith(
        "Read again by key: who is in RED on both sides, and 1 person and 1 account; all else as at"
    )
    assert read(await read_group(run, "blue")) == (0, 0)
    assert (await read_group(run, "blue")).words().startswith("Read again by key: who is in blue on both sides; all")
    world.memberships.remove(("g1", "p2", "user"))
    join(world, "blue", "user3", "stranger")
    few, made, why = await narrow(run, world, "blue")
    assert read(few) == (2, 3)
    assert not why
    assert sorted(made.operations[["kind", "name"]].itertuples(index=False, name=None)) == [
        ("membership_add", "user3"),
        ("membership_remove", "user2"),
    ]


CHANGES: dict[str, Callable[[World], Any]] = {
    "the group 'red' of acme is gone or changed": lambda world: world.groups.pop(0),
    "the group 'red' of crowd is new, gone or changed": lambda world: world.crowd.groups["red"].update(description="x"),
    "other groups are in the group 'red' of crowd": lambda world: world.crowd.nestings.clear(),
    "other groups of acme are in the group, or it is in others": lambda world: world.memberships.pop(),
    "a group and a person do not say the same": lambda world: world.memberships.append(("g0", "nobody", "user")),
    r"21 people and 20 accounts are those .* more than 20": lambda world: world.memberships.__delitem__(slice(10, 30)),
}


@pytest.mark.parametrize("why", CHANGES)
async def test_what_a_few_do_not_tell(store: Store, why: str) -> None:
    run, world = await begun(store)
    CHANGES[why](world)
    with pytest.raises(NotNarrowError, match=why):
        await narrow(run, world, "red")


async def test_a_group_that_is_in_another_one_no_more(store: Store) -> None:
    """On either side."""
    run, world = await begun(store)
    nestings = set(world.crowd.nestings)
    world.crowd.nestings.clear()
    with pytest.raises(NotNarrowError, match="the group 'blue' of Crowd is no longer in the group 'red'"):
        await read_group(run, "blue")
    world.crowd.nestings = nestings
    world.memberships.pop()
    with pytest.raises(NotNarrowError, match="other groups of acme are in the group, or it is in others"):
        await read_group(run, "blue")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"groups": {"everyone": ["Red"]}}, "everybody in scope is to be in 'red'"),
        (
            {"reads": {"by_key_percent": 0}},
            r"1 person and 0 accounts are those .* more than 0 \(reads.by_key_percent\)",
        ),
    ],
)
async def test_a_policy_that_makes_it_wide(store: Store, policy: dict[str, Any], why: str) -> None:
    run, _ = await begun(store, without_limits(policy_with(**policy)))
    with pytest.raises(NotNarrowError, match=why):
        await read_group(run, "red")


async def test_a_group_is_made_of_the_one_that_owns_it_whatever_its_name(store: Store) -> None:
    world = company()
    world.crowd.add_group("azure", mark=f"{SOURCE}:g1")
    run = a_run(store, world, without_limits(Policy()))
    link(store, world)
    assert await settle(run, world, random.Random(1))
    assert "blue" not in world.crowd.groups
    world.memberships.append(("g1", "p9", "user"))
    _, made, _ = await narrow(run, world, "azure")
    assert made.operations[["kind", "name", "target"]].to_numpy().tolist() == [["membership_add", "user9", "azure"]]


async def test_who_is_in_a_group_below_is_in_the_one_above_where_the_policy_flattens(store: Store) -> None:
    world = company()
    world.memberships.remove(("g0", "p29", "user"))
    run = a_run(store, world, without_limits(policy_with(groups={"nesting": "flatten"})))
    link(store, world)
    assert await settle(run, world, random.Random(1))
    world.memberships.append(("g1", "p29", "user"))
    _, made, _ = await narrow(run, world, "red")
    assert made.operations[["kind", "name", "target"]].to_numpy().tolist() == [["membership_add", "user29", "red"]]


async def test_a_group_whose_members_could_not_be_read_is_not_empty(store: Store) -> None:
    run, world = await begun(store)
    world.groups.pop(0)
    world.memberships = [pair for pair in world.memberships if pair[0] != "g0"]
    world.held.append(("group", "g0", "red", "extract", "its members make no sense", ""))
    remember(run, world)
    with pytest.raises(NotNarrowError, match="the group 'g0' of acme could not be read at the last wide run"):
        await read_group(run, "red")


async def test_a_group_that_is_too_large_or_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = await begun(store)
    with pytest.raises(NotNarrowError, match="the last wide run found no group 'nobody' in Crowd"):
        await read_group(run, "nobody")
    monkeypatch.setattr(group_module, "MOST", 58)
    with pytest.raises(NotNarrowError, match="the group 'red' has 59 members on both sides, of 58"):
        await read_group(run, "red")


async def test_a_person_whose_record_does_not_show_the_group_makes_it_wide(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, world = await begun(store)
    world.memberships.append(("g1", "p9", "user"))
    user = run.source.user

    async def without(key: str, scope: Scope) -> Person | None:
        found = await user(key, scope)
        return found and Person(found.user, found.groups, [pair for pair in found.memberships if pair[0] != "g1"])

    monkeypatch.setattr(run.source, "user", without)
    with pytest.raises(NotNarrowError, match="a group and a person do not say the same"):
        await read_group(run, "blue")


async def test_who_is_held_stays_held(store: Store) -> None:
    run, world = await begun(store)
    at = next(n for n, row in enumerate(world.users) if row[0] == "p7")
    del world.users[at]
    world.held.append(("user", "p7", "user7", "extract", "no userName", ""))
    remember(run, world)
    few = await read_group(run, "red")
    assert read(few)[0] == 0  # (it was tried)
    assert "p7" in few.unread.people
    assert await compare_group(run, world, "red", Counter(), "held") is not None
