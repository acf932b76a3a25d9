"""The whole of a generated company as one digest, and what changes in it on its second day."""

from __future__ import annotations

import hashlib

import orjson

from deployments.sandbox.organisation import Organisation
from deployments.sandbox.server import members_of


def content(org: Organisation) -> str:
    everything = [
        org.scim_users(),
        org.scim_groups(),
        org.crowd_load("idp"),
        org.snapshot(["title"]).digest(),
        sorted(org.retired),
    ]
    return hashlib.sha256(orjson.dumps(everything)).hexdigest()


def groups_of(company: Organisation) -> dict[str, set[str]]:
    """The groups (ids) of each person."""
    found: dict[str, set[str]] = {person.id: set() for person in company.people}
    for team, members in zip(company.teams, members_of(company), strict=True):
        for member in members:
            found.setdefault(member, set()).add(team.id)
    return found


def different(before: Organisation, after: Organisation) -> set[str]:
    """Who is not as before (ids)."""
    people = [{person.id: person for person in one.people} for one in (before, after)]
    groups = [groups_of(one) for one in (before, after)]
    return {
        key
        for key in {*people[0], *people[1]}
        if people[0].get(key) != people[1].get(key) or groups[0].get(key) != groups[1].get(key)
    }


DAY_TWO = {
    "joiners": 9,
    "leavers": 8,
    "disabled": 7,
    "renamed": 6,
    "updated": 5,
    "moved": 4,
    "new_groups": 3,
    "renamed_groups": 2,
}
