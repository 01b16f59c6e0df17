"""The files of a model become the blocks to run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from ..errors import LarfError, MissingExtraError, ModelError, one_line
from ..progress import quiet
from . import quantising
from .adapters import apply_adapter, has_tokenizer
from .blocks import cut_config, keep_blocks, require_block
from .devices import dtype_name, find_dtype
from .locating import Source, code_of_its_own, locate
from .options import DType, ModelOptions
from .quantising import Quantised

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A decoder cut after the highest block asked for, and what it takes to feed it.

    Attributes:
        model, tokenizer: of transformers.
        blocks: the decoder's blocks that are left; `total_blocks` is how many it had.
        hidden_size: numbers in a state.
        max_positions: tokens that the model can read; None where it says no limit.
        version: the Hub's commit, or a digest of local files; an adapter's follows its base's after a plus sign.
        dtype: of the arithmetic, and of all weights that are not quantised.
        quantised: how the others are stored.
    """

    model: Any
    tokenizer: Any
    blocks: nn.ModuleList
    total_blocks: int
    hidden_size: int
    max_positions: int | None
    version: str
    device: torch.device
    dtype: torch.dtype
    quantised: Quantised | None = None

    def __repr__(self) -> str:
        """Without the model's modules, which fill pages."""
        blocks = f"{len(self.blocks)} of {self.total_blocks} blocks"
        return f"LoadedModel({self.version!r}, {blocks}, {self.dtype_name} on {self.device})"

    @property
    def has_head(self) -> bool:
        """Whether the language-model head was loaded too, so that tokens have losses."""
        return self.model.base_model is not self.model and self.model.get_output_embeddings() is not None

    @property
    def dtype_name(self) -> DType:
        """The option `dtype` with which the model would be loaded like this again."""
        return self.quantised or dtype_name(self.dtype)


def load_model(options: ModelOptions, highest: int | None, device: torch.device) -> LoadedModel:
    """Load the blocks 0 to `highest` and nothing above them; with None, the whole model with its language-model head.

    Raises:
        ModelError: the model is unknown or unreadable, has no block `highest`, misses weights, or cannot be quantised.
        MissingExtraError: the dtype or the kind of file asks for a package that is not installed.
    """
    quantising.silence_bitsandbytes()
    if options.dtype in get_args(Quantised):
        quantising.require_support(options.dtype, device)
    source = locate(options.model, options.revision)
    try:
        with quiet():
            return _load(options, source, highest, device)
    except LarfError:
        raise
    except MemoryError as error:
        raise ModelError(f"{options.model} does not fit in memory") from error
    except Exception as error:  # the parsers of a dozen file formats have errors of their own
        raise _explained(error, options, source) from error


def _explained(error: Exception, options: ModelOptions, source: Source) -> LarfError:
    """Why loading failed, with the way out where there is one."""
    if "trust_remote_code" in str(error) and not options.trust_remote_code:
        return ModelError(code_of_its_own(options.model))
    for package in ("gguf", "accelerate"):
        if "gguf_file" in source.arguments and importlib.util.find_spec(package) is None:
            return MissingExtraError(package, "demo", "reading a GGUF file")
    return ModelError(f"{options.model} cannot be loaded: {one_line(error)}")


def _load(options: ModelOptions, source: Source, highest: int | None, device: torch.device) -> LoadedModel:
    from transformers import AutoConfig

    arguments = {**source.arguments, "trust_remote_code": options.trust_remote_code}
    config = AutoConfig.from_pretrained(source.path, **arguments)
    decoder = config.get_text_config(decoder=True)
    total = int(decoder.num_hidden_layers)
    count = total if highest is None else highest + 1
    require_block(options.model, count - 1, total)
    dtype = find_dtype(options.dtype, device)
    # Quantised weights are made on their device and stay there; all others are moved to it in the end.
    on_device = quantising.loading_arguments(options, source, config, device, dtype)
    present = count if cut_config(decoder, count) else total
    with_head = highest is None
    model = _read_weights(options.model, source, with_head, config=config, dtype=dtype, **arguments, **on_device)
    quantised = cast("Quantised | None", options.dtype if options.dtype in get_args(Quantised) else None)
    if quantised:
        quantising.require_quantised(options.model, model, quantised)
    if on_device and device.type == "cpu":
        quantising.restrict_to_exact_kernels(options.model, model)
    if source.adapter:
        adapted = apply_adapter(model, source.adapter, count - 1, merge=not on_device)
        model = adapted if with_head else adapted.base_model
    blocks = keep_blocks(model, count, present)
    model = model.requires_grad_(False).eval()
    return LoadedModel(
        model=model if on_device else model.to(device),
        tokenizer=_load_tokenizer(options, source, arguments),
        blocks=blocks,
        total_blocks=total,
        hidden_size=int(decoder.hidden_size),
        max_positions=getattr(decoder, "max_position_embeddings", None),
        version=source.version,
        device=device,
        dtype=dtype,
        quantised=quantised,
    )


def _read_weights(name: str, source: Source, with_head: bool, **arguments: Any) -> Any:
    """A transformers model, every weight of which that will be run comes out of its files.

    Raises:
        ModelError: weights are missing.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    # An adapter's weights are named after the whole model with its head, so it needs that one around the decoder.
    auto = AutoModelForCausalLM if source.adapter or with_head else AutoModel
    model, report = auto.from_pretrained(source.path, output_loading_info=True, **arguments)
    missing = set(report["missing_keys"])
    if source.adapter and not with_head:
        head = model.get_output_embeddings()  # never run, so it may be missing
        missing -= {f"{path}.weight" for path, module in model.named_modules() if head is not None and module is head}
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of its weights (first: {min(missing)}); they would be random numbers"
        )
    return model


def _load_tokenizer(options: ModelOptions, source: Source, arguments: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    if source.adapter and has_tokenizer(source.adapter):
        # Left out, transformers would ask on the terminal whether to run the adapter's code.
        tokenizer = AutoTokenizer.from_pretrained(source.adapter, trust_remote_code=options.trust_remote_code)
    else:
        tokenizer = AutoTokenizer.from_pretrained(source.path, **arguments)
    if options.chat_template is not None:
        tokenizer.chat_template = options.chat_template
    tokenizer.model_max_length = int(1e30)  # the renderer cuts; the tokenizer need not warn
    return tokenizer
