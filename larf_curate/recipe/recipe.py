"""One YAML file is one reproducible run: what to score, how, what to remove, and where it goes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from ..deciding.thresholds import Rule, Threshold, UnscorablePolicy
from ..errors import DataError, PublishError, RecipeError, RowFormatError
from ..hub import HubClient, hub_errors
from ..models.options import DType, ModelOptions
from ..progress import say
from ..pushing import Destination
from ..rows.formats import FORMAT_NAMES, resolve_format
from ..rows.notices import reading_note
from ..rows.reading import Reading, check_join
from ..scoring.columns import SCORE
from .yaml_text import KeyFaultError, override, parse, plain, unknown, validated

if TYPE_CHECKING:
    from ..deciding.summary import Summary
    from ..runs.driver import Submitted
    from ..runs.estimate import Estimate
    from ..runs.request import RunRequest
    from ..sources.tables import Source

RULES = get_args(Rule)
_REPLACES = {
    f"threshold.{rule}": [*(other for other in RULES if other != rule), *([] if rule == "calibrated" else ["harmless"])]
    for rule in RULES
}
"""An override that names a rule means that one alone."""
_FIT = ("references", "unsafe", "safe", "formula", "top_k", "rank", "max_tokens", "overflow", "chat_template")
_RUN = ("device", "dtype", "batch_tokens", "trust_remote_code")
_OURS = ("self", "pipeline", "tasks", "workers", "logging_dir", "depends", "depends_job_id", "skip_completed")
_NOT_TAKEN = (*_OURS, "local_tasks", "local_rank_offset", "job_id_retriever")


def _text(value: str) -> str:
    """What is there but blank would count as not given."""
    if not value.strip() or "\0" in value:
        raise ValueError("must not be blank" if not value.strip() else "must not hold a NUL")
    return value


def _format(value: str) -> str:
    if value not in FORMAT_NAMES:
        raise ValueError(unknown("format", value, FORMAT_NAMES))
    return value


def _join(value: str) -> str:
    try:
        return check_join(value)
    except RowFormatError as error:
        raise ValueError(str(error)) from None


def _blocks(value: object) -> object:
    if value == "auto":
        return value
    listed = value if isinstance(value, list) else [value]
    wrong = not listed or any(type(block) is not int or block < 0 for block in listed)
    if wrong or len(set(listed)) < len(listed):
        raise ValueError(f"a block from 0, a list of different ones, or auto, not {value!r}")
    return value


Text = Annotated[str, AfterValidator(_text)]
Blocks = Annotated[int | list[int] | Literal["auto"], BeforeValidator(_blocks)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_by_name=False)


class SourceSection(_Section):
    """Where the rows are. See `open_source`; `Reading` for `columns` and `join`; `plan_shards` for `shard_rows`."""

    path: Text
    split: Text | None = None
    revision: Text | None = None
    config: Text | None = None
    field: Text | None = None
    format: Annotated[str, AfterValidator(_format)] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    join: Annotated[str, AfterValidator(_join)] | None = None
    shard_rows: int | None = Field(None, ge=1)


class ScorerSection(_Section):
    """How rows are scored: `from` a fitted scorer, or by one fitted now on `model` at `layer`.

    `layer: auto` searches the model first, once; see `find_safety_layers`. With `from`, `model` says where the same
    weights lie on this machine. See `LARFScorer.fit` and `ModelOptions`.
    """

    from_: Text | None = Field(None, alias="from")
    model: Text | None = None
    layer: Blocks | None = None
    revision: Text | None = None
    references: Text | None = None
    unsafe: Text | None = None
    safe: Text | None = None
    strict_references: bool = False
    formula: Literal["larf", "subspace"] = "larf"
    top_k: int | None = Field(None, ge=1)
    rank: int = Field(16, ge=1)
    dtype: DType | None = None
    max_tokens: int = Field(4096, ge=16)
    overflow: Literal["truncate", "reject"] = "truncate"
    chat_template: Text | None = None
    device: Text | None = None
    batch_tokens: int | None = Field(None, ge=1)
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_fields_set
        if self.from_ is not None:
            fitting = [name for name in ("layer", "strict_references", *_FIT) if name in given]
            if fitting:
                raise KeyFaultError(fitting[0], "belongs to fitting; a scorer that comes `from` somewhere is fitted")
            return self
        if self.model is None or self.layer is None:
            raise ValueError("give model and layer, or from (a fitted scorer)")
        if self.top_k is not None and self.formula == "subspace":
            raise KeyFaultError("top_k", "belongs to formula larf")
        if (self.unsafe is None) != (self.safe is None):
            raise ValueError("unsafe and safe go together")
        if self.references is not None and self.unsafe is not None:
            raise KeyFaultError("references", "give references, or unsafe and safe")
        return self

    @property
    def layers(self) -> list[int]:
        """Those given; none where a search is to find one."""
        return self.layer if isinstance(self.layer, list) else [self.layer] if isinstance(self.layer, int) else []


class ThresholdSection(_Section):
    """What is removed: one rule. See `Threshold`; `harmless` are scored rows for `calibrated`."""

    max_score: float | None = Field(None, allow_inf_nan=False)
    drop_top: int | None = Field(None, ge=0)
    drop_fraction: float | None = Field(None, ge=0, le=1)
    calibrated: float | None = Field(None, gt=0, lt=1)
    harmless: Text | None = None
    unscorable: UnscorablePolicy = "separate"

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [rule for rule in RULES if getattr(self, rule) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(RULES)}" + (f", not {' and '.join(given)}" if given else ""))
        if self.harmless is not None and self.calibrated is None:
            raise KeyFaultError("harmless", "belongs to calibrated")
        return self

    @property
    def rule(self) -> tuple[Rule, float]:
        """Name and amount."""
        return next((rule, getattr(self, rule)) for rule in RULES if getattr(self, rule) is not None)

    def to_threshold(self) -> Threshold:
        """The rule as a `Threshold`; `calibrated` without `harmless` is yet to get its scorer's own harmless scores.

        Raises:
            DataError: `harmless` cannot be read, or has no scores. ThresholdError: it has too few of them.
        """
        from ..engines.local import read_scores
        from ..sources.files import open_source

        rule, amount = self.rule
        if rule != "calibrated":
            make: Callable[..., Threshold] = getattr(Threshold, rule)
            return make(amount, unscorable=self.unscorable)
        if self.harmless is None:
            return Threshold(rule, amount, unscorable=self.unscorable)
        source = open_source(self.harmless)
        if SCORE not in source.schema.names:
            raise DataError(
                f"threshold.harmless: {self.harmless} has no column {SCORE!r}: run `larf-curate score` first"
            )
        return Threshold.calibrated(amount, read_scores(source), unscorable=self.unscorable)


class ExecutorSection(BaseModel):
    """Which of datatrove's executors runs the stages; further keys are that executor's own options.

    `workers` (tasks at a time) is by default 1 locally, where each has its own copy of the model, and -1 (all tasks)
    elsewhere. `address` is Ray's cluster. `wait` on Slurm stays until the jobs have ended.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    kind: Literal["local", "ray", "slurm"] = "local"
    tasks: int = Field(1, ge=1)
    workers: int = Field(-1, ge=-1)
    address: Text | None = None
    wait: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.workers == 0:
            raise KeyFaultError("workers", "1 or more, or -1 for the default, not 0")
        for name, kind in (("address", "ray"), ("wait", "slurm")):
            if name in self.model_fields_set and self.kind != kind:
                raise KeyFaultError(name, f"belongs to kind {kind}")
        known = _executor_options(self.kind)
        own = [name for name in type(self).model_fields if name not in ("address", "wait")]
        for name in self.options:
            if name not in known.model_fields:
                raise KeyFaultError(name, unknown("key", name, (*own, *known.model_fields)))
        try:
            known.model_validate(self.options)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            name = str(fault["loc"][0])
            if fault["type"] == "missing":
                raise ValueError(f"kind {self.kind} needs {name}") from None
            said = plain(fault)
            if fault["type"] == "string_type" and isinstance(fault["input"], int):
                said += ': put it in quotes (time: "04:00:00"), or YAML reads it as a number'
            raise KeyFaultError(name, said) from None
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What is passed through."""
        return dict(self.model_extra or {})


class PublishSection(_Section):
    """Where the results go on the Hub when the run has ended. See `larf_curate.publishing.push_run`."""

    repo: Text
    private: bool = True
    removed: bool = False
    examples: int = Field(0, ge=0, le=100)
    revision: Text | None = None
    create_pr: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.destination()
        except PublishError as error:
            raise KeyFaultError("repo", str(error)) from None
        return self

    def destination(self) -> Destination:
        """The dataset on the Hub."""
        return Destination(self.repo, private=self.private, revision=self.revision, create_pr=self.create_pr)


def _executor_options(kind: str) -> type[BaseModel]:
    """The options of datatrove's executor, with the types that it says they have."""
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor

    made = {"local": LocalPipelineExecutor, "ray": RayPipelineExecutor, "slurm": SlurmPipelineExecutor}[kind]
    types = {name: Any if "tuple" in str(kind) else kind for name, kind in get_type_hints(made.__init__).items()}
    options: dict[str, Any] = {
        name: (types.get(name, Any), ... if one.default is one.empty else one.default)
        for name, one in inspect.signature(made.__init__).parameters.items()
        if name not in _NOT_TAKEN
    }
    return create_model(f"{kind}_options", __config__=ConfigDict(strict=True), **options)


