"""The policy: what one source may do to one directory, and how.

These models are the flow's parameters, so the Prefect UI shows them as a form; the same text stands under
`[sources.NAME.policy]` in crowdsync.toml, or in a YAML or TOML file that `policy_file` names. Unknown fields are
refused, what contradicts itself is refused, patterns are compiled when the policy is read, and nothing here is ever
evaluated as code.

Group and account patterns are globs (`*`, `?`), without regard to case; `re:` makes one an RE2 expression that must
match the whole name. How a value is made is in `tasks/decide/values.py`, who is in scope in `tasks/decide/filter.py`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, MAX_TEXT
from connectors.operations import Kind
from connectors.settings import Settings, explain
from tasks.decide.names import arrow_text, fold, skeletons

_SPECIAL = str.maketrans({c: f"\\{c}" for c in r"\.+()[]{}^$|"})


MAX_MATCHED = 2_000
MAX_SEARCHED = 500
MAX_REPLACED = 1_000
"""How large an expression may be (see `_size`): one that is tried once on a text, and one that is sought again behind
every match. So large, neither takes 50 ms on a text of `MAX_REPLACED` characters; longer ones are not replaced."""

_TOKEN = re.compile(
    r"""(?P<quoted>\\Q.*?(?:\\E|$))
    | (?P<property>\\[pP](?:\{[^}]*\}|.))
    | (?P<some>\\[dDwWsS]|\.)
    | (?P<half>\\C)
    | (?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*+\])
    | (?P<open>\((?:\?[^:>)]*[:>])?)
    | (?P<close>\))
    | (?P<endless>[*+])
    | (?P<count>\{(?P<least>\d+)(?P<to>,(?P<most>\d*))?\})
    | \\x\{[^}]*\} | \\. | .""",
    re.DOTALL | re.VERBOSE,
)


def _size(pattern: str, *, searched: bool = False) -> tuple[int, int]:
    """About how large the program of an RE2 expression is, all counts written out, and what it may be.

    A letter is 1, a class such as `.` or [a-z] 7, a Unicode property 120; a count multiplies what it repeats. RE2 tries
    an expression on a text in time that grows with both sizes. A replacement tries it again behind every match, which
    may be at every letter, unless it fits only at the beginning; and where anything in it repeats without end, every
    time to the end of the text: then a class is 60, and | is 6.
    """
    tokens = list(_TOKEN.finditer(pattern))
    depth, once = 0, re.match(r"(?:\^|\\A)(?![*+?{])", pattern) is not None
    for token in tokens:
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        once = once and not (token[0] == "|" and not depth)
    again = searched and not once
    endless = any(token.lastgroup == "endless" or token["to"] == "," for token in tokens)
    wide = 60 if again and endless else 7
    sizes, last = [0], 0  # of each open group so far; of what a count would repeat
    for token in tokens:
        match token.lastgroup:
            case "count":
                more = last * (max(int(token["least"]), int(token["most"] or 0), 1) - 1)
                sizes[-1] += more
                last += more
                continue
            case "open":
                sizes.append(1)
                continue
            case "close":
                last = sizes.pop() if len(sizes) > 1 else 1
            case "property":
                last = 120
            case "set":
                last = max(wide, len(token[0].encode()) // 2) + 120 * token[0].lower().count("\\p")
            case "some":
                last = wide
            case "quoted":
                last = len(token[0])
            case "half":
                raise ValueError(r"\C fits a part of a letter, which would leave broken text; write . for it")
            case _:
                last = max(1, wide // 10) if token[0] == "|" else 1
        sizes[-1] += last
    return sum(sizes), MAX_SEARCHED if again else MAX_MATCHED


def _regex(pattern: str, *, searched: bool = False) -> str:
    """An RE2 expression that can be compiled and takes no long time: to be tried once, or `searched` for."""
    if not pattern:
        raise ValueError("an empty expression fits everywhere; write one")
    shown = repr(pattern if len(pattern) <= 60 else f"{pattern[:60]}…")
    if len(pattern) > MAX_MATCHED:
        raise ValueError(f"{shown} is longer than {MAX_MATCHED:,} characters; make it several")
    size, limit = _size(pattern, searched=searched)
    if size > limit:
        way = "begin it with ^, " if limit == MAX_SEARCHED else ""
        raise ValueError(
            f"{shown} is too large: with its counts written out and its classes it comes to {size:,}, the limit is "
            f"{limit:,}; {way}write + for large counts, or make it several"
        )
    try:
        pc.replace_substring_regex(pa.array([""]), pattern, "")
    except pa.ArrowInvalid as error:
        why = str(error).removeprefix("Invalid regular expression: ").removesuffix(f": ({pattern})")
        raise ValueError(
            f"{shown} is not an RE2 regular expression ({why}); correct it: look-around and back-references "
            "do not exist there"
        ) from None
    return pattern


def _searched(pattern: str) -> str:
    return _regex(pattern, searched=True)


def _pattern(pattern: str) -> str:
    if not pattern.strip():
        raise ValueError("an empty pattern matches nothing; remove it")
    if pattern != pattern.strip():
        raise ValueError(f"{pattern[:60]!r} has blanks around it, which no name has; remove them")
    _regex(_expression(pattern))
    return pattern


def _expression(pattern: str) -> str:
    if pattern.startswith("re:"):
        return pattern[3:]
    return pattern.translate(_SPECIAL).replace("*", ".*").replace("?", ".")


def _group_entry(entry: str) -> str:
    if entry.startswith(BY_ID):
        if not entry.removeprefix(BY_ID).strip():
            raise ValueError(f"{entry!r} has no id; write the group's id in the IdP behind it")
        return entry
    return _pattern(entry)


Pattern = Annotated[str, AfterValidator(_pattern)]
BY_ID = "id:"
"""How an entry begins that names a group by its id in the IdP."""
GroupEntry = Annotated[str, AfterValidator(_group_entry)]
Field_ = Literal["email", "first_name", "last_name", "display_name"]
PLAIN = frozenset({"id", "username", "email", "first_name", "last_name", "display_name"})
"""Source fields; every other name is an attribute."""


def _name(name: str) -> str:
    if not name or name != name.strip():
        raise ValueError(f"{name[:60]!r} is the name of nothing: it is empty or has blanks around it; correct it")
    return name


Name = Annotated[str, AfterValidator(_name)]
"""Of a source field or attribute."""

Operator = Literal[
    "equals",
    "not_equals",
    "contains",
    "starts_with",
    "ends_with",
    "matches",
    "is_present",
    "is_absent",
    "is_true",
    "is_false",
    "above",
    "below",
    "before",
    "after",
]
Function = Literal["lower", "upper", "trim", "replace", "split", "lookup", "default"]
_READS: Mapping[str, tuple[str, ...]] = {
    "lower": (),
    "upper": (),
    "trim": (),
    "replace": ("pattern", "replacement"),
    "split": ("separator", "part"),
    "lookup": ("table", "otherwise"),
    "default": ("value",),
}
"""What each function reads; the first it needs."""

_PROBES = ("staff", "acme-red team", "x1")
"""Group names that no company protects."""


def matches(names: pd.Series, patterns: Iterable[str]) -> pd.Series:
    """Which names match any of the patterns: bool, on the index of `names`."""
    array = arrow_text(names)
    found = np.zeros(len(names), dtype=bool)
    for pattern in patterns:
        regex = f"(?is)\\A(?:{_expression(pattern)})\\z"
        found |= pc.match_substring_regex(array, regex).to_numpy(zero_copy_only=False)
    return pd.Series(found, index=names.index)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:  # else true would be 1
            raise ValueError(f"{str(value).lower()} is no number; write one")
        return value


def _feature(value: object) -> object:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Feature = Annotated[Literal["on", "off", "report"], BeforeValidator(_feature)]
"""On, off, or planned and shown without being done. In files, true and false are on and off."""


class Operations(_Strict):
    """Which kinds of write are allowed. What is off is counted in the report; what is on "report" is listed there
    with its reasons; neither is done."""

    user_create: Feature = Field("on", description="Create accounts for people in scope.")
    user_update: Feature = Field("on", description="Change names, e-mail and mapped attributes.")
    user_rename: Feature = Field("on", description="Rename the account when the username changes in the IdP.")
    user_activate: Feature = Field("on", description="Let people in again when they return.")
    user_deactivate: Feature = Field("on", description="Shut people out who left or were disabled.")
    user_delete: Feature = Field("off", description="Delete accounts (only where leavers are to be deleted).")
    group_create: Feature = Field("on", description="Create groups in scope.")
    group_update: Feature = Field("on", description="Change group descriptions.")
    group_delete: Feature = Field("off", description="Delete groups that are gone (see leavers.groups).")
    membership_add: Feature = Field("on", description="Put people into groups.")
    membership_remove: Feature = Field("on", description="Take people out of groups.")
    nesting: Feature = Field("on", description="Put groups into groups, and take them out.")

    def of(self, kind: Kind) -> Literal["on", "off", "report"]:
        """The feature that this kind of operation belongs to; marking ownership goes with what it marks."""
        name = FEATURES[kind]
        return getattr(self, name) if name else "on"

    def allows(self, kind: Kind) -> bool:
        """Whether this kind of operation is done."""
        return self.of(kind) == "on"

    def without(self, kinds: Iterable[Kind]) -> Operations:
        """The same with these kinds off."""
        return self.model_copy(update={FEATURES[kind]: "off" for kind in kinds if FEATURES[kind]})


FEATURES: Mapping[Kind, str] = {
    **{kind: kind.value for kind in Kind},
    Kind.NESTING_ADD: "nesting",
    Kind.NESTING_REMOVE: "nesting",
    Kind.USER_ATTRIBUTES: "",  # decided per attribute while planning
    Kind.GROUP_ATTRIBUTES: "",
}
"""The feature that turns a kind of operation on and off."""


class Condition(_Strict):
    """One condition on a person. Text is compared without regard to case; of an attribute with several values, one
    must fit. Who has no value fits only the operators that say "not" or "absent"."""

    field: Name = Field(description="username, email, first_name, last_name, display_name, or attribute.")
    operator: Operator = Field(
        "equals",
        description="matches: RE2, of the whole value. above and below compare numbers, before and after dates.",
    )
    values: tuple[str, ...] = Field((), description="What to compare with: any of these. Dates as 2026-12-31.")

    @model_validator(mode="after")
    def _typed(self) -> Condition:
        if self.operator in ("is_present", "is_absent", "is_true", "is_false"):
            if self.values:
                raise ValueError(f"{self.operator} compares with nothing; remove values")
            return self
        if not self.values:
            raise ValueError(f"{self.operator} needs values to compare with; add one")
        for value in self.values:
            if self.operator == "matches":
                _regex(value)
            if self.operator in ("above", "below"):
                _number(value)
            if self.operator in ("before", "after"):
                _date(value)
            if self.operator != "matches" and not value:
                raise ValueError(f"{self.operator} compares with an empty text; write one, or use is_absent")
        if self.operator in ("above", "below", "before", "after") and len(self.values) > 1:
            raise ValueError(f"{self.operator} compares with one value; keep one")
        return self


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise ValueError(f"{text!r} is no number; write one such as 42 or 0.5")
    return number


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date; write it as 2026-12-31") from None
    return text


class Conditions(_Strict):
    """Conditions that must all hold."""

    all: tuple[Condition, ...] = Field(description="All of these must hold.", json_schema_extra={"minItems": 1})

    @field_validator("all")
    @classmethod
    def _some(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        if not conditions:  # (`min_length` would be told beside every error in a condition)
            raise ValueError("there is none, so that everybody fits; add one, or remove the block")
        return conditions

    @model_validator(mode="after")
    def _possible(self) -> Conditions:
        allowed: dict[str, set[str]] = {}
        asked: set[tuple[str, str]] = set()
        for one in self.all:
            asked.add((one.field, one.operator))
            if one.operator == "equals":
                values = {value.lower() for value in one.values}
                if one.field in allowed and not allowed[one.field] & values and one.field in PLAIN:
                    raise ValueError(f"{one.field} cannot equal two things at once, so nobody fits; use one condition")
                allowed[one.field] = allowed.get(one.field, values) & values
        for a, b in (("is_present", "is_absent"), ("is_true", "is_false")):
            for field, _ in asked:
                if {(field, a), (field, b)} <= asked:
                    raise ValueError(f"{field} cannot be both {a} and {b}, so nobody fits; remove one")
        return self


class Scope(_Strict):
    """Who and what is in scope. Everybody else counts as having left."""

    groups: tuple[GroupEntry, ...] = Field(
        ("*",), description="Groups to sync: globs, re: and an RE2 expression, or id: and the id in the IdP."
    )
    exclude_groups: tuple[GroupEntry, ...] = Field((), description="Groups to leave out, though they match above.")
    required_groups: tuple[GroupEntry, ...] = Field(
        (),
        description="People must be in one of these groups, also through nested groups. Of two groups of one name "
        "the one that had it first counts; id: names one for certain. Empty: no such rule.",
    )
    members_only: bool = Field(False, description="Leave out people who are in no synced group.")
    users: tuple[Pattern, ...] = Field(("*",), description="Usernames (as in the IdP) that may be in scope.")
    exclude_users: tuple[Pattern, ...] = Field((), description="Usernames (as in the IdP) to leave out.")
    conditions: tuple[Conditions, ...] = Field(
        (), description="On fields and attributes: one of these blocks must hold in full. Empty: no such rule."
    )

    @model_validator(mode="after")
    def _somebody(self) -> Scope:
        for wanted, out, what in (
            (self.groups, self.exclude_groups, "groups"),
            (self.users, self.exclude_users, "users"),
        ):
            if not wanted:
                raise ValueError(f'{what} is empty, so the scope has none; write "*" for all')
            if "*" in out or set(wanted) <= set(out):
                raise ValueError(f"exclude_{what} leaves out everything that {what} names; the scope matches nobody")
        return self

    def wanted(self) -> frozenset[str]:
        """The source attributes that the conditions read."""
        return frozenset(one.field for block in self.conditions for one in block.all) - PLAIN - {"active"}


class Rule(_Strict):
    """One step on the way from the IdP's username to Crowd's."""

    pattern: Annotated[str, AfterValidator(_searched)] = Field(description="RE2 expression, searched anywhere.")
    replacement: str = Field(description=r"What every match becomes; \1 is the first group.")

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        try:
            pc.replace_substring_regex(pa.array([""]), self.pattern, self.replacement)
        except pa.ArrowInvalid as error:
            why = str(error).removeprefix("Invalid replacement string: ").rstrip(".")
            raise ValueError(f"replacement does not fit the pattern ({why}); correct one of them") from None
        return self


class Usernames(_Strict):
    """How Crowd usernames are made: normalise, then the rules in order, then case, then blanks off."""

    source: Literal["username", "email"] = Field("username", description="The field to start from.")
    normalise: Literal["NFKC", "NFC", "none"] = Field("NFKC", description="Unicode normalisation.")
    rules: tuple[Rule, ...] = Field((), description="Replacements, in this order.")
    case: Literal["lower", "keep"] = Field("lower", description="Crowd ignores case; lower is its custom.")
    allow: tuple[Pattern, ...] = Field(("*",), description="Crowd usernames that may be given; others are held.")
    deny: tuple[Pattern, ...] = Field((), description="Crowd usernames that are never given; they are held.")

    @field_validator("rules")
    @classmethod
    def _telling(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return _telling(rules, ("ann.lee", "bob.ray"), ("ann.lee@example.org", "bob.ray@example.org"))

    @model_validator(mode="after")
    def _sane(self) -> Usernames:
        _open(self.allow, self.deny)
        return self


class Groups(_Strict):
    """How Crowd group names are made: the rules in order, then the prefix; and what stands in groups."""

    rules: tuple[Rule, ...] = Field((), description="Replacements, in this order.")
    prefix: str = Field("", max_length=100, description="Put before every name, after the rules.")
    allow: tuple[Pattern, ...] = Field(("*",), description="Crowd group names that may be written; others are held.")
    deny: tuple[Pattern, ...] = Field((), description="Crowd group names that are never written; they are held.")
    everyone: tuple[str, ...] = Field(
        (),
        description="Crowd groups that every active person in scope is put into. One that is there already may be "
        "anybody's: only our people are put in and taken out.",
    )
    nesting: Literal["preserve", "flatten", "ignore"] = Field(
        "preserve",
        description="Groups in groups: as in the IdP; their members as direct members; or left alone in Crowd.",
    )
    handover: Literal["do", "ask", "never"] = Field(
        "do",
        description="A group that is gone from the IdP, and exactly one new one of its name: give that one the Crowd "
        "group as it stands, with its permissions; ask a person first; or hold it.",
    )

    @field_validator("rules")
    @classmethod
    def _telling(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return _telling(rules, ("staff", "teams"), ("ACME-Red Team", "ACME-Old Guard"))

    @field_validator("prefix")
    @classmethod
    def _no_blank(cls, prefix: str) -> str:
        if prefix != prefix.lstrip():
            raise ValueError("it begins with a blank, which Crowd takes off; remove it")
        return prefix

    @field_validator("everyone")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.strip() or name != name.strip() or len(name) > MAX_TEXT:
                raise ValueError(
                    f"{name[:20]!r}: a group name has 1 to {MAX_TEXT} characters, no blanks around; correct it"
                )
        lower = [name.lower() for name in names]
        twice = [name for name in names if lower.count(name.lower()) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} stands there twice; keep one")
        return names

    @model_validator(mode="after")
    def _sane(self) -> Groups:
        _open(self.allow, self.deny)
        return self

    def named(self, names: pd.Series) -> pd.Series:
        """Group names in the IdP → in Crowd, on the same index."""
        array = replaced(arrow_text(names), self.rules)
        if self.prefix:
            before, nothing = (pa.scalar(text, pa.large_string()) for text in (self.prefix, ""))
            array = pc.binary_join_element_wise(before, array, nothing)
        return pd.Series(pc.utf8_trim_whitespace(array), dtype="str", index=names.index)


def replaced(array: pa.Array, rules: Iterable[Rule]) -> pa.Array:
    """Texts after the rules in their order. What is or becomes longer than `MAX_REPLACED` stays as it is: Crowd takes
    no such name, and rules that double a text would fill the memory."""
    for rule in rules:
        given = array
        short = pc.less_equal(pc.utf8_length(given), MAX_REPLACED)
        everything = pc.all(short).as_py() is not False
        array = given if everything else pc.if_else(short, given, "")
        array = pc.replace_substring_regex(array, rule.pattern, rule.replacement)
        array = array if everything else pc.if_else(short, array, given)
    return array


def _telling(rules: tuple[Rule, ...], *pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Refuses rules after which two different names are one, whoever they belong to."""
    for pair in pairs:
        one, other = replaced(pa.array(pair, pa.large_string()), rules).to_pylist()
        if one.strip().lower() == other.strip().lower():
            raise ValueError(
                f"they make {pair[0]!r} and {pair[1]!r} both {one[:60]!r}, so that everybody gets one name; "
                "correct the patterns"
            )
    return rules


