"""Processes that train one model together, one on each GPU, as `accelerate launch` starts them.

All of them read the same rows, train in step and ask the same questions; the first alone writes, judges and shows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        count: how many there are.
        number: the number of this process, from 0.
        device: number of its GPU on its machine.
    """

    count: int = 1
    number: int = 0
    device: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.number == 0


def processes() -> Processes:
    """What the launcher says in the environment; one process alone where there is no launcher."""
    if "LOCAL_RANK" not in os.environ:
        return Processes()
    count, number, device = (int(os.environ.get(name, "0")) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    return Processes(max(1, count), number, device)
