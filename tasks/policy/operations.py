"""Which kinds of write a source may do to its directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from connectors.operations import KINDS, Kind
from tasks.policy.section import Section


def _feature(value: object) -> object:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Feature = Annotated[Literal["on", "off", "report"], BeforeValidator(_feature)]
"""On, off, or planned and shown without being done. In files, true and false are on and off."""

Activation = Annotated[Literal["on", "off", "report", "sign_in"], BeforeValidator(_feature)]
"""As `Feature`; or of those who have just signed in only, which is decided person by person while planning."""

FEATURES: Mapping[Kind, str] = {kind: spec.feature for kind, spec in KINDS.items()}
"""The feature that turns a kind of operation on and off; "" where that is decided per attribute while planning."""


class Operations(Section):
    """Which kinds of write are allowed. What is off is counted in the report; what is on "report" is listed there
    with its reasons; neither is done."""

    user_create: Feature = Field("on", description="Create accounts for people in scope.")
    user_update: Feature = Field("on", description="Change names, e-mail and mapped attributes.")
    user_rename: Feature = Field("on", description="Rename the account when the username changes in the IdP.")
    user_activate: Activation = Field(
        "on",
        description="Let people in again who return, or were deactivated in Crowd. `sign_in`: only when they sign in "
        "to the IdP, so that whom somebody deactivates in Crowd for being away stays so until then.",
    )
    user_deactivate: Feature = Field("on", description="Shut people out who left or were disabled.")
    user_delete: Feature = Field("off", description="Delete accounts (only where leavers are to be deleted).")
    group_create: Feature = Field("on", description="Create groups in scope.")
    group_update: Feature = Field("on", description="Change group descriptions.")
    group_delete: Feature = Field("off", description="Delete groups that are gone (see leavers.groups).")
    membership_add: Feature = Field("on", description="Put people into groups.")
    membership_remove: Feature = Field("on", description="Take people out of groups.")
    nesting: Feature = Field("on", description="Put groups into groups, and take them out.")

    def of(self, kind: Kind) -> Literal["on", "off", "report"]:
        """The feature that this kind of operation belongs to; marking ownership goes with what it marks."""
        name = FEATURES[kind]
        state: Literal["on", "off", "report", "sign_in"] = getattr(self, name) if name else "on"
        return "on" if state == "sign_in" else state

    def allows(self, kind: Kind) -> bool:
        """Whether this kind of operation is done."""
        return self.of(kind) == "on"

    def without(self, kinds: Iterable[Kind]) -> Operations:
        """The same with these kinds off."""
        return self.model_copy(update={FEATURES[kind]: "off" for kind in kinds if FEATURES[kind]})
