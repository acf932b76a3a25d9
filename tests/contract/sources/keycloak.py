"""Keycloak. Groups come in one list, and from servers that cannot do that level by level."""

from deployments.sandbox import keycloak
from tests.support.source_case import Case

CASE = Case(
    kind="keycloak",
    users=r"/admin/realms/acme/users$",
    groups=r"/admin/realms/acme/groups(/[^/]+/children)?$",
    members=r"/admin/realms/acme/groups/[^/]+/members$",
    settings={"page_size": 10},
    counted=frozenset({"users", "groups"}),
    never=(keycloak.SERVICE_ACCOUNTS, ()),
    circular=False,
    tree=True,
    username=lambda person: person.username.lower(),
    title="username",
    fields={"email": "email", "first_name": "firstName", "last_name": "lastName"},
    off=({"enabled": False},),
    one=r"/admin/realms/acme/users$",
    attributes=("attributes.department", "attributes.location", "emailVerified"),
    others=({"group_names": "path"},),
)
