"""Whether a plan may be carried out: limits and dangers that a person must agree to, and plans that never are.

Every finding names the number, the limit and its field. `force` lifts what a person could agree to, never the last
rule: a plan that leaves nobody able to log in is always refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from connectors.model import sizes_only
from connectors.operations import KINDS, Kind, kinds
from tasks.decide.impact import Impact
from tasks.decide.names import crowd_ids
from tasks.decide.plan import Plan
from tasks.policy import Limit, Policy

WAY = "look at the plan, then approve it, raise the limit, or run with --force"
_TAKING = kinds(effect="takes")
_SHUTS_OUT = kinds(shuts_out=True)
_REMOVALS = (*_SHUTS_OUT, Kind.MEMBERSHIP_REMOVE)


@sizes_only
@dataclass(frozen=True, slots=True)
class Finding:
    """What a person must agree to, and the kinds of operation that it is about; `limit`: the field of `limits`.
    `questions`: what is asked, in words that stay the same where only a count moves (none: in those of `text`).
    `covers`: whoever agrees does so to the plan's operations of these kinds, and to no others of them; None: of `kinds`
    (of no kind, where the questions name each thing that happens)."""

    text: str
    kinds: tuple[Kind, ...] = ()
    limit: str = field(default="", compare=False)
    questions: tuple[str, ...] = field(default=(), compare=False)
    covers: tuple[Kind, ...] | None = field(default=None, compare=False)


@sizes_only
@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusals` stop the run, and so do `asks` until a person agrees; `forced` were lifted by the run's force, and
    `agreed` by a person. `passed`: the limits (fields of `limits`) that the plan goes past with that. `found`: what a
    person would be asked about, also where the run's force lifts it, or where the policy has nobody asked and it is
    refused (`approval.when: never`).
    `never`: nobody can agree to it, whatever the policy says."""

    refusals: tuple[str, ...] = ()
    asks: tuple[Finding, ...] = ()
    forced: tuple[str, ...] = ()
    agreed: tuple[str, ...] = ()
    passed: tuple[str, ...] = field(default=(), compare=False)
    found: tuple[Finding, ...] = field(default=(), compare=False)
    never: bool = field(default=False, compare=False)

    @property
    def stops(self) -> tuple[str, ...]:
        """Everything that stands against carrying the plan out, in words."""
        return (*self.refusals, *(ask.text for ask in self.asks))

    @property
    def dangerous(self) -> tuple[Kind, ...]:
        """The kinds of operation that are asked about; without them nobody would have been."""
        return tuple(dict.fromkeys(kind for ask in self.asks for kind in ask.kinds))


def judge(
    plan: Plan, policy: Policy, impact: Impact | None = None, *, force: bool = False, put_back: bool = False
) -> Verdict:
    """Plan and its blast impact → verdict. Pure: the same plan under the same policy is always judged the same.

    `put_back`: an older copy of the database was put back, and this source's plans ask, whatever they do."""
    always = tuple(_never(plan))
    found = [*_limits(plan, policy, impact), *_doubts(plan), *_handovers(plan, policy)]
    found += [Finding(PUT_BACK, _kinds(plan))] if put_back and len(plan.operations) else []
    if impact is not None:
        found += _group_loss(plan, impact, policy)
        found += [*_of_groups(impact, policy), *_seats(impact, policy), *_unusual(impact)]
        found += _dangers(plan, impact, policy)
    never = bool(always)
    if force:
        forced = tuple(finding.text for finding in found)
        return Verdict(always, forced=forced, passed=limits_of(found), found=tuple(found), never=never)
    if policy.approval.when == "never":
        return Verdict((*always, *(f"{f.text}; {WAY}" for f in found)), found=tuple(found), never=never)
    if policy.approval.when == "always" and len(plan.operations) and not found:
        taking = tuple(kind for kind in _TAKING if plan.counts().get(kind))
        found.append(Finding("approval.when is 'always': every plan needs agreement", taking, covers=tuple(Kind)))
    return Verdict(always, tuple(found), found=tuple(found), never=never)


