"""The receiver under requests that Schemathesis generates from an OpenAPI description: never an error of its own.

Not among the other tests (its name keeps it out): it fetches Schemathesis, and takes minutes. `make test-openapi` runs
it; CROWDSYNC_EXAMPLES is how many requests each operation gets at most.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support import receiver
from tests.support.clients import ROOT, client_package
from tests.support.deliveries import AUDIENCE, ISSUER, JWKS, key

HERE = Path(__file__).parent
EXAMPLES = os.environ.get("CROWDSYNC_EXAMPLES", "100")
SOURCES = """
[sources.standard]
kind = "scim"
url = "https://idp.example.org"
[sources.standard.webhook]
[sources.standard.events]
issuer = "{issuer}"
audience = "{audience}"
jwks_file = "{jwks}"
[sources.okta]
kind = "okta"
url = "https://org.okta.com"
[sources.okta.webhook]
[sources.entra]
kind = "entra"
tenant = "t1"
client_id = "c1"
[sources.entra.webhook]
[sources.onelogin]
kind = "onelogin"
url = "https://acme.onelogin.com"
client_id = "c1"
[sources.onelogin.webhook]
[sources.keycloak]
kind = "keycloak"
url = "https://keycloak.example.org"
realm = "demo"
client_id = "c1"
[sources.keycloak.webhook]
[sources.google]
kind = "google"
subject = "admin@example.org"
[sources.google.webhook]
[sources.idcs]
kind = "idcs"
url = "https://idcs-1.identity.oraclecloud.com"
client_id = "c1"
[sources.idcs.webhook]
"""


def test_nothing_that_is_sent_is_answered_with_an_error_of_ours(tmp_path: Path) -> None:
    """And what is kept can be counted afterwards."""
    package = client_package("schemathesis==4.32.5")
    public = tmp_path / "jwks.json"
    public.write_bytes(orjson.dumps(JWKS))
    sources = SOURCES.format(issuer=ISSUER, audience=AUDIENCE, jwks=public)
    with receiver.running(tmp_path, more=sources) as running:
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(HERE / "receiver.yaml")]
        command += ["--url", running.address]
        command += ["--checks", "no_error_of_ours", "--max-examples", EXAMPLES, "--continue-on-failure", "--no-color"]
        command += ["--seed", os.environ.get("CROWDSYNC_SEED", "1"), "--warnings", "off", "--request-timeout", "60"]
        made = subprocess.run(
            command,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)]),
                "SCHEMATHESIS_HOOKS": "tests.openapi.proof",
                "SCIM_TOKEN": running.token(),
                "EVENT_KEY": key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                "NO_PROXY": "*",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        said = httpx.get(f"{running.address}/metrics").text
    print(made.stdout[-6000:], made.stderr[-2000:])
    for line in re.findall(r"^crowdsync_(?:deliveries|requests)\w*_total.*$", said, re.MULTILINE):
        print(line)
    assert made.returncode == 0, made.stdout[-20_000:]
    for kind in ("okta", "entra", "onelogin", "keycloak", "google", "idcs", "standard"):
        assert re.search(rf'deliveries_total{{answer="20\d",source="{kind}"}}', said), f"{kind}: nothing got through"
