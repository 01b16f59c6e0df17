"""Scoring rows in batches beside the one-row-at-a-time way, in one run: rows/s, ratio, peak memory, largest difference.

    python benchmarks/scoring.py                      # the packaged sample rows
    python benchmarks/scoring.py rows.jsonl --rows 64 --layer 16

The other way is the authors': the whole model, `output_hidden_states`, one row at a time. It runs on a sample of the
rows, since it is slow. Each way runs in a process of its own, for its peak memory's sake, on the same threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="JSONL in any row format; the packaged sample rows if not given")
    parser.add_argument("--layer", type=int, default=16)
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--sample", type=int, default=64, help="rows that the one-at-a-time way runs on")
    parser.add_argument("--way", choices=["batched", "one-at-a-time"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    found = {}
    for way in ("one-at-a-time", "batched"):
        done = subprocess.run([sys.executable, *sys.argv, "--way", way], check=True, stdout=subprocess.PIPE)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    one, batched = found["one-at-a-time"], found["batched"]
    states = [np.array(way["states"]) for way in (one, batched)]
    places = one["places"]
    relative = np.abs(states[0] - states[1][places]).max() / np.abs(states[0]).max()
    print(f"{'way':16}{'rows':>6}{'tokens':>9}{'rows/s':>9}{'tokens/s':>10}{'load s':>8}{'peak MiB':>10}")
    for way, figures in found.items():
        rate, tokens = figures["rows"] / figures["seconds"], figures["tokens"] / figures["seconds"]
        print(
            f"{way:16}{figures['rows']:6}{figures['tokens']:9}{rate:9.2f}{tokens:10.0f}{figures['load']:8.1f}"
            f"{figures['peak_mib']:10.0f}"
        )
    per_token = (batched["tokens"] / batched["seconds"]) / (one["tokens"] / one["seconds"])
    print(
        f"batched is {per_token:.2f} times as fast per token; largest difference of a state {relative:.1e} (relative)"
    )


def measure(options: argparse.Namespace) -> dict[str, object]:
    from larf_curate.encoding.encoder import get_encoder
    from larf_curate.encoding.loading import EncoderConfig
    from larf_curate.errors import Unscorable
    from larf_curate.rows.formats import columns_of, resolve_format
    from larf_curate.scoring.fitting import sample_rows

    lines = Path(options.data).read_text(encoding="utf-8").split("\n") if options.data else []
    rows = [json.loads(line) for line in lines if line] or sample_rows()
    form = resolve_format("auto", columns_of(rows))
    started = time.perf_counter()
    encoder = get_encoder(EncoderConfig("demo"), options.layer)
    load = time.perf_counter() - started
    ids = []
    for row in rows[: options.rows]:
        try:
            ids.append(encoder.renderer.render(form.convert(row)).ids)
        except Unscorable:
            continue
    places = list(range(len(ids)))
    if options.way == "batched":
        started = time.perf_counter()
        states = encoder.encode(ids, [options.layer]).values[:, 0]
    else:
        places = [int(i) for i in np.linspace(0, len(ids) - 1, min(options.sample, len(ids))).round()]
        ids = [ids[i] for i in places]
        states, load, started = one_at_a_time(ids, options.layer)
    seconds = time.perf_counter() - started
    return {
        "rows": len(ids),
        "tokens": sum(map(len, ids)),
        "seconds": seconds,
        "load": load,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "places": places,
        "states": np.asarray(states).tolist(),
    }


def one_at_a_time(ids: list[list[int]], layer: int) -> tuple[list[np.ndarray], float, float]:
    import torch
    from transformers import AutoModelForCausalLM

    from larf_curate.encoding.demo import demo_model
    from larf_curate.encoding.encoder import unload_models

    unload_models()
    loading = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(demo_model()[0], dtype=torch.float32).eval()
    load = time.perf_counter() - loading
    started = time.perf_counter()
    states = []
    with torch.inference_mode():
        for row in ids:
            output = model(torch.tensor([row]), output_hidden_states=True)
            states.append(output.hidden_states[layer + 1][0, -1].numpy())
    return states, load, started


if __name__ == "__main__":
    main()
