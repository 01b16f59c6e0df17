"""Keys of a turn reach the template under the names it reads; the rest is put into words, or said to be left out."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pytest

from larf_curate.rows.formats import resolve_format
from larf_curate.rows.template_abilities import TemplateAbilities

PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
OLMO = (
    "{% for m in messages %}{% if m.role == 'system' %}[system] {{ m.content }}"
    "{% if m.functions is defined %}<functions>{{ m.functions }}</functions>{% endif %}\n"
    "{% elif m.role == 'assistant' %}[assistant] {{ m.content }}"
    "{% if m.function_calls is defined %}<function_calls>{{ m.function_calls }}</function_calls>{% endif %}\n"
    "{% elif m.role in ('user', 'environment') %}[{{ m.role }}] {{ m.content }}\n{% endif %}{% endfor %}"
)
QWEN = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}{% for m in messages %}[{{ m.role }}] "
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>{% endfor %}\n{% endfor %}"
)
SPEC = {"name": "weather"}
ENVIRONMENT = jinja2.Environment(undefined=jinja2.ChainableUndefined)


def text_of(template: str, *turns: dict[str, Any], **columns: Any) -> str:
    compiled = ENVIRONMENT.from_string(template)
    abilities = TemplateAbilities(lambda messages, tools: compiled.render(messages=messages, tools=tools))
    row = {"messages": list(turns), **columns}
    messages, tools = abilities.express(resolve_format("auto", row).convert(row))
    abilities.express(resolve_format("auto", row).convert(row))  # says no line twice
    return compiled.render(messages=messages, tools=tools)


OPEN_INSTRUCT = (
    {"role": "system", "content": "Be kind.", "functions": json.dumps([SPEC]), "function_calls": None},
    {"role": "user", "content": "Sun?", "functions": None, "function_calls": None},
    {"role": "assistant", "content": None, "function_calls": 'weather(city="Rome")'},
    {"role": "environment", "content": "Sun."},
    {"role": "assistant", "content": "Yes."},
)


def test_the_keys_of_open_instruct_reach_a_template_that_reads_them():
    assert text_of(OLMO, *OPEN_INSTRUCT) == (
        f"[system] Be kind.<functions>{json.dumps([SPEC])}</functions>\n[user] Sun?\n"
        '[assistant] <function_calls>weather(city="Rome")</function_calls>\n[environment] Sun.\n[assistant] Yes.\n'
    )


def test_the_keys_of_open_instruct_are_put_into_words_where_a_template_does_not_read_them():
    assert text_of(PLAIN, *OPEN_INSTRUCT) == (
        f"[system] Be kind.\n\nTools:\n{json.dumps(SPEC)}\n[user] Sun?\n"
        '[assistant] weather(city="Rome")\n[tool] Sun.\n[assistant] Yes.\n'
    )
    tools = f"tools: {json.dumps([{'type': 'function', 'function': SPEC}], sort_keys=True)}\n"
    assert text_of(QWEN, *OPEN_INSTRUCT).startswith(tools)


def test_openai_and_text_calls_come_out_alike():
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    spellings = (
        {"tool_calls": [{"type": "function", "function": call}]},
        {"tool_calls": json.dumps([call])},
        {"function_call": {**call, "arguments": json.dumps(call["arguments"])}},
        {"function_calls": json.dumps([call])},
    )
    texts = {
        text_of(QWEN, OPEN_INSTRUCT[1], {"role": "assistant", "content": "", **spelling}) for spelling in spellings
    }
    assert texts == {f"[user] Sun?\n[assistant] <call>{json.dumps(call, sort_keys=True)}</call>\n"}


@pytest.mark.parametrize("data_key", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("template_key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_handed_on_under_the_key_that_the_template_reads(data_key, template_key):
    template = QWEN.replace("reasoning_content", template_key)
    turns = OPEN_INSTRUCT[1], {"role": "assistant", "content": "Yes.", data_key: "Rome is warm."}
    assert text_of(template, *turns) == "[user] Sun?\n[assistant] <think>Rome is warm.</think>Yes.\n"


def test_reasoning_that_a_template_does_not_print_is_said_once(capsys):
    turns = OPEN_INSTRUCT[1], {"role": "assistant", "content": "Yes.", "thinking": "Rome is warm."}
    assert text_of(PLAIN, *turns) == "[user] Sun?\n[assistant] Yes.\n"
    assert capsys.readouterr().err == ("the chat template prints no reasoning: what rows hold of it is not scored\n")
