"""The encoder: conversations, or token ids, become the states of their last tokens after chosen blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Issue, Unscorable
from ..models.loading import LoadedModel
from ..models.options import ModelOptions
from ..rows.rendering import Rendered, Renderer
from ..rows.turns import Conversation
from .jobs import run_rows
from .padding import PaddedPass
from .readout import LastTokenStates
from .runtime import Runtime, runtime_for

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class States:
    """Last-token states of some conversations, in their order.

    Attributes:
        values: float32 [conversations, layers, hidden size], NaN where there is no state.
        issues: for each conversation, why there is no state, or `Issue.TRUNCATED`, or None.
        tokens: how many tokens each rendered conversation has before truncation; None where it could not be rendered.
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
        self.model = options.model
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
        """The state after each of `layers` at the last token of each row, in the order given.

        Rows run packed, without pads, where the architecture allows (`packing`); else they are padded on the right and
        attend causally. Either way no token of a row sees a pad or another row, and the result does not depend on the
        batch beyond float error. Equal rows run once. A batch that does not fit in memory runs again in halves, and its
        size is remembered.

        Args:
            ids: token ids of each row, none empty.
            layers: block numbers, each one of `loaded.blocks`.
            progress: called with the number of rows just done.
        """
        shape = (len(layers), self.loaded.hidden_size)
        values, issues, execution = run_rows(
            self.runtime, ids, LastTokenStates(layers), shape, batch_tokens=self.batch_tokens, progress=progress
        )
        return States(values, issues, [len(row) for row in ids], execution)

    def encode_alone(self, ids: Sequence[list[int]], layers: Sequence[int]) -> NDArray[np.float32]:
        """As `encode`, without shortcuts: each row in a full pass of its own. float32 [rows, layers, hidden size]."""
        shape = (len(layers), self.loaded.hidden_size)
        plain = Runtime(self.loaded, PaddedPass(self.loaded, one_by_one=True))
        with self.runtime.lock:
            return run_rows(plain, ids, LastTokenStates(layers), shape, batch_tokens=1).values


def get_encoder(options: ModelOptions, highest: int | None, rank: int | None = None) -> Encoder:
    """An encoder on this process's one copy of the model on its device; see `runtime_for`."""
    return Encoder(options, runtime_for(options, highest, rank))
