"""The stages of a run, as datatrove's executors run them: fit, score, find the threshold, split, finish.

Each step knows only the path of the job; it finds everything else there, on a file system that all workers share.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from ..atomic import new_directory, write_text
from ..deciding.layout import RECIPE, SUMMARY, part_name
from ..deciding.quantiles import named_quantiles
from ..deciding.splitting import scored_schema, split_tables, weighted_schema
from ..deciding.summary import OutcomeCounts, RunRecord, Summary
from ..deciding.tally import Tally
from ..deciding.thresholds import Threshold
from ..engines.datatrove_annotator import LARFAnnotator
from ..engines.datatrove_rows import SHARD, documents_of, table_of
from ..engines.outcome_files import OutcomeFiles
from ..errors import DataError
from ..models.options import check_run_options
from ..scoring.artifact import CONFIG, read_artifact
from ..scoring.quantile_levels import SUMMARY_LEVELS
from ..scoring.scorer import LARFScorer
from ..sources.tables import conform
from .executors import StagePlan
from .job import Job, job_at
from .rundir import count_file, move_results_into_place
from .scored_shards import missing, read_scored, scored_chunks, write_scored
from .shards import Plan, Shard
from .signals import task_records

_BATCH = 4096  # rows sorted by length and scored together, or a shard where that is less
_SECONDS = 0.5  # between two counts of the rows that a worker has scored
_THRESHOLD, _PARTS = "threshold.json", "parts"  # in the directory of unfinished results


def stages_of(job: Job, plan: Plan, tasks: int) -> list[StagePlan]:
    """What is left to do of a job, in order, each stage divided into at most so many tasks."""
    tasks = min(tasks, len(plan.shards))
    stages = []
    if job.fit:
        stages.append(StagePlan("fit", [FitScorer(job.path)], 1, model=True))
    if job.pending:
        options = check_run_options(job.options)
        annotate = ScoreRows(job, batch_size=_BATCH, format=job.format, threads=job.threads, **options)
        pipeline = [ReadShards(job.path), annotate, WriteShards(job.path)]
        stages.append(StagePlan("score", pipeline, min(tasks, len(job.pending)), model=True))
    threshold, split, finish = FindThreshold(job.path), SplitShards(job.path), Finish(job.path, tasks)
    if tasks == 1:  # what one task does in a row needs no jobs that wait for each other
        stages.append(StagePlan("filter", [threshold, split, finish], 1))
    else:
        stages.append(StagePlan("threshold", [threshold], 1))
        stages.append(StagePlan("filter", [split], tasks))
        stages.append(StagePlan("finish", [finish], 1))
    return stages


class Stage(PipelineStep):
    """A step that records for the driver what went wrong, and ends with it."""

    type = "🧭 - LARF"

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job

    @abstractmethod
    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:
        """What the task does."""

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> None:
        """Do the task's work; whatever comes before in the pipeline runs within it, and fails within it."""
        job, _ = job_at(self.job)
        with task_records(job, f"{type(self).__name__}-{rank:05d}"), self.track_time():
            self.work(data, rank, world_size)


class FitScorer(Stage):
    """Fits the scorer, once."""

    name = "fit"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, _ = job_at(self.job)
        directory = Path(job.scorer)
        if job.fit is None or (directory / CONFIG).is_file():
            return
        scorer = LARFScorer.fit(**job.fit).with_options(turns=job.turns, spans=job.spans)
        with new_directory(directory) as scratch:
            scorer.save_pretrained(scratch)


class ReadShards(PipelineStep):
    """Yields the rows of the task's shards that no run has scored yet, as documents that carry them."""

    type = "📖 - READER"
    name = "🧭 LARF shards"

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job

    def run(
        self,
        data: Iterator[Document] | None = None,  # noqa: ARG002
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Document]:
        job, plan = job_at(self.job)
        shards = plan.part(rank, world_size, job.pending)
        pending = set(missing(plan, Path(job.scored)))  # a task that was requeued has done some of them
        for shard, table in plan.tables(shard for shard in shards if shard.index in pending):
            self.stat_update("shards")
            for document in documents_of(table, plan.name, shard.first, shard.file_name, job.format):
                self.stat_update(StatHints.total)
                yield document


