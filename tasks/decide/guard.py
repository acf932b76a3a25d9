"""Whether a plan may be carried out: limits and dangers that a person must agree to, and plans that never are.

Every finding names the number, the limit and its field. `force` lifts what a person could agree to, never the last
rule: a plan that leaves nobody able to log in is always refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.errors import LimitError
from connectors.model import Snapshot, sizes_only
from connectors.operations import Kind
from tasks.decide.impact import Impact, impact
from tasks.decide.names import crowd_ids
from tasks.decide.plan import Plan
from tasks.decide.removals import RecentRemovals
from tasks.policy import Limit, Policy

WAY = "look at the plan, then approve it, raise the limit, or run with --force"
_TAKING = (Kind.USER_DEACTIVATE, Kind.USER_DELETE, Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE, Kind.GROUP_DELETE)
_REMOVALS = (Kind.USER_DEACTIVATE, Kind.USER_DELETE, Kind.MEMBERSHIP_REMOVE)


@sizes_only
@dataclass(frozen=True, slots=True)
class Finding:
    """What a person must agree to, and the kinds of operation that it is about; `limit`: the field of `limits`."""

    text: str
    kinds: tuple[Kind, ...] = ()
    limit: str = field(default="", compare=False)


@sizes_only
@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusals` stop the run, and so do `asks` until a person agrees; `forced` were lifted by the run's force, and
    `agreed` by a person. `passed`: the limits (fields of `limits`) that the plan goes past with that."""

    refusals: tuple[str, ...] = ()
    asks: tuple[Finding, ...] = ()
    forced: tuple[str, ...] = ()
    agreed: tuple[str, ...] = ()
    passed: tuple[str, ...] = field(default=(), compare=False)

    @property
    def stops(self) -> tuple[str, ...]:
        """Everything that stands against carrying the plan out, in words."""
        return (*self.refusals, *(ask.text for ask in self.asks))

    @property
    def dangerous(self) -> tuple[Kind, ...]:
        """The kinds of operation that are asked about; without them nobody would have been."""
        return tuple(dict.fromkeys(kind for ask in self.asks for kind in ask.kinds))

    def raise_if_refused(self) -> None:
        """Raises `LimitError` with everything that stands against the plan."""
        if self.stops:
            raise LimitError("; ".join(self.stops))


def judge(plan: Plan, policy: Policy, radius: Impact | None = None, *, force: bool = False) -> Verdict:
    """Plan and its blast radius → verdict. Pure: the same plan under the same policy is always judged the same."""
    always = tuple(_never(plan))
    found = [*_limits(plan, policy, radius), *_doubts(plan), *_handovers(plan, policy)]
    if radius is not None:
        found += _group_loss(plan, radius, policy)
        found += [*_of_groups(radius, policy), *_seats(radius, policy), *_unusual(radius)]
        found += _dangers(plan, radius, policy)
    if force:
        return Verdict(always, forced=tuple(finding.text for finding in found), passed=limits_of(found))
    if policy.approval.when == "never":
        return Verdict((*always, *(f"{f.text}; {WAY}" for f in found)))
    if policy.approval.when == "always" and len(plan.operations) and not found:
        taking = tuple(kind for kind in _TAKING if plan.counts().get(kind))
        found.append(Finding("approval.when is 'always': every plan needs agreement", taking))
    return Verdict(always, tuple(found))


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


def _limits(plan: Plan, policy: Policy, radius: Impact | None) -> Iterator[Finding]:
    recent = {} if radius is None else radius.recent
    counts, owned = plan.counts(), plan.owned
    shut_out = plan.shut_out()
    for name, base, of in (
        ("user_create", owned.users, "owned accounts"),
        ("user_update", owned.users, "owned accounts"),
        ("user_rename", owned.users, "owned accounts"),
        ("user_deactivate", owned.active, "active owned accounts"),
        ("user_delete", owned.users, "owned accounts"),
        ("group_create", owned.groups, "owned groups"),
        ("group_delete", owned.groups, "owned groups"),
        ("membership_add", owned.memberships, "memberships"),
        ("membership_remove", owned.memberships, "memberships in owned groups"),
        ("nesting_remove", owned.nestings, "nestings in owned groups"),
    ):
        kinds: tuple[Kind, ...] = (Kind(name),)
        count = counts.get(name, 0)
        if name == "user_deactivate":  # whoever is deleted is shut out too
            kinds, count = (Kind.USER_DEACTIVATE, Kind.USER_DELETE), shut_out
        text = _over(name, count, base, of, policy, recent.get(name, 0))
        if text:
            yield Finding(text, kinds, name)


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