def _open(allow: tuple[str, ...], deny: tuple[str, ...]) -> None:
    if not allow or "*" in deny or set(allow) <= set(deny):
        raise ValueError("deny leaves nothing of what allow names, so every name is held; change one of them")


class Step(_Strict):
    """One named function on a value; which of the other fields it reads stands beside them."""

    function: Function = Field(description="What is done with the value.")
    pattern: str = Field("", description="replace: RE2 expression, searched anywhere.")
    replacement: str = Field("", description=r"replace: what every match becomes; \1 is the first group.")
    separator: str = Field("", description="split: the text to split at.")
    part: int | None = Field(None, description="split: which part, 1 the first, -1 the last. Empty: all of them.")
    table: dict[str, str] = Field(default_factory=dict, description="lookup: value → what it becomes; case ignored.")
    otherwise: Literal["keep", "empty"] = Field("keep", description="lookup: what is not in the table.")
    value: str = Field("", max_length=MAX_TEXT, description="default: the value where there is none.")

    @field_validator("part")
    @classmethod
    def _a_part(cls, part: int | None) -> int | None:
        if part == 0:
            raise ValueError("parts are counted from 1, or from -1 backwards; 0 is none, write another")
        return part

    @field_validator("table")
    @classmethod
    def _one_answer(cls, table: dict[str, str]) -> dict[str, str]:
        if len({key.lower() for key in table}) < len(table):
            raise ValueError("two of its keys differ only in case, which is ignored; keep one")
        return table

    @model_validator(mode="after")
    def _fits(self) -> Step:
        reads = _READS[self.function]
        for name in type(self).model_fields:
            given = getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
            if name != "function" and given and name not in reads:
                raise ValueError(f"{self.function} does not read {name}; remove it")
        for name in reads[:1]:
            if not getattr(self, name):
                raise ValueError(f"{self.function} needs {name}; add it")
        if self.function == "replace":
            Rule(pattern=self.pattern, replacement=self.replacement)
        return self


