"""Every bad policy is refused in one line that begins with the file, names the field's path and says a way out."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from connectors.errors import ConfigurationError
from tasks.policy import Policy, read_policy
from tests.support.refused_policies import EVERYWHERE, NEEDED, REFUSED, UNKNOWN, lines_run, models, placed, raised, toml

NO_NUMBERS: list[Any] = [True, False, float("nan"), float("inf"), float("-inf"), [], {}, "", date(2026, 1, 1)]
NUMBERS: list[tuple[str, dict[str, Any], Any]] = [
    (f"{path}.{name}", placed(path, NEEDED.get(model.__name__, {}) | {name: bad}), bad)
    for path, model in EVERYWHERE
    for name, field in model.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
    for bad in NO_NUMBERS
]
WRONG = [
    (f"{path}.{name}", placed(path, NEEDED.get(model.__name__, {}) | {name: bad}))
    for path, model in EVERYWHERE
    for name, field in model.model_fields.items()
    for bad in (date(2026, 1, 1), *((7,) if not {int, float} & {field.annotation, *get_args(field.annotation)} else ()))
]
NULLS = [
    (
        f"{path}.{name}".lstrip("."),
        placed(f"{path}.{name}".lstrip("."), None)
        if not NEEDED.get(model.__name__)
        else placed(path, NEEDED[model.__name__] | {name: None}),
    )
    for path, model in models()
    for name, field in model.model_fields.items()
    if type(None) not in get_args(field.annotation)
]


def refusal(policy: dict[str, Any], path: Path, suffix: str) -> str:
    """The message, without the file that it begins with."""
    file = path / f"policy.{suffix}"
    text = "\n".join(f"{k} = {toml(v)}" for k, v in policy.items()) if suffix == "toml" else yaml.safe_dump(policy)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        read_policy(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert "errors.pydantic.dev" not in message
    return message.removeprefix(f"{file}: ")


def assert_told(message: str, begin: str) -> None:
    """`begin` begins the message; what stands behind a ~ is somewhere in it."""
    first, *rest = begin.split(" ~") if " ~" in begin else begin.split("~")
    assert message.startswith(first.rstrip()), message
    assert all(part in message for part in rest), message


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_every_bad_policy_is_refused_by_its_path(suffix: str, tmp_path: Path) -> None:
    for policy, begin in REFUSED:
        assert_told(refusal(policy, tmp_path, suffix), begin)
    print(f"{len(REFUSED)} bad policies in {suffix.upper()} refused")


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_an_unknown_field_is_refused_at_every_level(suffix: str, tmp_path: Path) -> None:
    assert len({path for path, _ in UNKNOWN}) >= 20
    for path, policy in UNKNOWN:
        assert refusal(policy, tmp_path, suffix).startswith(
            f"{path}: there is no such setting; check its spelling, or remove it"
        )


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_what_is_no_number_is_refused(suffix: str, tmp_path: Path) -> None:
    assert len(NUMBERS) > 150
    for path, policy, bad in NUMBERS:
        message = refusal(policy, tmp_path, suffix)
        assert message.startswith(f"{path}: "), message
        if isinstance(bad, bool):
            assert message == f"{path}: {str(bad).lower()} is no number; write one"


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_a_wrong_type_is_refused(suffix: str, tmp_path: Path) -> None:
    assert len(WRONG) > 100
    for path, policy in WRONG:
        assert refusal(policy, tmp_path, suffix).startswith(path)


def test_nothing_is_refused_where_a_value_is_needed(tmp_path: Path) -> None:
    assert len(NULLS) > 80
    for path, policy in NULLS:
        assert refusal(policy, tmp_path, "yaml").startswith(f"{path}: ")


def test_numbers_may_stand_in_quotes_and_fields_without_values_are_empty() -> None:
    policy = Policy.model_validate({"limits": {"user_delete": {"absolute": "5"}, "seats": None}})
    assert policy.limits.user_delete.absolute == 5
    assert Policy.model_validate({"leavers": {"delete_after_days": None}}) == Policy()


def test_every_refusal_in_the_code_has_a_row_here() -> None:
    wanted = raised("ValueError")
    assert len(wanted) >= 40

    def all_rows() -> None:
        for policy in [*(policy for policy, _ in REFUSED), *(policy for _, policy, _ in NUMBERS)]:
            with pytest.raises(ValidationError):
                Policy.model_validate(policy)

    seen = lines_run(all_rows)
    missing = {line: text for line, text in wanted.items() if line not in seen}
    print(f"{len(wanted)} places in tasks/policy raise ValueError, {len(wanted) - len(missing)} were reached")
    assert not missing
