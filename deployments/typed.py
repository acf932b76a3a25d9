"""What is typed wrong: commands, options and arguments, told in one line with what may have been meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.markup import escape
from typer.exceptions import TyperException

from connectors.spelling import meant
from deployments.terminal import WRONG, printable, told

_CALLED: Final = {
    **dict.fromkeys(("preview", "dry-run", "diff-plan"), "plan"),
    **dict.fromkeys(("history", "log", "logs"), "runs"),
    **dict.fromkeys(("why", "who", "person", "people", "user", "users"), "explain"),
    **dict.fromkeys(("test", "doctor", "validate"), "check"),
    **dict.fromkeys(("version",), "--version"),
    **dict.fromkeys(("help",), "--help"),
    **dict.fromkeys(("orphans", "make", "cut", "move", "hand-over"), "links"),
    **dict.fromkeys(("migrate", "upgrade"), "database upgrade"),
}
"""Other words for commands."""


@contextmanager
def typed_right() -> Iterator[None]:
    """What a command line cannot be read for ends in one line and the exit code of a wrong call."""
    try:
        yield
    except TyperException as error:
        if getattr(error, "exit_code", 1) != WRONG or type(error).__name__ == "NoArgsIsHelpError":
            raise
        told(f"[bold red]error[/]  {escape(printable(_words(error)))}")
        raise typer.Exit(WRONG) from None


def _words(error: TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    below = context.command_path.partition(" ")[2] if context is not None else ""
    path = f"crowdsync {below}".strip()
    more = f"see {path} --help"
    name, option = type(error).__name__, getattr(error, "option_name", "")
    if name == "NoSuchOption":
        known = [one for param in context.command.params for one in getattr(param, "opts", ())] if context else []
        return f"{path} has no option {option}{meant(option, known) or f'; {more}'}"
    message = error.format_message().rstrip(".")
    if message.startswith("No such command"):
        return _command(path, message.split("'")[1], list(context.command.commands), more)
    if name == "MissingParameter":
        what, _, rest = message.removeprefix("Missing ").partition(" ")
        return f"{path}: the {what} {rest.strip(chr(39))} is missing; {more}"
    if message.startswith("Got unexpected extra argument"):
        extra = message.partition("(s) ")[2].strip("()")
        return f"{path}: {extra!r} is one word too many; leave it out, or {more}"
    if name == "BadParameter":
        return f"{path}: {_bad(error)}"
    return f"{path}: {message[:1].lower()}{message[1:]}; {more}"


def _command(path: str, word: str, known: list[str], more: str) -> str:
    way = meant(word, known)
    if path == "crowdsync" and word.casefold() in _CALLED:
        way = f"; did you mean {_CALLED[word.casefold()]!r}?"
    return f"{path} has no command {word!r}{way or f'; {more}'}"


def _bad(error: Any) -> str:
    """A value of the wrong kind."""
    hint = error.format_message().removeprefix("Invalid value for ").removesuffix(f": {error.message}")
    hint = hint.replace("'", "").replace(" / ", ", ")
    problems: list[Any] = getattr(error.__cause__, "errors", list)()
    if not problems:
        return f"{hint}: {error.message}"
    first = problems[0]
    given, context, kind = first.get("input"), first.get("ctx", {}), first["type"]
    if kind.startswith("int_"):
        return f"{hint}: {given!r} is no whole number; write one"
    bounds = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
    if kind in bounds:
        name, words = bounds[kind]
        return f"{hint}: {given} must be {words} {context[name]:g}"
    return f"{hint}: {error.message}"
