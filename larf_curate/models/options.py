"""What may be said of a model and of how it runs: each option is declared here, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from ..errors import ModelError
from ..rows.rendering import Overflow

DType = Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]


class EncoderOptions(TypedDict, total=False):
    """The keyword options of `LARFScorer.fit` that say how the model is loaded and run; see `EncoderConfig`."""

    revision: str | None
    dtype: DType
    device: str | None
    max_tokens: int
    overflow: Overflow
    batch_tokens: int | None
    chat_template: str | None
    trust_remote_code: bool


@dataclass(frozen=True)
class EncoderConfig:
    """How conversations become states.

    Attributes:
        model: `demo`, a Hub id, a local directory, a GGUF file, or the directory or Hub id of a PEFT adapter.
        revision: branch, tag or commit of a Hub id.
        dtype: `auto` is bfloat16 on CUDA and float32 elsewhere. `int8` and `nf4` quantise the linear layers to 8 and 4
            bits with bitsandbytes, for models that do not fit in memory; the rest of the model is as with `auto`.
        device: a torch device; None takes CUDA, then MPS, then the CPU.
        max_tokens: longer conversations lose their middle, or are unscorable under overflow="reject".
        overflow: `truncate` or `reject`.
        batch_tokens: tokens of one batch; None finds out what suits the model and the device (`tuning`).
        chat_template: a Jinja template instead of the tokenizer's own; `LARFScorer.fit` also takes the path of one.
        trust_remote_code: run code that comes with the model. Never stored in an artifact.
    """

    model: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str | None = None
    max_tokens: int = 4096
    overflow: Overflow = "truncate"
    batch_tokens: int | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in get_args(DType):
            raise ModelError(f"dtype must be one of {', '.join(get_args(DType))}, not {self.dtype!r}")
        if self.overflow not in ("truncate", "reject"):
            raise ModelError(f"overflow must be truncate or reject, not {self.overflow!r}")
        if self.max_tokens < 16:
            raise ModelError(f"max_tokens must be at least 16, not {self.max_tokens}")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ModelError(f"batch_tokens must be positive, not {self.batch_tokens}")
