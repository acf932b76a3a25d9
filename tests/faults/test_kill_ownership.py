"""SIGKILL in the middle of a change of ownership: nobody ends with two owners or none, and the audit tells each once.

One warm process forks a child for each point, which moves a source's accounts to another, or cuts or hands over one of
them, and kills itself there. Then either the move is run again, or an ordinary run of the new source comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from connectors.contract import Outcome
from connectors.crowd import Crowd
from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE
from connectors.operations import Operation
from connectors.settings import load
from connectors.store import Store
from tasks.decide.ownership import ByHand
from tasks.read import connections
from tasks.write import chunks
from tasks.write import links as transfer
from tasks.write.lease import turn_of
from tests import road
from tests.support.long import long_after
from tests.support.moving import OTHER, company, linked, owners_in
from tests.support.place import Place, place, walked

__all__ = ["place"]  # (the fixture)

MOMENTS = ("before intent", "after intent", "after reply", "after done")
SEQS = (1, 30)
each_half = pytest.mark.parametrize("half", long_after(1, range(2)))
"""Every moment with one of two ways in each half, in turn."""
KIM = ByHand("links moved by hand", "Kim", "kim", "new IdP")


class Point:
    """Where to die: at this moment in the life of this operation."""

    moment, seq = "never", 0

    @classmethod
    def reached(cls, moment: str, seqs: Collection[int]) -> None:
        if moment == cls.moment and cls.seq in seqs:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(Store):
    def intend(self, plan_id: int, seqs: Sequence[int], **rest: Any) -> None:
        Point.reached("before intent", seqs)
        super().intend(plan_id, seqs, **rest)
        Point.reached("after intent", seqs)

    def record(self, plan_id: int, outcomes: Sequence[tuple[int, str, str]], **rest: Any) -> None:
        super().record(plan_id, outcomes, **rest)
        Point.reached("after done", [seq for seq, _, _ in outcomes])


class DyingCrowd(Crowd):
    async def write(self, operation: Operation, *, attempted: bool = False) -> Outcome:
        outcome = await super().write(operation, attempted=attempted)
        Point.reached("after reply", [operation.seq])
        return outcome


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "FLUSH", 8)
    monkeypatch.setattr(transfer, "Store", DyingStore)
    monkeypatch.setattr(connections, "Crowd", DyingCrowd)
    # Validation is not the subject, and takes half a second for every new content.


def halved(ways: Sequence[Any], half: int) -> list[tuple[str, Any]]:
    """Each moment with one of the two ways: first one, then the other."""
    return [(moment, ways[(number + half) % 2]) for number, moment in enumerate(MOMENTS)]


def killed(moment: str, seq: int, work: Any) -> None:
    """Does the work in a child, which dies at that point."""
    child = os.fork()
    if not child:
        Point.moment, Point.seq = moment, seq
        with contextlib.suppress(BaseException):
            try:
                asyncio.run(work())
            except BaseException:
                traceback.print_exc()
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"{moment} of {seq} was not reached ({status})"


def changes(store: Store) -> Counter[str]:
    """Every change of ownership that the audit tells of: kind, name, from, to."""
    rows = store.audit_log(1000)
    told = [
        orjson.loads(details)["changes"]
        for details in rows.loc[rows["event"].str.startswith("link"), "details"]
        if "changes" in details
    ]
    return Counter(orjson.dumps(change).decode() for row in told for change in row)


def freed(url: str) -> None:
    """The lease of the one that died is over. (It holds two minutes by the clock.)"""
    with Store.open(url) as store:
        for name in ("crowd", turn_of("crowd")):
            lease = store.take_lease(name, "the clock", now=datetime.now(UTC) + timedelta(hours=1), seconds=1)
            assert lease is not None
            store.release_lease(lease)


@each_half
def test_a_move_that_is_killed_anywhere_goes_on(place: Place, tmp_path: Path, half: int) -> None:
    base = tmp_path / "base.db"
    place.configure(f"sqlite:///{base}", "concurrency = 3")
    content = company()
    place.crowd.load(**content)
    with Store.open(f"sqlite:///{base}") as store:
        linked(store, content, every=2)
    asyncio.run(transfer.move(load(), OTHER, "acme", "username"))
    before = road.content(place.crowd)
    for number, (moment, seq) in enumerate(halved(SEQS, half)):
        url = f"sqlite:///{tmp_path}/{number}.db"
        shutil.copy(base, tmp_path / f"{number}.db")
        place.configure(url, "concurrency = 3")
        road.reload(place.crowd, before)
        killed(moment, seq, lambda: transfer.move(load(), OTHER, "acme", "username", by_hand=KIM))
        freed(url)
        if seq > 1:
            asyncio.run(walked())
            with Store.open(url) as store:
                marks, links = owners_in(place, store)
                assert {key: marks[key] for key in links} == links, "each link says what its mark says"
                assert len(set(links.values())) == len(links), "nobody has two"
        again = asyncio.run(transfer.move(load(), OTHER, "acme", "username", by_hand=KIM))
        assert again.done is not None
        assert not again.done.failed
        with Store.open(url) as store:
            marks, links = owners_in(place, store)
            assert marks == links
            assert {owner.partition(":")[0] for owner in links.values()} == {"acme"}
            told = changes(store)
            assert len(told) == len(links)
            assert set(told.values()) == {1}, "each change is told once"
            rows = store.audit_log(1000)
            assert set(rows.loc[rows["event"] == "links moved by hand", "actor"]) == {"Kim"}
            assert store.verify_audit() is None
            assert store.unfinished_plans("crowd") == []


@each_half
def test_one_record_that_is_half_changed_is_settled(place: Place, tmp_path: Path, half: int) -> None:
    ann = ["ann", "A", "N", "Ann", "ann@x", True, {ID_ATTRIBUTE: ["acme:0"]}]
    link = pd.DataFrame(
        [("acme", "user", "0", "ann", "created")], columns=["source", "kind", "id", "name", "how"], dtype="str"
    )
    for number, (moment, (what, owner)) in enumerate(halved((("cut", ""), ("hand over", "acme:new")), half)):
        url = f"sqlite:///{tmp_path}/{number}.db"
        place.configure(url)
        place.crowd.clear()
        place.crowd.load(users=[ann], groups=[], memberships=[], nestings=[])
        with Store.open(url) as store:
            store.save_links("crowd", link, at=datetime.now(UTC), run="r")

        def work(what: str = what, owner: str = owner) -> Any:
            return transfer.change_one(load(), what, "acme", "user", "0", owner.removeprefix("acme:"), KIM, force=True)

        killed(moment, 1, work)
        freed(url)
        if moment in ("after reply", "after done"):  # the next change by hand settles it, and finds nothing to change
            with pytest.raises(ConfigurationError, match="acme has no link of the user '0'"):
                asyncio.run(work())
        else:
            asyncio.run(work())
        with Store.open(url) as store:
            marks, links = owners_in(place, store)
            assert marks == {("user", "ann"): owner}
            assert links == ({("user", "ann"): owner} if owner else {})
            assert list(changes(store).values()) == [1], "it is told once, when it is true"
            assert store.verify_audit() is None
