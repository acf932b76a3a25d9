"""The policy: what one source may do to one directory, and how.

These models are the flow's parameters, so the Prefect UI shows them as a form; the same text stands
under `[sources.NAME.policy]` in crowdsync.toml. Unknown fields are refused, patterns are compiled when
the policy is read, and nothing here is ever evaluated as code.

Group and account patterns are globs (`*`, `?`), without regard to case; `re:` makes one an RE2
expression that must match the whole name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from connectors.contract import Kind
from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, MAX_TEXT
from connectors.settings import Settings, explain
from tasks.names import arrow_text, fold, skeletons

_SPECIAL = str.maketrans({c: f"\\{c}" for c in r"\.+()[]{}^$|"})


def _regex(pattern: str) -> str:
    try:
        pc.replace_substring_regex(pa.array([""]), pattern, "")
    except pa.ArrowInvalid as error:
        why = str(error).removeprefix("Invalid regular expression: ").removesuffix(f": ({pattern})")
        raise ValueError(
            f"{pattern!r} is not an RE2 regular expression ({why}); correct it: look-around and back-references "
            "do not exist there"
        ) from None
    return pattern


def _pattern(pattern: str) -> str:
    if not pattern.strip():
        raise ValueError("an empty pattern matches nothing; remove it")
    if pattern.startswith("re:"):
        _regex(pattern[3:])
    return pattern


Pattern = Annotated[str, AfterValidator(_pattern)]
Field_ = Literal["email", "first_name", "last_name", "display_name"]


def matches(names: pd.Series, patterns: Iterable[str]) -> pd.Series:
    """Which names match any of the patterns: bool, on the index of `names`."""
    array = arrow_text(names)
    found = np.zeros(len(names), dtype=bool)
    for pattern in patterns:
        if pattern.startswith("re:"):
            regex = f"(?is)\\A(?:{pattern[3:]})\\z"
        else:
            regex = "(?is)\\A" + pattern.translate(_SPECIAL).replace("*", ".*").replace("?", ".") + "\\z"
        found |= pc.match_substring_regex(array, regex).to_numpy(zero_copy_only=False)
    return pd.Series(found, index=names.index)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Operations(_Strict):
    """Which kinds of write are allowed; what is off is withheld and counted in the report."""

    user_create: bool = Field(True, description="Create accounts for people in scope.")
    user_update: bool = Field(True, description="Change names, e-mail and mapped attributes.")
    user_rename: bool = Field(True, description="Rename the account when the username changes in the IdP.")
    user_activate: bool = Field(True, description="Let people in again when they return.")
    user_deactivate: bool = Field(True, description="Shut people out who left or were disabled.")
    user_delete: bool = Field(False, description="Delete accounts (only where leavers are to be deleted).")
    group_create: bool = Field(True, description="Create groups in scope.")
    group_update: bool = Field(True, description="Change group descriptions.")
    group_delete: bool = Field(False, description="Delete groups that are gone (see leavers.groups).")
    membership_add: bool = Field(True, description="Put people into groups.")
    membership_remove: bool = Field(True, description="Take people out of groups.")
    nesting: bool = Field(True, description="Put groups into groups, and take them out.")

    def allows(self, kind: Kind) -> bool:
        """Whether this kind of operation is on; marking ownership goes with what it marks."""
        if kind in (Kind.NESTING_ADD, Kind.NESTING_REMOVE):
            return self.nesting
        if kind in (Kind.USER_ATTRIBUTES, Kind.GROUP_ATTRIBUTES):
            return True  # decided per attribute while planning
        return bool(getattr(self, kind.value))


class Scope(_Strict):
    """Who and what is in scope. Everybody else counts as having left."""

    groups: tuple[Pattern, ...] = Field(("*",), description="Groups to sync: globs, or re: and an RE2 expression.")
    exclude_groups: tuple[Pattern, ...] = Field((), description="Groups to leave out, though they match above.")
    required_groups: tuple[Pattern, ...] = Field(
        (),
        description="People must be in one of these groups, also through nested groups. Empty: no such rule.",
    )
    members_only: bool = Field(False, description="Leave out people who are in no synced group.")
    exclude_users: tuple[Pattern, ...] = Field((), description="Usernames (as in the IdP) to leave out.")


class Rule(_Strict):
    """One step on the way from the IdP's username to Crowd's."""

    pattern: Annotated[str, AfterValidator(_regex)] = Field(description="RE2 expression, searched anywhere.")
    replacement: str = Field(description=r"What every match becomes; \1 is the first group.")

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        try:
            pc.replace_substring_regex(pa.array([""]), self.pattern, self.replacement)
        except pa.ArrowInvalid as error:
            raise ValueError(f"replacement does not fit the pattern: {error}") from None
        return self


class Usernames(_Strict):
    """How Crowd usernames are made: normalise, then the rules in order, then case, then blanks off."""

    source: Literal["username", "email"] = Field("username", description="The field to start from.")
    normalise: Literal["NFKC", "NFC", "none"] = Field("NFKC", description="Unicode normalisation.")
    rules: tuple[Rule, ...] = Field((), description="Replacements, in this order.")
    case: Literal["lower", "keep"] = Field("lower", description="Crowd ignores case; lower is its custom.")


class Attributes(_Strict):
    """What Crowd's fields and attributes are filled from."""

    fields: dict[Field_, str] = Field(
        default_factory=dict,
        description="Crowd field → source field or attribute. Fields not named keep their own name.",
    )
    extra: dict[str, str] = Field(
        default_factory=dict,
        description="Crowd attribute → source attribute. Only these attributes are ever touched.",
    )

    @model_validator(mode="after")
    def _sane(self) -> Attributes:
        for name in self.extra:
            if name == ID_ATTRIBUTE:
                raise ValueError(f"{ID_ATTRIBUTE} is crowdsync's own mark of ownership; choose another name")
            if not name or len(name) > MAX_TEXT:
                raise ValueError(f"{name[:20]!r}: an attribute name has 1 to {MAX_TEXT} characters")
        return self

    def wanted(self) -> frozenset[str]:
        """The source attributes that this mapping reads."""
        plain = {"id", "username", "email", "first_name", "last_name", "display_name"}
        return frozenset(self.extra.values()) | (frozenset(self.fields.values()) - plain)


