"""What a run finds again: digests of all that a scorer depends on, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from larf_curate import Threshold
from larf_curate.runs import request as module
from larf_curate.runs.executors import ExecutorRequest
from larf_curate.runs.request import RunRequest
from larf_curate.sources.files import open_source


def digest(home: Path, **fit: Any) -> str:
    (home / "rows.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    request = RunRequest(
        source=open_source(str(home / "rows.jsonl")),
        shard_rows=None,
        format="auto",
        fit=fit,
        scorer=None,
        revision=None,
        options={},
        threshold=Threshold.drop_top(1),
        executor=ExecutorRequest(),
        home=home / "out",
        recipe="",
    )
    return request.scorer_digest()


def test_a_fitted_scorer_is_found_by_what_its_scores_depend_on(
    tiny_model: Path, references_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = {"model": str(tiny_model), "layer": [1, 3], "references": str(references_file)}
    found = digest(tmp_path, **fit)
    assert digest(tmp_path, **fit, batch_tokens=64) == found
    others = [{"layer": [1]}, {"dtype": "bfloat16"}, {"device": "cpu"}, {"max_tokens": 99}, {"top_k": 2}]
    digests = {digest(tmp_path, **{**fit, **other}) for other in others}
    assert len(digests | {found}) == 6
    monkeypatch.setattr(module, "FORMAT_VERSION", -1)
    assert digest(tmp_path, **fit) != found, "a scorer in a format that is no longer read is fitted anew"
