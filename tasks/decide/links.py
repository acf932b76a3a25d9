"""Which links operations make, move and end, once they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd

from connectors.operations import KINDS, kinds
from tasks.decide.match import ADOPTED, HANDED_OVER
from tasks.decide.ownership import ByHand, ended_links, made_links
from tasks.decide.plan import GIVER

_ENTITY: Final = {kind.value: spec.entity for kind, spec in KINDS.items()}
_MAKES: Final = frozenset([*kinds(link="makes"), *kinds(link="moves")])
_MARKS: Final = frozenset(kinds(link="marks"))
_ENDS: Final = frozenset(kinds(link="ends"))
_AT_TARGET: Final = tuple(kind for kind, spec in KINDS.items() if spec.stands == "target")


def new_links(operations: pd.DataFrame, source: str) -> pd.DataFrame:
    """Operations that hold, in their order → the links they made or moved: source, kind, id, name, how.

    `reason` of an adoption says by which key it was made."""
    made = np.array([_makes(*one) for one in _said(operations)], dtype=bool)
    if not made.any():
        return made_links(operations)
    links = operations[made]
    entity = _entities(links)
    last = ~pd.DataFrame({"kind": entity, "id": links["source_id"]}).duplicated(keep="last")  # a → a~1 → b
    links, entity = links[last], entity[last]
    reason = links["reason"]
    how = reason.where(reason.str.startswith(ADOPTED), "created").str.removeprefix(ADOPTED)
    how = how.where(~reason.str.startswith(HANDED_OVER), HANDED_OVER)
    found = pd.DataFrame(
        {
            "source": pd.array([source] * len(links), dtype="str"),
            "kind": entity,
            "id": links["source_id"].astype("str"),
            "name": links["name"].where(~links["kind"].isin(_AT_TARGET), links["target"]).astype("str"),
            "how": how.where(~links["kind"].isin(kinds(link="moves")), "renamed").astype("str"),
        }
    )
    return pd.concat([found, made_links(operations)], ignore_index=True)


def _said(operations: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Of each operation its kind, its reason, and whom it is about (id)."""
    return zip(*(operations[name].tolist() for name in ("kind", "reason", "source_id")), strict=True)


def _makes(kind: str, reason: str, identity: str) -> bool:
    """Whether an operation makes a link, or moves it."""
    return bool(identity) and (kind in _MAKES or (kind in _MARKS and reason.startswith((ADOPTED, HANDED_OVER))))


def lost_links(operations: pd.DataFrame, source: str) -> pd.DataFrame:
    """Operations that hold → the links that end, by a deletion, a hand-over or by hand: source, kind, id."""
    ends = np.array([bool(identity) and kind in _ENDS for kind, _, identity in _said(operations)], dtype=bool)
    handed_over = np.array([reason.startswith(HANDED_OVER) for _, reason, _ in _said(operations)], dtype=bool)
    if not ends.any() and not handed_over.any():
        return ended_links(operations)
    gone, given = operations[ends], operations[handed_over]
    givers = [str(orjson.loads(record).get(GIVER, "")) for record in given["record"]]
    given = given.assign(source_id=pd.array(givers, dtype="str"))
    gone = pd.concat([gone, given[given["source_id"] != ""]])
    deleted = pd.DataFrame(
        {
            "source": pd.array([source] * len(gone), dtype="str"),
            "kind": _entities(gone),
            "id": gone["source_id"].astype("str"),
        }
    )
    return pd.concat([deleted, ended_links(operations)], ignore_index=True)


def recorded_by(by_hand: ByHand | None, plan: int, operations: pd.DataFrame) -> dict[str, Any]:
    """What `Store.record` takes beside the links of operations that hold: who had it done, and the row of the audit
    chain, where it was by hand."""
    return {} if by_hand is None else {"actor": by_hand.actor, "audited": by_hand.audited(plan, operations)}


def _entities(operations: pd.DataFrame) -> pd.Series:
    """The kind of record that each operation is about: user or group."""
    return operations["kind"].astype("str").map(_ENTITY).astype("str")
