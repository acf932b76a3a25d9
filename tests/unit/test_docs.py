"""The documentation is whole and true: what can be typed or set stands in it, with its default, and what stands in it
can be typed, set, loaded and opened. A failure names what is missing and where a reader looks for it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from connectors.idp import SOURCES
from connectors.settings import DirectorySettings, ReportSettings, Settings, StoreSettings, load
from connectors.source import EventSettings, PollingSettings, SourceSettings, WebhookSettings, WithPolling
from deployments.cli import COMMANDS, app
from tasks.policy import Policy, policy_of, read_policy

ROOT = Path(__file__).parents[2]
README, SETTINGS, POLICY = (
    ROOT / "README.md",
    ROOT / "connectors" / "README.md",
    ROOT / "tasks" / "policy" / "POLICY.md",
)
PAGES = {kind: ROOT / "connectors" / "idp" / "docs" / f"{kind}.md" for kind in SOURCES if kind != "scim"}
PAGES["scim"] = SETTINGS
MANUAL = (README, SETTINGS, POLICY, *(ROOT / "connectors" / "idp" / "docs").glob("*.md"))
"""What says how it is now. The log of changes also names what is gone."""
ALL = (*MANUAL, ROOT / "OPERATIONS.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")

BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _blocks(file: Path, *languages: str) -> list[str]:
    return [found["text"] for found in BLOCK.finditer(_text(file)) if found["language"] in languages]


def _prose(file: Path) -> str:
    return BLOCK.sub("", _text(file))


def _rows(file: Path) -> list[list[str]]:
    """The rows of all its tables, as cells."""
    lines = (line.strip() for line in _prose(file).splitlines())
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]


def _documented(file: Path) -> dict[str, str]:
    """The settings in the tables `setting | default | meaning` of a file → their default, as the cell has it."""
    found: dict[str, str] = {}
    ours = False
    for row in _rows(file):
        heading = not SPAN.findall(row[0]) and set(row[0]) - set("-: ")
        ours = row[:2] == ["setting", "default"] if heading else ours
        found |= dict.fromkeys(SPAN.findall(row[0]), row[1]) if ours else {}
    return found


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

MAIN: Any = typer.main.get_command(app)


def _commands(command: Any = MAIN, path: str = "crowdsync") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what is typed; the first is the options before any of them."""
    if command is MAIN or not hasattr(command, "commands"):
        yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, f"{path} {name}")


def _options(command: Any) -> list[list[str]]:
    """The spellings of each option of a command."""
    return [[*one.opts, *one.secondary_opts] for one in command.params if one.param_type_name == "option"]


def _lines(file: Path) -> list[str]:
    """Every command line in a file: a line of a shell block, or a span of code."""
    shell = [line.strip() for block in _blocks(file, "sh") for line in block.splitlines()]
    return [line for line in (*shell, *SPAN.findall(_prose(file))) if re.match(r"crowdsync( |$)", line)]


