"""The pure road on small generated worlds: a plan applied leaves nothing to do, however it was interrupted.

A world is a source, a Crowd directory and a link table over a handful of names, so that swaps, chains,
reused usernames, lookalikes, adoption, other owners and circles are common. Many worlds share one
directory (their names carry a number), which makes 400 of them a matter of a minute; CROWDSYNC_SEEDS=200 makes
10,000.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.errors import ConfigurationError
from connectors.model import (
    DISABLED,
    ID_ATTRIBUTE,
    Snapshot,
    attributes_text,
    crowd_id,
    groups_frame,
    held_frame,
    memberships_frame,
    users_frame,
)
from connectors.operations import Kind, Operation
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Departures, Plan, plan
from tasks.policy import Policy
from tasks.read.snapshot import lost_links, new_links, settle
from tasks.write.apply import lanes
from tests.long import long_after
from tests.property.model_crowd import ModelCrowd, ModelLinks, operation_of

SOURCE = "acme"
EXTRA = "team"
NAMES = ("ann", "Ann", "bob", "BOB", "cy", "dan", "admin", "eve", "ann", "bob", "cy", "dan", "ann", "bob", "аnn", "İx")
TEAMS = ("red", "Red", "blue", "green", "gold", "priv-x", "prot-x", "outside", "red", "blue", "green", "İteam")
MAILS = ("", "a@x", "A@x", "b@x", "c@x")


@dataclass
class World:
    """A source and the Crowd it meets. `marked`: whatever a link ties is marked, and no mark is copied."""

    users: list[tuple[Any, ...]] = field(default_factory=list)
    groups: list[tuple[Any, ...]] = field(default_factory=list)
    memberships: list[tuple[str, str, str]] = field(default_factory=list)
    crowd: ModelCrowd = field(default_factory=ModelCrowd)
    links: ModelLinks = field(default_factory=ModelLinks)
    marked: bool = True
    held: list[tuple[str, ...]] = field(default_factory=list)
    """Records that the source could not make sense of, some with its word that the person is disabled."""

    def source(self) -> Snapshot:
        users, groups = users_frame(self.users), groups_frame(self.groups)
        return Snapshot.of(users, groups, memberships_frame(self.memberships), held_frame(self.held))


UNMARKED = (Kind.GROUP_CREATE, Kind.GROUP_ATTRIBUTES)
"""Between these two a new group is nobody's without its link: Crowd creates groups without attributes."""


def add_world(world: World, rng: random.Random, tag: str = "", *, pure: bool = False, readable: bool = False) -> None:
    """Adds people, groups, accounts and links whose names and ids end in `tag`. `pure`: it stays `marked`; `readable`:
    the source holds nothing."""
    crowd, links = world.crowd, world.links
    ids = [f"p{n}{tag}" for n in range(rng.randint(1, 5))]
    owners = ids + [f"gone{n}{tag}" for n in range(2)]
    accounts = _existing(world, rng, "user", owners, NAMES, tag, pure)
    group_ids = [f"g{n}{tag}" for n in range(rng.randint(0, 4))]
    teams = _existing(world, rng, "group", [*group_ids, f"gg{tag}"], TEAMS, tag, pure)
    for group in teams:
        for user in accounts:
            if rng.random() < 0.4:
                crowd.memberships.add((group["key"], user["key"]))
        for child in teams:
            if rng.random() < 0.3 and not crowd._below(child["key"], group["key"]):
                crowd.nestings.add((group["key"], child["key"]))
    if rng.random() < 0.3:  # a link whose account was deleted by hand
        for identity in owners:
            key = (SOURCE, "user", identity)
            if key not in links.rows and rng.random() < 0.3:
                name = rng.choice(NAMES) + tag
                if crowd_id(name) not in crowd.users and all(
                    crowd_id(n) != crowd_id(name) for n, _ in links.rows.values()
                ):
                    links.rows[key] = (name, "created")

    # People mostly have the usernames of existing accounts, shuffled.
    pool = list({name.lower(): name + tag for name in rng.sample(NAMES, len(NAMES))}.values())
    keep = rng.random() < 0.5
    held_names = {i: a["name"] for a in accounts for i in ids if a["attributes"].get(ID_ATTRIBUTE) == [f"{SOURCE}:{i}"]}
    for identity in ids:
        name = held_names.get(identity) if keep and rng.random() < 0.6 else None
        name = name or (rng.choice(pool) if rng.random() < 0.1 else pool.pop())
        active, mail = rng.random() < 0.75, rng.choice(MAILS)
        mail = mail and mail + tag
        extra = attributes_text({EXTRA: [rng.choice("xy")]}) if rng.random() < 0.5 else "{}"
        last = "L" * 300 if rng.random() < 0.04 else rng.choice(("", "L", "M"))
        world.users.append((identity, name, mail, rng.choice(("", "F")), last, "D", active, extra))
    if rng.random() < 0.3 and world.users:  # somebody the source itself cannot make sense of
        lost = world.users.pop()
        if not readable and rng.random() < 0.7:
            away = "" if lost[6] else DISABLED
            world.held.append(("user", lost[0], lost[1], "extract", "no userName", away))
    names = rng.sample(TEAMS, len(group_ids))
    for identity, name in zip(group_ids, names, strict=True):
        world.groups.append((identity, name + tag, rng.choice(("", "text")), "{}"))
        for person in ids:
            if rng.random() < 0.4:
                world.memberships.append((identity, person, "user"))
        if not readable and rng.random() < 0.05:  # its members could not be read
            world.held.append((*("group", *world.groups.pop()[:2]), "extract", "a member without value"))
        for child in group_ids:
            if rng.random() < 0.25:  # circles and groups in themselves too
                world.memberships.append((identity, child, "group"))


