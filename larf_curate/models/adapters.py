"""PEFT adapters: merged into a model's weights, or run beside weights that are quantised."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ..errors import ModelError


def apply_adapter(model: Any, adapter: Path, highest: int, *, merge: bool) -> Any:
    """The model as the adapter changes it.

    Args:
        model: the whole model with its head, after which an adapter's weights are named.
        adapter: the adapter's directory.
        highest: the model's highest block; what lies above is cut away.
        merge: whether the adapter's changes go into the model's own weights, which costs nothing later. Merging into
            quantised weights would round a second time, to steps that an adapter's changes are smaller than.

    Raises:
        ModelError: the adapter is of a kind that cannot be used, or lacks weights.
    """
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(adapter))
    _require_usable(config, adapter, model)
    if _changes_only_above(config, highest):
        return model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, str(adapter))
    if any("missing adapter keys" in str(warning.message) for warning in caught):
        raise ModelError(f"the adapter {adapter} lacks some of its weights; they would be random numbers")
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def has_tokenizer(adapter: Path) -> bool:
    """Whether a tokenizer lies beside the adapter: the one that it was trained with."""
    return (adapter / "tokenizer_config.json").is_file()


def _require_usable(config: Any, adapter: Path, model: Any) -> None:
    if config.is_prompt_learning:
        raise ModelError(f"the adapter {adapter} changes the prompt, not the model: it cannot be used here")
    if getattr(config, "use_dora", False) and getattr(model, "is_loaded_in_8bit", False):
        raise ModelError(f"the adapter {adapter} is a DoRA, which peft cannot run beside int8: take nf4, or bfloat16")


def _changes_only_above(config: Any, highest: int) -> bool:
    """Whether the adapter changes blocks above `highest` and no others."""
    blocks = getattr(config, "layers_to_transform", None)
    if blocks is None:
        return False
    return min([blocks] if isinstance(blocks, int) else blocks) > highest
