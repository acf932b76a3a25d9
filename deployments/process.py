"""Processes of our own: how one is ended, and how one that we did not write ends with us, whatever ends us.

    python -P deployments/process.py MODULE:FUNCTION ARGUMENT…

runs a program's entry point until it ends, or standard input does: that is a pipe which the one who started it holds,
and which the system closes also where that one is killed.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr, Final

PATIENCE: Final = 10
"""Seconds that a program has to end by itself after standard input ended."""


def freeze_imports() -> None:
    """For a process that stays: what it has imported does so too, and is not searched for garbage again and again, nor
    is the little that one answer or one batch makes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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


def tied(entry: str, *arguments: str) -> list[str]:
    """The command line of a program that ends with us: its entry point (MODULE:FUNCTION) and arguments. Its standard
    input must be a pipe."""
    # Without this file's own folder on its path: our modules have names that others have too.
    return [sys.executable, "-P", __file__, entry, *arguments]


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def main() -> None:
    """The command line in this module's docstring."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    module, _, function = sys.argv[1].partition(":")
    sys.argv[:2] = [module]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
