"""Bearer tokens of sources that push, at rest as digests.

A token is 256 random bits. Its plain SHA-256 is enough: a slow or salted hash protects secrets that can be guessed, and
nobody guesses one of 2^256; and a digest without a salt is found by index, in the same time whatever was sent.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, bindparam, insert, select, update

from connectors.errors import ConfigurationError
from connectors.store.database import Database
from connectors.store.tables import TokenRow, instant

TOKEN: Final[Table] = TokenRow.__table__  # type: ignore[attr-defined]

_BY_DIGEST: Final = select(TOKEN).where(TOKEN.c.digest == bindparam("digest"))
"""Made once: every request of a provider asks for it."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, never the token. `used_on` is None before its first use, `revoked_at` until then."""

    id: str
    source: str
    made_at: datetime
    expires_at: datetime
    used_on: date | None
    revoked_at: datetime | None

    def lives(self, now: datetime) -> bool:
        """Whether it opens anything at this time."""
        return self.revoked_at is None and now < self.expires_at


class Tokens:
    """Make, find and revoke bearer tokens."""

    _db: Database

    def make_token(self, source: str, *, days: int, now: datetime) -> tuple[Token, str]:
        """A new token of a source, which lives for `days`, and its text, which is kept nowhere. Older ones live on."""
        text = f"crowdsync_{secrets.token_urlsafe(32)}"
        made = Token(secrets.token_hex(4), source, now, now + timedelta(days=days), None, None)
        with self._db.write() as connection:
            connection.execute(
                insert(TOKEN).values(
                    id=made.id,
                    source=source,
                    digest=_digest(text),
                    made_at=instant(made.made_at),
                    expires_at=instant(made.expires_at),
                    used_on="",
                    revoked_at="",
                )
            )
        return made, text

    def token(self, text: str) -> Token | None:
        """The token with this text, dead or alive."""
        with self._db.read() as connection:
            row = connection.execute(_BY_DIGEST, {"digest": _digest(text)}).first()
        return None if row is None else _token(row)

    def tokens(self) -> list[Token]:
        """Every token, by source, oldest first."""
        with self._db.read() as connection:
            found = connection.execute(select(TOKEN).order_by(TOKEN.c.source, TOKEN.c.made_at, TOKEN.c.id))
            return [_token(row) for row in found]

    def used_token(self, identity: str, day: date) -> None:
        """Note that a token was used on a day."""
        with self._db.write() as connection:
            connection.execute(update(TOKEN).where(TOKEN.c.id == identity).values(used_on=day.isoformat()))

    def revoke_token(self, identity: str, now: datetime) -> Token:
        """End a token; one that is revoked already stays as it is. Raises `ConfigurationError` where there is none."""
        with self._db.write() as connection:
            one = TOKEN.c.id == identity
            connection.execute(update(TOKEN).where(one, TOKEN.c.revoked_at == "").values(revoked_at=instant(now)))
            row = connection.execute(select(TOKEN).where(one)).first()
        if row is None:
            raise ConfigurationError(f"no token has the id {identity!r}; `crowdsync tokens list` shows them")
        return _token(row)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _token(row: Any) -> Token:
    return Token(
        row.id,
        row.source,
        datetime.fromisoformat(row.made_at),
        datetime.fromisoformat(row.expires_at),
        date.fromisoformat(row.used_on) if row.used_on else None,
        datetime.fromisoformat(row.revoked_at) if row.revoked_at else None,
    )