def _parsed(line: str) -> tuple[str, Any, list[str]]:
    """(the command that is typed, the command, what follows it) of a line. Raises ValueError where there is none."""
    words = shlex.split(re.split(r" [>|#…]", line)[0])[1:]
    command, path = MAIN, "crowdsync"
    while words and words[0] in ("--config", "-c"):
        words = words[2:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            raise ValueError(f"{path} has no command {words[0]!r}")
        path, command = f"{path} {words[0]}", command.commands[words[0]]
        words = words[1:]
    return path, command, words


def test_every_command_and_option_is_in_the_readme() -> None:
    shown: dict[str, set[str]] = {}
    wrong = []
    for row in _rows(README):
        spans = [span for cell in row for span in SPAN.findall(cell)]
        typed = [_parsed(span) for span in SPAN.findall(row[0]) if span.startswith("crowdsync")]
        words = {word for span in spans for word in re.split(r"[ =\[\]]", span)}
        for path, _, _ in typed:
            shown.setdefault(path, set()).update(words)
        known = {spelling for _, command, _ in typed for spellings in _options(command) for spelling in spellings}
        wrong += [f"{row[0]}: {word}" for word in sorted(words - known) if typed and word.startswith("-")]
    assert not wrong, f"README.md has options that no command of the row has: {'; '.join(wrong)}"
    for line in _lines(README):
        path, _, given = _parsed(line)
        shown.setdefault(path, set()).update(given)
    missing = [path for path, _ in _commands() if path not in shown]
    missing += [
        f"{path} {spellings[0]}"
        for path, command in _commands()
        for spellings in _options(command)
        if path in shown and not shown[path] & set(spellings)
    ]
    assert not missing, f"not in the table of commands in README.md: {', '.join(missing)}"


def test_every_command_says_what_it_and_its_options_are_for() -> None:
    silent = [path for path, command in _commands() if not command.help]
    silent += [
        f"{path} {one.name}" for path, command in _commands() for one in command.params if not getattr(one, "help", "")
    ]
    assert not silent, f"without a help text in deployments/: {', '.join(silent)}"


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    """(The list is shown without importing them.)"""
    for one in COMMANDS:
        said = re.sub(r"\s+", " ", one.whole.help.partition("\n\n")[0])
        assert one.help == said, one.name
    code = "import sys; sys.argv = ['crowdsync', '--help']; from deployments.cli import main\ntry: main()\n"
    code += "finally: print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    imported = {name.partition(".")[0] for name in shown.split("\n")[-2].split()}
    heavy = {
        "pandas",
        "numpy",
        "pyarrow",
        "pydantic",
        "sqlalchemy",
        "prefect",
        "great_expectations",
        "fastapi",
        "httpx",
    }
    assert imported & {"typer", *heavy} == {"typer"}


@pytest.mark.parametrize("file", ALL, ids=_name)
def test_every_command_line_can_be_typed(file: Path) -> None:
    wrong = []
    for line in _lines(file):
        try:
            _, command, words = _parsed(line)
        except ValueError as error:
            wrong.append(f"`{line}`: {error}")
            continue
        known = {spelling for spellings in _options(command) for spelling in spellings} | {"--help"}
        given = [word.lstrip("[").split("=")[0].rstrip("]") for word in words if word.lstrip("[").startswith("-")]
        wrong += [f"`{line}`: there is no option {option}" for option in given if option not in known]
    assert not wrong, f"{_name(file)}: {'; '.join(wrong)}"


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Setting:
    """One field of a configuration or policy: where it stands, and the model's own word on it."""

    path: str
    field: Any

    @property
    def default(self) -> Any:
        """As plain data, without what is empty; None where there is none, or it must be given."""
        if self.field.default is PydanticUndefined:
            return None
        value = to_jsonable_python(self.field.default)
        if isinstance(value, dict):
            value = {name: one for name, one in value.items() if one not in (None, "", [], {})}
        elif isinstance(value, list) and isinstance(self.field.default, frozenset):
            value = sorted(value)
        return None if value in ("", [], {}) else value


def _fields(model: type[BaseModel], prefix: str) -> list[Setting]:
    return [Setting(f"{prefix}{name}", field) for name, field in model.model_fields.items()]


def _below(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field holds, in lists and tables too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _below(inner)


def _policy_settings() -> list[Setting]:
    """Every field of the policy: those of a section by `section.field`, those of what stands in lists and tables, or in
    several places, once, by the name of what they are: `rule.pattern`, `limit.percent`."""
    found: dict[type[BaseModel], list[Setting]] = {}
    waiting: list[tuple[type[BaseModel], str]] = []
    for name, field in Policy.model_fields.items():
        section = next(_below(field.annotation), None)
        if section is None:
            found.setdefault(Policy, []).append(Setting(name, field))
        else:
            waiting.append((section, f"{name}."))
    while waiting:
        model, prefix = waiting.pop(0)
        if model in found:
            continue
        found[model] = _fields(model, prefix)
        held = {inner for one in found[model] for inner in _below(one.field.annotation)}
        waiting += sorted(((inner, f"{inner.__name__.lower()}.") for inner in held), key=lambda pair: pair[1])
    return [setting for settings in found.values() for setting in settings]


def _own(kind: str) -> list[Setting]:
    """The settings that a kind of source has besides those of every source, or with another default."""
    every = SourceSettings.model_fields
    return [
        one
        for one in _fields(SOURCES[kind].settings, "")
        if one.path != "kind" and (one.path not in every or one.field.default != every[one.path].default)
    ]


def _shared() -> list[Setting]:
    return [
        *_fields(StoreSettings, "store."),
        *_fields(DirectorySettings, "directory."),
        *_fields(SourceSettings, "sources.NAME."),
        *_fields(WebhookSettings, "sources.NAME.webhook."),
        *_fields(EventSettings, "sources.NAME.events."),
        *_fields(WithPolling, "sources.NAME."),
        *_fields(PollingSettings, "sources.NAME.polling."),
        *_fields(ReportSettings, "report."),
    ]


def _wrong_defaults(settings: list[Setting], documented: dict[str, str]) -> list[str]:
    """Settings whose default in a table is another one. What stands there in words is a person's to keep true."""
    wrong = []
    for one in settings:
        cell = documented.get(one.path, "")
        code = re.fullmatch(r"`(.+)`", cell)
        if one.path in documented and (code or not cell):
            told = yaml.safe_load(code[1]) if code else None
            told = code[1] if code and code[1] == one.default else told  # (on and off are texts here)
            told = sorted(told) if isinstance(told, list) and isinstance(one.field.default, frozenset) else told
            if told != one.default:
                wrong.append(f"{one.path}: {cell or 'nothing'} is not {one.default!r}")
    return wrong


@pytest.mark.parametrize(
    ("file", "settings"),
    [(SETTINGS, _shared()), (POLICY, _policy_settings())],
    ids=["configuration", "policy"],
)
def test_every_setting_is_in_the_table_with_its_default(file: Path, settings: list[Setting]) -> None:
    documented = _documented(file)
    missing = [one.path for one in settings if one.path not in documented]
    assert not missing, f"not in a table of {_name(file)}, as `path` | default | meaning: {', '.join(missing)}"
    wrong = _wrong_defaults(settings, documented)
    assert not wrong, f"{_name(file)}: {'; '.join(wrong)}"
    sections = {one.path.split(".")[0] for one in settings}
    stale = {path for path in documented if "." in path and path.split(".")[0] in sections}
    stale -= {one.path for one in settings}
    assert not stale, f"{_name(file)} has what is no setting: {', '.join(sorted(stale))}"


@pytest.mark.parametrize("kind", SOURCES)
def test_the_settings_of_a_kind_are_on_its_page(kind: str) -> None:
    page = PAGES[kind]
    documented = _documented(page)
    shown = set(documented)
    shown |= {word for span in SPAN.findall(_prose(page)) for word in re.findall(r"^[a-z_]+", span)}
    shown |= set(re.findall(r"^(?:# )?([a-z_]+) = ", "\n".join(_blocks(page, "toml")), re.MULTILINE))
    shown |= {word for line in _blocks(page, "toml") for word in re.findall(r"\bor ([a-z_]+_(?:env|file))\b", line)}
    missing = [one.path for one in _own(kind) if one.path not in shown]
    assert not missing, f"not in {_name(page)}, in its table or its example: {', '.join(missing)}"
    stale = {name for name in documented if "." not in name} - set(SOURCES[kind].settings.model_fields)
    assert not stale, f"{_name(page)} has what is no setting: {', '.join(sorted(stale))}"
    wrong = _wrong_defaults(_own(kind), documented)
    assert not wrong, f"{_name(page)}: {'; '.join(wrong)}"


def _choices(annotation: Any) -> set[str]:
    """The words that a field takes, in a list too."""
    below = [_choices(inner) for inner in get_args(annotation) if get_origin(annotation) is not Literal]
    own = get_args(annotation) if get_origin(annotation) is Literal else ()
    return {word for word in own if isinstance(word, str)}.union(*below)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        (SETTINGS, _shared()),
        (POLICY, _policy_settings()),
        *((page, [one for one in _own(kind) if one.path != "kind"]) for kind, page in PAGES.items()),
    ],
    ids=["configuration", "policy", *PAGES],
)
def test_every_choice_stands_beside_its_setting(file: Path, settings: list[Setting]) -> None:
    """In its row or above its table; where it has no row, in the part of the page that has it in an example."""
    parts = re.split(r"^#+ (?![a-z_]+ = )", _text(file), flags=re.MULTILINE)  # (that is commented out)
    rows = _documented(file)
    missing = []
    for one in settings:
        there = ""
        for part in parts:
            head = part.split("\n|")[0]
            row = next((line for line in part.splitlines() if re.match(rf"\| [^|]*`{re.escape(one.path)}`", line)), "")
            example = re.search(rf"^(# )?{re.escape(one.path)} = ", part, re.MULTILINE)
            there += f"{head}\n{row}\n" if row else part if example and one.path not in rows else ""
        words = set(re.findall(r"[`\"](\w+)[`\"]", there))
        missing += [f"{one.path}: {choice}" for choice in sorted(_choices(one.field.annotation) - words)]
    assert not missing, f"not in {_name(file)}, beside its setting: {', '.join(missing)}"


