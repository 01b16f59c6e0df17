"""Find the rows of a fine-tuning dataset that would erode an aligned model's refusals, and remove them.

For a dataset `ds` of chat, instruction or question rows:

    from larf_curate import LARFScorer, Threshold

    scorer = LARFScorer.fit("demo", layer=14)
    ds = ds.map(scorer, batched=True)  # adds larf_score, larf_tokens and larf_issue
    parts = Threshold.drop_top(1000).split(ds)  # parts.kept, parts.removed, parts.unscorable

What may be imported from here is in `__all__`, and the steps for datatrove pipelines are in `larf_curate.datatrove`;
every other module is private.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import clear_caches
    from .deciding.thresholds import Threshold
    from .engines.dataset_map import score_dataset
    from .engines.datatrove_annotator import LARFAnnotator
    from .engines.datatrove_filter import LARFFilter
    from .errors import LarfError
    from .recipe.recipe import Recipe
    from .scoring.layer_search.search import find_safety_layers
    from .scoring.references import ReferenceSet
    from .scoring.scorer import LARFScorer
    from .validation.audit import audit
    from .validation.settings import AskingSettings, TrainingSettings
    from .validation.validate import validate

__version__ = "0.1.0"
__all__ = [
    "AskingSettings",
    "LARFAnnotator",
    "LARFFilter",
    "LARFScorer",
    "LarfError",
    "Recipe",
    "ReferenceSet",
    "Threshold",
    "TrainingSettings",
    "audit",
    "clear_caches",
    "find_safety_layers",
    "score_dataset",
    "validate",
]

_HOMES = {
    "LARFFilter": "engines.datatrove_filter",
    "LARFAnnotator": "engines.datatrove_annotator",
    "Recipe": "recipe.recipe",
    "LarfError": "errors",
    "clear_caches": "cache",
    "LARFScorer": "scoring.scorer",
    "ReferenceSet": "scoring.references",
    "Threshold": "deciding.thresholds",
    "AskingSettings": "validation.settings",
    "TrainingSettings": "validation.settings",
    "audit": "validation.audit",
    "find_safety_layers": "scoring.layer_search.search",
    "score_dataset": "engines.dataset_map",
    "validate": "validation.validate",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use, so that `import larf_curate` is quick and loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
