"""The names that users type for arms and remedies, and what each of them is in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import DataError

Arm = Literal["none", "removed", "matched", "random", "kept", "all", "bin1", "bin2", "bin3", "bin4", "bin5"]
Remedy = Literal["safe-lora", "lox", "merging", "sppft", "refusals", "forget-filter"]

BINS = ("bin1", "bin2", "bin3", "bin4", "bin5")
"""Fifths of the scored rows, from the lowest scores to the highest."""
UNTRAINED = "none"
ARMS: tuple[str, ...] = get_args(Arm)
REMEDIES: tuple[str, ...] = get_args(Remedy)

MEANINGS: dict[str, str] = {
    "none": "no training at all",
    "removed": "rows that were removed",
    "matched": "kept rows, each as long as a removed one and a list where that is one",
    "random": "rows drawn from all that have a score",
    "kept": "rows that were kept",
    "all": "as many rows as kept, drawn from all that have a score",
    "bin1": "the fifth of the rows with the lowest scores",
    "bin2": "the second fifth by score",
    "bin3": "the third fifth by score",
    "bin4": "the fourth fifth by score",
    "bin5": "the fifth of the rows with the highest scores",
    "safe-lora": "rows of all; the change is projected onto the alignment's subspace (Safe LoRA, arXiv 2405.16833)",
    "lox": "rows of all; the alignment is extrapolated first (LoX, arXiv 2506.15606)",
    "merging": "rows of all; merged half and half with the model before training (arXiv 2412.19512)",
    "sppft": "rows of all; the safety layers stay as they are (SPPFT, arXiv 2408.17003)",
    "refusals": "rows of all, a tenth of their answers replaced by plain refusals",
    "forget-filter": "rows of all but those that training on refusals makes a model forget most (arXiv 2312.12736)",
}


def parse_arms(names: Sequence[str]) -> tuple[str, ...]:
    """The names of arms as a user writes them, in the order in which tables show them; `bins` is all five.

    Raises:
        DataError: there is no such arm.

    >>> parse_arms(["matched", "removed", "none"])
    ('none', 'removed', 'matched')
    """
    wanted = {part for name in names for part in (BINS if name == "bins" else (name,))}
    if unknown := sorted(map(str, wanted - set(ARMS))):
        raise DataError(f"there is no arm {unknown[0]!r}; there are {', '.join((*ARMS[: -len(BINS)], 'bins'))}")
    return tuple(name for name in ARMS if name in wanted)
