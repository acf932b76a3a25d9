"""One record gets another owner by hand: made, handed over or cut, with what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from connectors.errors import ConfigurationError, RefusedError
from connectors.model import crowd_id, sizes_only
from tasks.decide.ownership.records import Wanted, owners, typed

CHANGES: Final = ("kind", "name", "mark", "write", "was", "ends", "owner", "how", "why")
"""A change of ownership: the `mark` that Crowd has now, whether to `write` another (not where it says somebody else, or
the record is gone), whose it `was` ("": nobody's), the owner whose link `ends` ("": none does), the new `owner` ("":
nobody), `how` that link is made, and `why` in words."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Changed:
    """A change of ownership (in the columns of `CHANGES`, none where it is so already) and what speaks against it."""

    change: pd.DataFrame
    doubts: tuple[str, ...] = ()

    def forced(self, force: bool) -> tuple[str, ...]:
        """The doubts that a person goes past. Raises `RefusedError` where there are some, and nobody said so."""
        if self.doubts and not force:
            raise RefusedError(f"{'; '.join(self.doubts)}: nothing was written; if it is meant, add --force")
        return self.doubts


def make(
    records: pd.DataFrame, links: pd.DataFrame, seen: Wanted | None, source: str, kind: str, identity: str, name: str
) -> Changed:
    """The Crowd record `name` gets an owner that has none. Raises `ConfigurationError` where it cannot."""
    owner = f"{source}:{identity}"
    row = _named(records, kind, name)
    ties = _ties(links, kind, owner)
    # (Copies of its mark are why somebody says which record it is.)
    sure = (records["kind"] == kind) & (records["owner"] == owner) & (records["doubt"] == "")
    for other in [*ties["name"], *records.loc[sure, "name"]]:
        if crowd_id(other) != row["key"]:
            raise ConfigurationError(
                f"{owner} has the Crowd {kind} {other!r} already; cut that link first: crowdsync links cut {source} "
                f"{identity} --kind {kind}"
            )
    if row["owner"] not in ("", owner):
        its_source, _, its_id = row["owner"].partition(":")
        way = f"crowdsync links hand-over {source} {its_id} {identity} --kind {kind}, or cut that link first"
        if its_source != source:
            way = f"cut that link first: crowdsync links cut {its_source} {its_id} --kind {kind}"
        raise ConfigurationError(f"{row['name']!r} belongs to {row['owner']}; {way}")
    if row["link"] == row["mark"] == owner:
        return Changed(_changes())
    doubts = [*_against(row), *_of_newcomer(seen, kind, source, identity)]
    if row["mark"] not in ("", owner):
        doubts.append(f"the mark of {row['name']!r} in Crowd says {row['mark']}")
    change = _changes((kind, row["name"], row["mark"], True, row["owner"], "", owner, "by hand", f"made for {owner}"))
    return Changed(change, tuple(doubts))


def hand_over(
    records: pd.DataFrame, links: pd.DataFrame, seen: Wanted | None, source: str, kind: str, old: str, new: str
) -> Changed:
    """What one id of a source owns goes to another of it. Raises `ConfigurationError` where it cannot."""
    if old == new:
        raise ConfigurationError(f"{old!r} is both ids; name the one that has the {kind}, then the one that gets it")
    was, owner = f"{source}:{old}", f"{source}:{new}"
    row = _owned(records, links, kind, source, old)
    if row is None:
        raise ConfigurationError(f"the Crowd {kind} of {was} is gone; end its link: crowdsync links cut {source} {old}")
    for other in _names(records, links, kind, owner):
        if crowd_id(other) != row["key"]:  # (a mark may give it to the newcomer already, and only the link does not)
            raise ConfigurationError(
                f"{owner} has the Crowd {kind} {other!r} already; cut that link first: crowdsync links cut {source} "
                f"{new} --kind {kind}"
            )
    doubts = [*_against(row), *_of_newcomer(seen, kind, source, new)]
    if row["doubt"]:
        doubts.append(row["doubt"])
    if seen is not None and len(_listed(seen, kind, old, active=True)):
        doubts.append(f"{was} is still there in the source, as read {seen.at:%Y-%m-%d %H:%M} UTC, and would lose it")
    ends = was if len(_ties(links, kind, was)) else ""
    why = f"handed over from {was}"
    return Changed(_changes((kind, row["name"], row["mark"], True, was, ends, owner, "by hand", why)), tuple(doubts))


