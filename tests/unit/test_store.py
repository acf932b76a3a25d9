"""The store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from connectors.errors import ConfigurationError, RecordError, RefusedError, RetryableError
from connectors.model import (
    Snapshot,
    groups_frame,
    held_frame,
    memberships_from_columns,
    users_frame,
)
from connectors.store import Store, database
from connectors.store.tables import METADATA
from tests.support import postgres

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LINK = ["source", "kind", "id", "name", "how"]
TABLES = sorted(METADATA.tables)
NEWEST = database.revisions()[-1]


def counts(store: Store) -> dict[str, int]:
    with store._db.read() as connection:
        return {t: connection.execute(text(f'SELECT count(*) FROM "{t}"')).scalar_one() for t in TABLES}


def links(*rows: tuple[str, str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=LINK)


def pairs(store: Store) -> dict[str, str]:
    frame = store.links("crowd")
    return dict(zip(frame["id"], frame["name"], strict=True))


def operations(n: int = 3, **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"seq": range(n), "phase": 1, "kind": pd.Categorical(["user_create"] * n)})
    for name in ("name", "target", "source_id", "record", "before", "reason"):
        frame[name] = columns.get(name, "")
    return frame


def plan(store: Store, frame: pd.DataFrame | None = None, **changed: Any) -> int:
    values: dict[str, Any] = {
        "run": "r1",
        "source": "acme",
        "directory": "crowd",
        "digest": "d",
        "source_snapshot": 1,
        "directory_snapshot": 2,
        "policy": '{"a":1}',
        "at": AT,
        "operations": operations() if frame is None else frame,
        "held": held_frame([("user", "u9", "Zoë\n", "validate", "no e-mail")]),
    }
    return store.save_plan(**values | changed)


# History

ODD = ["", "a", 'q"uo,te', "line\nbreak\r\n", "\\N", "nul\0l", "\U0010fffe0", "Ünï", "日本", " lead", "NULL"]


def random_snapshot(rng: np.random.Generator) -> Snapshot:
    def some(n: int) -> list[str]:
        return [ODD[i] for i in rng.integers(0, len(ODD), n)]

    # Ids may repeat, may be shared by a user and a group, and may be named by a membership alone.
    ids = [f"i{i}{ODD[i % len(ODD)]}" for i in range(14)]
    n, m, k = (int(rng.integers(0, top)) for top in (12, 6, 40))
    users = [
        (ids[i], *some(5), bool(rng.random() < 0.5), f'{{"x":["{v}"]}}')
        for i, v in zip(rng.integers(0, 10, n), rng.integers(0, 2, n), strict=True)
    ]
    groups = [(ids[i], *some(2), "{}") for i in rng.integers(5, 14, m)]
    chosen = [
        [ids[i] for i in rng.integers(5, 14, k)],
        [ids[i] for i in rng.integers(0, 14, k)],
        [("user", "group")[i] for i in rng.integers(0, 2, k)],
    ]
    held = held_frame([("user", "x", "\0odd", "extract", "broken")] * int(rng.integers(0, 2)))
    return Snapshot.of(users_frame(users), groups_frame(groups), memberships_from_columns(*chosen), held)


def test_every_past_snapshot_is_rebuilt_exactly(store: Store) -> None:
    rng = np.random.default_rng(7)
    taken = []
    for i in range(30):
        snapshot = random_snapshot(rng) if i % 7 else Snapshot.of()
        stream = f"source:{i % 2}"
        taken.append((store.save_snapshot(stream, snapshot, taken_at=AT, run=str(i)), snapshot))
    ids = [saved.id for saved, _ in taken]
    assert ids == sorted(set(ids))
    for saved, snapshot in taken:
        loaded = store.load_snapshot(saved.id)
        assert loaded.digest() == snapshot.digest() == saved.digest
        pd.testing.assert_frame_equal(loaded.users, snapshot.users)
        pd.testing.assert_frame_equal(loaded.memberships, snapshot.memberships)
        pd.testing.assert_frame_equal(loaded.held, snapshot.held)
    latest = store.latest_snapshot("source:1")
    assert latest == taken[-1][0]
    assert store.snapshots("source:1", limit=3)["id"].tolist() == ids[-1:-6:-2]


def company(n: int = 50) -> Snapshot:
    users = users_frame([(f"u{i}", f"name{i}", f"{i}@x", "A", "B", "A B", True, "{}") for i in range(n)])
    groups = groups_frame([("g1", "devs", "", "{}"), ("g2", "ops", "", "{}")])
    members = memberships_from_columns(
        ["g1"] * n + ["g2"], [f"u{i}" for i in range(n)] + ["g1"], ["user"] * n + ["group"]
    )
    return Snapshot.of(users, groups, members)


def changed_company() -> Snapshot:
    """One user changed, one gone, one new; a membership less and one more."""
    old = company()
    users = old.users.copy()
    users.loc[users["id"] == "u1", "email"] = "new@x"
    users = pd.concat([users[users["id"] != "u2"], users_frame([("u99", "z", "", "", "", "", False, "{}")])])
    keep = old.memberships[old.memberships["member_id"] != "u2"].astype("str")
    more = pd.DataFrame({"group_id": ["g2"], "member_id": ["u99"], "member_kind": ["user"]})
    rows = pd.concat([keep, more])
    return Snapshot.of(
        users,
        old.groups,
        memberships_from_columns(rows["group_id"], rows["member_id"], rows["member_kind"]),
    )


def test_an_unchanged_snapshot_is_one_row(store: Store) -> None:
    store.save_snapshot("source:acme", company(), taken_at=AT, run="r1")
    before = counts(store)
    saved = store.save_snapshot("source:acme", company(), taken_at=AT, run="r2")
    assert saved.changed == {}
    assert counts(store) == before | {"snapshot": before["snapshot"] + 1}
    assert store.load_snapshot(saved.id).digest() == company().digest()


def test_a_changed_snapshot_adds_only_what_changed(store: Store) -> None:
    store.save_snapshot("source:acme", company(), taken_at=AT, run="r1")
    before = counts(store)
    saved = store.save_snapshot("source:acme", changed_company(), taken_at=AT, run="r2")
    added = {k: v - before[k] for k, v in counts(store).items() if v != before[k]}
    assert added == {"snapshot": 1, "record_key": 1, "user_version": 2, "membership_version": 1}
    assert {k: v for k, v in saved.changed.items() if v} == {
        "users_added": 1,
        "users_changed": 1,
        "users_removed": 1,
        "memberships_added": 1,
        "memberships_removed": 1,
    }
    assert store.latest_snapshot("source:acme") == saved


def test_compare(store: Store) -> None:
    a = store.save_snapshot("source:acme", company(), taken_at=AT, run="r1").id
    b = store.save_snapshot("source:acme", changed_company(), taken_at=AT, run="r2").id
    c = store.save_snapshot("source:acme", company(), taken_at=AT, run="r3").id
    changes = store.compare_snapshots(a, b)
    assert sorted(changes["users"].itertuples(index=False, name=None)) == [
        ("+", "u99", "", "", ""),
        ("-", "u2", "", "", ""),
        ("~", "u1", "email", "1@x", "new@x"),
    ]
    assert sorted(changes["memberships"].itertuples(index=False, name=None)) == [
        ("+", "g2", "u99", "user"),
        ("-", "g1", "u2", "user"),
    ]
    assert changes["groups"].empty
    back = store.compare_snapshots(b, a)["users"]
    assert ("~", "u1", "email", "new@x", "1@x") in list(back.itertuples(index=False, name=None))
    assert all(frame.empty for frame in store.compare_snapshots(a, c).values())
    other = store.save_snapshot("directory:crowd", company(), taken_at=AT, run="r1").id
    with pytest.raises(ConfigurationError, match="different streams"):
        store.compare_snapshots(a, other)
    with pytest.raises(RecordError, match="no snapshot 999"):
        store.load_snapshot(999)


def test_the_history_of_one_record(store: Store) -> None:
    a = store.save_snapshot("source:acme", company(), taken_at=AT, run="r1").id
    later = AT + timedelta(days=1)
    b = store.save_snapshot("source:acme", changed_company(), taken_at=later, run="r2").id
    versions = store.record_history("source:acme", "user", "u1")
    assert versions["email"].tolist() == ["1@x", "new@x"]
    assert versions["valid_from"].tolist() == [a, b]
    assert versions["valid_to"].tolist() == [b, pd.NA]
    assert versions["taken_at"].tolist() == [AT, later]
    assert versions["ended_at"].tolist()[0] == later
    assert store.record_history("source:acme", "user", "nobody").empty


def test_a_naive_time_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="timezone"):
        store.save_snapshot("source:acme", company(), taken_at=datetime(2026, 1, 1), run="r")  # noqa: DTZ001


def test_verdicts(store: Store) -> None:
    held = held_frame([("user", "u1", 'na"me', "validate", "twice\n")])
    assert store.verdict("d", "rules") is None
    store.save_verdict("d", "rules", held, at=AT)
    kept = store.verdict("d", "rules")
    assert kept is not None
    pd.testing.assert_frame_equal(kept, held)
    store.save_verdict("d", "rules", held_frame(), at=AT)
    kept = store.verdict("d", "rules")
    assert kept is not None
    assert kept.empty
    assert store.verdict("d", "other rules") is None


# Links


def test_links_are_upserted_and_swapped(store: Store) -> None:
    ann, bob = ("acme", "user", "1", "Ann", "created"), ("acme", "user", "2", "Bob", "created")
    assert store.save_links("crowd", links(ann, bob), at=AT, run="r1") == 2
    assert store.save_links("crowd", links(ann, bob), at=AT + timedelta(1), run="r2") == 0
    assert set(store.links("crowd")["made_at"]) == {AT}
    swapped = links(("acme", "user", "1", "BOB", "by hand"), ("acme", "user", "2", "ann", "by hand"))
    assert store.save_links("crowd", swapped, at=AT, run="r3") == 2
    assert pairs(store) == {"1": "BOB", "2": "ann"}
    assert store.link_history("crowd")["before"].tolist() == ["Bob", "Ann", "", ""]
    assert store.audit_log()["event"].tolist() == ["links saved"] * 2
    # The same names in another directory and for a group are nobody's yet.
    assert store.save_links("crowd", links(("acme", "group", "1", "Ann", "created")), at=AT, run="r") == 1
    assert store.save_links("other", links(ann), at=AT, run="r") == 1
    assert store.links("crowd", "nowhere").empty


def test_a_name_belongs_to_one_link(store: Store) -> None:
    store.save_links("crowd", links(("acme", "user", "1", "Ann", "created")), at=AT, run="r1")
    before = counts(store)
    for conflict in (
        links(("acme", "user", "3", "Cy", "created"), ("acme", "user", "2", "ANN", "created")),
        links(("beta", "user", "1", "ann", "created")),
        links(("acme", "user", "5", "Eve", "created"), ("beta", "user", "6", "EVE", "created")),
        links(("acme", "user", "5", "Eve", "created"), ("acme", "user", "5", "Eva", "created")),
    ):
        with pytest.raises(RecordError) as raised:
            store.save_links("crowd", conflict, at=AT, run="r2")
        assert raised.value.reason == "LINK_CONFLICT"
    assert counts(store) == before
    # Moved away in the same call, the name is free.
    moved = links(("acme", "user", "1", "Anna", "by hand"), ("acme", "user", "2", "Ann", "created"))
    assert store.save_links("crowd", moved, at=AT, run="r3") == 2
    assert pairs(store) == {"1": "Anna", "2": "Ann"}


def test_dropping_links(store: Store) -> None:
    both = links(("acme", "user", "1", "Ann", "created"), ("acme", "user", "2", "Bob", "created"))
    store.save_links("crowd", both, at=AT, run="r1")
    assert store.drop_links("crowd", both.iloc[[0]], at=AT, run="r2") == 1
    assert store.drop_links("crowd", both.iloc[[0]], at=AT, run="r2") == 0
    assert pairs(store) == {"2": "Bob"}
    last = store.link_history("crowd").iloc[0]
    assert (last["action"], last["before"], last["run"]) == ("dropped", "Ann", "r2")


# Plans and journal


def test_a_plan_comes_back_as_it_was_saved(store: Store) -> None:
    names = pd.Categorical(["b", 'x"\n,', "nul\0"])
    frame = operations(3, name=names, record='{"a":"\\u0000"}').iloc[[2, 0, 1]]
    plan_id = plan(store, frame)
    loaded = store.load_plan(plan_id)
    assert (loaded.policy, loaded.status, loaded.created_at) == ('{"a":1}', "planned", AT)
    assert loaded.held["name"].tolist() == ["Zoë\n"]
    stored = store.operations(plan_id)
    assert stored["name"].tolist() == list(names)
    assert stored["seq"].tolist() == [0, 1, 2]
    assert stored["finished_at"].isna().all()
    with pytest.raises(RecordError, match="no plan 99"):
        store.load_plan(99)
    before = counts(store)
    with pytest.raises(RecordError, match="twice"):
        plan(store, pd.concat([frame, frame]))
    assert counts(store) == before


def test_the_journal(store: Store) -> None:
    plan_id = plan(store)
    store.intend(plan_id, [0, 1], at=AT)
    store.record(plan_id, [(0, "done", ""), (1, "failed", "no\0pe")], at=AT)
    store.intend(plan_id, [1], at=AT)
    rows = store.operations(plan_id)
    assert rows["state"].tolist() == ["done", "intended", "planned"]
    assert rows["attempts"].tolist() == [1, 2, 0]
    assert store.operations(plan_id, states={"done", "planned"})["seq"].tolist() == [0, 2]
    counted = store.plans().iloc[0]
    assert [counted[s] for s in ("planned", "intended", "done")] == [1, 1, 1]
    for seqs, error in (([2, 0], RefusedError), ([2, 77], RecordError)):
        with pytest.raises(error):
            store.intend(plan_id, seqs, at=AT)
    assert store.operations(plan_id)["state"].tolist() == ["done", "intended", "planned"]
    with pytest.raises(ConfigurationError, match="operation state"):
        store.record(plan_id, [(0, "dnoe", "")], at=AT)


def test_operations_of_one_plan_are_counted_by_state(store: Store) -> None:
    one, other = plan(store), plan(store, digest="d2")
    store.record(one, [(0, "done", ""), (1, "done", ""), (2, "failed", "no")], at=AT)
    store.record(other, [(0, "skipped", "")], at=AT)
    assert (store.outcomes(one), store.outcomes(other)) == ({"done": 2, "failed": 1}, {"planned": 2, "skipped": 1})
    assert store.outcomes(other + 1) == {}


def test_what_was_made_is_told_where_an_account_was(store: Store) -> None:
    """With what it was added to; and not what was done before, or is not done."""
    kinds = ["membership_add", "user_create", "membership_add"]

    def made(since: datetime = AT, most: int = 9) -> list[str]:
        return store.made_since("acme", "crowd", since, most)["kind"].tolist()

    number = plan(store, operations().assign(kind=pd.Categorical(kinds)))
    store.record(number, [(0, "done", "")], at=AT)
    assert made() == [], "nobody has a new account"
    store.record(number, [(1, "already", "")], at=AT)
    assert made() == [], "it was there"
    store.record(number, [(1, "done", ""), (2, "failed", "no")], at=AT + timedelta(seconds=1))
    assert made() == ["membership_add", "user_create"]
    assert made(most=1) == []
    assert made(AT + timedelta(seconds=2)) == []


def test_outcomes_and_their_links_stand_or_fall_together(store: Store) -> None:
    store.save_links("crowd", links(("acme", "user", "1", "Ann", "created")), at=AT, run="r1")
    plan_id = plan(store)
    before = counts(store)
    taken = links(("acme", "user", "2", "ann", "created"))
    gone = links(("acme", "user", "1", "", ""))
    with pytest.raises(RecordError):
        store.record(plan_id, [(0, "done", "")], at=AT, links=taken, directory="crowd", run="r2")
    with pytest.raises(RecordError):
        store.record(plan_id, [(0, "done", ""), (9, "done", "")], at=AT, dropped=gone, directory="crowd")
    assert counts(store) == before
    assert set(store.operations(plan_id)["state"]) == {"planned"}
    store.record(plan_id, [(0, "done", "")], at=AT, links=taken, dropped=gone, directory="crowd", run="r2")
    assert pairs(store) == {"2": "ann"}


def test_plan_status(store: Store) -> None:
    plan_id = plan(store)
    store.set_plan_status(plan_id, "applying", at=AT, expected={"planned"})
    assert store.unfinished_plans("crowd") == [plan_id]
    assert store.unfinished_plans("other") == []
    with pytest.raises(RefusedError, match="is applying"):
        store.set_plan_status(plan_id, "applying", at=AT, expected={"planned"})
    with pytest.raises(RecordError):
        store.set_plan_status(99, "applied", at=AT)
    store.set_plan_status(plan_id, "applied", at=AT)
    assert store.unfinished_plans("crowd") == []
    assert store.plans(directory="other").empty


def test_runs(store: Store) -> None:
    store.start_run(run="r1", source="acme", directory="crowd", mode="full", at=AT)
    assert store.run("r1")["finished_at"] is None
    store.finish_run("r1", status="completed", summary={"users": 3}, at=AT, mode="hand")
    assert store.run("r1")["summary"] == {"users": 3}
    assert store.runs()["status"].tolist() == ["completed"]
    with pytest.raises(RecordError):
        store.finish_run("r2", status="completed", summary={}, at=AT)
    (row,) = store.audit_log().itertuples()  # of the one that there is
    assert (row.event, row.actor, row.subject) == ("run", "crowdsync", "r1")
    assert json.loads(str(row.details)) == {"status": "completed", "mode": "hand", "users": 3}


# Audit


@pytest.mark.parametrize(
    ("tampering", "broken"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE id = 3", 3),
        ("UPDATE audit SET details = '{}' WHERE id = 2", 2),
        ("UPDATE audit SET prev = 'x' WHERE id = 3", 3),
        ("DELETE FROM audit WHERE id = 2", 3),
        ("DELETE FROM audit WHERE id = 1", 2),
        ("UPDATE audit SET hash = 'x' WHERE id = 4", 4),
        ("UPDATE audit SET id = 40 WHERE id = 4", 40),
    ],
)
def test_tampering_shows(store: Store, tampering: str, broken: int) -> None:
    for i in range(4):
        store.audit(event="approved", actor="ann", subject=f"plan {i}", details={"n": i}, at=AT)
    assert store.verify_audit() is None
    assert store.audit_log(2)["id"].tolist() == [4, 3]
    with store._db.write() as connection:
        connection.execute(text(tampering))
    assert store.verify_audit() == broken


APPENDING = """
import os, sys
from datetime import UTC, datetime
from connectors.store import Store
children = []
for n in range(4):
    child = os.fork()
    if not child:
        with Store.open(sys.argv[1]) as store:
            for i in range(25):
                store.audit(event="e", actor=str(n), subject="s", details={"i": i}, at=datetime.now(UTC))
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
"""Four processes, forked from one that has imported the store, which takes longer than all that they do."""