class Value(_Strict):
    """How one value is made: from its sources, through the steps in their order."""

    sources: tuple[Name, ...] = Field((), description="Source fields or attributes. Empty: only the steps' default.")
    combine: Literal["first", "join"] = Field(
        "first", description="Of several sources: the first that is not empty, or all of them joined."
    )
    separator: str = Field(" ", description="Between joined values.")
    steps: tuple[Step, ...] = Field((), description="Functions on the value, in this order.")

    @model_validator(mode="after")
    def _some(self) -> Value:
        if not self.sources and not any(step.function == "default" for step in self.steps):
            raise ValueError("there is neither a source nor a default, so the value is always empty; add one")
        return self


def _value(given: object) -> object:
    return {"sources": (given,)} if isinstance(given, str) else given


Made = Annotated[Value, BeforeValidator(_value, json_schema_input_type=str | Value)]
"""A value, or the name of its one source."""


class Attributes(_Strict):
    """What Crowd's fields and attributes are filled from: a source field or attribute, or a value that is made."""

    fields: dict[Field_, Made] = Field(
        default_factory=dict,
        description="Crowd field → source field or attribute, or how it is made. Fields not named keep their own name.",
    )
    extra: dict[str, Made] = Field(
        default_factory=dict,
        description="Crowd attribute → source attribute, or how it is made. Only these are ever touched.",
    )

    @field_validator("extra")
    @classmethod
    def _theirs(cls, extra: dict[str, Value]) -> dict[str, Value]:
        for name in extra:
            if name == ID_ATTRIBUTE:
                raise ValueError(f"{ID_ATTRIBUTE} is crowdsync's own mark of ownership; choose another name")
            if not name or len(name) > MAX_TEXT:
                raise ValueError(f"{name[:20]!r}: an attribute name has 1 to {MAX_TEXT} characters; choose another")
        return extra

    @field_validator("fields")
    @classmethod
    def _single(cls, fields: dict[Field_, Value]) -> dict[Field_, Value]:
        for name, value in fields.items():
            if any(step.function == "split" and step.part is None for step in value.steps):
                raise ValueError(f"{name}: a field has one value, and split gives several; say which part")
        return fields

    def wanted(self) -> frozenset[str]:
        """The source attributes that this mapping reads."""
        every = (*self.fields.values(), *self.extra.values())
        return frozenset(name for one in every for name in one.sources) - PLAIN


