"""Which device a model runs on, and in which precision."""

from __future__ import annotations

import sys
import time
from functools import cache
from typing import TYPE_CHECKING, cast, get_args

from ..cache import register
from ..errors import ModelError
from .options import DType
from .quantising import Quantised

if TYPE_CHECKING:
    import torch

_LONG_ENOUGH = 0.25  # seconds of measuring the speed of a device, if it has been measured twice by then


def find_device(device: str | None, rank: int | None = None) -> torch.device:
    """The device to run on: the one named, or else CUDA, MPS or the CPU, whichever is there first.

    Args:
        device: a torch device, such as `cuda:1`.
        rank: number of this worker process; where no device is named it spreads workers over several CUDA devices.

    Raises:
        ModelError: there is no such device on this machine.
    """
    import torch

    if device is not None:
        try:
            chosen = torch.device(device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            if "device type at start of device string" in why:  # torch then lists every kind that it was ever built for
                why = "torch knows no such device; take cpu, cuda (or cuda:1, the second GPU) or mps"
            raise ModelError(f"device {device!r} cannot be used here: {why}") from None
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", (rank or 0) % torch.cuda.device_count())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def process_number() -> int | None:
    """The number of this process among the workers of its pool, from 0; None if it is not in a pool.

    Workers choose their GPU by it, where nothing better says which worker they are. A task's rank does not: one process
    may run many tasks. An index of a row does not either.
    """
    import multiprocessing.process

    processes = [multiprocessing.process]
    if "multiprocess.process" in sys.modules:  # the one of `datasets` and datatrove; in their workers it is loaded
        processes.insert(0, sys.modules["multiprocess.process"])
    for library in processes:
        identity = library.current_process()._identity  # the pool's own count of its workers
        if identity:
            return int(identity[-1]) - 1
    return None


def find_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype of the arithmetic, and of all weights that are not quantised."""
    import torch

    if dtype in ("auto", *get_args(Quantised)):
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return cast("torch.dtype", getattr(torch, dtype))


def dtype_name(dtype: torch.dtype) -> DType:
    """The name of a torch dtype, as the option `dtype` has it."""
    return cast("DType", str(dtype).removeprefix("torch."))


def settle_dtype(dtype: DType, device: torch.device) -> DType:
    """The dtype that `auto` stands for on this device; every other dtype stands for itself."""
    return dtype_name(find_dtype(dtype, device)) if dtype == "auto" else dtype


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large product of matrices, measured once for a number of threads."""
    import torch

    return _measured_rate(device, dtype, torch.get_num_threads())


@cache
def _measured_rate(device: torch.device, dtype: torch.dtype, _threads: int) -> float:
    """The best of two to four: the first starts threads and takes memory. Where two took long, no third is needed."""
    import torch

    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    began = time.perf_counter()
    for number in range(4):
        if number > 1 and time.perf_counter() - began > _LONG_ENOUGH:
            break
        started = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return float(2.0 * size**3 / best)


register(_measured_rate.cache_clear)
