"""One model in several threads, each of which may change what its modules do: the modules are copied, no weight is."""

from __future__ import annotations

import copy
from dataclasses import replace

from ..encoding.memory import free_bytes
from ..models.loading import LoadedModel

_MOST_OF_FREE_MEMORY = 0.25


def may_run_in_threads(loaded: LoadedModel, needed: int) -> bool:
    """Whether batches of this model may run at the same time: it is one of transformers', on a CPU, not quantised.

    Args:
        loaded: the model.
        needed: bytes that all threads together would take.
    """
    if loaded.device.type != "cpu" or loaded.quantised is not None or loaded.one_by_one:
        return False
    free = free_bytes(loaded.device)
    return type(loaded.model).__module__.startswith("transformers.") and (
        free is None or needed < _MOST_OF_FREE_MEMORY * free
    )


def with_modules_of_its_own(loaded: LoadedModel) -> LoadedModel:
    """The same model with the same weights in memory. Hooks, and modules that are put in place, are its own."""
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    model, blocks = copy.deepcopy((loaded.model, loaded.blocks), {id(tensor): tensor for tensor in tensors})
    return replace(loaded, model=model, blocks=blocks)
