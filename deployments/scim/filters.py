"""A SCIM filter → the columns of the mirror that answer it by index, and whether something is left to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from scim2_models import InvalidFilterException
from scim2_models.path import (
    AttrPath,
    CompareOperator,
    Comparison,
    LogicalExpr,
    LogicalOperator,
    Not,
    Present,
    ValuePath,
)
from scim2_models.path.expressions import FilterNode

from connectors.model import crowd_id
from connectors.store.mirror import Where

LONGEST: Final = 2000
"""Characters of a filter."""

_COLUMNS: Final[Mapping[str, Mapping[str, tuple[str, Callable[[str], str]]]]] = {
    "user": {"id": ("id", str), "username": ("name", crowd_id), "externalid": ("external_id", str)},
    "group": {
        "id": ("id", str),
        "displayname": ("name", crowd_id),
        "externalid": ("external_id", str),
        "members": ("member", str),
        "members.value": ("member", str),
    },
}
"""Attribute → column, and what the column holds of the value."""

_APART: Final = {"user": "groups", "group": "members"}
"""What a record is looked at without."""


def conditions(node: FilterNode, kind: str) -> tuple[Where, bool]:
    """(column, value) pairs that every match fulfils, and whether they say all that the filter does.

    Raises `InvalidFilterException` for what only a look at every member could tell.
    """
    if isinstance(node, LogicalExpr) and node.op == LogicalOperator.and_:
        parts = [conditions(term, kind) for term in node.terms]
        return tuple(one for where, _ in parts for one in where), all(whole for _, whole in parts)
    found = _condition(node, kind)
    if found is None and any(path.attr.lower() == _APART[kind] for path in _paths(node)):
        raise InvalidFilterException(detail="Who is in a group is found by `members.value eq` of groups alone.")
    return ((found,), True) if found else ((), False)


def _paths(node: FilterNode) -> Iterator[AttrPath]:
    """The attributes that a filter names."""
    if isinstance(node, LogicalExpr):
        for term in node.terms:
            yield from _paths(term)
    elif isinstance(node, Not):
        yield from _paths(node.expr)
    elif isinstance(node, Comparison | Present | ValuePath):
        yield node.attr_path


def _condition(node: FilterNode, kind: str) -> tuple[str, str] | None:
    if isinstance(node, Comparison):
        return _column(_name(node.attr_path), node, kind)
    if isinstance(node, ValuePath):
        name, terms = _name(node.attr_path), node.val_filter
        if isinstance(terms, Comparison):
            return _column(f"{name}.{_name(terms.attr_path)}", terms, kind)
        equal = _equal(terms)
        if kind == "user" and name == "emails" and equal.keys() == {"type", "value"} and equal["type"] == "work":
            return "email", crowd_id(equal["value"])
    return None


def _column(name: str, node: Comparison, kind: str) -> tuple[str, str] | None:
    if node.op != CompareOperator.eq or not isinstance(node.value, str) or name not in _COLUMNS[kind]:
        return None
    column, form = _COLUMNS[kind][name]
    return column, form(node.value)


def _equal(node: Any) -> dict[str, str]:
    """What an `and` of comparisons says is equal; empty where it says anything else."""
    terms = node.terms if isinstance(node, LogicalExpr) and node.op == LogicalOperator.and_ else ()
    found = {
        _name(one.attr_path): one.value.lower() if _name(one.attr_path) == "type" else one.value
        for one in terms
        if isinstance(one, Comparison) and one.op == CompareOperator.eq and isinstance(one.value, str)
    }
    return found if len(found) == len(terms) else {}


def _name(path: AttrPath) -> str:
    """The name of an attribute in lower case; of the extension's, with its address."""
    core = path.uri is None or path.uri.lower().startswith("urn:ietf:params:scim:schemas:core:2.0:")
    name = f"{path.attr}.{path.sub_attr}" if path.sub_attr else path.attr
    return name.lower() if core else f"{path.uri}:{name}".lower()
