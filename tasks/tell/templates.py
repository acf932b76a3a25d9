"""What people read comes from short templates (Jinja, in `templates/`), which an admin may copy and change.

A template of theirs has the name of ours and stands in the folder that crowdsync.toml names (`report.templates`). One
that is broken loses nothing: ours takes its place, and says so at its end. Nothing here knows Prefect.

Whatever stands between `{{` and `}}` is text and never markup, for names come from outside: no link, image, HTML or end
of a cell comes of it. Markup is what the file itself says, and what it includes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

OURS: Final = Path(__file__).with_name("templates")
NAMES: Final = tuple(sorted(file.name for file in OURS.iterdir()))
"""The templates that there are: those in .md for pages, those in .txt for messages, which Prefect itself renders."""

log = logging.getLogger("crowdsync")


class Words(str):
    """Text of our own that stays as it is, such as the counts of a plan with their signs."""

    __slots__ = ()


_MARKUP: Final = re.compile(
    r"[\\`*\[<&~@]|(?<![^\W_])_|_(?![^\W_])|\A[-+#>=]|(?<=\d)[.)](?=\s|\Z)|:(?=//)|(?<=\bwww)\.", re.IGNORECASE
)


def plain(value: Any) -> str:
    """Names come from outside: they must not become markup in the page, where every cell of a table is markdown, and
    an address a link without being asked."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(str(value).split()))


def cell(value: Any) -> str:
    """Text for a cell of a markdown table."""
    return plain(value).replace("|", "\\|")


def render(name: str, values: Mapping[str, Any], folder: str = "") -> str:
    """A template of the admin's `folder`, or else ours, filled in with `values`, which are plain data."""
    if not folder:
        return _filled(name, values, "")
    why = "" if Path(folder).is_dir() else f"the folder {folder} is not there"
    if not why:
        try:
            return _filled(name, values, folder)
        except Exception as error:  # whatever it is, what was done is told
            why = _why(error)
    log.warning("The template %s of %s was not used: %s", name, folder, why)
    values_of = {"name": name, "folder": folder, "why": why}
    return f"{_filled(name, values, '')}\n\n{_filled('broken.md', values_of, '')}"


def _filled(name: str, values: Mapping[str, Any], folder: str) -> str:
    return _environment(folder).get_template(name).render(values).strip()


@lru_cache(maxsize=8)
def _environment(folder: str) -> SandboxedEnvironment:
    """Compiles each template once, and again when its file changes. (Jinja2 is loaded here, for whoever reports.)"""
    from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def text(value: Any) -> str:
        return value if type(value) is Words else cell(value)

    made = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(one) for one in (folder, OURS) if one]),
        finalize=text,
        # (Not Jinja's own escaping, which knows HTML alone, and lets pass what a filter calls safe.)
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = lambda value: Words(f"{value:,}")
    return made


def message(name: str, folder: str, check: Callable[[str], object]) -> tuple[str, str, str]:
    """The template of a message: its subject (the first line), its body, and why the admin's was not used. `check`
    raises where Prefect would not take it."""
    why = ""
    if folder and (Path(folder) / name).exists():
        try:
            text = (Path(folder) / name).read_text(encoding="utf-8")
            check(text)
            return *_parted(text), ""
        except Exception as error:
            why = f"the template {name} of {folder} was not used: {_why(error)}"
    return *_parted((OURS / name).read_text(encoding="utf-8")), why


def _parted(text: str) -> tuple[str, str]:
    subject, _, body = text.strip().partition("\n")
    if not body.strip():
        raise ValueError("the first line is the subject, and the body is missing")
    return subject, body.strip()


def faults(folder: str) -> list[str]:
    """What is wrong with an admin's templates, as far as it shows before they are filled in."""
    if not folder:
        return []
    if not Path(folder).is_dir():
        return [f"the folder {folder} is not there: make it, or take report.templates out"]
    found = []
    for file in sorted(Path(folder).iterdir()):
        if file.name not in NAMES:
            found.append(f"{file}: there is no template of that name; the names are {', '.join(NAMES)}")
            continue
        try:
            _environment("").parse(file.read_text(encoding="utf-8"))
        except Exception as error:
            found.append(f"{file}: {_why(error)}; until it is corrected, ours takes its place")
    return found


def _why(error: Exception) -> str:
    line = getattr(error, "lineno", None)
    return f"{f'line {line}: ' if line else ''}{str(error) or type(error).__name__}"
