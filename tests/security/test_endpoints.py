"""Whoever runs a judge's endpoint gets the question and its own key, and cannot make a search hang or break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from larf_curate.answering.endpoint import Endpoint
from larf_curate.answering.judges import EndpointJudge, judge_all
from larf_curate.answering.patience import Patience
from larf_curate.cli import app
from larf_curate.errors import ModelError

Serve = Callable[[Callable[[socket.socket], None]], tuple[str, list[str]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts an endpoint that answers as it is told; gives its address and the requests that it got."""
    listeners: list[socket.socket] = []

    def start(respond: Callable[[socket.socket], None]) -> tuple[str, list[str]]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        requests: list[str] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        requests.append(whole_request(connection))
                        with contextlib.suppress(OSError):
                            respond(connection)

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", requests

    yield start
    for listener in listeners:
        listener.close()


def whole_request(connection: socket.socket) -> str:
    """Head and body: a connection that is closed with bytes unread is broken off at the other end."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(1 << 16)
    head, _, body = got.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    while len(body) < int(lengths[0].split(b":")[1]):
        body += connection.recv(1 << 16)
    return (head + b"\r\n\r\n" + body).decode()


def sending(body: bytes, status: str = "200 OK", headers: str = "") -> Callable[[socket.socket], None]:
    def respond(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    return respond


def saying(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def authorizations(requests: list[str]) -> list[str]:
    return [line for request in requests for line in request.splitlines() if line.lower().startswith("authorization")]


def test_the_hub_s_token_is_never_sent(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    url, requests = serve(sending(saying("yes")))
    assert EndpointJudge(url, "j")("Why?", "No.") is True
    assert EndpointJudge(url, "j", key="own")("Why?", "No.") is True
    assert len(requests) == 2
    assert [line.partition(": ")[2] for line in authorizations(requests)] == ["Bearer own"]
    assert not any("hf_of_the_user" in request for request in requests)


def test_the_hub_s_token_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the user names the variable that holds it."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    with pytest.raises(ModelError, match="the Hub's token, which goes to no judge: give a key of its own") as caught:
        EndpointJudge("https://example.org/v1", "j", key="hf_of_the_user")
    assert "hf_of_the_user" not in str(caught.value)


def test_a_key_that_an_endpoint_says_is_not_shown(serve: Serve) -> None:
    url, _ = serve(sending(saying("Bearer sk-own-key")))
    with pytest.raises(ModelError, match=r"says 'bearer \(the key\)', neither yes nor no"):
        EndpointJudge(url, "j", key="sk-own-key")("Why?", "No.")


@pytest.mark.parametrize("url", ["http://example.org/v1", "http://10.0.0.1/v1", "http://localhost.example.org"])
def test_a_key_does_not_travel_unencrypted(url: str) -> None:
    with pytest.raises(ModelError, match=r"unencrypted.*https://") as caught:
        EndpointJudge(url, "j", key="own-key")
    assert "own-key" not in str(caught.value)
    EndpointJudge(url, "j")
    EndpointJudge(url.replace("http:", "https:"), "j", key="own-key")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://[::1]:8000", "http://localhost/v1"])
def test_a_key_may_be_sent_to_this_machine(url: str) -> None:
    assert "own-key" not in repr(Endpoint(url, "own-key"))


@pytest.mark.parametrize(
    "url", ["", "ftp://h/v1", "h:80/v1", "http://", "http://me:pw@127.0.0.1/v1", "http://127.0.0.1:x/v1", "http://[::"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ModelError, match="judge's address"):
        EndpointJudge(url, "j")


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_saying_it(key: str) -> None:
    with pytest.raises(ModelError, match=r"key must be printable ASCII without blanks$"):
        EndpointJudge("https://example.org/v1", "j", key=key)


def test_a_key_is_not_taken_elsewhere(serve: Serve) -> None:
    other, stolen = serve(sending(saying("yes")))
    url, _ = serve(sending(b"", "307 Temporary Redirect", f"Location: {other}/chat/completions\r\n"))
    with pytest.raises(ModelError, match="HTTP status 307"):
        EndpointJudge(url, "j", key="own")("Why?", "No.")
    assert stolen == []


def test_no_proxy_stands_between_this_machine_and_itself(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, seen = serve(sending(saying("yes")))
    url, _ = serve(sending(saying("no")))
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert EndpointJudge(url, "j", key="own")("Why?", "Yes.") is False
    assert seen == []


MALFORMED = {
    "nothing": b"",
    "no JSON": b"<html>",
    "not UTF-8": b"\xff\xfe\xfa",
    "a list": b"[]",
    "no choices": b'{"choices": []}',
    "choices is null": b'{"choices": null}',
    "a message of text": b'{"choices": [{"message": "yes"}]}',
    "content is a number": saying(1),
    "content is a list": saying([{"type": "text", "text": "yes"}]),
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_one_line(serve: Serve, body: bytes) -> None:
    url, _ = serve(sending(body))
    with pytest.raises(
        ModelError, match=r"^the judge j cannot be asked: its answer is not a chat completion"
    ) as caught:
        EndpointJudge(url, "j")("Why?", "No.")
    assert "\n" not in str(caught.value)


def test_an_answer_has_a_largest_size(serve: Serve) -> None:
    def without_end(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65_536)

    url, _ = serve(without_end)
    with pytest.raises(ModelError, match="longer than 1,048,576 bytes"):
        EndpointJudge(url, "j")("Why?", "No.")


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_comes_byte_by_byte_has_an_end(serve: Serve, start: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            time.sleep(0.05)
            connection.sendall(b"H")

    url, _ = serve(drip if start else lambda _: time.sleep(5))
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"within 0\.5 seconds|imed out|Timeout"):
        EndpointJudge(url, "j", seconds=0.5)("Why?", "No.")
    assert time.monotonic() - began < 4


def in_turn(*responses: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """One after the other; the last again and again."""
    left = list(responses)

    def respond(connection: socket.socket) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(connection)

    return respond


def busy(status: int, headers: str = "") -> Callable[[socket.socket], None]:
    return sending(b'{"error": {"message": "slow down"}}', f"{status} Busy", headers)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints are asked three times, within a moment."""
    monkeypatch.setattr("larf_curate.answering.judges.Patience", lambda: Patience((0.01, 0.01), longest=2))


