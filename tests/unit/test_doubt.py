"""Doubt stops what gives, and never what a clear word of the source takes away: who is let in, who stays in, and who
is told, where link and mark, names, groups and records contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from connectors.errors import IncompleteError
from connectors.model import DISABLED, ID_ATTRIBUTE, OUT_OF_SCOPE, Snapshot
from connectors.store import Store
from tasks.decide.filter import in_scope
from tasks.decide.group_entries import doubled
from tasks.decide.guard import judge
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Plan, plan
from tasks.policy import Policy
from tasks.read.confirm import FIRST, rest_of, sample_of, still_gone
from tests.support.frames import person, snapshot, team
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import SOURCE


def crowd_of(
    *users: tuple[str, str], groups: Sequence[tuple[str, str]] = (), inactive: Sequence[str] = ()
) -> ModelCrowd:
    """Crowd with users and groups by (name, mark); "" is no mark."""
    crowd = ModelCrowd()
    for name, marked in users:
        attributes = {ID_ATTRIBUTE: [marked]} if marked else {}
        crowd.add_user(name, attributes=attributes, active=name not in inactive, last_name="L", display_name="D")
    for name, marked in groups:
        crowd.add_group(name, "", marked)
    return crowd


def met(source: Snapshot, crowd: ModelCrowd, links: dict[Any, Any] | None = None, **policy: Any) -> Plan:
    """The plan, with the links {(source, kind, id): name}."""
    rules, directory = Policy.model_validate(policy), crowd.snapshot(())
    known = ModelLinks({key: (name, "created") for key, name in (links or {}).items()})
    scoped = in_scope(source, rules)
    matched = match(desired(scoped.snapshot, rules), directory, known.frame(), rules, SOURCE, source)
    return plan(matched, source, directory, rules, SOURCE, ("", ""), doubts=scoped.doubts)


def done(made: Plan) -> set[tuple[str, str, str]]:
    return set(made.operations[["kind", "name", "target"]].itertuples(index=False, name=None))


def reasons(made: Plan) -> dict[str, str]:
    return dict(zip(made.held["id"], made.held["reason"], strict=True))


def user(identity: str) -> tuple[str, str, str]:
    return SOURCE, "user", identity


# ── a link and a mark that contradict each other ────────────────────────────────────────────────────

DELETES = {"leavers": {"deleted": "delete", "disabled": "delete"}, "operations": {"user_delete": True}}


@pytest.mark.parametrize("policy", [{}, DELETES])
def test_names_exchanged_by_hand_in_crowd_touch_nobody(policy: dict[str, Any]) -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:2"), ("bob", f"{SOURCE}:1"))
    for people in ([person("1", "ann"), person("2", "bob")], [person("1", "ann")], [person("2", "bob", active=False)]):
        made = met(snapshot(people), crowd, {user("1"): "ann", user("2"): "bob"}, **policy)
        assert made.operations.empty
        for row in people:
            assert "neither is touched" in reasons(made)[row[0]]
            assert "crowdsync links make" in reasons(made)[row[0]]


def test_an_older_database_takes_no_newcomers_account() -> None:
    """Yesterday's copy says that `ann` is 1's; since then 1 was renamed, and 9 came and got the name."""
    crowd = crowd_of(("ann", f"{SOURCE}:9"), ("ann2", f"{SOURCE}:1"), ("new", f"{SOURCE}:7"), ("old", f"{SOURCE}:3"))
    people = [person("1", "ann2"), person("9", "ann"), person("7", "new", active=False)]
    made = met(snapshot(people), crowd, {user("1"): "ann", user("3"): "old"}, **DELETES)
    assert {row[1] for row in done(made)} == {"new", "old"}, "what link and mark agree on goes on"
    assert {"1", "9"} <= reasons(made).keys()
    assert made.doubts
    assert "it is older than Crowd" in made.doubts[0]
    asks = [ask.text for ask in judge(made, Policy()).asks]
    assert any(text.startswith("doubt:") for text in asks)


def test_a_database_that_was_lost_is_no_doubt() -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:1"), ("bob", f"{SOURCE}:2"))
    made = met(snapshot([person("1", "ann")]), crowd)
    assert not made.doubts
    assert ("user_deactivate", "bob", "") in done(made)


@pytest.mark.parametrize(("link", "marked"), [("other", SOURCE), (SOURCE, "other"), ("other", "third")])
def test_another_sources_account_is_nobodys_to_take(link: str, marked: str) -> None:
    crowd = crowd_of(("ann", f"{marked}:1"), groups=[("team", f"{marked}:1")])
    links = {(link, "user", "1" if marked != link else "2"): "ann", (link, "group", "1"): "team"}
    for source in (snapshot([person("1", "ann")], [team("1", "team")]), snapshot([person("5", "eve")])):
        made = met(source, crowd, links, **DELETES, matching={"users": ["id", "username"], "groups": ["id", "name"]})
        assert not {row for row in done(made) if row[1] in ("ann", "team")}


def test_whoever_has_left_and_is_in_dispute_is_told_loudly() -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:2"), ("bob", f"{SOURCE}:1"))
    people = [person("1", "ann", active=False), person("2", "bob")]
    made = met(snapshot(people), crowd, {user("1"): "ann", user("2"): "bob"})
    assert list(made.shielded["id"]) == ["1"]
    assert made.operations.empty


# ── adoption ─────────────────────────────────────────────────────────────────────────────────────────

ADOPT = {"matching": {"users": ["id", "username", "email"], "groups": ["id", "name"]}}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("key", ["username", "email"])
def test_adoption_hands_out_no_power(nested: bool, allowed: bool, key: str) -> None:
    crowd = ModelCrowd()
    boss = crowd.add_user("boss", email="boss@x.org", last_name="L", display_name="D")
    top, inner = crowd.add_group("crowd-administrators"), crowd.add_group("inner")
    crowd.nestings.add((top["key"], inner["key"]))
    crowd.memberships.add(((inner if nested else top)["key"], boss["key"]))
    newcomer = person("9", "boss" if key == "username" else "fox", "" if key == "username" else "BOSS@x.org")
    protection = {"privileged_allowed": ["crowd-administrators"]} if allowed else {}
    made = met(snapshot([newcomer]), crowd, **ADOPT, protection=protection)
    assert made.operations.empty
    assert "is in a privileged group: adoption never hands out power" in reasons(made)["9"]
    assert f"crowdsync links make {SOURCE} 9 'boss'" in reasons(made)["9"]


def test_adoption_wakes_nobody() -> None:
    crowd = crowd_of(("ann", ""), ("bob", ""), inactive=["ann", "bob"])
    made = met(snapshot([person("1", "ann"), person("2", "bob", active=False)]), crowd, **ADOPT)
    assert made.operations.empty
    assert list(reasons(made)) == ["1"], "who is disabled takes no inactive account, and needs none"
    assert "is inactive: adoption never hands out access" in reasons(made)["1"]


def test_a_plain_account_is_adopted_as_ever() -> None:
    made = met(snapshot([person("1", "ann")]), crowd_of(("ann", "")), **ADOPT)
    assert ("user_attributes", "ann", "") in done(made)


# ── groups of one name, and none ────────────────────────────────────────────────────────────────────

STAFF = {"scope": {"required_groups": ["staff"]}}


def two_staffs() -> Snapshot:
    people = [person("1", "ann"), person("2", "guest"), person("3", "out")]
    return snapshot(people, [team("g1", "staff"), team("g2", "Staff")], [("g1", "1", "user"), ("g2", "2", "user")])


@pytest.mark.parametrize("scope", [{"required_groups": ["staff"]}, {"members_only": True, "groups": ["staff"]}])
def test_a_second_group_of_the_name_lets_nobody_in(scope: dict[str, Any]) -> None:
    policy, source = Policy.model_validate({"scope": scope}), two_staffs()
    assert set(doubled(source.groups, policy)) == {"g1", "g2"}
    known = in_scope(source, policy, {"g1": 3, "g2": 7})
    assert list(known.snapshot.users["id"]) == ["1"]
    assert set(known.users_out) == {"2", "3"}
    assert "only the one that was called so first counts" in known.snapshot.warnings["reason"].iloc[0]
    unknown = in_scope(source, policy, {"g1": 7, "g2": 7})
    assert unknown.snapshot.users.empty
    assert set(unknown.snapshot.held["id"]) == {"1", "2"}, "nobody's state changes by it"
    assert set(unknown.users_out) == {"3"}, "who is in neither is out"


def test_an_id_says_which_group_is_meant() -> None:
    policy = Policy.model_validate({"scope": {"required_groups": ["id:g2"]}})
    assert list(in_scope(two_staffs(), policy).snapshot.users["id"]) == ["2"]
    assert not doubled(two_staffs().groups, Policy.model_validate({"scope": {"required_groups": ["id:g1"]}}))


def test_since_when_a_group_has_its_name(store_url: str) -> None:
    with Store.open(store_url) as store:
        for names in ({"g1": "staff", "g2": "x"}, {"g1": "STAFF"}, {"g1": "staff", "g2": "staff"}, {"g2": "staff"}):
            groups = [team(one, name) for one, name in names.items()]
            read = snapshot([person("1", "ann")], groups)
            store.save_snapshot("source:acme", read, taken_at=pd.Timestamp("2026-11-23", tz="UTC"), run="r")
        assert store.named_since("source:acme", ["g1", "g2", "none"]) == {"g1": 1, "g2": 3}


def test_an_entry_that_fits_no_group_is_told_and_asks_when_it_shuts_people_out() -> None:
    source = snapshot([person("1", "ann"), person("2", "bob")], [team("g1", "staff")], [("g1", "1", "user")])
    crowd = crowd_of(("ann", f"{SOURCE}:1"), ("bob", f"{SOURCE}:2"))
    scope = {"required_groups": ["staff", "board"], "exclude_groups": ["old-*"]}
    made = met(source, crowd, scope=scope)
    assert made.doubts == ("scope.required_groups names 'board', and no group fits it",)
    assert [ask.text.split(":")[0] for ask in judge(made, Policy()).asks].count("doubt") == 1
    useless = "scope.exclude_groups names 'old-*', and no group fits it"
    assert set(made.warnings["reason"]) == {useless, *made.doubts}, "what leaves out shuts nobody out"
    scope = {"required_groups": ["staff"], "groups": ["staff"]}
    assert not met(source, crowd, scope=scope).doubts


def test_a_group_whose_members_are_not_known_shuts_nobody_out() -> None:
    people = [person("1", "ann"), person("2", "bob"), person("3", "off", active=False)]
    held = [("group", "g2", "staff", "extract", "a member without value")]
    source = snapshot(people, [team("g1", "other")], [("g1", "1", "user")], held)
    for scope in ({"required_groups": ["staff", "other"]}, {"required_groups": ["id:g2", "other"]}):
        scoped = in_scope(source, Policy.model_validate({"scope": scope}))
        assert list(scoped.snapshot.users["id"]) == ["1"]
        assert scoped.users_out.empty
        found = scoped.snapshot.held.set_index("id")
        assert set(found.index) == {"g2", "2", "3"}
        assert found["away"].to_dict() == {"g2": "", "2": "", "3": DISABLED}


# ── doubt about the rest of a record ────────────────────────────────────────────────────────────────

LINKED = {user("1"): "ann", user("2"): "bob", user("3"): "cy"}


@pytest.mark.parametrize(("action", "kinds"), [
    ("deactivate", {"user_deactivate"}),
    ("take_groups", {"membership_remove"}),
    ("deactivate_and_take_groups", {"user_deactivate", "membership_remove"}),
    ("nothing", set()),
])  # fmt: skip
def test_a_held_leaver_leaves(action: str, kinds: set[str]) -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:1"), ("bob", f"{SOURCE}:2"), groups=[("team", f"{SOURCE}:g")])
    crowd.memberships = {(crowd.groups["team"]["key"], crowd.users[name]["key"]) for name in ("ann", "bob")}
    held = [("user", "1", "?", "extract", "no userName", DISABLED), ("user", "2", "?", "extract", "no userName", "")]
    source = snapshot([person("5", "eve")], [team("g", "team")], [("g", one, "user") for one in "12"], held)
    made = met(source, crowd, LINKED, leavers={"disabled": action}, operations={"user_create": False})
    assert {row[0] for row in done(made)} == kinds
    assert {row[1] for row in done(made)} <= {"ann"}, "of the other one nothing is known"
    assert made.shielded.empty
    assert set(reasons(made)) == {"1", "2"}, "held all the same: nothing else is changed"
    assert list(made.leavers["id"]) == ["1"], "the clock runs"


def test_a_held_person_who_is_out_of_scope_for_certain_leaves() -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:1"), ("bob", f"{SOURCE}:2"))
    held = [("user", one, "?", "extract", "no userName", "") for one in "12"]
    source = snapshot([person("5", "eve")], [team("g", "staff")], [("g", "5", "user"), ("g", "2", "user")], held)
    made = met(source, crowd, LINKED, **STAFF)
    assert {row[:2] for row in done(made)} >= {("user_deactivate", "ann")}
    assert "bob" not in {row[1] for row in done(made)}
    assert dict(zip(made.held["id"], made.held["away"], strict=True)) == {"1": OUT_OF_SCOPE, "2": ""}


def test_the_disabled_keep_their_name() -> None:
    crowd = crowd_of(("ralf", f"{SOURCE}:1"))
    made = met(snapshot([person("1", "283405f5.ralf", active=False)]), crowd, {user("1"): "ralf"})
    assert {row[0] for row in done(made)} == {"user_deactivate"}


# ── newcomers and owners ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["Ann", "аnn", "ａnn"])
def test_a_newcomer_freezes_nobody_who_is_there(name: str) -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:1"), ("bob", f"{SOURCE}:2"))
    policy = {"usernames": {"normalise": "none"}}
    for active, kind in ((True, "user_update"), (False, "user_deactivate")):
        people = [person("1", "ann", "ann@new.org", active=active), person("9", name, active=True)]
        made = met(snapshot(people), crowd, LINKED, **policy)
        assert (kind, "ann") in {row[:2] for row in done(made)}, "the owner goes on"
        assert set(reasons(made)) == {"9"}


def test_a_disabled_record_without_an_account_takes_no_part() -> None:
    people = [person("1", "ann"), person("9", "Ann", active=False)]
    made = met(snapshot(people), ModelCrowd())
    assert {row[:2] for row in done(made)} == {("user_create", "ann")}
    assert made.held.empty


def test_groups_that_only_look_alike_are_said_to_and_stop_no_owner() -> None:
    crowd = crowd_of(groups=[("HR Admins Team", f"{SOURCE}:g1")])
    source = snapshot([person("1", "ann")], [team("g1", "HR Admins Team", "new"), team("g2", "HRAdminsTeam")])
    made = met(source, crowd, protection={"privileged_groups": ["x"]})
    assert ("group_update", "HR Admins Team", "") in done(made)
    assert "looks like 'HR Admins Team', though Crowd keeps them apart" in reasons(made)["g2"]
    crowd = crowd_of(groups=[("HR Admins Team", f"{SOURCE}:g1"), ("HRAdminsTeam", f"{SOURCE}:g2")])
    assert met(source, crowd, protection={"privileged_groups": ["x"]}).held.empty


# ── groups made again, and renamed ──────────────────────────────────────────────────────────────────


def test_a_group_made_again_takes_over_without_being_emptied() -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:1"), ("bob", f"{SOURCE}:2"), groups=[("team", f"{SOURCE}:old")])
    crowd.memberships = {(crowd.groups["team"]["key"], crowd.users[name]["key"]) for name in ("ann", "bob")}
    people, members = [person("1", "ann"), person("2", "bob")], [("new", one, "user") for one in "12"]
    links = {**LINKED, (SOURCE, "group", "old"): "team"}
    made = met(snapshot(people, [team("new", "Team")], members), crowd, links)
    assert {row[0] for row in done(made) if row[0] != "user_update"} == {"group_attributes"}
    assert ("group", "old") in set(zip(made.gone["kind"], made.gone["id"], strict=True)), "asked for by key first"
    for source in (
        snapshot(people, [team("new", "team"), team("new2", "Team")], members),  # which of them?
        snapshot(people, [team("new", "team"), team("old", "renamed")], members),  # it is there
        snapshot(people, [team("new", "team")], members, [("group", "old", "team", "extract", "broken")]),
    ):
        made = met(source, crowd, links)
        assert "new" in reasons(made)
        assert not made.operations["source_id"].eq("new").any()


def test_a_name_that_belongs_to_somebody_else_is_told_with_the_way_out() -> None:
    crowd = crowd_of(("ann", f"{SOURCE}:1"), groups=[("team", f"{SOURCE}:g1")])
    source = snapshot([person("9", "ann")], [team("g1", "was team"), team("g2", "team")])
    made = met(source, crowd, {user("1"): "ann"})
    told = reasons(made)
    assert "belongs to 1, which is gone from the source" in told["9"]
    assert f"crowdsync links hand-over {SOURCE} 1 9 --kind user" in told["9"]
    assert "belongs to g1, which is 'was team' in the source" in told["g2"]
    assert f"crowdsync links hand-over {SOURCE} g1 g2 --kind group" in told["g2"]
    assert "is still called 'team' in Crowd" in made.warnings["reason"].iloc[0]


# ── asking by key ───────────────────────────────────────────────────────────────────────────────────


class Answers:
    """A source that has these."""

    name = "acme"

    def __init__(self, *there: str) -> None:
        self.there, self.asked = set(there), list[str]()

    async def has_user(self, identity: str) -> bool:
        self.asked.append(identity)
        return identity in self.there

    has_group = has_user


async def test_whoever_a_list_lost_is_asked_for_by_key() -> None:
    gone = pd.DataFrame({"kind": ["user", "group", "user"], "id": ["1", "g", "3"]})
    source = Answers("5")
    await still_gone(source, gone)  # type: ignore[arg-type]
    assert sorted(source.asked) == ["1", "3", "g"]
    with pytest.raises(IncompleteError, match="the group g was not in the list, and is there"):
        await still_gone(Answers("g"), gone)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, FIRST, FIRST + 1, 5 * FIRST - 3])
def test_all_are_asked_for_once(count: int) -> None:
    gone = pd.DataFrame({"kind": "user", "id": [str(n) for n in range(count)]})
    first, others = sample_of(gone), rest_of(gone)
    assert len(first) <= FIRST
    assert sorted([*first["id"], *others["id"]]) == sorted(gone["id"])
