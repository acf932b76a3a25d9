"""A receiver in a process of its own, as people start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from connectors.store import Store
from deployments.process import ending
from tests.support.deliveries import SECRET

PING = "p" * 20
CONFIGURATION = """
[store]
url = "{url}"
[directory]
url = "http://127.0.0.1:1/crowd"
application = "crowdsync"
[sources.acme]
kind = "scim"
url = "https://idp.example.org"
[sources.acme.webhook]
[sources.pushed]
kind = "push"
url = "https://sync.example.org"
"""


@dataclass(frozen=True)
class Receiver:
    """`url` is that of its store. It knows `acme`, which sends webhooks, and `pushed`, which pushes by SCIM."""

    process: subprocess.Popen[str]
    address: str
    url: str

    @property
    def scim(self) -> str:
        """The SCIM address of `pushed`."""
        return f"{self.address}/scim/pushed/v2"

    def token(self) -> str:
        """A new token of `pushed`."""
        with Store.open(self.url) as store:
            return store.make_token("pushed", days=1, now=datetime.now(UTC))[1]


@contextmanager
def running(
    home: Path, *, url: str = "", more: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[Receiver]:
    """A receiver with its configuration (`more` is added to it) and, where no `url` names another, its store in
    `home`."""
    url = url or f"sqlite:///{home}/store.db"
    (home / "crowdsync.toml").write_text(CONFIGURATION.format(url=url) + more, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", "from deployments.cli import main; main()", "receive", "--port", "0"],
        env={
            **os.environ,
            "PYTHONPATH": ".",
            "CROWDSYNC_CONFIG": str(home / "crowdsync.toml"),
            "CROWDSYNC_CROWD_PASSWORD": "pw",
            "CROWDSYNC_WEBHOOK_SECRET": SECRET,
            "CROWDSYNC_CROWD_WEBHOOK_SECRET": PING,
            **(environment or {}),
        },
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with ending(process):
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1:]
        assert address, f"the receiver ended with {process.wait()}"
        yield Receiver(process, address[0], url)
