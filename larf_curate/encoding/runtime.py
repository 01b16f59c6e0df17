"""Loaded models in this process: one copy of each, its lock, and what is learnt about running it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from ..cache import register
from ..models.devices import find_device, settle_dtype
from ..models.loading import LoadedModel, load_model
from ..models.locating import base_of, commit_of
from ..models.options import ModelOptions
from .memory import release_memory, reuse_memory
from .packing import PackedPass
from .padding import PaddedPass
from .trial import fastest_pass, keeps_window


class Runtime:
    """A loaded model and what is learnt about running it in this process.

    Make one for each loaded model: its lock keeps forward passes of several threads apart.

    Args:
        loaded: the model, which never changes.
        forward: the pass that runs its batches; None finds the fastest that suits the model, at first use.

    Attributes:
        lock: held by whoever runs the model.
        batch_tokens: tokens of a batch that were found to be the fastest, within memory; None until then.
        tokens_out_of_memory: tokens of the smallest batch that did not fit in memory; None if all did.
    """

    def __init__(self, loaded: LoadedModel, forward: PackedPass | PaddedPass | None = None) -> None:
        self.loaded = loaded
        self.lock = threading.Lock()
        self.batch_tokens: int | None = None
        self.tokens_out_of_memory: int | None = None
        self._forward = forward
        self._windows: dict[int, bool] = {}  # sliding windows, and whether rows that are longer may be packed

    @property
    def forward(self) -> PackedPass | PaddedPass:
        """The pass that runs this model's batches. The caller holds the lock."""
        if self._forward is None:
            self._forward = fastest_pass(self.loaded)
        return self._forward

    def shared_out(self, lengths: Sequence[int]) -> list[tuple[PackedPass | PaddedPass, list[int]]]:
        """Which rows run by which pass: all by the fastest, but for those that are too long for it (`limits`).

        A sliding window is tried when the first row comes that is longer, since that takes as long as a few such rows.

        Args:
            lengths: the lengths of the rows, in tokens.

        Returns:
            Passes, and the numbers of the rows that each is to run. The caller holds the lock.
        """
        forward, longest = self.forward, max(lengths, default=0)
        known = [forward.limits.batched]
        if isinstance(forward, PackedPass):
            known.append(forward.limits.packed)
            for window in (each for each in forward.limits.windows if each < longest):
                if window not in self._windows:
                    self._windows[window] = keeps_window(forward, window)
                known.append(None if self._windows[window] else window)
        limit = min((each for each in known if each is not None), default=longest)
        if longest <= limit:
            return [(forward, list(range(len(lengths))))]
        numbers: tuple[list[int], list[int]] = ([], [])
        for number, length in enumerate(lengths):
            numbers[length > limit].append(number)
        plain = type(forward) if isinstance(forward, PaddedPass) else PaddedPass
        return [(forward, numbers[0]), (plain(self.loaded, one_by_one=True), numbers[1])]


# One copy of each model in a process ----------------------------------------------------------------------------------

_runtimes: dict[tuple[ModelOptions, str], Runtime] = {}
_loading = {"lock": threading.Lock()}


def runtime_for(options: ModelOptions, highest: int | None, rank: int | None = None) -> Runtime:
    """This process's one copy of a model on its device, loaded at the first call.

    A later call that asks for a higher block reloads the model with more blocks; one that asks for a lower shares it.

    Args:
        options: the model, and how it is loaded and run.
        highest: the highest block that is needed; None for the whole model with its language-model head.
        rank: number of this worker among several, which spreads them over CUDA devices.

    Raises:
        ModelError: the model cannot be loaded, or has no such block.
    """
    device = find_device(options.device, rank)
    # No device and its outcome are one device, "auto" and its outcome are one dtype.
    settled = replace(options.loading_key(), device=None, dtype=settle_dtype(options.dtype, device))
    key = (settled, str(device))
    with _loading["lock"]:
        runtime = _runtimes.get(key)
        if runtime is None or not _reaches(runtime.loaded, highest):
            for alias in [name for name, other in _runtimes.items() if other is runtime]:
                del _runtimes[alias]
            runtime = None  # the old copy goes before the new one comes
            if device.type == "cpu":
                reuse_memory()
            runtime = _runtimes[key] = Runtime(load_model(options, highest, device))
            # A scorer asks for the commit it was fitted on, where the user asked for a branch: the same model.
            version = runtime.loaded.version
            pinned = replace(settled, revision=commit_of(version), base=settled.base or base_of(version))
            _runtimes.setdefault((pinned, key[1]), runtime)
        return runtime


def _reaches(loaded: LoadedModel, highest: int | None) -> bool:
    return loaded.has_head if highest is None else highest < len(loaded.blocks)


def unload_models() -> None:
    """Forget every model that this process holds, and give their memory back."""
    with _loading["lock"]:
        devices = {runtime.loaded.device for runtime in _runtimes.values()}
        _runtimes.clear()
        for device in devices:
            release_memory(device)


register(unload_models)


def _after_fork() -> None:
    """A worker forked from a process that has a model shares its memory, but must not share its locks or threads."""
    _loading["lock"] = threading.Lock()
    for runtime in _runtimes.values():
        runtime.lock = threading.Lock()
    if torch := sys.modules.get("torch"):
        # The threads of the OpenMP pool did not survive the fork: a parallel region would wait for them for ever.
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # POSIX alone has fork; elsewhere workers start afresh and share nothing
    os.register_at_fork(after_in_child=_after_fork)
