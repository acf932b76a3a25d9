"""Generated worlds whose sides are asked by key, beside a real store: the narrow plan of a person, and the wide one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pandas as pd
import pytest

from connectors.answers import Digest, Recording, Request
from connectors.contract import (
    PLAIN,
    Capabilities,
    Changes,
    Directory,
    DirectoryChanges,
    Group,
    Held,
    Hint,
    Page,
    Person,
    Scope,
    Source,
)
from connectors.errors import ConfigurationError, IncompleteError
from connectors.model import GroupRow, Members, Snapshot, UserRow, crowd_id, users_frame
from connectors.store import Store, WideTotals
from tasks.decide.filter import in_scope
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.map import desired, usernames
from tasks.decide.match import Matched, match
from tasks.decide.names import among, crowd_ids
from tasks.decide.owners import split_mark
from tasks.decide.plan import Departures, Plan, plan
from tasks.decide.selection import Selection, select
from tasks.decide.width import beyond, counted_whole, totals_of, with_totals
from tasks.policy import Limit, Policy
from tasks.policy.limits import Limits
from tasks.policy.operations import Operations
from tasks.read import validate
from tasks.read.known import NotNarrowError
from tasks.read.narrow import Few, read_narrow
from tasks.run import Run
from tests.support.pages import by_group
from tests.support.worlds import NAMES, SOURCE, World, describe, owners, since

DIRECTORY = "crowd"


@dataclass
class Both:
    """Both sides of a world, asked by key. `mute`: this one does not say what changed."""

    world: World
    policy: Policy
    reads: Counter[str]
    seen: list[Snapshot] = field(default_factory=list)
    mute: bool = False
    recording: Recording | None = None
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def clients(self) -> list[Any]:
        return [self]

    def source(self) -> Snapshot:
        return self.world.source()

    def directory(self) -> Snapshot:
        return self.world.crowd.snapshot(self.policy.attributes.extra)

    def answers(self) -> str:
        """What a whole read is answered."""
        raise NotImplementedError


class BySource(Both):
    """`seen`: the side at each cursor that was given."""

    capabilities = Capabilities(delta=True)

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """What differs from then, with members of groups whole or by who joined and left."""
        before, now = self.seen[int(cursor)], self.source()
        (users, gone), (groups, gone_groups) = (
            different(getattr(before, table), getattr(now, table)) for table in ("users", "groups")
        )
        columns = ["kind", "id", "name", "reason", "away"]
        held_before, held_now = (one.held[columns].to_numpy().tolist() for one in (before, now))
        held = [Held(*row) for row in held_now if row not in held_before]
        there = {("user", one) for one in now.held["id"]}
        was, pairs = (set(one.memberships.astype("str").itertuples(index=False, name=None)) for one in (before, now))
        teams = sorted({pair[0] for pair in was ^ pairs} & set(now.groups["id"]))
        whole = [team for team in teams if len(team) % 2]
        joined = [pair for pair in sorted(pairs) if pair[0] in whole or (pair not in was and pair[0] in teams)]
        left = [pair for pair in sorted(was - pairs) if pair[0] in teams and pair[0] not in whole]
        return Changes(
            self.at_cursor(), users, groups, whole, joined, left,
            [one for one in gone if ("user", one) not in there], gone_groups, held,
        )  # fmt: skip

    def answers(self) -> str:
        made = Recording({}, keeps=False)
        self._answer(made)
        return made.text()

    def _answer(self, recording: Recording) -> None:
        """All of it in one answer."""
        whole = self.source()
        said = [whole.digest(), *(one.to_json() for one in (whole.held, whole.warnings))]
        recording.answered(recording.asked(Request("/", (), False)), Digest.of(200, "".join(said).encode()))

    def at_cursor(self) -> str:
        if self.mute:
            return ""
        self.seen.append(self.source())
        return str(len(self.seen) - 1)

    async def cursor(self, scope: Scope) -> str:
        return self.at_cursor()

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        self.reads["listed"] += 1
        if self.recording is not None:
            self._answer(self.recording)
        yield self._page("user")

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        yield self._page("group")

    def _page(self, kind: str) -> Page[Any]:
        whole = self.source()
        rows = list(getattr(whole, f"{kind}s").itertuples(index=False, name=None))
        columns = ["kind", "id", "name", "reason", "away"]
        held, warned = (
            [Held(*row) for row in one.loc[one["kind"] == kind, columns].to_numpy().tolist()]
            for one in (whole.held, whole.warnings)
        )
        return Page(rows, last=True, held=held, warnings=warned)

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        self.reads["source"] += 1
        whole = self.source()
        if ((whole.held["kind"] == "user") & (whole.held["id"] == key)).any():
            raise IncompleteError(f"the user {key} cannot be read")
        users = whole.users
        for found in (
            users[users["id"] == key],
            users[users["username"].str.lower() == key.lower()],
            users[users["email"].str.lower() == key.lower()],
        ):
            if len(found):
                return one_of(whole, found.iloc[0]["id"])
        return None

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        groups = self.source().groups
        rows = list(groups[groups["id"] == key].itertuples(index=False, name=None))
        return Group(rows[0]) if rows else None

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        self.reads["members"] += 1
        pairs = self.source().memberships.astype("str")
        yield Page(by_group(pairs[pairs["group_id"].isin(groups)]), last=True)

    async def has_user(self, identity: str) -> bool:
        return identity in set(self.source().users["id"])

    async def has_group(self, identity: str) -> bool:
        return identity in set(self.source().groups["id"])


class ByCrowd(Both):
    def answers(self) -> str:
        return self.directory().digest()

    async def token(self) -> str:
        if self.mute:
            return ""
        self.seen.append(self.directory())
        return str(len(self.seen) - 1)

    async def changes(self, token: str) -> DirectoryChanges:
        before, now = self.seen[int(token)], self.directory()
        hints = set[Hint]()
        for kind in ("user", "group"):
            rows, gone = different(getattr(before, f"{kind}s"), getattr(now, f"{kind}s"))
            hints |= {Hint(kind, one) for one in (*gone, *(row[0] for row in rows))}
        was, pairs = (set(one.memberships.astype("str").itertuples(index=False, name=None)) for one in (before, now))
        for group, member, kind in was ^ pairs:
            hints |= {Hint("user", member)} if kind == "user" else {Hint("group", member), Hint("group", group)}
        return DirectoryChanges(await self.token(), sorted(hints, key=str))

    async def group(self, name: str, scope: Scope) -> Group | None:
        groups = self.directory().groups
        rows = list(groups[groups["id"] == crowd_id(name)].itertuples(index=False, name=None))
        return Group(rows[0]) if rows else None

    async def members(self, group: str) -> list[tuple[str, ...]]:
        pairs = self.directory().memberships.astype("str")
        return list(pairs[pairs["group_id"] == crowd_id(group)].itertuples(index=False, name=None))

    async def user(self, name: str, scope: Scope) -> Person | None:
        self.reads["crowd"] += 1
        return one_of(self.directory(), crowd_id(name))


def different(before: pd.DataFrame, now: pd.DataFrame) -> tuple[list[Any], list[str]]:
    """The rows that are new or others, and the ids that are gone."""
    was, there = ({row[0]: row for row in one.itertuples(index=False, name=None)} for one in (before, now))
    return [row for key, row in there.items() if was.get(key) != row], sorted(was.keys() - there.keys())


def one_of(whole: Snapshot, identity: str) -> Person | None:
    """One user of a side as it is read by key."""
    rows = whole.users[whole.users["id"] == identity]
    if not len(rows):
        return None
    mine = whole.memberships[
        (whole.memberships["member_id"] == identity) & (whole.memberships["member_kind"] == "user")
    ]
    pairs = list(mine.astype("str").itertuples(index=False, name=None))
    groups = whole.groups[whole.groups["id"].isin([group for group, *_ in pairs])]
    warned = whole.warnings[(whole.warnings["kind"] == "user") & (whole.warnings["id"] == identity)]
    return Person(
        tuple(rows.iloc[0]),
        list(groups.itertuples(index=False, name=None)),
        pairs,
        [Held(*row) for row in warned[["kind", "id", "name", "reason", "away"]].to_numpy().tolist()],
    )


def without_limits(policy: Policy, **limits: Any) -> Policy:
    """A few people are most of a small company; with limits, everybody has to be looked at nearly always. But for
    these `limits`."""
    none: dict[str, Any] = {name: {} for name, field in Limits.model_fields.items() if field.annotation is Limit}
    approval = policy.approval.model_copy(update={"dangers": ()})
    return policy.model_copy(
        update={"limits": Limits.model_validate(none | {"unusual_times": None} | limits), "approval": approval}
    )


def unhindered(policy: Policy) -> Policy:
    """All that the policy allows in principle is done."""
    features = dict.fromkeys(Operations.model_fields, "on")
    if not policy.leavers.deletes():
        del features["user_delete"]
    if policy.leavers.groups != "delete":
        del features["group_delete"]
    return policy.model_copy(update={"operations": policy.operations.model_copy(update=features)})


def few_at_a_time(policy: Policy) -> Policy:
    """Limits that a few runs about one person each come to together, and none of them alone."""
    three = {"absolute": 3}
    return without_limits(policy, user_deactivate=three, membership_remove=three, group_loss=three)


def same_plan(made: Plan, expected: Plan, note: str) -> None:
    """Two plans are one, cell by cell: operations, held records, who is gone, and stale links."""
    assert describe(made) == describe(expected), f"{note}\n{describe(made)}\nbut\n{describe(expected)}"
    pd.testing.assert_frame_equal(made.operations, expected.operations)
    pd.testing.assert_frame_equal(made.held.reset_index(drop=True), expected.held.reset_index(drop=True))
    for what in ("gone", "stale"):
        left, right = (getattr(one, what).reset_index(drop=True) for one in (made, expected))
        pd.testing.assert_frame_equal(left, right)


def a_run(store: Store, world: World, policy: Policy) -> Run:
    both = world, policy, Counter[str]()
    return Run(
        "r", SOURCE, DIRECTORY, policy, cast(Source, BySource(*both)), cast(Directory, ByCrowd(*both)), store, 1, "q"
    )


def wide(run: Run, world: World, selection: Selection | None = None) -> tuple[Plan, Matched]:
    """What a run that reads everything decides, under the links of the store."""
    source, directory = world.source(), world.crowd.snapshot(run.policy.attributes.extra)
    return wide_of(run, (source, directory), since(source), selection)


def wide_of(
    run: Run, sides: tuple[Snapshot, Snapshot], departures: Departures, selection: Selection | None = None
) -> tuple[Plan, Matched]:
    """As `wide`, of both sides as they stand here."""
    policy, source, directory = run.policy, validate.trimmed(sides[0]), sides[1]
    scoped = in_scope(source, policy)
    matched = match(desired(scoped.snapshot, policy), directory, run.store.links(DIRECTORY), policy, SOURCE, source)
    given = source, directory, policy, SOURCE, ("", "")
    made = plan(matched, *given, departures=departures, selection=selection, doubts=scoped.doubts)
    return made, matched


def remember(run: Run, world: World) -> Plan:
    """A wide run, as far as the store knows of it: its plan."""
    policy, at = run.policy, datetime.now(UTC)
    source, directory = world.source(), world.crowd.snapshot(policy.attributes.extra)
    saved = []
    for side, snapshot in ((run.source_side, source), (run.crowd_side, directory)):
        saved.append(run.store.save_snapshot(side.stream, snapshot, taken_at=at, run="r"))
        run.store.save_verdict(saved[-1].digest, validate.RULES, Snapshot.of().held, at=at)
    made, _ = wide_of(run, (source, directory), since(source))
    counted = totals_of(made, impact(made.operations, directory, policy), 0)
    run.store.save_wide_totals(
        DIRECTORY, SOURCE, WideTotals(policy.digest(), run.request_digest, saved[0].digest, at, counted)
    )
    return made


def of_few(run: Run, few: Few, departures: Any) -> tuple[Plan, str]:
    """What follows from a few records, and why that is not enough."""
    policy, source, directory = run.policy, few.source.snapshot, few.crowd.snapshot
    scoped = in_scope(source, policy, whole=False)
    wanted = desired(scoped.snapshot, policy, whole=False)
    matched = match(wanted, directory, few.links, policy, SOURCE, source)
    sides = source, directory, policy, SOURCE, ("", "")
    made = plan(matched, *sides, departures=departures, selection=few.selection, doubts=scoped.doubts)
    made = with_totals(made, few.totals.totals)
    found = impact(made.operations, few.with_others(made.operations), policy, recent=run.recent())
    measured = counted_whole(found, few.totals.totals)
    return made, beyond(made, measured, judge(made, policy, measured), policy)


def another_name(world: World, rng: random.Random, tag: str) -> str:
    """A name, often one that somebody of the same world has."""
    theirs = [row[1] for row in world.users if row[0].endswith(tag)]
    return rng.choice(theirs) if theirs and rng.random() < 0.4 else rng.choice(NAMES) + tag


def nest(world: World, rng: random.Random) -> None:
    """More groups in groups of the source, within each world."""
    for parent, *_ in world.groups:
        for child, *_ in world.groups:
            if parent.partition("-")[2] == child.partition("-")[2] and rng.random() < 0.3:
                world.memberships.append((parent, child, "group"))


def spoil(world: World, policy: Policy, rng: random.Random, identity: str) -> None:
    """Something happens to one person of the source, or by hand to their account, within their world, and to nobody
    else."""
    people = {row[0]: n for n, row in enumerate(world.users)}
    tag = identity[identity.index("-") :] if "-" in identity else ""
    teams = [row[0] for row in world.groups if row[0].endswith(tag)]
    of = owners_of(world)
    mine = [r["name"] for r in world.crowd.users.values() if of.get(r["key"]) == identity]
    for _ in range(rng.randint(1, 3)):
        roll = rng.random()
        if roll < 0.55 and identity in people:
            at = people[identity]
            row = list(world.users[at])
            match rng.randrange(5):
                case 0:
                    row[1] = another_name(world, rng, tag)
                case 1:
                    row[6] = not row[6]
                case 2:
                    row[2] = rng.choice(("", "a@x", "b@x", "d@x")) + tag
                case 3:
                    row[4] = rng.choice("LMN")
                case 4 if teams:
                    pair = (rng.choice(teams), identity, "user")
                    (world.memberships.remove if pair in world.memberships else world.memberships.append)(pair)
            world.users[at] = tuple(row)
        elif roll < 0.63 and identity in people:  # an account that nobody knows, under the name that they get
            theirs = [one for one in world.users if one[0] == identity]
            (name,) = usernames(users_frame(theirs), policy.usernames)
            if name and crowd_id(name) not in world.crowd.users:
                world.crowd.add_user(name)
        elif roll < 0.7 and identity in people:
            del world.users[people[identity]]
            world.memberships = [pair for pair in world.memberships if pair[1:] != (identity, "user")]
            return
        elif mine:
            account = world.crowd.users.get(crowd_id(rng.choice(mine)))
            if account is None:
                continue
            match rng.randrange(4):
                case 0:
                    account["active"] = not account["active"]
                case 1:
                    account["last_name"] = "by hand"
                case 2:
                    account["attributes"] = {}
                    if identity in people and rng.random() < 0.5:  # only the link leads there now
                        at = people[identity]
                        renamed = another_name(world, rng, tag)
                        world.users[at] = (identity, renamed, *world.users[at][2:])
                case 3 if near := sorted(group for group in world.crowd.groups if group.endswith(tag)):
                    group = rng.choice(near)
                    world.crowd.memberships ^= {(world.crowd.groups[group]["key"], account["key"])}


def owners_of(world: World) -> dict[int, str]:
    return owners(world.crowd, world.links, "user")


def everybody(world: World) -> list[str]:
    linked = {key[2] for key in world.links.rows if key[:2] == (SOURCE, "user")}
    return sorted({row[0] for row in world.users} | linked | {one for one in owners_of(world).values() if one != "?"})


def link(store: Store, world: World) -> None:
    """The store's links are those of the world."""
    now, wanted = store.links(DIRECTORY), world.links.frame()
    keys = ["source", "kind", "id"]
    gone = now[~now[keys].apply(tuple, axis=1).isin(wanted[keys].apply(tuple, axis=1))] if len(now) else now
    store.drop_links(DIRECTORY, gone, at=datetime.now(UTC), run="r")
    store.save_links(DIRECTORY, wanted, at=datetime.now(UTC), run="r")


