"""What influence costs beside LARF, and beside one backward pass a row, on one machine in one run.

    python benchmarks/influence.py rows.jsonl --rows 64 --layer 14 [--model demo-aligned]

Ratios, not seconds, are what to compare between machines. The floor of influence: two passes over all blocks, each
distinct prefix once, and the head for trained tokens alone; its share of the matrix rate is that of these operations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floor import matrix_rate

from larf_curate import LARFScorer
from larf_curate.encoding.directions import block_layers
from larf_curate.encoding.encoder import get_encoder
from larf_curate.models.options import ModelOptions
from larf_curate.rows.formats import columns_of, resolve_format
from larf_curate.rows.trained_tokens import TrainedTokens, trained_tokens


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("file", type=Path)
    parse.add_argument("--rows", type=int, default=64)
    parse.add_argument("--layer", type=int, default=14)
    parse.add_argument("--model", default="demo-aligned")
    parse.add_argument("--repeats", type=int, default=3)
    parse.add_argument("--backward-rows", type=int, default=8, help="rows that the backward passes are timed on")
    chosen = parse.parse_args()
    lines = chosen.file.read_text(encoding="utf-8").splitlines()[: chosen.rows]
    rows = [json.loads(line) for line in lines]
    influence = LARFScorer.fit(chosen.model, formula="influence")
    larf = LARFScorer.fit(chosen.model, chosen.layer, progress=False)
    print(influence.summary())

    encoder = get_encoder(ModelOptions(chosen.model), None)
    row_format = resolve_format("auto", columns_of(rows))
    rendered = [trained_tokens(encoder.renderer, row_format.convert(row)) for row in rows]
    cpu = torch.device("cpu")
    rate = matrix_rate(cpu, torch.float32)
    floor = operations(encoder.loaded, rendered)
    times = {
        "LARF": timed(lambda: larf.score(rows, progress=False), chosen.repeats),
        "influence": timed(lambda: influence.score(rows, progress=False), chosen.repeats),
    }
    few = rendered[: chosen.backward_rows]
    tokens = sum(len(row.ids) for row in rendered) / sum(len(row.ids) for row in few)
    times["a backward pass a row"] = timed(lambda: backward(encoder.loaded.model, few), 1) * tokens
    rate = max(rate, matrix_rate(cpu, torch.float32))  # before and after: whatever else ran must not make it look low
    total, trained = sum(len(row.ids) for row in rendered), sum(row.count for row in rendered)
    print(f"{len(rows)} rows, {total:,} tokens, {trained:,} of them trained")
    print(f"matrix rate {rate / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads")
    for name, seconds in times.items():
        print(f"{name:24} {seconds:7.2f} s  {seconds / times['LARF']:6.2f} times LARF")
    print(f"influence reaches {floor / times['influence'] / rate:.2f} of the matrix rate on the operations it needs")
    print(f"and is {times['a backward pass a row'] / times['influence']:.1f} times as fast as a backward pass a row")


def timed(run: Callable[[], Any], repeats: int) -> float:
    """The median of some runs, after one that warms up, in seconds."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def operations(loaded: Any, rows: list[TrainedTokens]) -> float:
    """Two passes over all blocks for each token that is no shared prefix's, the head for each trained one."""
    weights = sum(layer.weight.numel() for layer in block_layers(loaded).values())
    head = loaded.model.get_output_embeddings().weight.numel()
    ordered = sorted(tuple(row.ids) for row in rows)
    shared = sum(
        next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
        for first, second in pairwise(ordered)
    )
    tokens = sum(map(len, ordered)) - shared
    attention = 2 * loaded.total_blocks * loaded.hidden_size * sum(len(row) ** 2 for row in ordered)
    return 2.0 * (2 * weights * tokens + 2 * head * sum(row.count for row in rows) + attention)


def backward(model: Any, rows: list[TrainedTokens]) -> None:
    """The gradient of each row's loss in all block weights, as a method with a backward pass a row needs it."""
    weights = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            for row in rows:
                labels = np.where(row.trained, row.ids, -100)
                model(input_ids=torch.tensor([row.ids]), labels=torch.tensor(labels)[None]).loss.backward()
                for weight in weights:
                    weight.grad = None
    finally:
        for weight in weights:
            weight.requires_grad_(False)


if __name__ == "__main__":
    main()