@dataclass(frozen=True)
class RunPlan:
    """What a recipe would do, for `--dry-run`."""

    source: str
    format: str
    rows: int
    shards: int
    shard_rows: int
    pending: int
    pending_rows: int
    model: str
    layers: list[int]
    workers: int
    threshold: str
    executor: str
    output: str
    estimate: Estimate


class Recipe(_Section):
    """A run as its YAML file says it.

    >>> text = "source: {path: rows.jsonl}, scorer: {model: demo, layer: 16}, threshold: {drop_top: 9}, output: out"
    >>> recipe = Recipe.from_text("{" + text + "}")
    >>> recipe.threshold.rule, recipe.executor.kind
    (('drop_top', 9), 'local')
    """

    source: SourceSection
    scorer: ScorerSection
    threshold: ThresholdSection
    executor: ExecutorSection = Field(default_factory=lambda: ExecutorSection(kind="local", tasks=1, workers=-1))
    output: Text
    publish: PublishSection | None = None

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a file; `overrides` are `section.key=value`, with YAML values.

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
        """The same from text; `name` stands for the file in errors."""
        values, places = parse(text, name)
        for said in overrides:
            override(values, places, said, _REPLACES)
        return validated(cls, values, places, name)

    def to_yaml(self) -> str:
        """Text that reads back equal, without what is left at its default."""
        values = self.model_dump(by_alias=True, exclude_defaults=True)
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def run(self) -> Summary | Submitted:
        """Do it, write the report, and publish where the recipe says so; see `larf_curate.runs.driver.run`.

        What Slurm runs is reported and published by the run that finds it finished.

        Raises:
            LarfError: anything cannot be used; what is done stays done, and another run goes on from there.
        """
        from ..publishing.push_run import push_run
        from ..publishing.write_report import write_report
        from ..runs.driver import Submitted, run

        if self.publish is not None:
            HubClient().require_token()
        done = run(self.request())
        if not isinstance(done, Submitted):
            write_report(self.output)
            if self.publish is not None:
                publish = self.publish
                pushed = push_run(
                    self.output, publish.destination(), removed=publish.removed, examples=publish.examples
                )
                say(f"published: {pushed.url}")
        return done

    def plan(self) -> RunPlan:
        """What `run` would do, and about how long it would take; changes nothing.

        Raises:
            LarfError: rows, model or threshold cannot be used.
        """
        from ..runs.driver import preview
        from ..runs.estimate import ScoringWork, estimate
        from ..scoring.artifact import read_artifact

        request = self.request()
        plan, pending = preview(request)
        rows = plan.rows_in(pending)
        model, layers, revision = self.scorer.model, self.scorer.layers, self.scorer.revision
        dtype = self.scorer.dtype or "auto"
        if self.scorer.from_ is not None:
            spec, _ = read_artifact(self.scorer.from_, revision)
            model, layers, revision = model or spec.model, list(spec.layers), spec.commit
            dtype = self.scorer.dtype or spec.dtype
        executor = request.executor
        workers = executor.at_once
        rule = self.threshold.rule
        work = ScoringWork(
            source=request.source,
            format=request.format,
            rows=rows,
            model=ModelOptions(
                str(model),
                revision=revision,
                dtype=dtype,
                device=self.scorer.device,
                trust_remote_code=self.scorer.trust_remote_code,
            ),
            layers=tuple(layers),
            workers=workers,
            threads=executor.threads,
        )
        return RunPlan(
            source=self.source.path,
            format=_described_format(request),
            rows=plan.rows,
            shards=len(plan.shards),
            shard_rows=plan.shard_rows,
            pending=len(pending),
            pending_rows=rows,
            model=str(model),
            layers=layers,
            workers=workers,
            threshold=f"{rule[0]} {rule[1]:g}; rows without a score: {self.threshold.unscorable}",
            executor=f"{executor.kind}: {executor.tasks} tasks, {workers} at a time",
            output=self.output,
            estimate=estimate(work),
        )

    def request(self) -> RunRequest:
        """The same in the engines' words; opens the source.

        Raises:
            LarfError: the source or the references cannot be read.
        """
        from ..runs.executors import ExecutorRequest
        from ..runs.request import RunRequest
        from ..scoring.references import choose_references
        from ..sources.files import open_source

        scorer, executor = self.scorer, self.executor
        fit = None
        if scorer.from_ is None:
            fit = {"model": scorer.model, "layer": scorer.layers or "auto", "revision": scorer.revision}
            fit |= {name: value for name in (*_FIT, *_RUN) if (value := getattr(scorer, name))}
            if scorer.strict_references:
                choose_references(scorer.references, scorer.unsafe, scorer.safe).lint().raise_for_findings()
        threshold = self.threshold.to_threshold()  # what is wrong with it is told now, not after the scoring
        rows = self.source
        source = open_source(rows.path, rows.split, rows.revision, config=rows.config, field=rows.field)
        options = {name: getattr(scorer, name) for name in _RUN if scorer.from_ is not None or name != "dtype"}
        if scorer.from_ is not None:
            options["model"] = scorer.model
        return RunRequest(
            source=source,
            shard_rows=self.source.shard_rows,
            format=Reading(self.source.format, self.source.columns, self.source.join).to_text(),
            fit=fit,
            scorer=scorer.from_,
            revision=scorer.revision,
            options={name: value for name, value in options.items() if value},
            threshold=threshold,
            executor=ExecutorRequest(
                executor.kind, executor.tasks, executor.workers, executor.options, executor.address, executor.wait
            ),
            home=Path(self.output),
            recipe=self._pinned(source).to_yaml(),
        )

    def _pinned(self, source: Source) -> Recipe:
        """With the commits that branches stand for today: what can be repeated.

        Where the Hub is out of reach, with what it was pinned to before, or nothing.
        """
        from huggingface_hub import HfApi

        from ..models.locating import commit_of, locate

        rows, scorer = self.source, self.scorer
        if scorer.from_ is None:
            commit = commit_of(locate(str(scorer.model), scorer.revision).version)
            scorer = scorer.model_copy(update={"revision": commit or scorer.revision})
        elif not Path(str(scorer.from_)).is_dir():
            with contextlib.suppress(*hub_errors()):
                commit = HfApi().model_info(str(scorer.from_), revision=scorer.revision).sha
                scorer = scorer.model_copy(update={"revision": commit})
        if source.name == rows.path and not Path(rows.path).exists() and rows.path.count("/") == 1:
            with contextlib.suppress(*hub_errors()):
                commit = HfApi().dataset_info(rows.path, revision=rows.revision).sha
                rows = rows.model_copy(update={"revision": commit})
        return self.model_copy(update={"source": rows, "scorer": scorer})


def _described_format(request: RunRequest) -> str:
    """The row format, and what it leaves unread."""
    from ..sources.json_values import text_columns

    schema = request.source.schema
    row_format = resolve_format(request.format, schema.names)
    return reading_note(row_format, schema.names, text_columns(schema)).removeprefix("read as ") or row_format.name
