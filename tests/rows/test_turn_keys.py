"""Keys of a turn as datasets spell them: what a trainer trains on is not dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from larf_curate.errors import Issue, Unscorable
from larf_curate.rows.formats import resolve_format
from larf_curate.rows.turns import Conversation

USER = {"role": "user", "content": "Hi?"}
ROME = {"city": "Rome"}
CALL = {"name": "weather", "arguments": ROME}
SPEC = {"name": "weather", "parameters": {"type": "object", "properties": {}}}


def convert(*turns: dict[str, Any], **columns: Any) -> Conversation:
    row = {"messages": list(turns), **columns}
    return resolve_format("auto", row).convert(row)


def calls(conversation: Conversation) -> list[dict[str, Any]]:
    return [call["function"] for call in conversation.messages[-1]["tool_calls"]]


def test_function_call_and_functions_of_openai():
    old = {**CALL, "arguments": json.dumps(CALL["arguments"])}
    conversation = convert(USER, {"role": "assistant", "content": None, "function_call": old}, functions=[SPEC])
    assert calls(conversation) == [CALL]
    assert conversation.tools == ({"type": "function", "function": SPEC},)


def test_function_calls_functions_and_environment_of_open_instruct():
    conversation = convert(
        {"role": "system", "content": "Be kind.", "functions": json.dumps([SPEC]), "function_calls": None},
        USER,
        {"role": "assistant", "content": None, "function_calls": 'weather(city="Rome")', "functions": None},
        {"role": "environment", "content": "Sun."},
        {"role": "assistant", "content": "It is sunny."},
    )
    assert [message["role"] for message in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation.messages[0]["functions"] == json.dumps([SPEC])
    assert conversation.messages[2]["function_calls"] == 'weather(city="Rome")'
    assert calls(convert(USER, {"role": "assistant", "function_calls": json.dumps([CALL])})) == [CALL]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_under_any_key(key):
    conversation = convert(USER, {"role": "assistant", "content": "Hello.", key: "A greeting."})
    assert conversation.messages[-1]["reasoning_content"] == "A greeting."


@pytest.mark.parametrize(
    "calls_text", ["[]", "", "null", json.dumps([CALL])], ids=["empty-list", "blank", "null", "a-call"]
)
def test_tool_calls_as_a_json_string(calls_text):
    turn = {"role": "assistant", "content": "Look.", "tool_calls": calls_text}
    conversation = convert(USER, turn)
    if "weather" in calls_text:
        assert calls(conversation) == [CALL]
    else:
        assert conversation.messages[-1] == {"role": "assistant", "content": "Look."}


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_turns_as_a_json_string(column):
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": [{**CALL, "arguments": {"city": None}}]}]
    conversation = resolve_format("auto", [column]).convert({column: json.dumps(turns)})
    assert calls(conversation) == [{"name": "weather", "arguments": {"city": None}}], "the user's own null"


def test_history_as_a_json_string():
    row = {"instruction": "More?", "output": "No.", "history": json.dumps([["Hi?", "Hello."]])}
    messages = resolve_format("auto", row).convert(row).messages
    assert [message["content"] for message in messages] == ["Hi?", "Hello.", "More?", "No."]
    assert len(resolve_format("auto", row).convert({**row, "history": "[]"}).messages) == 2


def test_an_answer_that_is_json_stays_the_text_it_is():
    row = {"prompt": "As JSON, please.", "completion": '[{"name": "Rome"}]'}
    assert resolve_format("auto", row).convert(row).answer == row["completion"]


@pytest.mark.parametrize("role", ["bing", "bard", "ai", "chatgpt", "claude", "gpt ", " Assistant"])
def test_roles_that_people_write(role):
    row = {"conversations": [{"from": "human", "value": "Hi?"}, {"from": role, "value": "Hello."}]}
    assert resolve_format("auto", row).convert(row).messages[-1] == {"role": "assistant", "content": "Hello."}


def test_an_unknown_role_is_named_with_its_turn():
    with pytest.raises(Unscorable) as caught:
        convert(USER, {"role": "narrator", "content": "x"})
    assert caught.value.issue == Issue.UNKNOWN_ROLE
    assert caught.value.detail == "column 'messages', turn 2: 'narrator'"


def test_parts_that_are_calls_and_reasoning():
    """As LLaMA-Factory's newer data and Anthropic's messages hold them."""
    spellings = (
        [{"type": "tool_call", "value": json.dumps(CALL)}, {"type": "reasoning", "value": "Rome is warm."}],
        [
            {"type": "thinking", "thinking": "Rome is warm."},
            {"type": "tool_use", "name": "weather", "input": CALL["arguments"]},
        ],
    )
    for parts in spellings:
        last = convert(USER, {"role": "assistant", "content": [*parts, {"type": "text", "text": "Look:"}]}).messages[-1]
        assert [call["function"] for call in last["tool_calls"]] == [CALL]
        assert (last["content"], last["reasoning_content"]) == ("Look:", "Rome is warm.")


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"loss_weight": 0.0},
        {"weight": 0.0},
        {"train": False},
        {"train": 0},
        {"loss": False},
        {"loss": 0.0},
    ],
)
def test_a_turn_that_is_not_trained_on_is_not_the_one_that_is_scored(mark):
    more = {"role": "user", "content": "More?"}
    answer = {"role": "assistant", "content": "Hello."}
    conversation = convert(USER, answer, more, {"role": "assistant", "content": "No.", **mark})
    assert conversation == convert(USER, answer)
    kept = convert(USER, {**answer, **mark}, more, {"role": "assistant", "content": "No.", "weight": 1})
    assert (kept.answer, kept.messages[1]["train"]) == ("No.", False)
    with pytest.raises(Unscorable, match="weight 0"):
        convert(USER, {**answer, **mark})


@pytest.mark.parametrize(
    "content",
    [
        "<image>\nWhat is it?",
        "What is it?<image>",
        "Look:\n<image>\nWhat is it?",
        "<video>What happens?",
        [{"type": "text", "text": "What is it?"}, {"type": "image"}],
    ],
)
def test_a_picture_is_one_case_whether_part_or_placeholder(content):
    with pytest.raises(Unscorable) as caught:
        convert({"role": "user", "content": content}, {"role": "assistant", "content": "A cat."})
    assert caught.value.issue == Issue.NOT_TEXT


@pytest.mark.parametrize("text", ["What does <image> do in SVG?", "Use the <audio> tag, or <video>, as you like."])
def test_a_tag_within_a_sentence_is_text(text):
    assert convert({"role": "user", "content": text}, {"role": "assistant", "content": "It shows."}).prompt == text
