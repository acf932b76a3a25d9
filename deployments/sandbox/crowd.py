"""An emulated Crowd: its own process, in memory, written from the reference and from nothing else.

    python -m deployments.sandbox.crowd --port 8095 --application jira:secret

It speaks `/crowd/rest/usermanagement/{1,latest}` in JSON and XML. Below `/_sandbox/`, for callers on
this machine only, it is loaded, looked into and made to fail (`control` lists the calls). `Crowd` is
the state, usable without a socket; `application` serves it over ASGI, `serve` over its own HTTP
server, which is faster and can break connections; `running` starts it as a subprocess.

What the reference marks `?` or leaves out, and what is done here (the stricter reading, so that a
client that passes here needs no luck elsewhere):

- `Accept: */*` and no Accept get XML. Nothing acceptable is 406, also JSON on `/group/membership`.
- A body without `Content-Type`, or of another type than JSON and XML, is 415. A wrong method is 405,
  so PUT on attributes fails. These, unknown paths (404) and foreign addresses (403) answer HTML.
- 401 carries a Basic challenge. `Location` is never sent. 201 of groups and memberships has no body;
  a rename is 200 with the user; it accepts `new-name` and `newName`.
- Broken or missing body members, numbers and restrictions: 400 ILLEGAL_ARGUMENT.
- A missing `active` is false, on create and PUT, for users and groups. `type` must be `GROUP`.
- PUT of a user replaces: a missing (or null) first name or email becomes empty, a missing last name
  becomes the user name (CWD-2634); an *empty* first name or email changes nothing (CWD-5690). A missing
  or empty last or display name is made from the rest, also on create.
- PUT of a group without a description removes it. Attributes in any PUT are ignored.
- An inactive account is refused before its password is looked at.
- Names are refused if blank, with blanks around, or with control characters; anything over 255
  UTF-16 units is refused (INVALID_USER, INVALID_GROUP), never cut.
- A user made over REST gets Crowd's own attributes (`requiresPasswordChange`,
  `invalidPasswordAttempts`, `passwordLastChanged`; `lastAuthenticated` on sign-in). They raise no event.
- Statuses: MEMBERSHIP_ALREADY_EXISTS 409, also for nestings; MEMBERSHIP_NOT_FOUND 404;
  INVALID_MEMBERSHIP, NESTED_GROUPS_NOT_SUPPORTED, INVALID_CREDENTIAL, EXPIRED_CREDENTIAL,
  INVALID_EMAIL, EVENT_TOKEN_EXPIRED, INCREMENTAL_SYNC_NOT_AVAILABLE 400; UNSUPPORTED_OPERATION 403
  (read-only directory). `/user/group/*` of an unknown user is 404.
- A link of a parent group cannot be deleted (405); nested groups can be switched off per directory.
- Missing text fields are sent as `""`; `directory-id` is not sent. Links name this server and `/1/`.
- Lists come in order of the folded name; max-results is 1000 if not given, -1 for all.
- POST `/search` needs a restriction with its type. CQL values ignore case.
- A session that was made with other validation factors is 404 INVALID_SSO_TOKEN. A second sign-on with the same
  factors is the same session, prolonged by the time that it was made for.
- Events: of the two stores the timestamp-based one. A token names this configuration, its time and each directory's
  position; it stays while nothing happens, or moves (`EventSettings`, with what is kept and given again). A load, clear
  or configure expires all tokens. The JSON form of event bodies is a guess, and so is the inside of those in XML. A
  user or group that is deleted or renamed is told of alone (a rename as DELETED and CREATED): the memberships that go
  or come with it raise no events of their own.
- Webhooks (how they are pinged says `crowd_pings`): the names of members and what comes back are a guess. The token
  never comes back. A second registration of an endpoint is the first one, its token unchanged.
- Adding a member needs a directory that holds user and group both; other rules for several
  directories are those of section 13.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

import httptools
import orjson

from deployments.process import ending
from deployments.sandbox.crowd_data import PERMISSION_SETS
from deployments.sandbox.crowd_faults import Fault
from deployments.sandbox.crowd_pings import send_pings
from deployments.sandbox.crowd_rest import JSON, VERSION, Answer, Crowd, page

CONTROL: Final = "/_sandbox/"

Message = MutableMapping[str, Any]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


# --- control


def control(crowd: Crowd, method: str, path: str, query: str, body: bytes, address: str) -> Answer:
    """Answer a call below `/_sandbox/`.

    | call | does |
    |---|---|
    | `POST load[?directory=D]` | adds `{"users","groups","memberships" or "members","nestings"}` |
    | `GET state[?directory=D][&keys=true]` | the whole content, in canonical order |
    | `GET digest[?directory=D]` | `{"digest"}` of that state |
    | `GET webhooks` | what is registered, with the successes and failures of its pings |
    | `GET counts`, `POST reset-counts` | requests per kind, reads, writes, statuses, faults fired |
    | `POST faults` | replaces the fault rules by this list |
    | `POST interrupt?application=A` | changes an alias, the application or its mapping, so that no event tells of it |
    | `POST clear` | empties directories, sessions and faults |
    | `POST configure` | sets up directories and applications anew |
    """
    if not _is_loopback(address):
        return page(403, "Forbidden")
    parameters = dict(urllib.parse.parse_qsl(query))
    directory = parameters.get("directory")
    name = path.removeprefix(CONTROL)
    try:
        if (method, name) == ("GET", "counts"):
            return _json(crowd.counts())
        if (method, name) == ("GET", "webhooks"):
            return _json(crowd.pings())
        if (method, name) == ("GET", "state"):
            return _json(crowd.state(directory, keys=parameters.get("keys") == "true"))
        if (method, name) == ("GET", "digest"):
            return _json({"digest": crowd.digest(directory)})
        if method != "POST":
            return page(404, "Not Found")
        if name == "load":
            # Millions of objects are made here and all of them stay: the collector need not look.
            gc.disable()
            try:
                crowd.load(orjson.loads(body), directory)
            finally:
                gc.freeze()
                gc.enable()
        elif name == "faults":
            crowd.set_faults(orjson.loads(body))
        elif name == "configure":
            crowd.configure(orjson.loads(body))
        elif name == "interrupt":
            crowd.interrupt(parameters["application"])
        elif name == "reset-counts":
            crowd.reset_counts()
        elif name == "clear":
            crowd.clear()
        else:
            return page(404, "Not Found")
    except (ValueError, KeyError, TypeError) as error:
        answer = _json({"error": f"{type(error).__name__}: {error}"})
        answer.status = 400
        return answer
    return Answer(204)


def _json(document: Any) -> Answer:
    return Answer(200, orjson.dumps(document), JSON)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


# --- ASGI


def application(crowd: Crowd) -> Asgi:
    """The emulator as an ASGI application, e.g. for an in-process client.

    ASGI cannot break a connection: faults that do so raise `ConnectionResetError` here.
    """

    async def asgi(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, path = scope["method"], (scope.get("raw_path") or scope["path"].encode()).decode()
        path, query = path.partition("?")[0], scope["query_string"].decode("latin-1")
        address = (scope.get("client") or ("127.0.0.1", 0))[0]
        if path.startswith(CONTROL):
            answer = control(crowd, method, path, query, body, address)
        else:
            fault = crowd.fault_for(method, path, query) if crowd.faults else None
            if fault is not None and fault.kind == "slow":
                await asyncio.sleep(fault.delay or 1.0)
            answer = crowd.respond(method, path, query, headers, body, address, fault)
        if answer.hang:
            await asyncio.sleep(answer.hang)
        if answer.vanish or answer.cut is not None:
            raise ConnectionResetError("a fault broke this connection")
        lines = [(b"x-embedded-crowd-version", VERSION.encode())]
        if answer.content_type:
            lines.append((b"content-type", answer.content_type.encode()))
        lines.extend((name.lower().encode(), value.encode()) for name, value in answer.headers)
        if answer.stream is None and answer.status != 204:
            lines.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": lines})
        for piece in answer.stream or ():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": answer.body})

    return asgi


# --- HTTP


class _Connection(asyncio.Protocol):
    """One keep-alive connection; requests are answered in order, most of them without a task."""

    def __init__(self, crowd: Crowd, connections: set[_Connection]) -> None:
        self.crowd = crowd
        self.connections = connections
        self.parser: Any = httptools.HttpRequestParser(self)
        self.waiting: deque[tuple[str, str, dict[str, str], bytes, bool]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.address = ""

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connections.add(self)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if peer else ""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.connections.discard(self)
        self.writable.set()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.write(_head(400, None, (("Connection", "close"),), 0))
            self.transport.close()

    # The parser's side.

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        target = self.url.decode("latin-1")
        request = (
            self.parser.get_method().decode("latin-1"),
            target,
            self.headers,
            self.body[0] if len(self.body) == 1 else b"".join(self.body),
            self.parser.should_keep_alive(),
        )
        if self.task is not None or self.waiting:
            self.waiting.append(request)
            self.transport.pause_reading()
        else:
            self.serve(*request)

    # Ours.

    def serve(self, method: str, target: str, headers: dict[str, str], body: bytes, keep: bool) -> None:
        path, _, query = target.partition("?")
        crowd = self.crowd
        if method == "HEAD":
            keep = False  # refused with a body, which only the end of the connection can frame
        if path.startswith(CONTROL):
            self.send(control(crowd, method, path, query, body, self.address), keep)
            return
        fault = crowd.fault_for(method, path, query) if crowd.faults else None
        if fault is not None and fault.kind == "slow":

            async def later(delay: float) -> None:
                await asyncio.sleep(delay)
                self.task = None
                self.send(self.respond(method, path, query, headers, body, fault), keep)
                self.proceed()

            self.start(later(fault.delay if fault.delay is not None else 1.0))
            return
        self.send(self.respond(method, path, query, headers, body, fault), keep)

    def respond(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, fault: Fault | None
    ) -> Answer:
        try:
            return self.crowd.respond(method, path, query, headers, body, self.address, fault)
        except Exception:
            # The parser would make a 400 of it: a bug of the emulator must look like one.
            traceback.print_exc()
            return page(500, "The emulator failed")

    def start(self, work: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(work)

    def proceed(self) -> None:
        """Take up the requests that arrived in the meantime."""
        while self.waiting and self.task is None and not self.transport.is_closing():
            self.serve(*self.waiting.popleft())
        if not self.waiting and self.task is None and not self.transport.is_closing():
            self.transport.resume_reading()

    def send(self, answer: Answer, keep: bool) -> None:
        if answer.vanish:
            if answer.hang:

                async def vanish_later() -> None:
                    await asyncio.sleep(answer.hang)
                    self.vanish()

                self.start(vanish_later())
            else:
                self.vanish()
            return
        extra = answer.headers if keep else (*answer.headers, ("Connection", "close"))
        if answer.stream is not None:
            self.start(self.send_stream(answer, extra, keep))
            return
        head = _head(answer.status, answer.content_type, extra, len(answer.body))
        if answer.cut is not None:
            # Where there is no body to cut, the head is.
            whole = answer.body or head
            kept = whole[: int(len(whole) * answer.cut)]
            self.transport.write(head + kept if answer.body else kept)
            self.transport.close()
            return
        self.transport.write(head + answer.body)
        if not keep:
            self.transport.close()

    async def send_stream(self, answer: Answer, extra: tuple[tuple[str, str], ...], keep: bool) -> None:
        assert answer.stream is not None
        pieces: Iterator[bytes] = answer.stream
        if answer.cut is not None:
            whole = b"".join(pieces)
            pieces = iter([whole[: int(len(whole) * answer.cut)]])
        self.transport.write(_head(answer.status, answer.content_type, extra, None))
        for piece in pieces:
            await self.writable.wait()
            if self.transport.is_closing():
                return
            if piece:
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)  # others are served between two pieces
        self.task = None
        if answer.cut is not None:
            self.transport.close()
            return
        self.transport.write(b"0\r\n\r\n")
        if not keep:
            self.transport.close()
        self.proceed()

    def vanish(self) -> None:
        """Reset the connection, so that the client sees RST and not an orderly end."""
        handle = self.transport.get_extra_info("socket")
        if handle is not None:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


_heads: dict[tuple[int, str | None], bytes] = {}


def _head(status: int, content_type: str | None, extra: tuple[tuple[str, str], ...], length: int | None) -> bytes:
    """Status line and headers; a length of None means chunked."""
    head = _heads.get((status, content_type))
    if head is None:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        kind = f"Content-Type: {content_type}\r\n" if content_type and status != 204 else ""
        head = f"HTTP/1.1 {status} {phrase}\r\nX-Embedded-Crowd-Version: {VERSION}\r\n{kind}".encode()
        _heads[status, content_type] = head
    more = "".join(f"{name}: {value}\r\n" for name, value in extra).encode("latin-1") if extra else b""
    if status == 204:
        return b"%b%b\r\n" % (head, more)
    if length is None:
        return b"%b%bTransfer-Encoding: chunked\r\n\r\n" % (head, more)
    return b"%b%bContent-Length: %d\r\n\r\n" % (head, more, length)


async def _serve(crowd: Crowd, host: str, port: int, announce: Callable[[str], None] | None, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        loop.add_reader(0, lambda: None if os.read(0, 4096) else stop.set())
    connections: set[_Connection] = set()
    server = await loop.create_server(lambda: _Connection(crowd, connections), host, port, backlog=1024)
    shown = f"[{host}]" if ":" in host else host
    crowd.listen_at(f"http://{shown}:{server.sockets[0].getsockname()[1]}")
    pings = asyncio.create_task(send_pings(crowd))
    if announce is not None:
        announce(crowd.url)
    await stop.wait()
    server.close()
    pings.cancel()
    for connection in list(connections):
        connection.transport.abort()


AT_ONCE: Final = 500_000
"""So many records, or pairs, are loaded with one request at most: more take minutes."""


def _parts(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What is to be loaded, in the order in which it needs each other; as one, where it is little."""
    if all(len(rows) <= AT_ONCE for rows in content.values()):
        yield content
        return
    for kind in ("users", "groups", "memberships", "nestings"):
        for start in range(0, len(content[kind]), AT_ONCE):
            yield {kind: content[kind][start : start + AT_ONCE]}
    yield {"members": content["members"]}


