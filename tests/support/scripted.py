"""A server on this machine that answers by a script, byte for byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CLOSE = b""  # close the connection without an answer
HANG = b"HANG"


def answer(status: int = 200, body: bytes = b"{}", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Script:
    """A server that gives the answers of a list in turn, the last one for ever, and keeps the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        head += await reader.readexactly(int(line[15:]))
                self.requests.append(head)
                said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if said == HANG:
                    await asyncio.sleep(60)
                writer.write(said)
                await writer.drain()
                if said == CLOSE or b"connection: close" in said:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Script]:
    script = Script(*answers)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    script.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
    try:
        yield script
    finally:
        server.close()
