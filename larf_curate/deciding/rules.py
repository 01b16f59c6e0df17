"""The rules of a threshold by name: which amounts they take, and where rows without a score go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ..errors import ThresholdError
from .layout import Outcome

Rule = Literal["max_score", "drop_top", "drop_fraction", "calibrated"]
UnscorablePolicy = Literal["separate", "keep", "remove"]
"""Where rows without a score go: into a part of their own, to the kept rows, or to the removed ones."""
UNSCORABLE_TO: Mapping[UnscorablePolicy, Outcome] = {"separate": "unscorable", "keep": "kept", "remove": "removed"}


def check_amount(rule: Rule, amount: object) -> None:
    """Refuse an amount that a rule does not take.

    >>> check_amount("drop_fraction", 1.5)
    Traceback (most recent call last):
        ...
    larf_curate.errors.ThresholdError: drop_fraction needs a share between 0 and 1, not 1.5

    Raises:
        ThresholdError: the message says what the rule takes.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float | np.number):
        raise ThresholdError(f"{rule} needs a number, not {amount!r}")
    if rule == "max_score":
        if not math.isfinite(amount):
            raise ThresholdError(f"max_score must be a finite number, not {amount}")
    elif rule == "drop_top":
        if not math.isfinite(amount) or amount < 0 or amount != int(amount):
            raise ThresholdError(f"drop_top needs a number of rows, 0 or more, not {amount}")
    elif not 0 <= amount <= 1 or (rule == "calibrated" and amount in (0, 1)):
        raise ThresholdError(f"{rule} needs a share between 0 and 1, not {amount}")
