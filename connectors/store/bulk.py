"""Many rows at once, past the ORM, on the connection and in the transaction of the caller.

| | SQLite | PostgreSQL |
|---|---|---|
| write | `executemany` over slices | `COPY … FROM STDIN` of CSV that Arrow writes |
| read | `fetchmany` into Arrow | `COPY … TO STDOUT` of CSV that Arrow reads |
| read packed integers | one text per group of rows, parsed by numpy | one byte string per group |

ADBC, though fast, has no place here. Its SQLite driver brings its own copy of the SQLite library, and two
copies in one process break POSIX file locks: closing the ADBC connection releases the write lock that
Python's sqlite3 holds on the same file, a second process then writes beside us, and a committed row is lost
(seen; https://sqlite.org/howtocorrupt.html section 2.2.1). On PostgreSQL it needs a second connection, which
does not see this transaction.

A column is a numpy array, a pandas Series (text, bool, integer or categorical), an Arrow array, or one
scalar for all rows. Rows are worked through in slices, so that a million rows never stand as Python objects.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from sqlalchemy import Connection, Dialect, Select, Table, text
from sqlalchemy.sql import Executable

from connectors.model import STR

SLICE: Final = 50_000
"""Rows that stand as Python objects at one time."""

FEW: Final = 1_000
"""So many values are sooner done with one by one than together, at most."""

Int64: Final = np.int64
Keys = npt.NDArray[np.int64]

# PostgreSQL's text cannot hold the character NUL; a stray one from an IdP must not stop a snapshot.
_ESCAPE: Final = "\U0010fffe"
_NUL: Final = _ESCAPE + "0"
_ESCAPED: Final = _ESCAPE + "1"

_ARROW: Final = {"int": pa.int64(), "text": pa.large_string(), "bool": pa.bool_()}


# Writing


def insert(connection: Connection, table: Table, columns: Mapping[str, Any], rows: int) -> None:
    """Insert `rows` rows; every column of `columns` is of that length or a scalar.

    Sort by primary key first where there are many: unsorted, it takes three times as long.
    """
    if not rows:
        return
    names = list(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        listed = ", ".join(f'"{n}"' for n in names)
        statement = f'INSERT INTO "{table.name}" ({listed}) VALUES ({marks})'  # noqa: S608
        raw: Any = connection.connection.dbapi_connection
        for start in range(0, rows, SLICE):
            stop = min(start + SLICE, rows)
            raw.executemany(statement, zip(*(_objects(c, start, stop) for c in columns.values()), strict=True))
        return
    listed = ", ".join(f'"{n}"' for n in names)
    raw = connection.connection.dbapi_connection
    with raw.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({listed}) FROM STDIN (FORMAT csv)') as copy:
        for start in range(0, rows, SLICE):
            stop = min(start + SLICE, rows)
            batch = pa.table({n: _arrow(c, start, stop) for n, c in columns.items()})
            buffer = io.BytesIO()
            pa.csv.write_csv(batch, buffer, pa.csv.WriteOptions(include_header=False))
            copy.write(buffer.getbuffer())


@contextmanager
def staged(connection: Connection, table: Table, columns: Mapping[str, Any], rows: int) -> Iterator[None]:
    """A temporary table with these rows, for the length of the block; `table` declares it."""
    table.create(connection)
    insert(connection, table, columns, rows)
    if connection.dialect.name != "sqlite":
        connection.execute(text(f'ANALYZE "{table.name}"'))
    yield
    table.drop(connection)


def _objects(column: Any, start: int, stop: int) -> Any:
    # → Python values of one slice
    if isinstance(column, (str, int)):
        return itertools.repeat(column, stop - start)
    if isinstance(column, np.ndarray):
        return column[start:stop].tolist()
    if isinstance(column, pd.Series):
        if isinstance(column.dtype, pd.CategoricalDtype):
            return _arrow_of(column.iloc[start:stop]).to_pylist()
        return column.iloc[start:stop].tolist()
    return column[start:stop].to_pylist()


def _arrow(column: Any, start: int, stop: int) -> pa.Array:
    # → Arrow array of one slice, fit for PostgreSQL
    if isinstance(column, (str, int)):
        array = pa.repeat(column, stop - start)
    elif isinstance(column, pd.Series):
        array = _arrow_of(column.iloc[start:stop])
    else:
        array = pa.array(column[start:stop]) if isinstance(column, np.ndarray) else column[start:stop]
    return _escaped(array) if _is_text(array.type) else array


def _arrow_of(series: pd.Series) -> pa.Array:
    array = pa.array(series, from_pandas=True)
    if pa.types.is_dictionary(array.type):
        array = array.cast(pa.large_string())
    return array


def _is_text(type_: Any) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _escaped(array: Any) -> Any:
    for found, written in ((_ESCAPE, _ESCAPED), ("\0", _NUL)):
        if pc.any(pc.match_substring(array, found)).as_py():
            array = pc.replace_substring(array, found, written)
    return array


def _unescaped(array: Any) -> Any:
    if pc.any(pc.match_substring(array, _ESCAPE)).as_py():
        array = pc.replace_substring(pc.replace_substring(array, _NUL, "\0"), _ESCAPED, _ESCAPE)
    return array


def plain(value: str) -> str:
    """Text for a column that is written row by row: without NUL, which PostgreSQL refuses."""
    return value.replace("\0", "\ufffd")


def askable(values: Iterable[str]) -> list[str]:
    """Texts that a database can be asked for. (PostgreSQL knows none with a NUL, and none has a key that has one.)"""
    return sorted(value for value in values if "\0" not in value)


# Reading


def read(
    connection: Connection, statement: Select[Any], columns: Mapping[str, str], given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The rows of `statement` as columns: `int` and `bool` as numpy arrays, `text` as Arrow arrays.

    `columns` names the columns of the statement in their order, each with one of those types; `given` are the values of
    its parameters, where it was made once for all.
    """
    if connection.dialect.name == "sqlite":
        batches = list(_sqlite_batches(connection, statement, columns, given))
    else:
        batches = list(_postgresql_batches(connection, statement.params(given) if given else statement, columns))
    schema = pa.schema([(name, _ARROW[type_]) for name, type_ in columns.items()])
    return _columns(pa.Table.from_batches(batches, schema=schema), columns)