def _group_loss(plan: Plan, radius: Impact, policy: Policy) -> Iterator[Finding]:
    """The people who stay and lose a group, by whatever way they were in it."""
    recent = max(radius.losers_recently - radius.losers, 0)
    base = max(plan.owned.active - recent, 0)  # they are active accounts still
    text = _over("group_loss", radius.losers, base, "active owned accounts, who lose a group,", policy, recent)
    if text:
        yield Finding(text, (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE, Kind.GROUP_DELETE), "group_loss")


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
        )


def _of_groups(radius: Impact, policy: Policy) -> Iterator[Finding]:
    """The groups that gain or lose more members than one group may; one finding for all of them."""
    for name, column, kind in (
        ("group_membership_remove", "removed", Kind.MEMBERSHIP_REMOVE),
        ("group_membership_add", "added", Kind.MEMBERSHIP_ADD),
    ):
        limit: Limit = getattr(policy.limits, name)
        if limit == Limit():
            continue
        changes: pd.DataFrame = radius.group_changes
        removes = kind is Kind.MEMBERSHIP_REMOVE
        recent = crowd_ids(changes["group"]).map(radius.recent_groups if removes else {}).fillna(0).astype("int64")
        allowed = (changes["members_before"] + recent).map(limit.allowed)
        over = (changes[column] > 0) & (changes[column] + recent > allowed)
        if over.any():
            worst = int((changes[column] + recent - allowed).where(over, -1).argmax())
            count, base, before = (
                int(side.iloc[worst]) for side in (changes[column], changes["members_before"], recent)
            )
            text = _over(name, count, base, f"members of {changes['group'].iloc[worst]!r}", policy, before)
            more = int(over.sum()) - 1
            yield Finding(text + (f", and {more} more groups" if more else ""), (kind,), name)


def _seats(radius: Impact, policy: Policy) -> Iterator[Finding]:
    seats, before, after = policy.limits.seats, radius.seats_before, radius.seats_after
    if seats is not None and after is not None and before is not None and after > max(seats, before):
        yield Finding(
            f"seats: {after} active people in seat_groups afterwards ({before} now) are more than the {seats} that "
            "limits.seats allows",
            (Kind.USER_CREATE, Kind.USER_ACTIVATE, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD),
        )


def _unusual(radius: Impact) -> Iterator[Finding]:
    for one in radius.unusual:
        people = one.what.startswith("people")
        kinds = (Kind.USER_DEACTIVATE, Kind.USER_DELETE) if people else (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE)
        yield Finding(
            f"unusual: {one.what}: {one.now}, at most {one.most_before} in the {one.runs} runs before "
            "(limits.unusual_times)",
            kinds,
        )


def _dangers(plan: Plan, radius: Impact, policy: Policy) -> Iterator[Finding]:
    counts = plan.counts()
    deleted = {kind: counts.get(kind, 0) for kind in (Kind.USER_DELETE, Kind.GROUP_DELETE)}
    privileged = sorted(set(radius.privileged["group"]))
    for danger, found, text, kinds in (
        (
            "last_administrator",
            radius.administrators_lost,
            f"the last active member leaves {_list(radius.administrators_lost)}",
            _REMOVALS,
        ),
        (
            "deletions",
            any(deleted.values()),
            f"{deleted[Kind.USER_DELETE]} accounts and {deleted[Kind.GROUP_DELETE]} groups are deleted",
            (Kind.USER_DELETE, Kind.GROUP_DELETE),
        ),
        (
            "privileged",
            privileged,
            f"{len(radius.privileged)} changes in {_list(privileged)}",
            (*_REMOVALS, Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD, Kind.NESTING_REMOVE, Kind.USER_ACTIVATE),
        ),
        (
            "emptied_groups",
            radius.deserted,
            f"{len(radius.deserted)} groups are left without members: {_list(radius.deserted)}",
            (*_REMOVALS, Kind.NESTING_REMOVE, Kind.GROUP_DELETE),
        ),
    ):
        if found and danger in policy.approval.dangers:
            yield Finding(f"{danger}: {text} (approval.dangers)", kinds)


def _list(names: object) -> str:
    shown = list(names)  # type: ignore[call-overload]
    return ", ".join(map(repr, shown[:5])) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


@task(name="impact", task_run_name="impact", cache_policy=NO_CACHE, persist_result=False)
async def measure(
    operations: pd.DataFrame,
    directory: Snapshot,
    policy: Policy,
    past: pd.DataFrame,
    recent: RecentRemovals | None = None,
) -> Impact:
    """What the plan does to people."""
    return impact(operations, directory, policy, past, recent)


@task(name="guard", task_run_name="guard", cache_policy=NO_CACHE, persist_result=False)
async def guard_plan(plan: Plan, policy: Policy, radius: Impact, force: bool) -> Verdict:
    """Whether the plan may be carried out."""
    return judge(plan, policy, radius, force=force)
