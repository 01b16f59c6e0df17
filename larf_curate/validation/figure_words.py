"""Figures of a validation in words: with as many digits as their intervals bear out, and never fewer than two."""

from __future__ import annotations

import math

from ..scoring.excerpts import signed
from .bootstrap import Figure

_FEWEST_DIGITS, _MOST_DIGITS = 2, 5


def with_interval(figure: Figure, *, signs: bool = True) -> str:
    """A figure and its 95% interval; a narrow interval gets more digits.

    >>> with_interval(Figure(-0.5, (-0.75, -0.25), 0.1)), with_interval(Figure(0.0168, (0.0143, 0.0196), 0.001))
    ('-0.50 [-0.75, -0.25]', '+0.017 [+0.014, +0.020]')
    """
    if math.isnan(figure.value):
        return "not measured"
    value, low, high = _numbers(figure, signs=signs)
    return f"{value} [{low}, {high}]"


def amount_with_interval(figure: Figure) -> str:
    """How large a difference is, whichever way it goes, with its 95% interval; for differences apart from zero.

    >>> amount_with_interval(Figure(-0.75, (-1.0, -0.5), 0.1))
    '0.75 (95% interval 0.50 to 1.00)'
    """
    low, high = sorted(map(abs, figure.interval))
    value, least, most = _numbers(Figure(abs(figure.value), (low, high), figure.error), signs=False)
    return f"{value} (95% interval {least} to {most})"


def change_with_interval(figure: Figure) -> str:
    """A difference with its sign and its 95% interval.

    >>> change_with_interval(Figure(-0.1, (-0.4, 0.2), 0.15))
    '-0.10 (95% interval -0.40 to +0.20)'
    """
    value, low, high = _numbers(figure, signs=True)
    return f"{value} (95% interval {low} to {high})"


def share_with_interval(figure: Figure) -> str:
    """A share in per cent and its 95% interval.

    >>> share_with_interval(Figure(0.5, (0.4, 0.625), 0.05))
    '50% [40, 62]'
    """
    if math.isnan(figure.value):
        return "not judged"
    return f"{figure.value:.0%} [{100 * figure.interval[0]:.0f}, {100 * figure.interval[1]:.0f}]"


def change_of_share(figure: Figure) -> str:
    """A difference of two shares with its sign, in percentage points, and its 95% interval.

    >>> change_of_share(Figure(-0.125, (-0.25, 0.0), 0.05))
    '-12 points [-25, 0]'
    """
    value, low, high = (signed(100 * number, 0) for number in (figure.value, *figure.interval))
    return f"{value} points [{low}, {high}]"


def size(amount: float) -> str:
    """A size without a sign, with two digits that say something at least.

    >>> size(0.35), size(0.0038), size(1.4), size(0.0)
    ('0.35', '0.0038', '1.40', '0.00')
    """
    digits = _FEWEST_DIGITS if amount == 0 else 1 - math.floor(math.log10(abs(amount)))
    return f"{amount:.{min(max(digits, _FEWEST_DIGITS), _MOST_DIGITS)}f}"


def _numbers(figure: Figure, *, signs: bool) -> tuple[str, str, str]:
    """Value, lower and upper end: all with the digits that half the interval's width bears out."""
    low, high = figure.interval
    half = (high - low) / 2
    digits = -math.floor(math.log10(half)) if half > 0 else _FEWEST_DIGITS
    digits = min(max(digits, _FEWEST_DIGITS), _MOST_DIGITS)
    value, least, most = (
        signed(number, digits) if signs else f"{number:.{digits}f}" for number in (figure.value, low, high)
    )
    return value, least, most
