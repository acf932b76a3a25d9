"""One page of one read goes wrong, on either side: the whole road ends before anything is written, or is right.

Crowd is in step but for a few changes, and the limits are off, so that a plan made of a wrong read would
be carried out. Both servers are processes of their own; the road is `tests/road.py`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pandas as pd
import pytest

import connectors.http
from connectors.crowd import Crowd
from connectors.errors import IncompleteError, RefusedError, RetryableError
from connectors.http import Http
from connectors.idp.scim import Scim
from connectors.model import Snapshot
from connectors.store import Store
from deployments.sandbox.crowd import RunningCrowd
from deployments.sandbox.crowd import running as running_crowd
from deployments.sandbox.scim import RunningScim, prepared
from tasks.policy import Limit, Limits, Policy
from tasks.read.extract import read_directory, read_source
from tasks.read.snapshot import validated
from tests import road
from tests.support.long import long_after

PAGE = 10
USERS, GROUPS, MEMBERSHIPS = 40, 12, 100
CHANGES = {"seed": 7, "joiners": 3, "leavers": 2, "disabled": 2, "updated": 4, "moved": 4, "new_groups": 1}
OPEN = Policy(
    limits=Limits.model_validate(
        {name: {} for name, field in Limits.model_fields.items() if field.annotation is Limit} | {"unusual_times": None}
    )
)
"""No limits: what is planned is done."""

REFUSALS = (IncompleteError, RefusedError, RetryableError)
LOST = ("cut", "connection reset")
"""What the connection notices; it asks again."""

SCIM_DAMAGES: dict[str, dict[str, Any]] = {
    "cut": {"kind": "cut"},
    "document cut": {"kind": "truncated"},
    "connection reset": {"kind": "reset"},
    "first left out": {"kind": "drop", "items": 1},
    "three left out": {"kind": "drop", "items": 3},
    "last left out": {"kind": "last"},  # `Shortening`
    "repeated": {"kind": "repeat"},
    "emptied": {"kind": "empty"},
    "emptied, total 0": {"kind": "empty", "total": 0},
    "html": {"kind": "html"},
}
CROWD_DAMAGES: dict[str, dict[str, Any]] = {
    "cut": {"kind": "truncated"},
    "document cut": {"kind": "truncated-document"},
    "connection reset": {"kind": "reset"},
    "one left out": {"kind": "dropped-items", "seed": 1},
    "three left out": {"kind": "dropped-items", "drop": 3},
    "repeated": {"kind": "repeated-page"},
    "emptied": {"kind": "empty-list"},
    "html": {"kind": "html"},
}
CROWD_READS: dict[str, dict[str, Any]] = {
    "users": {"path": "/search", "query": "entity-type=user&"},
    "groups": {"path": "/search", "query": "entity-type=group&"},
    "memberships": {"path": "/group/membership"},
}


class Shortening(httpx.AsyncBaseTransport):
    """Leaves the last record out of the `nth` page of a list. What this server's own faults cannot do."""

    def __init__(self, path: str, nth: int) -> None:
        self.inner, self.path, self.left = httpx.AsyncHTTPTransport(), path, nth

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        self.left -= request.url.path.endswith(self.path)
        if self.left or not request.url.path.endswith(self.path):
            return response
        self.left = -1
        body = orjson.loads(await response.aread())
        await response.aclose()
        body["Resources"].pop()
        body["itemsPerPage"] = len(body["Resources"])
        return httpx.Response(200, content=orjson.dumps(body), headers={"content-type": "application/scim+json"})

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass(frozen=True, slots=True)
class Scene:
    """Two servers, a database in which they were in step, and what the undamaged road then does."""

    scim: RunningScim
    crowd: RunningCrowd
    home: Path
    before: Mapping[str, Any]
    pages: Mapping[str, int]

    @asynccontextmanager
    async def walking(
        self, name: str, *, attempts: int = 1, policy: Policy = OPEN, transport: httpx.AsyncBaseTransport | None = None
    ) -> AsyncIterator[Any]:
        """A run over a copy of the database. One request at a time, so that the n-th is the n-th page."""
        file = self.home / f"{name}.db"
        if name != "before":
            shutil.copy(self.home / "before.db", file)
        settings: dict[str, Any] = {"attempts": attempts, "concurrency": 1, "timeout": 3}
        basic = ("crowdsync", "secret")
        async with (
            Http(self.scim.url, name="acme", bearer=self.scim.token, transport=transport, **settings) as idp,
            Http(self.crowd.url, name="crowd", basic=basic, **settings) as client,
        ):
            with Store.open(f"sqlite:///{file}") as store:
                source = Scim(idp, page_size=PAGE, group_page_size=PAGE)
                yield road.run_of(source, Crowd(client, page_size=PAGE), store, policy, id=name)

    def restore(self) -> None:
        """Crowd as it was before the changes."""
        road.reload(self.crowd, dict(self.before))
        self.crowd.reset_counts()


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[RunningScim, RunningCrowd]]:
    sizes: dict[str, Any] = {"users": USERS, "groups": GROUPS, "memberships": MEMBERSHIPS}
    pages: dict[str, Any] = {"user_page": PAGE, "group_page": PAGE}
    with prepared(**sizes, **pages, paging=request.param) as scim, running_crowd() as crowd:
        yield scim, crowd