class Matching(_Strict):
    """How people and groups of the IdP find what already exists in Crowd. A link always comes first."""

    users: tuple[Literal["id", "username", "email"], ...] = Field(
        ("id",),
        description="Keys to try, in order. 'id' is crowdsync's own mark in Crowd; 'username' and 'email' "
        "adopt accounts that nobody owns yet.",
    )
    groups: tuple[Literal["id", "name"], ...] = Field(
        ("id",), description="The same for groups; 'name' adopts groups that nobody owns yet."
    )


class Leavers(_Strict):
    """What happens to those who are gone from the IdP, or from the scope."""

    users: Literal["deactivate", "delete", "nothing"] = Field("deactivate", description="To their account.")
    groups: Literal["empty", "delete", "nothing"] = Field(
        "empty", description="To a group that is gone: take our people out of it, delete it, or leave it."
    )


class Limit(_Strict):
    """How many operations of a kind one run may do. Both hold; per cent is rounded down, without a floor."""

    absolute: int | None = Field(None, ge=0, description="At most so many. Empty: no such limit.")
    percent: float | None = Field(None, ge=0, le=100, description="At most so many per hundred of what we own.")

    def allowed(self, owned: int) -> int | None:
        """The larger counts are refused; None where there is no limit."""
        bounds = [] if self.absolute is None else [self.absolute]
        if self.percent is not None:
            bounds.append(int(owned * self.percent / 100 + 1e-9))
        return min(bounds) if bounds else None


