"""Everything that can go wrong, by what the caller should do about it.

CrowdsyncError
├── ConfigurationError    the operator must change a setting; nothing was read or written
├── RetryableError        the same call may succeed later; `retry_after` says when, in seconds
│   └── AmbiguousError    a write may or may not have happened: read back before deciding
├── RefusedError          the run stops; what was not yet written is not written
│   ├── AuthenticationError   the other side does not accept our credentials
│   ├── ForbiddenError        it accepts them, and does not allow this call
│   ├── IncompleteError       a read did not prove itself whole
│   │   └── StaleCursorError  what changed cannot be told: read everything
│   └── TooLargeError     an answer is larger than allowed: ask for less at once
├── RecordError           one record is held, or one operation failed; the others go on
├── NotVerifiedError      what came in does not come from whom it should; nothing is stored (connectors/hook.py)
└── MalformedError        what came in makes no sense, and never will; nothing is stored (connectors/hook.py)

Messages are one line: what happened, where, and the operator's next step. They never hold a secret:
addresses are shown without user information and query values. What the other side said in them is data: its control
and direction characters are shown, not carried out.
"""

from __future__ import annotations

import re
from typing import Any, Final

_LETTER: Final = r"[^\s\"'`<>()\[\]{},;:=|/\\@?&]"
_EMAIL: Final = re.compile(rf"(?<!{_LETTER}){_LETTER}+?(@|%40)({_LETTER}+)", re.IGNORECASE)
_IN_ADDRESS: Final = re.compile(rf"(?<!{_LETTER}){_LETTER}+?(%40)({_LETTER}+)", re.IGNORECASE)


def visible(text: str) -> str:
    """Text for a line of a log or a page: blanks for line ends, and what is not printed as its escape."""
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable()
        else " "
        if one.isspace()
        else f"\\u{ord(one):04x}"
        if one < "\U00010000"
        else f"\\U{ord(one):08x}"
        for one in text
    )


def without_emails(text: str) -> str:
    """E-mail addresses → `***@domain`."""
    return _EMAIL.sub(r"***\1\2", text)


class CrowdsyncError(Exception):
    """The root of the tree in this module's docstring."""

    def __init__(self, message: str = "", *more: Any) -> None:
        # A person's key in the address of a call, too, may be an e-mail address; it is quoted there.
        super().__init__(_IN_ADDRESS.sub(r"***\1\2", visible(message)), *more)


class ConfigurationError(CrowdsyncError):
    """A setting is missing, unknown or impossible."""


class RetryableError(CrowdsyncError):
    """The same call may succeed later.

    `retry_after` is in seconds; None where the other side did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AmbiguousError(RetryableError):
    """A write was sent and its answer never came, or said nothing about its effect."""


class RefusedError(CrowdsyncError):
    """The run stops; nothing further is written."""


class AuthenticationError(RefusedError):
    """The other side does not accept our credentials."""


class ForbiddenError(RefusedError):
    """The other side knows us and does not allow this call."""


class IncompleteError(RefusedError):
    """A read did not prove itself whole, so nothing may be concluded from it."""


class StaleCursorError(IncompleteError):
    """The source does not know this mark any more, or something is in doubt: a full read is due."""


class TooLargeError(RefusedError):
    """An answer is larger than `max_bytes`: asked for fewer records, the same call may do."""


class RecordError(CrowdsyncError):
    """One record or operation is at fault.

    `reason` is the other side's own code (`INVALID_USER`, `USER_NOT_FOUND`, …) where it gave one.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason
