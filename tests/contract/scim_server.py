"""A SCIM server for tests that answers from plain records, and spoils the answers that it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

Spoil = Callable[[str, int, bytes], bytes | None]
"""(Users | Groups | Groups/id, page or number of the record, body) → what to say instead.

None closes the connection; bytes that start with "HTTP/" are sent as they are."""


class ScimServer:
    """`cap` is the largest page it gives, `style` index or cursor, `totals` whether it counts; what ends in
    `late` is answered after the rest."""

    def __init__(self, users: list[Any], groups: list[Any], **settings: Any) -> None:
        self.records = {"Users": users, "Groups": groups}
        self.cap: int = settings.get("cap", 1000)
        self.style: str = settings.get("style", "index")
        self.totals: bool = settings.get("totals", True)
        self.listed_members: bool = settings.get("listed_members", True)
        self.discovery: bool = settings.get("discovery", True)
        self.members_returned: str = settings.get("members_returned", "default")
        self.late: str = settings.get("late", "")
        self.spoil: Spoil = lambda _what, _page, body: body
        self.asked: list[str] = []
        self.url = ""

    def answer(self, target: str) -> tuple[int, str, int, bytes]:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query, keep_blank_values=True)
        what, _, key = path.removeprefix("/scim/").partition("/")
        if what == "ServiceProviderConfig" and self.discovery:
            cursor = self.style == "cursor"
            return 200, what, 0, orjson.dumps({"pagination": {"cursor": cursor, "index": not cursor}})
        if what == "Schemas" and self.discovery:
            members = {"name": "members", "type": "complex", "returned": self.members_returned}
            return 200, what, 0, orjson.dumps({"id": key, "attributes": [{"name": "displayName"}, members]})
        if what not in self.records:
            return 404, what, 0, b'{"status":"404","detail":"no such endpoint"}'
        hide = "excludedAttributes" in query or (not key and not self.listed_members)
        hide |= self.members_returned == "never"
        hide |= self.members_returned == "request" and query.get("attributes") != ["members"]
        shown = [
            {k: v for k, v in one.items() if k != "members"} if hide and isinstance(one, dict) else one
            for one in self.records[what]
        ]
        if key:
            found = [(at, one) for at, one in enumerate(shown) if one.get("id") == unquote(key)]
            if not found:
                return 404, what, 0, b'{"status":"404","detail":"no such record"}'
            return 200, f"{what}/id", found[0][0], orjson.dumps(found[0][1])
        if "filter" in query:
            name, _, value = query["filter"][0].split(" ", 2)
            wanted = orjson.loads(value)
            shown = [
                one
                for one, whole in zip(shown, self.records[what], strict=True)
                if (name == "userName" and one["userName"].lower() == wanted.lower())
                or (name == "members.value" and wanted in [x["value"] for x in whole.get("members", ())])
            ]
        count = min(int(query.get("count", ["100"])[0]), self.cap)
        if self.style == "cursor":
            start = int(query.get("cursor", [""])[0].removeprefix("c") or 1)
        else:
            start = int(query.get("startIndex", ["1"])[0])
        page = shown[start - 1 : start - 1 + count]
        body: dict[str, Any] = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"], "Resources": page}
        if self.totals:
            body["totalResults"] = len(shown)
        if self.style == "index":
            body |= {"startIndex": start, "itemsPerPage": len(page)}
        elif start - 1 + count < len(shown):
            body["nextCursor"] = f"c{start + count}"
        step = count - 1 if self.style == "index" else count  # who pages by index lets pages overlap by one record
        return 200, what, (start - 1) // max(step, 1), orjson.dumps(body)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
                self.asked.append(target.removeprefix("/scim"))
                if self.late and target.endswith(self.late):
                    await asyncio.sleep(0.1)
                status, what, page, body = self.answer(target)
                said = self.spoil(what, page, body) if status == 200 else body
                if said is None:
                    break
                if not said.startswith(b"HTTP/"):
                    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/scim+json\r\ncontent-length: {len(said)}"
                    said = head.encode() + b"\r\n\r\n" + said
                writer.write(said)
                await writer.drain()
                if b"connection: close" in said[:200]:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScimServer]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/scim"
        try:
            yield self
        finally:
            server.close()
