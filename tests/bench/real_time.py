"""From a webhook to Crowd's write, at a rate, through the processes that people start.

`python -m tests.bench.real_time --size large --rate 100 --seconds 60`: a SCIM server and a Crowd in step, emulated;
`crowdsync receive`, `crowdsync react` and Prefect's server; and a load that changes people, one after another, and
sends a webhook for each. Every tenth joins a group, the others get another display name: one write to Crowd for each.
The time of a write is taken in the emulated Crowd. At the end a run about everybody says whether anything was left out.

`--batches 10000`: memory instead, over so many batches of `--hints 1`, each as soon as the one before is over, by a
process that does what `crowdsync react` does; `--batches 20 --hints 1,10,100`: what a batch costs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from connectors.store import Store
from deployments.process import ending
from deployments.sandbox import crowd, scim
from deployments.sandbox.organisation import Organisation, organisation
from tests.bench import live
from tests.bench.child import ROOT, Child
from tests.bench.program import PAGE
from tests.bench.servers import QUIET, SIZES, prefect
from tests.support import postgres

PASSWORD: Final = "secret"
TOKEN: Final = "secret"
SECRET: Final = "c2VjcmV0IG9mIHRoZSBiZW5jaCE="
POOL: Final = 10_000
"""So many people are changed, one after another."""
JOINS: Final = 10
"""Of so many events one is about a group."""
PATIENCE: Final = 60
"""Seconds for which the last writes are waited for."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Event:
    """One change: of whom, what is sent to the SCIM server, and by what Crowd's write is known."""

    person: str
    change: dict[str, Any]
    written: tuple[str, str]


def events(company: Organisation, count: int) -> list[Event]:
    """Changes of people who are active, each of which is another one than before."""
    active = [at for at, person in enumerate(company.people) if person.active]
    places = [active[one] for one in live.spread(POOL, len(active))]
    rng = np.random.default_rng(1)
    rng.shuffle(places)
    teams_of: dict[int, set[int]] = {}
    for team, at in zip(company.member_team.tolist(), company.member_person.tolist(), strict=True):
        teams_of.setdefault(at, set()).add(team)
    made = []
    for number in range(count):
        at = places[number % len(places)]
        person = company.people[at]
        change: dict[str, Any] = {"at": at, "name": f"{person.first_name} {person.last_name} {number}"}
        if number % JOINS == 0:
            mine = teams_of.setdefault(at, set())
            team = next(one for one in rng.permutation(len(company.teams)).tolist() if one not in mine)
            mine.add(team)
            change = {"at": at, "team": team}
        told = change.get("name") or company.teams[change["team"]].name
        made.append(Event(person.id, change, (person.username.lower(), told)))
    return made


