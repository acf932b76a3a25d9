"""What news may do beside a plan that was stopped: nothing that a person is asked about in it, or turned down.

People are known by their ids, for names change: by a plan, and by what was carried out since the stopped one was made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from connectors.model import crowd_id, sizes_only
from connectors.operations import KINDS, Kind

_RENAMES: Final = KINDS[Kind.USER_RENAME].phase
_PAIRS: Final = ("membership", "nesting")


@sizes_only
@dataclass(frozen=True, slots=True)
class Stopped:
    """What the stopped plan has of the operations of a plan about some (bool for each): `asked`, a person is asked
    about it; `same`, it does it too, asked or not."""

    asked: np.ndarray
    same: np.ndarray


@sizes_only
@dataclass(frozen=True, slots=True)
class _Subject:
    """Whom or what an operation is about: `person` is the id in the source, "" where nobody is known; `into`: what they
    are put into or taken out of."""

    kind: Kind
    entity: str
    name: str
    into: str
    person: str


def owners_by_name(links: pd.DataFrame, source: str) -> dict[str, str]:
    """Links of accounts → folded username → id in this source."""
    of_users = links[(links["kind"] == "user").to_numpy() & (links["source"] == source).to_numpy()]
    return dict(zip(map(crowd_id, of_users["name"]), of_users["id"], strict=True))


def first_owners(renamed: pd.DataFrame) -> dict[str, str]:
    """Renames (name, source_id), oldest first → folded username before the first of them → id in the source."""
    return dict(zip(map(crowd_id, renamed["name"][::-1]), renamed["source_id"][::-1], strict=True))


def people_in(operations: pd.DataFrame, owners: Mapping[str, str]) -> list[str]:
    """Whom each operation of a plan is about (id, or ""); `owners`: of the accounts, by their names before the plan."""
    return [subject.person for subject in _subjects(operations, owners)]


def beside(
    stopped: pd.DataFrame, of: Collection[Kind], then: Mapping[str, str], made: pd.DataFrame, now: Mapping[str, str]
) -> Stopped:
    """The operations of the stopped plan, the kinds of them that are asked about, and those of a plan about some.
    `then` and `now`: who owns what account before each of the two."""
    theirs = list(_subjects(stopped, then))
    by_person, by_name = dict[Any, list[_Subject]](), dict[Any, list[_Subject]]()
    for one in theirs:
        by_person.setdefault((one.person, one.into), []).append(one)
        by_name.setdefault((one.entity, one.name, one.into), []).append(one)

    def alike(mine: _Subject) -> Iterator[_Subject]:
        if mine.person:
            yield from by_person.get((mine.person, mine.into), ())
        for one in by_name.get((mine.entity, mine.name, mine.into), ()):
            if not mine.person or not one.person:  # (else it is told by the ids)
                yield one

    asked, same = np.zeros(len(made), dtype=bool), np.zeros(len(made), dtype=bool)
    for at, mine in enumerate(_subjects(made, now)):
        kinds = {one.kind for one in alike(mine)}
        asked[at] = mine.kind in of and not kinds.isdisjoint(of)
        same[at] = mine.kind in kinds
    return Stopped(asked, same)


def _subjects(operations: pd.DataFrame, owners: Mapping[str, str]) -> Iterator[_Subject]:
    """A name means another account once renames have been done: who has it then is told by the plan itself."""
    before, after = dict(owners), dict(owners)
    columns = [operations[name].astype("str").tolist() for name in ("kind", "name", "target", "source_id")]
    rows = [
        (phase, Kind(kind), crowd_id(name), crowd_id(target), person)
        for phase, kind, name, target, person in zip(operations["phase"].tolist(), *columns, strict=True)
    ]
    for phase, kind, name, target, person in rows:
        if person and KINDS[kind].entity == "user":
            if phase <= _RENAMES:
                before[name] = person
            if phase >= _RENAMES:
                after[target if kind is Kind.USER_RENAME else name] = person
    for phase, kind, name, target, person in rows:
        entity = KINDS[kind].entity
        of_user = entity in ("user", "membership")
        who = (after if phase > _RENAMES else before).get(name, "") if of_user else ""
        into = target if entity in _PAIRS else ""
        yield _Subject(kind, "user" if of_user else "group", name, into, (person if entity == "user" else "") or who)
