"""One YAML file is one reproducible run: what to score, how, what to remove, and where it goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml
from pydantic import Field, model_validator

from ..errors import RecipeError
from ..hub import HubClient, hub_errors
from ..models.options import FitOptions
from ..progress import say
from ..runs.executor_request import ExecutorRequest
from .executor import Executor
from .fields import Section, Text
from .planning import RunPlan, model_and_formula, plan_run
from .schema import REPLACED_BY, AuditSection, PublishSection, ScorerSection, SourceSection, ThresholdSection
from .validation import ValidateSection
from .yaml_text import KeyFaultError, override, parse, validated

if TYPE_CHECKING:
    from ..deciding.summary import Summary
    from ..runs.driver import Submitted
    from ..runs.request import RunRequest
    from ..sources.tables import Source
    from ..validation.run_settings import RunValidation


class Recipe(Section):
    """A run as its YAML file describes it: where the rows are, what scores them, what is removed, where results go.

    >>> recipe = Recipe.from_text('''
    ... source: {path: rows.jsonl}
    ... scorer: {model: demo, layer: 16}
    ... threshold: {drop_top: 9}
    ... output: runs/first
    ... ''')
    >>> recipe.threshold.rule, recipe.executor.kind
    (('drop_top', 9), 'local')
    >>> print(recipe)
    Recipe('rows.jsonl' -> 'runs/first', scorer 'demo', drop_top 9, local)
    """

    source: SourceSection
    scorer: ScorerSection
    threshold: ThresholdSection
    executor: Executor = ExecutorRequest()
    output: Text
    audit: AuditSection | None = None
    validate_: ValidateSection | None = Field(None, alias="validate")  # pydantic has a `validate` of its own
    publish: PublishSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.threshold.per_split and self.source.split != "all":
            raise KeyFaultError("threshold", "per_split is for `source: {split: all}`, which keeps splits apart")
        if self.audit is not None and self.executor.kind == "slurm":
            raise KeyFaultError(
                "audit",
                "runs in the process that started the run, which is on Slurm's login node: leave it out, and run "
                f"`larf-curate audit {self.output}` in a job of its own",
            )
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe from a file.

        Args:
            path: the path of the YAML file.
            overrides: keys that replace those of the file, as `section.key=value` with YAML values.

        Raises:
            RecipeError: it cannot be read, or is wrong; names line, key and fix.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return cls.from_text(text, str(path), overrides)

    @classmethod
    def from_text(cls, text: str, name: str = "recipe", overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe from text; errors name it `name`. See `load`."""
        values, places = parse(text, name)
        for assignment in overrides:
            override(values, places, assignment, REPLACED_BY)
        return validated(cls, values, places, name)

    def to_yaml(self) -> str:
        """Text that reads back equal, without what is left at its default."""
        values = self.model_dump(by_alias=True, exclude_defaults=True)
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def __repr__(self) -> str:
        (rule, amount), scorer = self.threshold.rule, self.scorer.from_ or self.scorer.model
        what = f"scorer {scorer!r}, {rule} {amount:g}, {self.executor.kind}"
        return f"Recipe({self.source.path!r} -> {self.output!r}, {what})"

    __str__ = __repr__

    def run(self, *, trust_remote_code: bool = False, sweep: bool = False) -> Summary | Submitted:
        """Score the rows, split them, write the report; audit, validate and publish where the recipe says so.

        What an earlier run into the same directory has done is not done again.

        Args:
            trust_remote_code: run code that comes with the model. No recipe can say so: it may be a stranger's.
            sweep: once the result is there, remove the scored shards that no run of the directory needs any more. They
                are of rows that the source no longer holds.

        Returns:
            The summary; or the jobs that will produce it, if Slurm runs them and is not waited for. Their result is
            reported and published by the run that finds it finished.

        Raises:
            LarfError: anything cannot be used; what is done stays done, and another run goes on from there.
        """
        from ..publishing.push_run import push_run
        from ..publishing.write_report import write_report
        from ..runs.driver import Submitted, run
        from ..validation.results import Validation

        publish = self.publish
        if publish is not None:
            HubClient().require_token()
        if (validation := self._validation(trust_remote_code=trust_remote_code)) is not None:
            validation.require_all()
        outcome = run(self.request(trust_remote_code=trust_remote_code), sweep=sweep)
        if not isinstance(outcome, Submitted):
            if self.audit is not None and os.access(self.output, os.W_OK):
                self._audit(self.audit, trust_remote_code=trust_remote_code)
            if validation is not None and (validated := Validation.of_run(self.output)) is not None:
                say(f"validation: {validated.verdict}")
            if os.access(self.output, os.W_OK):
                write_report(self.output)
            else:
                say(f"{self.output} cannot be written: the report stays as it is")
            if publish is not None:
                pushed = push_run(
                    self.output, publish.destination(), removed=publish.removed, examples=publish.examples
                )
                say(f"published: {pushed.url}")
        return outcome

    def _audit(self, section: AuditSection, *, trust_remote_code: bool) -> None:
        """Measure whether the score says which rows do damage, if the run does not hold that yet."""
        from ..validation.audit import audit_run

        scorer = self.scorer
        options: FitOptions = {}
        if scorer.run_options().get("device"):
            options["device"] = scorer.run_options()["device"]
        if trust_remote_code:
            options["trust_remote_code"] = True
        model = section.model or (scorer.model if scorer.from_ else None)
        audit = audit_run(self.output, model=model, rows=section.rows, prompts=section.prompts, **options)
        say(f"audit: {audit.verdict}")

    def plan(self, *, trust_remote_code: bool = False) -> RunPlan:
        """What `run` would do, and about how long it would take; changes nothing, and runs no code of the model.

        Args:
            trust_remote_code: the value that `run` would be given.

        Raises:
            LarfError: rows, model or threshold cannot be used.
        """
        request = self.request(trust_remote_code=trust_remote_code)
        return plan_run(
            request, self.source.path, self.scorer, self.publish, self.audit, trust_remote_code=trust_remote_code
        )

    def request(self, *, trust_remote_code: bool = False) -> RunRequest:
        """The run as `larf_curate.runs` is asked for it; opens the source.

        Args:
            trust_remote_code: see `run`.

        Raises:
            LarfError: the source, the references or the threshold's harmless rows cannot be read.
        """
        from ..runs.request import RunRequest
        from ..scoring.references import choose_references
        from ..sources.files import open_source

        scorer = self.scorer
        if scorer.strict_references:
            choose_references(scorer.references, scorer.unsafe, scorer.safe).lint().raise_for_findings()
        threshold = self.threshold.to_threshold()  # what is wrong with it is reported now, not after the scoring
        trust = {"trust_remote_code": True} if trust_remote_code else {}
        options = scorer.run_options()
        if trust_remote_code:
            options["trust_remote_code"] = True
        rows = self.source
        source = open_source(rows.path, rows.split, rows.revision, config=rows.config, field=rows.field)
        return RunRequest(
            source=source,
            shard_rows=rows.shard_rows,
            format=rows.reading(),
            fit=scorer.fit_arguments() | trust if scorer.from_ is None else None,
            scorer=scorer.from_,
            revision=scorer.revision,
            options=options,
            threshold=threshold,
            per_split=self.threshold.per_split,
            weight=None if self.threshold.weight is None else self.threshold.weight.to_range(),
            turns=scorer.turns,
            spans=scorer.spans,
            executor=self.executor,
            home=Path(self.output),
            recipe=self._pinned(source).to_yaml(),
            validation=self._validation(trust_remote_code=trust_remote_code),
        )

    def _validation(self, *, trust_remote_code: bool) -> RunValidation | None:
        if self.validate_ is None:
            return None
        model, *_ = model_and_formula(self.scorer)
        return self.validate_.settings(replace(model, trust_remote_code=trust_remote_code))

    def _pinned(self, source: Source) -> Recipe:
        """The recipe that does the same again: with the commits that branches stand for today.

        If the Hub is out of reach, a branch stays as it is.
        """
        from ..models.locating import commit_of, locate

        api = HubClient().api
        rows, scorer = self.source, self.scorer
        if scorer.from_ is None:
            commit = commit_of(locate(str(scorer.model), scorer.revision).version)
            scorer = scorer.model_copy(update={"revision": commit or scorer.revision})
        elif not Path(scorer.from_).is_dir():
            with contextlib.suppress(*hub_errors()):
                commit = api.model_info(scorer.from_, revision=scorer.revision).sha
                scorer = scorer.model_copy(update={"revision": commit})
        if source.name == rows.path and not Path(rows.path).exists() and rows.path.count("/") == 1:
            with contextlib.suppress(*hub_errors()):
                commit = api.dataset_info(rows.path, revision=rows.revision).sha
                rows = rows.model_copy(update={"revision": commit})
        return self.model_copy(update={"source": rows, "scorer": scorer})
