"""What a process keeps to save time is emptied by one public function."""

from __future__ import annotations

import functools
import gc
import importlib
import pkgutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import larf_curate
from larf_curate import LARFScorer, cache, clear_caches
from larf_curate.encoding import kernels, memory, runtime
from larf_curate.scoring import model_check

ROWS = [{"prompt": f"Say {i}.", "completion": "Well " * i} for i in range(1, 4)]


def cached_functions() -> dict[str, Any]:
    """Every function of the package whose results are kept for the whole process, by its full name."""
    found = {}
    for module in pkgutil.walk_packages(larf_curate.__path__, "larf_curate."):
        if ".data." in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, functools._lru_cache_wrapper) and value.__module__ == module.name:
                found[f"{module.name}.{name}"] = value
    return found


def test_every_function_whose_results_are_kept_is_registered() -> None:
    found = cached_functions()
    assert "larf_curate.encoding.kernels.load" in found
    assert [name for name, function in found.items() if function.cache_clear not in cache.registered] == []


@pytest.mark.slow
def test_what_scoring_fills_is_empty_afterwards(
    tiny_scorer: LARFScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datatrove_annotator = pytest.importorskip("larf_curate.engines.datatrove_annotator")
    monkeypatch.setenv("LARF_CURATE_COMPILE", "0")  # that there are no kernels is kept like kernels
    clear_caches()
    tiny_scorer.save_pretrained(tmp_path)
    list(datatrove_annotator.LARFAnnotator(str(tmp_path)).run(iter(documents())))
    before = tiny_scorer.score(ROWS)
    (running,) = runtime._runtimes.values()
    model = weakref.ref(running.loaded.model)
    del running
    functions = [kernels.load, memory.reuse_memory, datatrove_annotator._load]
    assert [function.cache_info().currsize for function in functions] == [1, 1, 1]
    assert len(model_check._passed) == 1

    clear_caches()
    gc.collect()
    assert model() is None, "the weights are gone"
    assert runtime._runtimes == {}
    assert len(model_check._passed) == 0
    assert [function.cache_info().currsize for function in functions] == [0, 0, 0]
    assert np.array_equal(tiny_scorer.score(ROWS), before), "scorers go on working"


def documents() -> list[Any]:
    from datatrove.data import Document

    from larf_curate.datatrove import carry_row

    return [Document(**carry_row(None, row, "rows.jsonl", number)) for number, row in enumerate(ROWS)]


def test_clearing_with_nothing_kept_is_fine() -> None:
    clear_caches()
    clear_caches()
