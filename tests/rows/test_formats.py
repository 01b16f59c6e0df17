"""Every row format against conversations written by hand; the reasons a row has none; how a format is found."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larf_curate.errors import Issue, RowFormatError, Unscorable
from larf_curate.rows.formats import FORMATS, resolve_format
from larf_curate.rows.turns import Conversation

CALL = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}
SPEC = {"name": "weather", "description": "Forecast", "parameters": {"type": "object", "properties": {}}}


def convert(row: dict[str, Any], form: Any = "auto") -> Conversation:
    return resolve_format(form, row).convert(row)


def turns(row: dict[str, Any], form: Any = "auto") -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in convert(row, form).messages]


def issue_of(row: dict[str, Any], form: Any = "auto") -> Issue:
    with pytest.raises(Unscorable) as caught:
        convert(row, form)
    return caught.value.issue


def openai(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


def sharegpt(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": role, "value": content} for role, content in said]


U, A = ("user", "Hi?"), ("assistant", "Hello.")
MULTI = [U, A, ("user", "More?"), ("assistant", "No.")]

# Plain formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"instruction": "Hi?", "input": "", "output": "Hello."}, [U, A], id="alpaca"),
        pytest.param({"instruction": "Hi?", "input": None, "output": "Hello."}, [U, A], id="alpaca-null-input"),
        pytest.param({"instruction": "Hi?", "output": "Hello."}, [U, A], id="alpaca-no-input"),
        pytest.param(
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            [("user", "Add.\n1 2"), ("assistant", "3")],
            id="alpaca-input",
        ),
        pytest.param(
            {"instruction": "", "input": "1 2", "output": "3"},
            [("user", "1 2"), ("assistant", "3")],
            id="alpaca-only-input",
        ),
        pytest.param(
            {"instruction": "More?", "output": "No.", "system": "Be kind.", "history": [["Hi?", "Hello."]]},
            [("system", "Be kind."), *MULTI],
            id="alpaca-system-history",
        ),
        pytest.param(
            {"instruction": "Hi?", "output": "Hello.", "system": "", "history": None}, [U, A], id="alpaca-empty-extras"
        ),
        pytest.param(
            {"instruction": "Sum up.", "context": "A text.", "response": "Text.", "category": "summarization"},
            [("user", "Sum up.\nA text."), ("assistant", "Text.")],
            id="dolly",
        ),
        pytest.param({"instruction": "Hi?", "context": "", "response": "Hello."}, [U, A], id="dolly-no-context"),
        pytest.param({"question": "Hi?", "answer": "Hello."}, [U, A], id="question-answer"),
        pytest.param(
            {"question": "Hi?", "answer": "Hello.", "system": "Be kind."},
            [("system", "Be kind."), U, A],
            id="question-answer-system",
        ),
        pytest.param({"prompt": "Hi?", "completion": "Hello."}, [U, A], id="completion-strings"),
        pytest.param({"prompt": openai(U), "completion": openai(A)}, [U, A], id="completion-turns"),
        pytest.param({"prompt": openai(U), "completion": "Hello."}, [U, A], id="completion-mixed"),
        pytest.param({"prompt": openai(*MULTI[:3]), "completion": openai(MULTI[3])}, MULTI, id="completion-multi-turn"),
        pytest.param({"prompt": "Hi?", "completion": openai(A)[0]}, [U, A], id="completion-one-turn"),
        pytest.param({"messages": openai(*MULTI)}, MULTI, id="messages"),
        pytest.param(
            {"messages": {"role": ["user", "assistant"], "content": ["Hi?", "Hello."]}}, [U, A], id="messages-columns"
        ),
        pytest.param({"conversations": sharegpt(("human", "Hi?"), ("gpt", "Hello."))}, [U, A], id="sharegpt"),
        pytest.param(
            {"conversations": sharegpt(("system", "Be kind."), ("human", "Hi?"), ("gpt", "Hello."))},
            [("system", "Be kind."), U, A],
            id="sharegpt-system-turn",
        ),
        pytest.param(
            {"conversations": sharegpt(("human", "Hi?"), ("gpt", "Hello.")), "system": "Be kind."},
            [("system", "Be kind."), U, A],
            id="sharegpt-system-column",
        ),
        pytest.param(
            {
                "conversations": sharegpt(("system", "Be brief."), ("human", "Hi?"), ("gpt", "Hello.")),
                "system": "Be kind.",
            },
            [("system", "Be kind.\n\nBe brief."), U, A],
            id="sharegpt-both-systems",
        ),
        pytest.param({"conversations": openai(U, A)}, [U, A], id="sharegpt-with-openai-keys"),
        pytest.param({"messages": sharegpt(("Human", "Hi?"), ("GPT", "Hello."))}, [U, A], id="messages-with-from-keys"),
        pytest.param({"messages": openai(("assistant", "Welcome."))}, [("assistant", "Welcome.")], id="answer-alone"),
    ],
)
def test_row_becomes_conversation(row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    before = copy.deepcopy(row)
    assert turns(row) == expected
    assert row == before


def test_text_is_not_touched() -> None:
    ugly = "  \ttrailing \n\n\x00 \u202e <|im_end|> \U0001f600"
    assert turns({"instruction": ugly + " \n", "output": ugly}) == [("user", ugly + " \n"), ("assistant", ugly)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param([{"type": "text", "text": "Hello."}], "Hello.", id="text"),
        pytest.param([{"type": "text", "value": "Hello."}], "Hello.", id="value"),
        pytest.param([{"type": "text", "text": None, "value": "Hello."}], "Hello.", id="null-text"),
        pytest.param([{"type": "output_text", "text": "Hello.", "annotations": []}], "Hello.", id="output-text"),
        pytest.param([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}], "Hello.", id="two-parts"),
        pytest.param([{"type": "text", "text": "Hello.", "image_url": None}], "Hello.", id="null-key"),
        pytest.param(["Hello."], "Hello.", id="bare-string"),
    ],
)
def test_typed_parts(content: list[Any], expected: str) -> None:
    assert turns({"messages": openai(U, ("assistant", content))}) == [U, ("assistant", expected)]


def test_null_keys_of_arrow_structs_and_unknown_keys_are_left_out() -> None:
    nulls = {"tool_calls": None, "tool_call_id": None, "name": None, "value": None, "from": None}
    row = {"messages": [{"role": role, "content": said, "weight": 1, **nulls} for role, said in (U, A)]}
    assert list(convert(row).messages) == openai(U, A)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize(
    ("asked", "shape", "before"),
    [
        pytest.param({"prompt": "Hi?"}, str, [U], id="strings"),
        pytest.param({"question": "Hi?", "system": "Be kind."}, str, [("system", "Be kind."), U], id="question-system"),
        pytest.param({"instruction": "Add.", "input": "1 2"}, str, [("user", "Add.\n1 2")], id="instruction-input"),
        pytest.param({"prompt": openai(*MULTI[:3])}, str, MULTI[:3], id="prompt-turns"),
        pytest.param({"prompt": openai(U)}, lambda said: openai(("assistant", said)), [U], id="turn-lists"),
        pytest.param(
            {"conversations": sharegpt(("human", "Hi?"))},
            lambda said: {"from": "gpt", "value": said},
            [U],
            id="conversations-one-turn",
        ),
        pytest.param({}, lambda said: openai(U, ("assistant", said)), [U], id="whole-conversations"),
        pytest.param(
            {"prompt": "Hi?"}, lambda said: openai(U, ("assistant", said)), [U], id="whole-conversations-and-prompt"
        ),
        pytest.param({"prompt": None}, lambda said: f"\n\nHuman: Hi?\n\nAssistant: {said}", [U], id="null-prompt"),
        pytest.param(
            {},
            lambda said: f"\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: More?\n\nAssistant: {said}",
            MULTI[:3],
            id="hh-rlhf",
        ),
    ],
)
def test_preference(asked: dict[str, Any], shape: Any, before: list[tuple[str, str]], side: str) -> None:
    row = {**asked, "chosen": shape("Good one."), "rejected": shape("Bad one.")}
    form, said = ("auto", "Good one.") if side == "chosen" else ("preference-rejected", "Bad one.")
    assert turns(row, form) == [*before, ("assistant", said)]


def test_transcript_keeps_paragraphs_and_in_line_speakers() -> None:
    chosen = "\n\nHuman: Who says 'Human: hi'?\n\nAssistant: One.\n\nTwo: Human: none."
    assert turns({"chosen": chosen, "rejected": chosen}) == [
        ("user", "Who says 'Human: hi'?"),
        ("assistant", "One.\n\nTwo: Human: none."),
    ]


def test_text_before_a_quoted_dialogue_is_not_lost() -> None:
    chosen = "Here is a dialogue.\n\nHuman: Hi?\n\nAssistant: Hello."
    conversation = convert({"prompt": "Show one.", "chosen": chosen, "rejected": "No."})
    assert "Here is a dialogue." in conversation.prompt + conversation.answer


# Turns after the last answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": openai(*MULTI, ("user", "Thanks."))},
        {"messages": openai(*MULTI, ("user", "Thanks."), ("tool", "{}"), ("user", "Bye."))},
        {"conversations": sharegpt(*MULTI, ("observation", "{}"))},
        {"prompt": openai(*MULTI[:3]), "completion": openai(MULTI[3], ("user", "Thanks."))},
        {
            "chosen": "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: More?\n\nAssistant: No.\n\nHuman: Thanks.",
            "rejected": "",
        },
    ],
    ids=["messages", "messages-three", "sharegpt", "completion", "transcript"],
)
def test_turns_after_the_last_answer_are_cut(row: dict[str, Any]) -> None:
    assert turns(row) == MULTI


def test_prompt_and_answer_of_a_conversation() -> None:
    conversation = convert({"messages": openai(*MULTI)})
    assert (conversation.prompt, conversation.answer) == ("Hi?\n\nHello.\n\nMore?", "No.")


# Tools ---------------------------------------------------------------------------------------------------------------


def called(conversation: Conversation, turn: int = -1) -> list[dict[str, Any]]:
    return [call["function"] for call in conversation.messages[turn]["tool_calls"]]


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}},
        {"id": "c1", "type": "function", "function": CALL},
        {"type": "function", "function": CALL, "index": 0, "id": None},
        {**CALL, "function": None},
        {"name": CALL["name"], "parameters": CALL["arguments"]},
    ],
    ids=["arguments-as-json", "arguments-as-object", "null-id", "flat", "parameters"],
)
@pytest.mark.parametrize("content", ["", None, "Let me look."])
def test_tool_calls_of_messages(call: dict[str, Any], content: str | None) -> None:
    row = {"messages": [*openai(U), {"role": "assistant", "content": content, "tool_calls": [call]}]}
    conversation = convert(row)
    assert called(conversation) == [CALL]
    assert conversation.messages[-1]["content"] == (content or "")
    assert "Rome" in conversation.answer or conversation.answer == content


def test_arguments_that_are_no_json_stay_the_text_they_are() -> None:
    row = {"messages": [*openai(U), {"role": "assistant", "tool_calls": [{"name": "run", "arguments": "ls -l {"}]}]}
    assert called(convert(row)) == [{"name": "run", "arguments": "ls -l {"}]


def test_tool_results_keep_their_call() -> None:
    call = {"id": "c1", "type": "function", "function": CALL}
    result = {"role": "tool", "content": "Sun.", "tool_call_id": "c1", "name": "weather"}
    row = {"messages": [*openai(U), {"role": "assistant", "tool_calls": [call]}, result, *openai(A)]}
    messages = convert(row).messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[2] == {**result, "tool_call_id": messages[1]["tool_calls"][0]["id"]}


@pytest.mark.parametrize(
    "tools", [json.dumps([SPEC]), [SPEC], SPEC, json.dumps([{"type": "function", "function": SPEC}])]
)
def test_sharegpt_tools(tools: Any) -> None:
    row = {
        "conversations": sharegpt(
            ("human", "Hi?"), ("function_call", json.dumps(CALL)), ("observation", "Sun."), ("gpt", "It is sunny.")
        ),
        "system": "Be kind.",
        "tools": tools,
    }
    conversation = convert(row)
    assert [(message["role"], message["content"]) for message in conversation.messages] == [
        ("system", "Be kind."),
        ("user", "Hi?"),
        ("assistant", ""),
        ("tool", "Sun."),
        ("assistant", "It is sunny."),
    ]
    assert called(conversation, 2) == [CALL]
    assert conversation.messages[3]["tool_call_id"] == conversation.messages[2]["tool_calls"][0]["id"]
    assert conversation.tools == ({"type": "function", "function": SPEC},)


def test_function_call_may_be_the_answer_and_may_be_several_or_no_json() -> None:
    one = convert({"conversations": sharegpt(("human", "Hi?"), ("function_call", json.dumps(CALL)))})
    two = convert({"conversations": sharegpt(("human", "Hi?"), ("function_call", json.dumps([CALL, CALL])))})
    assert called(one) == [CALL]
    assert called(two) == [CALL, CALL]
    assert len({call["id"] for call in two.messages[-1]["tool_calls"]}) == 2
    broken = {"conversations": sharegpt(("human", "Hi?"), ("function_call", "weather(Rome"))}
    assert turns(broken) == [U, ("assistant", "weather(Rome")]


@pytest.mark.parametrize(("tools", "system"), [("[]", None), ("", None), (None, None), ("Use search.", "Use search.")])
def test_tools_that_are_none_or_plain_text(tools: str | None, system: str | None) -> None:
    row = {"conversations": sharegpt(("human", "Hi?"), ("gpt", "Hello.")), "tools": tools}
    assert turns(row) == ([("system", system)] if system else []) + [U, A]
    assert convert(row).tools == ()


# Rows without a score ------------------------------------------------------------------------------------------------

TURN = {"role": "user", "content": "Hi?"}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("row", "issue"),
    [
        ({"messages": []}, Issue.EMPTY_CONVERSATION),
        ({"messages": None}, Issue.EMPTY_CONVERSATION),
        ({"conversations": []}, Issue.EMPTY_CONVERSATION),
        ({"messages": [TURN]}, Issue.NO_ASSISTANT),
        ({"messages": openai(("system", "s"), U, ("tool", "t"))}, Issue.NO_ASSISTANT),
        ({"chosen": "\n\nHuman: Hi?", "rejected": "x"}, Issue.NO_ASSISTANT),
        ({"prompt": "Hi?", "chosen": {"from": "human", "value": "x"}, "rejected": "x"}, Issue.NO_ASSISTANT),
        ({"instruction": "Hi?", "output": None}, Issue.EMPTY_ANSWER),
        ({"instruction": "Hi?", "output": ""}, Issue.EMPTY_ANSWER),
        ({"instruction": "Hi?", "response": " \n\t"}, Issue.EMPTY_ANSWER),
        ({"question": "Hi?", "answer": "\u3000"}, Issue.EMPTY_ANSWER),
        ({"prompt": "Hi?", "completion": None}, Issue.EMPTY_ANSWER),
        ({"prompt": "Hi?", "completion": openai(("assistant", ""))}, Issue.EMPTY_ANSWER),
        ({"prompt": "Hi?", "chosen": "", "rejected": "x"}, Issue.EMPTY_ANSWER),
        ({"chosen": None, "rejected": "x"}, Issue.EMPTY_ANSWER),
        ({"chosen": "\n\nHuman: Hi?\n\nAssistant:", "rejected": "x"}, Issue.EMPTY_ANSWER),
        ({"messages": openai(*MULTI[:3], ("assistant", " "))}, Issue.EMPTY_ANSWER),
        ({"messages": openai(U, ("assistant", None))}, Issue.EMPTY_ANSWER),
        ({"messages": openai(U, ("assistant", []))}, Issue.EMPTY_ANSWER),
        ({"messages": [TURN, {"role": "assistant", "content": "", "tool_calls": []}]}, Issue.EMPTY_ANSWER),
        ({"instruction": "Hi?", "output": float("nan")}, Issue.EMPTY_ANSWER),
        ({"instruction": "Hi?", "output": ["Hello."]}, Issue.WRONG_TYPE),
        ({"instruction": ["Hi?"], "output": "Hello."}, Issue.WRONG_TYPE),
        ({"instruction": "Hi?", "history": [["alone"]], "output": "Hello."}, Issue.WRONG_TYPE),
        ({"instruction": "Hi?", "history": "Hi", "output": "Hello."}, Issue.WRONG_TYPE),
        ({"instruction": "Hi?", "history": 5, "output": "Hello."}, Issue.WRONG_TYPE),
        ({"messages": "Hi?"}, Issue.WRONG_TYPE),
        ({"messages": ["Hi?"]}, Issue.WRONG_TYPE),
        ({"messages": [None]}, Issue.WRONG_TYPE),
        ({"messages": openai(U, ("assistant", {"text": "x"}))}, Issue.WRONG_TYPE),
        ({"messages": openai(U, ("assistant", [{"type": "text", "text": 5}]))}, Issue.WRONG_TYPE),
        ({"messages": [TURN, {"content": "no role"}]}, Issue.WRONG_TYPE),
        ({"messages": [TURN, {"role": "assistant", "tool_calls": "f()"}]}, Issue.WRONG_TYPE),
        ({"messages": [TURN, {"role": "assistant", "tool_calls": ["f()"]}]}, Issue.WRONG_TYPE),
        ({"messages": [TURN, {"role": "assistant", "tool_calls": [{"name": 5}]}]}, Issue.WRONG_TYPE),
        ({"messages": openai(U, ("narrator", "x"))}, Issue.UNKNOWN_ROLE),
        ({"messages": openai(U, ("", "x"), A)}, Issue.UNKNOWN_ROLE),
        ({"messages": openai(U, ("assistant", [{"type": "text", "text": "Look:"}, IMAGE]))}, Issue.NOT_TEXT),
        ({"messages": openai(("user", [IMAGE]), A)}, Issue.NOT_TEXT),
    ],
    ids=lambda value: str(value) if isinstance(value, Issue) else json.dumps(value, ensure_ascii=True)[:60],
)
def test_reason_a_row_has_no_conversation(row: dict[str, Any], issue: Issue) -> None:
    assert issue_of(row) == issue


@pytest.mark.parametrize(
    "row",
    [{"prompt": openai(*MULTI[:3]), "completion": []}, {"prompt": openai(*MULTI[:3]), "chosen": [], "rejected": []}],
    ids=["completion", "chosen"],
)
def test_missing_answer_is_not_replaced_by_an_earlier_one_of_the_prompt(row: dict[str, Any]) -> None:
    assert issue_of(row) in {Issue.NO_ASSISTANT, Issue.EMPTY_ANSWER, Issue.EMPTY_CONVERSATION}


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (["instruction", "output"], {"instruction": "Hi?"}),
        (["prompt", "completion"], {"prompt": "Hi?"}),
        (["messages"], {"text": "Hi?"}),
        (["chosen", "rejected"], {"prompt": "Hi?"}),
    ],
)
def test_required_key_that_one_row_of_a_list_lacks_counts_as_null(columns: list[str], row: dict[str, Any]) -> None:
    form = resolve_format("auto", columns)
    with pytest.raises(Unscorable) as caught:
        form.convert(row)
    assert caught.value.issue in {Issue.EMPTY_ANSWER, Issue.EMPTY_CONVERSATION}


BOTTOMLESS = "[" * 100_000


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": sharegpt(("human", "Hi?"), ("function_call", BOTTOMLESS))},
        {"conversations": sharegpt(("human", "Hi?"), ("gpt", "Hello.")), "tools": BOTTOMLESS},
        {"messages": [TURN, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": BOTTOMLESS}]}]},
    ],
    ids=["function_call", "tools", "arguments"],
)
def test_json_nested_too_deep_is_text_or_an_issue_of_its_row(row: dict[str, Any]) -> None:
    try:
        conversation = convert(row)
    except Unscorable:
        return
    assert BOTTOMLESS in str(conversation)


def test_issues_are_a_fixed_list_and_only_truncated_has_a_score() -> None:
    assert {issue.value for issue in Issue if issue.unscorable} == {
        "no_assistant_turn",
        "no_user_turn",
        "no_trained_tokens",
        "empty_conversation",
        "empty_answer",
        "wrong_type",
        "unknown_role",
        "not_text",
        "template_error",
        "too_slow",
        "too_long",
        "non_finite_state",
        "out_of_memory",
    }
    assert [issue for issue in Issue if not issue.unscorable] == ["truncated"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
FLAT = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=2)
ANYTHING = FLAT | st.lists(FLAT, max_size=2)
ROLES = st.sampled_from(["system", "human", "gpt", "assistant", "tool", "function_call", "observation", "nobody"])
CALLS = st.fixed_dictionaries({}, optional=dict.fromkeys(("function", "name", "arguments", "id"), ANYTHING))
TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": ROLES | ANYTHING,
            "from": ROLES,
            "content": st.sampled_from(["Hi?", json.dumps(CALL), "[1]"]) | ANYTHING,
            "value": ANYTHING,
            "tool_calls": st.lists(CALLS, max_size=2) | ANYTHING,
            "name": ANYTHING,
        },
    ),
    max_size=4,
)
ANY_ROW = st.sampled_from(list(FORMATS.values())).flatmap(
    lambda form: st.tuples(
        st.just(form.name),
        st.fixed_dictionaries(
            dict.fromkeys(form.required, TURNS | st.text(max_size=5) | ANYTHING),
            optional=dict.fromkeys(form.optional, TURNS | ANYTHING),
        ),
    )
)


@settings(max_examples=500, deadline=None)
@given(ANY_ROW)
@pytest.mark.slow
def test_whatever_a_row_holds_it_is_a_conversation_or_has_an_issue(case: tuple[str, dict[str, Any]]) -> None:
    form, row = case
    before = repr(row)
    try:
        last = convert(row, form).messages[-1]
    except Unscorable:
        pass
    else:
        assert last["role"] == "assistant"
        assert last["content"].strip() or last["tool_calls"]
    assert repr(row) == before  # not ==: NaN is not equal to itself


# Which format --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("instruction input output", "alpaca"),
        ("output instruction", "alpaca"),
        ("instruction context response category", "dolly"),
        ("question answer", "question-answer"),
        ("prompt completion", "prompt-completion"),
        ("prompt completion label", "prompt-completion"),  # KTO
        ("messages", "messages"),
        ("conversations system tools", "sharegpt"),
        ("chosen rejected", "preference"),
        ("prompt chosen rejected", "preference"),
        ("conversations chosen rejected", "preference"),
        ("prompt prompt_id messages chosen rejected", "preference"),
        ("prompt completion messages", "messages"),
        ("conversations messages", "messages"),
        ("instruction output conversations", "sharegpt"),
        ("instruction response output", "alpaca"),
        ("instruction response prompt completion", "dolly"),
        ("question answer prompt completion", "prompt-completion"),
    ],
)
def test_format_found_from_columns_and_the_first_in_order_wins(columns: str, name: str) -> None:
    assert resolve_format("auto", columns.split()).name == name


def test_format_does_not_change_where_a_row_is_null() -> None:
    row = {"instruction": "Hi?", "output": None, "response": "Hello.", "question": "Hi?", "answer": "Hello."}
    assert issue_of(row) == Issue.EMPTY_ANSWER
    assert turns(row, "dolly") == turns(row, "question-answer") == [U, A]


def test_format_reads_its_own_columns_only() -> None:
    columns = ["id", "instruction", "input", "output", "history", "context"]
    assert resolve_format("auto", columns).columns(columns) == columns[1:]
    assert resolve_format("messages", ["messages", "prompt", "tools"]).columns(columns) == []
    assert resolve_format(lambda row: None, columns).columns(columns) == columns


@pytest.mark.parametrize(
    ("form", "columns", "told"),
    [
        (
            "auto",
            ["content", "label"],
            ["content, label", "instruction, output", "messages", "chosen, rejected", "format="],
        ),
        ("auto", ["instruction", "answer"], ["instruction, answer", "question, answer", "format="]),
        ("auto", [], ["none"]),
        ("alpaca", ["instruction", "response"], ["'alpaca'", "'output'", "instruction, response"]),
        ("preference", ["prompt"], ["'preference'", "'chosen'", "'rejected'", "prompt"]),
        ("sharegpt", [], ["'conversations'", "none"]),
        ("alpacca", ["instruction", "output"], ["'alpacca'", "alpaca", "dolly", "messages", "sharegpt", "auto"]),
    ],
)
def test_message_names_columns_and_fix(form: str, columns: list[str], told: list[str]) -> None:
    with pytest.raises(RowFormatError) as caught:
        resolve_format(form, columns)
    assert [part for part in told if part not in str(caught.value)] == []
    assert isinstance(caught.value, ValueError)


# The user's own function ---------------------------------------------------------------------------------------------

ROW = {"a": "Hi?", "b": "Hello.", "output": "not this"}


@pytest.mark.parametrize(
    "function",
    [
        lambda row: openai(("user", row["a"]), ("assistant", row["b"])),
        lambda row: sharegpt(("human", row["a"]), ("gpt", row["b"]), ("human", "cut me")),
        lambda row: Conversation(tuple(openai(("user", row["a"]), ("assistant", row["b"])))),
        lambda row: Conversation(tuple(openai(("user", row["a"]), ("assistant", row["b"]), ("user", "cut me")))),
    ],
    ids=["messages", "sharegpt-turns", "conversation", "conversation-cut"],
)
def test_own_function(function: Any) -> None:
    assert turns(ROW, function) == [U, A]


def test_own_conversation_keeps_its_tools_and_calls() -> None:
    told = Conversation(
        ({"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "", "tool_calls": [{"function": CALL}]}),
        ({"type": "function", "function": SPEC},),
    )
    found = convert(ROW, lambda row: told)
    assert called(found) == [CALL]
    assert found.tools == told.tools


@pytest.mark.parametrize(
    ("returned", "issue"),
    [
        (None, Issue.EMPTY_CONVERSATION),
        ([], Issue.EMPTY_CONVERSATION),
        (Conversation(()), Issue.EMPTY_CONVERSATION),
        (openai(U), Issue.NO_ASSISTANT),
        (openai(U, ("assistant", "")), Issue.EMPTY_ANSWER),
        ("Hello.", Issue.WRONG_TYPE),
        (5, Issue.WRONG_TYPE),
    ],
)
def test_own_function_without_an_answer(returned: Any, issue: Issue) -> None:
    assert issue_of(ROW, lambda row: returned) == issue
