"""What a snapshot must be before anything is concluded from it (Great Expectations).

Table rules stop the run. Row rules hold the rows that break them, and name them. The same content
under the same rules is judged once: its verdict stands in the store. Fields that nobody needs hold no row: what
stands in them wrongly, `tasks.decide.map` leaves out.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson
import pandas as pd
import pyarrow.compute as pc

from connectors.errors import RefusedError
from connectors.model import GROUPS, MAX_TEXT, USERS, Snapshot, held_frame, held_records, text_array
from tasks.decide.names import arrow_text

_TEXT = r"^[^\x00-\x1f\x7f]*\Z"
_TRIMMED: Final = ("username", "email", "first_name", "last_name", "display_name")

TABLE_RULES: Final[dict[str, list[tuple[str, dict[str, Any]]]]] = {
    "users": [
        ("ExpectTableColumnsToMatchOrderedList", {"column_list": list(USERS)}),
        ("ExpectColumnValuesToBeUnique", {"column": "id"}),
        ("ExpectColumnValuesToNotBeNull", {"column": "id"}),
    ],
    "groups": [
        ("ExpectTableColumnsToMatchOrderedList", {"column_list": list(GROUPS)}),
        ("ExpectColumnValuesToBeUnique", {"column": "id"}),
        ("ExpectColumnValuesToNotBeNull", {"column": "id"}),
    ],
}
ROW_RULES: Final[dict[str, list[tuple[str, str, dict[str, Any], str]]]] = {
    "users": [
        (
            "ExpectColumnValueLengthsToBeBetween",
            "id",
            {"min_value": 1, "max_value": 200},
            "id has not 1 to 200 characters",
        ),
        ("ExpectColumnValuesToMatchRegex", "username", {"regex": r"\S"}, "username is blank"),
        ("ExpectColumnValuesToMatchRegex", "username", {"regex": _TEXT}, "username has control characters"),
        (
            "ExpectColumnValueLengthsToBeBetween",
            "username",
            {"max_value": MAX_TEXT},
            f"username exceeds {MAX_TEXT} characters",
        ),
    ],
    "groups": [
        (
            "ExpectColumnValueLengthsToBeBetween",
            "id",
            {"min_value": 1, "max_value": 200},
            "id has not 1 to 200 characters",
        ),
        ("ExpectColumnValuesToMatchRegex", "name", {"regex": r"\S"}, "name is blank"),
        ("ExpectColumnValuesToMatchRegex", "name", {"regex": _TEXT}, "name has control characters"),
    ],
}
Breaking = list[tuple[str, "pd.Series"]]
"""What is said of the rows that break a rule, and which they are; for each rule that is broken."""
FEW: Final = 1000
"""Users and groups that are judged record by record. Great Expectations takes three seconds to be imported and 0.2 to
be set up, however few they are."""
RULES: Final = hashlib.sha256(orjson.dumps([TABLE_RULES, ROW_RULES], option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
"""Identifies the rules, so that a stored verdict never outlives them."""


def refuse_if_empty(source: Snapshot) -> None:
    """A source without people is a mistake of the source or of the credentials, never a fact."""
    if source.users.empty:
        raise RefusedError("the source gave no users at all: check what its credentials may see; nothing was written")


def trimmed(source: Snapshot) -> Snapshot:
    """A source snapshot without the blanks around usernames, e-mail addresses and names of people."""
    return replace(source, users=without_blanks(source.users))


def without_blanks(users: pd.DataFrame) -> pd.DataFrame:
    """Users without the blanks around usernames, e-mail addresses and names."""
    found = {name: arrow_text(users[name]) for name in _TRIMMED}
    after = {name: pc.utf8_trim_whitespace(texts) for name, texts in found.items()}
    changed = {name: text_array(texts) for name, texts in after.items() if not texts.equals(found[name])}
    return users.assign(**changed) if changed else users


def broken(snapshot: Snapshot) -> pd.DataFrame:
    """Snapshot → held frame of the rows that break a row rule. Raises `RefusedError` on a table rule."""
    few = len(snapshot.users) + len(snapshot.groups) <= FEW
    return broken_few(snapshot) if few else broken_rows(snapshot)


def broken_rows(snapshot: Snapshot) -> pd.DataFrame:
    """`broken` by Great Expectations."""
    return _broken(snapshot, _by_suite)


def broken_few(snapshot: Snapshot) -> pd.DataFrame:
    """`broken` without Great Expectations: the same rules, record by record."""
    return _broken(snapshot, _by_hand)


def without(snapshot: Snapshot, held: pd.DataFrame) -> Snapshot:
    """The snapshot less the held rows, which it then names in `held`. Memberships stay: whoever is
    held is not taken out of any group either."""
    if held.empty:
        return snapshot
    broken = snapshot.users["id"].isin(held.loc[held["kind"] == "user", "id"])
    groups = snapshot.groups[~snapshot.groups["id"].isin(held.loc[held["kind"] == "group", "id"])]
    held = pd.concat([snapshot.held, held], ignore_index=True)
    users, unsound = snapshot.users[~broken], snapshot.users[broken]
    return Snapshot.of(users, groups, snapshot.memberships, held, snapshot.warnings, unsound)


def _broken(snapshot: Snapshot, found: Callable[[str, pd.DataFrame], Breaking]) -> pd.DataFrame:
    """The rows of users and groups that break a row rule, each once, for the first one."""
    held = [held_frame()]
    for kind, name in (("users", "username"), ("groups", "name")):
        frame = getattr(snapshot, kind)
        for because, rows in found(kind, frame) if len(frame) else ():
            if not rows.any():
                continue
            reasons = pd.Series([because] * int(rows.sum()))
            held.append(held_records(kind[:-1], frame[rows], name, "validate", reasons))
    return pd.concat(held, ignore_index=True).drop_duplicates(["kind", "id"], ignore_index=True)


def _by_hand(kind: str, frame: pd.DataFrame) -> Breaking:
    """The rules one by one."""
    for rule, arguments in TABLE_RULES[kind]:
        if not _holds(rule, arguments, frame):
            raise _unusable(kind, rule, arguments.get("column", "the columns"))
    return [(because, _breaks(rule, arguments, frame[column])) for rule, column, arguments, because in ROW_RULES[kind]]


def _holds(rule: str, arguments: dict[str, Any], frame: pd.DataFrame) -> bool:
    match rule:
        case "ExpectTableColumnsToMatchOrderedList":
            return bool(list(frame.columns) == arguments["column_list"])
        case "ExpectColumnValuesToBeUnique":
            return bool(frame[arguments["column"]].dropna().is_unique)
        case "ExpectColumnValuesToNotBeNull":
            return bool(frame[arguments["column"]].notna().all())
    raise AssertionError(f"{rule} is not known here")


def _breaks(rule: str, arguments: dict[str, Any], column: pd.Series) -> pd.Series:
    """Which values break a row rule; one that is not there breaks none."""
    texts = column.astype(object)
    match rule:
        case "ExpectColumnValueLengthsToBeBetween":
            least, most = arguments.get("min_value", 0), arguments["max_value"]
            found = [isinstance(text, str) and not least <= len(text) <= most for text in texts]
        case "ExpectColumnValuesToMatchRegex":
            search = re.compile(arguments["regex"]).search
            found = [isinstance(text, str) and not search(text) for text in texts]
        case _:
            raise AssertionError(f"{rule} is not known here")
    return pd.Series(found, index=column.index, dtype=bool)


def _unusable(kind: str, rule: str, column: str) -> RefusedError:
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", rule).lower()
    return RefusedError(f"{kind}: {name} does not hold for {column}; the snapshot is unusable, run again")


def _by_suite(kind: str, frame: pd.DataFrame) -> Breaking:
    """The rules as a suite of Great Expectations."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations as gx  # several seconds: only where it is needed
    from great_expectations import expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas(kind).add_dataframe_asset(kind)
    batch = asset.add_batch_definition_whole_dataframe("whole")
    suite = context.suites.add(gx.ExpectationSuite(name=kind))
    for name, arguments in TABLE_RULES[kind]:
        suite.add_expectation(getattr(gxe, name)(**arguments))
    for name, column, arguments, reason in ROW_RULES[kind]:
        suite.add_expectation(getattr(gxe, name)(column=column, meta={"reason": reason}, **arguments))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=kind, data=batch, suite=suite))
    result = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]},
    )
    found: Breaking = []
    for outcome in result.results:
        rule = outcome.expectation_config
        assert rule is not None
        error = _exception(outcome.exception_info)
        if error:
            raise RefusedError(f"{kind}: the rule {rule.type} could not be checked ({error}); nothing is concluded")
        if outcome.success:
            continue
        because = (rule.meta or {}).get("reason")
        if because is None:
            raise _unusable(kind, rule.type, rule.kwargs.get("column", "the columns"))
        found.append((because, frame["id"].isin([entry["id"] for entry in outcome.result["unexpected_index_list"]])))
    return found


def _exception(info: dict[str, Any]) -> str:
    """Metric errors look like mere failure; the only trace of them stands here."""
    parts = [info] if "raised_exception" in info else list(info.values())
    return next(
        (str(p.get("exception_message")) for p in parts if isinstance(p, dict) and p.get("raised_exception")),
        "",
    )
