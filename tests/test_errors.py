"""Errors of users are short in a notebook, and whole everywhere else."""

from __future__ import annotations

import linecache
import traceback

import pytest

from larf_curate import LarfError

CELL = """import larf_curate
rule = larf_curate.Threshold
def ask(rows):
    return rule.drop_top(rows)
parts = ask(-1)
"""


def test_a_notebook_shows_the_line_of_the_user_and_the_message() -> None:
    """IPython calls the method, and prints the lines that it returns in place of a traceback."""
    name = "/tmp/ipykernel_7/123.py"
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(keepends=True), name)
    with pytest.raises(LarfError) as caught:
        exec(compile(CELL, name, "exec"), {})
    shown = caught.value._render_traceback_()
    assert shown == [
        "line 4: return rule.drop_top(rows)",
        "ThresholdError: drop_top needs a number of rows, 0 or more, not -1",
    ]
    assert "in drop_top" in "".join(traceback.format_exception(caught.value)), "Python shows all of it"


def test_a_line_of_a_file_is_shown_with_its_name() -> None:
    with pytest.raises(LarfError) as caught:
        raise LarfError("raised right here")
    line, message = caught.value._render_traceback_()
    assert line.startswith(f"{__file__}, line ")
    assert line.endswith(': raise LarfError("raised right here")')
    assert message == "LarfError: raised right here"
    assert LarfError("never raised")._render_traceback_() == ["LarfError: never raised"]
