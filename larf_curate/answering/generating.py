"""Greedy answers to the same prompts again and again, with one block scaled: what lies below it is computed once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..encoding.memory import reuse_memory
from ..models.loading import LoadedModel
from .answer_tokens import answer_text, end_tokens
from .kv_cache import places_left
from .prompt_states import PromptStates, ReadPrompts
from .scaling import RowFactors, scaled, scaled_by_row
from .thread_copies import may_run_in_threads, with_modules_of_its_own

if TYPE_CHECKING:
    from torch import Tensor

Stop = Callable[[int, list[int]], bool]

_COMPACT = 15 / 16  # rows that have ended run along until no more than this share is left
_TRIED_PROMPTS = 4


class Answerer:
    """Greedy answers of a loaded model (with its head) to fixed prompts, as it is or with one block scaled.

    Three things are computed once for all factors: the prompts' states below the scaled block, their keys and values
    there, and, for every factor, the prefix that all prompts share. Answers are decoded together, those with different
    factors too, and one drops out as soon as `stop` says so. None of it changes an answer beyond float error. That is
    tried for each model at the start, on a few prompts, and where it does not hold, prompts run one by one through the
    model's own `generate`.

    Memory: keys and values of all prompts twice, and the input of every block (float32, 128 prompts of 50 tokens on
    SmolLM2-135M: 0.9 GB).

    Args:
        loaded: the model, with all of its blocks and its head.
        prompts: token ids of each prompt.
        max_new_tokens: the most tokens of an answer.
        reuse: the attribute `reuse`, if it is known already. Nothing is tried or stored then, and no block can be
            scaled.

    Attributes:
        reuse: whether states, keys and values are reused.
        by_row: whether answers with different factors are decoded together.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int = 32, *, reuse: bool | None = None
    ) -> None:
        if loaded.device.type == "cpu":
            reuse_memory()
        self.loaded, self.max_new_tokens = loaded, max_new_tokens
        self._prompts = [list(prompt) for prompt in prompts]
        self._end_tokens = end_tokens(loaded)
        self._states = PromptStates(loaded, self._prompts, max_new_tokens)
        self.by_row = reuse is None and self._is_exact(by_row=True)
        self.reuse = (self.by_row or self._is_exact(by_row=False)) if reuse is None else reuse  # False: fused experts

    def answers(
        self, stop: Stop | None = None, first_logits: Callable[[Tensor], object] | None = None
    ) -> list[list[int]]:
        """Token ids of each prompt's answer, without the token that ends it.

        Args:
            stop: called with a prompt's number and its answer so far; True ends that answer.
            first_logits: called with the logits [prompts, vocabulary], float32, of the answers' first tokens.
        """
        return self._answers(0, range(len(self._prompts)), None, stop, first_logits)

    def scaled_answers(
        self, block: int | None, asked: Sequence[tuple[int, float]], stop: Stop | None = None
    ) -> list[list[int]]:
        """Answers with the linear weights of one block scaled, as `scaled` has it.

        Args:
            block: number of the block; None where all factors are 1.
            asked: for each answer, the number of its prompt, and the factor. Those that are asked together are decoded
                together, whatever their factors.
            stop: called with the place in `asked` and the answer so far; True ends that answer.

        Raises:
            ModelError: the block has no linear weights that are known as such.
        """
        numbers, factors = [number for number, _ in asked], [factor for _, factor in asked]
        if block is None:
            return self._answers(0, numbers, None, stop)
        if self.by_row:
            by_row = RowFactors()
            with scaled_by_row(self.loaded.blocks[block], by_row):
                return self._answers(block, numbers, (by_row, factors), stop)
        in_order: list[list[int]] = [[] for _ in asked]
        for factor in dict.fromkeys(factors):
            places = [place for place, each in enumerate(factors) if each == factor]
            those = None if stop is None else lambda row, answer, places=places: stop(places[row], answer)
            with scaled(self.loaded.blocks[block], factor):
                answers = self._answers(block, [numbers[place] for place in places], None, those)
            for place, answer in zip(places, answers, strict=True):
                in_order[place] = answer
        return in_order

    def for_threads(self, rows: int) -> list[Answerer]:
        """Answerers of the same prompts that may answer at the same time: one for each of torch's threads.

        Args:
            rows: answers that each of them decodes together.

        Returns:
            This one alone where the model, the device or the free memory allows no more.
        """
        import torch

        threads = torch.get_num_threads()
        if not self.by_row or not may_run_in_threads(self.loaded, threads * rows * self._states.bytes_of_row):
            return [self]
        return [self, *(self._beside() for _ in range(threads - 1))]

    def _beside(self) -> Answerer:
        """Another answerer with modules of its own, which shares the weights and everything that was computed once."""
        other = copy.copy(self)
        other.loaded = with_modules_of_its_own(self.loaded)
        other._states = self._states.with_model(other.loaded)
        return other

    def text(self, answer: list[int]) -> str:
        """See `answer_text`."""
        return answer_text(self.loaded, answer)

    # Without reuse ----------------------------------------------------------------------------------------------------

    def _first_alone(self, number: int) -> Tensor:
        """The logits [vocabulary] of the first token of an answer, by a plain forward pass."""
        import torch

        ids = torch.tensor([self._prompts[number]], device=self.loaded.device)
        logits: Tensor = self.loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        return logits

    def _answer_alone(self, row: int, number: int, stop: Stop | None) -> list[int]:
        """The answer to one prompt by the model's own `generate`."""
        import torch
        from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

        prompt = self._prompts[number]

        class CallStop(StoppingCriteria):  # type: ignore[misc,unused-ignore]
            def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
                ended = stop is not None and stop(row, input_ids[0, len(prompt) :].tolist())
                return torch.tensor([ended], device=input_ids.device)

        ids = torch.tensor([prompt], device=self.loaded.device)
        greedy = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self._end_tokens) or None,
            pad_token_id=0,
        )
        with _generation_config(self.loaded.model, greedy):
            out = self.loaded.model.generate(
                ids,
                greedy,
                attention_mask=torch.ones_like(ids),
                stopping_criteria=StoppingCriteriaList([CallStop()]),
            )
        answer = out[0, len(prompt) :].tolist()
        return next((answer[:at] for at, token in enumerate(answer) if token in self._end_tokens), answer)

    # With it ----------------------------------------------------------------------------------------------------------

    def _answers(
        self,
        first: int,
        numbers: Sequence[int],
        factors: tuple[RowFactors, list[float]] | None,
        stop: Stop | None,
        first_logits: Callable[[Tensor], object] | None = None,
    ) -> list[list[int]]:
        """Answers to the prompts of these numbers, with block `first` changed, or each row of it by its own factor."""
        import torch

        with torch.inference_mode():
            if not self.reuse:
                if first_logits is not None:
                    first_logits(torch.stack([self._first_alone(number) for number in numbers]))
                return [self._answer_alone(row, number, stop) for row, number in enumerate(numbers)]
            rows = sorted(range(len(numbers)), key=lambda row: self._states.lengths[numbers[row]])
            of_rows = None
            if factors is not None:
                of_rows, by_row = factors
                of_rows.values = torch.tensor([by_row[row] for row in rows], device=self.loaded.device)
            read = self._states.read(first, [numbers[row] for row in rows], of_rows)
            if first_logits is not None:
                first_logits(read.logits[torch.tensor(rows, device=read.logits.device).argsort()])
            return self._decode(read, rows, of_rows, stop)

    def _is_exact(self, *, by_row: bool) -> bool:
        """Whether the next token's logits with all reuse, and a block changed, are those of a plain forward pass."""
        import torch

        blocks = self.loaded.blocks
        middle = len(blocks) // 2
        window = getattr(self.loaded.model.config.get_text_config(decoder=True), "sliding_window", None)
        if window and self._states.tokens > window:
            return False  # a window counts places in the cache, and there are pads between the prefix and the prompts
        tried = range(0, len(self._prompts), -(-len(self._prompts) // _TRIED_PROMPTS))
        factors = [1.25 if number % 2 or not by_row else 0.8 for number in range(len(tried))]
        try:
            with torch.inference_mode():
                if by_row:  # the first trial
                    self._states.store()
                of_rows = RowFactors()
                of_rows.values = torch.tensor(factors, device=self.loaded.device)
                with scaled_by_row(blocks[middle], of_rows) if by_row else scaled(blocks[middle], factors[0]):
                    logits = self._states.read(middle, list(tried), of_rows if by_row else None).logits
                for row, (number, factor) in enumerate(zip(tried, factors, strict=True)):
                    with scaled(blocks[middle], factor):
                        plain = self._first_alone(number)
                    error = (logits[row] - plain).abs().max() / plain.std().clamp(min=1e-6)
                    if not error < (1e-3 if self.loaded.dtype_name == "float32" else 0.2):
                        return False
        except Exception:  # an architecture with a cache or blocks of its own kind may fail anywhere in here
            return False
        return True

    def _decode(
        self, read: ReadPrompts, rows: list[int], factors: RowFactors | None, stop: Stop | None
    ) -> list[list[int]]:
        """Decode the answers of all rows together, token by token; rows whose answers have ended drop out.

        Args:
            read: the prompts.
            rows: for each row of the batch, its place in the result.
            factors: the factor of each row of the batch; None if all rows share the model as it is.
            stop: as for `answers`, with the place in the result.
        """
        import torch

        answers: list[list[int]] = [[] for _ in rows]
        unfinished = set(rows)
        logits, mask, positions = read.logits, read.mask, read.positions
        for step in range(self.max_new_tokens):
            next_tokens = logits.argmax(-1)
            for row, token in zip(rows, next_tokens.tolist(), strict=True):
                if row not in unfinished:
                    continue
                if token in self._end_tokens:
                    unfinished.discard(row)
                    continue
                answers[row].append(token)
                if stop is not None and stop(row, answers[row]):
                    unfinished.discard(row)
            if not unfinished or step == self.max_new_tokens - 1:
                break
            if len(unfinished) <= _COMPACT * len(rows):
                left = torch.tensor(places_left([row in unfinished for row in rows]), device=mask.device)
                rows = [rows[at] for at in left.tolist()]
                next_tokens, mask, positions = next_tokens[left], mask[left], positions[left]
                if factors is not None:
                    factors.values = factors.values[left]
                read.cache.reorder_cache(left)
            at = read.length + step
            logits = self._states.forward(
                next_tokens[:, None], read.cache, mask[:, : at + 1], positions[:, at : at + 1]
            )
        return answers


@contextlib.contextmanager
def _generation_config(model: Any, config: Any) -> Iterator[None]:
    """While it lasts, `generate` follows this config alone.

    Handed to `generate`, it would only come before the model's own, which may ask for beams, penalties or tokens that
    must not come.
    """
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before
