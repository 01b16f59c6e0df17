"""PEFT adapters: merged into a model's weights, or run beside them where they cannot be."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ModelError, one_line
from .blocks import decoder_of

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "base_model.model."  # of every name in an adapter's file
_TOKENS = ".token_adapter.trainable_tokens_delta"  # embeddings of some tokens alone


class Adapted(NamedTuple):
    """A model as an adapter changes it.

    Attributes:
        model: the whole model with its head.
        one_by_one: whether rows have to run one by one, because the adapter looks at a batch as a whole.
    """

    model: Any
    one_by_one: bool = False


def apply_adapter(model: Any, adapter: Path, path: str, *, merge: bool) -> Adapted | None:
    """The model as the adapter changes it; None if merging was asked for and failed, which leaves the model unusable.

    Args:
        model: the model with its head, since an adapter's weights are named after the whole model; blocks that are not
            run may be cut away.
        adapter: the adapter's directory.
        path: the name of the list of the model's blocks.
        merge: whether the adapter's changes go into the model's own weights, which costs nothing later. Merging into
            quantised weights would round a second time, to steps that an adapter's changes are smaller than.

    Raises:
        ModelError: the adapter is of a kind that cannot be used, or lacks weights.
    """
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(adapter))
    _require_usable(config, adapter, model)
    weights = _weights(adapter)
    _resize_embeddings(model, config, weights)
    if _changes_no_block(model, weights, path):
        _replace_weights(model, config, weights)
        return Adapted(model)
    unmerged = bool(getattr(config, "lora_bias", False) or getattr(config, "alora_invocation_tokens", None))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, str(adapter), config=config)
        if any("missing adapter keys" in str(warning.message) for warning in caught):
            raise ModelError(f"the adapter {adapter} lacks some of its weights; they would be random numbers")
        if merge and not unmerged:
            try:
                return Adapted(adapted.merge_and_unload())
            except Exception:  # some kinds of adapter, and some on some layers, cannot be merged: each says so its way
                return None
    if getattr(config, "alora_invocation_tokens", None):
        return Adapted(_with_invocations(adapted), one_by_one=True)
    return Adapted(adapted.get_base_model())


def has_tokenizer(adapter: Path) -> bool:
    """Whether a tokenizer lies beside the adapter: the one that it was trained with."""
    return (adapter / "tokenizer_config.json").is_file()


def _require_usable(config: Any, adapter: Path, model: Any) -> None:
    kind = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning or kind == "ADAPTION_PROMPT":
        raise ModelError(f"the adapter {adapter} changes the prompt, not the model ({kind}): it cannot be used here")
    if getattr(config, "layer_replication", None):
        raise ModelError(
            f"the adapter {adapter} repeats blocks of its base (layer_replication), so its blocks are not those of the "
            "base: merge it into a model of its own first (peft's merge_and_unload)"
        )
    if getattr(config, "use_dora", False) and getattr(model, "is_loaded_in_8bit", False):
        raise ModelError(f"the adapter {adapter} is a DoRA, which peft cannot run beside int8: take nf4, or bfloat16")


def _weights(adapter: Path) -> dict[str, Tensor]:
    """What an adapter's file holds, under the names that the model has for it."""
    from peft.utils.save_and_load import load_peft_weights

    try:
        held = load_peft_weights(str(adapter), device="cpu")
    except Exception as error:
        raise ModelError(f"the weights of the adapter {adapter} cannot be read: {one_line(error)}") from error
    return {name.removeprefix(_PREFIX): tensor for name, tensor in held.items()}


def _resize_embeddings(model: Any, config: Any, weights: Mapping[str, Tensor]) -> None:
    """Give the model as many embeddings as it had when the adapter was trained: new tokens come with new rows."""
    embedding = model.get_input_embeddings()
    path = next(name for name, module in model.named_modules() if module is embedding)
    rows = wanted = embedding.weight.shape[0]
    for name, tensor in weights.items():
        if name in (f"{path}.weight", f"{path}.base_layer.weight"):
            wanted = tensor.shape[0]
        elif name == f"{path}.lora_embedding_A":
            wanted = tensor.shape[1]
    if wanted == rows:
        wanted = max(rows, *(max(indices, default=-1) + 1 for indices in _trained_tokens(config).values()))
    if wanted != rows:
        model.resize_token_embeddings(wanted, mean_resizing=False)


def _trained_tokens(config: Any) -> dict[str, list[int]]:
    """Which rows of which embeddings an adapter replaces, by the last name of their module."""
    indices = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    return dict(indices) if isinstance(indices, Mapping) else {"embed_tokens": list(indices)}


def _changes_no_block(model: Any, weights: Mapping[str, Tensor], path: str) -> bool:
    """Whether all that an adapter adds lies in blocks that were cut away; what it replaces as a whole may not."""
    count = len(model.get_submodule(path))
    number = re.compile(rf"(?:^|\.){re.escape(path.rpartition('.')[2])}\.(\d+)\.")
    modules = dict(model.named_modules())

    def is_above(name: str) -> bool:
        match = number.search(name)
        return match is not None and int(match[1]) >= count

    def is_replaced(name: str) -> bool:
        module, _, leaf = name.rpartition(".")
        return name.endswith(_TOKENS) or hasattr(modules.get(module), leaf)

    return all(is_above(name) or is_replaced(name) for name in weights)


def _replace_weights(model: Any, config: Any, weights: Mapping[str, Tensor]) -> None:
    """Put what an adapter replaces as a whole (`modules_to_save`, embeddings, new tokens) in place of the model's."""
    import torch

    modules, trained = dict(model.named_modules()), _trained_tokens(config)
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        with torch.no_grad():
            if name.endswith(_TOKENS):
                embedding = modules[name.removesuffix(_TOKENS)]
                rows = trained[name.removesuffix(_TOKENS).rpartition(".")[2]]
                embedding.weight[rows] = tensor.to(embedding.weight)
            elif module in modules and hasattr(modules[module], leaf):
                getattr(modules[module], leaf).copy_(tensor)


def _with_invocations(adapted: Any) -> Any:
    """The model under an aLoRA, which is at work from the last of its invocation tokens in a row on.

    peft looks for these tokens in the forward of its own wrapper, around which nothing else of this package is built.
    """
    from peft.tuners.lora.variants import get_alora_offsets_for_forward

    model = adapted.get_base_model()
    decoder = decoder_of(model)
    forward = decoder.forward

    @functools.wraps(forward)
    def run(input_ids: Any = None, **others: Any) -> Any:
        offsets = get_alora_offsets_for_forward(adapted, input_ids)
        stopped: BaseException | None = None
        output = None
        with adapted._enable_peft_forward_hooks(**offsets):
            try:
                output = forward(input_ids=input_ids, **others)
            except BaseException as error:  # passes end early by an exception, over which peft would forget its hooks
                stopped = error
        if stopped is not None:
            raise stopped
        return output

    decoder.forward = run
    return model
