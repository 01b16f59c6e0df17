"""Free bytes on a device, reuse of freed CPU memory (glibc), copies to a device, and out-of-memory detection."""

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

_TRIM_THRESHOLD_BYTES = 256 * 2**20  # free memory that a process may hold in reserve
_MMAP_THRESHOLD_BYTES = 32 * 2**20  # glibc may ask the system for each tensor from this size on; the most it takes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's numbers for them
_USER_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@cache
def reuse_memory() -> bool:
    """Let new tensors reuse the memory of freed ones, which saves a tenth of the time on a CPU.

    By default, glibc gives the memory of large tensors back to the system as soon as they are freed, and new ones cost
    a page fault for every 4 KiB.

    Returns:
        Whether the setting was changed: not with another allocator, nor where the user has set glibc's own variables.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in _USER_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES))


register(reuse_memory.cache_clear)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. To CUDA it goes from pinned memory, so that the caller does not wait for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def free_bytes(device: torch.device) -> int | None:
    """Free memory on the device; None where it cannot be known."""
    import torch

    if device.type == "cuda":
        # Memory that torch holds in reserve is free for its next tensors.
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserve
    if device.type != "cpu":
        return None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def release_memory(device: torch.device) -> None:
    """Free what nothing refers to any more; on CUDA, for other processes too."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full. CUDA has a class for it; the CPU's and MPS's allocators use words."""
    import torch

    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "can't allocate" in text
    )
