"""Everything that anybody needs to know of a kind of operation, told once.

A kind is one write to Crowd. Its row in `KINDS` says when it is done, what it is about and what it does to people,
which feature of the policy allows it and what its limit is per cent of, how it is shown, what it needs and what is
missing where it was not done, what becomes of links, and the condition that must hold afterwards. A new kind is a
member of `Kind`, a row here, and a writer in `connectors/crowd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

import orjson

from connectors.model import ID_ATTRIBUTE, crowd_id, sizes_only


class Kind(StrEnum):
    """The kinds of operation. Each is one write to Crowd."""

    USER_CREATE = "user_create"
    USER_UPDATE = "user_update"
    USER_RENAME = "user_rename"
    USER_ACTIVATE = "user_activate"
    USER_DEACTIVATE = "user_deactivate"
    USER_DELETE = "user_delete"
    USER_ATTRIBUTES = "user_attributes"
    GROUP_CREATE = "group_create"
    GROUP_UPDATE = "group_update"
    GROUP_DELETE = "group_delete"
    GROUP_ATTRIBUTES = "group_attributes"
    MEMBERSHIP_ADD = "membership_add"
    MEMBERSHIP_REMOVE = "membership_remove"
    NESTING_ADD = "nesting_add"
    NESTING_REMOVE = "nesting_remove"


@sizes_only
@dataclass(frozen=True, slots=True)
class Operation:
    """One idempotent write, stated as the condition that must hold afterwards.

    | kind | name | target | record |
    |---|---|---|---|
    | user_create, user_update, user_activate, user_deactivate | username | | email, first_name, last_name, display_name, active: the whole record; create also attributes |
    | user_rename | the old username | the new username | attributes: the expected id attribute |
    | user_delete, group_delete | name | | |
    | user_attributes, group_attributes | name | | attributes: only those to replace; an empty list removes one |
    | group_create, group_update | group name | | description |
    | membership_add, membership_remove | username | group name | |
    | nesting_add, nesting_remove | child group name | parent group name | |
    """  # noqa: E501

    seq: int
    kind: Kind
    name: str
    target: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@sizes_only
@dataclass(frozen=True, slots=True)
class Found:
    """A record of Crowd as it is now, whoever read it: its name as spelt there, its fields by their names in
    `connectors.model`, its attributes. Of a membership or nesting only whether it is there counts; of a record that is
    there and cannot be read (`whole` is false) only its name, so that no condition about the rest holds."""

    name: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    whole: bool = True


# ── what must hold afterwards ───────────────────────────────────────────────────────────────────────────────────


Holds = Callable[[Operation, Found | None], bool]
"""(operation, the record that it is about as it is now, None where there is none) → whether its condition holds."""


def there(_: Operation, found: Found | None) -> bool:
    """It is there, whatever it holds."""
    return found is not None


def absent(_: Operation, found: Found | None) -> bool:
    """It is not there."""
    return found is None


def account(operation: Operation) -> dict[str, Any]:
    """The fields that an account has afterwards: the whole record without its attributes, active as the kind says."""
    fields = {name: value for name, value in operation.record.items() if name != "attributes"}
    active = {Kind.USER_ACTIVATE: True, Kind.USER_DEACTIVATE: False}.get(operation.kind)
    return fields if active is None else {**fields, "active": active}


def same_fields(operation: Operation, found: Found | None) -> bool:
    """Its fields are those of the operation; an empty one asks for nothing, as Crowd understands it in a replace."""
    wanted = account(operation).items()
    return found is not None and found.whole and all(value in ("", found.fields.get(name)) for name, value in wanted)


def same_description(operation: Operation, found: Found | None) -> bool:
    """Its description is that of the operation, an empty one too."""
    return found is not None and found.whole and found.fields.get("description", "") == operation.record["description"]


def same_attributes(operation: Operation, found: Found | None) -> bool:
    """The attributes that the operation names have its values, in any order; an empty list means that there is none.
    A record that is gone has lost its attributes too, and that is not what was to be done to it."""
    if found is None or not found.whole:
        return False
    return all(sorted(found.attributes.get(k, ())) == sorted(v) for k, v in operation.record["attributes"].items())


def ours(operation: Operation, found: Found | None) -> bool:
    """It bears the ownership mark that the operation expects, and no other."""
    expected = list(operation.record.get("attributes", {}).get(ID_ATTRIBUTE, ()))
    return bool(expected) and found is not None and list(found.attributes.get(ID_ATTRIBUTE, ())) == expected


def renamed(operation: Operation, found: Found | None) -> bool:
    """What has the new name bears the expected mark; where only the case changes, it is also spelt like it."""
    case_only = crowd_id(operation.name) == crowd_id(operation.target)
    return ours(operation, found) and (not case_only or (found is not None and found.name == operation.target))


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────


Entity = Literal["user", "group", "membership", "nesting"]
Link = Literal["makes", "marks", "moves", "ends"]
Need = tuple[Literal["user", "group", "name"], Literal["name", "target"]]
"""A user or group that is there, or a username that is free; and the field of the operation that says which."""

_USER: Final[Need] = ("user", "name")
_GROUP: Final[Need] = ("group", "name")
_INTO: Final[Need] = ("group", "target")


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of one kind."""

    phase: int
    """Operations are done phase by phase: what takes away first."""
    entity: Entity
    effect: Literal["takes", "gives", ""]
    """Whether it takes something from people, or gives it to them."""
    feature: str
    """The field of `policy.operations` that allows it; "" where that is decided per attribute."""
    counted: tuple[str, str] | None
    """What its limit is per cent of: a field of `Owned`, and in words. None: it has no limit."""
    sign: str
    words: str
    danger: int
    """1 is the worst: the order in which people see the kinds."""
    needs: tuple[Need, ...]
    """What must be there, or free, before."""
    brings: tuple[Need, ...]
    """What others will miss where it was not done."""
    holds: Holds
    link: Link | None = None
    """What becomes of the link of its record. "marks": it is made where the operation's reason says so (an adoption, a
    hand-over), for the ownership mark is one of the attributes."""
    stands: Literal["name", "target"] = "name"
    """The field with the name that the record has afterwards."""
    shuts_out: bool = False
    """Whether an active account is shut out by it."""


