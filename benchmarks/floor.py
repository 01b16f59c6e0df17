"""What a speed is measured by: the fewest operations that give the states, and how many a second a machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

_CPU_SHAPES = ((2048, 2048, 2048), (1024, 576, 1536), (1024, 1536, 576), (4096, 1024, 4096))  # rows, inner, columns
_ACCELERATOR_SHAPES = ((8192, 8192, 8192), (16384, 4096, 14336))


def operations(ids: list[list[int]], layer: int, config: Any) -> float:
    """The fewest operations that give the states of these conversations after block `layer` of a Llama.

    The tokens with which all begin once, every other token once, the blocks up to the layer, and of the last one keys
    and values of all tokens and the rest of the last ones.
    """
    from larf_curate.encoding.batching import common_prefix

    size, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or size // config.num_attention_heads
    heads, kept = config.num_attention_heads * head, config.num_key_value_heads * head
    keys = 2 * size * 2 * kept  # of a token: two operations a weight
    rest = 2 * (size * heads * 2 + 3 * size * inner)
    shared = common_prefix(ids)
    tokens = shared + sum(len(row) - shared for row in ids)
    # Scores and their weighted sum: 4 operations for each token seen, each dimension; a row's tokens see those before.
    seen = shared * (shared + 1) / 2 + sum((len(row) * (len(row) + 1) - shared * (shared + 1)) / 2 for row in ids)
    whole = tokens * (keys + rest) + 4 * heads * seen
    last = tokens * keys + len(ids) * rest + 4 * heads * sum(map(len, ids))
    return float(layer * whole + last)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Operations a second that products of matrices sustain: those of the best of a few shapes, over so long."""
    shapes = _CPU_SHAPES if device.type == "cpu" else _ACCELERATOR_SHAPES
    best = 0.0
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(columns, inner, device=device).to(dtype)
        torch.nn.functional.linear(left, right)
        count, spent = 0, 0.0
        while spent < seconds / len(shapes):
            spent += timed(lambda left=left, right=right: torch.nn.functional.linear(left, right), device)  # type: ignore[misc]
            count += 1
        best = max(best, 2 * rows * inner * columns * count / spent)
    return best


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until it is done, on an accelerator too."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
