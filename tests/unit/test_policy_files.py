"""A policy's file: TOML or YAML, in crowdsync.toml or beside it; and its schema, for editors."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from connectors.errors import ConfigurationError
from connectors.settings import load
from tasks.policy import MAX_FILE, Policy, policy_of, read_policy, schema
from tests.support.refused_policies import REFUSED, UNKNOWN, lines_run, models, raised, toml

WHOLE: dict[str, Any] = {
    "reads": {"full_every_hours": 12.5, "by_key_percent": 0.5},
    "operations": {"user_delete": "report", "group_delete": "on", "nesting": "off", "user_rename": "report"},
    "scope": {
        "groups": ["app-*", "re:(?i)team[-_ ].+"],
        "exclude_groups": ["app-test-*"],
        "required_groups": ["employees"],
        "members_only": True,
        "users": ["*"],
        "exclude_users": ["svc-?"],
        "conditions": [
            {"all": [{"field": "email", "operator": "ends_with", "values": ["@example.org"]}]},
            {
                "all": [
                    {"field": "contract_ends", "operator": "after", "values": ["2026-12-31"]},
                    {"field": "dept"} | {"operator": "is_present"},
                ]
            },
            {
                "all": [
                    {"field": "level", "operator": "above", "values": ["3"]},
                    {"field": "x", "values": ["on", "Ünïcode"]},
                ]
            },
        ],
    },
    "usernames": {
        "source": "email",
        "normalise": "NFC",
        "rules": [{"pattern": "@.*$", "replacement": ""}, {"pattern": r"(\w+)\.(\w+)", "replacement": r"\2.\1"}],
        "case": "keep",
        "allow": ["*"],
        "deny": ["root", "admin*"],
    },
    "groups": {
        "rules": [{"pattern": "^ACME-", "replacement": ""}],
        "prefix": "idp-",
        "allow": ["idp-*"],
        "deny": ["idp-secret*"],
        "everyone": ["all staff"],
        "nesting": "flatten",
    },
    "attributes": {
        "fields": {
            "email": "mail",
            "display_name": {"sources": ["first_name", "last_name"], "combine": "join", "separator": " "},
        },
        "extra": {
            "crew": "team",
            "office": {
                "sources": ["city", "site"],
                "steps": [
                    {"function": "trim"},
                    {"function": "replace", "pattern": r"\s+", "replacement": " "},
                    {"function": "split", "separator": ",", "part": -1},
                    {"function": "lookup", "table": {"muc": "Munich"}, "otherwise": "empty"},
                    {"function": "default", "value": "elsewhere"},
                ],
            },
        },
    },
    "matching": {
        "users": ["id", "email"],
        "groups": ["id", "name"],
        "adoption": "listed",
        "listed_users": ["a*"],
        "listed_groups": ["b"],
    },
    "leavers": {
        "out_of_scope": "take_groups",
        "disabled": "deactivate_and_take_groups",
        "deleted": "delete",
        "delete_after_days": 90,
        "groups": "delete",
    },
    "limits": {
        "user_create": {"absolute": 100},
        "user_deactivate": {"absolute": 10, "percent": 2.5},
        "group_membership_add": {"percent": 50},
        "seat_groups": ["jira-users"],
        "seats": 500,
        "unusual_times": 5,
        "unusual_runs": 30,
        "group_loss": {"percent": 30},
        "window_hours": 48,
        "held_runs": 9,
    },
    "protection": {"users": ["admin", "root"], "groups": ["vip-*"], "privileged_allowed": ["jira-administrators"]},
    "approval": {"when": "always", "dangers": ["deletions", "privileged"], "expires_hours": 8, "emptied_members": 3},
    "canary": {"operations": 20},
    "disclose": "values",
}
"""A policy in which hardly a field has its default."""

HEAD = (
    '[directory]\nurl = "https://crowd.example.org/crowd"\napplication = "sync"\n'
    '[sources.acme]\nkind = "scim"\nurl = "https://idp.example.org"\n'
)


def as_toml(policy: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {toml(value)}" for name, value in policy.items())


def written(path: Path, name: str, text: str) -> Path:
    file = path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def refused(file: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        read_policy(file)
    message = str(error.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    return message


def of_yaml(path: Path, text: str) -> Policy:
    return read_policy(written(path, "policy.yaml", text))


# ── one policy, wherever it stands ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", [WHOLE, {}, {"disclose": "values"}], ids=["whole", "none", "one field"])
def test_a_policy_is_the_same_wherever_it_stands(policy: dict[str, Any], tmp_path: Path) -> None:
    inside = written(tmp_path, "inside.toml", f"{HEAD}policy = {toml(policy)}\n")
    digests = {Policy.model_validate(policy).digest(), policy_of(load(inside), "acme").digest()}
    texts = {
        "policy.toml": as_toml(policy),
        "POLICY.TOML": as_toml(policy),
        "policies/policy.yaml": yaml.safe_dump(policy),
        "policies/policy.yml": yaml.safe_dump(policy, default_flow_style=False, allow_unicode=True, sort_keys=False),
        "policy": json.dumps(policy),
        "policy.json": json.dumps(policy, indent=2),
        "marked.toml": "\ufeff" + as_toml(policy),
        "marked.yaml": "\ufeff" + yaml.safe_dump(policy),
        "crlf.toml": as_toml(policy).replace("\n", "\r\n"),
    }
    for name, text in texts.items():
        written(tmp_path, name, text)
        outside = written(tmp_path, "outside.toml", f'{HEAD}policy_file = "{name}"\n')
        digests |= {read_policy(tmp_path / name).digest(), policy_of(load(outside), "acme").digest()}
    assert len(digests) == 1
    print(f"{len(texts)} files and crowdsync.toml: one digest, {digests.pop()[:12]}")


def test_a_plain_name_is_a_value_with_one_source() -> None:
    plain, made = ({"attributes": {"extra": {"crew": value}}} for value in ("team", {"sources": ["team"]}))
    assert Policy.model_validate(plain).digest() == Policy.model_validate(made).digest()


def test_the_file_is_sought_beside_crowdsync_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "conf/policy.yaml", "disclose: values")
    written(tmp_path, "elsewhere/policy.yaml", "disclose: names")
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = written(tmp_path, "conf/crowdsync.toml", f'{HEAD}policy_file = "policy.yaml"\n')
    assert policy_of(load(settings), "acme").disclose == "values"
    absolute = tmp_path / "elsewhere" / "policy.yaml"
    settings = written(tmp_path, "conf/crowdsync.toml", f'{HEAD}policy_file = "{absolute}"\n')
    assert policy_of(load(settings), "acme").disclose == "names"
    monkeypatch.chdir(tmp_path / "conf")
    written(tmp_path, "conf/crowdsync.toml", f'{HEAD}policy_file = "../elsewhere/policy.yaml"\n')
    assert policy_of(load(), "acme").disclose == "names"


@pytest.mark.parametrize("text", ["on", "On", "ON", "true", "True", "yes", '"on"', "'on'"])
def test_on_and_true_turn_a_feature_on(text: str, tmp_path: Path) -> None:
    assert of_yaml(tmp_path, f"operations:\n  user_delete: {text}\n").operations.user_delete == "on"


@pytest.mark.parametrize("text", ["off", "Off", "false", "no", '"off"'])
def test_off_and_false_turn_a_feature_off(text: str, tmp_path: Path) -> None:
    assert of_yaml(tmp_path, f"operations:\n  user_create: {text}\n").operations.user_create == "off"


def test_toml_knows_true_and_on_too(tmp_path: Path) -> None:
    text = 'operations.user_delete = true\noperations.user_create = false\noperations.nesting = "off"\n'
    policy = read_policy(written(tmp_path, "p.toml", text + 'operations.group_delete = "on"\n'))
    one = policy.operations
    assert (one.user_delete, one.user_create, one.nesting, one.group_delete) == ("on", "off", "off", "on")
    quoted = 'operations = {user_delete = "on", user_create = "off", nesting = "off", group_delete = "on"}'
    assert read_policy(written(tmp_path, "q.toml", quoted)).digest() == policy.digest()


def test_comments_alone_are_the_default_policy(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.toml"):
        assert read_policy(written(tmp_path, name, "# nothing yet\n")) == Policy()


# ── what cannot be read ─────────────────────────────────────────────────────────────────────────


def test_policy_and_policy_file_exclude_each_other(tmp_path: Path) -> None:
    written(tmp_path, "policy.yaml", "disclose: values")
    file = written(tmp_path, "c.toml", f'{HEAD}policy_file = "policy.yaml"\npolicy.disclose = "names"\n')
    with pytest.raises(ConfigurationError) as error:
        policy_of(load(file), "acme")
    assert str(error.value) == f"{file}: sources.acme: policy and policy_file exclude each other; keep one"


def test_an_error_in_crowdsync_toml_begins_with_the_source(tmp_path: Path) -> None:
    file = written(tmp_path, "c.toml", f"{HEAD}policy.limits.user_delete.percent = 101\n")
    with pytest.raises(ConfigurationError) as error:
        policy_of(load(file), "acme")
    assert str(error.value).startswith(f"{file}: sources.acme.policy.limits.user_delete.percent: ")


def deep(levels: int) -> str:
    return "scope: " + "[" * levels + "]" * levels


LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
UNREADABLE: list[tuple[str, str, str]] = [
    ("a.yaml", "[scope]", "holds no fields; begin with one, such as `scope:`"),
    ("a.yaml", "scope", "holds no fields; begin with one"),
    ("a.yaml", "7", "holds no fields; begin with one"),
    ("a.yaml", "scope: [", "cannot be read as YAML: while parsing ~line 1~; correct it"),
    ("a.yaml", "scope: groups: x", "cannot be read as YAML: ~line 1~; correct it"),
    ("a.yaml", "scope:\n\tgroups: []", "cannot be read as YAML: ~line 2~; correct it"),
    ("a.yaml", "disclose: names\n---\ndisclose: values", "cannot be read as YAML: ~single document~; correct it"),
    ("a.yaml", "scope: 2026-02-31", "cannot be read as YAML: ~; correct it"),
    ("a.yaml", "scope: '\x07'", "cannot be read as YAML: ~; correct it"),
    ("a.yaml", "? [a]\n: b", "cannot be read as YAML: ~; correct it"),
    (
        "a.yaml",
        "disclose: names\ndisclose: values",
        "cannot be read as YAML: in what begins in line 1, 'disclose' stands twice; correct it",
    ),
    ("a.yaml", "disclose: names\n'disclose': names", "cannot be read as YAML: ~'disclose' stands twice"),
    (
        "a.yaml",
        "scope:\n  groups: [a]\n  users: [b]\n  groups: [c]",
        "cannot be read as YAML: in what begins in line 2, 'groups' stands twice",
    ),
    (
        "a.yaml",
        "attributes:\n  extra: {a: x, b: y, a: z}",
        "cannot be read as YAML: in what begins in line 2, 'a' stands twice",
    ),
    ("a.yaml", "usernames: {rules: [{pattern: a, pattern: b}]}", "cannot be read as YAML: ~'pattern' stands twice"),
    (
        "a.yaml",
        LAUGHS,
        "cannot be read as YAML: line 1 has an anchor, an alias or a tag, which a policy cannot have; correct it",
    ),
    ("a.yaml", "scope: &x\n  groups: [*x]", "cannot be read as YAML: line 1 has an anchor"),
    ("a.yaml", "scope: *x", "cannot be read as YAML: line 1 has an anchor, an alias"),
    ("a.yaml", "scope:\n  <<: {groups: [a]}\n  groups: [b]", "cannot be read as YAML: line 2 has a merge"),
    ("a.yaml", "scope: {groups: !!set {b, a}}", "cannot be read as YAML: line 1 has an anchor, an alias or a tag"),
    (
        "a.yaml",
        "x: !!python/object/apply:os.system [id]",
        "cannot be read as YAML: line 1 has an anchor, an alias or a tag",
    ),
    (
        "a.yaml",
        r'scope: {groups: ["\ud800"]}',
        "cannot be read as YAML: line 1 has half a letter, which is no text; correct",
    ),
    ("a.yaml", r'attributes: {extra: {"\udfff": x}}', "cannot be read as YAML: line 1 has half a letter"),
    ("a.yaml", deep(5000), "is nested too deep; a policy has a few levels only"),
    ("a.toml", "a = " + "[" * 5000 + "]" * 5000, "is nested too deep; a policy has a few levels only"),
    ("a.yaml", "limits: {seats: " + "9" * 5000 + "}", "cannot be read as YAML: ~; correct it"),
    ("a.toml", "limits.seats = " + "9" * 5000, "cannot be read as TOML: ~; correct it"),
    ("a.toml", "disclose: names", "cannot be read as TOML: ~line 1~; correct it"),
    ("a.toml", 'disclose = "names"\ndisclose = "values"', "cannot be read as TOML: ~; correct it"),
    ("a.toml", "[scope]\n[scope]", "cannot be read as TOML: ~; correct it"),
    ("a.yaml", "# " + "x" * MAX_FILE, "is larger than 1,000,000 bytes; shorten it"),
    ("a.toml", "# " + "é" * (MAX_FILE // 2), "is larger than 1,000,000 bytes; shorten it"),
]


@pytest.mark.parametrize(("name", "text", "why"), UNREADABLE, ids=[f"{n}-{t[:20]!r}" for n, t, _ in UNREADABLE])
def test_what_cannot_be_read_is_refused_in_one_line(name: str, text: str, why: str, tmp_path: Path) -> None:
    file = written(tmp_path, name, text)
    message = refused(file).removeprefix(f"{file} ")
    first, *rest = why.split("~")
    assert message.startswith(first), message
    assert all(part in message for part in rest), message
    assert len(message) < 400


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml").endswith(
        " cannot be read: No such file or directory; name the policy's file"
    )
    assert refused(tmp_path).endswith(" cannot be read: Is a directory; name the policy's file")
    (tmp_path / "latin.yaml").write_bytes("scope: {groups: [Größe]}".encode("latin-1"))
    assert refused(tmp_path / "latin.yaml").endswith(" is not UTF-8 text; save it as such")
    file = written(tmp_path, "c.toml", f'{HEAD}policy_file = "none.yaml"\n')
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read: No such file"):
        policy_of(load(file), "acme")


def test_keys_and_values_of_other_types_are_refused_by_their_path(tmp_path: Path) -> None:
    for text, path in (
        ("1: x", "1: "),
        ("on: x", "1: "),
        ("scope: {1: x}", "scope.1: "),
        ("scope: {groups: [2026-01-01]}", "scope.groups.0: "),
        ("scope: {groups: [on]}", "scope.groups.0: "),
        ("scope: {groups: {a, b}}", "scope.groups: "),
        ("disclose:", "disclose: "),
    ):
        file = written(tmp_path, "a.yaml", text)
        assert refused(file).removeprefix(f"{file}: ").startswith(path)


def test_every_refusal_of_a_file_has_a_row_here(tmp_path: Path) -> None:
    # Where Python's stack ends, it ends tracing too; two rows above read that refusal.
    wanted = {n: text for n, text in raised("ConfigurationError", "YAMLError").items() if "too deep" not in text}

    def all_rows() -> None:
        for name, text, why in [*UNREADABLE, ("bad.toml", "more = 1", "")]:
            if "too deep" in why:
                continue
            refused(written(tmp_path, name, text))
        test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path)
        test_policy_and_policy_file_exclude_each_other(tmp_path)

    seen = lines_run(all_rows)
    missing = {line: text for line, text in wanted.items() if line not in seen}
    print(f"{len(wanted)} places refuse a file, {len(wanted) - len(missing)} were reached")
    assert not missing


# ── the schema ──────────────────────────────────────────────────────────────────────────────────

VALIDATOR = jsonschema.Draft202012Validator(schema())


def spoilt(policy: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """The policy with one field of another type, out of bounds, unknown or gone, at every place in it."""
    bad: list[Any] = [
        None,
        -1,
        0,
        1,
        2.5,
        10**9,
        True,
        False,
        "",
        "nonsense",
        [],
        {},
        ["x"],
        {"x": "y"},
        [7],
        [None],
        "on",
    ]

    def places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        ):
            yield from places(inner, (*path, key))

    def changed(path: tuple[Any, ...], value: Any, key: Any = None) -> dict[str, Any]:
        whole = copy.deepcopy(policy)
        inner: Any = whole
        for step in path[:-1]:
            inner = inner[step]
        if key is not None:
            inner[path[-1]][key] = value
        elif value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return whole

    for path in places(policy, ()):
        inner: Any = policy
        for step in path:
            inner = inner[step]
        yield changed(path, ...)
        if isinstance(inner, dict):
            yield changed(path, 1, "more")
        for value in rng.sample(bad, 8):
            yield changed(path, value)
    yield {**policy, "more": {}}


def by_schema(policy: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(policy))


def by_policy(policy: dict[str, Any]) -> tuple[bool, str]:
    """Whether it is taken; and what a schema cannot say of it, if only that is wrong."""
    try:
        Policy.model_validate(policy)
    except ValidationError as error:
        return False, "" if any(one["type"] != "value_error" for one in error.errors()) else str(error)
    return True, ""


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["additionalProperties"] is False
    json.dumps(schema())


def test_the_schema_takes_what_the_policy_takes() -> None:
    """Of policies with one field spoilt. They differ only in what no schema knows: what contradicts itself, or is no
    pattern."""
    rng, counts = (
        random.Random(5),
        {"both take": 0, "both refuse": 0, "only the policy refuses": 0, "only the policy takes": 0},
    )
    assert by_schema(WHOLE)
    assert by_schema({})
    for policy in spoilt(WHOLE, rng):
        (taken, beyond), valid = by_policy(policy), by_schema(policy)
        if taken and not valid:  # 1 and "on" are as good as true to us
            (error,) = VALIDATOR.iter_errors(policy)
            assert list(error.path) == ["scope", "members_only"], error
            counts["only the policy takes"] += 1
        elif taken:
            counts["both take"] += 1
        elif valid:
            assert beyond, policy
            counts["only the policy refuses"] += 1
        else:
            counts["both refuse"] += 1
    print(counts)
    assert sum(counts.values()) > 1000
    assert counts["only the policy takes"] <= 3
    assert sorted(counts.values())[1] > 50


def test_the_schema_takes_nothing_with_a_field_that_is_unknown() -> None:
    for _, policy in UNKNOWN:
        assert not by_schema(policy)


def test_the_schema_refuses_what_it_can_of_all_that_is_refused() -> None:
    refusals = [(policy, by_policy(policy)) for policy, _ in REFUSED]
    for policy, (taken, beyond) in refusals:
        assert not taken
        assert beyond or not by_schema(policy), policy


def test_every_field_is_described() -> None:
    for path, model in models():
        assert model.__doc__, path
        for name, field in model.model_fields.items():
            inner = [field.annotation, *get_args(field.annotation)]
            part = next((one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)), None)
            told = field.description or (path == "" and part and part.__doc__)
            assert told, f"{path}.{name} has no description"
            assert str(told).rstrip().endswith("."), f"{path}.{name}: {told}"


def test_every_part_has_a_title_and_a_description_in_the_schema() -> None:
    made = schema()
    for name, part in made["properties"].items():
        assert part.get("title") or made["$defs"][part["$ref"].split("/")[-1]]["title"], name
        assert part.get("description") or made["$defs"][part["$ref"].split("/")[-1]]["description"]
    for name, part in made["$defs"].items():
        assert part["description"], name
        assert all("description" in field for field in part["properties"].values()), name
