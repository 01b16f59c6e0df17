"""Token ids become the last token's state after chosen blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Issue, Unscorable
from ..models.loading import LoadedModel
from ..models.options import ModelOptions
from ..rows.rendering import Rendered, Renderer
from ..rows.turns import Conversation
from .batching import Batch
from .memory import give_back, is_out_of_memory
from .runtime import Runtime, runtime_for
from .threads import each
from .tuning import batch_tokens_for

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class States:
    """Last-token states of some conversations, in their order.

    Attributes:
        values: float32 [conversations, layers, hidden size], NaN where there is no state.
        issues: of each conversation: why there is no state, or `Issue.TRUNCATED`, or None.
        tokens: of each rendered conversation, before truncation; None where it could not be rendered.
        execution: how they were made, in words: precision, device, size of the batches, and shortcuts taken.
    """

    values: NDArray[np.float32]
    issues: list[Issue | None]
    tokens: list[int | None]
    execution: str


class Encoder:
    """Renders and runs conversations through a loaded model. Cheap to make: see `get_encoder`."""

    def __init__(self, options: ModelOptions, runtime: Runtime) -> None:
        loaded = runtime.loaded
        self.runtime = runtime
        self.batch_tokens = options.batch_tokens
        limit = loaded.max_positions or options.max_tokens
        self.renderer = Renderer(loaded.tokenizer, min(options.max_tokens, limit), options.overflow)

    @property
    def loaded(self) -> LoadedModel:
        return self.runtime.loaded

    def render(self, conversation: Conversation) -> Rendered | Issue:
        """The token ids of a conversation, or why it has none. Safe in another thread than the one that encodes."""
        try:
            return self.renderer.render(conversation)
        except Unscorable as error:
            return error.issue

    def states_of(
        self,
        conversations: Iterable[Conversation | Rendered | Issue],
        layers: Sequence[int],
        progress: Callable[[int], object] | None = None,
    ) -> States:
        """Render conversations and encode them: the state after each of `layers` at the last token of each.

        A conversation that cannot be rendered or encoded is no error: its state is NaN, and `issues` says why.

        Args:
            conversations: or what `render` gave for them.
            layers: as for `encode`.
            progress: called with the number of conversations just done.
        """
        rendered = [item if isinstance(item, Rendered | Issue) else self.render(item) for item in conversations]
        return self._states_of(rendered, layers, progress)

    def states_of_prompts(
        self, prompts: Iterable[str], layers: Sequence[int], progress: Callable[[int], object] | None = None
    ) -> States:
        """As `states_of`, at the token after which the answer to a user's prompt begins. Prompts are never cut."""
        rendered: list[Rendered | Issue] = []
        for prompt in prompts:
            try:
                ids = self.renderer.render_prompt(prompt)
            except Unscorable as error:
                rendered.append(error.issue)
            else:
                rendered.append(Rendered(ids, len(ids), None))
        return self._states_of(rendered, layers, progress)

    def _states_of(
        self,
        rendered: Sequence[Rendered | Issue],
        layers: Sequence[int],
        progress: Callable[[int], object] | None,
    ) -> States:
        places = [place for place, item in enumerate(rendered) if isinstance(item, Rendered)]
        usable = [item for item in rendered if isinstance(item, Rendered)]
        if progress is not None and len(usable) < len(rendered):
            progress(len(rendered) - len(usable))
        encoded = self.encode([item.ids for item in usable], layers, progress)
        values = np.full((len(rendered), *encoded.values.shape[1:]), np.nan, np.float32)
        values[places] = encoded.values
        issues = [item.issue if isinstance(item, Rendered) else item for item in rendered]
        for place, issue in zip(places, encoded.issues, strict=True):
            issues[place] = issue or issues[place]
        tokens = [item.tokens if isinstance(item, Rendered) else None for item in rendered]
        return States(values, issues, tokens, encoded.execution)

    def encode(
        self,
        ids: Sequence[list[int]],
        layers: Sequence[int],
        progress: Callable[[int], object] | None = None,
    ) -> States:
        """The state after each of `layers` at the last token of each conversation, in the order given.

        Conversations lie end to end without pads where the architecture allows (`packing`); else they are padded on the
        right and attend causally. Either way no token of a row ever sees a pad or another row, and the result does not
        depend on its batch beyond float error. Equal conversations run once; what did not fit in memory is remembered.

        Args:
            ids: token ids, none empty.
            layers: block indices, at most `highest`.
            progress: called with the number of conversations just done.
        """
        job = _Job(ids, len(layers), self.loaded.hidden_size)
        with self.runtime.lock:
            forward = self.runtime.forward
            size = self.batch_tokens or batch_tokens_for(self.runtime, sum(map(len, job.rows)))
            with forward.at_work(layers):
                queue, alone = forward.plan(job.rows, size), False
                while queue:
                    run = partial(self._try, job.rows)
                    again: list[Batch] = []
                    # What failed runs again, but not beside others that take the memory.
                    with closing(each(run, queue, in_threads=forward.in_threads and not alone)) as found:
                        for batch, states in found:
                            left, done = job.settle(batch, states, alone=alone)
                            again += left
                            if progress is not None and done:
                                progress(done)
                    queue, alone = again, True
            shortcuts = ", ".join((*forward.shortcuts, *forward.shortcuts_seen))
        execution = f"{self.loaded.dtype_name} on {self.loaded.device}, batches of up to {size:,} tokens; {shortcuts}"
        return States(job.values, job.issues, [len(tokens) for tokens in ids], execution)

    def _try(self, rows: Sequence[tuple[int, ...]], batch: Batch) -> NDArray[np.float32] | None:
        """States [rows, layers, hidden], or None where the batch does not fit in memory."""
        runtime, forward = self.runtime, self.runtime.forward
        chosen = [rows[i] for i in batch.rows]
        tokens = forward.tokens(chosen, batch.shared)
        limit = runtime.tokens_out_of_memory
        if len(chosen) > 1 and limit is not None and tokens >= limit:
            return None
        try:
            states: NDArray[np.float32] = forward(chosen, batch.shared).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return states
        # Outside the except clause: the traceback there holds the very tensors that have to go.
        give_back(self.loaded.device)
        if len(chosen) > 1:
            runtime.tokens_out_of_memory = tokens
        return None


