"""Which Crowd account belongs to whom: by link first, then by the policy's keys.

Desired state + directory + links → matched: each desired record with the account it already has, or
none. A record whose account is uncertain is held; an account that somebody else owns is never taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.model import ID_ATTRIBUTE, Snapshot, held_records, sizes_only
from tasks.map import Desired
from tasks.names import among, arrow_text, crowd_ids
from tasks.policy import Matching, Policy, matches

SHARED = "everyone"
"""How a group for everyone is matched that is there already: our people go in and out, and that is all."""
LINKS = ("source", "kind", "id", "name", "how", "made_at")


@sizes_only
@dataclass(frozen=True, slots=True)
class Matched:
    """Desired records with `account` (the id of their Crowd record, "" to be created) and `how`.

    `accounts` and `directory_groups` are the directory's users and groups with `mark` (the value of
    the id attribute), `owner` (the id in this source that owns it, ""), and `foreign` (another source
    owns it). `stale` are our links (kind, id, name) whose Crowd record is gone. `held` has the columns of
    `connectors.model`.
    """

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame
    accounts: pd.DataFrame
    directory_groups: pd.DataFrame
    stale: pd.DataFrame
    held: pd.DataFrame


def match(desired: Desired, directory: Snapshot, links: pd.DataFrame, policy: Policy, source: str) -> Matched:
    """`links` has the columns of `LINKS`, of every source of this directory."""
    accounts = _owned(directory.users, links[links["kind"] == "user"], source)
    groups = _owned(directory.groups, links[links["kind"] == "group"], source)
    absent = _absent(links, directory)
    users, held_users = _match(
        desired.users, accounts, absent, directory.held, source, "username", policy.matching, "user"
    )
    shared, own = _shared(desired, groups)
    wanted, held_groups = _match(own, groups, absent, directory.held, source, "name", policy.matching, "group")
    wanted = pd.concat([wanted, shared], ignore_index=True)
    held = pd.concat([desired.held, held_users, held_groups], ignore_index=True)
    stale = absent.loc[absent["source"] == source, ["kind", "id", "name"]]
    return Matched(users, wanted, desired.memberships, accounts, groups, stale, held)


def _shared(desired: Desired, groups: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Desired groups → those for everyone that are there already as somebody else's, and all others."""
    at = pd.Index(groups["id"]).get_indexer(pd.Index(crowd_ids(desired.groups["name"])))
    shared = among(desired.groups["id"], desired.everyone) & (at >= 0)
    shared[shared] = groups["owner"].iloc[at[shared]].to_numpy() != desired.groups["id"][shared].to_numpy()
    found = desired.groups[shared].assign(account=groups["id"].iloc[at[shared]].to_numpy(), how=SHARED)
    return found, desired.groups[~shared].reset_index(drop=True)


def _absent(links: pd.DataFrame, directory: Snapshot) -> pd.DataFrame:
    """Links whose Crowd record is not there."""
    names = crowd_ids(links["name"])
    users = (links["kind"] == "user").to_numpy()
    there = np.where(users, among(names, directory.users["id"]), among(names, directory.groups["id"]))
    return links[~there]


def _owned(records: pd.DataFrame, links: pd.DataFrame, source: str) -> pd.DataFrame:
    """Directory records + mark, owner and foreign. A link outranks a mark."""
    marks, texts = split_mark(records["attributes"])
    frame = records.assign(attributes=texts, mark=marks)
    at = pd.Index(frame["id"]).get_indexer(pd.Index(crowd_ids(links["name"])))
    there = at >= 0
    at, links = at[there], links[there]
    owner = np.full(len(frame), "", dtype=object)
    foreign = np.zeros(len(frame), dtype=bool)
    how = np.full(len(frame), "", dtype=object)
    ours = (links["source"] == source).to_numpy()
    owner[at[ours]] = links["id"].to_numpy(dtype=object)[ours]
    how[at[ours]] = "link"
    foreign[at[~ours]] = True
    linked_ids = pd.Index(links["id"][ours])
    by_mark = (owner == "") & ~foreign & (marks != "").to_numpy()
    prefix = f"{source}:"
    mine = by_mark & marks.str.startswith(prefix).to_numpy()
    ids = marks.str.slice(len(prefix))
    # A copied mark proves nothing: an id that has its link elsewhere, or two marks of one id.
    copied = (among(ids, linked_ids) | ids[mine].duplicated(keep=False).reindex(ids.index, fill_value=False)).to_numpy()
    owner[mine & ~copied] = ids.to_numpy(dtype=object)[mine & ~copied]
    how[mine & ~copied] = "id"
    foreign |= by_mark & ~mine
    return frame.assign(
        owner=pd.array(owner, dtype="str"),
        foreign=foreign,
        copied=mine & copied,
        how=pd.array(how, dtype="str"),
    )


