"""Several GPUs: processes that train one model together, and workers of a pool that have one GPU each."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from larf_curate.errors import ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.runs.validation_stages import show_one_gpu
from larf_curate.scoring.margin import Refusals
from larf_curate.validation.finished import FinishedArms
from larf_curate.validation.processes import Processes, processes
from larf_curate.validation.settings import TrainingSettings
from larf_curate.validation.training import train
from larf_curate.validation.training_rows import TrainingRow

ROWS = [TrainingRow((5, 6, 7, 8), (0.0, 1.0, 1.0, 1.0))] * 8


@pytest.fixture
def third_of_four(monkeypatch) -> None:
    """What `accelerate launch` says to the third of four processes, the first on its machine."""
    for name, value in {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)


def test_who_this_process_is(monkeypatch, third_of_four):
    assert processes() == Processes(count=4, number=2, device=0)
    assert not processes().is_first
    monkeypatch.delenv("LOCAL_RANK")  # WORLD_SIZE alone is somebody else's
    assert processes() == Processes()
    assert processes().is_first


def test_a_step_has_as_many_rows_as_with_one_process(tiny_model, monkeypatch, third_of_four):
    seen: list[tuple[int, int]] = []

    class TrainingBeginsError(Exception):
        """Before processes look for each other."""

    def looked_at(self: TrainingArguments) -> None:
        seen.append((self.per_device_train_batch_size, self.gradient_accumulation_steps))
        raise TrainingBeginsError

    monkeypatch.setattr(TrainingArguments, "__post_init__", looked_at)

    def begin(**settings: Any) -> None:
        loaded = load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))
        train(loaded, ROWS, TrainingSettings(**settings), seed=0)

    with pytest.raises(TrainingBeginsError):
        begin(batch_rows=16)
    monkeypatch.setattr("larf_curate.validation.training._TOKENS_AT_ONCE", {"cpu": 8})  # two of these rows
    with pytest.raises(TrainingBeginsError):
        begin(batch_rows=16)
    assert seen == [(4, 1), (2, 2)]
    with pytest.raises(ModelError, match="6 rows a step cannot be shared out among 4 processes: take a multiple"):
        begin(batch_rows=6)


def test_the_first_process_alone_writes(tmp_path, third_of_four, monkeypatch):
    finished = FinishedArms(tmp_path / "arms")
    refusals = Refusals(((1, 2),), (True,), (3,))
    finished.require_writable()
    finished.write_refusals("digest", refusals)
    assert not (tmp_path / "arms").exists()
    monkeypatch.setenv("RANK", "0")
    finished.write_refusals("digest", refusals)
    assert json.loads((tmp_path / "arms" / "refusals.json").read_text())["digest"] == "digest"


@pytest.mark.parametrize(
    ("visible", "worker", "shown"), [(None, 1, "1"), (None, 5, "1"), ("2,7,9", 2, "9"), ("3", 4, "3"), ("0,1", 3, "1")]
)
def test_a_worker_of_a_pool_sees_one_gpu(visible, worker, shown, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    show_one_gpu(worker)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown
    show_one_gpu(worker + 1)  # the next task of the same worker
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown
