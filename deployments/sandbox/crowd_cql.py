"""Search restrictions of the emulated Crowd: the query language of GET, the trees of POST.

Both become one predicate on a user or a group. Comparison ignores case. A property that is not one
of Crowd's own is a custom attribute, of which any value may match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from deployments.sandbox.crowd_data import Group, Refusal, User

Predicate = Callable[[Any], bool]
Values = Callable[[Any], Iterable[str]]

MATCH_MODES: Final = frozenset(
    {"EXACTLY_MATCHES", "CONTAINS", "STARTS_WITH", "ENDS_WITH", "GREATER_THAN", "LESS_THAN", "NULL"}
)
MAX_DEPTH: Final = 50
_TOKEN: Final = re.compile(r'\s*(?:([()=<>])|"((?:[^"\\]|\\.)*)"|([^\s()=<>"]+))')
_DATE: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ].*)?")
_ESCAPED: Final = re.compile(r"\\(.)")

_USER_TEXT: Final[dict[str, Callable[[User], str]]] = {
    "name": lambda user: user.fold,
    "email": lambda user: user.email.lower(),
    "firstName": lambda user: user.first_name.lower(),
    "lastName": lambda user: user.last_name.lower(),
    "displayName": lambda user: user.display_name.lower(),
}
_GROUP_TEXT: Final[dict[str, Callable[[Group], str]]] = {
    "name": lambda group: group.fold,
    "description": lambda group: (group.description or "").lower(),
}
_DATES: Final[dict[str, Callable[[User], int]]] = {
    "createdDate": lambda user: user.created,
    "updatedDate": lambda user: user.updated,
}


def _bad(message: str) -> Refusal:
    return Refusal(400, "ILLEGAL_ARGUMENT", message)


def everything(_entity: object) -> bool:
    return True


def term(kind: str, name: str, mode: str, value: str) -> Predicate:
    """One comparison; `kind` is user or group."""
    if mode not in MATCH_MODES:
        raise _bad(f"Unknown match mode <{mode}>")
    if name == "active":
        wanted = value.lower()
        if mode != "EXACTLY_MATCHES" or wanted not in ("true", "false"):
            raise _bad("active can only be compared with true or false")
        truth = wanted == "true"
        return lambda entity: bool(entity.active) == truth
    if kind == "user" and name in _DATES:
        return _date_term(_DATES[name], mode, value)
    text = (_USER_TEXT if kind == "user" else _GROUP_TEXT).get(name)
    if text is not None:
        return _text_term(text, mode, value.lower())

    def any_value(entity: User | Group) -> bool:
        values = entity.attributes.get(name)
        if values is None:
            return mode == "NULL"
        return any(compare(one.lower()) for one in values)

    compare = _text_term(lambda one: one, mode, value.lower())
    return any_value


def _text_term(text: Callable[[Any], str], mode: str, value: str) -> Predicate:
    if mode == "EXACTLY_MATCHES":
        return lambda entity: text(entity) == value
    if mode == "CONTAINS":
        return lambda entity: value in text(entity)
    if mode == "STARTS_WITH":
        return lambda entity: text(entity).startswith(value)
    if mode == "ENDS_WITH":
        return lambda entity: text(entity).endswith(value)
    if mode == "GREATER_THAN":
        return lambda entity: text(entity) > value
    if mode == "LESS_THAN":
        return lambda entity: text(entity) < value
    return lambda entity: not text(entity)


def _date_term(moment: Callable[[Any], int], mode: str, value: str) -> Predicate:
    if mode == "NULL":
        return lambda _entity: False
    match = _DATE.fullmatch(value)
    try:
        if match is None:
            raise ValueError
        start = int(datetime.strptime(match[1], "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise _bad(f"<{value}> is not a date of the form yyyy-MM-dd") from None
    if mode == "GREATER_THAN":
        return lambda entity: moment(entity) > start
    if mode == "LESS_THAN":
        return lambda entity: moment(entity) < start
    if mode == "EXACTLY_MATCHES":
        return lambda entity: start <= moment(entity) < start + 86_400_000
    raise _bad(f"A date cannot be compared with {mode}")


def both(logic: str, parts: list[Predicate]) -> Predicate:
    """Parts joined by `and` or `or`."""
    if not parts:
        raise _bad("A boolean restriction needs at least one restriction")
    if len(parts) == 1:
        return parts[0]
    if logic == "and":
        return lambda entity: all(part(entity) for part in parts)
    if logic == "or":
        return lambda entity: any(part(entity) for part in parts)
    raise _bad(f"Unknown boolean logic <{logic}>")


class _Cql:
    """Recursive descent over the tokens; `and` binds closer than `or`."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise _bad(f"Cannot parse the restriction at <{text[place:]}>")
            place = match.end()
            sign, quoted, word = match.groups()
            if sign:
                self.tokens.append(("sign", sign))
            elif word is not None:
                self.tokens.append(("word", word))
            else:
                self.tokens.append(("quoted", _ESCAPED.sub(r"\1", quoted)))
        self.place = 0
        self.depth = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.place += 1
        return token

    def is_word(self, word: str) -> bool:
        kind, text = self.peek()
        return kind == "word" and text.lower() == word

    def whole(self) -> Predicate:
        found = self.any_of()
        if self.peek()[0] != "end":
            raise _bad(f"Cannot parse the restriction at <{self.peek()[1]}>")
        return found

    def any_of(self) -> Predicate:
        parts = [self.all_of()]
        while self.is_word("or"):
            self.take()
            parts.append(self.all_of())
        return both("or", parts)

    def all_of(self) -> Predicate:
        parts = [self.one()]
        while self.is_word("and"):
            self.take()
            parts.append(self.one())
        return both("and", parts)

    def one(self) -> Predicate:
        kind, text = self.take()
        if (kind, text) == ("sign", "("):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise _bad("The restriction is nested too deeply")
            found = self.any_of()
            self.depth -= 1
            if self.take() != ("sign", ")"):
                raise _bad("The restriction lacks a closing parenthesis")
            return found
        if kind not in ("word", "quoted") or not text:
            raise _bad(f"The restriction has <{text}> where a property is expected")
        sign_kind, sign = self.take()
        if sign_kind != "sign" or sign not in "=<>":
            raise _bad(f"The restriction has <{sign}> where an operator is expected")
        value_kind, value = self.take()
        if value_kind not in ("word", "quoted"):
            raise _bad(f"The restriction has <{value}> where a value is expected")
        if sign != "=":
            return term(self.kind, text, "LESS_THAN" if sign == "<" else "GREATER_THAN", value)
        return self.equals(text, value)

    def equals(self, name: str, value: str) -> Predicate:
        starts, ends = value.endswith("*"), value.startswith("*")
        if not (starts or ends):
            return term(self.kind, name, "EXACTLY_MATCHES", value)
        inner = value.strip("*")
        if starts and ends:
            return term(self.kind, name, "CONTAINS", inner)
        return term(self.kind, name, "STARTS_WITH" if starts else "ENDS_WITH", inner)


