"""Whom each provider's deliveries name, by the bodies of the reference."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.hook import SIGN_INS, Accepted, Answer, Delivery, MalformedError, News, NotVerifiedError
from connectors.hooks.okta import Okta
from connectors.hooks.standard import Standard
from tests.support.deliveries import (
    BY_NAME,
    NOW,
    SECRET,
    entra,
    entra_item,
    google_user,
    idcs_event,
    keycloak_event,
    okta,
    okta_event,
    onelogin_event,
    posted,
    with_basic,
    with_signature,
    with_token,
)


def received(provider: str, body: Any, **more: Any) -> Accepted:
    sender = BY_NAME[provider]
    return sender.received(sender.send(body, **more))


def told(found: Accepted) -> list[str]:
    """`kind key` of what is named; the way as well where it is a sign-in."""
    return [f"{one.kind} {one.key}{' signed in' if one.via in SIGN_INS else ''}".strip() for one in found.news]


# --- Okta --------------------------------------------------------------------------------------

USER = {"id": "00u1", "type": "User"}
GROUP = {"id": "00g1", "type": "UserGroup"}
APP = {"id": "0oa1", "type": "AppInstance"}


@pytest.mark.parametrize(
    ("kind", "targets", "names"),
    [
        ("user.lifecycle.create", [USER], ["user 00u1"]),
        ("user.lifecycle.deactivate", [USER], ["user 00u1"]),
        ("user.lifecycle.delete.initiated", [USER], ["user 00u1"]),
        ("user.account.update_profile", [USER], ["user 00u1"]),
        ("user.account.lock", [USER], ["user 00u1"]),
        ("group.user_membership.add", [USER, GROUP], ["user 00u1"]),
        ("group.user_membership.remove", [GROUP, USER], ["user 00u1"]),
        ("group.user_membership.add", [GROUP], ["group 00g1"]),
        ("group.lifecycle.create", [GROUP], ["group 00g1"]),
        ("group.lifecycle.delete", [GROUP], ["group 00g1"]),
        ("group.profile.update", [GROUP], ["group 00g1"]),
        ("group.application_assignment.add", [APP, GROUP], ["group 00g1"]),
        ("application.user_membership.add", [{"id": "0ua1", "type": "AppUser"}, USER, APP], ["user 00u1"]),
        ("system.log_stream.create", [USER], []),
        ("user.authentication.auth", [USER], []),
    ],
)
def test_okta_names_whom_the_type_of_a_target_says(kind: str, targets: list[Any], names: list[str]) -> None:
    found = received("okta", okta(okta_event(kind, target=targets)))
    assert told(found) == names
    assert found.answer == Answer(204)
    assert not found.dropped


@pytest.mark.parametrize("kind", ["user.session.start", "user.authentication.sso"])
def test_okta_tells_of_a_sign_in_by_its_actor_where_it_succeeded(kind: str) -> None:
    actor = {"id": "00u7", "type": "User"}
    assert told(received("okta", okta(okta_event(kind, actor=actor, target=[APP])))) == ["user 00u7 signed in"]
    for more in (
        {"outcome": {"result": "FAILURE"}},
        {"outcome": None},
        {"actor": {"id": "x", "type": "SystemPrincipal"}},
    ):
        assert told(received("okta", okta(okta_event(kind, **more)))) == []


def test_okta_names_each_once_and_leaves_out_what_makes_no_sense() -> None:
    bad = [
        None,
        1,
        {},
        okta_event(target=None),
        okta_event(target=[{"id": "a\0", "type": "User"}]),
        okta_event(target=[APP]),
    ]
    found = received(
        "okta", okta(okta_event(), *bad, okta_event(), okta_event(target=[{"id": "00u2", "type": "User"}]))
    )
    assert told(found) == ["user 00u1", "user 00u2"]
    assert found.dropped == len(bad)
    assert found.delivery == "85b60edb-0001"


def test_okta_is_answered_its_challenge_without_the_secret() -> None:
    header = {"x-okta-verification-challenge": 'V"<>é'}
    found = Okta().verify(Delivery("GET", "/webhooks/acme", {}, header, b""), (SECRET,), NOW)
    assert found.news == ()
    assert found.answer.status == 200
    assert found.answer.content_type == "application/json"
    assert json.loads(found.answer.body) == {"verification": 'V"<>é'}
    with pytest.raises(NotVerifiedError):
        Okta().verify(Delivery("GET", "/webhooks/acme", {}, header, b""), (), NOW)
    for wrong in ({}, {"x-okta-verification-challenge": ""}, {"x-okta-verification-challenge": "x" * 2001}):
        with pytest.raises(MalformedError):
            Okta().verify(Delivery("GET", "/webhooks/acme", {}, wrong, b""), (SECRET,), NOW)


@pytest.mark.parametrize("given", [f"Bearer {SECRET}", f"bearer {SECRET}", SECRET])
def test_a_secret_may_follow_bearer(given: str) -> None:
    for name in ("okta", "onelogin"):
        assert BY_NAME[name].received(posted(BY_NAME[name].body, {"authorization": given})).news


@pytest.mark.parametrize(
    "given", [f"Basic {SECRET}", f" {SECRET}", f"{SECRET} ", f"Bearer  {SECRET}", "Bearer ", "Bearer"]
)
def test_what_is_no_secret(given: str) -> None:
    for name in ("okta", "onelogin"):
        with pytest.raises(NotVerifiedError):
            BY_NAME[name].received(posted(BY_NAME[name].body, {"authorization": given}))


# --- Entra -------------------------------------------------------------------------------------


def test_entra_is_answered_the_token_as_it_is() -> None:
    token = 'Validation: Testing client application <b>&"%20é'
    given = replace(posted(b"", {"content-type": "text/plain"}), query={"validationToken": token})
    found = BY_NAME["entra"].received(given)
    assert (found.news, found.delivery) == ((), "")
    assert found.answer == Answer(200, token.encode(), "text/plain; charset=utf-8")
    for wrong in ("", "x" * 2001, "a\nb", "\ud800", "\0"):
        with pytest.raises(MalformedError):
            BY_NAME["entra"].received(replace(given, query={"validationToken": wrong}))
    with pytest.raises(MalformedError):
        BY_NAME["entra"].received(replace(given, method="GET"))
    with pytest.raises(NotVerifiedError):
        BY_NAME["entra"].received(given, secrets=())


def test_entra_mixes_subscriptions_in_one_post_and_each_item_is_proved() -> None:
    wrong: list[Any] = [
        entra_item(key="e9", clientState="guessed"),
        entra_item(key="e8", clientState=None),
        {k: v for k, v in entra_item(key="e7").items() if k != "clientState"},
        None,
        [],
    ]
    found = received(
        "entra", entra(*wrong, entra_item(), entra_item("Group", "g1", subscriptionId="sub-2"), entra_item())
    )
    assert told(found) == ["user e1", "group g1"]
    assert found.dropped == len(wrong)
    assert found.answer == Answer(202)


@pytest.mark.parametrize(
    ("item", "names"),
    [
        (entra_item(changeType="deleted"), ["user e1"]),
        (entra_item(resourceData=None), ["user e1"]),
        (entra_item(resource="Users/e1", resourceData={"id": "e1"}), ["user e1"]),
        (entra_item(resource="/groups/g1", resourceData={}), ["group g1"]),
        (entra_item("Group", "g1", resourceData={"@odata.type": "#microsoft.graph.group", "id": "g1"}), ["group g1"]),
        (entra_item(resource="groups/g1/members/e1"), ["user e1"]),
        (entra_item("Device", "d1"), []),
        (entra_item(resource="chats/1", resourceData=None), []),
        (entra_item(lifecycleEvent="reauthorizationRequired"), []),
        (entra_item(lifecycleEvent="missed"), ["everybody"]),
        (entra_item(lifecycleEvent="subscriptionRemoved"), ["everybody"]),
    ],
)
def test_entra_names_people_and_groups(item: Any, names: list[str]) -> None:
    found = received("entra", entra(item))
    assert told(found) == names
    assert (found.dropped, found.answer) == (0, Answer(202))


@pytest.mark.parametrize(
    "more",
    [
        {"resourceData": {"@odata.type": "#Microsoft.Graph.User", "id": 1}},
        {"resourceData": {"@odata.type": "#Microsoft.Graph.User", "id": "a\nb"}},
        {"resource": "Users/e1/manager", "resourceData": None},
        {"resource": None, "resourceData": None},
    ],
)
def test_entra_items_that_make_no_sense_are_left_out(more: Any) -> None:
    found = received("entra", entra(entra_item(**more), entra_item("Group", "g1")))
    assert told(found) == ["group g1"]
    assert (found.dropped, found.answer) == (1, Answer(202))


def test_entra_tells_deliveries_apart() -> None:
    same = received("entra", entra(entra_item()))
    assert same.delivery == received("entra", entra(entra_item())).delivery
    others = [
        received("entra", entra(*items)).delivery
        for items in ([entra_item(id="n2")], [entra_item(changeType="deleted")], [entra_item(), entra_item(key="e2")])
    ]
    assert len({same.delivery, *others}) == 4
    assert received("entra", entra(entra_item(id=None))).delivery == ""


# --- OneLogin ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "names"),
    [
        *(
            (onelogin_event(kind), ["user 32916209"])
            for kind in (4, 12, 13, 14, 15, 16, 17, 19, 21, 32, 147, 148, 149, 150)
        ),
        *((onelogin_event(kind), ["user 32916209 signed in"]) for kind in (5, 8)),
        *((onelogin_event(kind), []) for kind in (6, 29, 1, 2, 72, 999, 2**62)),
        (onelogin_event("13"), ["user 32916209"]),
        (onelogin_event(user_id="32916209"), ["user 32916209"]),
        (onelogin_event(user_id=None), ["group 77"]),
    ],
)
def test_onelogin_names_people_by_the_kind_of_event(event: Any, names: list[str]) -> None:
    found = received("onelogin", [event])
    assert told(found) == names
    assert (found.dropped, found.answer) == (0, Answer(200, b"{}", "application/json"))


@pytest.mark.parametrize(
    "event",
    [
        onelogin_event(True),
        onelogin_event(-1),
        onelogin_event(13.5),
        onelogin_event("١٣"),
        onelogin_event(2**63),
        onelogin_event(user_id=0, role_id=None),
        onelogin_event(user_id=[1], role_id=None),
        onelogin_event(5, user_id="1e3"),
        {},
        None,
    ],
)
def test_onelogin_events_that_make_no_sense_are_left_out(event: Any) -> None:
    found = received("onelogin", [event, onelogin_event(user_id=7)])
    assert told(found) == ["user 7"]
    assert found.dropped == 1


def lines(events: Iterable[Any], end: str = "\n") -> bytes:
    return end.join(one if isinstance(one, str) else json.dumps(one) for one in events).encode()


def test_onelogin_an_event_a_line() -> None:
    two = [onelogin_event(user_id=1, uuid="a"), onelogin_event(user_id=2, uuid="b")]
    whole = received("onelogin", two)
    for text in (lines(two), lines(two) + b"\n", lines(two, "\r\n"), lines(two, "\n\n")):
        found = received("onelogin", text)
        assert (told(found), found.delivery, found.dropped) == (["user 1", "user 2"], whole.delivery, 0)
    assert told(received("onelogin", lines(two[:1]))) == ["user 1"]
    found = received("onelogin", lines([two[0], "{broken", '{"uuid": "c", "uuid": "d"}', two[1]]))
    assert (told(found), found.dropped, found.delivery) == (["user 1", "user 2"], 2, "")
    for text in (b"{broken\n{broken", b"1\n2", b""):
        with pytest.raises(MalformedError):
            received("onelogin", text)


def test_onelogin_an_empty_batch_is_answered() -> None:
    assert received("onelogin", []) == Accepted((), "", Answer(200, b"{}", "application/json"))


def test_onelogin_tells_batches_apart_by_all_their_events() -> None:
    one, two = onelogin_event(uuid="a"), onelogin_event(uuid="b")
    found = [received("onelogin", batch).delivery for batch in ([one], [two], [one, two])]
    assert len(set(found)) == 3
    assert received("onelogin", [one, onelogin_event(uuid=None)]).delivery == ""  # type: ignore[arg-type]


# --- Keycloak ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (keycloak_event(), ["user k1"]),
        (keycloak_event("admin.USER-CREATE", "users/k2"), ["user k2"]),
        (keycloak_event("admin.USER-DELETE", "/users/k2"), ["user k2"]),
        (keycloak_event("admin.USER-ACTION", "users/k2/reset-password"), ["user k2"]),
        (keycloak_event("admin.REALM_ROLE_MAPPING-CREATE", "users/k2/role-mappings/realm"), ["user k2"]),
        (keycloak_event("admin.USER-UPDATE", "users", details={"userId": "k3"}), ["user k3"]),
        (keycloak_event("admin.GROUP-UPDATE", "groups/kg2"), ["group kg2"]),
        (keycloak_event("admin.GROUP-DELETE", "groups/kg2"), ["group kg2"]),
        (keycloak_event("admin.GROUP-CREATE", "groups/kg2/children"), ["group kg2", "group kg1"]),
        (keycloak_event("admin.GROUP-UPDATE", "groups/kg2/children"), ["group kg2", "group kg1"]),  # moved
        (keycloak_event("admin.GROUP-CREATE", "groups/kg2/children", representation=None), ["group kg2"]),
        (keycloak_event("admin.GROUP-CREATE", "groups/kg2/children", representation="{"), ["group kg2"]),
        (keycloak_event("admin.GROUP-UPDATE", "groups"), ["group kg1"]),  # moved to the top
        (keycloak_event("admin.REALM-CREATE", "users/k2"), ["user k2"]),  # imported
        (keycloak_event("admin.REALM-UPDATE", None, representation='{"realm":"demo"}'), []),
        (keycloak_event("admin.CLIENT-UPDATE", "clients/c1"), []),
        (keycloak_event("access.LOGIN", None, authDetails={"userId": "k4"}), ["user k4 signed in"]),
        (keycloak_event("access.UPDATE_PROFILE", None, authDetails={"userId": "k4"}), ["user k4"]),
        (keycloak_event("access.DELETE_ACCOUNT", None, authDetails={"userId": "k4"}), ["user k4"]),
        (
            keycloak_event("access.USER_DISABLED_BY_PERMANENT_LOCKOUT", None, authDetails={"userId": "k4"}),
            ["user k4"],
        ),
        (keycloak_event("access.USER_DISABLED_BY_TEMPORARY_LOCKOUT", None, authDetails={"userId": "k4"}), []),
        (keycloak_event("access.LOGIN_ERROR", None, authDetails={"userId": "k4"}), []),
        (keycloak_event("access.LOGOUT", None), []),
        (keycloak_event("system.STARTED", None), []),
        # Keycloak's own shapes
        (
            {"id": "1", "time": 1, "type": "LOGIN", "realmId": "r", "userId": "k5", "clientId": "jira"},
            ["user k5 signed in"],
        ),
        ({"id": "2", "operationType": "DELETE", "resourceType": "USER", "resourcePath": "users/k6"}, ["user k6"]),
    ],
)
def test_keycloak_names_whom_the_path_says(event: Any, names: list[str]) -> None:
    found = received("keycloak", event)
    assert told(found) == names
    assert (found.dropped, found.answer) == (0, Answer(204))
    assert found.delivery == event.get("uid", event["id"])


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": 1},
        keycloak_event(path=None),
        keycloak_event(path=["users", "k1"]),
        keycloak_event(path="users"),
        keycloak_event(path="users/"),
        keycloak_event(path="users/.."),
        keycloak_event(path="users/a\0"),
        keycloak_event("admin.GROUP-UPDATE", "groups", representation=None),
        keycloak_event("access.LOGIN", authDetails=None),
        keycloak_event("access.LOGIN", authDetails={"userId": 1}),
    ],
)
def test_keycloak_events_that_make_no_sense_are_left_out(event: Any) -> None:
    found = received("keycloak", event)
    assert (found.news, found.dropped, found.answer) == ((), 1, Answer(204))


def test_keycloak_signs_the_bytes_that_it_sends() -> None:
    sender = BY_NAME["keycloak"]
    given = sender.send(b'{"type": "access.LOGOUT" , "uid":"1"}')
    assert sender.received(given).delivery == "1"
    signature = given.headers["x-keycloak-signature"]
    for wrong in (signature.upper(), f"sha256={signature}", signature[:-1], signature + "0", f" {signature}", ""):
        with pytest.raises(NotVerifiedError):
            sender.received(replace(given, headers={"x-keycloak-signature": wrong}))
    with pytest.raises(NotVerifiedError):
        sender.received(replace(given, body=given.body.replace(b" ,", b",")))


def test_the_signature_of_keycloak_is_plain_hmac() -> None:
    """RFC 4231, test case 2."""
    header = {"x-keycloak-signature": "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"}
    with pytest.raises(MalformedError):  # proved, and no JSON
        BY_NAME["keycloak"].received(posted(b"what do ya want for nothing?", header), secrets=("Jefe",))


# --- Google ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (google_user(), ["user 117"]),
        ({"kind": "admin#directory#user", "primaryEmail": "ann@example.org"}, ["user ann@example.org"]),
        (google_user(""), ["user ann@example.org"]),
        (b"", ["everybody"]),
        ({}, ["everybody"]),
        (
            {
                "kind": "admin#reports#activity",
                "id": {"time": "2026-01-01T10:00:00Z"},
                "actor": {"email": "ann@example.org", "profileId": "118"},
                "events": [{"type": "login", "name": "login_success"}],
            },
            ["user 118 signed in"],
        ),
        ({"kind": "admin#reports#activity", "actor": {"profileId": "118"}, "events": [{"name": "login_failure"}]}, []),
        ({"kind": "admin#reports#activity", "events": None}, []),
    ],
)
def test_google_names_people(body: Any, names: list[str]) -> None:
    found = received("google", body)
    assert told(found) == names
    assert found.answer == Answer(204)


def test_google_the_first_message_says_nothing() -> None:
    given = with_token(b"")
    sync = replace(given, headers={**given.headers, "x-goog-resource-state": "sync", "x-goog-message-number": "1"})
    assert BY_NAME["google"].received(sync) == Accepted((), "", Answer(204))
    with pytest.raises(NotVerifiedError):
        BY_NAME["google"].received(sync, secrets=("another",))


def test_google_a_number_that_repeats_is_the_same_message_only_with_the_same_content() -> None:
    one, two = received("google", google_user()), received("google", google_user("118"))
    assert one.delivery == received("google", google_user()).delivery
    assert one.delivery != two.delivery
    given = with_token(google_user())
    bare = replace(given, headers={k: v for k, v in given.headers.items() if k != "x-goog-message-number"})
    assert BY_NAME["google"].received(bare).delivery == ""


# --- Oracle ------------------------------------------------------------------------------------

HOST = "https://cell1.notification.us-phoenix-1.oci.oraclecloud.com"
ASKS = {"x-oci-ns-messagetype": "SubscriptionConfirmation"}


@pytest.mark.parametrize(
    "kind",
    [
        "createuser",
        "updateuser",
        "deleteuser",
        "updateuserstate",
        "creategroup",
        "deletegroup",
        "addusertogroup",
        "CreateUser",
    ],
)
def test_oracle_says_that_somebody_changed(kind: str) -> None:
    found = received("idcs", idcs_event(kind))
    assert told(found) == ["everybody"]
    assert (found.delivery, found.answer) == ("m1", Answer(200))


def test_oracle_other_events_concern_nobody() -> None:
    for kind in ("createpolicy", "updateuserx", "createuser.extra", ""):
        assert received("idcs", idcs_event(kind)).news == ()
    assert received("idcs", [idcs_event(), {}, idcs_event()]).dropped == 1


def test_oracle_asks_for_the_subscription_to_be_confirmed() -> None:
    asked = f"{HOST}/20181201/subscriptions/ocid1.onssubscription.oc1.phx.a/confirmation?token=T&protocol=CUSTOM_HTTPS"
    by_header = BY_NAME["idcs"].received(with_basic(b"", **ASKS, **{"x-oci-ns-confirmationurl": asked}))
    by_body = BY_NAME["idcs"].received(with_basic({"ConfirmationURL": asked}, **ASKS))
    assert by_header == by_body == Accepted((), "", Answer(200), confirm=asked)
    with pytest.raises(NotVerifiedError):
        BY_NAME["idcs"].received(with_basic({"ConfirmationURL": asked}, secret="guessed", **ASKS))


@pytest.mark.parametrize(
    "asked",
    [
        "http://notification.us-phoenix-1.oraclecloud.com/x",
        "https://evil.example/x",
        "https://notification.us-phoenix-1.oraclecloud.com.evil.example/x",
        "https://evil-notification.oraclecloud.com/x",
        "https://objectstorage.us-phoenix-1.oraclecloud.com/x",
        "https://user@notification.us-phoenix-1.oraclecloud.com/x",
        "https://evil.example\\@notification.us-phoenix-1.oraclecloud.com/x",
        "https://evil.example/notification.us-phoenix-1.oraclecloud.com/x",
        "https://evil.example#notification.us-phoenix-1.oraclecloud.com/x",
        "https://notification.us-phoenix-1.oraclecloud.com:8443/x",
        "https://notification.us-phoenix-1.oraclecloud.com",
        "https://notification.us-phoenix-1.oraclecloud.com/a b",
        "https://notification.us-phoenix-1.oraclecloud.com/a\nHost: evil",
        "https://notification.us-phoenix-1.oraclecloud.com/a\n",
        "https://notification.us-phoenix-1.oraclecloud.com/" + "x" * 3000,
        "",
        None,
        1,
    ],
)
def test_oracle_no_other_address_is_confirmed(asked: Any) -> None:
    with pytest.raises(MalformedError):
        BY_NAME["idcs"].received(with_basic({"ConfirmationURL": asked}, **ASKS))


@pytest.mark.parametrize(
    "given",
    [
        f"Basic {SECRET}",
        f"Bearer {SECRET}",
        SECRET,
        "Basic",
        "Basic ====",
        f"Basic {b64encode(f'x:{SECRET}'.encode()).decode()[:8]}!{b64encode(f'x:{SECRET}'.encode()).decode()[8:]}",
        "Basic é",
        f"Basic {b64encode(SECRET.encode()).decode()}",
        f"Basic {b64encode(b'x:' + SECRET.encode() + b':').decode()}",
        f"Basic {b64encode(bytes([255, 58, 255])).decode()}",
    ],
)
def test_oracle_is_proved_by_the_password_alone(given: str) -> None:
    with pytest.raises(NotVerifiedError):
        BY_NAME["idcs"].received(posted(idcs_event(), {"authorization": given}))


# --- Standard Webhooks -------------------------------------------------------------------------


def test_the_published_example_of_standard_webhooks() -> None:
    """The vector that the libraries of Standard Webhooks are tested with. It is proved; its body names nobody."""
    header = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    given, then = posted(b'{"test": 2432232314}', header), datetime.fromtimestamp(1614265330, UTC)
    for secret in ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"):
        with pytest.raises(MalformedError):
            Standard().verify(given, (secret,), then)
        with pytest.raises(NotVerifiedError):
            Standard().verify(given, (secret,), then + timedelta(seconds=301))
        with pytest.raises(NotVerifiedError):
            Standard().verify(replace(given, body=b'{"test": 2432232315}'), (secret,), then)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"type": "user.updated", "data": {"user": "u1"}}, ["user u1"]),
        ({"data": {"users": ["u1", "u2", "u1"]}}, ["user u1", "user u2"]),
        ({"type": "x", "data": {"group": "g1"}}, ["group g1"]),
        ({"type": "x", "data": {"user": "u1", "users": ["u2"], "group": "g1", "groups": ["g2"]}}, None),
        ({"type": "user.signed_in", "data": {"user": "u1", "group": "g1"}}, ["user u1 signed in", "group g1"]),
        ({"type": "x", "data": {"users": []}}, []),
    ],
)
def test_standard_webhooks_name_people_and_groups(body: Any, names: list[str] | None) -> None:
    found = received("standard", body)
    assert told(found) == (["user u1", "user u2", "group g1", "group g2"] if names is None else names)
    assert (found.answer, found.delivery, found.dropped) == (Answer(204), "msg_1", 0)


def test_standard_webhooks_leave_out_ids_that_make_no_sense() -> None:
    found = received("standard", {"data": {"users": ["u1", 1, None, "a\0", "x" * 256], "user": {}}})
    assert (told(found), found.dropped) == (["user u1"], 5)


@pytest.mark.parametrize(
    "body", [{}, {"type": "user.updated"}, {"data": {}}, {"data": {"usr": "u1"}}, {"data": {"users": "u1"}}, []]
)
def test_standard_webhooks_that_name_nobody_are_told_so(body: Any) -> None:
    with pytest.raises(MalformedError):
        received("standard", body)


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_standard_webhooks_within_five_minutes(seconds: int) -> None:
    body = BY_NAME["standard"].body
    assert received("standard", body, stamp=str(int(NOW.timestamp()) + seconds)).news == (
        News("user", "u1", "webhook"),
    )


@pytest.mark.parametrize(
    "stamp", ["-301", "301", "1e9", "-1", "1767261600.0", "٠", "١٧٦٧٢٦١٦٠٠", "soon", "9" * 30, "9" * 10_000]
)
def test_standard_webhooks_of_another_time_are_not_proved(stamp: str) -> None:
    off = str(int(NOW.timestamp()) + int(stamp)) if stamp in ("-301", "301") else stamp
    with pytest.raises(NotVerifiedError):
        received("standard", BY_NAME["standard"].body, stamp=off)


def test_standard_webhooks_with_several_signatures() -> None:
    given = with_signature(BY_NAME["standard"].body)
    right = given.headers["webhook-signature"]

    def with_these(text: str) -> Accepted:
        return BY_NAME["standard"].received(replace(given, headers={**given.headers, "webhook-signature": text}))

    for text in (f"v1,AAAA {right}", f"{right} v1a,AAAA", f"v2,AAAA  {right} "):
        assert with_these(text).news
    for text in (
        "",
        "v1,",
        right[3:],
        right.replace("v1,", "v1a,"),
        right.replace("v1,", "V1,"),
        right[:-1],
        "v1,AAAA " * 20 + right,
    ):
        with pytest.raises(NotVerifiedError):
            with_these(text)
    for secret in ("not base64", "é", "whsec_", "AAA"):  # it is no key, and not the empty one either
        with pytest.raises(NotVerifiedError):
            BY_NAME["standard"].received(with_signature(BY_NAME["standard"].body, ""), secrets=(secret,))
    with pytest.raises(NotVerifiedError):  # no id
        received("standard", BY_NAME["standard"].body, sent="")
