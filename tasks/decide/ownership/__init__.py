"""Who owns what in Crowd, and how that is changed by hand: made, cut, handed over, moved to another source.

Pure functions of tables; `tasks/write/links.py` carries out what they say. An owner is the text `<source>:<id>`, as it
stands in the mark; a change of ownership is an operation on the mark, and the link follows it in the journal. Nobody
gets an account by a guess: a pair that is not unique on both sides, or where anything speaks against it, is left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd
import pyarrow.compute as pc

from connectors.errors import ConfigurationError, RefusedError
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id, sizes_only
from connectors.operations import Kind
from tasks.decide.filter import in_scope
from tasks.decide.map import desired, usernames
from tasks.decide.match import split_mark
from tasks.decide.names import among, arrow_text, crowd_ids, fold
from tasks.decide.plan import MARKS
from tasks.policy import Policy, matches

KINDS: Final = ("user", "group")
BY_HAND: Final = "by hand: "
"""How the reason of an operation begins that changes ownership because a person said so."""
RECORDS: Final = ("kind", "key", "name", "email", "active", "owner", "link", "mark", "doubt", "power", "protected")
PEOPLE: Final = ("kind", "id", "name", "email", "active")
CHANGES: Final = ("kind", "name", "mark", "write", "was", "ends", "owner", "how", "why")
"""A change of ownership: the `mark` that Crowd has now, whether to `write` another (not where it says somebody else, or
the record is gone), whose it `was` ("": nobody's), the owner whose link `ends` ("": none does), the new `owner` ("":
nobody), `how` that link is made, and `why` in words."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """A person's decision about ownership, as the audit tells it; it is kept with its plan, also through a crash."""

    event: str
    actor: str
    login: str
    reason: str
    forced: tuple[str, ...] = ()

    def text(self) -> str:
        """As it is kept in place of a policy: such a plan is made under none."""
        return orjson.dumps({"by_hand": self}).decode()

    @classmethod
    def read(cls, policy: str) -> ByHand | None:
        """What a stored plan keeps; None: it is an ordinary one."""
        kept = orjson.loads(policy).get("by_hand")
        return None if kept is None else cls(**{**kept, "forced": tuple(kept["forced"])})

    def audited(self, plan: int, operations: pd.DataFrame) -> dict[str, Any] | None:
        """Operations of such a plan that hold now → the row of the audit chain; None where there are none."""
        changed = [
            {"kind": kind, "name": name, "from": was, "to": owner}
            for kind, name, was, _, owner, _ in _changes_of(operations)
        ]
        if not changed:
            return None
        subject = changed[0]["to"] or changed[0]["from"] if len(changed) == 1 else f"plan {plan}"
        details = {"plan": plan, "reason": self.reason, "login": self.login, "changes": changed}
        if self.forced:
            details["forced"] = list(self.forced)
        return {"event": self.event, "actor": self.actor, "subject": subject, "details": details}


# ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────


def crowd_records(directory: Snapshot, links: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Every user and group of Crowd with its owner, in the columns of `RECORDS`.

    `owner` is that of the link, or where there is none that of the mark; `doubt` says why it is uncertain. `power`
    names the privileged group that the record is, or is inside of, directly or through others.
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
                }
            )
        )
    return _typed(pd.concat(parts, ignore_index=True), RECORDS)


def owners(links: pd.DataFrame) -> np.ndarray:
    """Links → their owners, `<source>:<id>`."""
    return np.asarray(links["source"] + ":" + links["id"], dtype=object)


def _powers(directory: Snapshot, policy: Policy) -> dict[str, dict[str, str]]:
    """Kind → key of a user or group → the privileged group that it is, or is inside of."""
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
    return Wanted(source, at, _typed(pd.concat(both, ignore_index=True), PEOPLE), listed, held.assign(name=claimed))


# ── to another source ───────────────────────────────────────────────────────────────────────────────────────────


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
    return _typed(
        pairs.assign(write=True, how=f"moved by {by}", why="moved from " + pairs["was"] + f" by {by}"), CHANGES
    )


# ── one record ──────────────────────────────────────────────────────────────────────────────────────────────────


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
    return row.iloc[0]


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
        return linked.iloc[0]
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


# ── as operations, and back ─────────────────────────────────────────────────────────────────────────────────────


def operations(changes: pd.DataFrame) -> pd.DataFrame:
    """Changes of ownership → operations in the store's columns, on the mark. `record` and `before` say beside it whose
    link is made, and whose ends."""
    rows = []
    for seq, row in enumerate(changes.to_dict("records"), 1):
        mark = {ID_ATTRIBUTE: [row["owner"]] if row["owner"] else []} if row["write"] else {}
        before = {ID_ATTRIBUTE: [row["mark"]] if row["mark"] else []}
        rows.append(
            (
                *(
                    seq,
                    MARKS,
                    _KIND[row["kind"]].value,
                    row["name"],
                    "",
                    (row["owner"] or row["was"]).partition(":")[2],
                ),
                _json({"attributes": mark, "owner": row["owner"], "how": row["how"]}),
                _json({"attributes": before, "owner": row["ends"], "was": row["was"]}),
                BY_HAND + row["why"],
            )
        )
    columns = ("seq", "phase", "kind", "name", "target", "source_id", "record", "before", "reason")
    return pd.DataFrame(
        {
            name: pd.array(list(values), dtype="int64" if name in ("seq", "phase") else "str")
            for name, values in zip(columns, list(zip(*rows, strict=True)) or [()] * len(columns), strict=True)
        }
    )


def of_link_alone(operations: pd.DataFrame) -> np.ndarray:
    """Which changes of ownership need no write to Crowd: bool."""
    return operations["record"].str.startswith('{"attributes":{},').to_numpy(dtype=bool)


def made_links(operations: pd.DataFrame) -> pd.DataFrame:
    """Operations that hold → the links that were made by hand: source, kind, id, name, how."""
    rows = [
        (*owner.split(":", 1), kind, name, how) for kind, name, _, _, owner, how in _changes_of(operations) if owner
    ]
    frame = pd.DataFrame(rows, columns=["source", "id", "kind", "name", "how"], dtype="str")
    return frame[["source", "kind", "id", "name", "how"]]


def ended_links(operations: pd.DataFrame) -> pd.DataFrame:
    """Operations that hold → the links that ended by hand: source, kind, id."""
    rows = [(*ends.split(":", 1), kind) for kind, _, _, ends, _, _ in _changes_of(operations) if ends]
    return pd.DataFrame(rows, columns=["source", "id", "kind"], dtype="str")[["source", "kind", "id"]]


def _changes_of(operations: pd.DataFrame) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Operations → kind, name, whose it was, whose link ends, the new owner and how, of every change by hand."""
    by_hand = operations[operations["reason"].str.startswith(BY_HAND)]
    for kind, name, record, before in by_hand[["kind", "name", "record", "before"]].itertuples(index=False, name=None):
        after, was = orjson.loads(record), orjson.loads(before)
        yield kind.partition("_")[0], name, was["was"], was["owner"], after["owner"], after["how"]


_KIND: Final = {"user": Kind.USER_ATTRIBUTES, "group": Kind.GROUP_ATTRIBUTES}


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _changes(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return _typed(pd.DataFrame(rows, columns=list(CHANGES)), CHANGES)


def _typed(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    frame = frame[list(columns)].reset_index(drop=True)
    return frame.astype({name: "bool" if name in _FLAGS else "str" for name in columns})


_FLAGS: Final = ("active", "protected", "write")


# ── sources that are no more ────────────────────────────────────────────────────────────────────────────────────


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
