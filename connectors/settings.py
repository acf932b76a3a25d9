"""Where things are: the connections of crowdsync.toml, with secrets taken from the environment.

A setting that holds a secret names the environment variable (`…_env`) or the file (`…_file`) that has
it; the file itself never does, so that it may stand in a repository.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Union
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from connectors.errors import ConfigurationError
from connectors.idp import SOURCES
from connectors.idp.push import PushSettings
from connectors.mistakes import explain
from connectors.source import SourceSettings, Strict, secret
from connectors.spelling import meant

DEFAULT_PATH = "crowdsync.toml"


class StoreSettings(Strict):
    """Our own database."""

    url: str = Field("sqlite:///crowdsync.db", description="SQLAlchemy URL: sqlite:///FILE or postgresql://…")
    url_env: str = Field("", description="Environment variable with the URL, where it holds a password.")
    busy: float = Field(30, gt=0, le=600, description="Seconds to wait for another writer (SQLite).")
    head_file: str = Field("", description="File, not in a backup, by which an older copy put back is noticed.")


class DirectorySettings(Strict):
    """One Crowd directory, reached through one Crowd application."""

    name: str = Field("crowd", description="What it is called in history and links.")
    url: str = Field(description="Up to and with Crowd's context path, e.g. https://crowd.example.org/crowd")
    application: str = Field(description="The application's name in Crowd.")
    password_env: str = Field("CROWDSYNC_CROWD_PASSWORD", description="Environment variable with its password.")
    password_file: str = Field("", description="Or the file that holds it.")
    block: str = Field("", description="Prefect block with its password; else it comes from the environment.")
    concurrency: int = Field(16, ge=1, le=64, description="Requests under way at once.")
    requests_per_second: float | None = Field(None, gt=0, description="Crowd's limit, if it has one.")
    timeout: float = Field(60, gt=0, description="Seconds to wait for an answer.")
    page_size: int = Field(1000, ge=2, le=10_000, description="Users or groups a page.")
    busy: Literal["wait", "skip"] = Field("wait", description="What a run does while another one writes here.")
    wait_minutes: float = Field(60, gt=0, description="How long it waits.")
    ca_file: str = Field("", description="PEM file of the certificate authority, where it is not a public one.")
    webhook_secret_env: str = Field("CROWDSYNC_CROWD_WEBHOOK_SECRET", description="Variable with its webhook's secret.")
    webhook_secret_file: str = Field("", description="Or the file that holds it.")


class ReceiverSettings(Strict):
    """What `crowdsync receive` needs to know."""

    public_url: str = Field("", pattern=r"^(https?://[^/]+(/.*)?)?$", description="Its address as others reach it.")
    max_megabytes: int = Field(4, ge=1, le=64, description="The largest request that is taken.")


class ReportSettings(Strict):
    """What people read of runs."""

    templates: str = Field("", description="Folder with templates of yours, each in place of ours of that name.")


if TYPE_CHECKING:
    AnySource = SourceSettings
else:
    _kinds = tuple(source.settings for source in SOURCES.values())
    AnySource = Annotated[Union[_kinds], Field(discriminator="kind")]  # noqa: UP007 (a union of what is registered)
"""The settings of a source of any kind."""


class Settings(Strict):
    """The whole of crowdsync.toml; `file` is where it was read."""

    _file: str = PrivateAttr(DEFAULT_PATH)

    store: StoreSettings = StoreSettings()
    directory: DirectorySettings | None = None
    directories: dict[str, DirectorySettings] = Field(default_factory=dict, description="Where there are several.")
    receiver: ReceiverSettings = ReceiverSettings()
    report: ReportSettings = ReportSettings()
    sources: dict[str, AnySource] = Field(min_length=1)

    @model_validator(mode="after")
    def _somewhere(self) -> Settings:
        known = [one.name for one in self.all_directories()]
        if not known:
            raise ValueError("directory: is missing; add it")
        if len(set(known)) < len(known):
            raise ValueError(f"directories: two are called {max(known, key=known.count)!r}; give each its own name")
        for name, source in self.sources.items():
            if source.directory and source.directory not in known:
                like = meant(source.directory, known) or "; name one of these"
                raise ValueError(f"sources.{name}.directory: is none of {', '.join(known)}{like}")
            if not source.directory and len(known) > 1:
                raise ValueError(f"sources.{name}.directory: is missing; name one of {', '.join(known)}")
            if isinstance(source, PushSettings):
                source.keep(self.store_url, self.store.busy)
        return self

    def all_directories(self) -> list[DirectorySettings]:
        """Every directory, each under its name."""
        named = [one.model_copy(update={"name": name}) for name, one in self.directories.items()]
        return ([self.directory] if self.directory else []) + named

    def directory_named(self, name: str) -> DirectorySettings:
        """One directory. Raises `ConfigurationError`."""
        found = next((one for one in self.all_directories() if one.name == name), None)
        if found is None:
            known = [one.name for one in self.all_directories()]
            like = meant(name, known) or ": name one of these"
            raise ConfigurationError(f"{name!r} is none of the directories {', '.join(known)}{like}")
        return found

    def directory_of(self, source: str) -> DirectorySettings:
        """The directory that a source is synced into."""
        wanted = self.source(source).directory
        return next(one for one in self.all_directories() if wanted in ("", one.name))

    def sources_of(self, directory: str) -> list[str]:
        """The sources that are synced into a directory."""
        return [name for name in self.sources if self.directory_of(name).name == directory]

    @property
    def file(self) -> str:
        """Where it was read, for messages."""
        return self._file

    @property
    def templates(self) -> str:
        """The folder with the admin's templates, beside crowdsync.toml; "" where there is none."""
        named = self.report.templates
        return str(Path(self._file).parent / named) if named else ""

    def source(self, name: str) -> SourceSettings:
        """The settings of one source. Raises `ConfigurationError`."""
        if name not in self.sources:
            raise ConfigurationError(
                f"{self.file}: no source is called {name!r}; [sources] has {', '.join(sorted(self.sources))}"
                + (meant(name, self.sources) or ": name one of these, or add it")
            )
        chosen: SourceSettings = self.sources[name]
        return chosen

    def store_url(self) -> str:
        """The store's URL, from the environment where it stands there."""
        return secret("store.url", self.store.url_env) if self.store.url_env else self.store.url

    def head_file(self) -> Path:
        """The file that says how far the database was: beside that of SQLite, else in the working directory, and named
        after the database, so that what is of two of them is not mixed up."""
        url = self.store_url().partition("?")[0]
        kind, _, file = url.partition(":///")
        database = file if kind.startswith("sqlite") else Path(urlsplit(url).path).name or "crowdsync"
        return Path(self.store.head_file or f"{database}.head")


def load(path: str | os.PathLike[str] | None = None) -> Settings:
    """Reads crowdsync.toml (`path`, $CROWDSYNC_CONFIG, or the one here). Raises `ConfigurationError`."""
    file = Path(path or os.environ.get("CROWDSYNC_CONFIG") or DEFAULT_PATH)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(_not_there(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}; correct it there") from None
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(explain(error, str(file), Settings)) from None
    settings._file = str(file)
    for name in settings.sources:
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
            raise ConfigurationError(
                f"{file}: [sources.{name}]: a source's name has letters, digits, - and _ only, at most 40 characters: "
                "it stands in every id mark in Crowd"
            )
    return settings


def _not_there(file: Path) -> str:
    """That the configuration does not exist, and where one is that may be meant."""
    if file.is_absolute():
        return f"{file} does not exist; name yours with --config or $CROWDSYNC_CONFIG, or write one (see the README)"
    here = Path.cwd()
    above = next((one / file for one in here.parents if (one / file).is_file()), None)
    way = f"there is {above}: go there, or " if above else "go to the folder that has it, or "
    way += "name it with --config or $CROWDSYNC_CONFIG, or write one (see the README)"
    return f"{file} does not exist in {here}; {way}"
