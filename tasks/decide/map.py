"""What should stand in Crowd: usernames and group names by ordered rules, fields and attributes by a mapping.

Scoped snapshot → desired state: the same ids, Crowd's names and values. A value that Crowd has no place for, in a field
that nobody needs, holds nobody: it is left out with a warning, and what stands in Crowd stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.errors import ConfigurationError
from connectors.model import (
    MAX_TEXT,
    MEMBER_KINDS,
    Snapshot,
    crowd_id,
    held_frame,
    held_records,
    memberships_from_codes,
    sizes_only,
)
from tasks.decide.names import arrow_text, clashes, spelled
from tasks.decide.values import Sources, attribute_texts, field_value
from tasks.policy import Groups, Policy, Usernames, matches, replaced

FIELDS = ("email", "first_name", "last_name", "display_name")

EVERYONE = "crowdsync:everyone:"
"""How the ids of the groups begin that everybody is in: they stand in the policy, not in the source."""

_CONTROL: Final = r"[\x00-\x1f\x7f]"
_CONTROL_IN_TEXT: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
"""The same of texts that may have lines and tabs."""
_CONTROL_IN_JSON: Final = r"\\(?:u00|[bf])|\x7f"
"""How such a character looks in JSON, and sometimes others."""
_NO_ADDRESS: Final = r"^[^@]+\z|^@|@.*@|@\z|[\s\p{Z}]"

_USER = MEMBER_KINDS.categories.get_loc("user")


@sizes_only
@dataclass(frozen=True, slots=True)
class Desired:
    """What the source wants in Crowd. `users`, `groups` and `memberships` are as in `connectors.model`, with Crowd's
    usernames and attributes, and `original`, the name in the IdP; an attribute with null for its values stays as it is.
    `held` and `warnings` have its columns too. `everyone` are the ids of those of `groups` that everybody is in."""

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame
    held: pd.DataFrame
    everyone: pd.Index
    warnings: pd.DataFrame = field(default_factory=held_frame)


def desired(snapshot: Snapshot, policy: Policy) -> Desired:
    """Scoped source snapshot → desired state, with everything that cannot be mapped held.

    Raises `ConfigurationError` where the rules give everybody, or every group, one name.
    """
    names = usernames(snapshot.users, policy.usernames)
    group_names = policy.groups.named(snapshot.groups["name"])
    _refuse_one_name(snapshot, policy, names, group_names)

    sources = Sources(snapshot.users, policy.attributes.wanted())
    users = snapshot.users.assign(username=names, original=snapshot.users["username"])
    for column, value in policy.attributes.fields.items():
        users[column] = field_value(sources, value)
    left_out: list[pd.Series] = []
    for optional in FIELDS:
        users[optional], why = readable(users[optional], optional)
        left_out.append(why)
    users["attributes"], why = readable_attributes(attribute_texts(sources, policy.attributes.extra))
    left_out.append(why)

    reasons = pd.Series("", index=users.index, dtype="str")
    reasons = _because(reasons, users["username"] == "", "the username rules leave nothing of its username")
    long = _long(users["username"])
    reasons = _because(reasons, long, f"username is longer than Crowd's {MAX_TEXT} characters")
    reasons = _denied(reasons, users["username"], policy.usernames, "usernames")

    # The groups that everybody is in follow after the source's, by the same rules but those for their names.
    everyone = pd.DataFrame(
        {"id": [EVERYONE + crowd_id(name) for name in policy.groups.everyone], "name": policy.groups.everyone},
        dtype="str",
    ).assign(description="", attributes="{}")
    originals = pd.concat([snapshot.groups, everyone], ignore_index=True).astype("str")
    described, undescribed = _without(originals["description"], _CONTROL_IN_TEXT, "description has control characters")
    groups = originals.assign(description=_fitting(described), original=originals["name"])
    groups["name"] = pd.concat([group_names, everyone["name"]], ignore_index=True).astype("str")
    ours = np.arange(len(groups)) >= len(group_names)
    group_reasons = pd.Series("", index=groups.index, dtype="str")
    group_reasons = _because(group_reasons, groups["name"] == "", "the group name rules leave nothing of its name")
    long = _long(groups["name"])
    group_reasons = _because(group_reasons, long, f"name is longer than Crowd's {MAX_TEXT} characters")
    group_reasons = _denied(group_reasons, groups["name"], policy.groups, "groups")
    group_reasons = _also_everyone(group_reasons, groups["name"], originals["name"], ours)

    held = pd.concat(
        [
            snapshot.held,
            _held("user", snapshot.users, "username", reasons),
            _held("group", originals, "name", group_reasons),
        ],
        ignore_index=True,
    )
    here = {"user": snapshot.users["id"], "group": snapshot.groups["id"]}
    warnings = [
        *(
            snapshot.warnings[(snapshot.warnings["kind"] == k) & snapshot.warnings["id"].isin(i)]
            for k, i in here.items()
        ),
        snapshot.warnings[snapshot.warnings["kind"] == "policy"],
        *(_warned("user", snapshot.users, "username", why) for why in left_out if (why != "").any()),
        _warned("group", originals, "name", undescribed),
    ]
    users = users[reasons == ""].reset_index(drop=True)
    fine = (group_reasons == "").to_numpy()
    everyone_ids = pd.Index(groups.loc[fine & ours, "id"])
    return Desired(
        users,
        groups[fine].reset_index(drop=True),
        _with_everyone(snapshot.memberships, everyone_ids, users.loc[users["active"], "id"]),
        held,
        everyone_ids,
        pd.concat(warnings, ignore_index=True),
    )


def usernames(users: pd.DataFrame, rules: Usernames) -> pd.Series:
    """Users frame → Crowd usernames, on its index."""
    *_, (_, names) = username_steps(users, rules)
    return pd.Series(names, dtype="str", index=users.index)


def username_steps(users: pd.DataFrame, rules: Usernames) -> Iterator[tuple[str, pa.Array]]:
    """Users frame → each rule in words, and the usernames after it."""
    given = users[rules.source]
    if rules.source == "email":  # where it is no address, it is nobody's name
        given, _ = _without(given, _NO_ADDRESS, "")
    names = arrow_text(given)
    yield f"usernames.source: {rules.source}", names
    if rules.normalise != "none":
        names = pc.utf8_normalize(names, rules.normalise)
        yield f"usernames.normalise: {rules.normalise}", names
    for rule in rules.rules:
        names = replaced(names, (rule,))
        yield f"usernames.rules: replace {rule.pattern!r} by {rule.replacement!r}", names
    if rules.case == "lower":
        names = pc.utf8_lower(names)
        yield "usernames.case: lower", names
    yield "blanks off", pc.utf8_trim_whitespace(names)


def _refuse_one_name(snapshot: Snapshot, policy: Policy, names: pd.Series, group_names: pd.Series) -> None:
    """Raises `ConfigurationError` where the rules have made all names one that were not before."""
    for setting, people, least, made, rules in (
        ("usernames.rules", "people", 2, names, policy.usernames),
        ("groups.rules", "groups", 3, group_names, policy.groups),
    ):
        if not rules.rules or len(made) < least or len(pd.Index(made.str.lower()).unique()) > 1:
            continue
        without = rules.model_copy(update={"rules": ()})
        if isinstance(without, Usernames):
            before = usernames(snapshot.users, without)
        else:
            before = without.named(snapshot.groups["name"])
        if len(pd.Index(before.str.lower()).unique()) > 1:
            raise ConfigurationError(
                f"{setting} give all {len(made)} {people} one name, {made.iloc[0]!r}; correct the patterns, so that "
                "different names stay different. Nothing is written"
            )


def _denied(reasons: pd.Series, names: pd.Series, rules: Usernames | Groups, field: str) -> pd.Series:
    """Adds a reason to every record whose Crowd name the policy does not give."""
    told = "its Crowd name '" + names + "' is "
    denied = matches(names, rules.deny)
    reasons = _because(reasons, denied, told + f"one of {field}.deny; take it out there, or rename it in the IdP")
    allowed = matches(names, rules.allow)
    return _because(reasons, ~allowed, told + f"none of {field}.allow; add it there, or rename it in the IdP")


def _also_everyone(reasons: pd.Series, names: pd.Series, originals: pd.Series, ours: np.ndarray) -> pd.Series:
    """Adds a reason to every group of the source, and of the policy's everyone, that become one name."""
    if not ours.any():
        return reasons
    label = clashes(names)
    of_both = pd.Index(label[ours & (label != "")]).intersection(pd.Index(label[~ours & (label != "")]))
    for one in of_both:
        there = (label == one).to_numpy()
        policys = ", ".join(spelled(name, repr(name)) for name in originals[there & ours].head(5))
        sources = ", ".join(spelled(name, repr(name)) for name in originals[there & ~ours].head(5))
        reason = f"{policys} of groups.everyone and {sources} of the IdP become one name in Crowd; leave one out"
        reasons = _because(reasons, there, reason)
    return reasons


