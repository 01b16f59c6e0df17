"""The fields of a `Threshold` as one JSON object, and back.

Two keys differ from the names of the fields, so that files written earlier are read: `unscorable` is the number of
unscorable rows, and `nulls` where they go (null is "separate"). A score that is infinite (all or none go) is stored as
the largest number there is. What was fitted to each split lies in the list `by_split`, one object of the same keys for
each, with the name of the split under `split`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from ..json_fields import checked_text, entries, mapping, parse_json
from .field_checks import check_threshold_fields, score_from_json, score_to_json
from .rules import Rule

_SCORES = ("value", "spared_score")


def fields_to_json(fields: Mapping[str, Any]) -> str:
    """One JSON object of a threshold's fields.

    Args:
        fields: every field of `Threshold` with its value, those of the thresholds in `by_split` too.
    """
    stored = {**fields, **{name: score_to_json(fields[name]) for name in _SCORES}}
    policy, stored["unscorable"] = stored["unscorable"], stored.pop("unscorable_rows")
    stored["nulls"] = None if policy == "separate" else policy
    if by_split := stored.pop("by_split"):
        stored["by_split"] = [{"split": name, **json.loads(fields_to_json(part))} for name, part in by_split.items()]
    return json.dumps(stored, sort_keys=True)


def fields_from_json(text: str) -> dict[str, Any]:
    """The fields out of what `fields_to_json` wrote; `by_split` holds those of each split's threshold.

    Raises:
        ThresholdError, ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    fields: dict[str, Any] = parse_json(text)
    parts = entries(fields.pop("by_split", []), "by_split")
    by_split = {checked_text(part["split"], "split"): _part(mapping(part, "by_split")) for part in parts}
    if by_split and sum(part["rows"] for part in by_split.values()) != fields["rows"]:
        raise ValueError(f"the splits do not have {fields['rows']} rows together")
    fields["unscorable_rows"], policy = fields["unscorable"], fields.pop("nulls")
    fields["unscorable"] = "separate" if policy is None else policy
    if fields["rule"] not in get_args(Rule):
        raise ValueError(f"rule {fields['rule']!r}")
    check_threshold_fields(fields)
    scores = {name: score_from_json(fields.get(name), name) for name in _SCORES}
    return {**fields, **scores, "by_split": by_split}


def _part(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one split's threshold, which has a value and counts, and no splits of its own."""
    own = {key: value for key, value in fields.items() if key != "split"}
    if "by_split" in own or own["value"] is None or own["rows"] is None:
        raise ValueError("a split's threshold must be fitted, and have no splits of its own")
    return fields_from_json(json.dumps(own))
