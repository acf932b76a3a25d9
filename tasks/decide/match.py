"""Which Crowd account belongs to whom: by link and mark, then by the policy's keys.

Desired state + directory + links → matched: each desired record with the account it already has, or
none. A record whose account is uncertain is held; an account that somebody else owns is never taken, nor one of which
the link says this and the mark in Crowd that. What is adopted by a key gives nobody power or access.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.model import ID_ATTRIBUTE, Snapshot, held_frame, held_records, sizes_only
from tasks.decide.collisions import collided
from tasks.decide.map import Desired
from tasks.decide.names import among, arrow_text, crowd_ids
from tasks.decide.nesting import members_below
from tasks.policy import Policy, matches

SHARED = "everyone"
"""How a group for everyone is matched that is there already: our people go in and out, and that is all."""
HANDED_OVER = "handed over"
"""How a group takes the Crowd group of one that is gone from the source, under another id."""
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
    accounts = _owned(directory.users, links[links["kind"] == "user"], source)
    groups = _owned(directory.groups, links[links["kind"] == "group"], source)
    absent = _absent(links, directory)
    meeting = _Meeting(directory, absent, policy, source, advice)
    users, held_users = _match(desired.users, accounts, meeting, "user")
    shared, own = _shared(desired, groups)
    gone = _gone(groups, read, policy)
    wanted, held_groups = _match(own, groups, meeting, "group", gone)
    wanted = pd.concat([wanted, shared], ignore_index=True)
    held = pd.concat([desired.held, held_users, held_groups], ignore_index=True)
    stale = absent.loc[absent["source"] == source, ["kind", "id", "name"]]
    unknown = sum(
        int((records["how"] == "id").sum())
        for kind, records in (("user", accounts), ("group", groups))
        if ((links["source"] == source) & (links["kind"] == kind)).any()
    )
    groups, handed_over = _handed_over(wanted, groups)
    return Matched(
        users, wanted, desired.memberships, accounts, groups, stale, held, desired.warnings, unknown, handed_over
    )


def _gone(groups: pd.DataFrame, read: Snapshot | None, policy: Policy) -> pd.Index:
    """Crowd groups (ids) that may go to another group: their owner is gone from the source, neither in it nor held."""
    if read is None or policy.groups.handover == "never":
        return pd.Index([], dtype="str")
    there = pd.concat([read.groups["id"], read.held.loc[read.held["kind"] == "group", "id"]])
    free = (groups["owner"] != "") & ~among(groups["owner"], there)
    if free.any():
        free &= ~matches(groups["name"], policy.protection.groups) & ~policy.privileged(groups["name"])
    heirless: pd.Index = pd.Index(groups["id"][free])
    return heirless


def _handed_over(wanted: pd.DataFrame, groups: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Crowd groups with their new owners, and which groups changed hands: name, before, after."""
    new = wanted[wanted["how"] == HANDED_OVER]
    at = pd.Index(groups["id"]).get_indexer(pd.Index(new["account"]))
    owner = groups["owner"].to_numpy(dtype=object).copy()
    told = pd.DataFrame(
        {"name": groups["name"].iloc[at].to_numpy(), "before": owner[at], "after": new["id"].to_numpy()}, dtype="str"
    )
    owner[at] = new["id"].to_numpy(dtype=object)
    return groups.assign(owner=pd.array(owner, dtype="str")), told


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
    """Directory records + mark, owner, foreign, contested. Where a mark says another thing than the link, neither
    decides: a copy of the database may have been put back, or names exchanged in Crowd by hand."""
    marks, texts = split_mark(records["attributes"])
    frame = records.assign(attributes=texts, mark=marks)
    at = pd.Index(frame["id"]).get_indexer(pd.Index(crowd_ids(links["name"])))
    there = at >= 0
    at, links = at[there], links[there]
    owner = np.full(len(frame), "", dtype=object)
    foreign = np.zeros(len(frame), dtype=bool)
    how = np.full(len(frame), "", dtype=object)
    ours = (links["source"] == source).to_numpy()
    prefix = f"{source}:"
    ids = marks.str.slice(len(prefix))
    of_ours = marks.str.startswith(prefix).to_numpy()
    mark = marks.to_numpy(dtype=object)[at]
    differs = (mark != "") & (mark != (links["source"] + ":" + links["id"]).to_numpy(dtype=object))
    contested = np.zeros(len(frame), dtype=bool)
    contested[at[differs]] = True
    linked = np.full(len(frame), "", dtype=object)
    linked[at[ours]] = links["id"].to_numpy(dtype=object)[ours]
    owner[:] = np.where(contested, "", linked)
    how[owner != ""] = "link"
    foreign[at[~ours]] = True
    foreign |= contested
    linked_ids = pd.Index(linked[linked != ""], dtype="str")
    by_mark = (owner == "") & ~foreign & (marks != "").to_numpy()
    mine = by_mark & of_ours
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
        contested=contested,
        linked=pd.array(np.where(contested, linked, ""), dtype="str"),
        marked=pd.array(np.where(contested & of_ours, ids.to_numpy(dtype=object), ""), dtype="str"),
    )