def _existing(
    world: World, rng: random.Random, kind: str, owners: list[str], names: tuple[str, ...], tag: str, pure: bool
) -> list[dict[str, Any]]:
    crowd, links, free = world.crowd, world.links, list(owners)
    rng.shuffle(free)
    made = []
    for name in rng.sample(names, rng.randint(0, 6)):
        if crowd_id(name + tag) in (crowd.users if kind == "user" else crowd.groups):
            continue
        roll, mark, link = rng.random(), "", None
        if roll < 0.55 and free:
            owner = free.pop()
            mark, link = f"{SOURCE}:{owner}", (SOURCE, kind, owner)
            if rng.random() < 0.4:
                link = None
            elif not pure and rng.random() < 0.08:
                mark, world.marked = "", False
        elif roll < 0.75:
            mark, link = f"other:{name}{tag}", ("other", kind, name + tag)
            if rng.random() < 0.5:
                link = None
        elif not pure and roll < 0.78:
            mark, world.marked = f"{SOURCE}:{rng.choice(owners)}", False
        elif not pure and roll < 0.83 and free:  # a copy of the database put back, or names exchanged by hand
            linked = (SOURCE, kind, free.pop())
            if rng.random() < 0.3:
                linked = ("other", kind, name + tag)
            mark, link, world.marked = f"{rng.choice((SOURCE, SOURCE, 'other'))}:{rng.choice(owners)}", linked, False
        if link:
            links.rows[link] = (name + tag, "created")
        if kind == "user":
            mail = rng.choice(MAILS)
            values = {"email": mail and mail + tag, "first_name": rng.choice(("", "F")), "display_name": "D"}
            attributes = {EXTRA: [rng.choice("xy")] * (rng.random() < 0.5), "theirs": ["keep"]}
            if mark:
                attributes[ID_ATTRIBUTE] = [mark]
            made.append(crowd.add_user(name + tag, active=rng.random() < 0.8, attributes=attributes, **values))
        else:
            made.append(crowd.add_group(name + tag, rng.choice(("", "text", "old")), mark))
    return made


