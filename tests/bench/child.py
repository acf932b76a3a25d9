"""A process that answers commands: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

ROOT: Final = Path(__file__).resolve().parents[2]

Command = Callable[..., Any]


class Child:
    """A Python module in a process of its own, which calls `answer`. Use as context manager."""

    def __init__(self, module: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def __call__(self, command: str, **arguments: Any) -> Any:
        """The command's result. Raises `RuntimeError` with what the child said where it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps([command, arguments]) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child ended during {command!r} (exit {self._process.wait()}); see {self._log}")
        answer = orjson.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def answer(commands: Mapping[str, Command]) -> None:
    """Answer until standard input ends. What the commands print goes to standard error."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        name, arguments = orjson.loads(line)
        try:
            said = {"result": commands[name](**arguments)}
        except Exception as error:
            traceback.print_exc()
            said = {"error": f"{type(error).__name__}: {error}"}
        out.write(orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    sys.stderr.flush()
    os._exit(0)
