"""Lists as people and as programs read them.

For people: a line each, in which nothing is ever cut or broken. What does not fit beside the rest stands on lines of
its own below. For programs: JSON, or CSV, with whole values and times in ISO 8601.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import pandas as pd
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from connectors.errors import ConfigurationError
from deployments.terminal import lines, printable, wrapped

Cell = str | tuple[str, str]
"""A text, or one with its style."""

NUMBERS: Final = frozenset(
    (
        *("no.", "tries", "plan", "took", "operations", "held", "users", "groups", "memberships", "runs"),
        *("planned", "intended", "done", "already", "failed", "skipped", "undone", "changes"),
    )
)
"""Columns whose values stand to the right."""
SENTENCES: Final = frozenset(("why, and what to do", "what happened", "before and after", "because it", "note", "why"))
"""Columns whose values speak for themselves: below a line they need no name."""
BESIDE: Final = 32
"""How much room a sentence needs to begin beside the rest of its line."""
OUTLIERS: Final = 0.2
"""The share of lines that may have a value too long for its column."""


AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="As CSV, for programs and spreadsheets.")]


class Form(StrEnum):
    """How a list is written."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"

    @classmethod
    def of(cls, as_json: bool, as_csv: bool) -> Form:
        """What the options of a command ask for. Raises `ConfigurationError` where that is both."""
        if as_json and as_csv:
            raise ConfigurationError("--json and --csv exclude each other; keep one")
        return cls.JSON if as_json else cls.CSV if as_csv else cls.TEXT


def moment(value: Any) -> str:
    """`2026-11-30 00:08:24`, for a column that says UTC; "" of no moment."""
    return str(pd.Timestamp(value).strftime("%Y-%m-%d %H:%M:%S")) if pd.notna(value) else ""


# ── for programs ────────────────────────────────────────────────────────────────────────────────


def write(form: Form, fields: Sequence[str], records: Iterable[Mapping[Any, Any]]) -> None:
    """Records to standard output: their `fields`, in this order."""
    rows = [{name: _plain(one.get(name)) for name in fields} for one in records]
    if form is Form.JSON:
        text = json.dumps(rows, indent=1, ensure_ascii=False)
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
        sys.stdout.write(text + "\n")
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(fields)
    out.writerows([[_cell(value) for value in row.values()] for row in rows])


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if value is None or pd.isna(value):
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _cell(value: Any) -> str:
    """A value as CSV has it: one line; and what a spreadsheet would take for a formula is none."""
    if isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    text = "" if value is None else printable(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@")) else text


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def table(
    console: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell] | str],
    *,
    indent: int = 0,
    head: bool = True,
    optional: Collection[str] = (),
) -> None:
    """Rows, a line each; a text alone is a heading for the rows after it. `optional`: columns that are shown only where
    they have room.

    Columns without values are left out. Those that find no room, from the last one on, are said below each line, and
    so are the few values that are too long for their column. A sentence is broken between words, beside the rest where
    it has room there.
    """
    every = [row if isinstance(row, str) else [_shown(cell) for cell in row] for row in rows]
    cells = [row for row in every if not isinstance(row, str)]
    used = [at for at, name in enumerate(columns) if not name or any(row[at][0] for row in cells)]
    names = [columns[at] for at in used]
    layout = _layout(names, [[row[at] for at in used] for row in cells], console.width - indent, head)
    if optional and (len(layout.widths) < len(names) or layout.capped):
        without = [column for column in columns if column not in optional]
        at_all = [columns.index(column) for column in without]
        kept = (row if isinstance(row, str) else [row[at] for at in at_all] for row in every)
        table(console, without, kept, indent=indent, head=head)
        return
    if head:
        line = _line(names, [(name, "bold") for name in names[: len(layout.widths)]], layout.widths, indent)
        if layout.beside:
            line.append(" " * (indent + layout.width - line.cell_len)).append(names[len(layout.widths)], "bold")
        console.print(line, soft_wrap=True, highlight=False)
        console.print(
            " " * indent + "─" * (console.width - indent if layout.beside else layout.width - 2),
            soft_wrap=True,
            highlight=False,
        )
    for one in every:
        if isinstance(one, str):
            console.print(Text(" " * indent + printable(one), "bold"), soft_wrap=True, highlight=False)
        else:
            _row(console, names, [one[at] for at in used], layout, indent)


