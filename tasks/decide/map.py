"""What should stand in Crowd: usernames and group names by ordered rules, fields and attributes by a mapping.

Scoped snapshot → desired state: the same ids, Crowd's names and values. A value that Crowd has no place for, in a field
that nobody needs, holds nobody: it is left out with a warning, and what stands in Crowd stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

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
from tasks.decide.fields import (
    CONTROL_IN_TEXT,
    FIELDS,
    NO_ADDRESS,
    readable,
    readable_attributes,
    shortened,
    too_long,
    without,
)
from tasks.decide.kept import kept
from tasks.decide.names import among, arrow_text, clashes, equal, spelled
from tasks.decide.values import Sources, attribute_texts, field_value
from tasks.policy import Groups, Policy, Usernames, matches, replaced

EVERYONE = "crowdsync:everyone:"
"""How the ids of the groups begin that everybody is in: they stand in the policy, not in the source."""

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


@sizes_only
@dataclass(frozen=True, slots=True)
class _Mapped:
    """Records of one kind as Crowd should have them, beside the `originals` of the source, row by row; `reasons`: why
    each is held, or ""; `left_out`: for several values, why each was left out of a record, or ""."""

    kind: str
    originals: pd.DataFrame
    records: pd.DataFrame
    reasons: pd.Series
    left_out: list[pd.Series]

    @property
    def name(self) -> str:
        """The column that has the records' names."""
        return "username" if self.kind == "user" else "name"

    @property
    def fine(self) -> np.ndarray:
        """Which records are not held: bool."""
        return equal(self.reasons, "")


def desired(snapshot: Snapshot, policy: Policy, *, whole: bool = True) -> Desired:
    """Scoped source snapshot → desired state, with everything that cannot be mapped held.

    Raises `ConfigurationError` where the rules give everybody, or every group, one name; of a part of the source (not
    `whole`) that says nothing.
    """
    names = usernames(snapshot.users, policy.usernames)
    group_names = policy.groups.named(snapshot.groups["name"])
    if whole:
        _refuse_one_name(snapshot, policy, names, group_names)
    people = _people(snapshot.users, policy, names)
    groups, ours = _groups(snapshot.groups, policy, group_names)
    users = people.records[people.fine].reset_index(drop=True)
    everyone = pd.Index(groups.records.loc[groups.fine & ours, "id"])
    given = {kind: snapshot.warnings[equal(snapshot.warnings["kind"], kind)] for kind in ("user", "group", "policy")}
    warnings = [
        *(
            given[kind][among(given[kind]["id"], records["id"])]
            for kind, records in (("user", snapshot.users), ("group", snapshot.groups))
        ),
        given["policy"],
        *_warned(people),
        *_warned(groups),
    ]
    return Desired(
        users,
        groups.records[groups.fine].reset_index(drop=True),
        _with_everyone(snapshot.memberships, everyone, users.loc[users["active"], "id"]),
        pd.concat([snapshot.held, _held(people), _held(groups)], ignore_index=True),
        everyone,
        pd.concat(warnings, ignore_index=True),
    )


def _people(originals: pd.DataFrame, policy: Policy, names: pd.Series) -> _Mapped:
    """Users of the source and their Crowd names → the users as Crowd should have them."""
    sources = Sources(originals, policy.attributes.wanted())
    users = originals.assign(username=names, original=originals["username"])
    for column, value in policy.attributes.fields.items():
        users[column] = field_value(sources, value)
    left_out: list[pd.Series] = []
    for optional in FIELDS:
        users[optional], why = readable(users[optional], optional)
        left_out.append(why)
    users["attributes"], why = readable_attributes(attribute_texts(sources, policy.attributes.extra))
    left_out.append(why)

    reasons = pd.Series("", index=users.index, dtype="str")
    reasons = _because(reasons, equal(users["username"], ""), "the username rules leave nothing of its username")
    long = too_long(users["username"])
    reasons = _because(reasons, long, f"username is longer than Crowd's {MAX_TEXT} characters")
    reasons = _denied(reasons, users["username"], policy.usernames, "usernames")
    return _Mapped("user", originals, users, reasons, left_out)


