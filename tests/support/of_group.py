"""Generated worlds asked about one group: the narrow plan beside the wide one, and what happens to a group."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pandas as pd

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.plan import Plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.read.known import NotNarrowError
from tasks.read.narrow import NOBODY, Few, read_group
from tasks.run import Run
from tests.support.by_key import (
    another_name,
    joiner,
    of_few,
    owners_of,
    remember,
    same_plan,
    spoil,
    wide,
    wide_of,
)
from tests.support.worlds import SOURCE, World, describe, since

Sides = tuple[Snapshot, Snapshot]


def teams_of_world(world: World, policy: Policy, group: str) -> list[str]:
    """The groups of the source that make up a group of Crowd, told once more and simply: by name, link and mark."""
    record = world.crowd.groups.get(group)
    marks = record["attributes"].get(ID_ATTRIBUTE, []) if record else []
    ids = {mark.removeprefix(f"{SOURCE}:") for mark in marks if mark.startswith(f"{SOURCE}:")}
    ids |= {
        key[2]
        for key, (name, _) in world.links.rows.items()
        if key[:2] == (SOURCE, "group") and crowd_id(name) == group
    }
    named = [row for row in world.groups if crowd_id(policy.groups.named(pd.Series([row[1]], dtype="str"))[0]) == group]
    return sorted({row[0] for row in named} | {row[0] for row in world.groups if row[0] in ids})


def fill(world: World, rng: random.Random, each: int) -> None:
    """So many more people in each world, whose names nobody shares, in most of its groups."""
    for tag in sorted({row[0].partition("-")[2] for row in world.groups}):
        teams = [row[0] for row in world.groups if row[0].endswith(f"-{tag}")]
        for number in range(each):
            one = f"q{number}-{tag}"
            world.users.append((one, f"plain{number}-{tag}", "", "F", "L", "D", rng.random() < 0.9, "{}"))
            world.memberships += [(team, one, "user") for team in teams if rng.random() < 0.7]


def happens_to(world: World, policy: Policy, rng: random.Random, group: str, number: int) -> None:
    """Something happens to who is in a group, on either side, and now and then to the group itself."""
    teams, tag = teams_of_world(world, policy, group), group[group.index("-") :] if "-" in group else ""
    for step in range(rng.randint(1, 3)):
        people = [row[0] for row in world.users]
        near = [one for one in people if one.endswith(tag)] or people
        roll = rng.random()
        if roll < 0.35 and teams and near:  # somebody joins or leaves, mostly with more than that
            one = rng.choice(near)
            pair = (rng.choice(teams), one, "user")
            (world.memberships.remove if pair in world.memberships else world.memberships.append)(pair)
            if rng.random() < 0.6:
                spoil(world, policy, rng, one)
        elif roll < 0.6 and group in world.crowd.groups and world.crowd.users:  # the same by hand in Crowd
            accounts = sorted(name for name in world.crowd.users if name.endswith(tag)) or sorted(world.crowd.users)
            account = world.crowd.users[rng.choice(accounts)]
            world.crowd.memberships ^= {(world.crowd.groups[group]["key"], account["key"])}
            owner = owners_of(world).get(account["key"])
            if owner and owner in people and rng.random() < 0.5:
                spoil(world, policy, rng, owner)
        elif roll < 0.7:  # an account gets another name by hand
            mine = [name for name in world.crowd.users if name.endswith(tag)]
            name = another_name(world, rng, tag)
            if mine and crowd_id(name) not in world.crowd.users:
                account = world.crowd.users.pop(rng.choice(sorted(mine)))
                account["name"] = name
                world.crowd.users[crowd_id(name)] = account
        elif roll < 0.83 and people:  # nobody sees this of one who stays
            inside = [pair[1] for pair in world.memberships if pair[0] in teams and pair[1] in people]
            spoil(world, policy, rng, rng.choice(inside or near))
        elif roll < 0.9:
            joiner(world, rng, f"new{number}{step}")
        elif roll < 0.92 and teams:
            (at,) = [n for n, row in enumerate(world.groups) if row[0] == teams[0]]
            world.groups[at] = (*world.groups[at][:2], "another", world.groups[at][3])
        elif roll < 0.96 and teams:
            pair = (rng.choice(teams), rng.choice(world.groups)[0], "group")
            pair = rng.choice((pair, (pair[1], pair[0], "group")))
            nested = [one for one in world.memberships if one[2] == "group" and {*one[:2]} & {*teams}]
            if nested and rng.random() < 0.5:
                pair = rng.choice(nested)
            (world.memberships.remove if pair in world.memberships else world.memberships.append)(pair)
        elif roll < 0.97 and group in world.crowd.groups:
            world.crowd.groups[group]["description"] = "by hand"
        elif group in world.crowd.groups:
            of_it = [one for one in sorted(world.crowd.nestings) if world.crowd.groups[group]["key"] in one]
            world.crowd.nestings -= {rng.choice(of_it)} if of_it else set()


async def narrow(run: Run, world: World, group: str) -> tuple[Few, Plan, str]:
    """What follows for a group from few records, as a run does it: until nobody of whom something follows is unread."""
    also = NOBODY
    while True:
        few = await read_group(run, group, also)
        made, why = of_few(run, few, since(world.source()))
        unread = few.still_unread(made, run.policy)
        if not unread:
            return few, made, why
        also |= unread


def stored(run: Run) -> Sides:
    """Both sides as the store has them."""
    found = [run.store.newest(side.stream) for side in (run.source_side, run.crowd_side)]
    source, crowd = (run.store.load_snapshot(one[0].id) for one in found if one is not None)
    return source, crowd


def rows(snapshot: Snapshot) -> dict[str, Any]:
    """Users with their memberships, by id."""
    groups: dict[str, set[str]] = {}
    unread = set(snapshot.held["id"][(snapshot.held["kind"] == "group").to_numpy()])
    for group, member, kind in snapshot.memberships.astype("str").itertuples(index=False, name=None):
        if kind == "user" and group not in unread:
            groups.setdefault(member, set()).add(group)
    return {row[0]: (row, groups.get(row[0], set())) for row in snapshot.users.itertuples(index=False, name=None)}


def below(nested: set[tuple[str, str]], teams: set[str]) -> set[str]:
    """These groups, and all that are nested in them."""
    while more := {child for parent, child in nested if parent in teams} - teams:
        teams = teams | more
    return teams


def same_groups(run: Run, world: World, group: str, before: Sides) -> bool:
    """Whether a group, those of the source that make it up, and what they are nested in are as the store has them."""
    now = world.source(), world.crowd.snapshot(run.policy.attributes.extra)
    teams, nesting = set(teams_of_world(world, run.policy, group)), run.policy.groups.nesting
    for then, there, mine in zip(before, now, (teams, {group}), strict=True):
        was, is_ = (
            {
                pair[:2]
                for pair in one.memberships.astype("str").itertuples(index=False, name=None)
                if pair[2] == "group"
            }
            for one in (then, there)
        )
        some = below(is_, mine) if nesting == "flatten" and mine is teams else mine
        rows_of = [
            {row for row in one.groups.itertuples(index=False, name=None) if row[0] in some} for one in (then, there)
        ]
        inside = [{pair for pair in one if pair[0] in some} for one in (was, is_)]
        left = {pair for pair in was - is_ if pair[1] in some and nesting == "preserve"}
        held = [set(one.held["id"]) & some for one in (then, there)]
        if rows_of[0] != rows_of[1] or inside[0] != inside[1] or left or held[0] or held[1]:
            return False
    return True


def to_be_read(run: Run, world: World, group: str, before: Sides) -> tuple[set[str], set[str]]:
    """People and accounts who must be read again, told once more and simply: whose membership the store has otherwise,
    and who is in the group on one side alone."""
    teams = teams_of_world(world, run.policy, group)
    source, crowd = rows(world.source()), rows(world.crowd.snapshot(run.policy.attributes.extra))
    then_source, then_crowd = map(rows, before)
    nothing: tuple[Any, set[str]] = ((), set())
    people = {
        one
        for one in source.keys() | then_source.keys()
        if any((team in source.get(one, nothing)[1]) != (team in then_source.get(one, nothing)[1]) for team in teams)
    }
    accounts = {
        one
        for one in crowd.keys() | then_crowd.keys()
        if (group in crowd.get(one, nothing)[1]) != (group in then_crowd.get(one, nothing)[1])
    }
    owners: dict[str, set[str]] = {}
    for key, (name, _) in world.links.rows.items():
        if key[:2] == (SOURCE, "user"):
            owners.setdefault(crowd_id(name), set()).add(key[2])
    for name, (row, _) in then_crowd.items():
        mark = f'"{ID_ATTRIBUTE}":["{SOURCE}:'
        if mark in row[-1]:
            owners.setdefault(name, set()).add(row[-1].partition(mark)[2].partition('"')[0])
    there = {one for one, (_, groups) in source.items() if groups & set(teams)}
    inside = {one for one, (_, groups) in crowd.items() if group in groups}
    people |= {one for one in there if not any(one in owners.get(name, ()) for name in inside)}
    accounts |= {name for name in inside if not owners.get(name, set()) & there}
    return people, accounts


async def compare_group(run: Run, world: World, group: str, found: Counter[str], note: str) -> Plan | None:
    """The narrow plan of a group beside the wide one; the plan, where there is one."""
    before = stored(run)
    try:
        few, made, why = await narrow(run, world, group)
    except NotNarrowError as error:
        found[f"wide: {str(error)[:60]}"] += 1
        remember(run, world)
        return None
    if why:
        found[f"wide: {why[:60]}"] += 1
        return None
    selection, departures, now = Selection(group=group), since(world.source()), stored(run)
    try:
        expected, _ = wide_of(run, now, departures, selection)
    except ConfigurationError:
        return None
    note = f"{note}: {sorted(few.source.snapshot.users['id'])}, {sorted(few.crowd.snapshot.users['id'])}"
    same_plan(made, expected, note)
    assert same_groups(run, world, group, before), note
    assert group not in {crowd_id(one) for one in run.policy.groups.everyone}
    # Who has to be read again was, and so was everybody whom it does something about.
    there = world.source(), world.crowd.snapshot(run.policy.attributes.extra)
    old = [
        {one for one in has.keys() | is_.keys() if has.get(one) != is_.get(one)}
        for has, is_ in ((rows(now[side]), rows(there[side])) for side in (0, 1))
    ]
    people, accounts = to_be_read(run, world, group, before)
    held = set(world.source().held["id"])
    assert not (people - held) & old[0], f"{note}: {(people - held) & old[0]}"
    assert not accounts & old[1], f"{note}: {accounts & old[1]}"
    assert not {*made.operations["source_id"]} & old[0], note
    assert not {*map(crowd_id, made.operations["name"])} & old[1], note
    same = not (old[0] or old[1]) or describe(made) == describe(wide(run, world, selection)[0])
    whole = impact(expected.operations, there[1], run.policy, recent=run.recent())
    stops = judge(expected, run.policy, whole).stops
    assert not [one for one in stops if not one.startswith("doubt:")], note  # (marks are counted over everybody)
    mine = impact(made.operations, few.with_others(made.operations), run.policy, recent=run.recent())
    for what in ("losers", "shut_out", "administrators_lost", "deserted"):
        assert getattr(mine, what) == getattr(whole, what), f"{note}: {what}"
    pd.testing.assert_frame_equal(mine.privileged, whole.privileged)
    found["equal"] += 1
    found["as everything is now" if same else "as the store has the others"] += 1
    found["operations"] += len(made.operations)
    found["read"] += few.people + few.accounts
    found["unread"] += len(few.unread.people) + len(few.unread.accounts)
    return made
