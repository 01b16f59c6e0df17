"""Freed memory is used again; free memory is known."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from larf_curate.encoding.memory import free_bytes, to_device

FAULTS = """
import ctypes, resource, sys, torch
for number in (-1, -3):  # as glibc begins; its thresholds then move, at times as far as to hide the difference
    ctypes.CDLL(None).mallopt(number, 128 * 1024)
from larf_curate.encoding.memory import reuse_memory
if sys.argv[1] == "reuse":
    print(reuse_memory())
def work():
    for _ in range(10):
        at_once = [torch.ones(5 * 2**20) for _ in range(4)]
        del at_once  # more than glibc keeps by itself
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str, **env: str) -> list[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    command = [sys.executable, "-c", FAULTS, way]
    return subprocess.run(command, env={**plain, **env}, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is known")
def test_tensors_come_out_of_the_memory_of_the_last_ones() -> None:
    said, reused = faults("reuse")
    [plain] = faults("plain")
    assert said == "True"
    assert int(reused) < int(plain) / 10


@pytest.mark.process
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_has_said_stays(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert faults("reuse", **{name: value})[0] == "False"


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
