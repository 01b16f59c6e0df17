"""One run as its workers know it: a file that says everything, and a plan of the shards beside it."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..atomic import new_directory, write_text
from ..cache import register
from ..deciding.layout import RECIPE
from ..deciding.summary import ExecutorRecord, PlannedRun, ScorerRecord, SourceRecord
from ..deciding.thresholds import Threshold
from ..scoring.artifact import CONFIG, read_artifact, write_artifact
from ..scoring.formula_names import Turns
from ..scoring.weights import WeightRange
from .request import RunRequest
from .scored_shards import changed_shards, missing
from .shards import Plan

_run_numbers = itertools.count(1)  # of this process: two within one second must not share their logs


@dataclass(frozen=True)
class Driver:
    """The process that workers end with, and the machine it is on."""

    process: int
    host: str


@dataclass(frozen=True)
class Job:
    """One run as its workers know it. All paths are absolute.

    Attributes:
        home: the run directory.
        logs: this run's own directory in it.
        work: where results are until all of them are there.
        scorer: the directory of the fitted scorer.
        fit: arguments of `LARFScorer.fit`; None where there is nothing to fit.
        scored: the directory of scored shards.
        pending: indexes of the shards to score now.
        format: the row format.
        options: see `RunOptions`; a plain dictionary, since pydantic reads its type only from Python 3.12 on.
        threads: CPU threads of one worker, 0 for all.
        threshold: not fitted to the scores yet.
        directory: the working directory, to which relative paths in the recipe refer.
        turns: which assistant turns are scored; None as the scorer has it.
        spans: whether rows get `larf_spans`; None as the scorer has it.
        weight: the scores between which training weights fall; None for no weights.
        per_split: whether the threshold is fitted to each split by itself.
        driver: None where workers outlive it.
        run: what the summary will say of the run.
    """

    home: str
    logs: str
    work: str
    scorer: str
    fit: dict[str, Any] | None
    scored: str
    pending: list[int]
    format: str
    options: dict[str, Any]
    threads: int
    threshold: Threshold
    directory: str
    driver: Driver | None
    run: PlannedRun
    turns: Turns | None = None
    spans: bool | None = None
    weight: WeightRange | None = None
    per_split: bool = False

    @property
    def path(self) -> str:
        return str(Path(self.logs) / "job.json")

    def save(self, plan: Plan, recipe: str) -> None:
        """Write what workers read.

        Raises:
            OutputError: it cannot be written.
        """
        for name, text in (("plan.json", plan.to_json()), (RECIPE, recipe), ("job.json", json.dumps(asdict(self)))):
            write_text(Path(self.logs) / name, text)


@cache
def job_at(path: str) -> tuple[Job, Plan]:
    """The job that `Job.save` wrote there, and its shards. A run never changes its job, so a process reads it once."""
    from pydantic import TypeAdapter

    job: Job = TypeAdapter(Job).validate_json(Path(path).read_bytes())
    return job, Plan.from_json((Path(job.logs) / "plan.json").read_text(encoding="utf-8"))


register(job_at.cache_clear)


def make_job(request: RunRequest, plan: Plan, work: Path) -> Job:
    """What there is to do; of a scorer that is given, a copy is made in the run directory.

    Args:
        request: what is asked for.
        plan: the shards of its source.
        work: where results are until all of them are there.

    Raises:
        LarfError: the scorer, its references or its model cannot be found, or the run directory cannot be written.
    """
    home = request.directory
    digest = request.scorer_digest()
    scorer, scored = home / "scorer" / digest, request.scored_directory(digest)
    if request.scorer is not None:
        _copy_scorer(request, scorer)
    started = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    return Job(
        home=str(home),
        logs=str(home / "logs" / f"{started}-{os.getpid()}-{next(_run_numbers)}"),
        work=str(work),
        scorer=str(scorer),
        fit=None if (scorer / CONFIG).is_file() else request.fit,
        scored=str(scored),
        pending=sorted({*missing(plan, scored), *changed_shards(plan, scored, work.parent / "scored.json")}),
        format=request.format,
        options=dict(request.options),
        threads=request.executor.threads,
        threshold=request.threshold,
        directory=str(Path.cwd()),
        driver=Driver(os.getpid(), socket.gethostname()) if request.executor.kind == "local" else None,
        run=PlannedRun(
            source=SourceRecord(plan.name, plan.rows, len(plan.shards), plan.digest),
            scorer=ScorerRecord(str(scorer.relative_to(home)), digest),
            scored=str(scored.relative_to(home)),
            format=request.format,
            executor=ExecutorRecord(request.executor.kind, request.executor.tasks),
            digest=request.result_digest(digest, plan),
            started=started,
        ),
        turns=request.turns,
        spans=request.spans,
        weight=request.weight,
        per_split=request.per_split,
    )


def _copy_scorer(request: RunRequest, directory: Path) -> None:
    """Beside what it scores: a run can be understood, and repeated, from its directory alone."""
    if request.scorer is not None and not (directory / CONFIG).is_file():
        spec, tensors = read_artifact(request.scorer, request.revision)
        with new_directory(directory) as scratch:
            write_artifact(scratch, spec.changed(turns=request.turns, spans=request.spans), tensors)
