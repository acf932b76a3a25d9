"""Which Crowd account belongs to whom: by link and mark, then by the policy's keys.

Desired state + directory + links → matched: each desired record with the account it already has, or
none. A record whose account is uncertain is held; an account that somebody else owns is never taken, nor one of which
the link says this and the mark in Crowd that. What is adopted by a key gives nobody power or access.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from connectors.model import Snapshot, held_frame, held_records, memberships_frame, sizes_only, users_frame
from tasks.decide.adoption import adopt
from tasks.decide.collisions import collided
from tasks.decide.correlation import Correlation, Surroundings
from tasks.decide.kept import kept
from tasks.decide.map import Desired
from tasks.decide.names import among, crowd_ids, equal, places
from tasks.decide.owners import owned
from tasks.policy import Policy, matches

SHARED = "everyone"
"""How a group for everyone is matched that is there already: our people go in and out, and that is all."""
HANDED_OVER = "handed over"
"""How a group takes the Crowd group of one that is gone from the source, under another id."""
ADOPTED = "adopted by "
"""How the reason of an operation begins whose record was found by a key; the key follows, and how the link was made."""
LINKS = ("source", "kind", "id", "name", "how", "made_at")


@sizes_only
@dataclass(frozen=True, slots=True)
class Matched:
    """Desired records with `account` (the id of their Crowd record, "" to be created) and `how`.

    `accounts` and `directory_groups` are the directory's users and groups with `mark` (the value of
    the id attribute), `owner` (the id in this source that owns it, ""), `foreign` (another source
    owns it), and where link and mark contradict each other `contested`, and whom they name of this source (`linked`,
    `marked`). `stale` are our links (kind, id, name) whose Crowd record is gone. `held` has the columns of
    `connectors.model`. `unknown_marks`: how many records bear a mark of this source of which the links know nothing,
    though they know others: they are older than Crowd then. `handed_over`: groups (name, before, after: ids) that
    take the Crowd group of one that is gone.
    """

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame
    accounts: pd.DataFrame
    directory_groups: pd.DataFrame
    stale: pd.DataFrame
    held: pd.DataFrame
    warnings: pd.DataFrame = field(default_factory=held_frame)
    unknown_marks: int = 0
    handed_over: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["name", "before", "after"], dtype="str")
    )


def match(
    desired: Desired,
    directory: Snapshot,
    links: pd.DataFrame,
    policy: Policy,
    source: str,
    read: Snapshot | None = None,
    advice: str = "",
) -> Matched:
    """`links` has the columns of `LINKS`, of every source of this directory. `read`: the source, whole, which says who
    is gone from it; without it nobody is. `advice`: what keeps groups of one name apart in this source."""
    accounts = owned(directory.users, links[equal(links["kind"], "user")], source)
    absent = _absent(links, directory)
    around = Surroundings(directory, absent, policy, source, advice)
    nobody = pd.Index([], dtype="str")
    users, held_users = _match(Correlation.of("user", desired.users, accounts), around, nobody)
    there = None if read is None else pd.concat([read.groups["id"], read.held["id"][equal(read.held["kind"], "group")]])
    unread = directory.held[equal(directory.held["kind"], "group")]
    of_groups = links[["source", "kind", "id", "name"]][equal(links["kind"], "group")]
    groups, wanted, held_groups, handed_over = _match_groups(
        desired.groups, desired.everyone, directory.groups, unread, of_groups, policy, source, there, advice
    )
    held = pd.concat([desired.held, held_users, held_groups], ignore_index=True)
    stale = absent[["kind", "id", "name"]][equal(absent["source"], source)]
    unknown = sum(
        int(equal(records["how"], "id").sum())
        for kind, records in (("user", accounts), ("group", groups))
        if (equal(links["source"], source) & equal(links["kind"], kind)).any()
    )
    return Matched(
        users, wanted, desired.memberships, accounts, groups, stale, held, desired.warnings, unknown, handed_over
    )


@kept
def _match_groups(  # (all that the groups' part of matching goes by)
    desired: pd.DataFrame,
    everyone: pd.Index,
    existing: pd.DataFrame,
    unread: pd.DataFrame,
    links: pd.DataFrame,
    policy: Policy,
    source: str,
    there: pd.Series | None,
    advice: str,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Desired groups, those (ids) of them that everybody is in, Crowd's groups and the held ones, and all links of
    groups → Crowd's groups with their owners, the matched groups, those that are held, those that changed hands.
    `there`: the groups (ids) that the source has, None where that is not known."""
    groups = owned(existing, links, source)
    directory = Snapshot(users_frame(), existing, memberships_frame(), unread)
    around = Surroundings(directory, _absent(links, directory), policy, source, advice)
    shared, own = _shared(desired, everyone, groups)
    wanted, held = _match(Correlation.of("group", own, groups), around, _gone(groups, there, policy))
    wanted = pd.concat([wanted, shared], ignore_index=True)
    groups, handed_over = _handed_over(wanted, groups)
    return groups, wanted, held, handed_over


