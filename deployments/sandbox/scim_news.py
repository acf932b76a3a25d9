"""What `scim2-server` lacks for a demo of real time: it tells what was changed in it, and has a page to change it on.

    python -m deployments.sandbox.scim_news …    (the arguments of scim2-server, which must name a --bearer-token)

Around that server, which we did not write, stands what an identity provider has. After each POST, PUT, PATCH and DELETE
of a user or group that it took, a Standard Webhook (https://www.standardwebhooks.com) with the id of that record goes
to the address in SANDBOX_TELL, signed with the secret in SANDBOX_TELL_SECRET. SCIM itself names no webhook that
providers are known to send; this is what crowdsync takes from a source of the kind `scim`. Bulk requests tell nothing.

`/` is a page with everybody, and a button to disable or enable each; a press is a PATCH like that of anybody else.
"""

from __future__ import annotations

import hmac
import logging
import os
import queue
import sys
import threading
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final
from urllib.parse import parse_qs

import httpx
import orjson
from scim2_server.testserver import cli

TRIES: Final = 6
"""How often news are sent, with pauses of 0.5, 1, 2 … seconds."""
_KINDS: Final = {"Users": "user", "Groups": "group"}
_WHAT: Final = {"POST": "created", "PUT": "updated", "PATCH": "updated", "DELETE": "deleted"}
_JSON: Final = {"Content-Type": "application/scim+json"}
_PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_PAGE: Final = """<!doctype html><meta charset="utf-8"><title>The sandbox's identity provider</title>
<style>body{{font:15px system-ui;margin:2em auto;max-width:56em}}td,th{{padding:.2em 1em .2em 0;text-align:left}}
.off{{color:#999;text-decoration:line-through}}button{{width:6em}}</style>
<h1>The sandbox's identity provider</h1><p>Disable somebody: Crowd follows within a second or two, and the run appears
in Prefect. Everything else goes by SCIM: {url}</p><table><tr><th>user name<th>name<th>e-mail<th></tr>{rows}</table>"""
_ROW: Final = """<tr class="{off}"><td>{user}<td>{name}<td>{email}<td><form method="post">
<button name="{what}" value="{id}">{what}</button></form></tr>"""

log = logging.getLogger(__name__)
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI has it."""


class Sender:
    """Sends news to one address, one after the other, in a thread of its own."""

    def __init__(self, url: str, secret: str) -> None:
        self.url, self.key = url, b64decode(secret)
        self.news: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._send, daemon=True).start()

    def tell(self, kind: str, what: str, key: str) -> None:
        """A record changed: `kind` is user or group."""
        self.news.put(orjson.dumps({"type": f"{kind}.{what}", "data": {kind: key}}))

    def headers(self, body: bytes, sent: str) -> dict[str, str]:
        """Those of one attempt."""
        stamp = str(int(time.time()))
        signed = hmac.digest(self.key, b".".join((sent.encode(), stamp.encode(), body)), "sha256")
        return {
            "Content-Type": "application/json",
            "webhook-id": sent,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{b64encode(signed).decode()}",
        }

    def _send(self) -> None:
        with httpx.Client(timeout=5) as client:
            while True:
                body, sent = self.news.get(), f"msg_{uuid.uuid4().hex}"
                for attempt in range(TRIES):
                    try:
                        if client.post(self.url, content=body, headers=self.headers(body, sent)).is_success:
                            break
                    except httpx.HTTPError as error:
                        log.info("%s: %s", self.url, error)
                    time.sleep(0.5 * 2**attempt)


class Telling:
    """The server's application, with news and a page around it."""

    def __init__(self, inner: Application, url: str, token: str, sender: Sender) -> None:
        self.inner, self.url, self.sender = inner, url, sender
        self.headers = {"Authorization": f"Bearer {token}", **_JSON}

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """As WSGI has it."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/":
            return self._page(method, environ, start)
        statuses: list[str] = []

        def begin(status: str, headers: Any, *more: Any) -> Any:
            statuses.append(status)
            return start(status, headers, *more)

        body = b"".join(self.inner(environ, begin))
        if method in _WHAT and statuses[-1].startswith("2"):
            _, kind, *key = path.strip("/").split("/")
            if kind in _KINDS:
                self.sender.tell(_KINDS[kind], _WHAT[method], key[0] if key else orjson.loads(body)["id"])
        return [body]

    def _page(self, method: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=30) as client:
            if method == "POST":
                given = parse_qs(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode())
                for what, (key,) in given.items():
                    change = {"op": "replace", "path": "active", "value": what == "enable"}
                    body = orjson.dumps({"schemas": [_PATCH], "Operations": [change]})
                    client.patch(f"/Users/{key}", content=body).raise_for_status()
                start("303 See Other", [("Location", "/")])
                return []
            found: list[dict[str, Any]] = []
            while True:
                page = client.get("/Users", params={"startIndex": len(found) + 1, "count": 500}).json()
                found += page.get("Resources", [])
                if len(found) >= page["totalResults"]:
                    break
        rows = "".join(_row(one) for one in sorted(found, key=lambda one: str(one["userName"])))
        start("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [_PAGE.format(url=escape(self.url), rows=rows).encode()]


def _row(user: dict[str, Any]) -> str:
    active = user.get("active", True)
    emails = [one.get("value", "") for one in user.get("emails", [])]
    return _ROW.format(
        off="" if active else "off",
        what="disable" if active else "enable",
        id=escape(user["id"]),
        user=escape(user["userName"]),
        name=escape(user.get("displayName") or ""),
        email=escape(emails[0] if emails else ""),
    )


def main() -> None:
    """The server's command line, with all of it around."""
    given = dict(zip(sys.argv, sys.argv[1:], strict=False))
    url = f"http://127.0.0.1:{given['--port']}/v2"
    sender = Sender(os.environ["SANDBOX_TELL"], os.environ["SANDBOX_TELL_SECRET"])
    make = vars(cli)["make_server"]

    def made(host: str, port: int, inner: Application, **more: Any) -> Any:
        return make(host, port, Telling(inner, url, given["--bearer-token"], sender), **more)

    vars(cli)["make_server"] = made
    cli.main()


if __name__ == "__main__":
    main()
