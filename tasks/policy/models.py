"""The policy as a whole, with the sections that are too small for a file of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import orjson
import pandas as pd
from pydantic import Field, model_validator

from connectors.model import crowd_id
from connectors.operations import Kind
from tasks.decide.names import among, crowd_ids
from tasks.policy.attributes import Attributes
from tasks.policy.limits import Approval, Canary, Limits
from tasks.policy.naming import Groups, Usernames
from tasks.policy.operations import Operations
from tasks.policy.patterns import PRIVILEGED, Pattern, look_privileged, matches
from tasks.policy.scope import ScopePolicy
from tasks.policy.section import Section

_PROBES = ("staff", "acme-red team", "x1")
"""Group names that no company protects."""


class Matching(Section):
    """How people and groups of the IdP find what already exists in Crowd. A link always comes first."""

    users: tuple[Literal["id", "username", "email"], ...] = Field(
        ("id",),
        description="Keys to try, in order. 'id' is crowdsync's own mark in Crowd; 'username' and 'email' "
        "adopt accounts that nobody owns yet.",
    )
    groups: tuple[Literal["id", "name"], ...] = Field(
        ("id",), description="The same for groups; 'name' adopts groups that nobody owns yet."
    )
    adoption: Literal["keys", "listed", "never"] = Field(
        "keys", description="What the keys find is adopted; only what is listed below is; nothing is."
    )
    listed_users: tuple[Pattern, ...] = Field((), description="Crowd usernames that may be adopted.")
    listed_groups: tuple[Pattern, ...] = Field((), description="Crowd groups that may be adopted.")

    @model_validator(mode="after")
    def _sane(self) -> Matching:
        adopting = [key for key in (*self.users, *self.groups) if key != "id"]
        if self.adoption == "never" and adopting:
            raise ValueError(f"adoption is 'never' while {adopting[0]!r} is a key that adopts; change one of them")
        if self.adoption == "listed" and not (self.listed_users or self.listed_groups):
            raise ValueError("adoption is 'listed' while listed_users and listed_groups are empty; list some")
        if self.adoption == "listed" and not adopting:
            raise ValueError("adoption is 'listed' while no key adopts; add 'username', 'email' or 'name' to the keys")
        if self.adoption != "listed" and (self.listed_users or self.listed_groups):
            raise ValueError(
                "listed_users and listed_groups count only where adoption is 'listed'; set it, or remove them"
            )
        return self


Leaving = Literal["deactivate", "take_groups", "deactivate_and_take_groups", "delete", "nothing"]


class Leavers(Section):
    """What happens to those who leave. Whoever returns gets the same account back, and the memberships of then."""

    out_of_scope: Leaving = Field("deactivate", description="To the account of a person who left the scope.")
    disabled: Leaving = Field("deactivate", description="To the account of a person who is disabled in the IdP.")
    deleted: Leaving = Field("deactivate", description="To the account of a person who is gone from the IdP.")
    delete_after_days: int | None = Field(
        None, ge=1, le=3650, description="Delete the accounts of people who have been away for so long. Empty: never."
    )
    groups: Literal["empty", "delete", "nothing"] = Field(
        "empty", description="To a group that is gone: take our people out of it, delete it, or leave it."
    )

    @model_validator(mode="after")
    def _sane(self) -> Leavers:
        actions = {self.out_of_scope, self.disabled, self.deleted}
        if self.delete_after_days is not None and actions <= {"nothing", "delete"}:
            raise ValueError(
                "delete_after_days has nobody to wait for: all others are 'nothing' or 'delete'; remove it"
            )
        return self

    def deletes(self) -> bool:
        """Whether any account is ever deleted."""
        return "delete" in (self.out_of_scope, self.disabled, self.deleted) or self.delete_after_days is not None


class Protection(Section):
    """What is never touched, whoever asks."""

    users: tuple[Pattern, ...] = Field(("admin",), description="Crowd accounts that are never changed.")
    groups: tuple[Pattern, ...] = Field((), description="Crowd groups that are never changed, members included.")
    privileged_groups: tuple[Pattern, ...] = Field(
        PRIVILEGED,
        description="Groups that give power over the applications: closed unless named below. By default every name "
        "with admin, admins, administrator or superuser in it, however it is written.",
    )
    privileged_allowed: tuple[str, ...] = Field(
        (), description="Privileged groups that this source may fill, by exact name."
    )


class Reads(Section):
    """How the source is read."""

    full_every_hours: float = Field(
        24,
        ge=0,
        description="In between, only what changed is read, where the provider can say it, and only the person or "
        "group that a run is about. 0: always everything.",
    )
    by_key_percent: float = Field(
        1,
        ge=0,
        le=100,
        description="Where the source and Crowd name who changed, or who is in the group that a run is about, these "
        "are read again one by one up to this share of the source's people (20 at least, 2,000 at most); where more "
        "changed, everything is read. 0: where anybody did.",
    )


class Policy(Section):
    """Everything that one source may do to one directory."""

    reads: Reads = Field(Reads(), title="Reading")
    operations: Operations = Field(Operations(), title="Allowed operations")
    scope: ScopePolicy = Field(ScopePolicy(), title="Scope")
    usernames: Usernames = Field(Usernames(), title="Usernames")
    groups: Groups = Field(Groups(), title="Groups")
    attributes: Attributes = Field(Attributes(), title="Attribute mapping")
    matching: Matching = Field(Matching(), title="Matching")
    leavers: Leavers = Field(Leavers(), title="Leavers")
    limits: Limits = Field(Limits(), title="Limits")
    protection: Protection = Field(Protection(), title="Protection")
    approval: Approval = Field(Approval(), title="Approval")
    canary: Canary = Field(Canary(), title="Canary")
    disclose: Literal["names", "values"] = Field(
        "names", description="What plans and reports show of a change: the names of fields, or values too."
    )

    @model_validator(mode="after")
    def _coherent(self) -> Policy:
        if self.leavers.deletes() and self.operations.user_delete == "off":
            field = next(
                (f for f in ("out_of_scope", "disabled", "deleted") if getattr(self.leavers, f) == "delete"), ""
            )
            what = f"leavers.{field} is 'delete'" if field else "leavers.delete_after_days is set"
            raise ValueError(f"{what} while operations.user_delete is off; change one of them")
        if self.leavers.groups == "delete" and self.operations.group_delete == "off":
            raise ValueError("leavers.groups is 'delete' while operations.group_delete is off; change one of them")
        named = pd.Series(self.protection.privileged_allowed, dtype="str")
        fits = look_privileged(named, self.protection.privileged_groups) & (named == named.str.strip())
        for name in named[~fits].head(1):
            raise ValueError(
                f"protection.privileged_allowed names {name!r}, which no pattern in privileged_groups matches; "
                "correct it, or remove it"
            )
        for field, patterns in (("users", self.protection.users), ("groups", self.protection.groups)):
            if "*" in patterns:
                raise ValueError(f"protection.{field} protects everything, so that nothing is ever written; narrow it")
        self._refuse_closed("groups.everyone names", pd.Series(self.groups.everyone, dtype="str"))
        made = self.groups.named(pd.Series(_PROBES, dtype="str"))
        if (made != pd.Series(_PROBES, dtype="str")).all() and self._closed(made).all():
            self._refuse_closed("groups.rules and groups.prefix make every name one such as", made)
        if self.canary.group:
            self._refuse_closed("canary.group names", pd.Series([self.canary.group], dtype="str"))
        return self

    def _closed(self, names: pd.Series) -> np.ndarray:
        return (matches(names, self.protection.groups) | self.privileged(names)).to_numpy(dtype=bool)

    def _refuse_closed(self, what: str, names: pd.Series) -> None:
        if names.empty:
            return
        for name in names[self._closed(names)].head(1):
            raise ValueError(
                f"{what} {name!r}, which is protected or privileged; change it, or name the privileged group "
                "in protection.privileged_allowed"
            )

    def wanted(self) -> frozenset[str]:
        """The source attributes that scope and mapping read."""
        return self.attributes.wanted() | self.scope.wanted()

    def without(self, kinds: Iterable[Kind]) -> Policy:
        """The same with these kinds of operation off, and with agreement needed only above a limit."""
        approval = self.approval.model_copy(update={"when": "above_limits"})
        kinds = set(kinds)
        never = {"handover": "never"} if Kind.GROUP_ATTRIBUTES in kinds else {}
        groups = self.groups.model_copy(update=never)
        update = {"operations": self.operations.without(kinds), "approval": approval, "groups": groups}
        return self.model_copy(update=update)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Its text names it, and not the people and groups that it names."""
        return [("digest", self.digest()[:12])]

    def digest(self) -> str:
        """Hex SHA-256 of the whole policy."""
        return hashlib.sha256(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def privileged(self, names: pd.Series) -> pd.Series:
        """Which group names are privileged and closed to this source; spelling tricks do not help."""
        closed = look_privileged(names, self.protection.privileged_groups)
        allowed = {crowd_id(name) for name in self.protection.privileged_allowed}
        return closed & ~among(crowd_ids(names), allowed) if allowed else closed
