"""Every field of a policy matters: for each an effect that comes with it and not without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel

from connectors.model import Snapshot, held_frame
from connectors.operations import Kind
from connectors.store import ReadCursor
from tasks.decide.guard import Finding, Verdict, judge
from tasks.decide.impact import impact
from tasks.decide.plan import COLUMNS, Owned, Plan
from tasks.decide.removals import RecentRemovals
from tasks.policy import (
    FEATURES,
    PRIVILEGED,
    Condition,
    Conditions,
    Limit,
    Policy,
    Rule,
    Step,
    Value,
)
from tasks.read.news import most_by_key
from tasks.read.remember import last_read
from tasks.tell.report import lasting
from tasks.tell.rows import plan_rows
from tasks.write.approve import decide
from tasks.write.canary import canary
from tests.road import run_of
from tests.support.long import long_after
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.policy_company import (
    ACTIONS,
    DELETING,
    KINDS,
    LIMITS,
    LONG_AGO,
    OUT,
    WAYS,
    fields_of,
    gone_out,
    named,
    of_a_hundred,
    ops,
    policy_with,
    reasons,
    record,
    the_leavers,
    the_plan,
    world,
)
from tests.support.worlds import SOURCE, World, mark, planned


@dataclass(frozen=True)
class Effect:
    """A field, values of it, and what is seen under each; all else the same. `at`: the part of the policy that the
    values stand for, where it is more than the field alone."""

    path: str
    values: Sequence[Any]
    seen: Callable[[Policy], Any]
    expected: Sequence[Any]
    more: dict[str, Any] | None = None
    at: str = ""

    def policies(self) -> list[Policy]:
        return [policy_with(self.at or self.path, value, **deepcopy(self.more or {})) for value in self.values]


def of(*kinds: str, side: str = "name") -> Callable[[Policy], set[str]]:
    """The names of what operations of these kinds are about, or the groups of memberships."""
    return lambda policy: {
        name
        for name, kind in zip(the_plan(policy).operations[side], the_plan(policy).operations["kind"], strict=True)
        if kind in kinds
    }


def count_of(*kinds: str) -> Callable[[Policy], int]:
    return lambda policy: sum(the_plan(policy).counts().get(kind, 0) for kind in kinds)


def held_because(words: str) -> Callable[[Policy], set[str]]:
    return lambda policy: {key for key, why in reasons(the_plan(policy)).items() if words in why}


def everything_of(name: str) -> Callable[[Policy], set[tuple[str, str, str]]]:
    return lambda policy: {row for row in ops(the_plan(policy)) if name in row[1:]}


def who_left(name: str) -> Callable[[Policy], set[tuple[str, str, str]]]:
    return lambda policy: {row for row in ops(the_leavers(policy, LONG_AGO)) if name in row}


def made_again(policy: Policy) -> str:
    """What becomes of a group that was deleted in the source and made again under another id."""
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    made.crowd.add_group("team", "", f"{SOURCE}:old")
    made.groups.append(("new", "team", "", "{}"))
    found = planned(made.source(), made.crowd, made.links, policy)
    if found.held["reason"].str.contains("belongs to old, which is gone from the source").any():
        return "held" if found.operations.empty else "both"
    assert [(row.kind, row.name, row.source_id) for row in found.operations.itertuples()] == [
        ("group_attributes", "team", "new")
    ]
    asked = judge(found, policy).asks
    return "asked" if [ask.text.split(":")[0] for ask in asked] == ["handover"] else "done" if not asked else "other"


def in_record(kind: Kind, name: str, field: str) -> Callable[[Policy], Any]:
    return lambda policy: record(the_plan(policy), kind, name)[field]


def adopted(policy: Policy) -> set[str]:
    made = the_plan(policy).operations
    return set(made.loc[made["reason"].str.startswith("adopted by"), "name"])


def stopped_by(kind: Kind, count: int = 3) -> Callable[[Policy], tuple[str, ...]]:
    """The fields of the limits that stop a plan of a hundred."""
    return lambda policy: tuple(line.split(":")[0] for line in judge(of_a_hundred(kind, count), policy).stops)


PAST = pd.DataFrame({"plan": [4, 3, 2, 1], "membership_remove": [0, 0, 0, 9]}, dtype="int64")


def the_verdict(policy: Policy) -> tuple[str, ...]:
    """What stops the plan of `world`, by what it does to people; four plans were applied before."""
    made = world()
    of_world, directory = planned(made.source(), made.crowd, made.links, policy), made.crowd.snapshot()
    radius = impact(of_world.operations, directory, policy, PAST.head(policy.limits.unusual_runs))
    return tuple(line.split(":")[0] for line in judge(of_world, policy, radius).stops)


def long_held(policy: Policy) -> int:
    """Of two records that are held for two runs and for three, how many are told loudly."""
    known = pd.DataFrame({"kind": "user", "id": ["a", "b"], "reason": "", "runs": [2, 3]})
    run = run_of(None, None, SimpleNamespace(held_records=lambda *_: known), policy)  # type: ignore[arg-type]
    nothing = held_frame([("user", one, one, "map", "why") for one in "ab"])
    return len(lasting(run, Plan(nothing, nothing, {}, nothing, nothing, nothing, nothing, Owned(0, 0, 0, 0, 0), "")))


def counted_since(policy: Policy) -> timedelta | None:
    """How far back a run looks for what was taken away; None: not at all."""
    asked: list[datetime] = []

    class Journal:
        def removals(self, source: str, directory: str, since: datetime, *, pending: int | None) -> pd.DataFrame:
            asked.append(since)
            return RecentRemovals().removals

        def passed_limits(self, source: str, directory: str, since: datetime) -> dict[str, datetime]:
            return {}

    run_of(None, None, Journal(), policy).recent()  # type: ignore[arg-type]
    if not asked:
        return None
    return timedelta(hours=round((datetime.now(UTC) - asked[0]) / timedelta(hours=1)))


def judged_danger(policy: Policy) -> Verdict:
    """The verdict on a plan that deletes one account of a hundred."""
    of_nobody = pd.DataFrame({name: pd.array([], dtype="str") for name in COLUMNS})
    return judge(of_a_hundred(Kind.USER_DELETE, 1), policy, impact(of_nobody, Snapshot.of(), policy))


def agreement_ends(policy: Policy) -> timedelta:
    """How long a decision of the Prefect UI holds."""
    written: dict[str, Any] = {}
    store = SimpleNamespace(decide=lambda number, **given: written.update(given, number=number))
    decide(SimpleNamespace(policy=policy, store=store), 7, "d", (), "approve", "ann", "because")  # type: ignore[arg-type]
    assert (written["number"], written["digest"], written["actor"]) == (7, "d", "ann")
    lasts: timedelta = written["expires_at"] - written["at"]
    return lasts


def read_whole(policy: Policy) -> bool:
    """Whether a source that was read whole six hours ago is read whole again."""
    known = ReadCursor("m", "asked", datetime.now(UTC) - timedelta(hours=6), 1)
    store = SimpleNamespace(cursor=lambda stream: known, load_snapshot=lambda number: Snapshot.of())
    source = SimpleNamespace(capabilities=SimpleNamespace(delta=True))
    run = SimpleNamespace(
        source=source, store=store, policy=policy, request_digest="asked", source_side=SimpleNamespace(stream="s")
    )
    return asyncio.run(last_read(run)) is None  # type: ignore[arg-type]


def first_part(policy: Policy) -> list[tuple[str, str, str]]:
    chosen = canary(the_plan(policy).operations, policy.canary)
    return list(chosen[["kind", "name", "target"]].itertuples(index=False, name=None))


def shown_change(policy: Policy) -> str:
    rows = plan_rows(the_plan(policy).operations, policy.disclose)
    return next(row["changes"] for row in rows if (row["what"], row["who"]) == ("update", "bob"))


def display_name(policy: Policy) -> str:
    return str(record(the_plan(policy), Kind.USER_CREATE, "ann.lee")["display_name"])


def rule(pattern: str, replacement: str) -> list[dict[str, str]]:
    return [{"pattern": pattern, "replacement": replacement}]


def steps(*given: dict[str, Any], of: str = "username") -> dict[str, Any]:
    return {"sources": [of], "steps": list(given)}


NEW_PEOPLE, NEW_GROUPS = of("user_create"), of("group_create")
NEW = {"ann.lee", "loner", "by-mail"}
ALL_KEYS = {"users": ["id", "username", "email"], "groups": ["id", "name"]}
NO_LIMITS: dict[str, dict[str, Any]] = {name: {} for name in (*LIMITS, "group_loss")}
DELETE = {"operations": {"user_delete": "on"}, "limits": NO_LIMITS}
X_ORG = {"field": "email", "operator": "ends_with", "values": ["x.org"]}
F_AND_L: dict[str, Any] = {"sources": ["first_name", "last_name"]}
TEAM = [{"pattern": "^(fre)(sh)$", "replacement": r"\2\1"}]

EFFECTS = [
    Effect("reads.by_key_percent", (1, 50), lambda policy: most_by_key(5_000, policy), (50, 2_000)),
    Effect("reads.full_every_hours", (24, 5), read_whole, (False, True)),
    *(
        Effect(f"operations.{name}", ("on", "report"), count_of(*KINDS[name]), (number, 0), DELETING.get(name))
        for name, number in {
            "user_create": 3,
            "user_update": 1,
            "user_rename": 1,
            "user_activate": 1,
            "user_deactivate": 2,
            "user_delete": 1,
            "group_create": 1,
            "group_update": 1,
            "group_delete": 1,
            "membership_add": 5,
            "membership_remove": 2,
            "nesting": 2,
        }.items()
    ),
    # Scope.
    Effect("scope.groups", (["*"], ["staff"]), of("membership_add", side="target"), ({"staff", "inner"}, {"staff"})),
    Effect(
        "scope.exclude_groups", ([], ["STAFF"]), of("membership_add", side="target"), ({"staff", "inner"}, {"inner"})
    ),
    Effect(
        "scope.required_groups",
        ([], ["staff"], ["outer"]),
        lambda policy: NEW_PEOPLE(policy) | gone_out(the_plan(policy)),
        (NEW, {"ann.lee", "dan"}, {"dan", "bob", "old-name"}),
    ),
    Effect("scope.members_only", (False, True), NEW_PEOPLE, (NEW, {"ann.lee"})),
    Effect("scope.users", (["*"], ["ann*", "re:bo.|x"]), NEW_PEOPLE, (NEW, {"ann.lee"})),
    Effect("scope.exclude_users", ([], ["ANN*", "loner"]), NEW_PEOPLE, (NEW, {"by-mail"})),
    Effect(
        "scope.conditions",
        ([], [{"all": [{"field": "team", "values": ["red"]}]}, {"all": [{"field": "email", "values": ["BOX@x.org"]}]}]),
        NEW_PEOPLE,
        (NEW, {"ann.lee", "by-mail"}),
    ),
    # Names.
    Effect(
        "usernames.source",
        ("username", "email"),
        NEW_PEOPLE,
        (NEW, {"ann@x.org", "loner@x.org", "box@x.org", "unowned@x.org", "admin@x.org"}),
    ),
    Effect("usernames.normalise", ("NFKC", "NFC"), of("user_rename", side="target"), ({"cy"}, {"ｃｙ"})),
    Effect(
        "usernames.rules",
        ([], [{"pattern": r"^(\w+)\.(\w+)$", "replacement": r"\2.\1"}]),
        NEW_PEOPLE,
        (NEW, NEW - {"ann.lee"} | {"lee.ann"}),
    ),
    Effect("usernames.case", ("lower", "keep"), NEW_PEOPLE, (NEW, NEW - {"ann.lee"} | {"Ann.Lee"})),
    Effect("usernames.allow", (["*"], ["re:[a-z]+"]), held_because("none of usernames.allow"), (set(), {"p1", "p8"})),
    Effect("usernames.deny", ([], ["BO?", "re:.*mail"]), held_because("one of usernames.deny"), (set(), {"p2", "p8"})),
    Effect("groups.rules", ([], TEAM), NEW_GROUPS, ({"fresh"}, {"shfre"})),
    Effect("groups.prefix", ("", "x-"), NEW_GROUPS, ({"fresh"}, {"x-fresh", "x-theirs"})),
    Effect(
        "groups.allow",
        (["*"], ["staff", "re:.*ter|inner"]),
        held_because("none of groups.allow"),
        (set(), {"fresh", "theirs", "jira", "texts"}),
    ),
    Effect("groups.deny", ([], ["FRESH", "re:te.ts"]), held_because("one of groups.deny"), (set(), {"fresh", "texts"})),
    Effect(
        "groups.everyone",
        ([], ["all-of-us"]),
        lambda policy: {
            row[1] for row in ops(the_plan(policy)) if row[0] == "membership_add" and row[2] == "all-of-us"
        },
        (set(), NEW | {"bob", "cy", "eve"}),
    ),
    Effect(
        "groups.nesting",
        ("preserve", "flatten", "ignore"),
        everything_of("outer"),
        ({("nesting_add", "inner", "outer")}, {("membership_add", "eve", "outer")}, set()),
    ),
    Effect("groups.handover", ("do", "ask", "never"), made_again, ("done", "asked", "held")),
    # Values.
    Effect(
        "attributes.fields",
        ({}, {"email": "mail2"}),
        in_record(Kind.USER_CREATE, "ann.lee", "email"),
        ("ann@x.org", "ann@y.org"),
    ),
    Effect(
        "attributes.extra",
        ({}, {"crew": "team"}),
        in_record(Kind.USER_CREATE, "ann.lee", "attributes"),
        (mark("p1"), mark("p1") | {"crew": ["red"]}),
    ),
    # Matching.
    Effect("matching.users", (["id"], ["username"], ["email"]), adopted, (set(), {"unowned"}, {"mailed"})),
    Effect("matching.groups", (["id"], ["id", "name"]), adopted, (set(), {"theirs"})),
    Effect(
        "matching.adoption",
        (ALL_KEYS, ALL_KEYS | {"adoption": "listed", "listed_users": ["mailed"]}, {"adoption": "never"}),
        adopted,
        ({"unowned", "mailed", "theirs"}, {"mailed"}, set()),
        at="matching",
    ),
    *(
        Effect(
            f"matching.{field}",
            [ALL_KEYS | {"adoption": "listed", field: one} for one in (["nobody"], listed)],
            adopted,
            (set(), set(listed)),
            at="matching",
        )
        for field, listed in (("listed_users", ["unowned"]), ("listed_groups", ["theirs"]))
    ),
    # Leavers.
    *(
        Effect(
            f"leavers.{way}",
            list(ACTIONS),
            who_left(name),
            [named(rows, name) for rows in ACTIONS.values()],
            {"scope": OUT, "operations": {"user_delete": "on"}},
        )
        for way, name in WAYS.items()
    ),
    Effect(
        "leavers.delete_after_days",
        (None, 30, 31),
        lambda policy: the_leavers(policy, LONG_AGO).counts(),
        ({"user_deactivate": 2}, {"user_delete": 2}, {"user_deactivate": 2}),
        {"operations": {"user_delete": "on"}},
    ),
    Effect(
        "leavers.groups",
        ("empty", "delete", "nothing"),
        everything_of("gone-group"),
        ({("membership_remove", "bob", "gone-group")}, {("group_delete", "gone-group", "")}, set()),
        {"operations": {"group_delete": "on"}},
    ),
    # Limits.
    *(
        Effect(f"limits.{name}", ({}, {"absolute": 2}, {"percent": 3}), stopped_by(kind), ((), (name,), ()), {})
        for name, (kind, _) in LIMITS.items()
    ),
    Effect(
        "limits.group_membership_add",
        ({}, {"absolute": 3}),
        the_verdict,
        ((), ("group_membership_add",)),
        {"limits": dict(NO_LIMITS)},
    ),
    Effect(
        "limits.group_membership_remove",
        ({}, {"percent": 99}),
        the_verdict,
        ((), ("group_membership_remove",)),
        {"limits": dict(NO_LIMITS)},
    ),
    Effect(
        "limits.group_loss",
        ({}, {"absolute": 0}),
        the_verdict,
        ((), ("group_loss",)),
        {"limits": dict(NO_LIMITS)},
    ),
    Effect("limits.held_runs", (1, 3, None), long_held, (2, 1, 0)),
    Effect("limits.window_hours", (0, 24, 48), counted_since, (None, timedelta(hours=24), timedelta(hours=48))),
    Effect(
        "limits.seats",
        (None, 4, 3),
        the_verdict,
        ((), (), ("seats",)),
        {"limits": NO_LIMITS | {"seat_groups": ["sta*"]}},
    ),
    Effect(
        "limits.seat_groups",
        (["staff"], ["texts"], ["outer"], ["staff", "outer"]),
        lambda policy: impact(the_plan(policy).operations, world().crowd.snapshot(), policy).seats_after,
        (4, 0, 1, 4),
    ),
    Effect(
        "limits.unusual_times",
        (10, 2.9, None),
        the_verdict,
        ((), ("unusual",), ()),
        {"limits": NO_LIMITS | {"unusual_runs": 3}},
    ),
    Effect(
        "limits.unusual_runs",
        (3, 4),
        the_verdict,
        (("unusual",), ()),
        {"limits": NO_LIMITS | {"unusual_times": 2}},
    ),
    # Protection.
    Effect(
        "protection.users",
        (["admin"], ["B*", "admin"]),
        everything_of("texts"),
        (
            (
                {
                    ("membership_remove", "bob", "texts"),
                    ("group_update", "texts", ""),
                    ("nesting_remove", "texts", "inner"),
                }
            ),
            {("group_update", "texts", ""), ("nesting_remove", "texts", "inner")},
        ),
    ),
    Effect("protection.groups", ([], ["FRE*"]), NEW_GROUPS, ({"fresh"}, set())),
    Effect("protection.privileged_groups", (PRIVILEGED, ["fresh"]), NEW_GROUPS, ({"fresh"}, {"jira-administrators"})),
    Effect(
        "protection.privileged_allowed",
        ([], ["jira-administrators"]),
        NEW_GROUPS,
        ({"fresh"}, {"fresh", "jira-administrators"}),
    ),
    # Agreement.
    Effect(
        "approval.when",
        ("above_limits", "always", "never"),
        lambda policy: [
            (len(found.asks), len(found.refusals))
            for found in (judge(of_a_hundred(Kind.USER_CREATE, count), policy) for count in (0, 2, 3))
        ],
        ([(0, 0), (0, 0), (1, 0)], [(0, 0), (1, 0), (1, 0)], [(0, 0), (0, 0), (0, 1)]),
        {"limits": {"user_create": {"absolute": 2}}},
    ),
    Effect(
        "approval.dangers",
        ([], ["deletions"]),
        judged_danger,
        (
            Verdict(),
            Verdict(
                asks=(
                    Finding(
                        "deletions: 1 accounts and 0 groups are deleted (approval.dangers)",
                        (Kind.USER_DELETE, Kind.GROUP_DELETE),
                    ),
                )
            ),
        ),
    ),
    Effect(
        "approval.emptied_members",
        (1, 2),
        the_verdict,
        (("emptied_groups",), ()),
        {"limits": dict(NO_LIMITS), "approval": {"dangers": ["emptied_groups"]}},
    ),
    Effect("approval.expires_hours", (24, 1.5), agreement_ends, (timedelta(hours=24), timedelta(minutes=90))),
    Effect("canary.operations", (None, 1, 2), lambda policy: len(first_part(policy)), (0, 1, 2)),
    Effect(
        "canary.group",
        ("", "Inner", "fresh"),
        first_part,
        (
            [],
            [
                ("nesting_remove", "texts", "inner"),
                ("nesting_add", "inner", "outer"),
                ("membership_add", "eve", "inner"),
            ],
            [("group_create", "fresh", ""), ("group_attributes", "fresh", "")],
        ),
    ),
    Effect("disclose", ("names", "values"), shown_change, ("email", "email: old@x.org → bob@x.org")),
    # What stands in lists: rules, conditions, values and their steps, limits.
    *(
        Effect(f"Rule.{field}", values, NEW_PEOPLE, expected, at="usernames.rules")
        for field, values, expected in (
            (
                "pattern",
                [rule("[.]", "-"), rule("-", "-x")],
                [NEW - {"ann.lee"} | {"ann-lee"}, NEW - {"by-mail"} | {"by-xmail"}],
            ),
            (
                "replacement",
                [rule("[.]", "-"), rule("[.]", "")],
                [NEW - {"ann.lee"} | {name} for name in ("ann-lee", "annlee")],
            ),
        )
    ),
    *(
        Effect(path, [[{"all": conditions}] for conditions in values], NEW_PEOPLE, expected, at="scope.conditions")
        for path, values, expected in (
            (
                "Conditions.all",
                [[X_ORG], [X_ORG, {"field": "username", "operator": "contains", "values": ["-"]}]],
                [NEW, {"by-mail"}],
            ),
            (
                "Condition.field",
                [[{"field": field, "values": ["red", "l"]}] for field in ("team", "last_name")],
                [{"ann.lee"}, NEW],
            ),
            (
                "Condition.operator",
                [[{"field": "team", "operator": one, "values": ["red"]}] for one in ("equals", "not_equals")],
                [{"ann.lee"}, NEW - {"ann.lee"}],
            ),
            (
                "Condition.values",
                [[{"field": "team", "values": values}] for values in (["red"], ["blue"])],
                [{"ann.lee"}, set()],
            ),
        )
    ),
    *(
        Effect(path, values, display_name, expected, at="attributes.fields.display_name")
        for path, values, expected in (
            ("Value.sources", ["username", "email"], ["Ann.Lee", "ann@x.org"]),
            ("Value.combine", [F_AND_L | {"combine": one} for one in ("first", "join")], ["F", "F L"]),
            (
                "Value.separator",
                [F_AND_L | {"combine": "join", "separator": one} for one in (" ", "-")],
                ["F L", "F-L"],
            ),
            ("Value.steps", [steps(), steps({"function": "upper"})], ["Ann.Lee", "ANN.LEE"]),
            ("Step.function", [steps({"function": one}) for one in ("lower", "upper")], ["ann.lee", "ANN.LEE"]),
            (
                "Step.pattern",
                [steps({"function": "replace", "pattern": one, "replacement": "x"}) for one in ("n", "e")],
                ["Axx.Lee", "Ann.Lxx"],
            ),
            (
                "Step.replacement",
                [steps({"function": "replace", "pattern": "n", "replacement": one}) for one in ("", "m")],
                ["A.Lee", "Amm.Lee"],
            ),
            (
                "Step.separator",
                [steps({"function": "split", "separator": one, "part": 1}) for one in (".", "e")],
                ["Ann", "Ann.L"],
            ),
            (
                "Step.part",
                [steps({"function": "split", "separator": ".", "part": one}) for one in (1, 2)],
                ["Ann", "Lee"],
            ),
            (
                "Step.table",
                [steps({"function": "lookup", "table": {"RED": one}}, of="team") for one in ("R", "S")],
                ["R", "S"],
            ),
            (
                "Step.otherwise",
                [
                    steps({"function": "lookup", "table": {"blue": "B"}, "otherwise": one}, of="team")
                    for one in ("keep", "empty")
                ],
                ["red", ""],
            ),
            (
                "Step.value",
                [steps({"function": "default", "value": one}, of="missing") for one in ("a", "b")],
                ["a", "b"],
            ),
        )
    ),
    *(
        Effect(
            f"Limit.{field}",
            [{field: 2}, {field: 3}],
            stopped_by(Kind.USER_CREATE),
            (("user_create",), ()),
            at="limits.user_create",
        )
        for field in ("absolute", "percent")
    ),
]
IN_LISTS: tuple[type[BaseModel], ...] = (Rule, Conditions, Condition, Value, Step, Limit)


@pytest.mark.parametrize("effect", long_after(20, EFFECTS), ids=[effect.path for effect in EFFECTS])
def test_a_field_leads_to_what_it_says(effect: Effect) -> None:
    """Whoever ignores the field sees the same under all values, and one of these fails."""
    assert len({repr(one) for one in effect.expected}) > 1
    policies = effect.policies()
    for value, policy, expected in zip(effect.values, policies, effect.expected, strict=True):
        assert effect.seen(policy) == expected, value
    assert len({policy.digest() for policy in policies}) == len(policies)


def test_every_field_has_its_effect_here() -> None:
    wanted = {*fields_of(Policy), *(f"{model.__name__}.{name}" for model in IN_LISTS for name in model.model_fields)}
    paths = [effect.path for effect in EFFECTS]
    assert sorted(paths) == sorted(wanted)
    kinds = (getattr(field.annotation, "__name__", None) for field in Policy.model_fields.values())
    parts = {name for name in kinds if name is not None}
    assert set(Policy.model_json_schema()["$defs"]) == parts - {"Literal"} | {model.__name__ for model in IN_LISTS}
    assert FEATURES.keys() == set(Kind)


def test_the_digest_is_that_of_what_the_policy_says() -> None:
    assert Policy().digest() == Policy.model_validate({}).digest() == Policy.model_validate_json("{}").digest()
    every = {policy.model_dump_json(): policy.digest() for effect in EFFECTS for policy in effect.policies()}
    assert len(set(every.values())) == len(every)
    print(f"{len(EFFECTS)} fields, {len(every)} policies, each with a digest of its own")
