"""What an identity provider may push in a second to one receiver, beside the bare database.

`python -m tests.bench.scim_push`. The receiver is a process of its own with a file of SQLite, this one is its client.
Processor seconds are the receiver's: what it does in a second of them does not depend on what else runs. Floors are
the statements alone, by `sqlite3` and with as many rows to a commit as there are clients: the rows that were inserted
into an empty file of the same schema, the selects of a search, the rows of one change of members.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.child import ROOT
from tests.support.receiver import Receiver, running
from tests.support.scim_push import BULK, GROUP, PATCH, USER

CLIENTS: Final = 32
AGAIN: Final = 60
"""Changes of the members of one group."""
BULKS: Final = 200
"""Operations in a bulk request."""

Work = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One client that keeps its connection, and does as little as can be."""

    def __init__(self, receiver: Receiver, token: str) -> None:
        self._host, self._port = urlsplit(receiver.address).hostname, urlsplit(receiver.address).port
        self._head = f"Host: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/scim+json\r\n"

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def __call__(self, method: str, path: str, body: Any = None) -> bytes:
        """The body of an answer that says that it is done. Raises `RuntimeError` with any other."""
        content = b"" if body is None else orjson.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        size = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        answer = await self._reader.readexactly(size)
        if not lines[0].split(b" ")[1].startswith(b"2"):
            raise RuntimeError(f"{method} {path}: {lines[0]!r} {answer[:300]!r}")
        return answer


@dataclass(slots=True)
class Line:
    """One line of the table: seconds for each, of the receiver's processor for each, and of the floor for each."""

    what: str
    each: float
    processor: float
    floor: float
    wanted: str = ""


