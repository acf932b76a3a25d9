"""Why one person is, or is not, in Crowd as they are: every rule that applies, and what it says.

Source snapshot, policy and one person → a table to read from top to bottom. It is made by the same functions as the
desired state (`tasks.decide.filter`, `tasks.decide.map`, `tasks.decide.values`), so that it cannot say anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from connectors.errors import ConfigurationError, RecordError
from connectors.model import Snapshot, attributes_text, sizes_only
from connectors.spelling import meant
from tasks.decide.conditions import said, values_of
from tasks.decide.fields import FIELDS, readable, readable_attributes
from tasks.decide.filter import Rulings, Scoped, cut, ruled
from tasks.decide.map import EVERYONE, Desired, desired, username_steps
from tasks.decide.match import LINKS, match
from tasks.decide.plan import Departures, plan
from tasks.decide.values import traced
from tasks.policy import Condition, Groups, Policy, Value

Stage = Literal["source", "crowd", "filter", "map", "match", "plan"]


@sizes_only
@dataclass(frozen=True, slots=True)
class Known:
    """What a source meets: the directory as it was read, its links, the source's name, and who has left since when."""

    directory: Snapshot
    links: pd.DataFrame
    source: str
    departures: Departures | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """What one rule says of a person: at which stage, about what (`scope`, `username`, a field,
    `attribute NAME`, `group`, `held`), the values before it, the rule in words, and the values after it.

    The last row of a field or attribute has what stands in Crowd, a row `group` with a value after it a Crowd group
    that the person gets; without one it is a group that they do not get.
    """

    stage: Stage
    what: str
    before: tuple[str, ...]
    rule: str
    after: tuple[str, ...]


def explain(source: Snapshot, policy: Policy, key: str, crowd: Known | None = None) -> list[Explained]:
    """The whole way of one person, by id, username or e-mail, through scope and mapping, and why they are held where
    they meet `crowd` (without it, an empty one).

    Raises `RecordError` where nobody, or more than one person, has this key.
    """
    at = row_of(source, key)
    if isinstance(at, list):
        return at
    if at is None:
        raise nobody(source, key)
    rulings = ruled(source, policy)
    rows = _scope(source, policy, rulings, at)
    if not rulings.users[at]:
        return rows
    scoped = cut(source, policy, rulings)
    one = source.users.iloc[[at]]
    rows += _username(one, policy) + _values(one, policy)
    try:
        wanted = desired(scoped.snapshot, policy)
    except ConfigurationError as error:  # nobody comes to Crowd then
        return [*rows, Explained("map", "held", (), str(error), ())]
    identity = str(one["id"].iloc[0])
    held = wanted.held[(wanted.held["kind"] == "user") & (wanted.held["id"] == identity)]
    if len(held) and not (wanted.users["id"] == identity).any():
        return [*rows, *(Explained("map", "held", (), reason, ()) for reason in held["reason"])]
    met = _held_in(source, policy, wanted, identity, crowd)
    return [*rows, *met] if met else rows + _groups(source, policy, scoped, wanted, identity)


def _held_in(source: Snapshot, policy: Policy, wanted: Desired, identity: str, crowd: Known | None) -> list[Explained]:
    """Why a person of the desired state is held: by another one, by their account, or by what stands in Crowd."""
    here = crowd or Known(Snapshot.of(), pd.DataFrame(columns=list(LINKS), dtype="str"), "")
    matched = match(wanted, here.directory, here.links, policy, here.source, source)
    made = plan(matched, source, here.directory, policy, here.source, ("", ""), departures=here.departures)
    held = made.held[(made.held["kind"] == "user") & (made.held["id"] == identity)]
    stages: dict[str, Stage] = {"match": "match", "plan": "plan"}
    return [
        Explained(stages[stage], "held", (), reason, ())
        for stage, reason in zip(held["stage"], held["reason"], strict=True)
        if stage in stages
    ]


