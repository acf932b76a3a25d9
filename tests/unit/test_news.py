"""Who changed since Crowd was last in step: what each side says, our links and the clock; and what makes a run wide."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from connectors.answers import NEVER
from connectors.contract import Changes, DirectoryChanges, Held, Hint, Person
from connectors.errors import StaleCursorError
from connectors.model import Snapshot, held_frame
from connectors.store import Store
from tasks.decide.impact import impact
from tasks.decide.plan import Plan
from tasks.decide.width import counted_whole
from tasks.policy import Policy
from tasks.read import news
from tasks.read.known import NotNarrowError, known_sides
from tasks.read.listing import differing
from tasks.read.narrow import Few, read_changed, read_named
from tasks.run import Run
from tests.support.by_key import Both, BySource, a_run, link, of_few, one_of
from tests.support.frames import policy_with
from tests.support.in_step import in_step, settle, settled_run
from tests.support.worlds import SOURCE, World, since

DAYS = 30


@pytest.fixture
def backend() -> str:
    """One kind of store: what is used of it is tested with both."""
    return "sqlite"


def company() -> World:
    """Six people, two groups of which one is in the other, and an account that nobody owns."""
    world = World()
    world.users = [(f"p{n}", f"user{n}", f"u{n}@x", "F", "L", "D", True, "{}") for n in range(6)]
    world.groups = [("g0", "red", "", "{}"), ("g1", "blue", "", "{}")]
    world.memberships = [("g0", f"p{n}", "user") for n in range(4)] + [("g1", "p5", "user"), ("g0", "g1", "group")]
    world.crowd.add_user("stranger")
    return world


async def begun(store: Store, policy: Policy | None = None) -> tuple[Run, World]:
    """A run whose Crowd is in step."""
    return await settled_run(store, company, policy or Policy())


def asked(run: Run, few: Few) -> tuple[int, int, set[str]]:
    """How many people and accounts were read again, and whom the plan is about."""
    assert few.selection.changed is not None
    return few.people, few.accounts, set(few.selection.changed)


async def test_where_nobody_changed_nothing_is_read(store: Store) -> None:
    run, _ = await begun(store)
    few = await read_changed(run)
    assert asked(run, few) == (0, 0, set())
    assert few.source.snapshot.users.empty
    assert few.words().startswith("Neither acme nor Crowd shows anybody who changed since ")


async def test_whom_the_source_names_is_read_again(store: Store) -> None:
    run, world = await begun(store)
    world.users[2] = (*world.users[2][:4], "new", *world.users[2][5:])
    world.memberships.remove(("g0", "p1", "user"))
    del world.users[3]
    world.memberships.remove(("g0", "p3", "user"))
    few = await read_changed(run)
    assert asked(run, few) == (3, 3, {"p1", "p2", "p3"})
    assert sorted(few.source.snapshot.users["id"]) == ["p1", "p2"]


async def test_whom_crowd_names_is_read_there_and_their_person_is_as_known(store: Store) -> None:
    run, world = await begun(store)
    world.crowd.users["user1"]["active"] = False
    world.crowd.memberships.discard((world.crowd.groups["red"]["key"], world.crowd.users["user2"]["key"]))
    world.crowd.add_user("another")
    few = await read_changed(run)
    assert asked(run, few) == (0, 3, {"p1", "p2"})
    assert sorted(few.crowd.snapshot.users["id"]) == ["another", "user1", "user2"]


async def test_who_was_held_is_decided_on_again(store: Store) -> None:
    run, _ = await begun(store)
    held = pd.DataFrame([("user", "p4", "p4", "for a reason")], columns=["kind", "id", "name", "reason"])
    store.save_held("crowd", SOURCE, held, run="r", at=datetime.now(UTC))
    assert asked(run, await read_changed(run)) == (0, 0, {"p4"})


def renamed(world: World) -> Hint:
    world.users[1] = ("p1", "user1.new", *world.users[1][2:])
    return Hint("user", "p1")


def gone(world: World) -> Hint:
    del world.users[1]
    world.memberships.remove(("g0", "p1", "user"))
    return Hint("user", "p1")


def deleted_by_hand(world: World) -> Hint:
    del world.crowd.users["stranger"]
    return Hint("account", "stranger")


def joined(name: str) -> World:
    """Somebody new is held: their name is somebody else's."""
    world = company()
    world.users.append(("p6", name, "u6@x", "F", "L", "D", True, "{}"))
    return world


def of_a_person() -> World:
    return joined("user1")


def of_an_account() -> World:
    return joined("stranger")


