"""Microsoft Entra ID: first pages of members in batches, next ones by links."""

from deployments.sandbox import entra
from tests.support.source_case import Case

CASE = Case(
    kind="entra",
    users=r"/v1\.0/users$",
    groups=r"/v1\.0/groups$",
    members=r"/v1\.0/(\$batch|groups/[^/]+/members)$",
    settings={"page_size": 10},
    options={"guests": 7},
    narrow={"app": entra.APP, "guests": False},
    links=frozenset({"users", "groups", "members"}),
    username=lambda person: entra.upn(person, 7),
    title="userPrincipalName",
    fields={"email": "mail", "first_name": "givenName", "last_name": "surname", "display_name": "displayName"},
    off=({"accountEnabled": False},),
    one=r"/v1\.0/\$batch$",
    delta=r"/v1\.0/users/delta$",
    attributes=("department", "jobTitle", "onPremisesExtensionAttributes.extensionAttribute1", "mail", "mailNickname"),
    others=({"guests": False}, {"username": "mailNickname"}, {"app": entra.APP}),
)
