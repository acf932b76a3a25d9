"""How much one run may do, when a person must agree, and what is done first to see that it goes well."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.policy.patterns import Pattern
from tasks.policy.section import Section


class Limit(Section):
    """How many operations of a kind one run may do. Both hold; per cent is rounded down, without a floor."""

    absolute: int | None = Field(None, ge=0, description="At most so many. Empty: no such limit.")
    percent: float | None = Field(None, ge=0, le=100, description="At most so many per hundred of what we own.")

    def allowed(self, owned: int) -> int | None:
        """The larger counts are refused; None where there is no limit."""
        bounds = [] if self.absolute is None else [self.absolute]
        if self.percent is not None:
            bounds.append(int(owned * self.percent / 100 + 1e-9))
        return min(bounds) if bounds else None


class Limits(Section):
    """Above these a run is refused unless it is forced; a plan that removes everybody always is."""

    user_create: Limit = Field(Limit(), description="New accounts.")
    user_update: Limit = Field(Limit(), description="Changes of names, e-mail and mapped attributes.")
    user_rename: Limit = Field(Limit(percent=20), description="Renamed accounts.")
    user_deactivate: Limit = Field(Limit(percent=10), description="Deactivations and deletions together.")
    user_delete: Limit = Field(Limit(percent=5), description="Deletions alone.")
    group_create: Limit = Field(Limit(), description="New groups.")
    group_delete: Limit = Field(Limit(percent=5), description="Deleted groups.")
    membership_add: Limit = Field(Limit(), description="People put into groups.")
    membership_remove: Limit = Field(Limit(percent=20), description="People taken out of groups.")
    nesting_remove: Limit = Field(Limit(percent=20), description="Groups taken out of groups.")
    group_membership_add: Limit = Field(Limit(), description="Into any one group; per cent of its members.")
    group_membership_remove: Limit = Field(Limit(), description="Out of any one group; per cent of its members.")
    group_loss: Limit = Field(
        Limit(percent=20),
        description="People who stay and lose a group that they had, directly or through groups in groups; per cent of "
        "the active accounts.",
    )
    window_hours: float = Field(
        24,
        ge=0,
        le=24 * 30,
        description="What was taken away in so many hours before counts too, whatever run did it. 0: each run alone.",
    )
    seat_groups: tuple[Pattern, ...] = Field((), description="Groups whose active members take a licence seat.")
    seats: int | None = Field(None, ge=1, description="At most so many active people in seat_groups afterwards.")
    unusual_times: float | None = Field(
        10,
        gt=1,
        description="A plan with so many times more removals than any of the runs before. Empty: no such limit.",
    )
    held_runs: int | None = Field(
        3, ge=1, description="Who is held for so many runs in a row is told loudly, with an exit code. Empty: never."
    )
    unusual_runs: int = Field(20, ge=3, le=200, description="How many applied plans to compare with, at most.")

    @model_validator(mode="after")
    def _sane(self) -> Limits:
        if self.seats is not None and not self.seat_groups:
            raise ValueError("seats has no groups to count in; name them in seat_groups")
        return self


Danger = Literal["deletions", "privileged", "last_administrator", "emptied_groups"]


class Approval(Section):
    """When a person must agree before a plan is carried out: in the Prefect UI, or by `crowdsync approve`."""

    when: Literal["above_limits", "always", "never"] = Field(
        "above_limits", description="never: a plan above a limit is refused, and must be forced."
    )
    dangers: tuple[Danger, ...] = Field(
        ("last_administrator", "emptied_groups"),
        description="What needs agreement too, though no limit is passed.",
    )
    emptied_members: int = Field(
        2,
        ge=1,
        description="emptied_groups: groups that at least so many people lose who stay, so that nobody is left.",
    )
    expires_hours: float = Field(24, gt=0, le=24 * 30, description="How long to wait, and how long agreement holds.")


class Canary(Section):
    """A first part of a plan, which is carried out and read back before the rest."""

    operations: int | None = Field(None, ge=1, le=1000, description="The first so many operations.")
    group: str = Field("", description="Or everything that concerns this Crowd group.")

    @model_validator(mode="after")
    def _one(self) -> Canary:
        if self.operations is not None and self.group:
            raise ValueError("operations and group exclude each other; keep one")
        return self
