"""Who and what of a source is in scope, by groups, names and conditions on fields and attributes.

The models say what a policy can state; `tasks/decide/filter.py` says who fits it.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.policy.patterns import GroupEntry, Pattern, checked
from tasks.policy.section import PLAIN, Name, Section

Operator = Literal[
    "equals",
    "not_equals",
    "contains",
    "starts_with",
    "ends_with",
    "matches",
    "is_present",
    "is_absent",
    "is_true",
    "is_false",
    "above",
    "below",
    "before",
    "after",
]


class Condition(Section):
    """One condition on a person. Text is compared without regard to case; of an attribute with several values, one
    must fit. Who has no value fits only the operators that say "not" or "absent"."""

    field: Name = Field(description="username, email, first_name, last_name, display_name, or attribute.")
    operator: Operator = Field(
        "equals",
        description="matches: RE2, of the whole value. above and below compare numbers, before and after dates.",
    )
    values: tuple[str, ...] = Field((), description="What to compare with: any of these. Dates as 2026-12-31.")

    @model_validator(mode="after")
    def _typed(self) -> Condition:
        if self.operator in ("is_present", "is_absent", "is_true", "is_false"):
            if self.values:
                raise ValueError(f"{self.operator} compares with nothing; remove values")
            return self
        if not self.values:
            raise ValueError(f"{self.operator} needs values to compare with; add one")
        for value in self.values:
            if self.operator == "matches":
                checked(value)
            if self.operator in ("above", "below"):
                _number(value)
            if self.operator in ("before", "after"):
                _date(value)
            if self.operator != "matches" and not value:
                raise ValueError(f"{self.operator} compares with an empty text; write one, or use is_absent")
        if self.operator in ("above", "below", "before", "after") and len(self.values) > 1:
            raise ValueError(f"{self.operator} compares with one value; keep one")
        return self


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise ValueError(f"{text!r} is no number; write one such as 42 or 0.5")
    return number


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date; write it as 2026-12-31") from None
    return text


class Conditions(Section):
    """Conditions that must all hold."""

    all: tuple[Condition, ...] = Field(description="All of these must hold.", json_schema_extra={"minItems": 1})

    @field_validator("all")
    @classmethod
    def _some(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        if not conditions:  # (`min_length` would be named beside every error in a condition)
            raise ValueError("there is none, so that everybody fits; add one, or remove the block")
        return conditions

    @model_validator(mode="after")
    def _possible(self) -> Conditions:
        allowed: dict[str, set[str]] = {}
        used: set[tuple[str, str]] = set()
        for one in self.all:
            used.add((one.field, one.operator))
            if one.operator == "equals":
                values = {value.lower() for value in one.values}
                if one.field in allowed and not allowed[one.field] & values and one.field in PLAIN:
                    raise ValueError(f"{one.field} cannot equal two things at once, so nobody fits; use one condition")
                allowed[one.field] = allowed.get(one.field, values) & values
        for a, b in (("is_present", "is_absent"), ("is_true", "is_false")):
            for field, _ in used:
                if {(field, a), (field, b)} <= used:
                    raise ValueError(f"{field} cannot be both {a} and {b}, so nobody fits; remove one")
        return self


class ScopePolicy(Section):
    """Who and what is in scope. Everybody else counts as having left."""

    model_config = ConfigDict(title="Scope")

    groups: tuple[GroupEntry, ...] = Field(
        ("*",), description="Groups to sync: globs, re: and an RE2 expression, or id: and the id in the IdP."
    )
    exclude_groups: tuple[GroupEntry, ...] = Field((), description="Groups to leave out, though they match above.")
    required_groups: tuple[GroupEntry, ...] = Field(
        (),
        description="People must be in one of these groups, also through nested groups. Of two groups of one name "
        "the one that had it first counts; id: names one for certain. Empty: no such rule.",
    )
    members_only: bool = Field(False, description="Leave out people who are in no synced group.")
    users: tuple[Pattern, ...] = Field(("*",), description="Usernames (as in the IdP) that may be in scope.")
    exclude_users: tuple[Pattern, ...] = Field((), description="Usernames (as in the IdP) to leave out.")
    conditions: tuple[Conditions, ...] = Field(
        (), description="On fields and attributes: one of these blocks must hold in full. Empty: no such rule."
    )

    @model_validator(mode="after")
    def _somebody(self) -> ScopePolicy:
        for wanted, out, what in (
            (self.groups, self.exclude_groups, "groups"),
            (self.users, self.exclude_users, "users"),
        ):
            if not wanted:
                raise ValueError(f'{what} is empty, so the scope has none; write "*" for all')
            if "*" in out or set(wanted) <= set(out):
                raise ValueError(f"exclude_{what} leaves out everything that {what} names; the scope matches nobody")
        return self

    def wanted(self) -> frozenset[str]:
        """The source attributes that the conditions read."""
        return frozenset(one.field for block in self.conditions for one in block.all) - PLAIN - {"active"}
