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

from connectors.contract import Hint
from connectors.errors import ConfigurationError
from connectors.store import Store
from tasks.read.known import known_sides
from tasks.read.narrow import read_changed, read_named, read_narrow
from tasks.read.news import starting_cursors
from tasks.run import Run
from tests.support.by_key import a_run, compare, everybody, link, remember, spoil, unhindered, without_limits
from tests.support.in_step import compare_changed, in_step, settle
from tests.support.sides import worlds
from tests.support.worlds import World

WRITES = {"save_changes": (1, 2), "index": (1, 2)}
"""What a narrow run writes, and which of its calls the process is killed around."""
MORE = "CROWDSYNC_POINTS" in os.environ
"""Whether more than CI's share is wanted."""
POINTS = int(os.environ.get("CROWDSYNC_POINTS", "2"))
"""How often several runs go on beside each other, of which at least one is killed."""
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


KINDS = ("one", "changed", "named", "everybody")
WIDE_WRITES = {"save_snapshot": (1, 2), "save_verdict": (1, 2), "save_wide_totals": (1,), "save_in_step": (1,)}
"""What a run about everybody writes."""


def moment(kind: str, rng: random.Random) -> tuple[str, int, str]:
    """A call of the store in such a run, and on which side of it the process is killed."""
    writes = WIDE_WRITES if kind == "everybody" else WRITES
    name = rng.choice([*writes])
    return name, rng.choice(writes[name]), rng.choice(("before", "after"))


async def walk(kind: str, run: Run, world: World, rng: random.Random, identity: str) -> None:
    """One run of some kind, as far as it writes into the store."""
    match kind:
        case "one":
            await read_narrow(run, identity)
        case "changed":
            await read_changed(run)
        case "named":
            told = {Hint("user", one) for one in rng.sample(everybody(world), 2)} | {Hint("user", identity)}
            await read_named(run, known_sides(run), told)
        case "everybody":
            begin = await starting_cursors(run)
            remember(run, world)
            if begin is not None:
                in_step(run, begin)


def begun(url: str, kind: str, run: Run, world: World, rng: random.Random, kill: tuple[str, int, str] | None) -> int:
    """A process in which such a run begins, and is killed at that moment: its number."""
    identity, seed = rng.choice(everybody(world)), rng.random()
    child = os.fork()
    if not child:
        with suppress(BaseException), Store.open(url) as store:
            if kill is not None:
                setattr(store, kill[0], killing(getattr(store, kill[0]), *kill[1:]))
            run.store = store
            asyncio.run(walk(kind, run, world, random.Random(seed), identity))
        os._exit(0)
    return child


@pytest.mark.long
def test_killed_beside_others_the_next_run_decides_what_a_wide_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Previews and runs that write go on beside each other, and some of them are killed."""
    killed, found = Counter[str](), Counter[str]()
    for seed in range(102, 102 + max(1, POINTS // 20)):
        rng = random.Random(f"beside {seed}")
        first, sides = worlds(seed)
        policy = unhindered(without_limits(sides.policy))
        home = tmp_path / f"{seed}"
        home.mkdir()
        with Store.open(f"sqlite:///{home}/first.db") as store:
            run = a_run(store, first, policy)
            link(store, first)
            try:
                if not asyncio.run(settle(run, first, rng)):
                    continue
            except ConfigurationError:  # a scope that matches nobody
                continue
        for number in range(min(POINTS, 20)):
            url = f"sqlite:///{shutil.copy(home / 'first.db', home / f'{number}.db')}"
            now, world = deepcopy((run, first), {id(run.store): None})
            for identity in rng.sample(everybody(world), min(4, len(everybody(world)))):
                spoil(world, policy, rng, identity)
            kinds = rng.choices(KINDS, k=rng.randint(2, 3))
            kills = [moment(kind, rng) if n == 0 or rng.random() < 0.5 else None for n, kind in enumerate(kinds)]
            children = [begun(url, *one[:1], now, world, rng, one[1]) for one in zip(kinds, kills, strict=True)]
            for kind, child in zip(kinds, children, strict=True):
                killed[kind] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            with Store.open(url) as store:
                now.store, note = store, f"seed {seed}, {number}: {kinds}, {kills}"
                with suppress(ConfigurationError):
                    if asyncio.run(compare_changed(now, world, rng, found, note)) or asyncio.run(
                        settle(now, world, rng)
                    ):
                        identity = rng.choice(everybody(world))
                        spoil(world, policy, rng, identity)
                        asyncio.run(compare(now, world, identity, found, f"{note}, then {identity}"))
                assert store.verify_audit() is None
            Path(url.removeprefix("sqlite:///")).unlink()
    print(dict(killed), dict(found))
    assert sum(killed.values()) >= POINTS // 4
    assert found["equal"] >= POINTS // 4