def test_four_processes_append_to_one_chain(url: str) -> None:
    # None of them finds the tables made: they also race to create them.
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", APPENDING, url], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Store.open(url) as store:
        assert store.verify_audit() is None
        assert store.audit_log(1)["id"].tolist() == [100]


# Opening


def test_migrations_lead_to_the_tables(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._db.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": database.REVISION_TABLE})
        assert compare_metadata(context, METADATA) == []
        if store._db.sqlite:
            made = dict(connection.execute(text("SELECT name, sql FROM sqlite_master")).tuples().all())
            for table in METADATA.tables.values():
                keyless = table.dialect_options["sqlite"]["with_rowid"] is False
                assert ("WITHOUT ROWID" in made[table.name]) == keyless, table.name
                counted = bool(table.dialect_options["sqlite"]["autoincrement"])
                assert ("AUTOINCREMENT" in made[table.name]) == counted, table.name


def test_older_and_newer_schemas(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(url).close()
    import shutil

    newer = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "versions" / "9999_more.py").write_text(
        "from alembic import op\nimport sqlalchemy as sa\nrevision = '9999'\n"
        f"down_revision = {database.revisions()[-1]!r}\n"
        "def upgrade(): op.create_table('more', sa.Column('id', sa.Integer, primary_key=True))\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", newer)
        with pytest.raises(ConfigurationError, match=rf"schema {NEWEST}.*wants 9999.*crowdsync database upgrade"):
            Store.open(url)
        assert Store.upgrade(url) == (NEWEST, "9999")
        assert Store.upgrade(url) == ("9999", "9999")
        Store.open(url).close()
    for refused in (Store.open, Store.upgrade):
        with pytest.raises(ConfigurationError, match="schema 9999, which this program"):
            refused(url)


def test_upgrade_makes_an_empty_database(url: str) -> None:
    assert Store.upgrade(url) == (None, NEWEST)
    Store.open(url).close()


def test_a_failed_migration_leaves_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    broken = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS, broken, ignore=shutil.ignore_patterns("__pycache__"))
    (broken / "versions" / "9999_broken.py").write_text(
        f"revision = '9999'\ndown_revision = {NEWEST!r}\ndef upgrade(): raise RuntimeError('half way')\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", broken)
        with pytest.raises(RuntimeError, match="half way"):
            Store.open(url)
    assert Store.upgrade(url) == (None, NEWEST)