@pytest.mark.parametrize(
    ("begin", "change"), [(of_a_person, renamed), (of_a_person, gone), (of_an_account, deleted_by_hand)]
)
async def test_who_was_held_because_of_another_is_decided_on_with_them(
    store: Store, begin: Callable[[], World], change: Callable[[World], Hint]
) -> None:
    """What was in the way is under a name of before, which nobody who is read has now."""
    run, world = await settled_run(store, begin, Policy())
    few = await read_named(run, known_sides(run), [change(world)])
    assert "p6" in few.selection.people


async def test_who_is_out_of_a_group_since_another_was_taken_out_of_it_counts(store: Store) -> None:
    """They were in it by the other group, whose members nobody reads again."""
    run, world = await begun(store)
    world.memberships.remove(("g0", "g1", "group"))
    for n in (1, 2, 3):
        world.memberships.remove(("g0", f"p{n}", "user"))
    assert await settle(run, world, random.Random(1))
    world.memberships.remove(("g0", "p0", "user"))
    few = await read_named(run, known_sides(run), [Hint("user", "p0")])
    made, _ = of_few(run, few, since(world.source()))
    sides = few.with_others(made.operations), world.crowd.snapshot({})
    narrow, whole = (impact(made.operations, side, run.policy, recent=run.recent()) for side in sides)
    narrow = counted_whole(narrow, few.totals.totals)
    assert narrow.deserted == whole.deserted == ("red",)
    assert narrow.losers_recently == whole.losers_recently == 5