def journal(store: Store, made: Plan) -> None:
    """A plan that was carried out, as the journal has it."""
    at, seqs = datetime.now(UTC), made.operations["seq"].tolist()
    number = store.save_plan(
        run="r", source=SOURCE, directory=DIRECTORY, digest=made.digest, source_snapshot=1, directory_snapshot=1,
        policy="{}", operations=made.operations, held=made.held, at=at, status="planned",
    )  # fmt: skip
    store.set_plan_status(number, "applying", at=at)
    store.intend(number, seqs, at=at)
    store.record(number, [(seq, "done", "") for seq in seqs], at=at)
    store.set_plan_status(number, "applied", at=at)


def readable(snapshot: Snapshot) -> str:
    """The digest of a snapshot without members of groups that could not be read: a real read has none."""
    held = snapshot.held["id"][(snapshot.held["kind"] == "group").to_numpy()]
    memberships = snapshot.memberships[~snapshot.memberships["group_id"].isin(held)]
    return Snapshot.of(snapshot.users, snapshot.groups, memberships).digest()


def unknown(run: Run, world: World, identity: str) -> str:
    """That a run that reads everything does not know somebody either."""
    with pytest.raises(ConfigurationError, match="has nobody with the id"):
        select(world.source(), run.store.links(DIRECTORY), SOURCE, identity, "")
    return "nobody"