def test_every_setting_says_what_it_is_for() -> None:
    every = [*_shared(), *_policy_settings(), *(one for kind in SOURCES for one in _own(kind))]
    top = [Setting(name, field) for name, field in Policy.model_fields.items()]
    silent = [one.path for one in every if not one.field.description]
    silent += [one.path for one in top if not (one.field.description or one.field.title)]
    assert not silent, f"without a description in its model: {', '.join(silent)}"


@pytest.mark.parametrize("file", MANUAL, ids=_name)
def test_what_is_named_as_a_setting_is_one(file: Path) -> None:
    """A span such as `limits.window_hours`, or `page_size = 50`."""
    policy = {one.path for one in _policy_settings()} | set(Policy.model_fields)
    shared = {one.path.split(".")[-1] for one in _shared()}
    own = {name for source in SOURCES.values() for name in source.settings.model_fields}
    wrong = []
    for span in SPAN.findall(_prose(file)):
        path = re.fullmatch(r"(?:policy\.)?([a-z_]+)((?:\.[a-z_]+)+)", span)
        ours = path and path[1] in Policy.model_fields and path[1] != "attributes"  # (Keycloak has fields of that name)
        if path and ours and path[1] + path[2] not in policy:
            wrong.append(span)
        given = re.match(r"([a-z_]+) = [\"\d\[tf]", span)
        if given and given[1] not in shared | own:
            wrong.append(span)
    assert not wrong, f"{_name(file)}: no such setting: {', '.join(wrong)}"