class Limits(_Strict):
    """Above these a run is refused unless it is forced; a plan that removes everybody always is."""

    user_create: Limit = Limit()
    user_update: Limit = Limit()
    user_rename: Limit = Limit(percent=20)
    user_deactivate: Limit = Field(Limit(percent=10), description="Deactivations and deletions together.")
    user_delete: Limit = Limit(percent=5)
    group_create: Limit = Limit()
    group_delete: Limit = Limit(percent=5)
    membership_add: Limit = Limit()
    membership_remove: Limit = Limit(percent=20)
    nesting_remove: Limit = Limit(percent=20)


PRIVILEGED = (
    "crowd-administrators",
    "jira-administrators",
    "jira-system-administrators",
    "jira-servicedesk-administrators",
    "confluence-administrators",
    "bamboo-admin*",
    "bitbucket-admin*",
    "stash-admin*",
    "fisheye-administrators",
    "system-administrators",
    "administrators",
)


class Protection(_Strict):
    """What is never touched, whoever asks."""

    users: tuple[Pattern, ...] = Field(("admin",), description="Crowd accounts that are never changed.")
    groups: tuple[Pattern, ...] = Field((), description="Crowd groups that are never changed, members included.")
    privileged_groups: tuple[Pattern, ...] = Field(
        PRIVILEGED, description="Groups that give power over the applications: closed unless named below."
    )
    privileged_allowed: tuple[str, ...] = Field(
        (), description="Privileged groups that this source may fill, by exact name."
    )


class Reads(_Strict):
    """How the source is read."""

    full_every_hours: float = Field(
        24,
        ge=0,
        description="In between, only what changed is read, where the provider can say it. 0: always everything.",
    )


class Policy(_Strict):
    """Everything that one source may do to one directory."""

    reads: Reads = Field(Reads(), title="Reading")
    operations: Operations = Field(Operations(), title="Allowed operations")
    scope: Scope = Field(Scope(), title="Scope")
    usernames: Usernames = Field(Usernames(), title="Usernames")
    attributes: Attributes = Field(Attributes(), title="Attribute mapping")
    matching: Matching = Field(Matching(), title="Matching")
    leavers: Leavers = Field(Leavers(), title="Leavers")
    limits: Limits = Field(Limits(), title="Limits")
    protection: Protection = Field(Protection(), title="Protection")
    disclose: Literal["names", "values"] = Field(
        "names", description="What plans and reports show of a change: the names of fields, or values too."
    )

    @model_validator(mode="after")
    def _coherent(self) -> Policy:
        if self.leavers.users == "delete" and not self.operations.user_delete:
            raise ValueError("leavers.users is 'delete' while operations.user_delete is off; change one of them")
        if self.leavers.groups == "delete" and not self.operations.group_delete:
            raise ValueError("leavers.groups is 'delete' while operations.group_delete is off; change one of them")
        closed = ~matches(pd.Series(self.protection.privileged_allowed, dtype="str"), self.protection.privileged_groups)
        if closed.any():
            name = self.protection.privileged_allowed[int(np.flatnonzero(closed)[0])]
            raise ValueError(
                f"protection.privileged_allowed names {name!r}, which no pattern in privileged_groups matches"
            )
        return self

    def digest(self) -> str:
        """Hex SHA-256 of the whole policy."""
        return hashlib.sha256(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def privileged(self, names: pd.Series) -> pd.Series:
        """Which group names are privileged and closed to this source; spelling tricks do not help."""
        plain = names.reset_index(drop=True)
        folded = fold(plain)
        forms = [matches(form, self.protection.privileged_groups) for form in (folded, *skeletons(plain, folded))]
        closed = np.logical_or.reduce(forms)
        allowed = pd.Index(pd.Series(self.protection.privileged_allowed, dtype="str").str.lower())
        return pd.Series(closed & ~names.str.lower().isin(allowed).to_numpy(), index=names.index)


def policy_of(settings: Settings, source: str) -> Policy:
    """The policy of one source in crowdsync.toml. Raises `ConfigurationError` naming the field."""
    try:
        return Policy.model_validate(settings.source(source).policy)
    except ValidationError as error:
        raise ConfigurationError(explain(error, settings.file, ("sources", source, "policy"))) from None
