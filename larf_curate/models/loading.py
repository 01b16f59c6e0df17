"""The files of a model become the blocks to run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from ..errors import LarfError, MissingExtraError, ModelError, one_line
from ..progress import quiet
from . import quantising
from .locating import Source, locate
from .options import DType, EncoderConfig
from .quantising import Quantised

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A decoder cut after the highest block asked for, and what it takes to feed it."""

    model: Any
    tokenizer: Any
    blocks: nn.ModuleList
    total_blocks: int
    hidden_size: int
    max_positions: int | None
    version: str
    device: torch.device
    dtype: torch.dtype  # of what is not quantised
    quantised: Quantised | None = None

    @property
    def dtype_name(self) -> DType:
        return self.quantised or dtype_name(self.dtype)


def find_device(device: str | None, rank: int | None = None) -> torch.device:
    """The device to run on; with several CUDA devices, a worker's `rank` spreads the workers over them."""
    import torch

    if device is not None:
        try:
            chosen = torch.device(device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", (rank or 0) % torch.cuda.device_count())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype of everything that is not quantised, and of the arithmetic."""
    import torch

    if dtype in ("auto", *get_args(Quantised)):
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found: torch.dtype = getattr(torch, dtype)
    return found


def dtype_name(dtype: torch.dtype) -> DType:
    return cast("DType", str(dtype).removeprefix("torch."))


def settle_dtype(dtype: DType, device: torch.device) -> DType:
    """What `auto` stands for on this device; the others stand for themselves."""
    return dtype_name(find_dtype(dtype, device)) if dtype == "auto" else dtype


def load_model(config: EncoderConfig, highest: int | None, device: torch.device) -> LoadedModel:
    """Load the blocks 0 to `highest` and nothing above them; with None, the whole model with its language-model head.

    Raises:
        ModelError: the model is unknown or unreadable, has no block `highest`, misses weights, or cannot be quantised.
        MissingExtraError: the dtype or the kind of file asks for a package that is not installed.
    """
    quantising.hush()
    if config.dtype in get_args(Quantised):
        quantising.require(config.dtype, device)
    source = locate(config.model, config.revision)
    try:
        with quiet():
            return _load(config, source, highest, device)
    except LarfError:
        raise
    except MemoryError as error:
        raise ModelError(f"{config.model} does not fit in memory") from error
    except Exception as error:  # the parsers of a dozen file formats have errors of their own
        if "trust_remote_code" in str(error) and not config.trust_remote_code:
            raise ModelError(
                f"{config.model} comes with code of its own: read it, and if you trust it, pass trust_remote_code=True "
                "(--trust-remote-code)"
            ) from error
        lacking = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
        if lacking and "gguf_file" in source.options:
            raise MissingExtraError(lacking[0], "demo", "reading a GGUF file") from None
        raise ModelError(f"{config.model} cannot be loaded: {one_line(error)}") from error


@dataclass(frozen=True)
class Shape:
    """What the blocks 0 to the highest wanted amount to.

    Attributes:
        parameters: all, with the embeddings.
        block_parameters: the blocks' alone.
        linear_parameters: those that int8 and nf4 quantise.
    """

    total_blocks: int
    parameters: int
    block_parameters: int
    linear_parameters: int


def shape_of(model: str, revision: str | None, highest: int | None, *, trust_remote_code: bool = False) -> Shape:
    """The shape of a model that is not loaded, from its config alone; None for `highest` means its last block.

    Raises:
        ModelError: the model is unknown or unreadable, or has no block `highest`.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    source = locate(model, revision)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code, **source.options)
            decoder = config.get_text_config(decoder=True)
            total = int(decoder.num_hidden_layers)
            highest = total - 1 if highest is None else highest
            _require_block(model, highest, total)
            cut_early = _cut(decoder, highest + 1)
            with torch.device("meta"):
                empty = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    except LarfError:
        raise
    except Exception as error:  # as in load_model
        raise ModelError(f"{model} cannot be read: {one_line(error)}") from error
    blocks = find_blocks(empty, highest + 1 if cut_early else total)
    del blocks[highest + 1 :]
    return Shape(total, _size(empty.parameters()), _size(blocks.parameters()), _size(quantising.linear_weights(empty)))


def _size(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _require_block(model: str, highest: int, total: int) -> None:
    if not 0 <= highest < total:
        raise ModelError(f"layer {highest} is out of range: {model} has blocks 0 to {total - 1}")


def _load(config: EncoderConfig, source: Source, highest: int | None, device: torch.device) -> LoadedModel:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    dtype = find_dtype(config.dtype, device)
    options = {**source.options, "trust_remote_code": config.trust_remote_code}
    model_config = AutoConfig.from_pretrained(source.path, **options)
    decoder = model_config.get_text_config(decoder=True)
    total = int(decoder.num_hidden_layers)
    whole, highest = highest is None, total - 1 if highest is None else highest
    _require_block(config.model, highest, total)
    options |= quantising.options(config, source, model_config, device, find_dtype(config.dtype, device))
    cut_early = _cut(decoder, highest + 1)
    # An adapter's weights are named after the whole model with its head, so it needs that one around the decoder.
    auto = AutoModelForCausalLM if source.adapter or whole else AutoModel
    model, report = auto.from_pretrained(
        source.path, config=model_config, dtype=dtype, output_loading_info=True, **options
    )
    head = model.get_output_embeddings() if source.adapter and not whole else None  # never run, so it may be missing
    unused = {f"{name}.weight" for name, module in model.named_modules() if head is not None and module is head}
    if missing := sorted(set(report["missing_keys"]) - unused):
        raise ModelError(
            f"{config.model} lacks {len(missing)} of its weights (first: {missing[0]}); they would be random numbers"
        )
    quantised = config.dtype if config.dtype in get_args(Quantised) else None
    if quantised and all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelError(f"{config.model} has no linear layers that could be quantised to {quantised}")
    if "device_map" in options and device.type == "cpu":
        quantising.settle_on_cpu(config.model, model)
    if source.adapter:
        adapted = _apply_adapter(model, source.adapter, highest, merge="device_map" not in options)
        model = adapted if whole else adapted.base_model
    blocks = find_blocks(model, highest + 1 if cut_early else total)
    if not cut_early:
        del blocks[highest + 1 :]
    if source.adapter and (source.adapter / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(source.adapter)
    else:
        tokenizer = AutoTokenizer.from_pretrained(source.path, **options)
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    tokenizer.model_max_length = int(1e30)  # the renderer cuts; the tokenizer need not warn
    model = model.requires_grad_(False).eval()
    return LoadedModel(
        model=model if "device_map" in options else model.to(device),
        tokenizer=tokenizer,
        blocks=blocks,
        total_blocks=total,
        hidden_size=int(decoder.hidden_size),
        max_positions=getattr(decoder, "max_position_embeddings", None),
        version=source.version,
        device=device,
        dtype=dtype,
        quantised=cast("Quantised | None", quantised),
    )


def _cut(config: Any, blocks: int) -> bool:
    """Shorten a decoder's config to its first `blocks` blocks, so that only their weights are read.

    False where the meaning of a block depends on how many follow it (Gemma 3n shares keys and values among the last
    ones): such a model is loaded whole and cut afterwards.
    """
    if getattr(config, "num_kv_shared_layers", 0):
        return False
    total = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == total:  # layer_types and its like: one entry a block
            setattr(config, name, value[:blocks])
    config.num_hidden_layers = blocks
    return True


def _apply_adapter(model: Any, adapter: Path, highest: int, merge: bool) -> Any:
    """The model with the adapter in it: merged, which costs nothing later, or beside weights that are quantised.

    Merging into quantised weights would round a second time, to steps that an adapter's changes are smaller than.
    """
    import warnings

    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise ModelError(f"the adapter {adapter} changes the prompt, not the model: it cannot be used here")
    if getattr(config, "use_dora", False) and getattr(model, "is_loaded_in_8bit", False):
        raise ModelError(f"the adapter {adapter} is a DoRA, which peft cannot run beside int8: take nf4, or bfloat16")
    only = getattr(config, "layers_to_transform", None)
    if only is not None and min([only] if isinstance(only, int) else only) > highest:
        return model  # it changes blocks that were cut away, and no other
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, str(adapter))
    if any("missing adapter keys" in str(warning.message) for warning in told):
        raise ModelError(f"the adapter {adapter} lacks some of its weights; they would be random numbers")
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def find_blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder's blocks, by structure: the outermost list of `count` modules outside vision and audio towers.

    Raises:
        ModelError: the model holds no such list.
    """
    from torch import nn

    towers = ("vision", "visual", "audio", "encoder.")
    found = [
        (name.count("."), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and not any(tower in name for tower in towers)
    ]
    if not found:
        raise ModelError(f"{type(model).__name__} holds no list of {count} blocks that larf-curate can find")
    return min(found, key=lambda item: item[:2])[2]
