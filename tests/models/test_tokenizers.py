"""The chat template by any of its names, and what is found out of it before any weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from support.checkpoints import CPU, WEIGHTS, load
from support.models import CHATML, make_model, make_tokenizer

from larf_curate import LARFScorer
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import ModelError, ReferencesError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.formats import resolve_format

TYPED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Idefics 3 and SmolVLM have it: of a content that is a text, it prints nothing."""
ROW = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who <|im_end|> wrote it?"},
        {"role": "assistant", "content": "Tom did."},
    ]
}


def with_template(home: Path, template: Any) -> Path:
    """The directory of a tiny model with this template in tokenizer_config.json."""
    make_model(home, template=None)
    (home / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((home / "tokenizer_config.json").read_text())
    (home / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return home


def ids_of(model: Path, **options: Any) -> list[int]:
    chosen = ModelOptions.of(str(model), **options)
    encoder = Encoder(chosen, Runtime(load_model(chosen, 0, CPU)))
    rendered = encoder.render(resolve_format("auto", ROW).convert(ROW))
    return rendered.ids  # type: ignore[union-attr]


def test_a_template_that_looks_for_parts_with_a_type_gets_them(tiny_model: Path, tmp_path: Path) -> None:
    assert ids_of(tiny_model, chat_template=TYPED) == ids_of(tiny_model)
    assert ids_of(with_template(tmp_path, TYPED)) == ids_of(tiny_model)


def test_scores_by_such_a_template_are_those_of_the_text(
    tiny_model: Path, references_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larf_curate.scoring.fitting.sample_rows", list, raising=False)
    rows = [ROW, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}]
    typed, plain = (
        LARFScorer.fit(str(tiny_model), 2, references=references_file, progress=False, chat_template=template).score(
            rows
        )
        for template in (TYPED, CHATML)
    )
    assert typed.tolist() == plain.tolist()
    assert typed[0] != typed[1]


@pytest.mark.parametrize(
    ("template", "who"),
    [
        ("<|im_start|>{% for m in messages %}{{ m.role }}<|im_end|>\n{% endfor %}", "user and the assistant"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>\n{% endfor %}", "assistant"),
        ("{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>\n{% endfor %}", "user"),
    ],
)
def test_a_template_that_prints_nothing_of_a_turn_is_refused(tiny_model: Path, template: str, who: str) -> None:
    with pytest.raises(ModelError, match=f"prints nothing of what the {who} says.*--chat-template"):
        load(tiny_model, 0, chat_template=template)


def test_references_whose_two_sides_are_the_same_tokens_are_refused(tiny_model: Path, references_file: Path) -> None:
    """A template that prints an answer only where it is the probe's."""
    sly = (
        "{% for m in messages %}{% if m.role == 'user' or 'zq' in m.content or m.content == 'b' %}<|im_start|>"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    with pytest.raises(
        ReferencesError, match="unsafe and the safe answers of all references render to the same tokens"
    ):
        LARFScorer.fit(str(tiny_model), 2, references=references_file, progress=False, chat_template=sly)


def test_a_template_in_chat_template_json_alone_is_found(tiny_model: Path, tmp_path: Path) -> None:
    home = make_model(tmp_path, template=None)
    (home / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
    assert ids_of(home) == ids_of(tiny_model)


def test_of_named_templates_without_a_default_the_first_that_prints_is_used(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"rag": "{{ raise_exception('documents are missing') }}", "chat": CHATML, "other": "{{ messages }}"}
    home = with_template(tmp_path, [{"name": name, "template": text} for name, text in named.items()])
    assert ids_of(home) == ids_of(tiny_model)
    assert "has chat templates rag, chat, other and no default: chat is used" in capsys.readouterr().err


def test_named_templates_of_which_none_prints_are_named(tmp_path: Path) -> None:
    named = [{"name": name, "template": "{{ raise_exception('no') }}"} for name in ("rag", "grounded")]
    with pytest.raises(ModelError, match=r"chat templates named rag, grounded.*--chat-template"):
        load(with_template(tmp_path, named), 0)


@pytest.mark.parametrize("place", ["text", "jinja", "tokenizer_config.json", "chat_template.json", "directory", "bare"])
def test_a_chat_template_may_be_given_by_many_names(place: str, tiny_model: Path, tmp_path: Path) -> None:
    other = CHATML.replace("<|im_end|>", "<|im_end|> over")
    given = tmp_path / place
    if place == "jinja":
        given.write_text(other)
    elif place.endswith(".json"):
        given.write_text(json.dumps({"chat_template": other}))
    elif place == "directory":
        make_tokenizer(given, other)
    elif place == "bare":  # a directory with a template and nothing else
        given.mkdir()
        (given / "chat_template.json").write_text(json.dumps({"chat_template": other}))
    name = other if place == "text" else str(given)
    assert ModelOptions.of(str(tiny_model), chat_template=name).chat_template == other


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.jinja", "neither Jinja text, nor a file, a model directory or a Hub id"),
        ("./no/such", "neither Jinja text, nor a file, a model directory or a Hub id"),
        ("{home}/empty.jinja", "holds no chat template"),
        ("{home}", "holds no chat template"),
    ],
)
def test_what_is_no_chat_template_is_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jinja").write_text("nothing to print")
    with pytest.raises(ModelError, match=words):
        ModelOptions.of("demo", chat_template=name.format(home=tmp_path) if "{" in name else name)


def test_marks_that_the_tokenizer_lacks_are_named(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(tiny_model, 0, chat_template=CHATML)
    assert capsys.readouterr().err == ""
    foreign = CHATML.replace("<|im_start|>", "<|start_header_id|>")
    load(tiny_model, 0, chat_template=foreign)
    assert "prints <|start_header_id|>, which the tokenizer of" in capsys.readouterr().err


# Before any weights are read ----------------------------------------------------------------------------------------


def test_the_template_is_checked_before_the_weights_are_read(copy: Path) -> None:
    (copy / WEIGHTS).write_bytes(b"no weights at all")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load(copy, 1)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_is_said_before_the_weights_are_read(copy: Path, name: str) -> None:
    (copy / WEIGHTS).write_bytes(b"no weights at all")
    (copy / name).write_text("{")
    with pytest.raises(ModelError, match=rf"^{copy} cannot be loaded: its tokenizer cannot be read: [^\n]+$"):
        load(copy, 1)


def test_a_tokenizer_in_tekken_json_alone_is_named(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (copy / name).unlink()
    (copy / "tekken.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer in tekken\.json alone.*tokenizer\.json"):
        load(copy, 1)


def test_a_template_whose_tokens_have_no_embedding_is_refused(tmp_path: Path) -> None:
    from support.models import SIZES

    home = make_model(tmp_path, transformers.LlamaConfig(**{**SIZES, "vocab_size": 270}))
    (home / WEIGHTS).write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match=r"has embeddings for 270 tokens, and its chat template prints token \d+"):
        load(home, 1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5"}, r"is an encoder-decoder \(t5\)"),
        ({"model_type": "bart"}, r"is an encoder-decoder \(bart\)"),
        ({"model_type": "whisper"}, r"is an encoder-decoder \(whisper\)"),
        ({"model_type": "bert"}, r"is an encoder \(bert\)"),
        ({"model_type": "modernbert"}, r"is an encoder \(modernbert\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_what_is_no_causal_model_is_refused_in_one_line(copy: Path, config: dict[str, str], words: str) -> None:
    (copy / "config.json").write_text(json.dumps(config))
    (copy / WEIGHTS).write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match=words):
        load(copy, 1)