LEAVING = ("deactivate", "deactivate", "take_groups", "deactivate_and_take_groups", "delete", "nothing")
DAYS = 30
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def any_policy(rng: random.Random, tags: Sequence[str] = ("",)) -> Policy:
    """A policy in which every field may be set; `tags`: the ends of the names in the worlds that it meets."""
    leavers = {name: rng.choice(LEAVING) for name in ("out_of_scope", "disabled", "deleted")}
    if rng.random() < 0.3 and not set(leavers.values()) <= {"nothing", "delete"}:
        leavers["delete_after_days"] = DAYS
    leavers["groups"] = rng.choice(("empty", "empty", "delete", "nothing"))
    off = rng.random() < 0.4
    features = {name: "off" if off and rng.random() < 0.2 else "on" for name in Policy().operations.model_dump()}
    if rng.random() < 0.3:
        features[rng.choice(list(features))] = "report"
    deletes = "delete" in leavers.values() or "delete_after_days" in leavers
    features["user_delete"] = rng.choice(("on", "on", "report")) if deletes else "off"
    features["group_delete"] = rng.choice(("on", "on", "report")) if leavers["groups"] == "delete" else "off"
    users = rng.choice((("id",), ("id", "username"), ("id", "email"), ("username", "email"), ("email", "username")))
    groups = rng.choice((("id",), ("id", "name")))
    matching: dict[str, Any] = {"users": users, "groups": groups}
    if rng.random() < 0.3 and {*users, *groups} != {"id"}:
        matching |= {"adoption": "listed", "listed_users": ["a*", "b*"], "listed_groups": ["re:.*e.*"]}
    scope: dict[str, Any] = {"exclude_groups": ["outside*"] if rng.random() < 0.5 else []}
    if rng.random() < 0.15:
        scope["required_groups"] = ["red*", "blue*"]
    if rng.random() < 0.15:
        scope["members_only"] = True
    if rng.random() < 0.15:
        scope["exclude_users"] = ["cy*"]
    if rng.random() < 0.15:
        team = {"field": EXTRA, "operator": rng.choice(("equals", "not_equals")), "values": ["x"]}
        scope["conditions"] = [{"all": [team]}, {"all": [{"field": "active", "operator": "is_true"}]}]
    naming: dict[str, Any] = {"nesting": rng.choice(("preserve", "preserve", "flatten", "ignore"))}
    if rng.random() < 0.2:
        naming["prefix"] = rng.choice(("re", "x-"))
    if rng.random() < 0.2:
        naming["rules"] = [{"pattern": "^red", "replacement": "blue"}]
    if rng.random() < 0.2:
        naming["deny"] = ["gold*"]
    if rng.random() < 0.3:
        naming["everyone"] = [f"{rng.choice(('all', 'red', 'green'))}{tag}" for tag in tags[:3]]
    usernames: dict[str, Any] = {"case": rng.choice(("lower", "lower", "keep"))}
    if rng.random() < 0.2:
        usernames["rules"] = [{"pattern": "^e(v)", "replacement": r"i\1"}]
    if rng.random() < 0.2:
        usernames["deny"] = ["dan*"]
    attributes: dict[str, Any] = {"extra": {EXTRA: EXTRA} if rng.random() < 0.5 else {}}
    if rng.random() < 0.2:
        upper = {"sources": ["first_name", "last_name"], "combine": "join", "steps": [{"function": "upper"}]}
        attributes["fields"] = {"display_name": upper}
    return Policy.model_validate(
        {
            "operations": features,
            "scope": scope,
            "matching": matching,
            "leavers": leavers,
            "groups": naming,
            "usernames": usernames,
            "attributes": attributes,
            "protection": {"users": ["admin*"], "groups": ["prot-*"], "privileged_groups": ["priv-*"]},
        }
    )


def since(source: Snapshot) -> Departures:
    """Half of all people, and of those who are not there, have been away for long enough to be deleted."""
    ids = [*source.users["id"], *(f"gone{n}-{i}" for n in range(2) for i in range(50)), "gone0", "gone1"]
    then = [NOW - timedelta(days=DAYS + 10 if crc32(i.encode()) % 2 else 1) for i in ids]
    return Departures(pd.DataFrame({"id": pd.array(ids, dtype="str"), "since": pd.to_datetime(then, utc=True)}), NOW)


def planned(source: Snapshot, crowd: ModelCrowd, links: ModelLinks, policy: Policy) -> Plan:
    directory = crowd.snapshot(policy.attributes.extra)
    matched = match(
        desired(in_scope(source, policy).snapshot, policy), directory, links.frame(), policy, SOURCE, source
    )
    return plan(matched, source, directory, policy, SOURCE, ("", ""), departures=since(source))


def begin(made: Plan, links: ModelLinks) -> None:
    """What a run does before its first operation."""
    links.drop(made.stale.assign(source=SOURCE))
    links.save(made.links.assign(source=SOURCE))


def record(links: ModelLinks, operations: pd.DataFrame) -> None:
    """What a run does after operations that hold."""
    links.drop(lost_links(operations, SOURCE))
    links.save(new_links(operations, SOURCE))


def any_order(phase: pd.DataFrame, rng: random.Random) -> Iterator[Operation]:
    """The operations of a phase in an order in which the apply loop may send them."""
    waiting = list(lanes(map(operation_of, phase.itertuples())))
    while waiting:
        lane = rng.choice(waiting)
        yield lane.pop(0)
        if not lane:
            waiting.remove(lane)


