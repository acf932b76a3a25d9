"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.store import Store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """The same, open."""
    with Store.open(store_url) as opened:
        yield opened
