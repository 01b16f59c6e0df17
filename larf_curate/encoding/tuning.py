"""How many tokens run together: measured once for a model on a machine, within its free memory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from filelock import Timeout as LockTimeout

from ..atomic import write_text
from ..cache import cache_directory
from ..errors import OutputError
from .memory import free_bytes, is_out_of_memory

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from .packing import PackedPass
    from .padding import PaddedPass
    from .runtime import Runtime

# Larger batches fall out of a processor's cache, smaller ones make thin matrices.
_CPU_SIZES, _CPU_DEFAULT = (512, 1_024, 2_048), 1_024
_ACCELERATOR_SIZES, _ACCELERATOR_DEFAULT = (4_096, 8_192, 16_384, 32_768, 65_536), 16_384
_WORTH = 4_096
"""Tokens of jobs that are not measured for. Any shard of a run has more: all of them run in batches of one size."""
_ROW, _BEGINNING = 200, 16  # tokens of the rows measured on, and of those which all begin with
_LONGEST = 1.0  # seconds of a batch that is measured on: all in all, it is a matter of seconds
_PATIENCE = 60.0  # seconds to wait for another process that measures
_ALIKE = 0.98  # of the best rate: the smaller batch then


def batch_tokens_for(runtime: Runtime, tokens: int) -> int:
    """Tokens of a batch that suit this model on this device.

    The measurement is kept in the user's cache and shared by all processes, so that they make the same batches. Without
    a cache that can be written, and for small jobs as long as there is no measurement, it is a default.

    Args:
        runtime: the model; whoever calls holds its lock.
        tokens: how many there are to do.
    """
    if runtime.batch_tokens is not None:
        return runtime.batch_tokens
    loaded, forward = runtime.loaded, runtime.forward
    on_cpu = loaded.device.type == "cpu"
    default = _CPU_DEFAULT if on_cpu else _ACCELERATOR_DEFAULT
    limit = _room(loaded)
    place = cache_directory() / "batches" / f"{_digest(loaded, forward)}.json"
    size = _read(place)
    if size is None and tokens >= _WORTH:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(place.with_suffix(".lock"), timeout=_PATIENCE):
                size = _read(place)
                if size is None:
                    sizes = [size for size in (_CPU_SIZES if on_cpu else _ACCELERATOR_SIZES) if size <= limit]
                    size = _measured(loaded, forward, sizes) or default
                    write_text(place, json.dumps({"batch_tokens": size}))
        except (OSError, OutputError, LockTimeout, NotImplementedError):  # the last: no locks on this file system
            size = default  # and not tried again with every job
    if size is not None:
        runtime.batch_tokens = min(size, limit)
    return min(size or default, limit)


def _measured(loaded: LoadedModel, forward: PackedPass | PaddedPass, sizes: Sequence[int]) -> int | None:
    """The smallest of `sizes` that is about as fast as the fastest; None where it would take too long to tell."""
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rate = _rate(loaded, forward, size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            rate = None  # the sizes before it did fit
        if rate is None:
            break
        rates[size] = rate
    if len(rates) < 2:
        return None
    return next(size for size, rate in rates.items() if rate >= _ALIKE * max(rates.values()))


def _rate(loaded: LoadedModel, forward: PackedPass | PaddedPass, size: int) -> float | None:
    """Tokens a second in a batch of `size`: the best of two after one more; None where that one drags."""
    rows = _rows(size, min(400, _decoder(loaded).vocab_size))
    spent: list[float] = []
    with forward.at_work([len(loaded.blocks) - 1]):
        while len(spent) < 3:
            began = time.perf_counter()
            forward(rows, _BEGINNING).cpu()
            spent.append(time.perf_counter() - began)
            if spent[0] > _LONGEST:
                return None
    return size / min(spent[1:])


def _rows(tokens: int, vocabulary: int) -> list[list[int]]:
    """Rows with a common beginning, `tokens` in all behind it."""
    beginning = [i % vocabulary for i in range(_BEGINNING)]
    own = _ROW - _BEGINNING
    return [beginning + [(7 * i + j * j) % vocabulary for j in range(own)] for i in range(max(2, tokens // own))]


def _room(loaded: LoadedModel) -> int:
    """Tokens of a batch, where the activations of all that run take half of the memory that is free.

    Reckoned with about what lives at once within a block.
    """
    import torch

    free = free_bytes(loaded.device)
    if free is None:
        return _ACCELERATOR_SIZES[-1]
    decoder = _decoder(loaded)
    wide = getattr(decoder, "intermediate_size", None) or 4 * loaded.hidden_size
    free //= 2 * (torch.get_num_threads() if loaded.device.type == "cpu" else 1)
    return max(1, free // (loaded.dtype.itemsize * (8 * loaded.hidden_size + 3 * int(wide))))


def _decoder(loaded: LoadedModel) -> Any:
    return loaded.model.config.get_text_config(decoder=True)


def _digest(loaded: LoadedModel, forward: PackedPass | PaddedPass) -> str:
    """Stands for what a measurement depends on, but the threads: any number of workers make the same batches."""
    import torch

    cuda = loaded.device.type == "cuda"
    machine = torch.cuda.get_device_name(loaded.device) if cuda else f"{platform.machine()} {os.cpu_count()}"
    named = [
        loaded.version,
        loaded.dtype_name,
        len(loaded.blocks),
        loaded.hidden_size,
        machine,
        torch.__version__,
    ]
    return hashlib.sha256(repr((*named, forward.shortcuts)).encode()).hexdigest()[:24]


def _read(place: Path) -> int | None:
    try:
        size = json.loads(place.read_text(encoding="utf-8"))["batch_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) and size > 0 else None
