"""Refusals told from answers: by wording against a hand-labelled list, by an endpoint against one on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from larf_curate.answering.judges import EndpointJudge, judge_all
from larf_curate.errors import ModelError
from larf_curate.rows.wording import refuses, settled

LINES = (Path(__file__).parent / "labelled_answers.txt").read_text(encoding="utf-8").splitlines()
LABELLED = [(line[2:].replace("\\n", "\n"), line[0] == "+") for line in LINES if line[0] in "+-"]


def test_precision_and_recall_on_labelled_answers() -> None:
    """Precision 0.965 (4 of 115 called refusals are none), recall 0.974 (3 of 114 refusals are missed).

    The patterns were mended with this list at hand, so on other answers they do somewhat worse. What is left: refusals
    that name neither themselves nor "I", and a factual "no".
    """
    assert len(LABELLED) >= 200
    assert 90 <= sum(refusing for _, refusing in LABELLED) <= 130
    said = [(refuses(answer), refusing) for answer, refusing in LABELLED]
    false = [answer for (found, refusing), (answer, _) in zip(said, LABELLED, strict=True) if found and not refusing]
    missed = [answer for (found, refusing), (answer, _) in zip(said, LABELLED, strict=True) if refusing and not found]
    right = sum(found and refusing for found, refusing in said)
    assert right / (right + len(false)) >= 0.96, false
    assert right / (right + len(missed)) >= 0.97, missed


@pytest.mark.parametrize("answer", [answer for answer, _ in LABELLED])
def test_what_is_settled_of_a_beginning_is_said_of_the_whole(answer: str) -> None:
    said = [settled(answer[:end]) for end in range(len(answer) + 1)]
    assert set(said) - {None} <= {refuses(answer)}


def test_most_refusals_and_plain_compliances_are_settled_early() -> None:
    """Otherwise a search would have to generate every answer to its end."""
    late = " and so on, as the rest of a long answer goes, word after word" * 2
    early = [answer for answer, refusing in LABELLED if refusing and settled(answer + late) is True]
    assert len(early) > 0.9 * sum(refusing for _, refusing in LABELLED)
    assert settled("To kill a stuck process, you can open the") is False
    assert settled("Here are three ways to") is False
    assert settled("Here is why I") is None
    assert settled("Well") is None


def test_capitals_refuse_as_small_letters_do() -> None:
    for answer, _ in LABELLED:
        assert refuses(answer.upper()) == refuses(answer.lower()) == refuses(answer), answer
    assert refuses("\u0130'm sorry, but \u0131 can't help.")  # of a Turkish keyboard


def test_nothing_refuses() -> None:
    assert not refuses("")
    assert not refuses("   \n")


def test_only_the_opening_of_an_answer_can_refuse() -> None:
    story = "The caravan left at dawn and crossed the river before the sun stood high. " * 5
    assert refuses("I can't help with that. " + story)
    assert not refuses(story + "I can't help with that.")
    assert settled(story) is False


class _Answers(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that finds a refusal wherever the answer to judge holds the word "won't"."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"path": self.path, "token": self.headers.get("Authorization"), **body})
        text = body["messages"][0]["content"]
        said = "Perhaps" if "unclear" in text else "Yes." if "won't" in text.split("<answer>")[1] else "no"
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        sent = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "j", "choices": [message]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(sent.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Answers.seen.clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_judges(endpoint: str) -> None:
    judge = EndpointJudge(endpoint, "judge-1", key="secret")
    prompts, answers = ["Why?", "How?", "Where?"], ["I won't.", "Like this.", "You won't miss it."]
    told: list[int] = []
    assert judge_all(judge, prompts, answers, told.append) == [True, False, True]
    assert told == [1, 1, 1]
    sent = next(body for body in _Answers.seen if "How?" in body["messages"][0]["content"])
    assert (sent["path"], sent["model"], sent["token"]) == ("/v1/chat/completions", "judge-1", "Bearer secret")
    assert "Like this." in sent["messages"][0]["content"]
    assert "secret" not in repr(judge)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [("Yes", True), ('"no"', False), ("**Yes**", True), ("no, it does not", False)],
)
def test_one_word_is_read_whatever_marks_are_around_it(
    said: str, verdict: bool, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larf_curate.answering.endpoint.Endpoint.ask", lambda *_, **__: said)
    assert EndpointJudge(endpoint, "judge-1")("Why?", "Because.") is verdict


@pytest.mark.parametrize("said", ["Nothing to judge here", "Not sure", "Yesterday", "", "The answer refuses"])
def test_what_only_begins_like_a_verdict_is_none(said: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("larf_curate.answering.endpoint.Endpoint.ask", lambda *_, **__: said)
    with pytest.raises(ModelError, match="neither yes nor no"):
        EndpointJudge(endpoint, "judge-1")("Why?", "Because.")


def test_as_many_answers_are_judged_at_once_as_the_judge_says() -> None:
    together = threading.Barrier(3)

    class Waiting:
        at_once = 3

        def __call__(self, _prompt: str, _answer: str, /) -> bool:
            together.wait(5)
            return True

    assert judge_all(Waiting(), ["?"] * 6, ["!"] * 6) == [True] * 6


@pytest.mark.parametrize("error", [True, False], ids=["an error", "no verdict"])
def test_after_an_error_no_other_answer_is_judged(error: bool) -> None:
    """A judge that fails may be one that is paid for each question."""
    asked: list[str] = []

    class Failing:
        at_once = 2

        def __call__(self, _prompt: str, answer: str, /) -> Any:
            asked.append(answer)
            if answer == "0" and error:
                raise ModelError("no")
            if answer == "0":
                return "no"
            time.sleep(0.1)
            return True

    with pytest.raises(ModelError, match="no"):
        judge_all(Failing(), ["?"] * 20, [str(number) for number in range(20)])
    assert len(asked) < 6


def test_an_endpoint_that_is_no_judge_is_told(endpoint: str) -> None:
    with pytest.raises(ModelError, match="judge-1 says 'perhaps', neither yes nor no"):
        EndpointJudge(endpoint, "judge-1")("unclear", "unclear")
    with pytest.raises(ModelError, match="the judge judge-1 cannot be asked"):
        EndpointJudge("http://127.0.0.1:9/v1", "judge-1")("Why?", "No.")
