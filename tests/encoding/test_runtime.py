"""One copy of each model in a process, shared by all who use it, also across a fork."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import forget_models
from support.states import BLOCKS, LAYERS, assert_equal_states, full_states, random_rows

from larf_curate.encoding import runtime
from larf_curate.encoding.encoder import States, get_encoder
from larf_curate.encoding.runtime import unload_models
from larf_curate.encoding.threads import limited_threads
from larf_curate.errors import ModelError
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions


@pytest.fixture(scope="module")
def llama_states(tiny_model: Path) -> np.ndarray:
    return full_states(tiny_model, random_rows())


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    forget_models()
    yield
    forget_models()


def test_how_a_model_is_used_does_not_load_it_again(tiny_model: Path) -> None:
    name = str(tiny_model)
    first = get_encoder(ModelOptions(name), 3)
    for options in ({"batch_tokens": 7}, {"max_tokens": 64}, {"overflow": "reject"}, {"device": "cpu"}):
        other = get_encoder(ModelOptions(name, **options), 3)
        assert other.loaded is first.loaded
    assert get_encoder(ModelOptions(name), 0).loaded is first.loaded
    changed = get_encoder(ModelOptions(name, batch_tokens=7, max_tokens=64, overflow="reject"), 3)
    assert (changed.batch_tokens, changed.renderer.max_tokens, changed.renderer.overflow) == (7, 64, "reject")
    assert get_encoder(ModelOptions(name, dtype="bfloat16"), 3).loaded is not first.loaded


def test_the_dtype_that_auto_means_does_not_load_the_model_again(tiny_model: Path) -> None:
    """A fitted scorer says float32 where the one who fitted it said auto."""
    auto = get_encoder(ModelOptions(str(tiny_model), device="cpu"), 3)
    assert get_encoder(ModelOptions(str(tiny_model), device="cpu", dtype="float32"), 3).loaded is auto.loaded


def test_a_higher_layer_loads_more_blocks(tiny_model: Path, llama_states: np.ndarray) -> None:
    config = ModelOptions(str(tiny_model), device="cpu")
    low = get_encoder(config, 1)
    high = get_encoder(config, 4)
    assert (len(low.loaded.blocks), len(high.loaded.blocks)) == (2, 5)
    assert get_encoder(config, 1).loaded is high.loaded
    assert_equal_states(high.encode(random_rows(), LAYERS).values, llama_states)
    assert_equal_states(low.encode(random_rows(), [1]).values, llama_states[:, [1]])


def test_a_branch_and_the_commit_that_it_is_are_one_copy(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user asks for a branch, and a scorer for the commit that it was fitted on."""
    commit, loads = "0123456789" * 4, itertools.count()

    def from_hub(options: ModelOptions, highest: int | None, device: torch.device) -> LoadedModel:
        next(loads)
        return replace(load_model(replace(options, revision=None), highest, device), version=commit)

    monkeypatch.setattr(runtime, "load_model", from_hub)
    branch = ModelOptions(str(tiny_model), revision="main", device="cpu")
    pinned = replace(branch, revision=commit)
    low = get_encoder(branch, 1)
    assert get_encoder(pinned, 1).loaded is low.loaded
    assert next(loads) == 1
    high = get_encoder(branch, 3)  # takes the place of the lower one under both names
    assert get_encoder(pinned, 1).loaded is high.loaded


def test_a_layer_out_of_range_is_refused_before_and_after_loading(tiny_model: Path) -> None:
    config = ModelOptions(str(tiny_model), device="cpu")
    for highest in (BLOCKS, BLOCKS - 1, BLOCKS):
        if highest < BLOCKS:
            get_encoder(config, highest)
            continue
        with pytest.raises(ModelError, match=r"layer 5 is out of range.* blocks 0 to 4"):
            get_encoder(config, highest)


def test_unloaded_models_are_loaded_afresh(tiny_model: Path) -> None:
    config = ModelOptions(str(tiny_model))
    first = get_encoder(config, 1).loaded
    unload_models()
    assert get_encoder(config, 1).loaded is not first


