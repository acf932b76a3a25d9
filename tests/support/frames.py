"""Frames of a few rows, written by hand: people, groups, snapshots, operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pandas as pd

from connectors.model import (
    Snapshot,
    attributes_text,
    groups_frame,
    held_frame,
    memberships_frame,
    users_frame,
)
from connectors.operations import Kind
from tasks.policy import Policy


def person(key: str, name: str, email: str = "", **more: Any) -> tuple[Any, ...]:
    """One row of a users frame."""
    value: dict[str, Any] = {
        "first_name": "F",
        "last_name": "L",
        "display_name": "D",
        "active": True,
        "attributes": {},
    } | more
    fields = (value[field] for field in ("first_name", "last_name", "display_name", "active"))
    return (key, name, email, *fields, attributes_text(value["attributes"]))


def team(key: str, name: str, description: str = "") -> tuple[str, str, str, str]:
    return (key, name, description, "{}")


def snapshot(
    users: Sequence[tuple[Any, ...]] = (),
    groups: Sequence[tuple[str, str, str, str]] = (),
    members: Sequence[tuple[str, str, str]] = (),
    held: Sequence[tuple[str, ...]] = (),
) -> Snapshot:
    return Snapshot.of(users_frame(users), groups_frame(groups), memberships_frame(members), held_frame(held))


def policy_with(**parts: Any) -> Policy:
    return Policy.model_validate(parts)


def reasons(held: pd.DataFrame) -> dict[str, str]:
    return dict(zip(held["id"], held["reason"], strict=True))


def pairs(memberships: pd.DataFrame) -> set[tuple[str, ...]]:
    return set(memberships.astype("str").itertuples(index=False, name=None))


def a_directory(
    users: dict[str, bool], groups: dict[str, list[str]], held: tuple[tuple[str, str, str], ...] = ()
) -> Snapshot:
    """Users and whether they are active; groups and their members, `@name` for a group; (kind, id, name) held."""
    pairs = [
        (group.lower(), member.lstrip("@").lower(), "group" if member[0] == "@" else "user")
        for group, members in groups.items()
        for member in members
    ]
    unread = {i for _, i, _ in held}
    return Snapshot.of(
        users_frame([(n.lower(), n, "", "", "", "", active, "{}") for n, active in users.items()]),
        groups_frame([(n.lower(), n, "", "{}") for n in groups if n not in unread]),
        memberships_frame(pairs),
        held_frame([(kind, i, name, "read", "cannot be read") for kind, i, name in held]),
    )


def the_operations(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """(kind, name), then target, or what the record says of `active`."""
    texts = []
    for kind, name, *rest in rows:
        target = rest[0] if rest and isinstance(rest[0], str) else ""
        active = rest[0] if rest and isinstance(rest[0], bool) else None
        record = "" if active is None else orjson.dumps({"active": active, "email": ""}).decode()
        texts.append((Kind(kind).value, name, target, "", record, "", ""))
    names = ("kind", "name", "target", "source_id", "record", "before", "reason")
    columns = list(zip(*texts, strict=True)) or [()] * len(names)
    frame = pd.DataFrame({n: pd.array(list(v), dtype="str") for n, v in zip(names, columns, strict=True)})
    frame.insert(0, "phase", 1)
    frame.insert(0, "seq", range(1, len(rows) + 1))
    return frame


LONG = "x" * 256
