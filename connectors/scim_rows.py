"""SCIM resources → rows: what connectors share that read them, wherever they come from (RFC 7643)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from connectors.model import GroupRow, UserRow
from connectors.records import Doubts, Flaw, Record, Rows, address, each, inner, names, optional, scim_path
from connectors.records import attributes as attributes_of

_READ: Final = (
    *("id", "userName", "name", "givenName", "familyName", "formatted", "displayName", "emails", "value", "type"),
    *("primary", "active", "members", "description", "$ref", "display", "groups"),
)
_CORE: Final = {name.lower(): name for name in _READ}


def user_rows(attributes: Iterable[str], absent_active: bool = True) -> Rows[UserRow]:
    """A function (records, where they stand, held) → rows; what cannot be a row is added to `held`."""
    extra = attributes_of(attributes, scim_path("scim"))

    def one(record: Record, doubts: Doubts) -> UserRow:
        if not isinstance(record, dict):
            raise Flaw("the record is not an object")
        if "active" not in record or "userName" not in record:
            record = folded(record)
        key, username = record.get("id"), record.get("userName")
        if type(key) is not str or not key:
            raise Flaw("no id, or one that is not text")
        if type(username) is not str or not username:
            raise Flaw("no userName, or one that is not text")
        active = record.get("active")
        if active is not True and active is not False:
            if active is None:
                active = absent_active
            else:
                active = {"true": True, "false": False}.get(active.lower() if type(active) is str else "")
                if active is None:
                    raise Flaw("`active` is neither true nor false")
        name = record.get("name")
        if type(name) is not dict:
            name = inner(record, "name", doubts, "first_name", "last_name")
        first, last, whole = name.get("givenName", ""), name.get("familyName", ""), name.get("formatted", "")
        if not type(first) is type(last) is type(whole) is str:
            first, last, whole = names(name, ("givenName", "familyName", "formatted"), doubts)
        display = record.get("displayName", "")
        if type(display) is not str:
            display = optional(record, "displayName", doubts, "display_name")
        display = display or whole or f"{first} {last}".strip()
        email = address(record.get("emails"), doubts)
        return key, username, email, first, last, display, active, extra(record, doubts)

    return each(one, "user", "userName", disabled, folded)


def group_rows(attributes: Iterable[str]) -> Rows[GroupRow]:
    """As `user_rows`."""
    extra = attributes_of(attributes, scim_path("scim"))

    def one(record: Record, doubts: Doubts) -> GroupRow:
        if not isinstance(record, dict):
            raise Flaw("the record is not an object")
        if "displayName" not in record:
            record = folded(record)
        key, name = record.get("id"), record.get("displayName")
        if type(key) is not str or not key:
            raise Flaw("no id, or one that is not text")
        if type(name) is not str or not name:
            raise Flaw("no displayName, or one that is not text")
        return key, name, optional(record, "description", doubts), extra(record, doubts)

    return each(one, "group", "displayName", spelt=folded)


def disabled(record: Record) -> bool:
    """Whether a user is disabled for certain."""
    active = record.get("active")
    return active is False or (type(active) is str and active.lower() == "false")


def folded(value: Any, deep: int = 3) -> Any:
    """The same with the attributes we read spelt as in RFC 7643: names are case-insensitive (2.1). We read none that
    is deeper than `emails`, a list, an object."""
    if isinstance(value, dict) and deep:
        return {_CORE.get(key.lower(), key): folded(one, deep - 1) for key, one in value.items()}
    return [folded(one, deep - 1) for one in value] if isinstance(value, list) and deep else value