class _Job:
    """Conversations to encode, and what is known of them so far.

    Attributes:
        rows: the different ones.
        values, issues: see `States`, of all.
    """

    def __init__(self, ids: Sequence[list[int]], layers: int, size: int) -> None:
        self._places: dict[tuple[int, ...], list[int]] = {}
        for index, tokens in enumerate(ids):
            self._places.setdefault(tuple(tokens), []).append(index)
        self.rows = list(self._places)
        self.values = np.full((len(ids), layers, size), np.nan, np.float32)
        self.issues: list[Issue | None] = [None] * len(ids)

    def settle(self, batch: Batch, states: NDArray[np.float32] | None, *, alone: bool) -> tuple[list[Batch], int]:
        """Put the states of a batch, None where it did not fit, in their places.

        Returns what is to run again, and how many conversations are done. `alone`: no other batch ran beside it.
        """
        if states is None and len(batch.rows) > 1:
            return list(batch.halves()), 0
        if states is None and not alone:
            return [batch], 0
        again: list[Batch] = []
        done = 0
        for position, i in enumerate(batch.rows):
            if states is None:
                issue = Issue.OUT_OF_MEMORY
            elif np.isfinite(states[position]).all():
                issue = None
            elif len(batch.rows) > 1:
                again.append(Batch([i]))  # a pad may be at fault (zero times NaN is NaN): alone, none is there
                continue
            else:
                issue = Issue.NON_FINITE
            for place in self._places[self.rows[i]]:
                self.issues[place] = issue
                if states is not None and issue is None:
                    self.values[place] = states[position]
                done += 1
        return again, done


def get_encoder(options: ModelOptions, highest: int, rank: int | None = None) -> Encoder:
    """An encoder on this process's one copy of the model on its device; see `runtime_for`."""
    return Encoder(options, runtime_for(options, highest, rank))
