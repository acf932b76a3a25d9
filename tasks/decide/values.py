"""How a value is made: from its sources, through the policy's steps in their order.

A source field gives at most one value, an attribute a list of them. Between the columns of users and the columns of
Crowd values travel in a long form, a row number beside every value, so that one call of Arrow does a step for
everybody. An empty text is no value, before every step and after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from connectors.model import sizes_only
from tasks.decide.names import arrow_text
from tasks.policy import PLAIN, Rule, Step, Value, as_value, replaced

_TEXT = pa.large_string()


@sizes_only
@dataclass(frozen=True, slots=True)
class Long:
    """Values by row: `rows` (row numbers, ascending) and `values` (texts, none empty) of one length; `height` is how
    many rows there are, with values or without."""

    rows: np.ndarray
    values: pa.Array
    height: int

    @classmethod
    def of(cls, rows: np.ndarray, values: pa.Array, height: int) -> Long:
        """The same without empty texts."""
        full = _mask(pc.greater(pc.binary_length(values), 0))
        return cls(rows, values, height) if full.all() else cls(rows[full], values.filter(pa.array(full)), height)

    @classmethod
    def column(cls, texts: pa.Array) -> Long:
        """One text a row."""
        return cls.of(np.arange(len(texts)), texts, len(texts))

    def counts(self) -> np.ndarray:
        """How many values each row has."""
        return np.bincount(self.rows, minlength=self.height)

    def first(self) -> pa.Array:
        """The first value of each row, null where there is none."""
        begins = np.flatnonzero(np.diff(self.rows, prepend=-1))
        at = np.full(self.height, -1)
        at[self.rows[begins]] = begins
        return self.values.take(pa.array(at, mask=at < 0))

    def any(self, which: Any) -> np.ndarray:
        """Which rows have a value that `which` (bool by value) is true of."""
        found = np.zeros(self.height, dtype=bool)
        found[self.rows[_mask(which)]] = True
        return found


class Sources:
    """Users whose attributes are read once, for all the names that are wanted."""

    def __init__(self, users: pd.DataFrame, names: Iterable[str]) -> None:
        self.users = users
        wanted = frozenset(names) - PLAIN
        self._codes = np.zeros(len(users), dtype=np.int64)
        self._distinct = 0
        self._read: dict[str, Long] = {}
        if wanted:
            texts = arrow_text(users["attributes"]).dictionary_encode()
            self._codes = texts.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            self._distinct = len(texts.dictionary)
            self._parse(texts.dictionary, sorted(wanted))

    def _parse(self, texts: pa.Array, names: list[str]) -> None:
        # The one loop: over the distinct texts, each parsed once.
        counts: dict[str, list[int]] = {name: [] for name in names}
        values: dict[str, list[str]] = {name: [] for name in names}
        into = [(name, counts[name].append, values[name].extend) for name in names]
        for text in texts.to_pylist():
            read = orjson.loads(text).get if text != "{}" else {}.get
            for name, count, extend in into:
                found = read(name) or ()
                count(len(found))
                extend(found)
        for name in names:
            rows = np.repeat(np.arange(self._distinct), np.asarray(counts[name], dtype=np.int64))
            self._read[name] = Long.of(rows, pa.array(values[name], _TEXT), self._distinct)

    def distinct(self, names: Iterable[str]) -> bool:
        """Whether all of these are attributes, so that a value made of them need be made only once for equal ones."""
        found = set(names)
        return bool(found) and not PLAIN & found

    def of(self, name: str, *, distinct: bool = False) -> Long:
        """The values of a source field or attribute, by user or by distinct attributes text."""
        if name in PLAIN:
            return Long.column(arrow_text(self.users[name]))
        return self._read[name] if distinct else self.spread(self._read[name])

    def spread(self, long: Long) -> Long:
        """By distinct attributes text → by user."""
        counts = long.counts()
        starts = np.concatenate([[0], np.cumsum(counts)])
        took = counts[self._codes] if len(counts) else self._codes
        rows = np.repeat(np.arange(len(self._codes)), took)
        at = ranges(starts[self._codes], took)
        return Long(rows, long.values.take(pa.array(at)), len(self._codes))

    def spread_texts(self, texts: pa.Array) -> pa.Array:
        """One text by distinct attributes text → by user."""
        return texts.take(pa.array(self._codes))


def field_value(users: pd.DataFrame | Sources, value: str | Value) -> pd.Series:
    """Users → what one field becomes: the first value or "", on their index."""
    value = as_value(value)
    sources = _sources(users, value.sources)
    distinct = sources.distinct(value.sources)
    texts = pc.fill_null(_made(sources, value, distinct=distinct).first(), "")
    return _series(sources.spread_texts(texts) if distinct else texts, sources.users)


def attribute_texts(users: pd.DataFrame | Sources, extra: Mapping[str, str | Value]) -> pd.Series:
    """Users → their Crowd attributes as canonical text (`connectors.model.attributes_text`), on their index.
    An attribute without values is left out."""
    values = {name: as_value(value) for name, value in sorted(extra.items())}
    names = [source for value in values.values() for source in value.sources]
    sources = _sources(users, names)
    if not values:
        return pd.Series("{}", index=sources.users.index, dtype="str")
    distinct = sources.distinct(names)
    columns = []
    for name, value in values.items():
        listed = _lists(_made(sources, value, distinct=distinct))
        columns.append(_concatenated(orjson.dumps(name).decode() + ":[", listed, "]"))
    texts = _concatenated("{", joined(columns, ","), "}")
    return _series(sources.spread_texts(texts) if distinct else texts, sources.users)


def traced(users_one_row: pd.DataFrame, value: str | Value) -> list[tuple[str, list[str]]]:
    """One user → each rule in words, and the values after it."""
    value = as_value(value)
    sources = _sources(users_one_row, value.sources)
    return [(rule, long.values.to_pylist()) for rule, long in _stages(sources, value, distinct=False)]


def joined(columns: Iterable[pa.Array], separator: str) -> pa.Array:
    """Columns of texts → the texts of each row with a separator between; nulls are left out, "" where all are."""
    # (Arrow's own way of leaving nulls out loses a row in which all are null.)
    pieces = [pc.fill_null(_concatenated(separator, column), "") for column in columns]
    return pc.utf8_slice_codeunits(_concatenated(*pieces), start=len(separator))


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[3, 7], [2, 1] → [3, 4, 7]: the numbers from each start on, so many of each."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - counts), counts))


def _sources(users: pd.DataFrame | Sources, names: Iterable[str]) -> Sources:
    return users if isinstance(users, Sources) else Sources(users, names)


def _made(sources: Sources, value: Value, *, distinct: bool) -> Long:
    *_, (_, long) = _stages(sources, value, distinct=distinct)
    return long


def _stages(sources: Sources, value: Value, *, distinct: bool) -> Iterator[tuple[str, Long]]:
    """The rules of a value in words, each with the values after it."""
    given = [sources.of(name, distinct=distinct) for name in value.sources]
    height = sources._distinct if distinct else len(sources.users)
    names = ", ".join(value.sources)
    if not given:
        rule, long = "no source", Long(np.empty(0, dtype=np.int64), pa.array([], _TEXT), height)
    elif value.combine == "join":
        rule = f"{names} joined by {value.separator!r}"
        long = Long.column(joined([one.first() for one in given], value.separator))
    else:
        rule, long = (f"first of {names}" if len(given) > 1 else f"from {names}"), _first_of(given)
    yield rule, long
    for step in value.steps:
        long = _after(long, step)
        yield words(step), long


def _first_of(given: list[Long]) -> Long:
    """All values of the first that has any, by row."""
    if len(given) == 1:
        return given[0]
    open_ = np.ones(given[0].height, dtype=bool)
    parts = []
    for long in given:
        which = open_[long.rows]
        parts.append((long.rows[which], long.values.filter(pa.array(which))))
        open_[long.rows] = False
    return _in_order(parts, len(open_))


def _in_order(parts: list[tuple[np.ndarray, pa.Array]], height: int) -> Long:
    rows = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(rows, kind="stable")
    return Long(rows[order], pa.concat_arrays([values for _, values in parts]).take(pa.array(order)), height)


def words(step: Step) -> str:
    """A step as a person would say it."""
    match step.function:
        case "replace":
            return f"replace {step.pattern!r} by {step.replacement!r}"
        case "split":
            return f"split at {step.separator!r}" + ("" if step.part is None else f", part {step.part}")
        case "lookup":
            rest = "others are kept" if step.otherwise == "keep" else "others are left out"
            return f"lookup in a table of {len(step.table)}, {rest}"
        case "default":
            return f"{step.value!r} where there is none"
        case _:
            return step.function


def _after(long: Long, step: Step) -> Long:
    """The values after one step."""
    rows, values = long.rows, long.values
    match step.function:
        case "lower":
            values = pc.utf8_lower(values)
        case "upper":
            values = pc.utf8_upper(values)
        case "trim":
            values = pc.utf8_trim_whitespace(values)
        case "replace":
            values = replaced(values, (Rule.model_construct(pattern=step.pattern, replacement=step.replacement),))
        case "split":
            rows, values = _split(rows, values, step)
        case "lookup":
            keys = pc.utf8_lower(pa.array(list(step.table), _TEXT))
            at = pc.index_in(pc.utf8_lower(values), value_set=keys)
            found = pa.array(list(step.table.values()), _TEXT).take(at)
            values = pc.coalesce(found, values if step.otherwise == "keep" else _scalar(""))
        case "default":
            without = np.flatnonzero(long.counts() == 0)
            return _in_order([(rows, values), (without, pa.repeat(_scalar(step.value), len(without)))], long.height)
    return Long.of(rows, values, long.height)


def _split(rows: np.ndarray, values: pa.Array, step: Step) -> tuple[np.ndarray, pa.Array]:
    lists = pc.split_pattern(values, pattern=step.separator)
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    parts = lists.flatten()
    if step.part is None:
        return np.repeat(rows, counts), parts
    ends = np.cumsum(counts)
    there = counts >= abs(step.part)
    at = (ends - counts + step.part - 1) if step.part > 0 else (ends + step.part)
    return rows[there], parts.take(pa.array(at[there]))


def _lists(long: Long) -> pa.Array:
    """The values of each row as JSON strings with commas between, null where there are none."""
    odd = _mask(pc.match_substring_regex(long.values, r'["\\\x00-\x1f]'))
    plain = long.values
    if odd.any():  # as orjson writes them, without the quotes around
        spelled = [orjson.dumps(text).decode()[1:-1] for text in plain.filter(pa.array(odd)).to_pylist()]
        plain = pc.replace_with_mask(plain, pa.array(odd), pa.array(spelled, _TEXT))
    counts = long.counts()
    ends = np.cumsum(counts)
    last = np.zeros(len(plain), dtype=bool)
    last[ends[counts > 0] - 1] = True
    quoted = _concatenated('"', plain, pc.if_else(pa.array(last), _scalar('"'), _scalar('",')))
    # The texts stand in the order of their rows: a row's list is what lies between its first and its last.
    quoted = pa.concat_arrays([quoted])
    _, offsets, data = quoted.buffers()
    bounds = np.frombuffer(offsets, dtype="<i8", count=len(quoted) + 1) if len(quoted) else np.zeros(1, dtype="<i8")
    by_row = np.ascontiguousarray(bounds[np.concatenate([[0], ends])])
    lists = pa.LargeStringArray.from_buffers(len(counts), pa.py_buffer(by_row), data or pa.py_buffer(b""))
    return pc.if_else(pa.array(counts > 0), lists, pa.scalar(None, _TEXT))


def _concatenated(*parts: Any) -> pa.Array:
    """Columns and constants, one after the other; null where any is."""
    return pc.binary_join_element_wise(*(_scalar(p) if isinstance(p, str) else p for p in parts), _scalar(""))


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, _TEXT)


def _series(texts: pa.Array, users: pd.DataFrame) -> pd.Series:
    return pd.Series(texts, dtype="str", index=users.index)


def _mask(which: Any) -> np.ndarray:
    if isinstance(which, np.ndarray):
        return which
    return np.asarray(which.to_numpy(zero_copy_only=False), dtype=bool)
