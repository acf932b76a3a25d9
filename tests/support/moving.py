"""A company in Crowd that belongs to another source, and who owns what there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd

from connectors.model import ID_ATTRIBUTE
from connectors.store import Store
from deployments.sandbox.organisation import organisation
from tests.support.place import Place

OTHER = "okta"


def company(**changed: Any) -> dict[str, Any]:
    """What Crowd holds that is in step with the same company under another source, whose ids are others.

    `changed`: of the users at these places (u0, u1, …), one field and its value."""
    content: dict[str, Any] = organisation(users=40, groups=6, memberships=90).crowd_load(OTHER)
    for record in (*content["users"], *content["groups"]):
        record[-1] = {ID_ATTRIBUTE: [mark.replace(":", ":00") for mark in record[-1][ID_ATTRIBUTE]]}
    for place_, (field, value) in changed.items():
        content["users"][int(place_[1:])][field] = value
    return content


def linked(store: Store, content: dict[str, Any], every: int = 1) -> None:
    """Links of the other source, for every so many of its records; the others have their marks alone."""
    rows = [
        (OTHER, kind, record[-1][ID_ATTRIBUTE][0].partition(":")[2], record[0], "created")
        for kind in ("user", "group")
        for record in content[f"{kind}s"][::every]
        if record[-1]
    ]
    store.save_links(
        "crowd",
        pd.DataFrame(rows, columns=["source", "kind", "id", "name", "how"], dtype="str"),
        at=datetime.now(UTC),
        run="r",
    )


def owners_in(place: Place, store: Store) -> tuple[dict[Any, str], dict[Any, str]]:
    """(kind, name) → the owner, by mark and by link."""
    state = place.crowd.state()
    marks = {
        (kind, record["name"]): record["attributes"].get(ID_ATTRIBUTE, [""])[0]
        for kind in ("user", "group")
        for record in state[f"{kind}s"]
    }
    links = store.links("crowd").to_dict("records")
    return marks, {(row["kind"], row["name"]): f"{row['source']}:{row['id']}" for row in links}