def as_value(given: str | Value) -> Value:
    """A plain name is a value with one source."""
    return given if isinstance(given, Value) else Value(sources=(given,))


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


class Leavers(_Strict):
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


PRIVILEGED = (
    "*administrator*",
    "*admins*",
    r"re:.*admin([^a-z].*)?",  # the word admin, or one that ends so: sysadmin, jira_admin, admin-emea, Jira Admin Team
    r"re:.*(?-i:[Aa]dmin[A-Z]).*",  # JiraAdminTeam
    "*superuser*",
    "*super-user*",
    "*super_user*",
    "bamboo-admin*",
    "bitbucket-admin*",
    "stash-admin*",
)
"""The family that Atlassian's own groups of power are of, whatever stands before or after and between the words.
Atlassian's products make new ones with every release, and companies name theirs alike. `administration` and
`badminton` are none; whoever has an `admin-assistants` names it in `privileged_allowed`."""


class Protection(_Strict):
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


Danger = Literal["deletions", "privileged", "last_administrator", "emptied_groups"]


class Approval(_Strict):
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


class Canary(_Strict):
    """A first part of a plan, which is carried out and read back before the rest."""

    operations: int | None = Field(None, ge=1, le=1000, description="The first so many operations.")
    group: str = Field("", description="Or everything that concerns this Crowd group.")

    @model_validator(mode="after")
    def _one(self) -> Canary:
        if self.operations is not None and self.group:
            raise ValueError("operations and group exclude each other; keep one")
        return self


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
        fits = _privileged(named, self.protection.privileged_groups) & (named == named.str.strip())
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
        for name in names[self._closed(names)].head(1):
            raise ValueError(
                f"{what} {name!r}, which is protected or privileged; change it, or name the privileged group "
                "in protection.privileged_allowed"
            )

    def wanted(self) -> frozenset[str]:
        """The source attributes that scope and mapping read."""
        return self.attributes.wanted() | self.scope.wanted()

    def without(self, kinds: Iterable[Kind]) -> Policy:
        """The same with these kinds of operation off, and nothing asked but what is above a limit."""
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
        closed = _privileged(names, self.protection.privileged_groups)
        allowed = pd.Index(pd.Series(self.protection.privileged_allowed, dtype="str").str.lower())
        return closed & ~names.str.lower().isin(allowed)


