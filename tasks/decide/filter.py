"""Who is in scope: by name, by group, by conditions on fields and attributes; and what becomes of nested groups.

Snapshot → the part of it that the policy's scope covers. People and groups outside are not held: if we own their
account, they count as having left. Whoever may be outside only because a value, or who is in a group, cannot be read
is held. A name of the policy that two groups have means the one that had it first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from connectors.errors import ConfigurationError
from connectors.model import OUT_OF_SCOPE, Snapshot, held_frame, held_records, sizes_only
from tasks.decide.conditions import Verdict, Verdicts, conditions_of, fits_block, unread_reasons
from tasks.decide.group_entries import Below, Meant, admitted, groups_in_scope, meant, unmatched
from tasks.decide.names import among, equal
from tasks.decide.nesting import above_unread, codes_in, flattened, members_below, members_of, nestings
from tasks.policy import Policy, ScopePolicy, matches

RULES = ("scope.users", "scope.exclude_users", "scope.required_groups", "scope.conditions", "scope.members_only")
"""The rules of the scope, in the order in which they apply."""


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


@sizes_only
@dataclass(frozen=True, slots=True)
class Rulings:
    """What each rule of the scope says of each person, in the order of `snapshot.users`.

    `rules`: the field of the policy → whom it lets in (bool), in the order in which they apply.
    `conditions`: by block and condition, whom it fits and where that cannot be said (bool).
    `unsure`: who would be in, were it certain that the conditions fit; `reasons` says why it is not, else "".
    """

    rules: Mapping[str, np.ndarray]
    conditions: Verdicts
    unsure: np.ndarray
    reasons: pd.Series
    groups: np.ndarray
    later: Mapping[str, str] = field(default_factory=dict)

    @property
    def users(self) -> np.ndarray:
        """Who is in scope: bool."""
        return np.asarray(np.logical_and.reduce(list(self.rules.values())), dtype=bool)


def in_scope(
    snapshot: Snapshot, policy: Policy, known: Mapping[str, int] | None = None, *, whole: bool = True
) -> Scoped:
    """Snapshot → scoped snapshot; memberships keep only groups and members that are in scope.

    `known`: since which snapshot groups (ids) have had their name, of those that `doubled` names. Raises
    `ConfigurationError` where the scope leaves nobody, or no group, of those that are there; of a part of the source
    (not `whole`) that says nothing.
    """
    rulings = ruled(snapshot, policy, known)
    if whole:
        _refuse_nobody(rulings, policy.scope)
    return cut(snapshot, policy, rulings, known)


def ruled(snapshot: Snapshot, policy: Policy, known: Mapping[str, int] | None = None) -> Rulings:
    """Snapshot and policy → for every person what each rule of the scope says, and which groups are in scope."""
    users, groups, scope = snapshot.users, snapshot.groups, policy.scope
    keep_groups = groups_in_scope(groups, scope)
    rules: dict[str, np.ndarray] = {
        "scope.users": matches(users["username"], scope.users).to_numpy(),
        "scope.exclude_users": ~matches(users["username"], scope.exclude_users).to_numpy(),
    }
    doubts: dict[str, Verdict] = {}
    reasons = pd.Series("", index=users.index, dtype="str")
    conditions: Verdicts = ()
    later: dict[str, str] = {}
    if scope.conditions:
        conditions, unsure, reasons = conditions_of(users, scope)
        fits = np.logical_or.reduce([fits_block(block)[0] for block in conditions])
        unread = unread_reasons(users["id"], snapshot.warnings, scope)
        unsure, reasons = unsure | (unread != "").to_numpy(), reasons.where(unread == "", unread)
        rules["scope.conditions"] = fits & (unread == "").to_numpy()
        doubts["scope.conditions"] = rules["scope.conditions"], unsure
    for rule, of, below in _group_rules(snapshot, policy, known or {}):
        fits, unsure, why = admitted(users["id"], snapshot, of, below)
        rules[rule], doubts[rule] = fits, (fits, unsure)
        reasons = reasons.where((reasons != "") | ~unsure, why)
        later |= of.later
    # Unsure is who would be in, were it certain that they fit where that cannot be said.
    possible = [doubts[rule][0] | doubts[rule][1] if rule in doubts else fits for rule, fits in rules.items()]
    unsure = np.logical_and.reduce(possible) & ~np.logical_and.reduce(list(rules.values()))
    order = [rule for rule in RULES if rule in rules]
    return Rulings(
        {rule: rules[rule] for rule in order}, conditions, unsure, reasons.where(unsure, ""), keep_groups, later
    )


def _group_rules(snapshot: Snapshot, policy: Policy, known: Mapping[str, int]) -> Iterator[tuple[str, Meant, Below]]:
    """The rules that let people in by their groups: the field of the policy, the groups, and how members are found."""
    scope = policy.scope
    if scope.required_groups:
        of = meant(snapshot, scope.required_groups, "scope.required_groups", known)
        yield "scope.required_groups", of, members_below
    if scope.members_only:
        # (Where nestings are ignored, nobody gets into a group through another.)
        below = members_of if policy.groups.nesting == "ignore" else members_below
        yield "scope.members_only", meant(snapshot, scope.groups, "scope.groups", known, scope.exclude_groups), below


def cut(snapshot: Snapshot, policy: Policy, rulings: Rulings, known: Mapping[str, int] | None = None) -> Scoped:
    """Snapshot → the part that the rulings let in."""
    users, groups, memberships = snapshot.users, snapshot.groups, snapshot.memberships
    keep_users, keep_groups = rulings.users, rulings.groups
    nothing = pd.Index([], dtype="str")
    unread = above_unread(snapshot) if policy.groups.nesting == "flatten" else held_frame()
    if len(unread):
        held = pd.concat([snapshot.held, unread], ignore_index=True)
        keep_groups = keep_groups & ~among(groups["id"], unread["id"])
        snapshot = Snapshot(users, groups, memberships, held, snapshot.warnings, snapshot.unsound)
    is_group = nestings(memberships)
    as_it_is = policy.groups.nesting == "preserve" or not is_group.any()
    scope = policy.scope
    doubts = unmatched(snapshot, {"scope.groups": scope.groups, "scope.required_groups": scope.required_groups})
    useless = unmatched(snapshot, {"scope.exclude_groups": scope.exclude_groups})
    held, warnings = _held_departures(snapshot, policy, known or {}), snapshot.warnings
    if rulings.later or doubts or useless:
        warned = [("group", one, _name_of(groups, one), "filter", why) for one, why in rulings.later.items()]
        warned += [("policy", "", "scope", "filter", why) for why in (*doubts, *useless)]
        warnings = pd.concat([warnings, held_frame(warned)], ignore_index=True)
    if keep_users.all() and keep_groups.all() and as_it_is:
        if held is not snapshot.held or warnings is not snapshot.warnings:
            snapshot = Snapshot(users, groups, memberships, held, warnings)
        return Scoped(snapshot, nothing, nothing, doubts)
    if not as_it_is:
        memberships = flattened(memberships) if policy.groups.nesting == "flatten" else memberships[~is_group]
        is_group = nestings(memberships)

    group_in = codes_in(memberships["group_id"], groups.loc[keep_groups, "id"])
    member_user = codes_in(memberships["member_id"], users.loc[keep_users, "id"])
    member_group = codes_in(memberships["member_id"], groups.loc[keep_groups, "id"])
    keep = group_in & np.where(is_group, member_group, member_user)
    if rulings.unsure.any():
        held = pd.concat([held, _held_unsure(users, rulings)], ignore_index=True)
    return Scoped(
        Snapshot.of(users[keep_users], groups[keep_groups], memberships[keep], held, warnings),
        pd.Index(users.loc[~keep_users & ~rulings.unsure, "id"]),
        pd.Index(groups.loc[~keep_groups, "id"]),
        doubts,
    )


def _held_departures(snapshot: Snapshot, policy: Policy, known: Mapping[str, int]) -> pd.DataFrame:
    """The held records, with `away` set for the people who are out of scope whatever is wrong with their record: by
    their groups, or by the conditions where the row could be read. (A username that is held for itself proves
    nothing.)"""
    held = snapshot.held
    silent = held[equal(held["kind"], "user") & equal(held["away"], "") & ~equal(held["id"], "")]
    if silent.empty:
        return held
    ids = silent["id"].drop_duplicates()
    out = np.zeros(len(ids), dtype=bool)
    for _, of, below in _group_rules(snapshot, policy, known):
        fits, unsure, _ = admitted(ids, snapshot, of, below)
        out |= ~fits & ~unsure
    if policy.scope.conditions and len(snapshot.unsound):
        conditions, unsure, _ = conditions_of(snapshot.unsound, policy.scope)
        fits = np.logical_or.reduce([fits_block(block)[0] for block in conditions])
        out |= among(ids, snapshot.unsound["id"][~fits & ~unsure])
    departed = held["id"].isin(ids[out]) & (held["kind"] == "user") & (held["away"] == "")
    return held.assign(away=held["away"].where(~departed, OUT_OF_SCOPE).astype("str"))


def _refuse_nobody(rulings: Rulings, scope: ScopePolicy) -> None:
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


def _held_unsure(users: pd.DataFrame, rulings: Rulings) -> pd.DataFrame:
    """The people of whom nobody can say whether they are in scope, as held records."""
    found = users[rulings.unsure]
    return held_records("user", found, "username", "filter", rulings.reasons[found.index])


def _name_of(groups: pd.DataFrame, identity: str) -> str:
    return str(groups.loc[groups["id"] == identity, "name"].iloc[0])
