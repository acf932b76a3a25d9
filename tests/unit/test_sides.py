"""How a person stands on both sides: also one who is disabled or gone, and an account that is somebody else's; and what
a run would do is what the planner says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest

from connectors.errors import RecordError
from tasks.decide.explain import Explained, Known
from tasks.decide.plan import Departures
from tasks.decide.sides import explain_sides
from tests.support.frames import a_directory, person, policy_with, snapshot, team
from tests.support.model_crowd import ModelLinks

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SOURCE = snapshot(
    [person("1", "ann"), person("2", "bob", active=False), person("3", "cy"), person("4", "dan")],
    [team("g", "staff"), team("h", "ops")],
    [("g", "1", "user"), ("g", "2", "user"), ("h", "1", "user")],
)
ACTIVE = {"ann": True, "bob": True, "gone": True, "dan": False, "other": True, "nobodys": True}
CROWD = a_directory(ACTIVE, {"staff": ["ann", "bob", "gone"], "ops": []})
LINKS = ModelLinks(
    {
        **{("acme", "user", key): (name, "created") for key, name in {"1": "ann", "2": "bob", "9": "gone"}.items()},
        **{("acme", "group", key): (name, "created") for key, name in {"g": "staff", "h": "ops"}.items()},
        ("okta", "user", "7"): ("other", "created"),
    }
).frame()
LEFT = pd.DataFrame({"id": ["2", "9"], "since": pd.to_datetime(["2026-11-29 08:00Z"] * 2), "why": ["disabled", "gone"]})
SINCE = ", and counts as having left since 2026-11-29 08:00 UTC"
KNOWN = Known(CROWD, LINKS, "acme", Departures(LEFT, NOW))


def told(key: str, known: Known = KNOWN) -> list[tuple[str, str, tuple[str, ...], str]]:
    """The rows that are of one side, or of what a run would do."""
    rows: list[Explained] = explain_sides(SOURCE, policy_with(), key, known)
    return [(row.stage, row.what, row.after, row.rule) for row in rows if row.stage in ("source", "crowd", "plan")]


def test_somebody_on_both_sides_who_is_to_be_put_into_a_group() -> None:
    said = told("ann")
    assert ("source", "person", ("ann",), "is active in the source") in said
    assert ("crowd", "account", ("ann", "active"), "it belongs to acme:1") in said
    assert ("crowd", "in groups", ("1",), "staff") in said
    assert ("plan", "next run", ("put into group ops",), "is a member in the source") in said


def test_somebody_who_is_disabled_and_still_active_in_crowd() -> None:
    said = told("bob")
    why = (
        "is disabled in the source, and counts as having left since 2026-11-29 08:00 UTC (leavers.disabled: deactivate)"
    )
    assert said[0] == ("source", "person", ("bob", "disabled"), why)
    assert ("plan", "next run", ("deactivate bob",), "is disabled in the source") in said
    done = a_directory({**ACTIVE, "bob": False}, {"staff": ["ann", "bob", "gone"], "ops": []})
    said = told("bob", replace(KNOWN, directory=done))
    assert ("crowd", "account", ("bob", "inactive"), "it belongs to acme:2") in said
    assert not [row for row in said if row[2] == ("deactivate bob",)]


@pytest.mark.parametrize("key", ["gone", "GONE", "9"])
def test_somebody_who_is_gone_is_found_by_their_account_or_id(key: str) -> None:
    why = f"9 is not in the source any more{SINCE} (leavers.deleted: deactivate)"
    assert told(key) == [
        ("source", "person", ("gone",), why),
        ("crowd", "account", ("gone", "active"), "it belongs to acme:9"),
        ("crowd", "in groups", ("1",), "staff"),
        ("plan", "next run", ("deactivate gone",), "is gone from the source"),
    ]


@pytest.mark.parametrize(("key", "whose"), [("other", "okta:7"), ("nobodys", "no source")])
def test_an_account_of_nobody_in_the_source(key: str, whose: str) -> None:
    assert told(key) == [
        ("source", "person", ("nobody",), "nobody in the source has this id, username or e-mail address"),
        ("crowd", "account", (key, "active"), f"it belongs to {whose}"),
        ("crowd", "in groups", ("0",), "in none"),
    ]


def test_somebody_without_an_account_and_somebody_who_is_held() -> None:
    assert ("crowd", "account", (), "no account belongs to them") in told("cy")
    assert ("plan", "next run", ("create account cy",), "is new in scope") in told("cy")
    rows = explain_sides(SOURCE, policy_with(), "dan", KNOWN)
    assert [row.what for row in rows][-1] == "held", "an account that nobody owns has the name"


def test_nobody_at_all() -> None:
    with pytest.raises(RecordError, match=r"'annn'; did you mean 'ann'\?"):
        told("annn")
