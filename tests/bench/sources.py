"""Each source at the size of a company: requests beside the fewest possible, and the connector's own work.

    python -m tests.bench.sources --size small|large [--idp okta]

A connector's own share is processor time: waiting for the network is left out. Its floor, in the same process and on
the same pages, is a bare client that downloads them and parses their JSON. The company comes from an emulator.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import math
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import contextmanager
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from connectors.contract import Page, Scope
from connectors.idp import SOURCES
from connectors.transport import Response, Wire
from deployments.sandbox import idp as sandbox
from deployments.sandbox.organisation import Organisation, organisation
from deployments.sandbox.server import children_of, members_of
from tasks.read.extract import read_source
from tests.bench.child import ROOT
from tests.bench.servers import SIZES

TARGET: Final = 1.5
SEED: Final = 1


def pages(count: int, size: int) -> int:
    """Requests for so many records; an empty list takes one too."""
    return max(1, math.ceil(count / size))


def overlapping(count: int, size: int) -> int:
    """The same where each page begins with the record that ended the one before it."""
    return max(1, math.ceil((count - 1) / (size - 1)))


def by_group(company: Organisation, size: int, nested: bool) -> int:
    """Requests for the members of every group, where each group is asked for its own."""
    children = children_of(company) if nested else {}
    return sum(
        pages(len(members) + len(children.get(team.id, ())), size)
        for team, members in zip(company.teams, members_of(company), strict=True)
    )


def people_and_groups(
    users: int, groups: int, pages: Callable[[int, int], int] = pages
) -> Callable[[Organisation], int]:
    """Requests for both lists by pages of these sizes."""
    return lambda company: pages(len(company.people), users) + pages(len(company.teams), groups)


def batched(company: Organisation) -> int:
    """Members of groups by $batch: 20 first pages a request, the others one by one."""
    return math.ceil(len(company.teams) / 20) + by_group(company, 999, True) - len(company.teams)


def inside(company: Organisation) -> int:
    """Members of groups, several at once where they are few, by pages where they are too many for one answer."""
    sizes = [len(members) for members in members_of(company)]
    large = [size for size in sizes if size > 10_000]
    small = pages(sum(sizes) - sum(large) + len(company.nest_child), 10_000)
    return small + sum(overlapping(size, 1000) for size in large)


MINIMUM: Final[Mapping[str, tuple[Callable[[Organisation], int], str]]] = {
    "scim": (
        people_and_groups(1000, 100, overlapping),
        "1000 users, 100 groups with members a page, pages that overlap by one record",
    ),
    "okta": (
        lambda c: people_and_groups(200, 200)(c) + by_group(c, 1000, False),
        "200 users, 200 groups a page; each group's members, 1000 a page",
    ),
    "entra": (
        lambda c: people_and_groups(999, 999)(c) + batched(c),
        "999 users, 999 groups a page; members of 20 groups in one $batch, 999 a page",
    ),
    "onelogin": (
        lambda c: people_and_groups(100, 650)(c) + by_group(c, 100, False),
        "100 users, 650 roles a page; each role's members, 100 a page",
    ),
    "keycloak": (
        lambda c: overlapping(len(c.people), 1000) + 3 + by_group(c, 1000, False),
        "1000 users a page, one list of groups, a count of each; each group's members, 1000 a page",
    ),
    "google": (
        lambda c: people_and_groups(500, 200)(c) + by_group(c, 200, True),
        "500 users, 200 groups a page; each group's members, 200 a page",
    ),
    "idcs": (
        lambda c: people_and_groups(1000, 1000, overlapping)(c) + inside(c),
        "1000 users, 1000 groups a page; members of several groups, at most 10,000 an answer, else 1000 a page",
    ),
}
"""The fewest requests for a whole read, without token and discovery, and what it rests on."""


Asked = tuple[tuple[str, str, Mapping[str, str], bytes | None], int]
"""What was sent (method, target, headers, content), and the status of the answer."""


class Recording:
    """A way to a server (`connectors.transport.Wire`) that keeps what was asked."""

    def __init__(self, inner: Wire, kept: list[Asked]) -> None:
        self.inner, self.kept = inner, kept

    async def send(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        answer = await self.inner.send(method, target, headers, content)
        self.kept.append(((method, target, headers, content), answer.status))
        return answer

    async def aclose(self) -> None:
        await self.inner.aclose()


async def drained(stream: AsyncIterator[Page[Any]]) -> list[Any]:
    """The rows of a stream."""
    rows: list[Any] = []
    async for page in stream:
        rows += page.rows
    return rows


@contextmanager
def quiet() -> Any:
    """No garbage collection, as while the road reads."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def measured(running: sandbox.RunningIdp, repeats: int) -> dict[str, Any]:
    """One source: its pages drained, its snapshot, and the bare client on the same requests."""
    kind = SOURCES[running.kind]
    settings = kind.settings.model_validate({**running.settings, "timeout": 120})
    best: dict[str, float] = {}
    found: dict[str, Any] = {}

    def take(name: str, seconds: float) -> None:
        best[name] = min(seconds, best.get(name, math.inf))

    for _ in range(repeats):
        kept: list[Asked] = []
        source = kind.open("acme", settings, running.secrets)
        api = source.clients[0]  # (a token asked for again may end the one before)
        wire = api._wire
        api._wire = Recording(wire, kept)
        with quiet():
            wall, cpu = time.perf_counter(), time.process_time()
            users = await drained(source.users(Scope()))
            groups = await drained(source.groups(Scope()))
            members = await drained(source.memberships([row[0] for row in groups]))
            take("cpu", time.process_time() - cpu)
            take("wall", time.perf_counter() - wall)
        total = sum(sum(client.requests.values()) for client in source.clients)
        found = {"users": len(users), "groups": len(groups), "memberships": sum(map(len, members)), "requests": total}
        del users, groups, members
        with quiet():
            cpu = time.process_time()
            await replay(wire, kept, settings.concurrency)
            take("floor", time.process_time() - cpu)
        await asyncio.gather(*(client.aclose() for client in source.clients))
    source = kind.open("acme", settings, running.secrets)
    cpu = time.process_time()
    snapshot = await read_source(source, Scope())
    best["tables"] = time.process_time() - cpu
    await asyncio.gather(*(client.aclose() for client in source.clients))
    assert len(snapshot.users) == found["users"]
    return {**found, **best, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


async def replay(wire: Wire, requests: list[Asked], width: int) -> None:
    """The same requests on the bare connections, `width` at once, each answer parsed."""

    async def one(asked: tuple[Any, ...], status: int) -> None:
        answer = await wire.send(*asked)
        body = b"".join([piece async for piece in answer.body])
        await answer.close()
        assert answer.status == status, (asked[1], answer.status)
        orjson.loads(gzip.decompress(body) if answer.headers.get("content-encoding") == "gzip" else body)

    running: deque[asyncio.Task[None]] = deque()
    for asked, status in requests:
        if len(running) == width:
            await running.popleft()
        running.append(asyncio.ensure_future(one(asked, status)))
    await asyncio.gather(*running)


def one(kind: str, size: str, repeats: int) -> None:
    """Measure one source and print it as JSON."""
    company = SIZES[size]
    sizes: dict[str, Any] = {"users": company.users, "groups": company.groups, "memberships": company.memberships}
    with sandbox.running(kind, **sizes, seed=SEED) as running:
        found = asyncio.run(measured(running, repeats))
    minimum, why = MINIMUM[kind]
    found |= {"kind": kind, "minimum": minimum(organisation(**sizes, seed=SEED)), "why": why}
    print(orjson.dumps(found).decode())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sources", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--idp", choices=[*sandbox.EMULATORS, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="in this process, as JSON")
    given = parser.parse_args()
    if given.one:
        one(given.idp, given.size, given.repeats)
        return
    console = Console(width=150) if not Console().is_terminal else Console()
    company = SIZES[given.size]
    table = Table(
        title=f"{given.size}: {company.users:,} users, {company.groups:,} groups, {company.memberships:,} memberships; "
        f"best of {given.repeats}; processor seconds",
        title_justify="left",
    )
    for name in (
        "source",
        "requests",
        "fewest",
        "own s",
        "bare s",
        "ratio",
        "target",
        "with tables s",
        "wall s",
        "peak MB",
    ):
        table.add_column(name, justify="left" if name in ("source", "target") else "right", no_wrap=True)
    results = []
    for kind in sandbox.EMULATORS if given.idp == "all" else [given.idp]:
        console.print(f"[dim]… {kind}[/dim]")
        command = [sys.executable, "-m", "tests.bench.sources", "--one", "--idp", kind, "--size", given.size]
        command += ["--repeats", str(given.repeats)]
        made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found = orjson.loads(made.stdout)
        results.append(found)
        ratio = found["cpu"] / found["floor"]
        table.add_row(
            kind,
            f"{found['requests']:,}",
            f"{found['minimum']:,}",
            f"{found['cpu']:.2f}",
            f"{found['floor']:.2f}",
            f"{ratio:.2f}",
            f"≤ {TARGET} {'✓' if ratio <= TARGET else '✗'}",
            f"{found['tables']:.2f}",
            f"{found['wall']:.2f}",
            f"{found['peak'] / 1e6:.0f}",
        )
    console.print(table)
    for found in results:
        console.print(
            f"· {found['kind']}: {found['users']:,} users, {found['groups']:,} groups, {found['memberships']:,} "
            f"memberships; fewest: {found['why']}",
            highlight=False,
        )


if __name__ == "__main__":
    main()
