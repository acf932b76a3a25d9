"""A Crowd directory of dictionaries: what the operations of a plan do, and nothing else.

It follows `reference/crowd-rest.md` where that is decided (names without regard to case, PUT as full
replace, no circles of groups) and is stricter than Crowd in one thing: an operation whose condition
already holds fails too, because a plan made from a fresh snapshot has no reason to hold one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pandas as pd

from connectors.model import (
    ID_ATTRIBUTE,
    MAX_TEXT,
    Snapshot,
    attributes_text,
    crowd_id,
    groups_frame,
    memberships_frame,
    users_frame,
)
from connectors.operations import Kind, Operation
from tasks.decide.match import LINKS

FIELDS = ("email", "first_name", "last_name", "display_name", "active")


class CrowdRefusal(AssertionError):
    """Crowd would refuse this operation, or it was needless."""


def need(condition: object, operation: Operation, why: str) -> None:
    if not condition:
        raise CrowdRefusal(f"{operation.kind} {operation.name!r} {operation.target!r}: {why}")


@dataclass
class ModelCrowd:
    """`users` and `groups` by folded name; each has a `key` that survives a rename. Memberships
    are pairs of keys: (group, user), nestings (parent, child)."""

    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    memberships: set[tuple[int, int]] = field(default_factory=set)
    nestings: set[tuple[int, int]] = field(default_factory=set)
    keys: int = 0

    def copy(self) -> ModelCrowd:
        return copy.deepcopy(self)

    def add_user(self, name: str, *, attributes: dict[str, list[str]] | None = None, **values: Any) -> dict[str, Any]:
        self.keys += 1
        record = {"key": self.keys, "name": name, "email": "", "first_name": "", "active": True, **values}
        record.setdefault("last_name", name)
        record.setdefault("display_name", name)
        record["attributes"] = {k: list(v) for k, v in (attributes or {}).items() if v}
        self.users[crowd_id(name)] = record
        return record

    def add_group(self, name: str, description: str = "", mark: str = "") -> dict[str, Any]:
        self.keys += 1
        attributes = {ID_ATTRIBUTE: [mark]} if mark else {}
        record = {"key": self.keys, "name": name, "description": description, "attributes": attributes}
        self.groups[crowd_id(name)] = record
        return record

    def write(self, operation: Operation) -> None:
        """One operation. Raises `CrowdRefusal`."""
        kind, name, record = operation.kind, operation.name, operation.record
        users, groups, at, to = self.users, self.groups, crowd_id(operation.name), crowd_id(operation.target)
        if kind is Kind.USER_CREATE:
            _fit(operation, name)
            need(at not in users, operation, "the name is taken")
            values = {k: record[k] for k in FIELDS}
            values["last_name"] = values["last_name"] or name
            values["display_name"] = values["display_name"] or f"{values['first_name']} {values['last_name']}".strip()
            self.add_user(name, attributes=record["attributes"], **values)
        elif kind in (Kind.GROUP_CREATE,):
            _fit(operation, name)
            need(at not in groups, operation, "the name is taken")
            self.add_group(name, record["description"])
        elif kind.startswith("user"):
            need(at in users, operation, "there is no such user")
            self._change_user(operation, users[at])
        elif kind.startswith("group"):
            need(at in groups, operation, "there is no such group")
            self._change_group(operation, groups[at])
        else:
            need(to in groups, operation, "there is no such group")
            nested = kind.startswith("nesting")
            need(at in (groups if nested else users), operation, "there is no such member")
            pairs = self.nestings if nested else self.memberships
            pair = (groups[to]["key"], (groups if nested else users)[at]["key"])
            if kind.endswith("remove"):
                need(pair in pairs, operation, "is no member")
                pairs.remove(pair)
            else:
                need(pair not in pairs, operation, "is a member already")
                need(not nested or not self._below(pair[1], pair[0]), operation, "would close a circle")
                pairs.add(pair)

    def _change_user(self, operation: Operation, user: dict[str, Any]) -> None:
        kind, record = operation.kind, operation.record
        if kind is Kind.USER_DELETE:
            del self.users[crowd_id(operation.name)]
            self.memberships = {pair for pair in self.memberships if pair[1] != user["key"]}
        elif kind is Kind.USER_RENAME:
            _fit(operation, operation.target)
            need(crowd_id(operation.target) not in self.users, operation, "the new name is taken")
            user["name"] = operation.target
            self.users[crowd_id(operation.target)] = self.users.pop(crowd_id(operation.name))
        elif kind is Kind.USER_ATTRIBUTES:
            self._attributes(operation, user)
        else:
            if kind is not Kind.USER_UPDATE:
                need(record["active"] == (kind is Kind.USER_ACTIVATE), operation, "says the contrary of its kind")
            before = {k: user[k] for k in FIELDS}
            for name in FIELDS:
                _fit_text(operation, record[name])
            user.update({k: record[k] or user[k] for k in ("email", "first_name")})
            user["last_name"] = record["last_name"] or user["name"]
            user["display_name"] = record["display_name"] or f"{user['first_name']} {user['last_name']}".strip()
            user["active"] = record["active"]
            need({k: user[k] for k in FIELDS} != before, operation, "changes nothing")

    def _change_group(self, operation: Operation, group: dict[str, Any]) -> None:
        if operation.kind is Kind.GROUP_DELETE:
            del self.groups[crowd_id(operation.name)]
            self.memberships = {pair for pair in self.memberships if pair[0] != group["key"]}
            self.nestings = {pair for pair in self.nestings if group["key"] not in pair}
        elif operation.kind is Kind.GROUP_UPDATE:
            need(group["description"] != operation.record["description"], operation, "changes nothing")
            group["description"] = operation.record["description"]
        else:
            self._attributes(operation, group)

    def _attributes(self, operation: Operation, entity: dict[str, Any]) -> None:
        before = dict(entity["attributes"])
        for name, values in operation.record["attributes"].items():
            entity["attributes"].pop(name, None)
            if values:
                entity["attributes"][name] = list(values)
        need(entity["attributes"] != before, operation, "changes nothing")

    def _below(self, parent: int, wanted: int) -> bool:
        """Whether the group `wanted` is `parent` or nested below it."""
        seen, todo = set(), [parent]
        while todo:
            group = todo.pop()
            if group == wanted:
                return True
            if group not in seen:
                seen.add(group)
                todo += [child for of, child in self.nestings if of == group]
        return False

    def snapshot(self, attributes: Iterable[str] = ()) -> Snapshot:
        """As the connector reads it: only our mark and the attributes that a mapping names."""
        asked = {ID_ATTRIBUTE, *attributes}
        name_of = {r["key"]: i for i, r in (*self.users.items(), *self.groups.items())}
        users = [
            (
                i,
                r["name"],
                *(r[k] for k in FIELDS),
                attributes_text({k: v for k, v in r["attributes"].items() if k in asked}),
            )
            for i, r in self.users.items()
        ]
        groups = [(i, r["name"], r["description"], attributes_text(r["attributes"])) for i, r in self.groups.items()]
        pairs = [(name_of[g], name_of[m], "user") for g, m in self.memberships]
        pairs += [(name_of[g], name_of[m], "group") for g, m in self.nestings]
        return Snapshot.of(users_frame(users), groups_frame(groups), memberships_frame(pairs))

    def state(self, before: int = 10**9) -> dict[str, Any]:
        """Everything comparable. Records with a key above `before` were created since; their key is left out."""
        name_of = {r["key"]: i for i, r in (*self.users.items(), *self.groups.items())}
        records = {
            f"{kind} {i}": {**r, "key": r["key"] if r["key"] <= before else "new"}
            for kind, table in (("user", self.users), ("group", self.groups))
            for i, r in table.items()
        }
        pairs = {("membership", name_of[g], name_of[m]) for g, m in self.memberships}
        return {**records, "pairs": pairs | {("nesting", name_of[g], name_of[m]) for g, m in self.nestings}}


def _fit(operation: Operation, name: str) -> None:
    need(name and name == name.strip(), operation, "is blank at an edge")
    _fit_text(operation, name)


def _fit_text(operation: Operation, value: object) -> None:
    if isinstance(value, str):
        need(len(value.encode("utf-16-le")) <= 2 * MAX_TEXT, operation, "is too long")


@dataclass
class ModelLinks:
    """The link table of one directory, with the store's rule: one name belongs to one link."""

    rows: dict[tuple[str, str, str], tuple[str, str]] = field(default_factory=dict)  # source, kind, id → name, how

    def copy(self) -> ModelLinks:
        return ModelLinks(dict(self.rows))

    def save(self, links: pd.DataFrame) -> None:
        wanted = [tuple(row) for row in links[["source", "kind", "id", "name", "how"]].drop_duplicates().to_numpy()]
        moved = {row[:3] for row in wanted}
        assert len(moved) == len(wanted), f"two names for one id in one call: {wanted}"
        holders = {(k[1], crowd_id(name)): k for k, (name, _) in self.rows.items() if k not in moved}
        for source, kind, identity, name, how in wanted:
            holder = holders.setdefault((kind, crowd_id(name)), (source, kind, identity))
            assert holder == (source, kind, identity), f"{name!r} belongs to {holder}, not to {source}:{identity}"
            self.rows[source, kind, identity] = (name, how)

    def drop(self, links: pd.DataFrame) -> None:
        for row in links[["source", "kind", "id"]].to_numpy():
            self.rows.pop(tuple(row), None)

    def frame(self) -> pd.DataFrame:
        rows = [(*key, *value, "") for key, value in sorted(self.rows.items())]
        values = list(zip(*rows, strict=True)) or [()] * len(LINKS)
        return pd.DataFrame({c: pd.array(list(v), dtype="str") for c, v in zip(LINKS, values, strict=True)})


def operation_of(row: Any) -> Operation:
    """A row of `Plan.operations` → the operation."""
    record = orjson.loads(row.record) if row.record else {}
    return Operation(int(row.seq), Kind(row.kind), row.name, row.target, record)
