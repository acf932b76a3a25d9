"""Limits do not forget: what many small runs take away counts like one large run, and a nesting counts its people."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.model import Snapshot, held_frame
from connectors.operations import Kind
from connectors.store import Store
from tasks.decide.guard import Verdict, judge
from tasks.decide.impact import impact
from tasks.decide.plan import Owned, Plan
from tasks.decide.removals import COLUMNS, RecentRemovals, as_left
from tasks.decide.width import totals_less, totals_more
from tasks.policy import Limit, Policy
from tasks.write.approve import agreed
from tests.support.frames import a_directory, pairs, person, snapshot, team, the_operations
from tests.support.model_crowd import ModelCrowd
from tests.support.stored import AT, MINUTE, operations, plan
from tests.support.worlds import applied, company, planned

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
Removal = tuple[str, str, str, datetime]
"""Kind, name, target, when."""


def recent(
    removals: Iterable[Removal], passed: dict[str, datetime] | None = None, active: bool = True
) -> RecentRemovals:
    rows = [(kind, name, target, name, active, at) for kind, name, target, at in removals]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)) if rows else RecentRemovals().removals
    return RecentRemovals(frame.astype({"at": "datetime64[us, UTC]"}), passed or {}, 24)


def owning(active: int, memberships: int = 0, nestings: int = 0) -> Owned:
    return Owned(active, active, 9, memberships, nestings)


def a_plan(made: pd.DataFrame, owned: Owned) -> Plan:
    nothing = pd.DataFrame()
    shut = made["kind"].isin([Kind.USER_DEACTIVATE, Kind.USER_DELETE])
    before = pd.array(['{"active":true}' if one else "" for one in shut], dtype="str")
    made = made.assign(before=before, shuts_out=shut)
    return Plan(made, held_frame(), {}, nothing, nothing, nothing, nothing, owned, "")


def asked(verdict: Verdict) -> list[str]:
    return [line.split(":")[0] for line in verdict.stops]


def selection(**limits: Any) -> Policy:
    """No limit but these, and no danger."""
    none: dict[str, Any] = {
        name: {} for name, field in Policy().limits.__class__.model_fields.items() if field.annotation is Limit
    }
    return Policy.model_validate({"limits": {**none, "unusual_times": None, **limits}, "approval": {"dangers": []}})


# ── a hundred people, a few at a time ───────────────────────────────────────────────────────────


def test_few_at_a_time_are_many() -> None:
    """A tenth of a hundred may go in a day. Counted run by run, 91 of them went in 27 runs, and nobody was asked."""
    policy = Policy.model_validate({"limits": {"group_loss": {}, "unusual_times": None}})
    world = company(100, 0)
    removed: list[Removal] = []
    gone = 0
    for number, step in enumerate((9, 1, 1)):
        world.users = [row for row in world.users if int(row[0][1:]) >= gone + step]
        world.memberships = [row for row in world.memberships if int(row[1][1:]) >= gone + step]
        made = planned(world.source(), world.crowd, world.links, policy)
        radius = impact(made.operations, world.crowd.snapshot(), policy, recent=recent(removed))
        verdict = judge(made, policy, radius)
        assert bool(verdict.stops) == (gone + step > 10)
        if verdict.stops:
            text = "11 of 100 active owned accounts (10 of them in the 24 hours before) is more than the 10 that"
            assert text in verdict.stops[0]
        applied(made, world.crowd, world.links, random.Random(number))
        out = made.operations[made.operations["kind"] == Kind.USER_DEACTIVATE]
        removed += [(Kind.USER_DEACTIVATE.value, name, "", NOW + number * MINUTE) for name in out["name"]]
        gone += step


# ── what counts, and what no longer does ────────────────────────────────────────────────────────

PEOPLE = {f"p{n}": n >= 4 for n in range(20)}
"""The first four are shut out."""
SHUT = [(Kind.USER_DEACTIVATE.value, f"P{n}", "", NOW - n * HOUR) for n in range(4)]
OUT_ONE = the_operations((Kind.USER_DEACTIVATE, "p4", False))


def judged(policy: Policy, known: RecentRemovals, directory: Snapshot, made: pd.DataFrame, owned: Owned) -> Verdict:
    return judge(a_plan(made, owned), policy, impact(made, directory, policy, recent=known))


def test_who_is_in_again_does_not_count_and_each_counts_once() -> None:
    policy = selection(user_deactivate={"absolute": 4})
    everybody_back = a_directory(dict.fromkeys(PEOPLE, True), {})
    for directory, stops in ((a_directory(PEOPLE, {}), True), (everybody_back, False)):
        twice = recent([*SHUT, *SHUT])
        assert bool(judged(policy, twice, directory, OUT_ONE, owning(16)).stops) == stops
    assert not judged(policy, recent(SHUT, active=False), a_directory(PEOPLE, {}), OUT_ONE, owning(16)).stops, (
        "nor then"
    )
    assert not judged(policy, recent(SHUT), a_directory(PEOPLE, {}), the_operations(), owning(16)).stops, (
        "takes nothing"
    )


def test_the_base_is_as_it_was_at_the_beginning() -> None:
    directory = a_directory(PEOPLE, {})
    policy = selection(user_deactivate={"percent": 25})  # of 20: five, and of the 16 that are left four
    assert not judged(policy, recent(SHUT), directory, OUT_ONE, owning(16)).stops
    two = the_operations((Kind.USER_DEACTIVATE, "p4", False), (Kind.USER_DEACTIVATE, "p5", False))
    assert judged(policy, recent(SHUT), directory, two, owning(16)).stops


def test_what_a_person_agreed_to_is_counted_no_more() -> None:
    """Else the next leaver would wait for a person too, and so on all day."""
    policy, directory = selection(user_deactivate={"absolute": 4}), a_directory(PEOPLE, {})
    for at, stops in ((NOW, False), (NOW - HOUR / 2, False), (NOW - 9 * HOUR, True)):
        known = recent(SHUT, {"user_deactivate": at})
        assert bool(judged(policy, known, directory, OUT_ONE, owning(16)).stops) == stops
    other = recent(SHUT, {"membership_remove": NOW})
    assert judged(policy, other, directory, OUT_ONE, owning(16)).stops, (
        "a limit that was not asked about goes on counting"
    )


def test_a_verdict_says_which_limits_it_goes_past() -> None:
    policy, directory = selection(user_deactivate={"absolute": 0}), a_directory(PEOPLE, {})
    verdict = judged(policy, RecentRemovals(), directory, OUT_ONE, owning(16))
    assert verdict.passed == ()

    class Yes:
        actor, reason = "kim", "they left"

    assert agreed(verdict, Yes()).passed == ("user_deactivate",)  # type: ignore[arg-type]
    forced = judge(a_plan(OUT_ONE, owning(16)), policy, force=True)
    assert forced.passed == ("user_deactivate",)


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ("user_delete", Kind.USER_DELETE),
        ("group_delete", Kind.GROUP_DELETE),
        ("membership_remove", Kind.MEMBERSHIP_REMOVE),
        ("nesting_remove", Kind.NESTING_REMOVE),
    ],
)
def test_every_kind_that_takes_away_is_counted(limit: str, kind: Kind) -> None:
    directory = a_directory({"ann": True, "bob": True}, {"red": ["ann", "@sub"], "sub": ["bob"]})
    member = "sub" if kind is Kind.NESTING_REMOVE else "ann"
    target = "red" if "remove" in limit else ""
    now = the_operations((kind, member, target))
    before = [(kind.value, f"x{n}", target, NOW) for n in range(2)]
    verdict = judged(selection(**{limit: {"absolute": 2}}), recent(before), directory, now, owning(9, 9, 9))
    assert asked(verdict) == [limit]
    assert "(2 of them in the 24 hours before)" in verdict.stops[0]
    assert not judged(selection(**{limit: {"absolute": 3}}), recent(before), directory, now, owning(9, 9, 9)).stops
    if "remove" in limit:  # what was put back is not gone
        there = [(kind.value, member, target, NOW)] * 3
        assert not judged(selection(**{limit: {"absolute": 1}}), recent(there), directory, now, owning(9, 9, 9)).stops


def test_the_limit_of_one_group_counts_too() -> None:
    directory = a_directory({f"p{n}": True for n in range(4)}, {"Red": ["p0", "p1"], "blue": ["p0", "p1"]})
    before = [(Kind.MEMBERSHIP_REMOVE.value, name, "red", NOW) for name in ("p2", "p3")]
    now = the_operations((Kind.MEMBERSHIP_REMOVE, "p0", "Red"), (Kind.MEMBERSHIP_REMOVE, "p0", "blue"))
    verdict = judged(selection(group_membership_remove={"percent": 50}), recent(before), directory, now, owning(4, 4))
    assert verdict.stops == (
        "group_membership_remove: 3 of 4 members of 'Red' (2 of them in the 24 hours before) is more than the 2 that "
        "limits.group_membership_remove (50 %) allows",
    )


# ── people who lose a group, by whatever way they were in it ────────────────────────────────────

STAFF = {f"p{n}": True for n in range(20)}
NESTED = {"jira-users": ["@staff", "p0"], "staff": [*STAFF], "tools": ["@jira-users"], "other": []}


def test_one_nesting_carries_everybody() -> None:
    directory = a_directory(STAFF, NESTED)
    now = the_operations((Kind.NESTING_REMOVE, "staff", "jira-users"))
    made = impact(now, directory, Policy())
    assert made.losers == made.losers_recently == 19, "p0 is in it directly"
    verdict = judge(a_plan(now, owning(20, 21, 100)), Policy(), made)
    assert asked(verdict) == ["group_loss"]
    assert verdict.asks[0].limit == "group_loss"
    assert not judge(a_plan(now, owning(20, 21, 100)), selection(), made).stops


def test_nobody_loses_what_they_have_by_another_way() -> None:
    directory = a_directory(STAFF, NESTED | {"jira-users": ["@staff", "@all", "p0"], "all": [*STAFF]})
    assert impact(the_operations((Kind.NESTING_REMOVE, "staff", "jira-users")), directory, Policy()).losers == 0
    moved = the_operations((Kind.MEMBERSHIP_REMOVE, "p0", "jira-users"))
    assert impact(moved, directory, Policy()).losers == 0
    instead = the_operations((Kind.NESTING_REMOVE, "jira-users", "tools"), (Kind.NESTING_ADD, "staff", "tools"))
    assert impact(instead, directory, Policy()).losers == 0
    shut = the_operations((Kind.USER_DEACTIVATE, "p1", False), (Kind.MEMBERSHIP_REMOVE, "p1", "staff"))
    assert impact(shut, directory, Policy()).losers == 0, "those who leave are counted as such"


def test_nestings_taken_one_by_one_count_their_people_together() -> None:
    """Each carries a tenth; the second one passes the limit, and people are counted once."""
    teams = {f"t{n}": [f"p{2 * n}", f"p{2 * n + 1}"] for n in range(10)}
    directory = a_directory(STAFF, teams | {"all": [f"@t{n}" for n in range(2, 10)], "more": ["@t2"]})
    before = recent([(Kind.NESTING_REMOVE.value, f"T{n}", "ALL", NOW) for n in range(2)])
    policy = selection(group_loss={"percent": 20})
    one = the_operations((Kind.NESTING_REMOVE, "t2", "all"), (Kind.NESTING_REMOVE, "t2", "more"))
    made = impact(one, directory, policy, recent=before)
    assert (made.losers, made.losers_recently) == (2, 6)
    verdict = judge(a_plan(one, owning(20, 20, 9)), policy, made)
    assert "6 of 20 active owned accounts, who lose a group, (4 of them in the 24 hours before)" in verdict.stops[0]
    assert not judge(a_plan(one, owning(20, 20, 9)), policy, impact(one, directory, policy)).stops
    back = a_directory(STAFF, teams | {"all": [f"@t{n}" for n in range(10)], "more": ["@t2"]})
    assert impact(one, back, policy, recent=before).losers_recently == 2, "the others are in it again"


@given(st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_losers_are_those_of_a_plain_count(rng: random.Random) -> None:
    people = {f"p{n}": rng.random() < 0.8 for n in range(rng.randint(1, 5))}
    names = [f"g{n}" for n in range(rng.randint(1, 5))]
    pairs = {(g, p) for g in names for p in people if rng.random() < 0.4}
    nests = {(a, b) for a in names for b in names if rng.random() < 0.3}  # circles too

    def directory(pairs: set[tuple[str, str]], nests: set[tuple[str, str]]) -> Snapshot:
        inside = {g: [p for a, p in pairs if a == g] + [f"@{b}" for a, b in nests if a == g] for g in names}
        return a_directory(people, inside)

    def has(pairs: set[tuple[str, str]], nests: set[tuple[str, str]]) -> set[tuple[str, str]]:
        found = set(pairs)
        while more := {(a, p) for a, b in nests for g, p in found if g == b} - found:
            found |= more
        return found

    earlier = {one for one in pairs if rng.random() < 0.2}, {one for one in nests if rng.random() < 0.2}
    there = pairs - earlier[0], nests - earlier[1]
    taken = {one for one in there[0] if rng.random() < 0.4}, {one for one in there[1] if rng.random() < 0.4}
    shut = {p for p in people if rng.random() < 0.2}
    now = the_operations(
        *((Kind.USER_DEACTIVATE, p, False) for p in shut),
        *((Kind.MEMBERSHIP_REMOVE, p, g) for g, p in taken[0]),
        *((Kind.NESTING_REMOVE, b, a) for a, b in taken[1]),
    )
    known = recent(
        [(Kind.MEMBERSHIP_REMOVE.value, p, g, NOW) for g, p in earlier[0]]
        + [(Kind.NESTING_REMOVE.value, b, a, NOW) for a, b in earlier[1]]
    )
    made = impact(now, directory(*there), Policy(), recent=known)
    stay = {p for p, active in people.items() if active and p not in shut}
    after = has(there[0] - taken[0], there[1] - taken[1])
    losers = len({p for _, p in has(*there) - after} & stay)
    assert made.losers == losers
    assert made.losers_recently == (len({p for _, p in has(pairs, nests) - after} & stay) if losers else 0)


# ── groups that are left without members ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("members", "what", "least", "told"),
    [
        (["p1", "p2"], "remove", 2, True),
        (["p1"], "remove", 2, False),  # the one member of a small group moves on
        (["p1"], "remove", 1, True),
        (["p1", "p2", "p3"], "shut out", 2, False),  # who leaves must not wait because nobody is left
        (["p1", "@sub"], "remove", 2, True),
        (["p1", "off"], "remove", 2, False),
    ],
)
def test_an_emptied_group_is_one_that_people_lose_who_stay(
    members: list[str], what: str, least: int, told: bool
) -> None:
    directory = a_directory(STAFF | {"off": False}, {"red": members, "sub": ["p9"]})
    kinds = {"@sub": Kind.NESTING_REMOVE}
    now = the_operations(
        *(
            (Kind.USER_DEACTIVATE, m, False)
            if what == "shut out"
            else (kinds.get(m, Kind.MEMBERSHIP_REMOVE), m[-3:].lstrip("@"), "red")
            for m in members
            if m != "off"
        )
    )
    policy = Policy.model_validate({"approval": {"emptied_members": least}})
    made = impact(now, directory, policy)
    assert made.emptied == ("red",)
    assert made.deserted == (("red",) if told else ())


def test_a_group_emptied_one_by_one_is_emptied() -> None:
    directory = a_directory(STAFF, {"red": ["p1"]})
    now = the_operations((Kind.MEMBERSHIP_REMOVE, "p1", "red"))
    before = recent([(Kind.MEMBERSHIP_REMOVE.value, name, "red", NOW) for name in ("p2", "p3")])
    assert impact(now, directory, Policy()).deserted == ()
    assert impact(now, directory, Policy(), recent=before).deserted == ("red",)


# ── any limit, any sequence ─────────────────────────────────────────────────────────────────────


@given(st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None)
def test_no_sequence_of_small_runs_takes_more_than_the_limit_without_a_question(rng: random.Random) -> None:
    """Against a plain count of who is out, run by run: people and memberships, with returns, joiners and agreements."""
    people = {f"p{n}": True for n in range(rng.randint(2, 30))}
    pairs = {(f"g{n % 3}", name) for n, name in enumerate(people)}
    limits = {
        "user_deactivate": rng.choice([{"percent": rng.randint(0, 40)}, {"absolute": rng.randint(0, 6)}]),
        "membership_remove": rng.choice([{"percent": rng.randint(0, 40)}, {"absolute": rng.randint(0, 6)}]),
    }
    hours = rng.choice([1, 6, 24])
    policy = selection(**limits, window_hours=hours)
    removed: list[Removal] = []
    passed: dict[str, datetime] = {}
    out: dict[str, dict[Any, datetime]] = {name: {} for name in limits}  # what is gone without a question, and since
    now = NOW
    for _ in range(rng.randint(1, 15)):
        now += timedelta(minutes=rng.randint(1, 300))
        for name in people:
            if not people[name] and rng.random() < 0.1:  # returns
                people[name] = True
                out["user_deactivate"].pop(name, None)
        if rng.random() < 0.3:
            people[f"p{len(people)}"] = True
        active = [name for name in people if people[name]]
        shut = rng.sample(active, min(rng.randint(0, 3), max(len(active) - 1, 0)))
        taken = rng.sample(sorted(pairs), min(rng.randint(0, 3), len(pairs)))
        begins = now - timedelta(hours=hours)
        known = replace(recent([one for one in removed if one[3] > begins], passed), hours=hours)
        groups = {f"g{n}": [name for group, name in pairs if group == f"g{n}"] for n in range(3)}
        directory = a_directory(people, groups)
        made = the_operations(
            *((Kind.USER_DEACTIVATE, name, False) for name in shut),
            *((Kind.MEMBERSHIP_REMOVE, name, group) for group, name in taken),
        )
        verdict = judged(policy, known, directory, made, owning(len(active), len(pairs)))
        allowed = {}
        for name, had, wish in (("user_deactivate", active, shut), ("membership_remove", pairs, taken)):
            out[name] = {key: at for key, at in out[name].items() if at > begins and at > passed.get(name, begins)}
            bound = getattr(policy.limits, name).allowed(len(had) + len(out[name]))
            allowed[name] = not wish or len(wish) + len(out[name]) <= bound
        assert set(asked(verdict)) == {name for name in limits if not allowed[name]}
        if verdict.stops:
            if rng.random() < 0.5:
                continue
            passed |= dict.fromkeys((ask.limit for ask in verdict.asks), now)
        for name in shut:
            people[name] = False
            out["user_deactivate"][name] = now
            removed.append((Kind.USER_DEACTIVATE.value, name, "", now))
        for pair in taken:
            pairs.discard(pair)
            out["membership_remove"][pair] = now
            removed.append((Kind.MEMBERSHIP_REMOVE.value, pair[1], pair[0], now))


# ── what the journal remembers ──────────────────────────────────────────────────────────────────


def test_the_journal_tells_what_was_taken_away_by_any_run(store: Store) -> None:
    kinds = ("user_deactivate", "user_create", "membership_remove", "nesting_remove", "user_delete", "group_delete")
    made = operations(*kinds)
    made["name"] = [f"n{n}" for n in range(len(kinds))]
    made["before"] = ['{"active":true}', "", "", "", '{"active":false}', ""]
    first = plan(store, operations=made, about="person:p1")
    store.record(first, [(0, "done", ""), (1, "done", ""), (2, "already", ""), (3, "failed", "")], at=AT)
    store.record(first, [(4, "done", ""), (5, "undone", "")], at=AT + 2 * MINUTE)
    store.set_plan_status(first, "failed", at=AT + 2 * MINUTE)
    for other in ({"source": "other"}, {"directory": "elsewhere"}):
        number = plan(store, operations=made, **other)
        store.record(number, [(0, "done", "")], at=AT + 2 * MINUTE)
        store.set_plan_status(number, "applied", at=AT + 2 * MINUTE)
    found = store.removals("acme", "crowd", AT)
    assert found.drop(columns="at").to_numpy().tolist() == [
        ["user_deactivate", "n0", "", "", "acme", True],
        ["membership_remove", "n2", "", "", "acme", False],
        ["user_delete", "n4", "", "", "acme", False],
    ]
    assert found["at"].tolist() == [pd.Timestamp(AT), pd.Timestamp(AT), pd.Timestamp(AT + 2 * MINUTE)]
    assert store.removals("acme", "crowd", AT + MINUTE)["name"].tolist() == ["n4"]
    cut_short = plan(store, operations=made)
    store.set_plan_status(cut_short, "applying", at=AT)
    store.record(cut_short, [(0, "done", "")], at=AT + 3 * MINUTE)
    assert len(store.removals("acme", "crowd", AT + MINUTE)) == 2, "a run that was killed took it away all the same"
    assert store.removals("nobody", "crowd", AT).empty
    pending = store.removals("acme", "crowd", AT + MINUTE, pending=cut_short)
    still = ["user_delete", "user_deactivate", "membership_remove", "nesting_remove", "user_delete", "group_delete"]
    assert sorted(pending["kind"]) == sorted(still), "what it is still to take away, where it goes on"
    assert pending["at"].notna().all()


def test_the_runs_tell_which_limits_a_person_let_pass(store: Store) -> None:
    def run(name: str, at: datetime, source: str = "acme", **summary: Any) -> None:
        store.start_run(run=name, source=source, directory="crowd", mode="sync", at=at - MINUTE)
        store.finish_run(name, status="applied", summary=summary, at=at)

    run("a", AT, passed=["user_deactivate", "group_loss"])
    run("b", AT + MINUTE, passed=["user_deactivate"], plan=2)
    run("c", AT + 2 * MINUTE, plan=3)
    run("d", AT + 3 * MINUTE, "other", passed=["nesting_remove"])
    assert store.passed_limits("acme", "crowd", AT) == {"user_deactivate": AT + MINUTE, "group_loss": AT}
    assert store.passed_limits("acme", "crowd", AT + MINUTE) == {"user_deactivate": AT + MINUTE}
    assert store.passed_limits("acme", "crowd", AT + 2 * MINUTE) == {}


def test_the_last_sync_of_a_source(store: Store) -> None:
    assert store.last_sync("acme") is None
    for name, mode, status, at in (
        ("a", "sync", "applied", AT),
        ("b", "sync", "failed", AT + MINUTE),
        ("c", "preview", "planned", AT + 2 * MINUTE),
        ("d", "sync", "", AT + 3 * MINUTE),
    ):
        store.start_run(run=name, source="acme", directory="crowd", mode=mode, at=at)
        if status:
            store.finish_run(name, status=status, summary={}, at=at)
    assert store.last_sync("acme") == ("failed", AT + MINUTE)
    assert store.last_sync("beta") is None


def test_a_model_of_nobody_is_no_trouble() -> None:
    assert RecentRemovals().counts(ModelCrowd().snapshot()) == {}
    assert impact(the_operations(), Snapshot.of(), Policy(), recent=recent(SHUT)).recent == {"user_deactivate": 4}


def test_what_was_read_before_removals_is_as_they_left_it() -> None:
    """What a narrow run knows of others is older than what runs about one person took away since."""
    users = [person(key, key.title()) for key in ("ann", "bob", "cy", "dan")]
    members = [("red", key, "user") for key in ("ann", "bob", "cy", "dan")] + [("red", "blue", "group")]
    read = snapshot(users, [team("red", "Red"), team("blue", "Blue")], members)
    gone = [
        (Kind.USER_DEACTIVATE.value, "ANN", "", NOW),
        (Kind.USER_DELETE.value, "bob", "", NOW),
        (Kind.MEMBERSHIP_REMOVE.value, "Cy", "RED", NOW),
    ]
    left = as_left(read, recent(gone).removals)
    assert dict(zip(left.users["id"], left.users["active"], strict=True)) == {"ann": False, "cy": True, "dan": True}
    assert pairs(left.memberships) == {one for one in members if one[1] not in ("bob", "cy")}
    assert recent(gone).counts(left) == {"user_deactivate": 2, "user_delete": 1, "membership_remove": 1}
    assert as_left(Snapshot.of(), recent(gone).removals).digest() == Snapshot.of().digest()
    assert as_left(read, recent([]).removals).digest() == read.digest()


def test_what_was_taken_away_since_is_no_part_of_what_limits_are_per_cent_of() -> None:
    owned = {"users": 10, "active": 8, "groups": 2, "memberships": 20, "nestings": 1}
    totals = {"owned": owned, "doubts": [], "active": 30, "orphans": 0}
    own = recent([(Kind.USER_DEACTIVATE.value, "ann", "", NOW), (Kind.MEMBERSHIP_REMOVE.value, "bob", "red", NOW)])
    every = recent([(Kind.USER_DEACTIVATE.value, name, "", NOW) for name in ("ann", "cy")])
    less = totals_less(totals, own.removals, every.removals)
    assert less == {**totals, "owned": {**owned, "active": 7, "memberships": 19}, "active": 28}


# ── what a source owns follows what few runs make ────────────────────────────────────────────────


def made_of(*rows: Removal) -> pd.DataFrame:
    columns = ["kind", "name", "target", "at"]
    return pd.DataFrame(rows, columns=columns).assign(source_id=[f"id of {name}" for _, name, _, _ in rows])


def more(made: pd.DataFrame, removals: Iterable[Removal], newcomers: set[str]) -> tuple[int, int, int]:
    totals = {"owned": {"users": 5, "active": 5, "groups": 1, "memberships": 5, "nestings": 0}, "active": 9}
    own = recent(removals).removals
    counted = totals_more(totals_less(totals, own, own), made, own, newcomers)
    assert counted["active"] - 9 == counted["owned"]["active"] - 5
    return counted["owned"]["users"], counted["owned"]["active"], counted["owned"]["memberships"]


def test_who_is_new_counts_and_nobody_else() -> None:
    create, add, shut = Kind.USER_CREATE.value, Kind.MEMBERSHIP_ADD.value, Kind.USER_DEACTIVATE.value
    ann = (create, "Ann", "", NOW)
    joined = (add, "ann", "Team", NOW)
    new = {"id of Ann"}
    assert more(made_of(ann, joined), (), new) == (6, 6, 6)
    assert more(made_of(ann, ann, joined, joined), (), new) == (6, 6, 6), "once"
    assert more(made_of(ann, joined), (), set()) == (5, 5, 5), "who had an account before is counted already"
    assert more(made_of(joined), (), new) == (5, 5, 5), "and so may be what others are in"
    assert more(made_of(ann), [(shut, "ann", "", NOW + HOUR)], new) == (6, 5, 5)
    assert more(made_of(ann), [(shut, "ann", "", NOW - HOUR)], new) == (5, 4, 5), "a name that is used again"
    out = (Kind.MEMBERSHIP_REMOVE.value, "ann", "team", NOW + HOUR)
    assert more(made_of(ann, joined), [out], new)[2] == 4, "rather too few than too many"
