"""Columns of the prompt that datasets have beside the usual ones: each is read, or said not to be."""

from __future__ import annotations

from typing import Any

import pytest

from larf_curate.errors import Issue, RowFormatError, Unscorable
from larf_curate.rows.formats import FORMATS, resolve_format
from larf_curate.rows.notices import reading_note
from larf_curate.rows.reading import Reading, check_join, parse_columns

HI, HELLO = ("user", "Hi?"), ("assistant", "Hello.")
BE_KIND = ("system", "Be kind.")


def turns(row: dict[str, Any], row_format: str = "auto") -> list[tuple[str, str]]:
    conversation = resolve_format(row_format, row).convert(row)
    return [(message["role"], message["content"]) for message in conversation.messages]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(
            {"instruction": "Add.", "input": "1 2", "response": "3"},
            [("user", "Add.\n1 2"), ("assistant", "3")],
            id="instruction-input-response",
        ),
        pytest.param(
            {"context": "A text.", "question": "What is it?", "answer": "Text."},
            [("user", "A text.\nWhat is it?"), ("assistant", "Text.")],
            id="context-question-answer",
        ),
        pytest.param(
            {"instruction": "Sum up.", "context": "A text.", "output": "Text."},
            [("user", "Sum up.\nA text."), ("assistant", "Text.")],
            id="instruction-context-output",
        ),
        pytest.param(
            {"system": "Be kind.", "instruction": "Hi?", "response": "Hello."},
            [BE_KIND, HI, HELLO],
            id="system-instruction-response",
        ),
        pytest.param(
            {"input": "Hi?", "chosen": "Hello.", "rejected": "Go away."}, [HI, HELLO], id="preference-with-input"
        ),
        pytest.param(
            {
                "chosen_messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}],
                "rejected_messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No."}],
            },
            [HI, HELLO],
            id="chosen-and-rejected-messages",
        ),
        pytest.param(
            {"query": "Hi?", "chosen": "Hello.", "rejected": "Go away."}, [HI, HELLO], id="preference-with-query"
        ),
        pytest.param(
            {"prompt": "More?", "history": [["Hi?", "Hello."]], "completion": "No."},
            [HI, HELLO, ("user", "More?"), ("assistant", "No.")],
            id="prompt-history-completion",
        ),
        pytest.param(
            {"question": "Which is red?", "choices": ["Mars", "Venus"], "answer": 0},
            [("user", "Which is red?\nA. Mars\nB. Venus"), ("assistant", "A. Mars")],
            id="question-choices-answer",
        ),
        pytest.param(
            {"question": "Which?", "choices": {"text": ["Mars", "Venus"], "label": ["1", "2"]}, "answer": "2"},
            [("user", "Which?\n1. Mars\n2. Venus"), ("assistant", "2. Venus")],
            id="choices-with-labels",
        ),
    ],
)
def test_columns_of_the_prompt_are_read(row, expected):
    assert turns(row) == expected
    assert resolve_format("auto", row).columns(row) == list(row)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi?", "output": "Hello."},
        {"instruction": "Hi?", "response": "Hello."},
        {"prompt": "Hi?", "completion": "Hello."},
        {"question": "Hi?", "answer": "Hello."},
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]},
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_system_prompts_beside_any_format(row, column):
    assert turns({**row, column: "Be kind."}) == [BE_KIND, HI, HELLO]
    assert turns({**row, column: ""}) == [HI, HELLO]


@pytest.mark.parametrize("answer", ["Hello.", [{"role": "assistant", "content": "Hello."}]])
def test_an_answer_without_a_prompt_is_no_conversation(answer):
    with pytest.raises(Unscorable) as caught:
        turns({"chosen": answer, "rejected": "Go away."})
    assert caught.value.issue == Issue.NO_USER
    assert "instruction" in caught.value.detail


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (2.5, "2.5"), (True, "True"), (False, "False"), (0, "0")])
def test_numbers_and_booleans_are_the_text_that_a_trainer_sees(value, text):
    assert turns({"question": "Hi?", "answer": value}) == [HI, ("assistant", text)]
    assert turns({"question": value, "answer": "Hello."}) == [("user", text), HELLO]


# What stands between a request and its input ------------------------------------------------------------------------

TEMPLATE = "Below.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


