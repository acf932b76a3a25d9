"""Who is in scope: by name, by group, by conditions on fields and attributes; and what becomes of nested groups.

Snapshot → the part of it that the policy's scope covers. People and groups outside are not held: if we own their
account, they count as having left. Whoever may be outside only because a value, or who is in a group, cannot be read
is held. A name of the policy that two groups have means the one that had it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.errors import ConfigurationError
from connectors.model import (
    MEMBER_KINDS,
    OUT_OF_SCOPE,
    Snapshot,
    held_frame,
    held_records,
    memberships_from_codes,
    sizes_only,
    sorted_unique,
)
from tasks.decide.names import among, crowd_ids
from tasks.decide.values import Long, Sources, ranges
from tasks.policy import BY_ID, Condition, Policy, matches
from tasks.policy import ScopePolicy as Scope

SHOWN = 40
"""How much of a value that cannot be read is told, in characters."""

_USER = MEMBER_KINDS.categories.get_loc("user")
_NUMBER = r"\A[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?\z"
_DATE = r"\A(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})(?:[T ][0-9]{2}:.*)?\z"
_TRUE, _FALSE = pa.array(["true", "yes", "1"], pa.large_string()), pa.array(["false", "no", "0"], pa.large_string())


Verdict = tuple[np.ndarray, np.ndarray]
"""Whom something fits, and where that cannot be told (bool)."""

Below = Callable[[pd.Series, pd.DataFrame, pd.Series], np.ndarray]
"""(people, memberships, groups) → who is in these groups."""

RULES = ("scope.users", "scope.exclude_users", "scope.required_groups", "scope.conditions", "scope.members_only")
"""The rules of the scope, in the order in which they are asked."""

NEW = 2**62
"""Since when a group has had its name that no snapshot knows yet: later than all others."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Scoped:
    """The part in scope, and the ids of the people and groups that were left out. Who is held is in neither.

    `doubts`: entries that should let people or groups in and that no group fits, in words.
    """

    snapshot: Snapshot
    users_out: pd.Index
    groups_out: pd.Index
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Meant:
    """Which groups a list of the policy means (ids): `sure` ones, and those of which it is in doubt, or whose members
    cannot be read, with the reason by id. `later` had a name after another group: they do not count."""

    sure: pd.Index
    doubted: Mapping[str, str]
    later: Mapping[str, str]


@sizes_only
@dataclass(frozen=True, slots=True)
class Rulings:
    """What each rule of the scope says of each person, in the order of `snapshot.users`.

    `rules`: the field of the policy → whom it lets in (bool), in the order in which they are asked.
    `conditions`: by block and condition, whom it fits and where that cannot be told (bool).
    `unsure`: who would be in, were it certain that the conditions fit; `reasons` says why it is not, else "".
    """

    rules: Mapping[str, np.ndarray]
    conditions: tuple[tuple[Verdict, ...], ...]
    unsure: np.ndarray
    reasons: pd.Series
    groups: np.ndarray
    later: Mapping[str, str] = field(default_factory=dict)

    @property
    def users(self) -> np.ndarray:
        """Who is in scope: bool."""
        return np.asarray(np.logical_and.reduce(list(self.rules.values())), dtype=bool)


def in_scope(snapshot: Snapshot, policy: Policy, known: Mapping[str, int] | None = None) -> Scoped:
    """Snapshot → scoped snapshot; memberships keep only groups and members that are in scope.

    `known`: since which snapshot groups (ids) have had their name, of those that `doubled` names. Raises
    `ConfigurationError` where the scope leaves nobody, or no group, of those that are there.
    """
    rulings = ruled(snapshot, policy, known)
    _refuse_nobody(rulings, policy.scope)
    return cut(snapshot, policy, rulings, known)


