"""Reads everything through Oracle's own SDK; run with it on PYTHONPATH.

    python idcs_driver.py URL KEY_FILE OTHER_KEY_FILE

The SDK signs its requests with the key, instead of fetching a token. Prints what it read.
"""

import json
import sys
from typing import Any

import oci
from oci.exceptions import ServiceError
from oci.identity_domains import IdentityDomainsClient
from oci.identity_domains.models import GroupSearchRequest, UserSearchRequest

url, key_file, other_key_file = sys.argv[1:4]
SEARCH = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
USER = "urn_ietf_params_scim_schemas_oracle_idcs_extension_user_user"
STATE = "urn_ietf_params_scim_schemas_oracle_idcs_extension_user_state_user"
ENTERPRISE = "urn_ietf_params_scim_schemas_extension_enterprise2_0_user"
GROUP = "urn_ietf_params_scim_schemas_oracle_idcs_extension_group_group"


def client(file: str) -> Any:
    config = {
        "tenancy": "ocid1.tenancy.oc1..aaaa",
        "user": "ocid1.user.oc1..aaaa",
        "fingerprint": ":".join(["20", "3b"] * 8),
        "key_file": file,
        "region": "us-ashburn-1",
    }
    return IdentityDomainsClient(
        config, service_endpoint=url, retry_strategy=oci.retry.NoneRetryStrategy(),
        circuit_breaker_strategy=oci.circuit_breaker.NoCircuitBreakerStrategy(),
    )  # fmt: skip


def refused(call: Any, *arguments: Any, **named: Any) -> list[Any]:
    try:
        call(*arguments, **named)
    except ServiceError as error:
        return [error.status, error.message]
    raise AssertionError(call)


def paged(call: Any, count: int, **named: Any) -> Any:
    """All pages of a list, and how many: `items_per_page` is what was asked for, not what came."""
    found, pages, start, sizes = [], 0, 1, set()
    while True:
        page = call(start_index=start, count=count, sort_by="id", **named).data
        assert page.start_index == start
        sizes.add(page.items_per_page)
        pages += 1
        found += page.resources
        start += len(page.resources)
        if start > page.total_results:
            assert sizes == {count}
            return found, pages
        assert page.resources


def person(user: Any) -> Any:
    more, state, work = getattr(user, USER), getattr(user, STATE), getattr(user, ENTERPRISE)
    primary = [one.value for one in user.emails or () if one.primary and one.type != "recovery"]
    return {
        "name": user.user_name,
        "names": [user.name.given_name, user.name.family_name] if user.name else None,
        "display": user.display_name,
        "email": primary,
        "types": sorted(one.type for one in user.emails or ()),
        "active": user.active,
        "going": user.delete_in_progress,
        "service": more.service_user if more else None,
        "locked": bool(state and state.locked and state.locked.on),
        "login": state.last_successful_login_date if state else None,
        "department": work.department if work else None,
        "manager": work.manager.value if work and work.manager else None,
        "ocid": user.ocid,
        "groups": user.groups,
    }


found: dict[str, Any] = {}
found["wrong key"] = refused(client(other_key_file).list_users)
one = client(key_file)
users, found["user pages"] = paged(one.list_users, 25)
found["users"] = {user.id: person(user) for user in users}
found["default count"] = len(one.list_users().data.resources)
found["most"] = one.list_users(count=5000).data.items_per_page
found["none"] = one.list_users(count=0).data.total_results
some = one.list_users(attributes="userName,name.givenName", count=3, sort_by="userName").data.resources
found["some"] = [[u.id, u.user_name, u.name.given_name, u.name.family_name, u.active, u.emails] for u in some]
found["descending"] = [u.user_name for u in one.list_users(sort_by="userName", sort_order="DESCENDING").data.resources]
found["request"] = [getattr(getattr(u, USER), "status", None) for u in one.list_users(
    attribute_sets=["default", "request"], count=5, sort_by="id").data.resources]  # fmt: skip
key = users[0].id
found["alone"] = person(one.get_user(key).data)
found["alone by ocid"] = refused(one.get_user, "00000000000000000000000000000000")

groups, found["group pages"] = paged(one.list_groups, 5)
found["groups"] = {
    g.id: [g.display_name, g.non_unique_display_name, getattr(getattr(g, GROUP), "description", None), g.members]
    for g in groups
}
found["going"] = [g.id for g in groups if g.delete_in_progress]
members, of = {}, {}
for group in groups:
    whole = one.get_group(group.id, attributes="members").data.members or []
    members[group.id] = [[m.value, m.type, m.ref.rpartition("/")[2], m.ocid.rpartition(".")[0]] for m in whole]
    parts, start = [], 1
    while True:
        asked = f"members[startIndex={start}&count=4]"
        part = one.get_group(group.id, attributes=asked).data.members or []
        parts += [m.value for m in part]
        start += len(part)
        if not part:
            break
    assert parts == [m.value for m in whole]
    inside, _ = paged(one.list_users, 25, filter=f'groups.value eq "{group.id}"', attributes="userName")
    of[group.id] = [user.id for user in inside]
found["members"], found["of groups"] = members, of
listed, _ = paged(one.list_groups, 5, attributes="members")
assert {g.id: [m.value for m in g.members or ()] for g in listed} == {k: [m[0] for m in v] for k, v in members.items()}
inside, _ = paged(one.list_users, 50, attributes="groups.value,groups.type")
found["groups of users"] = {u.id: [[g.value, g.type, g.display] for g in u.groups or ()] for u in inside}
inside = one.list_users(attributes="groups", count=50).data.resources
found["types unasked"] = sorted({str(g.type) for u in inside for g in u.groups or ()})

name = users[0].user_name
found["by name"] = [u.id for u in one.list_users(filter=f'userName eq "{name.upper()}"').data.resources]
found["by mail"] = [u.id for u in one.list_users(filter=f'emails[value eq "{name}"]').data.resources]
two = f'id eq "{users[0].id}" or id eq "{users[1].id}"'
found["by ids"] = [u.id for u in one.list_users(filter=two, sort_by="id").data.resources]
found["since"] = [
    one.list_users(filter=f'meta.lastModified gt "{moment}"', count=1).data.total_results
    for moment in ("2001-01-01T00:00:00.000Z", "2099-01-01T00:00:00Z")
]
service = "urn:ietf:params:scim:schemas:oracle:idcs:extension:user:User:serviceUser eq true"
found["service"] = [u.user_name for u in one.list_users(filter=service).data.resources]
found["mixed"] = one.list_users(filter="(active eq true and not (title pr)) or active eq false").data.total_results
found["searched"] = [
    one.search_users(user_search_request=UserSearchRequest(
        schemas=[SEARCH], attributes=["userName"], filter="active eq false", count=100)).data.total_results,
    one.search_groups(group_search_request=GroupSearchRequest(
        schemas=[SEARCH], filter=f'displayName eq "{groups[0].display_name}"')).data.resources[0].id,
]  # fmt: skip
found["bad filter"] = refused(one.list_users, filter='userName like "x"')
found["not searchable"] = refused(one.list_users, filter='schemas eq "x"')
found["too many"] = refused(one.list_groups, attributes="members", count=1000)
while True:
    try:
        answer = one.list_users(count=1)
    except ServiceError as error:
        found["429"] = [error.status, error.message]
        break
    assert answer.status == 200
found["ecid"] = answer.headers["X-ORACLE-DMS-ECID"]
json.dump(found, sys.stdout, default=lambda value: [value.__class__.__name__])
