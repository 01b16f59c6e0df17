"""The validation of a run's results as a file, for workers in other processes or on other machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..answering.judges import JudgeEndpoint
from ..answering.prompts import choose_prompts
from ..atomic import write_text
from ..deciding.layout import SUMMARY
from ..models.locating import locate
from ..models.options import ModelOptions
from .finished import validation_digest
from .judge_choice import choose_judge
from .request import ValidationRequest, groups_of, require_models, require_weights_as_they_are
from .results import VALIDATION
from .scored_rows import ScoredRows
from .settings import AskingSettings, ComparingSettings, TrainingSettings

_DONE = "validated.json"


@dataclass(frozen=True)
class RunValidation:
    """How the results of a run are validated.

    Attributes:
        model: the model that is trained.
        comparing, training, asking: see these classes. Judges are names.
        endpoint: one more judge, after these.
    """

    model: ModelOptions
    comparing: ComparingSettings = field(default_factory=ComparingSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    asking: AskingSettings = field(default_factory=AskingSettings)
    endpoint: JudgeEndpoint | None = None

    def save(self, path: Path) -> None:
        """Write what workers read.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> RunValidation:
        """What `save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            ModelOptions(**values["model"]),
            ComparingSettings(**values["comparing"]),
            TrainingSettings(**values["training"]),
            AskingSettings(**values["asking"]),
            None if values["endpoint"] is None else JudgeEndpoint(**values["endpoint"]),
        )

    def require_all(self) -> None:
        """Say what is missing before rows are scored for hours.

        Raises:
            MissingExtraError: trl, peft or accelerate is not installed.
            PromptsError: the prompts cannot be read, or are too few.
            ModelError: the model, the one before its alignment, or a guard model is not there, or not usable for this.
        """
        from .training import require_training_packages

        require_training_packages()
        choose_prompts(self.asking.prompts)
        require_weights_as_they_are(self.model, self.comparing, self.training)
        require_models(self.model, self.comparing)
        for judge in self._asking().judges:
            choose_judge(judge)

    @property
    def groups(self) -> int:
        """How many groups of models are to be trained; see `groups_of`."""
        return len(groups_of(self.comparing, self.training))

    def in_words(self) -> str:
        """What is trained, how often, and on which model."""
        names = ", ".join(self.comparing.names)
        models = sum(map(len, groups_of(self.comparing, self.training)))
        return f"{names}, on {self.model.model}: {models} models to train, {self.comparing.seeds} for each arm"

    def request(self, run: Path, work: Path) -> ValidationRequest:
        """The validation of a finished run.

        Args:
            run: its directory.
            work: where finished arms are kept.

        Raises:
            LarfError: there are too few rows for an arm, or a judge cannot be used.
        """
        return ValidationRequest(
            ScoredRows.open(run), self.model, self.comparing, self.training, self._asking(), work=work
        )

    def _asking(self) -> AskingSettings:
        """What is asked, with all judges.

        Raises:
            ModelError: the endpoint cannot be asked.
        """
        if self.endpoint is None:
            return self.asking
        return replace(self.asking, judges=(*self.asking.judges, self.endpoint.judge()))

    def is_done(self, run: Path, work: Path) -> bool:
        """Whether the results that lie there were validated in just this way."""
        try:
            done = json.loads((work / _DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return (run / VALIDATION).is_file() and done == {"digest": self._digest(run)}

    def mark_done(self, run: Path, work: Path) -> None:
        """Keep that they were.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(work / _DONE, json.dumps({"digest": self._digest(run)}))

    def _digest(self, run: Path) -> str:
        """Of everything that decides what a validation finds."""
        decisive = replace(self.model, device=None, batch_tokens=None, trust_remote_code=False)
        model, base = self.model, self.comparing.base_model
        prompts = self.asking.prompts
        return validation_digest(
            (run / SUMMARY).read_text(encoding="utf-8"),
            locate(model.model, model.revision, model.base).version,
            None if base is None else locate(base).version,
            decisive,
            self.comparing,
            self.training,
            self.asking,
            self.endpoint,
            choose_prompts(prompts).digest if isinstance(prompts, str) else None,
        )
