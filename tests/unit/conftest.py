"""Fixtures of several unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.store import Store
from tests.support import postgres


@pytest.fixture(scope="session")
def postgres_schema(server: postgres.Server) -> Iterator[str]:
    """The name of a database that is a store with nothing in it, to be copied."""
    with server.database() as url:
        Store.open(url).close()
        yield url.rsplit("/", 1)[1]


@pytest.fixture
def store_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path, schema: Path) -> Iterator[str]:
    """A store with nothing in it, once of each kind."""
    if backend == "sqlite":
        yield f"sqlite:///{shutil.copy(schema, tmp_path)}"
    else:
        like = request.getfixturevalue("postgres_schema")
        with request.getfixturevalue("server").database(like) as copied:
            yield copied


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """The same, open."""
    with Store.open(store_url) as opened:
        yield opened
