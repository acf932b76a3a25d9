"""Groups whose members cannot be read: they stay exactly as they are, and everything else goes on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

import pytest

from connectors.contract import Changes, Held, Page, Scope
from connectors.model import GroupRow, Members, MembershipRow, Snapshot, groups_frame, memberships_frame, users_frame
from tasks.policy import Policy
from tasks.read.deltas import merged
from tasks.read.extract import read_source
from tests.road import FixedSource
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.pages import by_group
from tests.support.worlds import applied, planned

PEOPLE = [(key, f"{key}.name", f"{key}@corp.example", "F", "L", "F L", True, "{}") for key in "abc"]
TEAMS = [(key, f"Team {key}", "", "{}") for key in "ghi"]
MEMBERS = [("g", "a", "user"), ("g", "b", "user"), ("h", "c", "user"), ("h", "g", "group"), ("g", "i", "group")]
MEMBERS += [("i", "c", "user")]


class Unreadable(FixedSource):
    """A source whose groups `unread` have a member that makes no sense."""

    def __init__(self, snapshot: Snapshot, unread: Sequence[str] = ("g",)) -> None:
        super().__init__(snapshot)
        self.unread = unread

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        yield Page(list(self.snapshot.groups.itertuples(index=False, name=None)), True)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        yield Page([one for one in by_group(self.snapshot.memberships) if one.group not in self.unread], False)
        yield Page((), True, [Held("group", key, "", "a member has no id") for key in self.unread])


def source(people: Sequence[tuple[object, ...]] = PEOPLE, members: Sequence[MembershipRow] = MEMBERS) -> Snapshot:
    return Snapshot.of(users_frame(people), groups_frame(TEAMS), memberships_frame(members))


async def test_they_are_held_by_name_and_no_group_of_the_snapshot() -> None:
    found = await read_source(Unreadable(source()), Scope())
    assert list(found.groups["id"]) == ["h", "i"]
    assert found.held[["kind", "id", "name", "stage", "reason"]].to_numpy().tolist() == [
        ["group", "g", "Team g", "extract", "a member has no id"]
    ]
    rows = set(found.memberships.astype("str").itertuples(index=False, name=None))
    assert rows == {row for row in MEMBERS if row[0] != "g"}  # what they are a member of themselves stays


@pytest.mark.parametrize("linked", [True, False])
async def test_they_keep_their_memberships_in_crowd(linked: bool) -> None:
    """Whether the group is known by link or only by its name; everybody else joins and leaves as ever."""
    policy, crowd, links = Policy(), ModelCrowd(), ModelLinks()
    before = source()
    applied(planned(before, crowd, links, policy), crowd, links, random.Random(1))
    if not linked:
        links = ModelLinks()
    was = crowd.snapshot(()).memberships.astype("str")
    now = source(members=[("h", "a", "user"), ("h", "g", "group"), ("i", "c", "user")])
    found = await read_source(Unreadable(now), Scope())
    made = planned(found, crowd, links, policy)
    pairs = set(made.operations[["kind", "name", "target"]].itertuples(index=False, name=None))
    assert {pair for pair in pairs if pair[0].startswith(("membership", "nesting", "group"))} == {
        ("membership_add", "a.name", "Team h"),
        ("membership_remove", "c.name", "Team h"),
    }
    applied(made, crowd, links, random.Random(2))
    after = crowd.snapshot(()).memberships.astype("str")
    for memberships in (was, after):
        assert set(memberships.loc[memberships["group_id"] == "team g", "member_id"]) == {"a.name", "b.name", "team i"}


async def test_in_a_delta_they_keep_what_was_read_before() -> None:
    before = source()
    held = [Held("group", "g", "", "a member has no id")]
    now = merged(before, Changes("m", groups=[TEAMS[0]], replaced=["g", "h"], memberships=[MEMBERS[3]], held=held))
    assert list(now.groups["id"]) == ["h", "i"]
    assert now.held[["id", "name"]].to_numpy().tolist() == [["g", "Team g"]]
    rows = set(now.memberships.astype("str").itertuples(index=False, name=None))
    assert rows == set(MEMBERS) - {("h", "c", "user")}
    again = merged(now, Changes("m", groups=[TEAMS[0]], replaced=["g"], memberships=[("g", "a", "user")]))
    assert again.held.empty
    assert list(again.groups["id"]) == ["g", "h", "i"]