def doubled(groups: pd.DataFrame, policy: Policy) -> list[str]:
    """The groups (ids) that share a name which lets people in."""
    scope = policy.scope
    named = _named(groups, scope.required_groups)
    if scope.members_only:
        named |= _in_scope(groups, scope)
    names = crowd_ids(groups["name"])[named]
    return [str(one) for one in groups["id"][named][names.duplicated(keep=False)]]


def _named(groups: pd.DataFrame, entries: Sequence[str]) -> np.ndarray:
    """Which groups the entries name, by name or as `id:…`: bool."""
    ids = [entry.removeprefix(BY_ID) for entry in entries if entry.startswith(BY_ID)]
    named = matches(groups["name"], [entry for entry in entries if not entry.startswith(BY_ID)]).to_numpy(dtype=bool)
    return np.asarray(named | among(groups["id"], ids), dtype=bool)


def _in_scope(groups: pd.DataFrame, scope: Scope) -> np.ndarray:
    return np.asarray(_named(groups, scope.groups) & ~_named(groups, scope.exclude_groups), dtype=bool)


def meant(
    snapshot: Snapshot, entries: Sequence[str], field: str, known: Mapping[str, int], without: Sequence[str] = ()
) -> Meant:
    """Which groups the entries of a field mean. Of those that share a name it is the one that has had it for longest;
    where that cannot be told it is in doubt, and so is a group that is held: its members cannot be read."""
    groups = snapshot.groups
    by_id = _named(groups, [entry for entry in entries if entry.startswith(BY_ID)])
    named = _named(groups, entries) & ~_named(groups, without)
    names = crowd_ids(groups["name"])
    several = named & ~by_id & names.where(pd.Series(named, index=names.index), "").duplicated(keep=False).to_numpy()
    sure, doubted, later = named.copy(), dict[str, str](), dict[str, str]()
    for name, index in names[several].groupby(names[several]).groups.items():
        at = groups.index.get_indexer(index)
        ids = groups["id"].iloc[at].tolist()
        since = [known.get(one, NEW) for one in ids]
        first = min(since)
        sole = since.count(first) == 1
        shown = ", ".join(f"{BY_ID}{one}" for one in ids)
        for one, row, when in zip(ids, at, since, strict=True):
            if sole and when == first:
                continue
            sure[row] = False
            told = f"{len(ids)} groups are called {name!r} ({shown}), which {field} names"
            if sole:
                later[one] = f"{told}; only the one that was called so first counts: name the right one by its id"
            else:
                doubted[one] = f"{told}: nobody's state changes by it; name the right one by its id"
    held = snapshot.held[(snapshot.held["kind"] == "group") & ~among(snapshot.held["id"], groups["id"])]
    unread = held[_named(held, entries) & ~_named(held, without)]
    doubted |= {
        one: f"the members of the group {name!r}, which {field} names, are not known: it is held"
        for one, name in zip(unread["id"], unread["name"], strict=True)
    }
    return Meant(pd.Index(groups["id"][sure]), doubted, later)


