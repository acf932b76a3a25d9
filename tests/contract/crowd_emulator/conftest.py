"""One emulated Crowd for each worker, emptied and loaded anew for each."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from deployments.sandbox.crowd import RunningCrowd, running
from tests.support.crowd_bodies import BASE, COMPANY


@pytest.fixture(scope="session")
def emulator() -> Iterator[RunningCrowd]:
    with running(applications={"app": "app-pw", "other": "other-pw"}) as crowd:
        yield crowd


@pytest.fixture
def crowd(emulator: RunningCrowd) -> RunningCrowd:
    emulator.configure(
        directories=[{"name": "directory"}],
        applications=[{"name": "app", "password": "app-pw"}, {"name": "other", "password": "other-pw"}],
    )
    emulator.faults([])
    emulator.load(**COMPANY)
    emulator.reset_counts()
    return emulator


@pytest.fixture(scope="session")
def connection() -> Iterator[httpx.Client]:
    with httpx.Client(auth=("app", "app-pw"), timeout=10, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def http(crowd: RunningCrowd, connection: httpx.Client) -> httpx.Client:
    connection.base_url = crowd.url + BASE
    connection.headers = httpx.Headers({"Accept": "application/json"})
    return connection
