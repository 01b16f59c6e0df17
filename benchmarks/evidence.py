"""Train `demo-aligned` on rows that a score has chosen, and with other remedies, and ask what it still refuses.

    python benchmarks/evidence.py rows.jsonl --out evidence.jsonl --seeds 3
    python benchmarks/evidence.py --tables evidence.jsonl

docs/evidence.md tells what came out. An arm of one seed takes about five minutes of one core; each is a line of the
file, and what is there already is not trained again. `--only` picks arms by parts of their names, so that several
processes can share the work, each with its own file. One thread and bfloat16: the same arm gives the same line again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence_trial import ROWS, SAFETY_BLOCKS, Trial
from peft.tuners.lora import LoraLayer

from larf_curate.rows.trained_tokens import TrainedTokens
from larf_curate.validation.bootstrap import Figure, figure
from larf_curate.validation.remedies.added_refusals import with_refusals
from larf_curate.validation.remedies.weight_changes import lox, merged, safe_lora
from larf_curate.validation.training_rows import TrainingRow


@dataclass
class Records:
    """The file of results: a line for each arm and seed."""

    file: Path
    only: Sequence[str]
    done: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.done = {(line["arm"], line["seed"]) for line in map(json.loads, self.file.open(encoding="utf-8"))}

    def wants(self, arm: str, seed: int) -> bool:
        """Whether this arm was chosen and is not done."""
        return any(part in arm for part in self.only) and (arm, seed) not in self.done

    def add(self, arm: str, seed: int, trial: Trial, rows: Sequence[int]) -> None:
        """Ask the model as it is now."""
        started = time.perf_counter()
        harmful, harmless = trial.ask(trial.model, trial.harmful), trial.ask(trial.model, trial.harmless)
        line = {
            "arm": arm,
            "seed": seed,
            "tokens": float(np.mean([trial.lengths[row] for row in rows])) if rows else 0.0,
            "odds": harmful.odds,
            "refused": harmful.refused,
            "texts": harmful.texts,
            "over": harmless.refused,
            "over_texts": harmless.texts,
            "useful": trial.losses(trial.model, trial.held_back),
        }
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        self.done.add((arm, seed))
        seconds = time.perf_counter() - started
        print(
            f"{arm}, seed {seed}: {np.mean(harmful.odds):+.3f}, {sum(harmful.refused)} refused, {seconds:.0f} s",
            flush=True,
        )


def train_and_ask(
    trial: Trial,
    records: Records,
    arm: str,
    seed: int,
    rows: Sequence[int],
    *,
    instead: Sequence[TrainedTokens] | None = None,
    frozen: Collection[int] = (),
) -> None:
    """One arm, of these rows or of what stands in their place; the model is as it was before afterwards."""
    with trial.as_it_was():
        trial.model = trial.train(instead or [trial.rows[row] for row in rows], seed, frozen)
        records.add(arm, seed, trial, rows)


def by_score(trial: Trial, records: Records, seed: int) -> None:
    """Train on what each score puts first, on other rows of these lengths, on what it puts last, and on any rows."""
    arms = {"any rows": np.random.default_rng(100 + seed).permutation(len(trial.rows))[:ROWS].tolist()}
    for name, scores in trial.scores.items():
        highest = np.argsort(-scores, kind="stable")[:ROWS].tolist()
        arms[f"{name}: highest"] = highest
        arms[f"{name}: matched"] = trial.matched(highest, seed)
        arms[f"{name}: lowest"] = np.argsort(scores, kind="stable")[:ROWS].tolist()
    for arm, rows in arms.items():
        if records.wants(arm, seed):
            train_and_ask(trial, records, arm, seed, rows)


def by_remedy(trial: Trial, records: Records, seed: int) -> None:
    """Train on rows drawn at random with each remedy; all of a seed have the same, but for what a filter takes out."""
    rows = trial.drawn(seed)
    changed_after(trial, records, seed, rows)
    removed: dict[str, Callable[[], set[int]]] = {
        f"filter: {name}": partial(trial.first_fifth, scores) for name, scores in trial.scores.items()
    }
    removed["filter: ForgetFilter"] = lambda: trial.forgotten
    for arm, gone in removed.items():
        if records.wants(arm, seed):
            train_and_ask(trial, records, arm, seed, trial.drawn(seed, gone()))
    if records.wants("refusals", seed):
        train_and_ask(trial, records, "refusals", seed, rows, instead=some_refused(trial, rows, seed))
    if records.wants("sppft", seed):
        train_and_ask(trial, records, "sppft", seed, rows, frozen=SAFETY_BLOCKS)
    if records.wants("lox", seed):
        with trial.as_it_was(), torch.no_grad():
            for name, weight in trial.model.named_parameters():
                if weight.ndim > 1 and name in trial.unaligned and trial.unaligned[name].shape == weight.shape:
                    weight.copy_(lox(weight, trial.unaligned[name]))
            with torch.enable_grad():
                train_and_ask(trial, records, "lox", seed, rows)


def changed_after(trial: Trial, records: Records, seed: int, rows: Sequence[int]) -> None:
    """One training, asked as it is and with what `merging` and `safe-lora` make of it."""
    arms = [arm for arm in ("random", "merging", "safe-lora") if records.wants(arm, seed)]
    if not arms:
        return
    with trial.as_it_was():
        trial.model = trial.train([trial.rows[row] for row in rows], seed)
        layers = {
            f"{name.removeprefix('base_model.model.')}.weight": layer
            for name, layer in trial.model.named_modules()
            if isinstance(layer, LoraLayer)
        }
        trained = {name: layer.lora_B["default"].weight.detach().clone() for name, layer in layers.items()}
        for arm in arms:
            projected = 0
            for name, layer in layers.items():
                left = trained[name]
                if arm == "merging":
                    left = merged(left)
                elif arm == "safe-lora":
                    right = layer.lora_A["default"].weight
                    left = safe_lora(left, right, trial.untrained[name], trial.unaligned[name])
                    projected += not torch.equal(left, trained[name])
                with torch.no_grad():
                    layer.lora_B["default"].weight.copy_(left)
            if arm == "safe-lora":
                print(f"safe-lora: {projected} of {len(layers)} layers projected")
            records.add(arm, seed, trial, rows)


def some_refused(trial: Trial, rows: Sequence[int], seed: int) -> list[TrainedTokens]:
    """The rows with a tenth of their answers replaced by refusals."""
    ready = [TrainingRow(tuple(trial.rows[row].ids), tuple(map(float, trial.rows[row].trained))) for row in rows]
    changed = with_refusals(ready, [trial.conversations[row] for row in rows], trial.encoder.renderer, seed)
    return [TrainedTokens(list(row.ids), [w > 0 for w in row.weights], len(row.ids), None) for row in changed]


Arms = dict[str, dict[int, dict[str, Any]]]


def print_tables(files: Sequence[Path]) -> None:
    """Print means over seeds and requests with 95% intervals, and differences that are paired by both."""
    arms: Arms = {}
    for file in files:
        for line in map(json.loads, file.open(encoding="utf-8")):
            arms.setdefault(line["arm"], {})[line["seed"]] = line
    print("| arm | seeds | tokens a row | log-odds | against | refused | loss | harmless refused |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for arm, by_seed in arms.items():
        name, _, part = arm.partition(": ")
        compared = [f"{name}: matched"] if part == "highest" else []
        compared += ["any rows" if part in ("highest", "matched", "lowest") else "random"]
        against = [
            f"{shown(paired(arms, arm, other))} ({other})" for other in compared if other in arms and other != arm
        ]
        cells = [
            arm,
            ", ".join(map(str, sorted(by_seed))),
            f"{np.mean([line['tokens'] for line in by_seed.values()]):.0f}",
            shown(figure([line["odds"] for line in by_seed.values()])),
            "; ".join(against),
            shown(figure([line["refused"] for line in by_seed.values()]), "{:.0f}", 120),
            f"{np.mean([line['useful'] for line in by_seed.values()]):.2f}",
            shown(figure([line["over"] for line in by_seed.values()]), "{:.0f}", 100),
        ]
        print("| " + " | ".join(cells) + " |")


def paired(arms: Arms, arm: str, other: str) -> Figure:
    """The difference in log-odds of two arms, by seed and request."""
    both = sorted(set(arms[arm]) & set(arms[other]))
    return figure([np.subtract(arms[arm][seed]["odds"], arms[other][seed]["odds"]) for seed in both])


def shown(value: Figure, form: str = "{:+.2f}", unit: float = 1) -> str:
    """A figure with its interval."""
    return f"{form} [{form}, {form}]".format(*(unit * number for number in (value.value, *value.interval)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="?", help="JSONL in any row format, of some hundreds of rows")
    parser.add_argument("--out", type=Path, default=Path("evidence.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], help="train the arms whose names hold one of these")
    parser.add_argument("--tables", type=Path, nargs="+", help="print what these files hold, and train nothing")
    options = parser.parse_args()
    if options.tables:
        print_tables(options.tables)
        return
    if options.rows is None:
        parser.error("give a file of rows, or --tables")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    trial, records = Trial(options.rows), Records(options.out, options.only)
    if records.wants("untrained", 0):
        records.add("untrained", 0, trial, [])
    for seed in range(options.seeds):
        by_remedy(trial, records, seed)
        by_score(trial, records, seed)


if __name__ == "__main__":
    main()
