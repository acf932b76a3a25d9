"""What every command needs: consoles, exit codes. It is imported for the list of commands too."""

from __future__ import annotations

import shlex
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

Many = Annotated[int, typer.Option("--limit", "-n", help="How many rows, newest first.", min=1)]
Most = Annotated[int, typer.Option("--limit", "-n", help="How many rows.", min=1)]
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


def said(console: Console, text: str, indent: int = 0, hang: int = 4) -> None:
    """A sentence with markup, broken between words alone; what follows its first line is set in by `hang` more."""
    wrapped(console, console.render_str(text), indent, hang)


def wrapped(console: Console, text: Text, indent: int, hang: int) -> None:
    """As `said`, of a text that is made already."""
    for number, line in enumerate(lines(text, console.width - indent - hang)):
        console.print(Text(" " * (indent + (hang if number else 0))) + line, soft_wrap=True, highlight=False)


def lines(text: Text, width: int) -> list[Text]:
    """A text in lines that are broken between words alone: one word may be longer."""
    lines: list[Text] = []
    for word in text.split(" ", allow_blank=True):
        if lines and lines[-1].cell_len + 1 + word.cell_len <= width:
            lines[-1].append(" ").append_text(word)
        else:
            lines.append(word)
    for line in lines:
        line.rstrip()
    return lines or [Text()]


console = Terminal()
errors = Terminal(stderr=True)


_PROGRAM = ["crowdsync"]


def called_with(config: str) -> None:
    """The configuration that was named on the command line: the next commands are to name it too."""
    _PROGRAM[1:] = ["-c", shlex.quote(config)]


def command(words: str) -> str:
    """A command as it is to be typed."""
    return " ".join((*_PROGRAM, words))


def next_steps(*steps: tuple[str, str]) -> None:
    """What to do next: commands, and what each is for."""
    said(console, "[bold]Next[/]")
    for words, what in steps:
        console.print(f"  {escape(printable(command(words)))}", soft_wrap=True, highlight=False)
        said(console, escape(printable(what)), 6, 0)


def told(line: str) -> None:
    """A line to standard error, with markup: whole where it is kept, broken between words where somebody reads it."""
    if errors.is_terminal:
        said(errors, line)
    else:
        errors.print(line, soft_wrap=True, highlight=False)


@contextmanager
def explained() -> Iterator[None]:
    """Every failure ends in one line that says what, where and what to do, and in its exit code."""
    try:
        yield
    except CrowdsyncError as error:
        report = getattr(error, "report", None)
        for line in report.refusals if report and report.refusals else [str(error)]:
            told(f"[bold red]error[/]  {escape(printable(line))}")
        raise typer.Exit(code_of(error)) from None


def code_of(error: CrowdsyncError) -> int:
    """The exit code of a failure."""
    report = getattr(error, "report", None)
    if report is not None:
        return REFUSED if report.status == "refused" else PARTLY
    if isinstance(error, (ConfigurationError, AuthenticationError, ForbiddenError)):
        return WRONG
    return REFUSED if isinstance(error, (RefusedError, RecordError)) else FAILED