@pytest.mark.parametrize(
    ("join", "text"),
    [
        (None, "Add {input}.\n1 2"),  # as the authors of LARF and LLaMA-Factory write it
        ("\n\n", "Add {input}.\n\n1 2"),
        ("", "Add {input}.1 2"),
        (TEMPLATE, "Below.\n\n### Instruction:\nAdd {input}.\n\n### Input:\n1 2\n\n### Response:\n"),
    ],
)
@pytest.mark.parametrize("answer", ["output", "response", "chosen"])
def test_request_and_input_are_joined_as_a_trainer_joins_them(join, text, answer):
    row = {
        "instruction": "Add {input}.",
        "input": "1 2",
        answer: "3",
        **({"rejected": "4"} if answer == "chosen" else {}),
    }
    assert turns(row, Reading("auto", join=join).to_text()) == [("user", text), ("assistant", "3")]
    assert turns({**row, "input": ""}, Reading("auto", join="\n\n").to_text())[0] == ("user", "Add {input}.")


def test_a_join_is_typed_as_in_a_shell_and_a_template_needs_its_request():
    assert check_join(r"\n\n") == "\n\n"
    with pytest.raises(RowFormatError, match=r"no {instruction}"):
        check_join("### Input: {input}")


# What is not read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (["instruction", "input", "output"], ""),
        (["question", "answer", "larf_issue"], ""),
        (["instruction", "output", "category"], "read as alpaca (instruction, output); not read: category"),
        (
            ["messages", "instruction", "output"],
            "read as messages (messages); not read: instruction, output, which would be alpaca",
        ),
        (
            ["prompt", "chosen", "rejected", "output", "instruction"],
            "read as preference (prompt, chosen, rejected); not read: output, instruction, which would be alpaca",
        ),
    ],
)
def test_texts_that_are_not_read_are_named_in_one_line(columns, note):
    assert reading_note(resolve_format("auto", columns), columns, columns) == note
    assert reading_note(resolve_format(lambda row: None, columns), columns, columns) == ""


# Names of columns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_format", ["auto", "prompt-completion"])
def test_columns_may_be_named(row_format):
    row = {"query": "Hi?", "reply": "Hello.", "prompt": "not this"}
    text = Reading(row_format, parse_columns(["query=prompt", "reply=completion"])).to_text()
    assert turns(row, text) == [HI, HELLO]
    assert resolve_format(text, row).columns(row) == ["query", "reply"]


def test_a_column_that_is_not_there_cannot_be_named():
    with pytest.raises(RowFormatError, match=r"no column 'quary' to read as 'prompt'.* query, reply"):
        resolve_format(Reading("auto", {"quary": "prompt"}).to_text(), ["query", "reply"])


@pytest.mark.parametrize("text", ["query", "query=", "=prompt", ""])
def test_names_of_columns_are_pairs(text):
    with pytest.raises(RowFormatError, match="query=prompt"):
        parse_columns([text])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["Instruction", "Output"], ["'Instruction' as 'instruction'", "'Output' as 'output'", "alpaca"]),
        (["question ", "answer"], ["'question ' as 'question'", "question-answer"]),
        (["instruction;output"], ["';'"]),
        (["text", "label"], ["format='text'", "--format text"]),
        (["Write a poem about the sea", "The sea is wide."], ["no header line"]),
        (["query", "reply"], ["--map", "query=prompt,reply=completion", "--format", "format= a function"]),
    ],
)
def test_headers_that_nearly_fit_get_a_hint(columns, words):
    with pytest.raises(RowFormatError) as caught:
        resolve_format("auto", columns)
    assert [word for word in words if word not in str(caught.value)] == []


# Transcripts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: Hi?\n\nAssistant: Hello.",
        "### Instruction:\nHi?\n\n### Response:\nHello.",
        "### Human: Hi?### Assistant: Hello.",
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n",
        "<s>[INST] Hi? [/INST] Hello. </s>",
        (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        ),
        "<bos><start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n",
    ],
)
def test_a_transcript_in_one_text_is_split(text):
    assert turns({"text": text}, "text") == [HI, HELLO]


def test_transcripts_keep_their_system_turn_and_all_others():
    alpaca = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3"
    assert turns({"text": alpaca}, "text") == [
        ("system", "Below is an instruction."),
        ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]
    llama = "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi? [/INST] Hello. </s><s>[INST] More? [/INST] No. </s>"
    assert turns({"text": llama}, "text") == [BE_KIND, HI, HELLO, ("user", "More?"), ("assistant", "No.")]


def test_a_text_that_is_no_transcript_is_said_to_be_none():
    with pytest.raises(Unscorable) as caught:
        turns({"text": "Once upon a time."}, "text")
    assert caught.value.issue == Issue.NO_USER
    assert "no transcript" in caught.value.detail


@pytest.mark.parametrize("row_format", FORMATS.values(), ids=FORMATS)
def test_the_example_of_each_format_is_detected_as_it(row_format):
    if row_format.detected:
        resolved = resolve_format("auto", row_format.example)
        assert resolved.name == row_format.name.removesuffix("-rejected")
    assert row_format.convert(row_format.example).messages[0]["role"] == "user"
