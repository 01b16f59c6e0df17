"""What a run would take, told before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import make_model
from transformers import LlamaConfig

from larf_curate import clear_caches
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.runs.estimate import ScoringWork, estimate
from larf_curate.sources.files import open_source

SIZES = {"vocab_size": 600, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for the scales of rows and blocks to weigh as little as in a real one."""
    return make_model(tmp_path_factory.mktemp("model"), LlamaConfig(**SIZES, num_attention_heads=8))


def work(home: Path, model: Path, threads: int = 0, **options: Any) -> ScoringWork:
    """One row, and the blocks 0 and 1."""
    (home / "rows.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    return ScoringWork(
        open_source(str(home / "rows.jsonl")), "auto", 1, ModelOptions(str(model), **options), (1,), threads=threads
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "nf4"])
@pytest.mark.process
def test_the_bytes_are_those_of_what_is_loaded(model: Path, tmp_path: Path, dtype: str) -> None:
    if dtype in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes", reason="8 and 4 bits need larf-curate[quant]")
    options = {"dtype": dtype, "device": "cpu"}
    found = estimate(work(tmp_path, model, **options))
    held = 0
    loaded = load_model(ModelOptions(str(model), **options), 1, torch.device("cpu")).model
    for parameter in loaded.parameters():
        state, scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        held += parameter.nbytes + (0 if scales is None else scales.nbytes)
        held += 0 if state is None else state.absmax.nbytes + state.state2.absmax.nbytes
    assert found.bytes == pytest.approx(held, rel=0.01)
    assert (found.dtype, found.device) == (dtype, "cpu")


def test_a_plan_leaves_the_process_its_threads(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed is measured on a worker's threads, and a notebook that asked for a plan goes on with its own."""
    measured_on = []
    measure = torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *_, **how: measured_on.append(torch.get_num_threads()) or measure(8, 8, **how)
    )
    before = torch.get_num_threads()
    clear_caches()  # what was measured before counts, and so would what is measured here
    torch.set_num_threads(3)
    try:
        estimate(work(tmp_path, model, device="cpu", threads=1))
        assert torch.get_num_threads() == 3
        estimate(work(tmp_path, model, device="cpu", threads=0))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
        clear_caches()
    assert measured_on == [1, 3]
