"""A program that serves the flow `sync` as a deployment: `python -m tests.support.served` with the arguments of
`flow.serve` as JSON.

Each flow run is a process of its own, as with Prefect it always is; here it is forked from one that has imported
everything. To import it anew is most of what a run of a small company costs.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from multiprocessing import forkserver
from typing import Any

from flows.sync import sync

IMPORTED = ("prefect.flow_engine", "prefect.input", "flows.sync", "connectors.idp.scim", "deployments.connections")


def main(**arguments: Any) -> None:
    """Serves it until it is ended."""
    context = multiprocessing.get_context
    forkserver.set_forkserver_preload(list(IMPORTED))
    vars(multiprocessing)["get_context"] = lambda method=None: context("forkserver" if method == "spawn" else method)
    sync.serve(print_starting_message=False, **arguments)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
