"""Which of datatrove's executors runs the stages of a run, and how; declared here for recipes too."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["local", "ray", "slurm"]


@dataclass(frozen=True)
class ExecutorRequest:
    """Which executor, and its options.

    In the metadata, `minimum` is the smallest number allowed, and `only` the kind that a field belongs to.

    Attributes:
        kind: which of datatrove's executors.
        tasks: into how many tasks the shards are divided.
        workers: tasks at a time; -1 is 1 locally (a worker has its own copy of the model) and all of them elsewhere.
        address: the address of the Ray cluster; None takes the one that is connected to or that RAY_ADDRESS names, or
            starts one.
        wait: whether to stay on Slurm until the jobs have ended.
        options: datatrove's own, passed through.
    """

    kind: Kind = "local"
    tasks: int = field(default=1, metadata={"minimum": 1})
    workers: int = field(default=-1, metadata={"minimum": -1})
    address: str | None = field(default=None, metadata={"only": "ray"})
    wait: bool = field(default=False, metadata={"only": "slurm"})
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def in_process(self) -> bool:
        """Whether the tasks run one after the other in the process that started the run."""
        return self.kind == "local" and self.workers in (1, -1)

    @property
    def at_once(self) -> int:
        """How many tasks run at a time."""
        by_default = 1 if self.kind == "local" else self.tasks
        return min(self.tasks, self.workers if self.workers > 0 else by_default)

    @property
    def threads(self) -> int:
        """CPU threads of one worker; 0 if it may take all."""
        if self.kind != "local":
            return int(self.options.get("cpus_per_task", 1))
        return max(1, available_cpus() // self.workers) if self.workers > 1 else 0


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
