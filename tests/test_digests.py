"""Digests that find a result again must change with everything that the result depends on, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from larf_curate.digests import digest_of_function


def judge_above(least: int, words: frozenset[str] = frozenset({"sorry", "cannot", "no"})) -> Any:
    return lambda _, answer: len(answer) > least or answer in {"sorry", "cannot", "no"} or answer in words


def of_judge() -> str:
    return digest_of_function(judge_above(3))


def test_a_function_is_known_by_what_it_does() -> None:
    same = [digest_of_function(lambda prompt, answer: prompt in answer) for _ in range(2)]
    other = digest_of_function(lambda prompt, answer: answer in prompt)
    assert len({*same, other}) == 2
    assert digest_of_function(judge_above(3)) == digest_of_function(judge_above(3))
    assert digest_of_function(judge_above(3)) != digest_of_function(judge_above(4))
    assert digest_of_function(lambda _, answer, least=1: least) != digest_of_function(lambda _, answer, least=2: least)
    # Functions within, whose text has an address; what calls itself, before it has a value; what is no function.
    assert digest_of_function(lambda _, a: [b for b in a]) == digest_of_function(lambda _, a: [b for b in a])  # noqa: C416

    def itself() -> Any:
        return later

    assert digest_of_function(itself) != ""
    later = itself
    assert digest_of_function(print) == ""


@pytest.mark.process
def test_it_is_the_same_in_another_process() -> None:
    """Where sets have another order, and everything another address."""
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_digests as its; print(its.of_judge())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent), *sys.path],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {of_judge()}