def test_a_foreign_database_is_refused(url: str) -> None:
    opened = database.Database(url)
    with opened.write() as connection:
        connection.execute(text("CREATE TABLE plan (id INTEGER)"))
    opened.close()
    with pytest.raises(ConfigurationError, match="not a crowdsync database"):
        Store.open(url)


def test_a_held_sqlite_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = Store.open(url, busy=0.1)
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert store.audit_log().empty  # readers do not wait
    with pytest.raises(RetryableError, match=r"another writer for 0\.1 s"):
        store.audit(event="e", actor="a", subject="s", details={}, at=AT)
    other.execute("ROLLBACK")
    store.close()
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConfigurationError, match=r"store\.db was held .* Wait for the other process"):
        Store.open(url, busy=0.1)
    other.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:////nowhere/at/all/store.db", "folder exists"),
        ("mysql://u:secret@h/d", "'mysql'"),
        ("no url: secret", "cannot be read"),
        ("postgresql://u:secret@127.0.0.1:1/db", r"postgresql://127\.0\.0\.1:1/db .*check host"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        Store.open(url)
    assert "secret" not in str(raised.value)
    assert "u:" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(ConfigurationError, match="no SQLite database"):
        Store.open(f"sqlite:///{tmp_path}/store.db")


@pytest.mark.postgres
def test_wrong_credentials(server: postgres.Server) -> None:
    wrong = server.url.replace(server.password, "letmein")
    with pytest.raises(ConfigurationError, match="password authentication failed") as raised:
        Store.open(wrong)
    assert "letmein" not in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="does not exist"):
        Store.open(server.url.rsplit("/", 1)[0] + "/nothing")


