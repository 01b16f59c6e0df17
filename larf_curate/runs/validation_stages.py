"""The stages that validate a run's results: the model before training, the arms as tasks, the verdict."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document

from ..encoding.threads import limited_threads
from ..engines.datatrove_annotator import allowed_threads
from ..errors import LarfError
from ..models.devices import process_number
from ..progress import say
from ..validation.request import ValidationRequest
from ..validation.run_settings import RunValidation
from .executors import StagePlan
from .job import Job, job_at
from .rundir import OWN
from .stages import Stage

ARMS_STAGE = "arms"
_SETTINGS = "validate.json"  # in the logs of the run


def arms_directory(home: Path) -> Path:
    """Where a run keeps what its finished arms did: on the file system that all of its workers share."""
    return home / OWN / "arms"


def validation_stages(job: Job, validation: RunValidation) -> list[StagePlan]:
    """What validates the results of a job, in order; the settings are written for the workers.

    Raises:
        OutputError: they cannot be written.
    """
    validation.save(Path(job.logs) / _SETTINGS)
    stages = [StagePlan("untrained", [MeasureUntrained(job.path)], 1, model=True)]
    if validation.groups:
        stages.append(StagePlan(ARMS_STAGE, [TrainArms(job.path)], validation.groups, model=True))
    return [*stages, StagePlan("verdict", [JudgeArms(job.path)], 1, model=True)]


class _ValidationStage(Stage):
    """A step that knows what is validated."""

    def run(self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1) -> None:
        """As `Stage.run`, on the threads that a worker of this job may take."""
        job, _ = job_at(self.job)
        with limited_threads(allowed_threads(job.threads)):
            super().run(data, rank, world_size)

    def validation(self) -> tuple[Job, RunValidation, ValidationRequest]:
        """The job, the settings, and what they mean for the rows that were split."""
        job, _ = job_at(self.job)
        validation = RunValidation.read(Path(job.logs) / _SETTINGS)
        worker = process_number()
        if worker is not None and validation.model.device is None:
            show_one_gpu(worker)
        home = Path(job.home)
        return job, validation, validation.request(home, arms_directory(home))


def show_one_gpu(worker: int) -> None:
    """Show a worker of a pool one of the machine's GPUs alone: transformers trains on the first that it sees.

    Args:
        worker: its number in the pool, from 0.
    """
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]


class MeasureUntrained(_ValidationStage):
    """Asks the model before any training, once: all arms are compared with that, and need its refusals."""

    name = "untrained"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        from ..validation.plan import memory_shortage
        from ..validation.run import prepared

        _, _, request = self.validation()
        if (shortage := memory_shortage(request)) is not None:
            say(shortage)
        prepared(request)


class TrainArms(_ValidationStage):
    """Trains and asks the task's arms: one, or those that begin with the same training.

    What another run has finished is not done again. An arm that fails does not keep the task's others from being done.
    """

    name = ARMS_STAGE

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        from ..validation.run import finished_arms, forget_shared_training, measure_arm, prepared

        _, _, request = self.validation()
        study, finished = prepared(request), finished_arms(request)
        failures: list[LarfError] = []
        for group in request.groups[rank::tasks]:
            for name, seed in group:
                try:
                    measure_arm(study, finished, name, seed)
                except Exception as error:
                    failures.append(LarfError(f"arm {name}, seed {seed}: {str(error) or type(error).__name__}"))
                    failures[-1].__cause__ = error
                    traceback.clear_frames(error.__traceback__)  # they hold the model, and the next is to have its room
            if not failures:
                forget_shared_training(study, group)
        if failures:
            raise failures[0]


class JudgeArms(_ValidationStage):
    """Judges what all models answered, and writes figures, pictures and verdict into the run's directory."""

    name = "verdict"

    def work(self, data: Iterator[Document] | None, rank: int, tasks: int) -> None:  # noqa: ARG002
        from ..publishing.write_validation import write_validation
        from ..validation.run import run_validation

        job, validation, request = self.validation()
        home = Path(job.home)
        write_validation(run_validation(request), home)
        validation.mark_done(home, request.home)
