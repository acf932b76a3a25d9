"""Limits: for every size of directory and every number of leavers, and the plans that are never executed."""

from __future__ import annotations

from dataclasses import replace
from math import floor
from typing import Any

import pandas as pd
import pytest

from connectors.model import Snapshot, held_frame
from connectors.operations import Kind
from connectors.operations import kinds as operation_kinds
from tasks.decide.guard import WAY, Finding, Verdict, judge
from tasks.decide.impact import Impact, Unusual, impact
from tasks.decide.plan import Owned, Plan
from tasks.policy import Approval, Policy
from tests.support.long import long_after
from tests.support.worlds import company, planned

LARGEST = 200
SIZES = (0, 1, 2, 3, 5, 9, 10, 11, 19, 20, 21, 40, 99, LARGEST)
"""Of companies that are planned as a whole."""
LIMITED: dict[str, tuple[Kind, str]] = {
    "user_create": (Kind.USER_CREATE, "users"),
    "user_update": (Kind.USER_UPDATE, "users"),
    "user_rename": (Kind.USER_RENAME, "users"),
    "user_deactivate": (Kind.USER_DEACTIVATE, "active"),
    "user_delete": (Kind.USER_DELETE, "users"),
    "group_create": (Kind.GROUP_CREATE, "groups"),
    "group_delete": (Kind.GROUP_DELETE, "groups"),
    "membership_add": (Kind.MEMBERSHIP_ADD, "memberships"),
    "membership_remove": (Kind.MEMBERSHIP_REMOVE, "memberships"),
    "nesting_remove": (Kind.NESTING_REMOVE, "nestings"),
}


def a_plan(counts: dict[Kind, int], owned: Owned) -> Plan:
    kinds = [kind.value for kind, count in counts.items() for _ in range(count)]
    nothing = pd.DataFrame()
    was = ['{"active":true}'] * len(kinds)
    operations = pd.DataFrame({"kind": pd.array(kinds, dtype="str"), "before": pd.array(was, dtype="str")})
    operations["shuts_out"] = operations["kind"].isin(operation_kinds(shuts_out=True))
    return Plan(operations, held_frame(), {}, nothing, nothing, nothing, nothing, owned, "")


def never_asking(policy: Policy) -> Policy:
    return policy.model_copy(update={"approval": Approval(when="never", dangers=policy.approval.dangers)})


def owning(number: int) -> Owned:
    return Owned(number, number, number, number, number)