@pytest.fixture(scope="module")
def scene(servers: tuple[RunningScim, RunningCrowd], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return asyncio.run(staged(*servers, tmp_path_factory.mktemp("incomplete")))


async def staged(scim: RunningScim, crowd: RunningCrowd, home: Path) -> Scene:
    """Synchronised once; then the company moves on."""
    Store.open(f"sqlite:///{home}/before.db").close()
    scene = Scene(scim, crowd, home, {}, {})
    async with scene.walking("before") as run:
        first = await road.walk(run)
        assert not first.refusals
        assert set(first.journal["state"]) == {"done"}
    scim.change(**CHANGES)
    async with scene.walking("before") as run:  # the rows are judged here, once: it takes a second
        for side, read in zip((run.source_side, run.crowd_side), await both(run), strict=True):
            await validated(run.store, side.stream, read, read.digest())
    assert not (home / "before.db-wal").exists()
    before = road.content(crowd)
    crowd.faults([{"kind": "slow", "method": "GET", **read, "times": 0} for read in CROWD_READS.values()])
    scim.faults(*({"kind": "slow", "path": f"/{what}", "nth": 10**9} for what in ("Users", "Groups")))
    async with scene.walking("count") as run:  # what goes wrong now counts requests, and never happens
        assert len((await road.walk(run, mode="preview")).plan.operations) > 15
    pages = {f"crowd {name}": at["matched"] for name, at in zip(CROWD_READS, crowd.counts()["faults"], strict=True)}
    pages |= {f"scim {name}": at["seen"] for name, at in zip(("users", "groups"), scim.faults_state(), strict=True)}
    crowd.faults([])
    scim.faults()
    crowd.reset_counts()
    return Scene(scim, crowd, home, before, pages)


@pytest.fixture(autouse=True)
def as_before(scene: Scene, right: Right) -> Iterator[None]:
    """A test that fails leaves nothing to the next."""
    yield
    scene.scim.faults()
    scene.restore()


async def both(run: Any) -> tuple[Snapshot, Snapshot]:
    source, crowd = run.source_side, run.crowd_side
    return await read_source(source.client, source.scope), await read_directory(crowd.client, crowd.scope)


@dataclass(slots=True)
class Right:
    """What the undamaged road plans, and what it makes of Crowd."""

    plan: Any
    crowd: Mapping[str, Any]


@pytest.fixture(scope="module")
def right(scene: Scene) -> Right:
    return asyncio.run(undamaged(scene))


async def undamaged(scene: Scene) -> Right:
    async with scene.walking("right") as run:
        walked = await road.walk(run)
    assert scene.crowd.counts()["writes"] == len(walked.journal) == len(walked.plan.operations)
    found = Right(walked.plan, road.content(scene.crowd))
    assert found.crowd != scene.before
    scene.restore()
    return found


async def refused(scene: Scene, right: Right, *, mode: str = "sync", **settings: Any) -> bool:
    """One damaged run: refused with nothing done (true), or as right as the undamaged one (false)."""
    async with scene.walking("case", **settings) as run:
        plans = run.store.plans()
        try:
            walked = await road.walk(run, mode=mode)
        except REFUSALS:
            assert scene.crowd.counts()["writes"] == 0
            pd.testing.assert_frame_equal(run.store.plans(), plans)  # none was made, none is applied or applying
            return True
    assert walked.plan.digest == right.plan.digest
    pd.testing.assert_frame_equal(walked.plan.operations, right.plan.operations)
    if mode == "preview":
        return False
    assert scene.crowd.counts()["writes"] == len(right.plan.operations)
    assert road.content(scene.crowd) == right.crowd
    return False


def show(capsys: pytest.CaptureFixture[str], title: str, refusals: Counter[str], harmless: Counter[str]) -> None:
    kinds = {kind: f"{kind} {refusals[kind]}/{harmless[kind]}" for kind in [*refusals, *harmless]}
    with capsys.disabled():
        print(f"\n{title}: {refusals.total()} refused, {harmless.total()} harmless ({', '.join(kinds.values())})")


@pytest.mark.parametrize("servers", long_after(1, ["index", "cursor"]), indirect=True)
@pytest.mark.parametrize("what", long_after(1, ["users", "groups"]))
async def test_a_page_of_the_source(
    scene: Scene, right: Right, what: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """A page that comes short by its last record is read on from there; where a cursor leads on, it is refused."""
    paging, path, pages = request.node.callspec.params["servers"], f"/{what.title()}", scene.pages[f"scim {what}"]
    refusals, harmless = Counter[str](), Counter[str]()
    for kind, rule in SCIM_DAMAGES.items():
        for nth in range(1, pages + 1):
            transport = None
            if kind == "repeated" and nth == 1:  # what is repeated then is the end of the read before
                async with scene.walking("other") as run:
                    await both(run)
            if rule["kind"] == "last":
                transport = Shortening(path, nth)
            else:
                scene.scim.faults({"path": path, "nth": nth, "times": 1, **rule})
            stopped = await refused(scene, right, transport=transport)
            (refusals if stopped else harmless)[kind] += 1
            if not stopped:
                scene.restore()
            if transport is None:
                assert scene.scim.faults_state()[0]["fired"] == 1, (kind, nth)
            else:
                assert transport.left < 0
            scene.scim.faults()
    show(capsys, f"scim {what} by {paging}, {pages} pages", refusals, harmless)
    assert harmless == ({"last left out": pages} if paging == "index" else {})
    assert refusals.total() + harmless.total() == pages * len(SCIM_DAMAGES)


@pytest.mark.parametrize("servers", ["index"], indirect=True)
@pytest.mark.parametrize("what", list(CROWD_READS))
async def test_a_page_of_crowd(scene: Scene, right: Right, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    pages = scene.pages[f"crowd {what}"]
    refusals, harmless = Counter[str](), Counter[str]()
    for kind, rule in CROWD_DAMAGES.items():
        for nth in range(1, pages + 1):
            scene.crowd.faults([{"method": "GET", **CROWD_READS[what], **rule, "nth": nth}])
            stopped = await refused(scene, right)
            (refusals if stopped else harmless)[kind] += 1
            assert scene.crowd.counts()["faults"][0]["fired"] == 1, (kind, nth)
            if not stopped:
                scene.restore()
            scene.crowd.faults([])
    show(capsys, f"crowd {what}, {pages} pages", refusals, harmless)
    # Before the first page is none to repeat; beyond the end of the users is a page that is empty by right.
    beyond = [kind for kind in CROWD_DAMAGES if "left out" in kind or kind == "emptied"] if what == "users" else []
    assert harmless == dict.fromkeys(["repeated", *beyond], 1)
    assert refusals.total() + harmless.total() == pages * len(CROWD_DAMAGES)


@pytest.mark.parametrize("servers", ["index"], indirect=True)
@pytest.mark.parametrize("kind", long_after(1, LOST))
async def test_a_page_that_is_lost_once_is_asked_for_again(
    scene: Scene, right: Right, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page of each read up to the end, the others up to the plan."""
    monkeypatch.setattr(connectors.http, "FIRST_WAIT", 0.005)
    refusals, harmless = Counter[str](), Counter[str]()
    for side, pages in scene.pages.items():
        where, what = side.split()
        for nth in range(1, pages + 1):
            if where == "scim":
                scene.scim.faults({"path": f"/{what.title()}", "nth": nth, "times": 1, **SCIM_DAMAGES[kind]})
            else:
                scene.crowd.faults([{"method": "GET", **CROWD_READS[what], **CROWD_DAMAGES[kind], "nth": nth}])
            mode = "sync" if nth == 1 else "preview"
            (refusals if await refused(scene, right, mode=mode, attempts=3) else harmless)[side] += 1
            if mode == "sync":
                scene.restore()
            scene.scim.faults()
            scene.crowd.faults([])
    show(capsys, f"{kind} once", refusals, harmless)
    # The memberships are one answer that is parsed as it comes: once it has begun, nobody asks again.
    assert refusals == ({"crowd memberships": 1} if kind == "cut" else {})
    assert refusals.total() + harmless.total() == sum(scene.pages.values())


@pytest.mark.parametrize("servers", ["index"], indirect=True)
async def test_a_source_that_says_it_has_no_groups(scene: Scene, right: Right) -> None:
    """`totalResults` 0 twice is a whole answer: a read cannot refuse it. The default limits do."""
    scene.scim.faults({"path": "/Groups", "nth": 1, "times": 2, **SCIM_DAMAGES["emptied, total 0"]})
    async with scene.walking("case", policy=Policy()) as run:
        walked = await road.walk(run)
        assert any(line.startswith("membership_remove: ") for line in walked.refusals)
        assert list(run.store.plans()["status"]) == ["refused", "applied"]
    assert scene.crowd.counts()["writes"] == 0
    scene.scim.faults()
