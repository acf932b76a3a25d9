"""Plans and their journal: what was to be done, and what became of each operation.

The journal's rule: the intent is on disk before the call is made, the outcome after it. Whatever a crash
leaves as `intended` may or may not have reached Crowd, and has to be read back.

| state | meaning |
|---|---|
| planned | nobody has tried |
| intended | a call may have been made |
| done, already | the condition holds, by our write or before it |
| failed, skipped | it does not hold, and may be tried again |
| undone | it will not be done; settled |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd
from sqlalchemy import Connection, Integer, Select, Table, bindparam, func, select, text, union_all, update

from connectors.errors import ConfigurationError, RecordError, RefusedError
from connectors.model import sizes_only
from connectors.operations import Kind, kinds, was_active
from connectors.spelling import meant
from connectors.store import audit, bulk, leases
from connectors.store import links as link_table
from connectors.store.database import Database
from connectors.store.history import frame_from_text, frame_text, rows_frame, upserting
from connectors.store.leases import Lease
from connectors.store.tables import OperationRow, PlanRow, RunRow, instant

PLAN: Final[Table] = PlanRow.__table__  # type: ignore[attr-defined]
OPERATION: Final[Table] = OperationRow.__table__  # type: ignore[attr-defined]
RUN: Final[Table] = RunRow.__table__  # type: ignore[attr-defined]

PLAN_STATUS: Final = (
    *("planned", "refused", "waiting", "approved", "rejected"),
    *("applying", "applied", "failed", "interrupted", "superseded"),
)
STATES: Final = ("planned", "intended", "done", "already", "failed", "skipped", "undone")
SETTLED: Final = ("done", "already", "undone")
"""No further call may be made for an operation in one of these states."""

# Written out, as the partial indexes are: of what is a parameter, a database does not see that they hold it.
_FINISHED: Final = text("finished_at <> ''")
_UNFINISHED: Final = text("status IN ('applying', 'interrupted')")
_EVERYBODY: Final = text("about = ''")
_RUNNING: Final = text("status = 'running'")
_SYNC: Final = text("mode = 'sync'")
_PASSED: Final = text("""summary LIKE '%"passed":[%'""")

OPERATIONS: Final = {
    "seq": "int",
    "phase": "int",
    "kind": "text",
    "name": "text",
    "target": "text",
    "source_id": "text",
    "record": "text",
    "before": "text",
    "reason": "text",
}
JOURNAL: Final = {
    "state": "text",
    "note": "text",
    "attempts": "int",
    "intended_at": "text",
    "finished_at": "text",
}


@sizes_only
@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan's row, without its operations. `policy` is JSON text, `held` a frame; `about` is "" (everybody),
    person:ID, group:NAME, or link:… and links:… where people change ownership by hand (`policy` says who and why).
    `asks`: what a person must agree to, as JSON text (`tasks.decide.agreement`); "" where that is nothing, or where an
    earlier version stored the plan."""

    id: int
    run: str
    source: str
    directory: str
    digest: str
    source_snapshot: int
    directory_snapshot: int
    policy: str
    held: pd.DataFrame
    created_at: datetime
    status: str
    status_at: datetime
    about: str
    asks: str = ""


# Statements that every batch repeats are made once: that takes longer than what they do.

