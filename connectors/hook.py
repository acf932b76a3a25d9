"""What comes in by itself, such as a webhook: how it is given, what it may lead to, and who proves it.

A delivery is a hint and nothing more. It names who may have changed; they are read again, and what is read decides.
Nothing here or in `connectors/hooks/` sends, stores or asks for the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from re import compile as pattern
from typing import Any, Final, Literal, Protocol, runtime_checkable

from connectors.errors import CrowdsyncError
from connectors.strict_json import NotJsonError, loads

Via = Literal["webhook", "event", "scim", "sign-in", "both", "poll", "crowd", "button"]
"""How news came; `event` is a security event token, `both` a sign-in and something else."""
SIGN_INS: Final = ("sign-in", "both")

MOST_NEWS: Final = 1000
"""People and groups that one delivery may name; one that names more says "everybody"."""
_LONGEST: Final = 255
"""Characters of an id."""
_UNFIT: Final = pattern("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as it came in: `headers` under lower-case names, `query` decoded, `body` as it was sent."""

    method: str
    path: str
    query: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class News:
    """One thing that a delivery names.

    `kind` says what `key` is: of a `user` or `group` its immutable id in the source (the username where a source says
    no more of a sign-in), of an `account` a name in Crowd. `crowd` (Crowd says that something changed) and `everybody`
    (something that no key names) have the key "".
    """

    kind: Literal["user", "group", "account", "crowd", "everybody"]
    key: str = field(repr=False)  # may be a name or an address
    via: Via


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is answered."""

    status: int
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A delivery that proved itself.

    `news` names each person and group once; without any, the delivery is answered and not stored. `delivery` is the
    same when the same delivery comes again, and "" where that cannot be told. `dropped` counts items that made no
    sense, or did not prove themselves, beside others that did. `confirm` is an address that must be asked (GET) once,
    in order to go on being told; its host is checked.
    """

    news: tuple[News, ...]
    delivery: str
    answer: Answer
    dropped: int = 0
    confirm: str = field(default="", repr=False)


class NotVerifiedError(CrowdsyncError):
    """It does not come from whom it should. `answer` says nothing of what was wrong."""

    def __init__(self, message: str = "not verified", answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer: Final = answer or Answer(401)


class MalformedError(CrowdsyncError):
    """It makes no sense, and never will: sending it again does not help."""

    def __init__(self, message: str, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer: Final = answer or Answer(400)


@runtime_checkable
class Hook(Protocol):
    """Proves what one kind of sender sends. `connectors.hooks` has one for each."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:
        """A delivery → what it says. Pure.

        `secrets` are the one or two that are live; any of them fits, none is never enough. `now` has a time zone.
        Raises `NotVerifiedError` and `MalformedError`, and no other error.
        """
        ...


# --- what the hooks share ----------------------------------------------------------------------


def prove(given: str, secrets: Sequence[str]) -> None:
    """Raises `NotVerifiedError` unless `given` is one of the secrets."""
    if not fits(given, secrets):
        raise NotVerifiedError


def configured(secrets: Sequence[str]) -> None:
    """Raises `NotVerifiedError` where there is no secret: nobody is expected to send anything."""
    if not any(secrets):
        raise NotVerifiedError


def fits(given: str | bytes, secrets: Iterable[str | bytes]) -> bool:
    """Whether it is one of these. The time that takes says nothing of any of them."""
    found = False
    for one in secrets:
        found |= compare_digest(_digest(given), _digest(one)) and bool(one)
    return found


def _digest(text: str | bytes) -> bytes:
    return sha256(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).digest()


def bearer(delivery: Delivery) -> str:
    """The secret in `Authorization`: the whole of it, or what follows `Bearer`."""
    given = delivery.headers.get("authorization", "")
    return given[7:] if given[:7].lower() == "bearer " else given


def posted(delivery: Delivery) -> None:
    """Raises `MalformedError` unless it is a POST."""
    if delivery.method != "POST":
        raise MalformedError("is no POST")


def json_of(body: bytes) -> Any:
    """A body as JSON that says one thing only. Raises `MalformedError`."""
    wrong = ""
    try:
        return loads(body)
    except NotJsonError as error:
        wrong = str(error)
    raise MalformedError(wrong)


def key_of(value: Any, longest: int = _LONGEST) -> str:
    """An id as it may stand in a database, a log and the path of an address; "" for what is none."""
    if type(value) is not str or not 0 < len(value) <= longest or _UNFIT.search(value):
        return ""
    return "" if value in (".", "..") else value


def named(kind: Literal["user", "group"], value: Any, via: Via) -> News | None:
    """News of whoever has this id; None where it is none."""
    key = key_of(value)
    return News(kind, key, via) if key else None


def items_of(value: Any) -> list[Any]:
    """A list of items. Raises `MalformedError` where it is none."""
    if not isinstance(value, list):
        raise MalformedError("has no list of items where one belongs")
    return value


def at(value: Any, *steps: str) -> Any:
    """What stands in an object under these keys, one inside the other; None where there is none."""
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def id_of(*parts: Any) -> str:
    """The id of a delivery that is told apart by these texts; "" where one of them is none."""
    if not parts or not all(type(part) is str and part for part in parts):
        return ""
    if len(parts) == 1 and key_of(parts[0]):
        return str(parts[0])
    return sha256(b"\0".join(_digest(part) for part in parts)).hexdigest()


def together(before: Via, now: Via) -> Via:
    """How news of one person came that came in two ways: a sign-in alone may be passed over, and a sign-in that let
    somebody in must not be forgotten."""
    return before if before in (now, "both") or "sign-in" not in (before, now) else "both"


def accepted(
    news: Iterable[News | None], delivery: str, answer: Answer, *, dropped: int = 0, confirm: str = ""
) -> Accepted:
    """Each person and group once; None is an item that made no sense.

    More than `MOST_NEWS` are everybody.
    """
    once: dict[tuple[str, str], News] = {}
    for one in news:
        if one is None:
            dropped += 1
        elif (known := once.get((one.kind, one.key))) is None:
            once[one.kind, one.key] = one
        elif (via := together(known.via, one.via)) != known.via:
            once[one.kind, one.key] = News(one.kind, one.key, via)
    found = tuple(once.values())
    if len(found) > MOST_NEWS:
        found = (News("everybody", "", found[0].via),)
    return Accepted(found, delivery, answer, dropped, confirm)
