"""Two buttons more in the Prefect UI of `crowdsync up`: the company of the sandbox moves on, by some days or by a
mistake.

A press is a flow run in a process of the worker's; the company is kept by `crowdsync up`, which listens for it on the
loopback address.
"""

# No `from __future__ import annotations` here: see flows/sync.py.
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.error import HTTPError

import httpx
import orjson
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from deployments.sandbox.provider import LATER, Provider

ADDRESS: Final = "CROWDSYNC_SANDBOX"
_WORDS: Final = {"new_groups": "new group" if LATER["new_groups"] == 1 else "new groups"}
DEPLOYMENTS: Final = Path(__file__).with_name("prefect.yaml")


@flow(name="some-days-later", flow_run_name="some days later", persist_result=False)
def some_days_later() -> State[Any]:
    """The company of the sandbox some days later: joiners, leavers, renames, moves, a new group."""
    done = ", ".join(f"{count} {_WORDS.get(what, what)}" for what, count in LATER.items())
    return _told({"later": True}, f"In the identity provider: {done}.")


def _mass() -> str:
    given = flow_run.parameters
    return "undo" if given.get("undo") else f"{given.get('percent', 40)} % disabled"


@flow(name="mass-leavers", flow_run_name=_mass, persist_result=False)
def mass_leavers(percent: Annotated[int, Field(ge=1, le=90)] = 40, undo: bool = False) -> State[Any]:
    """Somebody makes a mistake in the sandbox's identity provider: a large part of its people is disabled.

    Args:
        percent: So many per cent of the people are disabled.
        undo: Disable nobody, and take back what these buttons did last.
    """
    done = "what was changed last is taken back" if undo else f"{percent} % of the people are disabled"
    return _told({"undo": True} if undo else {"percent": percent}, f"In the identity provider, {done}.")


def _told(change: Mapping[str, Any], done: str) -> State[Any]:
    answer = httpx.post(os.environ[ADDRESS], content=orjson.dumps(change), timeout=120)
    return Failed(message=answer.text) if answer.is_error else Completed(message=done)


@contextmanager
def listening(provider: Provider, people: int) -> Iterator[str]:
    """Until the end, presses of the buttons reach the provider, whose company has so many people; the address at
    which."""

    def press(asked: Mapping[str, Any]) -> None:
        if asked.get("undo"):
            provider.undo()
        elif asked.get("later"):
            provider.change(LATER)
        else:
            provider.change({"disabled": people * asked["percent"] // 100})

    class Press(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                press(asked)
                status, text = 200, ""
            except (ValueError, HTTPError):  # an emulator's 400
                what = "there is nothing to take back" if asked.get("undo") else "not so many people are left to change"
                status, text = 409, f"nothing was changed: {what}"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Press) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
