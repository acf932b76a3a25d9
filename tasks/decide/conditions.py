"""Which people fit the conditions of the scope, by their fields and attributes.

Users frame and conditions → for every condition whom it fits, and of whom that cannot be said because a value is no
number, no date or neither true nor false, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.decide.values import Long, Sources
from tasks.policy import Condition, ScopePolicy

SHOWN = 40
"""How much of a value that cannot be read a reason shows, in characters."""

_NUMBER = r"\A[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?\z"
_DATE = r"\A(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})(?:[T ][0-9]{2}:.*)?\z"
_TRUE, _FALSE = pa.array(["true", "yes", "1"], pa.large_string()), pa.array(["false", "no", "0"], pa.large_string())

Verdict = tuple[np.ndarray, np.ndarray]
"""Whom something fits, and where that cannot be said (bool)."""
Verdicts = tuple[tuple[Verdict, ...], ...]
"""The same by block of conditions and condition."""


def values_of(user: pd.DataFrame, field: str) -> list[str]:
    """The values that conditions see in a field of one user."""
    return list(_values(Sources(user, {field} - {"active"}), field).values.to_pylist())


def said(condition: Condition) -> str:
    """A condition as a person would say it."""
    values = " or ".join(repr(value) for value in condition.values)
    return f"{condition.field} {condition.operator}{f' {values}' if values else ''}"


def conditions_of(users: pd.DataFrame, scope: ScopePolicy) -> tuple[Verdicts, np.ndarray, pd.Series]:
    """What each condition says of each person; of whom it cannot be said whether they fit; why."""
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
        reasons = reasons.where((reasons != "") | ~fits_block(results)[1], why)
    fits_any = np.logical_or.reduce([fits_block(block)[0] for block in blocks])
    unsure_any = np.logical_or.reduce([fits_block(block)[1] for block in blocks])
    return tuple(blocks), unsure_any & ~fits_any, reasons


def fits_block(block: Sequence[Verdict]) -> Verdict:
    """Who fits all conditions of a block; of whom that cannot be said, because no other condition shuts them out."""
    fits = np.logical_and.reduce([fits for fits, _ in block])
    possible = np.logical_and.reduce([fits | unsure for fits, unsure in block])
    return fits, possible & ~fits


def unread_reasons(ids: pd.Series, warnings: pd.DataFrame, scope: ScopePolicy) -> pd.Series:
    """Why it cannot be said of somebody whether the conditions fit: one of their fields could not be read; else ""."""
    reasons = pd.Series("", index=ids.index, dtype="str")
    warnings = warnings[(warnings["kind"] == "user") & (warnings["stage"] == "extract")]
    fields = {it.field for block in scope.conditions for it in block.all} if len(warnings) else ()
    for one in sorted(fields):
        which = ids.isin(warnings.loc[warnings["reason"].str.startswith(f"{one} is "), "id"])
        reason = f"its {one} cannot be read, which scope.conditions asks for; correct it in the IdP"
        reasons = reasons.where((reasons != "") | ~which, reason)
    return reasons


def _values(sources: Sources, field: str) -> Long:
    """The values of a field by person; `active` as text."""
    if field != "active":
        return sources.of(field)
    active = pa.array(sources.users["active"].to_numpy(dtype=bool))
    return Long.column(pc.if_else(active, pa.scalar("true", pa.large_string()), pa.scalar("false", pa.large_string())))


def _fitting(long: Long, condition: Condition, index: pd.Index) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Values by person → whom one condition fits; of whom that cannot be said, and why."""
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
    """Which values fit one operator on texts: bool."""
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
