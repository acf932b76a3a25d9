"""How usernames and group names in Crowd are made of those in the identity provider."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, Field, field_validator, model_validator

from connectors.model import MAX_TEXT
from tasks.decide.names import arrow_text
from tasks.policy.patterns import MAX_REPLACED, Pattern, checked_search
from tasks.policy.section import Section


class Rule(Section):
    """One step on the way from the IdP's username to Crowd's."""

    pattern: Annotated[str, AfterValidator(checked_search)] = Field(description="RE2 expression, searched anywhere.")
    replacement: str = Field(description=r"What every match becomes; \1 is the first group.")

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        try:
            pc.replace_substring_regex(pa.array([""]), self.pattern, self.replacement)
        except pa.ArrowInvalid as error:
            why = str(error).removeprefix("Invalid replacement string: ").rstrip(".")
            raise ValueError(f"replacement does not fit the pattern ({why}); correct one of them") from None
        return self


class Usernames(Section):
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


class Groups(Section):
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
