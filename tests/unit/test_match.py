"""The match on frames of a few rows: which record of Crowd is whose."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from connectors.model import (
    Snapshot,
    held_frame,
)
from tasks.decide.map import desired
from tasks.decide.match import Matched, match
from tasks.decide.plan import plan
from tasks.policy import Policy
from tests.support.frames import person, policy_with, reasons, snapshot, team
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import SOURCE, links, mark


def matched(
    source: Snapshot, crowd: ModelCrowd | Snapshot, known: ModelLinks | None = None, **matching: Any
) -> Matched:
    policy = policy_with(matching=matching)
    directory = crowd.snapshot() if isinstance(crowd, ModelCrowd) else crowd
    return match(desired(source, policy), directory, (known or ModelLinks()).frame(), policy, SOURCE)


def found_in(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    return {str(row.id): (str(row.account), str(row.how)) for row in frame.itertuples()}


def four_ways() -> ModelCrowd:
    """An account that each key but the others would find for ann."""
    crowd = ModelCrowd()
    crowd.add_user("linked")
    crowd.add_user("marked", attributes=mark("1"))
    crowd.add_user("ann")
    crowd.add_user("mailed", email="A@x.org")
    return crowd


ALL = ("id", "username", "email")
LINKED = (SOURCE, "user", "1", "Linked")


@pytest.mark.parametrize(
    ("less", "link", "keys", "account", "how"),
    [
        ((), True, ALL, "linked", "link"),
        ((), True, ("email", "username"), "linked", "link"),
        ((), False, ALL, "marked", "id"),
        ((), False, ("email", "username", "id"), "marked", "id"),
        (("marked",), False, ALL, "ann", "username"),
        (("marked",), False, ("email", "username"), "mailed", "email"),
        (("marked", "ann"), False, ALL, "mailed", "email"),
        (("marked", "mailed"), False, ("id", "email", "username"), "ann", "username"),
        (("marked", "ann"), False, ("id", "username"), "", ""),
        (("marked", "ann"), False, ("id",), "", ""),
        (("marked", "ann", "mailed"), False, ALL, "", ""),
    ],
)
def test_match_goes_by_link_then_mark_then_the_keys_in_order(
    less: tuple[str, ...], link: bool, keys: tuple[str, ...], account: str, how: str
) -> None:
    crowd = four_ways()
    for name in less:
        del crowd.users[name]
    known = links(LINKED) if link else None
    result = matched(snapshot([person("1", "Ann", "a@X.org")]), crowd, known, users=keys)
    assert found_in(result.users) == {"1": (account, how)}
    assert result.held.empty


def test_match_holds_who_wants_an_unowned_name_that_it_may_not_adopt() -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann")
    crowd.add_group("Core")
    result = matched(snapshot([person("1", "ann")], [team("g", "core")]), crowd)
    assert "to adopt it add 'username' to matching.users" in reasons(result.held)["1"]
    assert "to adopt it add 'name' to matching.groups" in reasons(result.held)["g"]
    assert result.users.empty
    assert result.groups.empty
    result = matched(
        snapshot([person("1", "ann")], [team("g", "core")]), crowd, users=["username"], groups=["id", "name"]
    )
    assert found_in(result.users) == {"1": ("ann", "username")}
    assert found_in(result.groups) == {"g": ("core", "name")}


def test_match_holds_what_is_ambiguous() -> None:
    crowd = ModelCrowd()
    crowd.add_user("one", email="a@x.org")
    crowd.add_user("two", email="A@X.ORG")
    result = matched(snapshot([person("1", "ann", "a@x.org")]), crowd, users=["email"])
    way = "link the right one by hand: crowdsync links make"
    assert reasons(result.held) == {"1": f"its email fits 'one', 'two' of Crowd; {way}"}
    assert not result.users["account"].tolist()

    crowd = ModelCrowd()
    crowd.add_user("one", email="a@x.org")
    result = matched(snapshot([person("1", "ann", "a@x.org"), person("2", "bob", "a@x.org")]), crowd, users=["email"])
    why = f"its email fits 'ann', 'bob' of the source and 'one' of Crowd; {way}"
    assert reasons(result.held) == {"1": why, "2": why}
    assert result.users.empty


def test_match_does_not_go_by_an_empty_email() -> None:
    crowd = ModelCrowd()
    crowd.add_user("one")
    result = matched(snapshot([person("1", "ann"), person("2", "bob")]), crowd, users=["email"])
    assert found_in(result.users) == {"1": ("", ""), "2": ("", "")}


def test_match_holds_who_has_a_mark_twice() -> None:
    crowd = ModelCrowd()
    crowd.add_user("one", attributes=mark("1"))
    crowd.add_user("two", attributes=mark("1"))
    result = matched(snapshot([person("1", "ann")]), crowd, users=ALL)
    assert "several Crowd users carry its id mark" in reasons(result.held)["1"]
    assert set(result.accounts["owner"]) == {""}
    result = matched(snapshot([person("1", "ann")]), crowd, links((SOURCE, "user", "1", "two")))
    assert found_in(result.users) == {"1": ("two", "link")}
    assert list(result.accounts["copied"]) == [True, False], "the other is a copy and stays as it is"


@pytest.mark.parametrize("how", ["link", "mark", "both"])
@pytest.mark.parametrize("keys", [("id",), ("id", "username", "email")])
def test_match_never_takes_what_another_source_owns(how: str, keys: tuple[str, ...]) -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann", email="a@x.org", attributes=mark("7", "other") if how != "link" else {})
    group = crowd.add_group("core", mark="other:8" if how != "link" else "")
    assert group
    known = links(("other", "user", "7", "ann"), ("other", "group", "8", "core")) if how != "mark" else None
    source = snapshot([person("1", "ann", "a@x.org"), person("2", "zoe", "a@x.org")], [team("g", "Core")])
    result = matched(source, crowd, known, users=keys, groups=["id", "name"])
    assert found_in(result.users) == {"2": ("", "")}
    assert result.groups.empty
    for key in ("1", "g"):
        assert "another source owns" in reasons(result.held)[key]


def test_match_believes_neither_another_sources_link_nor_our_mark_where_they_differ() -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann", attributes=mark("1"))
    result = matched(snapshot([person("1", "ann")]), crowd, links(("other", "user", "7", "ANN")), users=ALL)
    assert "is another source by its link and acme:1 by its mark: neither is touched" in reasons(result.held)["1"]
    result = matched(snapshot([person("1", "ann")]), crowd, links((SOURCE, "user", "2", "ann")), users=ALL)
    assert result.accounts["owner"].tolist() == [""]
    assert "acme:2 by its link and acme:1 by its mark" in reasons(result.held)["1"]


def test_match_leaves_a_name_that_another_source_has_a_link_to() -> None:
    known = links(("other", "user", "7", "ann"), ("other", "group", "7", "bob"))
    result = matched(snapshot([person("1", "ann"), person("2", "bob")]), ModelCrowd(), known)
    assert "another source has a link to this name" in reasons(result.held)["1"]
    assert found_in(result.users) == {"2": ("", "")}, "a group's name is not a user's"


UNREAD = [("user", "bob", "Bob", "extract", "no username"), ("group", "core", "Core", "extract", "why")]


def test_match_reserves_the_names_of_records_that_cannot_be_read() -> None:
    source = snapshot([person("1", "bob"), person("2", "ann"), person("3", "core")], [team("g", "CORE")])
    result = matched(source, snapshot(held=UNREAD), links((SOURCE, "user", "2", "bob")))
    assert found_in(result.users) == {"3": ("", "")}
    for key, kind in (("1", "user"), ("2", "user"), ("g", "group")):
        assert f"its Crowd {kind} cannot be read" in reasons(result.held)[key], key


def test_nobody_is_renamed_to_the_name_of_a_record_that_cannot_be_read() -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann", first_name="F", last_name="L", display_name="D", attributes=mark("1"))
    readable = crowd.snapshot()
    directory = Snapshot.of(readable.users, readable.groups, readable.memberships, held_frame(UNREAD))
    source, policy = snapshot([person("1", "bob")]), Policy()
    made = plan(
        match(desired(source, policy), directory, ModelLinks().frame(), policy, SOURCE),
        source,
        directory,
        policy,
        SOURCE,
    )
    assert made.operations.empty, made.operations.to_string()
    assert "1" in reasons(made.held)
