"""What every command needs: consoles, exit codes. It is imported for the list of commands too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    RecordError,
    RefusedError,
)

FAILED: Final = 1
WRONG: Final = 2
REFUSED: Final = 3
PARTLY: Final = 4
UNHEEDED: Final = 5

Many = Annotated[int, typer.Option("--limit", "-n", help="How many rows, newest first.")]
SourceName = Annotated[str, typer.Argument(help="A source of crowdsync.toml; may be left out where there is one.")]


class Terminal(Console):
    """A console on which nothing that comes from outside can move the cursor, colour, hide or turn around what others
    say: whatever is printed, control and direction characters are made visible. (Lines may still end.)"""

    def render_str(self, text: str, **how: Any) -> Text:
        """As `Console.render_str`, which every text on its way to the screen passes, in tables too."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **how)


def printable(value: Any) -> str:
    """A text in which control and direction characters are visible, the end of a line among them."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))


console = Terminal()
errors = Terminal(stderr=True)


@contextmanager
def explained() -> Iterator[None]:
    """Every failure ends in one line that says what, where and what to do, and in its exit code."""
    try:
        yield
    except CrowdsyncError as error:
        report = getattr(error, "report", None)
        for line in report.refusals if report and report.refusals else [str(error)]:
            errors.print(f"[bold red]error[/]  {escape(printable(line))}", soft_wrap=True, highlight=False)
        raise typer.Exit(code_of(error)) from None


def code_of(error: CrowdsyncError) -> int:
    """The exit code of a failure."""
    report = getattr(error, "report", None)
    if report is not None:
        return REFUSED if report.status == "refused" else PARTLY
    if isinstance(error, (ConfigurationError, AuthenticationError, ForbiddenError)):
        return WRONG
    return REFUSED if isinstance(error, (RefusedError, RecordError)) else FAILED