def row_of(source: Snapshot, key: str) -> int | list[Explained] | None:
    """The row of a person by id, username or e-mail; or, where they could not be read, why; None: there is nobody.

    Raises `RecordError` where several have this key."""
    users, lower = source.users, key.lower()
    for found in (
        users["id"] == key,
        users["username"].str.lower() == lower,
        users["email"].str.lower() == lower,
    ):
        rows = np.flatnonzero(found.to_numpy())
        if len(rows) > 1:
            some = ", ".join(repr(one) for one in users["id"].iloc[rows[:5]])
            raise RecordError(f"{key!r} fits {len(rows)} people of the source (ids {some}); give an id")
        if len(rows) and key:
            return int(rows[0])
    held = source.held[(source.held["kind"] == "user") & (key != "")]
    held = held[(held["id"] == key) | (held["name"].str.lower() == lower)]
    if len(held):
        return [Explained("source", "held", (), f"{one.stage}: {one.reason}", ()) for one in held.itertuples()]
    return None


def nobody(source: Snapshot, key: str) -> RecordError:
    """That nobody has this key, and who may be meant."""
    like = meant(key, source.users["username"].tolist()) or "; check its spelling"
    return RecordError(f"nobody in the source has the id, username or e-mail {key!r}{like}")


# ── scope ───────────────────────────────────────────────────────────────────────────────────────


def _scope(source: Snapshot, policy: Policy, rulings: Rulings, at: int) -> list[Explained]:
    """Whether the person is in scope, and by which rule."""
    one = source.users.iloc[[at]]
    fields = list(dict.fromkeys(c.field for block in policy.scope.conditions for c in block.all))
    shown = {field: tuple(values_of(one, field)) for field in fields}
    username = (str(one["username"].iloc[0]),)
    if rulings.unsure[at]:
        return [Explained("filter", "scope", username, str(rulings.reasons.iloc[at]), ("held",))]
    for field, fits in rulings.rules.items():
        if fits[at]:
            continue
        if field != "scope.conditions":
            return [Explained("filter", "scope", username, _rule_words(field, policy), ("out of scope",))]
        wrong = [
            Explained("filter", "scope", shown[one.field], f"{field}[{number}]: {said(one)}", ("out of scope",))
            for number, one in _misfits(policy, rulings, at)
        ]
        if wrong:  # or it cannot be said, and another rule has them out
            return wrong
    for number, block in enumerate(policy.scope.conditions):
        if all(fit[at] for fit, _ in rulings.conditions[number]):
            return [
                Explained(
                    "filter", "scope", shown[one.field], f"scope.conditions[{number}]: {said(one)}", ("in scope",)
                )
                for one in block.all
            ]
    rules = [_rule_words(field, policy) for field in rulings.rules if field != "scope.exclude_users"]
    return [Explained("filter", "scope", username, "; ".join(rules), ("in scope",))]


def _misfits(policy: Policy, rulings: Rulings, at: int) -> list[tuple[int, Condition]]:
    """The conditions that a person does not fit, by block; none where a block may fit as a whole."""
    found = []
    for number, (block, verdicts) in enumerate(zip(policy.scope.conditions, rulings.conditions, strict=True)):
        wrong = [one for one, (fit, unsure) in zip(block.all, verdicts, strict=True) if not fit[at] and not unsure[at]]
        if not wrong:
            return []
        found += [(number, one) for one in wrong]
    return found


def _rule_words(field: str, policy: Policy) -> str:
    """A rule of the scope in words."""
    if field == "scope.members_only":
        return f"{field}: in a synced group"
    return f"{field}: {', '.join(getattr(policy.scope, field.removeprefix('scope.')))}"


# ── names and values ────────────────────────────────────────────────────────────────────────────


def _username(one: pd.DataFrame, policy: Policy) -> list[Explained]:
    return _chain("username", [(rule, names.to_pylist()) for rule, names in username_steps(one, policy.usernames)])


