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
    kind: str,
    mine: pd.DataFrame,
    records: pd.DataFrame,
    links: pd.DataFrame,
    wanted: Wanted,
    old: str,
    by: Key,
) -> tuple[np.ndarray, np.ndarray]:
    """Where among the wanted of a kind the partner of each record stands, and why it has none ("": it has one)."""
    new = wanted.source
    theirs = wanted.people[wanted.people["kind"] == kind].reset_index(drop=True)
    chosen = not isinstance(by, str)
    word = "id" if chosen else "name" if kind == "group" else "e-mail address" if by == "email" else "username"
    if isinstance(by, Mapping):
        ours = mine["owner"].str.slice(len(old) + 1).map(lambda one: by.get(one, "")).astype("str")
        keys, unique_ours, unique_keys = theirs["id"], ours, theirs["id"]
    elif word == "e-mail address":
        ours, keys = _address(mine["email"]), _address(theirs["email"])
        unique_ours, unique_keys = _address(records.loc[records["kind"] == kind, "email"]), keys
    else:
        ours, keys = mine["key"], crowd_ids(theirs["name"])
        unique_ours, unique_keys = ours, fold(theirs["name"])
    reason = np.full(len(mine), "", dtype=object)

    def because(which: Any, text: Any) -> None:
        fresh = np.asarray(which, dtype=bool) & (reason == "")
        reason[fresh] = text if isinstance(text, str) else np.asarray(text, dtype=object)[fresh]

    because(mine["doubt"] != "", mine["doubt"] + "; settle that first: crowdsync links cut, then make")
    because(mine["protected"], "is protected; take it out of the policy's protection first")
    because(ours == "", "is not in the list of ids" if chosen else f"has no {word} in Crowd")
    because(
        among(ours, unique_ours[unique_ours.duplicated(keep=False).to_numpy()]),
        f"several Crowd {kind}s have its {word}" if not chosen else "several ids of the list go to the same one",
    )
    doubled = unique_keys.duplicated(keep=False).to_numpy()
    because(among(ours, keys[doubled]), f"several of {new} have its {word}")
    found = pd.Index(keys[~doubled]).get_indexer(pd.Index(ours))
    found = np.where(found >= 0, np.flatnonzero(~doubled)[found] if (~doubled).any() else -1, -1)
    held = wanted.held[wanted.held["kind"] == kind]
    told = dict(zip(crowd_ids(held["name"]), held["reason"], strict=True))
    none = found < 0
    if none.any():
        because(none & among(mine["key"], list(told)), [f"{new} holds it: {told.get(key, '')}" for key in mine["key"]])
        because(none, f"{new} wants nobody with this {word} in Crowd" if kind == "user" else f"{new} has no such group")
    if not len(theirs):
        return found, reason
    partner = theirs.iloc[np.where(none, 0, found)].reset_index(drop=True)
    theirs_now = new + ":" + partner["id"]
    taken = records.loc[(records["kind"] == kind) & (records["owner"] != ""), ["owner", "mark", "name"]]
    tied = links[links["kind"] == kind]
    has = (
        dict(zip(taken["mark"], taken["name"], strict=True))
        | dict(zip(taken["owner"], taken["name"], strict=True))
        | dict(zip(owners(tied), tied["name"], strict=True))
    )
    because(
        among(theirs_now, list(has)),
        [f"{owner} has the Crowd {kind} {has.get(owner, '')!r} already" for owner in theirs_now],
    )
    if chosen:
        return found, reason
    way = "; if it is meant, name the pair in a file: --by FILE.csv"
    because(
        mine["power"] != "",
        [f"has the power of {power!r}, and whoever gets it has it too{way}" for power in mine["power"]],
    )
    stands = partner["active"].to_numpy(dtype=bool)
    because(
        ~mine["active"].to_numpy(dtype=bool) & stands,
        f"the account is inactive, its owner may have left, and {new} has somebody active of this {word}{way}",
    )
    local, other = (_address(frame["email"]).str.split("@").str[0] for frame in (mine, partner))
    because(
        (kind == "user") & (local != "") & (other != "") & (local != other),
        f"another e-mail address in {new}, so it may be another person{way}",
    )
    return found, reason


def _address(emails: pd.Series) -> pd.Series:
    return emails.str.strip().str.lower()


def moves(pairing: Pairing, by: str) -> pd.DataFrame:
    """Pairs → changes of ownership."""
    pairs = pairing.pairs
    return typed(
        pairs.assign(write=True, how=f"moved by {by}", why="moved from " + pairs["was"] + f" by {by}"), CHANGES
    )