def test_every_size_and_every_number_of_leavers(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy()
    percent = policy.limits.user_deactivate.percent
    assert percent is not None
    everybody = a_plan({Kind.USER_DEACTIVATE: LARGEST}, owning(LARGEST))
    # The same two hundred plans come twenty thousand times: each is counted once.
    plans = [replace(everybody, operations=everybody.operations.iloc[:n]) for n in range(LARGEST + 1)]
    counts = [made.counts() for made in plans]
    shut_out = [made.shut_out() for made in plans]
    assert shut_out == list(range(LARGEST + 1))
    assert counts[:2] == [{}, {"user_deactivate": 1}]
    assert counts[-1] == {"user_deactivate": LARGEST}
    monkeypatch.setattr(Plan, "counts", lambda self: counts[len(self.operations)])
    monkeypatch.setattr(Plan, "shut_out", lambda self: shut_out[len(self.operations)])
    cases = refused = 0
    for users in range(LARGEST + 1):
        for leavers in range(users + 1):
            made = replace(plans[leavers], owned=owning(users))
            verdict, forced = judge(made, policy), judge(made, policy, force=True)
            most = floor(users * percent / 100)
            everybody_out = leavers == users > 0
            assert bool(verdict.stops) == (leavers > most), (users, leavers)
            assert bool(verdict.asks) == bool(forced.forced) == (leavers > most), (users, leavers)
            assert bool(verdict.refusals) == bool(forced.stops) == everybody_out, (users, leavers)
            cases, refused = cases + 1, refused + bool(verdict.stops)
    print(f"{cases:,} directories of 0 to {LARGEST} users with every number of leavers: {refused:,} refused")


@pytest.mark.parametrize(
    ("action", "sizes"),
    long_after(1, [("deactivate", (0, 1, 2, 9, 10, 11, 40)), ("deactivate", SIZES), ("delete", SIZES)]),
    ids=str,
)
def test_the_whole_plan_is_what_is_judged(action: str, sizes: tuple[int, ...]) -> None:
    policy = Policy.model_validate({"leavers": {"deleted": action}, "operations": {"user_delete": action == "delete"}})
    limit = policy.limits.user_deactivate if action == "deactivate" else policy.limits.user_delete
    cases = 0
    for people in sizes:
        most = limit.allowed(people) or 0
        for leavers in sorted({0, 1, most, most + 1, people - 1, people} & set(range(people + 1))):
            world = company(people, leavers)
            made = planned(world.source(), world.crowd, world.links, policy)
            counts = made.counts()
            assert counts.get(f"user_{action}", 0) == leavers
            verdict, forced = judge(made, policy), judge(made, policy, force=True)
            strict = judge(made, never_asking(policy))
            assert bool(verdict.stops) == bool(strict.refusals) == (leavers > most)
            assert bool(forced.stops) == (leavers == people > 0)
            if leavers > most and leavers < people:
                line = next(ask.text for ask in verdict.asks if ask.text.startswith(f"user_{action}:"))
                assert f"{leavers} of {people}" in line
                assert f"more than the {most}" in line
                assert verdict.refusals == ()
                assert f"{line}; {WAY}" in strict.refusals
                assert line in forced.forced
                assert f"user_{action}: {leavers} of {people}" in "; ".join(verdict.stops)
                assert not forced.stops
            cases += 1
    print(f"{cases} planned companies, {action}")


@pytest.mark.parametrize("name", long_after(3, LIMITED))
@pytest.mark.parametrize("limit", [{"absolute": 3}, {"percent": 10}, {"absolute": 3, "percent": 10}, {"absolute": 0}])
def test_each_limit_bounds_its_own_kind(name: str, limit: dict[str, Any]) -> None:
    kind, _ = LIMITED[name]
    policy = Policy.model_validate({"limits": {**{one: {} for one in LIMITED}, name: limit}})
    for base in (0, 5, 10, 29, 30, 31, 200):
        bounds = [limit[key] if key == "absolute" else floor(base * limit[key] / 100) for key in limit]
        for count in {0, *range(max(min(bounds) - 1, 0), min(bounds) + 3), base}:
            made = a_plan({kind: count}, owning(base))
            verdict = judge(made, policy)
            over = [ask for ask in verdict.asks if ask.text.startswith(f"{name}:")]
            assert bool(over) == (count > min(bounds)), (base, count)
            assert (f"limits.{name}" in over[0].text and kind in over[0].kinds) if over else True
            strict = judge(made, never_asking(policy))
            assert [line for line in strict.refusals if line.startswith(f"{name}:")] == [
                f"{o.text}; {WAY}" for o in over
            ]
        other = next(
            k for n, (k, _) in LIMITED.items() if n != name and not {name, n} <= {"user_deactivate", "user_delete"}
        )
        assert not [one for one in judge(a_plan({other: base + 2}, owning(base)), policy).stops if name in one]


def test_deactivations_and_deletions_count_together() -> None:
    policy = Policy.model_validate({"limits": {"user_deactivate": {"absolute": 5}, "user_delete": {}}})
    made = a_plan({Kind.USER_DEACTIVATE: 3, Kind.USER_DELETE: 3}, owning(100))
    verdict = judge(made, policy)
    assert verdict.stops == (
        "user_deactivate: 6 of 100 active owned accounts is more than the 5 that limits.user_deactivate (5) allows",
    )
    assert verdict.asks[0].kinds == verdict.dangerous == (Kind.USER_DEACTIVATE, Kind.USER_DELETE)
    assert judge(made, policy, force=True) == Verdict(forced=verdict.stops)


@pytest.mark.parametrize("inactive", [0, 1, 4, 5, 6, 50])
def test_accounts_that_nobody_can_use_are_deleted_and_nobody_is_shut_out(inactive: int) -> None:
    """Their deletion takes nobody's access away, however many they are; limits still hold."""
    operations = {"leavers": {"deleted": "delete"}, "operations": {"user_delete": True}}
    unlimited = Policy.model_validate({**operations, "limits": {"user_deactivate": {}, "user_delete": {}}})
    world = company(5 + inactive, inactive)
    for number in range(inactive):
        world.crowd.users[f"u{number}"]["active"] = False
    made = planned(world.source(), world.crowd, world.links, unlimited)
    assert made.counts() == ({"user_delete": inactive} if inactive else {})
    assert (made.owned.users, made.owned.active) == (5 + inactive, 5)
    assert judge(made, unlimited) == Verdict()
    limited = judge(made, Policy.model_validate(operations))
    assert bool(limited.asks) == bool(inactive)
    assert limited.refusals == ()
    assert judge(made, Policy.model_validate(operations), force=True).stops == ()


def test_everybody_who_can_log_in_is_deleted_among_many_who_cannot() -> None:
    """Thirty accounts are deleted and ten stay; the ten are inactive, so nobody could log in."""
    policy = Policy.model_validate(
        {
            "leavers": {"deleted": "delete"},
            "operations": {"user_delete": True},
            "limits": {"user_deactivate": {}, "user_delete": {}},
        }
    )
    world = company(40, 30)
    for number in range(20, 40):
        world.crowd.users[f"u{number}"]["active"] = False
    world.users = [(*user[:6], False, user[7]) for user in world.users]
    made = planned(world.source(), world.crowd, world.links, policy)
    assert made.counts() == {"user_delete": 30}
    for mode in ("above_limits", "always", "never"):
        of_mode = policy.model_copy(update={"approval": Approval(when=mode)})
        for force in (True, False):
            refusals = judge(made, of_mode, force=force).refusals
            assert [line for line in refusals if "shuts out all 20 active accounts" in line] == [refusals[0]]


@pytest.mark.parametrize("comers", [0, 1, 50])
def test_everybody_out_is_refused_also_where_others_come(comers: int) -> None:
    made = a_plan({Kind.USER_DEACTIVATE: 50, Kind.USER_CREATE: comers}, owning(50))
    for mode in ("above_limits", "always", "never"):
        policy = Policy.model_validate({"limits": {"user_deactivate": {}}, "approval": {"when": mode}})
        verdict = judge(made, policy, force=True)
        assert len(verdict.refusals) == 1
        assert "all 50 active accounts" in verdict.refusals[0]
        assert verdict.refusals == judge(made, policy).refusals, "no agreement lifts it"


@pytest.mark.parametrize("mode", ["above_limits", "always", "never"])
def test_all_accounts_deleted_is_refused_in_every_mode(mode: str) -> None:
    """Nobody of them could log in, so that nobody is shut out; but nothing would be left."""
    policy = Policy.model_validate({"limits": {"user_delete": {}}, "approval": {"when": mode, "dangers": []}})
    made = a_plan({Kind.USER_DELETE: 4}, Owned(4, 0, 0, 0, 0))
    made.operations["before"], made.operations["shuts_out"] = '{"active":false}', False
    line = "the plan deletes all 4 accounts that this source owns; this is never done"
    assert judge(made, policy, force=True) == Verdict((line,))
    assert judge(made, policy).refusals == (line,)


@pytest.mark.parametrize("mode", ["above_limits", "always", "never"])
def test_nothing_to_do_is_never_refused(mode: str) -> None:
    policy = Policy.model_validate({"approval": {"when": mode}})
    for force in (False, True):
        assert judge(a_plan({}, owning(0)), policy, force=force) == Verdict()


# ── what agreement, refusal and force make of the same finding ──────────────────────────────────

ABOVE = "user_deactivate: 30 of 100 active owned accounts is more than the 10 that limits.user_deactivate (10 %) allows"


@pytest.mark.parametrize(
    ("mode", "force", "expected"),
    [
        ("above_limits", False, Verdict(asks=(Finding(ABOVE, (Kind.USER_DEACTIVATE, Kind.USER_DELETE)),))),
        ("always", False, Verdict(asks=(Finding(ABOVE, (Kind.USER_DEACTIVATE, Kind.USER_DELETE)),))),
        ("never", False, Verdict((f"{ABOVE}; {WAY}",))),
        ("above_limits", True, Verdict(forced=(ABOVE,))),
        ("always", True, Verdict(forced=(ABOVE,))),
        ("never", True, Verdict(forced=(ABOVE,))),
    ],
)
def test_a_plan_above_a_limit(mode: str, force: bool, expected: Verdict) -> None:
    made = a_plan({Kind.USER_DEACTIVATE: 30}, owning(100))
    verdict = judge(made, Policy.model_validate({"approval": {"when": mode}}), force=force)
    assert verdict == expected
    if force:
        assert not verdict.stops
        return
    (stop,) = verdict.stops
    assert "limits.user_deactivate" in stop
    assert ("approve it, raise the limit, or run with --force" in stop) == (mode == "never")


def test_always_asks_for_a_harmless_plan_too_and_names_what_takes_away() -> None:
    made = a_plan({Kind.USER_CREATE: 1, Kind.MEMBERSHIP_ADD: 2, Kind.MEMBERSHIP_REMOVE: 3}, owning(100))
    policy = Policy.model_validate({"approval": {"when": "always"}})
    assert judge(made, Policy()) == judge(made, never_asking(Policy())) == judge(made, policy, force=True) == Verdict()
    text = "approval.when is 'always': every plan needs agreement"
    assert judge(made, policy) == Verdict(asks=(Finding(text, (Kind.MEMBERSHIP_REMOVE,)),))
    assert judge(made, policy).asks[0].covers == tuple(Kind), "agreement is to the whole plan"


def test_everything_that_stands_against_a_plan_is_told_at_once() -> None:
    made = a_plan({Kind.USER_DEACTIVATE: 9, Kind.USER_RENAME: 9, Kind.MEMBERSHIP_REMOVE: 9}, owning(9))
    verdict = judge(made, Policy())
    assert [line.split(":")[0] for line in verdict.stops] == [
        "the plan shuts out all 9 active accounts that this source owns; this is never done, forced or not",
        "user_rename",
        "user_deactivate",
        "membership_remove",
    ]
    assert set(verdict.dangerous) == {*made.operations["kind"], "user_delete"}


def test_what_is_never_done_is_told_from_what_somebody_could_agree_to() -> None:
    all_of_them = a_plan({Kind.USER_DEACTIVATE: 9}, owning(9))
    some = a_plan({Kind.USER_DEACTIVATE: 8}, owning(9))
    for when in ("above_limits", "always", "never"):
        policy = Policy.model_validate({"approval": {"when": when}})
        assert (judge(all_of_them, policy).never, judge(some, policy).never) == (True, False)
        assert [one.questions for one in judge(some, policy).found] == [("limits.user_deactivate",)]
    assert judge(all_of_them, Policy(), force=True).never


# ── what a run does to single groups, to seats, and compared with the runs before ───────────────


def the_radius(**changed: Any) -> Impact:
    """The blast radius of a plan that does nothing to anybody, but for what is given."""
    nothing = impact(pd.DataFrame({name: pd.array([], dtype="str") for name in OPERATION}), Snapshot.of(), Policy())
    return replace(nothing, **changed)


OPERATION = ("kind", "name", "target", "source_id", "record", "before", "reason")
ONE_CHANGE = {Kind.MEMBERSHIP_ADD: 1}


def group_changes(**groups: tuple[int, int, int]) -> pd.DataFrame:
    rows = [(name, *numbers) for name, numbers in groups.items()]
    return pd.DataFrame(rows, columns=["group", "members_before", "added", "removed"])


@pytest.mark.parametrize(("side", "kind"), [("add", Kind.MEMBERSHIP_ADD), ("remove", Kind.MEMBERSHIP_REMOVE)])
def test_the_limit_of_one_group(side: str, kind: Kind) -> None:
    name = f"group_membership_{side}"

    def asked(limit: dict[str, Any], **groups: tuple[int, int, int]) -> tuple[Finding, ...]:
        policy = Policy.model_validate({"limits": {name: limit}})
        return judge(a_plan(ONE_CHANGE, owning(100)), policy, the_radius(group_changes=group_changes(**groups))).asks

    def of(before: int, count: int) -> tuple[int, int, int]:
        return (before, count, 0) if side == "add" else (before, 0, count)

    assert asked({}, staff=of(3, 1000)) == (), "no limit by default"
    assert asked({"absolute": 3}, staff=of(9, 3), crew=of(0, 3)) == ()
    text = f"{name}: 4 of 9 members of 'staff' is more than the 3 that limits.{name} (3) allows"
    assert asked({"absolute": 3}, staff=of(9, 4), crew=of(9, 3)) == (Finding(text, (kind,)),)
    text = f"{name}: 7 of 10 members of 'crew' is more than the 2 that limits.{name} (20 %) allows, and 1 more groups"
    found = asked({"percent": 20}, staff=of(9, 3), crew=of(10, 7), quiet=of(50, 10))
    assert found == (Finding(text, (kind,)),)
    assert (found[0].questions, found[0].covers) == ((f"limits.{name} of staff", f"limits.{name} of crew"), None)
    other = (9, 0, 4) if side == "add" else (9, 4, 0)
    assert asked({"absolute": 3}, staff=other) == (), "the other direction has a limit of its own"
    assert asked({"absolute": 3}) == ()


@pytest.mark.parametrize(
    ("before", "after", "seats", "asked"),
    [
        (4, 5, 5, False),
        (4, 6, 5, True),
        (9, 9, 5, False),  # as before: this plan takes none
        (9, 8, 5, False),
        (9, 10, 5, True),
        (None, None, 5, False),
        (4, 600, None, False),
    ],
)
def test_the_limit_of_seats(before: int | None, after: int | None, seats: int | None, asked: bool) -> None:
    policy = Policy.model_validate({"limits": {"seat_groups": ["staff"], "seats": seats}})
    made = a_plan(ONE_CHANGE, owning(100))
    verdict = judge(made, policy, the_radius(seats_before=before, seats_after=after))
    text = (
        f"seats: {after} active people in seat_groups afterwards ({before} now) are more than the {seats} that "
        "limits.seats allows"
    )
    kinds = (Kind.USER_CREATE, Kind.USER_ACTIVATE, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD)
    assert verdict == (Verdict(asks=(Finding(text, kinds),)) if asked else Verdict())
    assert [(one.questions, one.covers) for one in verdict.asks] == [((f"limits.seats: {after}",), ())] * asked


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ("people shut out", (Kind.USER_DEACTIVATE, Kind.USER_DELETE)),
        ("memberships taken away", (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE)),
    ],
)
def test_what_is_unusual_is_asked(what: str, kinds: tuple[Kind, ...]) -> None:
    radius = the_radius(unusual=(Unusual(what, 60, 5, 12),))
    verdict = judge(a_plan(ONE_CHANGE, owning(100)), Policy(), radius)
    text = f"unusual: {what}: 60, at most 5 in the 12 runs before (limits.unusual_times)"
    assert verdict == Verdict(asks=(Finding(text, kinds),))