# Size


def test_a_middling_company(store: Store) -> None:
    """10k users, 1k groups, 200k memberships: more than one slice of every bulk path."""
    rng = np.random.default_rng(3)
    ids = [f"u{i}" for i in range(10_000)]
    users = users_frame([(i, i, i + "@x", "A", "B", "A B", True, "{}") for i in ids])
    groups = groups_frame([(f"g{i}", f"group {i}", "", "{}") for i in range(1_000)])

    def snapshot(keys: np.ndarray) -> Snapshot:
        group, member = np.divmod(keys, len(ids))
        names = pd.array([f"g{i}" for i in group], dtype="str"), pd.array([ids[i] for i in member], dtype="str")
        return Snapshot.of(users, groups, memberships_from_columns(*names, ["user"] * len(keys)))

    keys = rng.permutation(10_000_000)[:200_000]
    first, second = snapshot(keys), snapshot(keys[1_000:])
    a = store.save_snapshot("source:acme", first, taken_at=AT, run="r1")
    b = store.save_snapshot("source:acme", second, taken_at=AT, run="r2")
    assert b.changed["memberships_removed"] == 1_000
    assert sum(b.changed.values()) == 1_000
    assert store.load_snapshot(a.id).digest() == first.digest()
    assert store.load_snapshot(b.id).digest() == second.digest()
    plan_id = plan(store, operations(60_000, name=pd.array(ids * 6, dtype="str")))
    assert store.operations(plan_id)["name"].tolist() == ids * 6


