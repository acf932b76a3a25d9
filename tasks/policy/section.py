"""What all sections of a policy have in common, and the names of source fields and attributes."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

PLAIN = frozenset({"id", "username", "email", "first_name", "last_name", "display_name"})
"""Source fields; every other name is an attribute."""


def _name(name: str) -> str:
    if not name or name != name.strip():
        raise ValueError(f"{name[:60]!r} is the name of nothing: it is empty or has blanks around it; correct it")
    return name


Name = Annotated[str, AfterValidator(_name)]
"""Of a source field or attribute."""


class Section(BaseModel):
    """A section of a policy, or what stands in one: fields that it does not have are refused, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:  # else true would be 1
            raise ValueError(f"{str(value).lower()} is no number; write one")
        return value
