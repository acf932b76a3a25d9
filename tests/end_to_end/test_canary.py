"""The first part of a plan is carried out and read back before the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Outcome
from connectors.errors import RecordError, RefusedError
from connectors.operations import Kind, Operation
from connectors.settings import load
from tasks.policy import Canary, Policy
from tasks.run import begin
from tasks.write.canary import apply_canary, canary
from tasks.write.chunks import Progress
from tests import road
from tests.support.place import Place, place

__all__ = ["place"]  # (the fixture)


def policy(**of: Any) -> Policy:
    return Policy.model_validate({"canary": of})


async def first_part(run: Any, made: road.Walked, of: Canary) -> int:
    """Carries the canary out, as `apply_plan` does; how many operations it has."""
    assert made.number is not None
    first = canary(made.plan.operations, of)
    run.store.set_plan_status(made.number, "applying", at=datetime.now(UTC))
    await apply_canary(run, made.number, first, Progress())
    return len(first)


@pytest.mark.parametrize("of", [{"operations": 25}, {"group": "All Staff"}])
async def test_only_the_first_part_is_done_and_it_holds(place: Place, tmp_path: Path, of: dict[str, Any]) -> None:
    place.configure(f"sqlite:///{tmp_path}/store.db")
    async with begin(load(), "acme", policy(**of), "sync") as run:
        run.finished = True
        made = await road.walk(run, mode="preview")
        place.crowd.reset_counts()
        count = await first_part(run, made, run.policy.canary)
        assert place.crowd.counts()["writes"] == count
        assert made.number is not None
        journal = run.store.operations(made.number)
        done = journal[journal["state"] == "done"]
        assert len(done) == count < len(journal)
        if "group" in of:
            assert (done["kind"] == Kind.MEMBERSHIP_ADD).sum() > 10
            joined = done[done["kind"] == Kind.MEMBERSHIP_ADD]
            assert set(joined["target"]) == {"All Staff"}
            assert set(joined["name"]) <= set(done.loc[done["kind"] == Kind.USER_CREATE, "name"])
        else:
            assert list(done["seq"]) == list(range(1, 26))
        run.store.set_plan_status(made.number, "planned", at=datetime.now(UTC))
        await road.apply(run, made.plan, made.number)
        assert set(run.store.operations(made.number)["state"]) == {"done"}
        assert place.crowd.counts()["writes"] == len(journal), "the first part was not done again"
        assert (await road.walk(run, mode="preview")).plan.operations.empty


@pytest.mark.parametrize(
    "kind", [Kind.USER_CREATE, Kind.GROUP_CREATE, Kind.GROUP_ATTRIBUTES, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD]
)
async def test_what_does_not_hold_stops_everything_else(place: Place, tmp_path: Path, kind: Kind) -> None:
    """Crowd says "done" to one operation and does not do it."""
    place.configure(f"sqlite:///{tmp_path}/store.db")
    async with begin(load(), "acme", policy(operations=1000), "sync") as run:
        run.finished = True
        made = await road.walk(run, mode="preview")
        lied, write = list[Operation](), run.directory.write

        async def write_most(operation: Operation, *, attempted: bool = False) -> Outcome:
            if operation.kind is kind and not lied:
                lied.append(operation)
                return Outcome("done")
            return await write(operation, attempted=attempted)

        run.directory.write = write_most  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match=r"canary: .*nothing further was written"):
            await first_part(run, made, run.policy.canary)
        assert lied
        assert made.number is not None
        later = run.store.operations(made.number)
        phase = later.loc[later["seq"] == lied[0].seq, "phase"].iloc[0]
        assert set(later.loc[later["phase"] > phase, "state"]) <= {"planned"}


async def test_what_fails_stops_everything_else(place: Place, tmp_path: Path) -> None:
    place.configure(f"sqlite:///{tmp_path}/store.db")
    async with begin(load(), "acme", policy(operations=10), "sync") as run:
        run.finished = True
        made = await road.walk(run, mode="preview")

        async def refuse(operation: Operation, *, attempted: bool = False) -> Outcome:
            raise RecordError("no")

        run.directory.write = refuse  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match=r"canary: of the first 10 operations 10 of its operations failed"):
            await first_part(run, made, run.policy.canary)
