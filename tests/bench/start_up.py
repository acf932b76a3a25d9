"""What a command costs as a whole process, beside the import of what it cannot do without: CPU seconds, and seconds.

`python -m tests.bench.start_up [--people 10000] [--repeats 5]`. Entra and Crowd are the emulated ones, in step; no
Prefect server is named. Every line is measured once in each round, so that what else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from connectors.idp import SOURCES
from deployments.sandbox import crowd, idp
from deployments.sandbox.provider import toml
from tests.bench.changed import PASSWORD, POLICY, content
from tests.bench.child import ROOT

TERMINAL: Final = "import typer, rich.console, rich.table"
ENGINE: Final = "import pandas; from prefect.flow_engine import run_flow"


@dataclass
class Line:
    """One command: its words, what it is measured against, how many times that it may cost, and its exit code."""

    words: tuple[str, ...]
    floor: str = ""
    most: float = 0
    code: int = 0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self, environment: dict[str, str]) -> None:
        """Once more, as a process of its own."""
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *self.words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall.append(time.perf_counter() - start)
        self.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode != self.code:
            raise SystemExit(f"{self.words} ended with {done.returncode}: {done.stdout}{done.stderr}")


def crowdsync(*words: str) -> tuple[str, ...]:
    """A command as people start it."""
    return ("-c", "from deployments.cli import main; main()", *words)


def measured(people: int, repeats: int, console: Console) -> dict[str, Line]:
    """Every line, `repeats` times."""
    groups, memberships = max(20, people // 50), people * 10
    place = ROOT / ".crowdsync" / "bench" / f"start-{people}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    lines = {
        "typer, rich": Line(("-c", TERMINAL)),
        "pandas, Prefect's engine": Line(("-c", ENGINE)),
        "--help": Line(crowdsync("--help"), "typer, rich", 2.5),
        "apply, done already": Line(crowdsync("apply", "1"), "--help", 2, code=3),
        "apply, unknown": Line(crowdsync("apply", "77"), "--help", code=2),
        "runs": Line(crowdsync("runs"), "--help"),
        "sync, nothing to do": Line(crowdsync("sync"), "pandas, Prefect's engine", 2.5),
    }
    with ExitStack() as stack:
        source = stack.enter_context(idp.running("entra", users=people, groups=groups, memberships=memberships))
        there = stack.enter_context(crowd.running(applications={"crowdsync": PASSWORD}))
        there.configure(
            directories=[{"name": "d", "events": True}],
            applications=[{"name": "crowdsync", "password": PASSWORD}],
            events={"replay": 0},
        )
        there.load(**content("entra", people, groups, memberships))
        environment = made(place, there.url, source)
        for words in (("sync", "--force"), ("sync",), ("sync",)):
            subprocess.run([sys.executable, *crowdsync(*words)], cwd=ROOT, env=environment, check=True)
        for number in range(repeats):
            for line in lines.values():
                line.run(environment)
            console.print(f"[dim]round {number + 1} of {repeats}[/dim]")
    return lines


def made(place: Path, crowd_url: str, source: Any) -> dict[str, str]:
    """A configuration, and the environment that goes with it."""
    (place / "crowdsync.toml").write_text(
        f'[store]\nurl = "sqlite:///{place}/crowdsync.db"\n'
        f'[directory]\nurl = "{crowd_url}"\napplication = "crowdsync"\n'
        f"[sources.acme]\n{toml(source.settings)}{POLICY}"
    )
    fields = SOURCES["entra"].settings.model_fields
    known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    known.pop("PYTHONDONTWRITEBYTECODE", None)
    return {
        **known,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(place / "prefect"),
        "CROWDSYNC_CONFIG": str(place / "crowdsync.toml"),
        "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
        **{fields[f"{name}_env"].default: value for name, value in source.secrets.items()},
    }


def main() -> None:
    """The command line in this module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    console, given = Console(), parser.parse_args()
    lines = measured(given.people, given.repeats, console)
    table = Table(box=None, title=f"whole processes, {given.people:,} people: medians", title_justify="left")
    for title in ("command", "CPU s", "seconds", "beside", "times", "at most"):
        table.add_column(title, justify="left" if title in ("command", "beside") else "right")
    missed = []
    for name, line in lines.items():
        used = statistics.median(line.cpu)
        times = used / statistics.median(lines[line.floor].cpu) if line.floor else 0.0
        if line.most and times > line.most:
            missed.append(name)
        table.add_row(
            name,
            f"{used:.2f}",
            f"{statistics.median(line.wall):.2f}",
            line.floor,
            f"{times:.2f}" if line.floor else "",
            f"{line.most:g}" if line.most else "",
        )
    console.print(table)
    if missed:
        raise SystemExit(f"above the target: {', '.join(missed)}")


if __name__ == "__main__":
    main()
