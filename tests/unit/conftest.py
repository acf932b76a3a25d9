"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.store import Store


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store, on SQLite and on PostgreSQL."""
    with Store.open(url) as opened:
        yield opened
