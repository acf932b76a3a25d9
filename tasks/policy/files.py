"""Where a policy is written: in crowdsync.toml, or in a YAML or TOML file of its own; and its JSON schema."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from connectors.errors import ConfigurationError
from connectors.mistakes import explain
from connectors.settings import Settings
from tasks.policy.models import Policy

MAX_FILE = 1_000_000
"""How many bytes a policy's file may have."""

_made: dict[tuple[str, str], tuple[str, Policy]] = {}
"""The policy that was made last of a source's section: of which text, and the policy. (A policy never changes.)"""


def policy_of(settings: Settings, source: str) -> Policy:
    """The policy of one source: in crowdsync.toml, or in the file that it names; made once of the same text. Raises
    `ConfigurationError` naming the file and the field."""
    chosen = settings.source(source)
    if not chosen.policy_file:
        text = repr(chosen.policy)
        made = _made.get((settings.file, source))
        if made is None or made[0] != text:
            made = text, _policy(chosen.policy, settings.file, ("sources", source, "policy"))
            _made[settings.file, source] = made
        return made[1]
    if chosen.policy:
        raise ConfigurationError(
            f"{settings.file}: sources.{source}: policy and policy_file exclude each other; keep one"
        )
    return read_policy(Path(settings.file).parent / chosen.policy_file)


def read_policy(file: Path) -> Policy:
    """A policy from a YAML or TOML file of its own. Raises `ConfigurationError` naming the field."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}; name the policy's file") from None
    if len(raw) > MAX_FILE:
        raise ConfigurationError(f"{file} is larger than {MAX_FILE:,} bytes; shorten it")
    return _of_bytes(raw, file)


@lru_cache(maxsize=8)
def _of_bytes(raw: bytes, file: Path) -> Policy:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not UTF-8 text; save it as such") from None
    kind = "TOML" if file.suffix.lower() == ".toml" else "YAML"
    try:
        data = tomllib.loads(text) if kind == "TOML" else yaml.load(text, _Loader)  # noqa: S506 (a safe one)
    except RecursionError:
        raise ConfigurationError(f"{file} is nested too deep; a policy has a few levels only") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"{file} cannot be read as {kind}: {' '.join(str(error).split())}; correct it"
        ) from None
    if data is not None and not isinstance(data, dict):
        raise ConfigurationError(f"{file} holds no fields; begin with one, such as `scope:`")
    return _policy(data or {}, str(file), ())


class _Loader(yaml.SafeLoader):
    """YAML without what lets a small text become a large one, or one key hide another."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.YAMLError(f"line {line} has an anchor, an alias or a tag, which a policy cannot have")
        node: yaml.Node | None = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= letter <= "\udfff" for letter in node.value):
            raise yaml.YAMLError(f"line {line} has half a letter, which is no text")
        keys = [key.value for key, _ in node.value if key.id == "scalar"] if isinstance(node, yaml.MappingNode) else []
        if "<<" in keys:
            raise yaml.YAMLError(f"line {line} has a merge, which a policy cannot have")
        if len(set(keys)) < len(keys):
            raise yaml.YAMLError(f"in what begins in line {line}, {max(keys, key=keys.count)!r} stands twice")
        return node


def _policy(data: Mapping[str, Any], file: str, prefix: tuple[str, ...]) -> Policy:
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(explain(error, file, Policy, prefix)) from None


def schema() -> dict[str, Any]:
    """The policy's JSON schema, for editors: `# yaml-language-server: $schema=…` at the head of a file."""
    made = Policy.model_json_schema()
    for feature in made["$defs"]["Operations"]["properties"].values():  # (the UI's form needs no true and false)
        feature["enum"] += [True, False]
        del feature["type"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "A crowdsync policy"}