def _privileged(names: pd.Series, patterns: Iterable[str]) -> pd.Series:
    """Which names match any of the patterns, as they stand there (blanks and capitals tell words apart), or in the
    form of any that looks like them: bool, on the index of `names`."""
    plain = names.reset_index(drop=True)
    folded = fold(plain)
    forms = [matches(form, patterns) for form in (plain, folded, *skeletons(plain, folded))]
    return pd.Series(np.logical_or.reduce(forms), index=names.index)


def policy_of(settings: Settings, source: str) -> Policy:
    """The policy of one source: in crowdsync.toml, or in the file that it names. Raises `ConfigurationError` naming
    the file and the field."""
    chosen = settings.source(source)
    if not chosen.policy_file:
        return _policy(chosen.policy, settings.file, ("sources", source, "policy"))
    if chosen.policy:
        raise ConfigurationError(
            f"{settings.file}: sources.{source}: policy and policy_file exclude each other; keep one"
        )
    return read_policy(Path(settings.file).parent / chosen.policy_file)


def read_policy(file: Path) -> Policy:
    """A policy from a YAML or TOML file of its own. Raises `ConfigurationError` naming the field."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}; name the policy's file") from None
    if len(raw) > MAX_FILE:
        raise ConfigurationError(f"{file} is larger than {MAX_FILE:,} bytes; shorten it")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not UTF-8 text; save it as such") from None
    kind = "TOML" if file.suffix.lower() == ".toml" else "YAML"
    try:
        data = tomllib.loads(text) if kind == "TOML" else yaml.load(text, _Loader)  # noqa: S506 (a safe one)
    except RecursionError:
        raise ConfigurationError(f"{file} is nested too deep; a policy has a few levels only") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"{file} cannot be read as {kind}: {' '.join(str(error).split())}; correct it"
        ) from None
    if data is not None and not isinstance(data, dict):
        raise ConfigurationError(f"{file} holds no fields; begin with one, such as `scope:`")
    return _policy(data or {}, str(file), ())


MAX_FILE = 1_000_000
"""How many bytes a policy's file may have."""