@dataclass(slots=True)
class Watched:
    """Processes, looked at while they work: seconds of the processor, and megabytes."""

    pids: Mapping[str, int]
    begin: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    sizes: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While inside."""
        over, self.begin = threading.Event(), self._spent()

        def look() -> None:
            while not over.wait(0.5):
                self.sizes.append((time.monotonic(), self._sizes()))

        self.sizes = [(time.monotonic(), self._sizes())]
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.spent = {name: value - self.begin[name] for name, value in self._spent().items()}
            self.sizes.append((time.monotonic(), self._sizes()))

    def _spent(self) -> dict[str, float]:
        tree = family()
        return {name: sum(map(_seconds, tree.get(pid, [pid]))) for name, pid in self.pids.items()}

    def _sizes(self) -> dict[str, float]:
        tree = family()
        return {name: sum(map(_megabytes, tree.get(pid, [pid]))) for name, pid in self.pids.items()}


def family() -> dict[int, list[int]]:
    """Every process → itself and all that it started."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
    tree: dict[int, list[int]] = {pid: [pid] for pid in parents}
    for pid in parents:
        above = parents[pid]
        while above in parents:
            tree[above].append(pid)
            above = parents[above]
    return tree


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def _megabytes(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 10**6
    except OSError:
        return 0.0


class Bench:
    """One company with all its servers."""

    def __init__(self, given: argparse.Namespace, console: Console, stack: ExitStack) -> None:
        self.given, self.console, self.stack = given, console, stack
        self.company = SIZES[given.size]
        self.place = ROOT / ".crowdsync" / "bench" / f"real-time-{given.size}"

    def say(self, text: str) -> None:
        """A line on what is going on."""
        self.console.print(f"[dim]… {text}[/dim]")

    def set_up(self, count: int) -> None:
        """Everything, up to a Crowd that is in step; the pids of the servers are kept."""
        self.say("starting the emulators, and Prefect's server")
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        size, stack = self.company, self.stack
        sizes = {"users": size.users, "groups": size.groups, "memberships": size.memberships, "seed": 1}
        self.crowd: crowd.RunningCrowd = stack.enter_context(live.noted_crowd("crowdsync", PASSWORD))
        self.scim: scim.RunningScim = stack.enter_context(live.live_scim(TOKEN, **sizes))
        company = organisation(**sizes)
        content: dict[str, Any] = company.crowd_load("acme")
        self.crowd.load(**content)
        self.events = events(company, count)
        self.url = f"sqlite:///{self.place}/crowdsync.db"
        if self.given.postgres:
            self.url = stack.enter_context(stack.enter_context(postgres.running()).database())
        (self.place / "crowdsync.toml").write_text(
            f'[store]\nurl = "{self.url}"\n[directory]\nurl = "{self.crowd.url}"\napplication = "crowdsync"\n'
            f'[sources.acme]\nkind = "scim"\nurl = "{self.scim.url}"\n[sources.acme.webhook]\n'
        )
        self.environment = {
            **os.environ,
            **QUIET,
            "PREFECT_HOME": str(self.place / "prefect"),
            "CROWDSYNC_CONFIG": str(self.place / "crowdsync.toml"),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": TOKEN,
            "CROWDSYNC_WEBHOOK_SECRET": SECRET,
        }
        self.pids = {"emulated Crowd": self.crowd.process.pid, "emulated SCIM server": self.scim.process.pid}
        self.environment.pop("PREFECT_API_URL", None)
        if not self.given.without_prefect:
            before = set(family()[os.getpid()])
            api = stack.enter_context(prefect(self.place / "prefect", self.place / "prefect.log"))
            self.pids["Prefect's server"] = min(set(family()[os.getpid()]) - before)
            self.environment["PREFECT_API_URL"] = api
        # One change, so that a plan is carried out: with it the links of all are kept, as in a company that is synced.
        httpx.post(f"{self.scim.idp.url}/_bench/change", json=self.events.pop().change).raise_for_status()
        self.everybody()

    def everybody(self) -> str:
        """A run about everybody, without Prefect, in a process that ends with it: what it came to."""
        with Child("tests.bench.program", self.place / "program.log", self.environment) as program:
            found = program("run", orchestrated=False, force=False)
        self.say(f"a run about everybody: {found['status']}, {found['wall']:.0f} s, {found['planned']}")
        return str(found["status"])

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`crowdsync` with these words, once it has said its first line."""
        command = [sys.executable, "-c", "from deployments.cli import main; main()", *words]
        log = self.stack.enter_context((self.place / f"{words[0]}.log").open("w"))
        process = subprocess.Popen(
            command, env={**self.environment, "PYTHONPATH": str(ROOT)}, cwd=self.place,
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        return self.stack.enter_context(ending(process, patience=30))

    # --- latency -------------------------------------------------------------------------------

    def latency(self) -> None:
        """The load, and what it came to."""
        receiver, reactor = self.start("receive", "--port", "0"), self.start("react")
        assert receiver.stdout is not None
        assert reactor.stdout is not None
        address = receiver.stdout.readline().split()[-1]
        reactor.stdout.readline()
        sender = self.stack.enter_context(Child("tests.bench.senders", self.place / "senders.log"))
        self.pids |= {"receive": receiver.pid, "react": reactor.pid, "load": sender.pid}
        origin = self.scim.idp.url

        def send(some: Sequence[Event], rate: float) -> list[list[float]]:
            told = [{"person": one.person, "change": one.change} for one in some]
            found: list[list[float]] = sender(
                "send", scim=origin, receiver=address, secret=SECRET, rate=rate, events=told
            )
            return found

        self.say("warming up")
        warm = self.events[: self.given.warm]
        send(warm, 20)
        self.written(warm)
        self.settled()
        self.crowd.reset_counts()
        self.scim.reset_counts()
        measured = self.events[len(warm) :]
        before = self.counted()
        self.say(f"{len(measured):,} events at {self.given.rate:g} a second")
        watched = Watched(self.pids)
        began = time.monotonic()
        with watched.looking():
            sent = send(measured, self.given.rate)
            writes = self.written(measured)
        wall = time.monotonic() - began
        self.settled()
        self.report(measured, sent, writes, watched, wall, before)
        for process in (reactor, receiver):
            process.terminate()
            process.wait(30)
        self.say("whether anything was left out")
        left = self.everybody()
        self.console.print(f"{'✓' if left == 'nothing to do' else '✗'} a run about everybody then: {left}")

    def written(self, some: Sequence[Event]) -> dict[tuple[str, str], float]:
        """When Crowd was written to: (username, display name or group) → seconds. Waits until all of these are."""
        wanted = {event.written for event in some}
        found: dict[tuple[str, str], float] = {}
        end, last = time.monotonic() + PATIENCE, -1
        while not wanted <= found.keys() and time.monotonic() < end:
            time.sleep(0.5)
            for at, _, _, query, body in live.writes(self.crowd.url):
                said = orjson.loads(body) if body else {}
                about = parse_qs(query).get("username", [said.get("name", "")])[0].lower()
                found.setdefault((about, said.get("display-name") or said.get("name", "")), at)
            if len(found) > last:
                end, last = time.monotonic() + PATIENCE, len(found)
        return found

    def settled(self) -> None:
        """Until the last batch has noted its end."""
        end = time.monotonic() + PATIENCE
        with Store.open(self.url) as store:
            while store.next_due("crowd") is not None or store.running():
                if time.monotonic() > end:
                    self.say("the inbox still has something that waits")
                    return
                time.sleep(0.1)

    def counted(self) -> Counter[str]:
        """What the store has of runs, and its size."""
        with Store.open(self.url) as store:
            runs = store.runs(1_000_000)
            hints = [orjson.loads(one).get("hints", 0) if isinstance(one, str) else one.get("hints", 0)
                     for one in runs["summary"][runs["mode"] == "react"]]  # fmt: skip
        return Counter({
            "batches": len(hints), "hints": sum(hints), "everybody": int((runs["mode"] == "sync").sum()),
            "store": sum(path.stat().st_size for path in self.place.glob("crowdsync.db*")),
            "prefect": sum(path.stat().st_size for path in (self.place / "prefect").glob("prefect.db*")),
        })  # fmt: skip

    def report(  # (all that was measured)
        self, some: Sequence[Event], sent: Sequence[Sequence[float]], writes: Mapping[tuple[str, str], float],
        watched: Watched, wall: float, before: Counter[str],
    ) -> None:  # fmt: skip
        """The figures."""
        accepted = [number for number, (_, _, status) in enumerate(sent) if status == 204]
        missing = [one for number, one in enumerate(some) if number in set(accepted) and one.written not in writes]
        late = [
            (writes[some[number].written] - sent[number][1]) * 1000
            for number in accepted
            if some[number].written in writes
        ]
        answers = [(answered - at) * 1000 for at, answered, _ in sent]
        table = Table(
            title=f"{self.given.size}: {self.company.users:,} people, {len(some):,} events at {self.given.rate:g} a "
            f"second, {'PostgreSQL' if self.given.postgres else 'SQLite'}, milliseconds",
            title_justify="left",
        )
        table.add_column("")
        for name in ("p50", "p90", "p99", "max"):
            table.add_column(name, justify="right")
        for name, values in (("answered → Crowd's write", late), ("sent → answered", answers)):
            table.add_row(name, *(f"{one:,.0f}" for one in (*np.percentile(values, [50, 90, 99]), max(values))))
        self.console.print(table)
        say = self.console.print
        p50, p99 = np.percentile(late, [50, 99])
        for what, found, most in (("p50", p50, 300), ("p99", p99, 1000)):
            say(f"{'✓' if found < most else '✗'} {what}: {found:,.0f} ms of {most:,}", highlight=False)
        good = not missing and len(accepted) == len(some)
        say(f"{'✓' if good else '✗'} {len(accepted):,} of {len(some):,} accepted, {len(missing)} never written")
        begin, end = sent[0][0], max(writes.get(one.written, 0) for one in some)
        said = max(one[1] for one in sent) - begin
        say(f"· {len(some) / said:.1f} events a second were answered, {len(late) / (end - begin):.1f} written")
        after = self.counted()
        batches, hints = after["batches"] - before["batches"], after["hints"] - before["hints"]
        say(f"· {batches:,} batches, {hints / max(batches, 1):.1f} hints each; "
            f"{after['everybody'] - before['everybody']} runs about everybody")  # fmt: skip
        counts = self.crowd.counts()
        asked = sum(count for label, count in self.scim.counts().items() if "/_bench" not in label and label != "bytes")
        n = len(some)
        say(f"· requests an event: {asked / n:.2f} to the source, {counts['reads'] / n:.2f} reads and "
            f"{counts['writes'] / n:.2f} writes of Crowd")  # fmt: skip
        say(f"· of {os.cpu_count()} processors for {wall:.0f} s: " + ", ".join(
            f"{name} {spent:.1f} s ({spent / wall:.0%}, {spent / n * 1000:.1f} ms an event)"
            for name, spent in sorted(watched.spent.items(), key=lambda one: -one[1])))  # fmt: skip
        say(f"· together {sum(watched.spent.values()) / wall / (os.cpu_count() or 1):.0%} of the machine")
        for name in ("react", "receive"):
            sizes = [one[name] for _, one in watched.sizes]
            say(f"· megabytes of {name}: {sizes[0]:.0f} at the begin, {sizes[len(sizes) // 2]:.0f} in the middle, "
                f"{sizes[-1]:.0f} at the end")  # fmt: skip
        say("· megabytes of the databases: " + ", ".join(
            f"{name} {before[key] / 1e6:.1f} → {after[key] / 1e6:.1f}"
            for name, key in (("ours", "store"), ("Prefect's", "prefect"))))  # fmt: skip

    # --- memory --------------------------------------------------------------------------------

    def memory(self) -> None:
        """Batch after batch, of each size."""
        given, pids = self.given, self.environment
        with Child("tests.bench.reacting", self.place / "reacting.log", pids) as reacting:
            self._batches(reacting, self.events[: 20 * 5], 5, 20, warm=True)
            rest = self.events[20 * 5 :]
            table = Table(title=f"{self.company.users:,} people", title_justify="left")
            for name in ("hints", "batches", "ms of the processor each", "ms each", "MB", "MB at most", "MB of store"):
                table.add_column(name, justify="right")
            for hints in given.hints:
                done, portion = 0, max(1, min(1000, given.batches // 5))
                while done < given.batches:
                    count = min(portion, given.batches - done)
                    some, rest = rest[: count * hints], rest[count * hints :]
                    found = self._batches(reacting, some, hints, count)
                    done += count
                    store = sum(path.stat().st_size for path in self.place.glob("crowdsync.db*"))
                    sizes = (found["resident"], found["highest"], store)
                    times = [f"{found[name] / count * 1000:.1f}" for name in ("cpu", "wall")]
                    table.add_row(f"{hints}", f"{done:,}", *times, *(f"{one / 1e6:,.0f}" for one in sizes))
                    self.say(f"{done:,} batches of {hints}: {times[0]} ms each, {found['resident'] / 1e6:.0f} MB")
            if given.trace:
                for line in reacting("grown"):
                    self.console.print(line, highlight=False)
        self.console.print(table)
        writes, wanted = self.crowd.counts()["writes"] - 1, len(self.events) - len(rest)
        self.console.print(f"{'✓' if writes == wanted else '✗'} {writes:,} writes of {wanted:,}")

    def _batches(self, reacting: Child, some: Sequence[Event], hints: int, count: int, warm: bool = False) -> Any:
        told = [{"person": one.person, "change": one.change} for one in some]
        return reacting(
            "batches",
            scim=self.scim.idp.url,
            events=[told[at : at + hints] for at in range(0, count * hints, hints)],
            profile="" if warm or not self.given.profile else f"{self.given.profile}.{hints}",
            trace=self.given.trace and not warm,
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real_time", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rate", type=float, default=20.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm", type=int, default=40, help="events before the clock runs")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL in place of SQLite (without fsync)")
    parser.add_argument("--without-prefect", action="store_true", help="no Prefect server to show the runs on")
    parser.add_argument("--batches", type=int, default=0, help="memory over so many batches")
    parser.add_argument("--hints", default="1", help="people of each of these batches; several, with commas between")
    parser.add_argument("--profile", default="", help="a file for what cProfile finds in these batches")
    parser.add_argument("--trace", action="store_true", help="what grows in these batches, by tracemalloc")
    given = parser.parse_args()
    console = Console(width=150) if not Console().is_terminal else Console()
    with ExitStack() as stack:
        bench = Bench(given, console, stack)
        if given.batches:
            given.without_prefect = True
            given.hints = [int(one) for one in given.hints.split(",")]
            bench.set_up(101 + given.batches * sum(given.hints))
            bench.memory()
        else:
            bench.set_up(given.warm + int(given.rate * given.seconds) + 1)
            bench.latency()


if __name__ == "__main__":
    main()
