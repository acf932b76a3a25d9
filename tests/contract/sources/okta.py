"""Okta in the contract suite. It tells no totals."""

from __future__ import annotations

from deployments.sandbox import okta
from tests.support.source_case import Case

CASE = Case(
    "okta",
    users=r"/api/v1/users$",
    groups=r"/api/v1/groups$",
    members=r"/api/v1/groups/[^/]+/users$",
    settings={"page_size": 10},
    narrow={"app": okta.APP},
    never=((), (okta.EVERYONE,)),
    links=frozenset({"users", "groups", "members"}),
    title="profile.login",
    fields={
        "email": "profile.email",
        "first_name": "profile.firstName",
        "last_name": "profile.lastName",
        "display_name": "profile.displayName",
    },
    off=({"status": "SUSPENDED"}, {"status": "DEPROVISIONED"}),
    one=r"/api/v1/users/[^/]+$",
    delta=r"/api/v1/users$",
    attributes=("profile.title", "profile.managerId", "profile.tools", "profile.dn", "type.id", "status"),
    others=({"group_types": ("OKTA_GROUP",)}, {"provisioned_active": True, "locked_out_active": False}),
)
