"""Records by key: of any series of changes of a few users, history knows as much as of whole snapshots."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import event

from connectors.errors import RetryableError
from connectors.model import Snapshot, held_frame, memberships_frame, users_frame
from connectors.store import IndexState, LastInStep, RecordChanges, StepCursors, Store, WideTotals
from tests.support.frames import pairs, person, snapshot, team
from tests.support.long import long_after

STREAM = "source:acme"
AT = datetime(2026, 11, 29, tzinfo=UTC)
GROUPS = [f"g{n}" for n in range(6)]

PAST = ("plan_everybody", "plan_unfinished", "operation_finished", "run_running", "run_passed")
"""The indexes of what is asked of past plans and runs."""


def whole(users: dict[str, dict[str, Any]], members: dict[str, set[str]], nestings: list[tuple[str, str]]) -> Snapshot:
    of_users = [(group, one, "user") for one, groups in members.items() for group in groups]
    return snapshot(
        [
            person(one, fields["username"], **{k: v for k, v in fields.items() if k != "username"})
            for one, fields in users.items()
        ],
        [team(group, group.upper()) for group in GROUPS],
        [*of_users, *((parent, child, "group") for parent, child in nestings)],
    )


def anybody(rng: random.Random, key: str) -> dict[str, Any]:
    return {
        "username": key + rng.choice(["", ".x", "\u00e9", "\U0001f600", "\0"]),
        "last_name": rng.choice(["", "Bell", "o\u0301"]),
        "active": rng.random() < 0.8,
    }


def some_groups(rng: random.Random) -> set[str]:
    return set(rng.sample(GROUPS, rng.randint(0, 4)))


def changes_of(read: Snapshot, ids: set[str]) -> RecordChanges:
    mine = read.memberships["member_id"].isin(ids) & (read.memberships["member_kind"] == "user")
    there = read.users["id"].isin(ids)
    gone = ids - set(read.users["id"])
    return RecordChanges(read.users[there], gone, read.memberships[mine], read.held, read.warnings)


def moved(before: Snapshot, now: Snapshot) -> tuple[set[str], set[tuple[str, str]]]:
    """The users who differ, and the direct memberships of users."""
    users = [{row[0]: row for row in one.users.itertuples(index=False, name=None)} for one in (before, now)]
    of = [
        {(group, member) for group, member, kind in pairs(one.memberships) if kind == "user"} for one in (before, now)
    ]
    return {one for one in users[0].keys() | users[1].keys() if users[0].get(one) != users[1].get(one)}, of[0] ^ of[1]


def test_groups_that_another_process_saved_are_seen(store: Store, store_url: str) -> None:
    users = {"u0": {"username": "u0", "last_name": "", "active": True}}
    first = whole(users, {"u0": {"g0"}}, [("g1", "g2")])
    store.save_snapshot(STREAM, first, taken_at=AT, run="r")
    for seen in (first, replace(first, groups=first.groups[1:]), first):
        with Store.open(store_url) as other:
            saved = other.save_snapshot(STREAM, seen, taken_at=AT, run="r")
            other.save_changes(STREAM, saved, changes_of(seen, {"u0"}), taken_at=AT, run="r")
        for _ in range(2):
            found = store.newest(STREAM)
            assert found is not None
            assert list(found[1].groups["id"]) == list(seen.groups["id"])
            assert found[1].memberships.to_dict("list") == seen.memberships[
                (seen.memberships["member_kind"] == "group").to_numpy()
            ].to_dict("list")
            store.save_changes(STREAM, found[0], changes_of(seen, {"u0"}), taken_at=AT, run="r")


@pytest.mark.parametrize("seed", long_after(1, range(2)))
def test_a_series_of_changes_ends_where_whole_snapshots_do(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"u{n}" for n in range(30)] + GROUPS[:2]  # a user and a group may share an id
    users = {key: anybody(rng, key) for key in names[:20] + names[-2:]}
    members = {key: some_groups(rng) for key in users}
    nestings = [("g0", "g1"), ("g1", "g2"), ("g2", "held")]  # (a group that is held has no row)
    base = store.save_snapshot(STREAM, whole(users, members, nestings), taken_at=AT, run="r")
    history, came = [(base.id, set(users))], [0]
    for step in range(25):
        ids = set(rng.sample(names, rng.randint(1, 4)))
        for key in ids:
            if rng.random() < 0.3:
                users.pop(key, None)
                members.pop(key, None)
            elif rng.random() < 0.8:
                users[key], members[key] = anybody(rng, key), some_groups(rng)
        now = whole(users, members, nestings)
        held = held_frame([("user", f"h{step}", "h", "extract", "odd")] if step % 2 else [])
        now = replace(now, held=held)
        before, digest = store.load_snapshot(base.id), base.digest
        base = store.save_changes(STREAM, base, changes_of(now, ids), taken_at=AT, run="r")
        loaded = store.load_snapshot(base.id)
        assert loaded.digest() == now.digest()
        assert (base.digest == digest) == (loaded.digest() == before.digest()) == (base.changed == {})
        assert (base.users, base.groups, base.memberships) == (len(now.users), len(now.groups), len(now.memberships))
        pd.testing.assert_frame_equal(loaded.held, held)
        saved, rest = store.newest(STREAM) or (None, None)
        assert saved == base
        assert rest is not None
        assert pairs(rest.memberships) == {(*pair, "group") for pair in nestings}
        pd.testing.assert_frame_equal(rest.groups, now.groups)
        assert set(store.users_now(STREAM, {*ids, "nobody"})["id"]) == ids & set(users)
        different = moved(before, now)
        assert store.moved(STREAM, base.id) == different
        history.append((base.id, different[0]))
        came.append(base.changed.get("users_added", 0))
        for at in {len(history) - 2, rng.randrange(len(history))}:
            later = set().union(*(some for _, some in history[at + 1 :])) & set(users)
            since = store.users_since(STREAM, history[at][0]).set_index("id")
            rows = now.users[now.users["id"].isin(later)].set_index("id")
            pd.testing.assert_frame_equal(since.sort_index(), rows.sort_index())
            then = store.load_snapshot(history[at][0]).users.set_index("id")
            for columns in (("username",), ("email", "active")):
                as_then = then.reindex(rows.index)[[*columns]].eq(rows[[*columns]]).all(axis=1)
                others = set(store.users_since(STREAM, history[at][0], columns)["id"])
                assert set(rows.index[~as_then]) <= others <= set(rows.index)
                # (Also who had gone, and is there again.)
                assert any(came[at + 1 :]) or others == set(rows.index[~as_then])
        for group in GROUPS:
            of_users = {(one, "user") for one, groups in members.items() if group in groups}
            assert store.members_now(STREAM, group) == of_users | {
                (one, "group") for of, one in nestings if of == group
            }
        wanted = {(group, one, "user") for one in ids & set(members) for group in members[one]}
        assert pairs(store.memberships_now(STREAM, {*ids, "nobody"})) == wanted
        if rng.random() < 0.2:  # a whole read in between finds nothing else
            again = store.save_snapshot(STREAM, now, taken_at=AT, run="r")
            assert not any(again.changed.values())
            base = again
        if rng.random() < 0.3:  # and what a whole read finds counts as well
            key = rng.choice([*users])
            users[key] = anybody(rng, key)
            found = whole(users, members, nestings)
            base = store.save_snapshot(STREAM, found, taken_at=AT, run="r")
            history.append((base.id, moved(now, found)[0]))
            came.append(base.changed.get("users_added", 0))


def test_a_verdict_and_what_was_counted_come_with_the_changes_or_not_at_all(store: Store) -> None:
    first = whole({"u0": {"username": "u0", "last_name": "", "active": True}}, {}, [])
    base = store.save_snapshot(STREAM, first, taken_at=AT, run="r")
    store.save_wide_totals("d", "s", WideTotals("p", "q", base.digest, AT, {}))
    held = held_frame([("user", "u0", "u0", "validate", "odd")])
    same = replace(changes_of(first, {"u0"}), verdict=("rules", held), counted=("d", "s"))
    assert store.save_changes(STREAM, base, same, taken_at=AT, run="r").digest == base.digest
    assert store.verdict(base.digest, "rules") is None, "nothing changed, so that it stands as it stood"

    now = whole({"u0": {"username": "u0", "last_name": "Other", "active": True}}, {}, [])
    other = replace(changes_of(now, {"u0"}), verdict=("rules", held), counted=("d", "s"))
    with pytest.raises(RetryableError):  # it is not the newest any more
        store.save_changes(STREAM, base, other, taken_at=AT, run="r")
    totals = store.wide_totals("d", "s")
    assert totals is not None
    assert totals.snapshot == base.digest

    newest = store.newest(STREAM)
    assert newest is not None
    saved = store.save_changes(STREAM, newest[0], other, taken_at=AT, run="r")
    verdict, totals = store.verdict(saved.digest, "rules"), store.wide_totals("d", "s")
    assert verdict is not None
    assert totals is not None
    assert (verdict["id"].tolist(), totals.snapshot) == (["u0"], saved.digest)
    assert saved.digest != base.digest


def test_what_is_read_in_one_transaction_does_not_see_what_others_write(store: Store, store_url: str) -> None:
    first = whole({"u0": {"username": "u0", "last_name": "", "active": True}}, {}, [])
    base = store.save_snapshot(STREAM, first, taken_at=AT, run="r")
    with store.one_read(), store.one_read():
        before = store.newest(STREAM)
        with Store.open(store_url) as other:
            changed = whole({"u0": {"username": "u0", "last_name": "Other", "active": True}}, {}, [])
            other.save_changes(STREAM, base, changes_of(changed, {"u0"}), taken_at=AT, run="r")
        if store.one_machine:  # (PostgreSQL shows each statement what was written before it)
            assert store.newest(STREAM)[0] == before[0]  # type: ignore[index]
        with pytest.raises(AssertionError, match="one_read"):
            store.save_cursor(STREAM, None, at=AT)
    assert store.newest(STREAM)[0] != before[0]  # type: ignore[index]
    store.save_cursor(STREAM, None, at=AT)


def test_what_another_run_read_meanwhile_is_not_written_over(store: Store) -> None:
    first = whole({"u1": {"username": "ann"}}, {"u1": {"g1"}}, [])
    base = store.save_snapshot(STREAM, first, taken_at=AT, run="r")
    store.save_snapshot(STREAM, first, taken_at=AT, run="another")
    with pytest.raises(RetryableError, match="read by another run"):
        store.save_changes(STREAM, base, changes_of(first, {"u1"}), taken_at=AT, run="r")
    assert len(store.snapshots(STREAM)) == 2


def test_some_active_members_of_groups(store: Store) -> None:
    users = {f"u{n}": {"username": f"u{n}", "active": n != 3} for n in range(8)}
    members = {"u1": {"g1"}, "u2": {"g1", "g2"}, "u3": {"g3"}, "u4": {"g1"}}
    store.save_snapshot(STREAM, whole(users, members, [("g4", "g1")]), taken_at=AT, run="r")
    assert store.active_members(STREAM, dict.fromkeys(["g1", "g2", "g3", "g4", "none"], 9)) == {"u1", "u2", "u4"}
    assert len(store.active_members(STREAM, {"g1": 2})) == 2
    assert store.active_members("source:nobody", {"g1": 2}) == set()
    newest = store.newest(STREAM)
    assert newest is not None
    pairs = store.load_snapshot(newest[0].id).memberships["group_id"].astype("str").tolist()
    assert store.count_members(STREAM, ["g1", "g2", "none"]) == pairs.count("g1") + pairs.count("g2") > 1
    assert store.count_members("source:nobody", ["g1"]) == 0


def test_keys_are_found_until_they_are_made_anew(store: Store) -> None:
    keys = pd.DataFrame({"value": ["name:ann", "name:bob", "name:\u00e9"], "id": ["1", "2", "2"]}, dtype="str")
    assert store.index_state("s") is None
    store.index("s", keys, IndexState("d", 1, 2), anew=True)
    store.index("s", keys.assign(id="3"), IndexState("d", 4, 5), anew=False)
    store.index("s", keys[:1], IndexState("d", 6, 7), anew=False)
    assert store.having("s", {"name:ann", "name:\u00e9", "name:none", "na\0me"}) == {"1", "2", "3"}
    assert store.having("another", {"name:ann"}) == set()
    assert store.index_state("s") == IndexState("d", 6, 7)
    store.index("s", keys[1:2], IndexState("e", 8, 9), anew=True)
    assert store.having("s", {"name:ann", "name:bob"}) == {"2"}


def test_links_of_groups_that_another_process_changed_are_seen(store: Store, store_url: str) -> None:
    team = pd.DataFrame(
        [("acme", "group", "g", "team", "created")], columns=["source", "kind", "id", "name", "how"]
    ).astype("str")
    person = team.assign(kind="user", id="1", name="ann")

    def found() -> list[str]:
        return list(store.links_about("crowd", "acme", {"1"}, ())["name"])

    with Store.open(store_url) as other:
        assert found() == []
        for links, expected in (
            (team, ["team"]),
            (person, ["team", "ann"]),
            (team.assign(name="crew"), ["crew", "ann"]),
            (team.assign(source="beta", id="b"), ["crew", "ann", "team"]),
        ):
            other.save_links("crowd", links, at=AT, run="r")
            assert found() == expected
            assert found() == expected
        other.drop_links("crowd", team, at=AT, run="r")
        assert found() == ["ann", "team"]
    assert list(store.links_about("elsewhere", "acme", {"1"}, ())["name"]) == []


def test_the_links_of_a_few(store: Store) -> None:
    links = pd.DataFrame(
        [
            ("acme", "user", "1", "Ann", "created"),
            ("acme", "user", "2", "bob", "created"),
            ("beta", "user", "1", "cy", "created"),
            ("acme", "group", "g", "team", "created"),
        ],
        columns=["source", "kind", "id", "name", "how"],
    ).astype("str")
    store.save_links("crowd", links, at=AT, run="r")
    found = store.links_about("crowd", "acme", {"1"}, {"cy"})
    assert list(found["name"]) == ["team", "Ann", "cy"]
    assert list(store.links_about("crowd", "acme", {"1"}, {"cy"}, groups=False)["name"]) == ["Ann", "cy"]
    assert list(found.columns) == list(store.links("crowd").columns)
    assert found.dtypes.equals(store.links("crowd").dtypes)
    changed, event = store.linked_since("crowd", 0)
    assert set(changed["name"]) == {"Ann", "bob", "cy"}
    store.save_links("crowd", links[:1].assign(name="anna"), at=AT, run="r")
    changed, _ = store.linked_since("crowd", event)
    assert list(changed["name"]) == ["anna"]


def test_what_a_wide_run_counted(store: Store) -> None:
    assert store.wide_totals("crowd", "acme") is None
    totals = WideTotals("p", "q", "digest", AT, {"owned": {"users": 3}})
    store.save_wide_totals("crowd", "acme", totals)
    store.save_wide_totals("crowd", "acme", totals)
    assert store.wide_totals("crowd", "acme") == totals
    store.save_wide_totals("crowd", "acme", None)
    assert store.wide_totals("crowd", "acme") is None


def test_a_user_in_a_group_of_which_nothing_is_known_is_a_mistake_of_ours(store: Store) -> None:
    base = store.save_snapshot(STREAM, whole({"u1": {"username": "ann"}}, {}, []), taken_at=AT, run="r")
    users = users_frame([("u1", "ann", "", "", "", "", True, "{}")])
    strange = RecordChanges(users, (), memberships_frame([("g9", "u1", "user")]), held_frame(), held_frame())
    with pytest.raises(KeyError):
        store.save_changes(STREAM, base, strange, taken_at=AT, run="r")
    assert len(store.snapshots(STREAM)) == 1


def test_since_when_crowd_is_in_step(store: Store) -> None:
    assert store.in_step("crowd", "acme") is None
    then = AT - timedelta(hours=3)
    for last in (
        LastInStep("p", "q", StepCursors("2026-11-29T00:00:00Z", "12:3", 7, AT, then)),
        LastInStep("p2", "q2", StepCursors("c", "12:4", 2**40, AT, AT), 12),
    ):
        store.save_in_step("crowd", "acme", last)
        assert store.in_step("crowd", "acme") == last
        assert store.in_step("crowd", "other") is None
    store.save_in_step("crowd", "acme", None)
    assert store.in_step("crowd", "acme") is None


def test_links_that_changed(store: Store) -> None:
    def links(*rows: tuple[str, ...]) -> pd.DataFrame:
        return pd.DataFrame([(*row, "created") for row in rows], columns=["source", "kind", "id", "name", "how"])

    assert store.newest_link_event("crowd") == 0
    store.save_links("crowd", links(("acme", "user", "u1", "Ann"), ("acme", "group", "g1", "Red")), at=AT, run="r")
    store.save_links("elsewhere", links(("acme", "user", "u9", "Bob")), at=AT, run="r")
    first = store.newest_link_event("crowd")
    assert len(store.links_changed("crowd", first)) == 0
    store.save_links("crowd", links(("acme", "user", "u1", "Ann.Lee"), ("beta", "user", "b1", "cy")), at=AT, run="r")
    store.drop_links("crowd", links(("acme", "group", "g1", "Red")), at=AT, run="r")
    assert sorted(store.links_changed("crowd", first).itertuples(index=False, name=None)) == [
        ("acme", "group", "g1", "red", ""),
        ("acme", "user", "u1", "ann", "ann.lee"),
        ("beta", "user", "b1", "", "cy"),
    ]
    assert len(store.links_changed("crowd", 0)) == 5
    assert store.newest_link_event("elsewhere") == first + 1


@contextmanager
def steps_of(store: Store) -> Iterator[list[str]]:
    """How SQLite goes about what is asked of a store inside: filled in at the end."""
    asked, steps = list[tuple[str, Any]](), list[str]()

    def note(*given: Any) -> None:
        asked.append(given[2:4])

    event.listen(store._db.engine, "before_cursor_execute", note)
    yield steps
    event.remove(store._db.engine, "before_cursor_execute", note)
    with store._db.read() as connection:
        for statement, given in asked:
            steps += [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]


def test_what_a_batch_asks_of_links_is_looked_up(tmp_path: Path, schema: Path) -> None:
    """However many links there are, and ever were, and however many are asked for."""
    at, some = datetime(2026, 11, 29, tzinfo=UTC), ["a", "b", "c"]
    with Store.open(f"sqlite:///{shutil.copy(schema, tmp_path)}") as store:
        with steps_of(store) as steps:
            store.links_about("crowd", "acme", some, some, groups=False)
            store.first_linked("crowd", "acme", at, some)
        links = [step for step in steps if " link " in step]
        assert [step.removesuffix(" LEFT-JOIN").partition("(")[2] for step in links] == [
            "directory=? AND source=? AND kind=? AND id=?)",
            "directory=? AND kind=? AND folded=?)",
            "directory=? AND source=? AND kind=? AND id=?)",
        ]
        with steps_of(store) as steps:
            store.links_about("crowd", "acme", (), ())
            store.links_about("crowd", "acme", (), ())
            store.linked_since("crowd", 7)
            store.links_changed("crowd", 7)
            store.newest_link_event("crowd")
        newest = "SCAN link_event"  # (from the newest one on, no further than the first that is the directory's)
        by_number = "SEARCH link_event USING INTEGER PRIMARY KEY (rowid>?)"
        assert {step for step in steps if "link_event" in step} == {newest, by_number, "SEARCH link_event"}


def test_what_a_batch_asks_of_past_plans_is_looked_up(tmp_path: Path, schema: Path) -> None:
    """By an index, however many plans and runs there were: on SQLite, which says how it goes about it."""
    at = datetime(2026, 11, 29, tzinfo=UTC)
    with Store.open(f"sqlite:///{shutil.copy(schema, tmp_path)}") as store, steps_of(store) as steps:
        store.removals("acme", "crowd", at)
        store.removals(None, "crowd", at, pending=1)
        store.made_since("acme", "crowd", at, 10)
        store.past_counts("acme", "crowd")
        store.asked_plan("acme", "crowd")
        store.unfinished_plans("crowd")
        store.passed_limits("acme", "crowd", at)
        store.running()
    scans = [step for step in steps if step.startswith("SCAN") and "INDEX" not in step]
    assert [step for step in scans if step.split()[1] in ("plan", "operation", "run")] == []
    assert {name for step in steps for name in PAST if name in step} == set(PAST)
