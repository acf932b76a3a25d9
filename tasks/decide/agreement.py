"""What a plan asks a person, as it is stored with the plan, and how far their word goes.

A company does not stand still while a plan waits: somebody else gets another name, and it is made anew. Whoever agreed
to it did so to what it asked; of the rest nobody would have been asked. So their word holds for a later plan that asks
nothing else, and of no operation that was not in the plan that they saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd

from connectors.operations import Kind, kinds
from tasks.decide.guard import Finding

SAME: Final = ("kind", "name", "target", "source_id")
"""By these an operation is the same as before; one that gives something has the same content, too."""
_TAKES: Final = frozenset(kinds(effect="takes"))


def asks_text(findings: Sequence[Finding]) -> str:
    """Findings → JSON text; "" where there are none."""
    asked = [{"text": one.text, "kinds": one.kinds, "questions": questions(one)} for one in findings]
    return orjson.dumps(asked).decode() if asked else ""


def questions(finding: Finding) -> tuple[str, ...]:
    """What a finding asks, each in words that stay the same where only a count moves."""
    return finding.questions or (finding.text,)


def kinds_asked(asks: str) -> tuple[Kind, ...]:
    """The kinds of operation that a stored plan asks about."""
    return tuple(dict.fromkeys(Kind(kind) for one in _read(asks) for kind in one["kinds"]))


def asks_no_more(asks: str, findings: Iterable[Finding]) -> bool:
    """Whether all that findings ask was asked by a stored plan (`asks`), too."""
    asked = {question for one in _read(asks) for question in one["questions"]}
    return asked.issuperset(question for one in findings for question in questions(one))


def covered(findings: Iterable[Finding]) -> frozenset[Kind]:
    """The kinds of which a person agrees to the very operations that they see, where they agree to findings."""
    return frozenset(kind for one in findings for kind in (one.kinds if one.covers is None else one.covers))


def also_in(before: pd.DataFrame, operations: pd.DataFrame) -> np.ndarray:
    """Which operations are among those of another plan, too: bool."""
    known, found = _identities(before).drop_duplicates(), _identities(operations)
    return (found.merge(known, how="left", indicator="side")["side"] == "both").to_numpy(dtype=bool)


def _identities(operations: pd.DataFrame) -> pd.DataFrame:
    columns = {name: operations[name].astype("str").array for name in SAME}
    content = operations["record"].astype("str").where(~operations["kind"].isin(_TAKES), "")
    return pd.DataFrame({**columns, "content": content.array})


def _read(asks: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(asks) if asks else []
    return found
