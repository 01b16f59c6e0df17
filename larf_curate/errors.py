"""What can go wrong, and the one fixed list of reasons a row carries in `larf_issue`."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path


class LarfError(ValueError):
    """The data, the model or the references cannot be used. The message says what, where and the fix.

    All errors that this package raises on purpose are of this class.

    >>> from larf_curate import LarfError, Threshold
    >>> try:
    ...     Threshold.drop_top(-1)
    ... except LarfError as error:
    ...     print(error)
    drop_top needs a number of rows, 0 or more, not -1
    """

    def _render_traceback_(self, *_: object) -> list[str]:
        """What a notebook shows instead of a traceback: the user's own line and the message.

        IPython looks for this method; Python itself does not, so that scripts show their whole traceback.
        """
        calls = traceback.extract_tb(self.__traceback__)
        here = str(Path(__file__).parent)
        ours = next((at for at, call in enumerate(calls) if call.filename.startswith(here)), len(calls))
        shown = []
        for call in calls[max(ours - 1, 0) : ours]:
            file = "" if not Path(call.filename).is_file() or "ipykernel" in call.filename else f"{call.filename}, "
            shown.append(f"{file}line {call.lineno}: {call.line or ''}".rstrip(": "))
        return [*shown, f"{type(self).__name__}: {self}"]


class RowFormatError(LarfError):
    """The dataset's columns do not say how a row becomes a conversation."""


class DataError(LarfError):
    """A file or dataset cannot be read."""


class OutputError(LarfError):
    """A result cannot be written."""


class ModelError(LarfError):
    """The model cannot be found, loaded or used for scoring."""


class ReferencesError(LarfError):
    """The reference pairs cannot be used."""


class PromptsError(LarfError):
    """Prompts cannot be read or asked, or the model answers them in a way that nothing can be learnt from."""


class ScorerError(LarfError):
    """A fitted scorer cannot be read, or does not belong to the model it meets."""


class ThresholdError(LarfError):
    """A threshold is out of range, not fitted, or meets scores it cannot judge."""


class RecipeError(LarfError):
    """A recipe is wrong; the message names the file, the line, the key and the fix."""


class PublishError(LarfError):
    """A result cannot be published; nothing was, or all that the message says."""


class MissingExtraError(LarfError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, need: str) -> None:
        super().__init__(f"{need} needs the package `{package}`: pip install 'larf-curate[{extra}]'")

    def __reduce__(self) -> tuple[object, ...]:
        """An error that cannot be unpickled hangs the pool whose worker raised it."""
        return LarfError.__new__, (MissingExtraError, str(self))


def one_line(error: BaseException) -> str:
    """An error's own words on one line of at most 300 characters; the name of its class where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such name, and which there are.

    >>> unknown_name("key", "paht", ["path", "split"])
    "unknown key 'paht'; did you mean 'path'? known: path, split"
    """
    listed = list(known)
    close = difflib.get_close_matches(name, listed, 1, 0.6)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r};{hint} known: {', '.join(listed)}"


class Issue(StrEnum):
    """Every value `larf_issue` can take beside null. All but `TRUNCATED` mean that the row has no score."""

    TRUNCATED = "truncated"  # scored; its middle was cut to `max_tokens`
    NO_ASSISTANT = "no_assistant_turn"
    NO_USER = "no_user_turn"  # an answer without what it answers
    EMPTY_CONVERSATION = "empty_conversation"
    EMPTY_ANSWER = "empty_answer"  # the answer is null or blank
    WRONG_TYPE = "wrong_type"  # a field holds something other than the format says
    UNKNOWN_ROLE = "unknown_role"
    NOT_TEXT = "not_text"  # an image, audio or other part that a text model cannot read
    TEMPLATE = "template_error"  # the model's chat template refuses the conversation
    TOO_SLOW = "too_slow"  # the chat template goes over it more often than a conversation of its size is worth
    TOO_LONG = "too_long"  # over `max_tokens` under overflow="reject"
    NO_TRAINED_TOKENS = "no_trained_tokens"  # every assistant turn is left out of the loss, or was cut away
    NON_FINITE = "non_finite_state"
    OUT_OF_MEMORY = "out_of_memory"  # did not fit the device even alone

    @property
    def unscorable(self) -> bool:
        return self is not Issue.TRUNCATED

    @property
    def words(self) -> str:
        return self.value.replace("_", " ")


class Unscorable(Exception):  # noqa: N818 - an outcome of one row, never an error of the run
    """Raised for one row by whoever finds that it cannot be scored; caught by the scorer, which counts it.

    Attributes:
        issue: the kind of fault.
        detail: the column or turn at fault and what it holds; empty where there is no more to say.
    """

    def __init__(self, issue: Issue, detail: str = "") -> None:
        super().__init__(f"{issue.words}: {detail}" if detail else issue.words)
        self.issue = issue
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return Unscorable, (self.issue, self.detail)