def _admitted(
    ids: pd.Series, snapshot: Snapshot, groups: Meant, below: Below
) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Which people (ids) are in these groups for certain; for whom that cannot be told, and why."""
    held = snapshot.held.loc[snapshot.held["kind"] == "group", "id"]
    admitted = below(ids, snapshot.memberships, groups.sure.to_series())
    unsure, reasons = np.zeros(len(ids), dtype=bool), pd.Series("", index=ids.index, dtype="str")
    unread = set(held) & (set(groups.doubted) | groups_below(snapshot.memberships, groups.sure)) if len(held) else set()
    for one, reason in groups.doubted.items():
        some = np.ones(len(ids), bool) if one in unread else below(ids, snapshot.memberships, pd.Series([one]))
        reasons = reasons.where((reasons != "") | ~some, reason)
        unsure |= some
    for one in sorted(unread - set(groups.doubted)):
        reasons = reasons.where(
            reasons != "", f"the members of the group {one!r}, through which they may be in, are not known: it is held"
        )
        unsure[:] = True
    return admitted, unsure & ~admitted, reasons


def ruled(snapshot: Snapshot, policy: Policy, known: Mapping[str, int] | None = None) -> Rulings:
    """What the scope says of every person and group, whatever comes of it."""
    users, groups, scope = snapshot.users, snapshot.groups, policy.scope
    keep_groups = _in_scope(groups, scope)
    rules: dict[str, np.ndarray] = {
        "scope.users": matches(users["username"], scope.users).to_numpy(),
        "scope.exclude_users": ~matches(users["username"], scope.exclude_users).to_numpy(),
    }
    doubts: dict[str, Verdict] = {}
    reasons = pd.Series("", index=users.index, dtype="str")
    conditions: tuple[tuple[Verdict, ...], ...] = ()
    later: dict[str, str] = {}
    if scope.conditions:
        conditions, unsure, reasons = _conditions(users, scope)
        fits = np.logical_or.reduce([_all(block)[0] for block in conditions])
        unread = _unread(users["id"], snapshot.warnings, scope)
        unsure, reasons = unsure | (unread != "").to_numpy(), reasons.where(unread == "", unread)
        rules["scope.conditions"] = fits & (unread == "").to_numpy()
        doubts["scope.conditions"] = rules["scope.conditions"], unsure
    for rule, of, below in _by_group(snapshot, policy, known or {}):
        fits, unsure, why = _admitted(users["id"], snapshot, of, below)
        rules[rule], doubts[rule] = fits, (fits, unsure)
        reasons = reasons.where((reasons != "") | ~unsure, why)
        later |= of.later
    # Unsure is who would be in, were it certain that what cannot be told fits.
    possible = [doubts[rule][0] | doubts[rule][1] if rule in doubts else fits for rule, fits in rules.items()]
    unsure = np.logical_and.reduce(possible) & ~np.logical_and.reduce(list(rules.values()))
    order = [rule for rule in RULES if rule in rules]
    return Rulings(
        {rule: rules[rule] for rule in order}, conditions, unsure, reasons.where(unsure, ""), keep_groups, later
    )


def _by_group(snapshot: Snapshot, policy: Policy, known: Mapping[str, int]) -> Iterator[tuple[str, Meant, Below]]:
    """The rules that let people in by their groups: their field, the groups, and how members are found."""
    scope = policy.scope
    if scope.required_groups:
        of = meant(snapshot, scope.required_groups, "scope.required_groups", known)
        yield "scope.required_groups", of, members_below
    if scope.members_only:
        # (Where nestings are ignored, nobody gets into a group through another.)
        below = _members_of if policy.groups.nesting == "ignore" else members_below
        yield "scope.members_only", meant(snapshot, scope.groups, "scope.groups", known, scope.exclude_groups), below


def _told_out(snapshot: Snapshot, policy: Policy, known: Mapping[str, int]) -> pd.DataFrame:
    """Held records, with those people out of scope who are so whatever is wrong with their record: by their groups, or
    by the conditions where the row could be read. (A username that is held for itself says nothing.)"""
    held = snapshot.held
    silent = held[(held["kind"] == "user") & (held["away"] == "") & (held["id"] != "")]
    if silent.empty:
        return held
    ids = silent["id"].drop_duplicates()
    out = np.zeros(len(ids), dtype=bool)
    for _, of, below in _by_group(snapshot, policy, known):
        fits, unsure, _ = _admitted(ids, snapshot, of, below)
        out |= ~fits & ~unsure
    if policy.scope.conditions and len(snapshot.unsound):
        conditions, unsure, _ = _conditions(snapshot.unsound, policy.scope)
        fits = np.logical_or.reduce([_all(block)[0] for block in conditions])
        out |= among(ids, snapshot.unsound["id"][~fits & ~unsure])
    away = held["away"].where(
        ~(held["id"].isin(ids[out]) & (held["kind"] == "user") & (held["away"] == "")), OUT_OF_SCOPE
    )
    return held.assign(away=away.astype("str"))


def _unmatched(snapshot: Snapshot, fields: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The entries of these fields that no group fits, read or held, in words."""
    held = snapshot.held[snapshot.held["kind"] == "group"]
    groups = pd.concat([snapshot.groups[["id", "name"]], held[["id", "name"]]], ignore_index=True)
    if groups.empty:
        return ()
    return tuple(
        f"{field} names {entry!r}, and no group fits it"
        for field, entries in fields.items()
        for entry in entries
        if entry != "*" and not _named(groups, (entry,)).any()
    )


