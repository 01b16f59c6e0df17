"""How fast rows are scored, beside two other ways, as a share of what the machine can do; one table, one run.

    pip install sentence-transformers                 # the second of the other ways; left out where it is not there
    python benchmarks/scoring.py                      # short, ordinary and long rows of the package's own
    python benchmarks/scoring.py rows.jsonl --rows 64 --layer 14

Ways, on the same rows at the same block, each in a process of its own, on the same threads, after a warm-up:

- `authors`: the whole model, `output_hidden_states`, one row at a time, as LARF's own code does;
- `sentence-transformers`: its `encode` over the backbone cut after that block, its own batches, the same tokens;
- `LARFScorer.score`, `Dataset.map` with a scorer, and a local recipe of one task.

The floor is the fewest operations that give the states: the tokens that all rows begin with once, each other token
once, the blocks up to the layer, and in the last of them keys and values of all tokens and the rest of the last one.
`share` is the floor's operations over seconds times the machine's matrix rate: float32, sustained, measured after each
pass for a second, since a shared machine is not always as fast. Seconds and shares are medians of three passes. A
recipe's hold its start, the reading and the writing, and not the loading of the model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from floor import matrix_rate, operations

WAYS = ("authors", "sentence-transformers", "LARFScorer.score", "Dataset.map", "recipe")
PASSES = 3
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="JSONL in any row format")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, Path(options.data), options.layer)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(options.data)] if options.data else made(Path(scratch))
        print(f"float32 on {torch.get_num_threads()} threads, block {options.layer} of the demo model")
        print(
            f"{'rows':10}{'way':24}{'tokens':>8}{'rows/s':>9}{'GFLOP/s':>9}{'of':>6}{'share':>7}{'authors=1':>11}"
            f"{'peak MiB':>10}"
        )
        for file in files:
            few = Path(scratch) / f"few-{file.name}"
            few.write_text("\n".join(file.read_text("utf-8").split("\n")[: options.rows]) + "\n", "utf-8")
            table(file.stem.removeprefix("few-"), few, options)


def table(name: str, file: Path, options: argparse.Namespace) -> None:
    found: dict[str, dict[str, Any]] = {}
    for way in options.ways.split(","):
        command = [sys.executable, __file__, str(file), "--layer", str(options.layer), "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name[:9]:10}{way:24}  {done.stderr.strip().splitlines()[-1]}")
            continue
        found[way] = figures = json.loads(done.stdout.splitlines()[-1])
        per = figures["rows"] / figures["seconds"]
        first = found.get("authors", figures)
        done = figures["operations"] / figures["seconds"]
        print(
            f"{name[:9]:10}{way:24}{figures['tokens']:8}{per:9.2f}{done / 1e9:9.0f}"
            f"{figures['rate'] / 1e9:6.0f}{figures['share']:7.2f}{per / (first['rows'] / first['seconds']):11.2f}"
            f"{figures['peak_mib']:10.0f}",
            flush=True,
        )
    states = [np.array(figures["states"]) for figures in found.values() if figures["states"]]
    for other in states[1:]:
        error = np.abs(other - states[0]).max() / np.abs(other).max()
        print(f"{'':10}largest difference of a state, relative: {error:.1e}")


def made(home: Path) -> list[Path]:
    """Three files of rows: short ones, the sample rows, and long ones of many sample rows each."""
    from recipe import problem

    from larf_curate.scoring.fitting import sample_rows

    rows = [{name: row[name] for name in ("instruction", "input", "output")} for row in sample_rows()]
    texts = [row["output"] for row in rows]
    long = [{**row, "output": "\n\n".join(texts[at : at + 12])} for at, row in enumerate(rows)]
    kinds: dict[str, list[Row]] = {"short": [problem(i) for i in range(200)], "ordinary": rows, "long": long[:8]}
    files = []
    for name, listed in kinds.items():
        files.append(home / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in listed), "utf-8")
    return files


def measure(way: str, file: Path, layer: int) -> dict[str, Any]:
    from larf_curate import LARFScorer
    from larf_curate.encoding.encoder import get_encoder
    from larf_curate.encoding.runtime import unload_models
    from larf_curate.models.options import ModelOptions
    from larf_curate.rows.formats import columns_of, resolve_format

    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    form = resolve_format("auto", columns_of(rows))
    encoder = get_encoder(ModelOptions("demo"), layer)
    ids = [encoder.renderer.render(form.convert(row)).ids for row in rows]
    fewest = operations(list(map(list, dict.fromkeys(map(tuple, ids)))), layer, encoder.loaded.model.config)
    states: list[Any] = []
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stderr(io.StringIO()):
        if way in ("LARFScorer.score", "Dataset.map", "recipe"):
            LARFScorer.fit("demo", layer).save_pretrained(f"{home}/scorer")
        else:
            tokenizer = encoder.loaded.tokenizer
            del encoder
            unload_models()
        make: dict[str, Callable[[], Callable[[], Any]]] = {
            "authors": lambda: authors(ids, layer),
            "sentence-transformers": lambda: sentence_transformers(ids, layer, tokenizer, Path(home)),
            "LARFScorer.score": lambda: score(rows, home),
            "Dataset.map": lambda: mapping(rows, home),
            "recipe": lambda: recipe(file, home),
        }
        run = make[way]()
        run()  # a warm-up: the model is loaded, buffers are there
        spent, rates, cpu = [], [], torch.device("cpu")
        for _ in range(PASSES):
            began = time.perf_counter()
            found = run()
            spent.append(time.perf_counter() - began)
            rates.append(matrix_rate(cpu, torch.float32))
        if way == "authors":
            states = [state.tolist() for state in found]
        elif way == "LARFScorer.score":
            states = get_encoder(ModelOptions("demo"), layer).encode(ids, [layer]).values[:, 0].tolist()
    return {
        "rows": len(rows),
        "tokens": sum(map(len, ids)),
        "operations": fewest,
        "seconds": statistics.median(spent),
        "rate": statistics.median(rates),
        "share": statistics.median(fewest / s / rate for s, rate in zip(spent, rates, strict=True)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "states": states,
    }


def authors(ids: list[list[int]], layer: int) -> Callable[[], Any]:
    from transformers import AutoModelForCausalLM

    from larf_curate.models.demo import demo_model

    model = AutoModelForCausalLM.from_pretrained(demo_model()[0], dtype=torch.float32).eval()

    @torch.inference_mode()
    def run() -> list[Any]:
        outputs = (model(torch.tensor([row]), output_hidden_states=True) for row in ids)
        return [output.hidden_states[layer + 1][0, -1].numpy() for output in outputs]

    return run


def sentence_transformers(ids: list[list[int]], layer: int, tokenizer: Any, home: Path) -> Callable[[], Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoModel

    from larf_curate.models.demo import demo_model

    cut = AutoModel.from_pretrained(demo_model()[0], dtype=torch.float32, num_hidden_layers=layer + 1)
    cut.save_pretrained(home / "cut")
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(home / "cut")
    backbone = Transformer(str(home / "cut"))
    pooling = Pooling(cut.config.hidden_size, pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[backbone, pooling], device="cpu")
    texts = [tokenizer.decode(row) for row in ids]
    return lambda: model.encode(texts, show_progress_bar=False)


def score(rows: list[Row], home: str) -> Callable[[], Any]:
    from larf_curate import LARFScorer

    scorer = LARFScorer.from_pretrained(f"{home}/scorer")
    return lambda: scorer.score(rows, progress=False)


def mapping(rows: list[Row], home: str) -> Callable[[], Any]:
    from datasets import Dataset, disable_caching, disable_progress_bars

    from larf_curate import LARFScorer

    disable_caching()
    disable_progress_bars()
    scorer, dataset = LARFScorer.from_pretrained(f"{home}/scorer"), Dataset.from_list(rows)
    return lambda: dataset.map(scorer, batched=True, load_from_cache_file=False)


def recipe(file: Path, home: str) -> Callable[[], Any]:
    from larf_curate import Recipe

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            fields = {
                "source": {"path": str(file)},
                "scorer": {"from": f"{home}/scorer"},
                "threshold": {"drop_fraction": 0.1},
                "executor": {"tasks": 1, "workers": 1},
                "output": f"{out}/run",
            }
            with contextlib.redirect_stdout(io.StringIO()):
                Recipe.from_text(json.dumps(fields)).run()

    return run


if __name__ == "__main__":
    main()
