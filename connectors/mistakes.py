"""What is wrong in a configuration or a policy, in words: which field, what it may be, what may have been meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from connectors.idp import SOURCES
from connectors.spelling import meant

SECRETS: Final = (
    *("password", "token", "secret", "client_secret", "private_key"),
    *("api_token", "api_key", "apikey", "key", "webhook_secret"),
)
"""Settings that people write who have a secret at hand."""
_CALLED: Final = {
    **dict.fromkeys(("azure", "azuread", "azure-ad", "azure_ad", "aad", "microsoft", "entraid", "entra-id"), "entra"),
    **dict.fromkeys(("gsuite", "g-suite", "workspace", "google-workspace", "google_workspace"), "google"),
    **dict.fromkeys(("oracle", "oci", "idcs-oci"), "idcs"),
    **dict.fromkeys(("scim2", "scim20"), "scim"),
}
"""Other names of what a `kind` stands for."""
_WORDS: Final = {
    "string_type": "must be text, in quotes",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number, and a finite one",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a section",
    "string_too_short": "is empty; write it",
    "too_short": "has none; add one",
}
_BOUNDS: Final = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
    "less_than": ("lt", "less than"),
}


def explain(error: ValidationError, where: str, model: type[BaseModel], prefix: tuple[str, ...] = ()) -> str:
    """A pydantic error as one line: where, which field, what is wrong. Values are left out, but for names of choices:
    they may be secret. `prefix`: where in the file the `model` begins."""
    parts = []
    for problem in error.errors():
        path = [str(step) for step in (*prefix, *problem["loc"])]
        if len(path) > 2 and path[0] == "sources" and path[2] in SOURCES:
            del path[2]  # pydantic names the kind, which stands nowhere in the file
        field = ".".join(path)
        words = _words(problem, model)
        parts.append(f"{field}: {words}" if field else words)
    return f"{where}: " + "; ".join(parts)


def _words(problem: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, loc = problem["type"], problem.get("ctx", {}), problem["loc"]
    if kind == "extra_forbidden":
        return _unknown(str(loc[-1]), list(_models(model, loc[:-1])))
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _kind(context.get("tag"))
    if kind == "missing":
        said = next((one.model_fields[str(loc[-1])].description for one in _models(model, loc[:-1])), "")
        return f"is missing; add it{f' ({said.rstrip(chr(46))})' if said else ''}"
    if kind in ("literal_error", "enum"):
        choices = str(context.get("expected", ""))
        known = choices.replace("'", "").replace(" or ", ", ").split(", ")
        like = meant(problem["input"], known) if isinstance(problem["input"], str) else ""
        return f"must be {choices}{like}"
    if kind in ("model_type", "model_attributes_type"):
        fields = [field for one in _models(model, loc) for field in one.model_fields]
        return f"must be a section with fields such as {', '.join(fields[:3])}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    if kind == "string_pattern_mismatch":
        return "must be an address that begins with https://" if "http" in str(context["pattern"]) else problem["msg"]
    return _WORDS.get(kind) or problem["msg"].removeprefix("Value error, ")


def _kind(tag: Any) -> str:
    """A `kind` that is missing or unknown."""
    known = ", ".join(SOURCES)
    if not isinstance(tag, str):
        return f"kind is missing, which says which provider this is; set it to one of {known}"
    like = _CALLED.get(tag.casefold())
    like = f"; did you mean {like!r}?" if like else meant(tag, SOURCES)
    return f"kind: {tag!r} is no kind of provider{like or ';'} There are {known}"


def _unknown(name: str, models: Sequence[type[BaseModel]]) -> str:
    """A setting that there is not."""
    fields = [field for model in models for field in model.model_fields]
    named = [field for field in fields if field.endswith("_env")]
    if name.casefold() in SECRETS and named:
        stem = name.casefold() if f"{name.casefold()}_env" in named else named[0].removesuffix("_env")
        files = f', or into a file and write {stem}_file = "its path"' if f"{stem}_file" in fields else ""
        return (
            "a secret never stands in this file; put it into an environment variable and write "
            f'{stem}_env = "THE_VARIABLE"{files}'
        )
    inside = [path for model in models for path in _inside(model, name)]
    if inside:
        return f"there is no such setting here; did you mean {inside[0]}?"
    return f"there is no such setting{meant(name, fields) or '; check its spelling, or remove it'}"


def _inside(model: type[BaseModel], name: str) -> Iterator[str]:
    """Where a field of this name stands in the sections of a model."""
    for field, info in model.model_fields.items():
        for part in _parts(info.annotation):
            if name in part.model_fields:
                yield f"{field}.{name}"


def _parts(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for one in get_args(annotation) for part in _parts(one)]


def _models(model: type[BaseModel], loc: Sequence[int | str]) -> Iterator[type[BaseModel]]:
    """The models that may stand at a place of a model: pydantic's path to it, with indexes, keys and kinds."""
    if not loc:
        yield model
        return
    step, rest = loc[0], loc[1:]
    info = model.model_fields.get(str(step))
    if info is None:
        return
    for part in _parts(info.annotation):
        if len(rest) > 1 and rest[1] in SOURCES and part is not SOURCES[str(rest[1])].settings:
            continue
        left = list(rest)
        while left and str(left[0]) not in part.model_fields:
            left.pop(0)
        yield from _models(part, left)
