"""What teaches nothing at the end of an answer is not read; all that a reader sees is."""

from __future__ import annotations

import pytest

from larf_curate.errors import Issue, Unscorable
from larf_curate.rows.endings import without_blank_end
from larf_curate.rows.formats import resolve_format

BLANK_ENDS = {
    "newlines": "\n" * 20,
    "spaces of all kinds": " \t\u00a0\u2003\u3000\u2028",
    "zero-width space": "\u200b",
    "joiners": "\u200c\u200d",
    "word joiner and byte order mark": "\u2060\ufeff",
    "mixed": " \u200b\n\u200d \ufeff\n",
    "marks of direction": "\u200e\u202c\u2069",
    "fillers": "\u3164\u2800\u00ad",
    "selectors of nothing": "\n\ufe0f\ufe0f",
    "tags of nothing": "\U000e0041\U000e0042",
    "controls": "\x00\x1b\x7f",
}


@pytest.mark.parametrize("end", BLANK_ENDS.values(), ids=BLANK_ENDS)
@pytest.mark.parametrize("text", ["Done.", "\u4f60\u597d", "caf\u00e9", "\U0001f469\u200d\U0001f469\u200d\U0001f467"])
def test_a_blank_end_is_not_read(text: str, end: str) -> None:
    assert without_blank_end(text + end) == text
    assert without_blank_end(end) == ""


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f468\u200d\U0001f4bb",  # a man, a joiner, a computer: one emoji
        "\u2764\ufe0f",  # a heart, and the selector that makes it red
        "1\ufe0f\u20e3",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # the flag of Scotland
        "  between\u200b \n the words",
        "e\u0301",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: a non-joiner within a word
        "```\ncode\n```",
    ],
)
def test_what_is_seen_stays(text: str) -> None:
    assert without_blank_end(text) == text
    assert without_blank_end(text + "\u200b\n") == text


def test_more_selectors_than_one_belong_to_nothing() -> None:
    assert without_blank_end("\u2764\ufe0f\ufe0e\U000e0101") == "\u2764\ufe0f"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("alpaca", {"instruction": "Hi\n", "output": "Hello.%s"}),
        ("messages", {"messages": [{"role": "user", "content": "Hi\n"}, {"role": "assistant", "content": "Hello.%s"}]}),
        ("prompt-completion", {"prompt": "Hi\n", "completion": "Hello.%s"}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi\n"}, {"from": "gpt", "value": "Hello.%s"}]}),
    ],
)
def test_every_format_reads_answers_without_it_and_leaves_the_row_alone(name: str, row: dict) -> None:
    def filled(value, end):
        if isinstance(value, str):
            return value.replace("%s", end)
        if isinstance(value, list):
            return [filled(item, end) for item in value]
        return {key: filled(item, end) for key, item in value.items()}

    edited = filled(row, "\n\n\u200b")
    before = repr(edited)
    row_format = resolve_format(name, list(row))
    assert row_format.convert(edited) == row_format.convert(filled(row, ""))
    assert repr(edited) == before
    assert row_format.convert(edited).messages[0]["content"] == "Hi\n", "only answers are trained on"
    with pytest.raises(Unscorable) as refused:
        row_format.convert(filled({**row}, "") | filled(_emptied(row), ""))
    assert refused.value.issue is Issue.EMPTY_ANSWER


def _emptied(row: dict) -> dict:
    def emptied(value):
        if isinstance(value, str):
            return value.replace("Hello.%s", " \u200b\u2060\ufeff\n")
        if isinstance(value, list):
            return [emptied(item) for item in value]
        return {key: emptied(item) for key, item in value.items()}

    return emptied(row)


def test_earlier_answers_lose_it_too() -> None:
    turns = [("user", "a "), ("assistant", "b \u200b"), ("user", "c "), ("assistant", "d\n")]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = resolve_format("messages", ["messages"]).convert({"messages": messages})
    assert [message["content"] for message in found.messages] == ["a ", "b", "c ", "d"]