_THERE: Final = (PLAN.c.directory == bindparam("directory")) & (PLAN.c.source == bindparam("source"))
_ABOUT_EVERYBODY: Final = select(PLAN.c.id, PLAN.c.status).where(_THERE, _EVERYBODY).order_by(PLAN.c.id.desc()).limit(1)
_UNFINISHED_OF: Final = (
    select(PLAN.c.id).where(PLAN.c.directory == bindparam("directory"), _UNFINISHED).order_by(PLAN.c.id)
)
_DIRECTORY_OF: Final = select(PLAN.c.directory).where(PLAN.c.id == bindparam("plan"))
_OUTCOMES: Final = (
    select(OPERATION.c.state, func.count())
    .where(OPERATION.c.plan_id == bindparam("plan"))
    .group_by(OPERATION.c.state)
    .order_by(func.count().desc())
)
_APPLIED: Final = (
    select(PLAN.c.id)
    .where(_THERE, PLAN.c.status == "applied")
    .where(_EVERYBODY)
    .order_by(PLAN.c.id.desc())
    .limit(bindparam("limit", type_=Integer))
    .subquery()
)
_PAST_COUNTS: Final = (
    select(_APPLIED.c.id, OPERATION.c.kind, func.count())
    .join_from(_APPLIED, OPERATION, OPERATION.c.plan_id == _APPLIED.c.id, isouter=True)
    .group_by(_APPLIED.c.id, OPERATION.c.kind)
    .order_by(_APPLIED.c.id.desc())
)
_PASSED_LIMITS: Final = (
    select(RUN.c.summary, RUN.c.finished_at)
    .where(RUN.c.finished_at >= bindparam("since"))
    .where(RUN.c.source == bindparam("source"), RUN.c.directory == bindparam("directory"), _PASSED)
    .order_by(RUN.c.finished_at)
)
_LATELY: Final = OPERATION.c.finished_at >= bindparam("since")
_MADE_COLUMNS: Final = ("kind", "name", "target", "source_id", "finished_at")
_DONE: Final = (
    select(*(OPERATION.c[n] for n in _MADE_COLUMNS))
    .join_from(OPERATION, PLAN, OPERATION.c.plan_id == PLAN.c.id)
    .where(_THERE, _FINISHED, _LATELY, OPERATION.c.state == "done")
)
_CREATED: Final = _DONE.where(OPERATION.c.kind == Kind.USER_CREATE).limit(1)
_MADE: Final = _DONE.where(OPERATION.c.kind.in_([Kind.USER_CREATE, Kind.MEMBERSHIP_ADD])).limit(
    bindparam("most", type_=Integer)
)
_RENAMED: Final = _DONE.where(OPERATION.c.kind == Kind.USER_RENAME).order_by(
    OPERATION.c.finished_at, OPERATION.c.plan_id, OPERATION.c.seq
)
_OF_PLAN: Final = OPERATION.c.plan_id == bindparam("plan", type_=Integer)
_BY_ID: Final = OPERATION.c.source_id.in_(bindparam("ids", expanding=True))
_OPERATIONS_ABOUT: Final = (
    select(*(OPERATION.c[n] for n in OPERATIONS))
    .where(_OF_PLAN)
    .where(
        _BY_ID
        | OPERATION.c.name.in_(bindparam("names", expanding=True))
        | OPERATION.c.name.in_(select(OPERATION.c.name).where(_OF_PLAN, _BY_ID, OPERATION.c.kind == Kind.USER_CREATE))
        | OPERATION.c.name.in_(select(OPERATION.c.target).where(_OF_PLAN, _BY_ID, OPERATION.c.kind == Kind.USER_RENAME))
    )
    .order_by(OPERATION.c.seq)
)
_REMOVED: Final = ("kind", "name", "target", "source_id", "before", "finished_at", "source")


@cache
def _removals(of_source: bool, pending: bool) -> Select[Any]:
    """As `Journal.removals`: of one source, and of a plan also what is to be done."""
    taken = (
        select(*(OPERATION.c[n] for n in (*_REMOVED[:-1], "plan_id", "seq")), PLAN.c.source)
        .join_from(OPERATION, PLAN, OPERATION.c.plan_id == PLAN.c.id)
        .where(_THERE if of_source else PLAN.c.directory == bindparam("directory"))
        .where(OPERATION.c.kind.in_(kinds(effect="takes")))
    )
    done = taken.where(_FINISHED, _LATELY, OPERATION.c.state.in_(["done", "already"]))
    left = taken.where(OPERATION.c.plan_id == bindparam("plan", type_=Integer), OPERATION.c.state == "planned")
    both = (union_all(done, left) if pending else done).subquery()
    return select(*(both.c[n] for n in _REMOVED)).order_by(both.c.finished_at, both.c.plan_id, both.c.seq)


@cache
def _nothing(texts: tuple[str, ...], bools: tuple[str, ...] = ()) -> pd.DataFrame:
    """No rows of these columns, and of times in `at`."""
    types = {**dict.fromkeys(texts, "str"), **dict.fromkeys(bools, "bool"), "at": "datetime64[us, UTC]"}
    return pd.DataFrame({name: pd.Series([], dtype=type_) for name, type_ in types.items()})


