"""The speed of scoring on this machine's accelerator, at the shape of Llama-3.1-8B with random weights, in one run.

    python benchmarks/gpu.py                            # block 12, bfloat16, rows of realistic lengths
    python benchmarks/gpu.py --tiny --device cpu        # the same program at a toy's size, to see that it runs

Speed does not depend on the values of weights or tokens. Prints rows/s, the share of the device's matrix rate (the
floor's operations over seconds times the rate of a large matrix product in the same dtype, measured here), peak
memory, and the ratio to the authors' way: the whole model, `output_hidden_states`, one row at a time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parent))
from floor import matrix_rate, operations, timed

from larf_curate.encoding.directions import Factors, WeightDirection, block_layers
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.models.blocks import find_blocks
from larf_curate.models.devices import find_device
from larf_curate.models.loading import LoadedModel
from larf_curate.models.options import ModelOptions
from larf_curate.scoring.influence import token_influence

SHAPES = {
    False: {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    True: {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 8192,
    },
}
PREFIX, PASSES = 25, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=100, help="rows that the authors' way runs on")
    parser.add_argument("--influence", type=int, default=200, help="rows that influence runs on; 0 leaves it out")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = find_device(options.device)
    layer = options.layer if options.layer is not None else (3 if options.tiny else 12)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = LlamaConfig(**SHAPES[options.tiny], rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    rows = conversations(options.rows, config.vocab_size)
    rate = matrix_rate(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}, {str(dtype).removeprefix('torch.')}, matrix rate {rate / 1e12:.2f} TFLOP/s, block {layer}")

    model = random_model(config, device, dtype)
    seconds = median_seconds(lambda: one_at_a_time(model, rows[: options.plain], layer, device), device, passes=1)
    plain = report("authors", rows[: options.plain], seconds, rate, layer, config, device)
    del find_blocks(model, config.num_hidden_layers)[layer + 1 :]
    encoder = encoder_of(model, layer, device, dtype, options.batch_tokens)
    seconds = median_seconds(lambda: encoder.encode(rows, [layer]), device, PASSES)
    ours = report("ours", rows, seconds, rate, layer, config, device)
    print(f"ours is {ours / plain:.1f} times as fast a token: {encoder.encode(rows[:1], [layer]).execution}")
    model = encoder = None  # their memory is wanted
    if options.influence:
        influence(rows[: options.influence], config, device, dtype, ours)


def influence(
    rows: list[list[int]], config: LlamaConfig, device: torch.device, dtype: torch.dtype, larf: float
) -> None:
    """Time the derivative of every row's loss along a random direction of rank 4; `larf`: tokens a second of states."""
    model = random_model(config, device, dtype, AutoModelForCausalLM)
    encoder = encoder_of(model, config.num_hidden_layers - 1, device, dtype, None)
    draw = np.random.default_rng(0)
    factors = {}
    for name, layer in block_layers(encoder.loaded).items():
        outputs, inputs = layer.weight.shape
        left, right = draw.standard_normal((outputs, 4)), draw.standard_normal((4, inputs))
        factors[name] = Factors(left.astype(np.float32), right.astype(np.float32))
    direction = WeightDirection(factors)
    direction = direction.scaled(1 / direction.norm)
    trained = [[place >= len(row) // 2 for place in range(len(row))] for row in rows]
    run = partial(token_influence, encoder.runtime, rows, trained, direction, 0.003)
    seconds = median_seconds(run, device, 1)
    speed = sum(map(len, rows)) / seconds
    print(f"influence: {speed:.0f} tokens/s, {larf / speed:.1f} times the time of ours: {run().execution}")


def conversations(count: int, vocabulary: int) -> list[list[int]]:
    """Token ids with the lengths of instruction data: log-normal, a median of 180 tokens, one in a hundred over 900."""
    draw = random.Random(0)
    shared = [draw.randrange(vocabulary) for _ in range(PREFIX)]
    lengths = [min(4096 - PREFIX, max(20, int(draw.lognormvariate(5.2, 0.7)))) for _ in range(count)]
    return [shared + [draw.randrange(vocabulary) for _ in range(length)] for length in lengths]


def random_model(config: LlamaConfig, device: torch.device, dtype: torch.dtype, kind: Any = AutoModel) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return kind.from_config(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def encoder_of(model: Any, layer: int, device: torch.device, dtype: torch.dtype, batch_tokens: int | None) -> Encoder:
    loaded = LoadedModel(
        model=model,
        tokenizer=SimpleNamespace(chat_template="random weights are asked nothing"),
        blocks=find_blocks(model, layer + 1),
        total_blocks=model.config.num_hidden_layers,
        hidden_size=model.config.hidden_size,
        max_positions=model.config.max_position_embeddings,
        version="random",
        device=device,
        dtype=dtype,
    )
    return Encoder(ModelOptions("random", batch_tokens=batch_tokens), Runtime(loaded))


@torch.inference_mode()
def one_at_a_time(model: Any, rows: list[list[int]], layer: int, device: torch.device) -> None:
    for row in rows:
        output = model(torch.tensor([row], device=device), output_hidden_states=True)
        output.hidden_states[layer + 1][0, -1].float().cpu()


def median_seconds(run: Callable[[], object], device: torch.device, passes: int) -> float:
    """Of some passes, after one that is not counted."""
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return statistics.median(timed(run, device) for _ in range(passes))


def report(
    way: str, rows: list[list[int]], seconds: float, rate: float, layer: int, config: LlamaConfig, device: torch.device
) -> float:
    """Prints a line; tokens a second."""
    tokens = sum(map(len, rows))
    peak = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else "not measured"
    share = operations(rows, layer, config) / seconds / rate
    print(
        f"{way:8} {len(rows):6} rows of {tokens / len(rows):.0f} tokens: {len(rows) / seconds:9.2f} rows/s, "
        f"{tokens / seconds:10.0f} tokens/s, {share:.2f} of the matrix rate, peak memory {peak}"
    )
    return tokens / seconds


if __name__ == "__main__":
    main()