async def compare(run: Run, world: World, identity: str, found: Counter[str], note: str) -> Plan | None:
    """The narrow plan of a person beside the wide one; the plan, where they are the same and there is one."""
    try:
        return await compare_few(run, world, read_narrow(run, identity), found, note)
    except ConfigurationError:
        found[unknown(run, world, identity)] += 1
        return None


async def compare_few(
    run: Run, world: World, reading: Awaitable[Few], found: Counter[str], note: str, *, whole: bool = True
) -> Plan | None:
    """The plan of what is read narrow beside the wide one for the same selection; it, where they are the same. `whole`:
    all that changed is among it."""
    try:
        few = await reading
    except NotNarrowError as error:
        found[f"wide: {str(error)[:40]}"] += 1
        remember(run, world)
        return None
    try:
        expected, _ = wide(run, world, few.selection)
    except ConfigurationError:
        return None
    made, why = of_few(run, few, since(world.source()))
    if why:
        found[f"wide: {why[:40]}"] += 1
        return None
    note = f"{note}: {sorted(few.source.snapshot.users['id'])}, {sorted(few.crowd.snapshot.users['id'])}"
    same_plan(made, expected, note)
    directory = world.crowd.snapshot(run.policy.attributes.extra)
    narrow, wholly = (
        impact(made.operations, side, run.policy, recent=run.recent())
        for side in (few.with_others(made.operations), directory)
    )
    assert not judge(expected, run.policy, wholly).stops, note
    pairs = directory.memberships[(directory.memberships["member_kind"] == "group").to_numpy()]
    nested = {*pairs["group_id"].astype("str")}  # (who is in these by another group is not among a few)
    out = set(narrow.emptied) if few.totals.totals["out_by_nestings"] else set()
    for few_say, all_say, more in (
        (narrow.emptied, wholly.emptied, set()),
        (narrow.administrators_lost, wholly.administrators_lost, set()),
        (counted_whole(narrow, few.totals.totals).deserted, wholly.deserted, out),
    ):
        assert not whole or {*few_say} >= {*all_say}, note
        for group in ({*few_say} ^ {*all_say}) - more:  # it asks once too often, for a reason; or was not told yet
            found["asks more" if group in few_say else "not told"] += 1
            unsure = not_relied_on(run, directory) | not_told(run, directory)
            assert crowd_id(group) in nested or members_of(directory, crowd_id(group)) & unsure, f"{note}: {group}"
    for what in ("losers", "shut_out"):
        assert getattr(narrow, what) == getattr(wholly, what), f"{note}: {what}"
    # (Of who was let in again since the store may not know: then they count.)
    for limit, count in wholly.recent.items():
        assert narrow.recent.get(limit, 0) >= count, f"{note}: {limit}"
    pd.testing.assert_frame_equal(narrow.privileged, wholly.privileged)
    found["equal"] += 1
    found["operations"] += len(made.operations)
    found["read"] += few.people + few.accounts
    assert not whole or readable(run.store.load_snapshot(few.source.saved.id)) == readable(world.source()), (
        f"{note}: history"
    )
    return made


