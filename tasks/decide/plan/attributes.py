"""Attributes that differ, of accounts and of groups; among them the ownership marks, which come before all else."""

from __future__ import annotations

import numpy as np
import pandas as pd

from connectors.model import ID_ATTRIBUTE
from connectors.operations import KINDS, MARKS, Kind
from tasks.decide.match import ADOPTED, HANDED_OVER
from tasks.decide.plan.inputs import PlanInputs
from tasks.decide.plan.rows import (
    DIFFERS,
    Row,
    StepResult,
    Withheld,
    attribute_change,
    attributes_record,
    json,
    of_rows,
)


def attribute_changes(
    inputs: PlanInputs, kind: Kind, wanted: pd.DataFrame, now: pd.DataFrame, final: pd.Series
) -> StepResult:
    """Desired records with the mark of each, their Crowd records (row by row), and the names that these have after the
    plan → changes of attributes. Ownership marks are set under the name that the record has now."""
    mark = wanted["mark"].to_numpy(dtype=object)
    unmarked = now["mark"].to_numpy(dtype=object) != mark
    texts = (now["attributes"] != wanted["attributes"]).to_numpy(dtype=bool)
    names = now["username" if kind is Kind.USER_ATTRIBUTES else "name"].where(unmarked, final)
    state = inputs.policy.operations.user_update if kind is Kind.USER_ATTRIBUTES else "on"
    handed = inputs.matched.handed_over
    givers = dict(zip(handed["after"], handed["before"], strict=True))
    rows: list[Row] = []
    phases: list[int] = []
    kept: list[Row] = []
    for i in np.flatnonzero(unmarked | texts):
        name, identity, giver = names.iloc[i], wanted["id"].iloc[i], ""
        change, before = attribute_change(now["attributes"].iloc[i], wanted["attributes"].iloc[i] if texts[i] else "")
        if change and state != "on":
            kept.append(_row(kind, name, identity, attributes_record(change), before, DIFFERS))
            change, before = {}, {}
        reason = DIFFERS
        if unmarked[i]:
            change[ID_ATTRIBUTE] = [mark[i]]
            before[ID_ATTRIBUTE] = [now["mark"].iloc[i]] if now["mark"].iloc[i] else []
            how = wanted["how"].iloc[i]
            reason = _reason(how)
            giver = givers.get(identity, "") if how == HANDED_OVER else ""
        if change:
            row = _row(kind, name, identity, attributes_record(change, giver), before, reason)
            rows.append(row._replace(marks=bool(unmarked[i]) and kind is Kind.USER_ATTRIBUTES))
            phases.append(MARKS if unmarked[i] else KINDS[kind].phase)
    return StepResult(of_rows(rows, phases), (), (Withheld(of_rows(kept), state),) if kept else ())


def _row(kind: Kind, name: str, identity: str, record: str, before: dict[str, list[str]], reason: str) -> Row:
    return Row(kind.value, name, "", identity, record, json({"attributes": before}), reason)


def _reason(how: str) -> str:
    """How the owner of a record was found → why it is marked."""
    if how == HANDED_OVER:
        return f"{HANDED_OVER}: the group that had it is gone from the source"
    return "marks ownership" if how == "link" else f"{ADOPTED}{how}"
