"""Batches side by side give what they give one by one."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.states import LAYERS, assert_equal_states, full_states, limit_memory, random_rows, shared_encoder

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.hooks import running_batch
from larf_curate.encoding.packed_batch import PackedBatch, PackingSettings
from larf_curate.encoding.threads import map_in_threads, prefetched
from larf_curate.errors import Issue


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3, "as many as there were"
    torch.set_num_threads(before)


def rows_alike(families: int = 3) -> list[list[int]]:
    """Rows with a few shared prefixes, in more batches than threads."""
    own = random_rows([3 + i % 30 for i in range(45)])
    return [[*range(3 + i % families, 40), *row] for i, row in enumerate(own)]


@pytest.fixture(scope="module")
def states_alike(tiny_model: Path) -> np.ndarray:
    """The states of `rows_alike` by transformers' full forward pass, computed on one thread: rows are short."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    states: np.ndarray = full_states(tiny_model, rows_alike())
    torch.set_num_threads(before)
    return states


def threads_of(encoder: Encoder) -> set[str]:
    seen: set[str] = set()
    encoder.loaded.blocks[0].register_forward_pre_hook(lambda *_: seen.add(threading.current_thread().name))
    return seen


@pytest.mark.parametrize("prefix_overhead", [0, 10_000], ids=["prefixes", "none"])
@pytest.mark.slow
def test_states_are_those_of_the_full_forward_pass(
    tiny_model: Path, states_alike: np.ndarray, prefix_overhead: int
) -> None:
    rows = rows_alike()
    encoder = shared_encoder(tiny_model, settings=PackingSettings(prefix_overhead=prefix_overhead), batch_tokens=100)
    seen, done = threads_of(encoder), list[int]()
    found = encoder.encode(rows, LAYERS, progress=done.append)
    assert len([name for name in seen if name.startswith("larf-forward")]) == 3
    assert sum(done) == len(rows)
    assert_equal_states(found.values, states_alike)


def test_a_shared_prefix_runs_once_for_all_threads(tiny_model: Path) -> None:
    """The first that needs it computes it, and the others wait."""
    encoder = shared_encoder(tiny_model, settings=PackingSettings(prefix_overhead=0), batch_tokens=30)
    runs: list[str] = []

    def watch(*_: object) -> None:
        batch = running_batch()
        if isinstance(batch, PackedBatch) and batch.is_prefix:
            runs.append(threading.current_thread().name)
            time.sleep(0.05)

    encoder.loaded.blocks[0].register_forward_pre_hook(watch)
    encoder.encode(rows_alike(families=1), LAYERS)
    assert len(runs) == 1


def test_few_batches_share_the_threads(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model, batch_tokens=100)
    seen = threads_of(encoder)
    encoder.encode(rows_alike()[:8], LAYERS)
    assert seen == {"MainThread"}


def test_what_did_not_fit_beside_others_runs_alone(tiny_model: Path, states_alike: np.ndarray) -> None:
    """A row that fits only where nothing else runs has a state; one that never fits has none."""
    rows = [*rows_alike()[:16], list(range(3, 153))]
    encoder = shared_encoder(tiny_model, batch_tokens=100)
    gc.freeze()  # see `limit_memory`

    def full(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        beside = threading.current_thread() is not threading.main_thread()
        if beside or args[0].shape[1] > 120:
            raise MemoryError

    encoder.loaded.blocks[2].register_forward_pre_hook(full)
    found = encoder.encode(rows, LAYERS)
    assert found.issues == [*[None] * 16, Issue.OUT_OF_MEMORY]
    assert_equal_states(found.values[:-1], states_alike[:16])


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved(tiny_model: Path, states_alike: np.ndarray) -> None:
    encoder = shared_encoder(tiny_model, batch_tokens=200)
    tried = limit_memory(encoder, 100, MemoryError)
    found = encoder.encode(rows_alike(), LAYERS)
    assert max(tried) > 100
    assert_equal_states(found.values, states_alike)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), KeyboardInterrupt("Ctrl-C")])
def test_an_error_ends_all_and_leaves_nothing_behind(
    tiny_model: Path, states_alike: np.ndarray, error: BaseException
) -> None:
    encoder = shared_encoder(tiny_model, batch_tokens=100)

    def fail(*_: object) -> None:
        raise error

    handle = encoder.loaded.blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(type(error), match=str(error)):
        encoder.encode(rows_alike(), LAYERS)
    handle.remove()
    assert torch.get_num_threads() == 3
    assert not any(block._forward_hooks for block in encoder.loaded.blocks)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("larf-forward")]
    assert_equal_states(encoder.encode(rows_alike(), LAYERS).values, states_alike)


def test_results_come_in_order_and_not_all_at_once() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01 * (item % 3))
        return item * item

    results = map_in_threads(work, list(range(50)), threaded=True)
    assert next(results) == (0, 0)
    assert len(begun) < 25, "results are waited for, so that memory does not grow with the items"
    assert [result for _, result in results] == [i * i for i in range(1, 50)]
    assert torch.get_num_threads() == 3


def test_torch_computes_on_one_thread_within() -> None:
    def threads(_: int) -> int:
        return torch.get_num_threads()

    assert [count for _, count in map_in_threads(threads, range(9), threaded=True)] == [1] * 9
    assert [count for _, count in map_in_threads(threads, range(2), threaded=True)] == [3] * 2, "they share one batch"
    assert [count for _, count in map_in_threads(threads, range(9), threaded=False)] == [3] * 9


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux alone lists a process's threads")
def test_no_thread_is_left_that_a_fork_could_catch_while_it_ends() -> None:
    """As it ends, MKL frees its buffers under a lock: a child forked in that moment computes no matrix product."""
    matrix = torch.randn(40, 40)
    for _ in range(300):
        numbers = [number for _, number in map_in_threads(threads_own_number, [matrix] * 6, threaded=True)]
        assert not [number for number in numbers if Path(f"/proc/self/task/{number}").exists()]


def threads_own_number(matrix: torch.Tensor) -> int:
    torch.mm(matrix, matrix)
    return threading.get_native_id()


def test_the_next_result_is_computed_while_the_last_is_used() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(item: int) -> tuple[int, str]:
        begun[item].set()
        return item * item, threading.current_thread().name[:11]

    results = prefetched(work, range(4))
    assert next(results) == (0, "larf-render")
    assert begun[1].wait(20), "without anybody asking for it"
    assert not begun[2].is_set(), "but no more than the next"
    assert [value for value, _ in results] == [1, 4, 9]


def test_a_progress_bar_that_fails_stops_the_threads(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model, batch_tokens=100)
    with pytest.raises(BrokenPipeError):
        encoder.encode(rows_alike(), LAYERS, progress=lambda _: (_ for _ in ()).throw(BrokenPipeError()))
    assert torch.get_num_threads() == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("larf-forward")]
