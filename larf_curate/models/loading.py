"""The files of a model become the blocks to run."""

from __future__ import annotations

import copy
import importlib.util
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

from ..cache import register
from ..errors import LarfError, MissingExtraError, ModelError, one_line
from ..progress import detail, downloads_shown, quiet
from . import quantising
from .adapters import apply_adapter
from .blocks import decoder_of, path_of_blocks, require_block, with_blocks
from .devices import dtype_name, find_dtype
from .gguf_files import parsed_once
from .locating import ModelFiles, code_of_its_own, locate
from .options import DType, ModelOptions
from .quantising import Quantised
from .tokenizers import load_tokenizer, require_embeddings

if TYPE_CHECKING:
    import torch
    from torch import nn

_FINAL_NORMS = (
    "norm",
    "final_norm",
    "final_layernorm",
    "final_layer_norm",
    "ln_f",
    "norm_f",
    "out_norm",
    "embedding_norm",
)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A decoder cut after the highest block asked for, and what it takes to feed it.

    Attributes:
        model, tokenizer: objects of transformers.
        blocks: the decoder's blocks that are left; `total_blocks` is how many it had.
        hidden_size: numbers in a state.
        max_positions: tokens that the model can read; None where it says no limit.
        version: the Hub's commit, or a digest of local files; an adapter's follows its base's after a plus sign.
        dtype: the dtype of the arithmetic, and of all weights that are not quantised.
        quantised: how the others are stored.
        one_by_one: whether its rows have to run one by one, because an adapter looks at a batch as a whole.
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
    one_by_one: bool = False

    def __repr__(self) -> str:
        """Without the model's modules, which fill pages."""
        blocks = f"{len(self.blocks)} of {self.total_blocks} blocks"
        return f"LoadedModel({self.version!r}, {blocks}, {self.dtype_name} on {self.device})"

    @property
    def has_head(self) -> bool:
        """Whether the language-model head was loaded too, so that tokens have losses."""
        return decoder_of(self.model) is not self.model and self.model.get_output_embeddings() is not None

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
    source = locate(options.model, options.revision, options.base)
    detail(f"model {options.model}: files in {source.adapter or source.path}, version {source.version}")
    began = time.perf_counter()
    try:
        with quiet(), parsed_once() if "gguf_file" in source.arguments else nullcontext():
            loaded = _load(options, source, highest, device)
    except LarfError:
        raise
    except MemoryError as error:
        raise ModelError(f"{options.model} does not fit in memory") from error
    except Exception as error:  # the parsers of a dozen file formats have errors of their own
        raise _explained(error, options, source) from error
    detail(f"model {options.model}: loaded in {time.perf_counter() - began:.1f} s, {loaded!r}")
    return loaded


def _explained(error: Exception, options: ModelOptions, source: ModelFiles) -> LarfError:
    """Why loading failed, with the way out where there is one."""
    if "trust_remote_code" in str(error) and not options.trust_remote_code:
        return ModelError(code_of_its_own(options.model))
    for package in ("gguf", "accelerate"):
        if "gguf_file" in source.arguments and importlib.util.find_spec(package) is None:
            return MissingExtraError(package, "demo", "reading a GGUF file")
    return ModelError(f"{options.model} cannot be loaded: {one_line(error)}")


def _load(options: ModelOptions, source: ModelFiles, highest: int | None, device: torch.device) -> LoadedModel:
    from transformers import AutoConfig

    arguments = {**source.arguments, "trust_remote_code": options.trust_remote_code}
    config = AutoConfig.from_pretrained(source.path, **arguments)
    require_decoder(options.model, config)
    decoder = config.get_text_config(decoder=True)
    total = int(decoder.num_hidden_layers)
    count = total if highest is None else highest + 1
    require_block(options.model, count - 1, total)
    # Reading weights may take minutes: first all that can be known without them.
    tokenizer = load_tokenizer(options, source, arguments)
    if not source.adapter:
        require_embeddings(tokenizer, int(decoder.vocab_size), options.model)
    dtype = find_dtype(options.dtype, device)
    # Quantised weights are made on their device and stay there; all others are moved to it in the end.
    on_device = quantising.loading_arguments(options, source, config, device, dtype)
    with_head = highest is None
    read = partial(
        _read_weights, options, source, (count, total), config, dtype=dtype, with_head=with_head, **on_device
    )
    model, path = read()
    quantised = cast("Quantised | None", options.dtype if options.dtype in get_args(Quantised) else None)
    if quantised:
        quantising.require_quantised(options.model, model, quantised)
    if on_device and device.type == "cpu":
        quantising.restrict_to_exact_kernels(options.model, model)
    blocks, one_by_one = model.get_submodule(path), False
    if source.adapter:
        adapted = apply_adapter(model, source.adapter, path, merge=not on_device)
        if adapted is None:
            model, path = read()
            blocks = model.get_submodule(path)
            adapted = apply_adapter(model, source.adapter, path, merge=False)
            assert adapted is not None
        model, one_by_one = adapted.model if with_head else decoder_of(adapted.model), adapted.one_by_one
        require_embeddings(tokenizer, model.get_input_embeddings().weight.shape[0], options.model)
    model = model.requires_grad_(False).eval()
    return LoadedModel(
        model=model if on_device else model.to(device),
        tokenizer=tokenizer,
        blocks=blocks,
        total_blocks=total,
        hidden_size=int(decoder.hidden_size),
        max_positions=getattr(decoder, "max_position_embeddings", None),
        version=source.version,
        device=device,
        dtype=dtype,
        quantised=quantised,
        one_by_one=one_by_one,
    )


