"""LARFFilter between other datatrove steps: rows come in as files, and go out as Parquet with their own columns.

    python recipes/pipeline.py "rows/*.jsonl" my-scorer out/ --max-score 0.001

Reads every file that matches, drops short rows (a stand-in for your own steps), scores, and leaves `out/kept` and
`out/removed`. What a recipe has beyond this: thresholds by count or share, which need all the scores before the first
row can go, and results that appear only when they are complete.
"""

import argparse
from pathlib import Path

import pyarrow as pa
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter

from larf_curate import LARFScorer
from larf_curate.datatrove import LARFFilter, RowReader, RowWriter, scored_schema


def long_enough(document) -> bool:
    return len(document.text) >= 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", help="file, pattern, directory or Hub id")
    parser.add_argument("scorer", help="fitted scorer: directory or Hub id")
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-score", type=float, required=True)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()

    reader = RowReader(options.rows)
    schema = scored_schema(reader.source.schema, LARFScorer.from_pretrained(options.scorer).spec)
    removed = RowWriter(str(options.out / "removed"), schema.append(pa.field("filter_reason", pa.string())))
    pipeline = [
        reader,
        LambdaFilter(long_enough),
        LARFFilter(options.scorer, max_score=options.max_score, exclusion_writer=removed),
        RowWriter(str(options.out / "kept"), schema),
    ]
    LocalPipelineExecutor(
        pipeline, tasks=options.tasks, workers=options.workers, logging_dir=str(options.out / "logs")
    ).run()


if __name__ == "__main__":  # workers import this file
    main()
