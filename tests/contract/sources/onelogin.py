"""OneLogin in the contract suite."""

from __future__ import annotations

from deployments.sandbox import onelogin
from tests.support.source_case import Case

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
    title="username",
    fields={"email": "email", "first_name": "firstname", "last_name": "lastname"},
    off=({"status": 2}, {"status": 0, "state": 9}),
    one=r"/api/2/users(/\d+)?$",
    delta=r"/api/2/users$",
    attributes=("title", "custom_attributes.location", "manager_user_id", "group_id"),
    others=({"groups": "groups"}, {"username": "email"}),
)
