"""The `crowdsync` command: its list of commands, each of which is imported when it is chosen.

Exit codes: 0 done, or nothing to do · 1 failed, try again · 2 a setting or the call is wrong ·
3 refused, nothing (further) was written · 4 applied, but some operations failed · 5 done, but somebody is in or out
against the source's word.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from deployments.terminal import called_with, console, errors
from deployments.typed import typed_right


@dataclass(frozen=True)
class Command:
    """A command or a group of commands, as the list shows it: its name and what it says of itself. All else is looked
    up in its module (`MODULE:NAME`, a function or a Typer), which is imported then."""

    name: str
    place: str
    help: str
    short_help: None = None
    deprecated: bool = False
    hidden: bool = False

    @cached_property
    def whole(self) -> Any:
        """The command as Typer makes it."""
        module, _, name = self.place.partition(":")
        found = getattr(importlib.import_module(module), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(found)
        return typer.main.get_command(alone)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "rich_help_panel":
            raise AttributeError(name)
        return getattr(self.whole, name)


COMMANDS: Final = (
    Command("sync", "deployments.syncing:sync", "Bring Crowd in step with a source."),
    Command(
        "plan",
        "deployments.syncing:plan",
        "Make a plan and show it, without writing to Crowd; `crowdsync apply` carries it out.",
    ),
    Command(
        "apply",
        "deployments.applying:apply",
        "Carry out a stored plan, if it is still true: both sides are read again and must give the same plan, or, "
        "where somebody agreed to it, one that asks nothing else.",
    ),
    Command(
        "approve",
        "deployments.govern:approve",
        "Agree to a plan that waits. A run that is suspended in Prefect goes on; else `crowdsync apply` carries it "
        "out.",
    ),
    Command("reject", "deployments.govern:reject", "Turn a plan that waits down."),
    Command(
        "check",
        "deployments.checking:check",
        "Test the configuration and both connections, and say what is missing. Nothing is written.",
    ),
    Command(
        "status",
        "deployments.status:status",
        "How everything stands: last good runs, and what waits for whom. Exit code 5 where something does.",
    ),
    Command(
        "explain",
        "deployments.govern:explain",
        "Say why a person is as they are on both sides, rule by rule, and what a run would do. From the last read.",
    ),
    Command("plans", "deployments.looking:plans", "The stored plans and what became of them."),
    Command(
        "runs",
        "deployments.looking:runs",
        "The latest runs, how they ended, their plans and the snapshots that they took.",
    ),
    Command(
        "held",
        "deployments.looking:held",
        "What is held, why, and for how many runs, as of the last run of each source that was to write.",
    ),
    Command("decisions", "deployments.govern:decisions", "Who agreed to which plan, or did not, and why."),
    Command("audit", "deployments.govern:audit", "The audit chain, newest first, and whether it holds."),
    Command("snapshots", "deployments.looking:snapshots", "The snapshots in history."),
    Command("diff", "deployments.looking:diff", "What changed between two snapshots."),
    Command(
        "receive",
        "deployments.realtime:receive",
        "Listen for webhooks, event tokens and SCIM, and put what they tell into the inbox, until it is ended.",
    ),
    Command(
        "react",
        "deployments.realtime:react",
        "Take what the inbox has and bring Crowd in step, within a second, until it is ended.",
    ),
    Command(
        "inbox",
        "deployments.inbox:inbox",
        "What was told in real time: what waits, and what is held because it failed too often.",
    ),
    Command(
        "deploy",
        "deployments.lasting:deploy",
        "Make the work pool and every deployment known to Prefect's server (PREFECT_API_URL). May be run again.",
    ),
    Command(
        "demo",
        "deployments.trying:demo",
        "The whole road on a made-up company: a real SCIM server or an emulated provider, and Crowd, in five scenes.",
    ),
    Command(
        "up",
        "deployments.trying:up",
        "The sandbox, the Prefect server with its UI, every deployment and a worker, kept running until Ctrl-C.",
    ),
    Command("policy", "deployments.govern:policy", "Policies: check a file, show one, its schema for editors."),
    Command("links", "deployments.govern:links", "Which account belongs to whom."),
    Command("tokens", "deployments.tokens:tokens", "Bearer tokens for identity providers that push by SCIM."),
    Command("database", "deployments.looking:database", "crowdsync's own database."),
    Command("blocks", "deployments.lasting:blocks", "Credentials as Prefect blocks."),
    Command("notify", "deployments.lasting:notify", "Messages to people, through automations of Prefect."),
    Command("sandbox", "deployments.trying:sandbox", "A company to try crowdsync on."),
)


class Commands(TyperGroup):
    """`COMMANDS`; and what is typed wrong is told in one line, as every other mistake is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {one.name: one for one in COMMANDS}  # type: ignore[misc]

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """As `TyperGroup.make_context`."""
        with typed_right():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """As `TyperGroup.invoke`."""
        with typed_right():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    help="Keeps Atlassian Crowd in step with a company's identity providers.",
    epilog="Exit codes: 0 done · 1 failed, try again · 2 a setting is wrong · 3 refused · 4 some operations failed · "
    "5 somebody is in or out against the source's word.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"crowdsync {version('crowdsync')}")
        raise typer.Exit


@app.callback()
def configured(
    config: Annotated[
        str,
        typer.Option(
            "--config", "-c", envvar="CROWDSYNC_CONFIG", help="The configuration; without it, crowdsync.toml."
        ),
    ] = "",
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Which version this is.")
    ] = False,
) -> None:
    """Keeps Atlassian Crowd in step with a company's identity providers."""
    if config:
        if os.environ.get("CROWDSYNC_CONFIG") != config:
            called_with(config)
        os.environ["CROWDSYNC_CONFIG"] = config  # the flow reads it too, in whatever process it runs
    if not console.is_terminal:  # a mail or a log file has no edge
        columns = os.environ.get("COLUMNS", "")
        console.width = (columns.isdigit() and int(columns)) or 160
    logging.getLogger("stamina").setLevel(logging.ERROR)  # how often a call was tried stands in its error


def _interrupt(*_: object) -> None:
    """What Ctrl-C does, also where it does nothing: a script's shell has what it starts with `&` ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Entry point. What ends a process ends a command as Ctrl-C does: it closes what it opened, and says how far it
    came."""
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) is not signal.SIG_IGN:  # (as under nohup)
            signal.signal(end, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)