class _Loader(yaml.SafeLoader):
    """YAML without what lets a small text become a large one, or one key hide another."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.YAMLError(f"line {line} has an anchor, an alias or a tag, which a policy cannot have")
        node: yaml.Node | None = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= letter <= "\udfff" for letter in node.value):
            raise yaml.YAMLError(f"line {line} has half a letter, which is no text")
        keys = [key.value for key, _ in node.value if key.id == "scalar"] if isinstance(node, yaml.MappingNode) else []
        if "<<" in keys:
            raise yaml.YAMLError(f"line {line} has a merge, which a policy cannot have")
        if len(set(keys)) < len(keys):
            raise yaml.YAMLError(f"in what begins in line {line}, {max(keys, key=keys.count)!r} stands twice")
        return node


def _policy(data: Mapping[str, Any], file: str, prefix: tuple[str, ...]) -> Policy:
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(explain(error, file, prefix)) from None


def schema() -> dict[str, Any]:
    """The policy's JSON schema, for editors: `# yaml-language-server: $schema=…` at the head of a file."""
    made = Policy.model_json_schema()
    for feature in made["$defs"]["Operations"]["properties"].values():  # (the UI's form needs no true and false)
        feature["enum"] += [True, False]
        del feature["type"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "A crowdsync policy"}
