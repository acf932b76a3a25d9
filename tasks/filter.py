"""Who is in scope: by name, by group, by conditions on fields and attributes; and what becomes of nested groups.

Snapshot → the part of it that the policy's scope covers. People and groups outside are not held: if we own their
account, they count as having left. Whoever may be outside only because a value cannot be read is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.errors import ConfigurationError
from connectors.model import MEMBER_KINDS, Snapshot, held_records, memberships_from_codes, sizes_only, sorted_unique
from tasks.names import among
from tasks.policy import Condition, Policy, Scope, matches
from tasks.values import Long, Sources, ranges

SHOWN = 40
"""How much of a value that cannot be read is told, in characters."""

_USER = MEMBER_KINDS.categories.get_loc("user")
_NUMBER = r"\A[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?\z"
_DATE = r"\A(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})(?:[T ][0-9]{2}:.*)?\z"
_TRUE, _FALSE = pa.array(["true", "yes", "1"], pa.large_string()), pa.array(["false", "no", "0"], pa.large_string())


Verdict = tuple[np.ndarray, np.ndarray]
"""Whom something fits, and where that cannot be told (bool)."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Scoped:
    """The part in scope, and the ids of the people and groups that were left out. Who is held is in neither."""

    snapshot: Snapshot
    users_out: pd.Index
    groups_out: pd.Index


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

    @property
    def users(self) -> np.ndarray:
        """Who is in scope: bool."""
        return np.asarray(np.logical_and.reduce(list(self.rules.values())), dtype=bool)


def in_scope(snapshot: Snapshot, policy: Policy) -> Scoped:
    """Snapshot → scoped snapshot; memberships keep only groups and members that are in scope.

    Raises `ConfigurationError` where the scope leaves nobody, or no group, of those that are there.
    """
    rulings = ruled(snapshot, policy)
    _refuse_nobody(rulings, policy.scope)
    return cut(snapshot, policy, rulings)


def ruled(snapshot: Snapshot, policy: Policy) -> Rulings:
    """What the scope says of every person and group, whatever comes of it."""
    users, groups, scope = snapshot.users, snapshot.groups, policy.scope
    keep_groups = matches(groups["name"], scope.groups) & ~matches(groups["name"], scope.exclude_groups)
    rules: dict[str, np.ndarray] = {
        "scope.users": matches(users["username"], scope.users).to_numpy(),
        "scope.exclude_users": ~matches(users["username"], scope.exclude_users).to_numpy(),
    }
    if scope.required_groups:
        wanted = groups.loc[matches(groups["name"], scope.required_groups), "id"]
        rules["scope.required_groups"] = _members_below(users["id"], snapshot.memberships, wanted)
    unsure = np.zeros(len(users), dtype=bool)
    reasons = pd.Series("", index=users.index, dtype="str")
    conditions: tuple[tuple[Verdict, ...], ...] = ()
    if scope.conditions:
        conditions, unsure, reasons = _conditions(users, scope)
        rules["scope.conditions"] = np.logical_or.reduce([_all(block)[0] for block in conditions])
    if scope.members_only:
        # (Where nestings are ignored, nobody gets into a group through another.)
        below = _members_of if policy.groups.nesting == "ignore" else _members_below
        rules["scope.members_only"] = below(users["id"], snapshot.memberships, groups.loc[keep_groups, "id"])
    others = [fits for field, fits in rules.items() if field != "scope.conditions"]
    unsure = np.logical_and.reduce([unsure, *others])
    return Rulings(rules, conditions, unsure, reasons.where(unsure, ""), keep_groups.to_numpy(dtype=bool))


def cut(snapshot: Snapshot, policy: Policy, rulings: Rulings) -> Scoped:
    """Snapshot → the part that the rulings let in."""
    users, groups, memberships = snapshot.users, snapshot.groups, snapshot.memberships
    keep_users, keep_groups = rulings.users, rulings.groups
    nothing = pd.Index([], dtype="str")
    is_group = _is_group(memberships)
    as_it_is = policy.groups.nesting == "preserve" or not is_group.any()
    if keep_users.all() and keep_groups.all() and as_it_is:
        return Scoped(snapshot, nothing, nothing)
    if not as_it_is:
        memberships = flattened(memberships) if policy.groups.nesting == "flatten" else memberships[~is_group]
        is_group = _is_group(memberships)

    group_in = _codes_in(memberships["group_id"], groups.loc[keep_groups, "id"])
    member_user = _codes_in(memberships["member_id"], users.loc[keep_users, "id"])
    member_group = _codes_in(memberships["member_id"], groups.loc[keep_groups, "id"])
    keep = group_in & np.where(is_group, member_group, member_user)
    held = snapshot.held
    if rulings.unsure.any():
        held = pd.concat([held, _held(users, rulings)], ignore_index=True)
    return Scoped(
        Snapshot.of(users[keep_users], groups[keep_groups], memberships[keep], held, snapshot.warnings),
        pd.Index(users.loc[~keep_users & ~rulings.unsure, "id"]),
        pd.Index(groups.loc[~keep_groups, "id"]),
    )


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


def _members_below(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Which users are members of these groups, directly or through groups nested in them: bool."""
    nested = memberships[_is_group(memberships)]
    below = pd.Index(groups)
    while True:  # breadth first; a circle adds nothing new and ends it
        found = nested.loc[_codes_in(nested["group_id"], below.to_series()), "member_id"].astype("str")
        grown = below.union(pd.Index(found.unique()))
        if len(grown) == len(below):
            break
        below = grown
    return _members_of(users, memberships, below.to_series())


def _members_of(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Which users are direct members of these groups: bool."""
    inside = ~_is_group(memberships) & _codes_in(memberships["group_id"], groups)
    return among(users, memberships[inside]["member_id"].astype("str"))


@task(name="filter", task_run_name="filter", cache_policy=NO_CACHE, persist_result=False)
async def filter_scope(snapshot: Snapshot, policy: Policy) -> Scoped:
    """The part of the source that is in scope."""
    return in_scope(snapshot, policy)