def _with_everyone(memberships: pd.DataFrame, groups: pd.Index, members: pd.Series) -> pd.DataFrame:
    """Memberships + one of every member in every one of these groups, which have none yet."""
    if not len(groups) or not len(members):
        return memberships
    old_groups, old_members = (memberships[side].cat.categories for side in ("group_id", "member_id"))
    at = old_members.get_indexer(pd.Index(members))
    new = at < 0
    at[new] = len(old_members) + np.arange(int(new.sum()))
    count = len(members)
    return memberships_from_codes(
        old_groups.append(groups),
        old_members.append(pd.Index(members[new])),
        np.concatenate([memberships["group_id"].cat.codes, len(old_groups) + np.repeat(np.arange(len(groups)), count)]),
        np.concatenate([memberships["member_id"].cat.codes, np.tile(at, len(groups))]),
        np.concatenate([memberships["member_kind"].cat.codes, np.full(count * len(groups), _USER)]),
    )


def _because(reasons: pd.Series, which: Any, reason: str | pd.Series) -> pd.Series:
    return reasons.where(~np.asarray(which, dtype=bool) | (reasons != ""), reason)


def _held(kind: str, records: pd.DataFrame, name: str, reasons: pd.Series) -> pd.DataFrame:
    found = records[reasons != ""]
    return held_records(kind, found, name, "map", reasons[found.index])


