"""The audit in the directory of a run: the report, the card and the page read it there."""

from __future__ import annotations

from pathlib import Path

from ..deciding.layout import SUMMARY
from ..deciding.results import run_digest
from ..errors import DataError
from ..progress import say
from .audit_result import AUDIT, Audit


def audit_of_run(home: Path) -> Audit | None:
    """The audit of the result that lies there; None where there is none, or one of an earlier result."""
    try:
        audit = Audit.from_json((home / AUDIT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, DataError) as error:
        say(f"{home / AUDIT} is left out: {error}")
        return None
    if audit.summary != run_digest((home / SUMMARY).read_bytes()):
        say(f"{home / AUDIT} is left out: it is of an earlier result, or of other rows; audit the run again")
        return None
    return audit
