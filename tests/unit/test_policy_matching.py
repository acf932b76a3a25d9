"""The scope, usernames, attributes and matching of a policy do what they say."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.operations import Kind
from tasks.policy import (
    Policy,
)
from tests.support.policy_company import DEFAULT, gone_out, ops, policy_with, reasons, record, the_plan, world
from tests.support.worlds import mark, planned

# ── scope ───────────────────────────────────────────────────────────────────────────────────────


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
    wanted = "" if field == "email" and "@" not in value else value  # what is no address is left out
    assert record(made, Kind.USER_CREATE, "ann.lee")[field] == wanted
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


@pytest.mark.parametrize(
    ("matching", "adopted"),
    [
        ({"users": ["id", "username", "email"]}, {"unowned", "mailed"}),
        ({"users": ["id", "username", "email"], "adoption": "listed", "listed_users": ["MAIL*"]}, {"mailed"}),
        ({"users": ["id", "username", "email"], "adoption": "listed", "listed_users": ["re:un.*"]}, {"unowned"}),
        ({"users": ["email"], "adoption": "listed", "listed_users": ["unowned"]}, set()),
        ({"users": ["username"], "adoption": "listed", "listed_groups": ["unowned"]}, set()),
        ({"groups": ["id", "name"]}, {"theirs"}),
        ({"groups": ["name"], "adoption": "listed", "listed_groups": ["the?rs"]}, {"theirs"}),
        ({"groups": ["name"], "adoption": "listed", "listed_users": ["theirs"]}, set()),
        ({"adoption": "never"}, set()),
    ],
)
def test_matching_adopts_what_is_listed(matching: dict[str, Any], adopted: set[str]) -> None:
    made = the_plan(Policy.model_validate({"matching": matching}))
    marked = made.operations[made.operations["reason"].str.startswith("adopted by")]
    assert set(marked["name"]) == adopted
    if matching.get("adoption") == "listed" and "theirs" not in adopted:
        assert "to adopt it list it in matching.listed_groups" in reasons(made)["theirs"]


def test_what_one_key_adopts_the_next_does_not_meet() -> None:
    """The e-mail address of two accounts is ambiguous until the username has taken one of them."""
    made = world()
    made.users.append(("two", "first", "same@x.org", "", "L", "D", True, "{}"))
    made.users.append(("one", "elsewhere", "same@x.org", "", "L", "D", True, "{}"))
    for name in ("first", "second"):
        made.crowd.add_user(name, email="same@x.org")

    def adopted(*keys: str) -> dict[str, Any]:
        of = planned(made.source(), made.crowd, made.links, policy_with("matching.users", keys))
        rows = of.operations[of.operations["reason"].str.startswith("adopted by")]
        return dict(zip(rows["source_id"], rows["name"], strict=True)) | {"held": set(reasons(of))}

    by_name = adopted("username", "email")
    assert by_name["two"] == "first"
    assert "one" in by_name["held"], "its address is still that of two people"
    by_mail = adopted("email", "username")
    assert {"one", "two"} <= set(by_mail["held"])
    assert "two" not in by_mail, "what is ambiguous is not tried by the next key"


def test_an_ambiguous_match_names_the_candidates() -> None:
    made = world()
    for number in range(7):
        made.crowd.add_user(f"box-{number}", email="box@x.org")
    found = reasons(planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["email"])))
    assert found["p8"] == (
        "its email fits 'box-0', 'box-1', 'box-2', 'box-3', 'box-4' … of Crowd; link the right one by hand: "
        "crowdsync links make"
    )
    made.users.append(("p10", "also", "ANN@x.org", "", "L", "D", True, "{}"))
    made.crowd.add_user("anne", email="ann@x.org")
    found = reasons(planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["email"])))
    why = "its email fits 'ann.lee', 'also' of the source and 'anne' of Crowd; link the right one by hand"
    assert found["p1"] == found["p10"] == f"{why}: crowdsync links make"
