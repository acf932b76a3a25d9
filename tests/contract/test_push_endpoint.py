"""The receiver's SCIM endpoint under a client that we did not write, which goes through the whole protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import receiver
from tests.support.clients import client_package, drive

DRIVER = Path(__file__).parent / "idp_clients" / "scim_tester_driver.py"


@pytest.mark.nightly
def test_scim2_tester_finds_nothing_wrong(tmp_path: Path) -> None:
    """Discovery, and create, read, query, replace, patch of every attribute, and delete of users and groups."""
    package = client_package("scim2-tester[httpx2]==0.5.2")
    with receiver.running(tmp_path) as running:
        found = drive(DRIVER, running.scim, running.token(), package=package)
    wrong = [one for one in found if one[0] not in ("SUCCESS", "SKIPPED")]
    assert not wrong
    assert [one[0] for one in found].count("SUCCESS") >= 125
    skipped = {(name, why) for status, name, _, why in found if status == "SKIPPED"}
    assert skipped == {
        (
            "search_with_attributes",
            "POST /.search: searching several resource types at once is not supported by the server",
        )
    }
