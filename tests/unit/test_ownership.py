"""Ownership changed by hand, as pure tables: who pairs with whom, what speaks against it, and the operations of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pandas as pd
import pytest

from connectors.errors import ConfigurationError, RefusedError
from connectors.model import (
    ID_ATTRIBUTE,
    Snapshot,
    attributes_text,
    groups_frame,
    held_frame,
    memberships_frame,
    users_frame,
)
from tasks.decide.names import fold
from tasks.decide.ownership import (
    BY_HAND,
    ByHand,
    Pairing,
    Wanted,
    abandoned,
    crowd_records,
    cut,
    ended_links,
    hand_over,
    made_links,
    make,
    moves,
    of_link_alone,
    operations,
    pair,
    wanted,
)
from tasks.decide.selection import Selection
from tasks.policy import Policy

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WORLDS = 15
NAMES = [
    first + last for first in ("ann", "bob", "cy", "straße", "gil") for last in ("", ".k", ".m", "\u200b", "2", "3")
]


def marked(mark: str) -> str:
    return attributes_text({ID_ATTRIBUTE: [mark]} if mark else {})


def account(name: str, mark: str = "", email: str = "", active: bool = True) -> tuple[Any, ...]:
    return (name.lower(), name, email, "F", "L", "D", active, marked(mark))


def team(name: str, mark: str = "") -> tuple[str, str, str, str]:
    return (name.lower(), name, "", marked(mark))


def person(key: str, name: str, email: str = "", active: bool = True) -> tuple[Any, ...]:
    return (key, name, email, "F", "L", "D", active, "{}")


def crowd(
    users: Sequence[Any] = (),
    groups: Sequence[Any] = (),
    members: Sequence[Any] = (),
    unread: Sequence[tuple[str, str]] = (),
) -> Snapshot:
    """`unread`: kind and name of what Crowd has and cannot be read."""
    held = held_frame((kind, name.lower(), name, "read", "name is not text") for kind, name in unread)
    return Snapshot.of(users_frame(users), groups_frame(groups), memberships_frame(members), held)


def links(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """source, kind, id, name"""
    return pd.DataFrame(rows, columns=["source", "kind", "id", "name"], dtype="str").assign(how="created", made_at=AT)


def seen(people: Sequence[Any], groups: Sequence[Any] = (), policy: Policy | None = None) -> Wanted:
    return wanted("new", AT, crowd(people, groups), policy or Policy())


def paired(found: Pairing) -> dict[str, str]:
    return dict(zip(found.pairs["was"], found.pairs["owner"], strict=True))


def left(found: Pairing) -> dict[str, str]:
    return dict(zip(found.left_out["owner"], found.left_out["reason"], strict=True))


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────


def address(rng: random.Random, name: str) -> str:
    """One's own, in any case, of any domain; or another's, or none."""
    own = f"{name.lower()}@{rng.choice('xxxxy')}"
    return rng.choice([own, own, own, own.upper(), own, f"{rng.choice(NAMES)}@x", ""])


def world(rng: random.Random) -> tuple[Snapshot, pd.DataFrame, list[Any]]:
    """Crowd with accounts of the old source and of others, links for most of them, and the new source's people."""
    taken: set[str] = set()
    users, ties, unread = [], [], []
    for number, name in enumerate(rng.sample(NAMES, rng.randint(10, 25))):
        name = rng.choice([name, name, name.upper()])
        if name.lower() in taken:
            continue
        taken.add(name.lower())
        owner = rng.choice(["old:"] * 5 + ["new:", "other:", ""])
        owner += str(number) if owner else ""
        mark = owner if rng.random() < 0.85 else rng.choice(["", "old:99", f"old:{number + 1}", "new:1"])
        if rng.random() < 0.1:
            unread.append(("user", name))
        else:
            users.append(account(name, mark, address(rng, name), rng.random() < 0.8))
        if owner and rng.random() < 0.7:
            source, _, key = owner.partition(":")
            ties.append((source, "user", key, name))
    people = []
    for number in range(rng.randint(10, 25)):
        name = rng.choice(NAMES)
        people.append(person(str(number), rng.choice([name, name.title()]), address(rng, name), rng.random() < 0.8))
    return crowd(users, unread=unread), links(*ties), people