def from_cql(kind: str, text: str) -> Predicate:
    """The restriction of `GET /search`; empty means everything."""
    return _Cql(kind, text).whole() if text.strip() else everything


def from_tree(kind: str, tree: Any, depth: int = 0) -> Predicate:
    """The restriction of `POST /search`, as JSON or as XML made into the same shape."""
    if depth > MAX_DEPTH:
        raise _bad("The restriction is nested too deeply")
    if not isinstance(tree, dict):
        raise _bad("A search restriction must be an object")
    form = tree.get("restriction-type")
    if form == "null-search-restriction":
        return everything
    if form == "boolean-search-restriction":
        parts = tree.get("restrictions")
        if not isinstance(parts, list):
            raise _bad("A boolean restriction needs a list of restrictions")
        logic = str(tree.get("boolean-logic", "")).lower()
        if logic not in ("and", "or"):
            raise _bad(f"Unknown boolean logic <{logic}>")
        return both(logic, [from_tree(kind, part, depth + 1) for part in parts])
    if form == "property-search-restriction":
        about = tree.get("property")
        if not isinstance(about, dict) or not isinstance(about.get("name"), str) or not about["name"]:
            raise _bad("A property restriction needs a property with a name and a type")
        if about.get("type") not in ("STRING", "BOOLEAN", "DATE"):
            raise _bad(f"Unknown property type <{about.get('type')}>")
        mode = tree.get("match-mode", tree.get("matchMode"))
        value = tree.get("value")
        if mode == "NULL":
            value = ""
        elif isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, int | float):
            value = str(value)
        if not isinstance(mode, str) or not isinstance(value, str):
            raise _bad("A property restriction needs a match-mode and a value")
        return term(kind, about["name"], mode, value)
    raise _bad(f"Unknown restriction type <{form}>")