PUT_BACK: Final = (
    "put back: the database is an older copy, and this is the first plan of the source since: see that all of it is "
    "what the source wants; of a source that pushes, have everybody pushed again first"
)


def _kinds(plan: Plan) -> tuple[Kind, ...]:
    counts = plan.counts()
    return tuple(kind for kind in Kind if counts.get(kind))


def _never(plan: Plan) -> Iterator[str]:
    shut_out, deleted, owned = plan.shut_out(), plan.counts().get(Kind.USER_DELETE, 0), plan.owned
    if shut_out and shut_out >= owned.active:
        yield (
            f"the plan shuts out all {owned.active} active accounts that this source owns; this is never done, "
            "forced or not: check the source and the scope"
        )
    elif deleted and deleted >= owned.users:
        yield f"the plan deletes all {owned.users} accounts that this source owns; this is never done"


def limits_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The limits that findings are about."""
    return tuple(dict.fromkeys(finding.limit for finding in findings if finding.limit))


def _limits(plan: Plan, policy: Policy, impact: Impact | None) -> Iterator[Finding]:
    recent = {} if impact is None else impact.recent
    counts, owned = plan.counts(), plan.owned
    shut_out = plan.shut_out()
    for kind in Kind:
        counted = KINDS[kind].counted
        if counted is None:
            continue
        name, base, of = kind.value, getattr(owned, counted[0]), counted[1]
        about: tuple[Kind, ...] = (kind,)
        count = counts.get(name, 0)
        if kind is Kind.USER_DEACTIVATE:  # whoever is deleted is shut out too
            about, count = _SHUTS_OUT, shut_out
        text = _over(name, count, base, of, policy, recent.get(name, 0))
        if text:
            yield Finding(text, about, name, (f"limits.{name}",))


def _over(name: str, count: int, base: int, of: str, policy: Policy, recent: int = 0) -> str:
    """What is wrong with taking `count` of `base`, where `recent` were taken before: the base is as it was then."""
    limit: Limit = getattr(policy.limits, name)
    allowed = limit.allowed(base + recent)
    if allowed is None or not count or count + recent <= allowed:
        return ""
    rules = [] if limit.absolute is None else [f"{limit.absolute}"]
    rules += [] if limit.percent is None else [f"{limit.percent:g} %"]
    rule = f"limits.{name} ({' and '.join(rules)})"
    before = f" ({recent} of them in the {policy.limits.window_hours:g} hours before)" if recent else ""
    return f"{name}: {count + recent} of {base + recent} {of}{before} is more than the {allowed} that {rule} allows"


def _group_loss(plan: Plan, impact: Impact, policy: Policy) -> Iterator[Finding]:
    """The people who stay and lose a group, by whatever way they were in it."""
    recent = max(impact.losers_recently - impact.losers, 0)
    base = max(plan.owned.active - recent, 0)  # they are active accounts still
    text = _over("group_loss", impact.losers, base, "active owned accounts, who lose a group,", policy, recent)
    if text:
        kinds = (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE, Kind.GROUP_DELETE)
        one_by_one = not {Kind.NESTING_REMOVE, Kind.GROUP_DELETE} & plan.counts().keys()  # (a group may grow)
        yield Finding(text, kinds, "group_loss", ("limits.group_loss",) if one_by_one else ())


def _doubts(plan: Plan) -> Iterator[Finding]:
    """What makes it doubtful that people left, where the plan takes something away."""
    taking = tuple(kind for kind in _TAKING if plan.counts().get(kind))
    if taking:
        for doubt in plan.doubts:
            yield Finding(f"doubt: {doubt}", taking)


def _handovers(plan: Plan, policy: Policy) -> Iterator[Finding]:
    if len(plan.handed_over) and policy.groups.handover == "ask":
        names = _list(plan.handed_over["name"])
        yield Finding(
            f"handover: {len(plan.handed_over)} Crowd groups go to new groups of their name, the old ones being gone: "
            f"{names} (groups.handover)",
            (Kind.GROUP_ATTRIBUTES,),
            questions=tuple(f"handover of {name}" for name in plan.handed_over["name"]),
        )


def _of_groups(impact: Impact, policy: Policy) -> Iterator[Finding]:
    """The groups that gain or lose more members than one group may; one finding for all of them."""
    for name, column, kind in (
        ("group_membership_remove", "removed", Kind.MEMBERSHIP_REMOVE),
        ("group_membership_add", "added", Kind.MEMBERSHIP_ADD),
    ):
        limit: Limit = getattr(policy.limits, name)
        if limit == Limit():
            continue
        changes: pd.DataFrame = impact.group_changes
        removes = kind is Kind.MEMBERSHIP_REMOVE
        recent = crowd_ids(changes["group"]).map(impact.recent_groups if removes else {}).fillna(0).astype("int64")
        allowed = (changes["members_before"] + recent).map(limit.allowed)
        over = (changes[column] > 0) & (changes[column] + recent > allowed)
        if over.any():
            worst = int((changes[column] + recent - allowed).where(over, -1).argmax())
            count, base, before = (
                int(side.iloc[worst]) for side in (changes[column], changes["members_before"], recent)
            )
            text = _over(name, count, base, f"members of {changes['group'].iloc[worst]!r}", policy, before)
            more = int(over.sum()) - 1
            questions = tuple(f"limits.{name} of {group}" for group in changes["group"][over])
            yield Finding(text + (f", and {more} more groups" if more else ""), (kind,), name, questions)


def _seats(impact: Impact, policy: Policy) -> Iterator[Finding]:
    seats, before, after = policy.limits.seats, impact.seats_before, impact.seats_after
    if seats is not None and after is not None and before is not None and after > max(seats, before):
        yield Finding(
            f"seats: {after} active people in seat_groups afterwards ({before} now) are more than the {seats} that "
            "limits.seats allows",
            (Kind.USER_CREATE, Kind.USER_ACTIVATE, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD),
            questions=(f"limits.seats: {after}",),
            covers=(),
        )


def _unusual(impact: Impact) -> Iterator[Finding]:
    for one in impact.unusual:
        people = one.what.startswith("people")
        about = _SHUTS_OUT if people else (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE)
        yield Finding(
            f"unusual: {one.what}: {one.now}, at most {one.most_before} in the {one.runs} runs before "
            "(limits.unusual_times)",
            about,
            questions=(f"unusual: {one.what}",),
        )


def _dangers(plan: Plan, impact: Impact, policy: Policy) -> Iterator[Finding]:
    counts = plan.counts()
    deleted = {kind: counts.get(kind, 0) for kind in (Kind.USER_DELETE, Kind.GROUP_DELETE)}
    privileged = sorted(set(impact.privileged["group"]))
    changes = impact.privileged[["who", "what", "group"]]
    for danger, found, text, about, questions in (
        (
            "last_administrator",
            impact.administrators_lost,
            f"the last active member leaves {_list(impact.administrators_lost)}",
            _REMOVALS,
            impact.administrators_lost,
        ),
        (
            "deletions",
            any(deleted.values()),
            f"{deleted[Kind.USER_DELETE]} accounts and {deleted[Kind.GROUP_DELETE]} groups are deleted",
            (Kind.USER_DELETE, Kind.GROUP_DELETE),
            (),
        ),
        (
            "privileged",
            privileged,
            f"{len(impact.privileged)} changes in {_list(privileged)}",
            (*_REMOVALS, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD, Kind.NESTING_REMOVE, Kind.USER_ACTIVATE),
            [" ".join(one) for one in changes.itertuples(index=False)],
        ),
        (
            "emptied_groups",
            impact.deserted,
            f"{len(impact.deserted)} groups are left without members: {_list(impact.deserted)}",
            (*_REMOVALS, Kind.NESTING_REMOVE, Kind.GROUP_DELETE),
            impact.deserted,
        ),
    ):
        if found and danger in policy.approval.dangers:
            asked = tuple(f"{danger}: {one}" for one in questions) or (danger,)
            covers = () if questions else None
            yield Finding(f"{danger}: {text} (approval.dangers)", about, questions=asked, covers=covers)


def _list(names: object) -> str:
    shown = list(names)  # type: ignore[call-overload]
    return ", ".join(map(repr, shown[:5])) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
