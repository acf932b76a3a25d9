"""Oracle IDCS and OCI identity domains, members in filtered lists of groups, or where these fail group by group."""

from deployments.sandbox import idcs
from deployments.sandbox.organisation import ENTERPRISE_SCHEMA
from tests.support.source_case import Case

_DEPARTMENT = f"{ENTERPRISE_SCHEMA}:department"
_STATUS = f"{idcs.USER_EXTENSION}:status"
_ABOUT = f"{idcs.GROUP_EXTENSION}:description"

CASE = Case(
    kind="idcs",
    users=r"/admin/v1/Users$",
    groups=r"/admin/v1/Groups(/[^/]+)?$",
    members="",
    settings={"page_size": 10, "groups_at_once": 4},
    never=((idcs.SERVICE_USER, idcs.LEAVING_USER), (idcs.LEAVING_GROUP,)),
    counted=frozenset({"users", "groups"}),
    title="userName",
    fields={
        "email": "emails",
        "first_name": "name.givenName",
        "last_name": "name.familyName",
        "display_name": "displayName",
    },
    off=({"active": False},),
    one=r"/admin/v1/Users$",
    delta=r"/admin/v1/Users$",
    attributes=("title", "addresses.locality", _DEPARTMENT, _STATUS, _ABOUT),
)
