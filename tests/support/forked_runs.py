"""Recipes run in forked processes, on any executor, to be killed: a fork need not import what takes seconds.

Of Ray and Slurm only the way in which work is handed out is imitated: workers that outlive the process that sent them,
and jobs that wait for each other.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# A run imports these late. Without them here each fork would do so anew, which takes a second.
import datasets  # noqa: F401

import larf_curate.cli
import larf_curate.console  # noqa: F401

from .commands import start_larf

EXECUTORS: dict[str, dict[str, Any]] = {
    "one process": {"tasks": 1},
    "workers": {"tasks": 3, "workers": 2, "start_method": "fork"},
    "ray": {"kind": "ray", "tasks": 3, "workers": 2},
    "slurm": {"kind": "slurm", "tasks": 3, "wait": True, "time": "1", "partition": "p"},
}
"""Sections of a recipe; `start` makes each of them work without a cluster."""


def start(recipe: Path, kind: str, jobs: Path, said: Path) -> int:
    """Start `larf-curate run` in a forked process, and return the number of that process; see `start_larf`.

    Args:
        recipe: the recipe's file.
        kind: a key of `EXECUTORS`.
        jobs: a directory for what Slurm would remember.
        said: a file that gets what the command prints.
    """
    return start_larf("run", recipe, out=said, first=partial(_without_a_cluster, kind, jobs))


def wait_for_jobs(jobs: Path, seconds: float = 60) -> None:
    """Wait until every job that was ever submitted has ended."""
    end = time.monotonic() + seconds
    while _unfinished(jobs, [path.stem for path in jobs.glob("*.submitted")]):
        assert time.monotonic() < end
        time.sleep(0.05)


def _without_a_cluster(kind: str, jobs: Path) -> None:
    from datatrove.executor import slurm as datatrove_slurm
    from datatrove.executor.local import LocalPipelineExecutor

    from larf_curate.runs import driver, executors, rundir, slurm

    if kind == "ray":
        rundir.exit_with = lambda _: None  # a cluster's workers do not end with who sent them
        driver.start_ray = lambda _: None
        executors._MAKERS["ray"] = lambda request, _, common: LocalPipelineExecutor(
            **common, workers=request.workers, start_method="fork"
        )
    if kind == "slurm":
        rundir.exit_with = lambda _: None
        jobs.mkdir(exist_ok=True)
        driver._SECONDS = 0.05
        slurm.unfinished_jobs = rundir.unfinished_jobs = partial(_unfinished, jobs)
        datatrove_slurm.launch_slurm_job = partial(_submit, jobs)
        datatrove_slurm.expand_slurm_nodelist = lambda _: ["localhost"]


def _unfinished(jobs: Path, numbers: list[str]) -> list[str]:
    return [number for number in numbers if not (jobs / f"{number}.ended").exists()]


def _submit(jobs: Path, script: str, retriever: Callable[[str], str], *arguments: str) -> str:
    """What `sbatch` does: the job runs in a process of its own, after those that it waits for."""
    number = str(len(list(jobs.glob("*.submitted"))) + 1)
    pipeline = re.search(r"launch_pickled_pipeline (\S+)", script)
    submitted = jobs / f"{number}.submitted"
    if pipeline is None:  # statistics, which nobody reads
        (jobs / f"{number}.ended").write_text("well")
        submitted.touch()
    elif not os.fork():
        if os.fork():  # so that the job has no parent but the system
            os._exit(0)
        os.setsid()
        submitted.touch()  # by the job itself: whoever submits it may be killed at any moment
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        how = "badly"
        try:
            after = re.findall(r"--dependency=afterok:(\d+)", " ".join(arguments))
            while _unfinished(jobs, after):
                time.sleep(0.02)
            if all((jobs / f"{before}.ended").read_text() == "well" for before in after):
                tasks = re.search(r"--array=0-(\d+)", script)
                _run_tasks(pipeline[1], int(tasks[1]) + 1 if tasks else 1)
                how = "well"
        finally:
            (jobs / f"{number}.how").write_text(how)
            (jobs / f"{number}.how").rename(jobs / f"{number}.ended")
            os._exit(0)
    else:
        os.wait()
        while not submitted.exists():
            time.sleep(0.01)
    return retriever(f"Submitted batch job {number}")


def _run_tasks(pipeline: str, tasks: int) -> None:
    import dill

    os.environ["SLURM_NODELIST"] = "localhost"
    for task in range(tasks):
        os.environ["SLURM_ARRAY_TASK_ID"] = str(task)
        with Path(pipeline).open("rb") as file:
            dill.load(file).run()