def applied(made: Plan, crowd: ModelCrowd, links: ModelLinks, rng: random.Random) -> None:
    """The whole plan, the operations of a phase in any order, as the apply loop runs them at the same time."""
    begin(made, links)
    for _, phase in made.operations.groupby("phase", sort=True):
        for operation in any_order(phase, rng):
            crowd.write(operation)
        record(links, phase)


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


def owners(crowd: ModelCrowd, links: ModelLinks, kind: str) -> dict[int, str]:
    """Who owns what, told once more and simply: key of the record → id in our source, or "?" for another owner."""
    table = crowd.users if kind == "user" else crowd.groups
    by_name = {crowd_id(name): key for key, (name, _) in links.rows.items() if key[1] == kind}
    marks = {i: (r["attributes"].get(ID_ATTRIBUTE) or [""])[0] for i, r in table.items()}
    disputed = {i for i, key in by_name.items() if marks.get(i) and marks[i] != f"{key[0]}:{key[2]}"}
    linked = {key[2] for name, key in by_name.items() if key[0] == SOURCE and name in table}
    times = Counter(mark for i, mark in marks.items() if i not in by_name)
    result = {}
    for i, r in table.items():
        source, mark = by_name.get(i, ("", "", ""))[0], marks[i]
        if source or mark:
            result[r["key"]] = "?"
        if i in disputed:
            continue  # the link says this, and the mark that
        if source == SOURCE:
            result[r["key"]] = by_name[i][2]
        elif not source and mark.startswith(f"{SOURCE}:"):
            identity = mark.removeprefix(f"{SOURCE}:")
            if times[mark] == 1 and identity not in linked:
                result[r["key"]] = identity
    return result


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


def check_left(
    name: str,
    old: dict[str, Any],
    now: tuple[str, dict[str, Any]] | None,
    before: ModelCrowd,
    after: ModelCrowd,
) -> None:
    """A held person who has left by a clear word: shut out, or out of groups, and nothing else."""
    if now is None:
        return
    kept = {field: value for field, value in old.items() if field != "active"}
    assert now[0] == name
    assert {field: value for field, value in now[1].items() if field != "active"} == kept, f"{name} was changed"
    assert old["active"] or not now[1]["active"], f"{name} was let in"
    of = [{group for group, member in crowd.memberships if member == old["key"]} for crowd in (before, after)]
    assert of[1] <= of[0], f"{name} was given something"


def check_plan(made: Plan, policy: Policy) -> None:
    for kind in made.operations["kind"].unique():
        assert policy.operations.allows(Kind(kind)), kind
    for kind in ("user", "group"):
        made_for = made.operations[made.operations["kind"] == f"{kind}_create"]
        assert not made_for["source_id"].duplicated().any()


def check_owned_once(crowd: ModelCrowd, links: ModelLinks) -> None:
    names = [(key[1], crowd_id(name)) for key, (name, _) in links.rows.items()]
    assert len(names) == len(set(names))
    whose = [i for i in owners(crowd, links, "user").values() if i != "?"]
    assert len(whose) == len(set(whose))


def deletes(policy: Policy) -> bool:
    return policy.leavers.deletes() or policy.leavers.groups == "delete"


def describe(made: Plan) -> str:
    return made.operations[["kind", "name", "target", "source_id", "record", "reason"]].to_string()


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
        way = rng.choice(("settled", "recorded late", "links lost"))
        if way == "links lost" and (not world.marked or part["kind"].isin(UNMARKED).any()):
            way = "settled"
        if way == "links lost":
            links = ModelLinks({k: v for k, v in links.rows.items() if k[0] != SOURCE})
        elif way == "settled" and len(part):
            record(links, part[settle(part, crowd.snapshot(policy.attributes.extra))])
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


@pytest.mark.parametrize("seed", long_after(2, range(int(os.environ.get("CROWDSYNC_SEEDS", "8")))))
def test_fifty_worlds_at_once(seed: int, request: pytest.FixtureRequest) -> None:
    rng = random.Random(seed)
    world, policy = World(), any_policy(rng, [f"-{number}" for number in range(50)])
    # (Where the owner of a mark that somebody copied is deleted, the copy is owned from then on.)
    pure = seed % 2 == 0 or deletes(policy)
    for number in range(50):
        add_world(world, rng, f"-{number}", pure=pure)
    kinds = run(world, policy, rng)
    print(f"seed {seed}: 50 worlds, {sum(kinds.values())} operations: {dict(kinds)}")


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_world(rng: random.Random) -> None:
    world, policy = World(), any_policy(rng)
    add_world(world, rng, pure=deletes(policy))
    run(world, policy, rng, interruptions=2)