def members_of(directory: Snapshot, group: str) -> set[str]:
    """The users who are in a group of Crowd, also by the groups in it."""
    rows = list(directory.memberships.astype("str").itertuples(index=False, name=None))
    groups, more = set[str](), {group}
    while more - groups:
        groups |= more
        more = {member for of, member, kind in rows if kind == "group" and of in groups}
    return {member for of, member, kind in rows if kind == "user" and of in groups}


def not_relied_on(run: Run, directory: Snapshot) -> set[str]:
    """The accounts (names) that count in no group for a few: the store knows them under no such name, as they were
    renamed since; their mark is borne out by no link; or something was taken away under that name lately."""
    users = directory.users
    known = run.store.users_now(run.crowd_side.stream, users["id"].tolist())["id"]
    marks, _ = split_mark(users["attributes"])
    borne_out = among(users["id"], crowd_ids(run.store.links(DIRECTORY)["name"]))
    lately = among(users["id"], crowd_ids(run.recent().removals["name"]))
    return set(users["id"][(~among(users["id"], known) | ((marks != "").to_numpy() & ~borne_out) | lately)])


def not_told(run: Run, directory: Snapshot) -> set[str]:
    """The accounts (names) that the store has otherwise, or in other groups: it was not told yet what became of them,
    by hand or by a run of ours."""
    stream, names = run.crowd_side.stream, directory.users["id"].tolist()
    rows = {*run.store.users_now(stream, names).itertuples(index=False, name=None)}
    other = {row[0] for row in directory.users.itertuples(index=False, name=None) if row not in rows}
    pairs = {*directory.memberships.astype("str").itertuples(index=False, name=None)}
    return other | {pair[1] for pair in pairs ^ {*run.store.pairs_now(stream, names)}}


def joiner(world: World, rng: random.Random, identity: str) -> str:
    """Somebody new in the source, in one of its worlds: their id."""
    tag = rng.choice(world.users)[0].partition("-")[2] if world.users else "0"
    teams = [row[0] for row in world.groups if row[0].endswith(f"-{tag}")]
    mail = rng.choice(("", "a@x", "d@x"))
    identity, name, mail = f"{identity}-{tag}", another_name(world, rng, f"-{tag}"), mail and f"{mail}-{tag}"
    world.users.append((identity, name, mail, "F", "L", "D", True, "{}"))
    world.memberships += [(team, identity, "user") for team in teams if rng.random() < 0.5]
    return identity
