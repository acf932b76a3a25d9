"""Who owns what in Crowd now, and whom a source wants in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from connectors.model import ID_ATTRIBUTE, Snapshot, sizes_only
from tasks.decide.filter import in_scope
from tasks.decide.map import desired, usernames
from tasks.decide.names import among, arrow_text, crowd_ids
from tasks.decide.owners import split_mark
from tasks.policy import Policy, matches

KINDS: Final = ("user", "group")
RECORDS: Final = (
    "kind", "key", "name", "email", "active", "owner", "link", "mark", "doubt", "power", "protected", "unread"
)  # fmt: skip
PEOPLE: Final = ("kind", "id", "name", "email", "active")
_FLAGS: Final = ("active", "protected", "write")


def crowd_records(directory: Snapshot, links: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Every user and group of Crowd with its owner, in the columns of `RECORDS`.

    `owner` is that of the link, or where there is none that of the mark; `doubt` says why it is uncertain. `power`
    names the privileged group that the record is, or is inside of, directly or through others; `unread` says why
    Crowd's record could not be read: it is there, and of its owner nothing but the link is known.
    """
    powers = _powers(directory, policy)
    parts = []
    for kind, frame, name, protected in (
        ("user", directory.users, "username", policy.protection.users),
        ("group", directory.groups, "name", policy.protection.groups),
    ):
        marks, _ = split_mark(frame["attributes"])
        mark = marks.to_numpy(dtype=object)
        ties = links[links["kind"] == kind]
        at = pd.Index(frame["id"]).get_indexer(pd.Index(crowd_ids(ties["name"])))
        link = np.full(len(frame), "", dtype=object)
        tied = owners(ties)[at >= 0]
        link[at[at >= 0]] = tied
        unlinked = (link == "") & (mark != "")
        doubt = np.full(len(frame), "", dtype=object)
        for i in np.flatnonzero((link != "") & (mark != "") & (link != mark)):
            doubt[i] = f"its link says {link[i]}, its mark in Crowd says {mark[i]}"
        doubled = pd.Series(np.where(unlinked, mark, "")).duplicated(keep=False).to_numpy()
        for i in np.flatnonzero(unlinked & (doubled | among(marks, tied))):
            doubt[i] = f"several Crowd {kind}s carry the mark {mark[i]}"
        parts.append(
            pd.DataFrame(
                {
                    "kind": pd.array([kind] * len(frame), dtype="str"),
                    "key": frame["id"].to_numpy(dtype=object),
                    "name": frame[name].to_numpy(dtype=object),
                    "email": frame["email"].to_numpy(dtype=object) if kind == "user" else "",
                    "active": frame["active"].to_numpy(dtype=bool) if kind == "user" else True,
                    "owner": np.where(link != "", link, mark),
                    "link": link,
                    "mark": mark,
                    "doubt": doubt,
                    "power": [powers[kind].get(key, "") for key in frame["id"]],
                    "protected": matches(frame[name], protected).to_numpy(dtype=bool),
                    "unread": "",
                }
            )
        )
        parts.append(_unread(kind, directory.held, ties))
    return typed(pd.concat(parts, ignore_index=True), RECORDS)


def _unread(kind: str, held: pd.DataFrame, ties: pd.DataFrame) -> pd.DataFrame:
    """What Crowd has of a kind and could not be read, in the columns of `RECORDS`."""
    rows = held[held["kind"] == kind]
    tied = dict(zip(crowd_ids(ties["name"]), owners(ties), strict=True))
    link = [tied.get(key, "") for key in rows["id"]]
    plain = dict.fromkeys(("email", "mark", "doubt", "power"), "")
    known = {"kind": kind, "key": rows["id"], "name": rows["name"], "owner": link, "link": link}
    return pd.DataFrame({**plain, **known, "active": True, "protected": False, "unread": rows["reason"]})


def owners(links: pd.DataFrame) -> np.ndarray:
    """Links → their owners, `<source>:<id>`."""
    return np.asarray(links["source"] + ":" + links["id"], dtype=object)


