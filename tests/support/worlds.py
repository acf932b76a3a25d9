"""Small generated worlds (a source, a Crowd, links), policies for them, and the pure road from one to the other.

A world is over a handful of names, so that swaps, chains, reused usernames, lookalikes, adoption, other owners and
circles are common. Many worlds can share one directory: their names carry a tag.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pandas as pd

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
from tasks.decide.links import lost_links, new_links
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Departures, Plan, plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tasks.write.chunks import lanes
from tests.support.frames import policy_with
from tests.support.model_crowd import ModelCrowd, ModelLinks, operation_of

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
        known = held_names.get(identity) if keep and rng.random() < 0.6 else None
        name = known or (rng.choice(pool) if rng.random() < 0.1 else pool.pop())
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
        for inner in group_ids:
            if rng.random() < 0.25:  # circles and groups in themselves too
                world.memberships.append((identity, inner, "group"))


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
    leavers: dict[str, Any] = {name: rng.choice(LEAVING) for name in ("out_of_scope", "disabled", "deleted")}
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


def planned(
    source: Snapshot, crowd: ModelCrowd, links: ModelLinks, policy: Policy, selection: Selection | None = None
) -> Plan:
    directory = crowd.snapshot(policy.attributes.extra)
    matched = match(
        desired(in_scope(source, policy).snapshot, policy), directory, links.frame(), policy, SOURCE, source
    )
    return plan(matched, source, directory, policy, SOURCE, ("", ""), departures=since(source), selection=selection)


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


def deletes(policy: Policy) -> bool:
    return policy.leavers.deletes() or policy.leavers.groups == "delete"


def describe(made: Plan) -> str:
    return made.operations[["kind", "name", "target", "source_id", "record", "reason"]].to_string()


def subjects(made: Plan, world: World) -> list[int]:
    """The key of the account that each operation of a whole plan is about, or of the group; played through."""
    crowd, found = world.crowd.copy(), list[int]()
    row: Any
    for row in made.operations.itertuples():
        of_user = row.kind.startswith(("user", "membership"))
        table, name = (crowd.users if of_user else crowd.groups), crowd_id(str(row.name))
        before = table.get(name, {}).get("key")
        crowd.write(operation_of(row))
        found.append(before if before is not None else table[name]["key"])
    return found


def whose(made: Plan, world: World, keys: list[int]) -> dict[int, str]:
    """Key of an account → the person whom it belongs to, before the plan or with it."""
    found = {key: owner for key, owner in owners(world.crowd, world.links, "user").items() if owner != "?"}
    row: Any
    for key, row in zip(keys, made.operations.itertuples(), strict=True):
        if row.kind.startswith("user"):
            found[key] = str(row.source_id)
    return found


def company(people: int, leavers: int) -> World:
    """People who are all in Crowd and all in one group; the first `leavers` of them are gone from the source."""
    world = World(crowd=ModelCrowd(), links=ModelLinks())
    group = world.crowd.add_group("staff", mark=f"{SOURCE}:g")
    world.groups.append(("g", "staff", "", "{}"))
    for number in range(people):
        key = f"p{number}"
        user = world.crowd.add_user(f"u{number}", attributes={ID_ATTRIBUTE: [f"{SOURCE}:{key}"]})
        world.crowd.memberships.add((group["key"], user["key"]))
        if number >= leavers:
            world.users.append((key, f"u{number}", "", "", f"u{number}", f"u{number}", True, "{}"))
            world.memberships.append(("g", key, "user"))
    return world


def mark(identity: str, source: str = SOURCE) -> dict[str, list[str]]:
    return {ID_ATTRIBUTE: [f"{source}:{identity}"]}


def links(*rows: tuple[str, str, str, str]) -> ModelLinks:
    """Rows of source, kind, id, name."""
    return ModelLinks({row[:3]: (row[3], "created") for row in rows})


def the_plan(source: Snapshot, crowd: ModelCrowd, known: ModelLinks | None = None, **policy: Any) -> Plan:
    """The plan; applied to a copy it must do what it says and leave nothing to do."""
    rules, known = policy_with(**policy), known or ModelLinks()
    made = planned(source, crowd, known, rules)
    done, then = crowd.copy(), known.copy()
    applied(made, done, then, random.Random(1))
    assert planned(source, done, then, rules).operations.empty
    return made


def ops(made: Plan, *kinds: Kind) -> list[tuple[str, str, str]]:
    rows = made.operations[["kind", "name", "target"]].itertuples(index=False, name=None)
    return [row for row in rows if not kinds or row[0] in kinds]