def split_mark(texts: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Attributes text → (value of the id attribute or "", text without it)."""
    array = arrow_text(texts)
    member = rf'"{ID_ATTRIBUTE.replace(".", "[.]")}":\["(?P<mark>(?:[^"\\]|\\.)*)"(?:,"(?:[^"\\]|\\.)*")*\]'
    marks = pc.fill_null(pc.struct_field(pc.extract_regex(array, f"[{{,]{member}"), "mark"), "")
    marks = pc.replace_substring_regex(marks, r'\\(["\\/])', r"\1")
    rest = pc.replace_substring_regex(array, rf"([{{,]){member},?", r"\1")
    rest = pc.replace_substring_regex(rest, r",}\z", "}")
    return pd.Series(marks, dtype="str", index=texts.index), pd.Series(rest, dtype="str", index=texts.index)


def _match(
    wanted: pd.DataFrame,
    existing: pd.DataFrame,
    absent: pd.DataFrame,
    unread: pd.DataFrame,
    source: str,
    name: str,
    matching: Matching,
    kind: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys, listed = (
        (matching.users, matching.listed_users) if kind == "user" else (matching.groups, matching.listed_groups)
    )
    account = np.full(len(wanted), "", dtype=object)
    how = np.full(len(wanted), "", dtype=object)
    reason = np.full(len(wanted), "", dtype=object)
    ids = existing["id"].to_numpy(dtype=object)
    wanted_ids = crowd_ids(wanted[name])

    # 1. Ownership: a link, or where links are lost the mark in Crowd.
    owned = np.flatnonzero((existing["owner"] != "").to_numpy())
    at = pd.Index(existing["owner"].iloc[owned]).get_indexer(pd.Index(wanted["id"]))
    hit = at >= 0
    account[hit] = ids[owned][at[hit]]
    how[hit] = existing["how"].to_numpy(dtype=object)[owned][at[hit]]
    lost = ~hit & among(wanted["id"], _ids_of(existing[existing["copied"]]))
    reason[lost] = f"several Crowd {kind}s carry its id mark; remove the mark from all but one"

    # (A Crowd record that cannot be read may be anybody's: whoever has or wants its name waits.)
    broken = crowd_ids(unread["name"][(unread["kind"] == kind) & (unread["name"] != "")])
    if len(broken):
        known = absent["id"][
            (absent["source"] == source) & (absent["kind"] == kind) & among(crowd_ids(absent["name"]), broken)
        ]
        hidden = (account == "") & (reason == "") & (among(wanted_ids, broken) | among(wanted["id"], known))
        reason[hidden] = f"its Crowd {kind} cannot be read; see the held records of the directory"

    # 2. Adoption, by the policy's keys: only what nobody owns. What one takes, the others no longer meet.
    free = ((existing["owner"] == "") & ~existing["foreign"] & ~existing["copied"]).to_numpy(copy=True)
    if matching.adoption == "listed":
        free &= matches(existing[name], listed).to_numpy()
    settled, adopted = reason.copy(), -1
    while adopted != (adopted := int(free.sum())) and any(key != "id" for key in keys):
        reason = settled.copy()
        for key in keys:
            if key == "id":
                continue
            ours = wanted_ids if key != "email" else wanted["email"].str.lower()
            theirs = existing["id"] if key != "email" else existing["email"].str.lower()
            open_ = (account == "") & (reason == "") & (ours != "").to_numpy()
            pool = np.flatnonzero(free & (theirs != "").to_numpy())
            pool_keys = theirs.iloc[pool]
            twice = pool_keys.duplicated(keep=False)
            doubled = ours.duplicated(keep=False).to_numpy()
            unsure = open_ & (among(ours, pool_keys[twice]) | (doubled & among(ours, pool_keys)))
            if unsure.any():
                asked = ours[unsure].unique()
                people, found = _named(asked, ours, wanted[name]), _named(asked, pool_keys, existing[name].iloc[pool])
                reason[unsure] = [_unsure(key, people[k], found[k]) for k in ours[unsure]]
            unique = np.flatnonzero(~twice.to_numpy())
            at = pd.Index(pool_keys.iloc[unique]).get_indexer(pd.Index(ours))
            hit = open_ & ~unsure & (at >= 0)
            account[hit] = ids[pool][unique][at[hit]]
            how[hit] = key
            free[pool[unique[at[hit]]]] = False

    # 3. The wanted name must be free, or be one's own.
    clash, foreign, ownerless = np.zeros((3, len(wanted)), dtype=bool)
    new = np.flatnonzero((account == "") & (reason == ""))
    if len(new):
        at = pd.Index(existing["id"]).get_indexer(pd.Index(wanted_ids.iloc[new]))
        new, at = new[at >= 0], at[at >= 0]
        clash[new] = True
        foreign[new] = existing["foreign"].to_numpy()[at]
        # (One that has just been adopted goes to its new owner's name: the plan decides.)
        nobodys = (existing["owner"].iloc[at] == "").to_numpy() & ~among(
            existing["id"].iloc[at], account[account != ""]
        )
        ownerless[new] = nobodys & ~foreign[new]
    reason[clash & foreign] = "another source owns the Crowd record of this name; the first owner keeps it"
    adopt = "username" if kind == "user" else "name"
    way = f"to adopt it add '{adopt}' to matching.{kind}s"
    if matching.adoption == "listed":
        way = f"to adopt it list it in matching.listed_{kind}s"
    reason[clash & ownerless] = f"a Crowd {kind} of this name exists, owned by nobody; {way}, or link it by hand"
    others = absent["name"][(absent["source"] != source) & (absent["kind"] == kind)]
    reason[(account == "") & (reason == "") & among(wanted_ids, crowd_ids(others))] = (
        "another source has a link to this name; the first owner keeps it"
    )
    # (A name that another id of this source owns may become free, and a new one may look like another: the plan
    # decides, which knows all names as they will be.)

    frame = wanted.assign(account=pd.array(account, dtype="str"), how=pd.array(how, dtype="str"))
    bad = reason != ""
    held = held_records(kind, wanted[bad], name, "match", pd.Series(reason[bad]))
    return frame[~bad].reset_index(drop=True), held


def _named(asked: Iterable[str], keys: pd.Series, names: pd.Series) -> dict[str, list[str]]:
    """Keys that are asked for → the names of the records that have them."""
    chosen = among(keys, asked)
    found: dict[str, list[str]] = defaultdict(list)
    for key, name in zip(keys[chosen], names.to_numpy(dtype=object)[chosen], strict=True):
        found[key].append(name)
    return found


def _unsure(key: str, ours: list[str], theirs: list[str]) -> str:
    """Why an adoption is left to a person, with the candidates."""
    wanting, found = (", ".join(map(repr, names[:5])) + " …" * (len(names) > 5) for names in (ours, theirs))
    who = f"{wanting} of the source and " if len(ours) > 1 else ""
    return f"its {key} fits {who}{found} of Crowd; link the right one by hand: crowdsync links make"


def orphans(matched: Matched, policy: Policy) -> pd.DataFrame:
    """What stands in Crowd and belongs to no source: kind, name, active; protected records are left out."""
    return _orphans(matched.accounts, matched.directory_groups, policy)


def ownerless(directory: Snapshot, links: pd.DataFrame, policy: Policy, source: str) -> pd.DataFrame:
    """`orphans` of a directory as it was read."""
    users, groups = (links[links["kind"] == kind] for kind in ("user", "group"))
    return _orphans(_owned(directory.users, users, source), _owned(directory.groups, groups, source), policy)


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


def _ids_of(copied: pd.DataFrame) -> pd.Series:
    return copied["mark"].str.split(":", n=1).str[1] if len(copied) else copied["mark"]


@task(name="match", task_run_name="match", cache_policy=NO_CACHE, persist_result=False)
async def match_accounts(
    desired: Desired, directory: Snapshot, links: pd.DataFrame, policy: Policy, source: str
) -> Matched:
    """Which Crowd account belongs to whom."""
    return match(desired, directory, links, policy, source)
