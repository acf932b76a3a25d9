"""Policies that are refused, each with where and why; and which refusals of the code are reached."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import orjson
from pydantic import BaseModel

from connectors.model import ID_ATTRIBUTE
from tasks import policy as module
from tasks.policy import Policy, Value

LONG = "x" * 256


def at(path: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} of "a.b"."""
    for step in reversed(path.split(".")):
        value = {step: value}
    return dict(value)


def both(*parts: dict[str, Any]) -> dict[str, Any]:
    """Policies that say something of different fields, as one."""
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            whole[name] = both(whole[name], value) if isinstance(whole.get(name), dict) else value
    return whole


def rule(pattern: str, replacement: str = "") -> list[dict[str, str]]:
    return [{"pattern": pattern, "replacement": replacement}]


def conditions(*all_: dict[str, Any]) -> dict[str, Any]:
    return at("scope.conditions", [{"all": list(all_)}])


def condition(operator: str, *values: str, field: str = "dept") -> dict[str, Any]:
    return conditions({"field": field, "operator": operator, "values": list(values)})


def step(**given: Any) -> dict[str, Any]:
    return at("attributes.extra.x", {"sources": ["y"], "steps": [given]})


VALUES = "scope.conditions.0.all.0"
STEP = "attributes.extra.x.steps.0"
PATTERNS = [
    *(f"scope.{name}" for name in ("groups", "exclude_groups", "required_groups", "users", "exclude_users")),
    *(f"{part}.{name}" for part in ("usernames", "groups") for name in ("allow", "deny")),
    *(f"matching.{name}" for name in ("listed_users", "listed_groups")),
    *(f"protection.{name}" for name in ("users", "groups", "privileged_groups")),
    "limits.seat_groups",
]
BAD_PATTERNS = {
    "": "an empty pattern matches nothing; remove it",
    "  ": "an empty pattern matches nothing; remove it",
    " staff": "has blanks around it, which no name has; remove them",
    "staff\t": "has blanks around it, which no name has; remove them",
    "re:": "an empty expression fits everywhere; write one",
    "re:(a": "'(a' is not an RE2 regular expression (missing ",
    "re:(?=a)b": "look-around and back-references do not exist there",
    r"re:(a)\1": "look-around and back-references do not exist there",
    r"re:\Qa.b": "correct it",
    "re:a)|(b": "correct it",
    "re:.{900}": "is too large: with its counts written out and its classes it comes to 6,300, the limit is 2,000",
    r"re:\C": "write . for it",
    "x" * 2001: "is longer than 2,000 characters; make it several",
    "?" * 300: "is too large",
}
EXPRESSIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "usernames.rules.0.pattern": lambda x: at("usernames.rules", rule(x)),
    "groups.rules.0.pattern": lambda x: at("groups.rules", rule(x)),
    f"{STEP}.pattern": lambda x: step(function="replace", pattern=x),
    f"{VALUES}": lambda x: condition("matches", x),
}
REFUSED: list[tuple[dict[str, Any], str]] = [
    *((at(path, ["ok", bad]), f"{path}.1: ~{why}") for path in PATTERNS for bad, why in BAD_PATTERNS.items()),
    *(
        (made(bad.removeprefix("re:")), f"{path}: ~{why}")
        for path, made in EXPRESSIONS.items()
        for bad, why in BAD_PATTERNS.items()
        if bad.startswith("re:") and len(bad) > 3 and "{900}" not in bad
    ),
    *((made(".{400}"), f"{path}: ~the limit is") for path, made in EXPRESSIONS.items()),
    *((made(""), f"{path.removesuffix('.pattern')}") for path, made in EXPRESSIONS.items()),
    *(
        (at(f"{part}.rules", rule(r".*a{9}b?.{9}")), f"{part}.rules.0.pattern: ~begin it with ^")
        for part in ("usernames", "groups")
    ),
    *(
        (at(f"scope.{name}", ["ok", "id: "]), f"scope.{name}.1: 'id: ' has no id; write the group's id in the IdP")
        for name in ("groups", "exclude_groups", "required_groups")
    ),
    # Conditions.
    (condition("is_present", "x"), f"{VALUES}: is_present compares with nothing; remove values"),
    (condition("is_true", "x"), f"{VALUES}: is_true compares with nothing; remove values"),
    (condition("equals"), f"{VALUES}: equals needs values to compare with; add one"),
    (condition("above", "many"), f"{VALUES}: 'many' is no number; write one such as 42 or 0.5"),
    (condition("below", "nan"), f"{VALUES}: 'nan' is no number"),
    (condition("below", "inf"), f"{VALUES}: 'inf' is no number"),
    (condition("before", "31.12.2026"), f"{VALUES}: '31.12.2026' is no date; write it as 2026-12-31"),
    (condition("after", "2026-02-30"), f"{VALUES}: '2026-02-30' is no date"),
    (condition("contains", ""), f"{VALUES}: contains compares with an empty text; write one, or use is_absent"),
    (condition("starts_with", "a", ""), f"{VALUES}: starts_with compares with an empty text"),
    (condition("above", "1", "2"), f"{VALUES}: above compares with one value; keep one"),
    (condition("after", "2026-01-01", "2026-01-02"), f"{VALUES}: after compares with one value; keep one"),
    (condition("is", "x"), f"{VALUES}.operator: ~'equals', 'not_equals'"),
    (condition("equals", "x", field=""), f"{VALUES}.field: ~correct it"),
    (condition("equals", "x", field=" dept"), f"{VALUES}.field: ~has blanks around it; correct it"),
    (conditions(), "scope.conditions.0.all: there is none, so that everybody fits; add one, or remove the block"),
    (at("scope.conditions", {"field": "dept"}), "scope.conditions: ~must be a list"),
    (
        conditions({"field": "email", "values": ["a"]}, {"field": "email", "values": ["b"]}),
        "scope.conditions.0: email cannot equal two things at once, so nobody fits; use one condition",
    ),
    (
        conditions({"field": "x", "operator": "is_present"}, {"field": "x", "operator": "is_absent"}),
        "scope.conditions.0: x cannot be both is_present and is_absent, so nobody fits; remove one",
    ),
    # Scope.
    (at("scope.groups", []), 'scope: groups is empty, so the scope has none; write "*" for all'),
    (at("scope.users", []), 'scope: users is empty, so the scope has none; write "*" for all'),
    (at("scope.exclude_groups", ["*"]), "scope: exclude_groups leaves out everything that groups names"),
    (at("scope", {"users": ["a"], "exclude_users": ["b", "a"]}), "scope: exclude_users leaves out everything"),
    (at("scope.groups", "all"), "scope.groups: ~must be a list"),
    (at("scope.members_only", "maybe"), "scope.members_only: ~true or false"),
    # Names.
    (at("usernames.source", "display_name"), "usernames.source: ~'username' or 'email'"),
    (at("usernames.normalise", "NFD"), "usernames.normalise: ~'NFKC', 'NFC' or 'none'"),
    (at("usernames.case", "upper"), "usernames.case: ~'lower' or 'keep'"),
    (
        at("usernames.rules", rule("^.*$", "x")),
        "usernames.rules: they make 'ann.lee' and 'bob.ray' both 'x', so that everybody",
    ),
    (at("usernames.rules", rule("^.*@")), "usernames.rules: they make 'ann.lee@example.org' and ~correct the patterns"),
    (at("usernames.rules", [*rule("a"), *rule("[^@]")]), "usernames.rules: ~correct the patterns"),
    (
        at("usernames.rules", rule("(a)", r"\2")),
        "usernames.rules.0: replacement does not fit the pattern ~correct one of them",
    ),
    (
        at("usernames.rules", rule("a", "\\")),
        "usernames.rules.0: replacement does not fit the pattern ~correct one of them",
    ),
    (at("usernames.rules", [{"pattern": "a"}]), "usernames.rules.0.replacement: is missing; add it"),
    (at("usernames.rules", [{"replacement": "a"}]), "usernames.rules.0.pattern: is missing; add it"),
    (at("groups.rules", rule("^.*$", "x")), "groups.rules: they make 'staff' and 'teams' both 'x', so that everybody"),
    (at("groups.rules", rule("^ACME-.*", "x")), "groups.rules: they make 'ACME-Red Team' and ~correct the patterns"),
    (at("groups.prefix", " x-"), "groups.prefix: it begins with a blank, which Crowd takes off; remove it"),
    (at("groups.prefix", "x" * 101), "groups.prefix: ~at most 100 characters"),
    (at("groups.everyone", [""]), "groups.everyone: '': a group name has 1 to 255 characters ~correct it"),
    (at("groups.everyone", [" all"]), "groups.everyone: ' all': a group name has"),
    (at("groups.everyone", [LONG]), f"groups.everyone: '{'x' * 20}': a group name has"),
    (at("groups.everyone", ["a", "All", "all"]), "groups.everyone: 'All' stands there twice; keep one"),
    (at("groups.nesting", "keep"), "groups.nesting: ~'preserve', 'flatten' or 'ignore'"),
    *(
        (
            at(part, {"allow": allow, "deny": deny}),
            f"{part}: deny leaves nothing of what allow names ~change one of them",
        )
        for part in ("usernames", "groups")
        for allow, deny in (([], []), (["*"], ["*"]), (["a"], ["a", "b"]), (["a"], ["*"]))
    ),
    # Attributes.
    (at("attributes.fields", {"username": "x"}), "attributes.fields.username"),
    (at("attributes.fields.email", ""), "attributes.fields.email.sources.0: ~correct it"),
    (at("attributes.extra.x", "mail "), "attributes.extra.x.sources.0: ~correct it"),
    (at("attributes.fields.email", 3), "attributes.fields.email: ~a section"),
    (
        at("attributes.extra", {ID_ATTRIBUTE: "x"}),
        f"attributes.extra: {ID_ATTRIBUTE} is crowdsync's own mark ~choose another",
    ),
    (
        at("attributes.extra", {"": "x"}),
        "attributes.extra: '': an attribute name has 1 to 255 characters; choose another",
    ),
    (at("attributes.extra", {LONG: "x"}), "attributes.extra: ~1 to 255 characters; choose another"),
    (at("attributes.extra.x", {}), "attributes.extra.x: there is neither a source nor a default ~add one"),
    (at("attributes.fields.email", {"steps": [{"function": "lower"}]}), "attributes.fields.email: there is neither"),
    (at("attributes.fields.email", {"sources": "mail"}), "attributes.fields.email.sources: ~must be a list"),
    (
        at("attributes.fields.email", {"sources": ["a"], "steps": [{"function": "split", "separator": ","}]}),
        "attributes.fields: email: a field has one value, and split gives several; say which part",
    ),
    (step(function="shout"), f"{STEP}.function: ~'lower', 'upper'"),
    (step(), f"{STEP}.function: is missing; add it"),
    (step(function="lower", pattern="a"), f"{STEP}: lower does not read pattern; remove it"),
    (step(function="replace", pattern="a", value="b"), f"{STEP}: replace does not read value; remove it"),
    (step(function="trim", table={"a": "b"}), f"{STEP}: trim does not read table; remove it"),
    (step(function="default"), f"{STEP}: default needs value; add it"),
    (step(function="lookup"), f"{STEP}: lookup needs table; add it"),
    (step(function="split"), f"{STEP}: split needs separator; add it"),
    (step(function="replace"), f"{STEP}: replace needs pattern; add it"),
    (step(function="split", separator=",", part=0), f"{STEP}.part: parts are counted from 1 ~write another"),
    (step(function="split", separator=",", part="first"), f"{STEP}.part: ~whole number"),
    (
        step(function="lookup", table={"a": "x", "A": "y"}),
        f"{STEP}.table: two of its keys differ only in case ~keep one",
    ),
    (step(function="lookup", table={"a": 1}), f"{STEP}.table.a: ~must be text"),
    (step(function="default", value=LONG), f"{STEP}.value: ~at most 255 characters"),
    (step(function="replace", pattern="a", replacement=r"\1"), f"{STEP}: replacement does not fit the pattern"),
    # Matching.
    (at("matching.users", ["id", "name"]), "matching.users.1: ~'id', 'username' or 'email'"),
    (at("matching.users", "email"), "matching.users: ~must be a list"),
    (at("matching.groups", ["username"]), "matching.groups.0: ~'id' or 'name'"),
    (at("matching.adoption", "always"), "matching.adoption: ~'keys', 'listed' or 'never'"),
    (
        at("matching", {"users": ["email"], "adoption": "never"}),
        "matching: adoption is 'never' while 'email' is a key ~change one",
    ),
    (
        at("matching", {"users": ["email"], "adoption": "listed"}),
        "matching: adoption is 'listed' while listed_users and ~list some",
    ),
    (
        at("matching", {"adoption": "listed", "listed_users": ["a"]}),
        "matching: adoption is 'listed' while no key adopts; add",
    ),
    (at("matching.listed_groups", ["a"]), "matching: listed_users and listed_groups count only where ~remove them"),
    # Leavers.
    (at("leavers.out_of_scope", "empty"), "leavers.out_of_scope: ~'deactivate', 'take_groups'"),
    (at("leavers.groups", "deactivate"), "leavers.groups: ~'empty', 'delete' or 'nothing'"),
    (at("leavers.delete_after_days", 0), "leavers.delete_after_days: ~at least 1"),
    (at("leavers.delete_after_days", 3651), "leavers.delete_after_days: ~at most 3650"),
    (
        at("leavers", dict.fromkeys(("out_of_scope", "disabled", "deleted"), "nothing") | {"delete_after_days": 3}),
        "leavers: delete_after_days has nobody to wait for ~remove it",
    ),
    *(
        (
            at(f"leavers.{field}", "delete"),
            f"leavers.{field} is 'delete' while operations.user_delete is off; change one",
        )
        for field in ("out_of_scope", "disabled", "deleted")
    ),
    (
        at("leavers.delete_after_days", 9),
        "leavers.delete_after_days is set while operations.user_delete is off; change one",
    ),
    (
        at("leavers.groups", "delete"),
        "leavers.groups is 'delete' while operations.group_delete is off; change one of them",
    ),
    # Limits of nonsense.
    *(
        (at(f"limits.{name}.{field}", value), f"limits.{name}.{field}: ~{why}")
        for name, model in Policy().limits
        if isinstance(model, module.Limit)
        for field, value, why in (
            ("absolute", -1, "at least 0"),
            ("absolute", 1.5, "whole number"),
            ("absolute", "a lot", "whole number"),
            ("percent", -0.1, "at least 0"),
            ("percent", 101, "at most 100"),
            ("percent", "10%", "must be a number"),
        )
    ),
    (at("limits.user_create", 5), "limits.user_create: must be a section with fields such as absolute, percent"),
    (at("limits.seats", 5), "limits: seats has no groups to count in; name them in seat_groups"),
    (at("limits", {"seats": 0, "seat_groups": ["a"]}), "limits.seats: ~at least 1"),
    (at("limits.unusual_times", 1), "limits.unusual_times: ~more than 1"),
    (at("limits.unusual_runs", 2), "limits.unusual_runs: ~at least 3"),
    (at("limits.unusual_runs", 201), "limits.unusual_runs: ~at most 200"),
    (at("limits.window_hours", -1), "limits.window_hours: ~at least 0"),
    (at("limits.window_hours", 721), "limits.window_hours: ~at most 720"),
    (at("limits.held_runs", 0), "limits.held_runs: ~at least 1"),
    # Protection.
    (
        at("protection.privileged_allowed", ["staff"]),
        "protection.privileged_allowed names 'staff', which no pattern in privileged_groups matches; correct it",
    ),
    (at("protection.privileged_allowed", ["jira-administrators "]), "protection.privileged_allowed names"),
    (at("protection.users", ["a", "*"]), "protection.users protects everything ~narrow it"),
    (at("protection.groups", ["*"]), "protection.groups protects everything ~narrow it"),
    *(
        (
            at("groups.everyone", [*others, name]),
            f"groups.everyone names '{name}', which is protected or privileged; change it",
        )
        for name in ("jira-administrators", "Crowd-Administrators", "bamboo-admins", "ｊira-administrators")
        for others in ([], ["a"], ["a", "b"], ["a", "b", "c"])
    ),
    (
        both(at("groups.everyone", ["a", "vip-1", "b"]), at("protection.groups", ["vip-*"])),
        "groups.everyone names 'vip-1', which is protected or privileged; change it",
    ),
    (
        both(at("groups.prefix", "vip-"), at("protection.groups", ["vip-*"])),
        "groups.rules and groups.prefix make every name one such as 'vip-staff', which is protected ~change it",
    ),
    (at("groups.rules", rule("^", "bamboo-admin-")), "groups.rules and groups.prefix make every name one such as"),
    (
        at("canary.group", "crowd-administrators"),
        "canary.group names 'crowd-administrators', which is protected ~change it",
    ),
    # The rest.
    (at("canary", {"operations": 5, "group": "a"}), "canary: operations and group exclude each other; keep one"),
    (at("canary.operations", 0), "canary.operations: ~at least 1"),
    (at("canary.operations", 1001), "canary.operations: ~at most 1000"),
    (at("approval.when", "sometimes"), "approval.when: ~'above_limits', 'always' or 'never'"),
    (at("approval.dangers", ["deletions", "fire"]), "approval.dangers.1: ~'deletions', 'privileged'"),
    (at("approval.expires_hours", 0), "approval.expires_hours: ~more than 0"),
    (at("approval.expires_hours", 721), "approval.expires_hours: ~at most 720"),
    (at("approval.emptied_members", 0), "approval.emptied_members: ~at least 1"),
    (at("reads.full_every_hours", -1), "reads.full_every_hours: ~at least 0"),
    (at("reads.full_every_hours", "daily"), "reads.full_every_hours: ~must be a number"),
    (at("reads.by_key_percent", -1), "reads.by_key_percent: ~at least 0"),
    (at("reads.by_key_percent", 101), "reads.by_key_percent: ~at most 100"),
    (at("disclose", "all"), "disclose: ~'names' or 'values'"),
    *(
        (at(f"operations.{name}", "perhaps"), f"operations.{name}: ~'on', 'off' or 'report'")
        for name, _ in Policy().operations
        if name != "user_activate"
    ),
    (at("operations.user_activate", "perhaps"), "operations.user_activate: ~'on', 'off', 'report' or 'sign_in'"),
    (at("operations.nesting", 1), "operations.nesting: ~'on', 'off' or 'report'"),
]