@dataclass(frozen=True, slots=True)
class Layout:
    """The widths of the columns that have room on one line, from the first one on; `beside`: how wide a sentence may be
    that begins on that line, 0 where it has no room; `capped`: whether some values are too long for their column."""

    widths: Sequence[int]
    beside: int = 0
    capped: bool = False

    @property
    def width(self) -> int:
        """Of the columns, with the blanks between them and after them."""
        return sum(self.widths) + 2 * len(self.widths)


def _shown(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return printable(text), style


def _layout(names: Sequence[str], cells: Sequence[Sequence[tuple[str, str]]], room: int, head: bool) -> Layout:
    lengths = [[cell_len(row[at][0]) for row in cells] for at in range(len(names))]
    least = [cell_len(name) if head else 0 for name in names]
    widths = [max([low, *many]) for low, many in zip(least, lengths, strict=True)]
    for kept in range(len(names), 0, -1):
        over = Layout(widths[:kept]).width - 2 - room
        if over <= 0:
            left = room - Layout(widths[:kept]).width
            beside = kept < len(names) and names[kept] in SENTENCES and left >= BESIDE
            return Layout(widths[:kept], left if beside else 0)
        for at in sorted(range(1, kept), key=lambda at: -widths[at]):
            cut = widths[at] - over
            long = [length for length in lengths[at] if length > cut]
            may = names[at] not in NUMBERS | SENTENCES and cut >= max(least[at], 8)
            if may and len(long) <= OUTLIERS * len(cells):
                fits = max([least[at], *(length for length in lengths[at] if length <= cut)])
                return Layout([*widths[:at], fits, *widths[at + 1 : kept]], capped=True)
    return Layout(widths[:1])


def _row(console: Console, names: Sequence[str], row: Sequence[tuple[str, str]], layout: Layout, indent: int) -> None:
    kept = len(layout.widths)
    kept = next((at for at in range(1, kept) if cell_len(row[at][0]) > layout.widths[at]), kept)
    line = _line(names, row[:kept], layout.widths, indent)
    rest = list(zip(names[kept:], row[kept:], strict=True))
    words = rest[0][1][0].split(" ") if rest else []
    if kept == len(layout.widths) and words and max(map(cell_len, words)) <= layout.beside:
        _, (text, style) = rest.pop(0)
        first, *more = lines(Text(text, style), layout.beside)
        line.append(" " * (indent + layout.width - line.cell_len)).append_text(first)
        line.rstrip()
        console.print(line, soft_wrap=True, highlight=False)
        for one in more:
            console.print(Text(" " * (indent + layout.width)) + one, soft_wrap=True, highlight=False)
    else:
        console.print(line, soft_wrap=True, highlight=False)
    _below(console, rest, indent + 4)


def _line(names: Sequence[str], row: Sequence[tuple[str, str]], widths: Sequence[int], indent: int) -> Text:
    line = Text(" " * indent)
    for at, (text, style) in enumerate(row):
        blank = " " * max(widths[at] - cell_len(text), 0)
        right = names[at] in NUMBERS
        line.append(blank if right else "")
        line.append(text, style or None)
        line.append("" if right else blank)
        line.append("  ")
    line.rstrip()
    return line


def _below(console: Console, rest: Sequence[tuple[str, tuple[str, str]]], indent: int) -> None:
    """What found no room on a row's line: values with the names of their columns, then sentences."""
    line, used = Text(), 0
    for name, (text, style) in rest:
        if not text or name in SENTENCES:
            continue
        part = Text.assemble((f"{name} " if name else "", "dim"), (text, style or ""))
        if used and used + 3 + part.cell_len > console.width - indent:
            wrapped(console, line, indent, 2)
            line, used = Text(), 0
        line = line + Text(" · ") + part if used else part
        used = line.cell_len
    if used:
        wrapped(console, line, indent, 2)
    for name, (text, style) in rest:
        if text and name in SENTENCES:
            wrapped(console, Text(text, style), indent, 0)
