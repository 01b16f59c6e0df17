"""Workers of `Dataset.map` that have nothing of this process: they load the model themselves, and score with it."""

from __future__ import annotations

import multiprocess
import numpy as np
import pytest
from datasets import Dataset
from support.forks import AsIfSpawned

from larf_curate import LARFScorer, score_dataset
from larf_curate.scoring import scorer as scorer_module


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_that_are_spawned_score_a_formatted_dataset(
    tiny_scorer: LARFScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"Add {n}.", "answer": f"It is {n}."} for n in range(6)]
    expected = tiny_scorer.score(rows, progress=False)
    monkeypatch.setattr(multiprocess.context._default_context, "_actual_context", AsIfSpawned())
    monkeypatch.setattr(scorer_module, "load_measure", None)  # the workers have nothing of what is loaded here
    scored = score_dataset(Dataset.from_list(rows).with_format("torch"), tiny_scorer, num_proc=2)
    np.testing.assert_allclose(scored.with_format(None)["larf_score"], expected, atol=1e-4)
