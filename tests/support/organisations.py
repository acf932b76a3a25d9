"""The whole of a generated company as one digest, and what changes in it on its second day."""

from __future__ import annotations

import hashlib

import orjson

from deployments.sandbox.organisation import (
    Organisation,
)


def content(org: Organisation) -> str:
    everything = [
        org.scim_users(),
        org.scim_groups(),
        org.crowd_load("idp"),
        org.snapshot(["title"]).digest(),
        sorted(org.retired),
    ]
    return hashlib.sha256(orjson.dumps(everything)).hexdigest()


DAY_TWO = {
    "joiners": 9,
    "leavers": 8,
    "disabled": 7,
    "renamed": 6,
    "updated": 5,
    "moved": 4,
    "new_groups": 3,
    "renamed_groups": 2,
}
