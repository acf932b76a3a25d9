"""What runs that read everything take in companies of every size: seconds, and the most memory.

`python -m tests.bench.sizes --sizes 100000,300000`. A SCIM source and Crowd without events, both emulated; runs without
Prefect. The first run begins with an empty store, and Crowd in step; nothing changes after it.
"""

from __future__ import annotations

import argparse
import shutil
from contextlib import ExitStack
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from deployments.sandbox import crowd, scim
from deployments.sandbox.organisation import organisation
from tests.bench.child import ROOT, Child
from tests.bench.servers import QUIET, prefect

PASSWORD: Final = "secret"
SIZES: Final = (1_000, 10_000, 100_000)
TITLES: Final = (
    "people",
    "memberships",
    "first run",
    "nothing to do",
    "compared",
    "MB first",
    "MB then",
    "MB compared",
)


def measured(users: int, console: Console) -> list[str]:
    """One company: a line of the table."""
    company: dict[str, Any] = {"users": users, "groups": max(20, users // 50), "memberships": users * 10, "seed": 1}
    place = ROOT / ".crowdsync" / "bench" / f"sizes-{users}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with ExitStack() as stack:
        api = stack.enter_context(prefect(place / "prefect", place / "prefect.log"))
        source = stack.enter_context(scim.prepared(**company))
        there = stack.enter_context(crowd.running(applications={"crowdsync": PASSWORD}))
        content: dict[str, Any] = organisation(**company).crowd_load("acme")
        there.load(**content)
        del content
        (place / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{place}/crowdsync.db"\n'
            f'[directory]\nurl = "{there.url}"\napplication = "crowdsync"\n'
            f'[sources.acme]\nkind = "scim"\nurl = "{source.url}"\n'
        )
        environment = {
            **QUIET,
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(place / "prefect"),
            "CROWDSYNC_CONFIG": str(place / "crowdsync.toml"),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": source.token,
        }
        found: list[dict[str, Any]] = []
        for force in (False, True, False):  # (forced runs read everything)
            with Child("tests.bench.program", place / "program.log", environment) as program:
                found.append(program("run", orchestrated=False, force=force))
            console.print(
                f"[dim]{users:,}: {found[-1]['wall']:.2f} s, {found[-1]['status']}. {found[-1]['read']}[/dim]"
            )
        if not found[-1]["read"].startswith("Neither acme nor Crowd shows anybody"):
            raise SystemExit("the last run read everything")
    numbers = [f"{one['wall']:.2f}" for one in found] + [f"{one['peak'] / 10**6:,.0f}" for one in found]
    return [f"{users:,}", f"{company['memberships']:,}", *numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="How many people, with commas between.")
    console = Console()
    lines = [measured(int(size), console) for size in parser.parse_args().sizes.split(",")]
    table = Table(box=None, title="seconds, and megabytes at most", title_justify="left")
    for title in TITLES:
        table.add_column(title, justify="right")
    for line in lines:
        table.add_row(*line)
    console.print(table)


if __name__ == "__main__":
    main()