@kept
def _groups(given: pd.DataFrame, policy: Policy, names: pd.Series) -> tuple[_Mapped, np.ndarray]:
    """Groups of the source and their Crowd names → the groups as Crowd should have them; and which of them (bool) are
    the policy's, that everybody is in: they follow after the source's, by the same rules but those for their names."""
    everyone = pd.DataFrame(
        {"id": [EVERYONE + crowd_id(name) for name in policy.groups.everyone], "name": policy.groups.everyone},
        dtype="str",
    ).assign(description="", attributes="{}")
    originals = pd.concat([given, everyone], ignore_index=True).astype("str")
    described, undescribed = without(originals["description"], CONTROL_IN_TEXT, "description has control characters")
    groups = originals.assign(description=shortened(described), original=originals["name"])
    groups["name"] = pd.concat([names, everyone["name"]], ignore_index=True).astype("str")
    ours = np.arange(len(groups)) >= len(names)

    reasons = pd.Series("", index=groups.index, dtype="str")
    reasons = _because(reasons, equal(groups["name"], ""), "the group name rules leave nothing of its name")
    long = too_long(groups["name"])
    reasons = _because(reasons, long, f"name is longer than Crowd's {MAX_TEXT} characters")
    reasons = _denied(reasons, groups["name"], policy.groups, "groups")
    reasons = _also_everyone(reasons, groups["name"], originals["name"], ours)
    return _Mapped("group", originals, groups, reasons, [undescribed]), ours


def usernames(users: pd.DataFrame, rules: Usernames) -> pd.Series:
    """Users frame → Crowd usernames, on its index."""
    *_, (_, names) = username_steps(users, rules)
    return pd.Series(names, dtype="str", index=users.index)


def username_steps(users: pd.DataFrame, rules: Usernames) -> Iterator[tuple[str, pa.Array]]:
    """Users frame → each rule in words, and the usernames after it."""
    given = users[rules.source]
    if rules.source == "email":  # where it is no address, it is nobody's name
        given, _ = without(given, NO_ADDRESS, "")
    names = arrow_text(given)
    yield f"usernames.source: {rules.source}", names
    if rules.normalise != "none":
        names = pc.utf8_normalize(names, rules.normalise)
        yield f"usernames.normalise: {rules.normalise}", names
    for rule in rules.rules:
        names = replaced(names, (rule,))
        yield f"usernames.rules: replace '{rule.pattern}' by '{rule.replacement}'", names
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
        if not rules.rules or len(made) < least or not _one_name(made):
            continue
        bare = rules.model_copy(update={"rules": ()})
        before = usernames(snapshot.users, bare) if isinstance(bare, Usernames) else bare.named(snapshot.groups["name"])
        if not _one_name(before):
            raise ConfigurationError(
                f"{setting} give all {len(made)} {people} one name, {made.iloc[0]!r}; correct the patterns, so that "
                "different names stay different. Nothing is written"
            )


def _one_name(names: pd.Series) -> bool:
    lower = names.str.lower()
    return bool((lower == lower.iloc[0]).all())


def _denied(reasons: pd.Series, names: pd.Series, rules: Usernames | Groups, field: str) -> pd.Series:
    """Adds a reason to every record whose Crowd name the policy does not give."""
    for which, why in (
        (matches(names, rules.deny), f"one of {field}.deny; take it out there, or rename it in the IdP"),
        (~matches(names, rules.allow), f"none of {field}.allow; add it there, or rename it in the IdP"),
    ):
        if which.any():
            reasons = _because(reasons, which, "its Crowd name '" + names + "' is " + why)
    return reasons


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
    """Reasons, with this one for those records that have none yet."""
    which = np.asarray(which, dtype=bool)
    return reasons.where(~which | (reasons != ""), reason) if which.any() else reasons


def _held(mapped: _Mapped) -> pd.DataFrame:
    """The records that have a reason, as held records under their names in the IdP."""
    found = mapped.originals[~equal(mapped.reasons, "")]
    return held_records(mapped.kind, found, mapped.name, "map", mapped.reasons[found.index])


def _warned(mapped: _Mapped) -> list[pd.DataFrame]:
    """The records of which a value was left out, as warnings."""
    warned = []
    for reasons in mapped.left_out:
        which = ~equal(reasons, "")
        if not which.any():
            continue
        rows = mapped.originals[which]
        frame = held_records(mapped.kind, rows, mapped.name, "map", reasons[which] + " and was left out")
        warned.append(frame.assign(away=pd.Series("", index=frame.index, dtype="str")))
    return warned