# ── examples ────────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(*languages: str) -> list[Any]:
    return [
        pytest.param(file, text, id=f"{_name(file)}-{number}")
        for file in ALL
        for number, text in enumerate(_blocks(file, *languages))
    ]


def _whole(snippet: str) -> str:
    """A configuration from an example of some of its tables: with a directory where it has none."""
    parsed = tomllib.loads(snippet)
    directory = '\n[directory]\nurl = "https://crowd.example.org/crowd"\napplication = "crowdsync"\n'
    return snippet + ("" if {"directory", "directories"} & set(parsed) else directory)


@pytest.mark.parametrize(("file", "text"), _examples("toml"))
def test_every_example_of_a_configuration_loads(file: Path, text: str, tmp_path: Path) -> None:
    """As it stands, and with each of its settings that are commented out."""
    alternatives = re.findall(r"^# [a-z_]+ = .*$", text, re.MULTILINE)
    for one in ["", *alternatives]:
        given = _whole(text.replace(one, one[2:], 1) if one else text)
        (tmp_path / "crowdsync.toml").write_text(given, encoding="utf-8")
        settings: Settings = load(tmp_path / "crowdsync.toml")
        for source in settings.sources:
            policy_of(settings, source)


@pytest.mark.parametrize(("file", "text"), _examples("yaml", "yml"))
def test_every_example_of_a_policy_loads(file: Path, text: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    assert read_policy(tmp_path / "policy.yaml") != Policy()


@pytest.mark.parametrize("file", ALL, ids=_name)
def test_every_block_says_what_it_is(file: Path) -> None:
    """So that no example escapes because it names no language. Without one: drawings, and what is pasted elsewhere."""
    for text in _blocks(file, ""):
        assert not re.search(r"^\s*(\[[a-z.]+\]$|crowdsync |[a-z_]+ = |[a-z_]+:( |$))", text, re.MULTILINE), text


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _anchors(file: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _prose(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", ALL, ids=_name)
def test_every_link_leads_somewhere(file: Path) -> None:
    wrong = []
    for link in LINK.findall(_prose(file)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path) if path else file
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert not wrong, f"{_name(file)}: nothing is there: {', '.join(wrong)}"


def test_every_provider_has_a_page_that_the_readme_names() -> None:
    named = {(README.parent / link).resolve() for link in LINK.findall(_prose(README)) if "://" not in link}
    missing = [kind for kind, page in PAGES.items() if not page.exists() or page.resolve() not in named]
    assert not missing, f"no page in connectors/idp/docs, or none that README.md links to: {', '.join(missing)}"
    assert all(f"`{kind}`" in _text(README) for kind in SOURCES)