def expected(directory: Snapshot, ties: pd.DataFrame, theirs: Wanted, by: str) -> dict[str, str]:
    """What may be paired, said person by person, of what `wanted` leaves over."""
    rows = directory.users.to_dict("records")
    marks = {row["id"]: orjson.loads(row["attributes"]).get(ID_ATTRIBUTE, [""])[0] for row in rows}
    linked = {tie["name"].lower(): f"{tie['source']}:{tie['id']}" for tie in ties.to_dict("records")}
    owner = {key: linked.get(key) or mark for key, mark in marks.items()}
    alone = Counter(mark for key, mark in marks.items() if key not in linked)
    people = theirs.people.to_dict("records")
    names = sorted({p["name"] for p in people})
    folded = dict(zip(names, fold(names), strict=True))
    found = {}
    for row in rows:
        key = row["id"]
        if not owner[key].startswith("old:"):
            continue
        if key in linked and marks[key] not in ("", linked[key]):
            continue  # its link and its mark disagree
        if key not in linked and (alone[marks[key]] > 1 or marks[key] in linked.values()):
            continue  # a copied mark
        if by == "username":
            same = [p for p in people if p["name"].lower() == key]
            if len(same) != 1 or sum(folded[p["name"]] == folded[same[0]["name"]] for p in people) > 1:
                continue
        else:
            mail = row["email"].lower()
            if not mail or sum(other["email"].lower() == mail for other in rows) > 1:
                continue
            same = [p for p in people if p["email"].lower() == mail]
            if len(same) != 1:
                continue
        one = same[0]
        gets = f"new:{one['id']}"
        if gets in (*owner.values(), *marks.values(), *linked.values()):
            continue  # it has an account
        if not row["active"] and one["active"]:
            continue  # somebody may have left
        local, other = (mail.lower().partition("@")[0] for mail in (row["email"], one["email"]))
        if local and other and local != other:
            continue
        found[owner[key]] = gets
    return found


def test_pairs_are_unique_on_both_sides_or_left_out() -> None:
    rng, total = random.Random(7), Counter[str]()
    for _ in range(WORLDS):
        directory, ties, people = world(rng)
        theirs = seen(people)
        records = crowd_records(directory, ties, Policy())
        mine = records[records["owner"].str.startswith("old:")]
        for by in ("username", "email"):
            found = pair(records, ties, theirs, "old", by, ("user",))
            assert paired(found) == expected(directory, ties, theirs, by)
            assert found.pairs["owner"].is_unique
            assert found.pairs["name"].is_unique
            assert set(mine["name"]) == set(found.pairs["name"]) | set(found.left_out["name"]), "nobody is passed over"
            assert (found.left_out["reason"] != "").all()
            assert found.left_out["name"].is_unique, "nobody is told of twice, nor called gone who cannot be read"
            total[by] += len(found.pairs)
    assert min(total.values()) > WORLDS / 2, f"the worlds have pairs at all: {total}"


def of(directory: Snapshot, theirs: Wanted, by: Any = "username", ties: pd.DataFrame | None = None) -> Pairing:
    known = links() if ties is None else ties
    return pair(crowd_records(directory, known, Policy()), known, theirs, "old", by)


@pytest.mark.parametrize(
    ("account_", "person_", "why"),
    [
        (account("admin", "old:1"), person("a", "admin"), "is protected"),
        (account("ann", "old:1"), person("a", "bea"), "new wants nobody with this username in Crowd"),
        (account("ann", "old:1", active=False), person("a", "ann"), "the account is inactive"),
        (account("ann", "old:1", "ann@x"), person("a", "ann", "bea@x"), "another e-mail address in new"),
        (account("root", "old:1"), person("a", "root"), "has the power of 'jira-administrators'"),
    ],
)
def test_why_an_account_is_left_out(account_: Any, person_: Any, why: str) -> None:
    """`root` is in a group that is inside a privileged one."""
    directory = crowd(
        [account_, account("root2")],
        [team("jira-administrators"), team("inner")],
        [("jira-administrators", "inner", "group"), ("inner", "root", "user"), ("inner", "root2", "user")]
        if account_[0] == "root"
        else [],
    )
    found = of(directory, seen([person_]))
    assert found.pairs.empty
    assert why in left(found)["old:1"]


