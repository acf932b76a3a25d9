"""The nouns: what users, groups and memberships look like as tables, and the snapshot they make.

Everything between the parsing of a page and the writing of an operation works on these frames.
Text columns are Arrow-backed `str`; a missing text is "" (no column holds nulls).
`attributes` is canonical JSON text, `{"name":["value",…],…}` with sorted keys, so that equality of
attributes is equality of text; a record without attributes has "{}".

In a source snapshot `id` is the provider's immutable id. In a directory snapshot `id` is the folded
Crowd name (`crowd_id`), because Crowd identifies by name, without regard to case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from itertools import chain, repeat
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

T = TypeVar("T")

STR: Final = pd.StringDtype("pyarrow", na_value=np.nan)
"""The dtype that pandas 3 calls `str`."""

USERS: Final = ("id", "username", "email", "first_name", "last_name", "display_name", "active", "attributes")
GROUPS: Final = ("id", "name", "description", "attributes")
MEMBERSHIPS: Final = ("group_id", "member_id", "member_kind")
HELD: Final = ("kind", "id", "name", "stage", "reason", "away")

DISABLED: Final = "disabled"
OUT_OF_SCOPE: Final = "out_of_scope"
"""The clear words of a source that somebody has left: `away` of a held record, "" where it says nothing of the kind."""

MEMBER_KINDS: Final = pd.CategoricalDtype(pd.Index(["group", "user"], dtype="str"))
_KINDS: Final = pa.array(MEMBER_KINDS.categories, type=pa.large_string())

ID_ATTRIBUTE: Final = "crowdsync.id"
"""The Crowd user or group attribute that holds `<source>:<immutable id>`, the proof of ownership."""

MAX_TEXT: Final = 255
"""Crowd's limit for names, fields and attribute values, in UTF-16 units (an emoji counts two)."""

UserRow = tuple[str, str, str, str, str, str, bool, str]
GroupRow = tuple[str, str, str, str]
MembershipRow = tuple[str, str, str]


def crowd_id(name: str) -> str:
    """The form under which Crowd looks a name up: it ignores case."""
    return name.lower()


def attributes_text(attributes: Mapping[str, Sequence[str]]) -> str:
    """Canonical text of attributes: sorted names, values in the order given, no blanks."""
    if not attributes:
        return "{}"
    return orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS).decode()


def users_frame(rows: Iterable[Sequence[Any]] = ()) -> pd.DataFrame:
    """Rows in the order of `USERS` → users frame, as given."""
    return _frame(rows, USERS)


def groups_frame(rows: Iterable[Sequence[Any]] = ()) -> pd.DataFrame:
    """Rows in the order of `GROUPS` → groups frame, as given."""
    return _frame(rows, GROUPS)


def held_frame(rows: Iterable[Sequence[Any]] = ()) -> pd.DataFrame:
    """Rows in the order of `HELD`, with or without `away` → held frame.

    `kind` is user, group or nesting, `stage` where it was held. `away`: what the source says all the same of a person
    who has left (`DISABLED`, `OUT_OF_SCOPE`), which is acted on whatever else is wrong with the record.
    """
    width = len(HELD)
    return _frame(((*row, "")[:width] for row in rows), HELD)


def held_records(kind: str, records: pd.DataFrame, name: str, stage: str, reasons: pd.Series) -> pd.DataFrame:
    """Records (`id`, the column `name`, and `active` of people) that are held for a reason → held frame."""
    if not len(records):
        return held_frame()
    stopped = ~records["active"].to_numpy(dtype=bool) if kind == "user" else np.zeros(len(records), dtype=bool)
    return pd.DataFrame(
        {
            "kind": [kind] * len(records),
            "id": records["id"].to_numpy(dtype=object),
            "name": records[name].to_numpy(dtype=object),
            "stage": [stage] * len(records),
            "reason": pd.Series(reasons).to_numpy(dtype=object),
            "away": np.where(stopped, DISABLED, ""),
        },
        dtype="str",
        columns=list(HELD),
    )


