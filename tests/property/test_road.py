"""The pure road on small generated worlds: a plan applied leaves nothing to do, however it was interrupted.

A world is a source, a Crowd directory and a link table over a handful of names, so that swaps, chains,
reused usernames, lookalikes, adoption, other owners and circles are common. Many worlds share one
directory (their names carry a number), which makes 200 of them a matter of a minute; CROWDSYNC_SEEDS=200 makes
10,000.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id, held_frame
from connectors.operations import KINDS, Kind, was_active
from tasks.decide.plan import Plan
from tasks.policy import Policy
from tasks.read.recover import settle
from tasks.write.chunks import lanes
from tests.support.long import long_after
from tests.support.model_crowd import ModelCrowd, ModelLinks, operation_of
from tests.support.worlds import (
    SOURCE,
    World,
    add_world,
    any_policy,
    applied,
    begin,
    check_left,
    deletes,
    describe,
    owners,
    planned,
    record,
)

UNMARKED = (Kind.GROUP_CREATE, Kind.GROUP_ATTRIBUTES)
"""Between these two a new group is nobody's without its link: Crowd creates groups without attributes."""


def interrupted(made: Plan, crowd: ModelCrowd, links: ModelLinks, rng: random.Random) -> pd.DataFrame:
    """Part of the plan: whole phases, then some of one. → the operations of that one, their fate not recorded."""
    begin(made, links)
    phases = [phase for _, phase in made.operations.groupby("phase", sort=True)]
    if not phases:
        return made.operations
    stop = rng.randrange(len(phases))
    for phase in phases[:stop]:
        for row in phase.itertuples():
            crowd.write(operation_of(row))
        record(links, phase)
    share = rng.choice((0.0, 0.3, 0.7, 1.0))
    for lane in lanes(map(operation_of, phases[stop].itertuples())):
        for operation in lane:
            if rng.random() >= share:
                break
            crowd.write(operation)
    return phases[stop]


def check_untouched(
    before: ModelCrowd,
    links: ModelLinks,
    after: ModelCrowd,
    links_after: ModelLinks,
    made: Plan,
    source: Snapshot,
    policy: Policy,
) -> None:
    everyone = {crowd_id(name) for name in policy.groups.everyone}
    mine_now = {key for key, whose in owners(after, links_after, "user").items() if whose != "?"}
    held = {kind: set(made.held.loc[made.held["kind"] == kind, "id"]) for kind in ("user", "group")}
    away = set(made.held.loc[(made.held["kind"] == "user") & (made.held["away"] != ""), "id"])
    heirs = dict(zip(made.handed_over["before"], made.handed_over["after"], strict=True))
    assert not heirs.keys() & {*source.groups["id"], *source.held["id"]}, "taken from a group that is there"
    asked = set(zip(made.gone["kind"], made.gone["id"], strict=True))
    for kind, old, new in (("user", before.users, after.users), ("group", before.groups, after.groups)):
        owner = owners(before, links, kind)
        now = {r["key"]: (i, r) for i, r in new.items()}
        mine = f"{SOURCE}:"
        for i, r in old.items():
            key, whose = r["key"], owner.get(r["key"], "")
            mark = (now[key][1]["attributes"].get(ID_ATTRIBUTE) or [""])[0] if key in now else ""
            adopted = not whose and mark.startswith(mine)
            protected = i.startswith("admin" if kind == "user" else "prot-")
            closed = kind == "group" and i.startswith("priv-")
            if kind == "user" and adopted:
                assert not has_power(before, key), f"{i} has power and was adopted"
                assert r["active"] or not now[key][1]["active"], f"{i} was woken by adoption"
            if kind == "user" and whose in away and not protected:
                check_left(i, r, now.get(key), before, after)
                continue
            if kind == "user" and r["active"] and not protected and whose not in (*held[kind], "", "?"):
                shut = key not in now or not now[key][1]["active"]
                if shut and whose not in set(source.users["id"]):
                    assert (kind, whose) in asked, f"{whose} was shut out unasked"
            if (not whose and not adopted) or whose == "?" or protected or closed or whose in held[kind]:
                assert now.get(key) == (i, r), f"{kind} {i} owned by {whose!r} was touched"
                pairs = [
                    (
                        {
                            p
                            for p in c.memberships | c.nestings
                            if key in p and p[0 if kind == "user" else 1] in now_all
                        },
                        c,
                    )
                    for c in (before, after)
                    for now_all in [
                        {g["key"] for g in after.groups.values()} | {u["key"] for u in after.users.values()}
                    ]
                ]
                inside = [{p for p in ps if p[0] == key or kind == "user"} for ps, _ in pairs]
                if kind == "group" and i in everyone and not protected and not closed:  # others' members stay
                    inside = [{p for p in ps if p[1] not in mine_now} for ps in inside]
                assert inside[0] == inside[1], f"members of {kind} {i} owned by {whose!r} changed"
            elif whose and key in now:
                heir = heirs.get(whose, whose) if kind == "group" else whose
                own = (f"{mine}{whose}", f"{mine}{heir}", (r["attributes"].get(ID_ATTRIBUTE) or [""])[0])
                assert mark in own, f"{i} was inherited"
            if kind == "user" and whose in set(source.users["id"]) and whose not in held[kind]:
                leaver = made.operations[made.operations["kind"] == Kind.USER_DELETE]["source_id"]
                assert key in now or whose in set(leaver), f"the account of {whose} was lost"