_ACCOUNTS: Final = ("users", "owned accounts")
_GROUPS: Final = ("groups", "owned groups")

MARKS: Final = 0
"""Phase of the ownership marks on existing records, before anything else: what has been touched is known as ours."""

# fmt: off
KINDS: Final[Mapping[Kind, Spec]] = {
    # Leavers lose access first, and free their licence seats.
    Kind.USER_DEACTIVATE: Spec(1, "user", "takes", "user_deactivate", ("active", "active owned accounts"),
                               "-", "deactivate", 3, (_USER,), (), same_fields, shuts_out=True),
    Kind.USER_DELETE: Spec(2, "user", "takes", "user_delete", _ACCOUNTS, "-", "delete account", 1,
                           (_USER,), (("name", "name"),), absent, link="ends", shuts_out=True),
    Kind.MEMBERSHIP_REMOVE: Spec(3, "membership", "takes", "membership_remove",
                                 ("memberships", "memberships in owned groups"),
                                 "-", "take out of group", 4, (_USER, _INTO), (), absent),
    Kind.NESTING_REMOVE: Spec(3, "nesting", "takes", "nesting", ("nestings", "nestings in owned groups"),
                              "-", "take group out of group", 5, (_GROUP, _INTO), (), absent),
    Kind.GROUP_DELETE: Spec(4, "group", "takes", "group_delete", _GROUPS, "-", "delete group", 2,
                            (_GROUP,), (), absent, link="ends"),
    # Before creations, which may want the old name.
    Kind.USER_RENAME: Spec(5, "user", "", "user_rename", _ACCOUNTS, "~", "rename", 6,
                           (_USER, ("name", "target")), (("user", "target"), ("name", "name")), renamed,
                           link="moves", stands="target"),
    Kind.GROUP_CREATE: Spec(6, "group", "gives", "group_create", _GROUPS, "+", "create group", 12,
                            (), (_GROUP,), there, link="makes"),
    Kind.USER_CREATE: Spec(6, "user", "gives", "user_create", _ACCOUNTS, "+", "create account", 11,
                           (("name", "name"),), (_USER,), ours, link="makes"),
    Kind.GROUP_UPDATE: Spec(7, "group", "", "group_update", None, "~", "update group", 8, (_GROUP,), (),
                            same_description),
    Kind.GROUP_ATTRIBUTES: Spec(7, "group", "", "", None, "~", "mark group", 15, (_GROUP,), (_GROUP,),
                                same_attributes, link="marks"),
    Kind.USER_UPDATE: Spec(7, "user", "", "user_update", _ACCOUNTS, "~", "update", 9, (_USER,), (), same_fields),
    Kind.USER_ACTIVATE: Spec(7, "user", "gives", "user_activate", None, "+", "activate", 7, (_USER,), (), same_fields),
    Kind.USER_ATTRIBUTES: Spec(7, "user", "", "", None, "~", "set attributes", 10, (_USER,), (_USER,),
                               same_attributes, link="marks"),
    Kind.NESTING_ADD: Spec(8, "nesting", "gives", "nesting", None, "+", "put group into group", 13,
                           (_GROUP, _INTO), (), there),
    Kind.MEMBERSHIP_ADD: Spec(9, "membership", "gives", "membership_add", ("memberships", "memberships"),
                              "+", "put into group", 14, (_USER, _INTO), (), there),
}
"""Every kind, in the order in which they are done."""
# fmt: on

