"""Operations as rows: how frames of them are made, and what a step of the planner returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from connectors.model import ID_ATTRIBUTE, sizes_only, text_array
from connectors.operations import KINDS, Kind
from tasks.decide.fields import FIELDS
from tasks.decide.plan.model import COLUMNS, GIVER

HeldRow = tuple[str, ...]
"""kind, id, name, stage, reason, and the source's word that the person has left ("" for none)."""
DIFFERS: Final = "differs from the source"


@sizes_only
@dataclass(frozen=True, slots=True)
class Withheld:
    """Operations of one kind that the policy keeps out, and whether it wants to see them."""

    operations: pd.DataFrame
    state: Literal["on", "off", "report"]


@sizes_only
@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of the planner found: operations (phase, `COLUMNS`, `KNOWN`), records to hold, operations that the
    policy's features keep out."""

    operations: pd.DataFrame
    held: tuple[HeldRow, ...] = ()
    withheld: tuple[Withheld, ...] = ()


class Row(NamedTuple):
    """One operation."""

    kind: str
    name: str
    target: str
    source_id: str
    record: str
    before: str
    reason: str
    marks: bool = False


# (A parameter for each column.)
def frame(
    kind: Kind,
    names: Any,
    *,
    source_id: Any,
    reason: Any,
    record: Any = None,
    before: Any = None,
    shuts_out: Any = False,
) -> pd.DataFrame:
    """Columns of operations of one kind, each as long as `names` → operations."""
    count = len(names)
    if not count:
        return nothing()
    empty = [""] * count
    columns = {
        "kind": [kind.value] * count,
        "name": names,
        "target": empty,
        "source_id": source_id,
        "record": empty if record is None else record,
        "before": empty if before is None else before,
        "reason": reason,
    }
    return pd.DataFrame(
        {
            **{name: text_array(one) for name, one in columns.items()},
            "phase": np.full(count, KINDS[kind].phase, dtype="int64"),
            "shuts_out": np.array(np.broadcast_to(shuts_out, count), dtype=bool),
            "marks": np.zeros(count, dtype=bool),
        },
        copy=False,
    )


def pairs(kind: Kind, members: np.ndarray, groups: np.ndarray, reason: str) -> pd.DataFrame:
    """Names of members and of their groups → operations on memberships or nestings, which may be many."""
    count = len(groups)

    def text(value: str) -> Any:
        return text_array(pa.repeat(pa.scalar(value, pa.large_string()), count))

    return pd.DataFrame(
        {
            "kind": text(kind.value),
            "name": text_array(members),
            "target": text_array(groups),
            **{column: text("") for column in ("source_id", "record", "before")},
            "reason": text(reason),
            "phase": np.full(count, KINDS[kind].phase, dtype="int64"),
            "shuts_out": np.zeros(count, dtype=bool),
            "marks": np.zeros(count, dtype=bool),
        }
    )


def of_rows(rows: Sequence[Row], phases: Sequence[int] | None = None) -> pd.DataFrame:
    """Single operations → operations; `phases` where they are not those of their kinds."""
    return _framed(rows, phases) if rows else nothing()


def _framed(rows: Sequence[Row], phases: Sequence[int] | None = None) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * len(Row._fields)
    given = [KINDS[Kind(row.kind)].phase for row in rows] if phases is None else phases
    return pd.DataFrame(
        {
            **{n: text_array(v) for n, v in zip(COLUMNS, columns, strict=False)},
            "phase": np.array(given, dtype="int64"),
            "shuts_out": np.zeros(len(rows), dtype=bool),
            "marks": np.array(columns[-1], dtype=bool),
        }
    )


def nothing() -> pd.DataFrame:
    """No operations."""
    return _nothing().copy(deep=False)


@cache
def _nothing() -> pd.DataFrame:
    return _framed([])


def json(value: Any) -> str:
    """Canonical JSON text."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def records(users: pd.DataFrame, marks: pd.Series | None = None) -> list[str]:
    """Rows of users → whole Crowd records as JSON text; with `marks` also the attributes, as a creation needs them."""
    rows = zip(*_values(users), strict=True)
    plain = [{"email": e, "first_name": f, "last_name": la, "display_name": d, "active": a} for e, f, la, d, a in rows]
    if marks is not None:
        for record, text, mark in zip(plain, users["attributes"], marks, strict=True):
            given = {name: values for name, values in orjson.loads(text).items() if values is not None}
            record["attributes"] = {**given, ID_ATTRIBUTE: [mark]}
    return [json(record) for record in plain]


def fields_before(now: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Accounts as they are and as they will be → what the fields that change held, as JSON text."""
    names = (*FIELDS, "active")
    old, new = (zip(*_values(frame), strict=True) for frame in (now, after))
    return [
        json({name: a for name, a, b in zip(names, o, n, strict=True) if a != b}) for o, n in zip(old, new, strict=True)
    ]


def _values(users: pd.DataFrame) -> list[list[Any]]:
    """Rows of users → their `FIELDS`, and whether they are active, as Python's own values."""
    return [*(users[field].to_numpy(dtype=object).tolist() for field in FIELDS), users["active"].astype(bool).tolist()]


def attribute_change(now: str, wanted: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Attributes as they are and as they should be, as JSON text ("": as they are) → what changes, and what it was."""
    if not wanted:
        return {}, {}
    old, new = orjson.loads(now), orjson.loads(wanted)
    new = {name: old.get(name, []) if values is None else values for name, values in new.items()}  # null: as it is
    names = [name for name in sorted(old.keys() | new.keys()) if sorted(old.get(name, [])) != sorted(new.get(name, []))]
    return {name: new.get(name, []) for name in names}, {name: old.get(name, []) for name in names}


def counted(withheld: Sequence[Withheld]) -> tuple[dict[str, int], pd.DataFrame]:
    """What the policy keeps out → how many by kind, and those that it wants to see (`COLUMNS`)."""
    counts: dict[str, int] = {}
    if not withheld:
        return counts, nothing()[list(COLUMNS)]
    for one in withheld:
        kind = str(one.operations["kind"].iloc[0])
        counts[kind] = counts.get(kind, 0) + len(one.operations)
    shown = [one.operations[list(COLUMNS)] for one in withheld if one.state == "report"]
    return counts, pd.concat([nothing()[list(COLUMNS)], *shown], ignore_index=True)


def together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Operations of all steps → one frame, step by step."""
    some = [part for part in parts if len(part)]
    return pd.concat(some, ignore_index=True) if some else nothing()


def attributes_record(change: Mapping[str, Sequence[str]], giver: str = "") -> str:
    """The record of an operation on attributes; `giver`: the id whose link ends when it holds."""
    return json({"attributes": change} | ({GIVER: giver} if giver else {}))