def models(model: type[BaseModel] = Policy, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model in the policy with where it stands."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner, index in ((field.annotation, ""), *((one, ".0") for one in get_args(field.annotation))):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                key = {"fields": ".email", "extra": ".x"}.get(name, index) if inner is Value else index
                yield from models(inner, f"{path}.{name}{key}".lstrip("."))


def placed(path: str, value: Any) -> dict[str, Any]:
    """As `at`, where numbers in the path are places in lists, and what is needed stands beside the value."""
    for name in reversed(path.split(".")):
        value = [value] if name.isdigit() else {name: value}
        if name == "steps":
            value["sources"] = ["y"]
    return dict(value)


NEEDED: dict[str, dict[str, Any]] = {
    "Condition": {"field": "x", "values": ["y"]},
    "Conditions": {"all": [{"field": "x", "values": ["y"]}]},
    "Rule": {"pattern": "x", "replacement": "y"},
    "Step": {"function": "lower"},
    "Value": {"sources": ["y"]},
}
EVERYWHERE = [(path, model) for path, model in models() if path]
UNKNOWN = [("more", {"more": 1})] + [
    (f"{path}.more", placed(path, NEEDED.get(model.__name__, {}) | {"more": 1})) for path, model in EVERYWHERE
]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{orjson.dumps(k).decode()} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if isinstance(value, date) else orjson.dumps(value).decode()


FILES = tuple(str(file) for file in Path(str(module.__file__)).parent.glob("*.py"))
"""The files of tasks/policy."""


def raised(*names: str) -> dict[tuple[str, int], str]:
    """The lines of tasks/policy, by file and number, that raise these errors, and their text."""
    return {
        (file, node.lineno): lines[node.lineno - 1].strip()
        for file in FILES
        for lines in [Path(file).read_text(encoding="utf-8").splitlines()]
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.Raise) and node.exc
        if ast.unparse(node.exc).split("(")[0].split(".")[-1] in names
    }


def lines_run(work: Callable[[], object]) -> set[tuple[str, int]]:
    """The lines of tasks/policy that run meanwhile."""
    seen: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        file = frame.f_code.co_filename
        if file not in FILES:
            return None
        seen.add((file, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return seen
