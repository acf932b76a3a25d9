"""It must not be what a measurement measures."""

from __future__ import annotations

import base64
import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import BASE, attributes, user_body


def processor_seconds(pid: int) -> float:
    """What a process has used: unlike the clock, it does not depend on who else is busy."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("method", "path", "body", "floor"),
    [
        ("GET", "/user?username=jdoe", "", 1500),
        ("GET", "/user/group/direct?username=asmith", "", 1500),
        ("PUT", "/user?username=jdoe", json.dumps(user_body("jdoe")), 1000),
        ("POST", "/user/attribute?username=jdoe", json.dumps(attributes("a", "b")), 1000),
    ],
)
def test_it_is_fast_enough(crowd: RunningCrowd, method: str, path: str, body: str, floor: int) -> None:
    parts = urlsplit(crowd.url)
    token = base64.b64encode(b"app:app-pw").decode()
    request = (
        f"{method} /crowd{BASE}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
        f"Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    before = processor_seconds(crowd.process.pid)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        for _ in range(1000):
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 20")
    spent = processor_seconds(crowd.process.pid) - before
    assert 1000 / max(spent, 0.01) > floor
    assert sum(crowd.counts()["statuses"].values()) == 1000
