"""Runs that fail, as people read it: for each kind of failure a sentence with what to do, a report, a name that tells
it from others, and no traceback where it was foreseen. On a real server: end_to_end/test_prefect.py."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from connectors.errors import (
    AmbiguousError,
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    IncompleteError,
    RecordError,
    RefusedError,
    RetryableError,
    StaleCursorError,
    TooLargeError,
)
from flows.forms import offers, with_sources
from flows.sync import SyncRequest, sync
from tasks.engine import Agreement, AgreementInPart
from tasks.run import WROTE
from tasks.tell import failure
from tasks.tell.failure import KINDS, explained, sentence
from tasks.tell.report import Report, ReportedError

EVERY = (
    *(AmbiguousError, AuthenticationError, ConfigurationError, ForbiddenError, IncompleteError, RecordError),
    *(RefusedError, RetryableError, StaleCursorError, TooLargeError),
)


class Page:
    """What a run showed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[tuple[str, str, str]] = []
        self.names: list[str] = []

        async def show(*what: str) -> None:
            self.shown.append(what)  # type: ignore[arg-type]

        async def name(outcome: str) -> None:
            self.names.append(outcome)

        monkeypatch.setattr(failure, "has_page", lambda: True)
        monkeypatch.setattr(failure, "show_markdown", show)
        monkeypatch.setattr(failure, "name_run", name)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(monkeypatch)


def ended(error: BaseException) -> Any:
    """What becomes of a flow that raises this."""

    @explained(lambda: "acme", lambda: "")
    async def flow() -> None:
        raise error

    return asyncio.run(flow())


@pytest.mark.parametrize("kind", EVERY)
def test_what_was_foreseen_is_a_sentence_with_what_to_do_and_a_report(page: Page, kind: type[CrowdsyncError]) -> None:
    state: State[Any] = ended(error := kind("sources.acme: [x](http://h): 401 of Crowd"))
    assert (state.type, state.data) == ("FAILED", error), "whoever called it gets the error"
    title, todo = next(KINDS[one] for one in kind.__mro__ if one in KINDS)
    assert state.message == f"sources.acme: [x](http://h): 401 of Crowd. {todo}"
    ((key, text, card),) = page.shown
    assert (key, card) == ("acme-report", f"**{title}**")
    assert text.startswith(
        f"# acme: {title}\n\nsources.acme: \\[x](http\\://h): 401 of Crowd\n\n**What to do:** {todo}"
    )
    assert "Nothing was written to Crowd." in text
    assert page.names == [title]


def test_that_crowd_was_written_to_is_said(page: Page) -> None:
    error = RetryableError("the store does not answer.")
    error.add_note(WROTE)
    assert ended(error).message.startswith("the store does not answer. The next run")
    assert "Nothing was written" not in page.shown[0][1]
    assert "Crowd was written to before that" in page.shown[0][1]


def test_what_was_not_foreseen_keeps_its_traceback_and_its_words_to_the_log(page: Page) -> None:
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError("of ann@acme.example"))
    ((_, text, _),) = page.shown
    assert "ZeroDivisionError" in text
    assert "ann" not in text


def test_a_run_that_has_its_report_gets_no_other(page: Page) -> None:
    report = Report("r", "acme", "crowd", "refused", 3, refusals=("too many",))
    assert ended(ReportedError("too many", report)).message == "too many."
    assert not page.shown
    assert not page.names


def test_nobody_is_kept_from_an_answer_by_a_page_that_fails(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: str) -> None:
        raise OSError("Prefect is away")

    monkeypatch.setattr(failure, "show_markdown", away)
    assert ended(RefusedError("no")).message.startswith("no. ")
    with pytest.raises(asyncio.CancelledError):
        ended(asyncio.CancelledError())


def test_outside_of_a_run_it_is_raised() -> None:
    with pytest.raises(RefusedError):
        ended(RefusedError("no"))


FILES = {
    "absent": "does not exist",
    "[directory": "is not TOML",
    "[sources.acme]\nkind = 'scim'\n": "url: is missing",
    "[directory]\nurl='http://h/crowd'\napplication='c'\n[sources.acme]\nkind='scim'\nurl='http://h'\n": "no source is",
}


@pytest.mark.parametrize("text", FILES)
def test_a_run_whose_configuration_is_wrong(
    text: str, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "crowdsync.toml"
    if text != "absent":
        file.write_text(text)
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(file))
    state: Any = asyncio.run(sync.fn(SyncRequest(source="other")))
    assert FILES[text] in state.message
    assert page.shown[0][0] == "other-report"


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.task_runs"])
def test_a_log_has_a_traceback_of_what_was_not_foreseen_alone(name: str) -> None:
    (foreseen,) = (one for one in logging.getLogger(name).filters if isinstance(one, failure._Foreseen))

    def kept(text: str, error: Exception | None = None) -> str:
        exc_info = (type(error), error, None) if error else None
        record = logging.LogRecord(name, logging.ERROR, "", 1, text, (), exc_info)
        return f"{record.levelname} {record.getMessage()}" if foreseen.filter(record) else ""

    assert kept("Task run failed", RefusedError("no")) == ""
    assert kept("Task run failed", ZeroDivisionError()) == "ERROR Task run failed"
    assert kept("Finished in state Failed()") == "ERROR Finished in state Failed()"
    assert kept("Finished in state Suspended(type=PAUSED)") == "INFO Waits for a person"


@pytest.mark.parametrize(
    ("given", "model", "decision"),
    [
        ("approve", Agreement, "approve"),
        (" Approve\n", Agreement, "approve"),
        ("reject", Agreement, "reject"),
        ("approve the rest", AgreementInPart, "approve_without"),
        ("Approve the rest ", AgreementInPart, "approve_without"),
        ("approve", AgreementInPart, "approve"),
        *(((word), Agreement, "") for word in ("", "yes", "aprove", "approve the rest", "approve, not", "not reject")),
    ],
)
def test_a_decision_is_a_word_and_there_is_none_unless_it_is_given(
    given: str, model: type[Agreement], decision: str
) -> None:
    answer = {"decision": given, "name": "Kim Admin", "reason": "looked at"}
    if decision:
        assert model.model_validate(answer).decided() == decision
    else:
        with pytest.raises(ValueError, match="decision"):
            model.model_validate(answer)
    assert "default" not in model.model_json_schema()["properties"]["decision"]


def test_sources_are_a_choice_and_new_ones_join_it() -> None:
    form: Any = {"properties": {"source": {"type": "string"}, "sources": {"items": {"type": "string"}}}}
    assert offers(form, "any")
    chosen = with_sources(form, ["b", "a"])
    assert chosen["properties"]["source"]["enum"] == chosen["properties"]["sources"]["items"]["enum"] == ["a", "b"]
    assert not offers(chosen, "c")
    assert with_sources(chosen, ["c"], also=True)["properties"]["source"]["enum"] == ["a", "b", "c"]
    assert with_sources(chosen, ["c"])["properties"]["source"]["enum"] == ["c"]
    assert "enum" not in form["properties"]["source"]


def test_every_sentence_ends() -> None:
    assert sentence(RefusedError("no (it is so.)")).startswith("no (it is so.) See")
