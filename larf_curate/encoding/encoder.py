"""Token ids become the last token's state after chosen blocks."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Issue
from ..models.loading import LoadedModel, find_device, load_model, settle_dtype
from ..models.locating import commit_of
from ..models.options import EncoderConfig
from ..rows.rendering import Renderer
from .batching import Batch
from .memory import give_back, is_out_of_memory, reuse_memory
from .packing import PackedPass, fastest_pass
from .padding import PaddedPass
from .threads import each
from .tuning import batch_tokens_for

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class States:
    """Last-token states, float32 [conversations, layers, hidden size], NaN where `issues` says why there is none.

    `how` says in words how they were made: precision, device, batches, and the shortcuts that were on.
    """

    values: NDArray[np.float32]
    issues: list[Issue | None]
    how: str


class Encoder:
    """Renders and runs conversations through a loaded model. Cheap to make: see `get_encoder`."""

    def __init__(self, config: EncoderConfig, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.batch_tokens = config.batch_tokens
        limit = loaded.max_positions or config.max_tokens
        self.renderer = Renderer(loaded.tokenizer, min(config.max_tokens, limit), config.overflow)

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
        with self.loaded.lock:
            forward = fastest_pass(self.loaded)
            size = self.batch_tokens or batch_tokens_for(self.loaded, forward, sum(map(len, job.rows)))
            with forward.at_work(layers):
                queue, alone = forward.plan(job.rows, size), False
                while queue:
                    run = partial(self._try, forward, job.rows)
                    again: list[Batch] = []
                    # What failed runs again, but not beside others that take the memory.
                    with closing(each(run, queue, in_threads=forward.in_threads and not alone)) as found:
                        for batch, states in found:
                            left, done = job.settle(batch, states, alone=alone)
                            again += left
                            if progress is not None and done:
                                progress(done)
                    queue, alone = again, True
            shortcuts = ", ".join(forward.shortcuts)
        how = f"{self.loaded.dtype_name} on {self.loaded.device}, batches of up to {size:,} tokens; {shortcuts}"
        return States(job.values, job.issues, how)

    def _try(
        self, forward: PackedPass | PaddedPass, rows: Sequence[tuple[int, ...]], batch: Batch
    ) -> NDArray[np.float32] | None:
        """States [rows, layers, hidden], or None where the batch does not fit in memory."""
        chosen = [rows[i] for i in batch.rows]
        tokens = forward.tokens(chosen, batch.shared)
        if len(chosen) > 1 and self.loaded.too_much is not None and tokens >= self.loaded.too_much:
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
            self.loaded.too_much = tokens
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


# One model load per process and device ------------------------------------------------------------------------------

_models: dict[tuple[EncoderConfig, str], LoadedModel] = {}
_locks = {"loading": threading.Lock()}


def _after_fork() -> None:
    """A worker forked from a process that has a model shares its memory, but must not share its locks or threads."""
    _locks["loading"] = threading.Lock()
    for loaded in _models.values():
        loaded.lock = threading.Lock()
    if torch := sys.modules.get("torch"):
        # The threads of the OpenMP pool did not survive the fork: a parallel region would wait for them for ever.
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_after_fork)


def get_encoder(config: EncoderConfig, highest: int, rank: int | None = None) -> Encoder:
    """An encoder on this process's one copy of the model on its device, loaded at the first call.

    A later call that asks for a higher layer reloads the model with more blocks; one that asks for a lower shares it.
    """
    device = find_device(config.device, rank)
    plain = EncoderConfig(config.model)  # what changes how the model is used, not what is loaded, is not in the key
    how: dict[str, Any] = {name: getattr(plain, name) for name in ("device", "max_tokens", "overflow", "batch_tokens")}
    how["dtype"] = settle_dtype(config.dtype, device)  # "auto" and its outcome are one model
    key = (replace(config, **how), str(device))
    with _locks["loading"]:
        loaded = _models.get(key)
        if loaded is None or len(loaded.blocks) <= highest:
            for known in [name for name, model in _models.items() if model is loaded]:
                del _models[known]
            loaded = None  # the old copy goes before the new one comes
            if device.type == "cpu":
                reuse_memory()
            loaded = _models[key] = load_model(config, highest, device)
            # A scorer asks for the commit it was fitted on, where the user asked for a branch: the same model.
            _models.setdefault((replace(key[0], revision=commit_of(loaded.version)), key[1]), loaded)
        return Encoder(config, loaded)


def unload_models() -> None:
    """Forget every model that this process holds, and give their memory back."""
    with _locks["loading"]:
        devices = {loaded.device for loaded in _models.values()}
        _models.clear()
        for device in devices:
            give_back(device)
