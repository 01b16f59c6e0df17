"""The fields of a `Threshold` as one JSON object, and back.

Two keys differ from the names of the fields, so that files written earlier are read: `unscorable` is the number of
unscorable rows, and `nulls` where they go (null is "separate"). A score that is infinite (all or none go) is stored as
the largest number there is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ..json_fields import parse_json
from .field_checks import check_threshold_fields, score_from_json, score_to_json

_SCORES = ("value", "spared_score")


def fields_to_json(fields: Mapping[str, Any]) -> str:
    """One JSON object of a threshold's fields.

    Args:
        fields: every field of `Threshold` with its value.
    """
    stored = {**fields, **{name: score_to_json(fields[name]) for name in _SCORES}}
    policy, stored["unscorable"] = stored["unscorable"], stored.pop("unscorable_rows")
    stored["nulls"] = None if policy == "separate" else policy
    return json.dumps(stored, sort_keys=True)


def fields_from_json(text: str, rules: Collection[str]) -> dict[str, Any]:
    """The fields out of what `fields_to_json` wrote.

    Args:
        text: JSON.
        rules: the names that a rule may have.

    Raises:
        ThresholdError, ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    fields: dict[str, Any] = parse_json(text)
    fields["unscorable_rows"], policy = fields["unscorable"], fields.pop("nulls")
    fields["unscorable"] = "separate" if policy is None else policy
    if fields["rule"] not in rules:
        raise ValueError(f"rule {fields['rule']!r}")
    check_threshold_fields(fields)
    return {**fields, **{name: score_from_json(fields.get(name), name) for name in _SCORES}}
