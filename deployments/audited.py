"""The audit chain in sentences: who did what, to whom, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import pandas as pd

from connectors.operations import KINDS, Kind
from tasks.tell.rows import count_line, written

_DECIDED: Final = {"approve": "agreed to", "approve_without": "agreed to a part of", "reject": "turned down"}
_MODES: Final = {"sync": "a sync", "preview": "a preview", "react": "a batch of news"}


def sentence(event: str, actor: str, subject: str, details: Mapping[str, Any], run: Mapping[Any, Any] | None) -> str:
    """One row of the chain. `run`: of a row about a run, that run as the store has it (`Store.runs`)."""
    login = details.get("login", "")
    who = f"{actor} (login {login})" if login and login != actor else actor
    if event == "run":
        return _ran(subject, details, run or {})
    if event == "approval":
        without = ", ".join(map(_kind, details.get("without") or ()))
        return (
            f"{who} {_DECIDED.get(details['decision'], details['decision'])} {subject}"
            f"{f', without: {without}' if without else ''}"
            f"{', in Prefect' if details.get('via') == 'prefect' else ''}. Why: {details['reason']}"
        )
    if event in ("links saved", "links dropped"):
        verb, number = "made or changed" if event == "links saved" else "ended", details["links"]
        return f"{who} {verb} {number:,} {'link' if number == 1 else 'links'} of {subject}"
    if event == "lease taken over":
        return (
            f"run {_short(actor)} took over the right to write to {subject}, which run {_short(details['from'])} had "
            f"until {_minute(details['until'])} and had not given back"
        )
    if event == "source quarantined":
        return f"{subject} is left alone until {_minute(details['until'])}: {_failures(details)}. {details['error']}"
    if event == "source recovered":
        return f"{subject} answers again, after {_failures(details)} since {_minute(details['since'])}"
    if "changes" in details:
        return _by_hand(who, event, details)
    rest = ", ".join(f"{name} {value}" for name, value in details.items())
    return f"{who}: {event} {subject}{f' ({rest})' if rest else ''}"


def _ran(identity: str, details: Mapping[str, Any], run: Mapping[Any, Any]) -> str:
    mode = run.get("mode", details.get("mode", ""))
    what = _MODES.get(mode, f"a run ({mode})" if mode else "a run")
    where = f" of {run['source']} into {run['directory']}" if run else f" {_short(identity)}"
    text = f"{what}{where}: {details.get('status', '')}"
    if details.get("plan"):
        text += f", plan {details['plan']}"
    if details.get("outcomes"):
        text += f", operations: {written(details['outcomes'])}"
    elif details.get("planned"):
        text += f", to be done: {count_line(details['planned'])}"
    if details.get("held"):
        text += f"; {details['held']:,} held"
    why = [*details.get("loud", ()), *details.get("refusals", ()), *details.get("asks", ())]
    why += [f"went past: {one}" for one in details.get("forced", ())]
    why += [details["error"]] if details.get("error") else []
    names = {run.get("source"), run.get("directory")}
    return text + "".join(f". {_begun(one, names)}" for one in map(str, why))


def _begun(text: str, names: Collection[Any]) -> str:
    """A sentence with a capital first; a name at its beginning (of a source, a setting, a limit) stays as it is."""
    first = text.partition(" ")[0]
    return f"{text[:1].upper()}{text[1:]}" if first.isalpha() and first not in names else text


def _by_hand(who: str, event: str, details: Mapping[str, Any]) -> str:
    changes = details["changes"]
    some = "; ".join(
        f"{one['kind']} {one['name']}, {one['from'] or 'nobody'} → {one['to'] or 'nobody'}" for one in changes[:3]
    )
    more = f"; and {len(changes) - 3:,} more" if len(changes) > 3 else ""
    forced = "".join(f". Past: {one}" for one in details.get("forced", ()))
    return f"{who}: {event}: {some}{more} (plan {details.get('plan')}). Why: {details.get('reason', '')}{forced}"


def _failures(details: Mapping[str, Any]) -> str:
    return f"it failed {details['failures']:,} {'time' if details['failures'] == 1 else 'times'} in a row"


def _kind(kind: str) -> str:
    return KINDS[Kind(kind)].words if kind in set(Kind) else kind


def _short(run: str) -> str:
    return run[:8]


def _minute(at: str) -> str:
    return f"{pd.Timestamp(at):%Y-%m-%d %H:%M} UTC"
