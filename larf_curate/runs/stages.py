"""The steps of a recipe's run, as datatrove's executors run them: fit, score, find the threshold, split, finish.

Each step knows one path, that of the job; whatever it needs it finds there, on a file system that all workers share.
"""

from __future__ import annotations

import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints
from numpy.typing import NDArray

from ..atomic import write_text
from ..deciding.excerpts import excerpt_format
from ..deciding.layout import OUTCOMES, RECIPE, SUMMARY
from ..deciding.quantiles import SUMMARY_LEVELS, named_quantiles
from ..deciding.splitting import scored_schema, split_table
from ..deciding.summary import OutcomeCounts, RunRecord, Summary, Tally
from ..deciding.thresholds import Threshold
from ..engines.datatrove_rows import SHARD, documents_of, table_of
from ..engines.local import read_scores
from ..errors import DataError
from ..scoring.artifact import CONFIG, read_artifact
from ..scoring.columns import ISSUE, SCORE, scores_of
from ..scoring.scorer import LARFScorer
from ..sources.files import open_source
from ..sources.json_values import rows_of
from ..sources.tables import conform
from ..sources.writing import TableWriter, write_file
from .job import Job, job_at
from .rundir import placed, put_in_place
from .shards import missing, read_scored, scored_chunks
from .signals import reported

_THRESHOLD, _PARTS = "threshold.json", "parts"


class Stage(PipelineStep):
    """A step that tells the driver what went wrong, and dies with it."""

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
        with reported(job, f"{type(self).__name__}-{rank:05d}"), self.track_time():
            self.work(data, rank, world_size)


class FitScorer(Stage):
    """Fits the scorer, once."""

    name = "fit"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, _ = job_at(self.job)
        home = Path(job.scorer)
        if (home / CONFIG).is_file():
            return
        scorer = LARFScorer.fit(**job.fit)
        with placed(home) as scratch:
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
                with write_file(Path(job.scored) / name, schema) as out:
                    out.write(table_of(shard, schema))
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
        fitted = _threshold(job).fit_chunks(lambda: scored_chunks(plan, scored))
        found = Summary(
            threshold=fitted, quantiles=named_quantiles(lambda: scored_chunks(plan, scored), SUMMARY_LEVELS)
        )
        write_text(Path(job.work) / _THRESHOLD, found.to_json())


class SplitShards(Stage):
    """Puts every row of the task's shards among the kept, the removed or the unscorable."""

    name = "filter"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        job, plan = job_at(self.job)
        work = Path(job.work)
        threshold = _summary_at(work / _THRESHOLD).threshold
        assert threshold is not None
        schema = scored_schema(plan.schema, read_artifact(job.scorer)[0])
        form = excerpt_format(job.format, plan.schema.names)
        columns = [*(form.columns(plan.schema.names) if form else plan.schema.names), SCORE, ISSUE]
        tally, counts = Tally(), dict.fromkeys(OUTCOMES, 0)
        with ExitStack() as stack:
            writers: dict[str, TableWriter] = {}
            for shard in plan.part(rank, tasks):
                table = conform(read_scored(Path(job.scored), shard), schema)
                rows = rows_of(table, columns)
                tally.add(rows, form, scores_of(table), [row[ISSUE] for row in rows], shard.first)
                for outcome, part in split_table(table, threshold, shard.first).items():
                    counts[outcome] += len(part)
                    if not len(part) and (rank or outcome in writers):
                        continue  # but the first task's file is there even where it is empty: it has the columns
                    if outcome not in writers:
                        path = work / outcome / f"data-{rank:05d}-of-{tasks:05d}.parquet"
                        writers[outcome] = stack.enter_context(write_file(path, schema))
                    writers[outcome].write(part)
        summary = tally.summary(outcomes=OutcomeCounts(**counts))
        write_text(work / _PARTS / f"{rank:05d}.json", summary.to_json())
        for outcome, count in counts.items():
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
        found = _summary_at(work / _THRESHOLD)
        tally, counts = Tally(), OutcomeCounts()
        for part in range(self.tasks):
            path = work / _PARTS / f"{part:05d}.json"
            if not path.is_file():
                raise DataError(f"task {part} has not finished its part: run the recipe again")
            seen = _summary_at(path)
            tally.merge(seen)
            counts += seen.outcomes or OutcomeCounts()
        if counts.total != plan.rows or tally.rows != plan.rows:
            raise DataError(f"{plan.rows} rows went in and {counts.total} came out: run the recipe again")
        spec, _ = read_artifact(job.scorer)
        record = RunRecord(
            **vars(job.run),
            model=spec.model,
            version=spec.version,
            layers=tuple(spec.layers),
            formula=spec.formula,
            dtype=spec.dtype,
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        summary = tally.summary(quantiles=found.quantiles, outcomes=counts, threshold=found.threshold, run=record)
        shutil.copyfile(Path(job.logs) / RECIPE, work / RECIPE)
        write_text(work / SUMMARY, summary.to_json() + "\n")
        put_in_place(Path(job.home), work)


def _summary_at(path: Path) -> Summary:
    return Summary.from_json(path.read_text(encoding="utf-8"))


def _threshold(job: Job) -> Threshold:
    if job.rule != "calibrated":
        make: Callable[..., Threshold] = getattr(Threshold, job.rule)
        return make(job.amount, unscorable=job.unscorable)
    harmless: NDArray[Any]
    if job.harmless is None:
        harmless = LARFScorer.from_pretrained(job.scorer).harmless_scores
    else:
        harmless = np.asarray(read_scores(open_source(job.harmless)))
    return Threshold.calibrated(job.amount, harmless, unscorable=job.unscorable)
