"""How many tokens a batch should have: measured once for a model on a machine, within its free memory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from filelock import Timeout as LockTimeout

from ..atomic import write_private
from ..cache import cache_directory, read_cached
from ..errors import OutputError
from ..models.loading import LoadedModel
from ..progress import detail
from . import memory
from .packing import PackedPass
from .padding import PaddedPass
from .readout import LastTokenStates
from .runtime import Runtime

ForwardPass = PackedPass | PaddedPass


@dataclass(frozen=True)
class TuningSettings:
    """What is measured, and when.

    Attributes:
        sizes: tokens of a batch to try, from the smallest.
        default: tokens of a batch where nothing is measured.
        job_tokens: jobs of fewer tokens are not measured for, since they would not gain what that costs.
        batch_seconds: a model that takes longer for a batch is not measured: it would take minutes.
        tolerance: the smallest batch with at least this share of the highest rate is chosen.
        lock_seconds: how long to wait for another process that measures the same.
    """

    sizes: tuple[int, ...]
    default: int
    job_tokens: int = 4_096
    batch_seconds: float = 1.0
    tolerance: float = 0.98
    lock_seconds: float = 60.0


CPU = TuningSettings((512, 1_024, 2_048), 1_024)
"""Larger batches exceed a processor's cache, smaller ones make thin matrices."""
ACCELERATOR = TuningSettings((4_096, 8_192, 16_384, 32_768, 65_536), 16_384)
_ROW_TOKENS, _PREFIX_TOKENS = 200, 16  # of the rows that are measured on


def measured_rate(loaded: LoadedModel, forward: ForwardPass, size: int, batch_seconds: float) -> float | None:
    """Tokens a second in batches of `size` tokens: the better of two after a warm-up; None if that takes too long."""
    rows = _rows(size, min(400, _decoder(loaded).vocab_size))
    seconds: list[float] = []
    with forward.reading(LastTokenStates([len(loaded.blocks) - 1])):
        while len(seconds) < 3:
            began = time.perf_counter()
            forward(rows, _PREFIX_TOKENS).cpu()
            seconds.append(time.perf_counter() - began)
            if seconds[0] > batch_seconds:
                return None
    return size / min(seconds[1:])


def best_batch_tokens(
    runtime: Runtime,
    tokens: int,
    *,
    settings: TuningSettings | None = None,
    measure: Callable[[LoadedModel, ForwardPass, int, float], float | None] = measured_rate,
    free_bytes: int | None = None,
) -> int:
    """Tokens of a batch that suit this model on this device.

    The size that was measured to be the fastest is kept in the user's cache, where all processes find it, so that they
    make the same batches. The first process measures, and those that come meanwhile wait for it. It is a default where
    the cache cannot be written, where the model takes long for a batch, and for small jobs until there is a
    measurement. On the way out, the size is limited to what free memory allows.

    Args:
        runtime: the model; the caller holds its lock.
        tokens: how many tokens the whole job has.
        settings: what is measured, and when; by default as its device asks for.
        measure: tokens a second of this model and pass in batches of a size, or None where that takes longer than a
            number of seconds.
        free_bytes: memory that is free on the device; by default what it says itself.
    """
    if runtime.batch_tokens is not None:
        return runtime.batch_tokens
    loaded, forward = runtime.loaded, runtime.forward
    settings = settings or (CPU if loaded.device.type == "cpu" else ACCELERATOR)
    if isinstance(forward, PaddedPass) and forward.one_by_one:
        return settings.default  # no batch has more than one row
    limit = _tokens_in_memory(loaded, memory.free_bytes(loaded.device) if free_bytes is None else free_bytes)
    path = cache_directory() / "batches" / f"{_digest(loaded, forward)}.json"
    size = _read(path, settings)
    if size is None and tokens >= settings.job_tokens:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock"), timeout=settings.lock_seconds):
                size = _read(path, settings)  # another process may have measured while this one waited
                if size is None:
                    size = _fastest(loaded, forward, settings, limit, measure) or settings.default
                    write_private(path, json.dumps({"batch_tokens": size}).encode())
        except (OSError, OutputError, LockTimeout, NotImplementedError):  # the last: no locks on this file system
            size = settings.default  # kept in `runtime`: not tried again with every job
    if size is not None:
        runtime.batch_tokens = min(size, limit)
    chosen = min(size or settings.default, limit)
    layout = "padded rows" if isinstance(forward, PaddedPass) else "packed rows"
    detail(f"batches of at most {chosen:,} tokens, {layout}; {limit:,} would fit into memory")
    return chosen


def _fastest(
    loaded: LoadedModel,
    forward: ForwardPass,
    settings: TuningSettings,
    limit: int,
    measure: Callable[[LoadedModel, ForwardPass, int, float], float | None],
) -> int | None:
    """The smallest size that is about as fast as the fastest; None where fewer than two sizes could be measured."""
    rates: dict[int, float] = {}
    for size in settings.sizes:
        if size > limit:
            break
        try:
            rate = measure(loaded, forward, size, settings.batch_seconds)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            rate = None  # the sizes before it did fit
        if rate is None:
            break
        rates[size] = rate
    if len(rates) < 2:
        return None
    return next(size for size, rate in rates.items() if rate >= settings.tolerance * max(rates.values()))


def _rows(tokens: int, vocabulary: int) -> list[list[int]]:
    """Rows with a shared prefix, which have `tokens` tokens in all behind it."""
    prefix = [i % vocabulary for i in range(_PREFIX_TOKENS)]
    own = _ROW_TOKENS - _PREFIX_TOKENS
    return [prefix + [(7 * i + j * j) % vocabulary for j in range(own)] for i in range(max(2, tokens // own))]


def _tokens_in_memory(loaded: LoadedModel, free_bytes: int | None) -> int:
    """Tokens of a batch such that the activations of all batches that run at once take half of the free memory.

    An estimate: 8 tensors of the hidden size and 3 of the MLP's live at once within a block.
    """
    import torch

    if free_bytes is None:
        return ACCELERATOR.sizes[-1]
    inner = getattr(_decoder(loaded), "intermediate_size", None) or 4 * loaded.hidden_size
    at_once = torch.get_num_threads() if loaded.device.type == "cpu" else 1
    bytes_per_token = loaded.dtype.itemsize * (8 * loaded.hidden_size + 3 * int(inner))
    return max(1, free_bytes // (2 * at_once) // bytes_per_token)


def _decoder(loaded: LoadedModel) -> Any:
    return loaded.model.config.get_text_config(decoder=True)


def _digest(loaded: LoadedModel, forward: ForwardPass) -> str:
    """Of all that a measurement depends on, except threads: any number of workers make the same batches."""
    import torch

    cuda = loaded.device.type == "cuda"
    machine = torch.cuda.get_device_name(loaded.device) if cuda else f"{platform.machine()} {os.cpu_count()}"
    parts = (
        loaded.version,
        loaded.dtype_name,
        len(loaded.blocks),
        loaded.hidden_size,
        machine,
        torch.__version__,
        forward.name,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _read(path: Path, settings: TuningSettings) -> int | None:
    """What was measured; None where there is no file of this user's with one of the sizes that are tried."""
    try:
        size = json.loads(read_cached(path, 1000) or b"")["batch_tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return size if type(size) is int and size in (*settings.sizes, settings.default) else None