def cut(snapshot: Snapshot, policy: Policy, rulings: Rulings, known: Mapping[str, int] | None = None) -> Scoped:
    """Snapshot → the part that the rulings let in."""
    users, groups, memberships = snapshot.users, snapshot.groups, snapshot.memberships
    keep_users, keep_groups = rulings.users, rulings.groups
    nothing = pd.Index([], dtype="str")
    unread = _above_unread(snapshot) if policy.groups.nesting == "flatten" else held_frame()
    if len(unread):
        held = pd.concat([snapshot.held, unread], ignore_index=True)
        keep_groups = keep_groups & ~among(groups["id"], unread["id"])
        snapshot = Snapshot(users, groups, memberships, held, snapshot.warnings, snapshot.unsound)
    is_group = _is_group(memberships)
    as_it_is = policy.groups.nesting == "preserve" or not is_group.any()
    scope = policy.scope
    doubts = _unmatched(snapshot, {"scope.groups": scope.groups, "scope.required_groups": scope.required_groups})
    useless = _unmatched(snapshot, {"scope.exclude_groups": scope.exclude_groups})
    held, warnings = _told_out(snapshot, policy, known or {}), snapshot.warnings
    if rulings.later or doubts or useless:
        told = [("group", one, _name_of(groups, one), "filter", why) for one, why in rulings.later.items()]
        told += [("policy", "", "scope", "filter", why) for why in (*doubts, *useless)]
        warnings = pd.concat([warnings, held_frame(told)], ignore_index=True)
    if keep_users.all() and keep_groups.all() and as_it_is:
        if held is not snapshot.held or warnings is not snapshot.warnings:
            snapshot = Snapshot(users, groups, memberships, held, warnings)
        return Scoped(snapshot, nothing, nothing, doubts)
    if not as_it_is:
        memberships = flattened(memberships) if policy.groups.nesting == "flatten" else memberships[~is_group]
        is_group = _is_group(memberships)

    group_in = _codes_in(memberships["group_id"], groups.loc[keep_groups, "id"])
    member_user = _codes_in(memberships["member_id"], users.loc[keep_users, "id"])
    member_group = _codes_in(memberships["member_id"], groups.loc[keep_groups, "id"])
    keep = group_in & np.where(is_group, member_group, member_user)
    if rulings.unsure.any():
        held = pd.concat([held, _held(users, rulings)], ignore_index=True)
    return Scoped(
        Snapshot.of(users[keep_users], groups[keep_groups], memberships[keep], held, warnings),
        pd.Index(users.loc[~keep_users & ~rulings.unsure, "id"]),
        pd.Index(groups.loc[~keep_groups, "id"]),
        doubts,
    )


def _name_of(groups: pd.DataFrame, identity: str) -> str:
    return str(groups.loc[groups["id"] == identity, "name"].iloc[0])


def _above_unread(snapshot: Snapshot) -> pd.DataFrame:
    """Groups whose members come from a group that is held, and are not known therefore: held too."""
    unread = snapshot.held.loc[snapshot.held["kind"] == "group", "id"]
    nested = snapshot.memberships[_is_group(snapshot.memberships)]
    above = set(unread)
    while len(above) and len(nested):
        more = (
            set(nested.loc[_codes_in(nested["member_id"], pd.Series(sorted(above))), "group_id"].astype("str")) - above
        )
        if not more:
            break
        above |= more
    rows = snapshot.groups[among(snapshot.groups["id"], above - set(unread))]
    why = "a group in it is held, so that who is in it is not known; mend that group in the IdP"
    return held_records("group", rows, "name", "filter", pd.Series([why] * len(rows)))


