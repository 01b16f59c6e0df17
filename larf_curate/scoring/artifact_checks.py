"""A fitted scorer may be a stranger's: every field of its JSON is checked when it is read, and so are its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..json_fields import checked_text, entries, finite, mapping, plain, whole
from .quantile_levels import REFERENCE_LEVELS

_MOST_BLOCKS, _MOST_HIDDEN = 100_000, 10_000_000
_WIDEST_SCORE = 2.001  # the range of either formula, and rounding

Check = Callable[[Any, str], object]


def _or_none(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _texts(value: Any, name: str) -> None:
    for item in entries(value, name, maximum=1_000):
        checked_text(item, name)


def _figures(value: Any, name: str) -> None:
    for key, figure in mapping(value, name).items():
        finite(figure, f"{name}.{key}")


def _versions(value: Any, name: str) -> None:
    for key, version in mapping(value, name).items():
        if version is not None:
            checked_text(version, f"{name}.{key}", 200)


def _quantiles(value: Any, name: str) -> None:
    count = len(REFERENCE_LEVELS)
    points = [finite(point, name, -_WIDEST_SCORE, _WIDEST_SCORE) for point in entries(value, name, count, count)]
    if points != sorted(points):
        raise ValueError(f"{name} must ascend, not {points}")


def _at_least(least: int, most: int = 2**53) -> Check:
    return lambda value, name: whole(value, name, least, most)


def _between(least: float, most: float) -> Check:
    return lambda value, name: finite(value, name, least, most)


_FIELDS: Mapping[str, Check] = {
    "model": checked_text,
    "version": checked_text,
    "blocks": _at_least(1, _MOST_BLOCKS),
    "hidden_size": _at_least(1, _MOST_HIDDEN),
    "formula": checked_text,
    "formula_version": _at_least(0),
    "format_version": _at_least(0),
    "top_k": _or_none(_at_least(1)),
    "rank": _at_least(1),
    "template_digest": checked_text,
    "packages": _versions,
    "join": checked_text,
    "reading_version": _at_least(0),
    "weight.lower": finite,
    "weight.upper": finite,
    "references.name": checked_text,
    "references.digest": checked_text,
    "references.pairs": _at_least(1),
    "references.held_back": _at_least(0),
    "references.figures": _figures,
    "references.findings": _texts,
    "separation.auc": _or_none(_between(0, 1)),
    "separation.pairs": _at_least(0),
    "separation.method": checked_text,
    "quantiles.unsafe": _quantiles,
    "quantiles.safe": _quantiles,
    "other.model": checked_text,
    "other.version": checked_text,
    "margin.prompts": checked_text,
    "margin.digest": checked_text,
    "margin.asked": _at_least(1),
    "margin.refused": _at_least(1),
    "margin.openings": _texts,
    "margin.value": finite,
    "margin.slope": _between(0, 1e30),
    "margin.covered": _between(0, 1),
    "margin.rank": _at_least(1),
    "margin.energy": _between(0, 1.001),
    "margin.agreement": _between(-1, 1),
    "margin.halves": _between(-1, 1),
    "margin.rows": _at_least(1),
    "margin.step": _between(1e-9, 1),
    "margin.step_gap": _between(0, 1e30),
}
"""What each field has to be, by its place in the JSON. Missing fields are found where the records are made."""


def check_spec_fields(values: Mapping[str, Any]) -> None:
    """Check the JSON of a scorer, before records are made of it.

    Raises:
        ValueError: names the field and what it holds.
    """
    plain(values, "")
    for place, check in _FIELDS.items():
        section, _, name = place.rpartition(".")
        holder = values.get(section) if section else values
        if holder is None or (section and not isinstance(holder, dict)):
            continue
        if name in holder:
            check(holder[name], place)
    layers = [whole(layer, "layers", 0, values["blocks"] - 1) for layer in entries(values["layers"], "layers")]
    if len(set(layers)) != len(layers):
        raise ValueError(f"layers must differ, not {layers}")
    if not layers and values.get("references") is not None:
        raise ValueError("layers must name a block at least, since there are references")


def check_search_fields(values: Mapping[str, Any]) -> None:
    """Check the JSON of a search for the safety-sensitive layer.

    Raises:
        ValueError: names the field and what it holds.
    """
    plain(values, "")
    for name in ("model", "version", "dtype", "digest", "judge"):
        checked_text(values[name], name)
    prompts = whole(values["prompts"], "prompts", 1)
    total = whole(values["total_blocks"], "total_blocks", 1, _MOST_BLOCKS)
    whole(values["unscaled"], "unscaled", 0, prompts)
    whole(values["max_new_tokens"], "max_new_tokens", 1)
    finite(values["p_value"], "p_value", 0, 1)
    finite(values["error_rate"], "error_rate", 0, 1)
    for scale in entries(values["scales"], "scales", 1, 100):
        finite(scale, "scales", 0, 100)
    numbers = []
    for block in entries(values["blocks"], "blocks", 1):
        numbers.append(whole(block["block"], "block", 0, total - 1))
        for name, least in (("refusals", 0), ("asked", 0), ("delta", -prompts)):
            for key, count in mapping(block[name], name, 100).items():
                finite(key_number(key), name, 0, 100)
                whole(count, f"{name}.{key}", least, prompts)
        for name in ("kappa", "low", "high"):
            finite(block[name], name)
        finite(block["first"], "first", 0, 1)
        if block["apart"] not in (True, False):
            raise ValueError(f"apart must be true or false, not {block['apart']!r}")
    if values["best"] is not None and (type(values["best"]) is not int or values["best"] not in numbers):
        raise ValueError(f"best must be one of the blocks that were searched, not {values['best']!r}")
    for name, points in mapping(values.get("locators", {}), "locators", 100).items():
        for point in entries(points, f"locators.{name}", 1, _MOST_BLOCKS):
            finite(point, f"locators.{name}")
    for block_name, by_scale in mapping(values.get("decisions", {}), "decisions", _MOST_BLOCKS).items():
        for scale_name, decided in mapping(by_scale, f"decisions.{block_name}", 100).items():
            checked_text(decided, f"decisions.{block_name}.{scale_name}")


def key_number(key: str) -> float | str:
    """The number that a key of an object spells; the key itself where it spells none."""
    try:
        return float(key)
    except ValueError:
        return key


def check_tensors(tensors: Mapping[str, NDArray[Any]], pairs: int | None) -> None:
    """Check the arrays of a scorer: real numbers, and two sides that differ.

    Args:
        tensors: the arrays by name.
        pairs: how many pairs of references the JSON speaks of; None where it speaks of none.

    Raises:
        ValueError: names the tensor and what is wrong with it.
    """
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise ValueError(f"{name} holds {array.dtype}, not float32")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    if "harmless" in tensors and (tensors["harmless"].ndim != 1 or not len(tensors["harmless"])):
        raise ValueError("harmless is no list of scores")
    if pairs is None:
        return
    if "harmless" in tensors and np.abs(tensors["harmless"]).max() > _WIDEST_SCORE:
        raise ValueError("harmless holds scores that the formula cannot give")
    unsafe, safe = tensors["unsafe"], tensors["safe"]
    if len(unsafe) != pairs:
        raise ValueError(f"there are {len(unsafe)} pairs of states, and references of {pairs}")
    if np.array_equal(unsafe, safe):
        raise ValueError("the unsafe references and the safe ones are the same")
