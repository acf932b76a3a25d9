"""Oracle IDCS and OCI identity domains, members in filtered lists of groups, or where these fail group by group."""

from deployments.sandbox import idcs
from tests.support.source_case import Case

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
)
