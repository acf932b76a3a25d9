"""Any SCIM 2.0 server, members in the list of groups."""

from deployments.sandbox.organisation import ENTERPRISE_SCHEMA
from tests.support.source_case import Case

_DEPARTMENT = f"{ENTERPRISE_SCHEMA}:department"

CASE = Case(
    kind="scim",
    users=r"/v2/Users$",
    groups=r"/v2/Groups$",
    members="",
    settings={"page_size": 10},
    options={"user_page": 10, "group_page": 5},
    counted=frozenset({"users", "groups"}),
    username=lambda person: person.username,
    title="userName",
    fields={
        "email": "emails",
        "first_name": "name.givenName",
        "last_name": "name.familyName",
        "display_name": "displayName",
    },
    off=({"active": False}, {"active": "False"}),
    one=r"/v2/Users/[^/]+$",
    attributes=("title", "name.formatted", _DEPARTMENT),
    others=({"group_members": "get"},),
)