def _powers(directory: Snapshot, policy: Policy) -> dict[str, dict[str, str]]:
    """Kind → key of a user or group → the name of the privileged group that it is, or is inside of."""
    # A walk of its own: `adoption.with_power` tells whether, and a person who decides by hand must be told which.
    protection = policy.protection.model_copy(update={"privileged_allowed": ()})
    closed = policy.model_copy(update={"protection": protection}).privileged(directory.groups["name"]).to_numpy()
    memberships = directory.memberships
    nested = (memberships["member_kind"] == "group").to_numpy()
    below: dict[str, list[str]] = {}
    for parent, child in memberships.loc[nested, ["group_id", "member_id"]].astype("str").itertuples(index=False):
        below.setdefault(parent, []).append(child)
    groups: dict[str, str] = {}
    for key, name in directory.groups.loc[closed, ["id", "name"]].itertuples(index=False, name=None):
        todo = [key]
        while todo:
            one = todo.pop()
            if one not in groups:
                groups[one] = name
                todo += below.get(one, ())
    inside = ~nested & memberships["group_id"].isin(list(groups)).to_numpy()
    people = memberships.loc[inside, ["group_id", "member_id"]].astype("str")
    return {"user": dict(zip(people["member_id"], people["group_id"].map(groups), strict=True)), "group": groups}


@sizes_only
@dataclass(frozen=True, slots=True)
class Wanted:
    """A source as it was read: whom it wants in Crowd (`people`, in the columns of `PEOPLE`, by their Crowd names),
    who is `listed` at all (kind, id, active), and who is `held` (kind, the Crowd name that it wants, reason)."""

    source: str
    at: datetime
    people: pd.DataFrame
    listed: pd.DataFrame
    held: pd.DataFrame


def wanted(source: str, at: datetime, snapshot: Snapshot, policy: Policy) -> Wanted:
    """A source's sound snapshot → whom its policy wants in Crowd."""
    whom = desired(in_scope(snapshot, policy).snapshot, policy)
    users = whom.users[["id", "username", "email", "active"]].rename(columns={"username": "name"})
    groups = whom.groups[["id", "name"]]
    held = whom.held[["kind", "name", "reason"]].reset_index(drop=True)
    claimed = held["name"].to_numpy(dtype=object, copy=True)
    people, teams = ((held["kind"] == kind).to_numpy() for kind in KINDS)
    if policy.usernames.source == "username":
        claimed[people] = usernames(pd.DataFrame({"username": held["name"][people]}), policy.usernames)
    claimed[teams] = policy.groups.named(held["name"][teams])
    listed = pd.concat(
        [
            snapshot.users[["id", "active"]].assign(kind="user"),
            snapshot.groups[["id"]].assign(active=True, kind="group"),
            snapshot.held[["kind", "id"]].assign(active=snapshot.held["away"] == ""),
        ],
        ignore_index=True,
    )
    both = [users.assign(kind="user"), groups.assign(kind="group", email="", active=True)]
    return Wanted(source, at, typed(pd.concat(both, ignore_index=True), PEOPLE), listed, held.assign(name=claimed))


def abandoned(directory: Snapshot, links: pd.DataFrame, known: Collection[str], name: str, new: str) -> tuple[str, ...]:
    """Sources that own something in Crowd, by link or mark, and are not among the `known` ones: a sentence each, with
    the way out. `name` is the directory's, `new` a source that might get what they own."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, records in zip(KINDS, (directory.users, directory.groups), strict=True):
        ties = links[links["kind"] == kind]
        texts = arrow_text(records["attributes"])
        strange = pc.match_substring(texts, f'"{ID_ATTRIBUTE}":["')
        for source in known:  # (nearly all: what is left is few)
            strange = pc.and_not(strange, pc.match_substring(texts, f'"{ID_ATTRIBUTE}":["{source}:'))
        rest = records[strange.to_numpy(zero_copy_only=False)]
        marks, _ = split_mark(rest["attributes"][~among(rest["id"], crowd_ids(ties["name"]))])
        marks = marks[marks.str.contains(":", regex=False)]
        for source in [*ties["source"][~among(ties["source"], known)], *marks.str.split(":", n=1).str[0]]:
            found[source][kind] += 1
    return tuple(
        f"{source!r} owns {counts['user']:,} accounts and {counts['group']:,} groups of {name} and is no source of it "
        f"any more: nobody shuts its leavers out. To give them to another source: crowdsync links move {source} {new} "
        f"--by username; or configure {source!r} again"
        for source, counts in sorted(found.items())
    )


def typed(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of a frame, each as text or, where it says yes or no, as bool."""
    frame = frame[list(columns)].reset_index(drop=True)
    return frame.astype({name: "bool" if name in _FLAGS else "str" for name in columns})
