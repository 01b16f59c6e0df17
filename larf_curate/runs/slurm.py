"""Slurm's own commands: submitting as from a login node, and asking which jobs have not ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence

from ..errors import LarfError

_ATTEMPTS, _SECONDS_BETWEEN = 30, 10.0  # a controller that restarts is away for minutes


@contextlib.contextmanager
def login_node_environment() -> Iterator[None]:
    """Submit as from a login node: inside a job datatrove takes itself for a task, and sbatch inherits limits."""
    inherited = {name: os.environ.pop(name) for name in list(os.environ) if re.match(r"SLURM_(?!CONF$)|SBATCH_", name)}
    try:
        yield
    finally:
        os.environ.update(inherited)


def unfinished_jobs(jobs: Sequence[str]) -> list[str]:
    """Those of these Slurm jobs that are queued or running; none where Slurm is not installed.

    Raises:
        LarfError: Slurm does not answer.
    """
    if not jobs:
        return []
    # Of one number that it has forgotten squeue says that it is invalid; of several it says nothing.
    command = ["squeue", "--noheader", "--format=%A", f"--jobs={','.join([*jobs, jobs[0]])}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    if done.returncode:
        raise LarfError(f"Slurm cannot be asked whether jobs {', '.join(jobs)} have ended: {done.stderr.strip()}")
    return sorted(set(done.stdout.split()))


def any_unfinished(jobs: Sequence[str]) -> bool:
    """Whether any of these jobs is queued or running; a controller that restarts is asked again for five minutes.

    Raises:
        LarfError: Slurm has not answered for all that time.
    """
    for attempt in itertools.count(1):
        try:
            return bool(unfinished_jobs(jobs))
        except LarfError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(_SECONDS_BETWEEN)
    raise AssertionError
