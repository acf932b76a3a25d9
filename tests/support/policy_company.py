"""A company on which every field of a policy has an effect, and the plan for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
import pandas as pd
from pydantic import BaseModel

from connectors.model import held_frame
from connectors.operations import KINDS as KINDS_OF_OPERATION
from connectors.operations import Kind
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Departures, Owned, Plan, plan
from tasks.policy import (
    Limit,
    Policy,
)
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import NOW, SOURCE, World, mark, planned


def policy_with(path: str, value: Any, **more: Any) -> Policy:
    """The default policy with one field, by its path, and top-level parts besides."""
    *steps, last = path.split(".")
    whole = at = more
    for step in steps:
        at = at.setdefault(step, {})
    at[last] = value
    return Policy.model_validate(whole)


def world() -> World:
    """A small company and its Crowd, in which every kind of operation but deletions is due once or more."""
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    crowd = made.crowd
    people = (
        ("p1", "Ann.Lee", "ann@x.org", True, '{"mail2":["ann@y.org"],"team":["red"]}'),
        ("p2", "bob", "bob@x.org", True, '{"team":["blue"]}'),
        ("p3", "Ｃｙ", "cy@x.org", True, "{}"),
        ("p4", "dan", "dan@x.org", False, "{}"),
        ("p5", "eve", "eve@x.org", True, "{}"),
        ("p6", "loner", "loner@x.org", True, "{}"),
        ("p7", "unowned", "unowned@x.org", True, "{}"),
        ("p8", "by-mail", "box@x.org", True, "{}"),
        ("p9", "admin", "admin@x.org", True, "{}"),
    )
    for key, name, email, active, attributes in people:
        made.users.append((key, name, email, "F", "L", "D", active, attributes))
    made.groups += [(key, key, "", "{}") for key in ("staff", "outer", "inner", "fresh", "theirs")]
    made.groups += [("jira", "jira-administrators", "", "{}"), ("texts", "texts", "new text", "{}")]
    made.memberships += [("staff", key, "user") for key in ("p1", "p2", "p3", "p5")]
    made.memberships += [("outer", "inner", "group"), ("inner", "p5", "user"), ("jira", "p2", "user")]
    same: dict[str, Any] = {"first_name": "F", "last_name": "L", "display_name": "D"}
    bob = crowd.add_user("bob", email="old@x.org", attributes=mark("p2") | {"crew": ["green"], "theirs": ["x"]}, **same)
    crowd.add_user("old-name", email="cy@x.org", attributes=mark("p3"), **same)
    crowd.add_user("dan", email="dan@x.org", attributes=mark("p4"), **same)
    crowd.add_user("eve", email="eve@x.org", active=False, attributes=mark("p5"), **same)
    left = crowd.add_user("left", attributes=mark("gone"), **same)
    crowd.add_user("unowned", email="other@x.org", **same)
    crowd.add_user("mailed", email="BOX@x.org", **same)
    staff = crowd.add_group("staff", "", f"{SOURCE}:staff")
    texts = crowd.add_group("texts", "old text", f"{SOURCE}:texts")
    outer, inner = crowd.add_group("outer", "", f"{SOURCE}:outer"), crowd.add_group("inner", "", f"{SOURCE}:inner")
    gone = crowd.add_group("gone-group", "", f"{SOURCE}:gone-group")
    crowd.add_group("theirs", "")
    crowd.memberships |= {(texts["key"], bob["key"]), (gone["key"], bob["key"]), (staff["key"], left["key"])}
    crowd.nestings.add((inner["key"], texts["key"]))
    assert outer
    return made


def the_plan(policy: Policy) -> Plan:
    made = world()
    return planned(made.source(), made.crowd, made.links, policy)


def ops(made: Plan) -> set[tuple[str, str, str]]:
    return set(made.operations[["kind", "name", "target"]].itertuples(index=False, name=None))


def reasons(made: Plan) -> dict[str, str]:
    return dict(zip(made.held["id"], made.held["reason"], strict=True))


def record(made: Plan, kind: Kind, name: str) -> dict[str, Any]:
    rows = made.operations[(made.operations["kind"] == kind) & (made.operations["name"] == name)]
    assert len(rows) == 1, made.operations.to_string()
    return dict(orjson.loads(rows["record"].iloc[0]))


DEFAULT = the_plan(Policy())


def fields_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of all fields that hold a value."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Limit:
            yield from fields_of(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


KINDS = {
    "user_create": ["user_create"],
    "user_update": ["user_update"],
    "user_rename": ["user_rename"],
    "user_activate": ["user_activate"],
    "user_deactivate": ["user_deactivate"],
    "user_delete": ["user_delete"],
    "group_create": ["group_create"],
    "group_update": ["group_update"],
    "group_delete": ["group_delete"],
    "membership_add": ["membership_add"],
    "membership_remove": ["membership_remove"],
    "nesting": ["nesting_add", "nesting_remove"],
}
DELETING: dict[str, dict[str, Any]] = {
    "user_delete": {"leavers": {"deleted": "delete"}},
    "group_delete": {"leavers": {"groups": "delete"}},
}
"""What else the policy must say so that there is anything to delete."""


def gone_out(made: Plan) -> set[str]:
    return set(made.operations.loc[made.operations["reason"] == "is out of scope", "name"])


WAYS = {"out_of_scope": "out", "disabled": "off", "deleted": "gone"}
"""How one can leave, and who has left so in `departed`."""
SHUT, TAKEN = ("user_deactivate", "{}", ""), ("membership_remove", "{}", "kept")
ACTIONS: dict[str, set[tuple[str, str, str]]] = {
    "deactivate": {SHUT},
    "take_groups": {TAKEN},
    "deactivate_and_take_groups": {SHUT, TAKEN},
    "delete": {("user_delete", "{}", "")},
    "nothing": set(),
}
OUT = {"exclude_users": ["out"]}


def departed() -> World:
    """Three people who have left, each in another way, and one who stays; all have an account, and are in a group."""
    made = before_they_left()
    made.users = [(*row[:6], row[0] != "off", row[7]) for row in made.users if row[0] != "gone"]
    made.memberships = [row for row in made.memberships if row[1] != "gone"]
    return made


def leaving(**actions: Any) -> Policy:
    """Nothing happens to those who leave, but for what is given."""
    leavers = dict.fromkeys(WAYS, "nothing") | actions
    return Policy.model_validate({"leavers": leavers, "scope": OUT, "operations": {"user_delete": "on"}})


def the_leavers(policy: Policy, since: Sequence[tuple[str, datetime]] = (), world: World | None = None) -> Plan:
    made = world or departed()
    source, directory = made.source(), made.crowd.snapshot()
    wanted = desired(in_scope(source, policy).snapshot, policy)
    found = match(wanted, directory, made.links.frame(), policy, SOURCE)
    ids, then = zip(*since, strict=True) if since else ((), ())
    departures = Departures(
        pd.DataFrame({"id": pd.array(ids, dtype="str"), "since": pd.to_datetime(list(then), utc=True)}), NOW
    )
    return plan(found, source, directory, policy, SOURCE, ("", ""), departures=departures)


def named(rows: set[tuple[str, str, str]], name: str) -> set[tuple[str, str, str]]:
    return {(kind, who.format(name), target) for kind, who, target in rows}


LONG_AGO = [(who, NOW - timedelta(days=30)) for who in WAYS.values()]


LIMITS = {
    "user_create": (Kind.USER_CREATE, None),
    "user_update": (Kind.USER_UPDATE, None),
    "user_rename": (Kind.USER_RENAME, 20),
    "user_deactivate": (Kind.USER_DEACTIVATE, 10),
    "user_delete": (Kind.USER_DELETE, 5),
    "group_create": (Kind.GROUP_CREATE, None),
    "group_delete": (Kind.GROUP_DELETE, 5),
    "membership_add": (Kind.MEMBERSHIP_ADD, None),
    "membership_remove": (Kind.MEMBERSHIP_REMOVE, 20),
    "nesting_remove": (Kind.NESTING_REMOVE, 20),
}


def of_a_hundred(kind: Kind, count: int) -> Plan:
    columns = {"kind": [kind.value] * count, "before": ['{"active":true}'] * count}
    operations = pd.DataFrame({name: pd.array(values, dtype="str") for name, values in columns.items()})
    operations["shuts_out"] = KINDS_OF_OPERATION[kind].shuts_out
    nothing = pd.DataFrame()
    return Plan(operations, held_frame(), {}, nothing, nothing, nothing, nothing, Owned(100, 100, 100, 100, 100), "")


def before_they_left() -> World:
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    group = made.crowd.add_group("kept", "", f"{SOURCE}:kept")
    made.groups.append(("kept", "kept", "", "{}"))
    for name in ("out", "off", "gone", "stays"):
        same = {"email": f"{name}@x.org", "first_name": "F", "last_name": "L", "display_name": "D"}
        account = made.crowd.add_user(name, attributes=mark(name), **same)
        made.crowd.memberships.add((group["key"], account["key"]))
        made.users.append((name, name, f"{name}@x.org", "F", "L", "D", True, "{}"))
        made.memberships.append(("kept", name, "user"))
    return made
