"""Crowd's events since a token (`GET /event/TOKEN`), parsed into hints.

`reference/crowd-rest.md` section 11. The XML is confirmed as far as the root, its two attributes and the names of the
four events; the JSON form is not, and so is not read. What stands inside an event is known by its parts alone.
Therefore whatever is not exactly one of these parts is a doubt, and a doubt is `StaleCursorError`: all is read again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

from connectors.contract import Hint
from connectors.errors import StaleCursorError
from connectors.model import crowd_id

MAX_EVENTS: Final = 5000
"""Events in one answer, and hints of several, at most: beyond that a full read is less work, and nobody knows after
how many Crowd cuts its answers off."""

MAX_BYTES: Final = 8 * 2**20

_TOKEN: Final = re.compile(r"(?!\.+$)[!-~]{1,500}")
_REASON: Final = re.compile(r"[A-Z_]{1,60}")
_OTHER_ENCODING: Final = re.compile(rb"\s*<\?xml[^>]*encoding\s*=\s*.(?!utf-8['\"])", re.IGNORECASE)
_NEEDS: Final = {  # event → how many users and groups it names at least
    "userEvent": (1, 0),
    "groupEvent": (0, 1),
    "userMembershipEvent": (1, 1),
    "groupMembershipEvent": (0, 2),
}
_NAMED: Final = {"user": "user", "childUser": "user", "group": "group"}
_LISTS: Final = frozenset({"parentGroups", "childGroups"})
_ASIDE: Final = frozenset({"operation", "storedAttributes", "deletedAttributes"})
"""Parts that name nobody. (CREATED or DELETED is not looked at: who is named is read again.)"""


@dataclass(frozen=True, slots=True)
class Events:
    """One answer: the token that follows it, and whom its events name."""

    token: str
    hints: frozenset[Hint]


def stale(what: str, why: str) -> StaleCursorError:
    return StaleCursorError(f"{what}: {why}. A full read is due.")


def is_token(token: object) -> bool:
    """Whether that can be a token of Crowd's: a short text that can stand in an address."""
    return isinstance(token, str) and _TOKEN.fullmatch(token) is not None


def events_of(body: bytes, what: str) -> Events:
    """The answer of `GET /event/TOKEN` → its token and hints. Raises `StaleCursorError` at any doubt; `what` says
    where, for its message."""
    root = _document(body, what)
    if root.tag != "events":
        raise stale(what, "the answer is not a list of events")
    if root.get("incrementalSynchronisationAvailable") != "true":
        raise stale(what, "Crowd does not say that its events can be relied on")
    token = root.get("newEventToken")
    if not is_token(token):
        raise stale(what, "the answer has no token for the next call")
    if len(root) > MAX_EVENTS:
        raise stale(what, f"{len(root)} events are more than {MAX_EVENTS}")
    return Events(token, frozenset(hint for event in root for hint in _named(event, what)))


def reason_of(body: bytes) -> str:
    """Crowd's reason code in an error that came as XML, or ""."""
    try:
        root = _document(body, "")
    except StaleCursorError:
        return ""
    reason = root.findtext("reason") if root.tag == "error" else None
    return reason if reason and _REASON.fullmatch(reason) else ""


def _document(body: bytes, what: str) -> Any:
    """The root of XML in UTF-8 without a document type, and so without entities."""
    if len(body) > MAX_BYTES:
        raise stale(what, f"the answer has {len(body)} bytes, more than {MAX_BYTES}")
    if b"<!DOCTYPE" in body or _OTHER_ENCODING.match(body[:200]):
        raise stale(what, "the answer is a page, declares a document type or is not in UTF-8")
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip
    line = 0
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        line = error.lineno or 0
    # Outside: the parser's own error quotes the answer.
    raise stale(what, f"the XML ends or breaks in line {line}")


def _named(event: Any, what: str) -> list[Hint]:
    """Everybody whom one event names; of a membership of a user, only the user."""
    kind = event.tag
    if kind not in _NEEDS:
        raise stale(what, f"<{kind}> is no event that we know")
    absolute = event.get("absolute", "false")
    found: list[Hint] = []
    for part in event:
        if part.tag in _NAMED:
            found.append(_hint(part, what))
        elif part.tag in _LISTS:
            if any(group.tag != "group" for group in part) or part.attrib or (part.text or "").strip():
                raise stale(what, f"<{part.tag}> of a <{kind}> is not a list of groups")
            found += [_hint(group, what) for group in part]
        elif part.tag == "absolute":
            absolute = part.text or ""
        elif part.tag not in _ASIDE:
            raise stale(what, f"<{part.tag}> in a <{kind}> is not known, and may name somebody")
    if event.keys() and not {"operation", "absolute"}.issuperset(event.keys()):
        raise stale(what, f"an attribute of <{kind}> is not known, and may name somebody")
    if absolute != "false":
        raise stale(what, f"a <{kind}> lists all groups of a user, and so does not name those that it left")
    kinds = [hint.kind for hint in found]
    if any(kinds.count(one) < least for one, least in zip(("user", "group"), _NEEDS[kind], strict=True)):
        raise stale(what, f"a <{kind}> does not name everybody whom it is about")
    if kind == "userMembershipEvent":  # (read again, the user says which groups they are in)
        return [hint for hint in found if hint.kind == "user"]
    return found


def _hint(part: Any, what: str) -> Hint:
    name = part.get("name")
    if not name or not name.strip():
        raise stale(what, f"a <{part.tag}> of an event has no name")
    return Hint(_NAMED[part.tag], crowd_id(name))
