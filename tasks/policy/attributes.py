"""What Crowd's fields and attributes are filled from.

The models say what a policy can state; `tasks/decide/values.py` makes the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from connectors.model import ID_ATTRIBUTE, MAX_TEXT
from tasks.policy.naming import Rule
from tasks.policy.section import PLAIN, Name, Section

CrowdField = Literal["email", "first_name", "last_name", "display_name"]
Function = Literal["lower", "upper", "trim", "replace", "split", "lookup", "default"]
_READS: Mapping[str, tuple[str, ...]] = {
    "lower": (),
    "upper": (),
    "trim": (),
    "replace": ("pattern", "replacement"),
    "split": ("separator", "part"),
    "lookup": ("table", "otherwise"),
    "default": ("value",),
}
"""What each function reads; the first it needs."""


class Step(Section):
    """One named function on a value; which of the other fields it reads stands beside them."""

    function: Function = Field(description="What is done with the value.")
    pattern: str = Field("", description="replace: RE2 expression, searched anywhere.")
    replacement: str = Field("", description=r"replace: what every match becomes; \1 is the first group.")
    separator: str = Field("", description="split: the text to split at.")
    part: int | None = Field(None, description="split: which part, 1 the first, -1 the last. Empty: all of them.")
    table: dict[str, str] = Field(default_factory=dict, description="lookup: value → what it becomes; case ignored.")
    otherwise: Literal["keep", "empty"] = Field("keep", description="lookup: what is not in the table.")
    value: str = Field("", max_length=MAX_TEXT, description="default: the value where there is none.")

    @field_validator("part")
    @classmethod
    def _a_part(cls, part: int | None) -> int | None:
        if part == 0:
            raise ValueError("parts are counted from 1, or from -1 backwards; 0 is none, write another")
        return part

    @field_validator("table")
    @classmethod
    def _one_answer(cls, table: dict[str, str]) -> dict[str, str]:
        if len({key.lower() for key in table}) < len(table):
            raise ValueError("two of its keys differ only in case, which is ignored; keep one")
        return table

    @model_validator(mode="after")
    def _fits(self) -> Step:
        reads = _READS[self.function]
        for name in type(self).model_fields:
            given = getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
            if name != "function" and given and name not in reads:
                raise ValueError(f"{self.function} does not read {name}; remove it")
        for name in reads[:1]:
            if not getattr(self, name):
                raise ValueError(f"{self.function} needs {name}; add it")
        if self.function == "replace":
            Rule(pattern=self.pattern, replacement=self.replacement)
        return self


class Value(Section):
    """How one value is made: from its sources, through the steps in their order."""

    sources: tuple[Name, ...] = Field((), description="Source fields or attributes. Empty: only the steps' default.")
    combine: Literal["first", "join"] = Field(
        "first", description="Of several sources: the first that is not empty, or all of them joined."
    )
    separator: str = Field(" ", description="Between joined values.")
    steps: tuple[Step, ...] = Field((), description="Functions on the value, in this order.")

    @model_validator(mode="after")
    def _some(self) -> Value:
        if not self.sources and not any(step.function == "default" for step in self.steps):
            raise ValueError("there is neither a source nor a default, so the value is always empty; add one")
        return self


def _value(given: object) -> object:
    return {"sources": (given,)} if isinstance(given, str) else given


Made = Annotated[Value, BeforeValidator(_value, json_schema_input_type=str | Value)]
"""A value, or the name of its one source."""


class Attributes(Section):
    """What Crowd's fields and attributes are filled from: a source field or attribute, or a value that is made."""

    fields: dict[CrowdField, Made] = Field(
        default_factory=dict,
        description="Crowd field → source field or attribute, or how it is made. Fields not named keep their own name.",
    )
    extra: dict[str, Made] = Field(
        default_factory=dict,
        description="Crowd attribute → source attribute, or how it is made. Only these are ever touched.",
    )

    @field_validator("extra")
    @classmethod
    def _theirs(cls, extra: dict[str, Value]) -> dict[str, Value]:
        for name in extra:
            if name == ID_ATTRIBUTE:
                raise ValueError(f"{ID_ATTRIBUTE} is crowdsync's own mark of ownership; choose another name")
            if not name or len(name) > MAX_TEXT:
                raise ValueError(f"{name[:20]!r}: an attribute name has 1 to {MAX_TEXT} characters; choose another")
        return extra

    @field_validator("fields")
    @classmethod
    def _single(cls, fields: dict[CrowdField, Value]) -> dict[CrowdField, Value]:
        for name, value in fields.items():
            if any(step.function == "split" and step.part is None for step in value.steps):
                raise ValueError(f"{name}: a field has one value, and split gives several; say which part")
        return fields

    def wanted(self) -> frozenset[str]:
        """The source attributes that this mapping reads."""
        every = (*self.fields.values(), *self.extra.values())
        return frozenset(name for one in every for name in one.sources) - PLAIN


def as_value(given: str | Value) -> Value:
    """A plain name is a value with one source."""
    return given if isinstance(given, Value) else Value(sources=(given,))
