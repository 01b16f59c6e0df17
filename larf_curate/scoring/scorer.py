"""The fitted scorer: rows in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ..models.devices import process_number
from ..models.options import FitOptions, ModelOptions, RunOptions, check_run_options
from ..progress import progress as show_progress
from ..progress import say
from ..rows.conversions import Row
from ..rows.formats import FormatLike, RowFormat, renamed, resolve_format
from ..rows.notices import reading_note
from ..rows.score_columns import PREFIX, ColumnNames
from .annotating import annotate_rows
from .artifact import Tensors, read_artifact, write_artifact
from .columns import ScoreColumns
from .fit_formula import FitRequest, Layer, fit_formula
from .fitting import harmless_rows
from .formula_names import Formula, Turns
from .formulas import FittedFormula
from .load_measure import load_measure
from .map_batches import is_first, map_result, rank_of, require_mapping, rows_of_batch, text_names
from .plain_rows import in_windows
from .preview import ShownInNotebooks
from .push_scorer import PushedToHub
from .references import ReferenceSet
from .remarks import say_once
from .scores import Scores
from .spec import ScorerSpec
from .weights import WeightRange

if TYPE_CHECKING:
    from datasets import Dataset


class LARFScorer(ShownInNotebooks, PushedToHub):
    """Scores rows by how much training on them may wear away a model's refusals: higher is worse.

    By the formula `larf` it is how much closer a row lies to unsafe than to safe reference answers at a block of the
    model, by `influence` what a gradient step on the row does to the model's refusing.

    Make one with `fit` or `from_pretrained`. It is light: the model is loaded at the first use, once per process and
    device, and is part of neither the artifact nor the pickle.

    >>> # Not run by doctest: each line needs a model in memory.
    >>> scorer = LARFScorer.fit("demo", layer=14)  # doctest: +SKIP
    >>> scores = scorer.score([{"question": "What is 2 + 2?", "answer": "4"}])  # doctest: +SKIP
    >>> scorer.save_pretrained("my-scorer")  # doctest: +SKIP
    >>> dataset = dataset.map(LARFScorer.from_pretrained("my-scorer"), batched=True)  # doctest: +SKIP

    Attributes:
        spec: what it was fitted on, and how it scores.
        format: how rows become conversations: `auto`, a name, or a function; see `with_options`.
        prefix: what the names of the columns that it adds begin with.
    """

    def __init__(
        self,
        spec: ScorerSpec,
        tensors: Tensors,
        row_format: FormatLike = "auto",
        options: RunOptions | None = None,
        prefix: str = PREFIX,
    ) -> None:
        self.spec = spec
        self.format: FormatLike = row_format
        self.prefix = ColumnNames(prefix).prefix
        self._tensors = tensors
        self._options = check_run_options(options or {})

    @classmethod
    def fit(
        cls,
        model: str | Path,
        layer: Layer | None = None,
        *,
        references: ReferenceSet | str | Path | None = None,
        unsafe: str | Path | None = None,
        safe: str | Path | None = None,
        formula: Formula = "larf",
        prompts: Sequence[str] | str | Path | None = None,
        other: str | Path | None = None,
        top_k: int | None = None,
        rank: int | None = None,
        prefix: str = PREFIX,
        progress: bool = True,
        **options: Unpack[FitOptions],
    ) -> LARFScorer:
        """Fit a scorer to a model: on reference pairs at chosen blocks, or on harmful requests that it refuses.

        For `larf` and `subspace` the references are encoded, and it is measured how well they separate pairs not fitted
        on. For `influence` the model is asked the requests, and the direction in its weights is found along which it
        refuses more; no layer and no references are needed.

        Args:
            model: `demo`, a Hub id, a local directory, a GGUF file, or a PEFT adapter.
            layer: for `larf` and `subspace`, one block or several, counted from 0: the output of block i is
                `hidden_states[i + 1]`; or `auto`, which searches all blocks first (`find_safety_layers`: minutes to
                hours, once a model).
            references: pairs, or a JSONL file of them; the packaged ones by default.
            unsafe, safe: two files instead, paired by their order.
            formula: `larf`, `subspace`, `influence` or `loss_gap`.
            prompts: for `influence`, harmful requests, or a file of them; the packaged 200 by default.
            other: for `loss_gap`, the second model; a row scores high if its loss is higher there.
            top_k: for `larf`, how many of the most telling pairs count for a row; None takes all of them.
            rank: for `subspace`, the directions kept a side (16 by default); for `influence`, those kept of each
                weight matrix (as many as it takes by default).
            prefix: see `with_options`.
            progress: show how far it is, and at the end print the `summary`; False for neither.
            **options: how the model is loaded and run; see `ModelOptions`.

        Raises:
            ModelError: an option is wrong, the model cannot be used or has no such block, or `auto` finds none that
                stands out.
            ReferencesError: the references cannot be read, do not pair, or do not suit the formula.
            PromptsError: there are too few prompts, or the model refuses too few of them.
            RowFormatError: the prefix is no plain lower-case name.
        """
        ColumnNames(prefix)  # a wrong one is told before the long work
        chosen = ModelOptions.of(model, **options)
        request = FitRequest(
            layer=layer,
            references=references,
            unsafe=unsafe,
            safe=safe,
            formula=formula,
            prompts=prompts,
            other=other,
            top_k=top_k,
            rank=rank,
        )
        spec, tensors = fit_formula(chosen, request, options, progress=progress)
        scorer = cls(spec, tensors, options=chosen.not_kept(), prefix=prefix)
        if progress:
            say(scorer.summary())
        return scorer

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        format: FormatLike | None = None,  # noqa: A002 - the word users know
        prefix: str | None = None,
        **options: Unpack[RunOptions],
    ) -> LARFScorer:
        """Load a fitted scorer from a directory, or from the Hub (`owner/name`, at `revision`).

        Args:
            name: where it is.
            revision: branch, tag or commit on the Hub.
            format, prefix: see `with_options`.
            **options: see `RunOptions`.

        Raises:
            ScorerError: there is none, or it was made by another version.
        """
        return cls(*read_artifact(name, revision)).with_options(format=format, prefix=prefix, **options)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the scorer (a few MB: reference states and JSON) into a directory.

        Raises:
            OutputError: the directory cannot be written.
        """
        write_artifact(directory, self.spec, self._tensors)

    def with_options(
        self,
        *,
        format: FormatLike | None = None,  # noqa: A002 - the word users know
        columns: Mapping[str, str] | None = None,
        join: str | None = None,
        turns: Turns | None = None,
        spans: bool | None = None,
        weight: WeightRange | tuple[float, float] | None = None,
        prefix: str | None = None,
        **options: Unpack[RunOptions],
    ) -> LARFScorer:
        """A copy that reads rows or runs in another way. All but `format`, `columns` and `prefix` is kept with it.

        Args:
            format: how rows become conversations: `auto`, a name, or a function from a row to chat messages.
            columns: what the dataset calls columns of the format: `{"query": "prompt", "response": "completion"}`.
            join: what stands between a request and its input (a newline unless it is given), or a template with
                `{instruction}` and `{input}`.
            turns: `last` scores the last assistant turn that is trained; `all` each by itself, of which the worst
                counts (`larf_turn` says which). Not for `influence`, which reads all of them.
            spans: for `influence`, whether `larf_spans` says which characters do half of the damage.
            weight: a lower and an upper score; `larf_weight` falls from 1 to 0 between them.
            prefix: what the names of its columns begin with, in place of `larf`: `influence` for `influence_score`,
                `influence_tokens` and so on, so that the scores of two scorers live in one dataset.
            **options: see `RunOptions`.

        Raises:
            RowFormatError: no format has that name, a function is to read renamed columns, or the prefix is no plain
                lower-case name.
            ModelError: the value of an option is wrong.
            ThresholdError: the scores of `weight` do not ascend.
        """
        row_format = renamed(format or self.format, columns)
        spec = self.spec.changed(join=join, turns=turns, spans=spans, weight=weight)
        prefix = self.prefix if prefix is None else prefix
        return LARFScorer(spec, self._tensors, row_format, {**self._options, **options}, prefix)

    def row_format(self, columns: Iterable[str]) -> RowFormat:
        """How this scorer reads a dataset with these columns.

        Raises:
            RowFormatError: they fit no format.
        """
        return resolve_format(self.format, columns, self.spec.join)

    @property
    def model_options(self) -> ModelOptions:
        """How its model is loaded and run."""
        return self.spec.model_options(self._options)

    @property
    def kinds(self) -> ScoreColumns:
        """The columns that it adds."""
        return replace(self.spec.kinds, prefix=self.prefix)

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that are read, counted from 0; none for a formula over losses."""
        return self.spec.layers

    @property
    def harmless_scores(self) -> NDArray[np.float32]:
        """Scores of the package's ordinary sample rows, for `Threshold.calibrated`; float32 [rows].

        Computed when they are first asked for, by the model. Rows too long for one of short context are left out.
        """
        return self._harmless_scores.copy()

    @cached_property
    def _harmless_scores(self) -> NDArray[np.float32]:
        row_format = resolve_format("alpaca", ("instruction", "input", "output"))
        scores = self._annotate(harmless_rows(), row_format).score
        return scores[~np.isnan(scores)]

    def __getstate__(self) -> dict[str, Any]:
        """Bytes and JSON alone, the same before and after use: `datasets` hashes this to find its cache."""
        from safetensors.numpy import save

        return {
            "spec": self.spec.to_json(),
            "tensors": save(self._tensors),
            "format": self.format,
            "options": self._options,
            "prefix": self.prefix,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        from safetensors.numpy import load

        self.spec = ScorerSpec.from_json(state["spec"], "the pickled scorer")
        self.format = state["format"]
        self._tensors = load(state["tensors"])
        self._options = state["options"]
        self.prefix = state["prefix"]

    def score(self, rows: Iterable[Row] | Dataset, *, progress: bool = True) -> NDArray[np.float32]:
        """Score rows: any iterable of mappings, or a `Dataset`.

        Args:
            rows: the rows, all of one row format, which is decided from all their columns.
            progress: show how far it is once it takes longer than a second.

        Returns:
            float32 [rows], NaN where unscorable; `annotate` says why.

        Raises:
            RowFormatError: the columns fit no row format.
            ModelError: the model cannot be loaded.
        """
        total, columns, windows = in_windows(rows)
        scores = [np.zeros(0, np.float32)]
        with show_progress(total, "scoring", show=progress) as update:
            scores += [self.annotate(window, columns, progress=update).score for window in windows]
        return np.concatenate(scores)

    def annotate(
        self,
        rows: Iterable[Row] | Dataset,
        columns: Iterable[str] | None = None,
        *,
        rank: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        """Score rows and say everything about it: scores by layer, token counts, issues.

        Args:
            rows: the rows that are to be sorted by length together, or a `Dataset`; all are in memory at once.
            columns: the columns of the dataset that the rows come from, if these rows alone may not have all of them.
            rank: number of this worker process; spreads workers over several CUDA devices.
            progress: called with the number of rows just done.
        """
        _, names, windows = in_windows(rows)
        if not isinstance(rows, list | tuple):
            rows = [row for window in windows for row in window]
        return self._annotate(rows, self.row_format(columns or names), rank, progress)

    def __call__(self, batch: Mapping[str, Any], *numbers: object, rank: int | None = None) -> Mapping[str, Any]:
        """For `Dataset.map`: batched or not, streaming or not, any `num_proc`, `with_rank`. Adds its columns.

        Beside the rows `map` passes the indices, the rank of the worker, or both; `rank` is the latter by name. Workers
        spread over several CUDA devices by their rank, or without it by their number in the pool; never by an index.
        All columns of its prefix that the rows have are replaced, those of an earlier scorer's layers too; see
        `map_result`. Those of another prefix stay.

        Raises:
            RowFormatError: the columns fit no row format, one that would be replaced is the user's own (see
                `ColumnNames.require_free`), or the dataset's `set_format` gives no mappings.
        """
        require_mapping(batch, numbers)
        self.kinds.names.require_free(batch)
        row_format = self.row_format(batch)
        rows, batched = rows_of_batch(batch, row_format)
        if is_first(numbers if rank is None else (rank,)):
            say_once(reading_note(row_format, batch, text_names(batch)))
        rank = rank_of(numbers, batched=batched) if rank is None else rank
        rank = process_number() if rank is None else rank
        return map_result(self._annotate(rows, row_format, rank), batch, batched=batched)

    def _annotate(
        self,
        rows: Sequence[Row],
        row_format: RowFormat,
        rank: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        measure = load_measure(self.spec, self._tensors, self._options, rank, lambda: self._formula)
        return replace(annotate_rows(rows, row_format, measure, progress), kinds=self.kinds)

    @cached_property
    def _formula(self) -> FittedFormula:
        spec = self.spec
        return FittedFormula(spec.formula, self._tensors["unsafe"], self._tensors["safe"], spec.top_k, spec.rank)