class Bench:
    """One receiver, and what is asked of it."""

    def __init__(self, receiver: Receiver, token: str, place: Path, count: int) -> None:
        self.receiver, self.token, self.place, self.count = receiver, token, place, count
        self.root = "/scim/pushed/v2"
        self.lines: list[Line] = []

    def processor(self) -> float:
        """Processor seconds of the receiver until now."""
        fields = Path(f"/proc/{self.receiver.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def many(self, work: Work, count: int, clients: int = CLIENTS) -> tuple[float, float]:
        """Seconds and processor seconds for each of so many."""
        left = iter(range(count))

        async def client() -> None:
            async with Connection(self.receiver, self.token) as ask:
                for _ in left:
                    await work(ask)

        began, spent = time.perf_counter(), self.processor()
        await asyncio.gather(*(client() for _ in range(clients)))
        return (time.perf_counter() - began) / count, (self.processor() - spent) / count

    async def run(self) -> None:
        """All of it, in the order of the table."""
        numbers = iter(range(10**9))

        async def health(ask: Connection) -> None:
            await ask("GET", "/health")

        async def create(ask: Connection) -> None:
            await ask("POST", f"{self.root}/Users", person(next(numbers)))

        async def search(ask: Connection) -> None:
            asked = quote(f'userName eq "{name(next(numbers) * 7919 % self.count)}"')
            assert b'"totalResults":1,' in await ask("GET", f"{self.root}/Users?filter={asked}")

        await self.many(health, 200)
        self.lines.append(Line("nothing but HTTP", *await self.many(health, self.count), 0.0))
        measured = await self.many(create, self.count)
        self.lines.append(Line("POST /Users", *measured, self.inserted(CLIENTS), "200 a second"))
        numbers = iter(range(10**9))
        measured = await self.many(search, self.count)
        self.lines.append(Line("GET /Users?filter=userName eq", *measured, self.selected(), "400 a second"))
        await self.members()
        await self.bulk()

    async def members(self) -> None:
        """One member more or less in a group that has 10,000."""
        async with Connection(self.receiver, self.token) as ask:
            members = [{"value": f"member-{nth}"} for nth in range(10_000)]
            body = {"schemas": [GROUP], "displayName": "everybody", "members": members}
            group = orjson.loads(await ask("POST", f"{self.root}/Groups", body))["id"]
            seconds, spent = [], self.processor()
            for nth in range(AGAIN):
                one = f"member-{nth // 2}"
                change: dict[str, Any] = {"op": "remove", "path": f'members[value eq "{one}"]'}
                if nth % 2:
                    change = {"op": "add", "path": "members", "value": [{"value": one}]}
                began = time.perf_counter()
                await ask("PATCH", f"{self.root}/Groups/{group}", {"schemas": [PATCH], "Operations": [change]})
                seconds.append(time.perf_counter() - began)
            each = (self.processor() - spent) / AGAIN
        self.lines.append(
            Line("PATCH, one member of 10,000", statistics.median(seconds), each, self.moved(), "30 ms at most")
        )

    async def bulk(self) -> None:
        """Many people in one request."""
        first = self.count
        made = [
            {"method": "POST", "path": "/Users", "bulkId": f"b{nth}", "data": person(first + nth)}
            for nth in range(BULKS)
        ]
        async with Connection(self.receiver, self.token) as ask:
            began, spent = time.perf_counter(), self.processor()
            found = orjson.loads(await ask("POST", f"{self.root}/Bulk", {"schemas": [BULK], "Operations": made}))
        assert {one["status"] for one in found["Operations"]} == {"201"}
        each, processor = (time.perf_counter() - began) / BULKS, (self.processor() - spent) / BULKS
        self.lines.append(Line(f"Bulk of {BULKS} people, each", each, processor, self.inserted(BULKS)))

    # Floors

    @contextmanager
    def database(self, name: str) -> Iterator[sqlite3.Connection]:
        """A file with the conventions of ours."""
        with closing(sqlite3.connect(self.place / name, isolation_level=None)) as connection:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-32000"):
                connection.execute(f"PRAGMA {pragma}")
            yield connection

    def inserted(self, together: int) -> float:
        """Seconds to insert one person and what tells of it, as many to a commit as `together`."""
        (self.place / "bare.db").unlink(missing_ok=True)
        with self.database("store.db") as there, self.database("bare.db") as bare:
            rows: list[tuple[str, list[Any]]] = []
            for table in ("mirror_record", "inbox"):
                for (sql,) in there.execute("SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql <> ''", (table,)):
                    bare.execute(sql)
                found = there.execute(f"SELECT * FROM {table} WHERE kind = 'user'").fetchall()
                marks = ", ".join("?" * len(found[0]))
                rows.append((f"INSERT INTO {table} VALUES ({marks})", found))
            people = min(len(found) for _, found in rows)
            began = time.perf_counter()
            for start in range(0, people, together):
                bare.execute("BEGIN IMMEDIATE")
                for statement, found in rows:
                    for row in found[start : start + together]:
                        bare.execute(statement, row)
                bare.execute("COMMIT")
            return (time.perf_counter() - began) / people

    def selected(self) -> float:
        """Seconds for the selects of one search, and of the token."""
        with self.database("store.db") as there:
            where = "FROM mirror_record WHERE source = 'pushed' AND kind = 'user' AND name = ?"
            began = time.perf_counter()
            for nth in range(self.count):
                there.execute("SELECT * FROM token WHERE digest = ?", ("x" * 64,)).fetchall()
                there.execute(f"SELECT * {where} ORDER BY place LIMIT 100", (name(nth),)).fetchall()
                there.execute(f"SELECT count(*) {where}", (name(nth),)).fetchall()
            return (time.perf_counter() - began) / self.count

    def moved(self) -> float:
        """Median seconds to commit one member more, the group's change and a row of the inbox, into a copy."""
        shutil.copy(self.place / "store.db", self.place / "bare.db")
        with self.database("bare.db") as bare:
            [columns] = [bare.execute("SELECT * FROM inbox LIMIT 1").fetchone()[1:]]
            seconds = []
            for nth in range(AGAIN):
                began = time.perf_counter()
                bare.execute("BEGIN IMMEDIATE")
                bare.execute("INSERT INTO mirror_member VALUES ('pushed', 'bare', ?, 'user')", (f"x{nth}",))
                bare.execute("UPDATE mirror_record SET change = change + 1 WHERE source = 'pushed' AND kind = 'group'")
                marks = ", ".join("?" * len(columns))
                bare.execute(f"INSERT INTO inbox VALUES (NULL, {marks})", (*columns[:3], f"x{nth}", *columns[4:]))
                bare.execute("COMMIT")
                seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)


def name(nth: int) -> str:
    """What one of the people is called."""
    return f"person.{nth}@acme.example"


def person(nth: int) -> dict[str, Any]:
    """One of the people, as Okta sends them."""
    return {
        "schemas": [USER],
        "userName": name(nth),
        "name": {"givenName": "Person", "familyName": f"Number {nth}"},
        "emails": [{"primary": True, "value": name(nth), "type": "work"}],
        "displayName": f"Person Number {nth}",
        "locale": "en-US",
        "externalId": f"00u{nth}",
        "groups": [],
        "active": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scim_push", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="Requests of each kind.")
    place = ROOT / ".crowdsync" / "bench" / "scim_push"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with running(place) as receiver:
        bench = Bench(receiver, receiver.token(), place, parser.parse_args().count)
        asyncio.run(bench.run())
    table = Table(box=None, title=f"{CLIENTS} clients, one receiver", title_justify="left")
    for title in ("", "a second", "ms each", "a second of its processor", "floor, ms each", "ratio", "wanted"):
        table.add_column(title, justify="right" if title else "left")
    for one in bench.lines:
        ratio = f"{one.processor / one.floor:.1f}" if one.floor else ""
        floor = f"{one.floor * 1000:.3f}" if one.floor else ""
        rates = (f"{1 / one.each:,.0f}", f"{one.each * 1000:.2f}", f"{1 / max(one.processor, 1e-9):,.0f}")
        table.add_row(one.what, *rates, floor, ratio, one.wanted)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