def _frame(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    values = list(zip(*rows, strict=True))
    return _framed(values, columns) if values else _empty(tuple(columns)).copy(deep=False)


@cache
def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    # (Made once: a run about a few people has dozens of frames without rows, and each takes as long as one with some.)
    return _framed([()] * len(columns), columns)


def _framed(values: Sequence[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: np.array(column, dtype=bool) if name == "active" else text_array(column)
            for name, column in zip(columns, values, strict=True)
        },
        copy=False,
    )


def text_array(values: Any) -> Any:
    """Texts of any container → an array of dtype `str`. (pandas' own way looks at each value first.)"""
    if isinstance(values, (pd.Series, pd.Index)):
        values = values.array
    if isinstance(values, pd.arrays.ArrowStringArray):
        return values
    if isinstance(values, pd.Categorical):
        return values.astype(STR)
    if isinstance(values, pd.api.extensions.ExtensionArray):
        values = np.asarray(values, dtype=object)
    return STR.__from_arrow__(pa.array(values, type=pa.large_string()))  # type: ignore[attr-defined]


def memberships_frame(rows: Iterable[MembershipRow] = ()) -> pd.DataFrame:
    """Rows in the order of `MEMBERSHIPS` → memberships frame."""
    values = list(zip(*rows, strict=True))
    return memberships_from_columns(*values) if values else _no_memberships().copy(deep=False)


@cache
def _no_memberships() -> pd.DataFrame:
    return memberships_from_columns((), (), ())


def memberships_from_columns(group_id: Any, member_id: Any, member_kind: Any) -> pd.DataFrame:
    """Three columns of text of one length → memberships frame (two categorical id columns)."""
    kinds = pc.index_in(_arrow(text_array(member_kind)), value_set=_KINDS)
    return _memberships(_categorical(group_id), _categorical(member_id), _codes(kinds))


def memberships_together(*frames: pd.DataFrame) -> pd.DataFrame:
    """The memberships of all frames, one after the other."""
    some = [frame for frame in frames if len(frame)]
    if len(some) < 2:
        return some[0] if some else frames[0]
    columns = (_chained([frame[side].array for frame in some]) for side in MEMBERSHIPS)
    return memberships_from_columns(*columns)


def _chained(columns: Sequence[pd.Categorical]) -> pa.Array:
    texts = (_arrow(text_array(one.categories)).take(pa.array(one.codes)) for one in columns)
    return pa.concat_arrays(list(texts))


def _memberships(group_id: pd.Categorical, member_id: pd.Categorical, kinds: np.ndarray) -> pd.DataFrame:
    kind = pd.Categorical.from_codes(np.asarray(kinds, dtype=np.int8), dtype=MEMBER_KINDS)
    return pd.DataFrame({"group_id": group_id, "member_id": member_id, "member_kind": kind}, copy=False)


def _arrow(texts: Any) -> pa.Array:
    """An array of dtype `str` → an array of Arrow."""
    array = pa.array(texts, type=pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _categorical(values: Any) -> pd.Categorical:
    """Texts → categories, sorted. (Arrow sorts by bytes, which in UTF-8 is the order of Python's texts.)"""
    encoded = _arrow(text_array(values)).dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary)
    names = pd.CategoricalDtype(pd.Index(text_array(encoded.dictionary.take(order))))
    codes = _codes(encoded.indices)
    return pd.Categorical.from_codes(
        np.where(codes >= 0, _ranks(order)[codes], -1) if len(order) else codes, dtype=names
    )


def _ranks(order: Any) -> np.ndarray:
    """The positions that sort something → the place of each in that order."""
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[np.asarray(order)] = np.arange(len(order), dtype=np.int32)
    return ranks


def _codes(indices: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(indices, -1) if indices.null_count else indices)


def memberships_from_codes(
    groups: Iterable[str], members: Iterable[str], group_codes: Any, member_codes: Any, kinds: Any
) -> pd.DataFrame:
    """Distinct ids and int codes into them → memberships frame; `kinds` are codes of `MEMBER_KINDS`."""

    def column(names: Iterable[str], codes: Any) -> pd.Categorical:
        dtype = pd.CategoricalDtype(pd.Index(names if isinstance(names, pd.Index) else list(names), dtype="str"))
        return pd.Categorical.from_codes(np.asarray(codes, dtype=np.int32), dtype=dtype)

    return _memberships(column(groups, group_codes), column(members, member_codes), kinds)


def sizes_only(kind: type[T]) -> type[T]:
    """A dataclass whose text (`repr`) says how much it holds, and nothing of what. Prefect writes what a task returns
    into its logs in debug mode, and debuggers and error reports do so too."""

    def text(self: Any) -> str:
        return f"{kind.__name__}({', '.join(f'{f.name}: {_size(getattr(self, f.name))}' for f in fields(self))})"

    kind.__repr__ = text  # type: ignore[method-assign]
    return kind


def _size(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        return f"{len(value)} characters"
    if is_dataclass(value):
        return repr(value) if type(value).__repr__.__qualname__.startswith("sizes_only") else type(value).__name__
    return f"{len(value)} in {type(value).__name__}" if isinstance(value, Sized) else type(value).__name__


@sizes_only
@dataclass(frozen=True, slots=True)
class Members:
    """Direct members of one group: the ids of its users, and those of its groups. A group may come in several pieces.

    A whole read carries memberships like this: a row for each of a million of them would cost more than their parsing.
    """

    group: str
    users: Sequence[str] = ()
    groups: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.users) + len(self.groups)

    def pairs(self) -> Iterator[MembershipRow]:
        """A row for each membership."""
        kinds = chain(repeat("user", len(self.users)), repeat("group", len(self.groups)))
        return zip(repeat(self.group), chain(self.users, self.groups), kinds, strict=False)


def pairs_of(members: Iterable[Members]) -> list[MembershipRow]:
    """Members of a few groups → a row for each membership."""
    return list(chain.from_iterable(one.pairs() for one in members))


@sizes_only
@dataclass(frozen=True, slots=True)
class Snapshot:
    """All users, groups and memberships of one source or directory at one instant.

    Always canonical, so that equal content has an equal digest: users and groups sorted by id,
    memberships by group, member and kind, their categories sorted and all in use.
    `held` names the records that could not be made into a row; they are not in `users` or `groups`.
    `warnings`, in the same columns, names records that are there, but for a field that was left out.
    `unsound` are the users' rows that were read and are held all the same: their scope is still known.
    Build one with `Snapshot.of`.
    """

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame
    held: pd.DataFrame = field(default_factory=held_frame)
    warnings: pd.DataFrame = field(default_factory=held_frame)
    unsound: pd.DataFrame = field(default_factory=users_frame)

    @classmethod
    def of(
        cls,
        users: pd.DataFrame | None = None,
        groups: pd.DataFrame | None = None,
        memberships: pd.DataFrame | None = None,
        held: pd.DataFrame | None = None,
        warnings: pd.DataFrame | None = None,
        unsound: pd.DataFrame | None = None,
    ) -> Snapshot:
        """Frames in any order → a canonical snapshot."""
        return cls(
            users_frame() if users is None else _by_id(users, USERS),
            groups_frame() if groups is None else _by_id(groups, GROUPS),
            memberships_frame() if memberships is None else _canonical(memberships),
            held_frame() if held is None else held.reset_index(drop=True),
            held_frame() if warnings is None else warnings.reset_index(drop=True),
            users_frame() if unsound is None else unsound.reset_index(drop=True),
        )

    def digest(self) -> str:
        """Hex SHA-256 over the content of users, groups and memberships."""
        whole = hashlib.sha256()
        for frame in (self.users, self.groups, self.memberships):
            whole.update(frame_digest(frame))
        return whole.hexdigest()


def frame_digest(frame: pd.DataFrame) -> bytes:
    """SHA-256 over a frame's columns in their order, of text, bool, integer or category."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        digest.update(f"\0{name}\0{len(column)}\0".encode())
        if isinstance(column.dtype, pd.CategoricalDtype):
            digest.update(_text_digest(column.cat.categories))
            digest.update(np.ascontiguousarray(column.cat.codes.to_numpy(), dtype="<i4").data)
        elif column.dtype == bool or column.dtype.kind in "iu":
            digest.update(np.ascontiguousarray(column.to_numpy(), dtype="<i8").data)
        else:
            digest.update(_text_digest(column))
    return digest.digest()


def _text_digest(values: Any) -> bytes:
    # Lengths and bytes are hashed apart: ("ab","c") and ("a","bc") must differ.
    array = pa.concat_arrays([_arrow(text_array(values))])  # drops the offset of a slice
    _, offsets, data = array.buffers()
    digest = hashlib.sha256()
    if len(array):
        bounds = np.frombuffer(offsets, dtype="<i8", count=len(array) + 1, offset=array.offset * 8)
        digest.update(np.diff(bounds).astype("<i8").data)
        if data is not None:
            digest.update(memoryview(data)[int(bounds[0]) : int(bounds[-1])])
    return digest.digest()


def sorted_unique(keys: np.ndarray) -> np.ndarray:
    """Integers → sorted, each once. (`np.unique` hashes them first, ten times slower on a million.)"""
    if (keys[1:] > keys[:-1]).all():
        return keys
    keys = np.sort(keys, kind="stable")  # they come in runs, group by group
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _by_id(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    if frame.columns.tolist() != list(columns):
        frame = frame[list(columns)]
    ids = _arrow(text_array(frame["id"]))
    if len(ids) > 1 and not pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
        frame = frame.take(np.asarray(pc.array_sort_indices(ids)))
    return frame.reset_index(drop=True)


def _canonical(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return memberships_frame()
    groups, members = (_sorted_categories(frame[side].array) for side in ("group_id", "member_id"))
    kinds = _kinds(frame["member_kind"].array)
    width = max(len(members.categories), 1)
    key = (groups.codes.astype(np.int64) * width + members.codes) * 2 + kinds
    if not bool((key[1:] > key[:-1]).all()):
        key = sorted_unique(key)  # a membership said twice is one membership
        pair, kinds = np.divmod(key, 2)
        codes = (np.asarray(code, dtype=np.int32) for code in np.divmod(pair, width))
        groups, members = (
            pd.Categorical.from_codes(of, dtype=side.dtype) for of, side in zip(codes, (groups, members), strict=True)
        )
    return _memberships(groups, members, kinds)


def _kinds(column: Any) -> np.ndarray:
    """A column of kinds → codes of `MEMBER_KINDS`."""
    return np.asarray((column if column.dtype == MEMBER_KINDS else column.astype(MEMBER_KINDS)).codes)


def _sorted_categories(column: Any) -> pd.Categorical:
    """Categories → the same sorted, and all in use."""
    counts = np.bincount(column.codes, minlength=len(column.categories))
    if not counts.all():
        column = column.remove_unused_categories()
    if not column.categories.is_monotonic_increasing:
        order = column.categories.argsort()
        dtype = pd.CategoricalDtype(column.categories[order])
        column = pd.Categorical.from_codes(_ranks(order)[column.codes], dtype=dtype)
    found: pd.Categorical = column
    return found
