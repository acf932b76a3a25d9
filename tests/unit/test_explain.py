"""An explanation says what the stages do: the same scope, names, values and groups, also for generated policies."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import orjson
import pytest

from connectors.errors import ConfigurationError, RecordError
from connectors.model import Snapshot
from tasks.decide.explain import Explained, explain
from tasks.decide.fields import FIELDS
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.policy import Policy
from tests.support.frames import person, policy_with, snapshot, team
from tests.support.generated import any_conditions, any_people, any_value
from tests.support.long import long_after
from tests.support.model_crowd import ModelLinks

COMPANY = snapshot(
    [
        person("1", "Ann.Lee@x", "Ann@X.org", attributes={"title": ["Engineer"], "dept": ["IT"], "level": ["7"]}),
        person("2", "bob@x", "bob@x.org", active=False, attributes={"dept": ["hr"], "level": ["high"]}),
        person("3", "cy@x", "shared@x.org", attributes={"dept": ["hr"], "role": ["r1", "r2"]}),
        person("4", "dan@x", "SHARED@x.org", attributes={"dept": ["IT"], "level": ["high"]}),
        person("5", "Cy@x"),
    ],
    [team("r", "ACME-Red"), team("b", "ACME-Blue"), team("o", "other"), team("s", "Secret")],
    [("r", "1", "user"), ("b", "r", "group"), ("o", "1", "user"), ("s", "1", "user"), ("o", "3", "user")],
    [("user", "9", "Zoe@x", "validate", "its email is no address")],
)

RULES = {
    "usernames": {"rules": [{"pattern": "@.*", "replacement": ""}]},
    "groups": {
        "rules": [{"pattern": "^ACME-", "replacement": ""}],
        "prefix": "idp-",
        "everyone": ["all-staff"],
        "nesting": "flatten",
        "deny": ["idp-secret"],
    },
    "scope": {"exclude_groups": ["oth*"]},
    "attributes": {
        "fields": {"last_name": {"sources": ["title", "role"], "steps": [{"function": "upper"}]}},
        "extra": {
            "job": {"sources": ["title"], "steps": [{"function": "replace", "pattern": "E.*", "replacement": "E"}]}
        },
    },
}


def told(key: str, **policy: Any) -> list[Explained]:
    return explain(COMPANY, policy_with(**policy), key)


def test_the_whole_way_of_one_person() -> None:
    assert told("ann.lee@X", **RULES) == [
        Explained("filter", "scope", ("Ann.Lee@x",), "scope.users: *", ("in scope",)),
        Explained("map", "username", (), "usernames.source: username", ("Ann.Lee@x",)),
        Explained("map", "username", ("Ann.Lee@x",), "usernames.normalise: NFKC", ("Ann.Lee@x",)),
        Explained("map", "username", ("Ann.Lee@x",), "usernames.rules: replace '@.*' by ''", ("Ann.Lee",)),
        Explained("map", "username", ("Ann.Lee",), "usernames.case: lower", ("ann.lee",)),
        Explained("map", "username", ("ann.lee",), "blanks off", ("ann.lee",)),
        Explained("map", "last_name", (), "first of title, role", ("Engineer",)),
        Explained("map", "last_name", ("Engineer",), "upper", ("ENGINEER",)),
        Explained("map", "attribute job", (), "from title", ("Engineer",)),
        Explained("map", "attribute job", ("Engineer",), "replace 'E.*' by 'E'", ("E",)),
        Explained(
            "map",
            "group",
            ("ACME-Blue",),
            "groups.nesting flatten: in a group nested in it; groups.rules[0]: replace '^ACME-' by ''; "
            "groups.prefix: 'idp-'",
            ("idp-Blue",),
        ),
        Explained(
            "map",
            "group",
            ("ACME-Red",),
            "groups.rules[0]: replace '^ACME-' by ''; groups.prefix: 'idp-'",
            ("idp-Red",),
        ),
        Explained("map", "group", (), "groups.everyone", ("all-staff",)),
        Explained("filter", "group", ("other",), "scope.groups and scope.exclude_groups", ()),
        Explained(
            "map",
            "group",
            ("Secret",),
            "its Crowd name 'idp-Secret' is one of groups.deny; take it out there, or rename it in the IdP",
            (),
        ),
    ]


@pytest.mark.parametrize("key", ["1", "ann.lee@x", "ANN@x.ORG"])
def test_a_person_is_found_by_id_username_or_email(key: str) -> None:
    assert told(key)[0].before == ("Ann.Lee@x",)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nobody", "nobody in the source has the id, username or e-mail 'nobody'"),
        ("", "nobody"),
        ("shared@x.org", "fits 2 people of the source .ids '3', '4'.; give an id"),
        ("cy@x", "fits 2 people of the source .ids '3', '5'."),
    ],
)
def test_a_key_that_names_nobody_or_several(key: str, words: str) -> None:
    with pytest.raises(RecordError, match=words):
        told(key)


@pytest.mark.parametrize("key", ["9", "zoe@X"])
def test_who_could_not_be_read(key: str) -> None:
    assert told(key) == [Explained("source", "held", (), "validate: its email is no address", ())]


LEVEL = {"field": "level", "operator": "above", "values": ["5"]}
IT = {"field": "dept", "values": ["it", "ops"]}


@pytest.mark.parametrize(
    ("key", "scope", "rows"),
    [
        ("1", {"users": ["b*", "c*"]}, [(("Ann.Lee@x",), "scope.users: b*, c*", ("out of scope",))]),
        ("1", {"exclude_users": ["a*"]}, [(("Ann.Lee@x",), "scope.exclude_users: a*", ("out of scope",))]),
        ("3", {"required_groups": ["*red"]}, [(("cy@x",), "scope.required_groups: *red", ("out of scope",))]),
        ("5", {"members_only": True}, [(("Cy@x",), "scope.members_only: in a synced group", ("out of scope",))]),
        (
            "1",
            {"required_groups": ["*blue"], "members_only": True},
            [
                (
                    ("Ann.Lee@x",),
                    "scope.users: *; scope.required_groups: *blue; scope.members_only: in a synced group",
                    ("in scope",),
                )
            ],
        ),
        (
            "1",
            {"conditions": [{"all": [{"field": "role", "operator": "is_present"}]}, {"all": [IT, LEVEL]}]},
            [
                (("IT",), "scope.conditions[1]: dept equals 'it' or 'ops'", ("in scope",)),
                (("7",), "scope.conditions[1]: level above '5'", ("in scope",)),
            ],
        ),
        (
            "3",
            {"conditions": [{"all": [IT]}, {"all": [IT, LEVEL]}]},
            [
                (("hr",), "scope.conditions[0]: dept equals 'it' or 'ops'", ("out of scope",)),
                (("hr",), "scope.conditions[1]: dept equals 'it' or 'ops'", ("out of scope",)),
                ((), "scope.conditions[1]: level above '5'", ("out of scope",)),
            ],
        ),
        (
            "4",
            {"conditions": [{"all": [IT, LEVEL]}]},
            [
                (
                    ("dan@x",),
                    "its level 'high' is no number, which scope.conditions asks for; correct it in the IdP",
                    ("held",),
                )
            ],
        ),
        (
            "4",
            {"conditions": [{"all": [IT, LEVEL]}], "members_only": True},
            [(("dan@x",), "scope.members_only: in a synced group", ("out of scope",))],
        ),
        (
            "2",
            {"conditions": [{"all": [{"field": "active", "operator": "is_false"}]}]},
            [(("false",), "scope.conditions[0]: active is_false", ("in scope",))],
        ),
    ],
)
def test_which_rule_of_the_scope_decided(key: str, scope: dict[str, Any], rows: list[Any]) -> None:
    found = [row for row in told(key, scope=scope) if row.what == "scope"]
    assert [(row.before, row.rule, row.after) for row in found] == rows
    assert {row.stage for row in found} == {"filter"}
    if rows[0][2] != ("in scope",):
        assert len(told(key, scope=scope)) == len(rows), "nothing more to say"


def test_who_is_held_by_the_mapping_is_told_why_after_all_else() -> None:
    rows = told("3", **RULES)
    assert [row.what for row in rows][-1] == "held"
    assert "'cy@x', 'Cy@x' become one name in Crowd" in rows[-1].rule
    assert not [row for row in rows if row.what == "group"]
    # Inactive people are in no group that everybody is in.
    assert not [row for row in told("bob@x", **RULES) if row.rule == "groups.everyone"]


def test_what_stops_everybody_is_told_too() -> None:
    rows = told("1", usernames={"rules": [{"pattern": "[a-zA-Z.]+@x", "replacement": "x"}]})
    assert rows[-1].what == "held"
    assert "usernames.rules give all 5 people one name" in rows[-1].rule


# ── it agrees with the stages ───────────────────────────────────────────────────────────────────


def any_company(rng: random.Random) -> Snapshot:
    people = any_people(rng, 12)
    people += [person("long", "l" * 300), person("twin1", "twin"), person("twin2", "TWIN")]
    names = rng.sample(("red", "Blue", "ACME-red", "ACME-gold", "old-ops", "All", "secret"), 5)
    groups = [team(f"g{n}", name) for n, name in enumerate(names)]
    members = [(g[0], p[0], "user") for g in groups for p in people if rng.random() < 0.3]
    members += [(g[0], c[0], "group") for g in groups for c in groups if rng.random() < 0.2]
    return snapshot(people, groups, members)


def any_policy(rng: random.Random) -> Policy:
    def maybe(chance: float, **parts: Any) -> dict[str, Any]:
        return parts if rng.random() < chance else {}

    names = ("dept", "level", "email", "last_name", "username", "none")
    return Policy.model_validate(
        {
            "scope": maybe(0.3, users=["ann*", "bob*", "twin", "l*"])
            | maybe(0.3, exclude_users=["svc*"])
            | maybe(0.3, required_groups=["red", "*o*"])
            | maybe(0.3, members_only=True)
            | maybe(0.3, exclude_groups=["*-*"])
            | maybe(0.6, conditions=any_conditions(rng)),
            "usernames": maybe(
                0.4, rules=[{"pattern": "-", "replacement": "."}, {"pattern": "^svc", "replacement": " "}]
            )
            | maybe(0.3, case="keep")
            | maybe(0.3, normalise="none")
            | maybe(0.2, deny=["bob*"])
            | maybe(0.2, allow=["*1*", "ann*"]),
            "groups": maybe(0.5, rules=[{"pattern": "^ACME-", "replacement": ""}, {"pattern": "o", "replacement": "0"}])
            | maybe(0.4, prefix="idp-")
            | maybe(0.4, everyone=["all", "Everybody"])
            | maybe(0.3, deny=["*secret"])
            | maybe(0.7, nesting=rng.choice(("preserve", "flatten", "ignore"))),
            "attributes": {
                "fields": {f: dump(any_value(rng, names, one=True)) for f in rng.sample(FIELDS, rng.randint(0, 3))},
                "extra": {a: dump(any_value(rng, names)) for a in rng.sample(("a", "b", "c"), rng.randint(0, 3))},
            },
        }
    )


def dump(value: Any) -> Any:
    return value if isinstance(value, str) else value.model_dump()


def last(rows: list[Explained], what: str) -> tuple[str, ...]:
    return [row for row in rows if row.what == what][-1].after


@pytest.mark.parametrize(("part", "people"), long_after(1, [(0, 2), (0, 5), (1, 5)]))
def test_explanations_agree_with_the_stages(part: int, people: int) -> None:
    seen = {"in scope": 0, "out of scope": 0, "held": 0, "mapped": 0, "groups": 0, "not mapped": 0, "refused": 0}
    for seed in range(part, 40, 2):
        rng = random.Random(seed)
        source, policy = any_company(rng), any_policy(rng)
        try:
            scoped = in_scope(source, policy)
            wanted = desired(scoped.snapshot, policy)
        except ConfigurationError:
            seen["refused"] += 1
            assert all(row.after != ("in scope",) for row in explain(source, policy, "p1") if row.what == "scope")
            continue
        matched = match(wanted, Snapshot.of(), ModelLinks().frame(), policy, "", source)
        users = {row["id"]: row for row in matched.users.to_dict("records")}
        groups = dict(zip(wanted.groups["id"], wanted.groups["name"], strict=True))
        memberships = set(wanted.memberships.astype("str").itertuples(index=False, name=None))
        reasons = dict(zip(matched.held["id"], matched.held["reason"], strict=True))
        for key in rng.sample(source.users["id"].tolist(), people):
            rows = explain(source, policy, key)
            note = (seed, key, rows)
            (scope,) = {row.after[0] for row in rows if row.what == "scope"}
            inside = key in set(scoped.snapshot.users["id"])
            held = key in set(scoped.snapshot.held["id"])
            assert scope == ("in scope" if inside else "held" if held else "out of scope"), note
            assert (key in scoped.users_out) == (scope == "out of scope"), note
            seen[scope] += 1
            if not inside:
                assert {row.what for row in rows} == {"scope"}, note
                continue
            for earlier, later in pairwise(rows):
                if earlier.what == later.what and later.what not in ("scope", "group", "held"):
                    assert earlier.after == later.before, note
            if key not in users:
                assert [row.rule for row in rows if row.what == "held"] == [reasons[key]], note
                seen["not mapped"] += 1
                continue
            user = users[key]
            assert last(rows, "username") == (user["username"],), note
            for field in policy.attributes.fields:
                assert (last(rows, field) or ("",)) == (user[field],), note
            attributes = orjson.loads(user["attributes"])
            for name in policy.attributes.extra:
                assert list(last(rows, f"attribute {name}")) == (attributes.get(name) or []), note
            gets = [row.after[0] for row in rows if row.what == "group" and row.after]
            expected = [groups[g] for g, m, kind in memberships if m == key and kind == "user" and g in groups]
            assert sorted(gets) == sorted(expected), note
            assert "held" not in {row.what for row in rows}, note
            seen["mapped"] += 1
            seen["groups"] += len(gets)
    assert min(seen.values()) >= 1, seen
    assert seen["groups"] > 10 * people, seen