def test_the_runs_that_may_ask_about_a_plan(store: Store) -> None:
    for name, mode, status, number in (
        ("asks", "sync", "waiting", 7),
        ("asks-too", "sync", "waiting", 7),
        ("other plan", "sync", "waiting", 8),
        ("no plan", "sync", "waiting", None),
        ("over", "sync", "applied", 7),
        ("a batch", "react", "waiting", 7),
    ):
        store.start_run(run=name, source="acme", directory="crowd", mode=mode, flow_run_id=f"flow of {name}", at=AT)
        store.finish_run(name, status=status, summary={"plan": number}, at=AT)
    store.start_run(run="ended so", source="acme", directory="crowd", mode="sync", flow_run_id="flow", at=AT)
    store.finish_run("ended so", status="waiting", summary={"plan": 7, "status": "waiting"}, at=AT)
    assert store.asked_about("ended so") is None, "it asked nobody, and is over"
    assert store.runs_asking("acme", "crowd", 7) == {one: f"flow of {one}" for one in ("asks", "asks-too")}
    assert store.runs_asking("other", "crowd", 7) == {}
    store.start_run(run="asks", source="acme", directory="crowd", mode="sync", at=AT)
    assert set(store.runs_asking("acme", "crowd", 7)) == {"asks-too"}, "it was resumed"
    assert store.asked_about("asks") == 7, "and knows what it asked about"


