"""Token ids become the last token's state after chosen blocks."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Issue
from ..rows.rendering import Renderer
from .batching import halves, plan_batches, plan_packs
from .loading import EncoderConfig, LoadedModel, find_device, load_model, settle_dtype
from .locating import commit_of
from .packing import Enough, PackedPass, can_pack

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_CPU_BATCH_TOKENS = 1_024  # larger batches fall out of the processor's cache, smaller ones make thin matrices
_ACCELERATOR_BATCH_TOKENS = 16_384


@dataclass
class States:
    """Last-token states, float32 [conversations, layers, hidden size], NaN where `issues` says why there is none."""

    values: NDArray[np.float32]
    issues: list[Issue | None]


class Encoder:
    """Renders and runs conversations through a loaded model. Cheap to make: see `get_encoder`."""

    def __init__(self, config: EncoderConfig, loaded: LoadedModel) -> None:
        self.loaded = loaded
        default = _CPU_BATCH_TOKENS if loaded.device.type == "cpu" else _ACCELERATOR_BATCH_TOKENS
        self.batch_tokens = config.batch_tokens or default
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
        places: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(ids):
            places.setdefault(tuple(row), []).append(index)
        distinct = [list(row) for row in places]
        values = np.full((len(ids), len(layers), self.loaded.hidden_size), np.nan, np.float32)
        issues: list[Issue | None] = [None] * len(ids)
        with self.loaded.lock:
            packed = self._packed()
            if packed is not None:
                queue = plan_packs(distinct, self.batch_tokens)[::-1]
            else:
                queue = plan_batches([len(row) for row in distinct], self.batch_tokens)[::-1]
            while queue:
                batch = queue.pop()
                tokens = sum(len(distinct[i]) for i in batch)
                if len(batch) > 1 and self.loaded.too_much is not None and tokens >= self.loaded.too_much:
                    queue += halves(batch)[::-1]
                    continue
                states = self._try_forward([distinct[i] for i in batch], layers, packed)
                if states is None and len(batch) > 1:
                    self.loaded.too_much = tokens
                    queue.append(batch)
                    continue
                done = 0
                for position, i in enumerate(batch):
                    same = places[tuple(distinct[i])]
                    if states is None:
                        issue = Issue.OUT_OF_MEMORY
                    elif np.isfinite(states[position]).all():
                        issue = None
                        values[same] = states[position]
                    elif len(batch) > 1:
                        queue.append([i])  # a pad may be at fault (zero times NaN is NaN): alone, none can reach it
                        continue
                    else:
                        issue = Issue.NON_FINITE
                    for index in same:
                        issues[index] = issue
                    done += len(same)
                if progress is not None:
                    progress(done)
        return States(values, issues)

    def _packed(self) -> PackedPass | None:
        """The pass without pads, where it gives this architecture's states; found out once for each loaded model."""
        loaded = self.loaded
        if loaded.packs is None:
            loaded.packs = can_pack(loaded, self._forward)
        return PackedPass(loaded) if loaded.packs else None

    def _try_forward(
        self, rows: Sequence[list[int]], layers: Sequence[int], packed: PackedPass | None
    ) -> NDArray[np.float32] | None:
        """States [rows, layers, hidden], or None where the batch does not fit in memory."""
        try:
            if packed is not None:
                states: NDArray[np.float32] = packed(rows, layers).cpu().numpy()
                return states
            return self._forward(rows, layers)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the except clause: the traceback there holds the very tensors that have to go.
        _free(self.loaded.device)
        return None

    def _forward(self, rows: Sequence[list[int]], layers: Sequence[int]) -> NDArray[np.float32]:
        import torch

        device = self.loaded.device
        longest = max(map(len, rows))
        padded = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.as_tensor(row)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(_module: object, _args: object, output: Any) -> None:
                states = output[0] if isinstance(output, tuple) else output
                kept[layer] = states[torch.arange(len(rows), device=device), last].float()
                if len(kept) == len(set(layers)):
                    raise Enough

            return hook

        handles = [self.loaded.blocks[layer].register_forward_hook(keep(layer)) for layer in sorted(set(layers))]
        try:
            with torch.inference_mode():
                self.loaded.model(input_ids=padded.to(device), use_cache=False)
        except Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        states: NDArray[np.float32] = torch.stack([kept[layer] for layer in layers], dim=1).cpu().numpy()
        return states


def _free(device: torch.device) -> None:
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; the CPU's and MPS's allocators say it in words."""
    import torch

    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "can't allocate" in text
    )


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
            _free(device)
