"""The floors: the least that the same work costs, without the program's proofs, history and decisions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from lxml import etree

from connectors.contract import Scope
from connectors.crowd import ROOT, WRITES, Crowd
from connectors.http import Http
from connectors.idp.scim import Scim
from connectors.model import ID_ATTRIBUTE, Snapshot
from connectors.operations import Kind, Operation
from connectors.paging import AHEAD
from connectors.store import Store
from connectors.transport import Direct, Origin, Timeouts
from tasks.read.extract import read_directory, read_source
from tests.bench.child import answer

CROWD_PAGE: Final = 1000
SCIM_PAGES: Final = {"Users": 1000, "Groups": 200}
READERS: Final = 4
WRITERS: Final = 16

_users: Any = etree.XPath("users/user/@name", smart_strings=False)


class Sides:
    """Both sides as the floors see them: addresses, and what was last read whole."""

    scim: str
    token: str
    crowd: str
    password: str
    source: Snapshot
    directory: Snapshot
    bodies: list[tuple[str, bytes]]


sides = Sides()


def configure(scim: str, token: str, crowd: str, password: str) -> None:
    """Where both sides are."""
    sides.scim, sides.token, sides.crowd, sides.password = scim, token, crowd, password


def read() -> dict[str, int]:
    """Both sides as snapshots, through the connectors: the tables that the other floors work on."""

    async def both() -> None:
        async with (
            Http(sides.scim, name="scim", bearer=sides.token, concurrency=8) as idp,
            Http(sides.crowd, name="crowd", basic=("crowdsync", sides.password)) as client,
        ):
            sides.source = await read_source(Scim(idp), Scope())
            sides.directory = await read_directory(Crowd(client), Scope(frozenset({ID_ATTRIBUTE})))

    asyncio.run(both())
    return {"users": len(sides.source.users), "memberships": len(sides.source.memberships)}


# --- the network -------------------------------------------------------------------------------


class Bare:
    """The connections that the program has, and nothing above them."""

    def __init__(self, url: str, authorization: str) -> None:
        place = urlsplit(url)
        self.base = place.path.rstrip("/")
        root = f"{place.scheme}://{place.netloc}"
        self.wire = Direct(Origin(root, str(place.hostname), place.port or 80, None), Timeouts(10, 120))
        headers = {"accept": "application/json", "accept-encoding": "gzip", "user-agent": "crowdsync"}
        self.headers = {**headers, "authorization": authorization}

    async def __aenter__(self) -> Bare:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.wire.aclose()

    async def send(self, method: str, path: str, params: Mapping[str, Any], content: bytes | None = None) -> int:
        """Its status; the body is read."""
        headers = {**self.headers, "content-type": "application/json"} if content else self.headers
        answer = await self.wire.send(method, f"{self.base}{path}?{urlencode(params)}", headers, content)
        async for _ in answer.body:
            pass
        await answer.close()
        return answer.status

    async def pieces(self, path: str, params: Mapping[str, Any], accept: str) -> AsyncIterator[bytes]:
        """A body, unpacked."""
        headers = {**self.headers, "accept": accept}
        answer = await self.wire.send("GET", f"{self.base}{path}?{urlencode(params)}", headers, None)
        packed = zlib.decompressobj(31) if answer.headers.get("content-encoding") == "gzip" else None
        async for piece in answer.body:
            yield packed.decompress(piece) if packed else piece
        await answer.close()

    async def get(self, path: str, **params: Any) -> bytes:
        """A body, whole and unpacked."""
        return b"".join([piece async for piece in self.pieces(path, params, "application/json")])


def basic(password: str) -> str:
    """The program's user and password, as it says them."""
    return f"Basic {base64.b64encode(f'crowdsync:{password}'.encode()).decode()}"


async def _ahead(tasks: Iterable[Callable[[], Awaitable[Any]]], width: int) -> list[Any]:
    """Results in order, `width` under way at once."""
    running: deque[asyncio.Task[Any]] = deque()
    results = []
    for start in tasks:
        if len(running) == width:
            results.append(await running.popleft())
        running.append(asyncio.ensure_future(start()))
    results += [await one for one in running]
    return results


