"""Sign-ins: who was read a moment ago is passed over, with a note; who was not, or is not known, is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.model import Snapshot, users_frame
from connectors.settings import Settings
from connectors.store import Store, WideTotals
from connectors.store.inbox import Hint
from deployments.sign_ins import passed_over, without_passed_over

AT = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)


def settings(tmp_path: Path, **more: Any) -> Settings:
    source = {"kind": "scim", "url": "https://idp.example.org", **more}
    return Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{tmp_path}/s.db"},
            "directory": {"url": "http://crowd.example.org", "application": "crowdsync"},
            "sources": {"acme": source},
        }
    )


def hint(number: int, key: str, kind: str = "user", via: str = "sign-in", attempts: int = 0) -> Hint:
    return Hint(number, "crowd", "acme", kind, key, via, AT, attempts, "", "")


def test_what_is_passed_over() -> None:
    due = [
        hint(1, "read"),
        hint(2, "other"),
        hint(3, "read", via="both"),
        hint(4, "read", via="poll"),
        hint(5, "read", kind="group"),
        hint(6, "read", attempts=1),
        hint(7, "unknown"),
    ]
    known = {"read", "other"}
    assert [one.id for one in passed_over(due, {"read": AT, "unknown": AT}, None, known)] == [1]
    assert [one.id for one in passed_over(due, {}, AT, known)] == [1, 2]
    assert passed_over(due, {}, None, known) == []


def there(store: Store, *people: str) -> None:
    rows = [(one, one, "", "", "", one, True, "{}") for one in people]
    store.save_snapshot("source:acme", Snapshot.of(users_frame(rows)), taken_at=AT, run="r")


def signed_in(store: Store, *people: str) -> list[Hint]:
    now = datetime.now(UTC)
    store.accept("crowd", "acme", [("user", one, "sign-in") for one in people], "", now)
    return store.due("crowd", now)


async def test_who_was_read_within_the_minutes_is_settled_with_a_note(store: Store, tmp_path: Path) -> None:
    there(store, "ann", "bob")
    now = datetime.now(UTC)
    due = signed_in(store, "ann")
    assert await without_passed_over(store, settings(tmp_path), due) == due, "she was never read"
    store.take([due[0].id], "run", now)
    store.settle([due[0].id], "done", "nothing to do", now)
    due = signed_in(store, "ann", "bob", "new")
    left = await without_passed_over(store, settings(tmp_path), due)
    assert [one.key for one in left] == ["bob", "new"]
    done = store.inbox(done_since=now - timedelta(hours=1))
    assert done["note"].str.startswith("passed over: read at").sum() == 1
    due = signed_in(store, "ann")
    assert [one.key for one in await without_passed_over(store, settings(tmp_path), due)] == ["bob", "new"]
    due = signed_in(store, "ann")
    assert {one.key for one in await without_passed_over(store, settings(tmp_path, sign_in_minutes=0), due)} == {
        "ann",
        "bob",
        "new",
    }


async def test_a_run_about_everybody_counts_but_not_where_a_sign_in_lets_in(store: Store, tmp_path: Path) -> None:
    there(store, "ann")
    store.save_wide_totals("crowd", "acme", WideTotals("p", "r", "s", datetime.now(UTC), {}))
    due = signed_in(store, "ann")
    lets_in = settings(tmp_path, policy={"operations": {"user_activate": "sign_in"}})
    assert await without_passed_over(store, lets_in, due) == due
    assert await without_passed_over(store, settings(tmp_path), due) == []


@pytest.mark.parametrize("minutes", [-1, 1441])
def test_minutes_have_bounds(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sign_in_minutes"):
        settings(tmp_path, sign_in_minutes=minutes)
