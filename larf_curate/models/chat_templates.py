"""Chat templates by whatever name a user gives them: text, a file, a model's directory, or a Hub id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import LarfError, ModelError, one_line

_PROCESSOR_TEMPLATE = "chat_template.json"  # where processors kept it before there was chat_template.jinja


def template_text(template: str | None) -> str | None:
    """The chat template that a user names.

    Args:
        template: Jinja text, a file of it, the directory of a model, or a Hub id; None stays None.

    Raises:
        ModelError: nothing there is a chat template.

    >>> template_text("{{ messages[0].content }}")
    '{{ messages[0].content }}'
    """
    if template is None or "{" in template:
        return template
    path = Path(template).expanduser()
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"chat template {template} cannot be read: {one_line(error)}") from error
        return _chosen(_in_json(text) or text, template)
    if not path.is_dir() and (path.exists() or template.count("/") != 1 or template.startswith((".", "/", "~"))):
        raise ModelError(f"chat template {template} is neither Jinja text, nor a file, a model directory or a Hub id")
    return _chosen(_template_of_model(template if not path.is_dir() else str(path)), template)


def _template_of_model(name: str) -> Any:
    """The chat template (or several, by name) of a model directory or Hub id."""
    from transformers import AutoTokenizer

    try:
        template = AutoTokenizer.from_pretrained(name, trust_remote_code=False).chat_template
    except Exception:  # without a tokenizer that can be read, a file of the template may still be there
        template = None
    try:
        return template or processor_template(name, None)
    except LarfError:
        raise
    except Exception as error:
        raise ModelError(f"chat template {name} cannot be read: {one_line(error)}") from error


def _chosen(template: Any, name: str) -> str:
    """The one template, or the default of several, that lies under a name."""
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), None)
    if not isinstance(template, str) or "{" not in template:
        raise ModelError(f"{name} holds no chat template")
    return template


def _in_json(text: str) -> Any:
    """The chat template within a JSON file (tokenizer_config.json, chat_template.json); None if it is none."""
    try:
        held = json.loads(text)["chat_template"]
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(held, list):  # several, as tokenizer_config.json lists them
        return {str(entry["name"]): entry["template"] for entry in held}
    return held


def processor_template(home: str | Path, revision: str | None) -> Any:
    """The chat template of a model's processor, which its tokenizer does not know of; None if there is none.

    Args:
        home: directory or Hub id of the model.
        revision: branch, tag or commit of a Hub id.
    """
    from transformers.utils import cached_file

    missing_is_fine = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(str(home), _PROCESSOR_TEMPLATE, revision=revision, **missing_is_fine)
    return _in_json(Path(file).read_text(encoding="utf-8")) if file else None
