"""From records to rows: what the connectors share.

A connector says how one record becomes one row. It raises `Flaw` where it cannot: the record is then held and named,
with the word that its person is disabled, where that is certain, and the others go on. An optional field whose value
is none is no reason to hold anybody: it is left out, and named in a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

import orjson

from connectors.contract import Held
from connectors.errors import ConfigurationError
from connectors.model import DISABLED, MAX_TEXT, attributes_text

Record = dict[str, Any]
Row = TypeVar("Row")
Doubts = list[str]
"""What is wrong with optional fields of a record that was made into a row: `FIELD is …`, without values. FIELD is a
column of `connectors.model`, or the path of an attribute."""

_NAMES: Final = ("first_name", "last_name", "display_name")


class Rows(Protocol[Row]):
    """Records → rows. `where`: where the records stand."""

    def __call__(
        self, records: Iterable[Any], where: str, held: list[Held], warnings: list[Held] | None = None
    ) -> list[Row]:
        """What cannot be a row is added to `held`, what lacks an optional field to `warnings`."""
        ...


class Flaw(Exception):
    """Why a record is held."""


def each(
    one: Callable[[Record, Doubts], Row],
    kind: str,
    title: str,
    disabled: Callable[[Record], bool] = lambda _: False,
    spelt: Callable[[Any], Any] = lambda record: record,
) -> Rows[Row]:
    """A function for one record → a function for many. `title` is the field that a held record is named by, `disabled`
    whether its person is so for certain; both see the record as it is `spelt`."""

    def rows(records: Iterable[Any], where: str, held: list[Held], warnings: list[Held] | None = None) -> list[Row]:
        every, doubts = records if isinstance(records, Sequence) else list(records), Doubts()
        try:
            found = [one(record, doubts) for record in every]
        except Flaw:
            doubts.append("")
        if not doubts:
            return found
        good = []  # a rare page: again, record by record
        for at, record in enumerate(every, 1):
            plain, doubts = as_dict(spelt(record)), Doubts()
            key, name = text(plain.get("id")), text(at_path(plain, title.split(".")))[:MAX_TEXT]
            try:
                good.append(one(record, doubts))
            except Flaw as flaw:
                away = DISABLED if disabled(plain) else ""
                held.append(Held(kind, key, name, f"{flaw} (the {at}. {where})", away))
            else:
                if warnings is not None:
                    warnings += [Held(kind, key, name, f"{doubt} and was left out") for doubt in doubts]
        return good

    return rows


def needed(record: Record, name: str) -> str:
    """A text that is there and not empty. Raises `Flaw`."""
    value = record.get(name)
    if type(value) is not str or not value:
        raise Flaw(f"no {name}, or one that is not text")
    return value


def optional(record: Record, name: str, doubts: Doubts, field: str = "") -> str:
    """A text, "" where it is missing or null; also for another type, which becomes a doubt about `field`."""
    value = record.get(name)
    if type(value) is str:
        return value
    if value is not None:
        doubts.append(f"{field or name} is not text")
    return ""


def names(record: Record, places: Sequence[str], doubts: Doubts) -> list[str]:
    """First, last and display name, as `optional`, from these `places` in a record; "" has none."""
    return [optional(record, at, doubts, field) if at else "" for at, field in zip(places, _NAMES, strict=True)]


def inner(record: Record, name: str, doubts: Doubts, *fields: str) -> Record:
    """The object of this name, an empty one where it is missing; another type is a doubt about `fields`."""
    value = record.get(name)
    if value is not None and type(value) is not dict:
        doubts += [f"{field} is not text" for field in fields]
    return as_dict(value)


def address(given: Any, doubts: Doubts, apart: Sequence[str] = ()) -> str:
    """The primary one of several e-mail addresses, else that of work, else the first; none of the types in `apart`.

    A list of objects by RFC 7643 4.1.2. Servers also send texts for objects, one for a list, and `primary` as text.
    """
    if type(given) is list and len(given) == 1 and type(given[0]) is dict and given[0].get("type") not in apart:
        value = given[0].get("value")
        if type(value) is str:
            return value  # as good as always
    every = [one if type(one) is dict else {"value": one} for one in listed(given)]
    every = [one for one in every if _word(one.get("type")) not in apart]
    usable = [one for one in every if type(one.get("value")) is str and one["value"].strip()]
    if not usable and any(type(one.get("value")) is not str and one.get("value") is not None for one in every):
        doubts.append("email is not text")
    best = [one for one in usable if one.get("primary") is True or _word(one.get("primary")) == "true"]
    best = best or [one for one in usable if _word(one.get("type")) == "work"] or usable or [{"value": ""}]
    return str(best[0]["value"])


def listed(value: Any) -> list[Any]:
    """What may have many values, as a list: one stands for a list of one, null for none."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _word(value: Any) -> str:
    return value.lower() if isinstance(value, str) else ""


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


def attributes(paths: Iterable[str], steps: Callable[[str], Sequence[str]]) -> Callable[[Record, Doubts], str]:
    """Attribute paths, and how a path is split into steps → a function record → canonical attributes text.

    Lists along the way are gone through; an object at the end stands for its `value`. What is neither text nor number
    is left out.
    """
    wanted = [(path, steps(path)) for path in sorted(paths)]
    if not wanted:
        return lambda *_: "{}"

    def read(record: Record, doubts: Doubts) -> str:
        found: dict[str, list[str]] = {}
        for path, way in wanted:
            value = record.get(way[0])
            if len(way) == 2 and type(value) is dict:
                value = value.get(way[1])
            if type(value) is str:  # as good as always
                if value:
                    found[path] = [value]
                continue
            values, strange = values_at(record, way)
            if values:
                found[path] = values
            if strange:
                doubts.append(f"{path} is neither text nor number")
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


def values_at(record: Record, way: Sequence[str]) -> tuple[list[str], bool]:
    """All values at the end of these steps, through lists, without regard to case; and whether one is no value."""
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
    plain = [one.get("value", one or None) if isinstance(one, dict) else one for one in found]
    values = [said for one in plain if isinstance(one, str | int | float) and (said := text(one))]
    return values, not all(one is None or isinstance(one, str | int | float) for one in plain)


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
