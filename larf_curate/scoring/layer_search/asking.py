"""Asks prompts of a model with one block scaled, a part of them at a time, while the block can still come first."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...answering.judges import Judge, by_wording, judge_all
from ...answering.prompts import prompt_tokens
from ...cache import cache_directory
from ...digests import digest_of_function, digest_of_texts
from ...encoding.encoder import Encoder
from ...encoding.threads import map_in_threads
from ...progress import progress as show_progress
from ...progress import say
from ...rows.wording import settled
from .elimination import contenders, look_sizes
from .ledger import Ledger
from .profile import VERSION, Decisions, amplitudes, deciding_amplitudes

if TYPE_CHECKING:
    from ...answering.generating import Answerer

_ROWS_AT_ONCE = 128  # answers that are decoded together
_Arm = tuple[int, float]


class Asking:
    """Asks prompts for each block and scale, and keeps in a ledger which were refused.

    Args:
        encoder: the encoder, with all blocks of its model and its head.
        prompts: the prompts in the order of the results; they are asked in a random order.
        max_new_tokens: the most tokens of an answer.
        judge: whether an answer refuses.
        resume: file of the ledger; one in the cache by default, none for a judge of the user's.
        progress: show how far it is.

    Raises:
        PromptsError: a prompt cannot be asked. OutputError: the ledger cannot be read.
    """

    def __init__(
        self,
        encoder: Encoder,
        prompts: Sequence[str],
        max_new_tokens: int,
        judge: Judge,
        resume: str | Path | None,
        progress: bool,
    ) -> None:
        self.loaded, self.judge, self.judge_name = encoder.loaded, judge, _name(judge)
        self._max_new_tokens, self._progress = max_new_tokens, progress
        self._order = np.random.default_rng(0).permutation(len(prompts))  # a fixed one: a search goes on as it began
        self._prompts = [prompts[number] for number in self._order]
        ids = prompt_tokens(encoder.renderer, prompts)
        self._ids = [ids[number] for number in self._order]
        depends_on = [VERSION, self.loaded.version, self.loaded.dtype_name, max_new_tokens, self.judge_name]
        depends_on += [digest_of_function(judge)] if judge is not by_wording else []  # two lambdas have one name
        depends_on += [digest_of_texts(list(prompts)), encoder.renderer.template_digest]
        key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
        path = None if resume is None else Path(resume)
        if path is None and judge is by_wording:
            path = cache_directory() / "layers" / f"{key}.jsonl"
        sizes = {"prompts": len(prompts), "blocks": len(self.loaded.blocks)}
        self.ledger = Ledger(path, key, **sizes, private=resume is None)
        self._answerers: list[Answerer] = []

    def run(self, blocks: Sequence[int], scales: tuple[float, ...], error_rate: float) -> tuple[Decisions, list[bool]]:
        """Ask until one block is first, or all prompts have been asked of those that may be.

        Scales that do not count towards kappa are asked of the block that comes first alone, to see how it goes on; of
        all blocks if nothing may be dropped.

        Returns:
            Decisions [blocks, scales, prompts]: 1 refused, 0 not, -1 not asked; and whether each prompt is refused by
            the model as it is.
        """
        race = _Race(blocks, scales, len(self._prompts), exhaustive=not error_rate)
        total = (1 + 2 * len(race.arms)) * len(self._prompts)
        with show_progress(total, "layers", unit="answer", show=self._progress) as update:
            self._ask({None: [1.0]}, len(self._prompts))
            update(len(self._prompts))
            counted = dict.fromkeys(race.arms, 0)  # prompts that the bar has counted

            def count(block: int | None) -> None:
                for arm in race.arms:
                    if arm[0] == block and (asked := race.asked(self.ledger, arm)) > counted[arm]:
                        update(2 * (asked - counted[arm]))
                        counted[arm] = asked

            while True:
                for arm in race.look(self.ledger, error_rate):
                    update(2 * (len(self._prompts) - counted[arm]))  # answers that are not needed
                    counted[arm] = len(self._prompts)
                size, behind = race.behind(self.ledger)
                if not behind:
                    break
                self._ask({block: race.scales(changes) for block, changes in behind.items()}, size, count)
        if error_rate:
            first = race.first(self.ledger)
            self._ask({first: race.scales(amplitudes(scales))}, len(self._prompts))
        decisions = np.full((len(blocks), len(scales), len(self._prompts)), -1, dtype=np.int8)
        for at, block in enumerate(blocks):
            for number, scale in enumerate(scales):
                known = self.ledger.refusals.get((_key(block), scale), [])
                decisions[at, number, self._order[: len(known)]] = known
        unscaled = np.empty(len(self._prompts), dtype=bool)
        unscaled[self._order] = self.ledger.refusals[_key(None), 1.0]
        return decisions, unscaled.tolist()

    def _ask(
        self,
        scales_of: Mapping[int | None, Sequence[float]],
        prompts: int,
        done: Callable[[int | None], object] = lambda _: None,
    ) -> None:
        """Ask the first so many prompts with each block at each of its scales, as far as they have not been asked.

        Args:
            scales_of: the scales of each block; for None, which stands for the model as it is, 1 alone.
            prompts: how many prompts, in the order in which they are asked.
            done: called with each block, in their order, as soon as the ledger has its refusals.
        """
        asked_of = {
            block: [(n, scale) for scale in scales for n in range(self.ledger.asked(_key(block), scale), prompts)]
            for block, scales in scales_of.items()
        }
        if not any(asked_of.values()):
            return
        idle: queue.SimpleQueue[Answerer] = queue.SimpleQueue()
        for answerer in self._get_answerers(several=len(asked_of) > 1):
            idle.put(answerer)
        ended = threading.Event()

        def answers_of(block: int | None) -> list[str]:
            answerer = idle.get()

            def stop(_place: int, answer: list[int]) -> bool:
                if ended.is_set():
                    raise KeyboardInterrupt  # which another thread got, or it failed
                # Only the packaged judge can tell from the first words what it will say of the whole answer.
                return self.judge is by_wording and settled(answerer.text(answer)) is not None

            try:
                asked = asked_of[block]
                parts = [asked[start : start + _ROWS_AT_ONCE] for start in range(0, len(asked), _ROWS_AT_ONCE)]
                return [answerer.text(a) for part in parts for a in answerer.scaled_answers(block, part, stop)]
            finally:
                idle.put(answerer)

        threaded = idle.qsize() > 1
        with closing(map_in_threads(answers_of, list(asked_of), threaded=threaded, leaving=ended.set)) as results:
            for block, answers in results:
                self._judge(block, asked_of[block], answers)
                done(block)

    def _judge(self, block: int | None, asked: Sequence[tuple[int, float]], answers: Sequence[str]) -> None:
        """Keep in the ledger which answers refuse."""
        refused = judge_all(self.judge, [self._prompts[number] for number, _ in asked], answers)
        for scale in dict.fromkeys(scale for _, scale in asked):
            at_scale = [verdict for (_, each), verdict in zip(asked, refused, strict=True) if each == scale]
            self.ledger.add_refusals(_key(block), scale, at_scale)

    def _get_answerers(self, *, several: bool) -> list[Answerer]:
        """One, or as many as may answer at the same time."""
        if not self._answerers:
            from ...answering.generating import Answerer

            if self._progress:
                say("layers: reading the prompts once ...")
            self._answerers = [Answerer(self.loaded, self._ids, self._max_new_tokens)]
            if self._progress and not self._answerers[0].reuse:
                say("layers: this architecture is searched without shortcuts, one prompt at a time; it will take long")
        if several and len(self._answerers) == 1:
            self._answerers = self._answerers[0].for_threads(_ROWS_AT_ONCE)
        return self._answerers


class _Race:
    """Which amplitudes of which blocks are still asked.

    An amplitude of a block is an *arm*: its two scales are asked together, and what counts is the difference. kappa of
    a block is the higher one of its arms, so that a block can come first as long as one of its arms can.
    """

    def __init__(self, blocks: Sequence[int], scales: Sequence[float], prompts: int, *, exhaustive: bool) -> None:
        self._scales = {round(scale - 1, 6): scale for scale in scales}
        self._prompts = prompts
        self._sizes = [prompts] if exhaustive else look_sizes(prompts)
        self.arms = [
            (block, a) for block in blocks for a in (amplitudes(scales) if exhaustive else deciding_amplitudes(scales))
        ]
        self._left = dict.fromkeys(self.arms, True)

    def pair(self, a: float) -> tuple[float, float]:
        """The scales 1 - a and 1 + a."""
        return self._scales[-a], self._scales[a]

    def scales(self, changes: Sequence[float]) -> list[float]:
        """The scales of some amplitudes."""
        return [scale for a in changes for scale in self.pair(a)]

    def behind(self, ledger: Ledger) -> tuple[int, dict[int, list[float]]]:
        """Up to which prompt is asked before the next look, and at which amplitudes of which blocks: the last of them.

        There are none if all prompts have been asked.
        """
        asked = {arm: self.asked(ledger, arm) for arm in self.arms if self._left[arm]}
        least = min(asked.values())
        size = next((size for size in self._sizes if size > least), self._prompts)
        amplitudes_left = defaultdict(list)
        for (block, a), number in asked.items():
            if number < size:
                amplitudes_left[block].append(a)
        return size, amplitudes_left

    def look(self, ledger: Ledger, error_rate: float) -> list[_Arm]:
        """Find out which arms can still come first; one that was dropped may come back.

        Returns:
            Those that cannot.
        """
        figures = np.stack([self._figures(ledger, arm) for arm in self.arms])
        self._left = dict(zip(self.arms, contenders(figures, error_rate).tolist(), strict=True))
        return [arm for arm, left in self._left.items() if not left]

    def first(self, ledger: Ledger) -> int:
        """The block with the highest kappa, of those all prompts were asked of."""
        complete = [arm for arm in self.arms if self.asked(ledger, arm) == self._prompts]
        return max(complete, key=lambda arm: float(self._figures(ledger, arm).sum()))[0]

    def asked(self, ledger: Ledger, arm: _Arm) -> int:
        """How many prompts have been asked at both scales."""
        return min(ledger.asked(_key(arm[0]), scale) for scale in self.pair(arm[1]))

    def _figures(self, ledger: Ledger, arm: _Arm) -> NDArray[np.float64]:
        """What each prompt adds to kappa, in the order of asking: 0, or 1 / a up or down; NaN where not asked."""
        block, a = arm
        asked = self.asked(ledger, arm)
        figures = np.full(self._prompts, np.nan)
        if asked:
            less, more = (np.array(ledger.refusals[_key(block), scale][:asked], float) for scale in self.pair(a))
            figures[:asked] = (more - less) / a
        return figures


def _key(block: int | None) -> str:
    """What the ledger calls a block; None is the model as it is."""
    return "unscaled" if block is None else str(block)


def _name(judge: Judge) -> str:
    if judge is by_wording:
        return "wording"
    return repr(judge) if not hasattr(judge, "__name__") else str(judge.__name__)