def cut(records: pd.DataFrame, links: pd.DataFrame, source: str, kind: str, identity: str, name: str = "") -> Changed:
    """What an id of a source owns becomes nobody's; `name` says which Crowd record, where several carry its mark.
    Raises `ConfigurationError` where there is nothing to cut."""
    owner = f"{source}:{identity}"
    why = f"cut from {owner}"
    if name:
        row = _named(records, kind, name)
        if owner not in (row["link"], row["mark"]):
            raise ConfigurationError(f"neither link nor mark of the Crowd {kind} {row['name']!r} says {owner}")
    else:
        found = _owned(records, links, kind, source, identity)
        if found is None:
            gone = _ties(links, kind, owner)["name"].iloc[0]
            return Changed(_changes((kind, gone, "", False, owner, owner, "", "", why)))
        row = found
    ties = _ties(links, kind, owner)
    ends = owner if row["link"] == owner or (not name and len(ties)) else ""
    return Changed(_changes((kind, row["name"], row["mark"], row["mark"] == owner, owner, ends, "", "", why)))


def _against(row: pd.Series) -> Iterator[str]:
    """What speaks against giving a record to anybody. Raises `ConfigurationError` where it is never given."""
    if row["protected"]:
        raise ConfigurationError(f"{row['name']!r} is protected; take it out of the policy's protection first")
    if row["power"]:
        yield f"{row['name']!r} has the power of {row['power']!r}, and whoever gets it has it too"


def _of_newcomer(seen: Wanted | None, kind: str, source: str, identity: str) -> Iterator[str]:
    """What speaks against an id that is to get a record."""
    if seen is None:
        yield f"{source} was never read, so nobody knows whether it has the {kind} {identity!r}"
        return
    read = f"as read {seen.at:%Y-%m-%d %H:%M} UTC"
    people = seen.people[(seen.people["kind"] == kind) & (seen.people["id"] == identity)]
    if not len(_listed(seen, kind, identity)):
        yield f"{source} has no {kind} {identity!r}, {read}: the next run would treat the record as a leaver's"
    elif people.empty:
        yield f"{identity!r} is out of scope or held in {source}, {read}: the next run may treat it as a leaver"


def _listed(seen: Wanted, kind: str, identity: str, *, active: bool = False) -> pd.DataFrame:
    found = seen.listed[(seen.listed["kind"] == kind) & (seen.listed["id"] == identity)]
    return found[found["active"].astype(bool)] if active else found


def _named(records: pd.DataFrame, kind: str, name: str) -> pd.Series:
    row = records[(records["kind"] == kind) & (records["key"] == crowd_id(name))]
    if row.empty:
        raise ConfigurationError(f"Crowd has no {kind} {name!r}; name one that is there")
    return _read(row.iloc[0])


def _read(row: pd.Series) -> pd.Series:
    """The record, where Crowd's could be read. Raises `ConfigurationError`: nobody knows what else is in it."""
    if row["unread"]:
        raise ConfigurationError(
            f"the Crowd {row['kind']} {row['name']!r} cannot be read ({row['unread']}); mend it in Crowd first"
        )
    return row


def _ties(links: pd.DataFrame, kind: str, owner: str) -> pd.DataFrame:
    found: pd.DataFrame = links[(links["kind"] == kind).to_numpy() & (owners(links) == owner)]
    return found


def _names(records: pd.DataFrame, links: pd.DataFrame, kind: str, owner: str) -> list[str]:
    """The names of everything that a link or a mark gives to an owner."""
    ties = _ties(links, kind, owner)
    marked = records[(records["kind"] == kind) & ((records["link"] == owner) | (records["mark"] == owner))]
    return list(dict.fromkeys([*ties["name"], *marked["name"]]))


def _owned(records: pd.DataFrame, links: pd.DataFrame, kind: str, source: str, identity: str) -> pd.Series | None:
    """The one Crowd record of an id; None where its link points at nothing. Raises `ConfigurationError`."""
    owner = f"{source}:{identity}"
    ties = _ties(links, kind, owner)
    of_kind = records[records["kind"] == kind]
    linked = of_kind[of_kind["link"] == owner]
    if len(linked):
        return _read(linked.iloc[0])
    marked = of_kind[of_kind["owner"] == owner]
    if len(marked) > 1:
        raise ConfigurationError(
            f"several Crowd {kind}s carry the mark {owner}: {', '.join(map(repr, marked['name'].head(5)))}; take it "
            f"off all but one: crowdsync links cut {source} {identity} --kind {kind} --name NAME"
        )
    if len(marked):
        return marked.iloc[0]
    if ties.empty:
        raise ConfigurationError(f"{source} has no link of the {kind} {identity!r}; `crowdsync links show {source}`")
    return None


def _changes(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return typed(pd.DataFrame(rows, columns=list(CHANGES)), CHANGES)
