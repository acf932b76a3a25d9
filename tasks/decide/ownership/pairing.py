"""What one source owns in Crowd, with the one person or group of another source that gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from connectors.model import sizes_only
from tasks.decide.names import among, crowd_ids, fold
from tasks.decide.ownership.changes import CHANGES
from tasks.decide.ownership.records import KINDS, Wanted, owners, typed


@sizes_only
@dataclass(frozen=True, slots=True)
class Pairing:
    """What goes from one source to another. `pairs`: kind, name, mark, was, ends, owner, active, and of the person or
    group who gets it `becomes` (the Crowd name that it wants) and `stays` (whether it is active). `left_out`: kind,
    name, owner, reason."""

    pairs: pd.DataFrame
    left_out: pd.DataFrame


Key = str | Mapping[str, str]
"""By what pairs are found: username, email, or the ids that a person wrote down, old → new."""


def pair(
    records: pd.DataFrame, links: pd.DataFrame, wanted: Wanted, old: str, by: Key, kinds: Sequence[str] = KINDS
) -> Pairing:
    """What `old` owns in Crowd, with the one person or group of the source `wanted` who gets it.

    A pair is unique on both sides, or left out with the reason. Ids that were written down settle what is else too
    dangerous to guess: privileged memberships, an inactive account that somebody active would get, another address.
    """
    pairs, left = [], []
    for kind in kinds:
        mine = records[(records["kind"] == kind) & records["owner"].str.startswith(f"{old}:")].reset_index(drop=True)
        found, reasons = _partners(kind, mine, records, links, wanted, old, by)
        good = reasons == ""
        tied = owners(links[links["kind"] == kind])
        theirs = wanted.people[wanted.people["kind"] == kind].iloc[found[good]]
        pairs.append(
            mine.loc[good, ["kind", "name", "mark", "active"]].assign(
                was=mine["owner"][good],
                ends=np.where(among(mine["owner"][good], tied), mine["owner"][good], ""),
                owner=(wanted.source + ":" + theirs["id"]).to_numpy(dtype=object),
                becomes=theirs["name"].to_numpy(dtype=object),
                stays=theirs["active"].to_numpy(dtype=bool),
            )
        )
        left.append(mine.loc[~good, ["kind", "name", "owner"]].assign(reason=reasons[~good]))
        left.append(_gone(kind, records, links, old))
    return Pairing(pd.concat(pairs, ignore_index=True), pd.concat(left, ignore_index=True))


def _gone(kind: str, records: pd.DataFrame, links: pd.DataFrame, source: str) -> pd.DataFrame:
    """Links of a source whose Crowd record is not there."""
    ties = links[(links["kind"] == kind) & (links["source"] == source)]
    of_kind = records[records["kind"] == kind]
    ties = ties[~among(crowd_ids(ties["name"]), of_kind["key"]) & ~np.isin(owners(ties), of_kind["owner"])]
    reason = f"Crowd has no {kind} of this name any more; end it: crowdsync links cut"
    return pd.DataFrame({"kind": kind, "name": ties["name"], "owner": owners(ties), "reason": reason}, dtype="str")


def _partners(
    kind: str, mine: pd.DataFrame, records: pd.DataFrame, links: pd.DataFrame, wanted: Wanted, old: str, by: Key
) -> tuple[np.ndarray, np.ndarray]:
    """Where among the wanted of a kind the partner of each record stands, and why it has none ("": it has one)."""
    theirs = wanted.people[wanted.people["kind"] == kind].reset_index(drop=True)
    compared, why = _compared(kind, mine, records, theirs, old, by), _Reasons(len(mine))
    found = _found(kind, mine, compared, wanted, why)
    if len(theirs):
        partner = theirs.iloc[np.where(found < 0, 0, found)].reset_index(drop=True)
        _refuse_owners(kind, wanted.source + ":" + partner["id"], records, links, why)
        if not compared.chosen:
            _refuse_guesses(kind, mine, partner, compared.word, wanted.source, why)
    return found, why.text


class _Reasons:
    """Why each of so many records has no partner; the first reason stays."""

    def __init__(self, count: int) -> None:
        self.text = np.full(count, "", dtype=object)

    def because(self, which: Any, text: Any) -> None:
        """Those of `which` (bool) that have no reason yet get this text, or theirs of these texts."""
        fresh = np.asarray(which, dtype=bool) & (self.text == "")
        self.text[fresh] = text if isinstance(text, str) else np.asarray(text, dtype=object)[fresh]


@sizes_only
@dataclass(frozen=True, slots=True)
class _Compared:
    """What is compared of our records (`ours`) and of the people or groups of the source (`theirs`): `word` names it,
    `chosen` says that a person wrote the pairs down. Neither may stand twice in its `unique_…`."""

    word: str
    chosen: bool
    ours: pd.Series
    theirs: pd.Series
    unique_ours: pd.Series
    unique_theirs: pd.Series


def _compared(
    kind: str, mine: pd.DataFrame, records: pd.DataFrame, theirs: pd.DataFrame, old: str, by: Key
) -> _Compared:
    if isinstance(by, Mapping):
        ours = mine["owner"].str.slice(len(old) + 1).map(lambda one: by.get(one, "")).astype("str")
        return _Compared("id", True, ours, theirs["id"], ours, theirs["id"])
    if kind == "user" and by == "email":
        every, keys = _address(records.loc[records["kind"] == kind, "email"]), _address(theirs["email"])
        return _Compared("e-mail address", False, _address(mine["email"]), keys, every, keys)
    word = "name" if kind == "group" else "username"
    return _Compared(word, False, mine["key"], crowd_ids(theirs["name"]), mine["key"], fold(theirs["name"]))


def _found(kind: str, mine: pd.DataFrame, compared: _Compared, wanted: Wanted, why: _Reasons) -> np.ndarray:
    """Where the one partner of each record stands, -1 where there is none, with the reason."""
    new, word, ours, chosen = wanted.source, compared.word, compared.ours, compared.chosen
    why.because(mine["unread"] != "", "cannot be read in Crowd (" + mine["unread"] + "); mend it there first")
    why.because(mine["doubt"] != "", mine["doubt"] + "; settle that first: crowdsync links cut, then make")
    why.because(mine["protected"], "is protected; take it out of the policy's protection first")
    why.because(ours == "", "is not in the list of ids" if chosen else f"has no {word} in Crowd")
    why.because(
        among(ours, compared.unique_ours[compared.unique_ours.duplicated(keep=False).to_numpy()]),
        f"several Crowd {kind}s have its {word}" if not chosen else "several ids of the list go to the same one",
    )
    doubled = compared.unique_theirs.duplicated(keep=False).to_numpy()
    why.because(among(ours, compared.theirs[doubled]), f"several of {new} have its {word}")
    found = pd.Index(compared.theirs[~doubled]).get_indexer(pd.Index(ours))
    found = np.where(found >= 0, np.flatnonzero(~doubled)[found] if (~doubled).any() else -1, -1)
    none = found < 0
    if none.any():
        held = wanted.held[wanted.held["kind"] == kind]
        reasons = dict(zip(crowd_ids(held["name"]), held["reason"], strict=True))
        texts = [f"{new} holds it: {reasons.get(key, '')}" for key in mine["key"]]
        why.because(none & among(mine["key"], list(reasons)), texts)
        nobody = f"{new} wants nobody with this {word} in Crowd" if kind == "user" else f"{new} has no such group"
        why.because(none, nobody)
    return found


def _refuse_owners(kind: str, theirs: pd.Series, records: pd.DataFrame, links: pd.DataFrame, why: _Reasons) -> None:
    """Whoever (`<source>:<id>`) owns something in Crowd already gets nothing more."""
    taken = records.loc[(records["kind"] == kind) & (records["owner"] != ""), ["owner", "mark", "name"]]
    tied = links[links["kind"] == kind]
    has = (
        dict(zip(taken["mark"], taken["name"], strict=True))
        | dict(zip(taken["owner"], taken["name"], strict=True))
        | dict(zip(owners(tied), tied["name"], strict=True))
    )
    texts = [f"{owner} has the Crowd {kind} {has.get(owner, '')!r} already" for owner in theirs]
    why.because(among(theirs, list(has)), texts)


def _refuse_guesses(kind: str, mine: pd.DataFrame, partner: pd.DataFrame, word: str, new: str, why: _Reasons) -> None:
    """What is too dangerous to pair because a `word` is the same: a person must have written it down."""
    way = "; if it is meant, name the pair in a file: --by FILE.csv"
    texts = [f"has the power of {power!r}, and whoever gets it has it too{way}" for power in mine["power"]]
    why.because(mine["power"] != "", texts)
    why.because(
        ~mine["active"].to_numpy(dtype=bool) & partner["active"].to_numpy(dtype=bool),
        f"the account is inactive, its owner may have left, and {new} has somebody active of this {word}{way}",
    )
    local, other = (_address(frame["email"]).str.split("@").str[0] for frame in (mine, partner))
    why.because(
        (kind == "user") & (local != "") & (other != "") & (local != other),
        f"another e-mail address in {new}, so it may be another person{way}",
    )


def _address(emails: pd.Series) -> pd.Series:
    return emails.str.strip().str.lower()


def moves(pairing: Pairing, by: str) -> pd.DataFrame:
    """Pairs → changes of ownership."""
    pairs = pairing.pairs
    return typed(
        pairs.assign(write=True, how=f"moved by {by}", why="moved from " + pairs["was"] + f" by {by}"), CHANGES
    )