def require_decoder(model: str, config: Any) -> None:
    """Refuse a model that does not read from left to right: its states are no measure of an answer.

    Raises:
        ModelError: it is an encoder-decoder, or an encoder.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = config.model_type
    if config.is_encoder_decoder:
        raise ModelError(f"{model} is an encoder-decoder ({kind}): scores need a causal language model, such as Llama")
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise ModelError(f"{model} is an encoder ({kind}): scores need a causal language model, such as Llama")


def _read_weights(
    options: ModelOptions,
    source: ModelFiles,
    blocks: tuple[int, int],
    config: Any,
    *,
    dtype: torch.dtype,
    with_head: bool,
    **on_device: Any,
) -> tuple[Any, str]:
    """A transformers model with the first of its blocks, every weight of which that will be run comes out of its files.

    With it comes the name of the list of its blocks.

    Args:
        options: the model.
        source: where its files are.
        blocks: how many of them are wanted, and how many there are.
        config: the config of the whole model.
        dtype: the dtype of the weights.
        with_head: whether to load the language-model head too.
        **on_device: further arguments of `from_pretrained`.

    Raises:
        ModelError: weights are missing.
    """
    # An adapter's weights are named after the whole model with its head, so it needs that one around the decoder.
    whole, path, config_class = _architecture(
        options, source, config, blocks[1], with_head=with_head or source.adapter is not None
    )
    model_class: Any = with_blocks(whole, path, blocks[0]) if blocks[0] < blocks[1] else whole
    # The class of a text model may take the text's part of a config.
    own = config if config_class is type(config) else config.get_text_config(decoder=True)
    arguments = {"config": own, "dtype": dtype, **source.arguments, **on_device}
    with downloads_shown():
        model, report = model_class.from_pretrained(source.path, output_loading_info=True, **arguments)
    missing = set(report["missing_keys"])
    if not with_head:
        head = model.get_output_embeddings() if source.adapter else None
        unused = [name for name, module in model.named_modules() if head is not None and module is head]
        outer = path.rpartition(".")[0]
        unused += [f"{outer}.{norm}".lstrip(".") for norm in _FINAL_NORMS]  # passes end before the final norm
        missing -= {name for name in missing if name.rpartition(".")[0] in unused}
    if missing:
        raise ModelError(
            f"{options.model} lacks {len(missing)} of its weights (first: {min(missing)}); they would be random numbers"
        )
    return model, path


_architectures: dict[tuple[str, str, str, bool], tuple[Any, str, type]] = {}
"""What `_architecture` gives, for the files and versions that this process has loaded."""
register(_architectures.clear)


def _architecture(
    options: ModelOptions, source: ModelFiles, config: Any, blocks: int, *, with_head: bool
) -> tuple[Any, str, type]:
    """The class of a model, the name of the list of its blocks, and the class of its config.

    They are asked of the whole model without numbers in it, which takes a sixth of the time in which a small model is
    loaded; so they are kept. Those of a model whose own code may run are not: without that code its class is another.
    """
    key = (source.path, source.version, str(sorted(source.arguments.items())), with_head)
    if key in _architectures and not options.trust_remote_code:
        return _architectures[key]
    empty = _without_weights(options, source, config, with_head=with_head)
    found = type(empty), path_of_blocks(empty, blocks), type(empty.config)
    if not options.trust_remote_code:
        _architectures[key] = found
    return found


def _without_weights(options: ModelOptions, source: ModelFiles, config: Any, *, with_head: bool) -> Any:
    """The whole model as transformers builds it from its config, without numbers in it."""
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )
    from transformers.initialization import no_init_weights

    auto: Any = AutoModelForCausalLM if with_head else AutoModel
    with_pictures = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    is_that = with_pictures is not None and with_pictures.__name__ in (config.architectures or ())
    if with_head and (is_that or (with_pictures is not None and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING)):
        auto = AutoModelForImageTextToText
    arguments: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    own_code = (getattr(config, "auto_map", None) or {}).get(auto.__name__, "--")
    if options.trust_remote_code and "--" not in own_code and "revision" in source.arguments:
        arguments["code_revision"] = source.arguments["revision"]
    with torch.device("meta"), no_init_weights():  # random numbers would be drawn for every weight, and kept nowhere
        return auto.from_config(copy.deepcopy(config), **arguments)