BY_DANGER: Final = tuple(sorted(KINDS, key=lambda kind: KINDS[kind].danger))
"""The kinds, the most dangerous first."""


def kinds(
    *,
    entity: Entity | None = None,
    effect: Literal["takes", "gives"] | None = None,
    link: Link | None = None,
    shuts_out: bool | None = None,
) -> tuple[Kind, ...]:
    """The kinds with all of these properties, in the order of `KINDS`."""
    wanted = {"entity": entity, "effect": effect, "link": link, "shuts_out": shuts_out}
    chosen = {name: value for name, value in wanted.items() if value is not None}
    return tuple(kind for kind, spec in KINDS.items() if all(getattr(spec, n) == v for n, v in chosen.items()))


def sets_mark(operation: Operation) -> bool:
    """Whether it writes the ownership mark."""
    return ID_ATTRIBUTE in operation.record.get("attributes", {})


def needs(operation: Operation) -> Iterator[tuple[str, str]]:
    """What must be there, or free, before the operation can be done: (user, group or name; the name, folded)."""
    return _named(operation, KINDS[operation.kind].needs)


def brings(operation: Operation) -> Iterator[tuple[str, str]]:
    """What others will miss where the operation was not done, as in `needs`."""
    spec = KINDS[operation.kind]
    if spec.link == "marks" and not sets_mark(operation):
        return iter(())  # (without its mark a record is not ours, so that nothing else may be done to it)
    return _named(operation, spec.brings)


def stands(operation: Operation) -> str:
    """The name that its record has afterwards, folded."""
    return crowd_id(getattr(operation, KINDS[operation.kind].stands))


def was_active(before: str) -> bool:
    """Whether the account could log in before; `before` is what the plan and the journal keep of it, as JSON text."""
    return bool(before) and orjson.loads(before).get("active") is True


def _named(operation: Operation, needed: Iterable[Need]) -> Iterator[tuple[str, str]]:
    for what, where in needed:
        yield what, crowd_id(getattr(operation, where))