def test_who_is_disabled_in_both_or_only_in_the_new_source_goes_along() -> None:
    """The new source's word counts from then on: whoever it has disabled is shut out by its next sync."""
    directory = crowd([account("ann", "old:1", active=False), account("bob", "old:2")])
    found = of(directory, seen([person("a", "ann", active=False), person("b", "bob", active=False)]))
    assert paired(found) == {"old:1": "new:a", "old:2": "new:b"}
    assert list(found.pairs["active"]) == [False, True]
    assert not found.pairs["stays"].any()


def test_what_the_new_source_holds_is_named_with_its_reason() -> None:
    directory = crowd([account("ann", "old:1")])
    policy = Policy.model_validate({"usernames": {"deny": ["ann"]}})
    assert (
        "new holds it: its Crowd name 'ann' is one of usernames.deny"
        in left(of(directory, seen([person("a", "ann")], policy=policy)))["old:1"]
    )


def test_groups_go_by_their_names_and_those_of_power_stay() -> None:
    names = ("Staff", "jira-administrators", "inner", "Gone")
    directory = crowd([], [team(name, f"old:{name}") for name in names], [("jira-administrators", "inner", "group")])
    found = of(
        directory,
        seen([], [("g1", "STAFF", "", "{}"), ("g2", "inner", "", "{}"), ("g3", "jira-administrators", "", "{}")]),
        "email",
    )
    assert paired(found) == {"old:Staff": "new:g1"}
    assert "the power of 'jira-administrators'" in left(found)["old:inner"]
    assert "new has no such group" in left(found)["old:Gone"]


def test_ids_that_were_written_down_settle_what_may_not_be_guessed() -> None:
    directory = crowd(
        [
            account("root", "old:1", "a@x"),
            account("ann", "old:2", active=False),
            account("bob", "old:3"),
            account("cy", "old:4"),
        ],
        [team("jira-administrators")],
        [("jira-administrators", "root", "user")],
    )
    theirs = seen([person(key, f"{key}-name", f"{key}@y") for key in ("a", "b", "c")])
    found = of(directory, theirs, {"1": "a", "2": "b", "3": "c", "4": "c"})
    assert paired(found) == {"old:1": "new:a", "old:2": "new:b"}
    assert "several ids of the list go to the same one" in left(found)["old:3"]
    assert left(of(directory, theirs, {"1": "nobody"}))["old:1"] == "new wants nobody with this id in Crowd"
    assert left(of(directory, theirs, {"1": "a"}))["old:4"] == "is not in the list of ids"


def test_who_has_an_account_gets_no_second() -> None:
    directory = crowd([account("ann", "old:1"), account("annie", "new:a"), account("bob", "old:2")])
    ties = links(("new", "user", "b", "bobby"), ("old", "user", "3", "vanished"))  # (both accounts are gone from Crowd)
    found = of(directory, seen([person("a", "ann"), person("b", "bob")]), ties=ties)
    assert found.pairs.empty
    assert "new:a has the Crowd user 'annie' already" in left(found)["old:1"]
    assert "new:b has the Crowd user 'bobby' already" in left(found)["old:2"]
    assert "Crowd has no user of this name any more" in left(found)["old:3"]


def test_a_group_for_everyone_is_one_in_the_new_source_too() -> None:
    policy = Policy.model_validate({"groups": {"everyone": ["Staff"]}})
    directory = crowd([], [team("Staff", "old:crowdsync:everyone:staff")])
    assert paired(of(directory, seen([], policy=policy))) == {
        "old:crowdsync:everyone:staff": "new:crowdsync:everyone:staff"
    }


# ── one record ──────────────────────────────────────────────────────────────────────────────────

DIRECTORY = crowd(
    [
        account("ann", "acme:1"),
        account("bob"),
        account("cy", "acme:3"),
        account("cy2", "acme:3"),
        account("dan", "acme:99"),
        account("root"),
        account("admin"),
    ],
    [team("Team", "acme:g1"), team("confluence-administrators")],
    [("confluence-administrators", "root", "user")],
    [("user", "Torn"), ("user", "torn2")],
)
TIES = links(
    ("acme", "user", "1", "ann"),
    ("acme", "user", "4", "dan"),
    ("acme", "user", "5", "vanished"),
    ("acme", "user", "6", "torn"),
)
SEEN = seen(
    [
        person("1", "ann"),
        person("2", "bob"),
        person("3", "cy"),
        person("7", "new-ann"),
        person("8", "out", active=False),
    ],
    [("g2", "Team", "", "{}")],
)


