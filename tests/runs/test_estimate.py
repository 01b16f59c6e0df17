"""What a run would take, told before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.models import make_model
from transformers import LlamaConfig

from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.runs.estimate import estimate
from larf_curate.sources.files import open_source

SIZES = {"vocab_size": 600, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for the scales of rows and blocks to weigh as little as in a real one."""
    return make_model(tmp_path_factory.mktemp("model"), LlamaConfig(**SIZES, num_attention_heads=8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "nf4"])
def test_the_bytes_are_those_of_what_is_loaded(model: Path, tmp_path: Path, dtype: str) -> None:
    if dtype in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes", reason="8 and 4 bits need larf-curate[quant]")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    options = {"dtype": dtype, "device": "cpu"}
    found = estimate(open_source(str(tmp_path / "rows.jsonl")), 1, "auto", str(model), None, [1], options, 1, 1)
    held = 0
    loaded = load_model(ModelOptions(str(model), **options), 1, torch.device("cpu")).model
    for parameter in loaded.parameters():
        state, scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        held += parameter.nbytes + (0 if scales is None else scales.nbytes)
        held += 0 if state is None else state.absmax.nbytes + state.state2.absmax.nbytes
    assert found.bytes == pytest.approx(held, rel=0.01)
    assert (found.dtype, found.device) == (dtype, "cpu")
