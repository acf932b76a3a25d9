"""The sandbox's servers are processes of their own: how one is ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr


@contextmanager
def ending(process: subprocess.Popen[AnyStr], patience: float = 5) -> Iterator[subprocess.Popen[AnyStr]]:
    """A process that is ended at the end, by force where it does not end by itself in `patience` seconds."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