def download(parse: bool = True, keep: bool = False) -> float:
    """Seconds to fetch every page that a run fetches, as concurrently; with or without parsing them."""
    kept: list[tuple[str, bytes]] = []

    async def scim() -> None:
        async with Bare(sides.scim, f"Bearer {sides.token}") as client:

            async def page(what: str, start: int, count: int) -> Any:
                body = await client.get(f"/{what}", startIndex=start, count=count)
                if keep:
                    kept.append((what, body))
                return orjson.loads(body) if parse else body

            await client.get("/ServiceProviderConfig")
            await client.get("/ResourceTypes")
            for what, asked in SCIM_PAGES.items():
                total = len(sides.source.users) if what == "Users" else len(sides.source.groups)
                body = await client.get(f"/{what}", startIndex=1, count=asked)
                first = orjson.loads(body)
                if keep:
                    kept.append((what, body))
                size = len(first["Resources"])
                starts = range(1 + size, total + 1, size)
                pages = [partial(page, what, at, size) for at in starts]
                await _ahead(pages, AHEAD)

    async def crowd() -> None:
        async with Bare(sides.crowd, basic(sides.password)) as client:

            async def page(kind: str, start: int) -> Any:
                params: dict[str, str | int] = {
                    "entity-type": kind,
                    "expand": f"{kind},attributes",
                    "start-index": start,
                    "max-results": CROWD_PAGE,
                }
                body = await client.get(f"{ROOT}/search", **params)
                if keep:
                    kept.append((kind, body))
                return orjson.loads(body) if parse else body

            for kind, total in (("user", len(sides.directory.users)), ("group", len(sides.directory.groups))):
                starts = range(0, max(total, 1), CROWD_PAGE - 1)
                await _ahead([partial(page, kind, at) for at in starts], READERS)
            parser = _membership_parser()
            pieces = []
            async for chunk in client.pieces(f"{ROOT}/group/membership", {}, "application/xml"):
                if keep:
                    pieces.append(chunk)
                if parse:
                    parser.feed(chunk)
                    _emptied(parser)
            if keep:
                kept.append(("membership", b"".join(pieces)))

    async def both() -> None:
        await asyncio.gather(scim(), crowd())

    start = time.perf_counter()
    asyncio.run(both())
    spent = time.perf_counter() - start
    if keep:
        sides.bodies = kept
    return spent


def _membership_parser() -> Any:
    return etree.XMLPullParser(("end",), tag="membership", resolve_entities=False, no_network=True)


def _emptied(parser: Any) -> None:
    """Takes what is whole out of the tree, so that it does not grow."""
    root = None
    for _, element in parser.read_events():
        root = element.getparent()
    if root is not None:
        del root[:-1]


# --- from bytes to tables ----------------------------------------------------------------------


def parse() -> float:
    """Seconds to parse the pages that `download(keep=True)` kept."""
    start = time.perf_counter()
    for kind, body in sides.bodies:
        if kind == "membership":
            parser = _membership_parser()
            for at in range(0, len(body), 65536):
                parser.feed(body[at : at + 65536])
                _emptied(parser)
        else:
            orjson.loads(body)
    return time.perf_counter() - start


