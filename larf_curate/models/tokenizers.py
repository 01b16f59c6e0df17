"""A model's tokenizer, with the chat template that rows are rendered by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, one_line
from ..progress import say
from ..rows.rendering import Renderer
from ..rows.turns import Conversation
from .adapters import has_tokenizer
from .chat_templates import processor_template

if TYPE_CHECKING:
    from .locating import ModelFiles
    from .options import ModelOptions

_EXCHANGE = Conversation(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
_MARKS = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_turn>|</?s>")


def load_tokenizer(options: ModelOptions, source: ModelFiles, arguments: dict[str, Any]) -> Any:
    """The tokenizer of a model (of its adapter, if one lies there), with its chat template or the one asked for.

    Args:
        options: the model, and the chat template asked for.
        source: where the model's files are.
        arguments: further ones of `from_pretrained`.

    Raises:
        ModelError: the tokenizer cannot be read, or has no chat template that prints conversations.
    """
    from transformers import AutoTokenizer

    # An adapter's own comes first. Left out, transformers would ask on the terminal whether to run the adapter's code.
    trust = {"trust_remote_code": options.trust_remote_code}
    own = [(source.adapter, trust)] if source.adapter and has_tokenizer(source.adapter) else []
    homes: list[tuple[str | Path, dict[str, Any]]] = [*own, (source.path, arguments)]
    try:
        tokenizer = AutoTokenizer.from_pretrained(homes[0][0], **homes[0][1])
        if options.chat_template is not None:
            tokenizer.chat_template = options.chat_template
            _say_foreign_marks(tokenizer, options)
        elif not tokenizer.chat_template:
            tokenizer.chat_template = _template_elsewhere(homes)
    except Exception as error:  # a dozen kinds of tokenizer have errors of their own
        if "trust_remote_code" in str(error):
            raise
        raise ModelError(_unreadable(options.model, homes[0][0], error)) from error
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        tokenizer.chat_template = _with_default(tokenizer, options.model)
    Renderer(tokenizer, options.max_tokens).check_template()
    tokenizer.model_max_length = int(1e30)  # the renderer cuts; the tokenizer need not warn
    return tokenizer


def _template_elsewhere(homes: Sequence[tuple[str | Path, dict[str, Any]]]) -> Any:
    """The chat template of a tokenizer that has none: its processor's, or that of an adapter's base."""
    from transformers import AutoTokenizer

    for number, (home, arguments) in enumerate(homes):
        template = AutoTokenizer.from_pretrained(home, **arguments).chat_template if number else None
        if template := template or processor_template(home, arguments.get("revision")):
            return template
    return None


def require_embeddings(tokenizer: Any, rows: int, model: str) -> None:
    """Refuse a chat template that prints tokens that the model has no embedding for.

    Raises:
        ModelError: names the first such token.
    """
    try:
        ids = Renderer(tokenizer, 1 << 30).render(_EXCHANGE).ids
    except Exception:  # a template that wants more than an exchange
        return
    if beyond := [token for token in ids if token >= rows]:
        raise ModelError(
            f"{model} has embeddings for {rows:,} tokens, and its chat template prints token {beyond[0]:,} "
            f"({tokenizer.decode([beyond[0]])!r}): the tokenizer belongs to another model, or the embeddings were "
            "resized in a checkpoint that is not here"
        )


def _with_default(tokenizer: Any, model: str) -> dict[str, str]:
    """Named templates of which none is called default, with the first that prints conversations as the default."""
    named: dict[str, str] = tokenizer.chat_template
    for name, template in named.items():
        tokenizer.chat_template = template
        try:
            renderer = Renderer(tokenizer, 1 << 30)
            renderer.check_template()
            renderer.render(_EXCHANGE)
        except Exception:  # noqa: S112 - the next may do
            continue
        if len(named) > 1:
            say(f"{model} has chat templates {', '.join(named)} and no default: {name} is used")
        return {**named, "default": template}
    raise ModelError(
        f"{model} has chat templates named {', '.join(named)}, and none of them prints a conversation: pass one with "
        "chat_template= (--chat-template)"
    )


def _say_foreign_marks(tokenizer: Any, options: ModelOptions) -> None:
    """Say which marks of a chat template are not tokens of the tokenizer, which then reads them as plain text."""
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    marks = list(dict.fromkeys(_MARKS.findall(options.chat_template or "")))
    if foreign := [mark for mark in marks if mark not in known]:
        say(
            f"the chat template prints {', '.join(foreign[:4])}, which the tokenizer of {options.model} does not have "
            "as tokens: the model reads them as plain text, and was hardly trained on that"
        )


def _unreadable(model: str, home: str | Path, error: Exception) -> str:
    path = Path(home)
    if path.is_dir() and (path / "tekken.json").is_file() and not (path / "tokenizer.json").is_file():
        return (
            f"{model} has its tokenizer in tekken.json alone, which is not read here: take a version of the model with "
            "tokenizer.json"
        )
    return f"{model} cannot be loaded: its tokenizer cannot be read: {one_line(error)}"