class Journal:
    """Plans, operations and runs."""

    _db: Database

    def save_plan(
        self,
        *,
        run: str,
        source: str,
        directory: str,
        digest: str,
        source_snapshot: int,
        directory_snapshot: int,
        policy: str,
        operations: pd.DataFrame,
        held: pd.DataFrame,
        at: datetime,
        status: str = "planned",
        about: str = "",
        asks: str = "",
    ) -> int:
        """Save a plan with its operations in state planned, and return its id.

        `operations`: seq, phase (integers), kind, name, target, source_id, record and before (JSON text
        or ""), reason; `seq` is unique. Text columns may be categorical.
        """
        known(status, PLAN_STATUS, "plan status")
        seq = operations["seq"]
        if not seq.is_monotonic_increasing:
            operations = operations.sort_values("seq")
            seq = operations["seq"]
        if not seq.is_unique:
            raise RecordError(f"Operation {seq[seq.duplicated()].iloc[0]} stands twice in the plan of run {run}.")
        with self._db.write() as connection:
            result = connection.execute(
                PLAN.insert().values(
                    run=run,
                    source=source,
                    directory=directory,
                    digest=digest,
                    source_snapshot=int(source_snapshot),
                    directory_snapshot=int(directory_snapshot),
                    policy=policy,
                    held=frame_text(held),
                    created_at=instant(at),
                    status=status,
                    status_at=instant(at),
                    about=about,
                    asks=bulk.plain(asks),
                )
            )
            plan_id = int(result.inserted_primary_key[0])  # type: ignore[index]
            columns: dict[str, Any] = {"plan_id": plan_id}
            for name, type_ in OPERATIONS.items():
                column = operations[name]
                columns[name] = column.to_numpy(dtype="int64") if type_ == "int" else column
            columns |= {"state": "planned", "note": "", "attempts": 0, "intended_at": "", "finished_at": ""}
            bulk.insert(connection, OPERATION, columns, len(operations))
        return plan_id

    def load_plan(self, plan_id: int) -> SavedPlan:
        """The plan without its operations. Raises `RecordError` for an unknown id."""
        with self._db.read() as connection:
            row = connection.execute(select(PLAN).where(PLAN.c.id == plan_id)).mappings().first()
        if row is None:
            raise RecordError(f"There is no plan {plan_id}; `crowdsync plans` lists them.")
        values = dict(row)
        for name in ("created_at", "status_at"):
            values[name] = datetime.fromisoformat(values[name])
        values["held"] = frame_from_text(values["held"])
        return SavedPlan(**values)

    def asked_plan(self, source: str, directory: str, *, run: str = "") -> SavedPlan | None:
        """The newest plan about everybody, or of this run, that waits for agreement, or has it and was not begun; None
        where none is."""
        statement = (
            select(PLAN.c.id)
            .where(PLAN.c.source == source, PLAN.c.directory == directory, PLAN.c.status.in_(["waiting", "approved"]))
            .where(PLAN.c.run == run if run else _EVERYBODY)
            .order_by(PLAN.c.id.desc())
            .limit(1)
        )
        with self._db.read() as connection:
            found = connection.execute(statement).scalar()
        return None if found is None else self.load_plan(int(found))

    def stopped_plan(self, source: str, directory: str) -> SavedPlan | None:
        """The newest plan about everybody, where nobody has begun to carry it out though it is not out of date: it
        waits for agreement, has it, was turned down or refused, or is a preview; else None."""
        with self._db.read() as connection:
            found = connection.execute(_ABOUT_EVERYBODY, {"source": source, "directory": directory}).first()
        stopped = found is not None and found.status in ("planned", "refused", "waiting", "approved", "rejected")
        return self.load_plan(int(found.id)) if found is not None and stopped else None

    def operations(
        self,
        plan_id: int,
        *,
        states: Collection[str] | None = None,
        first: int | None = None,
        last: int | None = None,
        of: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """The plan's operations with state, note, attempts, intended_at and finished_at, by seq.

        `first` and `last` bound the seq, both included; `of`: their kinds. The two times are UTC, NaT where there was
        none.
        """
        columns = OPERATIONS | JOURNAL
        statement: Select[Any] = (
            select(*(OPERATION.c[n] for n in columns)).where(OPERATION.c.plan_id == plan_id).order_by(OPERATION.c.seq)
        )
        if states is not None:
            statement = statement.where(OPERATION.c.state.in_(sorted(states)))
        if first is not None:
            statement = statement.where(OPERATION.c.seq >= first)
        if last is not None:
            statement = statement.where(OPERATION.c.seq <= last)
        if of is not None:
            statement = statement.where(OPERATION.c.kind.in_(sorted(of)))
        with self._db.read() as connection:
            frame = bulk.read_frame(connection, statement, columns)
        for name in ("intended_at", "finished_at"):
            frame[name] = bulk.times(frame[name])
        return frame

    def operations_about(self, plan_id: int, names: Collection[str], ids: Collection[str]) -> pd.DataFrame:
        """The plan's operations about people with these ids in the source, also under a name that they get by it, and
        about accounts and groups with these names, by seq, in the columns of `OPERATIONS`."""
        given = {"plan": plan_id, "names": bulk.askable(names), "ids": bulk.askable(ids)}
        with self._db.read() as connection:
            return bulk.read_frame(connection, _OPERATIONS_ABOUT, OPERATIONS, given)

    def renamed_since(self, source: str, directory: str, since: datetime) -> pd.DataFrame:
        """The accounts that plans of a source renamed since then, oldest first: name, target, source_id."""
        given = {"directory": directory, "source": source, "since": instant(since)}
        with self._db.read() as connection:
            frame = bulk.read_frame(connection, _RENAMED, dict.fromkeys(_MADE_COLUMNS, "text"), given)
        return frame[["name", "target", "source_id"]]

    def outcomes(self, plan_id: int) -> dict[str, int]:
        """How many operations of a plan are in each state, as far as any is."""
        with self._db.read() as connection:
            found = connection.execute(_OUTCOMES, {"plan": plan_id})
            return {str(state): int(count) for state, count in found}

    def plans(self, limit: int = 50, directory: str | None = None) -> pd.DataFrame:
        """Newest first: the plans, without policy and held, and a count for each operation state."""
        columns = [c for c in PLAN.c if c.name not in ("policy", "held", "asks")]
        statement = select(*columns).order_by(PLAN.c.id.desc()).limit(limit)
        if directory is not None:
            statement = statement.where(PLAN.c.directory == directory)
        with self._db.read() as connection:
            frame = rows_frame(connection, statement, times=("created_at", "status_at"))
            counted = connection.execute(
                select(OPERATION.c.plan_id, OPERATION.c.state, func.count())
                .where(OPERATION.c.plan_id.in_(frame["id"].tolist()))
                .group_by(OPERATION.c.plan_id, OPERATION.c.state)
            )
            counts = {(plan_id, state): n for plan_id, state, n in counted}
        for state in STATES:
            frame[state] = pd.array([counts.get((i, state), 0) for i in frame["id"].tolist()], dtype="int64")
        return frame

    def plans_overtaken(self, plans: Collection[int]) -> dict[int, int]:
        """Those of these plans that nobody has begun and that cannot be true any more, each with the newest other one
        that shows it: one that was carried out in the directory since, or one made later of the same that differs."""
        other = PLAN.alias()
        begun = other.c.status.in_(["applying", "applied", "failed", "interrupted"])
        differs = (other.c.id > PLAN.c.id) & (other.c.source == PLAN.c.source) & (other.c.about == PLAN.c.about)
        statement = (
            select(PLAN.c.id, func.max(other.c.id))
            .join_from(PLAN, other, (other.c.directory == PLAN.c.directory) & (other.c.id != PLAN.c.id))
            .where(PLAN.c.id.in_([int(one) for one in plans]), PLAN.c.status == "planned")
            .where((begun & (other.c.status_at > PLAN.c.created_at)) | (differs & (other.c.digest != PLAN.c.digest)))
            .group_by(PLAN.c.id)
        )
        with self._db.read() as connection:
            return {int(plan): int(by) for plan, by in connection.execute(statement)}

    def past_counts(self, source: str, directory: str, limit: int = 20) -> pd.DataFrame:
        """How many operations of each kind the plans about everybody that were applied had, newest first.

        `plan` and a column for each kind that occurs among them, all integers.
        """
        plans: dict[int, dict[str, int]] = {}
        with self._db.read() as connection:
            given = {"source": source, "directory": directory, "limit": limit}
            for plan_id, kind, n in connection.execute(_PAST_COUNTS, given):
                plan = plans.setdefault(plan_id, {})
                if kind is not None:  # the plan has no operations
                    plan[kind] = n
        had = sorted({kind for plan in plans.values() for kind in plan})
        columns = {kind: [plan.get(kind, 0) for plan in plans.values()] for kind in had}
        return pd.DataFrame({"plan": list(plans)} | columns, dtype="int64")

    def removals(
        self, source: str | None, directory: str, since: datetime, *, pending: int | None = None
    ) -> pd.DataFrame:
        """What any plan of a source (None: of any) has taken away since then, oldest first: kind, name, target,
        source_id, source, active (whether the account could log in before), at (UTC). Of every run and mode, about
        everybody or one; what came about without us while we were to do it ("already") counts too. `pending`: a plan
        of which also counts, as of now, what is still to be done."""
        statement = _removals(source is not None, bool(pending))
        given = {"directory": directory, "since": instant(since), "source": source, "plan": pending}
        given = {name: value for name, value in given.items() if value is not None}
        with self._db.read() as connection:
            frame = bulk.read_frame(connection, statement, dict.fromkeys(_REMOVED, "text"), given)
        if frame.empty:
            return _nothing(("kind", "name", "target", "source_id", "source"), ("active",)).copy(deep=False)
        active = np.array([was_active(one) for one in frame["before"].tolist()], dtype=bool)
        at = bulk.times(frame["finished_at"])
        at = at.fillna(pd.Timestamp.now("UTC")) if pending else at
        return frame.drop(columns=["before", "finished_at"]).assign(active=active, at=at)

    def made_since(self, source: str, directory: str, since: datetime, most: int) -> pd.DataFrame:
        """The accounts that plans of a source made since then, and what these were added to, oldest first: kind
        (user_create, membership_add), name, target, source_id, at (UTC). What was so already was not made. Nothing,
        where no account was made, or where that is more than `most`."""
        given = {"directory": directory, "source": source, "since": instant(since)}
        frame = pd.DataFrame()
        with self._db.read() as connection:
            if connection.execute(_CREATED, given).first() is not None:
                frame = bulk.read_frame(
                    connection, _MADE, dict.fromkeys(_MADE_COLUMNS, "text"), {**given, "most": most + 1}
                )
        if frame.empty or len(frame) > most:
            return _nothing(("kind", "name", "target", "source_id")).copy(deep=False)
        frame = frame.sort_values("finished_at", ignore_index=True)
        return frame.drop(columns="finished_at").assign(at=bulk.times(frame["finished_at"]))

    def passed_limits(self, source: str, directory: str, since: datetime) -> dict[str, datetime]:
        """The limits of the policy that a person let a plan go past since then, by agreement or by force, each with
        when that was last."""
        given = {"source": source, "directory": directory, "since": instant(since)}
        with self._db.read() as connection:
            found = connection.execute(_PASSED_LIMITS, given).all()
        return {
            str(limit): datetime.fromisoformat(at) for summary, at in found for limit in orjson.loads(summary)["passed"]
        }

    def set_plan_status(
        self,
        plan_id: int,
        status: str,
        *,
        at: datetime,
        expected: Collection[str] | None = None,
        fence: Lease | None = None,
    ) -> None:
        """Set the plan's status. Raises `RecordError` for an unknown plan.

        With `expected`, only from one of these: a plan that two processes reach for goes to one of them,
        the other gets a `RefusedError`. With `fence`, only while that lease is the directory's current one,
        else `RefusedError`.
        """
        known(status, PLAN_STATUS, "plan status")
        statement = update(PLAN).where(PLAN.c.id == plan_id).values(status=status, status_at=instant(at))
        if expected is not None:
            statement = statement.where(PLAN.c.status.in_(sorted(expected)))
        with self._db.write() as connection:
            if fence is not None:
                _fenced(connection, plan_id, fence)
            if connection.execute(statement).rowcount == 0:
                found = connection.execute(select(PLAN.c.status).where(PLAN.c.id == plan_id)).scalar()
                if found is None:
                    raise RecordError(f"There is no plan {plan_id}; `crowdsync plans` lists them.")
                raise RefusedError(
                    f"Plan {plan_id} is {found} and cannot become {status}: somebody else moved it on; "
                    "look at it again."
                )

    def unfinished_plans(self, directory: str) -> list[int]:
        """Plans of the directory whose application began and did not end, oldest first."""
        with self._db.read() as connection:
            return [int(i) for i in connection.execute(_UNFINISHED_OF, {"directory": directory}).scalars()]

    def intend(self, plan_id: int, seqs: Sequence[int], *, at: datetime, fence: Lease | None = None) -> None:
        """Write down, before any call, that these operations are about to be tried; counts the attempt.

        Raises, and writes nothing: `RecordError` for an operation that the plan does not have,
        `RefusedError` for one that is settled, because it would be done a second time, and where `fence` is
        not the directory's current lease. Outcomes know no fence: what was done is written down by anyone.
        """
        wanted = sorted({int(seq) for seq in seqs})
        if not wanted:
            return
        with self._db.write() as connection:
            if fence is not None:
                _fenced(connection, plan_id, fence)
            touched = _each(
                connection,
                "UPDATE operation SET state = 'intended', attempts = attempts + 1, intended_at = {at} "  # noqa: S608
                f"WHERE plan_id = {{plan}} AND seq = {{seq}} AND state NOT IN {SETTLED!r}",
                ("at", "plan", "seq"),
                ("text", "int", "int"),
                [(instant(at), plan_id, seq) for seq in wanted],
            )
            if touched != len(wanted):
                settled = _of(connection, plan_id, wanted, SETTLED)
                if settled:
                    raise RefusedError(
                        f"Operation {settled[0]} of plan {plan_id} is settled ({len(settled)} of "
                        f"{len(wanted)} are): another process is applying this plan; let it finish."
                    )
                raise RecordError(f"Plan {plan_id} lacks {len(wanted) - touched} of {len(wanted)} operations.")

    def record(
        self,
        plan_id: int,
        outcomes: Sequence[tuple[int, str, str]],
        *,
        at: datetime,
        links: pd.DataFrame | None = None,
        dropped: pd.DataFrame | None = None,
        directory: str = "",
        run: str = "",
        actor: str = "crowdsync",
        audited: Mapping[str, Any] | None = None,
        fence: Lease | None = None,
    ) -> None:
        """Write down outcomes (seq, state, note) and the link changes that they caused, or none of it.

        Links are dropped before others are made. `actor` is who had it done; `audited` (event, actor, subject,
        details) is a row of the audit chain that is true with it. With `fence`, which is for links that no outcome
        brought about, only while that lease is the current one. Raises `RecordError` for an unknown operation or a link
        conflict.
        """
        for state in {state for _, state, _ in outcomes}:
            known(state, STATES, "operation state")
        if (links is not None or dropped is not None) and not directory:
            raise ConfigurationError("Links belong to a directory: name it.")
        # Rows in the order of their key, so that two writers cannot wait for each other.
        rows = sorted(
            (state, bulk.plain(note), "" if state in ("planned", "intended") else instant(at), plan_id, int(seq))
            for seq, state, note in outcomes
        )
        rows.sort(key=lambda row: row[-1])
        with self._db.write() as connection:
            if fence is not None:
                _fenced(connection, plan_id, fence)
            touched = _each(
                connection,
                "UPDATE operation SET state = {state}, note = {note}, finished_at = {at} "
                "WHERE plan_id = {plan} AND seq = {seq}",
                ("state", "note", "at", "plan", "seq"),
                ("text", "text", "text", "int", "int"),
                rows,
            )
            if touched != len(rows):
                raise RecordError(f"Plan {plan_id} lacks {len(rows) - touched} of {len(rows)} operations.")
            if dropped is not None:
                link_table.drop(self._db, connection, directory, dropped, at=at, run=run, actor=actor)
            if links is not None:
                link_table.save(self._db, connection, directory, links, at=at, run=run, actor=actor)
            if audited is not None:
                audit.append(self._db, connection, **audited, at=at)

    # Runs

    def start_run(
        self,
        *,
        run: str,
        source: str,
        directory: str,
        mode: str,
        flow_run_id: str = "",
        process: str = "",
        at: datetime,
    ) -> None:
        """Note that a run began, in which `process`. A run that is started again (a retried flow) keeps its first
        row."""
        with self._db.write() as connection:
            connection.execute(
                upserting(connection, RUN)
                .values(
                    run=run,
                    source=source,
                    directory=directory,
                    mode=mode,
                    flow_run_id=flow_run_id,
                    status="running",
                    started_at=instant(at),
                    finished_at="",
                    summary="{}",
                    process=process,
                )
                .on_conflict_do_update(
                    index_elements=["run"], set_={"status": "running", "finished_at": "", "process": process}
                )
            )

    def finish_run(self, run: str, *, status: str, summary: Mapping[str, Any], at: datetime, **more: str) -> None:
        """Note how a run ended; `summary` must be JSON. It is also a row in the audit chain, whose details have `more`.
        Raises `RecordError` for an unknown run."""
        values = {
            "status": status,
            "finished_at": instant(at),
            "summary": orjson.dumps(summary, option=orjson.OPT_SORT_KEYS).decode(),
        }
        with self._db.write() as connection:
            if connection.execute(update(RUN).where(RUN.c.run == run).values(**values)).rowcount == 0:
                raise RecordError(f"There is no run {run!r}.")
            self._audit_run(connection, run, {"status": status, **more, **summary}, at)

    def running(self) -> dict[str, str]:
        """The runs that are not noted to have ended, each with its process."""
        with self._db.read() as connection:
            found = connection.execute(select(RUN.c.run, RUN.c.process).where(_RUNNING))
            return {row.run: row.process for row in found}

    def interrupt_run(self, run: str, process: str, *, why: str, at: datetime) -> bool:
        """Note that a run ended with its process, without a word; whether it was still noted as running there. It
        is also a row in the audit chain."""
        summary = {"error": why}
        values = {"status": "interrupted", "finished_at": instant(at), "summary": orjson.dumps(summary).decode()}
        statement = update(RUN).where(RUN.c.run == run, RUN.c.process == process, RUN.c.status == "running")
        with self._db.write() as connection:
            if connection.execute(statement.values(**values)).rowcount == 0:
                return False
            self._audit_run(connection, run, {"status": "interrupted", **summary}, at)
        return True

    def _audit_run(self, connection: Connection, run: str, details: Mapping[str, Any], at: datetime) -> None:
        audit.append(self._db, connection, event="run", actor="crowdsync", subject=run, details=details, at=at)

    def runs(self, limit: int = 20) -> pd.DataFrame:
        """Newest first; `summary` is JSON text, the times are UTC."""
        statement = select(RUN).order_by(RUN.c.started_at.desc(), RUN.c.run.desc()).limit(limit)
        with self._db.read() as connection:
            return rows_frame(connection, statement, times=("started_at", "finished_at"))

    def last_sync(self, source: str) -> tuple[str, datetime] | None:
        """How the newest run of a source that was to write ended, and when; None where there was none."""
        statement = (
            select(RUN.c.status, RUN.c.finished_at)
            .where(RUN.c.source == source, RUN.c.mode == "sync", RUN.c.finished_at != "")
            .order_by(RUN.c.finished_at.desc())
            .limit(1)
        )
        with self._db.read() as connection:
            row = connection.execute(statement).first()
        return None if row is None else (str(row[0]), datetime.fromisoformat(row[1]))

    def without_page(self, mode: str, directory: str, since: datetime, limit: int) -> pd.DataFrame:
        """A directory's runs of a mode that ended since, and that Prefect does not know: as `runs`, oldest first."""
        statement = (
            select(RUN)
            .where(RUN.c.mode == mode, RUN.c.directory == directory, RUN.c.flow_run_id == "")
            .where(RUN.c.finished_at >= instant(since))
            .order_by(RUN.c.finished_at)
            .limit(limit)
        )
        with self._db.read() as connection:
            return rows_frame(connection, statement, times=("started_at", "finished_at"))

    def asked_about(self, run: str) -> int | None:
        """The plan about which a run asked a person before it was suspended. Raises `RecordError` if unknown."""
        return _asked(self.run(run)["summary"])

    def runs_asking(self, source: str, directory: str, plan_id: int) -> dict[str, str]:
        """The runs of a source that asked a person about this plan and were suspended, and not resumed, each with its
        flow run; the latest first."""
        statement = (
            select(RUN.c.run, RUN.c.flow_run_id, RUN.c.summary)
            .where(RUN.c.source == source, RUN.c.directory == directory, RUN.c.status == "waiting", _SYNC)
            .where(RUN.c.finished_at != "")
            .order_by(RUN.c.finished_at.desc())
            .limit(100)
        )
        with self._db.read() as connection:
            found = connection.execute(statement).all()
        return {one.run: one.flow_run_id for one in found if _asked(orjson.loads(one.summary)) == plan_id}

    def set_page(self, run: str, flow_run_id: str) -> None:
        """Note which flow run of Prefect shows a run."""
        with self._db.write() as connection:
            connection.execute(update(RUN).where(RUN.c.run == run).values(flow_run_id=flow_run_id))

    def run(self, run: str) -> dict[str, Any]:
        """One run; `summary` is a dict, the times datetimes or None. Raises `RecordError` if unknown."""
        with self._db.read() as connection:
            row = connection.execute(select(RUN).where(RUN.c.run == run)).mappings().first()
        if row is None:
            raise RecordError(f"There is no run {run!r}.")
        values = dict(row)
        for name in ("started_at", "finished_at"):
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        values["summary"] = orjson.loads(values["summary"])
        return values


def known(value: str, allowed: Sequence[str], what: str) -> None:
    """Raises `ConfigurationError` for a value that is not among `allowed`."""
    if value not in allowed:
        like = meant(value, allowed) or "."
        raise ConfigurationError(f"{value!r} is no {what}; there are {', '.join(allowed)}{like}")


def _fenced(connection: Connection, plan_id: int, fence: Lease) -> None:
    directory = connection.execute(_DIRECTORY_OF, {"plan": plan_id}).scalar()
    if directory is None:
        raise RecordError(f"There is no plan {plan_id}; `crowdsync plans` lists them.")
    if directory != fence.directory:
        raise RefusedError(
            f"Plan {plan_id} writes to directory {directory!r}, and the lease is for {fence.directory!r}: "
            "take the lease of the plan's directory."
        )
    leases.hold(connection, fence)


def _of(connection: Connection, plan_id: int, seqs: Sequence[int], states: Sequence[str]) -> list[int]:
    found = connection.execute(
        select(OPERATION.c.seq).where(
            OPERATION.c.plan_id == plan_id, OPERATION.c.seq.in_(seqs), OPERATION.c.state.in_(states)
        )
    )
    return sorted(int(seq) for seq in found.scalars())


def _each(
    connection: Connection,
    sql: str,
    names: Sequence[str],
    types: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> int:
    """Run an UPDATE of one row for each of `rows` → how many rows it changed in all.

    `sql` names its values as {name}: marks in SQLite's executemany, columns of one joined list of values
    in PostgreSQL, where a statement per row would be a round trip per row.
    """
    raw: Any = connection.connection.dbapi_connection
    if not rows:
        return 0
    if connection.dialect.name == "sqlite":
        return int(raw.executemany(sql.format(**dict.fromkeys(names, "?")), rows).rowcount)
    statement, condition = sql.format(**{n: f"v.{n}_" for n in names}).split(" WHERE ")
    arrays = ", ".join(f"%s::{'bigint' if t == 'int' else 'text'}[]" for t in types)
    listed = ", ".join(f"{n}_" for n in names)
    joined = f"{statement} FROM unnest({arrays}) AS v ({listed}) WHERE {condition}"
    with raw.cursor() as cursor:
        cursor.execute(joined, [list(column) for column in zip(*rows, strict=True)])
        return int(cursor.rowcount)


def _asked(summary: Mapping[str, Any]) -> int | None:
    """The plan about which a run asked, by its summary: that of a run that came to its end has a status."""
    return None if "status" in summary else summary.get("plan")