def rows() -> float:
    """Seconds to take the fields of all records out of the parsed pages and into Arrow columns, and no more:
    no check of any value, no order, no proof that nothing came twice. Parsing is not counted."""
    spent = 0.0
    users: list[tuple[Any, ...]] = []
    members: list[str] = []
    groups: list[str] = []
    for kind, body in sides.bodies:
        if kind == "membership":
            parser = _membership_parser()
            for at in range(0, len(body), 65536):
                parser.feed(body[at : at + 65536])
                start = time.perf_counter()
                root = None
                for _, element in parser.read_events():
                    names = _users(element)
                    members += names
                    groups += [element.get("group")] * len(names)
                    root = element.getparent()
                spent += time.perf_counter() - start
                if root is not None:
                    del root[:-1]
            continue
        records = orjson.loads(body)
        start = time.perf_counter()
        if kind == "Users":
            users += [
                (
                    x["id"],
                    x["userName"],
                    x["emails"][0]["value"],
                    x["name"]["givenName"],
                    x["name"]["familyName"],
                    x["displayName"],
                    x["active"],
                )
                for x in records["Resources"]
            ]
        elif kind == "user":
            users += [
                (
                    x["name"],
                    x["email"],
                    x["first-name"],
                    x["last-name"],
                    x["display-name"],
                    x["attributes"]["attributes"][0]["values"][0],
                    x["active"],
                )
                for x in records["users"]
                if x["attributes"]["attributes"]
            ]
        elif kind == "Groups":
            for group in records["Resources"]:
                listed = [member["value"] for member in group.get("members", ())]
                members += listed
                groups += [group["id"]] * len(listed)
        spent += time.perf_counter() - start
    start = time.perf_counter()
    for number, column in enumerate(zip(*users, strict=True)):
        pa.array(column, type=pa.bool_() if number == 6 else pa.large_string())
    for texts in (members, groups):
        pa.array(texts, type=pa.large_string()).dictionary_encode()
    return spent + time.perf_counter() - start


# --- the tables --------------------------------------------------------------------------------


def digest() -> float:
    """Seconds for SHA-256 over the bytes of both snapshots."""
    buffers: list[Any] = []
    for snapshot in (sides.source, sides.directory):
        for frame in (snapshot.users, snapshot.groups, snapshot.memberships):
            for name in frame.columns:
                column = frame[name]
                if isinstance(column.dtype, pd.CategoricalDtype):
                    buffers.append(np.ascontiguousarray(column.cat.codes, dtype="<i4").data)
                    column = pd.Series(column.cat.categories)
                elif column.dtype == bool:
                    buffers.append(column.to_numpy().data)
                    continue
                array = pa.array(column, type=pa.large_string())
                chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
                buffers += [memoryview(b) for chunk in chunks for b in chunk.buffers() if b is not None]
    start = time.perf_counter()
    whole = hashlib.sha256()
    for buffer in buffers:
        whole.update(buffer)
    whole.hexdigest()
    return time.perf_counter() - start


def diff() -> float:
    """Seconds for a plain difference of the two sides' tables: people matched by username and compared field
    by field, memberships as 64-bit keys. No policy, no ownership, nothing held, nothing explained."""
    source, directory = sides.source, sides.directory
    start = time.perf_counter()
    at = pd.Index(directory.users["id"]).get_indexer(pd.Index(source.users["username"].str.lower()))
    group_at = pd.Index(directory.groups["id"]).get_indexer(pd.Index(source.groups["name"].str.lower()))
    there = at >= 0
    for name in ("email", "first_name", "last_name", "display_name", "active"):
        ours, theirs = source.users[name][there], directory.users[name].iloc[at[there]]
        int((ours.to_numpy() != theirs.to_numpy()).sum())
    width = len(directory.users) + len(directory.groups) + 1
    wanted = _keys(source, at, group_at, width)
    same = np.arange(len(directory.users))
    present = _keys(directory, same, np.arange(len(directory.groups)), width)
    np.setdiff1d(wanted, present, assume_unique=True)
    np.setdiff1d(present, wanted, assume_unique=True)
    return time.perf_counter() - start


def _keys(side: Snapshot, users: Any, groups: Any, width: int) -> Any:
    memberships = side.memberships
    group = memberships["group_id"].cat
    member = memberships["member_id"].cat
    group_code = groups[pd.Index(side.groups["id"]).get_indexer(group.categories)][group.codes.to_numpy()]
    user = pd.Index(side.users["id"]).get_indexer(member.categories)
    child = pd.Index(side.groups["id"]).get_indexer(member.categories)
    place = np.where(user >= 0, users[user], len(users) + groups[child])
    return group_code.astype(np.int64) * width + place[member.codes.to_numpy()]


