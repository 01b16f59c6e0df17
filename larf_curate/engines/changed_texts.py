"""Documents whose text another step has changed while the row that they carry is still the one that was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, Literal, get_args

from datatrove.pipeline.base import PipelineStep

from ..errors import RowFormatError, Unscorable
from ..rows.formats import RowFormat

ChangedText = Literal["row", "document"]
"""What is scored if a document's text is no longer the text of its row."""

_BREAK = "\n\n"  # between the turns of a document's text
_UNREADABLE: dict[str, Any] = {"messages": 0, "tools": None}  # of a wrong type


def require_choice(changed_text: str) -> None:
    """Refuse a value that is not one of `ChangedText`.

    Raises:
        ValueError: it is not.
    """
    if changed_text not in get_args(ChangedText):
        raise ValueError(f"changed_text must be row or document, not {changed_text!r}")


@dataclass(frozen=True)
class StepsBefore:
    """The steps that documents have gone through since they were read, as far as their generators show.

    Attributes:
        names: the names of the steps, in order.
        formatting: the names of the steps among them that exist to change texts.
    """

    names: tuple[str, ...] = ()
    formatting: tuple[str, ...] = ()

    @classmethod
    def of(cls, documents: Iterable[Any]) -> StepsBefore:
        """The steps that a step's input comes from. Call it before the first document is taken: later none is found."""
        names: list[str] = []
        formatting: list[str] = []
        while isinstance(documents, GeneratorType) and documents.gi_frame is not None:
            values = documents.gi_frame.f_locals
            step = values.get("self")
            kind = str(step.type) if isinstance(step, PipelineStep) else ""
            if "READER" in kind:
                break
            name = type(step).__name__ if isinstance(step, PipelineStep) else documents.__name__
            if not kind or not ("WRITER" in kind or type(step).__module__.startswith("larf_curate.")):
                names.insert(0, name)
                formatting[:0] = [name] if "FORMAT" in kind else []
            documents = next((value for value in values.values() if isinstance(value, GeneratorType)), ())
        return cls(tuple(names), tuple(formatting))

    def __str__(self) -> str:
        likely = self.formatting or self.names
        if not likely:
            return "another step"
        return likely[0] if len(likely) == 1 else f"one of {', '.join(likely)}"


def row_with_text(row: Mapping[str, Any], text: str, row_format: RowFormat) -> dict[str, Any]:
    """A row of chat messages: the conversation of a row, with the turns that a changed text of it says.

    The text was made by `row_text`: the turns, with an empty line between them. Turns may hold empty lines themselves,
    so a changed text is divided by their number. Where that number has changed too, no one can tell which turn says
    what, and the row has no conversation.

    Args:
        row: the row whose conversation the text was.
        text: after the change.
        row_format: the row format of the row.
    """
    try:
        conversation = row_format.convert(row)
    except (RowFormatError, Unscorable):
        return _UNREADABLE  # what was no conversation has not become one
    messages = [dict(message) for message in conversation.messages]
    contents = [str(message["content"]) for message in messages[:-1]] + [conversation.answer]
    divided = _divided(text, [content.count(_BREAK) + 1 for content in _without_ends(contents)])
    calls = not messages[-1]["content"]  # the answer is nothing but calls, which the text shows as JSON
    if divided is None or (calls and divided[-1] != conversation.answer.strip()):
        return _UNREADABLE
    for message, new in zip(messages[:-1] if calls else messages, divided, strict=False):
        message["content"] = new
    return {"messages": messages, "tools": list(conversation.tools) or None}


def _without_ends(contents: Sequence[str]) -> list[str]:
    """The texts without what a document's text loses at its two ends."""
    *before, last = contents
    first, *between = [*before, last.rstrip()]
    return [first.lstrip(), *between]


def _divided(text: str, counts: Sequence[int]) -> list[str] | None:
    """The pieces of a text, of so many blocks each; None where it has more blocks or fewer."""
    blocks = text.strip().split(_BREAK)
    if len(blocks) != sum(counts):
        return None
    pieces: list[str] = []
    for count in counts:
        pieces.append(_BREAK.join(blocks[:count]))
        blocks = blocks[count:]
    return pieces
