"""No credential leaves its origin: thousands of spellings of redirects and links, through the code that sends.

Two real servers: ours, which names an address, and another one, which must never hear of us.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from connectors.errors import CrowdsyncError, RefusedError
from connectors.http import Http
from connectors.oauth import Tokens, with_secret

SECRET = "s3cr3t-Pa55"


@dataclass
class Servers:
    """Our origin and another one; `location` is where ours sends whoever asks for `/moved`."""

    own: str = ""
    other: str = ""
    location: bytes = b""
    heard: list[bytes] = field(default_factory=list)
    overheard: list[bytes] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heard.append(head)
                moved = b"302 Found\r\nlocation: " + self.location if b"/moved" in head.split(b"\r\n")[0] else b"200 OK"
                writer.write(b"HTTP/1.1 " + moved + b"\r\ncontent-length: 2\r\n\r\n{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def overhear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.overheard.append(b"connected")
        self.overheard.append(await reader.read(10_000))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    both = Servers()
    own = await asyncio.start_server(both.answer, "127.0.0.1", 0)
    other = await asyncio.start_server(both.overhear, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    third = None
    with suppress(OSError):  # (no IPv6 here)
        third = await asyncio.start_server(both.overhear, "::1", port)
    both.own, both.other = f"127.0.0.1:{own.sockets[0].getsockname()[1]}", f"127.0.0.1:{port}"
    try:
        yield both
    finally:
        own.close()
        other.close()
        if third is not None:
            third.close()


SCHEMES = (
    "http://",
    "HTTP://",
    "hTtP://",
    "//",
    "///",
    "http:///",
    "http:",
    "http:/",
    "https://",
    "",
    "\\\\",
    "/\\",
    "ftp://",
)
JOINTS = (
    *("@", "%40", ":@", "\\@", "/@", "?@", "#@", ";@", "&@", ":80@", "\t@", " @", "%00@", "%09@", "\uff20", "\ufe6b"),
    *(".", "..", "\\", "\\\\", "%5c", "%5C@", "%2f@", "%2F", "/", "//", "///", "/\\", "?", "#", "\u3002", "\u2024"),
    *(
        "\uff0f",
        "\u2044",
        "\u2215",
        "\u2100",
        "@@",
        "@:@",
        "[",
        "]@",
        "%",
        "|",
        "^@",
        "`@",
        "\xa0@",
        "\xad@",
        "=@",
        "+@",
    ),
    *("\u200b@", "\x7f@", "\x80@", "*@", "!@", "(@)", ",", ";", "\u0660@", ":\u0660@", "%3a@", "%23@", "%3f@", "x@"),
)
PATHS = ("", "/x", "/x?y=1", "?y", "/..;/x", "/%2e%2e/x", "/x@y", ":80/x", "#x")


def spellings(own: str, other: str) -> list[str]:
    """Ways to name the other server so that it looks like ours, and ways to name ours; some are both or neither."""
    port = other.split(":")[1]
    own_host, own_port = own.split(":")
    hosts = (
        *("127.0.0.1", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0"),
        *("0177.0.0.1", "127.0.0.1.", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "\uff4cocalhost"),
    )
    others = [f"{host}:{port}" for host in hosts]
    owns = (
        own,
        f"user@{own}",
        f"user:pw@{own}",
        f"{own_host}:0{own_port}",
        f"{own_host}.:{own_port}",
        own_host,
        f"@{own}",
    )
    full = [
        f"{scheme}{first}{joint}{second}{path}"
        for scheme, first, joint, second, path in itertools.product(SCHEMES, owns, JOINTS, others, PATHS)
    ]
    alone = [f"{scheme}{name}{path}" for scheme, name, path in itertools.product(SCHEMES, (*owns, *others), PATHS)]
    pick = random.Random(11)
    closest = [f"http://{own}{joint}{other}{path}" for joint, path in itertools.product(JOINTS, PATHS)]
    return [*closest, *pick.sample(alone, 500), *pick.sample(full, 1500)]


async def outcome(http: Http, path: str, streamed: bool) -> str:
    try:
        if streamed:
            async with http.stream("GET", path) as stream:
                return str(stream.status)
        return str((await http.call("GET", path)).status)
    except CrowdsyncError as error:
        return type(error).__name__


def sendable(location: str) -> bool:
    """Whether it can stand in a header: what cannot, a server can only say in a body."""
    return not any(letter < " " or letter == "\x7f" for letter in location) and location == location.strip()


def login(at: int) -> dict[str, Any]:
    return {"basic": ("app", SECRET)} if at % 2 else {"bearer": SECRET}


@pytest.mark.parametrize("pinned", [True, False], ids=["links are taken apart", "only what sends looks"])
async def test_no_redirect_and_no_link_leads_a_credential_elsewhere(
    pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time what takes links apart lets all pass: the look before sending is enough by itself."""
    if not pinned:

        def through(self: Http, link: str, _: str) -> str:
            return link.removeprefix(self._root)

        monkeypatch.setattr(Http, "_pinned", through)
    seen: dict[str, int] = {}
    async with servers() as both:
        clients = [Http(f"http://{both.own}", name="t", attempts=1, **login(at)) for at in (0, 1)]
        links = spellings(both.own, both.other)[:: 1 if pinned else 2]
        for at, link in enumerate(links):
            http, streamed = clients[at % 2], at % 3 == 0
            both.location = link.encode()
            paths = ["/moved"] if sendable(link) else []
            try:
                paths.append(http.path_of(link))
            except RefusedError:
                seen["link"] = seen.get("link", 0) + 1
            for path in paths:
                told = await outcome(http, path, streamed)
                seen[told] = seen.get(told, 0) + 1
            assert not both.overheard, link
        for http in clients:
            await http.aclose()
    assert len(links) > (2500 if pinned else 1200)
    assert seen["RefusedError"] > (1000 if pinned else 500)
    assert seen["200"] > 20  # (our own, spelt in another way)


@pytest.mark.parametrize(
    "location", ["http://{own}/x?next=@{other}", "HTTP://{own}/x@{other}", "/x", "?x", "http://{own}"]
)
async def test_what_is_ours_is_followed(location: str) -> None:
    async with servers() as both, Http(f"http://{both.own}", name="t", bearer=SECRET) as http:
        both.location = location.format(own=both.own, other=both.other).encode()
        if location != "?x":
            assert (await http.call("GET", "/moved")).status == 200
        else:
            with pytest.raises(RefusedError):  # (round and round)
                await http.call("GET", "/moved")
        assert all(SECRET.encode() in head for head in both.heard)


async def test_a_token_endpoint_does_not_lead_a_secret_elsewhere() -> None:
    async with servers() as both, Http(f"http://{both.own}", name="t", attempts=1) as http:
        tokens = Tokens(http, "/moved", with_secret("id", SECRET), advice="")
        for at in ("", "@", "/", ":80@"):
            both.location = f"http://{both.own}{at}{both.other}/".encode()
            with pytest.raises(RefusedError):
                await tokens()
        assert not both.overheard
        assert len(both.heard) == 4


async def test_an_address_that_is_none_is_refused_in_our_words() -> None:
    async with servers() as both, Http(f"http://{both.own}", name="t") as http:
        with pytest.raises(RefusedError, match="no address"):
            await http.call("GET", http.path_of(f"/{'x' * 70_000}"))
        assert not both.heard