# ── dangers ─────────────────────────────────────────────────────────────────────────────────────

POWER = pd.DataFrame([("admins", "ann", "gains"), ("admins", "bob", "loses")], columns=["group", "who", "what"])
DANGERS: dict[str, tuple[dict[Kind, int], dict[str, Any], str]] = {
    "last_administrator": (ONE_CHANGE, {"administrators_lost": ("admins",)}, "the last active member leaves 'admins'"),
    "deletions": (
        {Kind.USER_DELETE: 2, Kind.GROUP_DELETE: 1},
        {},
        "2 accounts and 1 groups are deleted",
    ),
    "privileged": (ONE_CHANGE, {"privileged": POWER}, "2 changes in 'admins'"),
    "emptied_groups": (
        ONE_CHANGE,
        {"emptied": tuple("abcdefgh"), "deserted": tuple("abcdefg")},
        "7 groups are left without members: 'a', 'b', 'c', 'd', 'e' and 2 more",
    ),
}


QUESTIONS: dict[str, tuple[list[str], tuple[Kind, ...] | None]] = {
    "last_administrator": (["admins"], ()),
    "deletions": ([], None),
    "privileged": (["ann gains admins", "bob loses admins"], ()),
    "emptied_groups": ([*"abcdefg"], ()),
}
"""What each danger asks, and the kinds of operation that agreement is confined to."""


