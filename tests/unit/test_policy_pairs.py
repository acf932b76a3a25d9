"""Every value of a policy's field with every value of every other: what must never happen happens under none.

Covering arrays make few policies in which all pairs of values meet. Each is run over small worlds of every kind of
trouble, and what comes of it is held against rules that are told here once more, plainly.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import combinations
from typing import Any

import orjson
import pandas as pd
import pytest
from pydantic import ValidationError

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, crowd_id
from connectors.operations import Kind
from tasks.decide.filter import Scoped
from tasks.decide.map import EVERYONE
from tasks.decide.plan import Plan
from tasks.policy import Policy, Value
from tests.support import worlds
from tests.support.long import long_after
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.policy_rows import (
    ARRAYS,
    FACTORS,
    FEATURES,
    PARTS,
    TAGS,
    WAYS,
    Row,
    all_pairs,
    covering,
    policy_of,
    table,
    values_of,
)
from tests.support.worlds import (
    DAYS,
    EXTRA,
    NOW,
    SOURCE,
    World,
    add_world,
    applied,
    check_left,
    describe,
    owners,
    planned,
    since,
    subjects,
    whose,
)

# ── covering arrays ─────────────────────────────────────────────────────────────────────────────


# ── what a policy means, told plainly ───────────────────────────────────────────────────────────


class Meaning:
    """Who and what is in scope of a policy in a world, and what it may touch there."""

    def __init__(self, row: Row, world: World) -> None:
        self.row, self.world = row, world
        self.names = {key: str(name) for key, name, *_ in world.users}
        self.group_names = {key: str(name) for key, name, *_ in world.groups}
        self.parents: dict[str, set[str]] = defaultdict(set)
        for group, member, kind in world.memberships:
            if kind == "group":
                self.parents[member].add(group)
        self.in_groups: dict[str, set[str]] = defaultdict(set)
        for group, member, kind in world.memberships:
            if kind == "user":
                self.in_groups[member].add(group)
        self.groups = {key for key, name in self.group_names.items() if self._group_in(name)}
        self.people = {user[0] for user in world.users if self._person_in(user)}

    def _group_in(self, name: str) -> bool:
        low = name.lower()
        return (self.row["scope.groups"] == ["*"] or low[0] in "rbgp") and not (
            self.row["scope.exclude_groups"] and low.startswith("outside")
        )

    def _person_in(self, user: tuple[Any, ...]) -> bool:
        key, name, email, *_, active, attributes = user
        low, row = name.lower(), self.row
        if row["scope.users"] != ["*"] and low[0] not in "abce":
            return False
        if row["scope.exclude_users"] and low.startswith("cy"):
            return False
        if row["scope.conditions"] and not (orjson.loads(attributes).get(EXTRA) == ["x"] or (email and active)):
            return False
        above = self.above(self.in_groups[key])
        if row["scope.required_groups"] and not any(
            self.group_names[group].lower().startswith(("red", "blue")) for group in above
        ):
            return False
        if row["scope.members_only"]:
            inside = self.in_groups[key] if row["groups.nesting"] == "ignore" else above
            return bool(inside & self.groups)
        return True

    def above(self, groups: set[str]) -> set[str]:
        seen, todo = set(groups), list(groups)
        while todo:
            new = self.parents[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    def crowd_name(self, group: str) -> str:
        name = self.group_names[group]
        if self.row["groups.rules"] and name.startswith("blue"):
            name = "navy" + name.removeprefix("blue")
        return str(self.row["groups.prefix"]) + name

    def protected(self, kind: str, name: str) -> bool:
        return name.startswith(tuple(one.rstrip("*") for one in self.row[f"protection.{kind}s"]))

    def powerful(self, crowd: ModelCrowd) -> set[str]:
        """Groups of Crowd that give power which the policy does not allow: by name, or inside such a one."""
        if self.row["protection.privileged_allowed"]:
            return set()
        return {
            name
            for name, group in crowd.groups.items()
            if any(top.startswith("priv-") and crowd._below(g["key"], group["key"]) for top, g in crowd.groups.items())
        }

    def late(self, person: str) -> bool:
        if self.row["leavers.delete_after_days"] is None:
            return False
        away = since(self.world.source()).since
        then = away.loc[away["id"] == person, "since"]
        return bool(len(then)) and then.iloc[0] <= NOW - timedelta(days=DAYS)


def feature_of(operation: Any) -> str:
    """The feature that must be on for this; marks of ownership need none."""
    if operation.kind.endswith("_attributes"):
        names = set(orjson.loads(operation.record)["attributes"])
        assert operation.kind == Kind.USER_ATTRIBUTES or names == {ID_ATTRIBUTE}
        return "user_update" if names - {ID_ATTRIBUTE} else ""
    return "nesting" if operation.kind.startswith("nesting") else str(operation.kind)


def check_features(made: Plan, row: Row) -> None:
    for operation in made.operations.itertuples():
        feature = feature_of(operation)
        assert not feature or row[f"operations.{feature}"] == "on", operation
    for operation in made.reported.itertuples():
        assert row[f"operations.{feature_of(operation)}"] == "report", operation
        assert operation.reason
    for kind in made.withheld:
        feature = {"user_attributes": "user_update", "nesting_add": "nesting", "nesting_remove": "nesting"}.get(
            kind, kind
        )
        assert row[f"operations.{feature}"] != "on", kind
    for told, count in made.reported["kind"].value_counts().items():
        assert made.withheld.get(str(told)) == count, told
    if row["groups.nesting"] != "preserve":
        assert "nesting_add" not in made.counts()
    if row["groups.nesting"] == "ignore":
        assert "nesting_remove" not in made.counts()
    if not row["attributes.extra"]:
        for operation in made.operations[made.operations["kind"] == Kind.USER_ATTRIBUTES].itertuples():
            assert set(orjson.loads(str(operation.record))["attributes"]) == {ID_ATTRIBUTE}


def check_scope(made: Plan, means: Meaning, owner: dict[int, str], keys: Sequence[int]) -> None:
    """People outside the scope get nothing, groups outside neither; denied names are never given."""
    row, crowd = means.row, means.world.crowd
    owned = owners(crowd, means.world.links, "group")
    everyone = {crowd_id(name) for name in row["groups.everyone"]}
    wanted = {crowd_id(means.crowd_name(group)) for group in means.groups} | everyone
    wanted |= {name for name, group in crowd.groups.items() if owned.get(group["key"]) in means.groups}
    closed = means.powerful(crowd)
    for key, operation in zip(keys, made.operations.itertuples(), strict=True):
        kind, name, target = Kind(str(operation.kind)), crowd_id(str(operation.name)), crowd_id(str(operation.target))
        if kind in GIVING:
            assert owner[key] in means.people, f"{operation} for {owner[key]}, who is out of scope"
        if kind in (Kind.GROUP_CREATE, Kind.GROUP_UPDATE, Kind.GROUP_ATTRIBUTES):
            assert operation.source_id in means.groups or str(operation.source_id).startswith(EVERYONE), operation
        if kind in (Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD):
            assert target in wanted, f"{operation} into a group that is out of scope"
            assert target not in closed, f"{operation} gives power"
        if kind is Kind.NESTING_ADD:
            assert name in wanted
        given = target if kind is Kind.USER_RENAME else name if kind in (Kind.USER_CREATE, Kind.GROUP_CREATE) else ""
        if given and kind is Kind.GROUP_CREATE:
            assert not (row["groups.deny"] and given.startswith(("gold", "x-gold"))), operation
            assert not means.protected("group", given), operation
        elif given and "makes room" not in str(operation.reason):
            assert not (row["usernames.deny"] and given.startswith("dan")), operation
            assert not means.protected("user", given), operation
        for one in (name, target):
            if one.startswith("priv-") and "user" not in kind.value and kind is not Kind.MEMBERSHIP_REMOVE:
                assert row["protection.privileged_allowed"], f"{operation} of a privileged group"
        if kind is Kind.MEMBERSHIP_REMOVE:
            assert not target.startswith("priv-") or row["protection.privileged_allowed"], operation


GIVING = (
    Kind.USER_CREATE,
    Kind.USER_RENAME,
    Kind.USER_UPDATE,
    Kind.USER_ACTIVATE,
    Kind.USER_ATTRIBUTES,
    Kind.MEMBERSHIP_ADD,
)


def check_untouched(made: Plan, means: Meaning, after: ModelCrowd, mine_now: set[int]) -> None:
    """What is protected, held, somebody else's or nobody's is as it was, and so are its groups or members."""
    before, row = means.world.crowd, means.row
    everyone = {crowd_id(name) for name in row["groups.everyone"]}
    held = {kind: set(made.held.loc[made.held["kind"] == kind, "id"]) for kind in ("user", "group")}
    away = set(made.held.loc[(made.held["kind"] == "user") & (made.held["away"] != ""), "id"])
    gone = {r["key"] for t in ("users", "groups") for r in getattr(before, t).values()}
    gone -= {r["key"] for t in ("users", "groups") for r in getattr(after, t).values()}

    def pairs(crowd: ModelCrowd, key: int, side: int) -> set[tuple[int, int]]:
        every = crowd.memberships | crowd.nestings
        return {pair for pair in every if pair[side] == key and not set(pair) & gone}

    for kind, old, new in (("user", before.users, after.users), ("group", before.groups, after.groups)):
        owner = owners(before, means.world.links, kind)
        now = {record["key"]: (name, record) for name, record in new.items()}
        for name, record in old.items():
            key, whose_ = record["key"], owner.get(record["key"], "")
            left = now.get(key)
            if kind == "user" and whose_ in away and not means.protected(kind, name):
                check_left(name, record, left, before, after)
                continue
            closed = kind == "group" and name.startswith("priv-") and not row["protection.privileged_allowed"]
            safe = means.protected(kind, name) or closed or whose_ == "?" or whose_ in held[kind]
            if not whose_ and not safe:
                mark = (left[1]["attributes"].get(ID_ATTRIBUTE) or [""])[0] if left else ""
                if mark.startswith(f"{SOURCE}:"):
                    check_adoption(kind, name, record, mark.removeprefix(f"{SOURCE}:"), means)
                    continue
                safe = True
            if not safe:
                continue
            assert left == (name, record), f"{kind} {name!r} of {whose_!r} was touched: {left}"
            was, is_ = (pairs(crowd, key, 1 if kind == "user" else 0) for crowd in (before, after))
            if kind == "group" and name in everyone and not closed and not means.protected(kind, name):
                was, is_ = ({pair for pair in side if pair[1] not in mine_now} for side in (was, is_))
            assert was == is_, f"{kind} {name!r} of {whose_!r}: its memberships changed"


def check_adoption(kind: str, name: str, record: dict[str, Any], owner: str, means: Meaning) -> None:
    row = means.row
    keys = row[f"matching.{kind}s"]
    if kind == "group":
        assert "name" in keys
        assert crowd_id(means.crowd_name(owner)) == name if owner in means.group_names else owner.startswith(EVERYONE)
    else:
        user = next(user for user in means.world.users if user[0] == owner)
        wanted = user[1].lower()
        if row["usernames.rules"] and user[1].startswith("ev"):
            wanted = "i" + user[1][1:]
        by_name = "username" in keys and crowd_id(wanted) == name
        by_mail = "email" in keys and user[2] and user[2].lower() == record["email"].lower()
        assert by_name or by_mail, f"{name!r} was adopted for {owner}"
    if row["matching.adoption"] == "listed":
        assert name.startswith(("a", "b") if kind == "user" else ("r", "b")), f"{name!r} is not listed"
    assert row["matching.adoption"] != "never"


def check_leavers(made: Plan, means: Meaning, after: ModelCrowd) -> None:
    """To each who left happens what the policy says of their way, and to nobody else."""
    before, row = means.world.crowd, means.row
    on = {name: row[f"operations.{name}"] == "on" for name in FEATURES}
    held = set(made.held.loc[made.held["kind"] == "user", "id"])
    active = {user[0]: bool(user[6]) for user in means.world.users}
    now = {record["key"]: record for record in after.users.values()}
    groups = {group["key"]: (name, group) for name, group in before.groups.items()}
    owned = owners(before, means.world.links, "group")
    closed = means.powerful(before)
    for name, record in before.users.items():
        person = owners(before, means.world.links, "user").get(record["key"], "")
        if person in ("", "?") or person in held or means.protected("user", name):
            continue
        way = "deleted" if person not in active else "out_of_scope" if person not in means.people else "disabled"
        if way == "disabled" and active[person]:
            assert record["key"] in now
            continue
        action = row[f"leavers.{way}"]
        if means.late(person) and action not in ("nothing", "delete"):
            action = "delete"
        left = now.get(record["key"])
        assert (left is None) == (action == "delete" and on["user_delete"]), f"{name!r}, {way}: {action}"
        if left is None:
            continue
        shut = action.startswith("deactivate") and on["user_deactivate"]
        assert left["active"] == (record["active"] and not shut), f"{name!r}, {way}: {action}"
        had = {g for g, user in before.memberships if user == record["key"]}
        has = {g for g, user in after.memberships if user == record["key"]}
        if way != "disabled" or action == "delete":
            there = {group["key"] for group in after.groups.values()}
            assert has <= had, f"{name!r}, {way}, came into groups"
            if not (action.endswith("take_groups") and on["membership_remove"]):
                assert has == had & there, f"{name!r}, {way}: {action}"
        if action.endswith("take_groups") and on["membership_remove"]:
            for key in has:
                group, _ = groups[key]
                leaving = row["leavers.groups"] != "empty" and owned.get(key) not in means.groups
                held_group = owned.get(key) in set(made.held.loc[made.held["kind"] == "group", "id"])
                foreign = owned.get(key, "?") == "?"
                assert leaving or held_group or foreign or means.protected("group", group) or group in closed, (
                    f"{name!r}, {way}: still in {group!r}"
                )


def check_gone_groups(made: Plan, means: Meaning, after: ModelCrowd) -> None:
    """What the policy says happens to our groups that the source has no more, or not in scope."""
    before, row = means.world.crowd, means.row
    owned, people = (owners(before, means.world.links, kind) for kind in ("group", "user"))
    held = {kind: set(made.held.loc[made.held["kind"] == kind, "id"]) for kind in ("user", "group")}
    everyone = {crowd_id(name) for name in row["groups.everyone"]}
    closed, there = means.powerful(before), {group["key"] for group in after.groups.values()}
    accounts = {user["key"]: name for name, user in before.users.items()}
    stays = {user["key"] for user in after.users.values()}
    for name, group in before.groups.items():
        owner, key = owned.get(group["key"], "?"), group["key"]
        if owner == "?" or owner in means.groups | held["group"] or name in closed | everyone:
            continue
        if means.protected("group", name) or owner in set(made.handed_over["before"]):
            continue
        deleted = row["leavers.groups"] == "delete" and row["operations.group_delete"] == "on"
        assert (key in there) != deleted, f"{name!r}: {row['leavers.groups']}"
        had = {user for of, user in before.memberships if of == key}
        has = {user for of, user in after.memberships if of == key}
        if not deleted and row["leavers.groups"] != "empty":
            assert has == had & stays, f"the members of {name!r} changed: {row['leavers.groups']}"
        if row["leavers.groups"] == "empty" and row["operations.membership_remove"] == "on":
            for user in has:
                person = people.get(user, "?")
                assert person not in means.people - held["user"] or means.protected("user", accounts[user]), (
                    f"{accounts[user]!r} is still in {name!r}, which is gone"
                )


def check_everyone(made: Plan, means: Meaning, after: ModelCrowd, links: ModelLinks) -> None:
    """Everybody who is active, in scope and has an account is in the groups for everybody."""
    row = means.row
    if row["operations.membership_add"] != "on":
        return
    held_groups = set(made.held.loc[made.held["kind"] == "group", "id"])
    held = set(made.held.loc[made.held["kind"] == "user", "id"])
    active = {user[0] for user in means.world.users if user[6]}
    owner, owned = owners(after, links, "user"), owners(means.world.crowd, means.world.links, "group")
    closed = means.powerful(means.world.crowd)
    for name in map(crowd_id, row["groups.everyone"]):
        group = after.groups.get(name)
        there = means.world.crowd.groups.get(name, {"key": -1})["key"]
        if group is None or {EVERYONE + name, owned.get(there)} & held_groups or name in closed:
            continue
        inside = {owner.get(user) for key, user in after.memberships if key == group["key"]}
        for user, record in after.users.items():
            person = owner.get(record["key"])
            if person in means.people & active and person not in held and not means.protected("user", user):
                assert person in inside, f"{user!r} is not in {name!r}"


# ── the runs ────────────────────────────────────────────────────────────────────────────────────


def test_all_pairs_are_there() -> None:
    pairs, rows = all_pairs(), table()
    names = list(FACTORS)
    for n in range(ARRAYS):
        array = covering(random.Random(n))
        found = {(a, row[a], b, row[b]) for row in array for a, b in combinations(names, 2)}
        assert found >= pairs
    whole = sum(len(FACTORS[a]) * len(FACTORS[b]) for a, b in combinations(FACTORS, 2))
    assert len({policy_of(values_of(row)).digest() for row in rows}) > 0.9 * len(rows)
    print(f"{len(FACTORS)} fields: {len(pairs):,} pairs of values, {whole - len(pairs)} contradict themselves, "
          f"{len(rows)} policies")  # fmt: skip


def test_what_contradicts_itself_is_refused() -> None:
    """Every pair that is left out is one that the policy itself refuses."""
    base = {name: values[0] for name, values in FACTORS.items()}
    base |= {"operations.user_delete": "on", "operations.group_delete": "on"}
    impossible = {
        (a, i, b, j)
        for a, b in combinations(FACTORS, 2)
        for i in range(len(FACTORS[a]))
        for j in range(len(FACTORS[b]))
    } - all_pairs()
    assert len(impossible) == 8
    for a, i, b, j in impossible:
        with pytest.raises(ValidationError):
            policy_of(base | {a: FACTORS[a][i], b: FACTORS[b][j]})


@pytest.mark.parametrize("part", long_after(1, range(PARTS)))
def test_no_pair_of_values_does_harm(part: int) -> None:
    policies = nobody = operations = 0
    kinds: set[str] = set()
    pairs: set[tuple[str, int, str, int]] = set()
    for number, numbers in list(enumerate(table()))[part::PARTS]:
        row, rng = values_of(numbers), random.Random(number)
        policy, world = policy_of(row), World()
        for tag in TAGS:
            add_world(world, rng, tag, pure=True, readable=True)
        try:
            made = planned(world.source(), world.crowd, world.links, policy)
        except ConfigurationError:  # a scope that leaves nobody
            nobody += 1
            continue
        means = Meaning(row, world)
        note = f"\npolicy {number}: {row}\n{describe(made)}\nheld\n{made.held.to_string()}"
        try:
            run(made, means, policy, rng)
        except AssertionError as error:
            raise AssertionError(f"{error}{note}") from error
        policies, operations = policies + 1, operations + len(made.operations)
        kinds |= set(made.operations["kind"])
        pairs |= {(a, numbers[a], b, numbers[b]) for a, b in combinations(FACTORS, 2)}
    assert policies > 4 * nobody
    print(f"part {part}: {policies} policies, {len(pairs & all_pairs()):,} pairs, {operations:,} operations of "
          f"{len(kinds)} kinds; {nobody} with nobody in scope")  # fmt: skip


def run(made: Plan, means: Meaning, policy: Policy, rng: random.Random) -> None:
    world = means.world
    check_features(made, means.row)
    keys = subjects(made, world)
    owner = whose(made, world, keys)
    check_scope(made, means, owner, keys)
    crowd, links = world.crowd.copy(), world.links.copy()
    applied(made, crowd, links, rng)
    mine_now = {key for key, person in owners(crowd, links, "user").items() if person != "?"}
    check_untouched(made, means, crowd, mine_now | set(owner))
    check_leavers(made, means, crowd)
    check_gone_groups(made, means, crowd)
    check_everyone(made, means, crowd, links)
    again = planned(world.source(), crowd, links, policy)
    assert again.operations.empty, f"the next plan is not empty:\n{describe(again)}"


# ── whether these rules would see a fault ───────────────────────────────────────────────────────


def nothing_fits(names: pd.Series, patterns: Any = ()) -> pd.Series:
    return pd.Series(False, index=names.index)


def everybody(snapshot: Any, policy: Policy) -> Scoped:
    return Scoped(snapshot, pd.Index([], dtype="str"), pd.Index([], dtype="str"))


def with_field(path: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Whatever the policy says of a field, the road sees this."""
    part, name = path.split(".")
    made = {key: Value(sources=(source,)) for key, source in value.items()} if isinstance(value, dict) else value

    def fault(patch: pytest.MonkeyPatch) -> None:
        def ignoring(source: Any, crowd: Any, links: Any, policy: Policy) -> Plan:
            other = getattr(policy, part).model_copy(update={name: made})
            return worlds.planned(source, crowd, links, policy.model_copy(update={part: other}))

        patch.setitem(globals(), "planned", ignoring)

    return fault


