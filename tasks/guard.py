"""Whether a plan may be executed: limits, and the plans that are never executed.

A plan that is too large is refused with the number, the limit and the way out. `force` lifts the
limits, never the last rule: a plan that leaves nobody able to log in is always refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.contract import Kind
from connectors.errors import LimitError
from tasks.plan import Plan
from tasks.policy import Policy


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusals` stop the run; `forced` would have, had the run not been forced."""

    refusals: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()

    def raise_if_refused(self) -> None:
        """Raises `LimitError` with every refusal."""
        if self.refusals:
            raise LimitError("; ".join(self.refusals))


def judge(plan: Plan, policy: Policy, *, force: bool = False) -> Verdict:
    """Plan → verdict. Pure: the same plan under the same policy is always judged the same."""
    counts = plan.counts()
    owned = plan.owned
    limits = policy.limits
    shut_out, deleted = plan.shut_out(), counts.get(Kind.USER_DELETE, 0)
    always = []
    if shut_out and shut_out >= owned.active:
        always.append(
            f"the plan shuts out all {owned.active} active accounts that this source owns; this is never done, "
            "forced or not: check the source and the scope"
        )
    elif deleted and deleted >= owned.users:
        always.append(f"the plan deletes all {owned.users} accounts that this source owns; this is never done")
    over = []
    for name, count, limit, base, of in (
        ("user_create", counts.get(Kind.USER_CREATE, 0), limits.user_create, owned.users, "owned accounts"),
        ("user_update", counts.get(Kind.USER_UPDATE, 0), limits.user_update, owned.users, "owned accounts"),
        ("user_rename", counts.get(Kind.USER_RENAME, 0), limits.user_rename, owned.users, "owned accounts"),
        ("user_deactivate", shut_out, limits.user_deactivate, owned.active, "active owned accounts"),
        ("user_delete", deleted, limits.user_delete, owned.users, "owned accounts"),
        ("group_create", counts.get(Kind.GROUP_CREATE, 0), limits.group_create, owned.groups, "owned groups"),
        ("group_delete", counts.get(Kind.GROUP_DELETE, 0), limits.group_delete, owned.groups, "owned groups"),
        (
            "membership_add",
            counts.get(Kind.MEMBERSHIP_ADD, 0),
            limits.membership_add,
            owned.memberships,
            "memberships",
        ),
        (
            "membership_remove",
            counts.get(Kind.MEMBERSHIP_REMOVE, 0),
            limits.membership_remove,
            owned.memberships,
            "memberships in owned groups",
        ),
        (
            "nesting_remove",
            counts.get(Kind.NESTING_REMOVE, 0),
            limits.nesting_remove,
            owned.nestings,
            "nestings in owned groups",
        ),
    ):
        allowed = limit.allowed(base)
        if allowed is not None and count > allowed:
            rules = [] if limit.absolute is None else [f"{limit.absolute}"]
            rules += [] if limit.percent is None else [f"{limit.percent:g} %"]
            over.append(
                f"{name}: {count} of {base} {of} is more than the {allowed} that limits.{name} "
                f"({' and '.join(rules)}) allows; look at the plan, then raise the limit or run with --force"
            )
    if force:
        return Verdict(tuple(always), tuple(over))
    return Verdict((*always, *over))


@task(name="guard", task_run_name="guard", cache_policy=NO_CACHE, persist_result=False)
async def guard_plan(plan: Plan, policy: Policy, force: bool) -> Verdict:
    """Whether the plan may be executed."""
    return judge(plan, policy, force=force)
