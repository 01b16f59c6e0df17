"""The driver of a recipe's run: what is to be done, on whose executor, and what to do when an earlier run was cut off.

The life of a run: `run` locks the run directory (rundir), divides the source into shards (shards), and makes a job of
what is yet to be done (request, job). The job's stages (stages) run on one of datatrove's executors (executors), here
while this process watches (watching, signals), or as Slurm's jobs (slurm). The last of them moves the results to their
names (rundir). Where these are to be validated, further stages train and judge (validation_stages).
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..deciding.summary import Summary
from ..errors import DataError, LarfError, OutputError, one_line
from ..progress import progress, say
from ..rows.formats import resolve_format
from ..rows.notices import reading_note
from ..scoring.artifact import CONFIG, read_artifact
from ..sources.json_values import text_columns
from .dividing import plan_shards
from .executors import StagePlan, chain, start_ray
from .job import Job, make_job
from .pools import import_once_for_all_workers, nothing_shared, pools_that_end
from .request import RunRequest
from .rundir import (
    OWN,
    finished_result,
    locked,
    make_directories,
    move_results_into_place,
    save_submitted_jobs,
    submitted_jobs,
)
from .scored_shards import missing, unseal_scored
from .shards import Plan
from .signals import first_failure, logs_in_environment, refuse_nested_run, while_interrupted
from .slurm import any_unfinished, login_node_environment
from .stages import stages_of
from .sweeping import remove, unused_shards
from .validation_stages import ARMS_STAGE, arms_directory, validation_stages
from .watching import Work, rows_scored, stderr_to, watched_stage

_SECONDS = 2.0  # between two looks at Slurm's jobs
_ONE_AT_A_TIME = threading.Lock()
"""A run changes what belongs to the whole process: standard error, the environment, how datatrove starts workers."""


@dataclass(frozen=True)
class Submitted:
    """The run was handed to Slurm, and is not waited for: `jobs` are the numbers of its jobs, in order."""

    jobs: tuple[str, ...]


def run(request: RunRequest, *, sweep: bool = False) -> Summary | Submitted:
    """Score what no earlier run into this directory has scored, find the threshold, split the rows, and validate.

    Shards that were scored before, with everything that affects scores the same, are not scored again; arms that were
    trained before are not trained again. Nothing of an earlier result is touched until the new one is complete.

    Args:
        request: what is asked for.
        sweep: remove the scored shards that no run of the directory needs any more; see `sweeping`.

    Returns:
        The summary; or the jobs that will produce it, if Slurm is not waited for.

    Raises:
        LarfError: anything cannot be used; what is done stays done, and another run goes on from there.
    """
    refuse_nested_run()
    schema = request.source.schema
    row_format = resolve_format(request.format, schema.names)  # reports a wrong format before any worker starts
    if note := reading_note(row_format, schema.names, text_columns(schema)):
        say(note)
    home = request.directory
    if home.is_dir() and not os.access(home, os.W_OK):  # one that is finished can still be looked at
        plan = plan_shards(request.source, request.shard_rows)
        if (result := finished_result(home, request.result_digest(request.scorer_digest(), plan))) is not None:
            return result
    with locked(home):
        outcome = _run_locked(request, home)
        if isinstance(outcome, Summary):
            _look_for_unused_shards(home, sweep=sweep)
        return outcome


def _run_locked(request: RunRequest, home: Path) -> Summary | Submitted:
    work = home / OWN / "work"
    move_results_into_place(home, work)  # a run may have been killed while it did that
    plan = plan_shards(request.source, request.shard_rows, home / OWN / "files.json")
    if not plan.rows:
        raise DataError(f"{plan.name} holds no rows")
    job = make_job(request, plan, work)
    result = finished_result(home, job.run.digest)
    if result is not None and _is_validated(request):
        say(f"{home} holds this result already: nothing is computed again")
        return result
    make_directories(job)
    unseal_scored(plan, Path(job.scored), job.pending)
    job.save(plan, request.recipe)
    stages = stages_of(job, plan, request.executor.tasks) if result is None else []
    if request.validation is not None:
        stages += validation_stages(job, request.validation)
    if request.executor.kind == "slurm":
        return _run_on_slurm(request, stages, plan, job)
    return _run_here(request, stages, plan, job)


def _look_for_unused_shards(home: Path, *, sweep: bool) -> None:
    """Remove the scored shards that no run needs if that was asked for; say that there are some if not."""
    try:
        unused = unused_shards(home)
    except DataError as error:
        if sweep:
            say(f"no scored shard is removed: {error}")
        return
    if not unused.count:
        return
    if sweep:
        remove(unused)
        say(f"removed {unused.in_words()} that no run needs any more")
    else:
        say(f"{unused.in_words()} of earlier rows are needed by no run: `larf-curate run --sweep` removes them")


def preview(request: RunRequest) -> tuple[Plan, list[int]]:
    """The shards of a run, and the indexes of those that are yet to be scored; changes nothing.

    Raises:
        LarfError: as `run` would.
    """
    resolve_format(request.format, request.source.schema.names)
    plan = plan_shards(request.source, request.shard_rows)
    return plan, missing(plan, request.scored_directory(request.scorer_digest()))


def _run_here(request: RunRequest, stages: Sequence[StagePlan], plan: Plan, job: Job) -> Summary:
    """One stage after the other, locally or on Ray, while this process waits."""
    logs = Path(job.logs)
    alone = nothing_shared() if request.executor.in_process else nullcontext()
    with (
        _ONE_AT_A_TIME,
        logs_in_environment(logs),
        stderr_to(logs / "console.log"),
        alone,
        pools_that_end() as lost_workers,
    ):
        if request.executor.kind == "ray":
            start_ray(request.executor)
        elif not request.executor.in_process:
            import_once_for_all_workers()
        executors = chain(request.executor, stages, logs)
        for number, (stage, executor) in enumerate(zip(stages, executors, strict=True), 1):
            say(f"stage {number} of {len(stages)}: {stage.name}")
            with watched_stage(_work_of(stage, request, plan, job), logs, lost_workers):
                try:
                    executor.run()
                except (LarfError, OSError, EOFError) as error:
                    if while_interrupted(error):
                        raise KeyboardInterrupt from error
                    raise first_failure(logs) or _in_words(error, logs) from error
            said = request.executor.in_process  # by the fit itself
            if stage.name == "fit" and not said and not first_failure(logs):
                say(read_artifact(job.scorer)[0].summary())
            if executor.get_incomplete_ranks(skip_completed=True):  # Ray goes on past failed tasks
                raise first_failure(logs) or LarfError(f"stage {stage.name} did not finish; its logs are in {logs}")
    return _result(request, job)


def _work_of(stage: StagePlan, request: RunRequest, plan: Plan, job: Job) -> Work | None:
    """What of a stage is shown here; None for one that is soon over, or that shows itself what it does."""
    if stage.name == "score":
        rows = plan.rows_in(job.pending)
        return Work("scoring", rows, lambda: rows_scored(rows, plan, job))
    if stage.name == ARMS_STAGE and not request.executor.in_process:
        completed = f"*-{ARMS_STAGE}/completions/*"
        return Work("validate", stage.tasks, lambda: sum(1 for _ in Path(job.logs).glob(completed)))
    return None


def _in_words(error: LarfError | OSError | EOFError, logs: Path) -> LarfError:
    """Why a stage failed, if no task has recorded it."""
    if isinstance(error, LarfError):
        return error
    if isinstance(error, EOFError | ConnectionError):  # of a pipe or socket, at the other end of which nobody is left
        return LarfError("a process of the run was ended; what it had finished is kept: run the recipe again")
    return OutputError(f"{logs} cannot be written: {error}")  # datatrove's own files, on a disk that is full


def _run_on_slurm(request: RunRequest, stages: Sequence[StagePlan], plan: Plan, job: Job) -> Summary | Submitted:
    """Submit all stages, each depending on the one before; wait for them where that is asked for."""
    logs = Path(job.logs)
    if re.search(r"\s", str(logs)):
        raise OutputError(f"output: {job.home} has a blank in its path, which datatrove's Slurm scripts cannot take")
    if failure := _failure_of_the_run_before(logs):
        say(f"the jobs of the last run failed: {failure}")
    jobs = _submit(request, stages, job)
    if not request.executor.wait:
        return Submitted(jobs)
    rows = plan.rows_in(job.pending)
    with progress(rows, "scoring", show=bool(rows)) as update:
        scored = 0
        while any_unfinished(jobs):
            time.sleep(_SECONDS)
            scored_now = max(scored, rows_scored(rows, plan, job))
            update(scored_now - scored)
            scored = scored_now
    if job.fit and (Path(job.scorer) / CONFIG).is_file():
        say(read_artifact(job.scorer)[0].summary())
    return _result(request, job)


def _submit(request: RunRequest, stages: Sequence[StagePlan], job: Job) -> tuple[str, ...]:
    """The numbers of the jobs, which are kept for the next run even where only some of them could be submitted."""
    logs = Path(job.logs)
    executors = chain(request.executor, stages, logs)
    for executor in executors:  # a run that is killed meanwhile must not leave jobs that the next one does not know of
        executor.job_id_retriever = partial(_kept_number, executor.job_id_retriever, job.home)
    with stderr_to(logs / "console.log"), login_node_environment():
        try:
            executors[-1].run()
        except Exception as error:  # sbatch is not there, or says no
            sys.stderr.flush()
            console = (logs / "console.log").read_text(errors="replace")
            reason = "; ".join(re.findall(r"^sbatch: (?:error: )?(.+)$", console, re.M)) or one_line(error)
            raise LarfError(f"Slurm takes no jobs: {reason} (see {logs / 'console.log'})") from error
        finally:
            numbers = (getattr(executor, "job_id", None) for executor in executors)
            jobs = tuple(str(number) for number in numbers if number)
            save_submitted_jobs(Path(job.home), list(jobs))
    return jobs


def _kept_number(retriever: Callable[[str], str], home: str, printed: str) -> str:
    """The number of a job, given what `sbatch` has printed; it is kept for the next run at once."""
    number = retriever(printed)
    save_submitted_jobs(Path(home), [*submitted_jobs(Path(home)), number])
    return number


def _is_validated(request: RunRequest) -> bool:
    """Whether nothing is left to validate of the results that lie there."""
    home, validation = request.directory, request.validation
    return validation is None or validation.is_done(home, arms_directory(home))


def _result(request: RunRequest, job: Job) -> Summary:
    summary = finished_result(Path(job.home), job.run.digest)
    if summary is None or not _is_validated(request):
        failure = first_failure(Path(job.logs))
        raise failure or LarfError(f"the run ended without a result; its logs are in {job.logs}")
    return summary


def _failure_of_the_run_before(logs: Path) -> LarfError | None:
    """Why the run before this one failed; nobody was there to read it."""
    earlier = sorted(path for path in logs.parent.iterdir() if path.is_dir() and path != logs)
    return first_failure(earlier[-1]) if earlier else None