async def test_others_are_looked_for_where_something_is_taken_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By them it is judged, and by nothing else is anything."""
    run, world = await begun(store)
    asked, look = list[set[str]](), Store.active_members

    def noted(self: Store, stream: str, groups: Mapping[str, int]) -> set[str]:
        asked.append({*groups})
        return look(self, stream, groups)

    async def of(person: str) -> Plan:
        few = await read_named(run, known_sides(run), [Hint("user", person)])
        return of_few(run, few, since(world.source()))[0]

    monkeypatch.setattr(Store, "active_members", noted)
    world.users[1] = (*world.users[1][:4], "new", *world.users[1][5:])
    assert (await of("p1")).counts() == {"user_update": 1}
    assert asked == []
    world.memberships.remove(("g0", "p2", "user"))
    assert (await of("p2")).counts() == {"membership_remove": 1}
    assert asked == [{"red"}]


@pytest.mark.parametrize(("ago", "due"), [(DAYS, True), (DAYS + 1, False), (DAYS - 1, False)])
async def test_whom_it_is_time_to_delete_is_decided_on(store: Store, ago: float, due: bool) -> None:
    """Once: when the time comes, and not at every run after it."""
    policy = policy_with(leavers={"delete_after_days": DAYS}, operations={"user_delete": "on"})
    run, _ = await begun(store, policy)
    last = store.in_step("crowd", SOURCE)
    assert last is not None
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    in_step(run, replace(last.since, at=hour_ago))
    leaving = pd.DataFrame({"id": ["p3"], "why": ["is disabled in the source"]})
    store.save_departures("crowd", SOURCE, leaving, at=hour_ago + timedelta(minutes=30) - timedelta(days=ago))
    assert asked(run, await read_changed(run)) == ((1, 1, {"p3"}) if due else (0, 0, set()))


async def test_whose_link_is_another_one_is_decided_on(store: Store) -> None:
    run, world = await begun(store)
    mine = store.links("crowd")
    store.drop_links("crowd", mine[mine["id"] == "p2"], at=datetime.now(UTC), run="r")
    del world.links.rows[SOURCE, "user", "p2"]
    assert asked(run, await read_changed(run)) == (0, 1, {"p2"})


# ── what makes it wide ──────────────────────────────────────────────────────────────────────────


def never(run: Run, world: World) -> None:
    run.store.save_in_step("crowd", SOURCE, None)


def another_policy(run: Run, world: World) -> None:
    run.policy = policy_with(usernames={"case": "keep"})


def another_question(run: Run, world: World) -> None:
    run.request_digest = "another"


def long_ago(run: Run, world: World) -> None:
    last = run.store.in_step("crowd", SOURCE)
    assert last is not None
    in_step(run, replace(last.since, full_at=datetime.now(UTC) - timedelta(hours=25)))


def without(**cursors: str) -> Callable[[Run, World], None]:
    """A side that could not say where what changes next begins."""

    def spoil(run: Run, world: World) -> None:
        last = run.store.in_step("crowd", SOURCE)
        assert last is not None
        in_step(run, replace(last.since, **cursors))  # type: ignore[arg-type]

    return spoil


def saying(side: str, **what: Any) -> Callable[[Run, World], None]:
    """A side that says this, or nothing but that only a full read helps."""

    def spoil(run: Run, world: World) -> None:
        async def says(*_: Any) -> Any:
            if not what:
                raise StaleCursorError(f"{side} cannot say. A full read is due.")
            return Changes("c", **what) if side == "source" else DirectoryChanges("t", **what)

        setattr(getattr(run, side), "changes", says)  # noqa: B010

    return spoil


def renamed_team(run: Run, world: World) -> None:
    world.groups[0] = ("g0", "crimson", "", "{}")


def new_team(run: Run, world: World) -> None:
    world.groups.append(("g7", "green", "", "{}"))


def lost_team(run: Run, world: World) -> None:
    world.groups.pop()
    world.memberships = [pair for pair in world.memberships if "g1" not in pair]


def other_nesting(run: Run, world: World) -> None:
    world.memberships.remove(("g0", "g1", "group"))


def described(run: Run, world: World) -> None:
    world.crowd.groups["red"]["description"] = "by hand"


def nested_by_hand(run: Run, world: World) -> None:
    world.crowd.nestings.clear()


def handed_over(run: Run, world: World) -> None:
    link = pd.DataFrame([("beta", "group", "b1", "green", "created")], columns=["source", "kind", "id", "name", "how"])
    run.store.save_links("crowd", link, at=datetime.now(UTC), run="r")


def many(run: Run, world: World) -> None:
    world.users += [(f"n{n}", f"new{n}", "", "F", "L", "D", True, "{}") for n in range(21)]


def unreadable(run: Run, world: World) -> None:
    lost = world.users.pop()
    world.held.append(("user", lost[0], lost[1], "extract", "no userName", ""))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (never, "no run about everybody that read both sides whole has left Crowd in step yet"),
        (another_policy, "the policy is another one than when Crowd was last in step"),
        (another_question, "the settings or attributes that are asked for changed since Crowd was last in step"),
        (long_ago, r"the last full read is more than 24 hours ago \(reads.full_every_hours\)"),
        (without(cursor=""), "acme does not say what changed, with these settings"),
        (without(token=""), "Crowd offers no events that can be relied on"),
        (saying("source"), "source cannot say. A full read is due"),
        (saying("directory"), "directory cannot say. A full read is due"),
        (renamed_team, "the group 'crimson' of acme is new or changed"),
        (new_team, "the group 'green' of acme is new or changed"),
        (lost_team, "the group 'g1' of acme is gone, cannot be read, or can be again"),
        (other_nesting, "other groups are in a group of acme"),
        (saying("source", memberships=[("g1", "g0", "group")]), "other groups are in a group of acme"),
        (saying("source", held=[Held("group", "g0", "", "odd")]), "the group 'g0' of acme is gone, cannot be read"),
        (described, "the group 'red' of crowd is new, gone or changed"),
        (nested_by_hand, "other groups are in the group 'red' of crowd"),
        (handed_over, "links of groups were made or changed since then"),
        (many, r"21 people and 0 accounts changed, more than 20 \(reads.by_key_percent\)"),
        (unreadable, r"one who changed cannot be read by key \(the user p5 cannot be read\)"),
    ],
)
async def test_what_makes_a_run_wide(store: Store, spoil: Callable[[Run, World], None], why: str) -> None:
    run, world = await begun(store)
    spoil(run, world)
    with pytest.raises(NotNarrowError, match=why):
        await read_changed(run)


async def test_a_group_that_was_made_anew_by_hand_has_lost_its_members(store: Store) -> None:
    """Crowd tells of the group alone."""
    run, world = await begun(store)
    red = world.crowd.groups["red"]["key"]
    world.crowd.memberships = {pair for pair in world.crowd.memberships if pair[0] != red}
    saying("directory", hints=[Hint("group", "red")])(run, world)
    assert asked(run, await read_changed(run)) == (0, 4, {"p0", "p1", "p2", "p3"})


async def test_members_that_come_whole_are_compared(store: Store) -> None:
    run, world = await begun(store)
    now = [("g0", one, "user") for one in ("p0", "p1", "p4")] + [("g0", "g1", "group")]
    saying("source", groups=[world.groups[0]], replaced=["g0"], memberships=now)(run, world)
    assert asked(run, await read_changed(run))[2] == {"p2", "p3", "p4"}


async def test_nobody_by_key_where_the_policy_says_so(store: Store) -> None:
    run, world = await begun(store, policy_with(reads={"by_key_percent": 0}))
    assert asked(run, await read_changed(run)) == (0, 0, set())
    world.crowd.users["user1"]["active"] = False
    with pytest.raises(NotNarrowError, match="0 people and 1 account changed, more than 0"):
        await read_changed(run)


# ── a source that names nobody ──────────────────────────────────────────────────────────────────


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a side answers as it did, of one that is no server."""

    async def same(clients: list[Both], recorded: str) -> bool:
        return clients[0].answers() == recorded

    monkeypatch.setattr(news, "same", same)


