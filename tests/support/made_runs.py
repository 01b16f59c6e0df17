"""Results of a run, made of rows and scores that a test names: split by the package's own code, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from larf_curate.deciding.filtering import FilterRecord
from larf_curate.deciding.rules import UnscorablePolicy
from larf_curate.deciding.splitting import scored_schema
from larf_curate.deciding.thresholds import Threshold
from larf_curate.engines.local_files import split_file
from larf_curate.scoring.records import ReferenceQuantiles, ReferencesRecord, Separation
from larf_curate.scoring.spec import ScorerSpec
from larf_curate.sources.files import open_source

SCORER = ScorerSpec(
    model="acme/base-model",
    version="0123456789abcdef0123456789abcdef01234567",
    layers=(3,),
    blocks=5,
    hidden_size=48,
    formula="larf",
    top_k=None,
    rank=16,
    dtype="float32",
    max_tokens=4096,
    overflow="truncate",
    chat_template=None,
    template_digest="e" * 64,
    references=ReferencesRecord("packaged", "d" * 64, 189, 56, {"pairs": 245.0}, ()),
    separation=Separation(0.817, 56, "held-back pairs"),
    quantiles=ReferenceQuantiles(
        unsafe=tuple(number / 100 for number in range(21)), safe=tuple(number / 100 - 0.2 for number in range(21))
    ),
    packages={},
)

MakeRun = Callable[..., Path]


def run_maker(tmp_path: Path) -> MakeRun:
    """Rows (mappings of one set of columns) and their scores, None for those without, into a run directory."""

    def make(
        rows: Sequence[dict[str, Any]],
        scores: Sequence[float | None],
        threshold: Threshold | None = None,
        name: str = "run",
        unscorable: UnscorablePolicy = "separate",
        scorer: ScorerSpec | None = SCORER,
        prefix: str = "larf",
    ) -> Path:
        table = pa.Table.from_pylist(list(rows))
        issues = [None if score is not None else "empty_answer" for score in scores]
        for column, values, kind in (
            (f"{prefix}_score", scores, pa.float32()),
            (f"{prefix}_tokens", [10 + number % 50 for number in range(len(rows))], pa.int32()),
            (f"{prefix}_issue", issues, pa.string()),
        ):
            table = table.append_column(column, pa.array(values, kind))
        if scorer is not None:
            table = table.replace_schema_metadata(scored_schema(table.schema, scorer, prefix).metadata)
        pq.write_table(table, tmp_path / f"{name}.parquet")
        rule = (threshold or Threshold.drop_fraction(0.1)).with_unscorable(unscorable)
        scored = str(tmp_path / f"{name}.parquet")
        split_file(open_source(scored), rule, tmp_path / name, record=FilterRecord(scored), prefix=prefix)
        return tmp_path / name

    return make


def sample_rows(count: int = 200, seed: int = 0) -> tuple[list[dict[str, Any]], list[float | None]]:
    """Plain question-and-answer rows whose scores fall with the length of the answer; every 40th has none."""
    generator = np.random.default_rng(seed)
    rows, scores = [], []
    for number in range(count):
        words = int(generator.integers(1, 60))
        answer = "word " * words if number % 3 else "1. one\n2. two\n" + "word " * words
        rows.append({"question": f"question {number}?", "answer": answer, "category": "abc"[number % 3]})
        scores.append(float(generator.normal(0, 0.05) - words / 500) if number % 40 else None)
    return rows, scores
