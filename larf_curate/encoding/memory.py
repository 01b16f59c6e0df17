"""What memory there is, what becomes of that which is given back, and the way to that of a device."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache import register

if TYPE_CHECKING:
    import torch

_KEPT = 256 * 2**20  # bytes that a process may hold in reserve
_LARGE = 32 * 2**20  # bytes from which glibc may ask the system for each tensor; the most that it takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for them


@cache
def reuse_memory() -> bool:
    """Let tensors come out of the memory that the last ones left, which saves a tenth of the time on a CPU.

    By default, glibc gives the memory of large tensors back to the system as soon as they go, and the next ones cost a
    page fault for every 4 KiB. Says whether it could be changed: not where another allocator is at work, or where the
    user has said by glibc's own variables what should be.
    """
    said = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if sys.platform != "linux" or any(os.environ.get(name) for name in said):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT) and mallopt(_MMAP_THRESHOLD, _LARGE))


register(reuse_memory.cache_clear)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to CUDA out of pinned memory, so that nobody waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device; None where there is no telling."""
    import torch

    if device.type == "cuda":
        # torch holds some in reserve for the next tensors.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device.type != "cpu":
        return None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def give_back(device: torch.device) -> None:
    """What is not referred to any more goes back, on an accelerator to others too."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; the CPU's and MPS's allocators say it in words."""
    import torch

    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "can't allocate" in text
    )