def _columns(whole: pa.Table, columns: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: whole.column(name) if type_ == "text" else whole.column(name).to_numpy()
        for name, type_ in columns.items()
    }


def read_frame(
    connection: Connection, statement: Select[Any], columns: Mapping[str, str], given: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """As `read`, as a frame whose text is Arrow-backed `str`."""
    found = read(connection, statement, columns, given)
    if not len(next(iter(found.values()))):
        return _nothing(tuple(columns.items())).copy(deep=False)
    return _frame(found, columns)


def _frame(found: Mapping[str, Any], columns: Mapping[str, str]) -> pd.DataFrame:
    texts = {name: STR.__from_arrow__(found[name]) for name, type_ in columns.items() if type_ == "text"}  # type: ignore[attr-defined]
    return pd.DataFrame({name: texts.get(name, column) for name, column in found.items()})


@cache
def _nothing(columns: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    schema = pa.schema([(name, _ARROW[type_]) for name, type_ in columns])
    return _frame(_columns(pa.Table.from_batches([], schema=schema), dict(columns)), dict(columns))


def times(texts: pd.Series) -> pd.Series:
    """Times as `tables.instant` writes them → UTC, NaT for "" and null."""
    given: list[Any] = texts.tolist() if len(texts) <= FEW else [None]  # (pandas looks for a while at what it is given)
    if not all(isinstance(one, str) and one[26:] in ("", "+00:00") for one in given):
        return pd.to_datetime(texts.where(texts != ""), utc=True, format="ISO8601")
    moments = np.array([one[:26] or "NaT" for one in given], dtype="datetime64[us]")
    return pd.Series(pd.DatetimeIndex(moments, tz="UTC"), index=texts.index, name=texts.name, copy=False)


def series(array: Any) -> pd.Series:
    """Arrow text → Series of dtype `str`, without a copy."""
    return pd.Series(STR.__from_arrow__(array))  # type: ignore[attr-defined]


def each(connection: Connection, statement: Select[Any], asked: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """The rows of `statement` for one after another of these parameters, of which none is a list. (SQLAlchemy takes
    longer to hand one on than SQLite to answer.)"""
    sql, given, order = _text_of(connection.dialect, statement)
    raw: Any = connection.connection.dbapi_connection
    for one in asked:
        values = {**given, **one}
        yield from raw.execute(sql, values if order is None else [values[name] for name in order]).fetchall()


@cache
def _text_of(dialect: Dialect, statement: Select[Any]) -> tuple[str, Mapping[str, Any], Sequence[str] | None]:
    """A statement as the driver takes it, the parameters that it has itself, and the order of all, None where they go
    by name."""
    compiled: Any = statement.compile(dialect=dialect)
    return compiled.string, compiled.params, compiled.positiontup


def read_packed(connection: Connection, statement: Select[Any]) -> Keys:
    """The 64-bit integers that `statement` packs: one row per group of rows, made by `packed`."""
    if connection.dialect.name == "sqlite":
        parts = [np.fromstring(row[0], dtype=np.int64, sep=" ") for row in connection.execute(statement)]
    else:
        parts = [np.frombuffer(row[0], dtype=">i8").astype(np.int64) for row in connection.execute(statement)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def packed(connection: Connection, high: str, low: str) -> Any:
    """SQL aggregate of `high << 32 | low` over a group, for `read_packed`."""
    if connection.dialect.name == "sqlite":
        return text(f"group_concat(({high} << 32) | {low}, ' ')")
    return text(f"string_agg(int8send(({high}::bigint << 32) | {low}), ''::bytea)")


def _compiled(connection: Connection, statement: Executable) -> tuple[str, Any]:
    compiled: Any = statement.compile(  # type: ignore[attr-defined]
        dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
    )
    if compiled.positiontup is not None:
        return compiled.string, [compiled.params[name] for name in compiled.positiontup]
    return compiled.string, compiled.params


def _sqlite_batches(
    connection: Connection, statement: Executable, columns: Mapping[str, str], given: Mapping[str, Any] | None
) -> Iterator[pa.RecordBatch]:
    # (Executed by SQLAlchemy, which keeps what it compiled; read from the driver's own cursor.)
    result: Any = connection.execute(statement, given or {})
    while rows := result.cursor.fetchmany(SLICE):
        arrays = []
        for values, type_ in zip(zip(*rows, strict=True), columns.values(), strict=True):
            if type_ == "text":
                arrays.append(pa.array(values, type=pa.large_string()))
            else:
                arrays.append(pa.array(np.array(values, dtype=np.int64 if type_ == "int" else np.bool_)))
        yield pa.record_batch(arrays, names=list(columns))
    result.close()


def _postgresql_batches(
    connection: Connection, statement: Executable, columns: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    raw: Any = connection.connection.dbapi_connection
    sql, params = _compiled(connection, statement)
    with raw.cursor() as cursor, cursor.copy(f"COPY ({sql}) TO STDOUT (FORMAT csv)", params) as copy:
        rows = iter(copy)
        while lines := list(itertools.islice(rows, SLICE)):
            table = pa.csv.read_csv(
                pa.py_buffer(b"".join(lines)),
                read_options=pa.csv.ReadOptions(column_names=list(columns), use_threads=False),
                # A line break inside a name is data; "t" and "f" are PostgreSQL's booleans.
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: _ARROW[type_] for name, type_ in columns.items()},
                    true_values=["t"],
                    false_values=["f"],
                    strings_can_be_null=False,
                ),
            )
            for name, type_ in columns.items():
                if type_ == "text":
                    place = table.schema.get_field_index(name)
                    table = table.set_column(place, name, _unescaped(table.column(name)))
            yield from table.to_batches()


# Small things that the parts share


def find(haystack: Keys, needles: Keys) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """Where each needle stands in the sorted haystack, and whether it stands there at all."""
    at = np.searchsorted(haystack, needles)
    inside = np.minimum(at, max(len(haystack) - 1, 0))
    return inside, (haystack[inside] == needles) if len(haystack) else np.zeros(len(needles), dtype=np.bool_)


def folded(names: pd.Series, fold: Any) -> pd.Series:
    """`fold` of each name; Arrow's own lower-casing differs from Python's for some letters."""
    return pd.Series([fold(n) for n in names.tolist()], dtype=STR, index=names.index)


def texts(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of a frame as Arrow-backed text (categories spelled out), index dropped."""
    return frame[list(columns)].reset_index(drop=True).astype(STR)
