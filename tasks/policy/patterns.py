"""Patterns: what a text in a policy may look like that names groups, accounts or values, and which names it fits.

A pattern is a glob (`*`, `?`), without regard to case; behind `re:` it is an RE2 expression that must match the whole
name. Expressions are compiled when the policy is read, and those are refused that could take long on a long text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator

from tasks.decide.names import arrow_text, ascii_only, fold, skeletons

_SPECIAL = str.maketrans({c: f"\\{c}" for c in r"\.+()[]{}^$|"})

BY_ID = "id:"
"""How an entry begins that names a group by its id in the IdP."""

MAX_MATCHED = 2_000
MAX_SEARCHED = 500
MAX_REPLACED = 1_000
"""How large an expression may be (see `_size`): one that is tried once on a text, and one that is sought again behind
every match. So large, neither takes 50 ms on a text of `MAX_REPLACED` characters; longer ones are not replaced."""

_TOKEN = re.compile(
    r"""(?P<quoted>\\Q.*?(?:\\E|$))
    | (?P<property>\\[pP](?:\{[^}]*\}|.))
    | (?P<some>\\[dDwWsS]|\.)
    | (?P<half>\\C)
    | (?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*+\])
    | (?P<open>\((?:\?[^:>)]*[:>])?)
    | (?P<close>\))
    | (?P<endless>[*+])
    | (?P<count>\{(?P<least>\d+)(?P<to>,(?P<most>\d*))?\})
    | \\x\{[^}]*\} | \\. | .""",
    re.DOTALL | re.VERBOSE,
)


def _size(pattern: str, *, searched: bool = False) -> tuple[int, int]:
    """About how large the program of an RE2 expression is, all counts written out, and what it may be.

    A letter is 1, a class such as `.` or [a-z] 7, a Unicode property 120; a count multiplies what it repeats. RE2 tries
    an expression on a text in time that grows with both sizes. A replacement tries it again behind every match, which
    may be at every letter, unless it fits only at the beginning; and where anything in it repeats without end, every
    time to the end of the text: then a class is 60, and | is 6.
    """
    tokens = list(_TOKEN.finditer(pattern))
    depth, once = 0, re.match(r"(?:\^|\\A)(?![*+?{])", pattern) is not None
    for token in tokens:
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        once = once and not (token[0] == "|" and not depth)
    again = searched and not once
    endless = any(token.lastgroup == "endless" or token["to"] == "," for token in tokens)
    wide = 60 if again and endless else 7
    sizes, last = [0], 0  # of each open group so far; of what a count would repeat
    for token in tokens:
        match token.lastgroup:
            case "count":
                more = last * (max(int(token["least"]), int(token["most"] or 0), 1) - 1)
                sizes[-1] += more
                last += more
                continue
            case "open":
                sizes.append(1)
                continue
            case "close":
                last = sizes.pop() if len(sizes) > 1 else 1
            case "property":
                last = 120
            case "set":
                last = max(wide, len(token[0].encode()) // 2) + 120 * token[0].lower().count("\\p")
            case "some":
                last = wide
            case "quoted":
                last = len(token[0])
            case "half":
                raise ValueError(r"\C fits a part of a letter, which would leave broken text; write . for it")
            case _:
                last = max(1, wide // 10) if token[0] == "|" else 1
        sizes[-1] += last
    return sum(sizes), MAX_SEARCHED if again else MAX_MATCHED


@lru_cache(maxsize=1024)  # a policy is made again and again, in each of its checks
def checked(pattern: str, *, searched: bool = False) -> str:
    """An RE2 expression that can be compiled and takes no long time: to be tried once, or `searched` for."""
    if not pattern:
        raise ValueError("an empty expression fits everywhere; write one")
    shown = repr(pattern if len(pattern) <= 60 else f"{pattern[:60]}…")
    if len(pattern) > MAX_MATCHED:
        raise ValueError(f"{shown} is longer than {MAX_MATCHED:,} characters; make it several")
    size, limit = _size(pattern, searched=searched)
    if size > limit:
        way = "begin it with ^, " if limit == MAX_SEARCHED else ""
        raise ValueError(
            f"{shown} is too large: with its counts written out and its classes it comes to {size:,}, the limit is "
            f"{limit:,}; {way}write + for large counts, or make it several"
        )
    try:
        pc.replace_substring_regex(pa.array([""]), pattern, "")
    except pa.ArrowInvalid as error:
        why = str(error).removeprefix("Invalid regular expression: ").removesuffix(f": ({pattern})")
        raise ValueError(
            f"{shown} is not an RE2 regular expression ({why}); correct it: look-around and back-references "
            "do not exist there"
        ) from None
    return pattern


def checked_search(pattern: str) -> str:
    """As `checked`, of an expression that is sought again behind every match."""
    return checked(pattern, searched=True)


def _pattern(pattern: str) -> str:
    if not pattern.strip():
        raise ValueError("an empty pattern matches nothing; remove it")
    if pattern != pattern.strip():
        raise ValueError(f"{pattern[:60]!r} has blanks around it, which no name has; remove them")
    checked(_expression(pattern))
    return pattern


def _expression(pattern: str) -> str:
    if pattern.startswith("re:"):
        return pattern[3:]
    return pattern.translate(_SPECIAL).replace("*", ".*").replace("?", ".")


def _group_entry(entry: str) -> str:
    if entry.startswith(BY_ID):
        if not entry.removeprefix(BY_ID).strip():
            raise ValueError(f"{entry!r} has no id; write the group's id in the IdP behind it")
        return entry
    return _pattern(entry)


Pattern = Annotated[str, AfterValidator(_pattern)]
"""Of names of groups or accounts."""
GroupEntry = Annotated[str, AfterValidator(_group_entry)]


def matches(names: pd.Series, patterns: Iterable[str]) -> pd.Series:
    """Which names match any of the patterns: bool, on the index of `names`."""
    array = arrow_text(names)
    found = np.zeros(len(names), dtype=bool)
    for pattern in patterns:
        regex = f"(?is)\\A(?:{_expression(pattern)})\\z"
        found |= pc.match_substring_regex(array, regex).to_numpy(zero_copy_only=False)
    return pd.Series(found, index=names.index)


PRIVILEGED = (
    "*administrator*",
    "*admins*",
    r"re:.*admin([^a-z].*)?",  # the word admin, or one that ends so: sysadmin, jira_admin, admin-emea, Jira Admin Team
    r"re:.*(?-i:[Aa]dmin[A-Z]).*",  # JiraAdminTeam
    "*superuser*",
    "*super-user*",
    "*super_user*",
    "bamboo-admin*",
    "bitbucket-admin*",
    "stash-admin*",
)
"""The family that Atlassian's own groups of power are of, whatever stands before or after and between the words.
Atlassian's products make new ones with every release, and companies name theirs alike. `administration` and
`badminton` are none; whoever has an `admin-assistants` names it in `privileged_allowed`."""


def look_privileged(names: pd.Series, patterns: Iterable[str]) -> pd.Series:
    """Which names match any of the patterns, as they stand there (blanks and capitals tell words apart), or in the
    form of any that looks like them: bool, on the index of `names`."""
    return pd.Series(_look_privileged(tuple(names.tolist()), tuple(patterns)).copy(), index=names.index)


@lru_cache(maxsize=32)  # each stage asks of the same groups
def _look_privileged(names: tuple[str, ...], patterns: tuple[str, ...]) -> np.ndarray:
    """As `look_privileged`."""
    plain = pd.Series(names, dtype="str")
    folded = fold(plain)
    found = matches(plain, patterns).to_numpy(copy=True)
    other = (folded != plain).to_numpy() | ~ascii_only(plain)
    plain, folded = plain[other].reset_index(drop=True), folded[other].reset_index(drop=True)
    for form in (folded, *skeletons(plain, folded)):
        found[other] |= matches(form, patterns).to_numpy()
    return found
