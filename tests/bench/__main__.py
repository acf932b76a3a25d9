"""The command: measure, print the table, write bench.json."""

from __future__ import annotations

import argparse
import math
import shutil
import sqlite3
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from rich.console import Console
from rich.table import Table

from deployments.sandbox import crowd, scim
from deployments.sandbox.organisation import organisation
from tests import road
from tests.bench.child import ROOT, Child
from tests.bench.servers import QUIET, SIZES, Company, prefect

PASSWORD: Final = "secret"
SEED: Final = 1
WRITE_RATE: Final = 0.7
GIGABYTE: Final = 10**9


@dataclass(slots=True)
class Stage:
    """One line of the table. `target` bounds the ratio; `share` says that the ratio is a part of the whole."""

    name: str
    seconds: float
    floor: str
    floor_seconds: float
    target: float | None = None
    requests: int = 0
    peak: int = 0
    share: bool = False

    @property
    def ratio(self) -> float:
        return self.seconds / self.floor_seconds if self.floor_seconds else math.nan

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within its target, None where there is none."""
        return None if self.target is None else self.ratio <= self.target


@dataclass(slots=True)
class Check:
    """A count with what it should be."""

    what: str
    found: str
    met: bool


class Bench:
    """One measurement, from empty servers to the result."""

    def __init__(self, size: str, repeats: int, console: Console) -> None:
        self.size, self.repeats, self.console = size, repeats, console
        self.company: Company = SIZES[size]
        self.place = ROOT / ".crowdsync" / "bench" / size
        self.stages: list[Stage] = []
        self.checks: list[Check] = []
        self.memory: list[tuple[str, int, str]] = []
        self.notes: list[str] = []
        self.peak = 0

    # --- setting up ----------------------------------------------------------------------------

    def run(self) -> None:
        """Everything, in the order of the table."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        company = self.company
        with ExitStack() as stack:
            self.say("starting Prefect's server, two Crowds and a SCIM server")
            api = stack.enter_context(prefect(self.place / "prefect", self.place / "prefect.log"))
            self.scim = stack.enter_context(
                scim.prepared(users=company.users, groups=company.groups, memberships=company.memberships, seed=SEED)
            )
            content: dict[str, Any] = organisation(
                users=company.users, groups=company.groups, memberships=company.memberships, seed=SEED
            ).crowd_load("acme")
            self.crowd, self.twin = (
                stack.enter_context(crowd.running(applications={"crowdsync": PASSWORD})) for _ in range(2)
            )
            for one in (self.crowd, self.twin):
                one.load(**content)
            del content
            self.database = self.place / "crowdsync.db"
            (self.place / "crowdsync.toml").write_text(
                f'[store]\nurl = "sqlite:///{self.database}"\n'
                f'[directory]\nurl = "{self.crowd.url}"\napplication = "crowdsync"\n'
                f'[sources.acme]\nkind = "scim"\nurl = "{self.scim.url}"\n'
            )
            self.environment = {
                **QUIET,
                "PREFECT_API_URL": api,
                "PREFECT_HOME": str(self.place / "prefect"),
                "CROWDSYNC_CONFIG": str(self.place / "crowdsync.toml"),
                "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
                "CROWDSYNC_SOURCE_TOKEN": self.scim.token,
            }
            self.floors = stack.enter_context(Child("tests.bench.floors", self.place / "floors.log"))
            self.floors("configure", scim=self.scim.url, token=self.scim.token, crowd=self.crowd.url, password=PASSWORD)
            self.floors("read")
            self.first_load()
            self.first_run()
            self.no_change()
            self.delta()
        if self.size != "large":  # the targets are those of a large company; a small one is mostly fixed costs
            for stage in self.stages:
                stage.target = None

    def say(self, text: str) -> None:
        """A line on what is going on."""
        self.console.print(f"[dim]… {text}[/dim]")

    def program(self) -> Child:
        """The program in a new process."""
        return Child("tests.bench.program", self.place / "program.log", self.environment)

    def counted(self, program: Child, **arguments: Any) -> tuple[dict[str, Any], dict[str, int], dict[str, int]]:
        """One run, and the requests that reached Crowd and the SCIM server."""
        self.crowd.reset_counts()
        self.scim.reset_counts()
        found = program("run", **arguments)
        served = self.crowd.counts()
        asked = {key: count for key, count in self.scim.counts().items() if key != "bytes"}
        return found, {"reads": served["reads"], "writes": served["writes"], **served["requests"]}, asked

    # --- the stages ----------------------------------------------------------------------------

    def first_load(self) -> None:
        """Both snapshots into an empty store."""
        self.say("first load into the store, and the bare insert of its rows")
        found = [self.floors("store", path=str(self.place)) for _ in range(self.repeats)]
        self.stages.append(
            Stage(
                "first load into the store",
                min(one["seconds"] for one in found),
                f"bare executemany of its {found[0]['rows']:,} rows",
                min(one["floor"] for one in found),
            )
        )

    def first_run(self) -> None:
        """The first run in an empty store, which also validates everything and finds all links by their marks."""
        self.say("first run: empty store, Crowd in step already")
        with self.program() as program:
            found, served, asked = self.counted(program)
            floor = self.floors("download")
        self.remember("first run", found)
        self.stages.append(
            Stage(
                "first run, store empty, Crowd in step",
                found["wall"],
                "bare download and parse",
                floor,
                requests=served["reads"] + served["writes"] + sum(asked.values()),
                peak=found["peak"],
            )
        )
        self.notes.append("first run, seconds by stage: " + _seconds(found["functions"]))

    def no_change(self) -> None:
        """Cycles that find nothing to do, with Prefect and without, among their floors."""
        self.say("no-change cycles, with Prefect and without, among their floors")
        with self.program() as program:
            found, served, asked = self.counted(program)
            self.remember("no-change cycle", found)
            added = self.snapshots()
            found, served, asked = self.counted(program)
            added = self.snapshots() - added
            runs, plain = [found], [program("run", orchestrated=False)]
            program("run", force=False)  # from here on, what both sides answer is known
            compared = [program("run", force=False)]
            floors: dict[str, list[float]] = {}

            def measure(name: str, command: str, **arguments: Any) -> None:
                floors.setdefault(name, []).append(self.floors(command, **arguments))

            measure("kept", "download", keep=True)
            for _ in range(self.repeats):
                measure("download", "download")
                runs.append(program("run"))
                compared.append(program("run", force=False))
                measure("network", "download", parse=False)
                plain.append(program("run", orchestrated=False))
                for name in ("parse", "rows", "digest", "diff"):
                    measure(name, name)
                measure("links", "links", database=str(self.database))
        best = {name: min(values) for name, values in floors.items()}
        wall, alone = min(one["wall"] for one in runs), min(one["wall"] for one in plain)
        requests = served["reads"] + served["writes"] + sum(asked.values())
        peak = found["peak"]
        extract = min(one["seconds"]["extract"] for one in runs)
        reading = Stage("  of it: reading both sides", extract, "bare download and parse", best["download"])
        after = min(one["wall"] - one["seconds"]["extract"] for one in plain)
        tables = best["digest"] + best["diff"] + best["links"]
        bytes_to_tables = best["parse"] + best["rows"]
        self.stages += [
            Stage("no-change cycle, whole", wall, "bare download and parse", best["download"], 2.0, requests, peak),
            reading,
            Stage("  of it: after the read", after, "digest + diff + links", tables),
            Stage(
                "  all but the network",
                alone - best["network"],
                "parse + rows + digest + diff + links",
                bytes_to_tables + tables,
                2.0,
            ),
        ]
        outside = min(one["wall"] - one["own"] for one in runs) - min(one["wall"] - one["own"] for one in plain)
        self.stages.append(Stage("  of it: orchestration", outside, "the whole cycle", wall, 0.05, share=True))
        for one in compared:
            assert one["read"].startswith("Neither acme nor Crowd shows anybody"), one["read"]
        quiet = min(one["wall"] for one in compared)
        self.stages.append(Stage("no change, by the answers", quiet, "bare download", best["network"], 1.1))
        self.notes += [
            "no change, by the answers, seconds by stage: " + _seconds(_best([one["functions"] for one in compared])),
            "floors of the cycle, seconds: " + _seconds({name: best[name] for name in best if name != "kept"}),
            "no-change cycle, seconds by stage: " + _seconds(_best([one["functions"] for one in runs])),
            f"the same without Prefect: {alone:.2f} s, with {wall:.2f} s: {(wall - alone) / wall:+.1%} "
            "(with - without) / with; the difference of two noisy walls, so less exact than the line in the table",
            f"processor seconds of the program: {min(one['cpu'] for one in runs):.2f} with Prefect, "
            f"{min(one['cpu'] for one in plain):.2f} without",
        ]
        self.requests("no-change cycle", served, asked, 0)
        self.checks.append(Check("no-change cycle: snapshot rows added", f"{added} (one a side)", added == 2))

    def delta(self) -> None:
        """Runs that find 1 % changed; their writes are then sent bare to the twin."""
        applied: list[dict[str, Any]] = []
        for number in range(1, self.repeats + 1):
            self.say(f"1 % delta {number} of {self.repeats}")
            with self.program() as program:
                if number == 1:
                    program("run", orchestrated=False, mode="preview")  # nothing changed yet: this only warms up
                self.scim.change(**self.company.changes(number))
                orchestrated = number != 2  # one without Prefect, to compare
                found, served, asked = self.counted(program, orchestrated=orchestrated)
                floor = self.floors("download")
            bare = self.floors("write", database=str(self.database), plan=found["plan"], url=self.twin.url)
            found |= {"bare": bare, "download": floor, "orchestrated": orchestrated}
            applied.append(found)
            if number == 1:
                self.remember("1 % delta", found)
                left = self.company.changes(number)["leavers"]
                self.requests("1 % delta", served, asked, sum(found["planned"].values()), left)
                self.notes.append("1 % delta: " + ", ".join(f"{n:,} {kind}" for kind, n in found["planned"].items()))
                counted = served["reads"] + served["writes"] + sum(asked.values())
        runs = [one for one in applied if one["orchestrated"]]
        whole = min(runs, key=lambda one: one["wall"])
        rates = [sum(one["planned"].values()) / one["seconds"]["apply"] for one in runs]
        bare_rates = [one["bare"]["writes"] / one["bare"]["seconds"] for one in applied]
        rate, bare_rate = max(rates), max(bare_rates)
        writes = sum(whole["planned"].values())
        self.stages += [
            Stage(
                "1 % delta, whole",
                whole["wall"],
                "bare download, parse and writes",
                min(one["download"] for one in applied) + writes / bare_rate,
                requests=counted,
                peak=applied[0]["peak"],
            ),
            Stage(
                f"  of it: apply, {rate:,.0f} writes/s",
                writes / rate,
                f"bare writes, {bare_rate:,.0f}/s",
                writes / bare_rate,
                1 / WRITE_RATE,
            ),
        ]
        alone = [one["wall"] - one["own"] for one in applied if not one["orchestrated"]]
        if alone:
            outside = min(one["wall"] - one["own"] for one in runs) - min(alone)
            wall = whole["wall"]
            self.stages.append(Stage("  of it: orchestration", outside, "the whole run", wall, 0.05, share=True))
        self.notes.append("1 % delta, seconds by stage: " + _seconds(_best([one["functions"] for one in runs])))
        same = road.content(self.crowd) == road.content(self.twin)
        refused = sum(one["bare"]["refused"] for one in applied)
        self.checks.append(
            Check("the bare writes", f"{refused} refused; both Crowds {'equal' if same else 'differ'}", same)
        )

    # --- counts and memory ---------------------------------------------------------------------

    def snapshots(self) -> int:
        """Rows of the snapshot table."""
        connection = sqlite3.connect(self.database)
        try:
            return int(connection.execute("SELECT count(*) FROM snapshot").fetchone()[0])
        finally:
            connection.close()

    def requests(  # (what was asked, and what may be)
        self, what: str, served: dict[str, int], asked: dict[str, int], changes: int, leavers: int = 0
    ) -> None:
        """Reads against pages, look-ups by key against those who left, writes against changes."""
        company = self.company
        # What any client must fetch: the records by the page, the memberships of Crowd as one document.
        # Pages overlap by one record, so that a list that moves is seen.
        source = math.ceil((company.users - 1) / 999) + math.ceil((company.groups - 1) / 99)
        directory = math.ceil((company.users - 1) / 999) + math.ceil((company.groups - 1) / 999) + 1
        # Whom the list does not name any more is asked for by key before anything is taken from them: once.
        confirmed = asked.get("GET /Users/{id}", 0)
        told = sum(asked.values()) - confirmed
        self.checks.append(
            Check(
                f"{what}: look-ups by key at the source",
                f"{confirmed} for {leavers} who left (one each, of those who have something to lose)",
                confirmed <= leavers,
            )
        )
        for side, reads, pages in (("source", told, source), ("Crowd", served["reads"], directory)):
            self.checks.append(
                Check(
                    f"{what}: reads of {side}",
                    f"{reads} for {pages} pages ({reads - pages:+d})",
                    reads <= pages + (15 if side == "source" else 5),  # (pages of groups begin small)
                )
            )
        self.checks.append(
            Check(f"{what}: writes", f"{served['writes']:,} for {changes:,} changes", served["writes"] == changes)
        )
        kinds = {
            **{f"crowd {k}": n for k, n in served.items() if " " in k},
            **{f"scim {k}": n for k, n in asked.items()},
        }
        self.notes.append(f"{what}, requests: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items())))

    def remember(self, what: str, found: dict[str, Any]) -> None:
        """What a run's memory is made up of."""
        self.peak = max(self.peak, found["peak"])
        tables = sum(found["tables"].values())
        parts = [f"{found['before'] / 1e6:.0f} interpreter and libraries", f"{tables / 1e6:.0f} tables of both sides"]
        parts += [
            f"{size / 1e6:.0f} in {stage}" for stage, size in sorted(found["stages"].items(), key=lambda s: -s[1])
        ]
        self.memory.append((what, found["peak"], "; ".join(parts)))

    # --- the result ----------------------------------------------------------------------------

    def show(self) -> None:
        """The tables."""
        company = self.company
        table = Table(
            title=f"{self.size}: {company.users:,} users, {company.groups:,} groups, "
            f"{company.memberships:,} memberships; best of {self.repeats}",
            title_justify="left",
        )
        columns: tuple[tuple[str, Literal["left", "right"]], ...] = (
            ("stage", "left"),
            ("seconds", "right"),
            ("floor", "left"),
            ("floor s", "right"),
            ("ratio", "right"),
            ("target", "left"),
            ("requests", "right"),
        )
        for name, justify in columns:
            table.add_column(name, justify=justify, no_wrap=True)
        for one in self.stages:
            ratio = f"{one.ratio:.1%}" if one.share else f"{one.ratio:.2f}"
            target = "" if one.target is None else f"≤ {one.target:.0%}" if one.share else f"≤ {one.target:.2f}"
            if one.met is not None:
                target += " ✓" if one.met else " ✗"
            requests = f"{one.requests:,}" if one.requests else ""
            table.add_row(
                one.name, f"{one.seconds:.2f}", one.floor, f"{one.floor_seconds:.2f}", ratio, target, requests
            )
        self.console.print(table)
        for check in self.checks:
            self.console.print(f"{'✓' if check.met else '✗'} {check.what}: {check.found}", highlight=False)
        limit = f"limit {GIGABYTE / 1e6:.0f}"
        for what, peak, parts in self.memory:
            self.console.print(f"{'✓' if peak < GIGABYTE else '✗'} peak memory, {what}: {peak / 1e6:.0f} MB ({limit})")
            self.console.print(f"    {parts}", highlight=False)
        for note in self.notes:
            self.console.print(f"· {note}", highlight=False)

    def write(self, path: Path) -> None:
        """bench.json: one object a stage."""
        found = [
            {
                "name": one.name.strip(),
                "seconds": round(one.seconds, 4),
                "floor": one.floor,
                "floor_seconds": round(one.floor_seconds, 4),
                "ratio": round(one.ratio, 4),
                "target": one.target,
                "requests": one.requests,
                "peak_memory_bytes": one.peak or self.peak,
                "size": self.size,
            }
            for one in self.stages
        ]
        path.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _seconds(spent: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items())


def _best(many: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in many if name in one) for name in many[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=3, help="how often each stage is measured")
    given = parser.parse_args(arguments)
    console = Console(width=150) if not Console().is_terminal else Console()
    bench = Bench(given.size, given.repeats, console)
    bench.run()
    bench.show()
    bench.write(Path("bench.json"))


if __name__ == "__main__":
    main()
