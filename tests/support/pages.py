"""Memberships as a read carries them, by group, and as rows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pandas as pd

from connectors.contract import Page
from connectors.model import Members, MembershipRow, pairs_of


async def as_pairs(pages: AsyncIterator[Page[Members]]) -> AsyncIterator[Page[MembershipRow]]:
    """Pages of members → the same pages, with a row for each membership."""
    async for page in pages:
        yield Page(pairs_of(page.rows), page.last, page.held, page.warnings)


def by_group(memberships: pd.DataFrame) -> list[Members]:
    """A memberships frame → members of each group."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for group, member, kind in memberships.astype("str").itertuples(index=False, name=None):
        found.setdefault(group, ([], []))[kind == "group"].append(member)
    return [Members(group, *both) for group, both in found.items()]
