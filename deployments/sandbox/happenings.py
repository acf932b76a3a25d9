"""What happens in a company that a provider tells of: who came, changed, left, joined a team, signed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from deployments.sandbox.organisation import Organisation, Person, Team
from deployments.sandbox.server import members_of

What = Literal["create", "update", "disable", "enable", "delete", "join", "leave", "sign-in"]


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing. With a person alone it is about them, with a team alone about that, with both (join, leave) about who
    is in it. `before`: the person or team as they were."""

    number: int
    at: datetime
    what: What
    person: Person | None = None
    team: Team | None = None
    before: Person | Team | None = None

    @property
    def milliseconds(self) -> int:
        """When, since 1970."""
        return int(self.at.timestamp() * 1000)


class Happenings:
    """All that happened since the first company, the oldest first. What `forget` leaves out is there no more."""

    def __init__(self) -> None:
        self.all: list[Happening] = []
        self._last = 0
        self._company: Organisation | None = None

    def observe(self, company: Organisation) -> None:
        """Compares with the company before."""
        before, self._company = self._company, company
        if before is not None:
            for one in [*_of_people(before, company), *_of_teams(before, company), *_of_members(before, company)]:
                self._add(*one)

    def sign_in(self, person: str) -> None:
        """This person (id in the company) signs in."""
        assert self._company is not None
        who = next(one for one in self._company.people if one.id == person)
        self._add("sign-in", who, None, None)

    def forget(self, keep: int = 0) -> None:
        """Only the newest are kept, as after the time for which a provider keeps them."""
        self.all = self.all[len(self.all) - keep :] if keep else []

    def _add(self, what: What, person: Person | None, team: Team | None, before: Person | Team | None) -> None:
        self._last += 1
        self.all.append(Happening(self._last, datetime.now(UTC), what, person, team, before))


_One = tuple[What, Person | None, Team | None, Person | Team | None]


def _of_people(before: Organisation, after: Organisation) -> Iterator[_One]:
    old = {one.id: one for one in before.people}
    new = {one.id: one for one in after.people}
    for key, person in new.items():
        was = old.get(key)
        if was is None:
            yield "create", person, None, None
        elif was != person:
            turned: What = "enable" if person.active else "disable"
            yield ("update" if was.active == person.active else turned), person, None, was
    for key in old.keys() - new.keys():
        yield "delete", old[key], None, old[key]


def _of_teams(before: Organisation, after: Organisation) -> Iterator[_One]:
    old = {one.id: one for one in before.teams}
    new = {one.id: one for one in after.teams}
    for key, team in new.items():
        if key not in old:
            yield "create", None, team, None
        elif old[key] != team:
            yield "update", None, team, old[key]
    for key in old.keys() - new.keys():
        yield "delete", None, old[key], old[key]


def _of_members(before: Organisation, after: Organisation) -> Iterator[_One]:
    people = {one.id: one for one in (*before.people, *after.people)}
    old, new = _pairs(before), _pairs(after)
    teams = {one.id: one for one in (*before.teams, *after.teams)}
    here = {one.id for one in after.people}
    for team, person in sorted(new - old):
        yield "join", people[person], teams[team], None
    for team, person in sorted(old - new):
        if person in here:  # who is deleted leaves without a word
            yield "leave", people[person], teams[team], None


def _pairs(company: Organisation) -> set[tuple[str, str]]:
    members: Sequence[Sequence[str]] = members_of(company)
    return {(team.id, one) for team, some in zip(company.teams, members, strict=True) for one in some}