def has_power(crowd: ModelCrowd, user: int) -> bool:
    """Whether somebody is in a privileged group, also through groups in it."""
    inside = {group["key"] for name, group in crowd.groups.items() if name.startswith("priv-")}
    while more := {child for parent, child in crowd.nestings if parent in inside} - inside:
        inside |= more
    return any(group in inside for group, member in crowd.memberships if member == user)


def check_plan(made: Plan, policy: Policy) -> None:
    for kind in made.operations["kind"].unique():
        assert policy.operations.allows(Kind(kind)), kind
    for kind in ("user", "group"):
        made_for = made.operations[made.operations["kind"] == f"{kind}_create"]
        assert not made_for["source_id"].duplicated().any()
    for row in made.operations.itertuples():
        kind = Kind(str(row.kind))
        assert row.shuts_out == (KINDS[kind].shuts_out and was_active(str(row.before))), row
        marked = ID_ATTRIBUTE in orjson.loads(str(row.record) or "{}").get("attributes", {})
        assert row.marks == (marked and kind is Kind.USER_ATTRIBUTES), row


def check_owned_once(crowd: ModelCrowd, links: ModelLinks) -> None:
    names = [(key[1], crowd_id(name)) for key, (name, _) in links.rows.items()]
    assert len(names) == len(set(names))
    whose = [i for i in owners(crowd, links, "user").values() if i != "?"]
    assert len(whose) == len(set(whose))


def partly_unread(directory: Snapshot, rng: random.Random) -> Snapshot:
    """A directory in which some records are there and cannot be read."""
    held = list[tuple[str, ...]]()
    kept = []
    for kind, frame, name in (("user", directory.users, "username"), ("group", directory.groups, "name")):
        unread = np.array([rng.random() < 0.3 for _ in range(len(frame))], dtype=bool)
        kept.append(frame[~unread])
        held += [(kind, row["id"], row[name], "extract", "no attributes") for _, row in frame[unread].iterrows()]
    users, groups = kept
    return Snapshot.of(users, groups, directory.memberships, held_frame(held))


def run(world: World, policy: Policy, rng: random.Random, interruptions: int = 4) -> Counter[str]:
    """All that must hold of one world under one policy."""
    source = world.source()
    try:
        made = planned(source, world.crowd, world.links, policy)
    except ConfigurationError:  # a scope that matches nobody, or rules that make one name of all
        return Counter()
    check_plan(made, policy)
    crowd, links = world.crowd.copy(), world.links.copy()
    applied(made, crowd, links, rng)
    check_untouched(world.crowd, world.links, crowd, links, made, source, policy)
    check_owned_once(crowd, links)
    again = planned(source, crowd, links, policy)
    assert again.operations.empty, f"the second plan is not empty:\n{describe(again)}\nafter\n{describe(made)}"
    if world.marked:
        lost = planned(source, crowd, ModelLinks(), policy)
        assert lost.operations.empty, f"without links there is something to do:\n{describe(lost)}"
    final = crowd.state(world.crowd.keys)
    for _ in range(interruptions):
        crowd, links = world.crowd.copy(), world.links.copy()
        part = interrupted(made, crowd, links, rng)
        way = rng.choice(("settled", "settled in part", "recorded late", "links lost"))
        if way == "links lost" and (not world.marked or part["kind"].isin(UNMARKED).any()):
            way = "settled"
        if way == "links lost":
            links = ModelLinks({k: v for k, v in links.rows.items() if k[0] != SOURCE})
        elif way == "settled" and len(part):
            record(links, part[settle(part, crowd.snapshot(policy.attributes.extra))])
        elif way == "settled in part" and len(part):
            record(links, part[settle(part, partly_unread(crowd.snapshot(policy.attributes.extra), rng))])
        elif len(part):
            holds = settle(part, crowd.snapshot(policy.attributes.extra))
            last = part[holds & (part["kind"] != Kind.GROUP_CREATE)].tail(1).index
            record(links, part[holds & ~part.index.isin(last)])
        rest = planned(source, crowd, links, policy)
        note = f"({way})\n{describe(made)}\nrest\n{describe(rest)}"
        applied(rest, crowd, links, rng)
        assert planned(source, crowd, links, policy).operations.empty, note
        state = crowd.state(world.crowd.keys)
        wrong = {k: (final.get(k), state.get(k)) for k in final.keys() | state.keys() if final.get(k) != state.get(k)}
        if "pairs" in wrong:
            wrong["pairs"] = final["pairs"] ^ state["pairs"]
        assert not wrong, f"another end {wrong} {note}"
    return Counter(made.operations["kind"])


@pytest.mark.parametrize("seed", long_after(1, range(int(os.environ.get("CROWDSYNC_SEEDS", "3")))))
def test_fifty_worlds_at_once(seed: int, request: pytest.FixtureRequest) -> None:
    rng = random.Random(seed)
    world, policy = World(), any_policy(rng, [f"-{number}" for number in range(50)])
    # (Where the owner of a mark that somebody copied is deleted, the copy is owned from then on.)
    pure = seed % 2 == 0 or deletes(policy)
    for number in range(50):
        add_world(world, rng, f"-{number}", pure=pure)
    kinds = run(world, policy, rng)
    print(f"seed {seed}: 50 worlds, {sum(kinds.values())} operations: {dict(kinds)}")


def one_world(rng: random.Random) -> None:
    world, policy = World(), any_policy(rng)
    add_world(world, rng, pure=deletes(policy))
    run(world, policy, rng, interruptions=2)


@given(st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_world(rng: random.Random) -> None:
    one_world(rng)


@pytest.mark.long
@given(st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_worlds_one_by_one(rng: random.Random) -> None:
    one_world(rng)
