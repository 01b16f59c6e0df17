"""A recipe's run: what is to be done, in which stages, on whose executor; and what to do when it was cut off."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor

from ..deciding.summary import ExecutorRecord, PlannedRun, ScorerRecord, SourceRecord, Summary
from ..deciding.thresholds import Rule, UnscorablePolicy
from ..engines.datatrove_steps import LARFAnnotator
from ..errors import DataError, LarfError, OutputError, one_line
from ..models.locating import locate
from ..models.options import OPTIONS
from ..progress import progress, say
from ..rows.formats import resolve_format
from ..rows.notices import reading_note
from ..rows.reading import READING_VERSION
from ..scoring.artifact import CONFIG, read_artifact, read_config, write_artifact
from ..scoring.formulas import VERSION
from ..scoring.references import choose_references
from ..sources.json_values import text_columns
from ..sources.tables import Source
from .executors import ExecutorRequest, StagePlan, chain, living_jobs, outside_of_jobs, start_ray
from .job import Job
from .rundir import OWN, finished, held, placed, put_in_place, remember_jobs, starting
from .shards import Plan, digest_of, missing, plan_shards
from .signals import LOGS, failure, refuse_worker
from .stages import FindThreshold, Finish, FitScorer, ReadShards, SplitShards, WriteShards
from .watching import console_to, rows_left, watched

_runs = itertools.count(1)  # of this process: two within one second must not share their logs
_BATCH = 4096  # rows sorted by length and scored together, or a shard where that is less


@dataclass(frozen=True)
class RunRequest:
    """All that a run is made of.

    Attributes:
        source: the rows; `shard_rows`: see `plan_shards`; `format`: of the rows.
        fit: arguments of `LARFScorer.fit`; None where `scorer` names a fitted one (at `revision` on the Hub).
        options: see `RunOptions`.
        rule, amount, unscorable: the threshold; `harmless`: scored rows for `calibrated`.
        home: the run directory.
        recipe: the resolved recipe, as text.
    """

    source: Source
    shard_rows: int | None
    format: str
    fit: dict[str, Any] | None
    scorer: str | None
    revision: str | None
    options: dict[str, Any]
    rule: Rule
    amount: float
    harmless: Source | None
    unscorable: UnscorablePolicy
    executor: ExecutorRequest
    home: Path
    recipe: str


def run(request: RunRequest) -> Summary | list[str]:
    """Score what no earlier run into this directory has scored, find the threshold, split the rows.

    Shards that were scored before, with everything that affects scores the same, are not scored again. Nothing of an
    earlier result is touched until the new one is complete.

    Returns:
        What came of it; the numbers of the jobs that will do it, where Slurm is not waited for.

    Raises:
        LarfError: anything cannot be used; what is done stays done, and another run goes on from there.
    """
    refuse_worker()
    schema = request.source.schema
    row_format = resolve_format(request.format, schema.names)  # told here, not by a worker
    if note := reading_note(row_format, schema.names, text_columns(schema)):
        say(note)
    home = request.home.expanduser().resolve()
    with held(home):
        put_in_place(home, home / OWN / "work")  # a run was killed while it did that
        plan = plan_shards(request.source, request.shard_rows, home / OWN / "files.json")
        if not plan.rows:
            raise DataError(f"{plan.name} holds no rows")
        job = _job(request, plan, home)
        if (done := finished(job)) is not None:
            return done
        with starting(home, job):
            job.save(plan, request.recipe)
        stages = _stages(request, plan, job)
        if request.executor.kind == "slurm":
            return _on_slurm(request, stages, plan, job)
        return _here(request, stages, plan, job)


def preview(request: RunRequest) -> tuple[Plan, list[int]]:
    """The shards of a run, and the indexes of those that are yet to be scored; changes nothing.

    Raises:
        LarfError: as `run` would.
    """
    resolve_format(request.format, request.source.schema.names)
    home = request.home.expanduser().resolve()
    plan = plan_shards(request.source, request.shard_rows)
    return plan, missing(plan, _scored(request, home, _digest_of_scorer(request)))


def _job(request: RunRequest, plan: Plan, home: Path) -> Job:
    digest = _digest_of_scorer(request)
    scorer = home / "scorer" / digest
    if request.scorer is not None:
        _copy_scorer(request, scorer)
    scored = _scored(request, home, digest)
    fit = {} if (scorer / CONFIG).is_file() else {**(request.fit or {})}
    now = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    logs = home / "logs" / f"{now}-{os.getpid()}-{next(_runs)}"
    harmless = plan_shards(request.harmless).digest if request.harmless else None
    threshold = [request.rule, request.amount, harmless, request.unscorable]
    planned = PlannedRun(
        source=SourceRecord(plan.name, plan.rows, len(plan.shards), plan.digest),
        scorer=ScorerRecord(str(scorer.relative_to(home)), digest),
        scored=str(scored.relative_to(home)),
        format=request.format,
        executor=ExecutorRecord(request.executor.kind, request.executor.tasks),
        digest=digest_of([scored.name, plan.digest, threshold])[:16],
        started=now,
    )
    return Job(
        home=str(home),
        logs=str(logs),
        work=str(home / OWN / "work"),
        scorer=str(scorer),
        fit=fit,
        scored=str(scored),
        pending=missing(plan, scored),
        format=request.format,
        options=request.options,
        threads=request.executor.threads,
        rule=request.rule,
        amount=request.amount,
        harmless=request.harmless.name if request.harmless else None,
        unscorable=request.unscorable,
        directory=str(Path.cwd()),
        driver=[os.getpid(), socket.gethostname()] if request.executor.kind == "local" else [],
        run=planned,
    )


def _scored(request: RunRequest, home: Path, scorer: str) -> Path:
    """The directory of scored shards: named after everything that affects scores."""
    affects = {
        "scorer": scorer,
        "dtype": request.options.get("dtype"),
        "format": request.format,
        "rows": READING_VERSION,
    }
    return home / "scored" / digest_of(affects)[:16]


def _digest_of_scorer(request: RunRequest) -> str:
    """Of everything that a scorer says; known before it is fitted."""
    if request.fit is None:
        assert request.scorer is not None
        return hashlib.sha256(read_config(request.scorer, request.revision)).hexdigest()[:16]
    fit = request.fit
    pairs = choose_references(*(fit.get(name) for name in ("references", "unsafe", "safe")))
    without = {"references", "unsafe", "safe", *(o.name for o in OPTIONS.values() if not o.about.changes_scores)}
    decisive = {name: value for name, value in fit.items() if name not in without}
    version = locate(fit["model"], fit.get("revision")).version
    return digest_of([decisive, _file_state(fit.get("chat_template")), version, pairs.digest, VERSION])[:16]


def _copy_scorer(request: RunRequest, place: Path) -> None:
    """Beside what it scores: a run can be understood, and repeated, from its directory alone."""
    if not (place / CONFIG).is_file():
        spec, tensors = read_artifact(str(request.scorer), request.revision)
        with placed(place) as scratch:
            write_artifact(scratch, spec, tensors)


def _file_state(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return path  # text


def _stages(request: RunRequest, plan: Plan, job: Job) -> list[StagePlan]:
    stages = []
    tasks = min(request.executor.tasks, len(plan.shards))
    if job.fit:
        stages.append(StagePlan("fit", [FitScorer(job.path)], 1, model=True))
    if job.pending:
        options: dict[str, Any] = {**job.options, "format": job.format, "threads": job.threads}
        score = LARFAnnotator(job.scorer, batch_size=_BATCH, **options)
        steps = [ReadShards(job.path), score, WriteShards(job.path)]
        stages.append(StagePlan("score", steps, min(tasks, len(job.pending)), model=True))
    threshold, split, finish = FindThreshold(job.path), SplitShards(job.path), Finish(job.path, tasks)
    if tasks == 1:  # what one task does in a row needs no jobs that wait for each other
        stages.append(StagePlan("filter", [threshold, split, finish], 1))
    else:
        stages.append(StagePlan("threshold", [threshold], 1))
        stages.append(StagePlan("filter", [split], tasks))
        stages.append(StagePlan("finish", [finish], 1))
    return stages


# Running ------------------------------------------------------------------------------------------------------------


def _here(request: RunRequest, stages: Sequence[StagePlan], plan: Plan, job: Job) -> Summary:
    """One stage after the other, locally or on Ray, while this process waits."""
    logs = Path(job.logs)
    os.environ[LOGS] = job.logs
    with console_to(logs / "console.log"):
        if request.executor.kind == "ray":
            start_ray(request.executor)
        executors = chain(request.executor, stages, logs)
        for number, (stage, executor) in enumerate(zip(stages, executors, strict=True), 1):
            say(f"stage {number} of {len(stages)}: {stage.name}")
            rows = plan.rows_in(job.pending) if stage.name == "score" else 0
            with watched(rows, plan, job):
                try:
                    executor.run()
                except LarfError as error:
                    raise failure(logs) or error from error
                except OSError as error:  # datatrove's own files, on a disk that is full
                    raise failure(logs) or OutputError(f"{logs} cannot be written: {error}") from error
            if stage.name == "fit" and not failure(logs):
                say(read_artifact(job.scorer)[0].summary())
            if executor.get_incomplete_ranks(skip_completed=True):  # Ray goes on past failed tasks
                raise failure(logs) or LarfError(f"stage {stage.name} did not finish; its logs are in {logs}")
    return _result(job)


def _result(job: Job) -> Summary:
    summary = finished(job)
    if summary is None:
        raise failure(Path(job.logs)) or LarfError(f"the run ended without a result; its logs are in {job.logs}")
    return summary


def _on_slurm(request: RunRequest, stages: Sequence[StagePlan], plan: Plan, job: Job) -> Summary | list[str]:
    """Submit all stages, each depending on the one before; wait for them where that is asked for."""
    logs = Path(job.logs)
    if re.search(r"\s", str(logs)):
        raise OutputError(f"output: {job.home} has a blank in its path, which datatrove's Slurm scripts cannot take")
    if last := _last_failure(logs):
        say(f"the jobs of the last run failed: {last}")
    executors: list[PipelineExecutor] = chain(request.executor, stages, logs)
    with console_to(logs / "console.log"), outside_of_jobs():
        try:
            executors[-1].run()
        except Exception as error:  # sbatch is not there, or says no
            sys.stderr.flush()
            said = re.findall(r"^sbatch: (?:error: )?(.+)$", (logs / "console.log").read_text(errors="replace"), re.M)
            why = "; ".join(said) or one_line(error)
            raise LarfError(f"Slurm takes no jobs: {why} (see {logs / 'console.log'})") from error
        finally:
            jobs = [str(executor.job_id) for executor in executors if getattr(executor, "job_id", None)]
            remember_jobs(Path(job.home), jobs)
    if not request.executor.wait:
        return jobs
    rows = plan.rows_in(job.pending)
    with progress(rows, "scoring", show=bool(rows)) as update:
        seen = 0
        while _alive(jobs):
            time.sleep(2)
            done = rows - rows_left(plan, job)
            update(done - seen)
            seen = done
    if job.fit and (Path(job.scorer) / CONFIG).is_file():
        say(read_artifact(job.scorer)[0].summary())
    return _result(job)


def _alive(jobs: Sequence[str]) -> bool:
    """Whether any of these jobs is queued or running; a controller that restarts is asked again for five minutes."""
    for attempt in itertools.count(1):
        try:
            return bool(living_jobs(jobs))
        except LarfError:
            if attempt == 30:
                raise
            time.sleep(10)
    raise AssertionError


def _last_failure(logs: Path) -> LarfError | None:
    """What the run before this one failed of; nobody was there to read it."""
    earlier = sorted(path for path in logs.parent.iterdir() if path.is_dir() and path != logs)
    return failure(earlier[-1]) if earlier else None
