"""What the contract suite must know of a source to spoil its pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.sandbox.organisation import Person


@dataclass(frozen=True)
class Case:
    """One source.

    `users`, `groups` and `members` are regular expressions for the paths of their list requests, as
    `server.Fault.path` takes them ("" where there is no such request). `settings` are added to the emulator's own,
    with pages small enough that 30 users, 12 groups and 60 memberships take several; `page` is how many users come
    in a page then. `options` are given to the emulator beside its credentials. `counted` names the lists whose
    number the API tells, so that a page that lost a record is seen ("users", "groups", "members"). `links`: lists
    whose next page is a link or an address in the answer. `circular`: groups can be nested in a circle; `tree`:
    a group has one parent at most, of several the first counts. `username` is what stands in the column of a person.
    `narrow` are settings that leave some people or groups out, with `narrow_options` of the emulator; `never` are ids
    of (users, groups) that are there and in no list. `by_number`: pages of these lists have numbers, and nothing shows
    that one who stays was skipped when others came and went.
    In a record of a person `title` is the way to the username, `fields` the ways to the optional columns, and each of
    `off` a JSON merge patch that disables. `one` and `delta`: paths of the requests for one person and for changes.
    `attributes` are optional ones that a scope can ask for, the first of them one of many people. `others` are settings
    that change what people, groups and members are; they are tried one by one.
    """

    kind: str
    users: str
    groups: str
    members: str
    page: int = 10
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    counted: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    circular: bool = True
    tree: bool = False
    narrow: Mapping[str, Any] = field(default_factory=dict)
    narrow_options: Mapping[str, Any] = field(default_factory=dict)
    never: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    by_number: bool = False
    title: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    off: tuple[Mapping[str, Any], ...] = ()
    one: str = ""
    delta: str = ""
    attributes: tuple[str, ...] = ()
    others: tuple[Mapping[str, Any], ...] = ()
    username: Callable[[Person], str] = lambda person: f"{person.username}@acme.example"
