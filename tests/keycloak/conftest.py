"""One Keycloak for all files here: its start takes longer than most of what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.keycloak.server import NEWEST, VERSION, Server, running

TRANSMITTER = "--spi-ssf-transmitter--default"
PREVIEWS = (
    "--features=scim-api,ssf",
    f"{TRANSMITTER}--allow-insecure-push-targets=true",  # this machine, and no TLS
    f"{TRANSMITTER}--outbox-drainer-interval=1s",
)
"""What real_scim_and_events.py needs."""


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = PREVIEWS if VERSION == NEWEST else ()
    with running(tmp_path_factory.mktemp("keycloak") / "log", *options) as server:
        yield server