def split_mark(texts: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Attributes text → (value of the id attribute or "", text without it)."""
    array = arrow_text(texts)
    member = rf'"{ID_ATTRIBUTE.replace(".", "[.]")}":\["(?P<mark>(?:[^"\\]|\\.)*)"(?:,"(?:[^"\\]|\\.)*")*\]'
    marks = pc.fill_null(pc.struct_field(pc.extract_regex(array, f"[{{,]{member}"), "mark"), "")
    escaped = pc.match_substring(marks, "\\")  # few: what an id has of tabs, quotation marks and their like
    if pc.any(escaped).as_py():
        read = [orjson.loads(f'"{mark}"') for mark in marks.filter(escaped).to_pylist()]
        marks = pc.replace_with_mask(marks, escaped, pa.array(read, marks.type))
    rest = pc.replace_substring_regex(array, rf"([{{,]){member},?", r"\1")
    rest = pc.replace_substring_regex(rest, r",}\z", "}")
    return pd.Series(marks, dtype="str", index=texts.index), pd.Series(rest, dtype="str", index=texts.index)


@dataclass(frozen=True, slots=True)
class _Meeting:
    """What both kinds of record share: the directory, all links whose Crowd record is not there, the policy, the
    source's name and its advice for groups of one name."""

    directory: Snapshot
    absent: pd.DataFrame
    policy: Policy
    source: str
    advice: str


def _match(
    wanted: pd.DataFrame,
    existing: pd.DataFrame,
    meeting: _Meeting,
    kind: str,
    gone: pd.Index | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Desired records of one kind → those that are matched, and those that are held. `gone`: Crowd records (ids)
    whose owner is gone, and which a new one of the same name takes over."""
    matching, source, absent = meeting.policy.matching, meeting.source, meeting.absent
    name, unread = "username" if kind == "user" else "name", meeting.directory.held
    keys, listed = (
        (matching.users, matching.listed_users) if kind == "user" else (matching.groups, matching.listed_groups)
    )
    account = np.full(len(wanted), "", dtype=object)
    how = np.full(len(wanted), "", dtype=object)
    reason = np.full(len(wanted), "", dtype=object)
    ids = existing["id"].to_numpy(dtype=object)
    wanted_ids = crowd_ids(wanted[name])
    active = wanted["active"].to_numpy(dtype=bool) if kind == "user" else np.ones(len(wanted), dtype=bool)

    # 1. Ownership: a link, or where links are lost the mark in Crowd.
    owned = np.flatnonzero((existing["owner"] != "").to_numpy())
    at = pd.Index(existing["owner"].iloc[owned]).get_indexer(pd.Index(wanted["id"]))
    hit = at >= 0
    account[hit] = ids[owned][at[hit]]
    how[hit] = existing["how"].to_numpy(dtype=object)[owned][at[hit]]
    lost = ~hit & among(wanted["id"], _ids_of(existing[existing["copied"]]))
    reason[lost] = f"several Crowd {kind}s carry its id mark; remove the mark from all but one"
    if existing["contested"].any():
        of = _contested(existing, name, kind, source)
        doubted = ~hit & among(wanted["id"], list(of))
        reason[doubted] = [of[identity] for identity in wanted["id"][doubted]]

    # (A Crowd record that cannot be read may be anybody's: whoever has or wants its name waits.)
    broken = crowd_ids(unread["name"][(unread["kind"] == kind) & (unread["name"] != "")])
    if len(broken):
        known = absent["id"][
            (absent["source"] == source) & (absent["kind"] == kind) & among(crowd_ids(absent["name"]), broken)
        ]
        hidden = (account == "") & (reason == "") & (among(wanted_ids, broken) | among(wanted["id"], known))
        reason[hidden] = f"its Crowd {kind} cannot be read; see the held records of the directory"

    # (Who is disabled takes no part: they keep the name of their account, and without one need none.)
    advice = f", or set {meeting.advice} in [sources.{source}]" if meeting.advice and kind == "group" else ""
    clashing = collided(wanted[name], wanted["original"], account, active, advice)
    reason = np.where(reason == "", clashing, reason)

    if gone is not None and len(gone):
        heir = (account == "") & (reason == "") & among(wanted_ids, gone)
        account[heir], how[heir] = wanted_ids.to_numpy(dtype=object)[heir], HANDED_OVER

    # 2. Adoption, by the policy's keys: only what nobody owns. What one takes, the others no longer meet.
    free = ((existing["owner"] == "") & ~existing["foreign"] & ~existing["copied"]).to_numpy(copy=True)
    if matching.adoption == "listed":
        free &= matches(existing[name], listed).to_numpy()
    settled, adopted = reason.copy(), -1
    power = gives = None
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
            hit = np.flatnonzero(open_ & ~unsure & (at >= 0))
            found_at = pool[unique[at[hit]]]
            if kind == "user" and len(hit):
                if power is None:
                    power, gives = with_power(meeting.directory, meeting.policy), existing["active"].to_numpy(bool)
                assert gives is not None
                closed = power[found_at] | ~gives[found_at]
                for i, n in zip(hit[closed], found_at[closed], strict=True):
                    # (An inactive person takes no inactive account, and needs none.)
                    if power[n] or active[i]:
                        reason[i] = _closed(key, existing[name].iloc[n], power[n], f"{source} {wanted['id'].iloc[i]}")
                hit, found_at = hit[~closed], found_at[~closed]
            account[hit] = ids[found_at]
            how[hit] = key
            free[found_at] = False

    # 3. The wanted name must be free, or be one's own.
    clash, foreign, ownerless = np.zeros((3, len(wanted)), dtype=bool)
    new = np.flatnonzero((account == "") & (reason == ""))
    if len(new):  # (who is disabled wants no account; an active one of that name may be theirs all the same)
        at = pd.Index(existing["id"]).get_indexer(pd.Index(wanted_ids.iloc[new]))
        needs = active[new] | _active(existing, at)
        new, at = new[(at >= 0) & needs], at[(at >= 0) & needs]
        clash[new] = True
        foreign[new] = existing["foreign"].to_numpy()[at]
        # (One that has just been adopted goes to its new owner's name: the plan decides.)
        nobodys = (existing["owner"].iloc[at] == "").to_numpy() & ~among(
            existing["id"].iloc[at], account[account != ""]
        )
        ownerless[new] = nobodys & ~foreign[new]
    reason[clash & foreign] = "another source owns the Crowd record of this name; the first owner keeps it"
    disputed = existing["id"][existing["contested"]]
    reason[clash & foreign & among(wanted_ids, disputed)] = (
        "the Crowd record of this name is in dispute: its link and its mark name different owners"
    )
    adopt = "username" if kind == "user" else "name"
    way = f"to adopt it add '{adopt}' to matching.{kind}s"
    if matching.adoption == "listed":
        way = f"to adopt it list it in matching.listed_{kind}s"
    reason[clash & ownerless] = f"a Crowd {kind} of this name exists, owned by nobody; {way}, or link it by hand"
    others = absent["name"][(absent["source"] != source) & (absent["kind"] == kind)]
    reason[(account == "") & active & (reason == "") & among(wanted_ids, crowd_ids(others))] = (
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


def _closed(key: str, name: str, power: bool, who: str) -> str:
    """Why an account is not adopted by a key."""
    what = "is in a privileged group" if power else "is inactive"
    never = "power" if power else "access"
    return (
        f"its {key} fits the Crowd user {name!r}, which {what}: adoption never hands out {never}; if it is theirs: "
        f"crowdsync links make {who} {name!r}"
    )


def _active(existing: pd.DataFrame, at: np.ndarray) -> np.ndarray:
    """Which records at these positions (-1: none) are active; groups are."""
    if "active" not in existing or not len(existing):
        return np.asarray(at >= 0)
    return np.asarray(existing["active"].to_numpy(dtype=bool)[at] & (at >= 0))


def with_power(directory: Snapshot, policy: Policy) -> np.ndarray:
    """Which users of the directory are in a privileged group, directly or through nested ones; also in such that the
    policy allows the source to fill, and such that could not be read."""
    protection = policy.protection.model_copy(update={"privileged_allowed": ()})
    whole = policy.model_copy(update={"protection": protection})
    unread = directory.held[directory.held["kind"] == "group"]
    groups = pd.concat([directory.groups[["id", "name"]], unread[["id", "name"]]], ignore_index=True)
    closed = groups["id"][whole.privileged(groups["name"]).to_numpy()]
    return members_below(directory.users["id"], directory.memberships, closed)


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
    desired: Desired,
    directory: Snapshot,
    links: pd.DataFrame,
    policy: Policy,
    source: str,
    read: Snapshot,
    advice: str = "",
) -> Matched:
    """Which Crowd account belongs to whom."""
    return match(desired, directory, links, policy, source, read, advice)
