"""What a recipe costs beside plain `LARFScorer.score`: wall time on the same rows with the same threads, and memory.

    python benchmarks/recipe.py [rows.jsonl ...] [--rows 600] [--layer 16]

Without files, rows are made up: short word problems with worked answers, in the shape of GSM8K. Every way runs in a
process of its own, with a scorer fitted beforehand; loading the model is part of all of them. Memory is the peak of the
process that scores, for 1,000 rows and for 8 times as many, at a low block so that it does not take all day.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from larf_curate import LARFScorer, Recipe
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of

THINGS = ["apples", "tickets", "books", "stamps", "bottles", "marbles", "pages", "eggs", "candles", "coins"]
NAMES = ["Ana", "Ben", "Chloe", "Deepak", "Elif", "Femi", "Grace", "Hugo"]


def problem(number: int) -> dict[str, str]:
    """A word problem with its solution in steps."""
    chance = random.Random(number)
    name, thing = chance.choice(NAMES), chance.choice(THINGS)
    have, steps = chance.randint(5, 90), []
    question = f"{name} has {have} {thing}."
    for _ in range(chance.randint(1, 6)):
        change = chance.randint(2, 40)
        if chance.random() < 0.5 and have > change:
            question += f" Then {chance.choice(NAMES)} takes {change} of them."
            steps.append(
                f"After that there are {have} - {change} = <<{have}-{change}={have - change}>>{have - change} left."
            )
            have -= change
        else:
            question += f" Later {name} finds {change} more."
            steps.append(
                f"Now there are {have} + {change} = <<{have}+{change}={have + change}>>{have + change} {thing}."
            )
            have += change
    return {"question": f"{question} How many {thing} are there now?", "answer": "\n".join([*steps, f"#### {have}"])}


def score(rows: str, scorer: str) -> None:
    source = open_source(rows)
    listed = [row for table in source.tables(4096) for row in rows_of(table, source.schema.names)]
    LARFScorer.from_pretrained(scorer).score(listed, progress=False)


def recipe(rows: str, scorer: str, tasks: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        text = (
            {"path": rows},
            {"from": scorer},
            {"drop_fraction": 0.1},
            {"tasks": tasks, "workers": workers},
            f"{home}/out",
        )
        names = "source", "scorer", "threshold", "executor", "output"
        Recipe.from_text(json.dumps(dict(zip(names, text, strict=True)))).run()


def measured(*arguments: object) -> tuple[float, float]:
    """Seconds, and the peak of the process in MiB."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return time.perf_counter() - started, float(done.stdout.split()[-1])


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--layer", type=int, default=16)
    parser.add_argument("--no-memory", action="store_true")
    options = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        scorer, low = str(home / "scorer"), str(home / "low")
        LARFScorer.fit("demo", options.layer).save_pretrained(scorer)
        files = options.files or [write(home / "rows.jsonl", [problem(i) for i in range(options.rows)])]
        for file in files:
            plain, _ = measured("score", file, scorer)
            count = open_source(file).rows
            print(f"{Path(file).name}: {count} rows, {cpus} threads in all")
            print(f"  LARFScorer.score        {plain:7.1f} s  {count / plain:6.2f} rows/s")
            for tasks, workers in ((1, 1), (4, 1), (4, cpus)):
                spent, _ = measured("recipe", file, scorer, tasks, workers)
                print(
                    f"  recipe, {tasks} tasks, {workers} at a time {spent:7.1f} s  {count / spent:6.2f} rows/s  "
                    f"{spent / plain:5.2f} x"
                )
        if not options.no_memory:
            LARFScorer.fit("demo", 2).save_pretrained(low)
            for factor in (1, 8):
                rows = write(home / f"{factor}.jsonl", [problem(i) for i in range(factor * 1000)])
                _, peak = measured("recipe", rows, low, 4, 1)
                print(f"  {factor * 1000} rows, block 2: peak {peak:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        kind, rows, scorer, *numbers = sys.argv[2:]
        score(rows, scorer) if kind == "score" else recipe(rows, scorer, *map(int, numbers))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main()
