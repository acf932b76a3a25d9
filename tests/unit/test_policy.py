"""A policy as text: its digest, every bad value refused with the field's path, patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from pydantic import ValidationError

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE
from connectors.settings import load
from tasks.policy import (
    Limit,
    Policy,
    matches,
    policy_of,
)
from tests.support.policy_company import LIMITS, WAYS, policy_with

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
    *((f"leavers.{way}", "empty", f"leavers.{way}") for way in WAYS),
    ("leavers.groups", "deactivate", "leavers.groups"),
    *((f"leavers.{way}", "delete", f"leavers.{way}") for way in WAYS),
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
    ("reads.by_key_percent", 101, "reads.by_key_percent"),
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
