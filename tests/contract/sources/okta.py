"""Okta in the contract suite. It tells no totals."""

from __future__ import annotations

from deployments.sandbox import okta
from tests.contract.sources import Case

CASE = Case(
    "okta",
    users=r"/api/v1/users$",
    groups=r"/api/v1/groups$",
    members=r"/api/v1/groups/[^/]+/users$",
    settings={"page_size": 10},
    narrow={"app": okta.APP},
    never=((), (okta.EVERYONE,)),
    links=frozenset({"users", "groups", "members"}),
)