@pytest.mark.parametrize("status", [429, 502, 503, 504, 529])
def test_a_busy_endpoint_is_asked_again(
    serve: Serve, status: int, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    url, requests = serve(in_turn(busy(status), busy(status), sending(saying("yes"))))
    assert EndpointJudge(url, "j")("Why?", "No.") is True
    assert len(requests) == 3
    assert len(set(requests)) == 1
    assert f"the judge is busy (HTTP status {status}): asking again in 0.01 s" in caplog.text


def test_an_endpoint_says_how_long_to_wait(serve: Serve, impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    url, _ = serve(in_turn(busy(429, "Retry-After: 0.3\r\n"), sending(saying("yes"))))
    began = time.monotonic()
    assert EndpointJudge(url, "j")("Why?", "No.") is True
    assert time.monotonic() - began >= 0.3
    assert "asking again in 0.3 s" in caplog.text


@pytest.mark.parametrize(
    ("headers", "asked", "words"),
    [
        ("", 3, r"it is busy \(HTTP status 429\), and still is after 3 tries: try later"),
        ("Retry-After: 3600\r\n", 1, r"it is busy .* and asks to be left alone for 3,600 seconds: try later"),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", 1, "and asks to be left alone for 2[0-9,]+ seconds"),
        ("Retry-After: soon\r\n", 3, "and still is after 3 tries"),
        ("Retry-After: inf\r\n", 3, "and still is after 3 tries"),
        ("Retry-After: -5\r\n", 3, "and still is after 3 tries"),
    ],
    ids=["without an end", "too long", "a date", "no number", "infinite", "negative"],
)
def test_patience_has_an_end(serve: Serve, headers: str, asked: int, words: str, impatient: None) -> None:
    url, requests = serve(busy(429, headers))
    with pytest.raises(ModelError, match=f"^the judge j cannot be asked: .*{words}") as caught:
        EndpointJudge(url, "j")("Why?", "No.")
    assert "\n" not in str(caught.value)
    assert len(requests) == asked


def test_after_an_error_no_other_answer_is_judged(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor waited for, where the others wait for a busy endpoint."""
    monkeypatch.setattr("larf_curate.answering.judges.Patience", lambda: Patience((60.0,)))
    url, requests = serve(in_turn(sending(saying("perhaps")), busy(503)))
    began = time.monotonic()
    with pytest.raises(ModelError, match="says 'perhaps', neither yes nor no"):
        judge_all(EndpointJudge(url, "j", at_once=1), ["Why?"] * 40, ["No."] * 40)
    assert len(requests) <= 2
    assert time.monotonic() - began < 10


def test_what_an_endpoint_says_of_an_error_is_shown_without_the_key(serve: Serve) -> None:
    said = {"error": {"message": "the model \x1b[31m'j' does\nnot exist for sk-own-key", "type": "x"}}
    url, requests = serve(sending(json.dumps(said).encode(), "404 Not Found"))
    with pytest.raises(ModelError) as caught:
        EndpointJudge(url, "j", key="sk-own-key")("Why?", "No.")
    wanted = "it answers with HTTP status 404: the model \\u001b[31m'j' does not exist for (the key)"
    assert str(caught.value) == f"the judge j cannot be asked: {wanted}"
    assert len(requests) == 1, "what is wrong with the request stays wrong"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": "no"}', b'{"error": {"message": 3}}', b"[" * 99_999]
)
def test_an_error_without_a_reason_is_its_status(serve: Serve, body: bytes) -> None:
    url, _ = serve(sending(body, "400 Bad Request"))
    with pytest.raises(ModelError, match=r"HTTP status 400$"):
        EndpointJudge(url, "j")("Why?", "No.")


def test_it_can_be_asked_where_an_event_loop_runs(serve: Serve) -> None:
    url, _ = serve(sending(saying("no")))

    async def notebook() -> bool:
        return EndpointJudge(url, "j")("Why?", "Yes.")

    assert asyncio.run(notebook()) is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "j", "--judge-key-env", "UNSET_KEY"],
            "UNSET_KEY is not",
        ),
        (["--judge-key-env", "A_KEY"], "(--judge-key-env) belongs to judge_url"),
        (["--judge-url", "http://example.org/v1", "--judge-model", "j", "--judge-key-env", "A_KEY"], "unencrypted"),
    ],
)
def test_the_key_comes_from_the_environment(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "own-key")
    environment = {"COLUMNS": "300", "TERM": "dumb"}
    result = CliRunner().invoke(app, ["layers", "nowhere", *arguments], env=environment)
    assert result.exit_code == 2
    assert words in result.output
    assert "own-key" not in result.output
