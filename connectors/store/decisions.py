"""Decisions: what a person decided about a plan, for how long, and why. They are only ever added.

A decision counts for the digest that the person saw. A plan has one digest for good, so that a decision
that names another one was made about another plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
import pandas as pd
from sqlalchemy import Table, select, update

from connectors.errors import ConfigurationError, RecordError, RefusedError
from connectors.model import sizes_only
from connectors.operations import Kind
from connectors.store import audit, bulk
from connectors.store.database import Database
from connectors.store.history import rows_frame
from connectors.store.journal import PLAN, known
from connectors.store.tables import DecisionRow, instant

DECISION: Final[Table] = DecisionRow.__table__  # type: ignore[attr-defined]

BECOMES: Final = {"approve": "approved", "approve_without": "approved", "reject": "rejected"}
"""The plan's status after each decision."""

OPEN_TO_DECISION: Final = ("planned", "refused", "waiting")
VIA: Final = ("prefect", "command line")


@sizes_only
@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. `without`: the kinds of operation that are to be left out. `actor`: who decided, as they say;
    `login`: as their machine says, "" where it was made in Prefect, which knows no logins."""

    id: int
    plan_id: int
    digest: str
    at: datetime
    actor: str
    decision: str  # approve | approve_without | reject
    without: tuple[str, ...]
    reason: str
    expires_at: datetime
    via: str  # prefect | command line
    login: str = ""


class Decisions:
    """Write down and read decisions. Each one is also a row in the audit chain."""

    _db: Database

    def decide(
        self,
        plan_id: int,
        *,
        digest: str,
        decision: str,
        actor: str,
        reason: str,
        without: Sequence[str] = (),
        expires_at: datetime,
        via: str,
        at: datetime,
        login: str = "",
    ) -> int:
        """Write down a decision, set the plan's status by it (`BECOMES`), and return the decision's id.

        `digest`: of the plan as the person saw it. Raises, and writes nothing: `ConfigurationError` where it
        does not say who, why, or what is left out; `RefusedError` where the plan has another digest, or is
        not open to a decision; `RecordError` for an unknown plan.
        """
        actor, reason = bulk.plain(actor).strip(), bulk.plain(reason).strip()
        kinds = _sound(decision, actor=actor, reason=reason, without=without, via=via)
        if expires_at <= at:
            raise ConfigurationError(
                f"The decision about plan {plan_id} would be over before it is made: let it expire later."
            )
        with self._db.write() as connection:
            # The row's lock: of two people who decide at once, the second finds the status that the first set.
            plan = connection.execute(
                select(PLAN.c.digest, PLAN.c.status).where(PLAN.c.id == plan_id).with_for_update()
            ).first()
            if plan is None:
                raise RecordError(f"There is no plan {plan_id}; `crowdsync plans` lists them.")
            if plan.digest != digest:
                raise RefusedError(
                    f"Plan {plan_id} is not what was decided on: its digest is {plan.digest}, the decision's "
                    f"{digest}; look at the plan again and decide on that."
                )
            if plan.status not in OPEN_TO_DECISION:
                raise RefusedError(
                    f"Plan {plan_id} is {plan.status} and no longer open to a decision "
                    f"({', '.join(OPEN_TO_DECISION)} are): make a new plan."
                )
            result = connection.execute(
                DECISION.insert().values(
                    plan_id=plan_id,
                    digest=digest,
                    at=instant(at),
                    actor=actor,
                    decision=decision,
                    without=orjson.dumps(kinds).decode(),
                    reason=reason,
                    expires_at=instant(expires_at),
                    via=via,
                    login=bulk.plain(login),
                )
            )
            connection.execute(
                update(PLAN).where(PLAN.c.id == plan_id).values(status=BECOMES[decision], status_at=instant(at))
            )
            audit.append(
                self._db,
                connection,
                event="approval",
                actor=actor,
                subject=f"plan {plan_id}",
                details={
                    "decision": decision,
                    "reason": reason,
                    "digest": digest,
                    "without": kinds,
                    "via": via,
                    **({"login": login} if login else {}),
                },
                at=at,
            )
            return int(result.inserted_primary_key[0])  # type: ignore[index]

    def decision(self, plan_id: int, *, now: datetime) -> Decision | None:
        """The newest decision about the plan; None where there is none, or its time is over at `now`.

        An older decision that would last longer does not come back: the newest one replaced it.
        """
        statement = select(DECISION).where(DECISION.c.plan_id == plan_id).order_by(DECISION.c.id.desc()).limit(1)
        with self._db.read() as connection:
            row = connection.execute(statement).mappings().first()
        if row is None or row["expires_at"] <= instant(now):
            return None
        values = dict(row)
        for name in ("at", "expires_at"):
            values[name] = datetime.fromisoformat(values[name])
        values["without"] = tuple(orjson.loads(values["without"]))
        return Decision(**values)

    def decisions(self, limit: int = 50) -> pd.DataFrame:
        """Newest first: all columns; `without` is JSON text, the times are UTC."""
        statement = select(DECISION).order_by(DECISION.c.id.desc()).limit(limit)
        with self._db.read() as connection:
            return rows_frame(connection, statement, times=("at", "expires_at"))


def _sound(decision: str, *, actor: str, reason: str, without: Sequence[str], via: str) -> list[str]:
    # → the kinds to leave out. A misspelt one would let through what the person meant to keep out.
    known(decision, tuple(BECOMES), "decision")
    known(via, VIA, "way to decide")
    for value, what in ((actor, "name of who decides"), (reason, "reason")):
        if not value:
            raise ConfigurationError(f"A decision needs a {what}: give one.")
    for kind in without:
        known(kind, tuple(Kind), "kind of operation")
    if bool(without) != (decision == "approve_without"):
        raise ConfigurationError(
            f"The decision {decision!r} leaves out {len(without)} kinds of operation: approve_without needs "
            "at least one, the others none."
        )
    return [str(kind) for kind in dict.fromkeys(without)]