def all_of() -> tuple[pd.DataFrame, pd.DataFrame]:
    return crowd_records(DIRECTORY, TIES, Policy()), TIES


def test_a_record_that_is_nobodys_gets_an_owner() -> None:
    done = make(*all_of(), SEEN, "acme", "user", "2", "BOB")
    assert not done.doubts
    row = done.change.iloc[0]
    assert (row["name"], row["owner"], row["ends"], row["mark"]) == ("bob", "acme:2", "", "")
    assert make(*all_of(), SEEN, "acme", "user", "1", "ann").change.empty, "it is so already"
    cy = make(*all_of(), SEEN, "acme", "user", "3", "cy")
    assert not cy.doubts, "of copies of a mark somebody says which one it is"


@pytest.mark.parametrize(
    ("identity", "name", "why"),
    [
        ("2", "nobody", "Crowd has no user 'nobody'"),
        ("2", "ann", "'ann' belongs to acme:1; crowdsync links hand-over acme 1 2 --kind user"),
        ("1", "bob", "acme:1 has the Crowd user 'ann' already; cut that link first"),
        ("5", "bob", "acme:5 has the Crowd user 'vanished' already; cut that link first"),
        ("2", "admin", "'admin' is protected"),
        ("2", "TORN2", "the Crowd user 'torn2' cannot be read .name is not text.; mend it in Crowd first"),
        ("6", "bob", "acme:6 has the Crowd user 'torn' already"),
    ],
)
def test_what_cannot_be_made(identity: str, name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        make(*all_of(), SEEN, "acme", "user", identity, name)


@pytest.mark.parametrize(
    ("identity", "name", "last", "why"),
    [
        ("2", "root", SEEN, "'root' has the power of 'confluence-administrators'"),
        ("who", "bob", SEEN, "new has no user 'who', as read 2026-11-23 12:00 UTC|acme has no user 'who'"),
        ("2", "bob", None, "acme was never read"),
        ("4", "dan", SEEN, "the mark of 'dan' in Crowd says acme:99"),
    ],
)
def test_what_is_made_only_by_force(identity: str, name: str, last: Wanted | None, why: str) -> None:
    done = make(*all_of(), last, "acme", "user", identity, name)
    with pytest.raises(RefusedError, match=why):
        done.forced(force=False)
    assert done.forced(force=True) == done.doubts
    assert done.change["owner"].iloc[0] == f"acme:{identity}"


def test_what_was_made_again_in_the_idp_is_handed_over() -> None:
    done = hand_over(*all_of(), SEEN, "acme", "group", "g1", "g2")
    assert not done.doubts
    row = done.change.iloc[0]
    assert (row["name"], row["was"], row["owner"], row["mark"]) == ("Team", "acme:g1", "acme:g2", "acme:g1")
    assert row["ends"] == "", "it had only its mark"
    still = hand_over(*all_of(), SEEN, "acme", "user", "1", "7")
    with pytest.raises(RefusedError, match="acme:1 is still there in the source"):
        still.forced(force=False)
    assert still.change["ends"].iloc[0] == "acme:1"
    gone = seen([person("7", "new-ann"), person("1", "ann", active=False)])
    assert not hand_over(*all_of(), gone, "acme", "user", "1", "7").doubts, "who is disabled may come back as another"


def test_a_link_and_a_mark_that_contradict_each_other_are_settled_either_way() -> None:
    """`dan` is 4's by its link and 99's by its mark."""
    theirs = hand_over(*all_of(), SEEN, "acme", "user", "4", "99")
    with pytest.raises(RefusedError, match="its link says acme:4, its mark in Crowd says acme:99"):
        theirs.forced(force=False)
    assert theirs.change[["ends", "owner"]].values.tolist() == [["acme:4", "acme:99"]]
    stays = make(*all_of(), SEEN, "acme", "user", "4", "dan")
    assert stays.change[["ends", "owner", "mark"]].values.tolist() == [["", "acme:4", "acme:99"]]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("1", "1", "'1' is both ids"),
        ("1", "4", "acme:4 has the Crowd user 'dan' already"),
        ("1", "3", "acme:3 has the Crowd user 'cy' already"),
        ("5", "2", "the Crowd user of acme:5 is gone"),
        ("6", "2", "the Crowd user 'Torn' cannot be read .name is not text.; mend it in Crowd first"),
        ("77", "2", "acme has no link of the user '77'"),
        ("3", "2", "several Crowd users carry the mark acme:3: 'cy', 'cy2'; take it off all but one"),
    ],
)
def test_what_cannot_be_handed_over(old: str, new: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        hand_over(*all_of(), SEEN, "acme", "user", old, new)


def test_what_is_cut_is_nobodys_and_a_mark_of_somebody_else_stays() -> None:
    plain, other, gone, copy = (
        operations(cut(*all_of(), "acme", "user", identity, name).change)
        for identity, name in (("1", ""), ("4", ""), ("5", ""), ("3", "cy2"))
    )
    assert orjson.loads(plain["record"].iloc[0])["attributes"] == {ID_ATTRIBUTE: []}
    assert list(of_link_alone(pd.concat([plain, other, gone, copy]))) == [False, True, True, False]
    assert ended_links(pd.concat([plain, other, gone, copy]))["id"].tolist() == ["1", "4", "5"]
    with pytest.raises(ConfigurationError, match="several Crowd users carry the mark acme:3"):
        cut(*all_of(), "acme", "user", "3")
    for name in ("", "torn"):
        with pytest.raises(ConfigurationError, match="the Crowd user 'Torn' cannot be read"):
            cut(*all_of(), "acme", "user", "6", name)
    with pytest.raises(ConfigurationError, match="neither link nor mark of the Crowd user 'bob' says acme:3"):
        cut(*all_of(), "acme", "user", "3", "bob")


# ── as operations ───────────────────────────────────────────────────────────────────────────────


def test_a_move_ends_one_link_and_makes_another_and_its_audit_names_both() -> None:
    ties = links(("old", "user", "x:1", "ann"))
    directory = crowd([account("Ann", "old:x:1")], [team("Team", "old:g")])
    pairing = of(directory, seen([person("y:2", "ann")], [("h", "team", "", "{}")]), ties=ties)
    made = operations(moves(pairing, "username"))
    assert made_links(made).values.tolist() == [
        ["new", "user", "y:2", "Ann", "moved by username"],
        ["new", "group", "h", "Team", "moved by username"],
    ]
    assert ended_links(made).values.tolist() == [["old", "user", "x:1"]], "an id may have a colon, a source has none"
    assert made["reason"].str.startswith(BY_HAND).all()
    decision = ByHand("links moved by hand", "Kim", "kim", "new IdP", ("a doubt",))
    assert ByHand.read(decision.text()) == decision
    assert ByHand.read(Policy().model_dump_json()) is None
    row = decision.audited(7, made)
    assert row is not None
    assert (row["event"], row["actor"], row["subject"]) == ("links moved by hand", "Kim", "plan 7")
    assert row["details"]["changes"][0] == {"kind": "user", "name": "Ann", "from": "old:x:1", "to": "new:y:2"}
    assert decision.audited(7, made[:0]) is None


# ── sources that are no more ────────────────────────────────────────────────────────────────────


def test_a_plan_of_ownership_is_none_that_a_sync_carries_out() -> None:
    for about in ("link:user:acme:1", "links:old>new:username:user"):
        with pytest.raises(ConfigurationError, match="only `crowdsync links` carries it out"):
            Selection.read(about)


def test_a_source_that_owns_something_and_is_configured_no_more_is_named() -> None:
    directory = crowd(
        [account("ann", "okta:1"), account("bob", "acme:2"), account("cy"), account("dan", "acme2:3")],
        [team("Team", "okta:g")],
    )
    ties = links(("okta", "user", "1", "ann"), ("okta", "user", "9", "vanished"), ("acme", "user", "2", "bob"))
    told = abandoned(directory, ties, ["acme", "acme2"], "crowd", "acme")
    assert len(told) == 1
    assert told[0].startswith("'okta' owns 2 accounts and 1 groups of crowd and is no source of it any more")
    assert "crowdsync links move okta acme --by username" in told[0]
    assert not abandoned(directory, ties, ["acme", "acme2", "okta"], "crowd", "acme")
    assert "'acme2' owns 1 accounts and 0 groups" in abandoned(directory, ties, ["acme", "okta"], "crowd", "acme")[0]
