"""Messages about a dataset while it is scored, each printed once in a process."""

from __future__ import annotations

from ..cache import register
from ..progress import say
from ..rows.transcripts import template_in
from ..rows.turns import Conversation

LOOKED_AT = 16
"""The number of rows of a batch that are searched for marks of a chat template."""

_said: set[str] = set()
register(_said.clear)


def say_once(line: str) -> None:
    """Print a line, unless it is empty or this process has printed it before."""
    if line and line not in _said:
        _said.add(line)
        say(line)


def say_of_template(conversation: Conversation) -> None:
    """Print a message if a turn already contains the text of a chat template: the model's own is put around it."""
    for message in conversation.messages[:-1]:
        if (name := template_in(message["content"])) is not None:
            say_once(
                f"the texts hold a template of their own ({name}), and the model's is put around it: score what you "
                "train on; a column of whole transcripts is taken apart by --format text (format='text')"
            )
