"""A real HTTP server that takes what others post to it, such as pings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Taken:
    """One POST: path, headers (lower-case names) and body."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Listener:
    """What was taken so far, and how it answers: with `status`, and not before `open` is set."""

    url: str
    status: int = 204
    taken: list[Taken] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)


def wait_until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Returns once it is true; fails if it is not within so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener on a free port of this machine, gone when left."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            listener.taken.append(Taken(self.path, headers, body))
            listener.open.wait(30)
            self.send_response(listener.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Who called may have gone before the answer."""

    server = Quiet(("127.0.0.1", 0), Handler)
    listener = Listener(f"http://127.0.0.1:{server.server_address[1]}/crowd/main")
    listener.open.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield listener
    finally:
        listener.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
