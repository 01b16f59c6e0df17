"""Values out of JSON become the frozen dataclasses that they were, with the type of every field checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .cache import register

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Record = TypeVar("Record")

_checkers: dict[type[Any], TypeAdapter[Any]] = {}
"""One for each kind of record: making one takes a tenth of a second if the record is large."""
register(_checkers.clear)


def record_of(kind: type[Record], values: object) -> Record:
    """Make a record of parsed JSON: what is returned is what mypy believes it to be, down to the leaves.

    >>> from larf_curate.deciding.summary import OutcomeCounts
    >>> record_of(OutcomeCounts, {"kept": 5, "removed": 2, "unscorable": 0})
    OutcomeCounts(kept=5, removed=2, unscorable=0)

    Args:
        kind: a dataclass; its fields may be dataclasses again.
        values: mappings of field to value, lists, texts and numbers.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    if kind not in _checkers:
        from pydantic import TypeAdapter

        _checkers[kind] = TypeAdapter(kind)
    record: Record = _checkers[kind].validate_python(values)
    return record