def links(database: str) -> float:
    """Seconds to fetch all links of the program's store."""
    start = time.perf_counter()
    connection = sqlite3.connect(database)
    connection.execute("SELECT source, kind, id, name, how, made_at FROM link").fetchall()
    connection.close()
    return time.perf_counter() - start


# --- the store ---------------------------------------------------------------------------------


def store(path: str) -> dict[str, Any]:
    """Both snapshots into an empty store; then the rows that it wrote, bare, into an empty file."""
    ours, bare = Path(path) / "first.db", Path(path) / "bare.db"
    for file in (ours, bare):
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    now = datetime.now(UTC)
    opened = Store.open(f"sqlite:///{ours}")
    start = time.perf_counter()
    opened.save_snapshot("source:acme", sides.source, taken_at=now, run="bench")
    opened.save_snapshot("directory:crowd", sides.directory, taken_at=now, run="bench")
    spent = time.perf_counter() - start
    opened.close()
    floor, written = _bare(ours, bare)
    return {"seconds": spent, "floor": floor, "rows": written}


def _bare(ours: Path, bare: Path) -> tuple[float, int]:
    reader = sqlite3.connect(ours)
    writer = sqlite3.connect(bare, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "temp_store=MEMORY", "cache_size=-32000"):
        writer.execute(f"PRAGMA {pragma}")
    spent, count = 0.0, 0
    keys = {
        "record_key": "stream, key",
        "user_version": "stream, valid_to, key",
        "group_version": "stream, valid_to, key",
        "membership_version": "stream, valid_to, group_key, member_key",
    }
    for table in keys:
        for (sql,) in reader.execute("SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql != ''", (table,)):
            writer.execute(sql)
    writer.execute("BEGIN IMMEDIATE")
    for table, key in keys.items():
        rows = reader.execute(f"SELECT * FROM {table} ORDER BY {key}").fetchall()
        marks = ", ".join("?" * len(rows[0]))
        start = time.perf_counter()
        writer.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        spent += time.perf_counter() - start
        count += len(rows)
        del rows
    start = time.perf_counter()
    writer.execute("COMMIT")
    spent += time.perf_counter() - start
    reader.close()
    writer.close()
    return spent, count


# --- writing -----------------------------------------------------------------------------------


def write(database: str, plan: int, url: str) -> dict[str, Any]:
    """The writes of a stored plan, bare, to another Crowd in the same state: no journal, nothing judged.

    A phase ends before the next begins, because a membership needs its user."""
    with Store.open(f"sqlite:///{database}") as opened:
        operations = opened.operations(plan)
    phases = [[_request(*row) for row in _columns(phase)] for _, phase in operations.groupby("phase", sort=True)]

    async def everything() -> int:
        refused = 0
        async with Bare(url, basic(sides.password)) as client:
            for phase in phases:
                todo = deque(phase)

                async def work(todo: deque[Any] = todo) -> int:
                    bad = 0
                    while todo:
                        bad += await client.send(*todo.popleft()) >= 300
                    return bad

                refused += sum(await asyncio.gather(*(work() for _ in range(min(WRITERS, len(phase))))))
        return refused

    start = time.perf_counter()
    refused = asyncio.run(everything())
    return {"seconds": time.perf_counter() - start, "writes": len(operations), "refused": refused}


def _columns(phase: pd.DataFrame) -> Iterable[Sequence[Any]]:
    return zip(*(phase[name].tolist() for name in ("seq", "kind", "name", "target", "record")), strict=True)


def _request(seq: int, kind: str, name: str, target: str, record: str) -> tuple[str, str, dict[str, str], bytes | None]:
    operation = Operation(seq, Kind(kind), name, target, orjson.loads(record) if record else {})
    how = WRITES[operation.kind]
    params = {key: str(getattr(operation, value)) for key, value in how.params.items()}
    return how.method, ROOT + how.path, params, orjson.dumps(how.body(operation)) if how.body else None


if __name__ == "__main__":
    commands = (configure, read, download, parse, rows, digest, diff, links, store, write)
    answer({command.__name__: command for command in commands})
