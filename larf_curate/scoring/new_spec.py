"""What a scorer that is fitted now says of itself, whatever its formula."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from ..encoding.encoder import Encoder
from ..models.options import ModelOptions
from .formula_names import Formula
from .spec import ScorerSpec


def new_spec(options: ModelOptions, encoder: Encoder, *, formula: Formula, **own: Any) -> ScorerSpec:
    """What a scorer that is fitted now says of itself.

    Args:
        options: the model, and how it is loaded and run.
        encoder: the encoder of that model.
        formula: the scorer's formula.
        **own: the other fields of `ScorerSpec` that the formula has: blocks to read, and records of what it was fitted
            on.
    """
    loaded, renderer = encoder.loaded, encoder.renderer
    packages = ["larf-curate", "torch", "transformers"] + ["bitsandbytes"] * (loaded.quantised is not None)
    fields_of_states: dict[str, Any] = {"layers": (), "top_k": None, "rank": 1}
    return ScorerSpec(
        model=options.model,
        version=loaded.version,
        blocks=loaded.total_blocks,
        hidden_size=loaded.hidden_size,
        formula=formula,
        dtype=loaded.dtype_name,
        max_tokens=renderer.max_tokens,
        overflow=options.overflow,
        chat_template=options.chat_template,
        template_digest=renderer.template_digest,
        packages={name: importlib.metadata.version(name) for name in packages},
        **{**fields_of_states, **own},
    )
