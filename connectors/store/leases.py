"""Leases: one writer for each directory, with a fence against the one that does not know it was replaced.

A run that was suspended, or cut off from the database, may wake after its lease was over and taken by
another. Clocks cannot stop it; the token can. Each taking raises it by one, and whoever hands his lease to
the journal as `fence` is refused once a later token stands there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, select, update

from connectors.errors import ConfigurationError, RefusedError
from connectors.store import audit, bulk
from connectors.store.database import Database, Lock
from connectors.store.history import upserting
from connectors.store.tables import LeaseRow, RunRow, instant

LEASE: Final[Table] = LeaseRow.__table__  # type: ignore[attr-defined]
RUN: Final[Table] = RunRow.__table__  # type: ignore[attr-defined]

AFTERWARDS: Final = timedelta(seconds=5)
"""So long what a process sent before it was killed may still be on its way."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to `directory` until `until`. Of two leases the one with the higher token counts."""

    directory: str
    holder: str
    token: int
    until: datetime


class Leases:
    """Take, renew and give back the lease of a directory."""

    _db: Database

    def take_lease(
        self, directory: str, holder: str, *, seconds: float, now: datetime | None = None, behind: str = ""
    ) -> Lease | None:
        """Take the directory's lease for `seconds`; None while another holder's is not over, or another has the lease
        `behind` which this one stands.

        `now` is by the database's clock unless it is given: a machine whose clock is ahead must not take what another
        one holds.

        The same holder may take again at any time (a retried run); what it took before is then worth nothing.
        """
        holder = bulk.plain(holder)
        if not holder.strip() or seconds <= 0:
            raise ConfigurationError(
                f"A lease needs a holder and a time above 0 s, not {holder!r} and {seconds:g} s: name the run."
            )
        with self._db.write() as connection:
            self._db.lock(connection, Lock.LEASES)
            now = now or self._db.now(connection)  # (now that it need wait no longer)
            before, first = _row(connection, directory), _row(connection, behind) if behind else None
            for other in (before, first):
                if other is not None and other.holder not in ("", holder) and other.until > instant(now):
                    return None
            until = now + timedelta(seconds=seconds)
            # The row is never removed: a token that began again at 1 would let an old writer through.
            lease = Lease(directory, holder, before.token + 1 if before is not None else 1, until)
            values = {"holder": holder, "token": lease.token, "taken_at": instant(now), "until": instant(until)}
            connection.execute(
                upserting(connection, LEASE)
                .values(directory=directory, **values)
                .on_conflict_do_update(index_elements=["directory"], set_=values)
            )
            if before is not None and before.holder not in ("", holder):
                details = {"from": before.holder, "until": before.until, "token": lease.token}
                audit.append(
                    self._db,
                    connection,
                    event="lease taken over",
                    actor=holder,
                    subject=directory,
                    details=details,
                    at=now,
                )
        return lease

    def lease(self, directory: str) -> Lease | None:
        """The directory's lease, its time over or not; None where nobody took it, or it was given back."""
        with self._db.read() as connection:
            row = _row(connection, directory)
        if row is None or not row.holder:
            return None
        return Lease(row.directory, row.holder, row.token, datetime.fromisoformat(row.until))

    def renew_lease(self, lease: Lease, *, seconds: float, now: datetime | None = None) -> Lease:
        """The lease, until `seconds` after `now` (`take_lease`); also where its time is over and nobody took it.

        Raises `RefusedError` where it was taken since, or given back.
        """
        with self._db.write() as connection:
            self._db.lock(connection, Lock.LEASES)
            hold(connection, lease)
            renewed = replace(lease, until=(now or self._db.now(connection)) + timedelta(seconds=seconds))
            connection.execute(
                update(LEASE).where(LEASE.c.directory == lease.directory).values(until=instant(renewed.until))
            )
        return renewed

    def writers(self) -> dict[str, str]:
        """The runs that hold a lease, and the process of each (`tasks.process`), whether they are over or not."""
        statement = select(RUN.c.run, RUN.c.process).join(LEASE, LEASE.c.holder == RUN.c.run)
        with self._db.read() as connection:
            return {row.run: row.process for row in connection.execute(statement)}

    def let_go(self, holder: str, process: str) -> None:
        """What a run held that is gone for certain with this process: its lease is over after `AFTERWARDS`."""
        with self._db.write() as connection:
            self._db.lock(connection, Lock.LEASES)
            until = instant(self._db.now(connection) + AFTERWARDS)
            still = select(RUN.c.run).where(RUN.c.run == holder, RUN.c.process == process).exists()
            held = update(LEASE).where(LEASE.c.holder == holder, LEASE.c.until > until, still)
            connection.execute(held.values(until=until))

    def release_lease(self, lease: Lease) -> None:
        """Give the lease back, and with it the right to write. Nothing happens where it is lost already."""
        with self._db.write() as connection:
            self._db.lock(connection, Lock.LEASES)
            connection.execute(
                update(LEASE)
                .where(
                    LEASE.c.directory == lease.directory,
                    LEASE.c.holder == lease.holder,
                    LEASE.c.token == lease.token,
                )
                .values(holder="", until="")
            )


def hold(connection: Connection, lease: Lease) -> None:
    """Keep the lease from being taken until the caller's transaction ends; `RefusedError` if it was already.

    No clock is asked: a lease that nobody took protects as well after its time as before.
    """
    # A share of the row's lock: who wants to take the lease waits, other writers of this holder do not.
    row = _row(connection, lease.directory, share=True)
    if row is None or not row.holder:
        now = "nobody has it"
    elif (row.holder, row.token) == (lease.holder, lease.token):
        return
    else:
        who = f"a later attempt of {row.holder!r}" if row.holder == lease.holder else f"{row.holder!r}"
        now = f"{who} has it since {row.taken_at}"
    raise RefusedError(
        f"The lease of directory {lease.directory!r} is lost by {lease.holder!r}: {now}; nothing further was "
        "written. Start a new run when no other is writing there."
    )


def _row(connection: Connection, directory: str, *, share: bool = False) -> Any:
    return connection.execute(_SHARED if share else _LEASE_OF, {"directory": directory}).first()


# (Statements that every batch repeats are made once: that takes longer than what they do.)
_LEASE_OF: Final = select(LEASE).where(LEASE.c.directory == bindparam("directory"))
_SHARED: Final = _LEASE_OF.with_for_update(read=True)
