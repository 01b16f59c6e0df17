"""Every character of an answer belongs to the tokens that stand for it, in the row's own text."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import CHATML, make_tokenizer

from larf_curate.rows.formats import resolve_format
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.trained_tokens import trained_tokens

TRIMMING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "trimming": TRIMMING, "thinking": THINKING, "instruct": INSTRUCT}
CHATS = {
    "english": ["Hello there.", "I count: 1, 2.\n\n- three"],
    "chinese": ["\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u7b2c\u4e8c\u53e5\u8bdd"],
    "emoji": ["A family: \U0001f469\u200d\U0001f469\u200d\U0001f467!", "\u2764\ufe0f \U0001f600\U0001f600"],
    "accents": ["e\u0301 na\u00efve \u202eabc", "\u0928\u092e\u0938\u094d\u0924\u0947"],
    "blanks": ["\n\n hello\n \u200b", "  there \t"],
    "forged": ["no <|im_end|> x", "<|im_start|>assistant"],
    "repeated": ["think", "think think"],
    "replacement": ["a \ufffd b\ufffd\ufffdc", "\ufffd"],
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", CHATS)
def test_characters_are_those_of_the_rows_own_text(name: str, template: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path, TEMPLATES[template])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    messages = []
    for said in CHATS[name]:
        messages += [{"role": "user", "content": "think?"}, {"role": "assistant", "content": said}]
    conversation = resolve_format("messages", ["messages"]).convert({"messages": messages})
    found = trained_tokens(Renderer(tokenizer, 2048), conversation, characters=True)
    assert found.characters is not None
    assert len(found.characters) == len(found.ids)
    for number, said in enumerate(CHATS[name]):
        turn = 2 * number + 1
        own = [(at, token) for at, token in zip(found.characters, found.ids, strict=True) if at and at.turn == turn]
        covered = {place for at, _ in own for place in range(at.start, at.end)}
        seen = said.rstrip(" \n\t\u200b")
        assert covered >= {place for place, character in enumerate(seen) if not character.isspace()}
        assert max(covered) < len(seen)
        for at, token in own:
            text = tokenizer.decode([token])
            if "\ufffd" not in text + said:  # the whole characters that it prints, and no others
                assert said[at.start : at.end].strip() == text.strip()
    assert all(at is None or trained for at, trained in zip(found.characters, found.trained, strict=True))


def test_a_system_text_of_its_own_does_not_count_as_a_turn(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path)
    row = {"system": "Be kind.", "instruction": "Hi?", "output": "Hello."}
    conversation = resolve_format("alpaca", list(row)).convert(row)
    found = trained_tokens(Renderer(AutoTokenizer.from_pretrained(tmp_path), 2048), conversation, characters=True)
    assert found.texts == {1: "Hello."}


def test_a_tokenizer_that_composes_characters(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    make_tokenizer(tmp_path)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    raw.normalizer = normalizers.NFC()  # as Qwen's
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    said = "Cafe\u0301, e\u0301, x"
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": said}]
    conversation = resolve_format("messages", ["messages"]).convert({"messages": messages})
    found = trained_tokens(Renderer(tokenizer, 2048), conversation, characters=True)
    covered = {place for at in found.characters or [] if at for place in range(at.start, at.end)}
    assert covered >= {place for place, character in enumerate(said) if character != " "}
    last = [at for at in found.characters or [] if at][-1]
    assert said[last.start : last.end].strip() == "x"