@pytest.mark.parametrize("danger", DANGERS)
def test_each_danger_is_asked_where_the_policy_names_it(danger: str) -> None:
    counts, changed, text = DANGERS[danger]
    made, radius = a_plan(counts, owning(100)), the_radius(**changed)

    def judged(dangers: list[str], when: str = "above_limits", *, force: bool = False) -> Verdict:
        limits: dict[str, Any] = {"user_deactivate": {}, "user_delete": {}, "group_delete": {}}
        return judge(
            made,
            Policy.model_validate({"approval": {"dangers": dangers, "when": when}, "limits": limits}),
            radius,
            force=force,
        )

    line = f"{danger}: {text} (approval.dangers)"
    assert judged([danger]).stops == (line,)
    assert judged([danger]).asks[0].kinds
    questions, covers = QUESTIONS[danger]
    found = judged([danger]).asks[0]
    assert (found.questions, found.covers) == (tuple(f"{danger}: {one}" for one in questions) or (danger,), covers)
    assert judged([danger], "never").refusals == (f"{line}; {WAY}",)
    assert judged([danger], force=True) == Verdict(forced=(line,))
    assert judged([one for one in DANGERS if one != danger]) == Verdict()
    quiet = judge(a_plan(ONE_CHANGE, owning(100)), Policy.model_validate({"approval": {"dangers": [*DANGERS]}}))
    assert quiet == Verdict()


def test_the_last_administrator_and_emptied_groups_are_asked_about_by_default() -> None:
    assert Policy().approval.dangers == ("last_administrator", "emptied_groups")
    radius = the_radius(administrators_lost=("admins",))
    assert len(judge(a_plan(ONE_CHANGE, owning(100)), Policy(), radius).asks) == 1


@pytest.mark.parametrize("danger", DANGERS)
def test_without_the_kinds_that_are_asked_about_nothing_is_asked(danger: str) -> None:
    """So is planned again where a person approves without the dangerous part."""
    policy = Policy.model_validate({"approval": {"dangers": [danger], "when": "always"}})
    counts, changed, _ = DANGERS[danger]
    verdict = judge(a_plan(counts, owning(100)), policy, the_radius(**changed))
    without = policy.without(verdict.dangerous)
    assert not [kind for kind in verdict.dangerous if without.operations.allows(kind)]
    assert without.approval.when == "above_limits", "what is left is not asked about again"
    assert judge(a_plan({}, owning(100)), without, the_radius()) == Verdict()