def flattened(memberships: pd.DataFrame) -> pd.DataFrame:
    """Memberships → without nested groups: whoever is in one is in all groups above it, too. Circles do no harm.
    A membership may stand there twice."""
    is_group = _is_group(memberships)
    groups, members = memberships["group_id"].cat.categories, memberships["member_id"].cat.categories
    group, member = (memberships[side].cat.codes.to_numpy().astype(np.int64) for side in ("group_id", "member_id"))
    child = groups.get_indexer(members)[member[is_group]] if len(members) else member[is_group]
    parent = group[is_group]
    peopled = child >= 0  # a group without members adds nothing to those above it
    above, below = closure(parent[peopled], child[peopled], len(groups))
    order = np.argsort(below, kind="stable")
    starts = np.searchsorted(below[order], np.arange(len(groups) + 1))
    group, member = group[~is_group], member[~is_group]
    counts = np.diff(starts)[group]
    more = above[order][ranges(starts[:-1][group], counts)]
    codes = np.concatenate([group, more]), np.concatenate([member, np.repeat(member, counts)])
    return memberships_from_codes(groups, members, *codes, np.full(len(codes[0]), _USER))


def closure(parent: np.ndarray, child: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges between nodes 0…count-1 → all pairs (above, below) that a way leads between, each once."""
    order = np.argsort(child, kind="stable")
    parents = parent[order].astype(np.int64)
    starts = np.searchsorted(child[order], np.arange(count + 1))
    found = new = sorted_unique(parent.astype(np.int64) * count + child)
    while len(new):  # one step up; what is known already, as in a circle, is not gone through again
        above, below = np.divmod(new, count)
        counts = np.diff(starts)[above]
        longer = parents[ranges(starts[:-1][above], counts)] * count + np.repeat(below, counts)
        new = np.setdiff1d(sorted_unique(longer), found, assume_unique=True)
        found = sorted_unique(np.concatenate([found, new]))
    return found // max(count, 1), found % max(count, 1)


def values_of(user: pd.DataFrame, field: str) -> list[str]:
    """The values that conditions see in a field of one user."""
    return list(_values(Sources(user, {field} - {"active"}), field).values.to_pylist())


def said(condition: Condition) -> str:
    """A condition as a person would say it."""
    values = " or ".join(repr(value) for value in condition.values)
    return f"{condition.field} {condition.operator}{f' {values}' if values else ''}"


def _values(sources: Sources, field: str) -> Long:
    if field != "active":
        return sources.of(field)
    active = pa.array(sources.users["active"].to_numpy(dtype=bool))
    return Long.column(pc.if_else(active, pa.scalar("true", pa.large_string()), pa.scalar("false", pa.large_string())))


def _conditions(users: pd.DataFrame, scope: Scope) -> tuple[tuple[tuple[Verdict, ...], ...], np.ndarray, pd.Series]:
    """What each condition says of each person; of whom it cannot be told whether they fit; why."""
    sources = Sources(users, scope.wanted() - {"active"})
    reasons = pd.Series("", index=users.index, dtype="str")
    blocks = []
    for block in scope.conditions:
        results = []
        why = reasons.copy()
        for condition in block.all:
            fits, unsure, reason = _fitting(_values(sources, condition.field), condition, users.index)
            why = why.where((why != "") | ~unsure, reason)
            results.append((fits, unsure))
        blocks.append(tuple(results))
        reasons = reasons.where((reasons != "") | ~_all(results)[1], why)
    fits_any = np.logical_or.reduce([_all(block)[0] for block in blocks])
    unsure_any = np.logical_or.reduce([_all(block)[1] for block in blocks])
    return tuple(blocks), unsure_any & ~fits_any, reasons


def _unread(ids: pd.Series, warnings: pd.DataFrame, scope: Scope) -> pd.Series:
    """Why it cannot be told of somebody whether the conditions fit: a field that they ask for could not be read."""
    reasons = pd.Series("", index=ids.index, dtype="str")
    warnings = warnings[(warnings["kind"] == "user") & (warnings["stage"] == "extract")]
    asked = {it.field for block in scope.conditions for it in block.all} if len(warnings) else ()
    for one in sorted(asked):
        which = ids.isin(warnings.loc[warnings["reason"].str.startswith(f"{one} is "), "id"])
        reason = f"its {one} cannot be read, which scope.conditions asks for; correct it in the IdP"
        reasons = reasons.where((reasons != "") | ~which, reason)
    return reasons


def _all(block: Sequence[Verdict]) -> Verdict:
    """Who fits all conditions of a block; of whom it cannot be told, because no other condition shuts them out."""
    fits = np.logical_and.reduce([fits for fits, _ in block])
    possible = np.logical_and.reduce([fits | unsure for fits, unsure in block])
    return fits, possible & ~fits


def _fitting(long: Long, condition: Condition, index: pd.Index) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    sure = np.zeros(long.height, dtype=bool), pd.Series("", index=index, dtype="str")
    lower = pc.utf8_lower(long.values)
    match condition.operator:
        case "is_present":
            return long.counts() > 0, *sure
        case "is_absent":
            return long.counts() == 0, *sure
        case "equals" | "not_equals":
            wanted = pc.utf8_lower(pa.array(condition.values, pa.large_string()))
            equal = long.any(pc.is_in(lower, value_set=wanted))
            return (equal if condition.operator == "equals" else ~equal), *sure
        case "contains" | "starts_with" | "ends_with" | "matches":
            found = np.zeros(len(lower), dtype=bool)
            for value in condition.values:
                found |= _text_fits(lower, long.values, condition.operator, value)
            return long.any(found), *sure
    trimmed = pc.utf8_trim_whitespace(long.values)
    if condition.operator in ("is_true", "is_false"):
        yes, no = (pc.is_in(pc.utf8_lower(trimmed), value_set=words) for words in (_TRUE, _FALSE))
        fits, readable, kind = (
            (yes if condition.operator == "is_true" else no),
            pc.or_(yes, no),
            "neither true nor false",
        )
    elif condition.operator in ("above", "below"):
        readable, numbers = _numbers(trimmed)
        compare = pc.greater if condition.operator == "above" else pc.less
        fits, kind = pc.and_(readable, compare(numbers, float(condition.values[0]))), "no number"
    else:
        readable, days = _days(trimmed)
        day = pa.scalar(date.fromisoformat(condition.values[0]).isoformat(), pa.large_string())
        compare = pc.greater if condition.operator == "after" else pc.less
        fits, kind = pc.and_(readable, compare(days, day)), "no date such as 2026-12-31"
    found = long.any(fits)
    unreadable = pc.invert(readable)
    unsure = long.any(unreadable) & ~found
    if not unsure.any():
        return found, *sure
    bad = Long(
        long.rows[unreadable.to_numpy(zero_copy_only=False)], long.values.filter(unreadable), long.height
    ).first()
    shown = pd.Series(pc.fill_null(pc.utf8_slice_codeunits(bad, 0, SHOWN), ""), dtype="str", index=index)
    reason = f"its {condition.field} '" + shown + f"' is {kind}, which scope.conditions asks for; correct it in the IdP"
    return found, unsure, reason.where(unsure, "")


def _text_fits(lower: pa.Array, values: pa.Array, operator: str, value: str) -> np.ndarray:
    wanted = pc.utf8_lower(pa.scalar(value, pa.large_string())).as_py()
    if operator == "contains":
        found = pc.match_substring(lower, wanted)
    elif operator == "starts_with":
        found = pc.starts_with(lower, wanted)
    elif operator == "ends_with":
        found = pc.ends_with(lower, wanted)
    else:  # the whole value, as everywhere in the scope
        found = pc.match_substring_regex(values, f"(?is)\\A(?:{value})\\z")
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _numbers(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Texts → which are numbers, and the numbers (0 for the others)."""
    readable = pc.match_substring_regex(texts, _NUMBER)
    numbers = pc.cast(pc.if_else(readable, texts, pa.scalar("0", pa.large_string())), "float64")
    return pc.and_(readable, pc.is_finite(numbers)), numbers


def _days(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Texts → which begin with a date of the calendar, and that date as text, which sorts as dates do."""
    parts = pc.extract_regex(texts, _DATE)
    year, month, day = (
        pc.cast(pc.fill_null(pc.struct_field(parts, part), "0"), "int64").to_numpy(zero_copy_only=False)
        for part in "ymd"
    )
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    last = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[np.where(month <= 12, month, 0)]
    readable = (year >= 1) & (day >= 1) & (day <= last + (leap & (month == 2)))
    return pa.array(readable), pc.utf8_slice_codeunits(texts, 0, 10)


def _refuse_nobody(rulings: Rulings, scope: Scope) -> None:
    """Raises `ConfigurationError` where nobody, or no group, is left of those that are there."""
    left = np.ones(len(rulings.users), dtype=bool)
    if len(left) and not rulings.users.any() and not rulings.unsure.any():
        for field, fits in rulings.rules.items():
            before = int(left.sum())
            left &= fits
            if not left.any():
                others = "" if before == len(left) else f", {before} of whom pass the rules before it"
                raise ConfigurationError(
                    f"{field} leaves nobody in scope: {len(left)} people were looked at{others}, and none passes it; "
                    f"correct {field}. Nothing is written"
                )
    if len(rulings.groups) and not rulings.groups.any() and scope.groups != ("*",):
        raise ConfigurationError(
            f"scope.groups matches no group: {len(rulings.groups)} groups were looked at; correct scope.groups or "
            "scope.exclude_groups. Nothing is written"
        )


def _held(users: pd.DataFrame, rulings: Rulings) -> pd.DataFrame:
    found = users[rulings.unsure]
    return held_records("user", found, "username", "filter", rulings.reasons[found.index])


def _is_group(memberships: pd.DataFrame) -> np.ndarray:
    return (memberships["member_kind"] == "group").to_numpy()


def _codes_in(column: pd.Series, ids: pd.Series) -> np.ndarray:
    known = pd.Index(ids).get_indexer(column.cat.categories) >= 0
    return known[column.cat.codes.to_numpy()] if len(known) else np.zeros(len(column), dtype=bool)


def members_below(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Which users are members of these groups, directly or through groups nested in them: bool."""
    return _members_of(users, memberships, pd.Series(sorted(groups_below(memberships, groups)), dtype="str"))


def groups_below(memberships: pd.DataFrame, groups: Iterable[str]) -> set[str]:
    """These groups, and all that are nested in them."""
    nested = memberships[_is_group(memberships)]
    below = pd.Index(list(groups), dtype="str")
    while True:  # breadth first; a circle adds nothing new and ends it
        found = nested.loc[_codes_in(nested["group_id"], below.to_series()), "member_id"].astype("str")
        grown = below.union(pd.Index(found.unique()))
        if len(grown) == len(below):
            break
        below = grown
    return set(below)


def _members_of(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Which users are direct members of these groups: bool."""
    inside = ~_is_group(memberships) & _codes_in(memberships["group_id"], groups)
    return among(users, memberships[inside]["member_id"].astype("str"))


@task(name="filter", task_run_name="filter", cache_policy=NO_CACHE, persist_result=False)
async def filter_scope(snapshot: Snapshot, policy: Policy, known: Mapping[str, int]) -> Scoped:
    """The part of the source that is in scope."""
    return in_scope(snapshot, policy, known)
