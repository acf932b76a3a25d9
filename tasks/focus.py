"""A run about one person or one group: the same road, and of its plan only what concerns them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from connectors.contract import Kind
from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id
from tasks.names import among, crowd_ids


@dataclass(frozen=True, slots=True)
class Only:
    """One person (id) or one group (Crowd name): the part of a plan that concerns them, and what it needs."""

    person: str = ""
    group: str = ""

    def __str__(self) -> str:
        return f"person:{self.person}" if self.person else f"group:{self.group}"

    @classmethod
    def read(cls, about: str) -> Only | None:
        """What a stored plan is about; None: everybody."""
        kind, _, key = about.partition(":")
        return cls(**{kind: key}) if about else None

    def of(self, operations: pd.DataFrame, names: Iterable[str] = ()) -> pd.DataFrame:
        """Operations → those of the person or group, in their order. `names`: the Crowd names that the person's account
        has and gets."""
        kind, name, target = operations["kind"], crowd_ids(operations["name"]), crowd_ids(operations["target"])
        member, nesting = (kind.str.startswith(what).to_numpy() for what in ("membership", "nesting"))
        of_group = kind.str.startswith("group").to_numpy()
        renames, creates = (kind == Kind.USER_RENAME).to_numpy(), (kind == Kind.USER_CREATE).to_numpy()
        if self.group:
            group = crowd_id(self.group)
            chosen = (member | nesting) & (target == group).to_numpy() | nesting & (name == group).to_numpy()
            people = name[chosen & member]
            # Its members must be there, under their names, and ours.
            brings = renames | creates | operations["record"].str.contains(ID_ATTRIBUTE, regex=False).to_numpy()
            chosen |= brings & ~of_group & among(target.where(renames, name), people)
            chosen |= of_group & (name == group).to_numpy()
        else:
            chosen = ~of_group & (operations["source_id"] == self.person).to_numpy()
            chosen |= member & among(name, {crowd_id(one) for one in names if one})
        groups = pd.concat([target[chosen & (member | nesting)], name[chosen & nesting]])
        chosen |= of_group & (kind != Kind.GROUP_DELETE).to_numpy() & among(name, groups)
        while True:  # a name that is wanted must first be given up by whoever has it
            needed = pd.concat([target[chosen & renames], name[chosen & creates]])
            more = (renames | (kind == Kind.USER_DELETE).to_numpy()) & among(name, needed) & ~chosen
            if not more.any():
                break
            chosen |= more
        return operations[chosen]

    def holding(self, held: pd.DataFrame) -> pd.DataFrame:
        """Held records → those of the person or group."""
        if self.group:
            return held[(held["kind"] != "user") & (crowd_ids(held["name"]) == crowd_id(self.group))]
        return held[(held["kind"] == "user") & (held["id"] == self.person)]


def only_about(source: Snapshot, links: pd.DataFrame, name: str, person: str, group: str) -> Only | None:
    """The one person or group that a run is about; None: everybody.

    `person`: id, username or e-mail address in the source, or for one who is gone from there the Crowd username.
    Raises `ConfigurationError` where that is nobody, or several."""
    if group or not person:
        return Only(group=group) if group else None
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
            return Only(person=str(ids.iloc[0]))
    raise ConfigurationError(f"person: {name} has nobody with the id, username or e-mail address {person!r}")
