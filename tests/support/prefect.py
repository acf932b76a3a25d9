"""What tests on a Prefect server share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PASSWORD, TOKEN = "pass-of-crowd-7Qz", "token-of-acme-9Xk"
Found = TypeVar("Found")


def until(look: Callable[[], Found | None], seconds: float = 40) -> Found:
    """What `look` finds, as soon as it finds something: Prefect records what happened a little later."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.25)
    return found
