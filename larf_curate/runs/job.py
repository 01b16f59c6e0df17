"""One run, as its workers know it: a file that says everything, and a plan of the shards beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..cache import register
from ..deciding.layout import RECIPE
from ..deciding.summary import PlannedRun
from ..deciding.thresholds import Rule, UnscorablePolicy
from .shards import Plan


@dataclass(frozen=True)
class Job:
    """One run, as its workers know it. All paths are absolute.

    Attributes:
        home: the run directory; `logs`: this run's own directory in it; `work`: where results lie until all are there.
        scorer: the directory of the fitted scorer; `fit` how to fit it, empty where it was given.
        scored: the directory of scored shards; `pending`: those to score now.
        format: of the rows; `options`: see `RunOptions`; `threads`: of one worker, 0 for all.
        rule, amount, harmless, unscorable: the threshold.
        directory: the working directory, to which relative paths in the recipe refer.
        driver: process and machine that workers end with; empty where they outlive it.
        run: what the summary will say of the run.
    """

    home: str
    logs: str
    work: str
    scorer: str
    fit: dict[str, Any]
    scored: str
    pending: list[int]
    format: str
    options: dict[str, Any]
    threads: int
    rule: Rule
    amount: float
    harmless: str | None
    unscorable: UnscorablePolicy
    directory: str
    driver: list[Any]
    run: PlannedRun

    @property
    def path(self) -> str:
        return str(Path(self.logs) / "job.json")

    def save(self, plan: Plan, recipe: str) -> None:
        """Write what workers read."""
        for name, text in (("plan.json", plan.to_json()), (RECIPE, recipe), ("job.json", json.dumps(asdict(self)))):
            write_text(Path(self.logs) / name, text)


@cache
def job_at(path: str) -> tuple[Job, Plan]:
    """A run never changes its job, so a process reads it once."""
    from pydantic import TypeAdapter

    job: Job = TypeAdapter(Job).validate_json(Path(path).read_bytes())
    return job, Plan.from_json((Path(job.logs) / "plan.json").read_text(encoding="utf-8"))


register(job_at.cache_clear)
