"""The databases that tests run on, and how tests are spread over worker processes.

Files whose tests share servers and build on each other go to one worker, whole, and so does what shares an emulator
in contract/ (each worker would start its own); everything else test by test. What takes longest begins first, so that
all workers end at about the same time. (xdist's own `loadgroup` does nothing with today's pytest.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connectors import oauth
from connectors.idp import SOURCES
from connectors.store import Store
from deployments.process import freeze_imports
from tasks.decide import names
from tests.support import postgres

vars(oauth)["load_pem_private_key"] = lru_cache(load_pem_private_key)
"""A key is proved once in a process (0.1 s each time), not for each of the thousands of sources that tests open."""

WHOLE = (
    "approval",
    "commands",
    "deployments",
    "incomplete_reads",
    "notify",
    "narrow_runs",
    "prefect",
    "real_time",
    "requests",
    "subscriptions",
    "wheel",
)
"""Files in end_to_end/ whose tests share servers."""
ALONE = ("test_up_serves_everything",)
"""Tests in them that have servers of their own."""
LONGEST = (
    "deployments",
    "commands",
    "approval",
    "notify",
    "prefect",
    "real_time",
    "incomplete_reads",
    "requests",
    "narrow_runs",
    "one_writer",
    "kill",
    "kill_ownership",
    "every_source",
    "policy_pairs",
    "selection",
    "road",
)
"""What to begin with: names of files, those with the longest tests (or that are longest, of the whole ones) first."""


def _file(nodeid: str) -> str:
    return Path(nodeid.partition("::")[0]).stem.removeprefix("test_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of pytest-xdist, where it is there and on."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByPlace(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if _file(nodeid) == "every_source":  # one emulator for each kind of source
                kinds = test.partition("[")[2].strip("]").split("-")
                return f"{file}::{next((kind for kind in kinds if kind in SOURCES), '')}"
            if "/crowd_emulator/" in file:
                return str(Path(file).parent)
            return file if _whole(nodeid) or "/contract/" in file else nodeid

    config.option.loadscopereorder = False  # (it would put the scopes with most tests first)
    return ByPlace(config, log)


def _whole(nodeid: str) -> bool:
    """Whether the tests of its file belong together."""
    return _file(nodeid) in WHOLE and not nodeid.partition("::")[2].startswith(ALONE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest first; the rest as it was. With CROWDSYNC_THIRD (0 to 2) a third of the long ones, always the
    same: a file whose tests belong together is in one of them."""
    if third := os.environ.get("CROWDSYNC_THIRD"):
        names_of = {item: item.nodeid.partition("::")[0] if _whole(item.nodeid) else item.nodeid for item in items}
        chosen = {
            item: item.get_closest_marker("long") is None or crc32(names_of[item].encode()) % 3 == int(third)
            for item in items
        }
        config.hook.pytest_deselected(items=[item for item in items if not chosen[item]])
        items[:] = [item for item in items if chosen[item]]
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(_file(item.nodeid), len(order)))


def pytest_collection_finish() -> None:
    """To look through what was imported again and again for what can be freed was a tenth of all the work."""
    freeze_imports()


@pytest.fixture(autouse=True)
def _one_by_one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every other test nothing is looked at one by one, so that its small worlds go the way of large ones."""
    if crc32(request.node.nodeid.encode()) % 2:
        monkeypatch.setattr(names, "FEW", 0)


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL for the session; CI must have one."""
    reason = postgres.missing()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test PostgreSQL: {reason}")
        pytest.skip(f"PostgreSQL half left out: {reason}")
    with postgres.running() as running:
        yield running


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's file with nothing in it, to be copied: to make its tables takes 35 ms."""
    file = tmp_path_factory.mktemp("schema") / "store.db"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def store(tmp_path: Path, schema: Path) -> Iterator[Store]:
    """An empty store of one file, for tests of something else."""
    with Store.open(f"sqlite:///{shutil.copy(schema, tmp_path)}") as opened:
        yield opened


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def backend(request: pytest.FixtureRequest) -> str:
    """Once each kind of database."""
    return str(request.param)


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once of each kind; `store_url` is one whose tables are made, and costs a third."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
    else:
        with request.getfixturevalue("server").database() as fresh:
            yield fresh


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
