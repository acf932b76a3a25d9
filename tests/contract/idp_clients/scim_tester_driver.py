"""Lets scim2-tester, a client of SCIM servers, check one; run with it on PYTHONPATH.

    python scim_tester_driver.py URL TOKEN

Prints what it found as JSON: [status, check, kind of resource, why] of each check.
"""

import json
import sys

import httpx2
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import check_server

url, token = sys.argv[1:3]
with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
    found = check_server(SyncSCIMClient(http))
print(json.dumps([[one.status.name, one.title, one.resource_type, one.reason] for one in found]))
