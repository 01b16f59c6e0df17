"""Chat templates that count their steps print what they printed before, and come to an end for any row."""

from __future__ import annotations

import copy
import itertools
import time
from typing import Any

import pytest
from support.models import CHATML, make_tokenizer

from larf_curate.errors import Issue, ModelError, Unscorable
from larf_curate.rows import template_steps
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.template_steps import counting
from larf_curate.rows.turns import Conversation

MESSAGES = [
    {"role": "user", "content": "Hi  there"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "x y z"},
    {"role": "assistant", "content": "ok"},
]
ENDS = ("%}", "-%}", "+%}")
BETWEEN = ("", "\n", "  \n", "\n  ", "x\n   ", "\n\n")
SPACED = [
    f"  {begin} for m in messages {end}{text}{{% if m.role == 'user' %}}\n   U{{{{ m.content }}}}\n   {{%- else %}}"
    f"\n A{{{{ m.content }}}}{{% endif %}}{text}{begin} endfor {end}\n\n"
    for begin, end, text in itertools.product(("{%", "{%-", "{%+"), ENDS, BETWEEN)
]
OTHERS = [
    CHATML,
    """{% macro f(x) %}
  [{{ x }}]
{% endmacro %}{% for m in messages %}{{ f(m.content) }}{% if not loop.last %}|{% endif %}
{% for t in m.content.split() recursive %} {{ t }}{{ loop.length }}{% else %}none{% endfor %}{% endfor %}""",
    """{# a {% for %} #}{% raw %}{% for %}{% endraw %}{% set ns = namespace(a=0) %}{% for m in messages[::-1] %}
{% set ns.a = ns.a + 1 %}{% if ns.a > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}{{ ns.a }}


""",
    "\n   {% for m in messages if m.role == 'user' %}  {{- m.content -}}  {% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    """{% macro outer() %}<{{ caller('a') }}>{% endmacro %}{% call(x) outer() %} {{ x }}
{% endcall %}{% for m in messages %}{{ m.content }}{% endfor %}""",
    "{% for m in messages %}{% for",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    home = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(home)
    return AutoTokenizer.from_pretrained(home)


def printed(tokenizer: Any, template: str) -> str:
    try:
        text = tokenizer.apply_chat_template(MESSAGES, chat_template=template, tokenize=False, larf_steps=1000)
    except Exception as error:
        return type(error).__name__
    assert isinstance(text, str)
    return text


def test_a_template_that_counts_prints_the_same(tokenizer: Any) -> None:
    for template in SPACED + OTHERS:
        assert printed(tokenizer, counting(template)[0]) == printed(tokenizer, template), template


def renderer_of(tokenizer: Any, template: str) -> Renderer:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return Renderer(own, 512)


def conversation(turns: int, words: int = 1) -> Conversation:
    user = {"role": "user", "content": "word " * words}
    return Conversation(tuple([user, {"role": "assistant", "content": "yes"}] * (turns // 2)))


EACH = "{% for m in messages %}{{ m.role }}{{ m.content }}"
SLOW = {
    "turns in turns": EACH + "{% for n in messages %}{% if n == m %}.{% endif %}{% endfor %}{% endfor %}",
    "turns in filters": EACH + "{{ messages | map(attribute='content') | list | length }}{% endfor %}",
    "letters in letters": EACH + "{% for c in m.content %}{% for d in m.content %}{% endfor %}{% endfor %}{% endfor %}",
    "texts in letters": EACH + "{% for c in m.content %}{% if m.content.count(c) < 0 %}x{% endif %}{% endfor %}"
    "{% endfor %}",
    "a macro twice": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    + EACH
    + "{{ f([(m.content | length) // 150, 25] | min) }}{% endfor %}",
}


def seconds(renderer: Renderer, row: Conversation) -> float:
    began = time.process_time()
    with pytest.raises(Unscorable, match="too slow"):
        renderer.render(row)
    return time.process_time() - began


@pytest.mark.parametrize("kind", SLOW)
def test_a_row_that_would_take_for_ever_is_unscorable_with_its_reason(
    tokenizer: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times the row takes at most so many times as long, where the template alone would take 64 times."""
    monkeypatch.setattr(template_steps, "_WORK", 20_000)
    monkeypatch.setattr(template_steps, "_ENTRIES", 20)
    monkeypatch.setattr(template_steps, "_CHARACTERS", 200)
    renderer = renderer_of(tokenizer, SLOW[kind])
    renderer.check_template()
    assert renderer.render(conversation(4)).issue is None
    small, large = ((1000, 1), (8000, 1)) if "turns" in kind else ((4, 800), (4, 6400))
    before = max(seconds(renderer, conversation(*small)), 0.02)
    assert seconds(renderer, conversation(*large)) < 4 * 8 * before


def test_many_turns_are_no_reason_where_the_template_goes_over_them_once(tokenizer: Any) -> None:
    assert renderer_of(tokenizer, CHATML).render(conversation(4000)).issue is Issue.TRUNCATED


@pytest.mark.parametrize("piece", ["a", " \n", "1", "é", "<|im_end|>", "<|im_", "word "])
def test_a_long_text_takes_as_long_as_its_parts(tokenizer: Any, piece: str) -> None:
    """Sixteen times the text may take 64 times as long on a busy machine; a quadratic way would take 256 times."""
    renderer = renderer_of(tokenizer, CHATML)
    spent = []
    for characters in (1 << 13, 1 << 17):
        turns = ({"role": "user", "content": piece * (characters // len(piece))}, {"role": "assistant", "content": "x"})
        began = time.process_time()
        renderer.render(Conversation(turns))
        spent.append(time.process_time() - began)
    assert spent[1] < 4 * 16 * max(spent[0], 0.002)


def test_a_template_that_never_ends_is_refused_when_it_is_loaded(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_steps, "_WORK", 2_000)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + CHATML
    with pytest.raises(ModelError, match="does not come to an end on a short conversation"):
        renderer_of(tokenizer, endless).check_template()
