"""Changes of ownership as operations on the mark, and what such operations say that was changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd

from connectors.model import ID_ATTRIBUTE, text_array
from connectors.operations import MARKS, Kind

BY_HAND: Final = "by hand: "
"""How the reason of an operation begins that changes ownership because a person said so."""
_KIND: Final = {"user": Kind.USER_ATTRIBUTES, "group": Kind.GROUP_ATTRIBUTES}


@dataclass(frozen=True, slots=True)
class ByHand:
    """A person's decision about ownership, as the audit records it; stored with its plan, it outlives a crash."""

    event: str
    actor: str
    login: str
    reason: str
    forced: tuple[str, ...] = ()

    def text(self) -> str:
        """As it is stored in place of a policy: such a plan is made under none."""
        return orjson.dumps({"by_hand": self}).decode()

    @classmethod
    def read(cls, policy: str) -> ByHand | None:
        """What a stored plan says in place of a policy; None: it is an ordinary one."""
        found = orjson.loads(policy).get("by_hand")
        return None if found is None else cls(**{**found, "forced": tuple(found["forced"])})

    def audited(self, plan: int, operations: pd.DataFrame) -> dict[str, Any] | None:
        """Operations of such a plan that hold now → the row of the audit chain; None where there are none."""
        changed = [
            {"kind": kind, "name": name, "from": was, "to": owner}
            for kind, name, was, _, owner, _ in _changes_of(operations)
        ]
        if not changed:
            return None
        subject = changed[0]["to"] or changed[0]["from"] if len(changed) == 1 else f"plan {plan}"
        details = {"plan": plan, "reason": self.reason, "login": self.login, "changes": changed}
        if self.forced:
            details["forced"] = list(self.forced)
        return {"event": self.event, "actor": self.actor, "subject": subject, "details": details}


def operations(changes: pd.DataFrame) -> pd.DataFrame:
    """Changes of ownership → operations in the store's columns, on the mark. `record` and `before` say beside it whose
    link is made, and whose ends."""
    rows = []
    for seq, row in enumerate(changes.to_dict("records"), 1):
        mark = {ID_ATTRIBUTE: [row["owner"]] if row["owner"] else []} if row["write"] else {}
        before = {ID_ATTRIBUTE: [row["mark"]] if row["mark"] else []}
        identity = (row["owner"] or row["was"]).partition(":")[2]
        after = _json({"attributes": mark, "owner": row["owner"], "how": row["how"]})
        was = _json({"attributes": before, "owner": row["ends"], "was": row["was"]})
        kind = _KIND[row["kind"]].value
        rows.append((seq, MARKS, kind, row["name"], "", identity, after, was, BY_HAND + row["why"]))
    columns = ("seq", "phase", "kind", "name", "target", "source_id", "record", "before", "reason")
    return pd.DataFrame(
        {
            name: pd.array(list(values), dtype="int64" if name in ("seq", "phase") else "str")
            for name, values in zip(columns, list(zip(*rows, strict=True)) or [()] * len(columns), strict=True)
        }
    )


def of_link_alone(operations: pd.DataFrame) -> np.ndarray:
    """Which changes of ownership need no write to Crowd: bool."""
    return operations["record"].str.startswith('{"attributes":{},').to_numpy(dtype=bool)


def made_links(operations: pd.DataFrame) -> pd.DataFrame:
    """Operations that hold → the links that were made by hand: source, kind, id, name, how."""
    rows = [
        (*owner.split(":", 1), kind, name, how) for kind, name, _, _, owner, how in _changes_of(operations) if owner
    ]
    return _links(rows, ("source", "id", "kind", "name", "how"))[["source", "kind", "id", "name", "how"]]


def ended_links(operations: pd.DataFrame) -> pd.DataFrame:
    """Operations that hold → the links that ended by hand: source, kind, id."""
    rows = [(*ends.split(":", 1), kind) for kind, _, _, ends, _, _ in _changes_of(operations) if ends]
    return _links(rows, ("source", "id", "kind"))[["source", "kind", "id"]]


def _links(rows: Sequence[Sequence[str]], columns: tuple[str, ...]) -> pd.DataFrame:
    return _framed(list(zip(*rows, strict=True)), columns) if rows else _no_links(columns).copy(deep=False)


@cache
def _no_links(columns: tuple[str, ...]) -> pd.DataFrame:
    return _framed([()] * len(columns), columns)


def _framed(values: Sequence[Sequence[str]], columns: tuple[str, ...]) -> pd.DataFrame:
    texts = zip(columns, map(text_array, values), strict=True)
    return pd.DataFrame(dict(texts), copy=False)


def _changes_of(operations: pd.DataFrame) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Operations → kind, name, whose it was, whose link ends, the new owner and how, of every change by hand."""
    changed = [reason.startswith(BY_HAND) for reason in operations["reason"].tolist()]
    if not any(changed):
        return
    by_hand = operations[changed]
    for kind, name, record, before in by_hand[["kind", "name", "record", "before"]].itertuples(index=False, name=None):
        after, was = orjson.loads(record), orjson.loads(before)
        yield kind.partition("_")[0], name, was["was"], was["owner"], after["owner"], after["how"]


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
