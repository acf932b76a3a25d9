"""The policy: every field does what it says, every bad value is refused with the field's path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from pydantic import BaseModel, ValidationError

from connectors.contract import Kind
from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, held_frame
from connectors.settings import load
from tasks.guard import judge
from tasks.plan import Owned, Plan
from tasks.policy import PRIVILEGED, Limit, Policy, matches, policy_of
from tasks.report import changes, plan_rows
from tests.property.model_crowd import ModelCrowd, ModelLinks
from tests.property.test_road import SOURCE, World, planned


def policy_with(path: str, value: Any, **more: Any) -> Policy:
    """The default policy with one field, by its path, and top-level parts besides."""
    *steps, last = path.split(".")
    whole = at = more
    for step in steps:
        at = at.setdefault(step, {})
    at[last] = value
    return Policy.model_validate(whole)


def mark(identity: str) -> dict[str, list[str]]:
    return {ID_ATTRIBUTE: [f"{SOURCE}:{identity}"]}


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
    same = {"first_name": "F", "last_name": "L", "display_name": "D"}
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


# ── operations ──────────────────────────────────────────────────────────────────────────────────

KINDS = {
    "user_create": ["user_create"],
    "user_update": ["user_update"],
    "user_rename": ["user_rename"],
    "user_activate": ["user_activate"],
    "user_deactivate": ["user_deactivate"],
    "group_create": ["group_create"],
    "group_update": ["group_update"],
    "membership_add": ["membership_add"],
    "membership_remove": ["membership_remove"],
    "nesting": ["nesting_add", "nesting_remove"],
}


@pytest.mark.parametrize("name", KINDS)
def test_an_operation_that_is_off_is_withheld_and_counted(name: str) -> None:
    made = the_plan(policy_with(f"operations.{name}", False))
    for kind in KINDS[name]:
        assert DEFAULT.counts().get(kind), f"the default plan has no {kind}"
        assert kind not in made.counts()
        assert made.withheld[kind] == DEFAULT.counts()[kind]
    assert kind not in DEFAULT.withheld
    for other in set(KINDS) - {name, "membership_add"}:
        for kind in set(KINDS[other]) - {"user_update"}:
            assert made.counts().get(kind) == DEFAULT.counts()[kind], kind


@pytest.mark.parametrize("name", ["user_delete", "group_delete"])
def test_deletions_are_off_until_they_are_allowed(name: str) -> None:
    side = name.split("_")[0]
    with pytest.raises(ValidationError, match=f"leavers.{side}s is 'delete' while operations.{name} is off"):
        policy_with(f"leavers.{side}s", "delete")
    made = the_plan(policy_with(f"leavers.{side}s", "delete", operations={name: True}))
    assert made.counts()[name] == 1
    assert name not in the_plan(policy_with(f"operations.{name}", True)).counts(), "allowed is not asked for"
    policy = policy_with(f"operations.{name}", False).operations
    assert not policy.allows(Kind(name))


@pytest.mark.parametrize("update", [True, False])
def test_attributes_are_updates_and_marks_are_not(update: bool) -> None:
    policy = policy_with(
        "operations.user_update", update, attributes={"extra": {"crew": "team"}}, matching={"users": ["id", "username"]}
    )
    changed = the_plan(policy)
    assert (("user_attributes", "bob", "") in ops(changed)) == update
    assert ("user_attributes", "unowned", "") in ops(changed)


# ── scope ───────────────────────────────────────────────────────────────────────────────────────


def gone_out(made: Plan) -> set[str]:
    return set(made.operations.loc[made.operations["reason"] == "is out of scope", "name"])


def test_scope_groups_and_exclude_groups() -> None:
    assert ("group_create", "fresh", "") in ops(DEFAULT)
    for field, value in (("groups", ["staff", "re:o.*|inner"]), ("exclude_groups", ["FRESH", "re:th.*|jira.*|texts"])):
        made = the_plan(policy_with(f"scope.{field}", value))
        assert "group_create" not in made.counts(), field
        assert "theirs" not in reasons(made)
        assert ("membership_add", "bob", "staff") in ops(made)


@pytest.mark.parametrize(
    ("field", "value", "out"),
    [
        ("required_groups", ["outer"], {"bob", "old-name"}),
        ("required_groups", ["staff"], set()),
        ("members_only", True, set()),
        ("exclude_users", ["BO?", "nobody"], {"bob"}),
    ],
)
def test_scope_of_people(field: str, value: Any, out: set[str]) -> None:
    made = the_plan(policy_with(f"scope.{field}", value))
    assert gone_out(made) == out | ({"dan"} if field != "exclude_users" else set())
    assert ("user_create", "loner", "") in ops(DEFAULT)
    assert (("user_create", "loner", "") in ops(made)) == (field == "exclude_users")
    assert gone_out(DEFAULT) == set()


# ── usernames, attributes, matching ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "value", "kind", "before", "after"),
    [
        ("usernames.source", "email", "user_create", "ann.lee", "ann@x.org"),
        ("usernames.case", "keep", "user_create", "ann.lee", "Ann.Lee"),
        ("usernames.rules", [{"pattern": r"\.", "replacement": "_"}], "user_create", "ann.lee", "ann_lee"),
        ("usernames.rules", [{"pattern": r"(\w+)\.(\w+)", "replacement": r"\2"}], "user_create", "ann.lee", "Lee"),
    ],
)
def test_usernames(path: str, value: Any, kind: str, before: str, after: str) -> None:
    names = {name for of, name, _ in ops(the_plan(policy_with(path, value))) if of == kind}
    assert before in {name for of, name, _ in ops(DEFAULT) if of == kind}
    assert {name.lower() for name in names} >= {after.lower()}
    assert before not in names
    if "case" in path or "source" in path:
        assert after in names


@pytest.mark.parametrize(("value", "name"), [("NFKC", "cy"), ("NFC", "ｃｙ"), ("none", "ｃｙ")])
def test_usernames_normalise(value: str, name: str) -> None:
    assert ("user_rename", "old-name", name) in ops(the_plan(policy_with("usernames.normalise", value)))
    made = world()
    made.users.append(("apart", "jose\u0301", "", "", "L", "D", True, "{}"))
    names = {
        row[1] for row in ops(planned(made.source(), made.crowd, made.links, policy_with("usernames.normalise", value)))
    }
    assert ("jos\u00e9" in names, "jose\u0301" in names) == (value != "none", value == "none")


@pytest.mark.parametrize("field", ["email", "first_name", "last_name", "display_name"])
@pytest.mark.parametrize(("source", "value"), [("mail2", "ann@y.org"), ("username", "Ann.Lee"), ("id", "p1")])
def test_attributes_fields(field: str, source: str, value: str) -> None:
    made = the_plan(policy_with(f"attributes.fields.{field}", source))
    assert record(made, Kind.USER_CREATE, "ann.lee")[field] == value
    assert record(DEFAULT, Kind.USER_CREATE, "ann.lee")[field] != value


def test_attributes_extra() -> None:
    made = the_plan(policy_with("attributes.extra", {"crew": "team"}))
    assert record(made, Kind.USER_CREATE, "ann.lee")["attributes"] == mark("p1") | {"crew": ["red"]}
    assert record(made, Kind.USER_ATTRIBUTES, "bob") == {"attributes": {"crew": ["blue"]}}
    assert record(DEFAULT, Kind.USER_CREATE, "ann.lee")["attributes"] == mark("p1")
    assert "user_attributes" not in DEFAULT.counts()


def test_attributes_wanted_are_those_that_the_mapping_reads() -> None:
    policy = Policy.model_validate(
        {"attributes": {"fields": {"email": "mail2", "first_name": "username"}, "extra": {"crew": "team"}}}
    )
    assert policy.attributes.wanted() == {"mail2", "team"}
    assert Policy().attributes.wanted() == frozenset()


@pytest.mark.parametrize(
    ("keys", "adopted"),
    [
        (["id"], set()),
        (["id", "username"], {"unowned"}),
        (["email"], {"mailed"}),
        (["id", "email", "username"], {"unowned", "mailed"}),
    ],
)
def test_matching_users(keys: list[str], adopted: set[str]) -> None:
    made = the_plan(policy_with("matching.users", keys))
    assert {name for kind, name, _ in ops(made) if kind == "user_attributes"} == adopted
    assert ("p7" in reasons(made)) == ("unowned" not in adopted)


def test_matching_users_tries_the_keys_in_order() -> None:
    made = world()
    made.users.append(("both", "nobodys", "two@x.org", "", "L", "D", True, "{}"))
    made.crowd.add_user("nobodys")
    made.crowd.add_user("two", email="two@x.org")
    first = planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["username", "email"]))
    assert ("user_attributes", "nobodys", "") in ops(first)
    # By e-mail it is the other account, which then cannot have the name that it wants.
    second = planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["email", "username"]))
    assert not {row for row in ops(second) if row[1] == "nobodys"}
    assert "(now 'two')" in reasons(second)["both"]


def test_matching_groups() -> None:
    assert "to adopt it add 'name' to matching.groups" in reasons(DEFAULT)["theirs"]
    made = the_plan(policy_with("matching.groups", ["id", "name"]))
    assert ("group_attributes", "theirs", "") in ops(made)
    assert "theirs" not in reasons(made)


# ── leavers ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "expected"),
    [("deactivate", {("user_deactivate", "left", "")}), ("delete", {("user_delete", "left", "")}), ("nothing", set())],
)
def test_leavers_users(value: str, expected: set[tuple[str, str, str]]) -> None:
    made = the_plan(policy_with("leavers.users", value, operations={"user_delete": value == "delete"}))
    assert {row for row in ops(made) if row[1] == "left"} == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("empty", {("membership_remove", "bob", "gone-group")}),
        ("delete", {("group_delete", "gone-group", "")}),
        ("nothing", set()),
    ],
)
def test_leavers_groups(value: str, expected: set[tuple[str, str, str]]) -> None:
    made = the_plan(policy_with("leavers.groups", value, operations={"group_delete": value == "delete"}))
    assert {row for row in ops(made) if "gone-group" in row} == expected


# ── limits ──────────────────────────────────────────────────────────────────────────────────────

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
    nothing = pd.DataFrame()
    return Plan(operations, held_frame(), {}, nothing, nothing, Owned(100, 100, 100, 100, 100), "")


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    kind, percent = LIMITS[name]

    def refused(count: int, policy: Policy) -> bool:
        return any(line.startswith(f"{name}:") for line in judge(of_a_hundred(kind, count), policy).refusals)

    most = 99 if percent is None else percent
    assert not refused(most, Policy())
    assert refused(most + 1, Policy()) == (percent is not None)
    assert refused(3, policy_with(f"limits.{name}.absolute", 2))
    assert not refused(2, policy_with(f"limits.{name}.absolute", 2))
    assert refused(3, policy_with(f"limits.{name}.percent", 2))
    assert not refused(2, policy_with(f"limits.{name}.percent", 2))
    assert not refused(99, policy_with(f"limits.{name}", {})), "an empty limit is none, whatever the default"
    assert refused(1, policy_with(f"limits.{name}.percent", 0))


@pytest.mark.parametrize(
    ("limit", "owned", "allowed"),
    [
        ({}, 100, None),
        ({"absolute": 0}, 100, 0),
        ({"absolute": 7}, 5, 7),
        ({"percent": 10}, 9, 0),
        ({"percent": 10}, 29, 2),
        ({"percent": 29}, 100, 29),
        ({"percent": 0.1}, 1000, 1),
        ({"percent": 100}, 3, 3),
        ({"absolute": 5, "percent": 10}, 100, 5),
        ({"absolute": 50, "percent": 10}, 100, 10),
    ],
)
def test_a_limit_is_the_smaller_of_its_two(limit: dict[str, Any], owned: int, allowed: int | None) -> None:
    assert Limit.model_validate(limit).allowed(owned) == allowed


# ── protection and disclosure ───────────────────────────────────────────────────────────────────


def test_protection_users() -> None:
    assert "its username is a protected one" in reasons(DEFAULT)["p9"]
    open_ = the_plan(policy_with("protection.users", []))
    assert ("user_create", "admin", "") in ops(open_)
    made = the_plan(policy_with("protection.users", ["B*", "re:left|dan", "old-name"]))
    touched = {name for _, name, _ in ops(made)}
    assert {"bob", "left", "dan", "old-name"}.isdisjoint(touched)
    assert {"bob", "left", "dan", "old-name"} <= {name for _, name, _ in ops(DEFAULT)}


def test_protection_groups() -> None:
    made = the_plan(policy_with("protection.groups", ["STAFF", "re:in.*|fresh", "texts"]))
    closed = {"staff", "inner", "fresh", "texts"}
    assert not {row for row in ops(made) if closed & set(row[1:])}
    assert {row for row in ops(DEFAULT) if {"staff"} & set(row[1:])}
    assert "protected or privileged group" in reasons(made)["fresh"]


def test_protection_of_privileged_groups() -> None:
    filled = {("group_create", "jira-administrators", ""), ("membership_add", "bob", "jira-administrators")}
    assert "protected or privileged group" in reasons(DEFAULT)["jira"]
    assert not filled & ops(DEFAULT)
    assert filled <= ops(the_plan(policy_with("protection.privileged_groups", ["bamboo-*"])))
    assert filled <= ops(the_plan(policy_with("protection.privileged_allowed", ["Jira-Administrators"])))
    assert not filled & ops(the_plan(policy_with("protection.privileged_allowed", ["confluence-administrators"])))
    made = the_plan(policy_with("protection.privileged_groups", ["staff", "re:fr.*"]))
    assert not {row for row in ops(made) if {"staff", "fresh"} & set(row[1:])}


@pytest.mark.parametrize("pattern", PRIVILEGED)
def test_every_privileged_name_is_closed_by_default(pattern: str) -> None:
    name = pattern.replace("*", "istrators")
    assert Policy().privileged(pd.Series([name, name.upper(), "staff"], dtype="str")).tolist() == [True, True, False]


@pytest.mark.parametrize("disclose", ["names", "values"])
def test_disclose(disclose: str) -> None:
    policy = policy_with("disclose", disclose, attributes={"extra": {"crew": "team"}})
    rows = {
        (row["what"], row["who"]): row["changes"] for row in plan_rows(the_plan(policy).operations, policy.disclose)
    }
    assert rows["update", "bob"] == ("email" if disclose == "names" else "email: old@x.org → bob@x.org")
    assert rows["set attributes", "bob"] == ("crew" if disclose == "names" else "crew: green → blue")
    assert rows["create account", "ann.lee"] == ""


def test_disclosed_changes_of_nothing_are_nothing() -> None:
    assert changes("", "", "values") == ""
    assert Policy().disclose == "names"


# ── every field is tested; what is refused ──────────────────────────────────────────────────────


def test_every_field_has_a_test_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    told = {f"operations.{name}" for name in (*KINDS, "user_delete", "group_delete")} | {f"limits.{n}" for n in LIMITS}
    told |= {f"leavers.{name}" for name in ("users", "groups")} | {f"scope.{n}" for n in ("groups", "exclude_groups")}
    told |= {"attributes.fields"}
    missing = [
        path
        for path in fields_of(Policy)
        if path not in told and f'"{path}"' not in text and f'("{path.split(".")[1]}"' not in text
    ]
    assert not missing


def test_a_change_of_any_field_changes_the_digest() -> None:
    digests = {Policy().digest()}
    values = {bool: lambda old: not old, tuple: lambda old: ("x*",), dict: lambda old: {"email": "x"}}
    others = {"source": "email", "normalise": "none", "case": "keep", "users": "nothing", "groups": "nothing"}
    others |= {"disclose": "values"}
    special = {
        "matching.users": ("email",),
        "matching.groups": ("name",),
        "usernames.rules": [{"pattern": "a", "replacement": "b"}],
        "protection.privileged_allowed": ("administrators",),
        "reads.full_every_hours": 1,
    }
    paths = list(fields_of(Policy))
    for path in paths:
        old: Any = Policy()
        for step in path.split("."):
            old = getattr(old, step)
        if path in special:
            value = special[path]
        elif isinstance(old, Limit):
            value = {"absolute": 77}
        elif isinstance(old, str):
            value = others[path.split(".")[-1]]
        else:
            value = values[type(old)](old)
        digests.add(policy_with(path, value).digest())
    assert len(digests) == len(paths) + 1
    assert Policy().digest() == Policy.model_validate({}).digest() == Policy.model_validate_json("{}").digest()


BAD: list[tuple[str, Any, str]] = [
    *((f"operations.{name}", "perhaps", f"operations.{name}") for name in Policy().operations.model_dump()),
    *(
        (f"scope.{name}", [" "], f"scope.{name}.0")
        for name in ("groups", "exclude_groups", "required_groups", "exclude_users")
    ),
    *(
        (f"scope.{name}", ["ok", "re:(?=x)"], f"scope.{name}.1")
        for name in ("groups", "exclude_groups", "required_groups", "exclude_users")
    ),
    ("scope.groups", "all", "scope.groups"),
    ("scope.groups", [7], "scope.groups.0"),
    ("scope.groups", ["re:a)(b"], "scope.groups.0"),
    ("scope.groups", [r"re:\Qa.b"], "scope.groups.0"),
    ("scope.members_only", "maybe", "scope.members_only"),
    ("usernames.source", "display_name", "usernames.source"),
    ("usernames.normalise", "NFD", "usernames.normalise"),
    ("usernames.case", "upper", "usernames.case"),
    ("usernames.rules", [{"pattern": "("}], "usernames.rules.0.pattern"),
    (
        "usernames.rules",
        [{"pattern": "a", "replacement": ""}, {"pattern": r"(a)\1", "replacement": ""}],
        "usernames.rules.1.pattern",
    ),
    ("usernames.rules", [{"pattern": "(a)", "replacement": r"\2"}], "usernames.rules.0"),
    ("usernames.rules", [{"pattern": "a"}], "usernames.rules.0.replacement"),
    ("usernames.rules", [{"replacement": "a"}], "usernames.rules.0.pattern"),
    ("usernames.rules", [{"pattern": "a", "replacement": "b", "flags": "i"}], "usernames.rules.0.flags"),
    ("attributes.fields", {"username": "x"}, "attributes.fields.username"),
    ("attributes.fields", {"email": 3}, "attributes.fields.email"),
    ("attributes.extra", {ID_ATTRIBUTE: "x"}, "attributes"),
    ("attributes.extra", {"": "x"}, "attributes"),
    ("attributes.extra", {"x" * 256: "x"}, "attributes"),
    ("attributes.extra", {"x": 1}, "attributes.extra.x"),
    ("matching.users", ["id", "name"], "matching.users.1"),
    ("matching.groups", ["username"], "matching.groups.0"),
    ("leavers.users", "empty", "leavers.users"),
    ("leavers.groups", "deactivate", "leavers.groups"),
    ("leavers.users", "delete", "leavers.users"),
    ("leavers.groups", "delete", "leavers.groups"),
    *((f"limits.{name}.absolute", -1, f"limits.{name}.absolute") for name in LIMITS),
    *((f"limits.{name}.percent", 101, f"limits.{name}.percent") for name in LIMITS),
    ("limits.user_create.percent", -0.1, "limits.user_create.percent"),
    ("limits.user_create.percent", float("nan"), "limits.user_create.percent"),
    ("limits.user_create.absolute", 1.5, "limits.user_create.absolute"),
    ("limits.user_create", 5, "limits.user_create"),
    ("protection.users", ["re:["], "protection.users.0"),
    ("protection.groups", [""], "protection.groups.0"),
    ("protection.privileged_groups", ["re:*"], "protection.privileged_groups.0"),
    ("protection.privileged_allowed", ["staff"], "protection.privileged_allowed"),
    ("disclose", "all", "disclose"),
    ("reads.full_every_hours", -1, "reads.full_every_hours"),
    ("reads.full_every_hours", "daily", "reads.full_every_hours"),
]
UNKNOWN = ["more", *(f"{name}.more" for name in Policy.model_fields if name != "disclose"), "limits.user_create.more"]


def text_of(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{orjson.dumps(k).decode()} = {text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of, value)) + "]"
    return "nan" if value != value else orjson.dumps(value).decode()


def settings_file(path: Path, policy: str) -> Path:
    file = path / "settings.toml"
    directory = '[directory]\nurl = "https://crowd.example.org/crowd"\napplication = "sync"\n'
    source = f'[sources.acme]\nkind = "scim"\nurl = "https://idp.example.org"\n[sources.acme.policy]\n{policy}\n'
    file.write_text(directory + source, encoding="utf-8")
    return file


@pytest.mark.parametrize(("path", "value", "named"), BAD, ids=[f"{p}={str(v)[:30]}" for p, v, _ in BAD])
def test_a_bad_value_is_refused_and_its_field_and_file_named(path: str, value: Any, named: str, tmp_path: Path) -> None:
    file = settings_file(tmp_path, f"{path} = {text_of(value)}")
    with pytest.raises(ConfigurationError) as refused:
        policy_of(load(file), "acme")
    message = str(refused.value)
    assert message.startswith(f"{file}: sources.acme.policy")
    assert named in message
    if "delete" not in str(value) and named != "protection.privileged_allowed":
        assert f"sources.acme.policy.{named}" in message
    assert "\n" not in message


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_field_is_refused(path: str, tmp_path: Path) -> None:
    file = settings_file(tmp_path, f"{path} = true")
    with pytest.raises(ConfigurationError) as refused:
        policy_of(load(file), "acme")
    assert f"{file}: sources.acme.policy.{path}: there is no such setting" in str(refused.value)


def test_policy_of_a_settings_file(tmp_path: Path) -> None:
    settings = load(
        settings_file(tmp_path, 'disclose = "values"\nscope.groups = ["app-*"]\nlimits.user_create = {absolute = 5}')
    )
    policy = policy_of(settings, "acme")
    assert (policy.disclose, policy.scope.groups, policy.limits.user_create) == (
        "values",
        ("app-*",),
        Limit(absolute=5),
    )
    assert policy_of(load(settings_file(tmp_path, "")), "acme") == Policy()
    with pytest.raises(ConfigurationError, match="no source is called 'other'"):
        policy_of(settings, "other")


def test_a_policy_does_not_change_and_survives_its_own_text() -> None:
    policy = policy_with("scope.groups", ["a", "re:b"], usernames={"rules": [{"pattern": "(a)", "replacement": r"\1"}]})
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    with pytest.raises(ValidationError, match="frozen"):
        policy.disclose = "values"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["", "x", "two\nlines"], []),
        ("app-*", ["app-", "APP-x"], ["my-app-x", "app"]),
        ("a?c", ["abc", "AéC"], ["ac", "abbc"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a+(b)[c]{1}^$|\\", ["A+(B)[c]{1}^$|\\"], ["a+(b)"]),
        ("re:a|b", ["a", "B"], ["ab", "xa", "b\n"]),
        ("re:(?-i)a", ["a"], ["A"]),
        ("re:a.c", ["a\nc"], ["ac"]),
        ("re:", [""], ["x"]),
    ],
)
def test_patterns_match_the_whole_name_without_regard_to_case(pattern: str, yes: list[str], no: list[str]) -> None:
    names = pd.Series([*yes, *no], dtype="str", index=range(5, 5 + len(yes) + len(no)))
    found = matches(names, [pattern])
    assert found.tolist() == [True] * len(yes) + [False] * len(no)
    assert found.index.equals(names.index)
    assert not matches(names, []).any()
