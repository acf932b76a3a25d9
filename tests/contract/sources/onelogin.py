"""OneLogin in the contract suite."""

from __future__ import annotations

from deployments.sandbox import onelogin
from tests.contract.sources import Case

CASE = Case(
    "onelogin",
    users=r"/api/2/users$",
    groups=r"/api/2/roles$",
    members=r"/api/2/roles/\d+/users$",
    settings={"page_size": 10, "role_page_size": 5},
    narrow={"app": onelogin.APP},
    narrow_options={"scope": "Read All"},
    by_number=True,
    counted=frozenset({"users", "groups", "members"}),
)
