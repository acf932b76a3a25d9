"""What one person costs in companies of every size: the line should be flat.

`python -m tests.bench.narrow`; a million people with `--sizes 1000000`. Times are medians of warm runs without Prefect,
whose own cost is the same at every size and stands beside them. Megabytes: the most that the run about everybody, which
begins with an empty store, takes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
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
WARM: Final = 7


def measured(users: int, console: Console) -> dict[str, float]:
    """One company: seconds and requests of runs about one person, and of the run about everybody before them."""
    groups, memberships = max(20, users // 50), users * 10
    place = ROOT / ".crowdsync" / "bench" / f"narrow-{users}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with ExitStack() as stack:
        company = organisation(users=users, groups=groups, memberships=memberships, seed=1)
        content: dict[str, Any] = company.crowd_load("acme")
        api = stack.enter_context(prefect(place / "prefect", place / "prefect.log"))
        idp = stack.enter_context(scim.prepared(users=users, groups=groups, memberships=memberships, seed=1))
        there = stack.enter_context(crowd.running(applications={"crowdsync": PASSWORD}))
        there.load(**content)
        people = [person.id for person in company.people[:: max(1, users // (WARM + 2))]]
        del company, content
        (place / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{place}/crowdsync.db"\n'
            f'[directory]\nurl = "{there.url}"\napplication = "crowdsync"\n'
            f'[sources.acme]\nkind = "scim"\nurl = "{idp.url}"\n'
        )
        environment = {
            **QUIET,
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(place / "prefect"),
            "CROWDSYNC_CONFIG": str(place / "crowdsync.toml"),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": idp.token,
        }
        program = Child("tests.bench.program", place / "program.log", environment)
        console.print(f"[dim]… {users:,} people: everybody, then one[/dim]")
        wide = program("run", orchestrated=False, force=False)
        first = program("run", orchestrated=False, force=False, person=people[0])
        there.reset_counts()
        idp.reset_counts()
        warm = [program("run", orchestrated=False, force=False, person=one) for one in people[1 : WARM + 1]]
        reads = there.counts()["reads"] / len(warm)
        asked = sum(count for route, count in idp.counts().items() if route != "bytes") / len(warm)
        for one in warm:
            assert one["read"].startswith("Read again by key"), one
            assert one["status"] == "nothing to do", one
        through = program("run", orchestrated=True, force=False, person=people[-1])
        through = program("run", orchestrated=True, force=False, person=people[-1])
        return {
            "users": users,
            "wide": wide["wall"],
            "first": first["wall"],
            "warm": statistics.median(one["wall"] for one in warm),
            "read": statistics.median(one["seconds"]["read by key"] for one in warm),
            "prefect": through["wall"],
            "crowd": reads,
            "source": asked,
            "peak": wide["peak"] / 10**6,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="How many people, with commas between.")
    console = Console()
    found = []
    for size in parser.parse_args().sizes.split(","):
        found.append(measured(int(size), console))
        console.print(f"[dim]{found[-1]}[/dim]")
    table = Table(box=None, title="seconds, and megabytes; requests of one person", title_justify="left")
    for title in ("people", "everybody", "MB", "first", "one", "ratio", "reading", "Prefect", "Crowd", "source"):
        table.add_column(title, justify="right")
    for one in found:
        table.add_row(
            f"{one['users']:,.0f}",
            f"{one['wide']:.2f}",
            f"{one['peak']:,.0f}",
            f"{one['first']:.2f}",
            *(f"{one['warm']:.3f}", f"{one['warm'] / found[0]['warm']:.2f}", f"{one['read']:.3f}"),
            f"{one['prefect']:.2f}",
            *(f"{one[what]:.1f}" for what in ("crowd", "source")),
        )
    console.print(table)


if __name__ == "__main__":
    main()