async def mute(store: Store) -> tuple[Run, World, BySource]:
    """A run whose Crowd is in step, with a source that does not say what changed."""
    world = company()
    run = a_run(store, world, Policy())
    assert isinstance(run.source, BySource)
    run.source.mute = True
    link(store, world)
    assert await settle(run, world, random.Random(1))
    run.source.reads.clear()
    return run, world, run.source


def answered(few: Few) -> str:
    assert few.cursors is not None
    return few.cursors.source_answers


@pytest.mark.usefixtures("compared")
async def test_who_is_listed_otherwise_is_read_by_key(store: Store) -> None:
    run, world, source = await mute(store)
    world.users[2] = (*world.users[2][:4], "new", *world.users[2][5:])
    world.memberships.remove(("g0", "p1", "user"))
    del world.users[3]
    world.memberships.remove(("g0", "p3", "user"))
    few = await read_changed(run)
    assert asked(run, few) == (3, 3, {"p1", "p2", "p3"})
    assert sorted(few.source.snapshot.users["id"]) == ["p1", "p2"]
    assert answered(few) == source.answers()
    assert (source.reads["listed"], source.reads["source"]) == (1, 3)
    again = await read_changed(run, {"p0"}, few.news)
    assert asked(run, again) == (4, 4, {"p0", "p1", "p2", "p3"})
    assert source.reads["listed"] == 1, "the second pass asks for records alone"


@pytest.mark.usefixtures("compared")
async def test_who_is_not_listed_and_is_there_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run compares the list again."""
    run, world, source = await mute(store)
    whole = world.source()
    world.users.pop(4)

    async def by_key(key: str, _: Any) -> Person | None:
        return one_of(whole, key)

    monkeypatch.setattr(source, "user", by_key)
    few = await read_changed(run)
    assert asked(run, few) == (1, 1, {"p4"})
    assert "p4" in set(few.source.snapshot.users["id"])
    assert answered(few) == NEVER


@pytest.mark.usefixtures("compared")
async def test_what_an_earlier_run_read_and_did_not_bring_into_crowd_is_decided_on_again(store: Store) -> None:
    """Though the list is as the store has it by now; and though it is as it was when Crowd was last in step."""
    run, world, _ = await mute(store)
    before = world.users[2]
    world.users[2] = (*before[:6], False, before[7])
    assert asked(run, await read_changed(run))[2] == {"p2"}
    assert asked(run, await read_changed(run))[2] == {"p2"}
    world.users[2] = before
    few = await read_changed(run)
    assert asked(run, few)[2] == {"p2"}
    assert list(few.source.snapshot.users["active"]) == [True]


def nobody(run: Run, world: World) -> None:
    world.users.clear()
    world.memberships = [pair for pair in world.memberships if pair[2] == "group"]


def unread_team(run: Run, world: World) -> None:
    world.groups.pop()
    world.held.append(("group", "g1", "blue", "extract", "too many members", ""))


def of_an_earlier_version(run: Run, world: World) -> None:
    last = run.store.in_step("crowd", SOURCE)
    assert last is not None
    run.store.save_in_step("crowd", SOURCE, replace(last, snapshot=0))


@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (renamed_team, "the group 'red' of acme is new, gone or changed"),
        (new_team, "the group 'g7' of acme is new, gone or changed"),
        (lost_team, "the group '(blue|red)' of acme is new, gone or changed"),
        (unread_team, "the group '(blue|red)' of acme is new, gone or changed"),
        (other_nesting, "the group 'red' of acme is new, gone or changed"),
        (many, r"21 people and 0 accounts changed, more than 20 \(reads.by_key_percent\)"),
        (unreadable, r"one who changed cannot be read by key \(the user p5 cannot be read\)"),
        (nobody, "acme lists nobody"),
        (of_an_earlier_version, "acme does not say what changed, with these settings"),
    ],
)
async def test_what_is_listed_may_make_a_run_wide(store: Store, spoil: Callable[[Run, World], None], why: str) -> None:
    run, world, _ = await mute(store)
    spoil(run, world)
    with pytest.raises(NotNarrowError, match=why):
        await read_changed(run)


def test_two_snapshots_differ_in_whom_any_table_has_otherwise() -> None:
    world = company()
    before = world.source()
    assert differing(before, before) == (set(), set())
    assert differing(Snapshot.of(), Snapshot.of()) == (set(), set())
    held = held_frame([("user", "h", "h", "extract", "odd"), ("group", "g9", "g", "extract", "odd")])
    warned = held_frame([("user", "p1", "user1", "extract", "no mail")] * 2)
    there = replace(before, held=held, warnings=warned)
    assert differing(before, there) == differing(there, before) == ({"h", "p1"}, {"g9"})
    assert differing(before, Snapshot.of()) == ({f"p{n}" for n in range(6)}, {"g0", "g1"})