class ScoreRows(LARFAnnotator):
    """Scores rows, and keeps count of them in a file for the driver: a shard is done only when all of it is."""

    def __init__(self, job: Job, **arguments: Any) -> None:
        super().__init__(job.scorer, **arguments)
        self.logs = job.logs
        self._count, self._told = 0, 0.0

    def rows_done(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if now - self._told >= _SECONDS:
            self._told = now
            with contextlib.suppress(OSError):
                count_file(Path(self.logs), f"{socket.gethostname()}-{os.getpid()}").write_text(str(self._count))


class WriteShards(Stage):
    """Writes scored shards, each when all of it is there."""

    name = "score"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, plan = job_at(self.job)
        counts = {shard.file_name: shard.rows for shard in plan.shards}
        schema = scored_schema(plan.schema, read_artifact(job.scorer)[0])
        shard: list[Document] = []
        for document in data or ():
            shard.append(document)
            name = shard[0].metadata[SHARD]
            if document.metadata[SHARD] != name:
                raise DataError(f"shard {name}: {len(shard) - 1} rows came out of scoring, {counts[name]} went in")
            if len(shard) == counts[name]:  # at once, not when the next one begins: that takes a batch's time
                write_scored(Path(job.scored), name, table_of(shard, schema))
                self.stat_update("shards")
                shard = []
        if shard:
            raise DataError(f"shard {name}: {len(shard)} rows came out of scoring, {counts[name]} went in")


class FindThreshold(Stage):
    """Fits the threshold to the scores of all shards."""

    name = "threshold"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, plan = job_at(self.job)
        scored = Path(job.scored)
        if lacking := missing(plan, scored):
            raise DataError(f"{len(lacking)} of {len(plan.shards)} shards are not scored: run the recipe again")
        threshold = job.threshold
        if threshold.rule == "calibrated" and threshold.value is None:  # known once there is a scorer
            harmless = LARFScorer.from_pretrained(job.scorer).harmless_scores
            threshold = Threshold.calibrated(threshold.amount, harmless, unscorable=threshold.unscorable)
        if job.per_split:
            fitted = threshold.fit_splits(lambda: scored_chunks(plan, scored), plan.source.splits)
        else:
            fitted = threshold.fit_chunks(lambda: scored_chunks(plan, scored))
        write_text(Path(job.work) / _THRESHOLD, fitted.to_json())


class SplitShards(Stage):
    """Puts every row of the task's shards among the kept, the removed or the unscorable."""

    name = "filter"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, plan = job_at(self.job)
        work = Path(job.work)
        schema = scored_schema(plan.schema, read_artifact(job.scorer)[0])
        written = weighted_schema(schema, job.weight)
        parts = plan.source.parts
        with OutcomeFiles(work, written, parts, lambda split: part_name(split, rank, tasks)) as files:
            summary = split_tables(
                _scored_tables(plan.part(rank, tasks), Path(job.scored), schema),
                _fitted_threshold(work),
                files.write,
                job.format,
                plan.source.splits,
                job.weight,
                parts,
            )
            for outcome, count in vars(summary.outcomes).items():
                if not count and not rank:  # the first task's file is there even where it is empty: it has the columns
                    files.write_empty(outcome)
        write_text(work / _PARTS / f"{rank:05d}.json", summary.to_json())
        for outcome, count in vars(summary.outcomes).items():
            self.stat_update(outcome, value=count)


class Finish(Stage):
    """Counts what the tasks have split, and puts the results under their names."""

    name = "finish"

    def __init__(self, job: str, tasks: int) -> None:
        super().__init__(job)
        self.tasks = tasks

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, plan = job_at(self.job)
        work = Path(job.work)
        tally, counts = Tally(), OutcomeCounts()
        for part in range(self.tasks):
            path = work / _PARTS / f"{part:05d}.json"
            if not path.is_file():
                raise DataError(f"task {part} has not finished its part: run the recipe again")
            summary = Summary.from_json(path.read_text(encoding="utf-8"))
            tally.merge(summary)
            counts += summary.outcomes or OutcomeCounts()
        if counts.total != plan.rows or tally.rows != plan.rows:
            raise DataError(f"{plan.rows} rows went in and {counts.total} came out: run the recipe again")
        summary = tally.summary(
            quantiles=named_quantiles(lambda: scored_chunks(plan, Path(job.scored)), SUMMARY_LEVELS),
            outcomes=counts,
            threshold=_fitted_threshold(work),
            run=_record(job),
            references=read_artifact(job.scorer)[0].quantiles,
        )
        shutil.copyfile(Path(job.logs) / RECIPE, work / RECIPE)
        write_text(work / SUMMARY, summary.to_json() + "\n")
        move_results_into_place(Path(job.home), work)


def _scored_tables(shards: list[Shard], scored: Path, schema: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
    """The scored rows of each shard, with the number of the first."""
    for shard in shards:
        yield shard.first, conform(read_scored(scored, shard), schema)


def _fitted_threshold(work: Path) -> Threshold:
    return Threshold.from_json((work / _THRESHOLD).read_text(encoding="utf-8"))


def _record(job: Job) -> RunRecord:
    spec, _ = read_artifact(job.scorer)
    return RunRecord(
        **vars(job.run),
        model=spec.model,
        version=spec.version,
        layers=tuple(spec.layers),
        formula=spec.formula,
        dtype=spec.dtype,
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