def _values(one: pd.DataFrame, policy: Policy) -> list[Explained]:
    rows = []
    mapped: dict[str, Value] = {str(field): value for field, value in policy.attributes.fields.items()}
    for field in FIELDS:
        steps = traced(one, mapped.get(field, field))
        if len(steps[-1][1]) > 1:
            steps.append(("a field has one value: the first", steps[-1][1][:1]))
        (why,) = readable(pd.Series(steps[-1][1] or [""], dtype="str"), field)[1]
        if why:
            steps.append((f"{why} and is left out: Crowd's stays", []))
        rows += _chain(field, steps) if field in mapped or why else []
    for name, value in policy.attributes.extra.items():
        steps = traced(one, value)
        (why,) = readable_attributes(pd.Series([attributes_text({name: steps[-1][1]})], dtype="str"))[1]
        if why:
            steps.append((f"{why} and is left out: Crowd's stays", []))
        rows += _chain(f"attribute {name}", steps)
    return rows


def _chain(what: str, steps: list[tuple[str, list[str]]]) -> list[Explained]:
    """Rules and the values after each → rows, each with the values before it."""
    before: tuple[str, ...] = ()
    rows = []
    for rule, values in steps:
        rows.append(Explained("map", what, before, rule, tuple(values)))
        before = tuple(values)
    return rows


# ── groups ──────────────────────────────────────────────────────────────────────────────────────


def _groups(source: Snapshot, policy: Policy, scoped: Scoped, wanted: Desired, identity: str) -> list[Explained]:
    """The Crowd groups that the person gets, then those of the IdP that they do not get."""
    direct, gets = _groups_of(source.memberships, identity), _groups_of(wanted.memberships, identity)
    names = dict(zip(wanted.groups["id"], wanted.groups["name"], strict=True))
    held = wanted.held[wanted.held["kind"] == "group"]
    reasons = dict(zip(held["id"], held["reason"], strict=True))
    here = source.groups[source.groups["id"].isin(direct | gets)]
    rows, left = [], []
    for group, name in zip(here["id"].tolist(), here["name"].tolist(), strict=True):
        flat = "" if group in direct else "groups.nesting flatten: in a group nested in it; "
        if group in scoped.groups_out:
            left.append(Explained("filter", "group", (name,), "scope.groups and scope.exclude_groups", ()))
        elif group not in names:
            left.append(Explained("map", "group", (name,), reasons.get(group, "held"), ()))
        else:
            rows.append(Explained("map", "group", (name,), flat + named_by(name, policy.groups), (names[group],)))
    for one in (one for one in wanted.everyone if one in gets):
        rows.append(Explained("map", "group", (), "groups.everyone", (names[one],)))
    left += [Explained("map", "group", (), why, ()) for one, why in reasons.items() if one.startswith(EVERYONE)]
    return rows + left


def named_by(name: str, groups: Groups) -> str:
    """The rules that make a group's Crowd name, in words."""
    words, now = [], name
    for number, rule in enumerate(groups.rules):
        after = _named(name, groups.model_copy(update={"rules": groups.rules[: number + 1], "prefix": ""}))
        if after != now:
            words.append(f"groups.rules[{number}]: replace {rule.pattern!r} by {rule.replacement!r}")
        now = after
    if groups.prefix:
        words.append(f"groups.prefix: {groups.prefix!r}")
    return "; ".join(words) or "its name in the IdP"


def _named(name: str, groups: Groups) -> str:
    return str(groups.named(pd.Series([name], dtype="str")).iloc[0])


def _groups_of(memberships: pd.DataFrame, identity: str) -> set[str]:
    code = memberships["member_id"].cat.categories.get_indexer(pd.Index([identity]))[0]
    which = (memberships["member_id"].cat.codes == code) & (memberships["member_kind"] == "user")
    return set(memberships.loc[which, "group_id"].astype("str"))
