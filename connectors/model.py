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

T = TypeVar("T")

USERS: Final = ("id", "username", "email", "first_name", "last_name", "display_name", "active", "attributes")
GROUPS: Final = ("id", "name", "description", "attributes")
MEMBERSHIPS: Final = ("group_id", "member_id", "member_kind")
HELD: Final = ("kind", "id", "name", "stage", "reason", "away")

DISABLED: Final = "disabled"
OUT_OF_SCOPE: Final = "out_of_scope"
"""The clear words of a source that somebody has left: `away` of a held record, "" where it says nothing of the kind."""

MEMBER_KINDS: Final = pd.CategoricalDtype(pd.Index(["group", "user"], dtype="str"))

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
            name: pd.array(list(column), dtype="bool" if name == "active" else "str")
            for name, column in zip(columns, values, strict=True)
        }
    )


def memberships_frame(rows: Iterable[MembershipRow] = ()) -> pd.DataFrame:
    """Rows in the order of `MEMBERSHIPS` → memberships frame."""
    values = list(zip(*rows, strict=True))
    return memberships_from_columns(*values) if values else _no_memberships().copy(deep=False)


@cache
def _no_memberships() -> pd.DataFrame:
    return memberships_from_columns((), (), ())


def memberships_from_columns(group_id: Any, member_id: Any, member_kind: Any) -> pd.DataFrame:
    """Three columns of text of one length → memberships frame (two categorical id columns)."""

    def text(values: Any) -> Any:  # (a Series is not taken apart)
        return values.astype("str").array if isinstance(values, pd.Series) else pd.array(list(values), dtype="str")

    return pd.DataFrame(
        {
            "group_id": pd.Categorical(text(group_id)),
            "member_id": pd.Categorical(text(member_id)),
            "member_kind": pd.Categorical(text(member_kind), dtype=MEMBER_KINDS),
        }
    )


def memberships_from_codes(
    groups: Iterable[str], members: Iterable[str], group_codes: Any, member_codes: Any, kinds: Any
) -> pd.DataFrame:
    """Distinct ids and int codes into them → memberships frame; `kinds` are codes of `MEMBER_KINDS`."""

    def column(names: Iterable[str], codes: Any) -> pd.Categorical:
        dtype = pd.CategoricalDtype(pd.Index(names if isinstance(names, pd.Index) else list(names), dtype="str"))
        return pd.Categorical.from_codes(np.asarray(codes, dtype=np.int32), dtype=dtype)

    return pd.DataFrame(
        {
            "group_id": column(groups, group_codes),
            "member_id": column(members, member_codes),
            "member_kind": pd.Categorical.from_codes(np.asarray(kinds, dtype=np.int8), dtype=MEMBER_KINDS),
        }
    )


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
            _by_id(users_frame() if users is None else users, USERS),
            _by_id(groups_frame() if groups is None else groups, GROUPS),
            _canonical(memberships_frame() if memberships is None else memberships),
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
    array = pa.array(values, type=pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = pa.concat_arrays([array])  # drops the offset of a slice
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
    if not frame["id"].is_monotonic_increasing:
        frame = frame.sort_values("id", kind="stable")
    return frame.reset_index(drop=True)


def _canonical(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return memberships_frame()
    group = frame["group_id"].cat.remove_unused_categories()
    member = frame["member_id"].cat.remove_unused_categories()
    groups, group_codes = _sorted_categories(group)
    members, member_codes = _sorted_categories(member)
    kinds = frame["member_kind"].astype(MEMBER_KINDS).cat.codes.to_numpy().astype(np.int64)
    key = (group_codes.astype(np.int64) * max(len(members), 1) + member_codes) * 2 + kinds
    if len(key) and not bool((key[1:] > key[:-1]).all()):
        key = sorted_unique(key)  # a membership said twice is one membership
    pair, kinds = np.divmod(key, 2)
    group_codes, member_codes = np.divmod(pair, max(len(members), 1))
    return memberships_from_codes(groups, members, group_codes, member_codes, kinds)


def _sorted_categories(column: pd.Series) -> tuple[pd.Index, np.ndarray]:
    categories, codes = column.cat.categories, column.cat.codes.to_numpy()
    if categories.is_monotonic_increasing:
        return categories, codes
    order = categories.argsort()
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return categories[order], rank[codes]