def patched(targets: str | Sequence[str], value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Puts a value in the place of one name, or of several."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        for target in [targets] if isinstance(targets, str) else targets:
            patch.setattr(target, value)

    return fault


IGNORED: dict[str, Any] = {
    **{f"operations.{name}": "on" for name in FEATURES},
    "scope.groups": ("*",),
    "scope.exclude_groups": (),
    "scope.required_groups": (),
    "scope.members_only": False,
    "scope.users": ("*",),
    "scope.exclude_users": (),
    "scope.conditions": (),
    "usernames.deny": (),
    "groups.deny": (),
    "groups.everyone": (),
    "groups.nesting": "preserve",
    "matching.users": ("id", "username", "email"),
    "matching.groups": ("id", "name"),
    "matching.adoption": "keys",
    **{f"leavers.{way}": "deactivate" for way in WAYS},
    "leavers.groups": "empty",
    "leavers.delete_after_days": None,
    "protection.users": ("admin*",),
    "protection.groups": ("prot-*",),
    "protection.privileged_allowed": tuple(f"priv-x{tag}" for tag in TAGS),
    "attributes.extra": {EXTRA: EXTRA},
}
"""What the road sees instead of what the policy says."""
FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "features are ignored": patched("tasks.policy.Operations.allows", lambda self, kind: True),
    "nothing is reported": patched("tasks.policy.Operations.of", lambda self, kind: "on"),
    "the scope is ignored": patched("tests.support.worlds.in_scope", everybody),
    "protection is ignored": patched(
        [f"tasks.decide.plan.{step}.matches" for step in ("inputs", "renames", "accounts", "groups")], nothing_fits
    ),
    "privileged groups are open": patched("tasks.policy.Policy.privileged", lambda self, names: nothing_fits(names)),
    "everybody has been away for long": with_field("leavers.delete_after_days", 1),
    **{f"{path} is ignored": with_field(path, value) for path, value in IGNORED.items()},
}


@pytest.mark.parametrize("fault", long_after(4, FAULTS))
def test_each_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    path = fault.removesuffix(" is ignored")
    instead = repr(IGNORED.get(path)).translate(str.maketrans("()", "[]")).replace(",]", "]")
    telling = [n for n, numbers in enumerate(table()) if repr(values_of(numbers).get(path, "")) != instead]
    for tried, number in enumerate(telling, 1):
        row, rng = values_of(table()[number]), random.Random(number)
        policy, world = policy_of(row), World()
        for tag in TAGS:
            add_world(world, rng, tag, pure=True, readable=True)
        try:
            run(planned_here(world, policy), Meaning(row, world), policy, rng)
        except ConfigurationError:
            continue
        except AssertionError:
            print(f"{fault}: seen under policy {tried}")
            return
    pytest.fail(f"{fault}, and no rule of {len(telling)} policies sees it")


def planned_here(world: World, policy: Policy) -> Plan:
    return planned(world.source(), world.crowd, world.links, policy)
