"""From records to rows: what the connectors share.

A connector says how one record becomes one row and raises `Flaw` where it cannot; the record is then
held and named, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import orjson

from connectors.contract import Held
from connectors.errors import ConfigurationError
from connectors.model import attributes_text

Record = dict[str, Any]
Row = TypeVar("Row")
Rows = Callable[[Iterable[Any], str, list[Held]], list[Row]]
"""(records, where they stand, held) → rows; what cannot be a row is added to `held`."""


class Flaw(Exception):
    """Why a record is held."""


def each(one: Callable[[Record], Row], kind: str, title: str) -> Rows[Row]:
    """A function for one record → a function for many. `title` is the field that a held record is named by."""

    def rows(records: Iterable[Any], where: str, held: list[Held]) -> list[Row]:
        try:
            return [one(record) for record in records]
        except Flaw:
            pass  # a rare page: again, record by record
        good = []
        for at, record in enumerate(records, 1):
            try:
                good.append(one(record))
            except Flaw as flaw:
                key, name = text(as_dict(record).get("id")), text(at_path(record, title.split(".")))
                held.append(Held(kind, key, name, f"{flaw} (the {at}. {where})"))
        return good

    return rows


def needed(record: Record, name: str) -> str:
    """A text that is there and not empty. Raises `Flaw`."""
    value = record.get(name)
    if type(value) is not str or not value:
        raise Flaw(f"no {name}, or one that is not text")
    return value


def optional(record: Record, name: str) -> str:
    """A text, "" where it is missing or null. Raises `Flaw` for another type."""
    value = record.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise Flaw(f"{name} is not text")
    return value


def truth(record: Record, name: str) -> bool:
    """true or false. Raises `Flaw` for anything else."""
    value = record.get(name)
    if value is not True and value is not False:
        raise Flaw(f"{name} is neither true nor false")
    return value


def object_of(record: Any) -> Record:
    """The record, if it is a JSON object. Raises `Flaw`."""
    if not isinstance(record, dict):
        raise Flaw("the record is not an object")
    return record


def attributes(paths: Iterable[str], steps: Callable[[str], Sequence[str]]) -> Callable[[Record], str]:
    """Attribute paths, and how a path is split into steps → a function record → canonical attributes text.

    Lists along the way are gone through; an object at the end stands for its `value`.
    """
    wanted = [(path, steps(path)) for path in sorted(paths)]
    if not wanted:
        return lambda _: "{}"

    def read(record: Record) -> str:
        found: dict[str, list[str]] = {}
        for path, way in wanted:
            value = record.get(way[0])
            if len(way) == 2 and type(value) is dict:
                value = value.get(way[1])
            if type(value) is str:  # as good as always
                if value:
                    found[path] = [value]
            elif values := values_at(record, way):
                found[path] = values
        return attributes_text(found)

    return read


def dotted(connector: str) -> Callable[[str], Sequence[str]]:
    """How a path such as `profile.department` is split. Raises `ConfigurationError` for one that is none."""

    def steps(path: str) -> Sequence[str]:
        way = path.split(".")
        if not all(way):
            raise ConfigurationError(f"{connector}: {path!r} is no attribute path such as profile.department.")
        return way

    return steps


def scim_path(connector: str) -> Callable[[str], Sequence[str]]:
    """How a SCIM path such as `title`, `name.middleName` or `urn:…:User:department` is split. Raises
    `ConfigurationError` for one that is none."""

    def steps(path: str) -> Sequence[str]:
        schema, _, rest = path.rpartition(":")
        way = rest.split(".")
        if "[" in path or not all(way):
            raise ConfigurationError(
                f"{connector}: {path!r} is no attribute path such as title, name.middleName or urn:…:title."
            )
        if schema and not schema.lower().startswith("urn:ietf:params:scim:schemas:core:"):
            way.insert(0, schema)
        return way

    return steps


def values_at(record: Record, way: Sequence[str]) -> list[str]:
    """All values at the end of these steps, through lists, without regard to case."""
    found: list[Any] = [record]
    for step in way:
        after: list[Any] = []
        for one in found:
            if isinstance(one, dict):
                value = one.get(step)
                if value is None and step not in one:
                    value = next((v for k, v in one.items() if k.lower() == step.lower()), None)
                after += value if isinstance(value, list) else [value]
        found = after
    plain = (one.get("value") if isinstance(one, dict) else one for one in found)
    return [said for one in plain if isinstance(one, str | int | float) and (said := text(one))]


def at_path(record: Any, way: Sequence[str]) -> Any:
    """The value at the end of these keys, None where there is none."""
    for step in way:
        record = as_dict(record).get(step)
    return record


def as_dict(value: Any) -> Record:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """A value as short text, for names of held records."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()[:80]
