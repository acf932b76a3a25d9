"""What a run about everybody costs where nobody changed, and where one per cent did, in companies of every size: the
first line should be flat, and the second follow the changes.

`python -m tests.bench.changed [--idp okta]`. Source and Crowd are the emulated ones; runs without Prefect, medians of
warm runs where nobody changed. (Okta's delta has the members of each changed group whole.)
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from contextlib import ExitStack
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from connectors.idp import SOURCES
from connectors.model import ID_ATTRIBUTE
from deployments.sandbox import crowd, idp, okta
from deployments.sandbox.organisation import organisation
from deployments.sandbox.provider import toml
from tests.bench.child import ROOT, Child
from tests.bench.servers import QUIET, prefect

PASSWORD: Final = "secret"
SIZES: Final = (1_000, 10_000, 100_000)
WARM: Final = 7
POLICY: Final = "[[sources.acme.policy.usernames.rules]]\npattern = '@acme\\.example$'\nreplacement = ''\n"


def content(kind: str, users: int, groups: int, memberships: int) -> dict[str, Any]:
    """A Crowd that is nearly in step with the source's company. (Entra's emulator has the company's own ids.)"""
    loaded: dict[str, Any] = organisation(users=users, groups=groups, memberships=memberships, seed=1).crowd_load("")
    for table, made in (("users", okta.user_id), ("groups", okta.group_id)):
        for record in loaded[table]:
            identity = record[-1][ID_ATTRIBUTE][0][1:]
            record[-1] = {ID_ATTRIBUTE: [f"acme:{made(identity) if kind == 'okta' else identity}"]}
    return loaded


def measured(kind: str, users: int, console: Console) -> dict[str, float]:
    """One company: seconds and requests of runs about everybody."""
    groups, memberships = max(20, users // 50), users * 10
    place = ROOT / ".crowdsync" / "bench" / f"changed-{users}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with ExitStack() as stack:
        api = stack.enter_context(prefect(place / "prefect", place / "prefect.log"))
        source = stack.enter_context(idp.running(kind, users=users, groups=groups, memberships=memberships))
        there = stack.enter_context(crowd.running(applications={"crowdsync": PASSWORD}))
        there.configure(
            directories=[{"name": "d", "events": True}],
            applications=[{"name": "crowdsync", "password": PASSWORD}],
            events={"replay": 0},
        )
        there.load(**content(kind, users, groups, memberships))
        (place / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{place}/crowdsync.db"\n'
            f'[directory]\nurl = "{there.url}"\napplication = "crowdsync"\n'
            f"[sources.acme]\n{toml(source.settings)}{POLICY}"
        )
        environment = {
            **QUIET,
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(place / "prefect"),
            "CROWDSYNC_CONFIG": str(place / "crowdsync.toml"),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            **{
                SOURCES[kind].settings.model_fields[f"{name}_env"].default: value
                for name, value in source.secrets.items()
            },
        }
        program = Child("tests.bench.program", place / "program.log", environment)

        def run(orchestrated: bool = False, force: bool = False) -> dict[str, Any]:
            there.reset_counts()
            source.reset_counts()
            found = program("run", orchestrated=orchestrated, force=force)
            counts = there.counts()
            asked = sum(count for route, count in source.counts().items() if route != "bytes")
            console.print(f"[dim]{users:,}: {found['wall']:.2f} s, {found['status']}. {found['read']}[/dim]")
            return {**found, "crowd": counts["reads"], "writes": counts["writes"], "source": asked}

        run(force=True)  # what Okta has otherwise than the company
        wide = run()
        first = run()
        quiet = [run() for _ in range(WARM)]
        for one in quiet:
            assert one["read"].startswith("Neither acme nor Crowd shows anybody"), one
        through = [run(orchestrated=True) for _ in range(2)][-1]
        source.change(seed=2, updated=users // 100 * 6 // 10, disabled=users // 100 // 10, joiners=users // 100 // 10)
        few = run()
        assert few["read"].startswith("Changed since"), few
        return {
            "users": users,
            "wide": wide["wall"],
            "first": first["wall"],
            "quiet": statistics.median(one["wall"] for one in quiet),
            "prefect": through["wall"],
            "crowd": quiet[-1]["crowd"],
            "source": quiet[-1]["source"],
            "few": few["wall"],
            "few_read": few["seconds"]["read by key"],
            "few_apply": few["seconds"].get("apply", 0),
            "few_crowd": few["crowd"],
            "few_source": few["source"],
            "few_writes": few["writes"],
            "peak": quiet[-1]["peak"] / 10**6,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="How many people, with commas between.")
    parser.add_argument("--idp", default="entra", choices=["entra", "okta"])
    console, given = Console(), parser.parse_args()
    found = [measured(given.idp, int(size), console) for size in given.sizes.split(",")]
    quiet = Table(box=None, title="nobody changed: seconds, and requests", title_justify="left")
    for title in ("people", "everybody", "first", "warm", "ratio", "Prefect", "Crowd", "source"):
        quiet.add_column(title, justify="right")
    few = Table(box=None, title="one per cent changed: seconds, requests to read, writes", title_justify="left")
    for title in ("people", "seconds", "reading", "apply", "Crowd", "source", "writes", "a second"):
        few.add_column(title, justify="right")
    for one in found:
        quiet.add_row(
            f"{one['users']:,.0f}",
            *(f"{one[what]:.2f}" for what in ("wide", "first", "quiet")),
            f"{one['quiet'] / found[0]['quiet']:.2f}",
            f"{one['prefect']:.2f}",
            *(f"{one[what]:.0f}" for what in ("crowd", "source")),
        )
        few.add_row(
            f"{one['users']:,.0f}",
            *(f"{one[what]:.2f}" for what in ("few", "few_read", "few_apply")),
            *(f"{one[what]:.0f}" for what in ("few_crowd", "few_source", "few_writes")),
            f"{one['few_writes'] / max(one['few_apply'], 0.001):.0f}",
        )
    console.print(quiet)
    console.print(few)


if __name__ == "__main__":
    main()
