"""Freed memory is used again; free memory is known."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from larf_curate.encoding.memory import free_bytes, reuse_memory, to_device


def faults_in_a_fork(reused: bool) -> tuple[bool, int]:
    """What `reuse_memory` returns, or False where it is not called; and page faults of work with large tensors."""
    import resource

    def work() -> None:
        for _ in range(10):
            at_once = [torch.ones(5 * 2**20) for _ in range(4)]
            del at_once  # more than glibc keeps by itself

    def count() -> tuple[bool, int]:
        for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_", "LD_"))]:
            del os.environ[name]
        for number in (-1, -3):  # as glibc begins; its thresholds may have moved, and tests before may have set them
            ctypes.CDLL(None).mallopt(number, 128 * 1024)
        torch.set_num_threads(1)  # a pool of threads survives no fork
        changed = reused and reuse_memory.__wrapped__()
        work()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        work()
        return changed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(count()))
    child.start()
    there.close()
    found: tuple[bool, int] = here.recv()
    child.join()
    return found


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is known")
def test_tensors_come_out_of_the_memory_of_the_last_ones() -> None:
    (said, plain), (changed, reused) = (faults_in_a_fork(reused) for reused in (False, True))
    assert (said, changed) == (False, True)
    assert reused < plain / 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_has_said_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(other, raising=False)
    changed: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda number, value: changed.append((number, value)) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    assert reuse_memory.__wrapped__() == (sys.platform == "linux")
    assert len(changed) == 2 * (sys.platform == "linux")
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072")
    changed.clear()
    assert not reuse_memory.__wrapped__()
    assert changed == []


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="another system tells it otherwise")
def test_free_memory_is_less_than_all_of_it() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert 2**20 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free_bytes(torch.device("meta")) is None


def test_to_cuda_tensors_go_from_pinned_memory_without_waiting() -> None:
    """No GPU is needed to see what is asked of the tensor."""
    asked: list[object] = []

    class Spy:
        def pin_memory(self) -> Spy:
            asked.append("pinned")
            return self

        def to(self, device: torch.device, **options: bool) -> Spy:
            asked.append((device.type, options))
            return self

    for device in ("cuda", "cpu"):
        to_device(Spy(), torch.device(device))  # type: ignore[arg-type]
    assert asked == ["pinned", ("cuda", {"non_blocking": True}), ("cpu", {})]
