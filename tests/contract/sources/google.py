"""Google Workspace. Only members are counted; so that a nested group that is missing is seen too, all of them."""

from tests.support.source_case import Case

CASE = Case(
    kind="google",
    users=r"/admin/directory/v1/users$",
    groups=r"/admin/directory/v1/groups$",
    members=r"/admin/directory/v1/groups/[^/]+/members$",
    settings={"page_size": 10},
    options={"counts": "all"},
    narrow={"domain": "other.example"},
    narrow_options={"second": 3},
    counted=frozenset({"members"}),
    title="primaryEmail",
    fields={"first_name": "name.givenName", "last_name": "name.familyName", "display_name": "name.fullName"},
    off=({"suspended": True}, {"archived": True}),
    one=r"/admin/directory/v1/users/[^/]+$",
    attributes=(
        "organizations.department",
        "orgUnitPath",
        "customSchemas.Work.badge",
        "customSchemas.Site.name",
        "archived",
    ),
    others=({"group_names": "email"},),
)
