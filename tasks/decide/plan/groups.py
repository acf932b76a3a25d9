"""What changes about groups that are there, which are deleted, and which are created."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import ID_ATTRIBUTE, crowd_id, sizes_only
from connectors.operations import Kind
from tasks.decide.names import among, clashes, crowd_ids
from tasks.decide.plan.attributes import attribute_changes
from tasks.decide.plan.inputs import PlanInputs, alike, different, held_row, taken_by
from tasks.decide.plan.privileged import closed_groups, nestings_now
from tasks.decide.plan.rows import DIFFERS, HeldRow, StepResult, Withheld, frame, json, nothing, together
from tasks.policy import matches


@sizes_only
@dataclass(frozen=True, slots=True)
class ChangedGroups:
    """By Crowd group (bool): `orphaned`, ours and in scope no more; `deleted`, such of them as the plan deletes."""

    step: StepResult
    orphaned: np.ndarray
    deleted: np.ndarray


def change_groups(inputs: PlanInputs) -> ChangedGroups:
    """Ownership marks, descriptions, and groups that go."""
    at = np.where(inputs.own_groups, inputs.group_at, -1)
    groups = inputs.groups.assign(mark=inputs.name + ":" + inputs.groups["id"])
    _, wanted, now = different(groups, inputs.directory_groups, at, inputs.frozen_groups, ("description", "mark"))
    orphaned = _orphaned(inputs)
    deleted, held = _deleted(inputs, orphaned)
    if not len(wanted) and not deleted.any():
        return ChangedGroups(StepResult(nothing(), tuple(held)), orphaned, deleted)
    wanted = wanted.assign(attributes=now["attributes"])  # groups carry no mapped attributes
    marks = attribute_changes(inputs, Kind.GROUP_ATTRIBUTES, wanted, now, now["name"])
    parts = [marks.operations, _descriptions(wanted, now), _deletions(inputs, deleted)]
    operations = together([part for part in parts if part is not None])
    deleted &= inputs.policy.operations.allows(Kind.GROUP_DELETE)
    return ChangedGroups(StepResult(operations, tuple(held), marks.withheld), orphaned, deleted)


def _descriptions(wanted: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame | None:
    """Desired groups and their Crowd groups → the descriptions that change."""
    differs = ((wanted["description"] != now["description"]) & (wanted["description"] != "")).to_numpy()
    if not differs.any():
        return None
    changed = wanted[differs]
    return frame(
        Kind.GROUP_UPDATE,
        now["name"][differs],
        source_id=changed["id"],
        record=[json({"description": d}) for d in changed["description"]],
        before=[json({"description": d}) for d in now["description"][differs]],
        reason=[DIFFERS] * len(changed),
    )


def _orphaned(inputs: PlanInputs) -> np.ndarray:
    """Crowd groups that we own and whose group is gone or out of scope: bool."""
    owner = inputs.directory_groups["owner"]
    orphaned = (
        (owner != "") & ~among(owner, inputs.groups["id"]) & ~among(owner, inputs.held_ids("group"))
    ).to_numpy() & ~inputs.frozen_groups
    # (Gone from the source, and yet wanted: the policy puts everybody into it.)
    orphaned[inputs.group_at[inputs.shared_groups]] = False
    return np.asarray(orphaned, dtype=bool)


def _deleted(inputs: PlanInputs, orphaned: np.ndarray) -> tuple[np.ndarray, list[HeldRow]]:
    """Which Crowd groups the policy would have deleted (bool), and those of them that are held."""
    deleted, held = orphaned & (inputs.policy.leavers.groups == "delete"), list[HeldRow]()
    if deleted.any():
        # Members of a group inside a privileged one have its power: to take it away is not ours.
        groups = inputs.directory_groups
        closed = closed_groups(inputs, groups["name"], *nestings_now(inputs, groups["id"]))
        for i in np.flatnonzero(deleted & closed):
            group = pd.Series({"id": groups["owner"].iloc[i], "name": groups["name"].iloc[i]})
            held.append(held_row(group, "", "to be deleted, but it is inside a privileged group", "group"))
        deleted &= ~closed
    return deleted, held


def _deletions(inputs: PlanInputs, deleted: np.ndarray) -> pd.DataFrame | None:
    if not deleted.any():
        return None
    gone = inputs.directory_groups[deleted]
    there = among(gone["owner"], inputs.source.groups["id"])
    reason = np.where(there, "is out of scope", "is gone from the source")
    return frame(Kind.GROUP_DELETE, gone["name"], source_id=gone["owner"], reason=reason)


@sizes_only
@dataclass(frozen=True, slots=True)
class CreatedGroups:
    """`created`: which desired groups get a new Crowd group (bool)."""

    step: StepResult
    created: np.ndarray


def create_groups(inputs: PlanInputs, deleted: np.ndarray) -> CreatedGroups:
    """Groups that Crowd does not have; held where the name is not to be had, or gives power. `deleted`: the Crowd
    groups that go (bool)."""
    groups, new = inputs.groups, inputs.group_at < 0
    if not new.any():
        return CreatedGroups(StepResult(nothing()), new)
    there = inputs.directory_groups[~deleted]
    protected = matches(groups["name"], inputs.policy.protection.groups)
    closed = (protected | inputs.policy.privileged(groups["name"])).to_numpy()
    taken = among(crowd_ids(groups["name"]), there["id"])
    held: list[HeldRow] = []

    def hold(which: np.ndarray, reason: Callable[[int], str]) -> None:
        held.extend(held_row(groups.iloc[i], "", reason(i), "group") for i in np.flatnonzero(which).tolist())

    hold(new & taken, lambda i: taken_by(inputs, "group", crowd_id(groups["name"].iloc[i]), groups["id"].iloc[i]))
    hold(new & closed & ~taken, lambda _: "is a protected or privileged group that the policy does not name")
    fits = new & ~closed & ~taken
    look = fits.copy()
    if look.any():
        labels = np.full(len(groups), "", dtype=object)
        labels[fits] = clashes(groups["name"][fits], there["name"])
        look = labels != ""
        hold(look, lambda i: alike("group", labels[i]))
    created = fits & ~look
    chosen = groups[created]
    reason = ["is new in scope"] * len(chosen)
    record = [json({"description": d}) for d in chosen["description"]]
    made = frame(Kind.GROUP_CREATE, chosen["name"], source_id=chosen["id"], record=record, reason=reason)
    state = inputs.policy.operations.of(Kind.GROUP_CREATE)
    if state != "on":
        withheld = (Withheld(made, state),) if len(made) else ()
        return CreatedGroups(StepResult(nothing(), tuple(held), withheld), np.zeros(len(groups), dtype=bool))
    marked = frame(
        Kind.GROUP_ATTRIBUTES,
        chosen["name"],
        source_id=chosen["id"],
        record=[json({"attributes": {ID_ATTRIBUTE: [f"{inputs.name}:{i}"]}}) for i in chosen["id"]],
        reason=["marks ownership"] * len(chosen),
    )
    return CreatedGroups(StepResult(together([made, marked]), tuple(held)), created)