def _gone(groups: pd.DataFrame, there: pd.Series | None, policy: Policy) -> pd.Index:
    """Crowd groups (ids) that may go to another group: their owner is gone from the source, neither in it nor held."""
    if there is None or policy.groups.handover == "never":
        return pd.Index([], dtype="str")
    free = (groups["owner"] != "") & ~among(groups["owner"], there)
    if free.any():
        free &= ~matches(groups["name"], policy.protection.groups) & ~policy.privileged(groups["name"])
    heirless: pd.Index = pd.Index(groups["id"][free])
    return heirless


def _handed_over(wanted: pd.DataFrame, groups: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Crowd groups with their new owners, and which groups changed hands: name, before, after."""
    new = wanted[wanted["how"] == HANDED_OVER]
    at = places(new["account"], groups["id"])
    owner = groups["owner"].to_numpy(dtype=object).copy()
    changed = pd.DataFrame(
        {"name": groups["name"].iloc[at].to_numpy(), "before": owner[at], "after": new["id"].to_numpy()}, dtype="str"
    )
    owner[at] = new["id"].to_numpy(dtype=object)
    return groups.assign(owner=pd.array(owner, dtype="str")), changed


def _shared(desired: pd.DataFrame, everyone: pd.Index, groups: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Desired groups → those for everyone that are there already as somebody else's, and all others."""
    at = places(crowd_ids(desired["name"]), groups["id"])
    shared = among(desired["id"], everyone) & (at >= 0)
    shared[shared] = groups["owner"].iloc[at[shared]].to_numpy() != desired["id"][shared].to_numpy()
    found = desired[shared].assign(account=groups["id"].iloc[at[shared]].to_numpy(), how=SHARED)
    return found, desired[~shared].reset_index(drop=True)


def _absent(links: pd.DataFrame, directory: Snapshot) -> pd.DataFrame:
    """Links whose Crowd record is not there."""
    names = crowd_ids(links["name"])
    users = equal(links["kind"], "user")
    there = np.where(users, among(names, directory.users["id"]), among(names, directory.groups["id"]))
    return links[~there]


def _match(found: Correlation, around: Surroundings, gone: pd.Index) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Desired records of one kind → those that are matched, and those that are held. `gone`: Crowd records (ids)
    whose owner is gone, and which a new one of the same name takes over."""
    _by_owner(found, around.source)
    _hold_unreadable(found, around)
    _hold_collided(found, around)
    _take_over(found, gone)
    adopt(found, around)
    _hold_taken_names(found, around)
    columns = {"account": pd.array(found.account, dtype="str"), "how": pd.array(found.how, dtype="str")}
    bad = found.reason != ""
    held = held_records(found.kind, found.wanted[bad], found.name, "match", pd.Series(found.reason[bad]))
    return found.wanted.assign(**columns)[~bad].reset_index(drop=True), held


def _by_owner(found: Correlation, source: str) -> None:
    """Gives every desired record the Crowd record that it owns, by its link or, where links are lost, by the mark in
    Crowd. Where several Crowd records have its mark, or link and mark contradict each other, it is held."""
    wanted, existing, kind = found.wanted, found.existing, found.kind
    records = np.flatnonzero(~equal(existing["owner"], ""))
    at = places(wanted["id"], existing["owner"].iloc[records])
    hit = at >= 0
    found.account[hit] = existing["id"].to_numpy(dtype=object)[records][at[hit]]
    found.how[hit] = existing["how"].to_numpy(dtype=object)[records][at[hit]]
    copied = existing[existing["copied"]]
    if len(copied):
        lost = ~hit & among(wanted["id"], copied["mark"].str.split(":", n=1).str[1])
        found.reason[lost] = f"several Crowd {kind}s carry its id mark; remove the mark from all but one"
    if existing["contested"].any():
        of = _contested(existing, found.name, kind, source)
        doubted = ~hit & among(wanted["id"], list(of))
        found.reason[doubted] = [of[identity] for identity in wanted["id"][doubted]]


def _hold_unreadable(found: Correlation, around: Surroundings) -> None:
    """Holds whoever has or wants the name of a Crowd record that cannot be read: it may be anybody's."""
    wanted, kind, absent, unread = found.wanted, found.kind, around.absent, around.directory.held
    broken = crowd_ids(unread["name"][equal(unread["kind"], kind) & ~equal(unread["name"], "")])
    if len(broken):
        known = absent["id"][
            (absent["source"] == around.source) & (absent["kind"] == kind) & among(crowd_ids(absent["name"]), broken)
        ]
        hidden = found.open & (among(found.names, broken) | among(wanted["id"], known))
        found.reason[hidden] = f"its Crowd {kind} cannot be read; see the held records of the directory"


def _hold_collided(found: Correlation, around: Surroundings) -> None:
    """Holds those whose Crowd names collide. (Who is disabled takes no part: they keep the name of their account, and
    without one need none.)"""
    advice = ""
    if around.advice and found.kind == "group":
        advice = f", or set {around.advice} in [sources.{around.source}]"
    wanted = found.wanted
    clashing = collided(wanted[found.name], wanted["original"], found.account, found.active, advice)
    fine = found.reason == ""
    found.reason[fine] = clashing[fine]


def _take_over(found: Correlation, gone: pd.Index) -> None:
    """Gives new records the Crowd records of their name whose owner is gone."""
    if len(gone):
        heir = found.open & among(found.names, gone)
        found.account[heir], found.how[heir] = found.names.to_numpy(dtype=object)[heir], HANDED_OVER


def _hold_taken_names(found: Correlation, around: Surroundings) -> None:
    """Holds new records whose name in Crowd is somebody else's, or nobody's and not adopted.

    (A name that another id of this source owns may become free, and a new one may look like another: the plan
    decides, which knows all names as they will be.)"""
    existing, names, kind, reason = found.existing, found.names, found.kind, found.reason
    matching, absent = around.policy.matching, around.absent
    clash, foreign, ownerless = np.zeros((3, len(names)), dtype=bool)
    new = np.flatnonzero(found.open)
    if len(new):  # (who is disabled wants no account; an active one of that name may be theirs all the same)
        at = places(names.iloc[new], existing["id"])
        needs = found.active[new] | _active(existing, at)
        new, at = new[(at >= 0) & needs], at[(at >= 0) & needs]
        clash[new] = True
        foreign[new] = existing["foreign"].to_numpy()[at]
        # (One that has just been adopted goes to its new owner's name: the plan decides.)
        adopted = among(existing["id"].iloc[at], found.account[found.account != ""])
        ownerless[new] = (existing["owner"].iloc[at] == "").to_numpy() & ~adopted & ~foreign[new]
    reason[clash & foreign] = "another source owns the Crowd record of this name; the first owner keeps it"
    disputed = existing["id"][existing["contested"]]
    reason[clash & foreign & among(names, disputed)] = (
        "the Crowd record of this name is in dispute: its link and its mark name different owners"
    )
    way = f"to adopt it add '{found.name}' to matching.{kind}s"
    if matching.adoption == "listed":
        way = f"to adopt it list it in matching.listed_{kind}s"
    reason[clash & ownerless] = f"a Crowd {kind} of this name exists, owned by nobody; {way}, or link it by hand"
    others = absent["name"][~equal(absent["source"], around.source) & equal(absent["kind"], kind)]
    reason[found.open & found.active & among(names, crowd_ids(others))] = (
        "another source has a link to this name; the first owner keeps it"
    )


def _active(existing: pd.DataFrame, at: np.ndarray) -> np.ndarray:
    """Which records at these positions (-1: none) are active; groups are."""
    if "active" not in existing or not len(existing):
        return np.asarray(at >= 0)
    return np.asarray(existing["active"].to_numpy(dtype=bool)[at] & (at >= 0))


def _contested(existing: pd.DataFrame, name: str, kind: str, source: str) -> dict[str, str]:
    """Whom links and marks name of this source that contradict each other → why they are held."""
    found: dict[str, str] = {}
    doubtful = existing[existing["contested"]]
    columns = (doubtful[one].tolist() for one in (name, "linked", "marked", "mark"))
    for shown, linked, marked, mark in zip(*columns, strict=True):
        why = (
            f"the Crowd {kind} {shown!r} is {f'{source}:{linked}' if linked else 'another source'} by its link "
            f"and {mark} by its mark: neither is touched; find out whose it is, then crowdsync links make {source} "
            f"ID {shown!r} --kind {kind}"
        )
        found |= {identity: why for identity in (linked, marked) if identity}
    return found


def orphans(matched: Matched, policy: Policy) -> pd.DataFrame:
    """What stands in Crowd and belongs to no source: kind, name, active; protected records are left out."""
    return _orphans(matched.accounts, matched.directory_groups, policy)


def ownerless(directory: Snapshot, links: pd.DataFrame, policy: Policy, source: str) -> pd.DataFrame:
    """`orphans` of a directory as it was read."""
    users, groups = (links[links["kind"] == kind] for kind in ("user", "group"))
    return _orphans(owned(directory.users, users, source), owned(directory.groups, groups, source), policy)


def _orphans(accounts: pd.DataFrame, groups: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    parts = []
    for kind, records, name, protected in (
        ("user", accounts, "username", policy.protection.users),
        ("group", groups, "name", policy.protection.groups),
    ):
        free = (records["owner"] == "") & ~records["foreign"] & ~matches(records[name], protected)
        active = records["active"] if kind == "user" else pd.Series(True, index=records.index)
        parts.append(pd.DataFrame({"kind": kind, "name": records[name], "active": active})[free])
    return pd.concat(parts, ignore_index=True)
