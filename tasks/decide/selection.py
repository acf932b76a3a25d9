"""A run about one person or some, one group, or those who changed: the same road, and of its plan only what concerns
them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
import pandas as pd

from connectors.errors import ConfigurationError
from connectors.model import Snapshot, crowd_id
from connectors.operations import Entity, Kind, kinds
from connectors.spelling import meant
from tasks.decide.names import among, crowd_ids, equal
from tasks.policy import Policy

CHANGED: Final = "changed"
"""What a plan about all who changed is said to be about."""


@dataclass(frozen=True, slots=True)
class Selection:
    """One person (id), some `people` (ids), or one group (Crowd name): the part of a plan that concerns them, and what
    it needs. Or everybody who changed, and whoever that concerns (ids): a plan made of these alone. `signed_in` (ids):
    who did so just now."""

    person: str = ""
    group: str = ""
    people: frozenset[str] = frozenset()
    changed: frozenset[str] | None = None
    signed_in: frozenset[str] = frozenset()

    def __str__(self) -> str:
        if self.changed is not None:
            return CHANGED
        if self.people:
            return f"people:{orjson.dumps(sorted(self.people)).decode()}"
        return f"person:{self.person}" if self.person else f"group:{self.group}"

    @classmethod
    def read(cls, about: str) -> Selection | None:
        """What a stored plan is about; None: everybody. Raises `ConfigurationError` where it is no plan of a sync."""
        kind, _, key = about.partition(":")
        if about == CHANGED:
            raise ConfigurationError("this plan is about those who had changed then; run again, which plans them anew")
        if kind in ("link", "links"):
            raise ConfigurationError("this plan changes ownership by hand; only `crowdsync links` carries it out")
        if not about:
            return None
        if kind == "people":
            return cls(people=frozenset(orjson.loads(key)))
        return cls(person=key) if kind == "person" else cls(group=key)

    @property
    def persons(self) -> frozenset[str]:
        """The one person, or the several, that it is about (ids)."""
        return frozenset({self.person}) if self.person else self.people

    def of(
        self,
        operations: pd.DataFrame,
        now: Iterable[str] = (),
        then: Iterable[str] = (),
        nestings: Callable[[], Collection[tuple[str, str]]] | None = None,
    ) -> pd.DataFrame:
        """Operations of a plan → those of the people or group, in their order. `now` and `then`: the Crowd names that
        their accounts have and get; `nestings` gives the (parent, child) of Crowd's groups, None where they are not
        known."""
        if self.changed is not None:
            return operations
        kind, name, target = operations["kind"], crowd_ids(operations["name"]), crowd_ids(operations["target"])
        identity = operations["source_id"]
        member, nesting, of_group = (_entity(kind, entity) for entity in ("membership", "nesting", "group"))
        removes = among(kind, {Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE})
        renames, creates = equal(kind, Kind.USER_RENAME), equal(kind, Kind.USER_CREATE)
        marks = operations["marks"].to_numpy(dtype=bool)
        if self.group:
            group = crowd_id(self.group)
            chosen = (member | nesting) & (target == group).to_numpy()
            chosen |= (nesting | of_group) & (name == group).to_numpy()
            comes, goes = name[chosen & member & ~removes], name[chosen & member & removes]
            # Its members must be there, under their names, and ours.
            chosen |= creates & among(name, comes) | renames & among(target, comes)
            chosen |= marks & (among(name, goes) | among(name, comes) & ~among(name, name[renames]))
        else:
            chosen = ~of_group & among(identity, self.persons)
            has, gets = ({crowd_id(one) for one in names if one} for names in (now, then))
            chosen |= member & np.where(removes, among(name, has), among(name, gets))
        groups = pd.concat([target[chosen & (member | nesting)], name[chosen & nesting]])
        chosen |= among(kind, {Kind.GROUP_CREATE, Kind.GROUP_ATTRIBUTES}) & among(name, groups)
        made = name[chosen & equal(kind, Kind.GROUP_CREATE)]
        chosen |= equal(kind, Kind.GROUP_DELETE) & among(name, made)
        while True:  # a name that is wanted must first be given up by whoever has it
            needed = pd.concat([target[chosen & renames], name[chosen & creates]])
            more = (renames | equal(kind, Kind.USER_DELETE)) & among(name, needed) & ~chosen
            if not more.any():
                break
            chosen |= more
        chosen |= marks & among(identity, identity[chosen & renames])
        adds = chosen & nesting & ~removes
        if adds.any():
            pairs = list(zip(target, name, strict=True))
            there = None if nestings is None else nestings()
            chosen |= _unwinding([pairs[i] for i in np.flatnonzero(adds)], pairs, kind, there)
        found: pd.DataFrame = operations[chosen]
        return found

    def holding(self, held: pd.DataFrame) -> pd.DataFrame:
        """Held records → those of the people or group, or all of those who changed."""
        if self.changed is not None:
            return held
        mine = equal(held["kind"], "user")
        if self.group:
            mine = ~mine & equal(crowd_ids(held["name"]), crowd_id(self.group))
        else:
            mine &= among(held["id"], self.persons)
        found: pd.DataFrame = held[mine]
        return found


def _entity(kinds_of: pd.Series, entity: Entity) -> np.ndarray:
    """Which of these kinds are of an entity: bool."""
    return among(kinds_of, {kind.value for kind in kinds(entity=entity)})


def _unwinding(
    adds: Collection[tuple[str, str]],
    pairs: Sequence[tuple[str, str]],
    kind: pd.Series,
    nestings: Collection[tuple[str, str]] | None,
) -> np.ndarray:
    """Operations that take away what nestings to be added would close a circle with: (parent, child) of each, and of
    each operation. All such operations, where the nestings of now are not known."""
    takes = kind.isin([Kind.NESTING_REMOVE, Kind.GROUP_DELETE]).to_numpy()
    if nestings is None or not takes.any():
        return np.asarray(takes & (kind == Kind.NESTING_REMOVE).to_numpy(), dtype=bool)
    below: dict[str, set[str]] = {}
    for parent, child in (*nestings, *adds):
        below.setdefault(parent, set()).add(child)

    def reached(start: str) -> set[str]:
        seen, todo = {start}, [start]
        while todo:
            new = below.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    found = np.zeros(len(kind), dtype=bool)
    under = [(parent, reached(child)) for parent, child in adds]
    for i in np.flatnonzero(takes):
        parent, child = pairs[int(i)]
        parent = parent or child  # a group that is deleted
        inside = reached(child)
        found[i] = any(parent in down and up in inside for up, down in under)
    return found


def select(source: Snapshot, links: pd.DataFrame, name: str, person: str, group: str) -> Selection | None:
    """The one person or group that a run is about; None: everybody.

    `person`: id, username or e-mail address in the source, or for one who is gone from there the Crowd username.
    Raises `ConfigurationError` where that is nobody, or several."""
    if group or not person:
        return Selection(group=group) if group else None
    users = source.users
    wanted = person.lower()
    for ids in (
        users["id"][users["id"] == person],
        users["id"][(users["username"].str.lower() == wanted) | (users["email"].str.lower() == wanted)],
        links["id"][
            (links["source"] == name)
            & (links["kind"] == "user")
            & ((links["id"] == person) | (crowd_ids(links["name"]) == crowd_id(person)))
        ],
    ):
        if len(ids) > 1:
            raise ConfigurationError(
                f"person: {person!r} fits {', '.join(ids.head(5))} in {name}; give one of these ids"
            )
        if len(ids):
            return Selection(person=str(ids.iloc[0]))
    raise nobody(name, person, users["username"].tolist())


def refuse_unknown_group(
    group: str, source: Snapshot, links: pd.DataFrame, directory: Snapshot, policy: Policy
) -> None:
    """Raises `ConfigurationError` where a group is neither in Crowd nor one that could come there from the source: a
    run about it would find nothing to do, and somebody would believe that all is well."""
    made = policy.groups.named(source.groups["name"]).tolist()
    linked = links["name"][links["kind"] == "group"].tolist()
    known = [*directory.groups["name"], *linked, *made, *policy.groups.everyone, *source.held["name"]]
    if crowd_id(group) in set(map(crowd_id, known)):
        return
    like = meant(group, known) or "; look at its name in Crowd's console"
    raise ConfigurationError(f"group: neither Crowd nor the source has a group {group!r}{like}")


def nobody(source: str, person: str, usernames: Iterable[str]) -> ConfigurationError:
    """That a person is not known; `usernames` are those that are."""
    like = meant(person, usernames) or "; check its spelling"
    return ConfigurationError(f"person: {source} has nobody with the id, username or e-mail address {person!r}{like}")
