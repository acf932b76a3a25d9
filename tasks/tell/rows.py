"""Operations, counts and names as people read them, on a run's page and in the terminal alike.

Usernames, group names and the names of changed fields are shown; values only where the policy discloses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd

from connectors.operations import BY_DANGER, KINDS, Kind, kinds
from tasks.decide.names import spelled

ROWS: Final = 200
"""Rows that the Prefect page shows at ease; the whole plan is in the store."""

OF_GROUPS: Final = (*kinds(entity="group"), *kinds(entity="nesting"))


def plan_rows(operations: pd.DataFrame, disclose: str, limit: int = ROWS) -> list[dict[str, str]]:
    """Operations → table rows for people, at most `limit`: together what concerns one person or one group, and first
    those to whom the most dangerous things happen."""
    rank = operations["kind"].map({kind.value: n for n, kind in enumerate(BY_DANGER)})
    # A person who is renamed is one person: named as now until the rename, and then as after it.
    renamed = operations["kind"] == Kind.USER_RENAME
    before = dict(zip(operations["target"][renamed], operations["name"][renamed], strict=True))
    subject = operations["name"].map(lambda name: before.get(name, name)).astype("str")
    of_group = operations["kind"].isin(OF_GROUPS)
    block = pd.Series(np.where(of_group, "group ", "user ") + subject, index=operations.index)
    worst = rank.groupby(block).transform("min")
    order = operations.assign(rank=rank, block=block, worst=worst)
    chosen = order.sort_values(["worst", "block", "rank", "seq"], kind="stable").head(limit)
    rows = []
    for row in chosen.itertuples():
        spec = KINDS[Kind(str(row.kind))]
        line = {
            "": spec.sign,
            "who": str(row.name),
            "what": spec.words,
            "to": str(row.target),
            "changes": changes(str(row.record), str(row.before), disclose),
            "because it": str(row.reason),
        }
        if "state" in operations.columns:
            line |= {"state": str(row.state), "note": str(row.note)}
        rows.append(line)
    return rows


def changes(record: str, before: str, disclose: str) -> str:
    """Which fields an operation changes: names, or `name: old → new` where values may be shown."""
    if not before or not record:
        return ""
    old, new = orjson.loads(before), orjson.loads(record)
    if "attributes" in old:
        old, new = old["attributes"], new.get("attributes", {})
    names = [name for name in old if name != "username"]
    if disclose != "values":
        return ", ".join(names)
    return ", ".join(f"{name}: {_text(old[name])} → {_text(new.get(name, ''))}" for name in names)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def count_line(counts: Mapping[str, int], most: int = len(BY_DANGER)) -> str:
    """`+ 12 create account, ~ 3 update`: counts by kind for one line, of the `most` dangerous kinds."""
    parts = [f"{KINDS[kind].sign} {counts[kind]:,} {KINDS[kind].words}" for kind in BY_DANGER if counts.get(kind)]
    return ", ".join(parts[:most] + (["…"] if len(parts) > most else [])) or "nothing to do"


WORDS: Final[Mapping[str, str]] = {
    "planned": "not begun",
    "intended": "begun, and the end not known",
    "done": "done",
    "already": "already so",
    "failed": "failed",
    "skipped": "skipped, because they wait for one that failed",
    "undone": "found not done",
}
"""What the states of the journal mean."""


def written(outcomes: Mapping[str, int]) -> str:
    """`150 done, 2 already so, 1 failed`: what became of a plan's operations, in one line."""
    return ", ".join(f"{outcomes[state]:,} {words}" for state, words in WORDS.items() if outcomes.get(state))


def left_out(warnings: pd.DataFrame, names: int = 10, reasons: int = 20) -> list[tuple[str, list[str]]]:
    """Warnings → by reason, the most frequent first, the names of some whom it concerns and how many more there are."""
    found = []
    for reason in warnings["reason"].value_counts().index[:reasons]:
        rows = warnings[warnings["reason"] == reason]
        some = [f"{spelled(str(row.name or row.id))} ({row.kind})" for row in rows.head(names).itertuples()]
        found.append((str(reason), some + ([f"and {len(rows) - names:,} more"] if len(rows) > names else [])))
    rest = warnings["reason"].nunique() - reasons
    return found + ([(f"{rest:,} more reasons", [])] if rest > 0 else [])
