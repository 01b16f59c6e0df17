"""datatrove's executors: local, Ray and Slurm, each set up for a chain of stages."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from ..errors import LarfError, MissingExtraError, one_line
from ..progress import say
from .executor_request import ExecutorRequest


@dataclass(frozen=True)
class StagePlan:
    """One stage: its name, its steps, into how many tasks it is divided, and whether they run a model."""

    name: str
    pipeline: list[PipelineStep]
    tasks: int
    model: bool = False


def chain(request: ExecutorRequest, stages: Sequence[StagePlan], logs: Path) -> list[PipelineExecutor]:
    """One executor a stage, each depending on the one before."""
    executors: list[PipelineExecutor] = []
    for number, stage in enumerate(stages, 1):
        common: dict[str, Any] = {
            "pipeline": stage.pipeline,
            "tasks": stage.tasks,
            "logging_dir": str(logs / f"{number}-{stage.name}"),
            "depends": executors[-1] if executors else None,
        }
        own = request
        if not stage.model and "gpus_per_task" in request.options:
            own = replace(request, options={**request.options, "gpus_per_task": 0})
        executors.append(_MAKERS[request.kind](own, stage, common))
    return executors


def _local(request: ExecutorRequest, stage: StagePlan, common: dict[str, Any]) -> PipelineExecutor:
    # A stage of one task runs in a worker too if the others do: the driver loads no model and touches no device.
    workers = 1 if request.in_process else max(2, min(request.workers, stage.tasks))
    return LocalPipelineExecutor(**common, workers=workers, **request.options)


def _ray(request: ExecutorRequest, stage: StagePlan, common: dict[str, Any]) -> PipelineExecutor:  # noqa: ARG001
    return RayPipelineExecutor(**common, workers=request.workers, **request.options)


def _slurm(request: ExecutorRequest, stage: StagePlan, common: dict[str, Any]) -> PipelineExecutor:
    options = {"job_name": f"larf_{stage.name}", "requeue": False, **request.options}
    # A job whose dependency failed would wait for ever.
    options["sbatch_args"] = {"kill-on-invalid-dep": "yes", **(options.get("sbatch_args") or {})}
    if not {"env_command", "condaenv", "venv_path"} & set(request.options):
        options["env_command"] = f'export PATH="{Path(sys.executable).parent}:$PATH"'
    return SlurmPipelineExecutor(**common, workers=request.workers, **options)


_MAKERS = {"local": _local, "ray": _ray, "slurm": _slurm}


def start_ray(request: ExecutorRequest) -> None:
    """Connect to the cluster, or start one here.

    Raises:
        MissingExtraError: Ray is not installed.
        LarfError: the cluster cannot be reached, or none of its nodes can ever run a task.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "executor.kind ray") from None
    if not ray.is_initialized():
        try:
            ray.init(address=request.address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # whatever its client raises
            where = request.address or "this machine"
            raise LarfError(f"the Ray cluster at {where} cannot be used: {one_line(error)}") from error
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": request.options.get("cpus_per_task", 1), "GPU": request.options.get("gpus_per_task", 0)}
    if not any(all(node.get(kind, 0) >= count for kind, count in needs.items()) for node in nodes):
        # Ray itself would wait without a word. A cluster that grows may yet start such a node.
        largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        has = ", ".join(f"{largest.get(kind, 0):g} {kind}" for kind in needs)
        shortage = (
            f"a task needs {', '.join(f'{n} {kind}' for kind, n in needs.items())}; the largest Ray node has {has}"
        )
        if len(nodes) < 2:
            raise LarfError(f"{shortage}: ask for less in executor")
        say(f"{shortage}; waiting for a larger one")
