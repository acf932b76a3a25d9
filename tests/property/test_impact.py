"""The blast radius against slow, obvious Python: small random worlds, operations in orders that no plan would have.

Operations are drawn one by one and kept where the model of Crowd takes them, so that names are reused, swapped and
chained, and groups deleted and made again, far more often than in real plans.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import orjson
import pandas as pd
import pytest

from connectors.model import crowd_id
from connectors.operations import Kind, Operation
from tasks.decide.impact import Impact, State, Unusual, after, impact
from tasks.policy import Policy
from tests.support.long import long_after
from tests.support.model_crowd import CrowdRefusal, ModelCrowd

NAMES = ("ann", "Ann", "bob", "BOB", "cy", "dan", "Eve", "аnn", "İx", "ann~1")
TEAMS = ("red", "Red", "blue", "gold", "root", "ROOT", "Ｒoot", "admins-a", "Admins-B", "jira-users", "İteam")
FLAGS = '"active":true "active":false'  # in a text it says nothing
POWER = {"root", "ｒoot", "admins-a", "admins-b"}  # the folded names above that are privileged below
WORLDS, SEEDS = 50, int(os.environ.get("CROWDSYNC_SEEDS", "4"))


def a_policy(rng: random.Random) -> Policy:
    return Policy.model_validate(
        {
            "limits": {
                "seat_groups": rng.choice(([], ["jira-*", "blue"], ["jira-users", "RED"], ["*"], ["none"])),
                "unusual_times": rng.choice((None, 1.5, 2, 5)),
                "unusual_runs": rng.choice((3, 4, 20)),
            },
            "protection": {
                "users": [],
                "privileged_groups": ["root", "admins-*"],
                "privileged_allowed": rng.choice(([], ["admins-a"], ["root"])),
            },
            "approval": {"emptied_members": 1},
        }
    )


def a_crowd(rng: random.Random) -> ModelCrowd:
    crowd = ModelCrowd()
    users = [crowd.add_user(n, active=rng.random() < 0.7) for n in rng.sample(NAMES, rng.randint(0, 6))]
    users = [user for user in users if user in list(crowd.users.values())]  # of ann and Ann the last one is there
    for name in rng.sample(TEAMS, rng.randint(0, 7)):
        crowd.add_group(name)
    teams = list(crowd.groups.values())
    density, nesting = rng.choice((0.1, 0.4, 0.7)), rng.choice((0.0, 0.2, 0.5))
    for group in teams:
        crowd.memberships |= {(group["key"], user["key"]) for user in users if rng.random() < density}
        for child in teams:
            if rng.random() < nesting and not crowd._below(child["key"], group["key"]):
                crowd.nestings.add((group["key"], child["key"]))
    return crowd


def an_operation(crowd: ModelCrowd, rng: random.Random, kinds: list[Kind]) -> Operation:
    kind = rng.choice(kinds)
    people = [user["name"] for user in crowd.users.values()] or ["ann"]
    teams = [group["name"] for group in crowd.groups.values()] or ["red"]

    def cased(name: str) -> str:
        return rng.choice((name, name, name.swapcase() if crowd_id(name.swapcase()) == crowd_id(name) else name))

    record: dict[str, Any] = {}
    if kind in (Kind.USER_CREATE, Kind.USER_UPDATE, Kind.USER_ACTIVATE, Kind.USER_DEACTIVATE):
        active = rng.random() < 0.6 if kind in (Kind.USER_CREATE, Kind.USER_UPDATE) else kind is Kind.USER_ACTIVATE
        record = {"email": rng.choice(("", "a@x", "b@x")), "first_name": "", "last_name": "x", "active": active}
        record["display_name"] = rng.choice(("x", FLAGS))
        if kind is Kind.USER_CREATE:
            record["attributes"] = rng.choice(({}, {"active": ["true"], FLAGS: ["false"]}))
    elif kind in (Kind.GROUP_CREATE, Kind.GROUP_UPDATE):
        record = {"description": rng.choice("ab")}
    elif kind in (Kind.USER_ATTRIBUTES, Kind.GROUP_ATTRIBUTES):
        record = {"attributes": {"active": [rng.choice(("true", "false"))]}}
    name, target = rng.choice(people), ""
    if kind in (Kind.USER_CREATE, Kind.GROUP_CREATE):
        name = rng.choice(NAMES if kind is Kind.USER_CREATE else TEAMS)
    elif kind is Kind.USER_RENAME:
        target = rng.choice(NAMES)
    elif kind.startswith("group"):
        name = cased(rng.choice(teams))
    elif kind.startswith(("membership", "nesting")):
        name, target = cased(rng.choice(teams if kind.startswith("nesting") else people)), cased(rng.choice(teams))
    else:
        name = cased(name)
    return Operation(0, kind, name, target, record)


def operations_of(made: list[Operation], rng: random.Random) -> pd.DataFrame:
    """The table as a plan has it; its JSON now and then with blanks, as a database might give it back."""
    text = rng.choice((lambda r: orjson.dumps(r, option=orjson.OPT_SORT_KEYS).decode(), json.dumps))
    columns: dict[str, list[Any]] = {
        "kind": [o.kind.value for o in made],
        "name": [o.name for o in made],
        "target": [o.target for o in made],
        "source_id": [""] * len(made),
        "record": [text(o.record) if o.record else "" for o in made],
        "before": [""] * len(made),
        "reason": [""] * len(made),
    }
    frame = pd.DataFrame({name: pd.array(values, dtype="str") for name, values in columns.items()})
    frame.insert(0, "phase", 1)
    frame.insert(0, "seq", range(1, len(made) + 1))
    return frame


@dataclass
class World:
    before: ModelCrowd
    after: ModelCrowd
    operations: pd.DataFrame
    policy: Policy
    past: pd.DataFrame | None


def a_world(rng: random.Random) -> World:
    before = a_crowd(rng)
    crowd, made = before.copy(), list[Operation]()
    # Sometimes only a few kinds, so that long chains of renames, or of deletions and creations, come about.
    kinds = rng.choice(
        (
            list(Kind),
            list(Kind),
            [Kind.USER_RENAME, Kind.USER_DELETE, Kind.USER_CREATE, Kind.MEMBERSHIP_ADD, Kind.MEMBERSHIP_REMOVE],
            [Kind.USER_RENAME],
            [Kind.GROUP_DELETE, Kind.GROUP_CREATE, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD, Kind.NESTING_REMOVE],
            [Kind.USER_ACTIVATE, Kind.USER_DEACTIVATE, Kind.USER_UPDATE, Kind.USER_DELETE],
            [Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE, Kind.USER_DEACTIVATE],
        )
    )
    wanted = rng.choice((0, 3, 10, 30, 60))
    for _ in range(wanted * 10):
        if len(made) == wanted:
            break
        operation = an_operation(crowd, rng, kinds)
        try:
            crowd.write(operation)
        except CrowdRefusal:
            continue
        made.append(operation)
    past = None
    if rng.random() < 0.8:
        runs, most = rng.randint(0, 6), rng.choice((1, 4))
        counted = rng.sample([kind.value for kind in Kind], rng.randint(0, len(Kind)))
        past = pd.DataFrame(
            {"plan": range(runs, 0, -1)} | {kind: [rng.randint(0, most) for _ in range(runs)] for kind in counted},
            dtype="int64",
        )
    return World(before, crowd, operations_of(made, rng), a_policy(rng), past)


# ── slow and obvious ──────────────────────────────────────────────────────────────────────────────


def members(crowd: ModelCrowd, team: str, *, active: bool = True) -> set[int]:
    """Keys of those in a group by its folded name, direct or nested."""
    if team not in crowd.groups:
        return set()
    keys = {group["key"] for group in crowd.groups.values() if crowd._below(crowd.groups[team]["key"], group["key"])}
    may = {user["key"] for user in crowd.users.values() if user["active"] or not active}
    return {user for group, user in crowd.memberships if group in keys} & may


def direct(crowd: ModelCrowd, team: str) -> set[int]:
    return {u for g, u in crowd.memberships if team in crowd.groups and g == crowd.groups[team]["key"]}


NOTHING_RECENT = ("recent", "recent_groups")
"""What these worlds have none of; tests/unit/test_recent_removals.py has."""


def expected(world: World) -> dict[str, Any]:
    was, will, policy = world.before, world.after, world.policy
    called = {i: group["name"] for i, group in will.groups.items()} | {i: g["name"] for i, g in was.groups.items()}
    named = [{user["key"]: user["name"] for user in crowd.users.values()} for crowd in (was, will)]
    may = [{user["key"] for user in crowd.users.values() if user["active"]} for crowd in (was, will)]
    placed = [{user for _, user in crowd.memberships} for crowd in (was, will)]
    emptied = {team for team in was.groups if members(was, team) and not members(will, team)}
    power = []
    for team in called.keys() & POWER:
        old, new = members(was, team), members(will, team)
        power += [(called[team], named[1][key], "gains") for key in new - old]
        power += [(called[team], named[0][key], "loses") for key in old - new]
    changes = []
    for team in called:
        old, new = direct(was, team), direct(will, team)
        if old != new:
            changes.append((called[team], len(old), len(new - old), len(old - new)))
    seats: list[int | None] = [None, None]
    if chosen := [p.lower() for p in policy.limits.seat_groups]:
        fits = {t for t in called if "*" in chosen or t in chosen or ("jira-*" in chosen and t == "jira-users")}
        seats = [len(set().union(*(members(crowd, team) for team in fits))) for crowd in (was, will)]
    stay = may[0] & may[1]
    lost = {key for team in called for key in (members(was, team) - members(will, team)) & stay}
    deserted = {team for team in emptied if len(members(was, team) & stay) >= policy.approval.emptied_members}
    return {
        "losers": len(lost),
        "losers_recently": len(lost),
        "deserted": tuple(sorted(called[team] for team in deserted)),
        **{name: {} for name in NOTHING_RECENT},
        "active_before": len(may[0]),
        "active_after": len(may[1]),
        "seats_before": seats[0],
        "seats_after": seats[1],
        "emptied": tuple(sorted(called[team] for team in emptied)),
        "administrators_lost": tuple(sorted(called[team] for team in emptied & POWER)),
        "privileged": sorted(power),
        "shut_out": tuple(sorted(named[0][key] for key in (may[0] & placed[0]) - (may[1] & placed[1]))),
        "group_changes": sorted(changes, key=lambda row: (-row[3], row[0])),
        "unusual": unusual(world),
        "past": medians(world),
    }


def unusual(world: World) -> tuple[Unusual, ...]:
    limits = world.policy.limits
    rows = [] if world.past is None else world.past.to_dict("records")[: limits.unusual_runs]
    if len(rows) < 3 or limits.unusual_times is None:
        return ()
    found = []
    for what, kinds in (
        ("people shut out", ("user_deactivate", "user_delete")),
        ("memberships taken away", ("membership_remove", "nesting_remove")),
    ):
        now = sum(kind in kinds for kind in world.operations["kind"])
        most = max(sum(row.get(kind, 0) for kind in kinds) for row in rows)
        if now > limits.unusual_times * max(most, 1):
            found.append(Unusual(what, now, most, len(rows)))
    return tuple(found)


def medians(world: World) -> dict[str, tuple[float, int]]:
    rows = [] if world.past is None else world.past.to_dict("records")[: world.policy.limits.unusual_runs]
    kinds = set().union(*rows) - {"plan"}
    return {str(k): (float(median(row[k] for row in rows)), max(row[k] for row in rows)) for k in kinds}


def told(made: Impact) -> dict[str, Any]:
    values = {name: getattr(made, name) for name in Impact.__slots__}
    for name, columns in (
        ("privileged", ["group", "who", "what"]),
        ("group_changes", ["group", "members_before", "added", "removed"]),
    ):
        assert list(values[name].columns) == columns
        assert list(values[name].index) == list(range(len(values[name])))
        values[name] = list(values[name].itertuples(index=False, name=None))
    return values | {"past": dict(made.past)}


def state_of(crowd: ModelCrowd) -> State:
    snapshot = crowd.snapshot()
    return State(snapshot.users[["id", "username", "active"]], snapshot.groups[["id", "name"]], snapshot.memberships)


@pytest.mark.parametrize("seed", long_after(2, range(SEEDS)))
def test_every_measure_against_plain_python(seed: int) -> None:
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(WORLDS):
        world = a_world(rng)
        directory = world.before.snapshot()
        state, wanted = after(world.operations, directory), state_of(world.after)
        note = f"seed {seed}, world {number}:\n{world.operations[['kind', 'name', 'target', 'record']].to_string()}"
        for table in ("users", "groups", "memberships"):
            have, want = getattr(state, table), getattr(wanted, table)
            same = have.astype("object").equals(want.astype("object")) and list(have.dtypes) == list(want.dtypes)
            assert same, f"{table}\n{have}\nnot\n{want}\n{note}"
        measures, wanted_measures = told(impact(world.operations, directory, world.policy, world.past)), expected(world)
        for name in wanted_measures.keys() | measures.keys():
            assert measures[name] == wanted_measures[name], f"{name} {note}"
        seen.update(name for name, value in measures.items() if value)
        seen.update(world.operations["kind"])
    # Nothing is tested only on its absence.
    assert all(seen[kind] for kind in Kind), seen
    assert all(seen[name] for name in Impact.__slots__ if name not in NOTHING_RECENT), seen


def test_chains_and_swaps_of_renames() -> None:
    """Every account takes the name of the next one, in a circle that one of them opens; thirty times over."""
    crowd = ModelCrowd()
    names = [f"u{n:02}" for n in range(40)]
    team, users = crowd.add_group("team"), [crowd.add_user(name) for name in names]
    crowd.memberships |= {(team["key"], user["key"]) for user in users[::2]}
    directory, made = crowd.snapshot(), []
    for _ in range(30):
        made.append(Operation(0, Kind.USER_RENAME, names[-1], "aside"))
        made += [Operation(0, Kind.USER_RENAME, old, new) for old, new in zip(names[-2::-1], names[:0:-1], strict=True)]
        made.append(Operation(0, Kind.USER_RENAME, "aside", names[0]))
    made.append(Operation(0, Kind.MEMBERSHIP_ADD, "u31", "team"))  # who was u01 before
    made.append(Operation(0, Kind.USER_DELETE, "u30"))  # and u00
    for operation in made:
        crowd.write(operation)
    operations = operations_of(made, random.Random(1))
    state, wanted = after(operations, directory), state_of(crowd)
    assert state.users.equals(wanted.users)
    assert state.memberships.astype("object").equals(wanted.memberships.astype("object"))
    result = impact(operations, directory, Policy())
    assert result.shut_out == ("u00",)
    assert result.group_changes.to_numpy().tolist() == [["team", 20, 1, 1]]