def serve(
    port: int,
    applications: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    base_path: str = "/crowd",
    nested_groups: bool = True,
    permissions: str = "all",
    announce: Callable[[str], None] | None = None,
    until_eof: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT (or, on request, the end of standard input). Port 0 takes a free one.

    `announce` is called with the base URL once the port is open.
    """
    crowd = Crowd(applications, base_path=base_path, nested_groups=nested_groups, permissions=permissions)
    gc.set_threshold(100_000, 50, 100)
    asyncio.run(_serve(crowd, host, port, announce, until_eof))


# --- as a subprocess


class RunningCrowd:
    """A Crowd in a process of its own, and the controls of it."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self.process = process
        parts = urllib.parse.urlsplit(url)
        self._control = f"{parts.scheme}://{parts.netloc}{CONTROL}"
        # A proxy of the environment has no business between a test and its own subprocess.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _call(self, method: str, name: str, document: Any = None, **parameters: str | None) -> Any:
        given = {key: value for key, value in parameters.items() if value is not None}
        query = f"?{urllib.parse.urlencode(given)}" if given else ""
        body = b"" if document is None else orjson.dumps(document)
        request = urllib.request.Request(  # noqa: S310  (the URL is our own subprocess's)
            f"{self._control}{name}{query}", data=body if method == "POST" else None, method=method
        )
        try:
            with self._opener.open(request, timeout=120) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise ValueError(f"the sandbox refused {name}: {error.read().decode()}") from None
        return orjson.loads(text) if text else None

    def load(
        self,
        *,
        users: Iterable[Sequence[Any]] = (),
        groups: Iterable[Sequence[Any]] = (),
        memberships: Iterable[Sequence[str]] = (),
        nestings: Iterable[Sequence[str]] = (),
        members: Mapping[str, Iterable[str]] | None = None,
        directory: str | None = None,
    ) -> None:
        """Add content: users as `(name, first, last, display, email, active[, attributes])`, groups as
        `(name[, description[, attributes]])`, memberships as `(user, group)`, nestings as
        `(child, parent)`; `members` as `{group: users}`."""
        content = {
            "users": list(users),
            "groups": list(groups),
            "memberships": list(memberships),
            "nestings": list(nestings),
            "members": {group: list(names) for group, names in (members or {}).items()},
        }
        for part in _parts(content):
            self._call("POST", "load", part, directory=directory)

    def configure(
        self,
        *,
        directories: Sequence[Mapping[str, Any]],
        applications: Sequence[Mapping[str, Any]],
        events: Mapping[str, Any] | None = None,
    ) -> None:
        """Directories and applications anew, see `Crowd.configure`; the content is gone."""
        setting = {"directories": directories, "applications": applications, "events": events or {}}
        self._call("POST", "configure", setting)

    def interrupt(self, application: str) -> None:
        """Something changes that makes the application's event stream impossible, see `Crowd.interrupt`."""
        self._call("POST", "interrupt", application=application)

    def counts(self) -> dict[str, Any]:
        """`{"requests": {"GET /user": 3}, "reads", "writes", "statuses", "faults"}` since the last reset."""
        return cast(dict[str, Any], self._call("GET", "counts"))

    def webhooks(self) -> list[dict[str, Any]]:
        """The webhooks that are registered: `{"id", "application", "endpoint", "successes", "failures"}`."""
        return cast(list[dict[str, Any]], self._call("GET", "webhooks"))

    def reset_counts(self) -> None:
        self._call("POST", "reset-counts")

    def state(self, directory: str | None = None, *, keys: bool = False) -> dict[str, Any]:
        """The whole content in canonical order, to compare; with `keys` also each user's key."""
        found = self._call("GET", "state", directory=directory, keys="true" if keys else None)
        return cast(dict[str, Any], found)

    def digest(self, directory: str | None = None) -> str:
        """A digest of `state`."""
        return str(self._call("GET", "digest", directory=directory)["digest"])

    def faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules, see `deployments.sandbox.crowd_faults`."""
        self._call("POST", "faults", list(rules))

    def clear(self) -> None:
        """Empty the directories; sessions and faults go too."""
        self._call("POST", "clear")


@contextlib.contextmanager
def running(
    port: int = 0,
    applications: Mapping[str, str] | None = None,
    *,
    base_path: str = "/crowd",
    nested_groups: bool = True,
    permissions: str = "all",
) -> Iterator[RunningCrowd]:
    """A Crowd in a subprocess, ready when entered, gone when left (also if this process dies)."""
    given = {"crowdsync": "secret"} if applications is None else applications
    command = [sys.executable, "-m", "deployments.sandbox.crowd", "--until-eof"]
    command += ["--port", str(port), "--base-path", base_path, "--permissions", permissions]
    command += [] if nested_groups else ["--no-nested-groups"]
    for name, password in given.items():
        command += ["--application", f"{name}:{password}"]
    root = Path(__file__).resolve().parents[2]
    with ending(
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the emulated Crowd did not start: {line!r}")
        yield RunningCrowd(line.removeprefix("listening on ").strip(), process)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="deployments.sandbox.crowd", description="An emulated Crowd.")
    parser.add_argument("--port", type=int, default=8095, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--base-path", default="/crowd", help="the context path, may be empty")
    parser.add_argument("--application", action="append", metavar="NAME:PASSWORD", default=[])
    parser.add_argument("--no-nested-groups", action="store_true")
    parser.add_argument("--permissions", choices=PERMISSION_SETS, default="all", help="what applications may write")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    given = parser.parse_args(arguments)
    applications = {}
    for text in given.application or ["crowdsync:secret"]:
        name, colon, password = text.partition(":")
        if not (name and colon and password):
            parser.error(f"--application takes NAME:PASSWORD, not {text!r}")
        applications[name] = password

    def announce(url: str) -> None:
        sys.stdout.write(f"listening on {url}\n")
        sys.stdout.flush()

    serve(
        given.port,
        applications,
        host=given.host,
        base_path=given.base_path,
        nested_groups=not given.no_nested_groups,
        permissions=given.permissions,
        announce=announce,
        until_eof=given.until_eof,
    )


__all__ = ["Crowd", "RunningCrowd", "application", "running", "serve"]

if __name__ == "__main__":
    main()
