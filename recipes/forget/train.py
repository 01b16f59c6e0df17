"""Train the two models whose losses ForgetFilter compares: one on all rows, and that one again on safe answers.

    python recipes/forget/train.py runs/forget
    larf-curate run recipes/forget/filter.yaml

Rows that do harm are forgotten most when a model that has learnt them is trained on safe answers afterwards (arXiv
2312.12736). So the score of a row is how much higher its loss is after the second training than before it, which is
`formula="loss_gap"`. In `runs/forget`:

    rows.jsonl     48 rows, unless --rows names others: 36 harmless ones of the package's sample, 12 of the answers that
                   comply with unsafe requests in its references, and in `origin` which is which
    noisy/         the model, trained on these rows
    safe/          noisy/, trained on answers that refuse (those of other references), or on the rows of --safe

Each of the three appears when it is complete. Killed? Run it again: what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from larf_curate.atomic import new_directory, write_text
from larf_curate.digests import digest_of_texts
from larf_curate.errors import LarfError, Unscorable
from larf_curate.models.locating import locate
from larf_curate.models.options import ModelOptions
from larf_curate.packaged import packaged_rows
from larf_curate.rows.formats import columns_of, resolve_format
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.turns import Conversation
from larf_curate.scoring.references import ReferenceSet
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of
from larf_curate.validation.study import load_whole
from larf_curate.validation.training import TrainingSettings, train
from larf_curate.validation.training_rows import TrainingRow, training_row

HARMLESS, UNSAFE, SAFE = 36, 12, 32  # rows
WORDS = 60  # of their longest answer: the example takes minutes on two cores, and neither kind is the longer one
MAX_TOKENS = 1024  # of a row; what is longer is cut
MADE_OF = "made_of.txt"  # in the directory of a model: the digest of all that it was made of

Row = Mapping[str, Any]


def example_rows() -> list[Row]:
    """Harmless rows with some among them that comply with unsafe requests, all out of the package and in its words."""
    draw = random.Random(0)
    sample = [row for row in packaged_rows("sample_rows.jsonl") if row["category"] not in ("refusal", "hedge")]
    harmless = [{**row, "origin": "harmless"} for row in draw.sample([*filter(is_short, sample)], HARMLESS)]
    # The pairs that are held back: the safe answers below are those of the others, so no request is in both.
    complying = [as_row(pair.unsafe) for pair in ReferenceSet.packaged().held_back]
    unsafe = draw.sample([*filter(is_short, complying)], UNSAFE)
    rows = [*harmless, *({**row, "category": "", "origin": "unsafe"} for row in unsafe)]
    draw.shuffle(rows)
    return rows


def safe_rows(count: int) -> list[Row]:
    """Unsafe requests with answers that refuse them, out of the package."""
    refusing = [*filter(is_short, (as_row(pair.safe) for pair in ReferenceSet.packaged().fitted))]
    return random.Random(0).sample(refusing, min(count, len(refusing)))


def as_row(side: Conversation) -> dict[str, str]:
    return {"instruction": side.prompt, "input": "", "output": side.answer}


def is_short(row: Row) -> bool:
    return len(f"{row['input']} {row['output']}".split()) <= WORDS


def read_rows(name: str) -> list[Row]:
    """The rows of a file, a saved dataset or a dataset on the Hub."""
    source = open_source(name)
    return [row for table in source.tables(4096) for row in rows_of(table, source.schema.names)]


def as_trained(rows: Sequence[Row], tokenizer: Any) -> list[TrainingRow]:
    """The rows as token ids; those that are no conversations are left out, and counted."""
    renderer = Renderer(tokenizer, MAX_TOKENS)
    row_format = resolve_format("auto", columns_of(rows))
    ready = []
    for row in rows:
        try:
            ready.append(training_row(row, row_format, renderer))
        except Unscorable:
            continue
    if len(ready) < len(rows):
        print(f"{len(rows) - len(ready)} of {len(rows)} rows cannot be trained on")
    return ready


def make_model(
    home: Path, start: str, rows: Callable[[], Sequence[Row]], settings: TrainingSettings, seed: int
) -> None:
    """Train a model on rows, and save it in a directory; one that is there and was made of the same stays.

    Args:
        home: the directory.
        start: the model to begin with.
        rows: what it is trained on.
        settings: how.
        seed: of the training.
    """
    given = list(rows())
    parts = [start, made_of(start), repr(settings), str(seed), *map(repr, given)]
    digest = digest_of_texts(parts)
    if home.is_dir():
        if made_of(str(home)) != digest:
            raise SystemExit(f"{home} was made of other rows, settings or models: remove it, or name another directory")
        print(f"{home} is there")
        return
    loaded = load_whole(ModelOptions(start))
    trained = train(loaded, as_trained(given, loaded.tokenizer), settings, seed, label=f"training {home.name}")
    with new_directory(home) as scratch:
        trained.loaded.model.save_pretrained(scratch)
        trained.loaded.tokenizer.save_pretrained(scratch)
        (scratch / MADE_OF).write_text(digest, encoding="utf-8")
    print(f"{home}: {trained.steps} steps, mean loss {trained.loss:.3f}")


def made_of(model: str) -> str:
    """What a model was made of, where it was made here; else the version of its files."""
    note = Path(model) / MADE_OF
    return note.read_text(encoding="utf-8") if note.is_file() else locate(model).version


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="demo-aligned", help="a model that was aligned; default: demo-aligned")
    parser.add_argument("--rows", help="rows to train on and to filter: a file or dataset; default: see above")
    parser.add_argument("--safe", help="safe answers: a file or dataset of rows; default: see above")
    parser.add_argument("--safe-rows", type=int, default=SAFE, help=f"how many, without --safe; default: {SAFE}")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    settings = TrainingSettings(learning_rate=chosen.learning_rate, epochs=chosen.epochs, batch_rows=chosen.batch_rows)
    noisy, safe = chosen.out / "noisy", chosen.out / "safe"

    def noisy_rows() -> Sequence[Row]:
        if chosen.rows:
            return read_rows(chosen.rows)
        file = chosen.out / "rows.jsonl"
        if not file.exists():
            write_text(file, "".join(json.dumps(row) + "\n" for row in example_rows()))
        return read_rows(str(file))

    def safe_answers() -> Sequence[Row]:
        return read_rows(chosen.safe) if chosen.safe else safe_rows(chosen.safe_rows)

    try:
        make_model(noisy, chosen.model, noisy_rows, settings, chosen.seed)
        make_model(safe, str(noisy), safe_answers, settings, chosen.seed)
    except LarfError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
