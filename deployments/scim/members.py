"""Members of a group: what a PATCH does to them without reading them, and how an answer shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scim2_models import InvalidValueException, PatchOp, PatchOperation, ResponseParameters
from scim2_models.path import AttrPath, CompareOperator, Comparison, LogicalExpr, LogicalOperator, ValuePath

from connectors.model import MAX_TEXT
from deployments.scim.dialects import unholdable

GROUP: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
_NAMES: Final = ("members", f"{GROUP}:members".lower())
_KINDS: Final = {"user": "User", "group": "Group"}
PARTS: Final = ("value", "type", "$ref")
"""What an answer shows of a member."""


@dataclass(slots=True)
class Membership:
    """What becomes of a group's members: `whole` is whether those of `join` are all of them. Kinds by id in `join`."""

    whole: bool = False
    join: dict[str, str] = field(default_factory=dict)
    leave: dict[str, None] = field(default_factory=dict)

    def add(self, members: dict[str, str]) -> None:
        """These are members."""
        for one in members:
            self.leave.pop(one, None)
        self.join.update(members)

    def remove(self, members: Iterable[str]) -> None:
        """These are not."""
        for one in members:
            self.join.pop(one, None)
            if not self.whole:
                self.leave[one] = None

    def replace(self, members: dict[str, str]) -> None:
        """These, and nobody else."""
        self.whole, self.join, self.leave = True, members, {}

    @property
    def asked(self) -> bool:
        """Whether it says anything."""
        return self.whole or bool(self.join or self.leave)


def split(patch: PatchOp[Any]) -> tuple[Membership, PatchOp[Any] | None] | None:
    """What a PATCH does to members, and the rest of it (None: there is none).

    None where what it does to members can only be told by looking at them. Raises `InvalidValueException`.
    """
    done, rest = Membership(), []
    for operation in patch.operations or ():
        path = operation.path.ast if operation.path is not None else None
        if path is None and isinstance(operation.value, dict):
            names = [name for name in operation.value if name.lower() in _NAMES]
            others = {name: one for name, one in operation.value.items() if name not in names}
            for name in names:
                _apply(done, operation.op, operation.value[name])
            if others:
                rest.append(operation.model_copy(update={"value": others}))
        elif isinstance(path, AttrPath) and _is_members(path) and path.sub_attr is None:
            _apply(done, operation.op, operation.value)
        elif (found := _selected(path)) and operation.op == PatchOperation.Op.remove and operation.value is None:
            done.remove(found)
        elif operation.path is not None and "members" in operation.path.lower():
            return None
        else:
            rest.append(operation)
    return done, patch.model_copy(update={"operations": rest}) if rest else None


def _apply(done: Membership, kind: PatchOperation.Op, value: Any) -> None:
    if kind == PatchOperation.Op.remove:
        if value is None:
            done.replace({})
        else:  # these alone, as Microsoft Entra ID means it; by the RFC a remove has no value
            done.remove(entries(value))
    elif kind == PatchOperation.Op.add:
        done.add(entries(value))
    else:
        done.replace(entries(value if value is not None else []))


def entries(value: Any) -> dict[str, str]:
    """Members as a client sends them, once each: id → user or group, as far as it says. Raises
    `InvalidValueException`."""
    found: dict[str, str] = {}
    for one in value if isinstance(value, list) else [value]:
        member = {name.lower(): part for name, part in one.items()} if isinstance(one, dict) else {}
        identity = member.get("value")
        if not isinstance(identity, str) or not identity or len(identity) > MAX_TEXT or unholdable(identity):
            raise InvalidValueException(detail="A member needs a value: the id of a user or group.")
        kind = member.get("type")
        found[identity] = "group" if isinstance(kind, str) and kind.lower() == "group" else "user"
    return found


def _is_members(path: AttrPath) -> bool:
    return path.attr.lower() == "members" and (path.uri is None or path.uri.lower() == GROUP.lower())


def _selected(path: Any) -> list[str]:
    """The ids in `members[value eq "…" or value eq "…"]`; none where it is anything else."""
    if not isinstance(path, ValuePath) or not _is_members(path.attr_path) or path.sub_attr is not None:
        return []
    node = path.val_filter
    terms = node.terms if isinstance(node, LogicalExpr) and node.op == LogicalOperator.or_ else (node,)
    found = [
        one.value
        for one in terms
        if isinstance(one, Comparison)
        and one.attr_path.attr.lower() == "value"
        and one.op == CompareOperator.eq
        and isinstance(one.value, str)
    ]
    return found if len(found) == len(terms) else []


# What an answer shows


def wanted(parameters: ResponseParameters[Any] | None) -> tuple[str, ...]:
    """Which parts of each member an answer shows; none where it shows no members."""
    if parameters is None:
        return PARTS
    if parameters.attributes is not None:
        named = [_part(one) for one in parameters.attributes]
        if "" in named:
            return PARTS
        return tuple(part for part in PARTS if part.lower() in named)
    left_out = [_part(one) for one in parameters.excluded_attributes or ()]
    return () if "" in left_out else tuple(part for part in PARTS if part.lower() not in left_out or part == "value")


def _part(path: Any) -> str | None:
    """A path → the part of members that it names in lower case, "" for all of them, None for something else."""
    if path.lower() == GROUP.lower():
        return ""
    found = path.ast
    if not isinstance(found, AttrPath) or not _is_members(found):
        return None
    return (found.sub_attr or "").lower()


def shown(members: Sequence[tuple[str, str]], parts: Sequence[str], base_url: str) -> list[dict[str, str]]:
    """(id, kind) of members → as an answer has them."""
    whole = ({"value": one, "type": _KINDS[kind], "$ref": f"{base_url}/{_KINDS[kind]}s/{one}"} for one, kind in members)
    return [{part: one[part] for part in parts} for one in whole] if tuple(parts) != PARTS else list(whole)
