"""The file of a search: what it holds is read again, and what it cannot hold is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from larf_curate.scoring.layer_search.ledger import Ledger


def ledger(path: Path, key: str = "this") -> Ledger:
    """Of a search for one of two blocks, by five prompts."""
    return Ledger(path, key, prompts=5, blocks=2, private=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "search.jsonl"
    first = ledger(path)
    first.add_refusals("0", 0.9, [True, False])
    first.add_refusals("0", 0.9, [False, True])
    first.add_refusals("1", 1.1, [True])
    first.add_locator("angle", [1.0, 2.5])
    return path


KNOWN = {("0", 0.9): [True, False, False, True], ("1", 1.1): [True]}


def test_what_was_kept_is_read_again_by_the_same_search(path: Path) -> None:
    found = ledger(path)
    assert found.refusals == KNOWN
    assert found.located == {"angle": [1.0, 2.5]}
    other = ledger(path, "another")
    assert (other.refusals, other.located) == ({}, {})


def test_what_two_processes_have_answered_counts_once(path: Path) -> None:
    """Both have begun with the same part."""
    path.write_text(path.read_text() + path.read_text())
    assert ledger(path).refusals == KNOWN


PART = {"search": "this", "block": "0", "scale": 0.9, "after": 4, "refused": "1"}
LOCATED = {"search": "this", "locator": "gap", "values": [1.0, 2.0]}


@pytest.mark.parametrize(
    "changes",
    [
        {"refused": "10"},
        {"refused": "x"},
        {"refused": 1},
        {"after": 3},
        {"after": 5},
        {"scale": "0.9"},
        {"scale": float("nan")},
        {"block": 0},
        {"search": "another"},
    ],
    ids=str,
)
def test_a_part_that_does_not_fit_is_left_out(path: Path, changes: dict[str, Any]) -> None:
    """More prompts than there are, marks that say nothing, a part that is not the next one."""
    add(path, PART | changes)
    assert ledger(path).refusals == KNOWN
    add(path, PART)
    assert ledger(path).refusals == {**KNOWN, ("0", 0.9): [True, False, False, True, True]}


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 2.0, 3.0], [1.0, None], [1.0, float("inf")], "12", {"0": 1.0}], ids=str
)
def test_figures_that_are_not_one_for_each_block_are_left_out(path: Path, values: object) -> None:
    add(path, LOCATED | {"values": values})
    assert set(ledger(path).located) == {"angle"}
    add(path, LOCATED)
    assert ledger(path).located["gap"] == [1.0, 2.0]


def add(path: Path, line: object) -> None:
    with path.open("a") as file:
        file.write("\n" + json.dumps(line))