@pytest.mark.parametrize("status", ["planned", "refused", "waiting", "approved", "rejected", "applied", "superseded"])
def test_the_newest_plan_about_everybody_that_was_not_begun(store: Store, status: str) -> None:
    assert store.stopped_plan("acme", "crowd") is None
    first = plan(store, asks='[{"text":"x"}]')
    store.set_plan_status(first, status, at=AT)
    plan(store, about="person:1")
    plan(store, source="other")
    found = store.stopped_plan("acme", "crowd")
    assert (found.id if found else None) == (None if status in ("applied", "superseded") else first)
    assert found is None or found.asks == '[{"text":"x"}]'
    store.set_plan_status(plan(store), "applied", at=AT)
    assert store.stopped_plan("acme", "crowd") is None, "a later one was carried out"


def test_the_operations_of_a_plan_about_some_by_id_by_name_and_by_the_name_that_they_get(store: Store) -> None:
    kinds = ["user_create", "user_rename", "user_update", *["membership_add"] * 4]
    frame = operations(
        7,
        name=["new", "old", "old", "new", "renamed", "old", "other"],
        target=["", "renamed", "", "staff", "staff", "staff", "staff"],
        source_id=["1", "2", "", "", "", "", "3"],
    )
    number = plan(store, frame.assign(kind=pd.Categorical(kinds)))
    plan(store, frame.assign(kind=pd.Categorical(kinds)))

    def found(names: set[str], ids: set[str]) -> list[int]:
        return store.operations_about(number, names, ids)["seq"].tolist()

    assert found(set(), {"1"}) == [0, 3]
    assert found(set(), {"2"}) == [1, 4]
    assert found({"old"}, set()) == [1, 2, 5]
    assert found({"old"}, {"1", "3"}) == [0, 1, 2, 3, 5, 6]
    assert found({"nobody\0", "staff"}, {"9"}) == []
    assert list(store.operations_about(number, set(), {"1"}).columns) == list(frame.columns)


def test_the_accounts_that_a_source_renamed_since(store: Store) -> None:
    frame = operations(4, name=["a", "b", "c", "d"], target=["b", "c", "d", "e"], source_id=list("1123"))
    frame["kind"] = pd.Categorical(["user_rename"] * 3 + ["user_update"])
    number = plan(store, frame)
    store.intend(number, [0, 1, 2, 3], at=AT)
    store.record(number, [(1, "done", ""), (3, "done", "")], at=AT + timedelta(seconds=2))
    store.record(number, [(0, "done", "")], at=AT + timedelta(seconds=1))
    store.record(number, [(2, "failed", "")], at=AT + timedelta(seconds=1))
    since = AT + timedelta(seconds=1)
    rows = list(store.renamed_since("acme", "crowd", since).itertuples(index=False, name=None))
    assert rows == [("a", "b", "1"), ("b", "c", "1")], "what was done, oldest first"
    assert len(store.renamed_since("acme", "crowd", since + timedelta(seconds=1))) == 1
    for other in (("other", "crowd"), ("acme", "other")):
        assert not len(store.renamed_since(*other, since))