def readable(texts: pd.Series, column: str) -> tuple[pd.Series, pd.Series]:
    """What stands in one of `FIELDS` → "" for what Crowd has no place for; and why, "" for nothing."""
    reasons = pd.Series("", index=range(len(texts)), dtype="str")
    rules = [(_CONTROL, "has control characters"), *([(_NO_ADDRESS, "is no address")] if column == "email" else [])]
    for pattern, words in rules:
        texts, why = _without(texts, pattern, f"{column} {words}")
        reasons = reasons.where(why == "", why)
    if (long := _long(texts)).any():
        texts = texts.where(~long, "")
        reasons = _because(reasons, long, f"{column} is longer than Crowd's {MAX_TEXT} characters")
    return texts, reasons


def _without(texts: pd.Series, pattern: str, words: str) -> tuple[pd.Series, pd.Series]:
    """Texts → "" for those in which the pattern is found; and for these the words, "" for the others."""
    wrong = _found(texts, pattern)
    return (texts.where(~wrong, "") if wrong.any() else texts), _where(wrong, words)


def readable_attributes(texts: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Attributes texts → with null for the values of those that Crowd has no place for; and why, "" for nothing."""
    after, why = texts.to_numpy(dtype=object).copy(), np.full(len(texts), "", dtype=object)
    for at in np.flatnonzero(_found(texts, _CONTROL_IN_JSON) | _too_long(texts)):
        read, said = orjson.loads(after[at]), dict[str, str]()
        for name, values in read.items():
            if any(map(re.compile(_CONTROL_IN_TEXT).search, values)):
                said[name] = "has control characters"
            elif any(len(value.encode("utf-16-le")) > 2 * MAX_TEXT for value in values):
                said[name] = f"is longer than Crowd's {MAX_TEXT} characters"
        after[at] = orjson.dumps({name: None if name in said else values for name, values in read.items()}).decode()
        why[at] = "; ".join(f"the attribute {name} {words}" for name, words in said.items())
    return pd.Series(after, dtype="str", index=texts.index), pd.Series(why, dtype="str")


def _found(texts: pd.Series, pattern: str) -> np.ndarray:
    found = pc.match_substring_regex(arrow_text(texts), pattern)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _where(which: np.ndarray, words: str) -> pd.Series:
    return pd.Series(np.where(which, words, ""), dtype="str")


def _warned(kind: str, records: pd.DataFrame, name: str, reasons: pd.Series) -> pd.DataFrame:
    which = (reasons != "").to_numpy()
    warned = held_records(kind, records[which], name, "map", reasons[which] + " and was left out")
    return warned.assign(away=pd.Series("", index=warned.index, dtype="str"))


def _fitting(texts: pd.Series) -> pd.Series:
    """Texts cut to what Crowd takes; a description is nobody's identity."""
    long = _long(texts)
    if not long.any():
        return texts
    cut = [text.encode("utf-16-le")[: 2 * MAX_TEXT].decode("utf-16-le", "ignore") for text in texts[long]]
    values = texts.to_numpy(dtype=object).copy()
    values[long] = cut
    return pd.Series(values, dtype="str", index=texts.index)


def _long(texts: pd.Series) -> np.ndarray:
    """Which texts are longer than Crowd takes, as its Java counts: in UTF-16 units."""
    array = arrow_text(texts)
    if (pc.max(pc.binary_length(array)).as_py() or 0) <= MAX_TEXT:  # never fewer bytes than units
        return np.zeros(len(texts), dtype=bool)
    astral = pc.count_substring_regex(array, r"[\x{10000}-\x{10FFFF}]")
    units = pc.add(pc.cast(pc.utf8_length(array), "int64"), pc.cast(astral, "int64"))
    return np.asarray(pc.greater(units, MAX_TEXT))


def _too_long(texts: pd.Series) -> np.ndarray:
    """Which attributes texts hold a value that is longer than Crowd takes."""
    suspects = _long(texts).copy()
    if suspects.any():  # in a text without quotes there is one character a unit, or half of one
        array = arrow_text(texts[suspects])
        least = pc.if_else(
            pc.string_is_ascii(array),
            pc.match_substring_regex(array, rf'(?:[^"\\]|\\.){{{MAX_TEXT + 1}}}'),
            pc.match_substring_regex(array, rf'(?:[^"\\]|\\.){{{(MAX_TEXT + 1) // 2}}}'),
        )
        suspects[suspects] = least.to_numpy(zero_copy_only=False)
        suspects[suspects] = [
            any(len(value.encode("utf-16-le")) > 2 * MAX_TEXT for many in orjson.loads(text).values() for value in many)
            for text in texts[suspects]
        ]
    return suspects


@task(name="map", task_run_name="map", cache_policy=NO_CACHE, persist_result=False)
async def map_names(snapshot: Snapshot, policy: Policy) -> Desired:
    """What the source wants in Crowd."""
    return desired(snapshot, policy)
