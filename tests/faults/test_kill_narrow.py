"""SIGKILL while a run about one person, or about all who changed, puts what it read into the store: the next one
decides what a wide run does."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from connectors.store import Store
from tasks.read.narrow import read_changed, read_narrow
from tests.support.by_key import a_run, compare, everybody, link, remember, spoil, unhindered, without_limits
from tests.support.in_step import compare_changed, settle
from tests.support.sides import worlds

WRITES = {"save_changes": (1, 2), "save_verdict": (1,), "move_wide_totals": (1, 1), "index": (1, 2)}
"""What a narrow run writes, and which of its calls the process is killed around."""
MORE = "CROWDSYNC_POINTS" in os.environ
"""Whether more than CI's share is wanted."""
MOMENTS = [(name, nth, when) for name, calls in WRITES.items() for nth in calls for when in ("before", "after")]


def killing(call: Callable[..., Any], nth: int, when: str) -> Callable[..., Any]:
    """A method of the store, around whose `nth` call this process is killed."""
    left = nth

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if not left and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return killed


@pytest.mark.long
def test_killed_anywhere_the_next_run_decides_what_a_wide_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, killed, found = random.Random(5), Counter[str](), Counter[str]()
    first, sides = worlds(100)
    with Store.open(f"sqlite:///{tmp_path}/first.db") as store:
        link(store, first)
        remember(a_run(store, first, without_limits(sides.policy)), first)
    for number, (name, nth, when) in enumerate(MOMENTS[:: 2 - MORE]):
        world, url = deepcopy(first), f"sqlite:///{shutil.copy(tmp_path / 'first.db', tmp_path / f'{number}.db')}"
        identity = rng.choice(everybody(world))
        spoil(world, sides.policy, rng, identity)
        child = os.fork()
        if not child:
            with suppress(BaseException), Store.open(url) as store:
                setattr(store, name, killing(getattr(store, name), nth, when))
                asyncio.run(read_narrow(a_run(store, world, without_limits(sides.policy)), identity))
            os._exit(0)  # whatever its run came to: it must not go on as the test
        killed[name] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with Store.open(url) as store:
            run = a_run(store, world, without_limits(sides.policy))
            for _ in range(2):  # where it was killed between the store's two sides, the first one is wide
                asyncio.run(compare(run, world, identity, found, f"{name} {nth} {when}, {identity}"))
            assert store.verify_audit() is None
    print(dict(killed), dict(found))
    assert min(killed[name] for name in WRITES) >= 1
    assert found["equal"] >= len(MOMENTS) // 4


@pytest.mark.long
def test_killed_among_those_who_changed_the_next_run_decides_what_a_wide_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, killed, found = random.Random(5), Counter[str](), Counter[str]()
    first, sides = worlds(102)
    policy = unhindered(without_limits(sides.policy))
    with Store.open(f"sqlite:///{tmp_path}/first.db") as store:
        begun = a_run(store, first, policy)
        link(store, first)
        assert asyncio.run(settle(begun, first, rng))
    for number, (name, nth, when) in enumerate(MOMENTS[:: 2 - MORE]):
        url = f"sqlite:///{shutil.copy(tmp_path / 'first.db', tmp_path / f'{number}.db')}"
        run, world = deepcopy((begun, first), {id(begun.store): None})  # both sides of the run are this world
        for identity in rng.sample(everybody(world), 4):
            spoil(world, policy, rng, identity)
        child = os.fork()
        if not child:
            with suppress(BaseException), Store.open(url) as store:
                setattr(store, name, killing(getattr(store, name), nth, when))
                run.store = store
                asyncio.run(read_changed(run))
            os._exit(0)
        killed[name] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with Store.open(url) as store:
            run.store = store
            note = f"{name} {nth} {when}"
            if not asyncio.run(compare_changed(run, world, rng, found, note)):
                assert asyncio.run(settle(run, world, rng))
            assert store.verify_audit() is None
    print(dict(killed), dict(found))
    assert min(killed[name] for name in WRITES) >= 1
    assert found["equal"] >= len(MOMENTS) // 6