def test_a_model_s_own_limit_of_positions_is_kept(tiny_model: Path) -> None:
    assert get_encoder(ModelOptions(str(tiny_model), max_tokens=4096), 1).renderer.max_tokens == 512


def test_threads_that_ask_at_once_get_one_copy(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []

    def slow(*arguments: Any) -> LoadedModel:
        loads.append(1)
        time.sleep(0.05)
        return load_model(*arguments)

    monkeypatch.setattr("larf_curate.encoding.runtime.load_model", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: get_encoder(ModelOptions(str(tiny_model)), 1), range(2))
    assert len(loads) == 1
    assert first.loaded is second.loaded


def test_threads_run_one_model_in_turn(tiny_model: Path, llama_states: np.ndarray) -> None:
    """Each reads other blocks, by hooks that the other's batches must not meet."""
    encoder = get_encoder(ModelOptions(str(tiny_model), device="cpu", batch_tokens=8), 4)
    ran: list[int] = []

    def watch(*_: object) -> None:
        ran.append(threading.get_ident())
        time.sleep(0.01)

    encoder.encode(random_rows([2]), [4])  # which finds the fastest way to run the model
    handle = encoder.loaded.blocks[0].register_forward_pre_hook(watch)
    with limited_threads(1), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda layer: encoder.encode(random_rows(), [layer]).values, (1, 4)))
    handle.remove()
    assert_equal_states(np.concatenate(found, axis=1), llama_states[:, [1, 4]])
    assert len(list(itertools.groupby(ran))) == 2


def encode_in_fork(work: Callable[[], States]) -> np.ndarray:
    """What `work` gives in a forked child; fails where the child hangs."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(work().values))
    child.start()
    there.close()
    try:
        assert here.poll(120), "the forked process hangs"
        values: np.ndarray = here.recv()
        return values
    finally:
        child.kill()
        child.join()


@pytest.mark.process
@pytest.mark.parametrize("unloaded", [False, True], ids=["loaded", "unloaded"])
def test_a_forked_process_encodes_after_its_parent_has(
    tiny_model: Path, llama_states: np.ndarray, unloaded: bool
) -> None:
    config = ModelOptions(str(tiny_model), device="cpu", batch_tokens=512)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # a pool of threads, which no fork survives
    try:
        get_encoder(config, 4).encode(random_rows([64] * 64), LAYERS)
        if unloaded:
            unload_models()
        work = random_rows() + random_rows([64] * 64, seed=1)
        values = encode_in_fork(lambda: get_encoder(config, 4).encode(work, LAYERS))
    finally:
        torch.set_num_threads(threads)
    assert_equal_states(values[: len(llama_states)], llama_states)
    assert np.isfinite(values).all()


@pytest.mark.process
def test_a_process_forked_while_a_thread_runs_the_model_does_not_wait_for_it(
    tiny_model: Path, llama_states: np.ndarray
) -> None:
    """That thread is not in the child, and would never give back what it holds."""
    config = ModelOptions(str(tiny_model), device="cpu", batch_tokens=512)
    encoder = get_encoder(config, 4)
    with encoder.runtime.lock, runtime._loading["lock"]:
        values = encode_in_fork(lambda: get_encoder(config, 4).encode(random_rows(), LAYERS))
    assert_equal_states(values, llama_states)


WITHOUT_POSIX = """
import os, sys
for name in ("fork", "forkpty", "register_at_fork"):
    delattr(os, name)
sys.modules["fcntl"] = None
from larf_curate import LARFAnnotator, LARFFilter, LARFScorer, ReferenceSet, Threshold, find_safety_layers
from larf_curate.encoding import runtime
"""


@pytest.mark.process
def test_scorers_and_steps_can_be_imported_where_no_process_forks() -> None:
    """As on Windows."""
    pytest.importorskip("datatrove")
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
