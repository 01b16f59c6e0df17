"""The fitted scorer: rows in, scores out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..cache import register
from ..encoding.encoder import Encoder, States, get_encoder
from ..encoding.threads import prefetched
from ..errors import Issue, ModelError, RowFormatError, ScorerError, Unscorable
from ..hub import HubClient
from ..models.loading import LoadedModel
from ..models.options import FitOptions, ModelOptions, RunOptions, check_run_options
from ..progress import progress as show_progress
from ..pushing import README, Destination, Files, push_files
from ..rows.conversions import Row
from ..rows.formats import FormatLike, RowFormat, check_format, columns_of, resolve_format
from ..rows.notices import reading_note
from ..rows.reading import Reading, check_join
from .artifact import Tensors, artifact_files, read_artifact, write_artifact
from .columns import Scores, TypedColumn, is_batch, is_lazy, larf_schema, read_column, text_names
from .fitting import CHECK, fit_references
from .formulas import FittedFormula, Formula, normalise
from .layer_search.search import safety_layer
from .model_card import MARK, render_model_card
from .references import ReferenceSet, choose_references
from .remarks import LOOKED_AT, say_of_template, say_once
from .spec import ScorerSpec

if TYPE_CHECKING:
    from datasets import Dataset

_WINDOW = 4096
"""Rows in memory at a time."""
_PART = 256
"""Rows encoded together while the next ones are rendered; enough to find others of equal length among them."""
_marks: WeakKeyDictionary[LoadedModel, set[str]] = WeakKeyDictionary()
"""For each model in memory, marks of the scorers that were found to be fitted on it."""
register(_marks.clear)


class LARFScorer:
    """Scores rows by how much closer they lie to unsafe than to safe reference answers, at given blocks of a model.

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
    """

    def __init__(
        self, spec: ScorerSpec, tensors: Tensors, form: FormatLike = "auto", options: RunOptions | None = None
    ) -> None:
        self.spec = spec
        self.format: FormatLike = form
        self._tensors = tensors
        self._options = check_run_options(options or {})

    # Making one -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        model: str | Path,
        layer: int | Sequence[int] | Literal["auto"],
        *,
        references: ReferenceSet | str | Path | None = None,
        unsafe: str | Path | None = None,
        safe: str | Path | None = None,
        formula: Formula = "larf",
        top_k: int | None = None,
        rank: int = 16,
        **options: Unpack[FitOptions],
    ) -> LARFScorer:
        """Encode the references at the chosen blocks, and print how well they separate pairs not fitted on.

        Args:
            model: `demo`, a Hub id, a local directory, a GGUF file, or a PEFT adapter.
            layer: one block or several, counted from 0: the output of block i is `hidden_states[i + 1]`; or `auto`,
                which searches all blocks first (`find_safety_layers`: minutes to hours, once a model).
            references: pairs, or a JSONL file of them; the packaged ones by default.
            unsafe, safe: two files instead, paired by their order.
            formula: `larf`, or `subspace`.
            top_k: for `larf`, how many of the most telling pairs count for a row; None takes all of them.
            rank: for `subspace`, the directions kept a side.
            **options: how the model is loaded and run; see `ModelOptions`.

        Raises:
            ModelError: an option is wrong, the model cannot be used or has no such block, or `auto` finds none that
                stands out.
            ReferencesError: the references cannot be read, do not pair, or do not suit the formula.
        """
        pairs = choose_references(references, unsafe, safe)
        chosen = ModelOptions.of(model, **options)
        search, layers = None, tuple[int, ...]()
        if isinstance(layer, str):
            if layer != "auto":
                raise ModelError(f"layer must be a block, several, or 'auto', not {layer!r}")
            best, search = safety_layer(model, references=pairs, **options)
            layers = (best,)
        else:
            layers = (layer,) if isinstance(layer, int) else tuple(layer)
        spec, tensors = fit_references(chosen, layers, pairs, formula, top_k, rank)
        if search is not None:
            spec = replace(spec, search=replace(search, decisions={}))
        scorer = cls(spec, tensors, options=chosen.not_kept())
        print(scorer.summary(), file=sys.stderr)
        return scorer

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        format: FormatLike | None = None,  # noqa: A002 - the word users know
        **options: Unpack[RunOptions],
    ) -> LARFScorer:
        """Load a fitted scorer from a directory, or from the Hub (`owner/name`, at `revision`).

        Args:
            name: where it is.
            revision: branch, tag or commit on the Hub.
            format: see `with_options`.
            **options: see `RunOptions`.

        Raises:
            ScorerError: there is none, or it was made by another version.
        """
        return cls(*read_artifact(name, revision)).with_options(format=format, **options)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the scorer (a few MB: reference states and JSON) into a directory.

        Raises:
            OutputError: the directory cannot be written.
        """
        write_artifact(directory, self.spec, self._tensors)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload the scorer with its card in one commit, and return the commit's address.

        If the Hub is busy or the connection breaks, it is tried again. If nothing has changed, nothing is sent, and the
        address is that of the repository. A card that is there and was not written by this method stays as it is.

        Args:
            repo_id: namespace/name, or a name of your own; the repository is made if it is not there.
            private: whether a repository that is made now is private; None leaves it to the namespace's own setting.
            revision: a branch, made if it is not there.

        Raises:
            PublishError: the Hub refuses, or cannot be reached.
        """
        client = HubClient()
        repo = client.with_namespace(repo_id)
        files = artifact_files(self.spec, self._tensors)

        def render(card: str | None) -> Files:
            ours = card is None or MARK in card
            return {**files, README: render_model_card(self.spec, repo).encode()} if ours else files

        return push_files(client, Destination(repo, "model", private, revision), render, title="Fitted LARF scorer").url

    def with_options(
        self,
        *,
        format: FormatLike | None = None,  # noqa: A002 - the word users know
        columns: Mapping[str, str] | None = None,
        join: str | None = None,
        **options: Unpack[RunOptions],
    ) -> LARFScorer:
        """A copy that reads rows or runs in another way.

        Args:
            format: how rows become conversations: `auto`, a name, or a function from a row to chat messages.
            columns: what the dataset calls columns of the format: `{"query": "prompt", "response": "completion"}`.
            join: what stands between a request and its input (a newline unless it is given), or a template with
                `{instruction}` and `{input}`. It is kept with the scorer.
            **options: see `RunOptions`.

        Raises:
            RowFormatError: no format has that name, or a function is to read renamed columns.
            ModelError: the value of an option is wrong.
        """
        row_format = format or self.format
        if columns:
            if callable(row_format):
                raise RowFormatError("a function reads the columns as they are: leave columns= out")
            row_format = replace(Reading.from_text(row_format), columns=columns).to_text()
        if isinstance(row_format, str):  # a wrong name is said here, not in the middle of a run
            check_format(row_format)
        spec = self.spec if join is None else replace(self.spec, join=check_join(join))
        return LARFScorer(spec, self._tensors, row_format, {**self._options, **options})

    def row_format(self, columns: Iterable[str]) -> RowFormat:
        """How this scorer reads a dataset with these columns.

        Raises:
            RowFormatError: they fit no format.
        """
        return resolve_format(self.format, columns, self.spec.join)

    # What it knows of itself ------------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        return self.spec.layers

    @property
    def harmless_scores(self) -> NDArray[np.float32]:
        """Scores of the package's ordinary sample rows, for `Threshold.calibrated`; float32 [rows]."""
        return self._tensors["harmless"].copy()

    def summary(self) -> str:
        """A few lines: model, layers, formula, separation, and what the linter found."""
        return self.spec.summary()

    def __repr__(self) -> str:
        return f"LARFScorer({self.spec.model!r}, layers={list(self.layers)}, formula={self.spec.formula!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Bytes and JSON alone, the same before and after use: `datasets` hashes this to find its cache."""
        from safetensors.numpy import save

        return {
            "spec": self.spec.to_json(),
            "tensors": save(self._tensors),
            "format": self.format,
            "options": self._options,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        from safetensors.numpy import load

        self.spec = ScorerSpec.from_json(state["spec"], "the pickled scorer")
        self.format = state["format"]
        self._tensors = load(state["tensors"])
        self._options = state["options"]

    # Scoring ----------------------------------------------------------------------------------------------------------

    def score(self, rows: Iterable[Row] | Dataset, *, progress: bool = True) -> NDArray[np.float32]:
        """Score rows: any iterable of mappings, or a `Dataset`.

        Args:
            rows: in one row format, decided from all their columns.
            progress: show how far it is once it takes longer than a second.

        Returns:
            float32 [rows], NaN where unscorable; `annotate` says why.

        Raises:
            RowFormatError: the columns fit no row format.
            ModelError: the model cannot be loaded.
        """
        total, columns, windows = _windows(rows)
        found = [np.zeros(0, np.float32)]
        with show_progress(total, "scoring", show=progress) as update:
            found += [self.annotate(window, columns, progress=update).score for window in windows]
        return np.concatenate(found)

    def annotate(
        self,
        rows: Sequence[Row],
        columns: Iterable[str] | None = None,
        *,
        rank: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        """Score rows and say everything about it: scores by layer, token counts, issues.

        Args:
            rows: as many as are to be sorted by length together; all are in memory at once.
            columns: of the dataset they come from, where these rows alone may not show all.
            rank: number of this worker process; spreads workers over several CUDA devices.
            progress: called with the number of rows just done.
        """
        names = list(columns) if columns is not None else columns_of(rows)
        return self._annotate(rows, self.row_format(names), rank, progress)

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """For `Dataset.map`: batched or not, streaming or not, any `num_proc`, `with_rank`. Adds the larf columns.

        Raises:
            RowFormatError: the columns fit no row format, or the dataset's `set_format` gives no mappings.
        """
        if not isinstance(batch, Mapping):
            raise RowFormatError(f"rows come as {type(batch).__name__}, not as mappings: call .with_format(None) first")
        form = self.row_format(batch)
        names = form.columns(batch)
        if not rank:
            say_once(reading_note(form, batch, text_names(batch)))
        if is_batch(batch, form):
            columns = {name: read_column(batch, name) for name in names}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            found = self._annotate(rows, form, rank).columns()
            schema = larf_schema(self.layers)
            return {name: TypedColumn(values, schema[name]) for name, values in found.items()}
        scores = self._annotate([{name: read_column(batch, name) for name in names}], form, rank)
        if is_lazy(batch):
            return dict(scores.arrow())  # one element each: the writer joins them, with their types
        return {name: values[0] for name, values in scores.columns().items()}

    def _annotate(
        self,
        rows: Sequence[Row],
        form: RowFormat,
        rank: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        scores = Scores(self.layers, len(rows))
        encoder = self._encoder(rank)
        parts = [range(start, min(start + _PART, len(rows))) for start in range(0, len(rows), _PART)]
        with closing(prefetched(lambda part: self._render(rows, part, form, encoder, scores), parts)) as rendered:
            for places, ids in rendered:
                if progress is not None:
                    progress(len(places) - len(ids))
                states = encoder.encode(list(ids.values()), self.layers, progress)
                self._rate(states, list(ids), scores)
        return scores

    def _render(
        self, rows: Sequence[Row], places: range, form: RowFormat, encoder: Encoder, scores: Scores
    ) -> tuple[range, dict[int, list[int]]]:
        """The token ids of the rows at `places`, by place, where there are any; counts and issues go into `scores`."""
        found: dict[int, list[int]] = {}
        for place in places:
            try:
                conversation = form.convert(rows[place])
                if place < LOOKED_AT:
                    say_of_template(conversation)
                rendered = encoder.renderer.render(conversation)
            except Unscorable as error:
                scores.issues[place] = error.issue
                continue
            scores.tokens[place], scores.issues[place] = rendered.tokens, rendered.issue
            found[place] = rendered.ids
        return places, found

    def _rate(self, states: States, places: list[int], scores: Scores) -> None:
        """States become the scores of the rows at `places`."""
        scores.execution = states.execution
        scores.score[places], scores.by_layer[places] = self._formula.score(states.values)
        for place, issue in zip(places, states.issues, strict=True):
            if issue is not None:
                scores.issues[place] = issue
            elif np.isnan(scores.score[place]):  # the zero vector: a state without a direction
                scores.issues[place] = Issue.NON_FINITE

    @cached_property
    def _formula(self) -> FittedFormula:
        spec = self.spec
        return FittedFormula(spec.formula, self._tensors["unsafe"], self._tensors["safe"], spec.top_k, spec.rank)

    def _encoder(self, rank: int | None = None) -> Encoder:
        encoder = get_encoder(self.spec.model_options(self._options), max(self.layers), rank)
        marks = _marks.setdefault(encoder.loaded, set())
        if self._mark not in marks:
            self._check(encoder)
            marks.add(self._mark)
        return encoder

    @cached_property
    def _mark(self) -> str:
        """What this scorer expects of its model."""
        expected = self._tensors["check"].tobytes() + repr((self.layers, self.spec.template_digest)).encode()
        return hashlib.sha256(expected).hexdigest()

    def _least_cosine(self, loaded: LoadedModel) -> float:
        """float32 agrees to 1e-6 between machines, bfloat16 to 1e-3; 4 bits are 0.94 from them on the demo model."""
        if self.spec.dtype == loaded.dtype_name == "float32":
            return 0.9999
        return 0.9 if loaded.quantised and loaded.quantised != self.spec.dtype else 0.99

    def _check(self, encoder: Encoder) -> None:
        """That this is the model the scorer was fitted on: the same template, and the same state for the same words."""
        if encoder.renderer.template_digest != self.spec.template_digest:
            raise ScorerError(f"{self.spec.model} has another chat template than the one this scorer was fitted with")
        if encoder.loaded.hidden_size == self.spec.hidden_size:
            state = encoder.encode([encoder.renderer.render(CHECK).ids], self.layers).values[0]
            cosine = (normalise(state) * normalise(self._tensors["check"])).sum(axis=-1)
            if (cosine >= self._least_cosine(encoder.loaded)).all():
                return
        raise ScorerError(
            f"the model found now ({encoder.loaded.version}) is not the one this scorer was fitted on "
            f"({self.spec.model}, {self.spec.version}): fit a scorer on it"
        )


def _windows(rows: Iterable[Row] | Dataset) -> tuple[int, list[str], Iterator[Sequence[Row]]]:
    """How many rows, their columns, and the rows themselves in windows; a `Dataset` is read a window at a time."""
    if hasattr(rows, "with_format") and hasattr(rows, "__len__"):  # a Dataset; a streaming one has no length
        plain: Any = rows.with_format(None)
        windows = (plain[i : i + _WINDOW] for i in range(0, len(plain), _WINDOW))
        transposed = ([dict(zip(w, v, strict=True)) for v in zip(*w.values(), strict=True)] for w in windows)
        return len(plain), list(plain.column_names), transposed
    listed = list(rows)
    return len(listed), columns_of(listed), (listed[i : i + _WINDOW] for i in range(0, len(listed), _WINDOW))
