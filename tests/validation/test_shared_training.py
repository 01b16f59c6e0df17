"""The training that several arms begin with is found again by the next process, bit for bit, or done again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from larf_curate.validation.finished import FinishedArms
from larf_curate.validation.request import groups_of
from larf_curate.validation.settings import ComparingSettings, TrainingSettings
from larf_curate.validation.shared_training import SharedTraining
from larf_curate.validation.training import TrainedAdapter

ADAPTER = TrainedAdapter({"a.weight": torch.randn(3, 2).T, "b.weight": torch.randn(4).bfloat16()}, 0.1 + 0.2, 7)


@pytest.mark.parametrize("private", [True, False], ids=["in the cache", "in a directory of the user's"])
def test_an_adapter_is_found_by_the_next_process_and_by_no_other_training(tmp_path: Path, private: bool) -> None:
    def process() -> SharedTraining:
        return SharedTraining(FinishedArms(tmp_path, private=private))

    process().keep(1, "of these rows", ADAPTER, in_file=True)
    found = process().find(1, "of these rows")
    assert found is not None
    assert (found.loss, found.steps) == (ADAPTER.loss, ADAPTER.steps)
    assert set(found.weights) == set(ADAPTER.weights)
    assert all(torch.equal(found.weights[name], weight) for name, weight in ADAPTER.weights.items())
    assert all(found.weights[name].dtype == weight.dtype for name, weight in ADAPTER.weights.items())
    assert process().find(0, "of these rows") is None
    assert process().find(1, "of other rows") is None
    process().forget(1)
    assert not list(tmp_path.iterdir())
    assert process().find(1, "of these rows") is None


def test_what_no_other_arm_begins_with_is_in_memory_alone(tmp_path: Path) -> None:
    shared = SharedTraining(FinishedArms(tmp_path))
    shared.keep(0, "of these rows", ADAPTER, in_file=False)
    assert shared.find(0, "of these rows") is ADAPTER
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no adapter", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"\xff" * 64], ids=repr)
def test_a_file_that_is_no_adapter_is_told_and_trained_again(tmp_path: Path, content: bytes, caplog) -> None:
    (tmp_path / "adapter-0.safetensors").write_bytes(content)
    assert SharedTraining(FinishedArms(tmp_path)).find(0, "of these rows") is None
    assert "adapter-0.safetensors cannot be read" in caplog.text
    assert "this training is done again" in caplog.text


def test_models_that_begin_with_the_same_training_are_one_task() -> None:
    remedies = ["safe-lora", "lox", "merging", "sppft", "refusals", "forget-filter"]
    comparing = ComparingSettings(arms=["removed", "all", "kept"], remedies=remedies, seeds=2, base_model="demo")
    groups = groups_of(comparing, TrainingSettings())
    together = ["all", "safe-lora", "merging", "forget-filter"]
    names = [["removed"], ["kept"], together, ["lox"], ["sppft"], ["refusals"]]
    assert groups == tuple(tuple((name, seed) for name in group) for seed in (0, 1) for group in names)
    alone = groups_of(comparing, TrainingSettings("full"))
    assert {len(group) for group in alone} == {1}
    assert sorted(group[0] for group in alone) == sorted(model for group in groups for model in group)
