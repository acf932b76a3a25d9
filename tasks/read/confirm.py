"""Asking by key: before anything is taken from whoever a list did not name, that one record is asked for.

A list can lose somebody who was there all along, and nothing in it shows that. Whoever is still there when asked for
by key means that the read was not whole.
"""

from __future__ import annotations

import pandas as pd

from connectors.contract import Source
from connectors.errors import IncompleteError
from connectors.paging import in_order

FIRST = 1_000
"""How many are asked for before a plan is shown; all others before it is carried out."""
AT_ONCE = 8
"""How many are asked for side by side."""


def sample_of(gone: pd.DataFrame) -> pd.DataFrame:
    """Those who are gone (kind, id) → whom to ask for before the plan is shown, spread over all of them."""
    step = -(-len(gone) // FIRST) or 1
    return gone.iloc[::step]


def rest_of(gone: pd.DataFrame) -> pd.DataFrame:
    """Those who are gone → whom to ask for before the plan is carried out: all that were not in `sample_of`."""
    return gone.drop(sample_of(gone).index)


async def still_gone(source: Source, gone: pd.DataFrame) -> None:
    """Asks the source for each of these by its id. Raises `IncompleteError` where one of them is there."""

    async def there(record: tuple[str, str]) -> tuple[str, str, bool]:
        kind, identity = record
        return kind, identity, await (source.has_user(identity) if kind == "user" else source.has_group(identity))

    answers = in_order(there, zip(gone["kind"], gone["id"], strict=True), AT_ONCE)
    try:
        async for kind, identity, found in answers:
            if found:
                raise IncompleteError(
                    f"{source.name}: the {kind} {identity} was not in the list, and is there when asked for by key: "
                    "the list moved while it was read, or the server leaves some out; nothing is taken away: run again"
                )
    finally:
        await answers.aclose()  # type: ignore[attr-defined]
